"""The trace of a curvature matrix with its error, at a point and as seen from a distance."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Derivatives, Hessian, arithmetic, differentiated
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    trait,
    value,
)
from landscape.operators.blocks import Operator, matrix, name_of
from landscape.operators.outputs import ridge_diagonal, separated
from landscape.operators.selection import Where, describe, selected
from landscape.randomness import derive
from landscape.results import FiniteScaleTrace, Trace, provenance
from landscape.rounding import noise
from landscape.trace.hutchinson import Elsewhere, blocks, check_budget, hutchinson
from landscape.trace.piecewise import exact_diagonal

Method = Literal["hutchinson", "exact", "auto"]

# Up to this length every entry of the diagonal costs no more than the first probes.
_DENSE_DIM = 32
_SCALES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def trace(
    objective: Objective,
    z: Float[Tensor, " p"],
    method: Method = "hutchinson",
    tolerance: float | None = None,
    *,
    probes: int | None = None,
    where: Where | None = None,
    operator: Operator = Hessian,
    derivatives: Derivatives | None = None,
    generator: torch.Generator | None = None,
    elsewhere: Elsewhere | None = None,
) -> Trace:
    r"""The trace of the Hessian, :math:`\mathrm{tr} H(z)`, with a standard error.

    - ``"hutchinson"``: the mean of :math:`u^\top H u` over random signs u (Hutchinson 1990), see
      `landscape.trace.hutchinson.hutchinson`. Where the trace sums over at most 32 coordinates,
      their diagonal entries are taken one by one instead, and the answer is exact to rounding.
    - ``"exact"``: the trace of the almost-everywhere Hessian of a piecewise linear network. Along
      any single weight such a network is piecewise linear, so that the diagonals of the Hessian and
      of the Gauss-Newton matrix agree wherever both exist. No noise; it costs one backward pass for
      each sample and output. What has to hold is checked, see `landscape.trace.piecewise`. Kinks
      carry curvature that no derivative at a point sees: `finite_scale` stands beside it.
    - ``"auto"``: exact where that holds, else by probes.

    The part of a `Ridge` in a `Sum` is exact in every case: squared signs are 1.

    Args:
        objective: what is differentiated twice; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32. Sums over samples are in float64.
        method: as above.
        tolerance: relative standard error at which probes end, between 0 and 1. None: all
            ``probes`` are spent. A trace of zero meets it only where all samples are zero.
        probes: most probes; where None, 100 without a tolerance and 10,000 with one.
        where: restricts the trace to a layer, a module or other coordinates, as in
            `landscape.operators.selection.selected`.
        operator: makes the matrix from (objective, z), for instance
            `landscape.operators.GaussNewton`; only ``"hutchinson"`` takes others than the Hessian.
        derivatives: ``"exact"`` or ``"differences"`` (of gradients), for the Hessian; what the
            objective says where None.
        generator: source of the probes; seed 0 where None.
        elsewhere: gives the quadratic forms (n,) of the matrix for blocks (n, p) of signs, in their
            order, as `forms` does with `matrix_at`; other processes may do that.

    Returns:
        estimate, standard_error, interval (2,) at 95 %, samples (probes,), none where the
        trace is exact; products, status.

    Raises:
        ValueError: if ``method``, ``tolerance`` or ``probes`` is out of range, or the exact trace
            does not hold; the message then names the operation.
        RuntimeError: if the objective is random or does not pass its gate, or a model fails in the
            exact trace.
        TypeError: likewise.
        IndexError: likewise.
    """
    if method not in ("hutchinson", "exact", "auto"):
        raise ValueError(f"method must be hutchinson, exact or auto, got {method!r}")
    if method == "exact" and operator is not Hessian:
        raise ValueError("method='exact' is for the Hessian; use hutchinson for other operators")
    check_budget(tolerance, probes)
    if z.shape != (objective.dim,):
        raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
    z, kind = arithmetic(z)
    check_deterministic(objective, z)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    reason = ""
    differences = derivatives == "differences" or (
        derivatives is None and trait(objective, "derivatives") == "differences"
    )
    if method == "exact" and differences:
        raise ValueError("method='exact' needs derivatives='exact'")
    if method != "hutchinson" and operator is Hessian and not differences:
        try:
            return _exact(objective, z, where, generator, kind)
        except (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError) as error:
            if method == "exact":
                raise
            reason = str(error)
    said = {"exact": f"not taken: {reason}"} if reason else {}
    part = matrix_at(objective, z, operator, where, derivatives)
    if getattr(part, "differences", False):
        probe = torch.ones(part.dim, dtype=z.dtype, device=z.device)
        said["differences"] = f"a product with signs is off by about {part.error(probe):.3g}"
    if part.dim <= _DENSE_DIM:
        found = _entry_by_entry(part)
    else:
        found = hutchinson(part, tolerance, probes=probes, generator=generator, elsewhere=elsewhere)
    return _labelled(found, objective, where, arithmetic=kind, judged=judged(objective, z), **said)


def matrix_at(
    objective: Objective,
    z: Float[Tensor, " p"],
    operator: Operator = Hessian,
    where: Where | None = None,
    derivatives: Derivatives | None = None,
) -> Any:
    """The matrix whose trace `trace` takes, and density `landscape.spectrum.density`."""
    return matrix(objective, arithmetic(z)[0], differentiated(operator, derivatives), where)


def finite_scale(
    objective: Objective,
    z: Float[Tensor, " p"],
    scales: Sequence[float] = _SCALES,
    *,
    probes: int = 64,
    beside: Trace | None = None,
    generator: torch.Generator | None = None,
) -> FiniteScaleTrace:
    r"""The mean curvature at a distance, summed over the coordinates.

    .. math:: T(\sigma) = \frac{2}{\sigma^2} E\left[\frac{f(z + \sigma u) + f(z - \sigma u)}{2}
        - f(z)\right], \quad u \sim N(0, I)

    For a quadratic function it is the trace of the Hessian at every sigma. For a network with kinks
    it differs from the trace of the almost-everywhere Hessian, since kinks within reach of sigma
    bend the loss and no second derivative at z sees them: for f(x) = |x| at 0 it is
    :math:`\sqrt{8 / \pi} / \sigma`, and the second derivative is 0 wherever it exists.

    Args:
        objective: any function; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32.
        scales: the distances sigma, positive, in units of a parameter. All share their directions.
        probes: how many directions, at least 2; each costs two evaluations at each scale.
        beside: a trace at the same point, which the result then carries for the picture.
        generator: source of the directions; seed 0 where None.

    Returns:
        For each sigma the estimate, its standard error and what rounding can do to it: with the
        level of noise :math:`\varepsilon` of the loss as it is computed around z, see
        `landscape.rounding.noise`, :math:`2/\sigma^2` times the larger of eps \|f(z)\| and
        :math:`4 \varepsilon \sqrt{1 + 1/(2n)}` with n probes, since the error of f(z) is common to
        them all. An estimate below its rounding is not ``resolved``: use float64, or a larger
        sigma.

    Raises:
        ValueError: if a scale is not positive and finite, there is none, or probes are under 2.
        RuntimeError: if the objective is random.
    """
    sigmas = [float(scale) for scale in scales]
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"scales must be positive and finite, at least one, got {sigmas}")
    if probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    if z.shape != (objective.dim,):
        raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
    z, kind = arithmetic(z)
    check_deterministic(objective, z)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    centre = float(value(objective, z).double())
    columns = []
    for size in blocks(objective.dim, probes):
        u = torch.randn(
            (size, objective.dim), generator=generator, dtype=torch.float64, device=generator.device
        ).to(z)
        columns.append([_second_difference(objective, z, s * u, centre) / s**2 for s in sigmas])
    samples = np.concatenate([np.stack(column, axis=1) for column in columns])
    estimate = samples.mean(0)
    with np.errstate(invalid="ignore"):
        spread = samples.std(0, ddof=1)
    around = noise(objective, z, generator=derive(generator, "rounding"))
    rounding = 2 * around.mean(2 * probes) / np.square(sigmas)
    resolved = np.abs(estimate) > rounding
    return FiniteScaleTrace(
        sigma=np.array(sigmas),
        estimate=estimate,
        standard_error=spread / math.sqrt(probes),
        rounding=rounding,
        resolved=resolved,
        samples=samples,
        loss=centre,
        probes=probes,
        evaluations=1 + around.evaluations + 2 * probes * len(sigmas),
        dim=objective.dim,
        trace=float("nan") if beside is None else beside.estimate,
        trace_error=float("nan") if beside is None else beside.standard_error,
        status=f"{int(resolved.sum())} of {len(sigmas)} scales above rounding",
        statistics=normalisation_of(objective),
        provenance=provenance(
            seed=generator.initial_seed(), arithmetic=kind, judged=judged(objective, z)
        ),
    )


def _exact(
    objective: Objective, z: Tensor, where: Where | None, generator: torch.Generator, kind: str
) -> Trace:
    """The trace without noise.

    Raises:
        ValueError: if the network is not piecewise linear, naming the operation.
    """
    rest, ridges = separated(objective)
    diagonal = ridge_diagonal(ridges, z)
    products, passes = 0, 0
    for part in rest:
        found = exact_diagonal(part, z, generator)
        diagonal += found.diagonal
        products, passes = products + found.products, passes + found.passes
    if where is not None:
        diagonal = diagonal[selected(objective, where, diagonal.device)]
    total = float(diagonal.sum())
    answer = _without_noise(total, len(diagonal), products, "exact", "Hessian")
    return _labelled(
        answer, objective, where, backward_passes=passes, arithmetic=kind,
        judged=judged(objective, z),
    )  # fmt: skip


def _entry_by_entry(operator: Any) -> Trace:
    eye = torch.eye(operator.dim, dtype=operator.point.dtype, device=operator.point.device)
    total = float((operator @ eye).diagonal().double().sum())
    found = _without_noise(total, operator.dim, operator.dim, "dense", name_of(operator))
    if not getattr(operator, "differences", False):
        return found
    error = sum(operator.error(unit) for unit in eye)
    return replace(
        found, standard_error=error, interval=np.array([total - 2 * error, total + 2 * error]),
        status="converged: all diagonal entries, by differences whose error two steps tell",
    )  # fmt: skip


def _without_noise(total: float, dim: int, products: int, method: str, operator: str) -> Trace:
    finite = math.isfinite(total)
    how = "all diagonal entries" if method == "dense" else "the Gauss-Newton identity"
    return Trace(
        estimate=total,
        standard_error=0.0 if finite else float("nan"),
        interval=np.array([total, total]),
        samples=np.empty(0),
        probes=0,
        products=products,
        dim=dim,
        method=method,
        operator=operator,
        status=f"converged: exact to rounding, by {how}" if finite else "not finite",
        provenance=provenance(),
    )


def _labelled(found: Trace, objective: Objective, where: Where | None, **entries: Any) -> Trace:
    """The trace with what the objective and the caller know of it."""
    return replace(
        found,
        where=describe(where),
        statistics=normalisation_of(objective),
        provenance=found.provenance | entries,
    )


def _second_difference(
    objective: Objective, z: Tensor, steps: Tensor, centre: float
) -> Float[np.ndarray, " n"]:
    """f(z + s) + f(z - s) - 2 f(z) for every step s, in float64."""
    ahead, behind = value(objective, torch.stack([z + steps, z - steps])).double().cpu().numpy()
    with np.errstate(invalid="ignore"):
        return ahead + behind - 2 * centre
