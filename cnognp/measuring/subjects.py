"""The measurements of a run's members, or of given weights, as results in a folder."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnognp.measuring.directions import check_apart
from cnognp.measuring.place import Place
from cnognp.measuring.settings import Settings, Slice
from cnognp.measuring.sharing import Sharing
from cnognp.measuring.spread import Source, Spread
from cnognp.tasks import weights
from cnognp.tasks.problem import Problem
from cnognp.training import checkpoint, snapshots
from cnognp.training.checkpoint import Checkpoint
from cnognp.training.config import RunFolder
from landscape import results
from landscape.files import DamagedFile, UnfitFile, check_writable
from landscape.objective import check_deterministic
from landscape.results import Result
from landscape.slices.metrics import MEASURED

_KEPT = re.compile(r"(?:(\d+):)?(train|validation)(?:-(\d+))?", re.ASCII)
# Batches into which data that are one are cut for a standard error over batches.
_SHARDS = 16
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """Points of one problem by name, and what is known of where they come from.

    ``own_statistics``: BatchNorm normalises with what comes with the model, and not with what is
    re-estimated at every point. ``shards``: into how many batches data that are one are cut.
    ``towards``: the point that slices go to, where they do. ``source``: how other processes make
    the problem; None where they cannot.
    """

    problem: Problem
    points: dict[str, Tensor]
    population: Tensor
    origin: dict[str, Any]
    suffix: str = ""
    own_statistics: bool = False
    shards: int = 1
    towards: Tensor | None = None
    source: Source | None = None

    def objective(self, z: Tensor | None) -> Any:
        """What the point ``z``, or the whole population, is measured on."""
        if self.own_statistics:
            return self.problem.as_given
        return self.problem.evaluation if z is None else self.problem.at(z)

    def place(
        self,
        z: Tensor,
        metrics: Sequence[str] = (),
        store: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Place:
        """Where the measurements of ``z`` are taken.

        Raises:
            ValueError: if the task has no such metric.
        """
        own = self.own_statistics
        found = {
            name: self.problem.metric(name, z, own_statistics=own)
            for name in metrics if name not in MEASURED
        }  # fmt: skip
        objective = self.objective(z)
        data = objective.data
        if self.shards > 1 and data.resident and len(data.batches) < 2:
            objective = objective.sharded(min(self.shards, objective.samples))
        return Place(objective, z, self.population, found, store, progress, self.towards)


def of_run(
    folder: RunFolder, member: str, step: str, device: str, evaluate: bool,
    moved: Mapping[str, Any] | None = None, **options: Any,
) -> Subject:  # fmt: skip
    """The best member, one member, or all members of a run at a checkpoint; or points it has kept.

    Args:
        folder: the run.
        member: ``best``, ``all`` or an index; or a point of those kept by `Config.snapshots`:
            ``train-1`` of the lowest training loss, ``validation-3`` the third best on the
            validation split, ``2:train-1`` of member 2 alone, ``train`` all of the kind.
        step: ``last`` or the round of a checkpoint.
        device: where to measure; empty for the device of the run.
        evaluate: measure the model in evaluation mode.
        moved: keywords of the task that are others now, such as the folder of its data; that these
            are the same data is checked.
        options: of `cnognp.tasks.problem.Problem`.

    Raises:
        ValueError: if there is no such member or checkpoint.
        DamagedFile: if the checkpoint is damaged.
        UnfitFile: if it belongs to another model, or to other data.
    """
    config = folder.config()
    config = replace(config, task_options={**config.task_options, **(moved or {})})
    found = _found(folder, step)
    text = replace(config, weights=folder.weights(config)).to_yaml()
    here = device or config.device
    source = Source(text, device=here, evaluate=evaluate, options=tuple(options.items()))
    problem = source.problem()
    model = problem.as_given.layout.digest
    if found.meta.get("model") != model or found.meta.get("data") != problem.data_digest:
        raise UnfitFile(
            folder.checkpoints,
            "it belongs to another model or to other data",
            f"Make the task {config.task} what it was when the run was trained",
        )
    population = _points(folder, found, problem)
    members = {f"member{i:03d}": z for i, z in enumerate(population)}
    noted: dict[str, Any] = {}
    if member == "best":
        best = found.arrays.get("best/position")
        if best is None:
            raise ValueError(f"{folder.path} has no best member yet: no finite point was seen")
        points = {"": torch.as_tensor(best, device=problem.device)}
    elif member == "all":
        points = members
    elif (asked := _KEPT.fullmatch(member)) is not None:
        points, noted = _kept(folder, found, problem, *asked.groups())
        population = torch.stack([*points.values()])
    else:
        name = f"member{int(member):03d}" if member.isdigit() else member
        if name not in members:
            raise ValueError(
                f"member must be best, all, 0 to {len(members) - 1}, or a point that was kept, "
                f"such as train-1, validation-3 or 2:train-1; got {member}"
            )
        points = {name: members[name]}
    origin = {
        "run": config.to_yaml(),
        "round": found.iteration,
        "member": member,
        "model": model,
        "data": problem.data_digest,
        **noted,
        **problem.task.provenance,
    }
    suffix = "" if step == "last" else f"step{step}"
    return Subject(problem, points, population, origin, suffix, source=source)


def of_weights(problem: Problem, file: Path | None) -> Subject:
    """The point that a file of weights holds, or the model as it is given.

    Raises:
        DamagedFile: if the file cannot be read (see `cnognp.tasks.weights.read`), or holds
            another model's weights, or numbers that are not finite.
        FileNotFoundError: if there is none.
    """
    named: dict[str, Any] = {"weights": str(file)}
    if file is not None:
        named = weights.load(file, problem.task.model)
        problem = Problem(problem.task, problem.device, **problem.options)
    z = problem.as_given.point()
    origin = {
        **named,
        "model": problem.as_given.layout.digest,
        "data": problem.data_digest,
        **problem.task.provenance,
    }
    return Subject(problem, {"": z}, z.unsqueeze(0), origin, own_statistics=True)


def analyze(
    subject: Subject,
    folder: Path,
    kinds: Sequence[Settings],
    told: Told = lambda name, done, total: None,
) -> dict[str, Result]:
    """The results by file name; each is saved into ``folder`` as soon as it is there.

    Arguments and errors are those of `measured`.
    """
    return dict(measured(subject, folder, kinds, told))


def measured(
    subject: Subject,
    folder: Path,
    kinds: Sequence[Settings],
    told: Told = lambda name, done, total: None,
    sharing: Sharing | None = None,
    spread: Spread | None = None,
) -> Iterator[tuple[str, Result]]:
    """File names and results, one after the other, each when it is saved in ``folder``.

    A slice keeps the cells that are done beside its result until that is saved, so that the same
    call after a kill goes on where it was. A file of the same name whose result was measured with
    other settings is kept: it is renamed, with a number, and the new provenance calls it
    ``set_aside``.

    Args:
        subject: the points.
        folder: made where it is missing.
        kinds: what to measure, each from `cnognp.measuring.kinds.KINDS`.
        told: called with the name of a file and how many of its parts are done, of how many.
        sharing: the ranks that share what is a sum over the data, and into how many shards; every
            rank calls this, and all but the first get nothing.
        spread: has pieces done elsewhere, and whole measurements where there are several; with the
            same numbers.

    Raises:
        ValueError: if no kind is named, a metric or a layer is not known, or a kind does
            not go with the matrix that is asked for.
        DamagedFile: if the file of weights that slices go to cannot be read or is of another model.
        RuntimeError: if the model is random.
        OSError: if the disk refuses.
    """
    if not kinds:
        raise ValueError("no measurement is named")
    if sharing is not None and not sharing.ranks.leads:
        for kind in kinds:
            for z in [None] if kind.whole else subject.points.values():
                sharing.follow(kind, z, subject.objective)
        return
    for kind in kinds:
        kind.check(subject.problem.as_given)
    sliced = [kind for kind in kinds if isinstance(kind, Slice)]
    for name in {name for kind in sliced for name in kind.metrics} - set(MEASURED):
        subject.problem.located(name)
    check_deterministic(subject.problem.as_given, subject.population[0])
    files = {kind.file for kind in sliced if kind.file is not None}
    towards: dict[Path | None, Subject] = {file: _going_to(subject, file) for file in files}
    check_writable(folder)
    jobs = [
        (kind, at, name, z)
        for kind in kinds
        for at in [towards.get(kind.file, subject) if isinstance(kind, Slice) else subject]
        for name, z in ({"": None} if kind.whole else at.points).items()
    ]
    whole = [spread is not None and _goes(kind, at) for kind, at, _, _ in jobs]
    if spread is not None and sum(whole) > 1:
        there = [(kind, z) for (kind, _, _, z), goes in zip(jobs, whole, strict=True) if goes]
        elsewhere = spread.results(subject, there)
    else:
        whole, elsewhere = [False] * len(jobs), iter(())
    for (kind, at, name, z), goes in zip(jobs, whole, strict=True):
        file = "-".join(filter(None, (kind.kind, name, at.suffix)))
        path = folder / f"{file}.h5"
        told(file, 0, 1)
        began = time.perf_counter()
        if goes:
            result = next(elsewhere)
        else:
            place = place_of(at, kind, z, path.with_suffix(".part"), told)._replace(spread=spread)
            with nullcontext(place) if sharing is None else sharing.shared(kind, place) as place:
                result = kind.measure(place)
        how: dict[str, Any] = {"wall_seconds": time.perf_counter() - began}
        how["threads"] = torch.get_num_threads()
        how["settings"] = asdict(kind)  # type: ignore[call-overload]
        if (older := set_aside(path, how["settings"])) is not None:
            how["set_aside"] = older
        result = replace(result, provenance={**result.provenance, **at.origin, **how})
        results.save(result, path)
        path.with_suffix(".part").unlink(missing_ok=True)
        told(file, 1, 1)
        yield file, result


def _goes(kind: Settings, subject: Subject) -> bool:
    """Whether a measurement is a piece of work itself, where there are several."""
    return not isinstance(kind, Slice) and not (kind.pieces and len(subject.points) == 1)


def set_aside(path: Path, settings: dict[str, Any]) -> str | None:
    """The name that a file with other settings now has; none where there is no such file."""
    try:
        before = results.load(path).provenance.get("settings", {})
    except (FileNotFoundError, DamagedFile):
        return None
    # Files of earlier versions hold the settings of all kinds.
    given = json.loads(json.dumps(settings))
    if all(before.get(name, value) == value for name, value in given.items()):
        return None
    number = 2
    while (other := path.with_name(f"{path.stem}-{number}.h5")).exists():
        number += 1
    return path.rename(other).name


def _going_to(subject: Subject, file: Path) -> Subject:
    """The subject with the weights in a file as the point that its slices go to.

    Raises:
        ValueError: if they are those of a point of its own.
        DamagedFile: if the file cannot be read, or is of another model.
    """
    towards, noted = point_in(file, subject.problem)
    for z in subject.points.values():
        check_apart(z, towards, file)
    return replace(subject, towards=towards, origin={**subject.origin, "towards": noted})


def point_in(file: Path, problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The point that a file of weights holds, and where it is from.

    What is in the file and does not move with the point, frozen parameters and statistics that are
    others than those of the problem, is listed as ``kept``.

    Raises:
        DamagedFile: if the file cannot be read, or is of another model.
        FileNotFoundError: if there is none.
    """
    held = weights.read(file)
    found = weights.fitted(held, problem.task.model)
    risk = problem.training
    tensors = {name: found.state[name].to(risk.point_dtype) for name in risk.layout.names}
    z = risk.layout.flatten(tensors).to(problem.device)
    own = risk.state_dict(risk.point())
    kept = [
        name
        for name in own.keys() - set(risk.layout.names)
        if name in found.state and _differs(own[name], found.state[name])
    ]
    return z, {**weights.origin(held, found), "kept": sorted(kept)}


