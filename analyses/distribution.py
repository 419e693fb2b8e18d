"""Do noisy, hopping and sharpness-aware methods end at other minima than gradient descent?

Question: where do the eight methods of Table 1 of Inan, Liu & Shehu, "Beyond Single-Model Views for
Deep Learning" (AAAI 2024), end on its three functions, and does the table come out again?

Expected: with small steps and small noise every method ends in proportion to the areas of the
basins of gradient flow, so the rows hardly differ. Sharpness-aware minimisation ends in a 2-cycle
around a minimum and is "else" where that is wider than the tolerance. The table's rows come out for
Himmelblau's function and the three-hump camel; the row of the six-hump camel does not.

n: 500 restarts, as published; all methods start from the same points. 20,000 restarts narrow the
intervals sixfold.

Cost: 24 rows of 500 restarts take about half a minute on one processor core, 20,000 restarts
three minutes and a half.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from analyses import stationary
from analyses.outcomes import beside_others
from analyses.published import NAMES, compared, remarks
from analyses.tabulation import Cell, tabulated
from cnognp import METHODS
from cnognp.workers import Unit, results_of
from landscape.functions import CATALOGUE
from landscape.results import Distribution, Maps, Stationary, provenance

FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel")

_SIDE = 101
"""Points along each side of the surfaces that maps are drawn on."""


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        functions: names of test functions; cnognp demo --help lists them.
        methods: names of methods; cnognp methods lists them.
        restarts: of each method on each function.
        members: particles in a swarm; other methods ignore it.
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
    members: int = 20
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
            members=self.members,
            budget=self.budget,
            method_options={
                key: option
                for key, option in options.items()
                if key in keywords and option is not None
            },
            seed=self.seed,
            tolerance=self.tolerance,
            gradient_tolerance=self.gradient_tolerance,
            grid=_SIDE,
        )


def study(config: Config, progress: Callable[[str], None] | None = None) -> Distribution:
    """Shares of restarts at each minimum beside the published ones, with 95 % Wilson intervals.

    `measured` and `distribution`, one after the other.

    Args:
        config: what is run.
        progress: called with the name of a row when it is done.
    """
    return distribution(config, measured(config, progress))


def units(config: Config) -> list[Unit]:
    """Every method on every function, one by one."""
    return [
        Unit(f"{method} on {function}", stationary.study, config.row(function, method))
        for method in config.methods
        for function in config.functions
    ]


def joined(config: Config, found: Sequence[Stationary]) -> dict[str, Distribution | Maps]:
    """The table and a map of each function, by name, of what the `units` found."""
    cells = _by_function(config, found)
    shown = {shown.function: shown for shown in maps(cells)}
    return {"distribution": distribution(config, cells), **shown}


def measured(
    config: Config, progress: Callable[[str], None] | None = None
) -> dict[str, list[Stationary]]:
    """For each function where the restarts of every method end, in the order of the methods.

    Args:
        config: what is run.
        progress: called with the name of a row when it is done.
    """
    return _by_function(config, results_of(units(config), progress=progress))


def _by_function(config: Config, found: Sequence[Any]) -> dict[str, list[Stationary]]:
    """The results of `units` by function."""
    return {
        name: list(found[k :: len(config.functions)]) for k, name in enumerate(config.functions)
    }


def maps(found: Mapping[str, Sequence[Stationary]]) -> list[Maps]:
    """For each function where the restarts of every method end, on one surface.

    Args:
        found: what `measured` found; the functions must have one or two coordinates.
    """
    return [_map(rows) for rows in found.values()]


def distribution(config: Config, found: Mapping[str, Sequence[Stationary]]) -> Distribution:
    """The table of what `measured` found.

    All methods share their starts, so that rows deviate from the basins together; ``moved`` says
    how many restarts end elsewhere than those of the first method from the same start.
    ``p_value`` compares the counts at the minima, "else" left out, with the exact areas of the
    basins, and ``mirror_p`` those of mirror images with each other. ``deviation`` is the difference
    from the published share in standard errors of a difference between two samples, ours and one of
    500.

    Args:
        config: what was run.
        found: where the restarts ended.
    """
    rows = [[found[f][i] for f in config.functions] for i in range(len(config.methods))]
    moved = np.array([
        [(cell.label != first.label).mean() for cell, first in zip(row, rows[0], strict=True)]
        for row in rows
    ])
    cells = [[_cell(cell) for cell in row] for row in rows]
    seconds = sum(cell.provenance["seconds"] for row in rows for cell in row)
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
        notes=(*remarks(config.functions, config.methods, fields), *_saddles(config, found)),
        conclusion=_conclusion(config, fields, moved),
        provenance=provenance(configuration=asdict(config), seconds=seconds),
    )


def _cell(row: Stationary) -> Cell:
    lost = row.provenance["unsettled"], row.provenance["diverged"]
    return Cell(row.counts, row.evaluations, *lost)


def _map(rows: Sequence[Stationary]) -> Maps:
    first = rows[0]
    shared = ("function", "names", "points", "values", "eigenvalues", "alpha", "beta", "surface")
    return Maps(
        **{name: getattr(first, name) for name in shared},
        methods=tuple(NAMES.get(row.method, row.method) for row in rows),
        position=np.stack([row.position for row in rows]),
        label=np.stack([row.label for row in rows]),
        provenance=provenance(configurations=[row.provenance["configuration"] for row in rows]),
    )


def _saddles(config: Config, found: Mapping[str, Sequence[Stationary]]) -> list[str]:
    """Notes on restarts that end at saddles and maxima, within the tolerance, where some do."""
    notes = []
    for name, rows in found.items():
        for row in rows:
            position = torch.tensor(row.position[row.label == len(row.names)])
            caught = beside_others(CATALOGUE[name], position, config.tolerance)
            if caught:
                notes.append(
                    f"{name}: {caught} of the {row.counts[-1]} restarts of "
                    f"{NAMES.get(row.method, row.method)} at no minimum end beside a saddle or "
                    "maximum."
                )
    return notes


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
    mirrored = ", ".join(
        f"{p:.2g} on {function}"
        for p, function in zip(fields["mirror_p"][0], config.functions, strict=True)
        if np.isfinite(p)
    )
    compared = f"From the same starts, restarts end elsewhere than with {names[0]}: {apart}. "
    return (
        (compared if apart else "")
        + f"{names[0]} against the areas of the basins (chi-square): p = {p_values}"
        + (f"; mirror images against each other: p = {mirrored}" if mirrored else "")
        + ". All of this holds for these step lengths, radii and budgets and says nothing about "
        "others."
    )
