"""Which way do methods go from the same starts?

Question: how do a few members of several methods move over a function of two coordinates, and how
low are they after equally many evaluations?

Expected: gradient descent follows the steepest way into the basin where it started; noise of a
small radius changes that little; Adam moves by equal lengths along both axes at first;
sharpness-aware minimisation ends beside its minimum, in a cycle, and with a large radius at
saddles; a swarm leaves the basins of its members for the best point that one of them has found.

n: a handful of members shows how methods move, not how often they end where: for shares see
`analyses.stationary`.

Cost: under a second for each method.
"""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from analyses import stationary
from analyses.outcomes import labels
from analyses.restarts import starts, walk
from analyses.stationary import ground, require_one_of
from cnognp import METHODS
from cnognp.workers import Unit, results_of
from landscape.functions import CATALOGUE
from landscape.objective import value
from landscape.results import Walks, provenance

_METHODS_SHOWN = ("gd", "adam", "sam", "cnognp")


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        function: a test function (cnognp demo --help lists them), of two coordinates.
        methods: names in `cnognp.METHODS`.
        members: of each method; they are one swarm where the method is one.
        evaluations: gradient evaluations of each member; what settles on the function where None.
        lr: step length of every method that has one; the function's own where None.
        rho: radius of noise and of sharpness-aware minimisation, where a method has one.
        times: at most so many moments are kept of each path: the first ones all, later ones at
            growing distances.
        seed: of the starts, which all methods share, and of the methods.
        tolerance: largest distance from a minimum that counts as being there.
        grid: points along each side of the surface.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    function: str = "himmelblau"
    methods: tuple[str, ...] = _METHODS_SHOWN
    members: int = 8
    evaluations: int | None = None
    lr: float | None = None
    rho: float = 0.5
    times: int = 121
    seed: int = 0
    tolerance: float = 0.1
    grid: int = 201

    def __post_init__(self):
        require_one_of("function", self.function, CATALOGUE)
        dim = CATALOGUE[self.function].dim
        if dim != 2:
            raise ValueError(
                f"paths are drawn over the contours of a function of 2 coordinates; "
                f"{self.function} has {dim}"
            )
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"methods must be different names, at least one, got {list(self.methods)}"
            )
        for name, least in {"members": 1, "times": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.evaluations is not None and self.evaluations < 1:
            raise ValueError(f"evaluations must be at least 1, got {self.evaluations}")
        for method in self.methods:
            self.row(method)

    def row(self, method: str) -> stationary.Config:
        """The configuration of one method."""
        keywords = inspect.signature(METHODS[method]).parameters if method in METHODS else {}
        options = {"lr": self.lr, "rho": self.rho}
        return stationary.Config(
            function=self.function,
            method=method,
            restarts=self.members,
            members=self.members,
            budget=self.evaluations or stationary.STEPS[self.function][1],
            method_options={
                key: option
                for key, option in options.items()
                if key in keywords and option is not None
            },
            seed=self.seed,
            tolerance=self.tolerance,
            grid=self.grid,
        ).resolved()


def study(config: Config, progress: Callable[[str], None] | None = None) -> Walks:
    """The paths of the members, and the function along them, at equal numbers of evaluations.

    Basin hopping is seen at the minima that it accepts, not on the descents between them.

    Args:
        config: what is run.
        progress: called with the name of a method when it is done.
    """
    return joined(config, results_of(units(config), progress=progress))["walks"]


def units(config: Config) -> list[Unit]:
    """Every method, one by one."""
    return [Unit(name, _alone, replace(config, methods=(name,))) for name in config.methods]


def joined(config: Config, found: Sequence[Any]) -> dict[str, Walks]:
    """The paths of all methods by name, of those of one method that the `units` found."""
    seconds = sum(each.provenance["seconds"] for each in found)
    together = replace(
        found[0],
        methods=config.methods,
        position=np.concatenate([each.position for each in found]),
        loss=np.concatenate([each.loss for each in found]),
        label=np.concatenate([each.label for each in found]),
        settings=_settings([config.row(method) for method in config.methods]),
        provenance=provenance(configuration=asdict(config), seconds=seconds),
    )
    return {"walks": together}


def _alone(config: Config) -> Walks:
    """The paths of the only method."""
    began = time.perf_counter()
    function = CATALOGUE[config.function]
    row = config.row(*config.methods)
    moments = _moments(row.plan().budget, config.times)
    position = _path(row, moments)
    return Walks(
        function=function.name,
        methods=config.methods,
        **ground(function, config.grid),
        evaluations=moments,
        position=position[None].numpy(),
        loss=value(function, position)[None].numpy(),
        label=labels(function, position[-1].numpy(), config.tolerance)[None],
        tolerance=config.tolerance,
        provenance=provenance(seconds=time.perf_counter() - began),
    )


def _settings(rows: list[stationary.Config]) -> str:
    """The step lengths and radii in use, with the names of the methods where these differ."""
    parts = []
    for key in ("lr", "rho"):
        used = {row.method: row.method_options[key] for row in rows if key in row.method_options}
        one = len(set(used.values())) == 1
        parts += (
            [f"{key} {next(iter(used.values())):g}"]
            if one
            else [f"{key} of {method} {number:g}" for method, number in used.items()]
        )
    return ", ".join(parts)


def _moments(budget: int | None, times: int) -> np.ndarray:
    """Numbers of evaluations from 0 to the budget, ever further apart."""
    last = budget or 1
    return np.unique(np.concatenate([[0], np.geomspace(1, last, times - 1).round(), [last]]))


def _path(row: stationary.Config, moments: np.ndarray) -> torch.Tensor:
    """The positions (time, member, coordinate) at these numbers of evaluations."""
    function = CATALOGUE[row.function]
    start = starts(function, row.seed, row.restarts)
    method = METHODS[row.method](**row.method_options)
    walked = list(walk(function, method, start, row.plan()))
    position = torch.stack([start, *(state.position for state, _ in walked)])
    used = np.stack([np.zeros(len(start)), *(spent.numpy() for _, spent in walked)])
    # The last step that each member could afford, for every moment.
    step = np.stack([
        np.searchsorted(spent, moments, side="right") - 1 for spent in np.ascontiguousarray(used.T)
    ])
    member = torch.arange(len(start), device="cpu")
    return position[torch.from_numpy(step.T.copy()), member]
