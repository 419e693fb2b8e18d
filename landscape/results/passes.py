"""Paths on functions of two variables, beside the heights that are known exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Crossings(Result):
    """How high the paths of several finders are between minima of a function.

    Attributes:
        function: name.
        finders: names.
        names: of the minima.
        loss: at the minima.
        pairs: two minima each.
        line: height of the straight line.
        lowest: the lowest height that any path has, by the saddles.
        height: of the path that was found.
        chained: the lowest height over chains of the paths that were found, by any minima between.
        gradients: that it took.
        penalties: of the published path finder; none but on its own landscape.
        powers: of the loss in its sum.
        published: heights as printed, for the penalties.
        repeated: heights on our dense grid, for the same settings.
    """

    function: str
    finders: tuple[str, ...]
    names: tuple[str, ...]
    loss: np.ndarray = axes("minimum")
    pairs: np.ndarray = axes("pair", "end")
    line: np.ndarray = axes("pair")
    lowest: np.ndarray = axes("pair")
    height: np.ndarray = axes("finder", "pair")
    chained: np.ndarray = axes("pair")
    gradients: np.ndarray = axes("finder", "pair")
    penalties: np.ndarray = axes("penalty")
    powers: tuple[str, ...]
    published: np.ndarray = axes("penalty")
    repeated: np.ndarray = axes("power", "penalty")

    @property
    def above(self) -> np.ndarray:
        """(finder, pair), how far the paths are above the lowest there is."""
        return self.height - self.lowest

    def said(self) -> Said:
        """How far chains of paths, and the paths of each finder, are above the pass, at most."""
        if not len(self.pairs):
            return f"{self.function}: a single minimum", "no path"
        best = float((self.chained - self.lowest).max())
        each = ", ".join(
            f"{name} {row.max():.2g}" for name, row in zip(self.finders, self.above, strict=True)
        )
        return (
            f"{self.function}: chains of paths are at most {best:.2g} above the pass, single paths "
            f"{each}", "1 pair" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs",
        )  # fmt: skip

    def tables(self) -> Sequence[Table]:
        """Heights of each pair, and the published ones."""
        rows: list[Sequence[Any]] = [
            (f"{self.names[int(i)]} - {self.names[int(j)]}", f"{self.lowest[k]:.6g}",
             f"{self.line[k]:.6g}", *(f"{height:.6g}" for height in self.height[:, k]),
             f"{self.chained[k]:.6g}")
            for k, (i, j) in enumerate(self.pairs)
        ]  # fmt: skip
        columns = ("minima", "lowest by the saddles", "straight line", *self.finders, "chains")
        tables: list[Table] = [(f"Heights on {self.function}", columns, rows)]
        if len(self.penalties):
            told: list[Sequence[Any]] = [
                (f"{penalty:g}", f"{self.published[k]:.3f}",
                 *(f"{height:.6f}" for height in self.repeated[:, k]))
                for k, penalty in enumerate(self.penalties)
            ]  # fmt: skip
            sums = [f"sum of f^{power}" for power in self.powers]
            tables.append(("Sines as published", ("lambda", "published", *sums), told))
        return tables
