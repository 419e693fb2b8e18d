"""Sums in a tree whose shape follows from the number of terms alone, whoever adds them up."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class Node(NamedTuple):
    """The sum of the terms from ``place`` times 2^level on, 2^level of them."""

    level: int
    place: int
    part: Tensor


class Tree:
    """A running sum of terms in order, in pairs, and pairs of pairs.

    Floating-point addition is not associative, so that a sum has the same bits only where it is
    taken in the same order. A process that has only the terms from ``first`` on adds up what the
    whole tree would; its `nodes`, pushed in order onto another tree, go on from there. Of n terms
    no more than log2(n) + 1 sums are held.

    Args:
        first: the number of the first term.
    """

    def __init__(self, first: int = 0):
        self.nodes: list[Node] = []
        self._next = first

    def add(self, part: Tensor) -> None:
        """Nothing; the next term is in the sum. Its tensor may be changed."""
        self.push(Node(0, self._next, part))

    def push(self, node: Node) -> None:
        """Nothing; the terms of a node, which follow those that are here, are in the sum."""
        self._next = (node.place + 1) << node.level
        while self.nodes and _pair(self.nodes[-1], node):
            left = self.nodes.pop()
            node = Node(node.level + 1, node.place // 2, left.part.add_(node.part))
        self.nodes.append(node)

    def total(self) -> Tensor | None:
        """The sum; None where there are no terms. What is left of the tree is of no use."""
        total: Tensor | None = None
        while self.nodes:
            part = self.nodes.pop().part
            total = part if total is None else part.add_(total)
        return total


def shape(first: int, last: int) -> list[tuple[int, int]]:
    """Level and place of the nodes that the terms from ``first`` to before ``last`` leave.

    >>> shape(0, 4), shape(3, 6)
    ([(2, 0)], [(0, 3), (1, 2)])
    """
    found: list[tuple[int, int]] = []
    while first < last:
        level = 0
        while first % (2 << level) == 0 and first + (2 << level) <= last:
            level += 1
        found.append((level, first >> level))
        first += 1 << level
    return found


def spans(terms: int, ranks: int) -> list[tuple[int, int]]:
    """The terms of every rank, from which to before which, as equal as can be.

    >>> spans(8, 3)
    [(0, 2), (2, 5), (5, 8)]
    """
    ends = [rank * terms // ranks for rank in range(ranks + 1)]
    return list(zip(ends, ends[1:], strict=False))


def total(parts: Iterable[Tensor]) -> Tensor | None:
    """The sum of all parts, as a tree adds them up."""
    tree = Tree()
    for part in parts:
        tree.add(part)
    return tree.total()


def _pair(left: Node, right: Node) -> bool:
    return left.level == right.level and left.place % 2 == 0
