"""The upper end of a spectrum that moves slowly, from vectors that were good a while ago."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import widened

# How much less exactly than the wanted pairs the one below them is known.
GUARD = 10.0
# Products are not compared with exact ones: their rounding is allowed for, not measured. In
# float32 that of badly scaled networks was seen to move eigenvalues by 280 eps of the largest.
_ROUNDING, _ALLOWANCE = 32.0, 512.0


class Pairs(NamedTuple):
    """The largest Ritz pairs of a symmetric operator, in descending order.

    Attributes:
        values: (m,), Rayleigh quotients of the vectors.
        vectors: (m, p), orthonormal rows.
        bounds: (m,), the norms of H x - theta x, within which an eigenvalue lies, and an allowance
            of 512 eps times the largest for the rounding of the products, which is not measured.
        converged: (m,), whether the norm meets the tolerance.
        products: how many products with the operator were taken for them.
        beside: (q, p), the products with the vectors that came along.
    """

    values: np.ndarray
    vectors: Tensor
    bounds: np.ndarray
    converged: np.ndarray
    products: int
    beside: Tensor


def top_pairs(
    operator: Any,
    starts: Float[Tensor, "m p"],
    k: int,
    tolerance: float,
    *,
    spare: Float[Tensor, "n p"] | None = None,
    most: int = 100,
    beside: Float[Tensor, "q p"] | None = None,
) -> Pairs:
    r"""The k largest eigenpairs of a symmetric operator, and one more that is known less well.

    Rayleigh and Ritz in the span of ``starts``, which grows by one residual
    :math:`Hx - \theta x` of the first pair that is not good enough, with full
    reorthogonalisation. From a single start this is Lanczos; from the vectors of a nearby operator
    it needs as many products as these have gone stale.

    It stops when k pairs have residuals of at most ``tolerance`` times the largest Ritz value by
    magnitude, and the pair below them ten times that, but follows one residual in any case: the
    starts alone would never learn of an eigenvalue that rises elsewhere. As with every such method,
    an eigenvector that is orthogonal to all starts can be missed. Memory is two vectors for every
    product.

    Args:
        operator: has ``@`` from (n, p) to (n, p).
        starts: (m, p), any vectors, not all of them zero.
        k: how many pairs, from 1 to p.
        tolerance: relative.
        spare: (n, p), vectors to go on from where the space of the starts closes before there are
            pairs enough.
        most: bound on the products; as many as there are starts are taken in any case.
        beside: (q, p), vectors whose products somebody else needs: together with those of the
            starts they cost less. They do not count.

    Returns:
        min(k + 1, p) pairs; fewer where the space closes and nothing is spare.
    """
    wanted = min(k + 1, starts.shape[-1])
    spare = starts[:0] if spare is None else spare
    basis = _extended(starts[:0], starts, len(starts))
    first = len(basis)
    images = operator @ (basis if beside is None else torch.cat([basis, beside]))
    images, other = images[:first], images[first:]
    while bool(torch.isfinite(images[-1]).all()):
        values, vectors, remainders = _ritz(basis, images, wanted)
        residuals = torch.linalg.vector_norm(widened(remainders), dim=-1).cpu().numpy()
        scale = np.abs(values).max()
        allowed = np.where(np.arange(len(residuals)) < k, tolerance, GUARD * tolerance) * scale
        eps = torch.finfo(basis.dtype).eps * scale
        slack, allowance = _ROUNDING * eps, _ALLOWANCE * eps
        good = residuals <= allowed + slack
        done = good.all() and len(good) == wanted and len(basis) > first
        larger = basis
        if not done and len(basis) < min(most, basis.shape[-1]):
            poor = np.append(np.flatnonzero(~good), len(good) - 1).tolist()
            larger = _extended(basis, torch.cat([remainders[poor], spare]), 1)
        if len(larger) == len(basis):
            bounds = residuals + allowance
            return Pairs(values[: len(good)], vectors, bounds, good, len(basis), other)
        basis = larger
        images = torch.cat([images, operator @ basis[-1:]])
    missing = np.full(wanted, np.nan)
    vectors = torch.full_like(starts[:1], torch.nan).expand(wanted, -1)
    return Pairs(
        missing, vectors, np.full(wanted, np.inf), np.zeros(wanted, bool), len(basis), other
    )


def _ritz(basis: Tensor, images: Tensor, count: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """All Ritz values, descending; the first ``count`` vectors and their H x - theta x."""
    small = widened(basis @ images.T).cpu().numpy()
    values, columns = np.linalg.eigh((small + small.T) / 2)
    values, columns = values[::-1].copy(), columns[:, ::-1][:, :count]
    weights = torch.as_tensor(columns.T.copy(), device="cpu").to(basis)
    theta = torch.as_tensor(values[: len(weights)], device="cpu").to(basis)
    vectors = weights @ basis
    return values, vectors, weights @ images - theta[:, None] * vectors


def _extended(basis: Tensor, rows: Tensor, room: int) -> Tensor:
    """The orthonormal basis and at most ``room`` new directions, of the first rows with any."""
    size = len(basis) + room
    smallest = 16 * torch.finfo(rows.dtype).eps
    for row in rows:
        if len(basis) == size:
            break
        left = torch.linalg.vector_norm(row)
        for _ in range(2):
            row = row / left
            row = row - (basis @ row) @ basis
            left = torch.linalg.vector_norm(row)
            if not float(left) > smallest:
                break
        else:
            basis = torch.cat([basis, (row / left)[None]])
    return basis
