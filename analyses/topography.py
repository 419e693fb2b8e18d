"""Are the walls between minima of SGD lower than those between minima of L-BFGS?

Question: from common starts, SGD and L-BFGS with golden-section search each go to a minimum. How
high is the training loss on the way from the minimum of one start to that of another, by a straight
line, with units put in order, and by two path finders, and does the method matter if both are
stopped at equal training loss?

Expected: the paper finds lower walls between minima of SGD, except for the autoencoder. It compares
points of other training losses; a loss that is lower by orders of magnitude belongs to longer
weights, between which walls are higher whatever the method.

n: pairs share starts, and both methods have all starts and pairs in common. The interval of the
difference is over starts, each left out once (jackknife), with Student's t. Each start is in
2 * neighbours pairs, of which all pairs of m starts would tell little more.

Cut against the paper, which has 75 starts, 50,000 images of MNIST, 300 pairs and 1,000 rounds: the
defaults have 12 starts, 200 of scikit-learn's digits, 24 pairs, and 40 steps of each path finder.

Cost: on one core a start takes 5 s (fcp) to minutes (lenet, lstm), and a pair 10 s to a minute.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from analyses.connectivity import intervals
from analyses.published import TOPOGRAPHY
from analyses.stationary import require_one_of
from analyses.stops import EQUAL, SPLITS, STOPS, stopped, trained
from cnognp.measuring.alignment import aligned
from cnognp.measuring.paths import Between, Wanted, found_path
from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.tasks.mnist import check_files
from cnognp.tasks.problem import Problem, choose_device, task_of
from cnognp.tasks.strokes import STROKES
from cnognp.tasks.task import initial_population
from cnognp.workers import Unit, results_of
from landscape.embedding import embedding
from landscape.results import provenance
from landscape.results.topography import Spread, Stops, Topography, Walls

SGD, QUASI_NEWTON = "sgd", "lbfgs-gss"
COMPARED = (SGD, QUASI_NEWTON)
LINE, ALIGNED, LOWEST = "line", "aligned line", "lowest"
FINDERS = ("fourier", "string")
WAYS = (LINE, ALIGNED, *FINDERS, LOWEST)
QUANTITIES = ("barrier", "height", "test height")
BY = ("first component", "norm")
NOTES = (
    "A height is that of a path that was found: the lowest between two minima is at most a little "
    "above it, and may be far below. The lowest of line, fourier and string is a way of its own.",
    "What is asked is answered by the barrier of the lowest way at equal training loss; all other "
    "intervals describe, and are not corrected for how many there are.",
    "The stop at the lowest test loss chooses by the test data, as published; that of validation "
    "is the honest one.",
    "A test height is the highest test loss on the path that was found for the training loss.",
    "Barriers are the training loss above the mean of both ends.",
)


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        data: folder that holds ``MNIST/raw``; scikit-learn's digits where empty.
        networks: names that the task mnist knows, each once.
        starts: from which both methods go, at least 4.
        neighbours: each start is paired with so many of those that follow it in a ring.
        images: of the training images; 0 for all.
        epochs: of SGD.
        rate: step length of SGD.
        momentum: of SGD.
        batch: images in a mini-batch of SGD.
        iterations: of L-BFGS.
        stops: some of train, validation, test (the lowest loss of a split) and equal (both methods
            at one training loss).
        grid: points of a path at which the path finders evaluate, the ends among them.
        steps: of the path finders.
        points: at which a path is measured at last.
        confidence: of the intervals, between 0.5 and 1.
        device: where.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    data: str = ""
    networks: tuple[str, ...] = tuple(STROKES)
    starts: int = 12
    neighbours: int = 2
    images: int = 200
    epochs: int = 400
    rate: float = 0.1
    momentum: float = 0.9
    batch: int = 64
    iterations: int = 200
    stops: tuple[str, ...] = STOPS
    grid: int = 21
    steps: int = 40
    points: int = 51
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self):
        for name, known in (("networks", tuple(STROKES)), ("stops", STOPS)):
            given = getattr(self, name)
            for each in given:
                require_one_of(name, each, known)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, at least one, got {list(given)}")
        least = {"starts": 4, "neighbours": 1, "images": 0, "epochs": 1, "batch": 1,
                 "iterations": 1, "grid": 12, "steps": 1, "points": 3}  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if 2 * self.neighbours >= self.starts:
            raise ValueError(
                f"neighbours must be fewer than half of the {self.starts} starts, got "
                f"{self.neighbours}"
            )
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")

    @property
    def methods(self) -> Mapping[str, tuple[Method, int]]:
        """Both methods with their numbers of rounds."""
        given = {"lr": self.rate, "momentum": self.momentum, "batch_size": self.batch}
        return MappingProxyType({
            SGD: (METHODS[SGD](**given), self.epochs),
            QUASI_NEWTON: (METHODS[QUASI_NEWTON](), self.iterations),
        })

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of starts, each once."""
        return [(i, (i + k) % self.starts) for k in range(1, self.neighbours + 1)
                for i in range(self.starts)]  # fmt: skip


