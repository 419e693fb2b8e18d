"""How optimisers end, how flat it is there, and how soon they got there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Optimisers(Result):
    """Networks trained by several optimisers with equal budgets, and ratios between these.

    Attributes:
        task: what was trained.
        networks: names.
        methods: names.
        seeds: of the runs.
        scores: what was measured of each run.
        value: of each score.
        pairs: which two methods are compared: "one / other".
        compared: the scores that are compared.
        ratio: geometric mean over the seeds of the first method's score over that of the second.
        low: lower end of its t-interval.
        high: upper end of it.
        p_holm: of the paired t test of the logarithms, corrected for all comparisons by Holm's
            method.
        notes: what has to be known to read the numbers.
        answers: to the questions of the study, in words.
        confidence: of the intervals and tests.
    """

    task: str
    networks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: np.ndarray = axes("seed")
    scores: tuple[str, ...]
    value: np.ndarray = axes("network", "method", "seed", "score")
    pairs: tuple[str, ...]
    compared: tuple[str, ...]
    ratio: np.ndarray = axes("network", "pair", "compared")
    low: np.ndarray = axes("network", "pair", "compared")
    high: np.ndarray = axes("network", "pair", "compared")
    p_holm: np.ndarray = axes("network", "pair", "compared")
    notes: tuple[str, ...]
    answers: str
    confidence: float

    def said(self) -> Said:
        """The answers, and over how many seeds."""
        return self.answers, f"{len(self.seeds)} seeds"

    def tables(self) -> Sequence[Table]:
        """The mean scores and the ratios, two tables a network."""
        return [table for k in range(len(self.networks)) for table in self._of(k)]

    def _of(self, k: int) -> Iterator[Table]:
        """The tables of one network."""
        mean = self.value[k].mean(axis=1)
        scores: list[Sequence[Any]] = [
            (score, *(f"{number:.4g}" for number in mean[:, j]))
            for j, score in enumerate(self.scores)
        ]
        title = f"{self.networks[k]} on {self.task}, means over {len(self.seeds)} seeds"
        yield title, ("score", *self.methods), scores
        ratios: list[Sequence[Any]] = [
            (
                pair,
                score,
                f"{self.ratio[k, i, j]:.3g}",
                f"{self.low[k, i, j]:.3g} to {self.high[k, i, j]:.3g}",
                f"{self.p_holm[k, i, j]:.2g}",
            )
            for i, pair in enumerate(self.pairs)
            for j, score in enumerate(self.compared)
        ]
        columns = ("methods", "score", "ratio", f"{100 * self.confidence:g} %", "p (Holm)")
        yield f"{self.networks[k]}, ratios", columns, ratios
