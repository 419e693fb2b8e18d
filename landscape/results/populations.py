"""Trajectories of several methods on several tasks, and the published tables beside ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes
from landscape.results.wording import interval, number


@dataclass(frozen=True, eq=False, kw_only=True)
class Course(Result):
    """What one training went through: all of its points, and no choice among them.

    Attributes:
        task: what was trained.
        method: how.
        number: of the trajectory; those of one number have start and mini-batches in common.
        splits: of the data.
        measures: names, the loss first.
        epoch: of each point, counted from 1.
        passes: gradients of all data that were spent to get there.
        value: of the measures at the point.
        seconds: that all of it took.
        rate: step length.
        radius: of noise, or of the neighbourhood.
    """

    task: str
    method: str
    number: int
    splits: tuple[str, ...]
    measures: tuple[str, ...]
    epoch: np.ndarray = axes("point")
    passes: np.ndarray = axes("point")
    value: np.ndarray = axes("point", "split", "measure")
    seconds: float
    rate: float
    radius: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Populations(Result):
    """Sets of points of trajectories, p values as published and as they should be.

    Attributes:
        tasks: names.
        settings: base, or base and tuned.
        views: what the budget is equal in.
        methods: names.
        sets: which points of a trajectory are taken.
        quantities: what is known of a point.
        value: at each point, NaN where there is none.
        epochs: of a trajectory, in each view.
        passes: gradients of all data in a trajectory, mean.
        seconds: of a trajectory, mean.
        rate: step length of each method.
        radius: of its noise or neighbourhood; NaN where it has none.
        trials: step length and radius of each trial, and what it reached on validation.
        table: the published table of each row; rows are comparisons.
        row_setting: of each row.
        row_task: of each row.
        row_compared: methods of each row, or the one whose sets are compared.
        row_test: the published test of each row.
        published: its p value as printed; NaN where there is none.
        pooled: the same test of our points, taken as independent as published.
        exact: p value of the permutation test of trajectories.
        holm: the same, corrected within its table.
        p_same: of the difference lying beyond the margin, corrected likewise.
        difference: of the means of trajectories.
        low: lower end of its interval.
        high: upper end of it.
        least: the least p value that the exact test can have.
        median: of the score over trajectories, of the median of each.
        deviation: median over trajectories of the standard deviation of each.
        published_median: as printed.
        published_deviation: as printed.
        margin: differences below it count as none.
        confidence: of the intervals and tests.
        notes: what has to be known to read the numbers.
        claims: each claim of the paper with what is found of it here.
    """

    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    views: tuple[str, ...]
    methods: tuple[str, ...]
    sets: tuple[str, ...]
    quantities: tuple[str, ...]
    value: np.ndarray = axes(
        "view", "setting", "task", "method", "trajectory", "set", "point", "quantity"
    )
    epochs: np.ndarray = axes("view", "setting", "task", "method")
    passes: np.ndarray = axes("setting", "task", "method")
    seconds: np.ndarray = axes("setting", "task", "method")
    rate: np.ndarray = axes("setting", "task", "method")
    radius: np.ndarray = axes("setting", "task", "method")
    trials: np.ndarray = axes("task", "method", "trial", "tried")
    table: tuple[str, ...]
    row_setting: tuple[str, ...]
    row_task: tuple[str, ...]
    row_compared: tuple[str, ...]
    row_test: tuple[str, ...]
    published: np.ndarray = axes("row")
    pooled: np.ndarray = axes("view", "row")
    exact: np.ndarray = axes("view", "row")
    holm: np.ndarray = axes("view", "row")
    p_same: np.ndarray = axes("view", "row")
    difference: np.ndarray = axes("view", "row")
    low: np.ndarray = axes("view", "row")
    high: np.ndarray = axes("view", "row")
    least: np.ndarray = axes("view", "row")
    median: np.ndarray = axes("view", "setting", "task", "method", "set")
    deviation: np.ndarray = axes("view", "setting", "task", "method", "set")
    published_median: np.ndarray = axes("task", "method", "set")
    published_deviation: np.ndarray = axes("task", "method", "set")
    margin: float
    confidence: float
    notes: tuple[str, ...]
    claims: tuple[str, ...]

    def said(self) -> Said:
        """How many trajectories of what, and the first claim."""
        count = self.value.shape[4]
        size = f"{count} trajectories of {len(self.methods)} methods on {', '.join(self.tasks)}"
        return size, self.claims[0]

    def tables(self) -> Sequence[Table]:
        """What was run, the published tables beside ours, and the trials."""
        return [*self._run(), *self._medians(), *self._compared(), *self._trials()]

    def _run(self) -> Iterator[Table]:
        """What each trajectory took."""
        for s, setting in enumerate(self.settings):
            rows: list[Sequence[Any]] = [
                (task, method, *(f"{self.epochs[v, s, t, m]:.0f}" for v in range(len(self.views))),
                 f"{self.passes[s, t, m]:.1f}", number(self.rate[s, t, m]),
                 number(self.radius[s, t, m]), f"{self.seconds[s, t, m]:.0f}")
                for t, task in enumerate(self.tasks)
                for m, method in enumerate(self.methods)
            ]  # fmt: skip
            columns = ("task", "method", *(f"epochs, {view}" for view in self.views),
                       "gradients of all data", "rate", "radius", "seconds")  # fmt: skip
            yield f"What was run, {setting} settings", columns, rows

    def _medians(self) -> Iterator[Table]:
        """Table 4."""
        for s, setting in enumerate(self.settings):
            rows: list[Sequence[Any]] = [
                (task, method, name,
                 _pair(self.published_median[t, m, k], self.published_deviation[t, m, k]),
                 *(_pair(self.median[v, s, t, m, k], self.deviation[v, s, t, m, k])
                   for v in range(len(self.views))))
                for t, task in enumerate(self.tasks)
                for m, method in enumerate(self.methods)
                for k, name in enumerate(self.sets)
            ]  # fmt: skip
            yield (
                f"Table 4: median score (median deviation), published tuned, ours {setting}",
                ("task", "method", "set", "published", *self.views), rows,
            )  # fmt: skip

    def _compared(self) -> Iterator[Table]:
        """Every other table: p values of the first view, and the exact one of the others."""
        level = f"{100 * self.confidence:g} %"
        others = [f"exact p, {view}" for view in self.views[1:]]
        columns = ("task", "compared", "published p", "pooled p", "exact p", "least p", "p (Holm)",
                   "difference", level, f"p (beyond {self.margin:g})", *others)  # fmt: skip
        for name in dict.fromkeys(self.table):
            at = [k for k, each in enumerate(self.table) if each == name]
            rows: list[Sequence[Any]] = [
                (self.row_task[k], self.row_compared[k], number(self.published[k]),
                 number(self.pooled[0, k]), number(self.exact[0, k]), number(self.least[0, k]),
                 number(self.holm[0, k]), number(self.difference[0, k], "+.3g"),
                 interval(self.low[0, k], self.high[0, k]), number(self.p_same[0, k]),
                 *map(number, self.exact[1:, k]))
                for k in at
            ]  # fmt: skip
            setting, test = self.row_setting[at[0]], self.row_test[at[0]]
            yield f"{name}; {test}, {setting} settings, {self.views[0]}", columns, rows

    def _trials(self) -> Iterator[Table]:
        """The search for settings."""
        rows: list[Sequence[Any]] = [
            (task, method, *(number(each, ".3g") for each in trial))
            for t, task in enumerate(self.tasks)
            for m, method in enumerate(self.methods)
            for trial in self.trials[t, m]
        ]
        if rows:
            columns = ("task", "method", "rate", "radius", "validation score")
            yield "Trials of the search", columns, rows


def _pair(value: float, deviation: float) -> str:
    return f"{value:.3f} ({deviation:.3f})" if value == value else "-"
