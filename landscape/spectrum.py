"""Eigenvalues of the Hessian, each with a bound that is proved and not guessed."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from landscape.curvature import Hessian
from landscape.objective import Objective, check_deterministic, normalisation_of
from landscape.results import Spectrum, provenance

Which = Literal["LM", "LA", "SA", "BE"]

# Below this length the whole matrix costs no more than the search for its ends.
_DENSE_DIM = 32
_GUARDS = 1
_DOUBLE_DIM = 10_000_000


class Ritz(NamedTuple):
    """What Lanczos found: Ritz values, unit vectors, residuals, and how it ended."""

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    everything: np.ndarray
    status: str


def top_eigenpairs(
    objective: Objective,
    z: Float[Tensor, " p"],
    k: int,
    which: Which = "LM",
    tolerance: float = 1e-3,
    *,
    max_products: int | None = None,
    memory: int = 2**32,
    generator: torch.Generator | None = None,
    vectors: bool = True,
) -> Spectrum:
    r"""The k eigenvalues of the Hessian at one end of its spectrum, with bounds.

    Lanczos with full reorthogonalisation. It stops when the wanted Ritz pairs and the next one
    have residuals of at most ``tolerance`` times the largest Ritz value by magnitude. Then
    every returned pair is checked by an explicit product: ``eigenvalues`` are Rayleigh quotients
    :math:`\theta = x^\top H x`, ``residuals`` are :math:`\|Hx - \theta x\|_2` with unit x, taken in
    float64 on the same data where the objective can be evaluated so (``rounding`` in the provenance
    says which).

    What is proved: some eigenvalue of H lies within ``bounds[i]`` of ``eigenvalues[i]``. What is
    not: that no eigenvalue was missed. A start that is orthogonal to an eigenvector, or an
    eigenvalue that occurs several times, can hide one. ``estimates`` are
    :math:`r^2 / \mathrm{gap}` with gaps between Ritz values: usually the actual error, never a
    bound.

    Args:
        objective: what is differentiated twice; without random modules.
        z: (p,), the point.
        k: how many, from 1 to p.
        which: ``"LM"`` largest magnitude, ``"LA"`` largest, ``"SA"`` smallest, ``"BE"`` both ends
            (one more of the largest where k is odd). In descending order of magnitude for LM, of
            value for LA and BE, ascending for SA.
        tolerance: relative to the largest Ritz value by magnitude. Below about 1e-6 float32 points
            cannot reach it; the result then says so.
        max_products: bound on the products with H, the k explicit ones included; where None,
            20 k + 200.
        memory: bytes that the Lanczos basis may take.
        generator: source of the starting vector; seed 0 where None.
        vectors: whether the eigenvectors are part of the result.

    Returns:
        eigenvalues, residuals, bounds, estimates, converged (k,), vectors (k, p), products, status.
        Up to p = 32 the whole matrix is built from p products and is exact to rounding.

    Raises:
        ValueError: if ``k``, ``which`` or ``tolerance`` is out of range, or ``memory`` too small
            for k vectors.
        RuntimeError: if the objective is random, or its second derivatives are not symmetric.
    """
    if not 1 <= k <= objective.dim:
        raise ValueError(f"k must be from 1 to the number of parameters {objective.dim}, got {k}")
    if which not in ("LM", "LA", "SA", "BE"):
        raise ValueError(f"which must be LM, LA, SA or BE, got {which!r}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
    check_deterministic(objective, z)
    limit = 20 * k + 200 if max_products is None else max_products
    if limit < 2 * k:
        raise ValueError(f"max_products must be at least 2 k = {2 * k}, got {limit}")
    z = z.detach()
    operator = Hessian(objective, z)
    if objective.dim <= _DENSE_DIM:
        ritz = _dense(operator, k, which)
    else:
        generator = generator or torch.Generator(device="cpu").manual_seed(0)
        room = memory // (objective.dim * z.element_size())
        if room < k:
            raise ValueError(f"memory of {memory} bytes holds {room} vectors, and k = {k} need {k}")
        steps = min(limit - k, room)
        ritz = lanczos(operator, k, which, tolerance, steps, generator)
    products = operator.products
    if ritz.status == "not finite":
        return _nothing(k, objective, which, tolerance, products)
    image, rounding = _explicit_products(objective, operator, ritz.vectors)
    double = ritz.vectors.double()
    lengths = torch.linalg.vector_norm(double, dim=-1)
    values = (double * image).sum(-1) / lengths**2
    remainder = torch.linalg.vector_norm(image - values[:, None] * double, dim=-1)
    residuals, values = (remainder / lengths).cpu().numpy(), values.cpu().numpy()
    scale = float(np.abs(ritz.everything).max())
    if rounding.startswith("measured"):
        _check_symmetric(double, image, scale)
    order = _order(values, which)
    dtype = torch.float64 if rounding.startswith("measured") else z.dtype
    slack = 8 * torch.finfo(dtype).eps * scale
    converged = residuals <= tolerance * scale + slack
    status = ritz.status if converged.all() else f"not converged: {_reason(ritz.status)}"
    return Spectrum(
        eigenvalues=values[order],
        residuals=residuals[order],
        bounds=residuals[order] + slack,
        estimates=_estimates(values, residuals, ritz.everything)[order],
        converged=converged[order],
        vectors=_array(ritz.vectors)[order] if vectors else None,
        products=products + k,
        dim=objective.dim,
        which=which,
        tolerance=tolerance,
        status=status,
        statistics=normalisation_of(objective),
        provenance=provenance(
            rounding=rounding, graph_bytes=operator.graph_bytes, graph_cached=operator.cached
        ),
    )


def lanczos(
    operator: Any,
    k: int,
    which: Which,
    tolerance: float,
    steps: int,
    generator: torch.Generator,
) -> Ritz:
    """The k wanted Ritz pairs of a symmetric operator, by Lanczos with full reorthogonalisation.

    The basis stays on the operator's device; the tridiagonal matrix is float64 on the host. Two
    passes of classical Gram-Schmidt keep the basis orthogonal to rounding ("twice is enough",
    Parlett 1998, section 6.9). Where the recurrence closes early, on an invariant subspace, it goes
    on from a fresh random vector.

    Args:
        operator: has ``dim``, ``point`` (for device and dtype) and ``@``.
        k: how many pairs.
        which: the end of the spectrum, as in `top_eigenpairs`.
        tolerance: relative to the largest Ritz value by magnitude.
        steps: most products.
        generator: source of the starting vector.
    """
    dim, like = operator.dim, operator.point
    steps = min(steps, dim)
    basis = like.new_empty((min(steps, 32), dim))
    diagonal: list[float] = []
    off: list[float] = []
    vector = _fresh(like, basis[:0], generator)
    for step in range(steps):
        if step == len(basis):
            basis = torch.cat([basis, like.new_empty((min(len(basis), steps - step), dim))])
        basis[step] = vector
        image = operator @ vector
        known = basis[: step + 1]
        first = known @ image
        image = image - first @ known
        second = known @ image
        image = image - second @ known
        diagonal.append(float(first[-1].double() + second[-1].double()))
        beta = float(torch.linalg.vector_norm(image.double()))
        if not np.isfinite(diagonal[-1] + beta):
            return Ritz(*_empty(like), "not finite")
        scale = max(abs(v) for v in (*diagonal, *off, beta))

        closed = beta <= 8 * torch.finfo(like.dtype).eps * scale
        wanted = min(k + _GUARDS, dim)
        if step + 1 >= wanted or step + 1 == steps:
            found = _ritz(diagonal, off, 0.0 if closed else beta, k, which)
            if step + 1 >= wanted and _settled(found, wanted, which, tolerance):
                return _with_vectors(found, known, k, which, "converged")
        if closed:
            vector, beta = _fresh(like, known, generator), 0.0
        else:
            vector = image / beta
        off.append(beta)
    complete = "converged" if steps == dim else f"stopped after {steps} products"
    return _with_vectors(found, known, k, which, complete)


def _ritz(
    diagonal: list[float], off: list[float], beta: float, k: int, which: Which
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All Ritz values, the coefficients of their vectors (columns), and their residuals."""
    values, coefficients = eigh_tridiagonal(np.array(diagonal), np.array(off))
    return values, coefficients, abs(beta * coefficients[-1])


