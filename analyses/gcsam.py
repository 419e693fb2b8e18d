"""Does GCSAM end flatter than SAM and Adam, and is it faster?

Question: trained from the same weights with equally many gradients, do SAM with centralised
gradients, SAM and Adam differ in how flat their ends are, in how soon the validation loss is at its
lowest, and in what the networks are worth on the test images?

Expected: SAM ends flatter than Adam, and centralisation changes that little. A step of SAM or GCSAM
takes two gradients, so that neither is faster by gradients unless it needs half as many steps.

n: runs of one seed have weights and the order of mini-batches in common, and are paired. A ratio
whose logarithm varies by 0.3 is known with 5 seeds to a factor of 1.45, with 10 to one of 1.24.

Cost: a run takes the gradients of epochs * images pictures, on one core some 4 ms each for
ResNet-20 and 30 ms for ViT-T, and one to three minutes for flatness on 128 images.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from analyses.budgets import moments
from analyses.ends import MEASURES, correlations, flatness, judged
from analyses.images import outputs
from analyses.paired import differences
from analyses.stationary import require_one_of
from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.tasks.problem import Problem, choose_device, task_of
from cnognp.tasks.registry import check_data
from cnognp.tasks.tabular import few
from cnognp.tasks.task import accuracy
from cnognp.workers import Unit, results_of
from landscape.results import provenance
from landscape.results.finetuning import Ending
from landscape.results.optimisers import Optimisers
from landscape.sharpness import Options

TASKS = ("breastmnist", "pneumoniamnist", "cifar10")
COMPARED = ("sgd", "adam", "sam", "gcsam-a1", "gcsam-a3")
TEST = ("test accuracy", "macro-F1", "AUC")
SCORES = (*TEST, "train accuracy", "validation loss", "gradients", "seconds")
RATIOS = ("lambda-max", "trace", "gradients", "seconds")
NOTES = (
    "Accuracies, macro-F1 and AUC are those at the lowest validation loss, and gradients and "
    "seconds are counted to there; flatness is measured where the training ends.",
    "Flatness is that of the loss on some training images in evaluation mode, BatchNorm statistics "
    "re-estimated on all. It is not invariant under rescaling of the weights.",
    "Seconds are those of a shared machine.",
)


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        task: breastmnist, pneumoniamnist or cifar10.
        data: folder of its data.
        verify: take nothing but the published file of MedMNIST; false takes any of its form.
        networks: names that the task knows, each once.
        methods: some of sgd, adam, sam, gcsam-a1 and gcsam-a3.
        seeds: runs of each method, at least 2.
        images: of the training images, drawn by seed; 0 for all.
        validation: images of the validation split of cifar10; the others have one.
        epochs: the budget: passes over the images whose gradients sgd takes.
        base: what does the steps of sam and gcsam, sgd or adam.
        rate: step length of adam.
        rate_sgd: step length of sgd, whose momentum is 0.9.
        batch: images in a mini-batch.
        rho: radius of sam and gcsam.
        measured: training images that flatness is measured on.
        plane: points along each side of a plane through the end of the first seed; none where 0.
        options: radii and budgets of the flatness measures.
        confidence: of the intervals and tests, between 0.5 and 1.
        device: where training happens.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    task: str = "breastmnist"
    data: str = "data"
    verify: bool = True
    networks: tuple[str, ...] = ("resnet20", "vit-t")
    methods: tuple[str, ...] = COMPARED
    seeds: int = 6
    images: int = 0
    validation: int = 1000
    epochs: int = 20
    base: str = "adam"
    rate: float = 0.001
    rate_sgd: float = 0.01
    batch: int = 32
    rho: float = 0.05
    measured: int = 128
    plane: int = 9
    options: Options = Options(pairs=8, probes=8, budget=0)
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self):
        require_one_of("task", self.task, TASKS)
        require_one_of("base", self.base, ("sgd", "adam"))
        for name in self.methods:
            require_one_of("methods", name, COMPARED)
        for name in ("networks", "methods"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, at least one, got {list(given)}")
        least = {"seeds": 2, "images": 0, "validation": 10, "epochs": 2, "batch": 1,
                 "measured": 1, "plane": 0}  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")

    def method(self, name: str) -> Method:
        """The method of that name."""
        step, _, variant = name.partition("-")
        base = self.base if step in ("sam", "gcsam") else step
        given: dict[str, Any] = {"lr": self.rate, "batch_size": self.batch}
        if base == "sgd":
            given |= {"lr": self.rate_sgd, "momentum": 0.9}
        if step != base:
            given |= {"base": base, "rho": self.rho}
        if variant:
            given["variant"] = variant.upper()
        return METHODS[step](**given)


class Run(NamedTuple):
    """One training run."""

    config: Config
    network: str
    method: str
    seed: int


class Best(NamedTuple):
    """Where the validation loss was lowest, and what it took to get there."""

    loss: float
    z: Tensor
    passes: float
    seconds: float


def check(config: Config) -> None:
    """Nothing, if the images are there; none is read.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    check_data(config.task, config.data)


