"""An objective whose terms are evaluated by several processes, one of which asks for the sums."""

import weakref
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor

from landscape.curvature import Hessian
from landscape.distributed.processes import Ranks, number_of, type_of
from landscape.distributed.sums import Node, Tree, shape, spans
from landscape.networks.risk import Risk
from landscape.objective import Derived, Sum, Term, batched_terms, slopes_by_term, values_by_term

_END, _VALUE, _SLOPE, _POINT, _PRODUCT, _FREE = range(6)
_SHARDS = 8


def shards(risk: Risk, count: int = 0) -> Risk:
    """The risk with its data in so many batches, each of which is a logical shard.

    Sums over shards have the same bits whatever the number of ranks, for the same number of shards.
    They are also what is in memory at once: more shards need less.

    Args:
        risk: whose loss is a mean over samples where its batches are cut or joined.
        count: how many; where 0, the batches as they come if there are several, else 8, or as many
            as there are samples.

    Raises:
        ValueError: if the data cannot be cut, since the loss or BatchNorm couples the samples of a
            batch, there are fewer, or they are a loader too large to keep in memory.
    """
    if count == 0:
        if len(risk.data.batches) > 1:
            return risk
        count = min(_SHARDS, risk.samples)
    return risk if len(risk.data.batches) == count == 1 else risk.sharded(count)


