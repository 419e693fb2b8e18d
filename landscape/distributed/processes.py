"""The processes that share an objective, and what they say to each other: numbers, never code."""

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# A rank that waits is told by a closed connection that another has ended, and not by a clock: what
# rank 0 does between two sums may take long.
_PATIENCE = timedelta(days=7)
_NUMBERS = 6
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Lost(RuntimeError):
    """Another rank has ended, so that nothing can be summed any more."""


class Ranks:
    """The processes of one program: rank 0 leads, and the others do what it asks for.

    Args:
        rank: the number of this process.
        size: how many there are.
        store: where they leave notes, which outlives each of them; none where it is alone.

    Attributes:
        idle: whether the others wait for the next order.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None):
        self.rank, self.size = rank, size
        self._store = store
        self.idle = True

    @property
    def leads(self) -> bool:
        """Whether this process is the one that measures, prints and writes."""
        return self.rank == 0

    def order(self, *numbers: int) -> None:
        """Nothing; every other rank has heard the numbers.

        Raises:
            Lost: if one has ended.
        """
        if not self.idle:
            raise Lost("the ranks were lost in an earlier error; start them anew")
        self.idle = False
        self.share(torch.tensor([*numbers, *[0] * (_NUMBERS - len(numbers))], device="cpu"))

    def heard(self) -> list[int]:
        """The numbers that rank 0 says next.

        Raises:
            Lost: if it has ended.
        """
        return self.share(torch.zeros(_NUMBERS, dtype=torch.int64, device="cpu")).tolist()

    def share(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0; that of others, of the same shape and type, is written to.

        Raises:
            Lost: if a rank has ended.
        """
        if self.size > 1:
            self._tried(
                lambda: dist.broadcast(tensor, 0), "another rank" if self.leads else "rank 0"
            )
        return tensor

    def answer(self, parts: Iterable[Tensor], error: Exception | None = None) -> None:
        """Nothing; rank 0 has the parts, or reads what went wrong.

        Raises:
            Lost: if it has ended.
        """
        said = f"{type(error).__name__}: {error}".encode() if error is not None else b""
        self._send(torch.tensor([len(said)], device="cpu"))
        if said:
            self._send(torch.tensor(list(said), dtype=torch.uint8, device="cpu"))
            return
        for part in parts:
            self._send(part.contiguous())

    def check(self, rank: int) -> None:
        """Nothing, if a rank is about to send its parts.

        Raises:
            RuntimeError: if something went wrong there; the message is that of the rank.
            Lost: if it has ended.
        """
        length = int(self.receive(rank, torch.zeros(1, dtype=torch.int64, device="cpu")))
        if length:
            said = self.receive(rank, torch.empty(length, dtype=torch.uint8, device="cpu"))
            text = bytes(said.tolist()).decode(errors="replace")
            raise RuntimeError(f"rank {rank} of {self.size}: {text}")

    def receive(self, rank: int, buffer: Tensor) -> Tensor:
        """The buffer with what the rank has sent.

        Raises:
            Lost: if it has ended.
        """
        self._tried(lambda: dist.recv(buffer, rank), f"rank {rank}")
        return buffer

    def first_to_fail(self) -> bool:
        """Whether no other rank has asked this before: one of them says what went wrong."""
        try:
            return self._store.compare_set("failed", "", str(self.rank)) == str(self.rank).encode()
        except (RuntimeError, AttributeError):
            return True

    def close(self) -> None:
        """Nothing; the processes know no more of each other."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _send(self, tensor: Tensor) -> None:
        self._tried(lambda: dist.send(tensor, 0), "rank 0")

    def _tried(self, exchange, other: str) -> None:
        try:
            exchange()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if "onnection" in reason:
                reason = "it was killed, or ran out of memory"
            raise Lost(
                f"{other} of {self.size} has ended before its part was there: {reason}"
            ) from error


def start(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that this process belongs to: those of torchrun, else itself alone.

    Tensors on the CPU go by gloo, those on GPUs by NCCL. Every rank has a GPU of its own.

    Raises:
        RuntimeError: if there are more ranks on this machine than GPUs.
    """
    if not all(name in environment for name in _VARIABLES):
        return Ranks()
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if size == 1:
        return Ranks()
    backend = "gloo"
    if torch.cuda.is_available():
        place, there = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= there:
            raise RuntimeError(
                f"rank {rank} has no GPU of its own: this machine has {there}, so start at most "
                f"that many processes (torchrun --nproc-per-node {there})"
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    return Ranks(rank, size, store)


def number_of(dtype: torch.dtype) -> int:
    """The number that stands for a type in an order."""
    return _TYPES.index(dtype)


def type_of(number: int) -> torch.dtype:
    """The type that a number stands for."""
    return _TYPES[number]
