"""Do the runs of some methods differ, trajectories taken for what was drawn?

Question: of two or more groups of runs of one task, by what is the one better, is that more than
chance, is it less than a margin, and what could so many trajectories have shown?

Expected: with five trajectories of each, differences of half a point are not decided.

n: trajectories. The members of a run are one each, those of a swarm one together. An exact test of
five against five has no p value below 2 of 252, that of SetA against SetB of the same five none
below 2 of 32.

Cost: none where runs kept points (--snapshots); else the members are measured first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analyses.flatness import hyperparameters
from analyses.inference import BASE, TESTS, Evidence, evidence
from analyses.power import fewest, least, needed, power
from analyses.rank_correlation import holm
from cnognp.measuring import subjects
from cnognp.method import traits_of
from cnognp.methods import METHODS
from cnognp.tasks.problem import SPLITS
from cnognp.training.config import RunFolder
from cnognp.training.snapshots import Snapshot, score_of
from landscape.results import provenance
from landscape.results.inference import Inference

SETS = ("SetA", "SetB", "SetB as published")
_KIND = {"SetA": "train", "SetB": "validation"}
NOTES = (
    "Tests that pool points take those of one trajectory for independent: as published, and wrong. "
    "Bootstrap and mixed model reject more than they promise where trajectories are few.",
    "Power and the trajectories needed are those of one test at the level, with the spread that "
    "was found, which few trajectories tell only roughly; Holm's correction needs more.",
)
SAID = {
    "SetA": "SetA: the points of lowest training loss of each trajectory.",
    "SetB": "SetB: the points that are best on the validation split.",
    "SetB as published": "SetB as published: of all points that were kept, those best on the test "
    "split, which chooses on what it reports.",
    "end": "end: where the members stand in the newest checkpoint.",
}


@dataclass(frozen=True)
class Config:
    """What is compared.

    Args:
        runs: folders of runs of one task; those of equal hyper-parameters are a group.
        criterion: ``"loss"``, or a metric of the task.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        reference: the method that others are compared with; all with all where empty.
        margin: differences below it count as none, in units of the metric; positive.
        effect: the difference that power is for, in units of the metric; positive.
        confidence: of the intervals, between 0.5 and 1.
        resamples: of the bootstrap, at least 100.
        seed: of the bootstrap.
        device: where to measure, where runs kept no points; that of each run where empty.

    Raises:
        ValueError: if a number is out of range, or runs are named twice.
    """

    runs: tuple[str, ...] = ()
    criterion: str = "loss"
    split: str = "test"
    reference: str = ""
    margin: float = 0.005
    effect: float = 0.005
    confidence: float = 0.95
    resamples: int = 1999
    seed: int = 0
    device: str = ""

    def __post_init__(self):
        if isinstance(self.runs, str) or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"runs must be different folders in a tuple, got {self.runs!r}")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        for name in ("margin", "effect"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")


class Trajectory(NamedTuple):
    """Where it is from, its group, and the metric at its points by set."""

    name: str
    group: str
    points: dict[str, np.ndarray]


class Comparison(NamedTuple):
    """Two groups and their sets of points, and whether trajectories are the same."""

    name: str
    groups: tuple[int, int]
    sets: tuple[int, int]
    paired: bool


def study(config: Config) -> Inference:
    """What is known of the differences between the groups.

    Args:
        config: what is compared.

    Raises:
        ValueError: if there are fewer than two groups, or the runs are of different tasks or data,
            or one of them has no such metric.
        FileNotFoundError: if there is no such run.
    """
    found, budgets, task = trajectories(config)
    return compared(config, found, budgets, task)


def compared(
    config: Config, found: Sequence[Trajectory], budgets: Mapping[str, float], task: str
) -> Inference:
    """The comparison of trajectories.

    Args:
        config: how.
        found: what is compared.
        budgets: evaluations of a member by group.
        task: of the runs.

    Raises:
        ValueError: if there are fewer than two groups.
    """
    groups = tuple(dict.fromkeys(each.group for each in found))
    if len(groups) < 2:
        raise ValueError(
            f"two or more groups of runs are needed, which differ in more than the seed; got "
            f"{', '.join(groups) or 'none'}"
        )
    sets = tuple(name for name in (*SETS, "end") if name in found[0].points)
    jobs = list(_jobs(config, groups, sets))
    pairs = [_sides(found, groups, sets, job) for job in jobs]
    told = [
        evidence(
            *pair, margin=config.margin, paired=job.paired, confidence=config.confidence,
            resamples=config.resamples, seed=config.seed,
        )
        for job, pair in zip(jobs, pairs, strict=True)
    ]  # fmt: skip
    count = np.array([[len(one), len(other)] for one, other in pairs])
    p_value = np.array([each.p_value for each in told])
    p_holm = np.array([holm(column) for column in p_value.T]).T
    minimal = np.array([
        least(int(n), int(m), job.paired) for (n, m), job in zip(count, jobs, strict=True)
    ])  # fmt: skip
    powers = [
        _power(config, job, each, *map(int, sizes))
        for job, each, sizes in zip(jobs, told, count, strict=True)
    ]
    draft = Inference(
        task=task, metric=f"{config.split} {config.criterion}", groups=groups, sets=sets,
        trajectories=tuple(each.name for each in found),
        group=np.array([groups.index(each.group) for each in found]),
        value=_padded([[each.points[name] for name in sets] for each in found]),
        evaluations=np.array([budgets[name] for name in groups]),
        comparisons=tuple(job.name for job in jobs),
        one=np.array([job.groups[0] for job in jobs]),
        other=np.array([job.groups[1] for job in jobs]),
        one_set=np.array([job.sets[0] for job in jobs]),
        other_set=np.array([job.sets[1] for job in jobs]),
        count=count,
        difference=np.array([float(each.difference.value) for each in told]),
        low=np.array([float(each.difference.low) for each in told]),
        high=np.array([float(each.difference.high) for each in told]),
        delta=np.array([float(each.delta.value) for each in told]),
        delta_low=np.array([float(each.delta.low) for each in told]),
        delta_high=np.array([float(each.delta.high) for each in told]),
        tests=TESTS, p_value=p_value, p_holm=p_holm,
        p_same=holm(np.array([each.p_same for each in told])),
        least=minimal,
        power=np.array([each[0] for each in powers]),
        needed=np.array([each[1] for each in powers]),
        margin=config.margin, effect=config.effect, confidence=config.confidence,
        decided=BASE[0],
        notes=tuple(_notes(config, found, budgets, sets, minimal, p_value)), conclusion="",
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip
    return replace(draft, conclusion=conclusion(draft))


def decided(found: Inference) -> bool:
    """Whether anything is concluded: every group has two trajectories at least."""
    return bool((found.count >= 2).all())


def conclusion(found: Inference) -> str:
    """What differs, what is the same, and what is not known, in words."""
    if not decided(found):
        small = sorted({
            found.groups[group]
            for column, side in ((found.one, 0), (found.other, 1))
            for group, n in zip(column, found.count[:, side], strict=True) if n < 2
        })  # fmt: skip
        return (
            f"No conclusion: {', '.join(small)} has a single trajectory or none, and what another "
            "would have come to is not known. Train several members, or runs of several seeds."
        )
    told: dict[str, list[str]] = {"differs": [], "same": [], "open": []}
    for k, name in enumerate(found.comparisons):
        told[found.verdict(k)].append(f"{name} ({found.difference[k]:+.4g})")
    heads = {
        "differs": "Different",
        "same": f"The same to within {found.margin:g}",
        "open": f"Neither shown to differ nor to be within {found.margin:g}",
    }
    parts = [f"{heads[key]}: {', '.join(names) or 'none'}." for key, names in told.items()]
    how = f"By {found.decided}, corrected for {len(found.comparisons)} comparisons by Holm's method"
    return " ".join([*parts, f"{how}; sameness by two one-sided t tests."])


def trajectories(config: Config) -> tuple[list[Trajectory], dict[str, float], str]:
    """The trajectories of the runs, evaluations of a member by group, and the task.

    Raises:
        ValueError: if runs are of different tasks or data, or the same run, or a metric is missing.
        FileNotFoundError: if there is no such run.
    """
    folders = [RunFolder(Path(run)) for run in config.runs]
    configs = [folder.config() for folder in folders]
    metas = [_newest(folder) for folder in folders]
    _check_alike(config.runs, configs, [each.meta for each in metas])
    names = _named(config.runs, configs)
    kept = [folder.kept() for folder in folders]
    both = all(each["train"] for each in kept)
    found: list[Trajectory] = []
    evaluations: dict[str, list[float]] = {}
    for folder, run, checkpoint, points, group in zip(
        folders, configs, metas, kept, names, strict=True
    ):
        spent = np.asarray(checkpoint.arrays.get("history/evaluations", [np.nan]))
        evaluations.setdefault(group, []).append(
            float(spent[-1]) / run.members if spent.size else 0.0
        )
        own = _of_snapshots(config, points, run.members) if both else _of_ends(config, folder)
        if traits_of(METHODS[run.method](**run.method_options)).couples:
            own = [{name: np.concatenate([each[name] for each in own]) for name in own[0]}]
        label = folder.path.name
        found += [
            Trajectory(f"{label} {k}" if len(own) > 1 else label, group, each)
            for k, each in enumerate(own)
        ]
    shared = set.intersection(*(set(each.points) for each in found))
    found = [
        each._replace(points={name: v for name, v in each.points.items() if name in shared})
        for each in found
    ]
    return found, {name: float(np.mean(n)) for name, n in evaluations.items()}, configs[0].task


def _newest(folder: RunFolder) -> Any:
    found, _ = folder.newest()
    if found is None:
        raise ValueError(f"{folder.path} has no checkpoint yet: train it first")
    return found


def _check_alike(runs: Sequence[str], configs: Sequence[Any], metas: Sequence[Any]) -> None:
    if not runs:
        raise ValueError("runs must name at least one folder of a run")
    for run, own, meta in zip(runs[1:], configs[1:], metas[1:], strict=True):
        if own.task != configs[0].task:
            raise ValueError(
                f"runs of one task are needed: {runs[0]} is of {configs[0].task}, {run} of "
                f"{own.task}"
            )
        if meta.get("data") != metas[0].get("data"):
            raise ValueError(
                f"runs of the same data are needed: {run} has other training data than {runs[0]} "
                "(a task may split its data by the seed: train several members of one seed instead)"
            )
    known: dict[tuple[str, int], str] = {}
    for run, own in zip(runs, configs, strict=True):
        key = hyperparameters(own), own.seed
        if key in known:
            raise ValueError(f"{known[key]} and {run} are one training twice: same seed, same keys")
        known[key] = run


def _named(runs: Sequence[str], configs: Sequence[Any]) -> list[str]:
    """The group of each run: its method; and its first run where groups share a method."""
    keys = [hyperparameters(each) for each in configs]
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    methods = [configs[k].method for k in first.values()]
    return [
        own.method if methods.count(own.method) == 1
        else f"{own.method} ({Path(runs[first[key]]).name})"
        for own, key in zip(configs, keys, strict=True)
    ]  # fmt: skip


def _of_snapshots(config: Config, kept: Any, members: int) -> list[dict[str, np.ndarray]]:
    """The metric at the points of each member by set."""
    found = []
    for member in range(members):
        parts = {name: kept[kind].get(member, []) for name, kind in _KIND.items()}
        every = {point.path.name: point for part in parts.values() for point in part}
        if any(point.measured["test"] for point in every.values()):
            best = sorted(every.values(), key=_published)[: len(parts["SetA"])]
            parts["SetB as published"] = best
        else:
            parts["SetB as published"] = []
        if not any(kept["validation"].values()):
            del parts["SetB"]
        found.append({
            name: np.array([_number(config, point.measured) for point in part])
            for name, part in parts.items()
        })
    if all(not each["SetB as published"].size for each in found):
        for each in found:
            del each["SetB as published"]
    return found


def _of_ends(config: Config, folder: RunFolder) -> list[dict[str, np.ndarray]]:
    """The metric where each member stands; NaN where that is nowhere."""
    subject = subjects.of_run(folder, "all", "last", config.device, True)
    return [
        {"end": np.array([
            _number(config, subject.problem.metrics(z)) if bool(z.isfinite().all()) else np.nan
        ])}
        for z in subject.points.values()
    ]  # fmt: skip


def _published(point: Snapshot) -> tuple[float, int]:
    """What orders points by the test split, the best first."""
    found = point.measured["test"]
    score = score_of(found)
    return (found[score] if score == "loss" else -found[score], point.round)


def _number(config: Config, measured: Mapping[str, Mapping[str, float]]) -> float:
    there = measured.get(config.split, {})
    if config.criterion not in there:
        known = ", ".join(f"{split} {name}" for split in SPLITS for name in measured.get(split, {}))
        raise ValueError(
            f"the runs have no {config.split} {config.criterion}; there are {known or 'none'}"
        )
    return float(there[config.criterion])


def _jobs(config: Config, groups: Sequence[str], sets: Sequence[str]) -> Iterator[Comparison]:
    """Groups against each other in each set, then sets against each other in each group.

    Raises:
        ValueError: if the reference is none of them.
    """
    if config.reference and config.reference not in groups:
        raise ValueError(f"reference must be one of {', '.join(groups)}, got {config.reference!r}")
    for place, name in enumerate(sets):
        if name == "SetB as published":
            continue
        for i, j in combinations(range(len(groups)), 2):
            if config.reference and config.reference not in (groups[i], groups[j]):
                continue
            yield Comparison(f"{groups[i]} - {groups[j]}, {name}", (i, j), (place, place), False)
    for i, group in enumerate(groups):
        for name in sets[1:]:
            places = (0, sets.index(name))
            yield Comparison(f"{group}, {sets[0]} - {name}", (i, i), places, True)


def _sides(
    found: Sequence[Trajectory], groups: Sequence[str], sets: Sequence[str], job: Comparison
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The points of the trajectories that are known on both sides."""
    one, other = (
        {
            each.name: each.points[sets[place]]
            for each in found
            if each.group == groups[group] and _known(each.points[sets[place]])
        }
        for group, place in zip(job.groups, job.sets, strict=True)
    )
    if job.paired:
        both = [name for name in one if name in other]
        return [one[name] for name in both], [other[name] for name in both]
    return list(one.values()), list(other.values())


