"""Does it matter how a trained network is trained further?

Question: from published weights of ResNet-20 and ResNet-32 on CIFAR-10, do SAM, GCSAM, GNP, CNO and
CNOGNP end at another test accuracy than SGD, if all take equally many gradients?

Expected: no. Published are differences below 0.1 points, which is the standard deviation over runs.

n: runs of one seed have their images and the order of mini-batches in common, and are paired. With
5 seeds and differences of deviation 0.1, the interval reaches 0.12 to either side, too far to say
that two methods are the same to within 0.1 points; that takes some 11 seeds, and more for several
comparisons at once.

Cost: a run takes the gradients of epochs * images pictures, on one core some 5 ms each for
ResNet-20 and 8 ms for ResNet-32, and 25 s to read the images and to judge on the test images.
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
from analyses.images import few, outputs, settled
from analyses.paired import conclusion, differences
from analyses.published import FINETUNED
from analyses.stationary import require_one_of
from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.methods.flat_fitness import BallGradientNorm
from cnognp.tasks.problem import Problem, choose_device, task_of
from cnognp.tasks.task import accuracy
from cnognp.workers import Unit, results_of
from landscape.results import provenance
from landscape.results.finetuning import Ending, Finetuning

START, REFERENCE, BALL = "pretrained", "sgd", "cnognp-ball"
COMPARED = (REFERENCE, "sam", "gcsam", "gnp", "cno", "cnognp", BALL)
SCORES = ("test_accuracy", "validation_accuracy", "validation_loss")
NOTES = (
    "The weights were trained on all training images, the validation images among them: what is "
    "chosen there is what keeps most of that, not what generalises best.",
    "Intervals are over seeds, which draw images, their order and noise; the test images are "
    "always the same, and their own sampling error (0.27 points at 92 %) is not part of them.",
    "What is reported has the BatchNorm statistics of the training images drawn, shifted and "
    "mirrored; swarms rank their members with those of the images as they are.",
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
    seeds: int = 5
    images: int = 1000
    validation: int = 1000
    epochs: int = 28
    members: int = 4
    rates: tuple[float, ...] = (0.001, 0.01)
    momentum: float = 0.9
    batch: int = 128
    rho: float = 0.05
    penalty: float = 0.01
    radius: float = 0.01
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
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
        least = {"seeds": 2, "images": 0, "validation": 10, "epochs": 1, "members": 2, "batch": 1}
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
    began, last = time.perf_counter(), Moment(0.0, problem.training.point()[None])
    if given.method != START:
        method = config.method(given.method, given.rate)
        told = moments(problem, method, config.members, config.epochs, given.seed)
        last = deque(told, maxlen=1).pop()
    seconds = time.perf_counter() - began
    ends = [settled(problem, z, config.batch, given.seed) for z in last.points]
    # What is no number is worse than any other.
    losses = [float(F.cross_entropy(*outputs(problem, "validation", end))) for end in ends]
    best = int(np.argmin(np.nan_to_num(losses, nan=np.inf)))
    shares = [
        float(accuracy(*outputs(problem, split, ends[best]))) for split in ("test", "validation")
    ]
    return Ending(
        task=name,
        method=given.method,
        rate=given.rate,
        seed=given.seed,
        scores=SCORES,
        value=np.array([*shares, losses[best]]),
        gradients=last.passes * -(-len(task.train[1]) // config.batch),
        seconds=seconds,
        provenance=provenance(),
    )


def joined(config: Config, found: Sequence[Any]) -> dict[str, Finetuning]:
    """The comparison by name: what the results of `units` make together."""
    rows, networks = config.rows, len(config.networks)
    each = len(found) // networks
    shares = [found[k * each : (k + 1) * each] for k in range(networks)]
    chosen = [[_chosen(name, share) for name in rows] for share in shares]

    def table(of: Callable[[Ending], float]) -> np.ndarray:
        return np.array([[[of(one) for one in runs] for runs in row] for row in chosen])

    reached = 100 * table(lambda one: one["test_accuracy"])
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
    return {"finetune": replace(result, conclusion=conclusion(result))}


def _chosen(name: str, runs: Sequence[Ending]) -> list[Ending]:
    """The runs of a method, in the order of their seeds, at the rate that validation prefers."""
    rates: dict[float, list[Ending]] = {}
    for each in runs:
        if each.method == name:
            rates.setdefault(each.rate, []).append(each)

    def lost(rate: float) -> float:
        mean = np.mean([each["validation_loss"] for each in rates[rate]])
        return float(np.nan_to_num(mean, nan=np.inf))

    return rates[min(rates, key=lost)]


def _placed(column: np.ndarray, shape: tuple[int, ...], others: list[int]) -> np.ndarray:
    """What is known of the others, in their places; NaN for the reference."""
    full = np.full(shape, np.nan)
    full[:, others] = column.reshape(shape[0], -1)
    return full