class Training(NamedTuple):
    """The trainings from one start."""

    config: Config
    network: str
    start: int


@dataclass(frozen=True)
class Points:
    """Some starts' stops; the digests are those of their points."""

    config: Config
    network: str
    digests: tuple[str, ...]
    stops: tuple[Stops, ...] = field(repr=False)


def check(config: Config) -> None:
    """Nothing, if the images are there; none is read.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    check_files(config.data)


def study(config: Config, progress: Callable[[str], None] | None = None) -> dict[str, Topography]:
    """The walls by network.

    Args:
        config: what is run.
        progress: called with the name of a unit when it is done.
    """
    found = results_of(units(config), progress=progress)
    more = results_of(further(config, found), progress=progress)
    return joined(config, [*found, *more])


def units(config: Config) -> list[Unit]:
    """The trainings, start by start."""
    plain = replace(config, **{
        name: getattr(Config, name)
        for name in ("networks", "starts", "neighbours", "stops", "grid", "steps", "points",
                     "confidence")
    })  # fmt: skip
    return [
        Unit(f"{network} start {start}", stops, Training(plain, network, start))
        for network in config.networks
        for start in range(config.starts)
    ]


def further(config: Config, found: Sequence[Any]) -> list[Unit]:
    """How the points of each network lie, and the walls of each pair.

    Args:
        config: what is run.
        found: what the trainings came to.
    """
    plain = replace(config, networks=Config.networks, confidence=Config.confidence)
    pairs = replace(plain, starts=Config.starts, neighbours=Config.neighbours)
    listed: list[Unit] = []
    for k, network in enumerate(config.networks):
        own = found[k * config.starts : (k + 1) * config.starts]
        digests = [sha256(each.points.tobytes()).hexdigest() for each in own]
        listed.append(
            Unit(f"{network} spread", spread, Points(plain, network, tuple(digests), tuple(own)))
        )
        listed += [
            Unit(
                f"{network} {i} to {j}", walls,
                Points(pairs, network, (digests[i], digests[j]), (own[i], own[j])),
            )
            for i, j in config.pairs
        ]  # fmt: skip
    return listed


def stops(given: Training) -> Stops:
    """Where both methods are stopped."""
    config, (problem, _) = given.config, _problem(given.config, given.network)
    start = initial_population(
        problem.task, problem.training.layout, 1, 0, problem.device, problem.training.point_dtype,
        first=given.start,
    )[0]  # fmt: skip
    runs = [
        trained(problem, method, start, rounds, given.start)
        for method, rounds in config.methods.values()
    ]
    rounds = stopped([run.loss for run in runs])
    return Stops(
        network=given.network, start=given.start, methods=COMPARED, stops=STOPS, splits=SPLITS,
        points=np.stack([
            run.points[at].cpu().numpy() for run, at in zip(runs, rounds, strict=True)
        ]),
        loss=np.stack([run.loss[at] for run, at in zip(runs, rounds, strict=True)]),
        round=rounds,
        evaluations=np.array([run.evaluations for run in runs]),
        seconds=np.array([run.seconds for run in runs]),
        provenance=provenance(),
    )  # fmt: skip


def spread(given: Points) -> Spread:
    """How the points of all starts lie to each other."""
    config, wanted = given.config, _wanted(given.config)
    columns = {
        name: np.stack([getattr(each, name) for each in given.stops])
        for name in ("points", "loss", "round", "evaluations", "seconds")
    }
    points = columns.pop("points")[:, :, wanted].astype(np.float64)
    loss, at = (columns.pop(name)[:, :, wanted] for name in ("loss", "round"))
    means = points.mean(0)
    apart = np.linalg.norm(means[0] - means[1], axis=-1)
    groups = np.tile(COMPARED, len(points)).tolist()
    found = [
        embedding(points[:, :, k].reshape(-1, points.shape[-1]), kind="rbf", groups=groups)
        for k in range(len(config.stops))
    ]
    shape = (*points.shape[:2], -1)
    return Spread(
        network=given.network, methods=COMPARED, stops=config.stops, splits=SPLITS, loss=loss,
        round=at, **columns, sigma=points.std(-1), norm=np.linalg.norm(points, axis=-1),
        radius=np.linalg.norm(points - means.mean(0), axis=-1), apart=apart,
        component=np.stack([each.coordinates.reshape(shape) for each in found], axis=2),
        explained=np.stack([each.explained for each in found]),
        provenance=provenance(),
    )  # fmt: skip


def walls(given: Points) -> Walls:
    """The walls between the points of two starts, method by method and stop by stop."""
    config = given.config
    problem, device = _problem(config, given.network)
    one, other = given.stops
    table = [
        [
            _between(problem, config, *(
                torch.as_tensor(each.points[k, place].copy(), device=device)
                for each in (one, other)
            ))
            for place in _wanted(config)
        ]
        for k in range(len(COMPARED))
    ]  # fmt: skip
    columns = (np.array([[getattr(cell, name) for cell in row] for row in table])
               for name in _Crossed._fields)  # fmt: skip
    values, *others = columns
    named = dict(zip(_Crossed._fields[1:], others, strict=True))
    return Walls(
        network=given.network, methods=COMPARED, stops=config.stops, ways=WAYS,
        quantities=QUANTITIES, value=np.moveaxis(values, -1, 0), **named, provenance=provenance(),
    )  # fmt: skip


def joined(config: Config, found: Sequence[Any]) -> dict[str, Topography]:
    """The walls by network, and how those of the methods differ.

    Args:
        config: what was run.
        found: of `units`, then of `further`.
    """
    each = 1 + len(config.pairs)
    found = found[-each * len(config.networks) :]
    shares = [found[k * each : (k + 1) * each] for k in range(len(config.networks))]
    return {
        f"topography-{network}": _compared(config, network, share[0], share[1:])
        for network, share in zip(config.networks, shares, strict=True)
    }


class _Crossed(NamedTuple):
    """What is known of the ways between two points; all but the distances by way."""

    value: list[list[float]]
    distance: float
    aligned: float
    gradients: list[int]
    seconds: list[float]


def _between(problem: Problem, config: Config, a: Tensor, b: Tensor) -> _Crossed:
    """The ways between two points."""
    moved, _ = aligned(problem, a, b, "weights")
    settings: dict[str, dict[str, Any]] = {
        "fourier": {"grid": config.grid, "steps": config.steps},
        "string": {"pivots": config.grid - 2, "steps": config.steps},
    }
    rows, gradients, seconds = [], [], []
    for way in (LINE, ALIGNED, *FINDERS):
        began = time.perf_counter()
        ends = Between(a, moved if way == ALIGNED else b, ("one", "other"), {}, problem)
        kind = way if way in FINDERS else "linear"
        options = {"points": config.points, "keep": False}
        path = found_path(ends, Wanted(kind, settings.get(way, {}), ("test_loss",), options))
        assert path.metric_values is not None
        rows.append([path.barrier, path.height, float(path.metric_values.max())])
        gradients.append(path.gradients)
        seconds.append(time.perf_counter() - began)
    # Of the ways between the two points as they are.
    lowest = min((0, 2, 3), key=lambda k: rows[k][1])
    return _Crossed(
        [*rows, rows[lowest]], float((a - b).norm()), float((a - moved).norm()),
        [*gradients, sum(gradients)], [*seconds, sum(seconds)],
    )  # fmt: skip


def _compared(config: Config, network: str, lie: Spread, crossed: Sequence[Walls]) -> Topography:
    value = np.stack([each.value for each in crossed], axis=1)
    apart = value[:, :, 0] - value[:, :, 1]
    shape = (len(QUANTITIES), len(config.stops), len(WAYS))
    limits = np.empty((3, *shape))
    for place in np.ndindex(shape):
        quantity, stop, way = place
        limits[(slice(None), *place)] = _interval(config, apart[quantity, :, stop, way])
    difference, low, high = limits
    labels = np.tile([True, False], len(lie.loss))
    told = {BY[0]: lie.component[..., 0], BY[1]: lie.norm}
    areas = np.array([
        [roc_auc_score(labels, told[by][:, :, k].ravel()) for by in BY]
        for k in range(len(config.stops))
    ])
    loss, sigma = _published(network, config.stops)
    kept = ("loss", "round", "sigma", "norm", "radius", "apart", "component", "explained")
    found = Topography(
        network=network, methods=COMPARED, stops=config.stops, splits=SPLITS, ways=WAYS,
        quantities=QUANTITIES, **{name: getattr(lie, name) for name in kept}, by=BY,
        separated=np.maximum(areas, 1 - areas), ends=np.array(config.pairs), value=value,
        distance=np.stack([each.distance for each in crossed]), mean=value.mean(1),
        difference=difference, low=low, high=high, published_loss=loss, published_sigma=sigma,
        gradients=np.mean([each.gradients for each in crossed], axis=0),
        seconds=np.mean([each.seconds for each in crossed], axis=0),
        confidence=config.confidence, notes=NOTES, conclusion="",
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip
    return replace(found, conclusion=_conclusion(found))


def _interval(config: Config, apart: np.ndarray) -> tuple[float, float, float]:
    """The mean difference of pairs, and its interval over starts."""
    if not np.isfinite(apart).all():
        return (np.nan,) * 3
    table = np.full((config.starts, config.starts), np.nan)
    for (i, j), value in zip(config.pairs, apart, strict=True):
        table[i, j] = table[j, i] = value
    group = np.zeros(config.starts, int)
    _, mean, low, high, _ = intervals(table, group, ("starts",), config.confidence)
    return float(mean[0]), float(low[0]), float(high[0])


def _conclusion(found: Topography) -> str:
    """Whether the walls differ at equal training loss, in words."""
    if EQUAL not in found.stops:
        return "not asked at equal training loss"
    at = (QUANTITIES.index("barrier"), found.stops.index(EQUAL), WAYS.index(LOWEST))
    mean, low, high = (column[at] for column in (found.difference, found.low, found.high))
    if not low == low:
        return "at equal training loss: not known, since some losses are no numbers"
    one, other = found.mean[0, :, at[1], at[2]]
    verdict = "lower" if high < 0 else "higher" if low > 0 else "neither lower nor higher for sure"
    return (
        f"at equal training loss, barriers between minima of {SGD} are {verdict}: {one:.3g} "
        f"against {other:.3g}, difference {mean:+.2g} ({low:+.2g} to {high:+.2g})"
    )


def _published(network: str, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean losses (methods, stops, splits) and sigmas (methods, stops); NaN where there is none."""
    loss = np.full((len(COMPARED), len(wanted), len(SPLITS)), np.nan)
    sigma = np.full((len(COMPARED), len(wanted)), np.nan)
    for i, method in enumerate(COMPARED):
        for k, stop in enumerate(wanted):
            if stop in ("train", "test"):
                told = TOPOGRAPHY[network, method]
                loss[i, k, SPLITS.index(stop)] = told[f"{stop}_loss"]
                sigma[i, k] = told[f"{stop}_sigma"]
    return loss, sigma


def _wanted(config: Config) -> list[int]:
    """The places of the stops that are compared among all."""
    return [STOPS.index(stop) for stop in config.stops]


def _problem(config: Config, network: str) -> tuple[Problem, torch.device]:
    return _made(config.data, network, config.images, config.device)


@lru_cache(maxsize=1)
def _made(data: str, network: str, images: int, device: str) -> tuple[Problem, torch.device]:
    """The problem of a network and where it is; the data and the order of pixels are of seed 0."""
    task = task_of("mnist", 0, {"data": data, "network": network, "images": images})
    where = choose_device(device)
    return Problem(task, where, data_seed=0, noise_seed=0), where
