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
# Longest vectors whose images are taken together; those of longer ones are held one at a time.
_TOGETHER = 2**20


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

    def given(i: int) -> Tensor:
        return images[i]

    image, rounding, used = _products(make, z, vectors) if double else (given, _unmeasured(z), None)
    errors = _of_differences(make(z) if used is None else used, vectors)
    gram, form, rest, first = _forms(vectors, image)
    exact = first.dtype == torch.float64
    if exact and not errors.any():
        _check_symmetric(form, scale)
    values = form.diagonal() / gram.diagonal()
    norms = (rest.diagonal() / gram.diagonal()).clamp_min(0).sqrt()
    joint = _joint(gram, form, rest, values)
    slack = 8 * torch.finfo(first.dtype).eps * scale
    said = ""
    if errors.any():
        said = f"bounds widened by {errors.max():.3g}, estimated from two steps"
    return Residuals(
        values=values.numpy(),
        norms=norms.numpy() + errors,
        slack=slack,
        joint=joint + slack * len(vectors) ** 0.5 + float(np.linalg.norm(errors)),
        rounding=rounding,
        difference=norm(precise(images[0]) - precise(first)) if double and exact else None,
        differences=said,
    )


def _forms(
    vectors: Float[Tensor, "k d"], image: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""X X^T, X (HX)^T and R R^T, (k, k) in float64 on the host, and the first image.

    Row i of R is :math:`H x_i - \theta_i x_i`, taken in float64 and held in the vectors' type,
    which rounds it by no more than a part of itself.
    """
    gram, rests = _inner(vectors, vectors), torch.empty_like(vectors)
    form = torch.zeros_like(gram)
    for i, vector in enumerate(vectors):
        along = image(i)
        form[:, i] = _inner(vectors, along.unsqueeze(0)).squeeze(1)
        theta = form[i, i] / gram[i, i]
        for rest, x, y in zip(*(t.split(_PIECE) for t in (rests[i], vector, along)), strict=True):
            rest.copy_(precise(y) - theta.to(precise(x)) * precise(x))
    return gram, form, _inner(rests, rests), image(0)


def _joint(gram: Tensor, form: Tensor, rest: Tensor, values: Tensor) -> float:
    r"""The joint norm :math:`\|HQ - Q\Theta\|_2` for Q = C X, orthonormal by Cholesky's factor.

    The rows of it are :math:`C R + D X` with :math:`D = C \Theta - \Theta C`.
    """
    change = torch.linalg.inv(torch.linalg.cholesky(gram))
    turned = change * values - values.unsqueeze(-1) * change
    mixed = change @ (form.T - values.unsqueeze(-1) * gram) @ turned.T
    square = change @ rest @ change.T + mixed + mixed.T + turned @ gram @ turned.T
    return float(torch.linalg.eigvalsh(square)[-1].clamp_min(0).sqrt())


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


def _products(
    make: Callable[[Tensor], Any], z: Tensor, vectors: Tensor
) -> tuple[Callable[[int], Tensor], str, Any]:
    """H x_i by i, in float64 where that can be; if rounding is in the bound; and the matrix."""
    rows = vectors if len(z) <= _TOGETHER else vectors[:1]
    try:
        matrix = make(z.double())
        images = matrix @ rows.double()
        said = "measured: bounds in float64 on the same data"
    except (RuntimeError, TypeError) as error:
        # A device without float64, or a model that holds tensors of a fixed type.
        reason = str(error).splitlines()[0]
        matrix = make(z)
        images = matrix @ rows
        said = f"not measured: bounds in {z.dtype}, no product in float64 ({reason})"

    def image(i: int) -> Tensor:
        return images[i] if i < len(images) else matrix @ vectors[i].to(images.dtype)

    return image, said, matrix


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
