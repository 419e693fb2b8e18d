"""The members of a population, wherever they live: on the device, in host memory, or in files."""

import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cnognp.method import Info
from landscape.objective import Objective, offered, value
from landscape.randomness import from_member

Home = Literal["auto", "device", "host", "files"]
LARGE = 1 << 28
"""Bytes of all members from which on those of a swarm do not live on the device by themselves."""


def home_of(home: Home, method: Any, size: int) -> Home:
    """Where members live: ``auto`` is the device, or the host where those of a swarm are large.

    Args:
        home: what is asked for.
        method: how they move.
        size: bytes of all members.
    """
    if home != "auto":
        return home
    visits = getattr(method, "apart", False)
    return "host" if visits and size >= LARGE else "device"


@dataclass(frozen=True)
class Population:
    """A swarm whose members live elsewhere and visit the device a few at a time, as a Method.

    The bits are those of the swarm whose members all live on the device: its formula is applied to
    as many members as the objective evaluates together, with their own rows of every draw. The
    state is the swarm's, its large tensors on the host or mapped from files; unlike that of other
    methods, a step writes the new state over the old one, so that there is room for one only.

    Args:
        method: the swarm.
        home: ``"host"``, or ``"files"`` without a name in ``folder``, which end with the process.
        device: that members visit.
        folder: an existing one on a disk with room for the state.

    Raises:
        ValueError: if the method is not one whose members can visit the device apart.
    """

    method: Any
    home: Home
    device: torch.device
    folder: Path | None = None

    def __post_init__(self):
        if not hasattr(self.method, "leader"):
            raise ValueError(
                f"members of {type(self.method).__name__} must fit on the device together, got "
                f"{self.home}: let them live there, take fewer, or take a swarm"
            )
        if self.home not in ("host", "files"):
            raise ValueError(f"members live elsewhere on the host or in files, not {self.home}")
        if not self.method.apart:
            raise ValueError(
                "members that scatter must fit together: set mutation to 0"
                if self.method.mutation is not None
                else "members ranked by their epochs must fit together: set fitness_from to point"
            )

    def init(self, objective: Objective, z: Tensor) -> Any:
        """The state of all members at ``z`` (n, p)."""
        state: Any = None
        for block in blocks(objective, len(z)):
            few = self.method.init(objective, z[block].to(self.device))
            state = self._empty(few, len(z)) if state is None else state
            _write(state, few, block)
        return state

    def step(
        self, objective: Objective, state: Any, generator: torch.Generator
    ) -> tuple[Any, Info]:
        """``state``, whose members have moved, and what was seen at their new places."""
        leader = self.method.leader(state).to(self.device, copy=True)
        seen: list[Info] = []
        alone: Any = None
        for block in blocks(objective, len(state.position)):
            few = _mapped(lambda t, b=block: t[b].to(self.device) if t.ndim else t, state)
            drawn = from_member(generator, block.start)
            alone, info = self.method.step(objective, few, drawn, leader, over=True)
            _write(state, alone, block)
            # Not the places themselves, which are in the state.
            seen.append(info._replace(position=None))
        # What all members share, such as the round, is what it was until the last has moved.
        state = _mapped(lambda t, n: t if t.ndim else n, state, alone)
        return state, _joined(seen)._replace(position=state.position)

    def like(self, objective: Objective, z: Tensor) -> Any:
        """What has the structure, types and devices of the state of ``z``, but no memory."""
        few = self.method.init(objective, z[:1].to(self.device))

        def wide(tensor: Tensor) -> Tensor:
            place = tensor.device if tensor.ndim < 2 else torch.device("cpu")
            shape = (len(z), *tensor.shape[1:]) if tensor.ndim else ()
            return torch.zeros((), dtype=tensor.dtype, device=place).expand(shape)

        return _mapped(wide, few)

    def hold(self, state: Any) -> Any:
        """A state like this one, its large tensors where the members live."""
        if self.home == "host":
            return state
        held = self._empty(state, len(state.position))
        _write(held, state, slice(0, len(state.position)))
        return held

    def _empty(self, few: Any, members: int) -> Any:
        def made(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0:
                return tensor
            shape = (members, *tensor.shape[1:])
            if tensor.ndim == 1:
                return tensor.new_empty(shape)
            if self.home == "host":
                return torch.empty(shape, dtype=tensor.dtype, device="cpu")
            return _in_file(shape, tensor.dtype, self.folder)

        return _mapped(made, few)


def blocks(objective: Objective, members: int) -> Iterator[slice]:
    """The members in order, cut as the objective evaluates them together; else one by one."""
    size = offered(objective, "chunk") or 1
    return (slice(k, min(k + size, members)) for k in range(0, members, size))


def valued(objective: Objective, z: Tensor, device: torch.device) -> Tensor:
    """Loss (n,) on the device at points (n, p) that live anywhere."""
    if z.device == device:
        return value(objective, z)
    pieces = blocks(objective, len(z))
    return torch.cat([value(objective, z[block].to(device)) for block in pieces])


def _mapped(function: Callable[..., Any], state: Any, *others: Any) -> Any:
    """The nested state with the function's values in place of its tensors."""
    found: list[Any] = []
    for items in zip(state, *others, strict=True):
        first = items[0]
        if first is None:
            found.append(None)
        elif isinstance(first, Tensor):
            found.append(function(*items))
        else:
            found.append(_mapped(function, *items))
    return type(state)(*found)


def _write(state: Any, few: Any, block: slice) -> None:
    """Writes the rows of some members over those in the state."""

    def written(home: Tensor, rows: Tensor) -> Tensor:
        # On the host itself, members that have been written over are there already.
        if home.ndim and home[block].data_ptr() != rows.data_ptr():
            home[block] = rows
        return home

    _mapped(written, state, few)


def _joined(seen: list[Info]) -> Info:
    parts = {}
    for name in ("loss", "gradient_norm", "fitness"):
        pieces = [getattr(info, name) for info in seen]
        parts[name] = None if pieces[0] is None else torch.cat(pieces)
    return Info(position=None, **parts, evaluations=seen[0].evaluations)


def _in_file(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """A tensor whose pages the system writes to a file, and reads again, as memory needs it."""
    size = max(1, torch.Size(shape).numel() * dtype.itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        # The mapping outlives the file's name and handle.
        pages = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(pages, dtype=dtype, count=torch.Size(shape).numel()).reshape(shape)
