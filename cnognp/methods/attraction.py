"""Where the members of a swarm go, and the best points that they have seen.

For large members memory is what a step costs: fresh pages above all, then every pass over them. So
what is computed on the way is computed in parts that stay in the cache, and points that have not
changed are not copied.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_CELL = 1 << 16  # numbers


class Move(NamedTuple):
    """What a step of all members is made of, each (n, p) or broadcast to that.

    Args:
        z: where the members are.
        best: their own best points.
        leader: whom they follow.
        own: factors of the pull to their own best points; None where nothing pulls.
        common: factors of the pull to the leader.
        grad: gradients, where a step along them is the local search.
        found: where another local search leads.
        velocity: where it is remembered.
        out: for the next places; may be ``z``.
        onward: for the next velocities; may be ``velocity``.
    """

    z: Tensor
    best: Tensor
    leader: Tensor
    own: Tensor | None
    common: Tensor | None
    grad: Tensor | None
    found: Tensor | None
    velocity: Tensor | None
    out: Tensor
    onward: Tensor | None

    def take(self, inertia: float, rate: float) -> None:
        """Writes next places and velocities.

        Args:
            inertia: factor on the local search, or on the velocity.
            rate: factor on the gradients.
        """
        if self.z.numel() <= _CELL:
            self._take(inertia, rate)
            return
        shape = self.z.shape
        wide = [None if part is None else part.expand(shape) for part in self]
        for cell in _cells(*shape):
            Move(*(None if t is None else t[cell] for t in wide))._take(inertia, rate)  # type: ignore[arg-type]

    def _take(self, inertia: float, rate: float) -> None:
        pull, z = self._pull(), self.z
        if self.velocity is not None:
            kept = inertia * self.velocity
            pull = torch.add(kept, 0.0 if pull is None else pull, out=self.onward)
        if self.found is not None:
            step = torch.sub(self.found, z).mul_(inertia)
            moved = torch.add(z, step, out=step)
        elif self.grad is not None:
            step = rate * self.grad
            moved = torch.sub(z, step, out=step)
        else:
            moved = z
        torch.add(moved, 0.0 if pull is None else pull, out=self.out)

    def _pull(self) -> Tensor | None:
        if self.own is None or self.common is None:
            return None
        other = torch.sub(self.leader, self.z).mul_(self.common)
        return torch.sub(self.best, self.z).mul_(self.own).add_(other)


def bests(better: Tensor, z: Tensor, best: Tensor, over: bool) -> Tensor:
    """The best points (n, p) so far; not copied where all or none of them are new.

    Args:
        better: (n,), whether ``z`` is better.
        z: (n, p).
        best: (n, p).
        over: write over ``best``.
    """
    if over or (z.numel() > _CELL and z.device.type == "cpu"):
        # To wait for the count costs less than to pass over large members.
        count = int(better.sum())
        if count == 0:
            return best
        if count == len(better) and not over:
            return z
    return torch.where(better.unsqueeze(-1), z, best, out=best if over else None)


def _cells(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a matrix of about `_CELL` numbers, of whole rows where they are short."""
    width = min(columns, _CELL)
    height = max(1, _CELL // width)
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield slice(row, row + height), slice(column, column + width)
