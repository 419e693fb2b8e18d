"""Paths between two points that runs, checkpoints, files of weights or test functions have."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from cnognp.measuring import subjects
from cnognp.measuring.alignment import aligned
from cnognp.ranges import require
from cnognp.tasks.problem import Problem, choose_device, task_of
from cnognp.tasks.weights import SUFFIXES
from cnognp.training.config import RunFolder
from landscape import paths, results
from landscape.files import check_writable
from landscape.functions import CATALOGUE
from landscape.networks import Reestimated, Stochastic
from landscape.objective import value
from landscape.paths.ground import Statistics
from landscape.results import Result
from landscape.slices.metrics import MEASURED

_ADVICE = (
    " (a task may split its data by the seed): name its weights instead, such as "
    "RUN/best.safetensors, which are then measured on the data of the other end"
)
Told = Callable[[str, int, int], None]
# Batches into which data that are one are cut for a standard error over batches.
_SHARDS = 16
# Points along each side of the grid on which a function of two coordinates is drawn.
_GRID = 141


@dataclass(frozen=True)
class Wanted:
    """What is measured between two ends.

    Attributes:
        kind: of the path, by its name in `landscape.paths.FINDERS`.
        settings: of its finder, by name.
        metrics: further numbers along the path, by name: gradient_norm, lambda_max, trace, metrics
            of the task, test_loss and the like.
        options: other fields of `landscape.paths.Options`.
        saddle: whether to climb from the top of the path.

    Raises:
        ValueError: if the statistics do not exist.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    saddle: bool = False

    def __post_init__(self):
        known, statistics = get_args(Statistics), _statistics(self)
        require(statistics in known, "statistics", f"one of {', '.join(known)}", statistics)


class Between(NamedTuple):
    """Two points of one objective.

    Attributes:
        a: (p,), one.
        b: (p,), the other.
        names: of both.
        origin: where both come from, for the provenance.
        problem: whose points they are; a test function where None.
        function: that test function.
    """

    a: Tensor
    b: Tensor
    names: tuple[str, str]
    origin: dict[str, Any]
    problem: Problem | None = None
    function: Any = None


class _Place(NamedTuple):
    """What a word on the command line stands for: a file of weights, or a member of a run."""

    word: str
    weights: Path | None = None
    run: Path | None = None
    member: str = "best"
    step: str = "last"


def between(
    one: str, other: str, *, task: str = "", device: str = "", evaluate: bool = False,
    data: str | None = None, align: str = "", **options: Any,
) -> Between:  # fmt: skip
    """The two points that two words stand for.

    A word is ``RUN`` (its best member), ``RUN:MEMBER`` with a member as in
    `cnognp.measuring.subjects.of_run`, a checkpoint's file with or without ``:MEMBER``, a file of
    weights, or ``FUNCTION:MINIMUM`` of the catalogue.

    Args:
        one: the word for one end.
        other: the word for the other.
        task: of two files of weights: a built-in one or ``my_task.py:make_task``.
        device: where to measure; empty for that of a run, or the best there is.
        evaluate: take runs' models in evaluation mode.
        data: folder of the task's data, where it is not where it was.
        align: put the units of the other end in the order in which they are closest to the first:
            one of `cnognp.measuring.alignment.ALIGNED`; empty to leave them.
        options: of `cnognp.tasks.problem.Problem`.

    Raises:
        ValueError: if a word stands for nothing or for several points, the two are of different
            models or data, or their units cannot be put in order.
        DamagedFile: if a file is damaged, or of another model.
        FileNotFoundError: if there is no such file or run.
    """
    minima = [_minimum(word) for word in (one, other)]
    if any(minima):
        if align:
            raise ValueError("a test function has no units to align: leave out --align")
        return _of_function(one, other, minima)
    places = [_place(one), _place(other)]
    found: dict[int, subjects.Subject] = {}
    for k, place in enumerate(places):
        if place.run is not None:
            folder = RunFolder(place.run)
            moved = {} if data is None else {"data": data}
            found[k] = subjects.of_run(
                folder, place.member, place.step, device, evaluate, moved, **options
            )
    if not found and not task:
        raise ValueError(
            f"two files of weights need the task that they belong to: --task my_task.py:make_task, "
            f"got {one} and {other}"
        )
    if found:
        problem = next(iter(found.values())).problem
    else:
        given = {} if data is None else {"data": data}
        problem = Problem(task_of(task, 0, given), choose_device(device or "auto"), **options)
    ends = [
        _of_subject(place, found[k], problem) if k in found else _of_file(place, problem)
        for k, place in enumerate(places)
    ]
    (a, first), (b, second) = ends
    shared = {"model": problem.as_given.layout.digest, "data": problem.data_digest}
    origin: dict[str, Any] = {"ends": [first, second], **shared}
    if align:
        b, origin["aligned"] = aligned(problem, a, b, align)
    return Between(a, b, (one, other), origin, problem)


