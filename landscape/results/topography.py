"""Where two methods end from common starts, and how high the walls between these ends are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes
from landscape.results.wording import interval, number


@dataclass(frozen=True, eq=False, kw_only=True)
class Stops(Result):
    """Where the trainings from one start are stopped.

    Attributes:
        network: what was trained.
        start: its number.
        methods: names.
        stops: names.
        splits: of the data.
        points: one for each stop of each method.
        loss: there, of each split.
        round: that it is of, 0 at the start.
        evaluations: passes over the training data of the whole training.
        seconds: that it took.
    """

    network: str
    start: int
    methods: tuple[str, ...]
    stops: tuple[str, ...]
    splits: tuple[str, ...]
    points: np.ndarray = axes("method", "stop", "parameter")
    loss: np.ndarray = axes("method", "stop", "split")
    round: np.ndarray = axes("method", "stop")
    evaluations: np.ndarray = axes("method")
    seconds: np.ndarray = axes("method")


@dataclass(frozen=True, eq=False, kw_only=True)
class Spread(Result):
    """How the ends of all starts lie to each other.

    Attributes:
        network: what was trained.
        methods: names.
        stops: names.
        splits: of the data.
        loss: at each point, of each split.
        round: that it is of.
        evaluations: passes over the training data of each training.
        seconds: of each training.
        sigma: standard deviation of the coordinates of each point.
        norm: of each point.
        radius: distance of each point to the mean of both methods' means.
        apart: distance between the means of both methods.
        component: of each point, of a kernel PCA of both methods' points.
        explained: share of the variance in feature space of each component.
    """

    network: str
    methods: tuple[str, ...]
    stops: tuple[str, ...]
    splits: tuple[str, ...]
    loss: np.ndarray = axes("start", "method", "stop", "split")
    round: np.ndarray = axes("start", "method", "stop")
    evaluations: np.ndarray = axes("start", "method")
    seconds: np.ndarray = axes("start", "method")
    sigma: np.ndarray = axes("start", "method", "stop")
    norm: np.ndarray = axes("start", "method", "stop")
    radius: np.ndarray = axes("start", "method", "stop")
    apart: np.ndarray = axes("stop")
    component: np.ndarray = axes("start", "method", "stop", "component")
    explained: np.ndarray = axes("stop", "component")


@dataclass(frozen=True, eq=False, kw_only=True)
class Walls(Result):
    """How high the training loss is on ways between two starts' ends.

    Attributes:
        network: what was trained.
        methods: names.
        stops: names.
        ways: names of the ways from one end to the other.
        quantities: names of what is known of a way.
        value: of each.
        distance: between the two ends.
        aligned: the same with units put in order.
        gradients: of the training loss that each way took.
        seconds: that each took.
    """

    network: str
    methods: tuple[str, ...]
    stops: tuple[str, ...]
    ways: tuple[str, ...]
    quantities: tuple[str, ...]
    value: np.ndarray = axes("quantity", "method", "stop", "way")
    distance: np.ndarray = axes("method", "stop")
    aligned: np.ndarray = axes("method", "stop")
    gradients: np.ndarray = axes("method", "stop", "way")
    seconds: np.ndarray = axes("method", "stop", "way")


@dataclass(frozen=True, eq=False, kw_only=True)
class Topography(Result):
    """The walls between the minima of two methods, compared pair by pair.

    Attributes:
        network: what was trained.
        methods: names; differences are those of the first less the second.
        stops: names.
        splits: of the data.
        ways: names.
        quantities: names.
        loss: at each point, of each split.
        round: that it is of.
        sigma: standard deviation of the coordinates of each point.
        norm: of each point.
        radius: distance of each point to the mean of both methods' means.
        apart: distance between the means of both methods.
        component: of each point, of a kernel PCA of both methods' points.
        explained: share of the variance in feature space of each component.
        by: what the methods could be told apart by, names.
        separated: how often one of the first method has the larger (or the smaller) of it than one
            of the second: area under the ROC curve, from 0.5 to 1.
        ends: the two starts of each pair.
        value: of each quantity of each pair.
        distance: between the ends of a pair.
        mean: over pairs.
        difference: mean over pairs, first method less second.
        low: lower end of its interval, over starts drawn anew.
        high: upper end of it.
        published_loss: mean loss that is published; NaN where none is.
        published_sigma: the same of sigma.
        gradients: mean over pairs that a way took.
        seconds: the same.
        confidence: of the intervals.
        notes: what has to be known to read the numbers.
        conclusion: whether the walls differ at equal training loss.
    """

    network: str
    methods: tuple[str, ...]
    stops: tuple[str, ...]
    splits: tuple[str, ...]
    ways: tuple[str, ...]
    quantities: tuple[str, ...]
    loss: np.ndarray = axes("start", "method", "stop", "split")
    round: np.ndarray = axes("start", "method", "stop")
    sigma: np.ndarray = axes("start", "method", "stop")
    norm: np.ndarray = axes("start", "method", "stop")
    radius: np.ndarray = axes("start", "method", "stop")
    apart: np.ndarray = axes("stop")
    component: np.ndarray = axes("start", "method", "stop", "component")
    explained: np.ndarray = axes("stop", "component")
    by: tuple[str, ...]
    separated: np.ndarray = axes("stop", "by")
    ends: np.ndarray = axes("pair", "end")
    value: np.ndarray = axes("quantity", "pair", "method", "stop", "way")
    distance: np.ndarray = axes("pair", "method", "stop")
    mean: np.ndarray = axes("quantity", "method", "stop", "way")
    difference: np.ndarray = axes("quantity", "stop", "way")
    low: np.ndarray = axes("quantity", "stop", "way")
    high: np.ndarray = axes("quantity", "stop", "way")
    published_loss: np.ndarray = axes("method", "stop", "split")
    published_sigma: np.ndarray = axes("method", "stop")
    gradients: np.ndarray = axes("method", "stop", "way")
    seconds: np.ndarray = axes("method", "stop", "way")
    confidence: float
    notes: tuple[str, ...]
    conclusion: str

    def said(self) -> Said:
        """Whether the walls differ, and over how many pairs."""
        return self.conclusion, f"{len(self.ends)} pairs of {len(self.loss)} starts"

    def tables(self) -> Sequence[Table]:
        """Where the methods end, and the barriers by every way."""
        return [self._ends(), *(self._walls(k) for k in range(len(self.quantities)))]

    def _ends(self) -> Table:
        names = [f"{split} loss" for split in self.splits]
        columns = (
            "stop", "method", *(each for name in names for each in (name, "published")), "sigma",
            "published", "radius", "round",
        )  # fmt: skip
        rows: list[Sequence[Any]] = []
        for k, stop in enumerate(self.stops):
            for i, method in enumerate(self.methods):
                told = self.published_loss[i, k]
                losses = zip(self.loss[:, i, k].mean(0), told, strict=True)
                rows.append((
                    stop, method, *(number(each, ".3g") for pair in losses for each in pair),
                    *(number(each, ".3g") for each in (
                        self.sigma[:, i, k].mean(), self.published_sigma[i, k],
                        self.radius[:, i, k].mean(),
                    )), f"{np.median(self.round[:, i, k]):g}",
                ))  # fmt: skip
        return f"{self.network}, means over {len(self.loss)} starts", columns, rows

    def _walls(self, k: int) -> Table:
        columns = (
            "stop", "way", *self.methods, "less", f"{100 * self.confidence:g} %"
        )  # fmt: skip
        rows: list[Sequence[Any]] = [
            (
                stop, way, *(number(each, ".3g") for each in self.mean[k, :, i, j]),
                f"{self.difference[k, i, j]:+.3g}", interval(self.low[k, i, j], self.high[k, i, j]),
            )
            for i, stop in enumerate(self.stops)
            for j, way in enumerate(self.ways)
        ]  # fmt: skip
        title = f"{self.network}, {self.quantities[k]}, means over {len(self.ends)} pairs"
        return title, columns, rows
