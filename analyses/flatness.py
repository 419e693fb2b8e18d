"""Which flatness measure goes with generalisation here?

Question: over independent trainings, how does each measure of `landscape.sharpness.panel` order
the points, and does the generalisation gap order them likewise?

Expected: little, for one task and few points. Across hyper-parameters a measure can follow the gap
because both follow a hyper-parameter; within groups of equal hyper-parameters that is excluded, and
correlations are usually weaker there (Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020, Fantastic
generalization measures and where to find them).

n: with 20 trainings the 95 % interval of a tau near 0 reaches about 0.34 to either side; 18
measures at once need a p value below 0.003 each. From fewer than six nothing is concluded. The
members of a swarm are one training: n is the number of runs there.

Cost: a panel for each point, which for a small network is about a second.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from analyses.rank_correlation import by_run, correlated, resamples, telling
from analyses.trainings import distances, half_width, medians, nearest, spread, trainings
from analyses.verdict import conclusion
from cnognp.measuring import subjects
from cnognp.method import traits_of
from cnognp.methods import METHODS
from cnognp.training.config import Config as RunConfig
from cnognp.training.config import RunFolder
from cnognp.workers import Unit
from landscape.results import Flatness, Panel, provenance
from landscape.results.finetuning import Ending
from landscape.sharpness import MEASURES, Options, panel

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Config:
    """What is compared.

    Args:
        runs: folders of runs of one task; their members are the points, and their trainings count.
        measures: names of `landscape.sharpness.MEASURES`; all where empty.
        checkpoint: ``"last"`` or a round.
        criterion: ``"loss"``, or a metric of the task that is the better the larger it is.
        split: ``"test"`` or ``"validation"``.
        options: radii and budgets of the measures.
        resamples: of the bootstrap, at least 100.
        confidence: of the intervals, between 0.5 and 1.
        seed: of the measures' draws and of the bootstrap.
        device: where to measure; that of each run where empty.
        evaluate: measure the model in evaluation mode, which a model with dropout needs.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    runs: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    checkpoint: str = "last"
    criterion: str = "loss"
    split: str = "test"
    options: Options = field(default_factory=Options)
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    device: str = ""
    evaluate: bool = False

    def __post_init__(self):
        if isinstance(self.runs, str) or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"runs must be different folders in a tuple, got {self.runs!r}")
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f"measures must be some of {', '.join(MEASURES)}; got {name!r}")
        if self.split not in ("test", "validation"):
            raise ValueError(f"split must be test or validation, got {self.split!r}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")


class Measured(NamedTuple):
    """Points with their panels, what they reach on seen and held-out data, and where they are from.

    ``group`` numbers the points by equal hyper-parameters, ``run`` by their run; ``coupled`` says
    whether the method of that run couples members, and ``distance`` (n, n) is that of
    `analyses.trainings.distances`. ``lost`` members have numbers that are not finite, and are not
    among the points.
    """

    points: tuple[str, ...]
    panels: tuple[Panel | Ending, ...]
    train: np.ndarray
    test: np.ndarray
    group: np.ndarray
    run: np.ndarray
    runs: tuple[str, ...]
    coupled: np.ndarray
    distance: np.ndarray
    lost: int = 0


def study(config: Config, progress: Progress | None = None) -> Flatness:
    """Kendall's tau-b of every measure with the generalisation gap over independent trainings.

    Args:
        config: what is compared.
        progress: called with the name of each point before it is measured, how many are done, and
            how many there are; and once more at the end.

    Raises:
        ValueError: if no run is named, or its task holds no such split or criterion.
    """
    began = time.perf_counter()
    found = compared(measured(config, progress), config)
    took = {"seconds": time.perf_counter() - began}
    return replace(found, provenance={**found.provenance, **took})


class Point(NamedTuple):
    """What a unit of the study needs to know of one member; the digest is that of its weights."""

    config: Config
    run: str
    member: str
    digest: str


def units(config: Config) -> list[Unit]:
    """The members of the runs that are finite, one by one.

    Raises:
        ValueError: if no run is named, or its task holds no such split or criterion.
    """
    found: list[Unit] = []
    # How the panels are compared does not change them.
    plain = replace(config, runs=(), resamples=Config.resamples, confidence=Config.confidence)
    for folder, run in zip(_folders(config), config.runs, strict=True):
        subject = _subject(folder, "all", config)
        here = replace(plain, checkpoint=str(subject.origin["round"]))
        for member, z in subject.points.items():
            if bool(torch.isfinite(z).all()):
                if not found:
                    _reached(subject, z, config)
                digest = sha256(
                    z.cpu().contiguous().view(torch.uint8).numpy().tobytes()
                ).hexdigest()
                point = Point(here, run, member, digest)
                found.append(Unit(f"{run} {member}", _panel_of, point))
    return found


