"""Does it matter how a trained network is trained further?

Question: from published weights of ResNet-20 and ResNet-32 on CIFAR-10, do SAM, GCSAM, GNP, CNO and
CNOGNP end at another test accuracy than SGD, if all take equally many gradients?

Expected: no. Published are differences below 0.1 points, which is the standard deviation over runs.

n: runs of one seed have their images and the order of mini-batches in common, and are paired. With
6 seeds and differences of deviation 0.1, the interval reaches 0.105 to either side, too far to say
that two methods are the same to within 0.1 points; that takes some 11 seeds, and more for several
comparisons at once.

Cut against the paper, which takes 10 epochs of 50,000 images at a rate of 0.001 without momentum:
the defaults take 20 epochs of 512 images and with momentum 0.9 a rate of 0.005, so that 80 steps go
about as far as the paper's 3,910. Radius and number of members are the paper's, the penalty is on
the squared norm, and there is no weight decay.

Cost: a run takes the gradients of epochs * images pictures, on one core some 4 ms each for
ResNet-20 and 6 ms for ResNet-32, 25 s to read the images and to judge on the test images, and a
minute for flatness on 128 images.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.nn import functional as F

from analyses.budgets import Moment, moments
from analyses.ends import correlations, flatness, judged
from analyses.images import outputs
from analyses.paired import conclusion, differences
from analyses.published import FINETUNED
from analyses.stationary import require_one_of
from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.methods.flat_fitness import BallGradientNorm
from cnognp.tasks.problem import Problem, choose_device, task_of
from cnognp.tasks.registry import check_data
from cnognp.tasks.tabular import few
from cnognp.tasks.task import accuracy
from cnognp.workers import Unit, results_of
from landscape.results import provenance
from landscape.results.finetuning import Ending, Finetuning
from landscape.sharpness import Options

START, REFERENCE, BALL = "pretrained", "sgd", "cnognp-ball"
COMPARED = (REFERENCE, "sam", "gcsam", "gnp", "cno", "cnognp", BALL)
SCORES = ("test accuracy", "validation accuracy", "train accuracy", "validation loss", "moved")
NOTES = (
    "The weights were trained on all training images, the validation images among them: what is "
    "chosen there is what keeps most of that, not what generalises best.",
    "Intervals are over seeds, which draw images, their order and noise; the test images are "
    "always the same, and their own sampling error (0.27 points at 92 %) is not part of them.",
    "BatchNorm statistics are those of the training images drawn, shifted and mirrored as in "
    "training; the losses that are judged and measured are those of the images as they are.",
    "Members share the budget: each of a swarm takes a part of the gradients of sgd, and moves "
    "less; it offers the best points of its members, the start among them, and others end where "
    "they are. A swarm that loses less than sgd may only have gone less far.",
    "How many runs the published deviations are of is not said, nor how many gradients a "
    "population took; those weights are 0.9 points better than the ones at hand.",
)


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        data: folder that holds ``cifar-10-batches-py``.
        networks: names that the task cifar10 knows, each once.
        weights: a file of trained weights for each network.
        methods: some of sgd, sam, gcsam, gnp, cno, cnognp and cnognp-ball, whose fitness is the
            mean gradient norm in a ball; sgd is always run.
        seeds: runs of each method, at least 2; 5 or more to conclude anything.
        images: of the training images, drawn by seed; 0 for all that validation leaves.
        validation: images that choices are made on, drawn by seed from the training images.
        epochs: the budget: passes over the images whose gradients sgd takes. What a step takes two
            gradients for has half as many; members share them, and what judges them counts.
        members: of the populations.
        rates: step lengths, of which each method gets the one with the lowest mean loss on the
            validation images.
        momentum: of the steps of all methods.
        batch: images in a mini-batch.
        rho: radius of sam, gcsam and gnp.
        penalty: of cnognp, on the squared gradient norm.
        radius: of the ball, relative to the size of each filter.
        mean: of the red, green and blue that the weights take as 0.
        deviation: from the mean that the weights take as 1.
        measured: training images that flatness is measured on.
        plane: points along each side of a plane through the end of the first seed; none where 0.
        options: radii and budgets of the flatness measures.
        margin: differences below so many points count as none, positive.
        confidence: of the intervals and tests, between 0.5 and 1.
        device: where training happens.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    data: str = "data"
    networks: tuple[str, ...] = ("resnet20", "resnet32")
    weights: tuple[str, ...] = ()
    methods: tuple[str, ...] = COMPARED
    seeds: int = 6
    images: int = 512
    validation: int = 1000
    epochs: int = 20
    members: int = 2
    rates: tuple[float, ...] = (0.005,)
    momentum: float = 0.9
    batch: int = 128
    rho: float = 0.01
    penalty: float = 0.1
    radius: float = 0.01
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    measured: int = 128
    plane: int = 9
    options: Options = Options(pairs=8, probes=8, budget=0)
    margin: float = 0.1
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self):
        for name in self.methods:
            require_one_of("methods", name, COMPARED)
        for name in ("networks", "methods", "rates"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, at least one, got {list(given)}")
        least = {"seeds": 2, "images": 0, "validation": 10, "epochs": 1, "members": 2, "batch": 1,
                 "measured": 1, "plane": 0}  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, got {self.margin}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")

    def method(self, name: str, rate: float) -> Method:
        """The method of that name with that step length."""
        given = {"lr": rate, "momentum": self.momentum, "batch_size": self.batch}
        radius = {"sam": "rho", "gcsam": "rho", "gnp": "r"}
        if name in radius:
            given[radius[name]] = self.rho
        if name == "cnognp":
            given["penalty"] = self.penalty
        if name != BALL:
            return METHODS[name](**given)
        ball = BallGradientNorm(self.penalty, self.radius, samples=2, scaling="filter")
        return replace(METHODS["cno"](**given), fitness=ball)  # type: ignore[type-var]

    @property
    def rows(self) -> tuple[str, ...]:
        """The start, the reference, and the other methods."""
        return START, REFERENCE, *(name for name in self.methods if name != REFERENCE)


class Run(NamedTuple):
    """One training run; the digest is that of the file of weights."""

    config: Config
    network: str
    weights: str
    digest: str
    method: str
    rate: float
    seed: int


def check(config: Config) -> None:
    """Nothing, if the images are there; none is read.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    check_data("cifar10", config.data)


