"""Do path finders find the mountain passes of surfaces whose passes are known?

Question: how far above the lowest height that any path between two minima has is the path that
each finder returns, and do the valleys that meet along these paths meet as the saddles say?

Expected: within 0.001 for every pair, over chains of paths at least: a single path is found from
the straight line and ends at a pass near it. Never below the pass, never above the line.

n: none is drawn; every pair of minima of each function is there, once.

Cost: a few thousand gradients of a function of two variables for each pair and finder.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analyses.stationary import require_one_of
from cnognp.workers import Unit, results_of
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, value, value_and_grad
from landscape.paths import FINDERS, find, fourier
from landscape.results import Result, provenance
from landscape.results.passes import Crossings
from landscape.results.topology import MergeTree
from landscape.topology import merge_tree, minimax

FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel", "two-wells")
SEARCHING = tuple(name for name in FINDERS if name != "linear")
PUBLISHED = {10.0: 0.646, 100.0: 0.640, 1000.0: 0.652}
"""Heights of Yu & Morozov (2026) on their landscape, two-wells, by lambda."""
ENDS = ((-0.62, -0.54), (0.49, -0.02))
"""Where their paths end, near the minima."""
_SETTINGS = {"grid": 100, "lr": 0.01, "steps": 300, "sines": 10}
_POWERS = ("1", "2")
_FAR, _STEPS, _NEAR = 1e-3, 200_000, 0.02


@dataclass(frozen=True)
class Config:
    """What is crossed.

    Args:
        functions: some of himmelblau, three-hump-camel, six-hump-camel and two-wells.
        finders: some of the path finders, each at its defaults.
        points: at which a path is measured at last.

    Raises:
        ValueError: if a name is not known, or there are fewer than 3 points.
    """

    functions: tuple[str, ...] = FUNCTIONS
    finders: tuple[str, ...] = SEARCHING
    points: int = 501

    def __post_init__(self):
        for name, known in (("functions", FUNCTIONS), ("finders", SEARCHING)):
            given = getattr(self, name)
            for each in given:
                require_one_of(name, each, known)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, at least one, got {list(given)}")
        if self.points < 3:
            raise ValueError(f"points must be at least 3, got {self.points}")


class Surface(NamedTuple):
    """One of the functions."""

    config: Config
    function: str


def study(config: Config, progress: Callable[[str], None] | None = None) -> dict[str, Result]:
    """Heights, and the trees of valleys, by name.

    Args:
        config: what is crossed.
        progress: called with the name of a function when it is done.
    """
    return joined(config, results_of(units(config), progress=progress))


def units(config: Config) -> list[Unit]:
    """The functions, one by one."""
    plain = replace(config, functions=FUNCTIONS)
    return [Unit(name, crossed, Surface(plain, name)) for name in config.functions]


def crossed(given: Surface) -> Crossings:
    """Paths between all pairs of minima of a function."""
    config, function = given.config, CATALOGUE[given.function]
    minima = [torch.tensor(m.point, dtype=torch.float64, device="cpu") for m in function.minima]
    pairs = list(combinations(range(len(minima)), 2))
    settings = {"points": config.points, "keep": False}
    paths = [
        [
            find(FINDERS[name], function, minima[i], minima[j], settings)
            for i, j in pairs
        ]
        for name in config.finders
    ]  # fmt: skip
    tree = exact(function)
    heights, place = minimax(tree), [tree.names.index(m.name) for m in function.minima]
    own = given.function == "two-wells"
    names = tuple(m.name for m in function.minima)
    loss = np.array([m.value for m in function.minima])
    height = np.array([[path.height for path in row] for row in paths])
    chains = merge_tree(loss, np.array(pairs), height.min(0), names=names)
    chained, at = minimax(chains), [chains.names.index(name) for name in names]
    return Crossings(
        function=given.function, finders=config.finders, names=names, loss=loss,
        pairs=np.array(pairs), chained=np.array([chained[at[i], at[j]] for i, j in pairs]),
        line=np.array([path.line_height for path in paths[0]]),
        lowest=np.array([heights[place[i], place[j]] for i, j in pairs]),
        height=height,
        gradients=np.array([[path.gradients for path in row] for row in paths]),
        penalties=np.array(list(PUBLISHED) if own else []), powers=_POWERS,
        published=np.array(list(PUBLISHED.values()) if own else []),
        repeated=np.array([
            [_repeated(function, power, penalty) for penalty in PUBLISHED] if own else []
            for power in _POWERS
        ]).reshape(len(_POWERS), -1),
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip


def exact(function: Analytic) -> MergeTree:
    """The merge tree of the minima, by the saddles: each joins the two minima below it.

    From beside each saddle, on either side along the direction of negative curvature, the gradient
    flow leads down to a minimum, or out of the box: such a saddle joins nothing.

    Args:
        function: with all of its critical points.
    """
    ends = np.array([_below(function, np.array(saddle.point)) for saddle in function.saddles])
    heights = np.array([saddle.value for saddle in function.saddles])
    known = (ends >= 0).all(1)
    loss = np.array([m.value for m in function.minima])
    return merge_tree(
        loss, ends[known], heights[known], names=tuple(m.name for m in function.minima)
    )


def _below(function: Analytic, saddle: np.ndarray) -> list[int]:
    """The two minima that gradient descent leads to from beside a saddle; -1 for none."""
    point = torch.tensor(saddle, dtype=torch.float64, device="cpu")
    hessian = torch.autograd.functional.hessian(lambda z: value(function, z[None])[0], point)
    curvature, axes = torch.linalg.eigh(hessian)
    z = torch.stack([point + _FAR * axes[:, 0], point - _FAR * axes[:, 0]])
    minima = torch.tensor(
        np.array([m.point for m in function.minima]), dtype=torch.float64, device="cpu"
    )
    steepest = max(float(curvature.abs().max()), *(max(m.eigenvalues) for m in function.minima))
    for _ in range(_STEPS):
        near = torch.cdist(z, minima).min(1)
        if bool((near.values < _NEAR).all()) or _outside(function, z).any():
            break
        z = z - 0.2 / steepest * value_and_grad(function, z)[1]
    near = torch.cdist(z, minima).min(1)
    return torch.where(near.values < _NEAR, near.indices, -1).tolist()


def _outside(function: Analytic, z: Tensor) -> Tensor:
    low, high = torch.tensor(function.box, dtype=z.dtype, device=z.device).T
    return ((z < low) | (z > high)).any(-1)


def _repeated(function: Analytic, power: str, penalty: float) -> float:
    """The height of the published path finder at its settings, on a dense grid."""
    a, b = (torch.tensor(end, dtype=torch.float64, device="cpu") for end in ENDS)
    settings: dict[str, Any] = {**_SETTINGS, "power": power, "penalty": penalty}
    return fourier(function, a, b, **settings, points=2001).height


def joined(config: Config, found: Sequence[Any]) -> dict[str, Result]:
    """Heights of each function, and its valleys as the lowest paths have them meet."""
    results: dict[str, Result] = {}
    for name, each in zip(config.functions, found, strict=True):
        results[f"passes-{name}"] = each
        if len(each.pairs):
            tree = merge_tree(
                each.loss, each.pairs.astype(int), each.height.min(0), names=each.names
            )
            results[f"valleys-{name}"] = tree
    return results
