"""The members of a population, wherever they live: on the device, in host memory, or in files."""

import math
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import starmap
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from cnognp.homes import Home, apart, blocks
from cnognp.method import Info
from cnognp.state import to_tensors
from landscape.objective import Objective
from landscape.randomness import from_member

Visit = tuple[int, Any, Tensor | None]
"""The first of some members, their state, and what they are told of the others."""


@runtime_checkable
class Crew(Protocol):
    """Who has members moved in other processes, with the bits of this one."""

    def begun(self, cut: list[slice]) -> Iterator[Any]:
        """The states of members at their starts, of one slice after the other."""
        ...

    def moved(self, move: str, visits: Iterable[Visit]) -> Iterator[tuple[Any, Info]]:
        """What a move of `MOVES` gives for one visit after the other, on the CPU.

        Args:
            move: its name.
            visits: their states, on the CPU; not looked at where the crew knows them already.
        """
        ...


@dataclass(frozen=True)
class Population:
    """A method whose members live elsewhere and visit the device a few at a time, as a Method.

    The bits are those of the method whose members all live on the device: its step is taken by as
    many members as the objective evaluates together, with their own rows of every draw. A swarm
    hands them the best point of all; one that ranks by epochs has them visit twice in a round. With
    several threads on a CPU, quasi-Newton methods alone can differ in the last bits of large
    members, whose inner products depend on how many there are.

    The state is the method's, its large tensors on the host or mapped from files; positions that a
    method has twice are there once. Unlike that of other methods, a step writes the new state over
    the old one, so that there is room for one only, unless it ``keeps`` that. What it saw is told
    without the places of all: where these are no longer in the state, `Info.leading` is the one of
    the best.

    Args:
        method: how the members move; a state's tensors that have an axis have a row for each.
        home: ``"host"``, or ``"files"`` without a name in ``folder``, which end with the process.
        device: that members visit.
        folder: an existing one on a disk with room for the state.
        crew: moves the members, in other processes; they visit the device here where None.
        together: members that are evaluated together at most; 0 for the objective's own choice.
            The last bits may depend on it.
        keeps: a step leaves the state before it as it was.

    Raises:
        ValueError: if the method is not one whose members can visit the device apart.
    """

    method: Any
    home: Home
    device: torch.device
    folder: Path | None = None
    crew: Crew | None = None
    together: int = 0
    keeps: bool = False

    def __post_init__(self):
        if self.home not in ("host", "files"):
            raise ValueError(f"members live elsewhere on the host or in files, not {self.home}")
        if apart(self.method):
            return
        if getattr(self.method, "mutation", None) is not None:
            raise ValueError("members that scatter must fit together: set mutation to 0")
        if self.crew is not None or self.together:
            raise ValueError(
                f"members of {type(self.method).__name__} learn from each other inside a step, so "
                "that no worker can move a few of them: leave out --workers and --together, or "
                "take a swarm"
            )
        raise ValueError(
            f"members of {type(self.method).__name__} learn from each other and must fit on the "
            f"device together, got {self.home}: let them live there, take fewer, or take a swarm"
        )

    def init(self, objective: Objective, z: Tensor) -> Any:
        """The state of all members at ``z`` (n, p)."""
        return self.begun(objective, z.__getitem__, len(z))

    def begun(self, objective: Objective, start: Callable[[slice], Tensor], members: int) -> Any:
        """The state of all members where ``start`` says, who is asked for a few at a time."""
        state: Any = None
        cut = self.blocks(objective, members)
        if self.crew is not None:
            begun = self.crew.begun(cut)
        else:
            begun = (self.method.init(objective, start(b).to(self.device)) for b in cut)
        for block in cut:
            few = next(begun)
            state = self._empty(few, members) if state is None else state
            state = self._written(state, few, block)
        return state

    def blocks(self, objective: Objective, members: int) -> list[slice]:
        """Which members visit together; whoever moves them, and however many do."""
        return list(blocks(objective, members, self.together))

    def step(
        self, objective: Objective, state: Any, generator: torch.Generator
    ) -> tuple[Any, Info]:
        """``state``, whose members have moved, and what was seen at their new places."""
        method = self.method
        state = self._copied(state) if self.keeps else state
        if not hasattr(method, "leader"):
            return self._visited(objective, state, generator, "step")
        # Held only where it is needed after members have been written over.
        passing = hasattr(method, "searched") and not method.published
        leader = method.leader(state).to(self._place, copy=not passing)
        if not hasattr(method, "searched"):
            return self._visited(objective, state, generator, "follow", lambda block: leader)
        before = state.rank.clone()
        state, info = self._visited(objective, state, generator, "search")
        if info.position is not None:
            info = info._replace(position=state.local.position)
        whole = state

        def followed(block: slice) -> Tensor:
            return method.followed(before, leader, whole, block).to(self._place)

        return self._visited(objective, state, generator, "pull", followed)[0], info

    def like(self, objective: Objective, z: Tensor, members: int) -> Any:
        """What has the structure, types and devices of a state, but no memory.

        Args:
            objective: what is minimised.
            z: (1, p), the start of one member.
            members: how many there are.
        """
        few = self.method.init(objective, z.to(self.device))

        def wide(tensor: Tensor) -> Tensor:
            place = tensor.device if tensor.ndim < 2 else torch.device("cpu")
            shape = (members, *tensor.shape[1:]) if tensor.ndim else ()
            return torch.zeros((), dtype=tensor.dtype, device=place).expand(shape)

        return _built(few, {path: wide(tensor) for path, tensor in to_tensors(few).items()})

    def hold(self, state: Any) -> Any:
        """A state like this one, its large tensors where the members live."""
        homes = to_tensors(state)
        places = [path for path in homes if self._may_share(path)]
        for number, path in enumerate(places):
            same = (other for other in places[:number] if _same(homes[path], homes[other]))
            homes[path] = homes[next(same, path)]
        state = _built(state, homes)
        if self.home == "host":
            return state
        held = self._empty(state, len(state.position))
        return self._written(held, state, slice(0, len(state.position)))

    @property
    def _place(self) -> torch.device:
        """Where members are that are about to move."""
        return self.device if self.crew is None else torch.device("cpu")

    def _visited(
        self,
        objective: Objective,
        state: Any,
        generator: torch.Generator,
        move: str,
        told: Callable[[slice], Tensor | None] = lambda block: None,
    ) -> tuple[Any, Info]:
        """The state after a visit of all members, who move, and what was seen."""
        seen: list[Info] = []
        best = _Best(math.inf, None)
        whole, alone, at = state, state, ""
        cut = self.blocks(objective, len(state.position))
        visits = ((block.start, self._few(whole, block), told(block)) for block in cut)
        if self.crew is not None:
            moves = self.crew.moved(move, visits)
        else:
            moves = starmap(partial(self._moved, objective, generator, move), visits)
        for block in cut:
            alone, info = next(moves)
            at = _named(to_tensors(alone), info.position)
            if info.position is not None and not at:
                best = best.offered(info)
            # Not the places themselves, most of which are in the state.
            seen.append(info._replace(position=None))
            whole = self._written(whole, alone, block)
            del info
        # Who moves them learns that all have come back.
        next(moves, None)
        # What all members share, such as the round, is what it was until the last has moved.
        last, homes = to_tensors(alone), to_tensors(whole)
        whole = _built(whole, {path: t if t.ndim else last[path] for path, t in homes.items()})
        sizes = [block.stop - block.start for block in cut]
        return whole, _joined(seen, sizes)._replace(position=homes.get(at), leading=best.position)

    def _moved(
        self, objective: Objective, generator: torch.Generator, move: str, first: int, few: Any,
        told: Tensor | None,
    ) -> tuple[Any, Info]:  # fmt: skip
        return MOVES[move](self.method, objective, few, from_member(generator, first), told)

    def _copied(self, state: Any) -> Any:
        """The state in memory of its own; what is in one place stays in one."""
        copies: dict[int, Tensor] = {}

        def copied(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0:
                return tensor
            return copies.setdefault(tensor.data_ptr(), tensor.clone())

        return _built(state, {path: copied(t) for path, t in to_tensors(state).items()})

    def _few(self, state: Any, block: slice) -> Any:
        """The state of some members where they move; what is in one place comes there once."""
        brought: dict[int, Tensor] = {}

        def there(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0:
                return tensor
            return brought.setdefault(tensor.data_ptr(), tensor[block].to(self._place))

        return _built(state, {path: there(tensor) for path, tensor in to_tensors(state).items()})

    def _written(self, state: Any, few: Any, block: slice) -> Any:
        """The state with the rows of some members; places that have become two are parted."""
        homes, rows = to_tensors(state), to_tensors(few)
        taken: dict[int, int] = {}
        for path, row in rows.items():
            home = homes[path]
            if home.ndim == 0:
                continue
            came = taken.setdefault(home.data_ptr(), row.data_ptr())
            if came != row.data_ptr():
                # Up to here the two were one; all others that part with it go along.
                fresh = self._room(tuple(home.shape), home).copy_(home)
                taken[fresh.data_ptr()] = row.data_ptr()
                with_it = [p for p in homes if homes[p].data_ptr() == home.data_ptr()]
                homes |= {p: fresh for p in with_it if rows[p].data_ptr() == row.data_ptr()}
        # On the host itself, what has been written over, or has not changed, is there already, and
        # what a method remembers of another tensor is held before that is written over.
        here = {p: home[block].data_ptr() if home.ndim else 0 for p, home in homes.items()}
        new = {p: row for p, row in rows.items() if here[p] != row.data_ptr() and row.ndim}
        moved = {
            p: row.clone() if row.data_ptr() in here.values() else row for p, row in new.items()
        }
        for path, row in moved.items():
            homes[path][block] = row
        return _built(state, homes)

    def _empty(self, few: Any, members: int) -> Any:
        shared: dict[int, Tensor] = {}

        def made(path: str, tensor: Tensor) -> Tensor:
            if tensor.ndim == 0:
                return tensor
            room = (members, *tensor.shape[1:])
            if not self._may_share(path):
                return self._room(room, tensor)
            if tensor.data_ptr() not in shared:
                shared[tensor.data_ptr()] = self._room(room, tensor)
            return shared[tensor.data_ptr()]

        return _built(few, {path: made(path, tensor) for path, tensor in to_tensors(few).items()})

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        if len(shape) == 1:
            return like.new_empty(shape)
        if self.home == "host":
            return torch.empty(shape, dtype=like.dtype, device="cpu")
        return _in_file(shape, like.dtype, self.folder)

    def _may_share(self, path: str) -> bool:
        """Whether a tensor may lie where another one lies: places, which methods inside repeat.

        Not those that a swarm writes over while it needs its local search's.
        """
        *outer, name = path.split("/")
        return name == "position" and not (len(outer) == 1 and hasattr(self.method, "leader"))


def _step(method: Any, objective: Any, few: Any, drawn: Any, told: None) -> tuple[Any, Info]:
    return method.step(objective, few, drawn)


def _follow(method: Any, objective: Any, few: Any, drawn: Any, leader: Any) -> tuple[Any, Info]:
    return method.step(objective, few, drawn, leader, over=True)


def _search(method: Any, objective: Any, few: Any, drawn: Any, told: None) -> tuple[Any, Info]:
    return method.searched(objective, few, drawn)


def _pull(method: Any, objective: Any, few: Any, drawn: Any, followed: Any) -> tuple[Any, Info]:
    return method.pulled(objective, few, drawn, followed), Info(None, None, None, None, 0)


MOVES: Mapping[str, Callable[..., tuple[Any, Info]]] = MappingProxyType({
    "step": _step, "follow": _follow, "search": _search, "pull": _pull,
})  # fmt: skip
"""What members can do in a visit: of method, objective, their state, generator and what is told.

Those that step by themselves are told nothing, and can do so again before the others have.
"""


class _Best(NamedTuple):
    """The lowest fitness that was offered, and where that was."""

    fitness: float
    position: Tensor | None

    def offered(self, info: Info) -> "_Best":
        """The better one of this and the best that is told."""
        if info.fitness is None or info.position is None:
            return self
        fitness = torch.where(info.fitness.isnan(), math.inf, info.fitness.double())
        member = int(fitness.argmin())
        if not float(fitness[member]) < self.fitness:
            return self
        return _Best(float(fitness[member]), info.position[member].clone())


def _built(like: Any, tensors: Mapping[str, Tensor], prefix: str = "state") -> Any:
    """The nested state with these tensors, by the paths that `to_tensors` gives them."""
    found: list[Any] = []
    for name, item in zip(like._fields, like, strict=True):
        path = f"{prefix}/{name}"
        nested = item is not None and not isinstance(item, Tensor)
        found.append(_built(item, tensors, path) if nested else tensors.get(path))
    return type(like)(*found)


def _named(tensors: Mapping[str, Tensor], place: Tensor | None) -> str:
    """The path of the tensor that lies where ``place`` does; empty if there is none."""
    if place is None:
        return ""
    found = (p for p, t in tensors.items() if t.ndim and t.data_ptr() == place.data_ptr())
    return next(found, "")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.dtype.itemsize]
    return torch.equal(one.view(whole), other.view(whole))


def _joined(seen: list[Info], sizes: list[int]) -> Info:
    parts = {}
    for name in ("loss", "gradient_norm", "fitness"):
        pieces = [getattr(info, name) for info in seen]
        parts[name] = None if pieces[0] is None else torch.cat(pieces)
    told = [info.evaluations for info in seen]
    cost = told[0]
    if any(each != cost for each in told):
        cost = float(sum(map(_total, told, sizes)) / sum(sizes))
    return Info(position=None, **parts, evaluations=cost)


def _total(mean: float, count: int) -> Fraction:
    """What numbers add up to whose mean is rounded; exactly so for whole ones."""
    whole = Fraction(mean).limit_denominator(count)
    return count * (whole if abs(float(whole) - mean) <= 1e-12 * abs(mean) else Fraction(mean))


def _in_file(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """A tensor whose pages the system writes to a file, and reads again, as memory needs it."""
    size = max(1, torch.Size(shape).numel() * dtype.itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        # The mapping outlives the file's name and handle.
        pages = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(pages, dtype=dtype, count=torch.Size(shape).numel()).reshape(shape)