def _panel_of(point: Point) -> Panel:
    """The panel of a member, with what it reaches on seen and held-out data in its provenance."""
    subject = _subject(RunFolder(Path(point.run)), point.member, point.config)
    return _panel(subject, subject.points[point.member], point.config)


def joined(config: Config, found: Sequence[Panel]) -> dict[str, Flatness]:
    """The comparison by name: what the results of `units` make together."""
    return {"flatness": compared(measured(config, found=found), config)}


def measured(
    config: Config, progress: Progress | None = None, found: Sequence[Panel] = ()
) -> Measured:
    """The members of the runs with their panels and risks.

    Two runs belong to one group if their configurations agree in all but the seed and in where and
    how often they were computed and saved. BatchNorm statistics are those of each point,
    re-estimated on the training data.

    Args:
        config: what is measured.
        progress: as in `study`.
        found: the panels of `units`, where these have been measured.

    Raises:
        ValueError: if no run is named, or its task holds no such split or criterion.
    """
    told = progress or _silent
    folders = _folders(config)
    configs = [folder.config() for folder in folders]
    total = sum(each.members for each in configs)
    names: list[str] = []
    panels: list[Panel] = []
    places: list[Tensor] = []
    run: list[int] = []
    lost = 0
    for number, folder in enumerate(folders):
        subject = _subject(folder, "all", config)
        for member, z in subject.points.items():
            if not bool(torch.isfinite(z).all()):
                lost += 1
                continue
            names.append(f"{folder.path.name} {member}")
            told(names[-1], len(panels) + lost, total)
            panels.append(found[len(panels)] if found else _panel(subject, z, config))
            places.append(z.cpu())
            run.append(number)
    told("", total, total)
    keys = [hyperparameters(each) for each in configs]
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    couples = [traits_of(METHODS[each.method](**each.method_options)).couples for each in configs]
    risks = [(each.provenance["train"], each.provenance["test"]) for each in panels]
    train, test = np.array(risks, dtype=float).reshape(-1, 2).T
    return Measured(
        points=tuple(names),
        panels=tuple(panels),
        train=train,
        test=test,
        group=np.array([order[keys[number]] for number in run], dtype=np.int64),
        run=np.array(run, dtype=np.int64),
        runs=tuple(config.runs),
        coupled=np.array([couples[number] for number in run], dtype=bool),
        distance=distances(places),
        lost=lost,
    )


def compared(given: Measured, config: Config) -> Flatness:
    r"""Kendall's tau-b of every measure with the gap, with bootstrap intervals.

    :math:`\tau_b = \sum_{i<j} s_{ij} t_{ij} / \sqrt{\sum s_{ij}^2 \sum t_{ij}^2}` with the signs
    s and t of the differences of the measure and of the gap between two independent trainings; what
    is one is said by `analyses.trainings.trainings`. A training of several points counts once, with
    the medians of its points. Within groups, the sums run over pairs of one group, which without
    ties is the mean over groups of their tau, weighted by pairs: the idea of the granulated
    coefficient of Jiang et al. (2020), with groups that agree in every hyper-parameter. Intervals
    are percentiles over resamples of trainings, or of whole runs where there are several runs and
    one of them has several trainings; of fewer than six there are none, and no measure says
    anything. p values are Kendall's; where runs are drawn, see
    `analyses.rank_correlation.correlated`. Holm's correction takes all measures together.

    The gap is held-out minus training loss, or training minus held-out metric: positive is worse.
    A measure that is infinite counts as larger than any other; points where it is not defined are
    left out. The measures' own errors are not part of the intervals.

    Args:
        given: the points.
        config: the bootstrap and what train and test are of.

    Raises:
        ValueError: if the lengths of ``given`` do not agree, or there is no point.
    """
    _check(given)
    sign = 1.0 if config.criterion == "loss" else -1.0
    gap = sign * (given.test - given.train)
    measures = tuple(dict.fromkeys(name for each in given.panels for name in each.measures))
    value, low, high = (
        np.array([_aligned(each, measures, name) for each in given.panels])
        for name in ("value", "low", "high")
    )
    training = trainings(given.run, given.coupled, given.distance)
    first = np.unique(training, return_index=True)[1]
    group, run = given.group[first], given.run[first]
    columns = [medians(column, training) for column in value.T]
    counts = resamples(run, config.resamples, np.random.default_rng(config.seed))
    middle = medians(gap, training)
    found = [
        correlated(column, middle, group, run, counts, config.confidence) for column in columns
    ]  # fmt: skip
    p_holm, says = telling(found, config.confidence)
    units = {name: unit for each in given.panels for name, unit in _paired(each)}
    made = Flatness(
        points=given.points,
        measures=measures,
        value=value,
        low=low,
        high=high,
        units=tuple(units[name] for name in measures),
        train=given.train,
        test=given.test,
        gap=gap,
        criterion=config.criterion,
        split=config.split,
        group=given.group,
        run=given.run,
        runs=given.runs,
        training=training,
        nearest=nearest(given.distance),
        tau=np.array([each.tau for each in found]),
        tau_low=np.array([each.low for each in found]),
        tau_high=np.array([each.high for each in found]),
        p_value=np.array([each.p_value for each in found]),
        p_holm=p_holm,
        within=np.array([each.within for each in found]),
        within_low=np.array([each.within_low for each in found]),
        within_high=np.array([each.within_high for each in found]),
        count=np.array([each.points for each in found]),
        pairs=np.array([each.pairs for each in found]),
        spread=np.array([spread(column) for column in value.T]),
        own_error=np.array([half_width(*ends) for ends in zip(low.T, high.T, strict=True)]),
        says=says,
        notes=tuple(each.note for each in found),
        confidence=config.confidence,
        resamples=config.resamples,
        resampled="runs" if by_run(run) else "trainings",
        conclusion="",
        provenance=provenance(configuration=_plain(asdict(config))),
    )
    return replace(made, conclusion=conclusion(made, given.lost))


