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

Cost, on one processor core: half a minute.

Equal evaluations means all of them: those at the starts, and those that a fitness takes beyond the
loss and gradient of a step. A costlier fitness gets fewer iterations.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from analyses.outcomes import beside_others, labels, verdict
from analyses.restarts import Plan, ends
from analyses.stationary import require_one_of
from analyses.tabulation import Cell, cell_of, tabulated
from cnognp.methods.fitness import Fitness, GradientNormPenalty, Loss
from cnognp.methods.flat_fitness import BallGradientNorm, HessianEigenvalue, SAMSharpness
from cnognp.methods.swarm import Swarm
from cnognp.workers import Unit, results_of
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
        functions: names of test functions, with tied minima; cnognp demo --help lists them.
        fitnesses: any of gradient norm, ball, SAM sharpness and Hessian.
        penalties: weights of what the fitness adds; 0 is CNO, whatever the fitness, and runs once.
        restarts: independent swarms.
        members: particles in a swarm.
        budget: evaluations for each particle, of the function, its gradient or half a
            Hessian-vector product.
        iterations: equally many for every fitness, whatever it costs, and no budget; by the budget
            where None.
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
    iterations: int | None = None
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
        for name in ("restarts", "members", "iterations", "budget"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        for name in ("tolerance", "gradient_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in self.fitnesses:
            require_one_of("fitnesses", name, FITNESSES)
        for name in self.functions:
            self._check(name)

    def pairs(self) -> list[tuple[str, float]]:
        """Name of the fitness and penalty of each row; CNO, which needs no name, comes first."""
        every = [(name, penalty) for name in self.fitnesses for penalty in self.penalties]
        plain = [(next(iter(FITNESSES)), 0.0)] if 0 in self.penalties else []
        return plain + [(name, penalty) for name, penalty in every if penalty != 0]

    def rows(self, dim: int) -> list[tuple[str, Fitness]]:
        """Name and fitness of each row: CNO, then every fitness over its penalties."""
        return [
            (f"{name} {penalty:g}", FITNESSES[name](self, dim, penalty)) if penalty
            else ("CNO", Loss())
            for name, penalty in self.pairs()
        ]  # fmt: skip

    def plan(self, cost: int) -> Plan:
        """How many swarms run, and for how long if an iteration costs so many evaluations."""
        # The starts are evaluated like every later position.
        iterations = self.iterations or self.budget // cost - 1
        return Plan(self.restarts, self.members, iterations, None, self.seed)

    def _check(self, name: str) -> None:
        """Nothing, if the study can be run on a function.

        Raises:
            ValueError: if it cannot.
        """
        require_one_of("functions", name, CATALOGUE)
        function = CATALOGUE[name]
        if not _tied(function):
            depths = [minimum.value for minimum in function.minima]
            tied = [f for f, entry in CATALOGUE.items() if _tied(entry)]
            raise ValueError(
                f"functions must have several minima of one value, as {', '.join(tied)} have; "
                f"those of {name} have {', '.join(f'{depth:.6g}' for depth in depths)}"
            )
        for _, fitness in self.rows(function.dim):
            least = 2 * _cost(fitness)
            if self.iterations is None and self.budget < least:
                raise ValueError(
                    f"budget must be at least {least}, the starts and an iteration with {fitness}; "
                    f"got {self.budget}"
                )


def study(config: Config, progress: Callable[[str], None] | None = None) -> Distribution:
    """Shares of runs whose best point is at each of the tied minima, with 95 % Wilson intervals.

    ``flattest`` is the share at the flattest minimum by the largest eigenvalue and by the trace. A
    run's best point is the one of lowest fitness that its swarm has seen. Coordinates are clipped
    to the box.

    Args:
        config: what is run.
        progress: called with the name of a row and a function when these are done.
    """
    return joined(config, results_of(units(config), progress=progress))["flat-minima"]


def units(config: Config) -> list[Unit]:
    """Every row on every function, one by one."""
    return [
        Unit(
            f"{name} on {function}",
            _alone,
            replace(config, functions=(function,), fitnesses=(fitness,), penalties=(penalty,)),
        )
        for (fitness, penalty), (name, _) in zip(config.pairs(), config.rows(1), strict=True)
        for function in config.functions
    ]


def joined(config: Config, found: Sequence[Any]) -> dict[str, Distribution]:
    """The table by name, of the tables of one cell that the `units` found."""
    cells = [cell_of(each) for each in found]
    wide = len(config.functions)
    rows = [cells[k : k + wide] for k in range(0, len(cells), wide)]
    notes = [note for each in found for note in each.notes]
    seconds = sum(each.provenance["seconds"] for each in found)
    return {"flat-minima": _table(config, rows, notes, seconds)}


def _alone(config: Config) -> Distribution:
    """The only row on the only function."""
    began = time.perf_counter()
    function = CATALOGUE[config.functions[0]]
    ((name, fitness),) = config.rows(function.dim)
    best, cell = _swarms(config, function, fitness)
    notes = _saddles(f"{name} on {function.name}", function, best, cell)
    return _table(config, [[cell]], notes, time.perf_counter() - began)


def _table(
    config: Config, cells: list[list[Cell]], notes: list[str], seconds: float
) -> Distribution:
    """The table of what ended where, a row for each of the configuration."""
    names = [name for name, _ in config.rows(1)]
    fields = tabulated([CATALOGUE[name] for name in config.functions], cells)
    return Distribution(
        functions=config.functions,
        methods=tuple(names),
        **fields,
        tolerance=config.tolerance,
        gradient_tolerance=config.gradient_tolerance,
        notes=tuple(notes),
        conclusion=_conclusion(config, names, fields),
        provenance=provenance(configuration=asdict(config), seconds=seconds),
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
    plan = config.plan(_cost(fitness))
    _, best, _ = ends(function, swarm, plan)
    found = labels(function, best.numpy(), config.tolerance)
    counts = np.bincount(found, minlength=len(function.minima) + 1)
    lost = verdict(function, best, config.gradient_tolerance)
    rounds = 1 + (plan.iterations or 0)
    # The loss and gradient of a round are one evaluation; what the fitness adds is counted here.
    evaluations = rounds * _cost(fitness) * config.members * config.restarts
    return best, Cell(counts, evaluations, lost["unsettled"], lost["diverged"])


def _tied(function: Analytic) -> bool:
    depths = [minimum.value for minimum in function.minima]
    return len(depths) > 1 and max(depths) - min(depths) <= 1e-9


def _saddles(row: str, function: Analytic, best: Tensor, cell: Cell) -> list[str]:
    """A note on runs that end within 0.01 of a saddle or a maximum, where there are any."""
    caught = beside_others(function, best, 0.01)
    missed = int(cell.counts[-1])
    return [f"{row}: {caught} of the {missed} runs at no minimum end at a saddle or maximum."] * (
        caught > 0
    )


def _cost(fitness: Fitness) -> int:
    """Evaluations for each particle in an iteration."""
    return 1 + getattr(fitness, "evaluations", 0)


def _conclusion(config: Config, names: list[str], fields: dict) -> str:
    """What the shares show, in numbers, and what they do not."""
    equal = (
        f"{config.budget} evaluations for each particle, starts and fitness included"
        if config.iterations is None
        else f"{config.iterations} iterations whatever the fitness costs"
    )
    found = " ".join(
        f"On {function}, {_best(config, names, fields, k)}."
        for k, function in enumerate(config.functions)
    )
    return (
        f"How often do swarms end in the flattest of equally deep minima, and more often than CNO? "
        f"With {equal}, each fitness at its best penalty: {found} Shown: how often they choose it "
        "under these settings. Not shown: that the gradient norm penalty "
        "ranks minima, since at every minimum it is zero and what it changes is which points near "
        "them win; nor that a flatter minimum is worth a higher loss, nor anything about networks."
    )


def _best(config: Config, names: list[str], fields: dict, k: int) -> str:
    """Each fitness with the penalty that serves it best, against CNO, by each measure."""
    here = fields["function"] == k
    orders = [fields[place][here] for place in ("order_largest", "order_trace")]
    same = np.array_equal(orders[0] == 0, orders[1] == 0)
    parts = []
    for j, measure in enumerate(("the largest eigenvalue", "the trace")):
        if j and same:
            continue
        share = fields["flattest"][:, k, j]
        best = []
        for fitness in config.fitnesses:
            own = [i for i, name in enumerate(names) if name.rpartition(" ")[0] == fitness]
            best += [max(own, key=lambda i: share[i])] if own else []
        flattest = " ".join(np.array(fields["outcomes"])[here][orders[j] == 0])
        by = "both measures" if same else measure
        said = _against(names, fields, k, j, best)
        parts.append(f"at minimum {flattest}, the flattest by {by}: {said}")
    return "; ".join(parts)


def _against(names: list[str], fields: dict, k: int, j: int, best: list[int]) -> str:
    """Rows in words, in groups by whether their intervals are apart from CNO's."""
    low, high = (fields[name][:, k, j] for name in ("flattest_low", "flattest_high"))

    def words(row: int) -> str:
        share = 100 * fields["flattest"][row, k, j]
        return f"{names[row]} {share:.0f} % ({100 * low[row]:.0f} to {100 * high[row]:.0f})"

    if names[0] != "CNO":
        return ", ".join(map(words, best))
    groups = {
        "more often": [row for row in best if low[row] > high[0]],
        "not told apart": [row for row in best if low[row] <= high[0] and high[row] >= low[0]],
        "less often": [row for row in best if high[row] < low[0]],
    }
    return ", ".join([
        words(0),
        *(f"{name}: {', '.join(map(words, rows))}" for name, rows in groups.items() if rows),
    ])
