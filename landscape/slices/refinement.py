"""Values on a fine grid of which only a part is measured: where it bends, or crosses a level.

The grids are nested: each has every second line of the next. From one to the next, values are
predicted by cubic interpolation between four lines, first along one axis and then along the other
(the interpolating wavelets of Deslauriers & Dubuc 1989 and Donoho 1992). The difference between a
measured value and its prediction says how much the surface bends there. Where it is large, the next
grid is measured too; elsewhere it keeps the prediction.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_COARSEST = 8  # lines of the coarsest grid, about
_DECAY = 0.5  # what a difference shrinks by from grid to grid, at worst; 1/16 where all is smooth
_AT_A_LEVEL = 0.5
_ROUNDS = 4
_SUSPECTS = 0.75  # of the checks; the others are drawn from all cells
_APART = 3  # lines between two suspects: otherwise all of them would be about one feature

Measure = Callable[[np.ndarray], np.ndarray]


class Refined(NamedTuple):
    """Values (n, m), where they are measured, and the largest error that checks have found."""

    values: np.ndarray
    measured: np.ndarray
    error: float
    checks: int


class Goal(NamedTuple):
    """How well values have to be known.

    ``tolerance`` is a share of the range of the values below ``ceiling``; half of it counts where
    one of the ``levels`` passes.
    """

    tolerance: float
    levels: tuple[float, ...] = ()
    ceiling: float = np.inf


def refined(
    measure: Measure, axes: Sequence[np.ndarray], goal: Goal, generator: np.random.Generator
) -> Refined:
    """Values on the grid of ``axes``, measured where that is needed to meet the goal.

    In the end, some of the cells that were not measured are measured after all: those of which the
    largest errors are expected, and others at random. Where one misses the goal, its neighbours are
    measured too, and others are checked. What non-finite values leave open is measured last.

    Args:
        measure: gives (m,) values for the index pairs (m, 2) of cells.
        axes: the coordinates of both axes.
        goal: how well.
        generator: source of the cells that are checked.
    """
    grid = _Grid(measure, axes, goal)
    grid.measure(grid.on(0))
    grid.measure(grid.on(1) & ~grid.on(0))
    for level in range(1, len(grid.nested) - 1):
        grid.measure(grid.needed(level))
    error, checks = 0.0, 0
    for _ in range(_ROUNDS):
        error, checks, missed = grid.checked(generator)
        if not missed.any():
            break
        grid.measure(_grown(missed, 2))
    while (unclear := ~np.isfinite(grid.interpolated()) & ~grid.known).any():
        grid.measure(unclear)
    return Refined(grid.interpolated(), grid.known, error, checks)


def filled(values: np.ndarray, measured: np.ndarray, axes: Sequence[np.ndarray]) -> np.ndarray:
    """Values (n, m) where they are measured, and interpolated in the same manner elsewhere."""
    grid = _Grid(lambda cells: values[tuple(cells.T)], axes, Goal(0.0))
    grid.measure(measured)
    return grid.interpolated()


class _Grid:
    """The values that are measured so far, and what follows for the others."""

    def __init__(self, measure: Measure, axes: Sequence[np.ndarray], goal: Goal):
        self.axes, self.goal, self._measure = axes, goal, measure
        shape = tuple(len(axis) for axis in axes)
        self.values, self.known = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
        self.nested = _nested(shape)
        self._expected = np.zeros(shape)

    def on(self, level: int) -> np.ndarray:
        """Which cells belong to the grid of that level."""
        found = np.zeros(self.known.shape, dtype=bool)
        found[np.ix_(*self.nested[level])] = True
        return found

    def measure(self, wanted: np.ndarray) -> None:
        """Measures the cells that are wanted and not known."""
        cells = np.argwhere(wanted & ~self.known)
        if len(cells):
            self.values[tuple(cells.T)] = self._measure(cells)
            self.known[tuple(cells.T)] = True

    def interpolated(self, level: int = -1) -> np.ndarray:
        """The grid of a level: what is measured, and predictions for the rest."""
        nested = self.nested[: level + 1] if level >= 0 else self.nested
        found = self.values[np.ix_(*nested[0])]
        for before, after in zip(nested[:-1], nested[1:], strict=True):
            known = self.known[np.ix_(*after)]
            found = np.where(
                known, self.values[np.ix_(*after)], self._predicted(found, before, after)
            )
        return found

    def needed(self, level: int) -> np.ndarray:
        """The cells of the grid after ``level`` that have to be measured."""
        before, here, after = self.nested[level - 1 : level + 2]
        predicted = self._predicted(self.interpolated(level - 1), before, here)
        current = self.interpolated(level)
        with np.errstate(invalid="ignore"):
            difference = np.abs(self._clipped(current) - self._clipped(predicted))
        bends = np.where(np.isnan(difference) & ~_equal(current, predicted), np.inf, difference)
        coming = self._predicted(current, here, after)
        expected = _DECAY * _spread(_maximum(np.nan_to_num(bends, posinf=np.inf)), here, after)
        missing = (expected > self._allowed(current, coming, here, after)) | ~np.isfinite(coming)
        found, new = np.zeros(self.known.shape, dtype=bool), ~self.on(level)[np.ix_(*after)]
        found[np.ix_(*after)] = missing & new
        self._expected[np.ix_(*after)] += np.where(new, expected, 0.0)
        return found

    def checked(self, generator: np.random.Generator) -> tuple[float, int, np.ndarray]:
        """The largest error at some of the unknown cells, their number, those that miss."""
        missed = np.zeros(self.known.shape, dtype=bool)
        cells = np.argwhere(~self.known)
        if not len(cells):
            return 0.0, 0, missed
        count = min(len(cells), max(16, self.known.size // 100))
        chosen = _suspects(cells, self._expected[tuple(cells.T)], int(_SUSPECTS * count))
        rest = np.setdiff1d(np.arange(len(cells)), chosen)
        drawn = generator.choice(rest, count - len(chosen), replace=False)
        cells = cells[np.sort(np.append(chosen, drawn))]
        guess = self.interpolated()
        wanted = np.zeros(self.known.shape, dtype=bool)
        wanted[tuple(cells.T)] = True
        self.measure(wanted)
        with np.errstate(invalid="ignore"):
            error = np.abs(self._clipped(self.values) - self._clipped(guess))
        error = np.where(np.isnan(error), np.inf, error)[tuple(cells.T)] / self._range()
        missed[tuple(cells[error > self.goal.tolerance].T)] = True
        return float(error.max()), count, missed

    def _range(self) -> float:
        values = self._clipped(self.values[self.known])
        values = values[np.isfinite(values)]
        return float(np.ptp(values)) or 1.0 if len(values) else 1.0

    def _clipped(self, values: np.ndarray) -> np.ndarray:
        return np.minimum(values, self.goal.ceiling)

    def _predicted(
        self, values: np.ndarray, before: Sequence[np.ndarray], after: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Cubic interpolation between two grids; NaN where a non-finite value takes part."""
        left, right = (
            _cubic(axis[old], axis[new])
            for axis, old, new in zip(self.axes, before, after, strict=True)
        )
        finite = np.isfinite(values)
        found = left @ np.where(finite, values, 0.0) @ right.T
        touched = (left != 0).astype(float) @ (~finite).astype(float) @ (right != 0).T.astype(float)
        return np.where(touched > 0, np.nan, found)

    def _allowed(
        self,
        current: np.ndarray,
        coming: np.ndarray,
        here: Sequence[np.ndarray],
        after: Sequence[np.ndarray],
    ) -> np.ndarray:
        """What each cell of the next grid may be wrong by."""
        allowed = np.full(coming.shape, self.goal.tolerance * self._range())
        levels = self.goal.levels
        low = _spread(-_maximum(-current), here, after)
        high = _spread(_maximum(current), here, after)
        for level in levels:
            near = (low <= level) & (level <= high)
            allowed[near] = _AT_A_LEVEL * self.goal.tolerance * self._range()
        return allowed