def _known(values: np.ndarray) -> bool:
    return bool(values.size and np.isfinite(values).all())


def _padded(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    most = max(1, *(len(values) for row in rows for values in row))
    found = np.full((len(rows), len(rows[0]), most), np.nan)
    for i, row in enumerate(rows):
        for j, values in enumerate(row):
            found[i, j, : len(values)] = values
    return found


def _power(config: Config, job: Comparison, told: Evidence, n: int, m: int) -> tuple[float, float]:
    """The power for the effect, and the trajectories that are needed."""
    if not told.spread > 0:
        return np.nan, np.nan
    size, level = config.effect / told.spread, 1 - config.confidence
    own = power(size, n, 0 if job.paired else m, level)
    return own, float(np.ceil(needed(size, level, paired=job.paired)))


def _notes(
    config: Config, found: Sequence[Trajectory], budgets: Mapping[str, float],
    sets: Sequence[str], minimal: np.ndarray, p_value: np.ndarray,
) -> Iterator[str]:  # fmt: skip
    yield from (SAID[name] for name in sets)
    yield from NOTES
    level, count = 1 - config.confidence, len(minimal)
    if (count * minimal).min() > level:
        yield (
            f"Nothing can be rejected here by the exact test: its least p value is "
            f"{minimal.min():.2g}, which Holm's method multiplies by {count}. "
            f"{fewest(level / count)} trajectories of each are the fewest that could."
        )
    if max(budgets.values()) > 1.001 * min(budgets.values()):
        told = ", ".join(f"{name} {spent:,.0f}" for name, spent in budgets.items())
        yield f"Budgets differ: evaluations of a member are {told}."
    lost = [each.name for each in found if not all(map(_known, each.points.values()))]
    if lost:
        yield f"Left out where they have no finite number: {', '.join(lost)}."
    if np.isnan(p_value[:, TESTS.index("mixed model")]).any():
        yield (
            "A mixed model is not fitted to pairs, nor where it does not converge; that of "
            "trajectories of unequally many points needs pip install 'cnognp[statistics]'."
        )
