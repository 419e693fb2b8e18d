"""Whether populations of trajectories differ, and whether the tests of that keep their promise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes
from landscape.results.wording import interval, number


@dataclass(frozen=True, eq=False, kw_only=True)
class Promises(Result):
    """What tests and intervals do in simulated studies whose truth is known.

    Attributes:
        tests: names.
        correlation: between two points of one trajectory.
        rejected: share of studies without a difference in which a test rejects.
        low: lower end of Wilson's interval of that share.
        high: upper end of it.
        intervals: names of what intervals are of.
        covered: share of studies with a difference whose interval holds it.
        counts: trajectories of each of two methods.
        powered: names of the tests whose power was found.
        power: share of studies with a difference in which they reject, by trajectories.
        predicted: power of the t test in closed form.
        least: p value that an exact test can have at least, by trajectories.
        trajectories: of each method.
        points: of each trajectory.
        studies: that were simulated.
        effect: the difference, in standard deviations of the means of trajectories.
        level: of the tests.
        notes: what has to be known to read the numbers.
        conclusion: which tests keep their promise.
    """

    tests: tuple[str, ...]
    correlation: np.ndarray = axes("correlation")
    rejected: np.ndarray = axes("test", "correlation")
    low: np.ndarray = axes("test", "correlation")
    high: np.ndarray = axes("test", "correlation")
    intervals: tuple[str, ...]
    covered: np.ndarray = axes("interval", "correlation")
    counts: np.ndarray = axes("count")
    powered: tuple[str, ...]
    power: np.ndarray = axes("powered", "count")
    predicted: np.ndarray = axes("count")
    least: np.ndarray = axes("count")
    trajectories: int
    points: int
    studies: int
    effect: float
    level: float
    notes: tuple[str, ...]
    conclusion: str

    def said(self) -> Said:
        """How many studies of what size."""
        size = f"{self.trajectories} trajectories of {self.points} points for each of two methods"
        return f"{self.studies:,} simulated studies, {size}", "known truth"

    def tables(self) -> Sequence[Table]:
        """False positives, coverage and power."""
        heads = [f"correlation {each:g}" for each in self.correlation]
        shares: list[Sequence[Any]] = [
            (name, *(
                f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"
                for share, low, high in zip(*part, strict=True)
            ))
            for name, *part in zip(self.tests, self.rejected, self.low, self.high, strict=True)
        ]  # fmt: skip
        covered: list[Sequence[Any]] = [
            (name, *(f"{100 * share:.1f}" for share in row))
            for name, row in zip(self.intervals, self.covered, strict=True)
        ]
        rows = zip(self.counts, self.least, self.predicted, *self.power, strict=True)
        powers: list[Sequence[Any]] = [
            (f"{count:.0f}", f"{least:.2g}", *(f"{100 * each:.1f}" for each in found))
            for count, least, *found in rows
        ]
        title = f"False positives in %, {100 * self.level:g} promised"
        return [
            (title, ("test", *heads), shares),
            (f"Coverage in %, {100 - 100 * self.level:g} promised",
             ("interval of", *heads), covered),
            (f"Power in % for a difference of {self.effect:g} s.d. of trajectories",
             ("trajectories", "least p, exact", "t, closed form", *self.powered), powers),
        ]  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Inference(Result):
    """Groups of runs compared by the points that they kept, trajectories taken for what was drawn.

    Attributes:
        task: of the runs.
        metric: what is compared, with its split.
        groups: names of groups of runs of equal hyper-parameters.
        sets: which points of a trajectory are taken.
        trajectories: names.
        group: index of the group of each trajectory.
        value: the metric at each point; NaN where there is none.
        evaluations: of each member, mean over the group.
        comparisons: names.
        one: index of the first group of each comparison.
        other: index of the second.
        one_set: index of the set of points of the first.
        other_set: index of that of the second.
        count: trajectories of each of the two.
        difference: of the means of trajectories, the first less the second.
        low: lower end of its interval, by Student's t.
        high: upper end of it.
        delta: Cliff's delta of the means of trajectories; A12 is (1 + delta) / 2.
        delta_low: lower end of its interval; NaN where both are of the same trajectories.
        delta_high: upper end of it.
        tests: names; the first two pool points, as published.
        p_value: of each test.
        p_holm: the same corrected for all comparisons by Holm's method.
        p_same: of the difference lying beyond the margin, corrected likewise.
        least: the least p value that the exact test can have.
        power: of a t test for the effect, with the spread that was found.
        needed: trajectories of each group that it needs for a power of 80 %.
        margin: differences below it count as none.
        effect: the difference that power is for.
        confidence: of the intervals and tests.
        decided: the test by which it is decided.
        notes: what has to be known to read the numbers.
        conclusion: what differs, what is the same, and what is not known.
    """

    task: str
    metric: str
    groups: tuple[str, ...]
    sets: tuple[str, ...]
    trajectories: tuple[str, ...]
    group: np.ndarray = axes("trajectory")
    value: np.ndarray = axes("trajectory", "set", "point")
    evaluations: np.ndarray = axes("group")
    comparisons: tuple[str, ...]
    one: np.ndarray = axes("comparison")
    other: np.ndarray = axes("comparison")
    one_set: np.ndarray = axes("comparison")
    other_set: np.ndarray = axes("comparison")
    count: np.ndarray = axes("comparison", "side")
    difference: np.ndarray = axes("comparison")
    low: np.ndarray = axes("comparison")
    high: np.ndarray = axes("comparison")
    delta: np.ndarray = axes("comparison")
    delta_low: np.ndarray = axes("comparison")
    delta_high: np.ndarray = axes("comparison")
    tests: tuple[str, ...]
    p_value: np.ndarray = axes("comparison", "test")
    p_holm: np.ndarray = axes("comparison", "test")
    p_same: np.ndarray = axes("comparison")
    least: np.ndarray = axes("comparison")
    power: np.ndarray = axes("comparison")
    needed: np.ndarray = axes("comparison")
    margin: float
    effect: float
    confidence: float
    decided: str
    notes: tuple[str, ...]
    conclusion: str

    def verdict(self, comparison: int) -> str:
        """``differs``, ``same`` (to within the margin) or ``open``."""
        level = 1 - self.confidence
        if self.p_holm[comparison, self.tests.index(self.decided)] < level:
            return "differs"
        return "same" if self.p_same[comparison] < level else "open"

    def said(self) -> Said:
        """How many comparisons ended how."""
        found = [self.verdict(k) for k in range(len(self.comparisons))]
        told = ", ".join(f"{found.count(end)} {end}" for end in ("differs", "same", "open"))
        return f"{self.metric} of {', '.join(self.groups)}: {told}", f"by {self.decided}"

    def tables(self) -> Sequence[Table]:
        """Differences, p values, and what so many trajectories can tell."""
        level = f"{100 * self.confidence:g} %"
        effects: list[Sequence[Any]] = []
        tests: list[Sequence[Any]] = []
        powers: list[Sequence[Any]] = []
        for k, name in enumerate(self.comparisons):
            effects.append((
                name, ", ".join(f"{n:.0f}" for n in self.count[k]), f"{self.difference[k]:+.4g}",
                interval(self.low[k], self.high[k], "+.4g"), number(self.delta[k], "+.2f"),
                interval(self.delta_low[k], self.delta_high[k], "+.2f"),
                number(self.p_same[k]), self.verdict(k),
            ))  # fmt: skip
            pairs = zip(self.p_value[k], self.p_holm[k], strict=True)
            tests.append((name, *(f"{number(p)} ({number(h)})" for p, h in pairs)))
            powers.append((
                name, number(self.least[k]), number(self.power[k]), number(self.needed[k], ".0f")
            ))  # fmt: skip
        beyond = f"p (beyond {self.margin:g})"
        columns = (
            "comparison",
            "trajectories",
            "difference",
            level,
            "delta",
            level,
            beyond,
            "says",
        )
        return [
            (f"{self.metric} on {self.task}", columns, effects),
            ("p values (after Holm); the first two pool points, as published",
             ("comparison", *self.tests), tests),
            (f"What so many trajectories can tell of a difference of {self.effect:g}",
             ("comparison", "least p, exact", "power of t", "needed for 80 %"), powers),
        ]  # fmt: skip