def _nested(shape: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Index lists of both axes, from the coarsest grid to all lines; each is part of the next."""
    lines = [tuple(np.arange(length) for length in shape)]
    while max(len(axis) for axis in lines[0]) > _COARSEST or len(lines) < 3:
        lines.insert(0, tuple(_halved(axis) for axis in lines[0]))
    return lines


def _halved(axis: np.ndarray) -> np.ndarray:
    return axis if len(axis) <= 4 else np.unique(np.append(axis[::2], axis[-1]))


def _cubic(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The matrix (new, old) of Lagrange's interpolation between the four nearest lines."""
    width = min(4, len(old))
    start = np.clip(np.searchsorted(old, new, side="right") - width // 2, 0, len(old) - width)
    matrix = np.zeros((len(new), len(old)))
    for row, (x, first) in enumerate(zip(new, start, strict=True)):
        nodes = old[first : first + width]
        for k in range(width):
            others = np.delete(nodes, k)
            matrix[row, first + k] = np.prod((x - others) / (nodes[k] - others))
    return matrix


def _spread(
    values: np.ndarray, here: Sequence[np.ndarray], after: Sequence[np.ndarray]
) -> np.ndarray:
    """The value of the line before or after, whichever is larger, on the next grid."""
    for axis, (old, new) in enumerate(zip(here, after, strict=True)):
        right = np.searchsorted(old, new)
        left = np.where(old[right] == new, right, right - 1)
        values = np.maximum(values.take(left, axis), values.take(right, axis))
    return values


def _maximum(values: np.ndarray) -> np.ndarray:
    """The largest of each cell and its eight neighbours."""
    padded = np.pad(values, 1, constant_values=-np.inf)
    rows, columns = values.shape
    return np.max(
        [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0
    )


def _suspects(cells: np.ndarray, expected: np.ndarray, count: int) -> np.ndarray:
    """The indices of at most ``count`` cells, those with most to expect and far from each other."""
    found: list[int] = []
    left = expected.copy()
    while len(found) < count and left.max() > 0:
        found.append(int(left.argmax()))
        left[np.abs(cells - cells[found[-1]]).max(1) <= _APART] = 0.0
    return np.array(found, dtype=int)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        mask = _maximum(mask.astype(float)) > 0
    return mask


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))
