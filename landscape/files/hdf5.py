"""The one careful writer and reader of HDF5 files: arrays by name, and attributes in JSON.

Chunks carry a checksum (fletcher32), and the headers of this format version carry theirs; a digest
of the whole file is checked before HDF5 opens it. The reader trusts nothing: every declared size is
held against what is stored before any data are read.
"""

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5fd, h5g, h5p, h5s, h5t

from landscape.files import declarations
from landscape.files.whole import (
    DamagedFile,
    PathLike,
    open_regular,
    replacing,
    verify,
)

BUDGET = 4 << 30
_CHUNK_BYTES = 1 << 20
STREAMED_BYTES = 64 << 20
# HDF5 meets damage with many kinds of exception; a caller of `read` has to know only one.
HDF5_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError)
SIGNATURE = b"\x89HDF\r\n\x1a\n"
NAME = b"open file"  # HDF5 wants one, and no file of that name is touched


def write(
    path: PathLike,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    *,
    compress: bool = False,
    digest: bool = False,
) -> None:
    """Nothing; ``path`` then holds the arrays and attributes, wholly or not at all.

    Equal content gives equal bytes under one version of HDF5. It takes memory for a copy of what
    has at most 64 MiB; more goes straight into its file, on blocks that are taken before.

    Args:
        path: the file; its folder must exist. An older file of that name is replaced.
        arrays: by name; bool, integer or real of at most 8 bytes. A slash in a name makes a group.
        attributes: by name; what `encode` takes, up to 1 MiB in all.
        compress: deflate the data, if they are at most 64 MiB. Grids and histories may be worth
            it; weights hardly shrink and take twenty times as long.
        digest: as in `landscape.files.whole.replacing`.

    Raises:
        TypeError: if an array or an attribute has a type that cannot be stored.
        ValueError: if a name cannot be used, or there is more than the reader would accept.
        OSError: if the disk refuses, for instance because it is full. Older files are as they were.
    """
    stored = {name: storable(name, array) for name, array in arrays.items()}
    texts = {name: encode(name, value).encode("ascii") for name, value in attributes.items()}
    _check_names(stored, texts)
    total = sum(array.nbytes for array in stored.values())
    compress = compress and total <= declarations.COMPRESSED_BYTES
    with replacing(path, digest=digest) as temporary:
        if total <= STREAMED_BYTES:
            memory = io.BytesIO()
            _fill(memory, stored, texts, compress)
            temporary.write_bytes(memory.getvalue())
            return
        with io.FileIO(temporary, "x+") as file:
            _fill(file, stored, texts, compress)


