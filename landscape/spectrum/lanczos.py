"""Lanczos: the tridiagonal matrix of a start vector."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from landscape.spectrum.krylov import Basis, negligible, norm


class Tridiagonal(NamedTuple):
    """The matrix that Lanczos makes: diagonal (m,), off-diagonal (m - 1,), basis (m, p)."""

    diagonal: np.ndarray
    off: np.ndarray
    basis: Tensor


def tridiagonal(operator: Any, start: Float[Tensor, " p"], steps: int) -> Tridiagonal:
    r"""T and V of :math:`H V^\top \approx V^\top T`, by Lanczos with full reorthogonalisation.

    No restart: the Ritz values and the first components of the eigenvectors of T are nodes and
    square roots of weights of the Gauss quadrature for the operator's density seen from ``start``.
    The basis stays in the type of the operator's point, the recurrence is kept in float64.

    Args:
        operator: has ``point`` (for device and dtype) and ``@``.
        start: (p,), not zero; its length does not matter.
        steps: products, at least 1.

    Returns:
        the recurrence of m steps. m is less than ``steps`` where it closes early on an invariant
        subspace, in which case the quadrature is exact; never more than p. A product that is not
        finite is the last one, and its place on the diagonal is NaN.

    Raises:
        ValueError: if ``steps`` is below 1, or ``start`` zero or not finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    vector = start.detach().to(operator.point)
    length = norm(vector)
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"start must be finite and not zero, got a vector of norm {length}")
    vector = vector / length
    basis = Basis(operator.point, steps)
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        basis.append(vector)
        image = (operator @ vector).clone()
        coefficients, beta = basis.split(image)
        diagonal.append(float(coefficients[-1]) if np.isfinite(beta) else float("nan"))
        scale = max(abs(v) for v in (*diagonal, *off, beta))
        ended = len(diagonal) == min(steps, basis.dim) or not np.isfinite(beta)
        if ended or negligible(beta, scale, image.dtype):
            return Tridiagonal(np.array(diagonal), np.array(off), basis.rows())
        off.append(beta)
        vector = image / beta
