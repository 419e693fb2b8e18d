"""The loss along a line, along several lines and over a plane."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, axes


class _Slice:
    """What slices say of the loss at their points."""

    loss: np.ndarray
    center: float

    def said(self) -> Said:
        """From where to where the loss goes, and at how many points."""
        inside = self.loss[abs(self.loss) < float("inf")]
        extent = (
            f"loss {inside.min():.5g} to {inside.max():.5g}" if inside.size else "no finite loss"
        )
        measured = getattr(self, "evaluated", None)
        count = self.loss.size if measured is None else int(measured.sum())
        filled = "" if measured is None else f" measured of {self.loss.size}"
        return f"{extent}, {self.center:.5g} at the point", f"{count} points{filled}"

    def numbers(self) -> dict[str, Any]:
        """Its extent, since the slice is in its file."""
        finite = self.loss[np.isfinite(self.loss)]
        extent = {"min": finite.min(initial=np.inf), "max": finite.max(initial=-np.inf)}
        kind = type(self).__name__
        return {"kind": kind, "center": self.center, "shape": self.loss.shape, **extent}


@dataclass(frozen=True, eq=False, kw_only=True)
class Line(_Slice, Result):
    """The loss along one direction; ``center`` is the loss at the point itself.

    Attributes:
        alpha: coordinates in units of the direction.
        loss: at every coordinate.
        center: evaluated without the slice.
        direction: what the direction is.
        statistics: which BatchNorm statistics were used.
        standard_error: of the loss, from its spread over batches of data.
        metrics: names of the further numbers.
        metric_values: ``metric_values[k, i]`` is ``metrics[k]`` at ``alpha[i]``.
    """

    alpha: np.ndarray = axes("alpha")
    loss: np.ndarray = axes("alpha")
    center: float
    direction: str = ""
    statistics: str = ""
    standard_error: np.ndarray | None = axes("alpha", optional=True)
    metrics: tuple[str, ...] = ()
    metric_values: np.ndarray | None = axes("metric", "alpha", optional=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Lines(_Slice, Result):
    """The loss along several directions of one kind, and the band that they span.

    The band is pointwise over the directions: ``mean``, and from ``low`` (the least loss) to
    ``high`` (the largest). It holds for these directions: it is no confidence interval. A loss that
    is not finite stays in it.

    Attributes:
        alpha: coordinates in units of each direction.
        loss: ``loss[s, i]`` along direction s at ``alpha[i]``.
        mean: over the directions.
        low: least over the directions.
        high: largest over the directions.
        center: the loss at the point itself, evaluated without the slice.
        direction: what the directions are.
        statistics: which BatchNorm statistics were used.
    """

    alpha: np.ndarray = axes("alpha")
    loss: np.ndarray = axes("seed", "alpha")
    mean: np.ndarray = axes("alpha")
    low: np.ndarray = axes("alpha")
    high: np.ndarray = axes("alpha")
    center: float
    direction: str = ""
    statistics: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Surface(_Slice, Result):
    """The loss on a plane: ``loss[i, j]`` at ``alpha[i], beta[j]``; ``center`` at the point.

    Attributes:
        alpha: coordinates in units of the first direction.
        beta: coordinates in units of the second direction.
        loss: at every pair of coordinates.
        center: the loss at the origin, evaluated without the slice.
        directions: what the directions are.
        statistics: which BatchNorm statistics were used.
        standard_error: of the loss, from its spread over batches of data.
        metrics: names of the further numbers.
        metric_values: ``metric_values[k, i, j]`` is ``metrics[k]`` at ``alpha[i], beta[j]``.
        evaluated: where False, the numbers of the cell are interpolated; None if all are measured.
        interpolation_error: the largest difference between interpolated and measured loss at a
            sample of cells, most of them where large errors are expected, as a share of the range;
            other cells may be off by more. 0 if all are measured.
    """

    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray = axes("beta")
    loss: np.ndarray = axes("alpha", "beta")
    center: float
    directions: tuple[str, str] = ("u", "v")
    statistics: str = ""
    standard_error: np.ndarray | None = axes("alpha", "beta", optional=True)
    metrics: tuple[str, ...] = ()
    metric_values: np.ndarray | None = axes("metric", "alpha", "beta", optional=True)
    evaluated: np.ndarray | None = axes("alpha", "beta", optional=True)
    interpolation_error: float = 0.0
