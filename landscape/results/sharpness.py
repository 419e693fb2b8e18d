"""Flatness measures of a point, and how far such measures go with generalisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes

# An error that changes no digit that is shown.
_SLIGHT = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel(Result):
    """Flatness measures of one point, one entry a measure.

    Attributes:
        measures: their names; a measure of several layers has the layer's name behind it.
        value: NaN where a measure is not defined, infinite where the loss is not finite nearby.
        error: a proven bound where ``kinds`` is "bound", a standard error where it is "estimate" or
            where a mean of lower bounds has one, else what the noise of the loss can do to the
            value, see `landscape.rounding.noise`; NaN where none is known.
        low: the value less its error, or the lower end of a 95 % interval; NaN where none is known.
        high: the upper end of it; infinite above a lower bound.
        kinds: "exact" (to its error), "bound", "lower bound" (to its error), "estimate",
            "unresolved" where a difference of losses is no larger than its noise, or "none".
        units: of the value.
        radii: which neighbourhood is meant, with its size.
        evaluations: passes over the whole data, with or without gradient, that the measure takes.
        products: Hessian-vector products that it takes.
        notes: how it ended, or why it is not defined; empty where there is nothing to say.
        invariant: what leaves it as it is.
        sources: where it comes from.
        loss: at the point.
        dim: number of coordinates.
        statistics: which BatchNorm statistics were used.
    """

    measures: tuple[str, ...]
    value: np.ndarray = axes("measure")
    error: np.ndarray = axes("measure")
    low: np.ndarray = axes("measure")
    high: np.ndarray = axes("measure")
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    radii: tuple[str, ...]
    evaluations: np.ndarray = axes("measure")
    products: np.ndarray = axes("measure")
    notes: tuple[str, ...]
    invariant: tuple[str, ...]
    sources: tuple[str, ...]
    loss: float
    dim: int
    statistics: str = ""

    def said(self) -> Said:
        """How many measures are defined, and what they cost."""
        known = sum(value == value for value in self.value)
        cost = f"{int(self.evaluations.sum())} evaluations, {int(self.products.sum())} products"
        return f"{known} of {len(self.value)} measures defined", cost

    def tables(self) -> Sequence[Table]:
        """The measures, and how well each is known."""
        columns = ("measure", "value", "how well it is known", "unit", "neighbourhood", "note")
        rows: list[Sequence[Any]] = [
            (name, number, self._known(i), self.units[i], self.radii[i], self.notes[i])
            for i, (name, number) in enumerate(zip(self.measures, self.value, strict=True))
        ]
        return [("flatness", columns, rows)]

    def _known(self, i: int) -> str:
        kind, error, low, high = self.kinds[i], self.error[i], self.low[i], self.high[i]
        if kind == "none":
            return ""
        slight = kind in ("exact", "lower bound") and not error > _SLIGHT * abs(self.value[i])
        if error == error and not slight:
            return f"{kind}, ± {error:.2g}"
        if kind == "estimate" and low == low:
            return f"95 % from {low:.3g} to {high:.3g}"
        return kind


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatness(Result):
    """Flatness measures of several points against their generalisation gaps.

    Attributes:
        points: names of the points.
        measures: names of the measures.
        value: of each measure at each point.
        low: as in `Panel`.
        high: as in `Panel`.
        units: of the measures.
        train: the criterion on the training data.
        test: the criterion on the data held out.
        gap: how much worse it is on the data held out.
        criterion: what train, test and gap are of.
        split: which data are held out.
        group: index of the group of equal hyper-parameters that each point belongs to.
        run: index of the run that each point belongs to.
        runs: names of the runs.
        tau: Kendall's tau-b between each measure and the gap, over independent trainings: the
            medians of the points of each.
        tau_low: lower end of its bootstrap interval.
        tau_high: upper end of it.
        p_value: that measure and gap are independent: of Kendall's test or, where runs are drawn,
            the largest of the bootstrap's, Student's over runs, and 2 over the orders of the runs.
        p_holm: the same, corrected for all measures by Holm's method.
        within: tau-b over the pairs of trainings of one group.
        within_low: lower end of its bootstrap interval.
        within_high: upper end of it.
        count: independent trainings in which a measure has a value.
        pairs: pairs of such trainings within groups.
        says: whether the interval excludes 0 and the corrected p value is below 1 - confidence.
        notes: for each measure, why there is no tau or no interval; else empty.
        confidence: of the intervals.
        resamples: of the bootstrap.
        resampled: what is drawn in the bootstrap: "trainings" or "runs".
        conclusion: which measure says anything here, and what was not shown.
        training: index of the independent training that each point belongs to.
        nearest: distance of each point to the nearest other one, over the larger of their norms.
        spread: standard deviation of each measure over the points.
        own_error: median of half the width of the measure's own bounds or intervals.
    """

    points: tuple[str, ...]
    measures: tuple[str, ...]
    value: np.ndarray = axes("point", "measure")
    low: np.ndarray = axes("point", "measure")
    high: np.ndarray = axes("point", "measure")
    units: tuple[str, ...]
    train: np.ndarray = axes("point")
    test: np.ndarray = axes("point")
    gap: np.ndarray = axes("point")
    criterion: str
    split: str
    group: np.ndarray = axes("point")
    run: np.ndarray = axes("point")
    runs: tuple[str, ...]
    tau: np.ndarray = axes("measure")
    tau_low: np.ndarray = axes("measure")
    tau_high: np.ndarray = axes("measure")
    p_value: np.ndarray = axes("measure")
    p_holm: np.ndarray = axes("measure")
    within: np.ndarray = axes("measure")
    within_low: np.ndarray = axes("measure")
    within_high: np.ndarray = axes("measure")
    count: np.ndarray = axes("measure")
    pairs: np.ndarray = axes("measure")
    says: np.ndarray = axes("measure")
    notes: tuple[str, ...]
    confidence: float
    resamples: int
    resampled: str
    conclusion: str
    training: np.ndarray | None = axes("point", optional=True)
    nearest: np.ndarray | None = axes("point", optional=True)
    spread: np.ndarray | None = axes("measure", optional=True)
    own_error: np.ndarray | None = axes("measure", optional=True)


_PANEL = {
    "measure": "measures", "value": "value", "error": "error", "low": "low", "high": "high",
    "kind": "kinds", "unit": "units", "radius": "radii", "evaluations": "evaluations",
    "products": "products", "status": "notes", "invariant": "invariant", "source": "sources",
}  # fmt: skip
_FLATNESS = {
    "measure": "measures", "unit": "units", "tau": "tau", "low": "tau_low", "high": "tau_high",
    "p": "p_value", "p (Holm)": "p_holm", "tau within groups": "within",
    "low within": "within_low", "high within": "within_high", "trainings": "count",
    "pairs within groups": "pairs", "spread": "spread", "own error": "own_error",
    "says something": "says", "status": "notes",
}  # fmt: skip


def table(result: Panel | Flatness) -> list[dict[str, str | float | bool]]:
    """One row for each measure, column name to text or number, as `csv.DictWriter` takes them."""
    columns = _PANEL if isinstance(result, Panel) else _FLATNESS
    found = {name: getattr(result, attribute) for name, attribute in columns.items()}
    # Studies of before trainings were counted lack some.
    entries = {name: _plain(column) for name, column in found.items() if column is not None}
    return [
        dict(zip(entries, row, strict=True)) for row in zip(*entries.values(), strict=True)
    ]  # fmt: skip


def _plain(entries: np.ndarray | tuple[str, ...]) -> list:
    return entries.tolist() if isinstance(entries, np.ndarray) else list(entries)
