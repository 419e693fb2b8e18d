"""Where does a method end that starts anywhere in the box?

Question: which share of uniformly drawn starts ends at which minimum of a test function?

Expected: plain gradient descent with a small step ends at a minimum in proportion to the area of
its basin: the four minima of Himmelblau's function get about a quarter each; the six of the
six-hump camel get 20.1 (G), 17.5 (M) and 12.4 (H) percent, the members of a pair equally much,
although H is the flattest. What another method adds is the difference from these shares.

n: 500 restarts put a standard error of 1.5 to 2.1 points on these shares; 20,000 put 0.3.

Cost, on one processor core: 500 restarts of gradient descent take half a second, 20,000 take two.
Swarms run one after another: 500 of them take half a minute.
"""

import inspect
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, product, repeat
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist
from scipy.stats import binomtest
from torch import Tensor

from cnognp import METHODS
from cnognp.method import Method
from cnognp.run import run
from cnognp.swarm import Swarm
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, value, value_and_grad
from landscape.randomness import derive
from landscape.results import Stationary, provenance

STEPS: Mapping[str, tuple[float, int]] = MappingProxyType({
    "himmelblau": (0.001, 1500),
    "three-hump-camel": (0.001, 4000),
    "three-hump-camel-misprint": (0.001, 4000),
    "six-hump-camel": (0.001, 1500),
    "two-wells": (0.01, 3000),
    "f1": (0.005, 8000),
    "f1-2d": (0.005, 8000),
    "f2": (0.004, 10_000),
    "f2-2d": (0.004, 10_000),
    "f3": (0.01, 2000),
    "f3-2d": (0.01, 2000),
})
"""Step length and number of steps with which gradient descent comes within 0.1 of a minimum."""

SWARM_ITERATIONS = 100

# These methods multiply a raw gradient by lr and so need the function's step length.
_STEEPEST = frozenset(
    "gd sgd nig nim nig-bh nim-bh nig-mbh nim-mbh sam asam gcsam gnp egd cno cnognp".split()
)

BASINS: Mapping[str, tuple[float, ...]] = MappingProxyType({
    "himmelblau": (0.25557, 0.24724, 0.23733, 0.25986),
    "three-hump-camel": (0.34044, 0.32978, 0.32978),
    "three-hump-camel-misprint": (0.35790, 0.32105, 0.32105),
    "six-hump-camel": (0.20074, 0.20074, 0.17518, 0.17518, 0.12408, 0.12408),
})
"""Shares of the functions' own boxes that gradient flow takes to each minimum, to 0.0002. It was
followed by a Runge-Kutta method in arc length from the midpoints of 500^2 equal cells (1000^2 for
the six-hump camel)."""


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        function: a name in `landscape.functions.CATALOGUE`.
        method: a name in `cnognp.METHODS`.
        restarts: number of independent starts; of a swarm, number of independent swarms.
        iterations: steps of the method; what settles on the function where None (`STEPS`, and
            `SWARM_ITERATIONS` for swarms).
        method_options: keywords of the method. Methods that step along a raw gradient take the
            function's step length where ``lr`` is not among them.
        members: particles in a swarm; other methods ignore it.
        seed: of the starts, and of everything that the method draws.
        tolerance: largest distance from a minimum that counts as being there.
        gradient_tolerance: largest gradient norm that counts as having settled.
        grid: points along each side of the surface.

    Raises:
        ValueError: if a name is not known or a number is out of range; says what there is.
    """

    function: str = "six-hump-camel"
    method: str = "gd"
    restarts: int = 500
    iterations: int | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    members: int = 20
    seed: int = 0
    tolerance: float = 0.1
    gradient_tolerance: float = 1e-3
    grid: int = 201

    def __post_init__(self):
        _require_one_of("function", self.function, CATALOGUE)
        _require_one_of("method", self.method, METHODS)
        keywords = inspect.signature(METHODS[self.method]).parameters
        for option in self.method_options:
            _require_one_of(f"option of {self.method}", option, keywords)
        for name, least in {"restarts": 1, "iterations": 1, "members": 1, "grid": 2}.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        for name in ("tolerance", "gradient_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def resolved(self) -> "Config":
        """This configuration with the step length and the number of steps that it stands for."""
        lr, iterations = STEPS[self.function]
        options = dict(self.method_options)
        if self.method in _STEEPEST:
            options.setdefault("lr", lr)
        if _collaborates(METHODS[self.method](**options)):
            iterations = SWARM_ITERATIONS
        return replace(self, iterations=self.iterations or iterations, method_options=options)


def study(config: Config) -> Stationary:
    """The share of restarts that end at each minimum, with 95 % Wilson intervals.

    A restart belongs to the nearest minimum, if that is within ``tolerance`` of its end, and to
    "else" otherwise, whatever the gradient there. How many restarts end at infinity or NaN
    ("diverged"), and how many others end with a gradient above ``gradient_tolerance``
    ("unsettled"), is said apart, by ``status`` and in the provenance; the status is "converged"
    if there are none of either.

    The starts are ``numpy.random.default_rng(seed).uniform(low, high, size=(restarts, dim))`` in
    double precision. A swarm starts from ``members`` such points and ends at the best point that it
    has seen; its ``start`` is the best of its starting points. ``evaluations`` counts points at
    which the method evaluated the function or its gradient.
    """
    began = time.perf_counter()
    config = config.resolved()
    function = CATALOGUE[config.function]
    method = METHODS[config.method](**config.method_options)
    walk = _swarms if _collaborates(method) else _walkers
    start, position, evaluations = walk(config, function, method)
    label = labels(function, position.numpy(), config.tolerance)
    counts = np.bincount(label, minlength=len(function.minima) + 1)
    low, high = wilson(counts, config.restarts)
    verdict = _verdict(config, function, position)
    basin = basins(function)
    return Stationary(
        function=function.name,
        method=config.method,
        names=tuple(minimum.name for minimum in function.minima),
        points=_minima(function),
        values=np.array([minimum.value for minimum in function.minima]),
        eigenvalues=np.array([minimum.eigenvalues for minimum in function.minima]),
        counts=counts,
        share=counts / config.restarts,
        low=low,
        high=high,
        basin=None if basin is None else np.array(basin),
        start=start.numpy(),
        position=position.numpy(),
        label=label,
        **_surface(function, config.grid),
        restarts=config.restarts,
        evaluations=evaluations,
        tolerance=config.tolerance,
        gradient_tolerance=config.gradient_tolerance,
        status=", ".join(f"{n} {what}" for what, n in verdict.items() if n) or "converged",
        provenance=provenance(
            configuration=asdict(config), **verdict, seconds=time.perf_counter() - began
        ),
    )


def labels(
    function: Analytic, position: Float[np.ndarray, "n dim"], tolerance: float
) -> Int[np.ndarray, " n"]:
    """For each point the index of the nearest minimum, or of "else" if none is within reach.

    Args:
        function: declares its minima.
        position: (n, dim); points that are not finite are "else".
        tolerance: largest distance that counts. "else" is the number of minima.
    """
    distance = cdist(position, _minima(function))
    near = distance.min(axis=1) <= tolerance
    return np.where(near, distance.argmin(axis=1), len(function.minima))


def wilson(
    counts: Iterable[int] | Int[np.ndarray, " k"], total: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Lower and upper ends of the 95 % Wilson intervals of ``counts`` out of ``total``."""
    shares = [binomtest(int(count), total).proportion_ci(0.95, "wilson") for count in counts]
    return np.array([s.low for s in shares]), np.array([s.high for s in shares])


