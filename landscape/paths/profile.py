"""The loss along a curve: a dense grid of equal arc length, its maximum refined."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.objective import Objective, check_deterministic, value, widened
from landscape.paths.curves import Curve
from landscape.paths.ground import Ground, Statistics
from landscape.slices.evaluators import shares_of, standard_error
from landscape.slices.metrics import MEASURED

Metric = Objective | str | Callable[[Tensor], float]
Progress = Callable[[int, int], None]
# Points by which a maximum is refined at a time, and how many maxima of the grid are.
_ROUND, _MAXIMA = 8, 3
# Numbers of a result's points that are kept where it is not said.
_KEPT = 2**22


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a path is measured once it is found, and what else is measured along it.

    Attributes:
        points: of the dense grid, at equal arc length, at least 3.
        refinement: rounds of 8 points each by which the maximum of the grid is refined: each leaves
            two ninths of the bracket. 4 leave 0.5 % of the grid's step. The maxima of the loss and
            of its excess over the chord are refined, and others that come close.
        metrics: further numbers at every point of the grid, by name: another objective over the
            same vector (an ``EmpiricalRisk`` whose loss is the accuracy), one of
            ``"gradient_norm"``, ``"lambda_max"``, ``"trace"``, or a function from a point to a
            number; a sequence of these words stands for themselves.
        standard_errors: also the standard errors of the loss, the height and the barrier, from
            their spread over the batches of data, as in `landscape.slices.Options`.
        statistics: of BatchNorm, as in `landscape.paths.ground.Ground`.
        keep: whether the points are part of the result; those of at most 4 million numbers where
            None.
        chunk: points evaluated together; the objective's own choice where None.
        progress: called with the number of parts done and of all: steps of the finder, and points
            of the grid.
    """

    points: int = 101
    refinement: int = 4
    metrics: Mapping[str, Metric] | Sequence[str] = ()
    standard_errors: bool = False
    statistics: Statistics = "reestimated"
    keep: bool | None = None
    chunk: int | None = None
    progress: Progress | None = None

    def __post_init__(self):
        if self.points < 3:
            raise ValueError(
                f"points must be at least 3, the ends and one between, got {self.points}"
            )
        if self.refinement < 0:
            raise ValueError(f"refinement must not be negative, got {self.refinement}")
        if isinstance(self.metrics, str):
            raise ValueError(
                f"metrics must be a sequence or a dictionary, got the text {self.metrics!r}"
            )
        if not isinstance(self.metrics, Mapping):
            object.__setattr__(self, "metrics", {name: name for name in self.metrics})
        for name, metric in self.metrics.items():  # type: ignore[union-attr]
            if isinstance(metric, str) and metric not in MEASURED:
                raise ValueError(
                    f"metric {name!r} must be an objective, a function of a point or one of "
                    f"{sorted(MEASURED)}, got {metric!r}"
                )


class Profile(NamedTuple):
    """The loss along a curve.

    Attributes:
        share: (n,), of the length up to the points of the grid.
        loss: (n,), there.
        height: the largest loss that was found.
        top: share of the length up to that point.
        chord_barrier: the largest excess over the chord between the losses of the ends.
    """

    share: np.ndarray
    loss: np.ndarray
    height: float
    top: float
    chord_barrier: float

    @property
    def barrier(self) -> float:
        """The height above the mean of the ends."""
        return self.height - float(self.loss[0] + self.loss[-1]) / 2


def profile(ground: Ground, curve: Curve, options: Options) -> Profile:
    """The loss on the dense grid, its maximum refined.

    A loss that is not finite stays in the grid; the height is then infinite.

    Args:
        ground: where it is evaluated.
        curve: the path.
        options: how finely.
    """
    share = np.linspace(0.0, 1.0, options.points)
    parts = [_fetched(ground.values(rows)) for rows in pieces(ground, curve, share)]
    loss = np.concatenate(parts)
    # The ends are known, and are the same along every path.
    loss[[0, -1]] = _fetched(ground.losses)
    first, last = loss[0], loss[-1]

    def chord(at: Any) -> Any:
        return (1 - at) * first + at * last

    if not np.isfinite(loss).all():
        bad = int(np.flatnonzero(~np.isfinite(loss))[0])
        found = float("inf"), float(share[bad]), float("inf")
    else:
        height, top = _highest(ground, curve, options, share, loss, lambda at: np.zeros_like(at))
        excess, at = _highest(ground, curve, options, share, loss, chord)
        # What was found for the one is a point for the other.
        if (other := excess + float(chord(at))) > height:
            height, top = other, at
        found = height, top, max(excess, height - float(chord(top)))
    return Profile(share, loss, *found)


