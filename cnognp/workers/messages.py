"""What two processes send each other: numbers through a pipe, large arrays by shared memory.

Shared memory has no name: it goes when the last process that holds it does, however that ends.
"""

import io
import mmap
import os
import pickle
import socket
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

LARGE = 1 << 18
"""Bytes from which on an array goes by shared memory."""
_MOST = 200  # descriptors in one message; the system's limit is 253
_COUNT = 2  # bytes before a message, which say how many descriptors come with it
_SHARES = hasattr(os, "memfd_create") and hasattr(socket, "send_fds")


class Lent:
    """An array that many messages name, in memory that every receiver maps."""

    descriptor = -1  # where it is small, and goes along

    def __init__(self, array: np.ndarray):
        self.array = array
        if _fits(array):
            self.array, self.descriptor = _shared(array)

    def __reduce__(self) -> Any:
        # Of what is small, the array itself is received.
        return np.asarray, (self.array,)

    def __del__(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Message:
    """An object that is ready to be sent, as often as need be.

    Raises:
        Exception: what pickling raises, where it cannot be sent at all.
    """

    def __init__(self, thing: Any):
        body, self._held = io.BytesIO(), _Held()
        body.write(bytes(_COUNT))
        _Pickler(body, self._held).dump(thing)
        self._body = body.getbuffer()
        self._body[:_COUNT] = len(self._held.descriptors).to_bytes(_COUNT, "little")

    def send(self, pipe: Connection) -> None:
        """Nothing; the other end can `receive` it.

        Raises:
            OSError: if there is no other end any more.
        """
        pipe.send_bytes(self._body)
        if descriptors := self._held.descriptors:
            with _socket(pipe) as through:
                socket.send_fds(through, [b"."], descriptors)

    def close(self) -> None:
        """Nothing; what this process holds for it is let go."""
        self._held.close()


def receive(pipe: Connection) -> Any:
    """The object that the other end sends; its large arrays are those pages.

    Raises:
        EOFError: if there is no other end any more.
        OSError: likewise.
    """
    body, descriptors = io.BytesIO(pipe.recv_bytes()), list[int]()
    if count := int.from_bytes(body.read(_COUNT), "little"):
        with _socket(pipe) as through:
            descriptors = list(socket.recv_fds(through, 1, count)[1])
        if len(descriptors) < count:
            raise EOFError("the other end has gone")
    try:
        return _Unpickler(body, descriptors).load()
    finally:
        _close(descriptors)


class _Held:
    """The descriptors of one message, and which of them it may close."""

    def __init__(self):
        self.descriptors: list[int] = []
        self.places: dict[int, tuple[int, str, tuple[int, ...]]] = {}
        self._own: list[int] = []
        self._arrays: list[Any] = []  # an id belongs to an object as long as that lives

    def place(self, thing: Any) -> tuple[int, str, tuple[int, ...]]:
        """Where the receiver finds an array; the same for the same one."""
        if id(thing) not in self.places:
            array = thing.array if isinstance(thing, Lent) else thing
            descriptor = thing.descriptor if isinstance(thing, Lent) else _shared(array)[1]
            if not isinstance(thing, Lent):
                self._own.append(descriptor)
            self.places[id(thing)] = len(self.descriptors), array.dtype.str, array.shape
            self.descriptors.append(descriptor)
            self._arrays.append(thing)
        return self.places[id(thing)]

    def full(self, thing: Any) -> bool:
        """Whether no further array has room."""
        return len(self.descriptors) >= _MOST and id(thing) not in self.places

    def close(self) -> None:
        """Nothing; its own descriptors are closed."""
        _close(self._own)
        self._own.clear()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, held: _Held):
        super().__init__(file, protocol=5)
        self._held = held

    def persistent_id(self, thing: Any) -> Any:
        shared = isinstance(thing, Lent) and thing.descriptor >= 0
        if not shared and not (isinstance(thing, np.ndarray) and _fits(thing)):
            return None
        return None if self._held.full(thing) else self._held.place(thing)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, descriptors: list[int]):
        super().__init__(file)
        self._descriptors, self._known = descriptors, dict[int, np.ndarray]()

    def persistent_load(self, place: Any) -> np.ndarray:
        number, dtype, shape = place
        if number not in self._known:
            # The pages stay as long as the array does.
            pages = mmap.mmap(self._descriptors[number], 0)
            size = int(np.prod(shape))
            self._known[number] = np.frombuffer(pages, dtype, size).reshape(shape)
        return self._known[number]


def _fits(array: np.ndarray) -> bool:
    return _SHARES and array.nbytes >= LARGE and not array.dtype.hasobject


def _shared(array: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy of the array in shared memory, and its descriptor."""
    descriptor = os.memfd_create("cnognp")
    os.ftruncate(descriptor, array.nbytes)
    copy = np.frombuffer(mmap.mmap(descriptor, 0), array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, descriptor


def _socket(pipe: Connection) -> socket.socket:
    """The pipe as the socket that it is."""
    return socket.socket(fileno=os.dup(pipe.fileno()))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
