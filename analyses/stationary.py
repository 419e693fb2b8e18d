"""Where does a method end that starts anywhere in the box?

Question: which share of uniformly drawn starts ends at which minimum of a test function?

Expected: plain gradient descent with a small step ends at a minimum in proportion to the area of
its basin: the four minima of Himmelblau's function get about a quarter each; the six of the
six-hump camel get 20.1 (G), 17.5 (M) and 12.4 (H) percent, the members of a pair equally much,
although H is the flattest. What another method adds is the difference from these shares.

n: 500 restarts put a standard error of 1.5 to 2.1 points on these shares; 20,000 put 0.3.

Cost, on one processor core: 500 restarts of gradient descent take half a second, 20,000 take two;
500 swarms of 20 members take half a second too.
"""

import inspect
import math
import time
from collections.abc import Iterable, Iterator, Mapping
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

from analyses.swarms import together
from cnognp import METHODS
from cnognp.method import Method
from cnognp.run import run
from cnognp.swarm import Swarm
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, value, value_and_grad
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
QUASI_NEWTON_ITERATIONS = 100

# These methods multiply a raw gradient by lr and so need the function's step length.
_STEEPEST = frozenset(
    "gd sgd nig nim nig-bh nim-bh nig-mbh nim-mbh sam asam gcsam gnp swa egd cno cnognp".split()
)
# Steps of about this length cross a box within the declared number of them.
_ADAPTIVE = {"adam": 0.01, "adamw": 0.01}
_LEAST = {"restarts": 1, "iterations": 1, "budget": 1, "members": 1, "grid": 2}
_HOPPING = frozenset("nig-bh nim-bh nig-mbh nim-mbh".split())

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
        iterations: steps of the method, a step of basin hopping being a whole hop. Where this and
            the budget are None: what settles on the function (`STEPS`; `SWARM_ITERATIONS` for
            swarms, `QUASI_NEWTON_ITERATIONS` for BFGS methods). Basin hopping then has as many
            gradients as descent has steps, as its budget.
        budget: gradient evaluations of each restart. It ends with the step that reaches them.
        method_options: keywords of the method. Where they are not among these: methods that step
            along a raw gradient take the function's ``lr``; with T steps or a budget of T,
            ``tau`` is T / 10, ``start`` (of averaging) 3 T / 4 and ``horizon`` T; and
            ``batch_size`` is 0.
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
    budget: int | None = None
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
        for name, least in _LEAST.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        for name in ("tolerance", "gradient_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def resolved(self) -> "Config":
        """This configuration with the options, steps and budget that it stands for."""
        lr, steps = STEPS[self.function]
        hops = self.method in _HOPPING
        length = self.budget or (not hops and self.iterations) or steps
        options = dict(self.method_options)
        defaults: dict[str, Any] = {
            "tau": max(1, length // 10),
            "start": 3 * length // 4,
            "horizon": length,
            "batch_size": 0,
        }
        if self.method in _STEEPEST or self.method in _ADAPTIVE:
            defaults["lr"] = _ADAPTIVE.get(self.method, lr)
        for keyword in inspect.signature(METHODS[self.method]).parameters:
            if keyword in defaults:
                options.setdefault(keyword, defaults[keyword])
        iterations, budget = self.iterations, self.budget
        if iterations is None and budget is None:
            if hops:
                budget = steps
            else:
                iterations = self._steps(options, steps)
        return replace(self, iterations=iterations, budget=budget, method_options=options)

    def _steps(self, options: dict[str, Any], steps: int) -> int:
        if _collaborates(METHODS[self.method](**options)):
            return SWARM_ITERATIONS
        return QUASI_NEWTON_ITERATIONS if self.method in ("bfgs", "lbfgs-gss") else steps


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
    which the method evaluated the function or its gradient, up to where each restart ended.
    """
    began = time.perf_counter()
    config = config.resolved()
    function = CATALOGUE[config.function]
    method = METHODS[config.method](**config.method_options)
    start, position, evaluations = ends(config, function, method)
    label = labels(function, position.numpy(), config.tolerance)
    counts = np.bincount(label, minlength=len(function.minima) + 1)
    low, high = wilson(counts, config.restarts)
    found = verdict(function, position, config.gradient_tolerance)
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
        status=", ".join(f"{n} {what}" for what, n in found.items() if n) or "converged",
        provenance=provenance(
            configuration=asdict(config), **found, seconds=time.perf_counter() - began
        ),
    )


def ends(
    config: Config, function: Analytic, method: Method
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"], int]:
    """Start and end of every restart, and the evaluations of all of them.

    Args:
        config: resolved; its method and options are not read.
        function: what is minimised.
        method: how.
    """
    if isinstance(method, Swarm) and _collaborates(method):
        return _swarms(config, function, method)
    return _walkers(config, function, method)


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


def verdict(
    function: Analytic, position: Float[Tensor, "n dim"], gradient_tolerance: float
) -> dict[str, int]:
    """How many points are "unsettled", with a gradient above the tolerance, or "diverged"."""
    finite = position.isfinite().all(dim=-1)
    settled = value_and_grad(function, position)[1].norm(dim=-1) <= gradient_tolerance
    return {"unsettled": int((finite & ~settled).sum()), "diverged": int((~finite).sum())}


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
    position, spent = start, torch.zeros(len(start), dtype=torch.float64, device="cpu")
    for state, used in _walk(config, function, method, start):
        if config.budget is None:
            position, spent = state.position, used
            continue
        # A restart stays where its own budget ended, however far the others still go.
        goes_on = spent < config.budget
        position = torch.where(goes_on.unsqueeze(-1), state.position, position)
        spent = torch.where(goes_on, used, spent)
    return start, position, round(float(spent.sum()))


def _swarms(config: Config, function: Analytic, method: Swarm) -> tuple[Tensor, Tensor, int]:
    """Start and end of every swarm, all swarms at once, and the evaluations."""
    starts = _starts(config, function, config.restarts, config.members)
    state: Any = None
    used = torch.zeros((), device="cpu")
    for after, spent in _walk(
        config, function, together(method, config.restarts), starts.flatten(0, 1)
    ):
        state, used = after, spent
    first = _lowest(starts, value(function, starts))
    last = _lowest(state.best.view_as(starts), state.best_fitness.view(starts.shape[:-1]))
    return first, last, round(float(used.sum()))


def _lowest(points: Float[Tensor, "n k dim"], heights: Float[Tensor, "n k"]) -> Tensor:
    return points[torch.arange(len(points), device="cpu"), heights.argmin(dim=1)]


def _walk(
    config: Config, function: Analytic, method: Method, start: Tensor
) -> Iterator[tuple[Any, Tensor]]:
    """State and evaluations (n,) after every step, until steps or budget are used up."""
    stream = islice(repeat(function), config.iterations)
    used = torch.zeros(len(start), dtype=torch.float64, device="cpu")
    for state, info in run(method, stream, start, _generator(config)):
        own = getattr(state, "evaluations", None)
        used = used + info.evaluations if own is None else own.double()
        yield state, used
        # A member that is lost may never use up its budget.
        lost = ~state.position.isfinite().all(dim=-1)
        if config.budget is not None and bool(((used >= config.budget) | lost).all()):
            return


def _generator(config: Config) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(config.seed)


def _starts(config: Config, function: Analytic, *shape: int) -> Tensor:
    low, high = np.array(function.box).T
    drawn = np.random.default_rng(config.seed).uniform(low, high, size=(*shape, function.dim))
    return torch.from_numpy(drawn)


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