def _settled(found: tuple, wanted: int, which: Which, tolerance: float) -> bool:
    values, _, residuals = found
    chosen = _order(values, which)[:wanted] if which != "BE" else _ends(values, wanted)
    return bool((residuals[chosen] <= tolerance * np.abs(values).max()).all())


def _with_vectors(found: tuple, basis: Tensor, k: int, which: Which, status: str) -> Ritz:
    values, coefficients, residuals = found
    chosen = _order(values, which)[:k] if which != "BE" else _ends(values, k)
    weights = torch.as_tensor(coefficients[:, chosen].T.copy(), device=basis.device)
    vectors = weights.to(basis.dtype) @ basis
    return Ritz(values[chosen], _unit(vectors), residuals[chosen], values, status)


def _dense(operator: Hessian, k: int, which: Which) -> Ritz:
    matrix = operator.dense().double()
    if not bool(torch.isfinite(matrix).all()):
        return Ritz(*_empty(operator.point), "not finite")
    values, columns = torch.linalg.eigh(matrix)
    everything = values.cpu().numpy()
    chosen = _order(everything, which)[:k] if which != "BE" else _ends(everything, k)
    index = torch.as_tensor(chosen.copy(), device=values.device)
    vectors = _unit(columns.T[index].to(operator.point))
    return Ritz(everything[chosen], vectors, np.zeros(k), everything, "converged")


