"""The loss along a path between two points, and the saddle at its top."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, axes

# What is in the file and not in a line of JSON.
_ARRAYS = frozenset({
    "share", "loss", "points", "summit", "line_loss", "standard_error", "metric_values", "alpha",
    "beta", "surface", "provenance",
})  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Path(Result):
    """The loss along a path from one end to the other, on a grid of equal arc length.

    The height is the largest loss on that grid and at the points by which its maximum was refined:
    a lower bound of the maximum along the path. Both barriers come from the same points.

    Attributes:
        share: of the length up to each point, from 0 to 1 in equal steps.
        loss: at every point.
        points: the points; None where they were not kept.
        summit: the highest point that was found.
        height: the loss there, inf where a loss on the path is not finite.
        top: share of the length up to the summit.
        barrier: the height above the mean of the losses at the two ends (Frankle et al. 2020).
        chord_barrier: the largest height above the chord from one end's loss to the other's at the
            same share of the length (Entezari et al. 2022).
        length: of the path.
        straight: distance of the ends.
        line_loss: the loss on the straight line at the same shares of its length.
        line_height: as ``height``, of the straight line.
        finder: what found the path.
        status: how that ended.
        statistics: which BatchNorm statistics were used at each point.
        evaluations: points at which the loss was evaluated alone, metrics not counted.
        gradients: points at which it was evaluated with its gradient; on one mini-batch each where
            the path was found with mini-batches.
        standard_error: of the loss at every point, from its spread over batches of data.
        height_error: standard error of the height, the place of the summit taken as it is.
        barrier_error: that of the barrier, whose three losses are of the same batches.
        metrics: names of the further numbers.
        metric_values: ``metric_values[k, i]`` is ``metrics[k]`` at point i.
        names: of the two ends.
        alpha: first coordinate of a grid, where the loss has two coordinates and was measured.
        beta: second coordinate of it.
        surface: the loss there, ``surface[i, j]`` at ``alpha[i], beta[j]``.
    """

    share: np.ndarray = axes("point")
    loss: np.ndarray = axes("point")
    points: np.ndarray | None = axes("point", "parameter", optional=True)
    summit: np.ndarray = axes("parameter")
    height: float
    top: float
    barrier: float
    chord_barrier: float
    length: float
    straight: float
    line_loss: np.ndarray = axes("point")
    line_height: float
    finder: str
    status: str
    statistics: str = ""
    evaluations: int = 0
    gradients: int = 0
    standard_error: np.ndarray | None = axes("point", optional=True)
    height_error: float = float("nan")
    barrier_error: float = float("nan")
    metrics: tuple[str, ...] = ()
    metric_values: np.ndarray | None = axes("metric", "point", optional=True)
    names: tuple[str, str] = ("A", "B")
    alpha: np.ndarray | None = axes("alpha", optional=True)
    beta: np.ndarray | None = axes("beta", optional=True)
    surface: np.ndarray | None = axes("alpha", "beta", optional=True)

    def said(self) -> Said:
        """The barrier and the height, where that is, and how the path was found."""
        error = f" ± {self.barrier_error:.1g}" if np.isfinite(self.barrier_error) else ""
        line = "" if self.finder == "linear" else f" (line: {self.line_height:.5g})"
        return (
            f"barrier {self.barrier:.5g}{error}, height {self.height:.5g}{line} at "
            f"{self.top:.0%} of a length of {self.length:.4g}",
            f"{self.status}, {self.evaluations:,} evaluations and {self.gradients:,} gradients",
        )

    def numbers(self) -> dict[str, Any]:
        """All but the arrays, which are in its file."""
        held = {name: value for name, value in vars(self).items() if name not in _ARRAYS}
        ends = {"loss_of_ends": [float(self.loss[0]), float(self.loss[-1])]}
        return {"kind": type(self).__name__} | held | ends


@dataclass(frozen=True, eq=False, kw_only=True)
class Saddle(Result):
    """The critical point that a climb from the top of a path has reached.

    Where ``status`` is ``"certified"``, the gradient is as small as was asked for, the smallest
    eigenvalue of the Hessian is negative and the second smallest positive, both by more than their
    bounds: the height of the path is then the value of a saddle, a mountain pass between the two
    ends.

    Attributes:
        point: where it is.
        loss: the value there.
        error: about how far that is from the value of the critical point itself,
            ``|g|^2 / (2 min |lambda|)`` with the two eigenvalues that are known.
        gradient_norm: of the gradient there.
        tolerance: what that was to be.
        eigenvalues: the smallest of the Hessian, ascending.
        bounds: a true eigenvalue lies within this distance of each.
        direction: the unit eigenvector of the smallest.
        start: the loss where the climb began.
        moved: distance from there.
        steps: of the climb.
        evaluations: of the loss and its gradient.
        products: with the Hessian.
        status: ``"certified"``, or what is missing.
        statistics: which BatchNorm statistics were used; derivatives hold them fixed.
    """

    point: np.ndarray = axes("parameter")
    loss: float
    error: float
    gradient_norm: float
    tolerance: float
    eigenvalues: np.ndarray = axes("pair")
    bounds: np.ndarray = axes("pair")
    direction: np.ndarray = axes("parameter")
    start: float
    moved: float
    steps: int
    evaluations: int
    products: int
    status: str
    statistics: str = ""

    @property
    def certified(self) -> bool:
        """Whether it is a critical point of index 1 for certain."""
        return self.status == "certified"

    def said(self) -> Said:
        """The value, its smallest eigenvalues, and whether it is a saddle for certain."""
        pairs = zip(self.eigenvalues, self.bounds, strict=True)
        values = ", ".join(f"{value:.5g} ± {bound:.1g}" for value, bound in pairs)
        return (
            f"saddle at {self.loss:.8g} (± {self.error:.1g}), gradient norm "
            f"{self.gradient_norm:.2g}, smallest eigenvalues {values or 'unknown'}",
            f"{self.status}, {self.steps} steps, {self.products} products",
        )

    def numbers(self) -> dict[str, Any]:
        """All but the point and the direction, which are in its file."""
        held = {
            name: value
            for name, value in vars(self).items()
            if name not in ("point", "direction", "provenance")
        }
        return {"kind": type(self).__name__} | held
