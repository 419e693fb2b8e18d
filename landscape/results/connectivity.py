"""How high the walls between minima are, pair by pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Connectivity(Result):
    """Paths between all pairs of some minima, or between those of a spanning tree.

    Numbers of a pair are in both triangles; those of pairs that no path was looked for are NaN. A
    height is the largest loss that was found on a path: the path is known, so the lowest
    height between the two is at most a little above it, and may be far below.

    Attributes:
        names: of the minima.
        groups: names of what the minima belong to.
        group: index of each one's group.
        loss: at each minimum.
        height: the largest loss on the path between two.
        barrier: how far that is above the mean of both ends (Frankle et al. 2020).
        chord_barrier: the largest excess over the chord between both (Entezari et al. 2022).
        distance: between the two as they are.
        aligned_distance: between the first and the second with its units put in order.
        means: of the barriers within groups and between two, by ``pairs``.
        low: lower end of the interval of each mean, over minima drawn anew.
        high: upper end of it.
        count: pairs that each mean is over.
        pairs: which groups a mean is of.
        finder: what found the paths.
        align: by what units were put in order; empty where they stay.
        statistics: which BatchNorm statistics were used at each point.
        confidence: of the intervals.
        notes: what has to be known to read the numbers.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    group: np.ndarray = axes("minimum")
    loss: np.ndarray = axes("minimum")
    height: np.ndarray = axes("minimum", "minimum")
    barrier: np.ndarray = axes("minimum", "minimum")
    chord_barrier: np.ndarray = axes("minimum", "minimum")
    distance: np.ndarray = axes("minimum", "minimum")
    aligned_distance: np.ndarray = axes("minimum", "minimum")
    means: np.ndarray = axes("pair")
    low: np.ndarray = axes("pair")
    high: np.ndarray = axes("pair")
    count: np.ndarray = axes("pair")
    pairs: tuple[str, ...]
    finder: str
    align: str = ""
    statistics: str = ""
    confidence: float
    notes: tuple[str, ...] = ()

    def said(self) -> Said:
        """How high the barriers are, and of what paths."""
        known = self.barrier[np.triu_indices(len(self.names), 1)]
        known = known[~np.isnan(known)]
        order = f", units in order by {self.align}" if self.align else ""
        said = (
            f"barriers {known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}"
            if known.size else "no pair"
        )  # fmt: skip
        return said, f"{known.size} pairs, {self.finder} paths{order}"

    def tables(self) -> Sequence[Table]:
        """The mean barriers of groups."""
        rows: list[Sequence[Any]] = [
            [pair, int(count), f"{mean:.4g}",
             f"{low:.4g} to {high:.4g}" if np.isfinite(low) else "-"]
            for pair, count, mean, low, high in zip(
                self.pairs, self.count, self.means, self.low, self.high, strict=True
            )
        ]  # fmt: skip
        columns = ("minima of", "pairs", "mean barrier", f"{100 * self.confidence:g} %")
        return [("Barriers", columns, rows)]
