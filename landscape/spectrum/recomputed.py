"""A Krylov basis that is not kept: its vectors are computed again when they are combined."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.spectrum.krylov import Basis, Pairs, norm

# The norm of what is left of a unit vector beside others, below which it is one of them again.
_SAME = 0.5


class Recomputed(Basis):
    r"""Rows of which only the locked ones, the last two and the first of the chain are held.

    Lanczos' recurrence needs no more: :math:`H q_j - \beta_{j-1} q_{j-1} - \alpha_j q_j` is
    :math:`\beta_j q_{j+1}`. To combine the rows into Ritz vectors the recurrence runs once more
    from the same first vector, to the same bits where products have them: one product for each row
    but the last (two-pass Lanczos, Cullum and Willoughby 1985).

    New rows are orthogonal to the locked ones and to the two before, and to the others only in
    exact arithmetic: once a Ritz pair has converged to rounding, a copy of it may appear. Rows that
    are combined are made orthonormal; one that is a combination of those before it is replaced
    by a random vector, whose residual then says so.

    Args:
        operator: what the rows are multiplied with again.

    Attributes:
        products: of the second passes.
    """

    def __init__(self, operator: Any):
        super().__init__(operator.point, operator.dim)
        self.room = 2**62
        self._operator = operator
        self._locked = operator.point.new_empty((0, self.dim))
        self._first: Tensor | None = None
        self._recent: list[Tensor] = []

    @property
    def kept(self) -> bool:
        return False

    @property
    def owed(self) -> int:
        return max(0, self.size - len(self._locked) - 1)

    def append(self, vector: Float[Tensor, " p"]) -> None:
        if self._first is None:
            self._first = vector.clone()
        self._recent = [*self._recent[-1:], vector]
        self.size += 1

    def split(self, vector: Float[Tensor, " p"]) -> tuple[np.ndarray, float]:
        """As for a basis that is kept; the coefficients of rows that are gone are 0."""
        locked, recent = len(self._locked), len(self._recent)
        total = np.zeros(self.size)
        for _ in range(2):
            total[:locked] += _removed(vector, self._locked)
            for place, row in enumerate(self._recent, self.size - recent):
                total[place] += _removed(vector, row.unsqueeze(0))[0]
        return total, norm(vector)

    def rotate(self, weights: np.ndarray) -> None:
        """Nothing; the rows become these combinations of the old ones, and are locked."""
        turn = torch.as_tensor(weights, device=self._like.device).to(self._like.dtype)
        locked, last = len(self._locked), self.size
        rows = turn[:locked].T @ self._locked
        vector, self._recent = self._first, []
        self.size = locked
        while vector is not None and self.size < last:
            self.append(vector)
            for row, factor in zip(rows, turn[self.size - 1], strict=True):
                row.add_(vector * factor)
            if self.size == last:
                break
            image = self._operator @ vector
            self.products += 1
            vector = image.div_(self.split(image)[1])
        del vector
        self._locked = rows
        self.trim(len(rows))
        self.skew = self._straighten()

    def trim(self, rows: int) -> None:
        """Nothing; only the locked rows stay, which are no fewer than ``rows``."""
        self._locked = self._locked[:rows]
        self.size, self._first, self._recent = len(self._locked), None, []

    def rows(self) -> Float[Tensor, "size p"]:
        """The locked rows."""
        return self._locked

    def fill(self, count: int) -> bool:
        """Whether random rows had to be locked too, so that there are at least ``count``."""
        missing = min(count, self.dim) - len(self._locked)
        if missing > 0:
            rows = self._like.new_zeros((missing, self.dim))
            self._locked = torch.cat([self._locked, rows])
            self.size = len(self._locked)
            self._straighten()
        return missing > 0

    def _straighten(self) -> float:
        """How far the locked rows were from orthonormal, which they are now to rounding."""
        generator, skew = torch.Generator(device="cpu").manual_seed(0), 0.0
        for place, row in enumerate(self._locked):
            length = norm(row)
            row /= length or 1.0
            overlap = _removed(row, self._locked[:place])
            skew = max(skew, abs(length - 1), float(np.abs(overlap).max(initial=0.0)))
            _removed(row, self._locked[:place])
            if not norm(row) > _SAME:
                fresh = torch.randn(self.dim, generator=generator, device="cpu")
                row.copy_(fresh.to(row))
                for _ in range(2):
                    row /= norm(row)
                    _removed(row, self._locked[:place])
            row /= norm(row)
        return skew


def originals(pairs: Pairs, limit: float, eps: float) -> Pairs:
    """The Ritz pairs without the copies that rounding makes where a basis is not kept.

    Of several pairs with residuals up to ``limit`` whose eigenvalue may be one and the same, since
    their residuals bridge what is between them, the best known one stays, and of pairs known to
    rounding the one with most of the first vector in it. Two eigenvalues so near are told apart
    when their residuals are smaller than half of the gap; a second one that is nearer is left to
    the second look.
    """
    least = 64 * eps * np.abs(pairs.values).max()
    errors = np.maximum(pairs.residuals, least)
    kept: list[int] = []
    for i in np.lexsort((-np.abs(pairs.coefficients[0]), errors)):
        near = np.abs(pairs.values[kept] - pairs.values[i]) <= errors[kept] + errors[i]
        if errors[i] > max(limit, least) or not near.any():
            kept.append(int(i))
    kept.sort()
    return Pairs(pairs.values[kept], pairs.coefficients[:, kept], pairs.residuals[kept])


def _removed(vector: Tensor, rows: Tensor) -> np.ndarray:
    """The coefficients of orthonormal rows in the vector, from which they are taken away."""
    parts = rows @ vector
    vector.addmv_(rows.T, parts, alpha=-1)
    return parts.cpu().double().numpy()
