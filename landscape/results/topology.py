"""Minima, and the heights at which their valleys meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class MergeTree(Result):
    """The valleys of a landscape: each begins at a minimum and ends where it meets a lower one.

    The bars from ``birth`` to ``death`` are the loss barcode, the homology of dimension 0 of
    the sublevel sets; with ``into`` they are a disconnectivity graph. The lowest minimum comes
    first. A valley that meets no lower one has an infinite ``death``, and ``into`` is -1.

    Attributes:
        names: of the minima.
        birth: loss at each minimum, ascending.
        death: the lowest height at which its valley meets that of a lower minimum.
        into: which valley it is part of from there on, named by its lowest minimum.
        coordinates: what ``place`` and ``saddle`` are told in.
        place: where the minimum is.
        saddle: where the valleys meet; NaN where they do not.
        dropped: minima whose bars are no longer than ``least``.
        least: bars up to this length are left out.
        source: what the landscape is.
    """

    names: tuple[str, ...]
    birth: np.ndarray = axes("minimum")
    death: np.ndarray = axes("minimum")
    into: np.ndarray = axes("minimum")
    coordinates: tuple[str, ...] = ()
    place: np.ndarray | None = axes("minimum", "coordinate", optional=True)
    saddle: np.ndarray | None = axes("minimum", "coordinate", optional=True)
    dropped: int = 0
    least: float = 0.0
    source: str = ""

    @property
    def persistence(self) -> np.ndarray:
        """(minimum,), how far one has to climb out of each valley to come to a lower minimum."""
        return self.death - self.birth

    @property
    def left_out(self) -> str:
        """How many minima were left out, and why; empty for none."""
        wall = f"with walls up to {self.least:.5g}" if self.least else "without a wall"
        return f"{self.dropped} {wall} left out" if self.dropped else ""

    def said(self) -> Said:
        """How many minima there are, and how high the walls between them."""
        lower = self.persistence[np.isfinite(self.death)]
        walls = f", walls {lower.min():.5g} to {lower.max():.5g} high" if lower.size else ""
        lost = f"; {self.left_out}" if self.dropped else ""
        count = len(self.birth)
        return f"{count} {'minimum' if count == 1 else 'minima'}{walls}{lost}", self.source

    def tables(self) -> Sequence[Table]:
        """The bars."""
        rows: list[Sequence[Any]] = [
            [name, f"{low:.6g}", f"{high:.6g}", f"{high - low:.6g}",
             self.names[into] if into >= 0 else "none"]
            for name, low, high, into in zip(
                self.names, self.birth, self.death, self.into, strict=True
            )
        ]  # fmt: skip
        columns = ("minimum", "loss", "meets a lower one at", "wall", "which")
        return [("Valleys", columns, rows)]
