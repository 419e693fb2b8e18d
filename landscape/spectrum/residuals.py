"""How far given pairs are from eigenpairs, by explicit products, in float64 where that can be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.spectrum.krylov import norm, precise

# Longest vectors for which products are repeated in float64.
DOUBLE_DIM = 10_000_000
# Numbers of each row that are widened to float64 together.
_PIECE = 2**20


class Residuals(NamedTuple):
    """Rayleigh quotients and residual norms (k,), what rounding adds, the joint norm, and words.

    ``difference`` is the norm of (H in the point's type - H in float64) x for the leading x; None
    where only one of them was taken. ``differences`` says what products by differences of gradients
    add; empty where derivatives are exact.
    """

    values: np.ndarray
    norms: np.ndarray
    slack: float
    joint: float
    rounding: str
    difference: float | None
    differences: str = ""


def explicit(
    make: Callable[[Tensor], Any],
    z: Float[Tensor, " p"],
    vectors: Float[Tensor, "k d"],
    scale: float,
    images: Float[Tensor, "n d"],
    double: bool,
) -> Residuals:
    r"""What products with the k unit vectors say of them; k products where ``double``.

    The joint norm is :math:`\|HQ - Q\Theta\|_2` for the vectors made orthonormal in float64.

    Args:
        make: gives the matrix at a point.
        z: (p,), the point.
        vectors: (k, d), independent.
        scale: the largest eigenvalue by magnitude, about.
        images: (k, d), the products with the vectors in the type of the point; the first is enough
            where ``double``.
        double: whether products are taken in float64, if the device and the model allow it.

    Raises:
        RuntimeError: if the second derivatives are not symmetric.
    """
    if double:
        image, rounding, used = _products(make, z, vectors)
    else:
        image, rounding, used = images, _unmeasured(z), None
    errors = _of_differences(make(z) if used is None else used, vectors)
    eps = torch.finfo(image.dtype).eps
    gram, form = _inner(vectors, vectors), _inner(vectors, image)
    if image.dtype == torch.float64 and not errors.any():
        _check_symmetric(form, scale)
    values = form.diagonal() / gram.diagonal()
    unit = torch.diag(gram.diagonal() ** -0.5)
    norms = _rest(vectors, image, unit, values).diagonal().clamp_min(0).sqrt()
    orthonormal = torch.linalg.inv(torch.linalg.cholesky(gram))
    joint = torch.linalg.eigvalsh(_rest(vectors, image, orthonormal, values))[-1]
    slack = 8 * eps * scale
    said = ""
    if errors.any():
        said = f"bounds widened by {errors.max():.3g}, estimated from two steps"
    twice = double and image.dtype == torch.float64
    return Residuals(
        values=values.numpy(),
        norms=norms.numpy() + errors,
        slack=slack,
        joint=float(joint.clamp_min(0).sqrt())
        + slack * len(vectors) ** 0.5
        + float(np.linalg.norm(errors)),
        rounding=rounding,
        difference=norm(precise(images[0]) - precise(image[0])) if twice else None,
        differences=said,
    )


def _of_differences(operator: Any, vectors: Tensor) -> np.ndarray:
    """(k,) what differences of gradients may add to each product with a unit vector."""
    error = getattr(operator, "error", None)
    if error is None or not getattr(operator, "differences", False):
        return np.zeros(len(vectors))
    return np.array([error(row.to(operator.point)) / norm(row) for row in vectors])


def unit(vectors: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
    """The rows, in place, of length one, their largest entry positive, so that runs agree."""
    for row in vectors:
        peak = float(row[row.abs().argmax()])
        row /= norm(row) * (-1.0 if peak < 0 else 1.0)
    return vectors


def _products(make: Callable[[Tensor], Any], z: Tensor, vectors: Tensor) -> tuple[Tensor, str, Any]:
    """H x, (k, d), in float64 where that can be; if rounding is in the bound; and the matrix."""
    try:
        wide = make(z.double())
        image = wide @ vectors.double()
        return image, "measured: bounds in float64 on the same data", wide
    except (RuntimeError, TypeError) as error:
        # A device without float64, or a model that holds tensors of a fixed type.
        reason = str(error).splitlines()[0]
    narrow = make(z)
    said = f"not measured: bounds in {z.dtype}, no product in float64 ({reason})"
    return narrow @ vectors, said, narrow


def _unmeasured(z: Tensor) -> str:
    if z.dtype == torch.float64:
        return "allowed for: all in float64, with 8 eps of the largest eigenvalue in the bounds"
    large = len(z) > DOUBLE_DIM
    reason = f"more than {DOUBLE_DIM} parameters" if large else "not asked for"
    return f"not measured: bounds in {z.dtype}, no product in float64 ({reason})"


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The product a b^T in float64 on the host."""
    columns = max(1, _PIECE // len(a))
    pieces = zip(a.split(columns, -1), b.split(columns, -1), strict=True)
    return sum((precise(x) @ precise(y).T for x, y in pieces), precise(a[:0]).new_zeros(())).cpu()


def _rest(vectors: Tensor, image: Tensor, change: Tensor, values: Tensor) -> Tensor:
    """R R^T for R = C H X - diag(values) C X with the change of basis C, in float64 on the host."""
    total = torch.zeros(len(values), len(values), dtype=torch.float64, device="cpu")
    columns = max(1, _PIECE // len(values))
    for x, y in zip(vectors.split(columns, -1), image.split(columns, -1), strict=True):
        wide = precise(x)
        turn, theta = change.to(wide), values.to(wide).unsqueeze(-1)
        rest = turn @ precise(y) - theta * (turn @ wide)
        total += (rest @ rest.T).cpu()
    return total


def _check_symmetric(form: Tensor, scale: float) -> None:
    """Nothing, if x^T H y equals y^T H x.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    skew = float((form - form.T).abs().max())
    if skew > 1e-4 * scale:
        raise RuntimeError(
            f"the second derivatives are not symmetric (x^T H y and y^T H x differ by {skew:.3g}), "
            "so some operation of the model has a wrong second derivative; write it with plain "
            "tensor functions"
        )
