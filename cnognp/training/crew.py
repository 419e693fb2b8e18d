"""Members of a run that are moved by other processes, a few at a time."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnognp.method import Info
from cnognp.population import MOVES, Visit
from cnognp.state import to_tensors
from cnognp.training.config import Config
from cnognp.workers import in_order, put, taken
from landscape.randomness import derive, from_member

_SECONDS = 1.0  # that rounds of one unit take: so long nothing is told, and a run is not left
_MORE = 8  # times the rounds before, at most
_ROOM = 1 << 26  # bytes of all members' states after each of these rounds


class Crew:
    """Workers that move members with the bits of this process, from counters and states alone.

    A worker makes the task once, from the configuration; a unit names round, move and first member,
    and brings the state of these members. Members that learn nothing from each other go through
    several rounds in one unit, and their states after each come back together: as many as take a
    second, and have room.

    Args:
        executor: has the units done.
        config: of the run, its device and threads settled.
        round: says how many rounds are done.
    """

    def __init__(self, executor: Executor, config: Config, round: Callable[[], int]):
        self._executor, self._threads, self._round = executor, config.threads, round
        self._recipe, self._last = _recipe(config), config.iterations
        self._rounds, self._ahead = 1, dict[int, list[tuple[Any, Info]]]()

    def begun(self, cut: list[slice]) -> Iterator[Any]:
        """The states of members at their starts, of one slice after the other."""
        calls = ((self._recipe, block.start, block.stop) for block in cut)
        return map(_tensors, in_order(_begun, calls, self._executor, self._threads))

    def moved(self, move: str, visits: Iterable[Visit]) -> Iterator[tuple[Any, Info]]:
        """What a move gives for one visit after the other; see `cnognp.population.Crew`."""
        number = self._round()
        if number in self._ahead:
            yield from map(_tensors, self._ahead.pop(number))
            return
        rounds = min(self._rounds, self._last - number) if move == "step" else 1
        later: list[list[Any]] = [[] for _ in range(1, rounds)]
        began, size = time.perf_counter(), 0
        for now, *after in self._found(number, rounds, move, visits):
            state, info = _tensors(now)
            size += sum(tensor.nbytes for tensor in to_tensors(state).values())
            for known, found in zip(later, after, strict=True):
                known.append(found)
            yield state, info
        self._ahead = dict(enumerate(later, number + 1))
        self._rounds = _next(rounds, time.perf_counter() - began, size)

    def _found(
        self, number: int, rounds: int, move: str, visits: Iterable[Visit]
    ) -> Iterator[list[tuple[Any, Info]]]:
        """What workers give for one visit after the other, after each of some rounds."""
        lent: dict[int, tuple[Tensor, Any]] = {}

        def once(told: Tensor | None) -> Any:
            if told is None:
                return None
            if id(told) not in lent:
                lent[id(told)] = told, put(self._executor, told.numpy())
            return lent[id(told)][1]

        calls = (
            (self._recipe, number, rounds, move, first, _arrays(few), once(told))
            for first, few, told in visits
        )
        return in_order(_moved, calls, self._executor, self._threads)


def _next(rounds: int, seconds: float, size: int) -> int:
    """How many rounds go into the next units, after some that took so long.

    Args:
        rounds: that were done.
        seconds: that they took.
        size: bytes of the states after one of them.
    """
    return max(1, min(_MORE * rounds, int(_SECONDS * rounds / seconds), _ROOM // max(size, 1)))


def _recipe(config: Config) -> str:
    """What of the configuration a worker needs."""
    # One device is what a worker has.
    device = config.device.partition(":")[0]
    return replace(
        config, device=device, members_live="device", record_curvature=0, snapshots=0, together=0
    ).to_yaml()  # fmt: skip


@lru_cache(maxsize=1)
def _training(recipe: str) -> Any:
    """The run of a configuration, which has not begun."""
    from cnognp.training.session import Training

    return Training.of(Config.from_yaml(recipe))


def _begun(recipe: str, first: int, stop: int) -> Any:
    """The state of some members at their starts."""
    training = _training(recipe)
    return _arrays(training.method.init(training.objective(0), training.start(slice(first, stop))))


def _moved(
    recipe: str, number: int, rounds: int, move: str, first: int, few: Any, told: Any
) -> list[tuple[Any, Info]]:
    """The state of some members after each of some rounds of a move, and what was seen."""
    training = _training(recipe)
    device = training.problem.device
    known = None if told is None else _tensors(taken(told), device)
    state, found = _tensors(few, device), list[tuple[Any, Info]]()
    for round in range(number, number + rounds):
        drawn = from_member(derive(training.generator(), "round", round), first)
        objective = training.objective(round)
        state, info = MOVES[move](training.method, objective, state, drawn, known)
        found.append((state, info))
    return _arrays(found)


def _arrays(tree: Any) -> Any:
    """Nested tuples with arrays for their tensors; one place in memory becomes one array."""
    known: dict[tuple[int, torch.Size], np.ndarray] = {}

    def array(tensor: Tensor) -> np.ndarray:
        here = tensor.detach().cpu()
        return known.setdefault((tensor.data_ptr(), tensor.shape), here.numpy())

    return _mapped(tree, Tensor, array)


def _tensors(tree: Any, device: torch.device | str = "cpu") -> Any:
    """Nested tuples with tensors for their arrays; one array becomes one place in memory."""
    known: dict[int, Tensor] = {}

    def tensor(array: np.ndarray) -> Tensor:
        if id(array) not in known:
            own = array if array.flags.writeable else array.copy()
            known[id(array)] = torch.from_numpy(own).to(device if own.ndim else "cpu")
        return known[id(array)]

    return _mapped(tree, np.ndarray, tensor)


def _mapped(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same nested tuples, with what is of a kind changed."""
    if isinstance(tree, kind):
        return change(tree)
    if not isinstance(tree, tuple | list):
        return tree
    parts = [_mapped(part, kind, change) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
