"""What a result is: a record whose arrays name their axes, and how it goes to a file and back.

A module of this package that defines further kinds is found there when a file is read.
"""

import functools
import importlib.metadata
import json
import pkgutil
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, get_args, get_origin

import h5py
import numpy as np

from landscape.files import DamagedFile, PathLike, hdf5

SCHEMA = 1
# What a file says of itself; a field of such a name is stored under another one.
_OWN = ("kind", "schema", "axes")
_APART = MappingProxyType({name: f"field {name}" for name in _OWN})
Said = tuple[str, str]
Table = tuple[str, Sequence[str], list[Sequence[Any]]]
# What a line of JSON leaves to the file.
_LONG = ("provenance", "vectors", "samples", "nodes", "weights")


def axes(*names: str, optional: bool = False) -> Any:
    """The declaration of an array field with these axes; one that may be None where optional."""
    default: dict[str, Any] = {"default": None} if optional else {}
    return field(metadata={"axes": names}, **default)


def part_said(operator: str, where: str) -> str:
    """Which matrix, where it is not the whole Hessian."""
    matrix = "Hessian" if operator == "Hessian" else f"{operator} matrix"
    place = f" in {where}" if where else ""
    return f"of the {matrix}{place}: " if place or matrix != "Hessian" else ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """A record whose arrays name their axes; all axes of one name have one length.

    Arrays become read-only copies. Other fields are text, numbers, tuples of text or dictionaries
    that JSON can say. Subclasses declare fields, and what is said of them.

    Attributes:
        provenance: where the numbers come from: configuration, seeds, versions, hashes, seconds.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if an array has the wrong number of axes, or lengths contradict each other.
    """

    provenance: dict = field(default_factory=dict)

    def __post_init__(self):
        lengths: dict[str, tuple[str, int]] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            label = f"{type(self).__name__}.{entry.name}"
            if "axes" not in entry.metadata:
                value = _scalar(label, entry.type, value)
            elif not (value is None and entry.default is None):
                value = _array(label, entry.metadata["axes"], value, lengths)
            object.__setattr__(self, entry.name, value)

    def said(self) -> Said:
        """What the result says in words, and how it ended."""
        return type(self).__name__, getattr(self, "status", "")

    def tables(self) -> Sequence[Table]:
        """What a line does not hold: titles, columns and rows; none for most results."""
        return ()

    def numbers(self) -> dict[str, Any]:
        """The fields by name, without what is long."""
        judged = self.provenance.get("judged")
        return (
            {"kind": type(self).__name__}
            | {name: value for name, value in vars(self).items() if name not in _LONG}
            | ({"judged": judged} if judged else {})
        )


def save(result: Result, path: PathLike) -> None:
    """Nothing; ``path`` then holds the result, wholly or not at all.

    Raises:
        ValueError: if there is more than a file takes; see `landscape.files.hdf5.write`.
        OSError: if the disk refuses.
    """
    arrays = {entry.name: getattr(result, entry.name) for entry in _arrays(type(result))}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    named = {entry.name: entry.metadata["axes"] for entry in _arrays(type(result))}
    attributes = {
        "kind": type(result).__name__,
        "schema": SCHEMA,
        "axes": {name: named[name] for name in arrays},
    }
    attributes |= {
        _APART.get(entry.name, entry.name): getattr(result, entry.name)
        for entry in fields(result)
        if entry.name not in named
    }
    hdf5.write(path, arrays, attributes)


def load(path: PathLike) -> Result:
    """The result in a file that `save` has written.

    Raises:
        DamagedFile: if the file is not whole, is hostile, or holds no result of a known kind.
        FileNotFoundError: if there is no such file.
    """
    arrays, attributes = hdf5.read(path)
    try:
        return _rebuilt(arrays, attributes)
    except (TypeError, ValueError) as error:
        raise DamagedFile(path, str(error)) from error


def provenance(**entries: Any) -> dict:
    """The given entries, the versions of what is in use, and the time in UTC.

    >>> sorted(provenance(seed=3))
    ['created', 'seed', 'versions']
    """
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
    if "torch" in sys.modules:
        versions["torch"] = str(sys.modules["torch"].__version__)
    versions["cnognp"] = _own_version()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"created": created, "versions": versions, **entries}


