"""Tables from counts: what several methods on several functions have in common, side by side."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chisquare

from analyses.basins import basins
from analyses.outcomes import mirror_p_value, mirror_pairs, order, wilson
from landscape.objective import Analytic
from landscape.results import Distribution


class Cell(NamedTuple):
    """Restarts of one method on one function: how many ended where, and what that took."""

    counts: np.ndarray
    evaluations: int
    unsettled: int
    diverged: int


def cell_of(found: Distribution) -> Cell:
    """The cell of a table that has a single one."""
    return Cell(
        found.counts[0],
        round(found.evaluations.item() * found.restarts),
        int(found.unsettled.item()),
        int(found.diverged.item()),
    )


def tabulated(functions: Sequence[Analytic], cells: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """Fields of a `Distribution` that follow from counts.

    Args:
        functions: one for each column of cells.
        cells: one row for each method.
    """
    restarts = int(cells[0][0].counts.sum())
    counts = np.array([np.concatenate([cell.counts for cell in row]) for row in cells])
    low, high = (ends.reshape(counts.shape) for ends in wilson(counts.ravel(), restarts))
    largest = [np.array([minimum.eigenvalues[0] for minimum in f.minima]) for f in functions]
    traces = [np.array([sum(minimum.eigenvalues) for minimum in f.minima]) for f in functions]
    orders = [[order(column) for column in measure] for measure in (largest, traces)]
    sizes = [len(f.minima) + 1 for f in functions]
    mirrored = [mirror_pairs(f) for f in functions]
    areas = [basins(f) or (math.nan,) * len(f.minima) for f in functions]
    return {
        "outcomes": tuple(m for f in functions for m in (*(m.name for m in f.minima), "else")),
        "function": np.repeat(np.arange(len(functions)), sizes),
        "counts": counts,
        "share": counts / restarts,
        "low": low,
        "high": high,
        "basin": np.concatenate([(*area, math.nan) for area in areas]),
        "p_value": np.array([
            [_p_value(cell.counts[:-1], area) for cell, area in zip(row, areas, strict=True)]
            for row in cells
        ]),
        "mirror_p": np.array([
            [mirror_p_value(cell.counts, pairs) for cell, pairs in zip(row, mirrored, strict=True)]
            for row in cells
        ]),
        "order_largest": np.concatenate([np.append(column, -1) for column in orders[0]]),
        "order_trace": np.concatenate([np.append(column, -1) for column in orders[1]]),
        **_flattest(cells, orders, restarts),
        "evaluations": np.array([[cell.evaluations / restarts for cell in row] for row in cells]),
        "unsettled": np.array([[cell.unsettled for cell in row] for row in cells]),
        "diverged": np.array([[cell.diverged for cell in row] for row in cells]),
        "restarts": restarts,
    }


def _flattest(
    cells: Sequence[Sequence[Cell]], orders: list[list[np.ndarray]], restarts: int
) -> dict[str, np.ndarray]:
    hits = np.array([
        [
            [cell.counts[:-1][places[k] == 0].sum() for places in orders]
            for k, cell in enumerate(row)
        ]
        for row in cells
    ])
    low, high = (ends.reshape(hits.shape) for ends in wilson(hits.ravel(), restarts))
    return {"flattest": hits / restarts, "flattest_low": low, "flattest_high": high}


def _p_value(counts: np.ndarray, areas: Sequence[float]) -> float:
    expected = np.array(areas) / np.sum(areas) * counts.sum()
    if not expected.min() > 0:
        return math.nan
    return float(chisquare(counts, expected).pvalue)