def study(config: Config, progress: Callable[[str], None] | None = None) -> Finetuning:
    """The test accuracies of all methods, and how they differ from that of sgd.

    Args:
        config: what is run.
        progress: called with the name of a run when it is done.

    Raises:
        ValueError: if there is not a file of weights for each network.
        FileNotFoundError: if there is no such file.
    """
    return joined(config, results_of(units(config), progress=progress))["finetune"]


def units(config: Config) -> list[Unit]:
    """Every training run, one by one.

    Raises:
        ValueError: if there is not a file of weights for each network.
        FileNotFoundError: if there is no such file.
    """
    if len(config.weights) != len(config.networks):
        raise ValueError(
            f"weights must name a file for each of {', '.join(config.networks)}, got "
            f"{', '.join(config.weights) or 'none'}"
        )
    common = ("networks", "weights", "methods", "seeds", "rates", "margin", "confidence")
    # What is compared, and how, does not change a run.
    plain = replace(config, **{name: getattr(Config, name) for name in common})
    return [
        Unit(
            f"{network} {method} {rate:g} seed {seed}", ending,
            Run(plain, network, file, sha256(Path(file).read_bytes()).hexdigest(), method, rate,
                seed),
        )
        for network, file in zip(config.networks, config.weights, strict=True)
        for method, rate, seed in _runs(config)
    ]  # fmt: skip


def _runs(config: Config) -> list[tuple[str, float, int]]:
    """Method, rate and seed of the runs of a network; the start has no rate."""
    return [
        (method, rate, seed)
        for method in config.rows
        for rate in ((0.0,) if method == START else config.rates)
        for seed in range(config.seeds)
    ]