def _explicit_products(
    objective: Objective, operator: Hessian, vectors: Tensor
) -> tuple[Tensor, str]:
    """H x for unit x, (k, p) in float64, and whether rounding is part of it."""
    if operator.point.dtype == torch.float64:
        return operator @ vectors, "measured: all in float64"
    if objective.dim <= _DOUBLE_DIM:
        try:
            double = Hessian(objective, operator.point.double())
            return double @ vectors.double(), "measured: bounds in float64 on the same data"
        except (RuntimeError, TypeError):
            # A device without float64, or a model that holds tensors of a fixed type.
            pass
    return (operator @ vectors).double(), f"not measured: bounds in {operator.point.dtype}"


def _check_symmetric(vectors: Tensor, image: Tensor, scale: float) -> None:
    """Nothing, if x^T H y equals y^T H x for the float64 vectors and their images.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    form = vectors @ image.T
    skew = float((form - form.T).abs().max())
    if skew > 1e-4 * scale:
        raise RuntimeError(
            f"the second derivatives are not symmetric (x^T H y and y^T H x differ by {skew:.3g}), "
            "so some operation of the model has a wrong second derivative; write it with plain "
            "tensor functions"
        )


def _reason(status: str) -> str:
    return "rounding keeps the residuals up" if status == "converged" else status


def _array(vectors: Tensor) -> np.ndarray:
    """On the host, in single precision where NumPy lacks the type."""
    wide = vectors.dtype in (torch.float32, torch.float64)
    return (vectors if wide else vectors.float()).cpu().numpy()


def _estimates(values: np.ndarray, residuals: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """min(r, r^2 / gap) with the gap to the nearest other Ritz value."""
    estimates = residuals.copy()
    for i, value in enumerate(values):
        distances = np.sort(np.abs(everything - value))
        gap = distances[1] - residuals[i] if len(distances) > 1 else 0.0
        if gap > 0:
            estimates[i] = min(residuals[i], residuals[i] ** 2 / gap)
    return estimates


def _order(values: np.ndarray, which: Which) -> np.ndarray:
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")
    return np.argsort(values if which == "SA" else -values, kind="stable")


def _ends(values: np.ndarray, k: int) -> np.ndarray:
    descending = np.argsort(-values, kind="stable")
    high = (k + 1) // 2
    return np.concatenate([descending[:high], descending[len(descending) - (k - high) :]])


def _fresh(like: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """A random unit vector orthogonal to the basis."""
    vector = torch.randn(
        like.numel(), generator=generator, dtype=torch.float64, device=generator.device
    ).to(like)
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
        vector = vector / torch.linalg.vector_norm(vector)
    return vector


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length one, their largest entry positive, so that equal runs give equal vectors."""
    double = vectors.double()
    double = double / torch.linalg.vector_norm(double, dim=-1, keepdim=True)
    peak = double.gather(-1, double.abs().argmax(-1, keepdim=True))
    return (double * peak.sign()).to(vectors)


def _empty(like: Tensor) -> tuple[np.ndarray, Tensor, np.ndarray, np.ndarray]:
    return np.empty(0), like.new_empty((0, like.numel())), np.empty(0), np.empty(0)


def _nothing(
    k: int, objective: Objective, which: Which, tolerance: float, products: int
) -> Spectrum:
    missing = np.full(k, np.nan)
    return Spectrum(
        eigenvalues=missing,
        residuals=missing,
        bounds=np.full(k, np.inf),
        estimates=np.full(k, np.inf),
        converged=np.zeros(k, dtype=bool),
        vectors=None,
        products=products,
        dim=objective.dim,
        which=which,
        tolerance=tolerance,
        status="not finite: the Hessian has NaN or infinite entries at this point",
        statistics=normalisation_of(objective),
        provenance=provenance(),
    )
