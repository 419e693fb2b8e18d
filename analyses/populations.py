"""Do populations of trained networks tell methods apart, as published and as it should be?

Question: do SetA (the points of lowest training loss of each trajectory) and SetB (those best on
held-out data) differ, and do methods, in what their networks are worth and in their training loss;
is that more than chance once a trajectory, not a point, is what was drawn; and are differences
known to be small?

Expected: pooled tests reject much that is chance. Five trajectories of each leave most open.

n: trajectories, whose points are alike. Trajectories of one number have start and mini-batches in
common whatever the method; budgets are equal in gradients of the whole data, and beside that in
epochs.

Cost: methods * trajectories * passes over the samples for each setting and task, and about as much
again to measure every epoch; trials come on top.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from analyses.budgets import moments
from analyses.claims import told
from analyses.stationary import require_one_of
from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.tasks.problem import SPLITS, Problem, choose_device, task_of
from cnognp.tasks.registry import check_data
from cnognp.tasks.tabular import few
from cnognp.tasks.task import Task
from cnognp.workers import Unit, results_of
from landscape.randomness import derived_seed
from landscape.results import provenance
from landscape.results.populations import Course, Populations


class Known(NamedTuple):
    """A task: its name for the package, the folder of its data, its score, its options.

    ``published`` is the column of the published tables that it stands for, ``scale`` what step
    lengths are multiplied by.
    """

    name: str
    folder: str
    score: str
    options: Mapping[str, Any]
    published: str = ""
    scale: float = 1.0


TASKS: Mapping[str, Known] = MappingProxyType({
    "digits": Known("digits", "", "accuracy", {}),
    "cifar10": Known("cifar10", ".", "accuracy", {"augment": False}, "cifar10-resnet50"),
    "cifar100": Known("cifar100", ".", "accuracy", {"augment": False}, "cifar100-resnet50"),
    "goemotions": Known("goemotions", "goemotions", "macro_f1", {}, "goemotions-bert", 100.0),
    "emotion": Known(
        "tweeteval", "tweeteval", "macro_f1", {"subset": "emotion"}, "tweeteval-bert", 5.0
    ),
    "irony": Known("tweeteval", "tweeteval", "macro_f1", {"subset": "irony"}, "", 5.0),
})
IMAGES = ("cifar10", "cifar100")
BASE, TUNED = "base", "tuned"
_APART = 100  # numbers between the first members of two trajectories


class Parts(NamedTuple):
    """What a method is called in the package, what its radius is called there, and other keys."""

    name: str
    radius: str
    keys: Mapping[str, Any]


_NOISE = {"per_tensor": True}
PARTS: Mapping[str, Parts] = MappingProxyType({
    "sgd": Parts("sgd", "", {}),
    "nig-sgd": Parts("nig", "noise", _NOISE),
    "nim-sgd": Parts("nim", "noise", {**_NOISE, "eps": "eps", "tau": "tau"}),
    "sam": Parts("sam", "rho", {}),
    "nig-bh": Parts("nig-bh", "noise", {**_NOISE, "eps": "eps", "tau": "tau"}),
    "nim-bh": Parts("nim-bh", "noise", {**_NOISE, "eps": "eps", "tau": "tau"}),
    "gcsam": Parts("gcsam", "rho", {}),
    "cnognp": Parts("cnognp", "", {"fitness_from": "epoch"}),
})
COMPARED = tuple(PARTS)


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        tasks: some of digits, cifar10, cifar100, goemotions, emotion and irony (of TweetEval).
        data: folder of the data; those of texts in goemotions and tweeteval inside it.
        network: of cifar10 and cifar100.
        methods: some of sgd, nig-sgd, nim-sgd, sam, nig-bh, nim-bh, gcsam and cnognp.
        trajectories: of each method, at least 2.
        points: of a set.
        passes: gradients of all training samples that a trajectory may take.
        samples: of the training split, drawn by seed; 0 for all.
        held: samples of the validation and of the test split, at most; 0 for all.
        batch: samples in a mini-batch.
        rate: step length; five times that of emotion and irony, a hundred times of goemotions.
        noise: radius of noise, relative to each tensor's norm.
        rho: radius of sam and gcsam.
        eps: norm of a mini-batch's gradient below which nim-sgd, nig-bh and nim-bh add noise.
        tau: steps before the first noise of nim-sgd, and between two hops.
        members: of cnognp, which share the budget.
        trials: of the random search for each method's settings; none where 0.
        trial_passes: gradients of all training samples that a trial may take.
        margin: differences of the score below it count as none.
        confidence: of the intervals and tests, between 0.5 and 1.
        device: where training happens.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    tasks: tuple[str, ...] = ("digits",)
    data: str = "data"
    network: str = "resnet8-w8"
    methods: tuple[str, ...] = COMPARED
    trajectories: int = 5
    points: int = 10
    passes: int = 40
    samples: int = 0
    held: int = 1000
    batch: int = 64
    rate: float = 0.1
    noise: float = 0.05
    rho: float = 0.05
    eps: float = 0.5
    tau: int = 20
    members: int = 2
    trials: int = 0
    trial_passes: int = 20
    margin: float = 0.005
    confidence: float = 0.95
    device: str = "auto"

    def __post_init__(self):
        for name, known in (("tasks", tuple(TASKS)), ("methods", COMPARED)):
            given = getattr(self, name)
            for each in given:
                require_one_of(name, each, known)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must differ, at least one, got {list(given)}")
        least = {"trajectories": 2, "points": 1, "passes": 2, "samples": 0, "held": 0, "batch": 1,
                 "tau": 1, "members": 2, "trials": 0, "trial_passes": 2}  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.members > _APART:
            raise ValueError(f"members must be at most {_APART}, got {self.members}")
        for name in ("rate", "noise", "rho", "margin"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")

    def settings(self, task: str, method: str) -> "Settings":
        """The base settings of a method."""
        radius = PARTS[method].radius
        return Settings(self.rate * TASKS[task].scale, getattr(self, radius) if radius else np.nan)

    def tried(self, task: str, method: str, trial: int) -> "Settings":
        """The settings of a trial: those of one number scale those of all methods alike.

        Step lengths from a tenth of the base to thrice, radii from a tenth of it to ten times,
        both uniform in the logarithm.
        """
        drawn = np.random.default_rng(derived_seed(trial, "populations", "trial")).uniform(size=2)
        base = self.settings(task, method)
        return Settings(
            float(base.rate * 10 ** (-1 + 1.477 * drawn[0])),
            float(base.radius * 10 ** (-1 + 2 * drawn[1])),
        )


class Settings(NamedTuple):
    """Step length and radius; NaN where a method has none."""

    rate: float
    radius: float


class Training(NamedTuple):
    """One trajectory."""

    config: Config
    task: str
    method: str
    number: int
    settings: Settings


NOTES = (
    "SetA: points of lowest training loss. SetB: points best on validation. SetB as published: "
    "points best on the test split, which chooses on what it reports. Sets are chosen among the "
    "points after every epoch.",
    "Pooled tests take the points of one trajectory for independent, as published, which they are "
    "not. Exact p values permute trajectories, between sets within each of them.",
    "The published tables are of ResNet-50 and BERT over 300 epochs; ours of small networks on "
    "part of the data. They answer the same questions about other trajectories.",
    "With five trajectories of each of two methods no exact p value is below 2/252, and with five "
    "pairs none below 2/32: after Holm's correction over a table nothing can be rejected.",
)


def check(config: Config) -> None:
    """Nothing, if the data are there; none are read.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    for name in config.tasks:
        if (known := TASKS[name]).folder:
            check_data(known.name, str(Path(config.data) / known.folder))