def ending(given: Run) -> Ending:
    """What a run ends with: the member with the lowest loss on the validation images."""
    config, name = given.config, f"{given.network} on CIFAR-10"
    task = few(task_of("cifar10", given.seed, {
        "data": config.data, "network": given.network, "weights": given.weights,
        "validation": config.validation, "mean": config.mean, "deviation": config.deviation,
    }), config.images, given.seed)  # fmt: skip
    problem = Problem(task, choose_device(config.device), data_seed=0, noise_seed=0)
    start = problem.training.point()
    began, last = time.perf_counter(), Moment(0.0, start[None])
    if given.method != START:
        method = config.method(given.method, given.rate)
        told = moments(problem, method, config.members, config.epochs, given.seed)
        last = deque(told, maxlen=1).pop()
    seconds = time.perf_counter() - began
    networks = [problem.at(z).network(z) for z in last.points]
    # What is no number is worse than any other.
    losses = [float(F.cross_entropy(*outputs(problem, "validation", each))) for each in networks]
    best = int(np.argmin(np.nan_to_num(losses, nan=np.inf)))
    shares = [
        float(accuracy(*outputs(problem, split, networks[best])))
        for split in ("test", "validation", "train")
    ]
    z = last.points[best]
    moved = float((z - start).norm() / start.norm())
    flat: dict[str, Any] = {}
    if np.isfinite(losses[best]):
        points = config.plane if given.seed == 0 else 0
        flat = flatness(judged(problem, z, config.measured), z, config.options, points)
    return Ending(
        task=name,
        method=given.method,
        rate=given.rate,
        seed=given.seed,
        scores=SCORES,
        score=np.array([*shares, losses[best], moved]),
        **flat,
        gradients=last.passes * -(-len(task.train[1]) // config.batch),
        seconds=seconds,
        provenance=provenance(),
    )


def joined(config: Config, found: Sequence[Any]) -> dict[str, Any]:
    """The comparison by name, and of each network how flatness goes with the test accuracy."""
    rows, networks = config.rows, len(config.networks)
    each = len(found) // networks
    shares = [found[k * each : (k + 1) * each] for k in range(networks)]
    chosen = [[_chosen(name, share) for name in rows] for share in shares]

    def table(of: Callable[[Ending], float]) -> np.ndarray:
        return np.array([[[of(one) for one in runs] for runs in row] for row in chosen])

    measures = (*chosen[0][0][0].measures, "moved")
    sharpness = [table(lambda one, name=name: _known(one, name)) for name in measures]
    reached = 100 * table(lambda one: one["test accuracy"])
    gradients = table(lambda one: one.gradients).mean(-1)
    reference = rows.index(REFERENCE)
    apart = reached - reached[:, [reference]]
    others = [i for i in range(len(rows)) if i != reference]
    tested = differences(
        apart[:, others].reshape(-1, config.seeds), config.margin, config.confidence
    )
    columns = dict(zip(("difference", *tested._fields[1:]), tested, strict=True))
    published = np.array([
        [FINETUNED.get(network, {}).get(name, (np.nan, np.nan)) for name in rows]
        for network in config.networks
    ])
    result = Finetuning(
        networks=config.networks,
        methods=rows,
        reference=REFERENCE,
        seeds=np.arange(config.seeds),
        rate=table(lambda one: one.rate)[..., 0],
        measures=measures,
        sharpness=np.stack(sharpness, -1),
        planes=_planes(chosen),
        accuracy=reached,
        mean=reached.mean(-1),
        deviation=reached.std(-1, ddof=1),
        **{name: _placed(column, apart.shape[:2], others) for name, column in columns.items()},
        published=published[..., 0],
        published_deviation=published[..., 1],
        gradients=gradients,
        seconds=table(lambda one: one.seconds).mean(-1),
        budget=float(gradients[:, reference].max()),
        margin=config.margin,
        confidence=config.confidence,
        notes=NOTES,
        conclusion="",
        provenance=provenance(configuration=asdict(config)),
    )
    result = replace(result, conclusion=conclusion(result))
    return {"finetune": result} | {
        f"flatness-{network}": correlations(
            dict(zip(rows[1:], part[1:], strict=True)), config.options, config.confidence
        )
        for network, part in zip(config.networks, chosen, strict=True)
        if len(measures) > 1
    }  # fmt: skip


def _known(end: Ending, measure: str) -> float:
    """The value of a measure; NaN where the run ended with no numbers."""
    return end[measure] if measure in end.measures + end.scores else np.nan


def _planes(chosen: list[list[list[Ending]]]) -> np.ndarray | None:
    """The planes through the ends of the first seed; None where one has none."""
    planes = [[runs[0].plane for runs in part] for part in chosen]
    if any(each is None for part in planes for each in part):
        return None
    return np.array(planes)


def _chosen(name: str, runs: Sequence[Ending]) -> list[Ending]:
    """The runs of a method, in the order of their seeds, at the rate that validation prefers."""
    rates: dict[float, list[Ending]] = {}
    for each in runs:
        if each.method == name:
            rates.setdefault(each.rate, []).append(each)

    def lost(rate: float) -> float:
        mean = np.mean([each["validation loss"] for each in rates[rate]])
        return float(np.nan_to_num(mean, nan=np.inf))

    return rates[min(rates, key=lost)]


def _placed(column: np.ndarray, shape: tuple[int, ...], others: list[int]) -> np.ndarray:
    """What is known of the others, in their places; NaN for the reference."""
    full = np.full(shape, np.nan)
    full[:, others] = column.reshape(shape[0], -1)
    return full