def _folders(config: Config) -> list[RunFolder]:
    if not config.runs:
        raise ValueError("runs must name at least one folder of a run")
    return [RunFolder(Path(path)) for path in config.runs]


def _subject(folder: RunFolder, member: str, config: Config) -> subjects.Subject:
    return subjects.of_run(folder, member, config.checkpoint, config.device, config.evaluate)


def _panel(subject: subjects.Subject, z: Tensor, config: Config) -> Panel:
    reached = _reached(subject, z, config)
    source = torch.Generator(device="cpu").manual_seed(config.seed)
    found = panel(
        subject.objective(z), z, options=config.options, only=config.measures, generator=source
    )  # fmt: skip
    return replace(found, provenance={**found.provenance, **reached})


def _reached(subject: subjects.Subject, z: Tensor, config: Config) -> dict[str, float]:
    """The criterion on seen and held-out data, as train and test."""
    metrics = subject.problem.metrics(z)
    return {"train": _criterion(metrics, "train", config), "test": _held_out(metrics, config)}


def _silent(name: str, done: int, total: int) -> None:
    pass


def hyperparameters(config: RunConfig) -> str:
    """What two runs of one group have in common."""
    tree = yaml.safe_load(config.to_yaml())
    for name in ("seed", "device", "threads", "checkpoint_every", "record_curvature"):
        tree.pop(name, None)
    return yaml.safe_dump(tree, sort_keys=True)


def _criterion(metrics: dict[str, dict[str, float]], split: str, config: Config) -> float:
    if config.criterion not in metrics[split]:
        known = ", ".join(metrics[split]) or "nothing"
        raise ValueError(f"criterion must be one of {known}, got {config.criterion!r}")
    return metrics[split][config.criterion]


def _held_out(metrics: dict[str, dict[str, float]], config: Config) -> float:
    if not metrics[config.split]:
        there = ", ".join(split for split, found in metrics.items() if found)
        raise ValueError(f"the task has no {config.split} data, only {there}")
    return _criterion(metrics, config.split, config)


def _aligned(each: Panel | Ending, measures: Sequence[str], field_name: str) -> list[float]:
    known = dict(zip(each.measures, getattr(each, field_name).tolist(), strict=True))
    return [known.get(name, np.nan) for name in measures]


def _paired(each: Panel | Ending) -> list[tuple[str, str]]:
    return list(zip(each.measures, each.units, strict=True))


def _check(given: Measured) -> None:
    n = len(given.panels)
    lengths = {
        name: len(getattr(given, name))
        for name in ("points", "train", "test", "group", "run", "coupled", "distance")
    }
    if n == 0 or set(lengths.values()) != {n}:
        raise ValueError(
            f"as many entries as panels, {n}, and at least one are needed: {lengths}; members left "
            f"out since they are not finite: {given.lost}"
        )


def _plain(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {key: _plain(value) for key, value in entry.items()}
    return list(entry) if isinstance(entry, tuple) else entry
