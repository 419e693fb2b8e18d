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
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from analyses.basins import basins
from analyses.outcomes import labels, minima_of, verdict, wilson
from analyses.restarts import Plan, collaborates, ends
from cnognp import METHODS
from cnognp.method import Stride, traits_of
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, value
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

# Steps of this length cross a box within the declared number of them.
_LENGTH = 0.01
_LEAST = {"restarts": 1, "iterations": 1, "budget": 1, "members": 1, "grid": 2, "seed": 0}


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        function: a test function (cnognp demo --help lists them).
        method: a name in `cnognp.METHODS`.
        restarts: number of independent starts; of a swarm, number of independent swarms.
        iterations: steps of the method, a step of basin hopping being a whole hop. Where this and
            the budget are None: what settles on the function (`STEPS`; `SWARM_ITERATIONS` for
            swarms, `QUASI_NEWTON_ITERATIONS` for BFGS methods). Basin hopping then has as many
            gradients as descent has steps, as its budget.
        budget: gradient evaluations of each restart. It ends with the step that reaches them.
        method_options: keywords of the method. Where they are not among these: ``lr`` is the
            function's, or 0.01 where the method's `cnognp.method.Traits` call it a length, which
            falls to 0 in a cosine where nothing else lets the method settle; with T steps or a
            budget of T, ``tau`` is T / 10, ``start`` (of averaging) 3 T / 4 and ``horizon`` T; and
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
        require_one_of("function", self.function, CATALOGUE)
        require_one_of("method", self.method, METHODS)
        keywords = inspect.signature(METHODS[self.method]).parameters
        for option in self.method_options:
            require_one_of(f"option of {self.method}", option, keywords)
        for name, least in _LEAST.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        for name in ("tolerance", "gradient_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        METHODS[self.method](**self._options())

    def resolved(self) -> "Config":
        """This configuration with the options, steps and budget that it stands for."""
        options = self._options()
        iterations, budget = self.iterations, self.budget
        if iterations is None and budget is None:
            steps = STEPS[self.function][1]
            if self._stride() == "search":
                budget = steps
            else:
                iterations = self._steps(options, steps)
        return replace(self, iterations=iterations, budget=budget, method_options=options)

    def _options(self) -> dict[str, Any]:
        """The keywords of the method."""
        (lr, steps), stride = STEPS[self.function], self._stride()
        length = self.budget or (stride != "search" and self.iterations) or steps
        options = dict(self.method_options)
        defaults: dict[str, Any] = {
            "tau": max(1, length // 10),
            "start": 3 * length // 4,
            "horizon": length,
            "batch_size": 0,
        }
        if stride != "curvature":
            defaults["lr"] = _LENGTH if stride in ("adaptive", "length") else lr
        if stride == "length":
            defaults["schedule"] = "cosine"
        for keyword in inspect.signature(METHODS[self.method]).parameters:
            if keyword in defaults:
                options.setdefault(keyword, defaults[keyword])
        return options

    def plan(self) -> Plan:
        """How many restarts there are and how long they go, in a configuration as `resolved`."""
        return Plan(self.restarts, self.members, self.iterations, self.budget, self.seed)

    def _stride(self) -> Stride | None:
        """What decides how far a step of the method goes."""
        return traits_of(METHODS[self.method](**self.method_options)).stride

    def _steps(self, options: dict[str, Any], steps: int) -> int:
        if collaborates(METHODS[self.method](**options)):
            return SWARM_ITERATIONS
        return QUASI_NEWTON_ITERATIONS if self._stride() == "curvature" else steps


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
    start, position, evaluations = ends(function, method, config.plan())
    label = labels(function, position.numpy(), config.tolerance)
    counts = np.bincount(label, minlength=len(function.minima) + 1)
    low, high = wilson(counts, config.restarts)
    found = verdict(function, position, config.gradient_tolerance)
    basin = basins(function)
    return Stationary(
        function=function.name,
        method=config.method,
        **ground(function, config.grid),
        counts=counts,
        share=counts / config.restarts,
        low=low,
        high=high,
        basin=None if basin is None else np.array(basin),
        start=start.numpy(),
        position=position.numpy(),
        label=label,
        restarts=config.restarts,
        evaluations=evaluations,
        tolerance=config.tolerance,
        gradient_tolerance=config.gradient_tolerance,
        status=", ".join(f"{n} {what}" for what, n in found.items() if n) or "converged",
        provenance=provenance(
            configuration=asdict(config), **found, seconds=time.perf_counter() - began
        ),
    )


def ground(function: Analytic, grid: int) -> dict[str, Any]:
    """Fields of a result that say where one walks: the minima, and the function on a grid.

    Args:
        function: with a box and declared minima; the grid is left out beyond two coordinates.
        grid: points along each side.
    """
    sides = [np.linspace(low, high, grid) for low, high in function.box]
    fields: dict[str, Any] = {
        "names": tuple(minimum.name for minimum in function.minima),
        "points": minima_of(function),
        "values": np.array([minimum.value for minimum in function.minima]),
        "eigenvalues": np.array([minimum.eigenvalues for minimum in function.minima]),
        "alpha": sides[0],
    }
    if function.dim == 1:
        curve = value(function, torch.from_numpy(sides[0][:, None])).numpy()
        fields |= {"beta": np.zeros(1), "surface": curve[:, None]}
    elif function.dim == 2:
        points = torch.from_numpy(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1))
        fields |= {"beta": sides[1], "surface": value(function, points).numpy()}
    return fields


def require_one_of(what: str, name: str, known: Iterable[str]) -> None:
    """Nothing, if a name is known.

    Raises:
        ValueError: if it is not; says what there is.
    """
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