def _differs(own: Any, other: Any) -> bool:
    """Whether numbers of a network are others; counts of batches, which nothing depends on, no."""
    if not isinstance(own, Tensor) or not own.is_floating_point():
        return False
    return not torch.equal(own.cpu(), other.to(own.dtype))


def place_of(
    subject: Subject,
    kind: Settings,
    z: Tensor | None,
    part: Path | None = None,
    told: Told = lambda name, done, total: None,
) -> Place:
    """Where a kind is measured.

    Args:
        subject: gives the objective.
        kind: what is measured.
        z: (p,), the point; None for all members.
        part: where cells are kept that are done.
        told: as in `measured`.
    """
    if z is None:
        return Place(subject.objective(None), subject.population[0], subject.population)
    if not isinstance(kind, Slice):
        return subject.place(z)
    if kind.standard_errors:
        subject = replace(subject, shards=_SHARDS)
    store = part if kind.keeps_cells else None
    name = "" if part is None else part.stem
    return subject.place(z, kind.metrics, store, lambda done, total: told(name, done, total))


def _found(folder: RunFolder, step: str) -> Checkpoint:
    if step != "last":
        steps = checkpoint.steps(folder.checkpoints) if folder.checkpoints.is_dir() else []
        if not step.isdigit() or int(step) not in steps:
            raise ValueError(f"checkpoint must be last or one of {steps}, got {step}")
        return folder.load(int(step))
    found, _ = folder.newest()
    if found is None:
        raise ValueError(f"{folder.path} has no checkpoint yet: train it first")
    return found


