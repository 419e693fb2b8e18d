r"""Flatness by derivatives at a point: of first and second order, and in units of the weights.

Every function takes a `Site` and gives a `Reading`, or one for each layer. Derivatives hold
BatchNorm statistics fixed unless the objective says otherwise. What is exact is taken in float64,
where the model and its device allow it: a float32 product can lose all its digits inside a model.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy

from landscape.networks import EmpiricalRisk
from landscape.objective import Objective, offered, widened
from landscape.operators import EmpiricalFisher, Fisher
from landscape.operators.fisher import Factored
from landscape.rounding import in_float64
from landscape.sharpness.reading import Reading, Site, estimate, exact, undefined
from landscape.sharpness.relative_flatness import relative_flatness
from landscape.spectrum import top_eigenpairs
from landscape.trace import frobenius, trace

_BROKEN = "the Hessian has NaN or infinite entries at this point"


def largest_eigenvalue(site: Site) -> Reading:
    r"""The largest eigenvalue of the Hessian, with a bound: some eigenvalue lies within it.

    Unit: loss per squared unit of the parameters. Costs the products of Lanczos, see
    `landscape.spectrum.top_eigenpairs`. Invariant under permutations and rotations; a rescaling or
    any other linear map w = M v of the parameters makes the Hessian M^T H M.
    """
    found = top_eigenpairs(
        site.objective, site.point, 1, "LA", site.options.tolerance,
        generator=site.source("lambda-max"), vectors=False,
    )  # fmt: skip
    value, bound = float(found.eigenvalues[0]), float(found.bounds[0])
    status = "" if found.converged[0] else found.status
    return Reading(
        value, "bound", bound, value - bound, value + bound, products=found.products, status=status
    )


def hessian_trace(site: Site) -> Reading:
    r"""The trace of the Hessian: exact from p products within the budget, else an estimate.

    The estimate is Hutchinson's over ``probes`` random vectors, with its standard error and a 95 %
    interval; see `landscape.trace.trace`. Unit: loss per squared unit of the parameters.
    Invariances as `largest_eigenvalue`.
    """
    if site.hessian is not None:
        return _whole(site.hessian[0].trace(), site)
    found = trace(
        site.objective, site.point, probes=site.options.probes, generator=site.source("trace")
    )
    return _estimated(found)


def frobenius_norm(site: Site) -> Reading:
    r"""The Frobenius norm of the Hessian: exact within the budget of products, else an estimate.

    Exact from p products. The estimate takes :math:`\|H\|_F^2 = E \|Hv\|^2` over ``probes`` random
    vectors; see `landscape.trace.frobenius`. Unit: loss per squared unit of the parameters.
    Invariances as `largest_eigenvalue`.
    """
    if site.hessian is not None:
        return _whole(torch.linalg.matrix_norm(site.hessian[0]), site)
    found = frobenius(
        site.objective, site.point, probes=site.options.probes, generator=site.source("frobenius")
    )
    return _estimated(found)


def gradient_norm(site: Site) -> Reading:
    r"""The Euclidean norm of the gradient, :math:`\|\nabla f(z)\|_2`.

    Unit: loss per unit of the parameters. Costs 1 evaluation. Invariant under permutations and
    rotations.
    """
    slope, words = site.gradient
    length = float(torch.linalg.vector_norm(slope))
    status = "" if math.isfinite(length) else "the gradient is not finite"
    return exact(length, words, evaluations=1.0, status=status)


def empirical_fisher_rao(site: Site) -> Reading:
    r"""The Fisher-Rao norm with the empirical Fisher matrix F: :math:`z^\top F z`.

    That is :math:`\frac1N \sum_i \langle z, \nabla \ell_i(z) \rangle^2`, with labels from the data.
    Unit: squared loss. Costs 1 product. Invariant under every linear map of the parameters that
    leaves the losses alone: permutation, rotation, rescaling, change of basis within attention.

    Reference: Liang, Poggio, Rakhlin & Stokes (2019), Fisher-Rao metric, geometry, and complexity
    of neural networks.
    """
    return _fisher_norm(site, EmpiricalFisher)


def fisher_rao(site: Site) -> Reading:
    r"""The Fisher-Rao norm :math:`z^\top F z` with the model's own Fisher matrix F.

    Labels are those that the model would draw, exactly and not by sampling: of classes for
    cross-entropy, or as ``likelihood`` says. Unit: squared loss. Cost, invariances and reference as
    `empirical_fisher_rao`.
    """
    risk = risk_of(site.objective, site.point)
    likelihood = site.options.likelihood
    if risk is not None and not likelihood:
        if not _is_cross_entropy(risk.loss):
            return undefined(
                "the loss does not say what the outputs mean; set likelihood to categorical or "
                "gaussian"
            )
        likelihood = "categorical"
    return _fisher_norm(site, lambda risk, z: Fisher(risk, z, likelihood))  # type: ignore[arg-type]


def neuron_flatness(site: Site) -> list[Reading]:
    """Relative flatness, one reading a layer; see `landscape.sharpness.relative_flatness`.

    Unit: loss. Costs at most ``budget`` products for an exact sum over all layers, else ``probes``,
    which the readings of all layers share.
    """
    options = site.options
    if offered(site.objective, "layout") is None:
        return [undefined("the objective has no layers, so no neurons")]
    if not options.layers and not _has_linear(site.objective):
        return [undefined("the model has no linear layer; name the weights of other layers")]
    found = relative_flatness(
        site.objective, site.point, site.source("relative-flatness"), layers=options.layers,
        probes=options.probes, budget=options.budget,
    )  # fmt: skip
    readings = []
    for layer, value, error in zip(*found[:3], strict=True):
        more: dict[str, Any] = {"products": found.products, "part": layer}
        readings.append(
            exact(float(value), found.rounding, **more)
            if found.exact
            else estimate(float(value), float(error), options.probes, **more)
        )
    return readings


def _estimated(found: Any) -> Reading:
    """What a result says that has an estimate with its error."""
    low, high = found.interval.tolist()
    return Reading(
        found.estimate, "estimate", found.standard_error, low, high, products=found.products,
        status="" if math.isfinite(found.estimate) else _BROKEN,
    )  # fmt: skip


def _whole(value: Tensor, site: Site) -> Reading:
    """The reading of a number from all p products."""
    words = site.hessian[1] if site.hessian else ""
    status = "" if math.isfinite(float(value)) else _BROKEN
    return exact(float(value), words, products=len(site.point), status=status)


def _fisher_norm(site: Site, matrix: Callable[[EmpiricalRisk, Tensor], Factored]) -> Reading:
    risk = risk_of(site.objective, site.point)
    if risk is None:
        return undefined("the objective has no single risk on data")

    def form(z: Tensor) -> tuple[float, int]:
        operator = matrix(risk, z)
        return float(widened(z) @ widened(operator @ z)), operator.products

    try:
        (norm, products), words = in_float64(form, site.point)
    except ValueError as error:
        return undefined(error)
    alone = (
        "" if risk is site.objective else f"of the data's part of {type(site.objective).__name__}"
    )
    return exact(norm, words, products=products, status=alone)


def risk_of(objective: Any, z: Tensor) -> EmpiricalRisk | None:
    """The objective, or its only part that is a risk on data; at z, where it depends on that."""
    if isinstance(objective, EmpiricalRisk):
        return objective
    if offered(objective, "at") is not None:
        return risk_of(objective.at(z), z)
    found = [risk_of(part, z) for part in offered(objective, "parts")]
    risks = [risk for risk in found if risk is not None]
    return risks[0] if len(risks) == 1 else None


def _is_cross_entropy(loss: Any) -> bool:
    return loss is cross_entropy or isinstance(loss, CrossEntropyLoss)


def _has_linear(objective: Objective) -> bool:
    return any(entry.role == "linear" for entry in objective.layout.entries)  # type: ignore[attr-defined]