def point(word: str, device: str = "", data: str | None = None) -> Tensor:
    """The point (p,) of one member of a run.

    Args:
        word: as for `between`.
        device: where it is.
        data: folder of the task's data, where it is not where it was.

    Raises:
        ValueError: if the word stands for several points, or for a file of weights alone.
        DamagedFile: if a file is damaged, or of another model.
        FileNotFoundError: if there is no such file or run.
    """
    place = _place(word)
    if place.run is None:
        raise ValueError(f"{word} is a file of weights, and a run or one of its members is needed")
    moved = {} if data is None else {"data": data}
    found = subjects.of_run(RunFolder(place.run), place.member, place.step, device, False, moved)
    return _of_subject(place, found, found.problem)[0]


def measured(
    ends: Between, wanted: Wanted, folder: Path, told: Told = lambda name, done, total: None
) -> dict[str, Result]:
    """The path, and the saddle where one is wanted, by file name; each is saved in the folder.

    BatchNorm statistics are re-estimated at every point on the training data, or are those at the
    first end where they are to stay. A file of the same name with other settings is kept under
    another one, as in `cnognp.measuring.subjects.measured`.

    Raises:
        ValueError: if a metric is not known, or a setting does not fit.
        RuntimeError: if the loss is random.
        OSError: if the disk refuses.
    """
    check_writable(folder)
    name = f"path-{wanted.kind}"
    settings = {
        "ends": list(ends.names), "kind": wanted.kind, **wanted.settings, **wanted.options,
        "metrics": list(wanted.metrics), "align": ends.origin.get("aligned", {}).get("by", ""),
    }  # fmt: skip
    objective = _objective(ends, wanted)
    began = time.perf_counter()
    path = found_path(ends, wanted, objective, lambda done, total: told(name, done, total))
    if ends.function is not None:
        path = replace(path, **_ground(ends.function, path))
    found: dict[str, Result] = {name: _saved(path, folder / f"{name}.h5", ends, settings, began)}
    if wanted.saddle:
        began, top = time.perf_counter(), f"{name}-saddle"
        told(top, 0, 1)
        climbed = paths.saddle(objective, path, statistics=_statistics(wanted))
        found[top] = _saved(climbed, folder / f"{top}.h5", ends, settings, began)
    return found