def _kept(
    folder: RunFolder, found: Checkpoint, problem: Problem, member: str | None, kind: str,
    number: str | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """Points that were kept along trajectories, by name, and where they come from.

    Raises:
        ValueError: if there is no such point.
        DamagedFile: if one is not whole, or no more there.
    """
    try:
        kept = snapshots.of_checkpoint(folder.snapshots, found)[kind]
    except ValueError as error:
        raise DamagedFile(folder.checkpoints, str(error)) from None
    own = snapshots.pooled(kind, kept) if member is None else kept.get(int(member), [])
    if not own or (number is not None and not 1 <= int(number) <= len(own)):
        whose = "" if member is None else f" of member {int(member)}"
        raise ValueError(
            f"{folder.path} has kept {len(own)} points of the kind {kind}{whose}, numbered from 1; "
            "cnognp train --snapshots N keeps them"
        )
    prefix = "" if member is None else f"member{int(member):03d}-"
    named = {f"{prefix}{kind}-{k}": point for k, point in enumerate(own, 1)}
    if number is not None:
        name = f"{prefix}{kind}-{int(number)}"
        named = {name: named[name]}
    points = {name: point.point().to(problem.device) for name, point in named.items()}
    if any(z.shape != (problem.as_given.dim,) for z in points.values()):
        raise DamagedFile(folder.snapshots, "it holds points of another model")
    noted = {name: {"member": p.member, "round": p.round} for name, p in named.items()}
    return points, {"snapshots": noted}


def _points(folder: RunFolder, found: Checkpoint, problem: Problem) -> Tensor:
    """The members (n, p) in a checkpoint.

    Raises:
        DamagedFile: if there are none of this model.
    """
    array = found.arrays.get("state/position")
    if array is None or array.ndim != 2 or array.shape[1] != problem.as_given.dim:
        raise DamagedFile(folder.checkpoints, "it holds no members of this model")
    return torch.as_tensor(array, device=problem.device)
