"""Do noisy, hopping and sharpness-aware methods end at other minima than gradient descent?

Question: where do the eight methods of Table 1 of Inan, Liu & Shehu, "Beyond Single-Model Views for
Deep Learning" (AAAI 2024), end on its three functions, and does the table come out again?

Expected: with small steps and small noise every method ends in proportion to the areas of the
basins of gradient flow, so the rows hardly differ. Sharpness-aware minimisation ends in a 2-cycle
around a minimum and is "else" where that is wider than the tolerance. The table's rows come out for
Himmelblau's function and the three-hump camel; the row of the six-hump camel does not.

n: 500 restarts, as published; all methods start from the same points. 20,000 restarts narrow the
intervals sixfold.

Cost: 24 rows of 500 restarts take about half a minute on one processor core.
"""

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chisquare

from analyses import stationary
from analyses.published import NAMES, compared, remarks
from analyses.stationary import basins, wilson
from cnognp import METHODS
from landscape.functions import CATALOGUE
from landscape.objective import Analytic
from landscape.results import Distribution, Stationary, provenance

FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel")


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        functions: names in `landscape.functions.CATALOGUE`.
        methods: names in `cnognp.METHODS`.
        restarts: of each method on each function.
        seed: of the starts, which all methods share, and of the methods.
        lr: step length of every method that has one; the function's own where None.
        rho: radius of noise and of sharpness-aware minimisation.
        budget: gradient evaluations of each restart. Where None, methods take as many steps as
            gradient descent needs; basin hopping takes as many gradients.
        tolerance: largest distance from a minimum that counts as being there.
        gradient_tolerance: largest gradient norm that counts as having settled.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    functions: tuple[str, ...] = FUNCTIONS
    methods: tuple[str, ...] = tuple(NAMES)
    restarts: int = 500
    seed: int = 0
    lr: float | None = None
    rho: float = 0.05
    budget: int | None = None
    tolerance: float = 0.1
    gradient_tolerance: float = 1e-3

    def __post_init__(self):
        for what in ("functions", "methods"):
            names = getattr(self, what)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{what} must be different names, at least one, got {names}")
        for function in self.functions:
            for method in self.methods:
                self.row(function, method)

    def row(self, function: str, method: str) -> stationary.Config:
        """The configuration of one method on one function."""
        keywords = inspect.signature(METHODS[method]).parameters if method in METHODS else {}
        options = {"lr": self.lr, "rho": self.rho}
        return stationary.Config(
            function=function,
            method=method,
            restarts=self.restarts,
            budget=self.budget,
            method_options={
                key: option
                for key, option in options.items()
                if key in keywords and option is not None
            },
            seed=self.seed,
            tolerance=self.tolerance,
            gradient_tolerance=self.gradient_tolerance,
            grid=2,
        )


class Cell(NamedTuple):
    """Restarts of one method on one function: how many ended where, and what that took."""

    counts: np.ndarray
    evaluations: int
    unsettled: int
    diverged: int


def study(config: Config, progress: Callable[[str], None] | None = None) -> Distribution:
    """Shares of restarts at each minimum beside the published ones, with 95 % Wilson intervals.

    All methods share their starts, so that rows deviate from the basins together; ``moved`` says
    how many restarts end elsewhere than those of the first method from the same start.
    ``p_value`` compares the counts at the minima, "else" left out, with the exact areas of the
    basins. ``deviation`` is the difference from the published share in standard errors of a
    difference between two samples, ours and one of 500.

    Args:
        config: what is run.
        progress: called with the name of a row when it is done.
    """
    began = time.perf_counter()
    cells, labels = [], []
    for method in config.methods:
        rows = []
        for function in config.functions:
            rows.append(stationary.study(config.row(function, method)))
            if progress is not None:
                progress(f"{method} on {function}")
        cells.append([_cell(row) for row in rows])
        labels.append([row.label for row in rows])
    moved = np.array([
        [(row != first).mean() for row, first in zip(rows, labels[0], strict=True)]
        for rows in labels
    ])
    functions = [CATALOGUE[name] for name in config.functions]
    fields = tabulated(functions, cells)
    fields |= compared(functions, config.methods, fields["share"], config.restarts)
    return Distribution(
        functions=config.functions,
        methods=tuple(NAMES.get(name, name) for name in config.methods),
        **fields,
        moved=moved,
        tolerance=config.tolerance,
        gradient_tolerance=config.gradient_tolerance,
        notes=remarks(config.functions, config.methods, fields),
        conclusion=_conclusion(config, fields, moved),
        provenance=provenance(configuration=asdict(config), seconds=time.perf_counter() - began),
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
        "order_largest": np.concatenate([np.append(column, -1) for column in orders[0]]),
        "order_trace": np.concatenate([np.append(column, -1) for column in orders[1]]),
        **_flattest(cells, orders, restarts),
        "evaluations": np.array([[cell.evaluations / restarts for cell in row] for row in cells]),
        "unsettled": np.array([[cell.unsettled for cell in row] for row in cells]),
        "diverged": np.array([[cell.diverged for cell in row] for row in cells]),
        "restarts": restarts,
    }


def order(sharpness: np.ndarray) -> np.ndarray:
    """The place of each entry from the smallest, 0, up; equal ones, to a millionth, share one."""
    ascending = np.argsort(sharpness, kind="stable")
    steps = np.diff(sharpness[ascending]) > 1e-6 * np.abs(sharpness).max()
    places = np.empty(len(sharpness), dtype=int)
    places[ascending] = np.concatenate([[0], np.cumsum(steps)])
    return places


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


def _cell(row: Stationary) -> Cell:
    lost = row.provenance["unsettled"], row.provenance["diverged"]
    return Cell(row.counts, row.evaluations, *lost)


def _conclusion(config: Config, fields: dict[str, Any], moved: np.ndarray) -> str:
    """How much the methods differ from the first, and that from the basins, in numbers."""
    names = [NAMES.get(name, name) for name in config.methods]
    apart = ", ".join(
        f"{name} {100 * row.min():.2g} to {100 * row.max():.2g} %"
        for name, row in zip(names[1:], moved[1:], strict=True)
    )
    p_values = ", ".join(
        f"{p:.2g} on {function}"
        for p, function in zip(fields["p_value"][0], config.functions, strict=True)
    )
    compared = f"From the same starts, restarts end elsewhere than with {names[0]}: {apart}. "
    return (
        (compared if apart else "")
        + f"{names[0]} against the areas of the basins (chi-square): p = {p_values}. All of this "
        "holds for these step lengths, radii and budgets and says nothing about others."
    )
