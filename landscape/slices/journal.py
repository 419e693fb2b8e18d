"""A file that grows while a measurement runs, so that a killed one goes on where it was.

The first line says in JSON what is measured. Records of one block each follow, with a checksum. A
record that a kill or a full disk cut short, or that was damaged, is not taken when the file is
opened again; what is whole before it and behind it stays. Appending costs microseconds, where
writing the whole file anew would not.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from landscape.files import DamagedFile, PathLike, open_regular, replacing

_MAGIC = "cnognp-journal-1"
_HEADER_BYTES = 1 << 20
_RECORD = struct.Struct("<QQII")  # block, number of values, checksum of both, of the values
_FLUSH_SECONDS = 5.0
_WINDOW = 1 << 16


class Journal:
    """The blocks of one measurement that are finished, in memory and in a file.

    A block is on its way to the disk when `append` returns, so that a killed process loses none;
    every few seconds the disk is made to keep it, so that a power failure loses little.

    Args:
        path: the file; begun where there is none, gone on with where it fits.
        identity: text and numbers that tell this measurement from every other. Floats may differ by
            1e-4 relative, since another machine may round otherwise.

    Raises:
        ValueError: if the file belongs to another measurement; the message says what differs.
        DamagedFile: if it is no such file.
        OSError: if the disk refuses.
    """

    def __init__(self, path: PathLike, identity: Mapping[str, Any]):
        self.path = Path(path)
        self._blocks: dict[int, np.ndarray] = {}
        if self.path.exists():
            size = self._read(identity)
        else:
            header = json.dumps({"journal": _MAGIC, **identity}, sort_keys=True).encode() + b"\n"
            with replacing(self.path) as temporary:
                temporary.write_bytes(header)
            size = len(header)
        self._file = open(self.path, "r+b", buffering=0)
        self._file.truncate(size)
        self._file.seek(size)
        self._flushed = time.monotonic()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, block: int) -> np.ndarray | None:
        """The values of a finished block, or None."""
        return self._blocks.get(block)

    def append(self, block: int, values: np.ndarray) -> None:
        """Nothing; the block is then in the file.

        Raises:
            OSError: if the disk refuses, for instance because it is full. All blocks before stay.
        """
        payload = np.ascontiguousarray(values, dtype="<f8").tobytes()
        sizes = struct.pack("<QQ", block, len(payload) // 8)
        record = _RECORD.pack(block, len(payload) // 8, zlib.crc32(sizes), zlib.crc32(payload))
        start = self._file.tell()
        left = memoryview(record + payload)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
            self._flush_sometimes()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
                self._file.seek(start)
            raise OSError(
                error.errno,
                f"could not add to {self.path}: {error.strerror or error}. The {len(self)} "
                "finished blocks in it stay. Make space and run the same command again: it goes on "
                "from there",
            ) from error
        self._blocks[block] = np.frombuffer(payload, dtype="<f8")

    def close(self) -> None:
        """Nothing; all that was appended is then on the disk."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def _flush_sometimes(self) -> None:
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            os.fsync(self._file.fileno())
            self._flushed = time.monotonic()

    def _read(self, identity: Mapping[str, Any]) -> int:
        """Fills the blocks; where the last whole record ends, damaged ones before it or not.

        Raises:
            ValueError: if the file belongs to another measurement.
            DamagedFile: if it is no such file.
        """
        with open_regular(self.path) as raw:
            data = raw.readall()
        line, newline, _ = data[:_HEADER_BYTES].partition(b"\n")
        try:
            found = json.loads(line) if newline else None
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("journal") != _MAGIC:
            raise DamagedFile(self.path, "it is not a file of unfinished measurements")
        differing = [name for name in identity if not _same(found.get(name), identity[name])]
        if differing:
            raise ValueError(
                f"{self.path} holds another measurement: {', '.join(sorted(differing))} differ. "
                "Give another path, or delete the file to begin anew"
            )
        end = len(line) + 1
        start: int | None = end
        while start is not None:
            record = _record(data, start)
            if record is None:
                # Where a surface is refined, the cells of a block depend on the blocks before it.
                start = None if "adaptive" in identity else _following(data, start)
                continue
            block, values = record
            self._blocks[block] = values
            start = end = start + _RECORD.size + values.nbytes
        return end


def _following(data: bytes, start: int) -> int | None:
    """Where the next whole record behind a damaged one begins, or None if there is none."""
    width = _WINDOW
    while start < len(data):
        for place in _plausible(data, start + 1, start + width):
            if _record(data, place) is not None:
                return place
        start, width = start + width, 2 * width
    return None


def _plausible(data: bytes, low: int, high: int) -> list[int]:
    """The places from ``low`` to ``high`` where a record could begin that ends with the file.

    It says how many values follow, and hardly any other eight bytes are so small a number.
    """
    found: list[int] = []
    for first in range(low, low + 8):
        count = max(0, (len(data) - first) // 8)
        words = np.frombuffer(data, "<u8", count, min(first, len(data)))
        words = words[: (high - first) // 8 + 2]
        room = count - _RECORD.size // 8 - np.arange(max(0, len(words) - 1))
        fitting = np.flatnonzero((room >= 0) & (words[1:] <= np.maximum(room, 0)))
        found += [first + 8 * int(i) for i in fitting]
    return sorted(found)


def _record(data: bytes, start: int) -> tuple[int, np.ndarray] | None:
    """The record that begins at ``start``, or None if it is not whole."""
    body = start + _RECORD.size
    if body > len(data):
        return None
    block, count, head, check = _RECORD.unpack_from(data, start)
    whole = zlib.crc32(struct.pack("<QQ", block, count)) == head and body + 8 * count <= len(data)
    if not whole or zlib.crc32(data[body : body + 8 * count]) != check:
        return None
    return block, np.frombuffer(data, dtype="<f8", count=count, offset=body)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return bool(np.isclose(found, expected, rtol=1e-4, atol=0.0, equal_nan=True))
    return found == json.loads(json.dumps(expected))
