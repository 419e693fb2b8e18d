"""First and second derivatives at a point."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, Said, axes, part_said


@dataclass(frozen=True, eq=False, kw_only=True)
class Spectrum(Result):
    """Eigenpairs of the Hessian, or of another curvature matrix, at one point.

    Attributes:
        eigenvalues: in the order asked for.
        residuals: norm of H v - lambda v for each pair.
        bounds: a true eigenvalue lies within this distance.
        estimates: the sharper distance that is likely but not proved.
        converged: whether the pair meets the tolerance.
        vectors: the unit eigenvectors, one a row; zero outside ``where``.
        joint_bound: k eigenvalues, counted with multiplicity, lie within this distance of the k
            values, one for each.
        products: matrix-vector products taken, without those of the check.
        check_products: products taken to look for hidden eigenvalues.
        dim: number of coordinates.
        which: the end of the spectrum, as in `landscape.spectrum.top_eigenpairs`.
        tolerance: relative to the largest Ritz value by magnitude.
        status: how the iteration ended.
        operator: what the eigenvalues are of.
        where: the part of the parameters that it is restricted to; empty for all.
        statistics: which BatchNorm statistics were used.
    """

    eigenvalues: np.ndarray = axes("pair")
    residuals: np.ndarray = axes("pair")
    bounds: np.ndarray = axes("pair")
    estimates: np.ndarray = axes("pair")
    converged: np.ndarray = axes("pair")
    vectors: np.ndarray | None = axes("pair", "parameter", optional=True)
    products: int
    dim: int
    which: str
    tolerance: float
    status: str
    joint_bound: float = float("inf")
    check_products: int = 0
    operator: str = "Hessian"
    where: str = ""
    statistics: str = ""

    def said(self) -> Said:
        """The eigenvalues with their bounds, and what they cost."""
        pairs = zip(self.eigenvalues, self.bounds, strict=True)
        values = ", ".join(f"{value:.5g} ± {bound:.1g}" for value, bound in pairs)
        checks = f" and {self.check_products} to check" if self.check_products else ""
        return (
            f"{part_said(self.operator, self.where)}eigenvalues {values}",
            f"{self.status}, {self.products} products{checks}",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Gradients(Result):
    """Loss, Euclidean gradient norm and largest gradient entry of each member of a population."""

    member: np.ndarray = axes("member")
    loss: np.ndarray = axes("member")
    gradient_norm: np.ndarray = axes("member")
    gradient_max: np.ndarray = axes("member")
    statistics: str = ""

    def said(self) -> Said:
        """From where to where the norms go, and of how many members."""
        norms = self.gradient_norm
        return (
            f"gradient norms {norms.min():.4g} to {norms.max():.4g}",
            f"{len(norms)} member{'s' * (len(norms) != 1)}",
        )
