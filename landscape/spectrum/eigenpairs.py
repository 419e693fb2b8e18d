"""Eigenvalues of the Hessian, each with a bound that is proved and not guessed."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Derivatives, Hessian, arithmetic, dense, differentiated
from landscape.objective import Objective, check_deterministic, judged, normalisation_of
from landscape.operators.blocks import Operator, graph_of, matrix, name_of
from landscape.operators.selection import Where, describe, selected
from landscape.results import Spectrum, provenance
from landscape.spectrum.krylov import Which, ends, precise
from landscape.spectrum.multiplicity import uncover
from landscape.spectrum.recomputed import Recomputed
from landscape.spectrum.residuals import DOUBLE_DIM, explicit, unit
from landscape.spectrum.search import GUARDS, Search, estimates, look

Kept = Literal["kept", "recomputed"]

# Below this length the whole matrix costs no more than the search for its ends.
_DENSE_DIM = 32
# Vectors that a search holds beside its basis: a product, and pieces of the basis as it turns.
_BESIDE = 3
# Beside the vectors and their residuals: a vector and its image in float64, and what is left of it.
_WIDE = 6
# From this length on a basis is restarted at 2 k + _SPARE vectors, for few more products.
_LONG, _SPARE = 2**20, 6


class Found(NamedTuple):
    """What the search gave: unit vectors (k, dim), all Ritz values, how it ended, what it cost.

    ``images`` are products with the vectors, (k, dim), or with the first of them alone where those
    in float64 are still to be taken.
    """

    vectors: Tensor
    everything: np.ndarray
    status: str
    products: int
    check_products: int
    images: Tensor
    operator: str
    facts: dict


def top_eigenpairs(
    objective: Objective,
    z: Float[Tensor, " p"],
    k: int,
    which: Which = "LM",
    tolerance: float = 1e-3,
    *,
    max_products: int | None = None,
    memory: int | None = None,
    basis: Kept = "kept",
    check: bool = True,
    double: bool = True,
    where: Where | None = None,
    operator: Operator = Hessian,
    derivatives: Derivatives | None = None,
    generator: torch.Generator | None = None,
    vectors: bool = True,
) -> Spectrum:
    r"""The k eigenvalues of the Hessian at one end of its spectrum, with bounds.

    Or of another curvature matrix, or of its block for a layer, which is meant by H below.

    Lanczos with full reorthogonalisation and thick restart. It stops when the wanted Ritz pairs
    have residuals of at most ``tolerance`` times the largest Ritz value by magnitude and the two
    pairs after them are known so well too (`landscape.spectrum.search.settled`). A second look
    from a fresh random start orthogonal to what was found then searches for what the first one
    cannot see, such as a second copy of an eigenvalue (`landscape.spectrum.multiplicity.uncover`).

    At last every pair is measured by an explicit product: ``eigenvalues`` are Rayleigh quotients
    :math:`\theta = x^\top H x`, ``residuals`` are :math:`\|Hx - \theta x\|_2` with unit x, taken in
    float64 on the same data where the objective can be evaluated so. ``bounds`` are larger by 8 eps
    times the largest Ritz value, which is allowed for the rounding of that product.

    Where products are differences of gradients (``derivatives="differences"``), what two steps say
    of their error is added to the bounds, which are then estimates, as the provenance says.

    What is proved: some eigenvalue of H lies within ``bounds[i]`` of ``eigenvalues[i]``, and k
    eigenvalues, counted with multiplicity, lie within ``joint_bound`` of the k values, one for each
    (Kahan; Parlett 1998, section 11.5). What is not: that no eigenvalue was missed. The second look
    makes that unlikely, and its verdict is in the provenance. ``estimates`` are
    :math:`r^2 / \mathrm{gap}` with gaps between Ritz values: usually the actual error, never a
    bound.

    Args:
        objective: what is differentiated twice; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32.
        k: how many, from 1 to the number of coordinates.
        which: ``"LM"`` largest magnitude, ``"LA"`` largest, ``"SA"`` smallest, ``"BE"`` both ends
            (one more of the largest where k is odd). In descending order of magnitude for LM, of
            value for LA and BE, ascending for SA.
        tolerance: relative to the largest Ritz value by magnitude. Below about 1e-6 float32 points
            cannot reach it; the result then says so.
        max_products: bound on all products with H, those of the second look included; where None,
            20 k + 200.
        memory: bytes for the basis and what it needs beside it, the graph not counted. The basis
            is restarted when it is full. Where None, that is 4 GiB up to a million coordinates, and
            beyond that at most 2 k + 9 vectors.
        basis: ``"kept"``, or ``"recomputed"`` where not even k + 4 vectors and those of the proof
            fit: Lanczos then holds three vectors beside the k + 2 that it finds, and takes the
            products of the first look twice (`landscape.spectrum.recomputed`). Its vectors lose
            orthogonality once a pair is known to rounding, so that it may need more products, or
            end not converged; bounds come from explicit products in either case.
        check: whether to take the second look.
        double: whether a point in float32 of at most 10 million parameters has its residuals taken
            in float64. Without that they are taken in float32 from the graph that is there, which
            saves much of the time on a large network; rounding is then no part of the bounds, and
            the provenance says so.
        where: restricts the matrix to a layer, a module or other coordinates, as in
            `landscape.operators.selection.selected`.
        operator: makes the matrix from (objective, z), for instance
            `landscape.operators.GaussNewton`.
        derivatives: ``"exact"`` or ``"differences"`` (of gradients), for the Hessian; what the
            objective says where None.
        generator: source of the starting vectors; seed 0 where None.
        vectors: whether the eigenvectors are part of the result, zero outside ``where``.

    Returns:
        eigenvalues, residuals, bounds, estimates, converged (k,), vectors (k, p), joint_bound;
        products, without those of the second look, which are check_products; status. Up to p = 32
        the whole matrix is built from p products and is exact to rounding.

    Raises:
        ValueError: if ``k``, ``which``, ``tolerance`` or ``max_products`` is out of range, or
            ``memory`` too small for a basis of k + 4 vectors.
        RuntimeError: if the objective is random, or its second derivatives are not symmetric.
    """
    limit = 20 * k + 200 if max_products is None else max_products
    places = None if where is None else selected(objective, where, z.device)
    dim = objective.dim if places is None else len(places)
    _check_arguments(dim, k, which, tolerance, limit, basis)
    z, kind = arithmetic(z)
    check_deterministic(objective, z)
    operator = differentiated(operator, derivatives)
    make = partial(matrix, objective, operator=operator, where=where)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    # The first graph is gone when the one in float64 is built.
    double = double and z.dtype == torch.float32 and objective.dim <= DOUBLE_DIM
    room = _room(dim, k, z, memory, double, basis)
    found = _search(make(z), k, which, tolerance, limit, room, basis, check, double, generator)
    named: dict[str, Any] = {
        "dim": dim, "which": which, "tolerance": tolerance, "operator": found.operator,
        "where": describe(where), "statistics": normalisation_of(objective),
    }  # fmt: skip
    if found.status == "not finite":
        return _nothing(k, found.products, named)
    scale = float(np.abs(found.everything).max())
    measured = explicit(make, z, found.vectors, scale, found.images, double)
    order = ends(measured.values, which, k)
    converged = measured.norms <= tolerance * scale + measured.slack
    return Spectrum(
        eigenvalues=measured.values[order],
        residuals=measured.norms[order],
        bounds=measured.norms[order] + measured.slack,
        estimates=estimates(measured.values, measured.norms, found.everything)[order],
        converged=converged[order],
        vectors=_whole(found.vectors, places, objective.dim)[order] if vectors else None,
        joint_bound=measured.joint,
        products=found.products,
        check_products=found.check_products,
        status=found.status if converged.all() else f"not converged: {_reason(found.status)}",
        provenance=provenance(
            rounding=measured.rounding,
            rounding_norm=measured.difference,
            arithmetic=kind,
            tf32="off",
            judged=judged(objective, z),
            **({"differences": measured.differences} if measured.differences else {}),
            **found.facts,
        ),
        **named,
    )


def _search(
    operator: Any,
    k: int,
    which: Which,
    tolerance: float,
    limit: int,
    room: int,
    basis: Kept,
    check: bool,
    double: bool,
    generator: torch.Generator,
) -> Found:
    """The k pairs, from so many products that with k more there are at most ``limit``."""
    left = limit - k - double
    facts: dict = graph_of(operator)
    name, checked = name_of(operator), 0
    if operator.dim <= min(_DENSE_DIM, left):
        vectors, everything, status = _dense(operator, k, which)
        facts["check"] = "not needed: the whole matrix was built"
    else:
        search = Search(
            operator, k, which, tolerance, left, generator, room=room, start=_slope(operator),
            basis=Recomputed(operator) if basis == "recomputed" else None,
        )  # fmt: skip
        look(search)
        if search.status == "converged" and check and not search.krylov.complete:
            uncover(search)
        vectors, everything, status = (
            search.krylov.basis.rows()[:k],
            search.pairs.values,
            search.ended,
        )
        checked = search.checked
        facts |= search.said(check)
        if basis == "recomputed":
            again = search.krylov.basis.products
            facts["basis"] = f"recomputed: two passes, {again} products in the second"
    if status == "not finite":
        spent = operator.products - checked
        return Found(vectors, np.empty(0), status, spent, checked, vectors[:0], name, {})
    unit(vectors)
    images = operator @ (vectors[:1] if double else vectors)
    products = operator.products - checked + k * double
    return Found(vectors, everything, status, products, checked, images, name, facts)


def _check_arguments(
    dim: int, k: int, which: Which, tolerance: float, limit: int, basis: Kept
) -> None:
    """Nothing, if they are in range.

    Raises:
        ValueError: if one is not.
    """
    if not 1 <= k <= dim:
        raise ValueError(f"k must be from 1 to the number of parameters {dim}, got {k}")
    if which not in ("LM", "LA", "SA", "BE"):
        raise ValueError(f"which must be LM, LA, SA or BE, got {which!r}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
    if basis not in get_args(Kept):
        raise ValueError(f"basis must be {' or '.join(get_args(Kept))}, got {basis!r}")
    if limit < 2 * k + 1:
        raise ValueError(f"max_products must be at least 2 k + 1 = {2 * k + 1}, got {limit}")


def _room(dim: int, k: int, z: Tensor, memory: int | None, double: bool, basis: Kept) -> int:
    """How many basis vectors fit beside what else the search and the explicit products hold.

    Raises:
        ValueError: if they are too few for the wanted pairs, those after them and two more.
    """
    vector, least = dim * z.element_size(), min(k + GUARDS + 2, dim)
    if memory is None:
        usual = 2 * k + _SPARE if dim > _LONG else 2**32 // vector
        return min(max(least, usual), dim)
    # The explicit products hold the basis no longer, but residuals of its vectors.
    proof = 2 * k + GUARDS + (_WIDE if double else 0)
    if basis == "recomputed":
        least = min(k + GUARDS, dim)
    room, needed = memory // vector - _BESIDE, max(least + _BESIDE, proof)
    if memory // vector < needed:
        raise ValueError(
            f"memory of {memory} bytes is too small: k = {k} needs {needed} vectors, "
            f"{needed * vector} bytes"
        )
    return min(room, dim)


def _dense(operator: Any, k: int, which: Which) -> tuple[Tensor, np.ndarray, str]:
    entries = precise(dense(operator))
    if not bool(torch.isfinite(entries).all()):
        return operator.point.new_empty((0, operator.dim)), np.empty(0), "not finite"
    values, columns = torch.linalg.eigh(entries)
    everything = values.cpu().numpy()
    chosen = torch.as_tensor(ends(everything, which, k).copy(), device=columns.device)
    return columns.T[chosen].to(operator.point), everything, "converged"


def _slope(operator: Any) -> Tensor | None:
    """The gradient at the point, which lies mostly along few eigenvectors; None for a block."""
    if not isinstance(operator, Hessian) or operator.differences:
        return None
    # Whether the graph of a part fits depends on how many share it, and the start must not.
    if not operator.cached and not operator.shared:
        return None
    return operator.value_and_grad()[1]


def _reason(status: str) -> str:
    return "rounding keeps the residuals up" if status.startswith("converged") else status


def _whole(vectors: Tensor, places: Tensor | None, dim: int) -> np.ndarray:
    """The vectors (k, p), zero where they have no coordinates."""
    if places is not None:
        vectors = vectors.new_zeros((len(vectors), dim)).index_copy_(1, places, vectors)
    return vectors.cpu().numpy()


def _nothing(k: int, products: int, named: dict[str, Any]) -> Spectrum:
    missing = np.full(k, np.nan)
    return Spectrum(
        eigenvalues=missing,
        residuals=missing,
        bounds=np.full(k, np.inf),
        estimates=np.full(k, np.inf),
        converged=np.zeros(k, dtype=bool),
        vectors=None,
        products=products,
        status="not finite: the matrix has NaN or infinite entries at this point",
        provenance=provenance(),
        **named,
    )