def found_path(
    ends: Between,
    wanted: Wanted,
    objective: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> results.Path:
    """The path alone, which is not saved.

    Args:
        ends: what it is between.
        wanted: what is measured.
        objective: on what; that of the ends where None.
        progress: called with the number of parts done and of all.

    Raises:
        ValueError: if a metric is not known, or a setting does not fit.
        RuntimeError: if the loss is random.
    """
    given = {**wanted.settings, **wanted.options, "metrics": _metrics(ends, wanted)}
    objective = _objective(ends, wanted) if objective is None else objective
    finder = paths.FINDERS[wanted.kind]
    path = paths.find(finder, objective, ends.a, ends.b, {**given, "progress": progress})
    return replace(path, names=ends.names)


def _saved(
    result: Any, path: Path, ends: Between, settings: dict[str, Any], began: float
) -> Result:
    how: dict[str, Any] = {"settings": json.loads(json.dumps(settings))}
    how["wall_seconds"] = time.perf_counter() - began
    how["finder"] = result.provenance.get("settings", {})
    if (older := subjects.set_aside(path, how["settings"])) is not None:
        how["set_aside"] = older
    result = replace(result, provenance={**result.provenance, **ends.origin, **how})
    results.save(result, path)
    return result


def _statistics(wanted: Wanted) -> Any:
    return wanted.options.get("statistics", "reestimated")


def _objective(ends: Between, wanted: Wanted) -> Any:
    """What the path is measured on, and its mini-batches drawn from."""
    problem = ends.problem
    if problem is None:
        return ends.function
    evaluation: Any = problem.evaluation
    if _statistics(wanted) == "as given":
        evaluation = problem.at(ends.a)
    risk = evaluation.risk if isinstance(evaluation, Reestimated) else evaluation
    lone = risk.data.resident and len(risk.data.batches) < 2
    if wanted.options.get("standard_errors") and lone:
        shards = risk.sharded(min(_SHARDS, risk.samples))
        # Statistics stay those of the batches as they were.
        again = isinstance(evaluation, Reestimated)
        evaluation = Reestimated(shards, risk.data) if again else shards
    if wanted.settings.get("batch_size"):
        return Stochastic(evaluation, problem.training)
    return evaluation


def _metrics(ends: Between, wanted: Wanted) -> dict[str, Any]:
    """The metrics as functions of a point.

    Raises:
        ValueError: if one is not known.
    """
    found: dict[str, Any] = {}
    for name in wanted.metrics:
        if name in MEASURED:
            found[name] = name
        elif ends.problem is None:
            raise ValueError(
                f"a test function has no metric {name!r}; there are {', '.join(MEASURED)}"
            )
        else:
            found[name] = _metric(ends, name, _statistics(wanted))
    return found


def _metric(ends: Between, name: str, statistics: str) -> Callable[[Tensor], float]:
    problem: Any = ends.problem
    split, _ = problem.located(name)
    key = name.removeprefix(f"{split}_")

    def at(z: Tensor) -> float:
        frozen = problem.at(ends.a if statistics == "as given" else z)
        return problem.measured(z, frozen, split, (key,))[key]

    return at


def _minimum(word: str) -> tuple[Any, Any] | None:
    """The function and the minimum of the catalogue that a word names; None if it names none.

    Raises:
        ValueError: if the function has no such minimum.
    """
    name, _, minimum = word.partition(":")
    if name not in CATALOGUE or Path(name).exists():
        return None
    function = CATALOGUE[name]
    for found in function.minima:
        if found.name == minimum:
            return function, found
    known = ", ".join(found.name for found in function.minima)
    raise ValueError(f"{name} has no minimum {minimum!r}; there are {known}: {name}:{known[:1]}")


def _of_function(one: str, other: str, minima: Sequence[Any]) -> Between:
    if not all(minima) or minima[0][0] is not minima[1][0]:
        raise ValueError(f"both ends must be minima of one function, got {one} and {other}")
    a, b = (torch.tensor(m.point, dtype=torch.float64, device="cpu") for _, m in minima)
    function = minima[0][0]
    names = (one.partition(":")[2], other.partition(":")[2])
    return Between(a, b, names, {"function": function.name}, function=function)


def _place(word: str) -> _Place:
    """What a word stands for.

    Raises:
        FileNotFoundError: if it stands for nothing.
    """
    path, member = Path(word), "best"
    cuts = [k for k, letter in enumerate(word) if letter == ":"]
    while not path.exists() and cuts:
        # The longest part that is there, since members too may have a colon.
        cut = cuts.pop()
        path, member = Path(word[:cut]), word[cut + 1 :]
    if not path.exists():
        raise FileNotFoundError(
            f"{word} is no run, checkpoint or file of weights; an end is RUN, RUN:MEMBER, "
            f"RUN/checkpoints/00000100.h5 or a file ({', '.join(SUFFIXES)})"
        )
    if path.suffix.lower() in SUFFIXES:
        return _Place(word, weights=path)
    if path.suffix == ".h5" and path.parent.name == "checkpoints":
        step = path.stem.lstrip("0") or "0"
        return _Place(word, run=path.parent.parent, member=member, step=step)
    return _Place(word, run=path, member=member)


def _of_subject(
    place: _Place, subject: subjects.Subject, problem: Problem
) -> tuple[Tensor, dict[str, Any]]:
    """The point of a run.

    Raises:
        ValueError: if there are several, or it is of another model or of other data.
    """
    if len(subject.points) != 1:
        raise ValueError(
            f"{place.word} is {len(subject.points)} points, and an end is one: name a member, such "
            "as RUN:0, RUN:best or RUN:train-1"
        )
    own = problem.as_given.layout.digest, problem.data_digest
    other = subject.origin["model"], subject.origin["data"]
    for what, ours, theirs in zip(("models", "data"), own, other, strict=True):
        if ours != theirs:
            raise ValueError(
                f"{place.word} is of other {what} than the other end" + _ADVICE * (what == "data")
            )
    (z,) = subject.points.values()
    names = ("run", "round", "member", "snapshots")
    origin = {name: subject.origin[name] for name in names if name in subject.origin}
    return z.to(problem.device), {"name": place.word, **origin}


def _of_file(place: _Place, problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The point that a file of weights holds."""
    z, noted = subjects.point_in(place.weights, problem)  # type: ignore[arg-type]
    return z, {"name": place.word, **noted}


def _ground(function: Any, path: results.Path) -> dict[str, Any]:
    """The function on a grid over its box and the path, where it has two coordinates."""
    if function.dim != 2 or path.points is None:
        return {}
    box = np.array(function.box)
    low = np.minimum(box[:, 0], path.points.min(0))
    high = np.maximum(box[:, 1], path.points.max(0))
    alpha, beta = (np.linspace(low[k], high[k], _GRID) for k in range(2))
    points = torch.tensor(np.stack(np.meshgrid(alpha, beta, indexing="ij"), -1), device="cpu")
    return {"alpha": alpha, "beta": beta, "surface": value(function, points).numpy()}