def basins(function: Analytic) -> tuple[float, ...] | None:
    """Share of the box that gradient flow takes to each minimum, or None where it is not known.

    In one dimension the maxima are the watersheds. A sum over coordinates flows in each coordinate
    by itself, so the share of a minimum is the product of those of its coordinates.
    """
    if function.name in BASINS:
        return BASINS[function.name]
    if function.dim == 1:
        low, high = function.box[0]
        edges = np.array([low, *sorted(top.point[0] for top in function.maxima), high])
        home = np.searchsorted(edges, _minima(function)[:, 0]) - 1
        return tuple((np.diff(edges)[home] / (high - low)).tolist())
    family = function.name.removesuffix(f"-{function.dim}d")
    one = basins(CATALOGUE[family]) if family != function.name else None
    return one and tuple(map(math.prod, product(one, repeat=function.dim)))


def _walkers(config: Config, function: Analytic, method: Method) -> tuple[Tensor, Tensor, int]:
    """Start and end of every restart, all restarts at once, and the evaluations."""
    start = _starts(config, function, config.restarts)
    state, passes = _end(config, function, method, start, _generator(config))
    return start, state.position, round(passes * config.restarts)


def _swarms(config: Config, function: Analytic, method: Method) -> tuple[Tensor, Tensor, int]:
    """Start and end of every swarm, one swarm after another, and the evaluations."""
    starts = _starts(config, function, config.restarts, config.members)
    firsts, lasts, total = [], [], 0.0
    for number, start in enumerate(starts):
        generator = derive(_generator(config), "restart", number)
        state, passes = _end(config, function, method, start, generator)
        firsts.append(start[value(function, start).argmin()])
        lasts.append(state.best[state.best_fitness.argmin()])
        total += passes
    return torch.stack(firsts), torch.stack(lasts), round(total * config.members)


def _end(
    config: Config, function: Analytic, method: Method, start: Tensor, generator: torch.Generator
) -> tuple[Any, float]:
    stream = islice(repeat(function), config.iterations)
    state, passes = None, 0.0
    for after, info in run(method, stream, start, generator):
        state, passes = after, passes + info.evaluations
    return state, passes


def _generator(config: Config) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(config.seed)


def _starts(config: Config, function: Analytic, *shape: int) -> Tensor:
    low, high = np.array(function.box).T
    drawn = np.random.default_rng(config.seed).uniform(low, high, size=(*shape, function.dim))
    return torch.from_numpy(drawn)


def _verdict(config: Config, function: Analytic, position: Tensor) -> dict[str, int]:
    finite = position.isfinite().all(dim=-1)
    settled = value_and_grad(function, position)[1].norm(dim=-1) <= config.gradient_tolerance
    return {"unsettled": int((finite & ~settled).sum()), "diverged": int((~finite).sum())}


def _surface(function: Analytic, grid: int) -> dict[str, np.ndarray]:
    sides = [np.linspace(low, high, grid) for low, high in function.box]
    if function.dim == 1:
        curve = value(function, torch.from_numpy(sides[0][:, None])).numpy()
        return {"alpha": sides[0], "beta": np.zeros(1), "surface": curve[:, None]}
    if function.dim != 2:
        return {"alpha": sides[0]}
    points = torch.from_numpy(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1))
    return {"alpha": sides[0], "beta": sides[1], "surface": value(function, points).numpy()}


def _minima(function: Analytic) -> np.ndarray:
    return np.array([minimum.point for minimum in function.minima])


def _collaborates(method: Method) -> bool:
    return isinstance(method, Swarm) and bool(method.cognitive or method.social)


def _require_one_of(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
