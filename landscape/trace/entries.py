"""The diagonal of a curvature matrix and its Frobenius norm, exactly or from random signs."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Hessian, arithmetic
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    widened,
)
from landscape.operators.blocks import Operator, matrix, name_of
from landscape.operators.selection import Where, describe
from landscape.results import Diagonal, FrobeniusNorm, provenance
from landscape.trace.hutchinson import blocks, check_budget, signs, summary


def diagonal(
    objective: Objective,
    z: Float[Tensor, " p"],
    *,
    probes: int = 100,
    where: Where | None = None,
    operator: Operator = Hessian,
    generator: torch.Generator | None = None,
) -> Diagonal:
    r"""The diagonal of the Hessian, with a standard error for each entry.

    Up to ``probes`` coordinates it takes one product for each and is exact to rounding. Beyond, it
    is the mean of :math:`u \odot H u` over random signs u (Bekas, Kokiopoulou & Saad 2007), whose
    variance at entry i is :math:`\sum_{j \ne i} H_{ij}^2` for each probe.

    Args:
        objective: what is differentiated twice; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32.
        probes: most products, at least 2.
        where: restricts it to a layer, a module or other coordinates, as in
            `landscape.operators.selection.selected`.
        operator: makes the matrix from (objective, z), for instance
            `landscape.operators.GaussNewton`.
        generator: source of the probes; seed 0 where None.

    Returns:
        ``estimate`` and ``standard_error`` (p,), or (k,) for k coordinates ``where``;
        products.

    Raises:
        ValueError: if ``probes`` is under 2, or the point or the choice does not fit.
        RuntimeError: if the objective is random.
    """
    matrix, generator, facts = _prepared(objective, z, probes, where, operator, generator)
    exact = matrix.dim <= probes
    count, mean, squares = 0, np.zeros(matrix.dim), np.zeros(matrix.dim)
    if exact:
        for units, images in _columns(matrix):
            mean += widened((units * images).sum(0)).cpu().numpy()
    for size in () if exact else blocks(matrix.dim, probes):
        u = signs((size, matrix.dim), matrix.point, generator)
        for row in (widened(u) * widened(matrix @ u)).cpu().numpy():
            count += 1
            # Of an infinite entry there is no spread.
            with np.errstate(invalid="ignore"):
                step = row - mean
                mean += step / count
                squares += step * (row - mean)
    error = np.zeros(matrix.dim) if exact else np.sqrt(squares / (count - 1) / count)
    return Diagonal(
        estimate=mean,
        standard_error=error,
        probes=count,
        products=matrix.dim if exact else count,
        method="dense" if exact else "bekas",
        operator=name_of(matrix),
        where=describe(where),
        statistics=normalisation_of(objective),
        provenance=facts,
    )


def frobenius(
    objective: Objective,
    z: Float[Tensor, " p"],
    *,
    probes: int = 100,
    where: Where | None = None,
    operator: Operator = Hessian,
    generator: torch.Generator | None = None,
) -> FrobeniusNorm:
    r"""The Frobenius norm of the Hessian, :math:`\|H\|_F`, with a standard error.

    Up to ``probes`` coordinates it takes one product for each and is exact to rounding. Beyond, the
    square is the mean of :math:`\|H u\|_2^2` over random signs u, which has no bias; its root has a
    bias of second order in the relative error, and its error is taken to first order. The interval
    is the root of that of the square, see `landscape.trace.hutchinson.summary`.

    Arguments and errors as in `diagonal`.

    Returns:
        ``estimate``, ``standard_error``, ``interval`` (2,), the ``square`` with its error,
        and products.
    """
    matrix, generator, facts = _prepared(objective, z, probes, where, operator, generator)
    exact = matrix.dim <= probes
    samples = np.empty(0)
    if exact:
        square = sum(float(widened(images).square().sum()) for _, images in _columns(matrix))
        error, ends = 0.0, np.array([square, square])
    else:
        for size in blocks(matrix.dim, probes):
            images = matrix @ signs((size, matrix.dim), matrix.point, generator)
            samples = np.append(samples, widened(images).square().sum(-1).cpu().numpy())
        square, error, ends = summary(samples)
    norm = math.sqrt(square)
    return FrobeniusNorm(
        estimate=norm,
        standard_error=0.0 if norm == 0 else error / (2 * norm),
        square=square,
        square_error=error,
        interval=np.sqrt(ends.clip(min=0)),
        samples=samples,
        probes=len(samples),
        products=matrix.dim if exact else len(samples),
        dim=matrix.dim,
        method="dense" if exact else "probes",
        operator=name_of(matrix),
        where=describe(where),
        statistics=normalisation_of(objective),
        provenance=facts,
    )


def _prepared(
    objective: Objective,
    z: Tensor,
    probes: int,
    where: Where | None,
    operator: Operator,
    generator: torch.Generator | None,
) -> tuple[Any, torch.Generator, dict[str, Any]]:
    check_budget(None, probes)
    if z.shape != (objective.dim,):
        raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
    z, kind = arithmetic(z)
    check_deterministic(objective, z)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    facts = provenance(seed=generator.initial_seed(), arithmetic=kind, judged=judged(objective, z))
    return matrix(objective, z, operator, where), generator, facts


def _columns(matrix: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit vectors and their images, a block at a time."""
    start = 0
    for size in blocks(matrix.dim, matrix.dim):
        units = torch.zeros(
            (size, matrix.dim), dtype=matrix.point.dtype, device=matrix.point.device
        )
        places = torch.arange(size, device=units.device)
        units[places, places + start] = 1
        start += size
        yield units, matrix @ units
