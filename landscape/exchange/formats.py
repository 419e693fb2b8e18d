"""Results for other programs: VTK, tables, NumPy archives, and the classic HDF5 layout."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from landscape.exchange import classic, vtk
from landscape.files import PathLike, replacing
from landscape.results import Line, Lines, Result, Surface, Trajectory

# An axis beside those of the table becomes this many columns at most; longer ones are left out.
_COLUMNS = 64
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(result: Result, path: PathLike, *, log: bool = False) -> None:
    """Nothing; ``path`` then holds the result in the format that its suffix names.

    | suffix | what it holds |
    |---|---|
    | .vti | a `Surface` on an even grid as VTK image data |
    | .vtr | a `Surface` on any grid as VTK rectilinear grid |
    | .vtp | a `Surface` as triangles, a `Line`, `Lines` or a `Trajectory` as lines, for VTK |
    | .csv | the numbers at each point of any result, under names with units; names that a \
spreadsheet would take for formulas begin with an apostrophe |
    | .npz | every array of any result, for `numpy.load` without pickle |
    | .h5 | a `Surface` or `Line` as the code of Li et al. (2018) stores it |

    The file is written beside its final name and renamed, so that no half of it is ever seen. NaN
    and infinities stay what they are.

    Args:
        result: what is written.
        path: where; its folder must exist.
        log: the height in a .vtp file is log10 of the loss.

    Raises:
        ValueError: if the suffix is none of these, the format does not hold such a result, or a
            logarithm is asked for where there is none.
        OSError: if the disk refuses. An older file of that name is as it was.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"results cannot be exported to {suffix or 'a name without suffix'!r}: the formats are "
            f"{', '.join(FORMATS)}"
        )
    kinds, encode = FORMATS[suffix]
    if not isinstance(result, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"a {suffix} file holds {names}, got {type(result).__name__}: export it to .csv or .npz"
        )
    if log and suffix != ".vtp":
        raise ValueError(f"log is the height of .vtp files, and {path.name} keeps the numbers")
    data = vtk.polygons(result, log=True).encode() if log else encode(result)  # type: ignore[arg-type]
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def table(result: Result) -> dict[str, np.ndarray]:
    """The columns of a result by name, one row for each point of its first array's axes.

    A surface has one row for each pair of alpha and beta, with beta running fastest. Arrays with
    one further axis of at most 64 entries become a column for each entry. Others, such as the
    eigenvectors of a spectrum, are left out.
    """
    arrays = {
        entry.name: (entry.metadata["axes"], getattr(result, entry.name))
        for entry in fields(result)
        if "axes" in entry.metadata and getattr(result, entry.name) is not None
    }
    base = ("alpha", "beta") if isinstance(result, Surface) else next(iter(arrays.values()))[0][:1]
    lengths = {name: length for names, array in arrays.values()
               for name, length in zip(names, array.shape, strict=True)}  # fmt: skip
    shape = tuple(lengths[name] for name in base)
    columns: dict[str, np.ndarray] = {}
    for field, (names, array) in arrays.items():
        further = [name for name in names if name not in base]
        alone = not set(names) & set(base)
        if alone or len(further) > 1 or any(lengths[name] > _COLUMNS for name in further):
            continue
        order = [names.index(name) for name in (*further, *(n for n in base if n in names))]
        moved = array.transpose(order)
        within = tuple(lengths[name] if name in names else 1 for name in base)
        if not further:
            columns[field] = np.broadcast_to(moved.reshape(within), shape).ravel()
            continue
        labels = _labels(result, field, further[0], len(moved))
        for label, part in zip(labels, moved, strict=True):
            # A metric may have the name of an array, whose column stays.
            label = f"metric {label}" if label in arrays else label
            columns[label] = np.broadcast_to(part.reshape(within), shape).ravel()
    return columns


def _labels(result: Result, field: str, axis: str, count: int) -> list[str]:
    if axis == "metric" and isinstance(result, (Line, Surface)):
        return list(result.metrics)
    return [f"{field}[{i}]" for i in range(count)]


def _csv(result: Result) -> bytes:
    columns = table(result)
    names: tuple[str, ...] = ()
    if isinstance(result, (Surface, Trajectory)):
        names = result.directions
    elif isinstance(result, (Line, Lines)):
        names = (result.direction,)
    units = dict(zip(("alpha", "beta"), names, strict=False))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        _cell(f"{name} [multiples of {units[name]}]" if units.get(name) else name)
        for name in columns
    ])
    # Python writes the shortest digits that read back as the same number.
    lists = (map(_cell, column.tolist()) for column in columns.values())
    writer.writerows(zip(*lists, strict=True))
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """The value, with an apostrophe before a text that a spreadsheet would take for a formula."""
    if not isinstance(value, str):
        return value
    if value.lstrip(" ").startswith(_FORMULA) and not _is_number(value):
        value = f"'{value}"
    return value.replace("\r", " ")  # which the writer would leave bare, and a reader end a row at


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _npz(result: Result) -> bytes:
    arrays = {entry.name for entry in fields(result) if "axes" in entry.metadata}
    entries = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    texts = {name: value for name, value in entries.items() if name not in arrays}
    # Fields of these names, which a result of somebody else's may have, go under others.
    if "kind" in texts:
        texts["field kind"] = texts["kind"]
    texts["kind"] = type(result).__name__
    data = {name: entries[name] for name in sorted(arrays) if entries[name] is not None}
    if "attributes" in data:
        data["field attributes"] = data["attributes"]
    data["attributes"] = np.array(json.dumps(texts))
    memory = io.BytesIO()
    # As np.savez does, whose own arguments have names that an array may have too.
    with zipfile.ZipFile(memory, "w") as archive:
        for name, array in data.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return memory.getvalue()


Encode = Callable[..., bytes]

FORMATS: Mapping[str, tuple[tuple[type[Result], ...], Encode]] = MappingProxyType({
    ".vti": ((Surface,), lambda result: vtk.image(result).encode()),
    ".vtr": ((Surface,), lambda result: vtk.grid(result).encode()),
    ".vtp": ((Surface, Line, Lines, Trajectory), lambda result: vtk.polygons(result).encode()),
    ".csv": ((Result,), _csv),
    ".npz": ((Result,), _npz),
    ".h5": ((Surface, Line), classic.encoded),
})