class Distributed(Sum):
    """The same objective, its values, gradients and products with the Hessian shared by ranks.

    Every rank makes it of the same objective and enters it as a context. There the others do what
    rank 0 asks for, until it leaves. So rank 0 alone measures, prints and writes, whatever the
    measurement is; what is no sum of values, gradients or products it computes by itself.

    The terms of a rank follow each other, and all are added in a tree whose shape follows from
    their number (`landscape.distributed.sums`): on one rank and on many there are the same bits, if
    each computes in the same way (same machine and threads). With one rank the tree is the same.

    Args:
        objective: a sum of terms, such as a risk with a term for each batch.
        ranks: who shares them; this process alone where None.

    Raises:
        RuntimeError: when something is asked for, if a rank fails or ends. Nothing can be asked of
            the ranks after that.
    """

    def __init__(self, objective: Any, ranks: Ranks | None = None):
        super().__init__(objective)
        self.ranks = ranks or Ranks()
        self.count = sum(1 for _ in objective.terms())
        self.spans = spans(self.count, self.ranks.size)
        self._own = _Some(objective, *self.spans[self.ranks.rank])
        self._numbers, self._freed = count(), list[int]()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that measures."""
        return self.ranks.leads

    def __enter__(self) -> "Distributed":
        if not self.leads:
            self._follow()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.leads and self.ranks.idle:
            self.ranks.order(_END)
            self.ranks.idle = True

    def judge(self, z: Tensor, curvature: bool = True) -> dict[str, Any]:
        """How the terms are added up, for the provenance of results."""
        return {
            "sums": f"{self.count} shards added in a tree, by {self.ranks.size} "
            f"{'ranks' if self.ranks.size > 1 else 'rank'} with {torch.get_num_threads()} "
            f"{'threads' if torch.get_num_threads() > 1 else 'thread'} each"
        }

    def value(self, rows: Tensor) -> Tensor:
        """The sum (n,) at points (n, p)."""
        self._order(_VALUE, rows)
        (found,) = self._sums(self._values(rows), [rows.new_empty(len(rows))])
        return found

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (n,) at points (n, p), and its gradients (n, p)."""
        self._order(_SLOPE, z)
        found, slopes = self._sums(slopes_by_term(self._own, z), [z.new_empty(len(z)), z])
        return found, slopes

    def products(self, point: Tensor, memory: int) -> "Products":
        """The Hessian at a point, of which every rank holds that of its terms."""
        for number in self._freed:
            self.ranks.order(_FREE, number)
            self.ranks.idle = True
        self._freed.clear()
        number = next(self._numbers)
        self._order(_POINT, point.unsqueeze(0), number, memory)
        self.ranks.idle = True
        found = Products(
            self, Hessian(self._own, point, memory=memory, derivatives="exact"), number
        )
        weakref.finalize(found, self._freed.append, number)
        return found

    def multiplied(self, own: Hessian, number: int, probes: Tensor) -> Tensor:
        """The products (n, p) of all terms with probes (n, p)."""
        self._order(_PRODUCT, probes, number)
        (found,) = self._sums(((part,) for part in own.each(probes)), [probes])
        return found

    def _order(self, verb: int, rows: Tensor, *numbers: int) -> None:
        self.ranks.order(verb, len(rows), number_of(rows.dtype), *numbers)
        self.ranks.share(rows.contiguous())

    def _values(self, rows: Tensor) -> Iterator[tuple[Tensor]]:
        return ((part,) for part in values_by_term(self._own, rows))

    def _sums(self, parts: Iterable[tuple[Tensor, ...]], like: list[Tensor]) -> list[Tensor]:
        """What the parts of all ranks add up to, each like one of these."""
        ranks = self.ranks
        trees = self._trees(parts, len(like))
        for rank in range(1, ranks.size):
            ranks.check(rank)
            for tree, one in zip(trees, like, strict=True):
                for level, place in shape(*self.spans[rank]):
                    tree.push(Node(level, place, ranks.receive(rank, torch.empty_like(one))))
        ranks.idle = True
        totals = (tree.total() for tree in trees)
        return [
            torch.zeros_like(one) if total is None else total
            for total, one in zip(totals, like, strict=True)
        ]

    def _trees(self, parts: Iterable[tuple[Tensor, ...]], count: int) -> list[Tree]:
        trees = [Tree(self.spans[self.ranks.rank][0]) for _ in range(count)]
        for part in parts:
            for tree, tensor in zip(trees, part, strict=True):
                tree.add(tensor.detach())
        return trees

    def _follow(self) -> None:
        """Nothing; this rank has done what rank 0 asked for, until that left.

        Raises:
            Lost: if rank 0 has ended.
        """
        held: dict[int, Hessian | Exception] = {}
        device = self._own.device
        while True:
            verb, *numbers = self.ranks.heard()
            if verb == _END:
                return
            if verb == _FREE:
                held.pop(numbers[0], None)
                continue
            rows, kind, number, memory, _ = numbers
            shared = torch.empty((rows, self.dim), dtype=type_of(kind), device=device)
            self.ranks.share(shared)
            if verb == _POINT:
                held[number] = self._held(shared[0], memory)
                continue
            try:
                trees = self._asked(verb, shared, held.get(number))
            except Exception as error:
                self.ranks.answer([], error)
                continue
            self.ranks.answer(node.part for tree in trees for node in tree.nodes)

    def _held(self, point: Tensor, memory: int) -> Hessian | Exception:
        """The Hessian of the terms of this rank, or what it raised, which rank 0 then reads."""
        try:
            return Hessian(self._own, point, memory=memory, derivatives="exact")
        except Exception as error:
            return error

    def _asked(self, verb: int, rows: Tensor, held: Hessian | Exception | None) -> list[Tree]:
        if verb == _VALUE:
            return self._trees(self._values(rows), 1)
        if verb == _SLOPE:
            return self._trees(slopes_by_term(self._own, rows), 2)
        if not isinstance(held, Hessian):
            raise held or RuntimeError("no Hessian at this point")
        return self._trees(((part,) for part in held.each(rows)), 1)


class Products:
    """The Hessian of a `Distributed` objective at a point, of which every rank holds a part."""

    def __init__(self, shared: Distributed, own: Hessian, number: int):
        self._shared, self._own, self._number = shared, own, number
        self.graph_bytes, self.cached = own.graph_bytes, own.cached

    def __matmul__(self, probes: Tensor) -> Tensor:
        return self._shared.multiplied(self._own, self._number, probes)


class _Some(Derived):
    """Some of the terms of an objective, which follow each other."""

    value = None  # that of the whole

    def __init__(self, objective: Any, first: int, last: int):
        self.parts, self.dim = (objective,), objective.dim
        self._span = first, last

    @property
    def device(self) -> torch.device:
        return getattr(self.parts[0], "device", torch.device("cpu"))

    def terms(self) -> Iterator[Term]:
        return islice(self.parts[0].terms(), *self._span)

    def batched_terms(self) -> Iterator[Term]:
        return islice(batched_terms(self.parts[0]), *self._span)
