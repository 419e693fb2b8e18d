"""Krylov subspaces of a symmetric operator, kept orthogonal to rounding on its own device."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Which = Literal["LM", "LA", "SA", "BE"]

# Numbers in rows that are allocated together, and at most so many rows; a basis grows by whole
# blocks and is never copied.
_BLOCK, _ROWS, _FEWEST = 2**23, 32, 8
_PIECE = 2**20


class Basis:
    """Orthonormal rows that grow without being copied.

    Args:
        like: (p,), gives length, type and device.
        room: most rows.

    Attributes:
        products: that were taken to have the rows again.
        skew: how far rows were from orthonormal when they were last combined.
    """

    def __init__(self, like: Float[Tensor, " p"], room: int):
        self.dim = like.numel()
        self.room = min(room, self.dim)
        self.size = 0
        self._like = like
        self._rows = min(_ROWS, max(_FEWEST, _BLOCK // max(1, self.dim)))
        self._blocks: list[Tensor] = []
        self.products, self.skew = 0, 0.0

    @property
    def owed(self) -> int:
        """Products that combining the rows will cost."""
        return 0

    @property
    def kept(self) -> bool:
        """Whether the rows are held, and orthogonal to rounding."""
        return True

    def append(self, vector: Float[Tensor, " p"]) -> None:
        """Nothing; the vector, of length one and orthogonal to the others, is the last row."""
        block, row = divmod(self.size, self._rows)
        if block == len(self._blocks):
            rows = min(self._rows, self.room - self.size)
            self._blocks.append(self._like.new_empty((rows, self.dim)))
        self._blocks[block][row] = vector
        self.size += 1

    def split(self, vector: Float[Tensor, " p"]) -> tuple[np.ndarray, float]:
        """Coefficients of the vector in the basis, and the norm of the rest, left in ``vector``.

        Two passes of classical Gram-Schmidt keep the rest orthogonal to rounding ("twice is
        enough", Parlett 1998, section 6.9). The vector is changed in place.
        """
        filled, total = self._filled(), np.zeros(self.size)
        for _ in range(2 if filled else 0):
            parts = [rows @ vector for rows in filled]
            for rows, part in zip(filled, parts, strict=True):
                vector.addmv_(rows.T, part, alpha=-1)
            total += torch.cat(parts).cpu().double().numpy()
        return total, norm(vector)

    def fill(self, count: int) -> bool:
        """Whether rows had to be added, so that there are at least ``count``: none are here."""
        return False

    def fresh(self, generator: torch.Generator) -> Tensor:
        """A random unit vector orthogonal to the basis; one that is full has none."""
        vector = torch.randn(
            self.dim, generator=generator, dtype=torch.float64, device=generator.device
        ).to(self._like)
        for _ in range(2):
            vector /= self.split(vector)[1]
        return vector

    def zero(self) -> Tensor:
        """A vector of zeros."""
        return self._like.new_zeros(self.dim)

    def rotate(self, weights: np.ndarray) -> None:
        """Nothing; the rows become the columns of ``weights`` (size, kept) times the old ones.

        In place, over pieces of columns, so that no more than one vector is held beside it.
        """
        kept = weights.shape[1]
        turn = torch.as_tensor(np.ascontiguousarray(weights.T), device=self._like.device)
        turn = turn.to(self._like.dtype)
        columns = max(1, self.dim // (2 * self.size))
        for start in range(0, self.dim, columns):
            piece = slice(start, start + columns)
            turned = turn @ torch.cat([rows[:, piece] for rows in self._filled()])
            for rows, part in zip(self._blocks, turned.split(self._rows), strict=False):
                rows[: len(part), piece] = part
        self.trim(kept)

    def trim(self, rows: int) -> None:
        """Nothing; only the first rows stay."""
        self.size = rows
        del self._blocks[-(-rows // self._rows) :]

    def rows(self) -> Float[Tensor, "size p"]:
        """The rows as one tensor: a view where they lie in one block."""
        filled = self._filled()
        if len(filled) == 1:
            return filled[0]
        return torch.cat(filled) if filled else self._like.new_empty((0, self.dim))

    def _filled(self) -> list[Tensor]:
        """The blocks without what is not yet in use."""
        starts = range(0, self.size, self._rows)
        return [block[: self.size - s] for s, block in zip(starts, self._blocks, strict=False)]


class Pairs(NamedTuple):
    """Ritz values in ascending order, coefficients (columns), and the norms of the residuals."""

    values: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray


class Krylov:
    r"""A basis V, the operator's projection T on it, and what the projection leaves out.

    :math:`H V^\top = V^\top T + \sum_c f_c l_c^\top + \beta v e_m^\top`: the last product left
    ``beta`` times the unit vector ``ahead``, and every chain c that was abandoned before has left a
    unit vector, ``left[c]``, times the row c of ``leaks``. T is measured, column by column, and
    never assumed to be tridiagonal, so that rotating the basis keeps it exact (thick restart, Wu
    and Simon 2000).

    Args:
        operator: has ``point`` (for device and dtype) and ``@``.
        room: most rows, at least 2.
        generator: source of the random starts.
        start: (p,), the first row, of length one; random where None.
        basis: an empty one; one that is kept where None.
    """

    def __init__(
        self,
        operator: Any,
        room: int,
        generator: torch.Generator,
        start: Float[Tensor, " p"] | None = None,
        basis: Basis | None = None,
    ):
        self.operator = operator
        self.basis = Basis(operator.point, room) if basis is None else basis
        self.matrix = np.zeros((0, 0))
        self.leaks = np.zeros((0, 0))
        self.left: list[Tensor] = []
        self.beta = 0.0
        self.closed = False
        self.finite = True
        self._own = 0
        self._generator = generator
        self._ahead = start

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.basis.size

    @property
    def products(self) -> int:
        """All products, those of second passes included."""
        return self._own + self.basis.products

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.basis.kept and self.size == self.basis.dim

    def extend(self) -> None:
        """Nothing; one more product, and one more row."""
        ahead, self._ahead = self._ahead, None
        vector = self.basis.fresh(self._generator) if ahead is None else ahead
        self.basis.append(vector)
        del ahead
        image = self.operator @ vector
        self._own += 1
        row, beta = self.basis.split(image)
        self.finite = bool(np.isfinite(beta) and np.isfinite(row).all())
        if not self.finite:
            return
        matrix = np.empty((self.size, self.size))
        matrix[:-1, :-1] = self.matrix
        matrix[-1, :] = matrix[:, -1] = row
        self.matrix = matrix
        self.leaks = np.concatenate([self.leaks, np.zeros((len(self.leaks), 1))], axis=1)
        scale = max(float(np.abs(self.matrix).max()), beta)
        self.closed = self.complete or _negligible(beta, scale, image.dtype)
        self.beta = 0.0 if self.closed else beta
        if not self.closed:
            self._ahead = image.div_(beta)

    def pairs(self, first: int = 0) -> Pairs:
        """Ritz pairs; of the operator projected on the rows from ``first`` where that is not 0.

        Residuals are those of the whole operator where ``first`` is 0: a bound, since the chains
        that were abandoned may have left the same vector.
        """
        values, coefficients = np.linalg.eigh(self.matrix[first:, first:])
        residuals = abs(self.beta * coefficients[-1])
        if first == 0:
            residuals = residuals + abs(self.leaks @ coefficients).sum(0)
        return Pairs(values, coefficients, residuals)

    def keep(self, weights: np.ndarray, first: int = 0) -> None:
        """Nothing; the rows from ``first`` become the columns of ``weights`` times themselves."""
        whole = np.zeros((self.size, first + weights.shape[1]))
        whole[:first, :first] = np.eye(first)
        whole[first:, first:] = weights
        self.basis.rotate(whole)
        self.matrix = whole.T @ self.matrix @ whole
        self.matrix = (self.matrix + self.matrix.T) / 2
        self.leaks = self.leaks @ whole

    def lock(self, chosen: np.ndarray, pairs: Pairs) -> None:
        """Nothing; the rows are the chosen Ritz vectors, and the next one will be a fresh start."""
        # What these rows have seen of an older chain is in the projection.
        for row, vector in zip(self.leaks, self.left, strict=True):
            length = self.basis.split(vector)[1]
            vector /= length or 1.0
            row *= length
        last = np.zeros((1, self.size))
        last[0, -1] = self.beta
        self.leaks = np.concatenate([self.leaks, last])
        self.left.append(self.basis.zero() if self._ahead is None else self._ahead)
        self.beta, self._ahead = 0.0, None
        self.keep(pairs.coefficients[:, chosen])

    def measure(self) -> None:
        """Nothing; projection and residuals are those of the rows as they are, from products."""
        rows = self.basis.rows()
        self.matrix, self.left = np.empty((len(rows), len(rows))), []
        self.leaks = np.zeros_like(self.matrix)
        for place, row in enumerate(rows):
            image = self.operator @ row
            self._own += 1
            self.matrix[place], self.leaks[place, place] = self.basis.split(image)
        self.matrix = (self.matrix + self.matrix.T) / 2

    def trim(self, rows: int) -> None:
        """Nothing; the first rows stay, and the next one will be a fresh start."""
        self.basis.trim(rows)
        self.matrix, self.leaks = self.matrix[:rows, :rows], self.leaks[:, :rows]
        self.beta, self._ahead = 0.0, None

    def restart(self, which: Which, wanted: int, first: int = 0) -> None:
        """Nothing; where there is no room, the rows from ``first`` on make some.

        What stays are the ``wanted`` Ritz vectors at the end that is asked for and half of the
        others next to them.
        """
        rows = self.size - first
        if self.size < self.basis.room or self.complete:
            return
        pairs = self.pairs(first)
        kept = max(1, min(wanted + (rows - wanted) // 2, rows - 2))
        chosen = ends(pairs.values, which, kept)
        self.keep(pairs.coefficients[:, chosen], first)


def ends(values: np.ndarray, which: Which, k: int) -> np.ndarray:
    """Indices of the k values that are wanted, in the order in which they are reported."""
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")[:k]
    if which == "BE":
        descending = np.argsort(-values, kind="stable")
        high = min((k + 1) // 2, len(values))
        low = min(k - (k + 1) // 2, len(values) - high)
        return np.concatenate([descending[:high], descending[len(descending) - low :]])
    return np.argsort(values if which == "SA" else -values, kind="stable")[:k]


def _negligible(beta: float, scale: float, dtype: torch.dtype) -> bool:
    """Whether what is left of a product is rounding, so that the space is invariant."""
    return beta <= 32 * torch.finfo(dtype).eps * scale


def norm(vector: Float[Tensor, " p"]) -> float:
    """The Euclidean norm, added up in float64 piece by piece."""
    if len(vector) <= _PIECE:
        return float(torch.linalg.vector_norm(precise(vector)))
    parts = [torch.linalg.vector_norm(precise(piece)) for piece in vector.split(_PIECE)]
    return float(torch.linalg.vector_norm(torch.stack(parts)))


def precise(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The tensor in float64, on the host if the device has no such type."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