def study(config: Config, progress: Callable[[str], None] | None = None) -> Populations:
    """What populations tell of the methods.

    Args:
        config: what is run.
        progress: called with the name of a trajectory when it is done.
    """
    found: list[Any] = results_of(units(config), progress=progress)
    found += results_of(further(config, found), progress=progress)
    return joined(config, found)["populations"]


def units(config: Config) -> list[Unit]:
    """Every trajectory at base settings, and every trial."""
    plain = _plain(config)
    tried = replace(plain, passes=config.trial_passes)
    return [
        unit
        for task in config.tasks
        for method in config.methods
        for unit in (
            *(_unit(plain, task, method, number, config.settings(task, method), BASE)
              for number in range(config.trajectories)),
            # One start of their own, that no trajectory has.
            *(_unit(tried, task, method, -1, config.tried(task, method, trial), f"trial {trial}")
              for trial in range(config.trials)),
        )
    ]  # fmt: skip


def further(config: Config, found: Sequence[Course]) -> list[Unit]:
    """Every trajectory at the settings that were best on validation; none without trials.

    Args:
        config: what is run.
        found: of `units`.
    """
    plain = _plain(config)
    best = _chosen(config, found)
    return [
        _unit(plain, task, method, number, best[task, method], TUNED)
        for task, method in best
        for number in range(config.trajectories)
    ]


def trained(given: Training) -> Course:
    """One trajectory, measured after every epoch."""
    config, known = given.config, TASKS[given.task]
    problem = Problem(_task(config, given.task), choose_device(config.device), data_seed=0,
                      noise_seed=0)  # fmt: skip
    began = time.perf_counter()
    rows: list[tuple[int, float, list[list[float]]]] = []
    first = 1 + (1 + given.number) * _APART
    method = built(config, given.method, given.settings)
    last: torch.Tensor | None = None
    stands = moments(problem, method, config.members, config.passes, given.number + 1, first)
    for epoch, stand in enumerate(stands, 1):
        for k, z in enumerate(stand.points):
            if last is not None and k < len(last) and torch.equal(z, last[k]):
                continue
            rows.append((epoch, stand.passes, _measured(problem, z, ("loss", known.score))))
        last = stand.points
    return Course(
        task=given.task, method=given.method, number=given.number, splits=SPLITS,
        measures=("loss", known.score), epoch=np.array([row[0] for row in rows]),
        passes=np.array([row[1] for row in rows]), value=np.array([row[2] for row in rows]),
        seconds=time.perf_counter() - began, rate=given.settings.rate,
        radius=given.settings.radius, provenance={**provenance(), **problem.task.provenance},
    )  # fmt: skip


