"""What the members of a population are worth together: averages of outputs and of weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes
from landscape.results.wording import number


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensembles(Result):
    """Scores of members, of their ensemble and of their soups, and how the members differ.

    Attributes:
        models: names: the members, the best on the validation split first, then the averages.
        members: how many of them are members.
        splits: of the data.
        scores: names.
        score: of each model on each split.
        difference: mean over samples of loss and of accuracy, less those of the best member.
        low: lower end of its bootstrap interval over samples.
        high: upper end of it.
        compared: names of what is compared.
        grown: scores of the ensembles of the first 1, 2 and more members.
        gap: mean loss of the members less that of the ensemble.
        divergence: mean KL divergence of the members from the ensemble.
        disagreement: share of predictions in which two members differ.
        distance: between two members.
        aligned_distance: the same with units in the order closest to the best member.
        cosine: of the angle between two members as vectors.
        chosen: the members in the greedy soup.
        criterion: what members are ranked and soups are chosen by.
        confidence: of the intervals.
        notes: what has to be known to read the numbers.
    """

    models: tuple[str, ...]
    members: int
    splits: tuple[str, ...]
    scores: tuple[str, ...]
    score: np.ndarray = axes("split", "model", "score")
    compared: tuple[str, ...]
    difference: np.ndarray = axes("split", "model", "compared")
    low: np.ndarray = axes("split", "model", "compared")
    high: np.ndarray = axes("split", "model", "compared")
    grown: np.ndarray = axes("split", "size", "score")
    gap: np.ndarray = axes("split")
    divergence: np.ndarray = axes("split")
    disagreement: np.ndarray = axes("split", "member", "member")
    distance: np.ndarray = axes("member", "member")
    aligned_distance: np.ndarray | None = axes("member", "member", optional=True)
    cosine: np.ndarray = axes("member", "member")
    chosen: tuple[str, ...]
    criterion: str
    confidence: float
    notes: tuple[str, ...] = ()

    def said(self) -> Said:
        """How many members there are, and how the ensemble compares with the best."""
        loss = self.score[-1, (0, self.members), 0]
        return (
            f"{self.splits[-1]} loss {loss[1]:.4g}, best member {loss[0]:.4g}",
            f"{self.members} members, greedy soup of {len(self.chosen)}",
        )

    def tables(self) -> Sequence[Table]:
        """The scores on each split, the differences from the best member, and the diversity."""
        found: list[Table] = []
        for k, split in enumerate(self.splits):
            level = f"{100 * self.confidence:g} %"
            columns = ("model", *self.scores, *(
                word for name in self.compared for word in (f"{name} less best", level)
            ))  # fmt: skip
            rows: list[Sequence[Any]] = [
                (name, *(number(each, ".4g") for each in self.score[k, i]), *(
                    word for j in range(len(self.compared)) for word in self._interval(k, i, j)
                ))
                for i, name in enumerate(self.models)
            ]  # fmt: skip
            found.append((split, columns, rows))
        pairs = np.triu_indices(self.members, 1)
        rows = [
            (f"disagreement, {split}", number(self.disagreement[k][pairs].mean(), ".4g"))
            for k, split in enumerate(self.splits)
        ]
        for name, column in (("divergence", self.divergence), ("gap of the loss", self.gap)):
            rows += [
                (f"{name}, {split}", number(column[k], ".4g"))
                for k, split in enumerate(self.splits)
            ]
        rows += [("distance", number(self.distance[pairs].mean(), ".4g"))]
        if self.aligned_distance is not None:
            rows += [
                ("distance, units in order", number(self.aligned_distance[pairs].mean(), ".4g"))
            ]
        rows += [("cosine", number(self.cosine[pairs].mean(), ".4g"))]
        found.append(("Diversity, means over members or pairs", ("quantity", "value"), rows))
        return found

    def _interval(self, k: int, i: int, j: int) -> tuple[str, str]:
        if i < self.members:
            return "", ""
        ends = (column[k, i, j] for column in (self.low, self.high))
        low, high = (f"{end:+.3g}" for end in ends)
        return f"{self.difference[k, i, j]:+.3g}", f"{low} to {high}"
