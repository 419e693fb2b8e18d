"""Sums over the diagonal of a curvature matrix, the diagonal itself, and its Frobenius norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes, part_said


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace(Result):
    """The trace of a curvature matrix at one point, with its error.

    Attributes:
        estimate: the trace.
        standard_error: of the estimate; 0 where it is exact to rounding.
        interval: low and high end of the 95 % confidence interval.
        samples: the quadratic form of each probe; none where the trace is exact.
        probes: how many random probes.
        products: matrix-vector products taken, those of checks included.
        dim: number of coordinates that the trace sums over.
        method: "hutchinson", "exact" (Gauss-Newton identity) or "dense" (every diagonal entry).
        operator: what the trace is of.
        where: the part of the parameters that it is restricted to; empty for all.
        tolerance: the relative standard error asked for, 0 where none was.
        status: how it ended.
        statistics: which BatchNorm statistics were used.
    """

    estimate: float
    standard_error: float
    interval: np.ndarray = axes("end")
    samples: np.ndarray = axes("probe")
    probes: int
    products: int
    dim: int
    method: str
    operator: str = "Hessian"
    where: str = ""
    tolerance: float = 0.0
    status: str
    statistics: str = ""

    def said(self) -> Said:
        """The trace with its error and interval, and what it cost."""
        said = f"{part_said(self.operator, self.where)}trace {self.estimate:.5g}"
        if self.standard_error:
            low, high = self.interval
            said += f" ± {self.standard_error:.2g}, 95 % from {low:.5g} to {high:.5g}"
        # An exact trace says so in its status.
        how = "" if self.method in self.status else f"{self.method}: "
        return said, f"{how}{self.status}, {self.products} products"


@dataclass(frozen=True, eq=False, kw_only=True)
class FiniteScaleTrace(Result):
    """Mean second difference of the loss at several distances: the trace as seen from afar.

    Attributes:
        sigma: the distances, standard deviations of every coordinate.
        estimate: (2 / sigma^2) E[(f(z + sigma u) + f(z - sigma u)) / 2 - f(z)] for each.
        standard_error: of each estimate.
        rounding: what rounding, within the model too, can do to each estimate: four times the noise
            of the loss or eps |f(z)|, whichever is more, times 2 / sigma^2.
        resolved: whether the estimate is larger than that.
        samples: the second difference of each probe at each distance; the probes are common.
        loss: f(z).
        probes: how many random directions.
        evaluations: of the loss, those for its noise included.
        dim: number of coordinates.
        trace: the trace at the point itself, of the almost-everywhere Hessian, to stand beside;
            NaN where none was given.
        trace_error: its standard error.
        status: which distances can be used.
        statistics: which BatchNorm statistics were used.
    """

    sigma: np.ndarray = axes("scale")
    estimate: np.ndarray = axes("scale")
    standard_error: np.ndarray = axes("scale")
    rounding: np.ndarray = axes("scale")
    resolved: np.ndarray = axes("scale")
    samples: np.ndarray = axes("probe", "scale")
    loss: float
    probes: int
    evaluations: int
    dim: int
    trace: float = float("nan")
    trace_error: float = float("nan")
    status: str
    statistics: str = ""

    def said(self) -> Said:
        """At how many distances, beside the trace, and what it cost."""
        said = f"mean curvature at {len(self.sigma)} distances"
        beside = f"{said}, trace at the point {self.trace:.5g}"
        cost = f"{self.probes} probes, {self.evaluations} evaluations"
        return beside if self.trace == self.trace else said, f"{self.status}, {cost}"

    def tables(self) -> Sequence[Table]:
        """The curvatures by distance."""
        columns = ("σ", "curvature", "standard error", "rounding", "note")
        rows: list[Sequence[Any]] = [
            (sigma, estimate, error, rounding, "" if resolved else "below rounding")
            for sigma, estimate, error, rounding, resolved in zip(
                self.sigma, self.estimate, self.standard_error, self.rounding, self.resolved,
                strict=True,
            )
        ]  # fmt: skip
        return [("curvature at a distance σ, summed over coordinates", columns, rows)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagonal(Result):
    """The diagonal of a curvature matrix at one point, entry by entry.

    Attributes:
        estimate: the entries.
        standard_error: of each entry; 0 where they are exact to rounding.
        probes: how many random probes; 0 where the entries are exact.
        products: matrix-vector products taken.
        method: "bekas" or "dense".
        operator: whose diagonal it is.
        where: the part of the parameters that it is restricted to; empty for all.
        statistics: which BatchNorm statistics were used.
    """

    estimate: np.ndarray = axes("parameter")
    standard_error: np.ndarray = axes("parameter")
    probes: int
    products: int
    method: str
    operator: str = "Hessian"
    where: str = ""
    statistics: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class FrobeniusNorm(Result):
    """The Frobenius norm of a curvature matrix at one point, with its error.

    Attributes:
        estimate: the norm, the root of ``square``.
        standard_error: of the norm, to first order; 0 where it is exact to rounding.
        square: the squared norm, without bias.
        square_error: its standard error.
        interval: low and high end of the 95 % confidence interval of the norm.
        samples: the squared length of each product; none where the norm is exact.
        probes: how many random probes.
        products: matrix-vector products taken.
        dim: number of coordinates.
        method: "probes" or "dense".
        operator: whose norm it is.
        where: the part of the parameters that it is restricted to; empty for all.
        statistics: which BatchNorm statistics were used.
    """

    estimate: float
    standard_error: float
    square: float
    square_error: float
    interval: np.ndarray = axes("end")
    samples: np.ndarray = axes("probe")
    probes: int
    products: int
    dim: int
    method: str
    operator: str = "Hessian"
    where: str = ""
    statistics: str = ""
