"""Does a swarm with a flatness-seeking fitness end in the flattest of equally deep minima?

Question: F2 has five minima of one value and Himmelblau's function four. Which share of runs of
CNO, of CNOGNP over its penalty, and of CNOGNP with fitnesses that see curvature ends in the
flattest one, at equal evaluations?

Expected: at a minimum the gradient norm penalty is zero, so it cannot rank tied minima; it favours
the flat one of F2 all the same, since more of the points that a swarm samples near a flat minimum
have small gradients. A fitness that looks around the point, or at the Hessian, does rank them. On
Himmelblau's function the flattest minimum depends on the measure: D by the largest eigenvalue, A by
the trace and by the Frobenius norm. Saddles and maxima are stationary too: a large penalty on the
gradient norm keeps swarms there.

n: 200 runs put a standard error of at most 3.5 points on a share.

Cost, on one processor core: about a minute.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
from scipy.spatial.distance import cdist
from torch import Tensor

from analyses import stationary
from analyses.distribution import Cell, tabulated
from cnognp.fitness import Fitness, GradientNormPenalty, Loss
from cnognp.flat_fitness import BallGradientNorm, HessianEigenvalue, SAMSharpness
from cnognp.swarm import Swarm
from landscape.functions import CATALOGUE
from landscape.objective import Analytic
from landscape.results import Distribution, provenance

FITNESSES: Mapping[str, Callable[["Config", int, float], Fitness]] = MappingProxyType({
    "gradient norm": lambda config, dim, penalty: GradientNormPenalty(penalty),
    "ball": lambda config, dim, penalty: BallGradientNorm(penalty, config.radius, config.samples),
    "SAM sharpness": lambda config, dim, penalty: SAMSharpness(penalty, config.rho),
    "Hessian": lambda config, dim, penalty: HessianEigenvalue(penalty, iterations=dim),
})
"""What CNOGNP adds to the loss: functions of the configuration, dimension and penalty."""


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        functions: names in `landscape.functions.CATALOGUE`, with tied minima.
        fitnesses: names in `FITNESSES`.
        penalties: weights of what the fitness adds; 0 is CNO, whatever the fitness, and runs once.
        restarts: independent swarms.
        members: particles in a swarm.
        budget: evaluations for each particle, of the function, its gradient or half a
            Hessian-vector product. A costlier fitness gets fewer iterations.
        radius: of the ball per coordinate, in the fitness "ball".
        samples: points in that ball.
        rho: distance in the fitness "SAM sharpness".
        lr: Euler step of the gradient flow.
        inertia: factor on it.
        cognitive: largest pull to a particle's own best point.
        social: largest pull to the best point of all.
        seed: of starts, which all fitnesses share, and of the attractions.
        tolerance: largest distance from a minimum that counts as being there.
        gradient_tolerance: largest gradient norm that counts as having settled.

    Raises:
        ValueError: if a name is not known, a number is out of range, or minima are not tied.
    """

    functions: tuple[str, ...] = ("f2", "himmelblau")
    fitnesses: tuple[str, ...] = tuple(FITNESSES)
    penalties: tuple[float, ...] = (0.0, 0.01, 0.1, 0.5)
    restarts: int = 200
    members: int = 30
    budget: int = 900
    radius: float = 0.05
    samples: int = 8
    rho: float = 0.05
    lr: float = 0.01
    inertia: float = 0.7
    cognitive: float = 1.5
    social: float = 1.5
    seed: int = 0
    tolerance: float = 0.1
    gradient_tolerance: float = 1e-3

    def __post_init__(self):
        for name in ("functions", "fitnesses", "penalties"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must be different, and at least one; got {given}")
        for name in self.fitnesses:
            if name not in FITNESSES:
                raise ValueError(f"fitnesses must be some of {', '.join(FITNESSES)}; got {name!r}")
        for name in self.functions:
            self.settings(name)
            depths = [minimum.value for minimum in CATALOGUE[name].minima]
            if max(depths) - min(depths) > 1e-9:
                raise ValueError(
                    f"functions must have minima of one value, and {name} has {depths}"
                )
            for fitness in (fitness for _, fitness in self.rows(CATALOGUE[name].dim)):
                if _cost(fitness) > self.budget:
                    raise ValueError(
                        f"budget must be at least {_cost(fitness)}, an iteration with {fitness}; "
                        f"got {self.budget}"
                    )

    def rows(self, dim: int) -> list[tuple[str, Fitness]]:
        """Name and fitness of each row: CNO, then every fitness over its penalties."""
        rows: list[tuple[str, Fitness]] = [("CNO", Loss())] if 0 in self.penalties else []
        for name in self.fitnesses:
            for penalty in self.penalties:
                if penalty != 0:
                    rows.append((f"{name} {penalty:g}", FITNESSES[name](self, dim, penalty)))
        return rows

    def settings(self, function: str) -> stationary.Config:
        """What a row has in common with `analyses.stationary`: starts, seed and tolerances."""
        return stationary.Config(
            function=function,
            method="cno",
            restarts=self.restarts,
            iterations=self.budget,
            members=self.members,
            seed=self.seed,
            tolerance=self.tolerance,
            gradient_tolerance=self.gradient_tolerance,
            grid=2,
        )


def study(config: Config, progress: Callable[[str], None] | None = None) -> Distribution:
    """Shares of runs whose best point is at each of the tied minima, with 95 % Wilson intervals.

    ``flattest`` is the share at the flattest minimum by the largest eigenvalue and by the trace. A
    run's best point is the one of lowest fitness that its swarm has seen. Coordinates are clipped
    to the box.

    Args:
        config: what is run.
        progress: called with the name of a row when it is done.
    """
    began = time.perf_counter()
    functions = [CATALOGUE[name] for name in config.functions]
    names = [name for name, _ in config.rows(1)]
    cells: list[list[Cell]] = []
    notes = []
    for number, name in enumerate(names):
        cells.append([])
        for function in functions:
            best, cell = _swarms(config, function, config.rows(function.dim)[number][1])
            cells[-1].append(cell)
            notes += _saddles(f"{name} on {function.name}", function, best, cell)
        if progress is not None:
            progress(name)
    fields = tabulated(functions, cells)
    return Distribution(
        functions=config.functions,
        methods=tuple(names),
        **fields,
        tolerance=config.tolerance,
        gradient_tolerance=config.gradient_tolerance,
        notes=tuple(notes),
        conclusion=_conclusion(config, names, fields["flattest"]),
        provenance=provenance(configuration=asdict(config), seconds=time.perf_counter() - began),
    )


def _swarms(config: Config, function: Analytic, fitness: Fitness) -> tuple[Tensor, Cell]:
    """The best point of every run, and how many of these are where."""
    swarm = Swarm(
        lr=config.lr,
        fitness=fitness,
        inertia=config.inertia,
        cognitive=config.cognitive,
        social=config.social,
        box=function.box,
    )
    iterations = config.budget // _cost(fitness)
    settings = replace(config.settings(function.name), iterations=iterations)
    _, best, _ = stationary.ends(settings, function, swarm)
    labels = stationary.labels(function, best.numpy(), config.tolerance)
    counts = np.bincount(labels, minlength=len(function.minima) + 1)
    lost = stationary.verdict(function, best, config.gradient_tolerance)
    # The loss and gradient of a step are one evaluation; what the fitness adds is counted here.
    evaluations = iterations * _cost(fitness) * config.members * config.restarts
    return best, Cell(counts, evaluations, lost["unsettled"], lost["diverged"])


def _saddles(row: str, function: Analytic, best: Tensor, cell: Cell) -> list[str]:
    """A note on runs that end within 0.01 of a saddle or a maximum, where there are any."""
    others = np.array([point.point for point in (*function.saddles, *function.maxima)])
    caught = int((cdist(best.numpy(), others) < 0.01).any(axis=1).sum()) if len(others) else 0
    missed = int(cell.counts[-1])
    return [f"{row}: {caught} of the {missed} runs at no minimum end at a saddle or maximum."] * (
        caught > 0
    )


def _cost(fitness: Fitness) -> int:
    """Evaluations for each particle in an iteration."""
    return 1 + getattr(fitness, "evaluations", 0)


def _conclusion(config: Config, names: list[str], flattest: np.ndarray) -> str:
    """What the shares show, in numbers, and what they do not."""
    parts = []
    for k, function in enumerate(config.functions):
        best = ", ".join(
            f"{name} {100 * row[k, 0]:.0f} / {100 * row[k, 1]:.0f}"
            for name, row in zip(names, flattest, strict=True)
        )
        parts.append(f"On {function}: {best}.")
    return (
        "Percent of runs that end at the flattest of the tied minima, by the largest eigenvalue / "
        "by the trace. " + " ".join(parts) + " Shown: with these settings and equal evaluations, "
        "how often swarms choose the flattest of minima that are equally deep. Not shown: that the "
        "gradient norm penalty ranks minima, since at every minimum it is zero and what it changes "
        "is which points near them win; nor that a flatter minimum is worth a higher loss, nor "
        "anything about networks."
    )
