"""Every flatness measure of one point, each with its error, its radius, its cost and its source."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective, check_deterministic, judged, normalisation_of
from landscape.results import Panel, provenance
from landscape.sharpness import derivatives, perturbations
from landscape.sharpness.reading import NAN, Options, Reading, Site


class Measure(NamedTuple):
    """A flatness measure: how it is taken, and what one has to know to read its number.

    ``radius`` is formatted with the options' fields.
    """

    take: Callable[[Site], Reading | Iterable[Reading]]
    unit: str
    radius: str
    invariant: str
    source: str


def panel(
    objective: Objective,
    z: Float[Tensor, " p"],
    *,
    options: Options | None = None,
    only: Sequence[str] = (),
    further: Mapping[str, Measure] = MappingProxyType({}),
    generator: torch.Generator | None = None,
) -> Panel:
    """Every flatness measure of the point ``z``, one entry a measure.

    `MEASURES` has them by name; the docstring of each says its formula, unit, radius, source, cost
    and what leaves it as it is. A measure that has no meaning for the objective, for instance
    m-sharpness of a function without data, is NaN, and its note says why. Losses are taken in the
    type of the point and subtracted in float64. What the noise of the loss can do to a difference
    (`landscape.rounding.noise`, measured once at the point) is its error, and a difference that is
    no larger is "unresolved": neither a lower bound nor an exact number. Exact derivatives are
    taken in float64 where model and device allow it. The draws of a measure depend on the
    generator's seed and the measure's name alone, not on what else is measured.

    Args:
        objective: what is measured, without random modules. BatchNorm statistics are those that it
            has; for the ones that belong to the point, give ``risk.reestimated(z)``.
        z: (p,), the point, in float32 or float64.
        options: radii and budgets.
        only: names of `MEASURES`, all where empty; measured and reported in the order given.
        further: measures of one's own by name, which are known beside those.
        generator: its seed is that of all draws; seed 0 where None.

    Returns:
        ``value``, ``error``, ``low`` and ``high`` (measures,) in the order of ``measures``,
        with the kind, unit, radius and note of each, and what it cost.

    Raises:
        ValueError: if the point has another length, a type of half precision or a number that is
            not finite, or a measure is not known or named twice.
        RuntimeError: if the objective is random.
    """
    began = time.perf_counter()
    options = options or Options()
    measures = {**further, **MEASURES}
    names = tuple(only) or (*MEASURES, *further)
    _check(objective, z, names, measures, further)
    check_deterministic(objective, z)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    site = Site(objective, z.detach(), options, generator)
    rows: list[tuple[str, Measure, Reading]] = []
    for name in names:
        measure = measures[name]
        taken = measure.take(site) if math.isfinite(site.loss) else _nowhere(site)
        for reading in (taken,) if isinstance(taken, Reading) else taken:
            rows.append((f"{name} {reading.part}".strip(), measure, reading))
    return _assembled(rows, site, time.perf_counter() - began)


_HESSIAN = "permutation, rotation"
_SAM = "Foret et al. 2021"
_SIMULATIONS = "CNOGNP, simulations"
_CURVATURE = "loss / parameter²"

MEASURES: Mapping[str, Measure] = MappingProxyType({
    "lambda-max": Measure(derivatives.largest_eigenvalue, _CURVATURE, "at the point", _HESSIAN, ""),
    "trace": Measure(
        derivatives.hessian_trace, _CURVATURE, "at the point", _HESSIAN, "Hutchinson 1990"
    ),
    "frobenius": Measure(derivatives.frobenius_norm, _CURVATURE, "at the point", _HESSIAN, ""),
    "gradient-norm": Measure(
        derivatives.gradient_norm, "loss / parameter", "at the point", _HESSIAN, ""
    ),
    "worst-l2": Measure(
        perturbations.worst_l2, "loss", "‖u‖₂ ≤ {rho:g}", _HESSIAN, _SAM
    ),
    "worst-linf": Measure(
        perturbations.worst_linf, "loss", "|u_i| ≤ {rho_linf:g}", "permutation",
        "Andriushchenko et al. 2023",
    ),
    "adaptive": Measure(
        perturbations.adaptive, "loss", "‖u / (|z| + {eta:g})‖₂ ≤ {rho_adaptive:g}",
        "permutation; rescaling at eta = 0", "Kwon et al. 2021",
    ),
    "m-sharpness": Measure(
        perturbations.m_sharpness, "loss", "‖u‖₂ ≤ {rho:g}, batches of {batch_size}", _HESSIAN,
        _SAM,
    ),
    "average": Measure(
        perturbations.average, "loss", "u ~ N(0, {sigma:g}² I)", _HESSIAN, "Neyshabur et al. 2017"
    ),
    "keskar": Measure(
        perturbations.keskar, "%", "|u_i| ≤ {epsilon:g} (|z_i| + 1)", "permutation",
        "Keskar et al. 2017, metric 2.1",
    ),
    "sam": Measure(perturbations.sam, "loss", "‖u‖₂ = {rho:g}", _HESSIAN, _SAM),
    "fisher-rao-empirical": Measure(
        derivatives.empirical_fisher_rao, "loss²", "at the point",
        "permutation, rotation, rescaling, attention basis", "Liang et al. 2019",
    ),
    "fisher-rao": Measure(
        derivatives.fisher_rao, "loss²", "at the point",
        "permutation, rotation, rescaling, attention basis", "Liang et al. 2019",
    ),
    "relative-flatness": Measure(
        derivatives.neuron_flatness, "loss", "at the point",
        "permutation, rescaling of layers, attention basis but for the output projection",
        "Petzka et al. 2021",
    ),
    "basin-width": Measure(
        perturbations.basin_width, "multiples of a random direction",
        "loss + {delta:g} along {directions} directions, normalised by {by}",
        "permutation; rescaling of layers if by filter; rotation if not", "",
    ),
    "interval-mean": Measure(
        perturbations.interval_mean, "loss", "|u_i| ≤ {radius:g}, {points} points a side",
        "permutation", _SIMULATIONS,
    ),
    "interval-max": Measure(
        perturbations.interval_max, "loss", "|u_i| ≤ {radius:g}, {points} points a side",
        "permutation", _SIMULATIONS,
    ),
})  # fmt: skip
"""The measures by name, in the order of a whole panel."""


def _nowhere(site: Site) -> Reading:
    return Reading(NAN, "none", evaluations=1.0, status=f"the loss at the point is {site.loss}")


def _assembled(rows: list[tuple[str, Measure, Reading]], site: Site, seconds: float) -> Panel:
    readings = [reading for _, _, reading in rows]
    numbers = {
        name: np.array([getattr(reading, name) for reading in readings], dtype=np.float64)
        for name in ("value", "error", "low", "high", "evaluations")
    }
    options = asdict(site.options)
    return Panel(
        measures=tuple(name for name, _, _ in rows),
        **numbers,
        products=np.array([reading.products for reading in readings], dtype=np.int64),
        kinds=tuple(reading.kind for reading in readings),
        notes=tuple(reading.status for reading in readings),
        units=tuple(measure.unit for _, measure, _ in rows),
        radii=tuple(measure.radius.format(**options) for _, measure, _ in rows),
        invariant=tuple(measure.invariant for _, measure, _ in rows),
        sources=tuple(measure.source for _, measure, _ in rows),
        loss=site.loss,
        dim=len(site.point),
        statistics=normalisation_of(site.objective),
        provenance=provenance(
            judged=judged(site.objective, site.point),
            options=options,
            seed=site.generator.initial_seed(),
            dtype=str(site.point.dtype),
            panel_seconds=seconds,
        ),
    )


def _check(
    objective: Objective,
    z: Tensor,
    names: Sequence[str],
    known: Mapping[str, Measure],
    further: Mapping[str, Measure],
) -> None:
    if z.shape != (objective.dim,):
        raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
    if z.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the point must be float32 or float64, got {z.dtype}: differences of losses need more "
            "digits, so give z.float()"
        )
    if not bool(torch.isfinite(z).all()):
        raise ValueError("the point has NaN or infinite entries: there is nothing to measure there")
    if taken := sorted(further.keys() & MEASURES.keys()):
        raise ValueError(f"further: {taken[0]!r} is a measure already: take another name")
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        what = f"unknown measure {unknown[0]!r}" if unknown else "a measure is named twice"
        raise ValueError(f"{what}; there are {', '.join(known)}")
