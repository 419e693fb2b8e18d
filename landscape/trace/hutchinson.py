"""The trace of a matrix that can only be multiplied, from random signs, with its error."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.imports import stdtrit
from landscape.objective import widened
from landscape.operators.blocks import name_of
from landscape.results import Trace, provenance

_LEAST_PROBES = 64
_DEFAULT_PROBES, _MOST_PROBES = 100, 10_000
_GROWTH = 1.25
_BLOCK, _BLOCK_NUMBERS = 50, 2**22
_CONFIDENCE = 0.95


Elsewhere = Callable[[Iterable[Tensor]], Iterator[np.ndarray]]


def hutchinson(
    operator: Any,
    tolerance: float | None = None,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    elsewhere: Elsewhere | None = None,
) -> Trace:
    r"""The trace of any symmetric operator, :math:`E[u^\top A u]` over random signs u.

    The variance of one sample is :math:`2 (\|A\|_F^2 - \sum_i A_{ii}^2)`. With a tolerance the
    samples are looked at after 64 probes, and then whenever there are a quarter more; they end when
    the standard error is at most ``tolerance`` times the estimate. The interval is Student's,
    corrected for the skewness of the samples (Hall 1992, On the removal of skewness by
    transformation). Measured over 4,000 runs for each of six spectra, from one outlier to flat, at
    tolerances from 5 % to 20 %: it covers the trace in 94 to 95.5 % of the runs that ended by the
    rule. Without the correction, and with a first look after 32 probes, it was 91 %.

    Args:
        operator: has ``dim``, ``point`` and ``@`` with leading axes.
        tolerance: relative standard error, as in `trace`.
        probes: most probes, at least 2.
        generator: source of the probes; seed 0 where None.
        elsewhere: as in `trace`.

    Raises:
        ValueError: if ``tolerance`` or ``probes`` is out of range.
    """
    check_budget(tolerance, probes)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    default = _DEFAULT_PROBES if tolerance is None else _MOST_PROBES
    limit = default if probes is None else probes
    target = limit if tolerance is None else min(limit, _LEAST_PROBES)
    samples = np.empty(0)
    status = f"stopped after {limit} products"
    while len(samples) < limit:
        samples = np.append(samples, _forms(operator, target - len(samples), generator, elsewhere))
        if not np.isfinite(samples).all():
            status = "not finite: the operator has NaN or infinite entries at this point"
            break
        error = samples.std(ddof=1) / math.sqrt(len(samples))
        if tolerance is not None and error <= tolerance * abs(samples.mean()):
            status = f"converged: the relative standard error is at most {tolerance:g}"
            break
        target = min(limit, math.ceil(_GROWTH * len(samples)))
    estimate, error, interval = summary(samples)
    return Trace(
        estimate=estimate,
        standard_error=error,
        interval=interval,
        samples=samples,
        probes=len(samples),
        products=len(samples),
        dim=operator.dim,
        method="hutchinson",
        operator=name_of(operator),
        where=getattr(operator, "where", ""),
        tolerance=0.0 if tolerance is None else tolerance,
        status=status,
        provenance=provenance(seed=generator.initial_seed()),
    )


def summary(samples: Float[np.ndarray, " n"]) -> tuple[float, float, Float[np.ndarray, " two"]]:
    """Mean, standard error and 95 % interval of independent samples.

    Student's interval, its ends moved for the skewness of the samples as in Hall (1992). Where one
    eigenvalue outweighs all others, so that quadratic forms are as skewed as they can be, it covers
    the mean in 94 to 96 % of the runs with 32 samples or more, in 92 % with 10 and 86 % with 2. For
    10 samples Student's own was measured to cover it in 86 %, a normal interval in 83 %.
    """
    count, mean = len(samples), float(samples.mean())
    with np.errstate(invalid="ignore"):
        spread = float(samples.std(ddof=1))
    if not (math.isfinite(spread) and math.isfinite(mean)):
        return mean, float("nan"), np.full(2, np.nan)
    error = spread / math.sqrt(count)
    quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
    skewness = 0.0 if spread == 0 else float((((samples - mean) / spread) ** 3).mean())
    if abs(skewness) < 1e-6:
        return mean, error, np.array([mean - quantile * error, mean + quantile * error])
    steps = np.array([quantile, -quantile]) / math.sqrt(count) - skewness / (6 * count)
    ends = (np.cbrt(1 + skewness * steps) - 1) * 3 / skewness
    return mean, error, mean - spread * ends


def signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, drawn on the generator's device."""
    bits = torch.randint(
        0, 2, shape, generator=generator, dtype=torch.int8, device=generator.device
    )
    return (2 * bits - 1).to(like)


def check_budget(tolerance: float | None, probes: int | None) -> None:
    """Nothing, if both are in range.

    Raises:
        ValueError: if not.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
    if probes is not None and probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}: one has no standard error")


def forms(operator: Any, u: Float[Tensor, "n p"]) -> Float[np.ndarray, " n"]:
    """The quadratic forms of an operator with vectors."""
    images = operator @ u
    return (widened(u) * widened(images)).sum(-1).cpu().numpy()


def _forms(
    operator: Any, count: int, generator: torch.Generator, elsewhere: Elsewhere | None
) -> Float[np.ndarray, " n"]:
    """The quadratic forms of ``count`` vectors of random signs."""
    sizes = blocks(operator.dim, count)
    cut = (signs((size, operator.dim), operator.point, generator) for size in sizes)
    if elsewhere is None or len(sizes) < 2:
        return np.concatenate([forms(operator, u) for u in cut])
    return np.concatenate(list(elsewhere(cut)))


def blocks(dim: int, count: int) -> list[int]:
    """How many vectors go together."""
    size = max(1, min(_BLOCK, _BLOCK_NUMBERS // dim))
    return [min(size, count - start) for start in range(0, count, size)]