def built(config: Config, name: str, settings: Settings) -> Method:
    """The method of that name at these settings."""
    parts = PARTS[name]
    keys: dict[str, Any] = {
        key: getattr(config, value) if isinstance(value, str) and hasattr(config, value) else value
        for key, value in parts.keys.items()
    }
    keys |= {"lr": settings.rate, "batch_size": config.batch}
    if parts.radius:
        keys["rho"] = settings.radius
    return METHODS[parts.name](**keys)


def joined(config: Config, found: Sequence[Course]) -> dict[str, Any]:
    """The tables by name.

    Args:
        config: what was run.
        found: of `units`, then of `further`.
    """
    each = config.trajectories + config.trials
    base = [
        [list(found[k : k + config.trajectories]) for k in _places(config, t, each)]
        for t in range(len(config.tasks))
    ]
    tried = [
        [found[k + config.trajectories : k + each] for k in _places(config, t, each)]
        for t in range(len(config.tasks))
    ]
    trials = np.array([
        [[(run.rate, run.radius, _best(run)) for run in own] for own in task] for task in tried
    ]).reshape(len(config.tasks), len(config.methods), config.trials, 3)  # fmt: skip
    runs = {BASE: base}
    if config.trials:
        more = found[len(config.tasks) * len(config.methods) * each :]
        runs[TUNED] = [
            [
                list(more[k : k + config.trajectories])
                for k in _places(config, t, config.trajectories)
            ]
            for t in range(len(config.tasks))
        ]
    published = {name: TASKS[name].published for name in config.tasks}
    fields = told(runs, config.methods, published, config.points, config.margin, config.confidence)
    result = Populations(
        tasks=config.tasks, settings=tuple(runs), methods=config.methods, trials=trials,
        **fields, margin=config.margin, confidence=config.confidence,
        notes=(*NOTES, *_twins(config, runs)),
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip
    return {"populations": result}


def _twins(config: Config, runs: Mapping[str, Any]) -> Iterator[str]:
    """A note for each method whose trajectories are those of an earlier one, number for number."""
    for setting, tasks in runs.items():
        for task, methods in zip(config.tasks, tasks, strict=True):
            for k, one in enumerate(methods):
                for name, other in zip(config.methods[:k], methods[:k], strict=True):
                    if all(
                        np.array_equal(a.value, b.value, equal_nan=True)
                        for a, b in zip(one, other, strict=True)
                    ):
                        yield (
                            f"{config.methods[k]} took the steps of {name} on {task} at {setting} "
                            "settings: nothing of its own ever came into play."
                        )
                        break


def _places(config: Config, task: int, each: int) -> range:
    """Where the results of each method of a task begin, ``each`` of them together."""
    first = task * len(config.methods) * each
    return range(first, first + len(config.methods) * each, each)


def _plain(config: Config) -> Config:
    """What a trajectory depends on."""
    common = ("tasks", "methods", "trajectories", "points", "trials", "trial_passes", "margin",
              "confidence")  # fmt: skip
    return replace(config, **{name: getattr(Config, name) for name in common})


def _unit(
    config: Config, task: str, method: str, number: int, settings: Settings, label: str
) -> Unit:
    name = f"{task} {method} {label}" + ("" if number < 0 else f" {number}")
    return Unit(name, trained, Training(config, task, method, number, settings))


def _chosen(config: Config, found: Sequence[Course]) -> dict[tuple[str, str], Settings]:
    """The settings of the best trial by task and method."""
    if not config.trials:
        return {}
    each = config.trajectories + config.trials
    chosen = {}
    for t, task in enumerate(config.tasks):
        for method, k in zip(config.methods, _places(config, t, each), strict=True):
            trials = found[k + config.trajectories : k + each]
            best = int(np.argmax([_best(trial) for trial in trials]))
            chosen[task, method] = config.tried(task, method, best)
    return chosen


def _best(run: Course) -> float:
    """The best score on validation of a trajectory; minus infinity where it has none."""
    scores = run.value[:, run.splits.index("validation"), 1]
    known = scores[np.isfinite(scores)]
    return float(known.max()) if known.size else -np.inf


def _measured(problem: Problem, z: torch.Tensor, names: Sequence[str]) -> list[list[float]]:
    """The measures of a point by split; NaN where it is no number."""
    if not bool(z.isfinite().all()):
        return [[np.nan] * len(names) for _ in SPLITS]
    found = problem.metrics(z, SPLITS, names)
    return [[found[split][name] for name in names] for split in SPLITS]


def _task(config: Config, name: str) -> Task:
    """The task, with as many samples as are wanted."""
    known = TASKS[name]
    options: dict[str, Any] = dict(known.options)
    if known.folder:
        options["data"] = str(Path(config.data) / known.folder)
    if name in IMAGES:
        options |= {"network": config.network, "validation": config.held or 5000}
    task = few(task_of(known.name, 0, options), config.samples, 0)
    for split in ("validation", "test"):
        size = len(getattr(task, split)[1])
        task = few(task, 0 if config.held >= size else config.held, 0, split=split)
    return task
