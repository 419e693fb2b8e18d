"""What an HDF5 file claims about itself, held against what it stores, before any data are read.

The format can point to other files, declare terabytes that are not there, and swell a thousandfold
when it is unpacked. Only a small part of it is written here, so only that part is accepted.
Each function raises ValueError with the reason alone; `landscape.files.hdf5.read` names the file.
"""

import json
import math
import zlib
from typing import Any

import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

MEMBERS, DEPTH = 4096, 8
ATTRIBUTES, ATTRIBUTE_BYTES = 256, 1 << 20
# An honest constant array reaches deflate's limit of 1032:1, so a ratio means something for many
# bytes only. The writer leaves more than these uncompressed, so the reader can be strict.
COMPRESSED_BYTES, RATIO = 64 << 20, 100
FLOATS, INTEGERS = "float16 float32 float64", "int8 int16 int32 int64 uint8 uint16 uint32 uint64"
DTYPES = frozenset(map(np.dtype, f"bool {INTEGERS} {FLOATS}".split()))
DEFLATE, FLETCHER = h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32
_FILTERS = frozenset({DEFLATE, FLETCHER, h5z.FILTER_SHUFFLE})
_CHECKSUM_BYTES = 4


def attributes(root: h5g.GroupID) -> dict[str, Any]:
    """The attributes of the file, each of them JSON.

    Raises:
        ValueError: if there are too many, or one is too large or anything but a JSON text.
    """
    count = h5a.get_num_attrs(root)
    if count > ATTRIBUTES:
        raise ValueError(f"it has {count} attributes, at most {ATTRIBUTES} are accepted")
    values, room = {}, ATTRIBUTE_BYTES
    for index in range(count):
        attribute = h5a.open(root, index=index)
        name, kind = attribute.name.decode(), attribute.get_type()
        if kind.get_class() != h5t.STRING or kind.is_variable_str():
            raise ValueError(f"attribute {name!r} is not text of fixed length")
        room -= kind.get_size()
        if room < 0:
            raise ValueError(f"its attributes have more than {ATTRIBUTE_BYTES} bytes")
        if attribute.get_space().get_simple_extent_type() != h5s.SCALAR:
            raise ValueError(f"attribute {name!r} is not a single text")
        text = np.empty((), dtype=f"S{kind.get_size()}")
        attribute.read(text)
        try:
            values[name] = json.loads(text.item().decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"attribute {name!r} is not JSON ({error})") from None
    return values


def datasets(root: h5g.GroupID) -> dict[str, h5d.DatasetID]:
    """Every dataset by its path, reached over hard links alone.

    Raises:
        ValueError: if there is another link or member, or too many, or groups too deep.
    """
    found: dict[str, h5d.DatasetID] = {}
    groups, seen = [("", root)], 0
    while groups:
        prefix, group = groups.pop()
        for key in group:
            name, seen = prefix + key.decode(), seen + 1
            if seen > MEMBERS or name.count("/") >= DEPTH:
                raise ValueError(f"it has more than {MEMBERS} members or {DEPTH} levels of groups")
            if key in (b"", b".", b"..") or b"/" in key:
                raise ValueError(f"the name {name!r} is not one that can be written")
            if group.links.get_info(key).type != h5l.TYPE_HARD:
                raise ValueError(
                    f"{name!r} is a soft or external link, only hard ones are followed"
                )
            member = h5o.open(group, key)
            if isinstance(member, h5g.GroupID):
                groups.append((name + "/", member))
            elif isinstance(member, h5d.DatasetID):
                found[name] = member
            else:
                raise ValueError(f"{name!r} is neither an array nor a group")
    return found


