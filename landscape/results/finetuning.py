"""What training runs ended with, and how methods of equal budgets compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes
from landscape.results.wording import interval, number


@dataclass(frozen=True, eq=False, kw_only=True)
class Ending(Result):
    """What one training run ended with.

    Attributes:
        task: what was trained.
        method: how.
        rate: step length; 0 where no step was taken.
        seed: of the run.
        scores: what the end is worth: names.
        score: of each.
        measures: of flatness at the end: names.
        units: of each measure.
        value: of each measure.
        low: as in `landscape.results.Panel`.
        high: as in `landscape.results.Panel`.
        plane: the loss over a plane through the end, where one was asked for.
        gradients: of mini-batches that all members took together; judging counts, too.
        seconds: that the training took.
    """

    task: str
    method: str
    rate: float
    seed: int
    scores: tuple[str, ...]
    score: np.ndarray = axes("score")
    measures: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    value: np.ndarray | None = axes("measure", optional=True)
    low: np.ndarray | None = axes("measure", optional=True)
    high: np.ndarray | None = axes("measure", optional=True)
    plane: np.ndarray | None = axes("alpha", "beta", optional=True)
    gradients: float
    seconds: float

    def __getitem__(self, score: str) -> float:
        """The value of a score, or of a measure.

        Raises:
            KeyError: if there is none of this name.
        """
        if score in self.scores:
            return float(self.score[self.scores.index(score)])
        if self.value is None or score not in self.measures:
            raise KeyError(score)
        return float(self.value[self.measures.index(score)])


@dataclass(frozen=True, eq=False, kw_only=True)
class Finetuning(Result):
    """Test accuracies of methods of equal budgets that begin at the same trained weights.

    Accuracies and differences are in percent. Differences are those of runs of one seed, and what
    is said of them is NaN for the reference itself.

    Attributes:
        networks: names.
        methods: names; the reference is among them.
        reference: the method that the others are compared with.
        seeds: of the runs.
        rate: step length that was chosen on the validation images.
        measures: of flatness at the ends: names, and "moved": how far they are from the start over
            its norm.
        sharpness: of each measure, of the runs at that step length.
        planes: the loss over a plane through the end of the first seed.
        accuracy: on the test images.
        mean: of the accuracy over the seeds.
        deviation: standard deviation over the seeds.
        difference: mean over the seeds of the accuracy less that of the reference.
        low: lower end of its t-interval.
        high: upper end of it.
        p_value: of the paired t test.
        p_holm: the same, corrected for all comparisons of the study by Holm's method.
        p_same: of the two one-sided tests that the difference is no smaller than the margin;
            corrected likewise.
        published: mean accuracy that is published; NaN where none is.
        published_deviation: its standard deviation.
        gradients: of mini-batches, mean over the seeds.
        seconds: of a run, mean over the seeds.
        budget: of gradients.
        margin: differences below it count as none.
        confidence: of the intervals and tests.
        notes: what has to be known to read the numbers.
        conclusion: which methods differ, which are the same, and of which neither is known.
    """

    networks: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str
    seeds: np.ndarray = axes("seed")
    rate: np.ndarray = axes("network", "method")
    measures: tuple[str, ...] = ()
    sharpness: np.ndarray | None = axes("network", "method", "seed", "measure", optional=True)
    planes: np.ndarray | None = axes("network", "method", "alpha", "beta", optional=True)
    accuracy: np.ndarray = axes("network", "method", "seed")
    mean: np.ndarray = axes("network", "method")
    deviation: np.ndarray = axes("network", "method")
    difference: np.ndarray = axes("network", "method")
    low: np.ndarray = axes("network", "method")
    high: np.ndarray = axes("network", "method")
    p_value: np.ndarray = axes("network", "method")
    p_holm: np.ndarray = axes("network", "method")
    p_same: np.ndarray = axes("network", "method")
    published: np.ndarray = axes("network", "method")
    published_deviation: np.ndarray = axes("network", "method")
    gradients: np.ndarray = axes("network", "method")
    seconds: np.ndarray = axes("network", "method")
    budget: float
    margin: float
    confidence: float
    notes: tuple[str, ...]
    conclusion: str

    def said(self) -> Said:
        """How many comparisons ended how, and over how many seeds."""
        places = np.ndindex(len(self.networks), len(self.methods))
        found = [self.verdict(*place) for place in places]
        told = ", ".join(f"{found.count(end)} {end}" for end in ("differs", "same", "open"))
        return f"compared with {self.reference}: {told}", f"{len(self.seeds)} seeds"

    def tables(self) -> Sequence[Table]:
        """The methods, what they took, and how flat it is where they end, for each network."""
        columns = (
            "method", "test accuracy", "published", f"less {self.reference}",
            f"{100 * self.confidence:g} %", "p (Holm)", f"p (beyond {self.margin:g})",
        )  # fmt: skip
        found: list[Table] = []
        for k, network in enumerate(self.networks):
            title = f"{network}, % over {len(self.seeds)} seeds"
            found.append((title, columns, self._rows(k)))
            took = ("method", "rate", "gradients", "seconds")
            found.append((f"{network}, means of what it took", took, self._cost(k)))
            if self.sharpness is not None:
                title = f"{network}, medians of flatness, and of how far it moved"
                middle = np.median(self.sharpness[k], axis=1)
                rows = zip(self.methods, middle, strict=True)
                flat: list[Sequence[Any]] = [
                    (name, *(f"{v:.3g}" for v in row)) for name, row in rows
                ]
                found.append((title, ("method", *self.measures), flat))
        return found

    def verdict(self, network: int, method: int) -> str:
        """``differs``, ``same`` (to within the margin) or ``open``; empty for the reference.

        A small difference that is certain can be both; then it is said to differ.
        """
        if self.methods[method] == self.reference:
            return ""
        level = 1 - self.confidence
        if self.p_holm[network, method] < level:
            return "differs"
        return "same" if self.p_same[network, method] < level else "open"

    def _cost(self, k: int) -> list[Sequence[Any]]:
        columns = self.rate[k], self.gradients[k], self.seconds[k]
        rows = zip(self.methods, *columns, strict=True)
        return [(name, f"{r:g}", f"{g:.0f}", f"{s:.0f}") for name, r, g, s in rows]

    def _rows(self, k: int) -> list[Sequence[Any]]:
        return [
            (
                name,
                _spread(self.mean[k, i], self.deviation[k, i]),
                _spread(self.published[k, i], self.published_deviation[k, i]),
                number(self.difference[k, i], "+.2f"),
                interval(self.low[k, i], self.high[k, i], "+.2f"),
                number(self.p_holm[k, i], ".2g"),
                number(self.p_same[k, i], ".2g"),
            )
            for i, name in enumerate(self.methods)
        ]


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.2f} ± {number(deviation, '.2f')}" if mean == mean else "-"