def by_term(ground: Ground, curve: Curve, share: np.ndarray) -> np.ndarray:
    """The loss (b, n) term by term at points of a curve."""
    rows = pieces(ground, curve, share)
    return np.concatenate([_fetched(ground.values_by_term(row)) for row in rows], axis=1)


def pieces(ground: Ground, curve: Curve, share: np.ndarray) -> Iterator[Tensor]:
    """The points up to which shares of the length lie, as many at a time as are evaluated so."""
    for start in range(0, len(share), ground.chunk):
        yield curve.at(share[start : start + ground.chunk])


def metrics(ground: Ground, curve: Curve, options: Options, share: np.ndarray) -> np.ndarray:
    """The further numbers (metrics, n) at the points of the grid; not counted as evaluations.

    Raises:
        ValueError: if a metric is an objective of another length.
    """
    named: Mapping[str, Metric] = options.metrics  # type: ignore[assignment]
    for name, metric in named.items():
        if isinstance(metric, Objective):
            if metric.dim != ground.objective.dim:
                raise ValueError(
                    f"metric {name!r} must be an objective over vectors of length "
                    f"{ground.objective.dim}, got {metric.dim}"
                )
            check_deterministic(metric, ground.a, curvature=False)
    columns = [
        np.stack([_measured(metric, ground, rows) for metric in named.values()])
        for rows in pieces(ground, curve, share)
    ]
    return np.concatenate(columns, axis=1)


def errors(
    terms: np.ndarray, summit: np.ndarray, objective: Any
) -> tuple[np.ndarray, float, float]:
    """The standard errors (n,) along a curve, of its height and of its barrier.

    Args:
        terms: (b, n), the loss term by term on the grid.
        summit: (b,), the same at the highest point.
        objective: whose batches the terms are of.

    Raises:
        ValueError: if it has not at least two batches.
    """
    ends = (terms[:, 0] + terms[:, -1]) / 2
    columns = np.column_stack([terms, summit, summit - ends])
    found = standard_error(torch.from_numpy(columns), shares_of(objective)).numpy()
    return found[:-2], float(found[-2]), float(found[-1])


def kept(options: Options, dim: int) -> bool:
    """Whether the points of the grid are part of the result."""
    return options.points * dim <= _KEPT if options.keep is None else options.keep


def _measured(metric: Metric, ground: Ground, rows: Tensor) -> np.ndarray:
    if isinstance(metric, str):
        return np.array([MEASURED[metric](ground.objective, row) for row in rows])
    if isinstance(metric, Objective):
        return _fetched(value(metric, rows))
    return np.array([float(metric(row)) for row in rows])


def _highest(
    ground: Ground,
    curve: Curve,
    options: Options,
    share: np.ndarray,
    loss: np.ndarray,
    level: Callable[[Any], Any],
) -> tuple[float, float]:
    """The largest loss above a level, refined around maxima of the grid, and where it is."""
    above = loss - level(share)
    best = int(above.argmax())
    highest, at = float(above[best]), float(share[best])
    for place in _candidates(above):
        low, middle, high = share[place - 1], share[place], share[place + 1]
        for _ in range(options.refinement):
            grid = np.linspace(low, high, _ROUND + 2)
            rows = curve.at(grid[1:-1])
            found = np.append(_fetched(ground.values(rows)) - level(grid[1:-1]), -np.inf)
            inner = int(np.nan_to_num(found, nan=np.inf).argmax())
            if not found[inner] < np.inf:
                return float("inf"), float(grid[1 + inner])
            if found[inner] > highest:
                highest, at = float(found[inner]), float(grid[1 + inner])
            middle = grid[1 + inner]
            low, high = middle - (grid[1] - grid[0]), middle + (grid[1] - grid[0])
            low, high = max(low, 0.0), min(high, 1.0)
    return highest, at


def _candidates(above: np.ndarray) -> list[int]:
    """Inner maxima of the grid between whose neighbours the largest value of all may lie.

    A smooth function rises between two points of a grid by a quarter of what it then falls; half of
    that fall is allowed for.
    """
    inner = above[1:-1]
    peak = (inner >= above[:-2]) & (inner >= above[2:])
    hope = inner + (inner - np.minimum(above[:-2], above[2:])) / 2
    places = np.flatnonzero(peak & (hope >= above.max()))
    order = np.argsort(-hope[places], kind="stable")
    chosen = [int(places[k]) + 1 for k in order[:_MAXIMA]]
    # The largest of all may be at an end, and the path rise from there.
    if above.argmax() in (0, len(above) - 1):
        chosen.append(1 if above.argmax() == 0 else len(above) - 2)
    return list(dict.fromkeys(chosen))


def _fetched(values: Tensor) -> np.ndarray:
    return widened(values).cpu().numpy()