def read(
    path: PathLike, *, budget: int | None = None, digest: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the attributes of a file that `write` has written.

    Args:
        path: the file, which may come from anybody.
        budget: bytes that the arrays may take; where None, 4 GiB or the file's own size if larger.
        digest: demand that ``<stem>.sha256`` is there and fits, before HDF5 opens the file.

    Raises:
        DamagedFile: if the file is not whole, or holds what `write` never writes: links other than
            hard ones, external or virtual data, other types or filters, sizes that the stored
            bytes do not bear out.
        FileNotFoundError: if there is no such file.
    """
    if digest:
        verify(path)
    with open_regular(path) as raw:
        size = signed_size(path, raw)
        try:
            with (
                access_through(raw) as access,
                h5py.File(h5f.open(NAME, h5f.ACC_RDONLY, access)) as file,
            ):
                root = h5g.open(file.id, b"/")
                attributes, datasets = declarations.attributes(root), declarations.datasets(root)
                declarations.check(datasets, size, max(BUDGET, size) if budget is None else budget)
                arrays = {name: loaded(name, datasets[name]) for name in sorted(datasets)}
        except HDF5_ERRORS as error:
            raise DamagedFile(path, str(error) or type(error).__name__) from None
    return arrays, attributes


def encode(name: str, value: Any) -> str:
    """The value as one line of ASCII JSON; NaN and infinities as Python writes them.

    Raises:
        TypeError: if JSON cannot say it, or a dictionary has keys that are not text.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            if not all(isinstance(key, str) for key in item):
                raise TypeError(f"{name!r} needs text as the keys of a dictionary, got {item!r}")
            return {key: plain(entry) for key, entry in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(entry) for entry in item]
        item = item.item() if isinstance(item, np.generic) else item
        if item is None or isinstance(item, (str, int, float)):
            return item
        raise TypeError(
            f"{name!r} must be text, numbers, lists or dictionaries, got {type(item).__name__}: "
            f"convert it, or store it among the arrays"
        )

    return json.dumps(plain(value), sort_keys=True)


def storable(name: str, array: Any) -> np.ndarray:
    """The array in native byte order and without gaps; copied only where it has to be.

    Raises:
        TypeError: if its type cannot be stored.
    """
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in declarations.DTYPES:
        raise TypeError(
            f"array {name!r} must be bool, {declarations.INTEGERS}, {declarations.FLOATS}; "
            f"got {array.dtype}"
        )
    whole = array.flags.c_contiguous and array.dtype.isnative
    return array if whole else np.array(array, dtype=dtype, order="C")


def _fill(
    target: io.FileIO | io.BytesIO,
    arrays: dict[str, np.ndarray],
    texts: dict[str, bytes],
    compress: bool,
) -> None:
    """Writes the bytes of the file.

    HDF5 must not meet a write that fails: it keeps the file open and crashes the process later,
    sometimes without any error before (seen with HDF5 2.0 on a full disk). So it writes to memory,
    or to blocks of the disk that the file already has.
    """
    room = sum(array.nbytes for array in arrays.values()) * 65 // 64
    if isinstance(target, io.FileIO):
        # A disk that is full is met before HDF5 opens the file, which it wants empty.
        _take(target, room)
        target.truncate(0)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    # Up to 64 KiB, attributes then lie in the object's header, which has a checksum.
    creation.set_attr_phase_change(declarations.ATTRIBUTES, 0)
    with (
        access_through(target) as access,
        h5py.File(h5f.create(NAME, h5f.ACC_TRUNC, creation, access)) as file,
    ):
        # All of the room is taken here, where a lack of it is an error of Python alone. What is
        # too much falls away when HDF5 closes the file.
        _take(target, room)
        root = h5g.open(file.id, b"/")
        for name, array in sorted(arrays.items()):
            _put(root, name, array, compress)
        for name, text in sorted(texts.items()):
            file.attrs[name] = np.bytes_(text)


def _take(target: io.FileIO | io.BytesIO, room: int) -> None:
    """Makes sure of the room for arrays, and on a disk of that for headers and attributes."""
    if isinstance(target, io.FileIO):
        os.posix_fallocate(target.fileno(), 0, room + (8 << 20))
    else:
        target.seek(room)
        target.write(b"\0")


@contextmanager
def access_through(file: io.FileIO | io.BytesIO) -> Iterator[h5p.PropFAID]:
    """HDF5 goes through Python to this very file: no locks, and nothing shared with other opens.

    The file has to be one of those written in C. In methods written in Python, a signal could raise
    KeyboardInterrupt, and HDF5 would take it for a failure of the disk.
    """
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    try:
        yield access
    finally:
        # A list with a Python driver must not outlive the interpreter, or the process crashes.
        access.close()


def _put(root: h5g.GroupID, name: str, array: np.ndarray, compress: bool) -> None:
    *groups, leaf = name.encode().split(b"/")
    for group in groups:
        if group in root:
            root = h5g.open(root, group)
        else:
            creation = h5p.create(h5p.GROUP_CREATE)
            creation.set_obj_track_times(False)
            root = h5g.create(root, group, gcpl=creation)
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_obj_track_times(False)
    if array.ndim and array.size:
        plan.set_chunk(_chunks(array))
        if compress:
            plan.set_shuffle()
            plan.set_deflate(1)
        plan.set_fletcher32()
    else:
        # Nothing to cut into chunks: the header holds the value, and its checksum covers it.
        plan.set_layout(h5d.COMPACT)
    space = h5s.create_simple(array.shape) if array.ndim else h5s.create(h5s.SCALAR)
    dataset = h5d.create(root, leaf, h5t.py_create(array.dtype, logical=True), space, dcpl=plan)
    if array.size:
        dataset.write(h5s.ALL, h5s.ALL, array)


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    """Pieces of rows of about 1 MiB, of such a length that the last one is nearly full too."""
    room, shape = _CHUNK_BYTES // array.itemsize, []
    for length in reversed(array.shape):
        pieces = math.ceil(length / room)
        shape.append(math.ceil(length / pieces))
        room = max(1, room // shape[-1])
    return tuple(reversed(shape))


def _check_names(arrays: dict[str, np.ndarray], texts: dict[str, bytes]) -> None:
    groups = set()
    for name in arrays:
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or len(parts) > declarations.DEPTH or "\0" in name:
            raise ValueError(
                f"array names need 1 to {declarations.DEPTH} words between single slashes, "
                f"got {name!r}"
            )
        groups |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    if clash := groups & set(arrays):
        raise ValueError(f"{sorted(clash)} cannot be both arrays and groups of arrays: rename them")
    if len(groups) + len(arrays) > declarations.MEMBERS or len(texts) > declarations.ATTRIBUTES:
        raise ValueError(
            f"a file takes {declarations.MEMBERS} arrays and groups and "
            f"{declarations.ATTRIBUTES} attributes, "
            f"got {len(groups) + len(arrays)} and {len(texts)}: join some, or use several files"
        )
    if any(not name or "\0" in name for name in texts):
        raise ValueError(f"every attribute needs a name, got {sorted(texts)}")
    if sum(map(len, texts.values())) > declarations.ATTRIBUTE_BYTES:
        sizes = {name: len(text) for name, text in texts.items()}
        raise ValueError(
            f"attributes may have {declarations.ATTRIBUTE_BYTES} bytes in all, got {sizes}: store "
            f"the bulk of them as arrays"
        )


def signed_size(path: PathLike, file: io.FileIO) -> int:
    """The size of the file in bytes; it begins as every file of `write` does.

    Raises:
        DamagedFile: if it is empty or begins otherwise.
    """
    start = file.read(len(SIGNATURE))
    if not start:
        raise DamagedFile(path, "it is empty")
    if start != SIGNATURE:
        reason = f"it is not an HDF5 file, it begins with {start!r}"
        raise DamagedFile(path, reason, "name the file that is meant, or restore a copy")
    return os.fstat(file.fileno()).st_size


def loaded(name: str, dataset: h5d.DatasetID) -> np.ndarray:
    """The whole array of a dataset, in native byte order.

    Raises:
        ValueError: if its data are damaged.
    """
    array = np.empty(dataset.shape, dtype=dataset.dtype.newbyteorder("="))
    if array.size:
        try:
            dataset.read(h5s.ALL, h5s.ALL, array)
        except OSError as error:
            raise ValueError(f"the data of {name!r} are damaged ({error})") from None
    return array