def check(found: dict[str, h5d.DatasetID], size: int, budget: int) -> None:
    """Nothing, if each dataset is stored whole in the file and unpacks to what it declares.

    Args:
        found: what `datasets` gives.
        size: bytes of the file.
        budget: bytes that all of them may take in memory.

    Raises:
        ValueError: if not.
    """
    declared = {name: _declared(name, dataset) for name, dataset in found.items()}
    if sum(declared.values()) > budget:
        raise ValueError(
            f"its arrays declare {sum(declared.values())} bytes and the budget is {budget}; give a "
            f"larger one if you trust the file"
        )
    stored = {name: dataset.get_storage_size() for name, dataset in found.items()}
    if sum(stored.values()) > size:
        raise ValueError(f"it claims {sum(stored.values())} stored bytes, but has only {size}")
    packed = [name for name, dataset in found.items() if DEFLATE in _filters(dataset)]
    unpacked = sum(declared[name] for name in packed)
    if unpacked > max(COMPRESSED_BYTES, RATIO * sum(stored[name] for name in packed)):
        raise ValueError(f"its compressed arrays would swell more than {RATIO}-fold to {unpacked}")
    for name, dataset in found.items():
        if dataset.get_create_plist().get_layout() == h5d.CHUNKED:
            _check_chunks(name, dataset)
        elif stored[name] < declared[name]:
            raise ValueError(f"{name!r} declares {declared[name]} bytes and has {stored[name]}")


def _declared(name: str, dataset: h5d.DatasetID) -> int:
    """The bytes that reading the dataset takes.

    Raises:
        ValueError: if its storage, filters or type are not ones that can be written.
    """
    plan, kind = dataset.get_create_plist(), dataset.get_type()
    if plan.get_external_count():
        raise ValueError(f"{name!r} has external storage: its data lie in another file")
    if plan.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise ValueError(f"{name!r} is virtual: its data lie in other files")
    filters = _filters(dataset)
    if not set(filters) <= _FILTERS or len(set(filters)) < len(filters):
        raise ValueError(
            f"{name!r} has filters {filters}; only shuffle ({h5z.FILTER_SHUFFLE}), deflate "
            f"({DEFLATE}) and fletcher32 ({FLETCHER}) are accepted, each of them once"
        )
    if (
        kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)
        or dataset.dtype.newbyteorder("=") not in DTYPES
        or dataset.dtype.metadata
        or dataset.dtype.itemsize != kind.get_size()
    ):
        raise ValueError(f"{name!r} has a type other than bool, {INTEGERS}, {FLOATS}")
    if dataset.get_space().get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
        raise ValueError(f"{name!r} has no extent")
    count = math.prod(dataset.shape)
    if plan.get_layout() == h5d.CHUNKED:
        count = max(count, _chunk_count(dataset) * math.prod(plan.get_chunk()))
    return count * kind.get_size()


def _check_chunks(name: str, dataset: h5d.DatasetID) -> None:
    """Nothing, if every chunk is stored once and has, unpacked, exactly the declared length.

    HDF5 itself trusts these lengths: it inflates without bound, whatever the chunk should hold.

    Raises:
        ValueError: if not.
    """
    chunk, filters = dataset.get_create_plist().get_chunk(), _filters(dataset)
    chunks: list[h5d.StoreInfo] = []
    dataset.chunk_iter(chunks.append)
    places = {info.chunk_offset for info in chunks}
    if not len(places) == len(chunks) == _chunk_count(dataset):
        raise ValueError(
            f"{name!r} declares {_chunk_count(dataset)} chunks and stores {len(places)}"
        )
    length = math.prod(chunk) * dataset.get_type().get_size()
    sums = _CHECKSUM_BYTES if FLETCHER in filters else 0
    if DEFLATE in filters and FLETCHER in filters[filters.index(DEFLATE) :]:
        sums = 0  # the checksum is of the deflated bytes and follows them
    for info in chunks:
        actual = info.size
        if DEFLATE in filters:
            _, data = dataset.read_direct_chunk(info.chunk_offset)
            actual = _inflated(data, length + sums + 1)
        if info.filter_mask or actual != length + sums:
            raise ValueError(f"a chunk of {name!r} does not hold the declared {length} bytes")


def _inflated(data: bytes, limit: int) -> int:
    """The length of the inflated ``data``, at most ``limit``; -1 if they cannot be inflated."""
    try:
        return len(zlib.decompressobj().decompress(data, limit))
    except zlib.error:
        return -1


def _chunk_count(dataset: h5d.DatasetID) -> int:
    chunk = dataset.get_create_plist().get_chunk()
    return math.prod(-(-extent // step) for extent, step in zip(dataset.shape, chunk, strict=True))


def _filters(dataset: h5d.DatasetID) -> list[int]:
    plan = dataset.get_create_plist()
    return [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
