"""Measurements in pieces that other processes do: blocks of points, probes, or whole ones."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cnognp.measuring.settings import Settings, Slice
from cnognp.tasks import weights
from cnognp.tasks.problem import Problem, choose_device, problem_of, task_of
from cnognp.training.config import Config
from cnognp.workers import in_order, put, taken
from landscape import trace
from landscape.results import Result
from landscape.slices.columns import Asked, Columns, columns_of
from landscape.spectrum import quadrature

if TYPE_CHECKING:
    from cnognp.measuring.place import Place
    from cnognp.measuring.subjects import Subject


@dataclass(frozen=True)
class Source:
    """How a problem is made, in this process or another one.

    Args:
        config: the text of a run's configuration; empty for the file of a task.
        task: ``my_task.py:make_task``.
        data: the folder of its data, where it is given one.
        weights: file of weights that its model gets; empty for none.
        device: where it is measured.
        evaluate: the model is in evaluation mode.
        options: of `cnognp.tasks.problem.Problem`, names and values.
    """

    config: str = ""
    task: str = ""
    data: str | None = None
    weights: str = ""
    device: str = "auto"
    evaluate: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def problem(self) -> Problem:
        """The problem."""
        options = dict(self.options)
        if self.config:
            config = replace(Config.from_yaml(self.config), device=self.device)
            problem = problem_of(config, **options)
        else:
            task = task_of(self.task, 0, {} if self.data is None else {"data": self.data})
            if self.weights:
                weights.load(Path(self.weights), task.model)
            problem = Problem(task, choose_device(self.device), **options)
        if not self.evaluate:
            return problem
        problem.task.model.eval()
        return Problem(problem.task, problem.device, **options)


@dataclass(frozen=True)
class Spread:
    """Who does the pieces of a measurement.

    The pieces are the same whoever does them, so that the numbers do not depend on it.

    Args:
        executor: has them done.
        source: of the problem.
        threads: of torch in each.
        shards: into how many parts the data of sums are cut, see `cnognp.measuring.sharing`; None
            where they are not.
    """

    executor: Executor
    source: Source
    threads: int
    shards: int | None = None

    def columns(self, kind: Slice, z: Tensor) -> Callable[..., Iterator[np.ndarray]]:
        """What `landscape.slices.Options` takes as ``elsewhere``."""

        def found(asked: Asked, cut: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            # A band asks for one line after the other.
            token = secrets.token_hex(8)
            z_there, origin, *directions = map(self._put, (z, asked.origin, *asked.directions))
            bare = asked._replace(origin=origin, directions=tuple(directions))
            return self._each(_columns, ((token, kind, z_there, bare, t) for t in cut))

        return found

    def forms(self, kind: Any, z: Tensor) -> Callable[[Iterable[Tensor]], Iterator[np.ndarray]]:
        """Quadratic forms of the kind's matrix with blocks of vectors."""
        token, there = secrets.token_hex(8), self._put(z)

        def found(blocks: Iterable[Tensor]) -> Iterator[np.ndarray]:
            short = (u.to("cpu", torch.int8).numpy() for u in blocks)
            return self._each(_forms, ((token, kind, there, u) for u in short))

        return found

    def rules(self, kind: Any, z: Tensor) -> Callable[..., Iterator[Any]]:
        """Quadratures of the kind's matrix by blocks of probes."""
        token, there = secrets.token_hex(8), self._put(z)

        def found(steps: int, seed: int, blocks: Iterable[list[int]]) -> Iterator[Any]:
            return self._each(_rules, ((token, kind, there, steps, seed, b) for b in blocks))

        return found

    def results(
        self, subject: "Subject", jobs: Sequence[tuple[Settings, Tensor | None]]
    ) -> Iterator[Result]:
        """The results of kinds at points, None for all members, in their order."""
        everyone = self._put(subject.population)
        calls = ((kind, None if z is None else self._put(z), everyone) for kind, z in jobs)
        return self._each(_result, calls)

    def _each(self, work: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[Any]:
        whole = ((self.source, self.shards, *given) for given in calls)
        return in_order(work, whole, self.executor, self.threads)

    def _put(self, tensor: Tensor) -> Any:
        return put(self.executor, tensor.detach().cpu().numpy())


@lru_cache(maxsize=1)
def _subject(source: Source) -> "Subject":
    """The problem of a source, without points."""
    from cnognp.measuring.subjects import Subject

    problem = source.problem()
    nowhere = torch.empty(0, device=problem.device)
    return Subject(problem, {}, nowhere, {}, own_statistics=bool(source.task))


class _Kept:
    """The last thing that was made; a worker does many pieces of one."""

    def __init__(self) -> None:
        self._token, self._thing = "", None

    def __call__(self, token: str, make: Callable[[], Any]) -> Any:
        if token != self._token:
            self._thing = None
            self._thing, self._token = make(), token
        return self._thing


_KEPT = _Kept()


def _columns(
    source: Source, shards: None, token: str, kind: Slice, z: Any, asked: Asked, t: np.ndarray
) -> np.ndarray:
    def made() -> Columns:
        place = _place(source, None, kind, z)
        there = place.z.device
        origin, *directions = (_tensor(a, there) for a in (asked.origin, *asked.directions))
        metrics = {name: place.metrics.get(name, name) for name in kind.metrics}
        whole = asked._replace(origin=origin, directions=tuple(directions))
        return columns_of(place.objective, metrics, whole)

    return _KEPT(token, made)(t)


def _forms(
    source: Source, shards: int | None, token: str, kind: Any, z: Any, u: np.ndarray
) -> np.ndarray:
    def made() -> Any:
        place = _place(source, shards, kind, z)
        return trace.matrix_at(place.objective, place.z, **kind.matrix)

    matrix = _KEPT(token, made)
    return trace.forms(matrix, torch.tensor(u).to(matrix.point))


def _rules(
    source: Source, shards: int | None, token: str, kind: Any, z: Any, steps: int, seed: int,
    numbers: list[int],
) -> Any:  # fmt: skip
    def made() -> Any:
        place = _place(source, shards, kind, z)
        return trace.matrix_at(place.objective, place.z, **kind.matrix)

    return quadrature.rules(_KEPT(token, made), steps, seed, numbers)


def _result(source: Source, shards: int | None, kind: Settings, z: Any, everyone: Any) -> Result:
    return kind.measure(_place(source, shards, kind, z, everyone))


def _place(
    source: Source, shards: int | None, kind: Settings, z: Any, everyone: Any = None
) -> "Place":
    """Where a kind is measured, as `cnognp.measuring.subjects.measured` finds it."""
    from cnognp.measuring.sharing import Sharing
    from cnognp.measuring.subjects import place_of
    from landscape.distributed import Ranks

    subject = _subject(source)
    device = subject.problem.device
    if everyone is not None:
        subject = replace(subject, population=_tensor(everyone, device))
    place = place_of(subject, kind, None if z is None else _tensor(z, device))
    if shards is None:
        return place
    # Alone, so that there is nothing to leave.
    return Sharing(Ranks(), shards).alone(kind, place)


def _tensor(array: Any, device: torch.device) -> Tensor:
    """A tensor of its own; what was put is shared with others."""
    return torch.tensor(taken(array), device=device)