@functools.cache
def _own_version() -> str:
    try:
        return importlib.metadata.version("cnognp")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, without an installation
        return "unknown"


def _rebuilt(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> Result:
    schema, kind = attributes.pop("schema", None), attributes.pop("kind", None)
    if not isinstance(schema, int) or not isinstance(kind, str):
        raise ValueError("it holds no result: the attributes kind and schema are missing")
    if schema > SCHEMA:
        raise ValueError(
            f"it has schema {schema} and this version knows up to {SCHEMA}: update the package"
        )
    kinds = _kinds()
    if kind not in kinds:
        raise ValueError(f"it holds a {kind!r}, and the kinds known here are {sorted(kinds)}")
    cls = kinds[kind]
    named = {entry.name: list(entry.metadata["axes"]) for entry in _arrays(cls)}
    given = attributes.pop("axes", None)
    if given != {name: named.get(name) for name in arrays}:
        raise ValueError(f"a {kind} has the axes {named}, and the file says {given}")
    names = {apart: name for name, apart in _APART.items()}
    attributes = {names.get(name, name): value for name, value in attributes.items()}
    known = {entry.name for entry in fields(cls)}
    needed = {
        entry.name for entry in fields(cls)
        if entry.default is MISSING and entry.default_factory is MISSING
    }  # fmt: skip
    found = arrays.keys() | attributes.keys()
    if missing := needed - found:
        raise ValueError(f"fields of {kind} are missing: {sorted(missing)}")
    if extra := (found - known) | (arrays.keys() & attributes.keys()):
        raise ValueError(f"there are fields that {kind} does not have, or twice: {sorted(extra)}")
    for array in arrays.values():
        array.setflags(write=False)
    types = {entry.name: entry.type for entry in fields(cls)}
    scalars = {n: _scalar(f"{kind}.{n}", types[n], value) for n, value in attributes.items()}
    entries: dict[str, Any] = {**arrays, **scalars}
    return cls(**entries)


def _kinds() -> dict[str, type[Result]]:
    """The kinds of results by name, those of every module of this package among them."""
    for module in pkgutil.iter_modules(sys.modules[__package__].__path__, f"{__package__}."):
        importlib.import_module(module.name)
    return {cls.__name__: cls for cls in _subclasses(Result)}


def _array(
    label: str, names: tuple[str, ...], value: Any, lengths: dict[str, tuple[str, int]]
) -> np.ndarray:
    """A read-only array that nobody else can change; ``lengths`` collects the length of each axis.

    Raises:
        ValueError: if it does not have these axes.
    """
    array = hdf5.storable(label, value)
    if array.ndim != len(names):
        raise ValueError(f"{label} must have the axes {names}, got the shape {array.shape}")
    for name, length in zip(names, array.shape, strict=True):
        first, expected = lengths.setdefault(name, (label, length))
        if length != expected:
            raise ValueError(
                f"axis {name!r} has length {expected} in {first} and {length} in {label}"
            )
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.setflags(write=False)
    return array


def _scalar(label: str, kind: Any, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    exact = type(value) if isinstance(value, bool) else None
    if kind is dict and isinstance(value, Mapping):
        return json.loads(hdf5.encode(label, value))
    if kind is float and isinstance(value, (int, float)) and exact is None:
        return float(value)
    if kind is int and isinstance(value, int) and exact is None:
        return int(value)
    if kind is bool and exact is bool or kind is str and isinstance(value, str):
        return value
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        length = len(value) if ... in get_args(kind) else len(get_args(kind))
        if len(value) == length and all(isinstance(entry, str) for entry in value):
            return tuple(value)
    wanted = kind if get_origin(kind) else kind.__name__
    raise TypeError(f"{label} must be {wanted}, got {value!r}")


def _arrays(cls: type[Result]) -> list[Field]:
    return [entry for entry in fields(cls) if "axes" in entry.metadata]


def _subclasses(cls: type[Result]) -> Iterator[type[Result]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)