def study(config: Config, progress: Callable[[str], None] | None = None) -> Optimisers:
    """How the methods end, how flat it is there, and how soon they were at their best.

    Args:
        config: what is run.
        progress: called with the name of a run when it is done.
    """
    return joined(config, results_of(units(config), progress=progress))["gcsam"]


def units(config: Config) -> list[Unit]:
    """Every training run, one by one."""
    common = ("networks", "methods", "seeds", "confidence")
    plain = replace(config, **{name: getattr(Config, name) for name in common})
    return [
        Unit(f"{network} {method} seed {seed}", ending, Run(plain, network, method, seed))
        for network in config.networks
        for method in config.methods
        for seed in range(config.seeds)
    ]


def ending(given: Run) -> Ending:
    """What a run ends with.

    Raises:
        RuntimeError: if the validation loss was never a number.
    """
    config = given.config
    options: dict[str, Any] = {"data": config.data, "network": given.network}
    if config.task == "cifar10":
        options["validation"] = config.validation
    else:
        options["verify"] = config.verify
    task = few(task_of(config.task, given.seed, options), config.images, given.seed)
    problem = Problem(task, choose_device(config.device), data_seed=0, noise_seed=0)
    batches = -(-len(task.train[1]) // config.batch)
    best, seconds, began = Best(np.inf, problem.training.point(), 0, 0), 0.0, time.perf_counter()
    for stand in moments(problem, config.method(given.method), 1, config.epochs, given.seed):
        seconds += time.perf_counter() - began
        (z,) = stand.points
        network = problem.at(z).network(z)
        loss = float(F.cross_entropy(*outputs(problem, "validation", network)))
        if loss < best.loss:
            best = Best(loss, z, stand.passes, seconds)
        began = time.perf_counter()
    if not np.isfinite(best.loss):
        raise RuntimeError(f"{given.method} has diverged in its first round: take a smaller rate")
    trained = accuracy(*outputs(problem, "train", problem.at(best.z).network(best.z)))
    scores = [*tested(problem, best.z), trained, best.loss, best.passes * batches, best.seconds]
    points = config.plane if given.seed == 0 else 0
    return Ending(
        task=config.task, method=given.method, rate=config.rate, seed=given.seed, scores=SCORES,
        score=np.array(scores),
        **flatness(judged(problem, z, config.measured), z, config.options, points),
        gradients=stand.passes * batches, seconds=seconds,
        provenance={**provenance(), **task.provenance},
    )  # fmt: skip


def tested(problem: Problem, z: Tensor) -> tuple[float, float, float]:
    """Accuracy, macro-F1 and AUC on the test images; the mean of one against all of more classes.

    Args:
        problem: with a test split that is a pair of tensors.
        z: (p,), the point.
    """
    told, target = outputs(problem, "test", problem.at(z).network(z))
    share = told.softmax(-1).numpy()
    found, truth = share.argmax(-1), target.numpy()
    ranked = share[:, 1] if share.shape[1] == 2 else share
    return (
        float((found == truth).mean()),
        float(f1_score(truth, found, average="macro")),
        float(roc_auc_score(truth, ranked, multi_class="ovr")),
    )


def joined(config: Config, found: Sequence[Any]) -> dict[str, Any]:
    """The comparison by name, and of each network how flatness goes with the test accuracy."""
    shape = (len(config.networks), len(config.methods), config.seeds)
    known = SCORES + MEASURES
    scores = np.array([[each[name] for name in known] for each in found]).reshape(*shape, -1)
    place = {name: i for i, name in enumerate(config.methods)}
    pairs = [
        (one, other)
        for one in config.methods
        for other in ("sam", "adam")
        if one.startswith("gcsam") and other in place
    ]
    columns = [known.index(name) for name in RATIOS]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(scores[..., columns])
        apart = [logs[:, place[one]] - logs[:, place[other]] for one, other in pairs]
    sizes = (len(config.networks), len(pairs), len(RATIOS))
    rows = np.array(apart).transpose(1, 0, 3, 2) if pairs else np.empty((*sizes, config.seeds))
    told = differences(rows.reshape(-1, config.seeds), np.log(1.1), config.confidence)
    result = Optimisers(
        task=config.task,
        networks=config.networks,
        methods=config.methods,
        seeds=np.arange(config.seeds),
        scores=known,
        value=scores,
        pairs=tuple(f"{one} / {other}" for one, other in pairs),
        compared=RATIOS,
        ratio=np.exp(told.mean).reshape(sizes),
        low=np.exp(told.low).reshape(sizes),
        high=np.exp(told.high).reshape(sizes),
        p_holm=told.p_holm.reshape(sizes),
        notes=NOTES + _foreign(found),
        answers="",
        confidence=config.confidence,
        provenance=provenance(configuration=asdict(config)),
    )
    each = np.array(found, dtype=object).reshape(shape)
    return {"gcsam": replace(result, answers=answers(result))} | {
        f"flatness-{network}": correlations(
            dict(zip(config.methods, part, strict=True)), config.options, config.confidence
        )
        for network, part in zip(config.networks, each.tolist(), strict=True)
    }  # fmt: skip


def _foreign(found: Sequence[Ending]) -> tuple[str, ...]:
    """A note where the data are not those of the published file; none where they are."""
    files = [each.provenance["data_file"] for each in found if "data_file" in each.provenance]
    said = sorted({f"{file['name']} (MD5 {file['md5']})" for file in files})
    return (f"The data are not the published file, but {', '.join(said)}.",) if said else ()


def answers(found: Optimisers) -> str:
    """Both answers in words, for each network and pair."""
    flatter = _answer(found, "lambda-max", "flatter", "sharper")
    faster = _answer(found, "gradients", "faster", "slower")
    return (
        f"Does GCSAM end flatter, by the largest eigenvalue? {flatter} Is it faster, by gradients "
        f"to the lowest validation loss? {faster}"
    )


def _answer(found: Optimisers, score: str, less: str, more: str) -> str:
    """What the ratios of a score say, as far as that is shown."""
    j, parts = found.compared.index(score), []
    for k, network in enumerate(found.networks):
        for i, pair in enumerate(found.pairs):
            one, _, other = pair.split(" ")
            ratio, p_value = found.ratio[k, i, j], found.p_holm[k, i, j]
            shown = p_value < 1 - found.confidence
            word = (less if ratio < 1 else more) if shown else f"neither {less} nor {more} for sure"
            parts.append(f"{one} is {word} than {other} on {network} (ratio {ratio:.2f})")
    return f"{'; '.join(parts)}." if parts else "Not asked: GCSAM and one of the others are needed."
