"""The parts of a flat vector, filters or layers, as rows: what directions are made of."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from landscape.networks import Entry, Layout
from landscape.objective import widened

By = Literal["filter", "layer", "model", "none"]

# Coordinates that are held in float64 together, so that large vectors need no copy in it.
_PIECE = 1 << 16


class Block(NamedTuple):
    """A stretch of a vector, and how it is cut into parts.

    Attributes:
        span: where it lies in the vector.
        shape: the shape to which it is reshaped.
        axes: the axes of that shape whose indices count the parts; none for a single part.
        ignored: stretches inside it that stay zero.
    """

    span: slice
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    ignored: tuple[slice, ...] = ()

    @classmethod
    def of(cls, entry: Entry, by: By) -> "Block":
        """The block of one tensor, cut into filters or left whole as a layer."""
        if by == "layer":
            return cls(entry.span, (entry.size,))
        return cls(entry.span, *entry.filters)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    def rows(self, flat: Tensor) -> Tensor:
        """The parts as rows: (..., size) to (..., parts, entries of a part)."""
        lead = flat.shape[:-1]
        shaped = flat.reshape((*lead, *self.shape))
        moved = shaped.movedim(self._axes(lead), self._first(lead))
        parts = math.prod(self.shape[axis] for axis in self.axes)
        return moved.reshape((*lead, parts, self.size // max(parts, 1)))

    def flat(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        lead = rows.shape[:-2]
        counted = [self.shape[axis] for axis in self.axes]
        rest = [length for axis, length in enumerate(self.shape) if axis not in self.axes]
        moved = rows.reshape((*lead, *counted, *rest))
        return moved.movedim(self._first(lead), self._axes(lead)).reshape((*lead, self.size))

    def zeroed(self, flat: Tensor) -> Tensor:
        """A copy in which what is ignored is zero; the same tensor where nothing is."""
        if not self.ignored:
            return flat
        flat = flat.clone()
        for span in self.ignored:
            flat[..., span] = 0
        return flat

    def orthogonal(self, u: Tensor, noise: float) -> Tensor:
        """The directions (k, size), each part orthogonal to that of the directions before it.

        ``u`` may be written over. Parts that are longer than what is held in float64 at once are
        turned in the type of ``u``, with coefficients from products in float64.
        """
        rows = self.rows(self.zeroed(u))
        if rows.shape[-1] > _PIECE:
            for part in rows.unbind(1):
                _turn(part, max(noise, 16 * torch.finfo(u.dtype).eps))
        else:
            for piece in rows.split(_together(rows), dim=1):
                turned = orthogonal(widened(piece).transpose(0, 1), noise)
                piece.copy_(turned.transpose(0, 1))
        return self.flat(rows)

    def scaled(self, u: Tensor, own: Tensor | None) -> Tensor:
        """The direction (size,), each part as long as that of ``own``, or one where that is None.

        A part that is zero, or has none to be as long as, is zero. ``u`` may be written over.
        """
        rows = self.rows(self.zeroed(u))
        lengths = _lengths(rows)
        wanted = torch.ones_like(lengths) if own is None else _lengths(self.rows(self.zeroed(own)))
        factors = torch.where(lengths > 0, wanted / lengths, 0.0)
        if rows.shape[-1] > _PIECE:
            for row, factor in zip(rows, factors.tolist(), strict=True):
                row.mul_(factor)
        else:
            step = _together(rows)
            for piece, factor in zip(rows.split(step), factors.split(step), strict=True):
                piece.copy_(widened(piece) * factor.unsqueeze(-1))
        return self.flat(rows)

    def _axes(self, lead: Sequence[int]) -> list[int]:
        return [len(lead) + axis for axis in self.axes]

    def _first(self, lead: Sequence[int]) -> list[int]:
        return list(range(len(lead), len(lead) + len(self.axes)))


def blocks(layout: Layout | None, length: int, by: By, ignore: Sequence[str]) -> Iterator[Block]:
    """The blocks of a vector; those that are left out stay zero.

    Raises:
        ValueError: if ``by`` is unknown.
    """
    if by not in ("filter", "layer", "model", "none"):
        raise ValueError(f"by must be filter, layer, model or none, got {by!r}")
    entries = () if layout is None else layout.entries
    if layout is None or by in ("model", "none"):
        spans = tuple(entry.span for entry in entries if entry.role in ignore)
        yield Block(slice(0, length), (length,), ignored=spans)
        return
    yield from (Block.of(entry, by) for entry in entries if entry.role not in ignore)


def orthogonal(rows: Tensor, noise: float) -> Tensor:
    """Gram-Schmidt over the axis before the last, twice; what has no room left becomes zero.

    Lengths are those of what is left. Where that is no more than ``noise`` times what there was, it
    is rounding error and not a direction. What is not finite stays so.
    """
    units: list[Tensor] = []
    done: list[Tensor] = []
    for row in rows.unbind(-2):
        start = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        for _ in range(2):
            for unit in units:
                row = row - (row * unit).sum(-1, keepdim=True) * unit
        length = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        room = (length > noise * start) | ~length.isfinite()
        units.append(torch.where(room, row / length, torch.zeros_like(row)))
        done.append(torch.where(room, row, torch.zeros_like(row)))
    return torch.stack(done, dim=-2)


def _turn(rows: Tensor, noise: float) -> None:
    """`orthogonal`, for long rows (k, n) and in place."""
    squares: list[float] = []
    for place, row in enumerate(rows):
        start = _dot(row, row)
        for _ in range(2):
            for other, square in zip(rows[:place], squares, strict=True):
                if square != 0:
                    row.sub_(other, alpha=_dot(row, other) / square)
        squares.append(_dot(row, row))
        if squares[-1] <= noise**2 * start and math.isfinite(start):
            row.zero_()
            squares[-1] = 0.0


def _dot(u: Tensor, v: Tensor) -> float:
    pieces = zip(u.split(_PIECE), v.split(_PIECE), strict=True)
    return float(sum(widened(a) @ widened(b) for a, b in pieces))


def _lengths(rows: Tensor) -> Tensor:
    """(parts,) in float64, of parts (parts, n)."""
    if rows.shape[-1] > _PIECE:
        squares = [_dot(row, row) for row in rows]
        return torch.tensor(squares, dtype=torch.float64, device=widened(rows[:0]).device).sqrt()
    pieces = rows.split(_together(rows))
    return torch.cat([torch.linalg.vector_norm(widened(piece), dim=-1) for piece in pieces])


def _together(rows: Tensor) -> int:
    """How many parts are held in float64 together."""
    return max(1, _PIECE // max(1, rows.shape[-1]))
