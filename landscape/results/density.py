"""How the eigenvalues of a Hessian are spread."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, Said, axes, part_said


@dataclass(frozen=True, eq=False, kw_only=True)
class Density(Result):
    """The spectral density and distribution function of the Hessian at one point.

    Attributes:
        nodes: Ritz values of each probe, ascending.
        weights: of the nodes, those of a probe sum to one.
        eigenvalue: where the functions below are given, ascending.
        density: share of eigenvalues per unit of eigenvalue, smoothed, mean over probes.
        density_low: lower end of a 95 % band of what other probes would give; for one probe too.
        density_high: upper end of it.
        distribution: share of eigenvalues up to there, by the quadrature, mean over probes.
        distribution_low: lower end of a band that takes in the error of the quadrature, by the
            Chebyshev-Markov-Stieltjes bounds of each probe, and that of the probes, by the 95 %
            interval of what random directions see; it is there for one probe too.
        distribution_high: upper end of it.
        outliers: eigenvalues found on their own at the ends, descending.
        outlier_bounds: a true eigenvalue lies this close: residual or rounding, whichever is more.
        outlier_count: estimated number of eigenvalues there.
        outlier_count_error: standard error of that number; NaN for one probe.
        width: standard deviation of the smoothing kernel in the coordinate asinh(eigenvalue / unit)
            or, where unit is 0, in units of eigenvalue.
        unit: eigenvalue up to which the coordinate is about linear; 0 where it is linear.
        steps: of Lanczos, for each probe.
        probes: number of random starting vectors.
        products: matrix-vector products taken.
        dim: number of coordinates.
        status: how it ended.
        operator: what the eigenvalues are of.
        where: the part of the parameters that it is restricted to; empty for all.
        statistics: which BatchNorm statistics were used.
    """

    nodes: np.ndarray = axes("probe", "node")
    weights: np.ndarray = axes("probe", "node")
    eigenvalue: np.ndarray = axes("point")
    density: np.ndarray = axes("point")
    density_low: np.ndarray = axes("point")
    density_high: np.ndarray = axes("point")
    distribution: np.ndarray = axes("point")
    distribution_low: np.ndarray = axes("point")
    distribution_high: np.ndarray = axes("point")
    outliers: np.ndarray = axes("outlier")
    outlier_bounds: np.ndarray = axes("outlier")
    outlier_count: np.ndarray = axes("outlier")
    outlier_count_error: np.ndarray = axes("outlier")
    width: float
    unit: float
    steps: int
    probes: int
    products: int
    dim: int
    operator: str = "Hessian"
    where: str = ""
    status: str
    statistics: str = ""

    def said(self) -> Said:
        """From where to where the nodes go, and what they cost."""
        ends = f"nodes from {self.nodes.min():.5g} to {self.nodes.max():.5g}"
        outliers = f"{len(self.outliers)} eigenvalues found on their own"
        cost = f"{self.probes} probes of {self.steps} steps"
        said = f"{part_said(self.operator, self.where)}{ends}; {outliers}"
        return said, f"{self.status}, {cost}"
