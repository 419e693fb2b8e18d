"""The HDF5 files of the loss-landscape code of Li et al. (2018): surfaces, directions, paths.

Its ``plot_surface.py`` numbers the cells of a plane with x running fastest, whatever the shape of
the array: cell k lies at ``x[k % len(x)], y[k // len(x)]``. It makes the array as (len(x), len(y)),
so that for a grid that is not square row and column of the array mean neither x nor y; its drawing
code wants (len(y), len(x)). Files are read by the number of the cell, which is right for both
shapes, and written as (len(y), len(x)), which is right for all of its programs.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from h5py import h5d, h5g, h5s, h5t

from landscape.files import DamagedFile, PathLike, declarations, hdf5, open_regular, replacing
from landscape.results import Line, Surface, Trajectory, provenance

_UNDONE = -1.0
_TEXT_BYTES = 1 << 14
_LENGTH_BYTES = 4  # of the length of a text, where the dataset says where the text is
_COORDINATES = ("xcoordinates", "ycoordinates")
_PATH = ("proj_xcoord", "proj_ycoord")


def read_surface(
    path: PathLike, name: str = "train_loss", *, order: Literal["classic", "ij"] = "classic"
) -> Surface | Line:
    """The loss in a surface file: a `Surface`, or a `Line` where there are no ``ycoordinates``.

    Cells that were never computed hold -1 there, in the loss and in the accuracy beside it, and are
    NaN here. Other arrays of the file, such as ``train_acc`` in percent, become metrics under their
    own names. ``center`` is the loss at the coordinates 0, NaN where they are not on the grid.

    Args:
        path: the file, which may come from anybody.
        name: which array is the loss.
        order: where a cell lies: as the original code numbers them, or for files of other programs
            ``"ij"``: ``values[i, j]`` at ``x[i], y[j]``.

    Raises:
        DamagedFile: if the file is not whole, is hostile, or lacks what a surface needs.
        FileNotFoundError: if there is no such file.
        ValueError: if ``order`` is unknown.
    """
    if order not in ("classic", "ij"):
        raise ValueError(f"order must be classic or ij, got {order!r}")
    arrays, texts = _read(path)
    try:
        return _slice(arrays, texts, name, order)
    except (TypeError, ValueError) as error:
        raise DamagedFile(path, str(error)) from None


def write_surface(result: Surface | Line, path: PathLike, *, dir_file: str = "") -> None:
    """Nothing; ``path`` then holds the loss as ``train_loss`` and each metric under its name.

    A metric named accuracy, a share, is written as ``train_acc``, in percent; without one all of
    ``train_acc`` is -1, not computed. NaN stay NaN. Interpolated cells are written like measured
    ones.

    Args:
        result: what is written.
        path: the file; its folder must exist.
        dir_file: the name of the direction file that the original code would look for.

    Raises:
        OSError: if the disk refuses. An older file of that name is as it was.
    """
    data = encoded(result, dir_file)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_directions(path: PathLike) -> dict[str, list[np.ndarray]]:
    """The directions of a direction file by name: ``xdirection``, and ``ydirection`` if present.

    Each is a list of arrays in the order of ``net.parameters()``, or of ``net.state_dict()`` with
    its buffers for a file of the kind "states". `landscape.directions.given` makes a vector of the
    one, and of ``dict(zip(net.state_dict(), arrays))`` for the other.

    Raises:
        DamagedFile: if the file is not whole, is hostile, or holds no directions.
        FileNotFoundError: if there is no such file.
    """
    arrays, _ = _read(path)
    found: dict[str, list[np.ndarray]] = {}
    for name in ("xdirection", "ydirection"):
        pieces = {
            key[len(name) + 1 :]: a for key, a in arrays.items() if key.startswith(f"{name}/")
        }
        numbers = [str(i) for i in range(len(pieces))]
        if set(numbers) != set(pieces):
            raise DamagedFile(path, f"the tensors of {name} are not numbered from 0 on")
        if pieces:
            found[name] = [pieces[number] for number in numbers]
    if "xdirection" not in found:
        raise DamagedFile(path, f"it holds no xdirection, only {sorted(arrays)[:8]}")
    return found


def write_directions(path: PathLike, x: Iterable[Any], y: Iterable[Any] | None = None) -> None:
    """Nothing; ``path`` then holds one or two directions as lists of numbered arrays.

    Args:
        path: the file; its folder must exist.
        x: arrays or tensors in the order of ``net.parameters()``: the values of
            `landscape.networks.layout.Layout.unflatten`.
        y: the same for the second direction.

    Raises:
        OSError: if the disk refuses. An older file of that name is as it was.
    """
    entries: dict[str, Any] = {}
    for name, direction in (("xdirection", x), ("ydirection", y)):
        for i, tensor in enumerate(direction if direction is not None else ()):
            tensor = tensor.detach().cpu() if hasattr(tensor, "detach") else tensor
            entries[f"{name}/{i}"] = hdf5.storable(f"{name}/{i}", tensor)
    data = _image(entries)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_trajectory(path: PathLike, *, label: str = "") -> Trajectory:
    """The path of one run in a projection file: ``proj_xcoord`` and ``proj_ycoord``.

    The original code makes one, named ``..._proj_cos.h5``, with its origin at the last model. The
    file says where the run was in the plane and nothing else: ``step`` counts its models from 0 on,
    and losses, distances off the plane and shares of the variance are NaN. Its coordinates are
    lengths, d^T w / |d|: multiples of a direction, as in the surface beside it, only where that has
    length 1, as principal directions have, and of the nearest point of the plane only where the two
    are orthogonal. In a file named ``..._proj_lstsq.h5`` they are both.

    Args:
        path: the file, which may come from anybody.
        label: the name of the run; that of the file where empty.

    Raises:
        DamagedFile: if the file is not whole, is hostile, or holds no such path.
        FileNotFoundError: if there is no such file.
    """
    arrays, _ = _read(path)
    found = [arrays.get(name, np.empty(0)) for name in _PATH]
    if any(values.ndim != 1 or not len(values) for values in found) or len({*map(len, found)}) > 1:
        have = {name: values.shape for name, values in sorted(arrays.items())[:8]}
        raise DamagedFile(
            path, f"a path needs lists proj_xcoord and proj_ycoord of one length, and it has {have}"
        )
    try:
        x, y = (_numbers(name, values) for name, values in zip(_PATH, found, strict=True))
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None
    if not (np.isfinite(x) & np.isfinite(y)).all():
        raise DamagedFile(path, f"{' and '.join(_PATH)} hold numbers that are not finite")
    count = len(x)
    unknown = np.full(count, np.nan)
    return Trajectory(
        run=np.zeros(count, dtype=np.int64),
        step=np.arange(count),
        alpha=x,
        beta=y,
        loss=unknown,
        distance=unknown,
        relative=unknown,
        explained=np.full(2, np.nan),
        labels=(label or Path(path).stem,),
        directions=("x", "y"),
        provenance=provenance(format="loss-landscape projection file"),
    )


def read(path: PathLike) -> Surface | Line | Trajectory | None:
    """The surface, line or path in a file of the classic layout; None if it is of another layout.

    Raises:
        DamagedFile: if the file is of the classic layout and damaged or hostile, or no HDF5 file.
        FileNotFoundError: if there is no such file.
    """
    with open_regular(path) as raw:
        hdf5.signed_size(path, raw)
        raw.seek(0)
        try:
            with (
                hdf5.access_through(raw) as access,
                h5py.File(h5py.h5f.open(hdf5.NAME, h5py.h5f.ACC_RDONLY, access)) as file,
            ):
                root = h5g.open(file.id, b"/")
                surface, trajectory = (
                    name.encode() in root for name in (_COORDINATES[0], _PATH[0])
                )
        except hdf5.HDF5_ERRORS as error:
            raise DamagedFile(path, str(error) or type(error).__name__) from None
    if surface:
        return read_surface(path)
    return read_trajectory(path) if trajectory else None


def encoded(result: Surface | Line, dir_file: str = "") -> bytes:
    """The bytes of the surface file that `write_surface` writes."""
    entries: dict[str, Any] = {"dir_file": dir_file, "xcoordinates": result.alpha}
    if isinstance(result, Surface):
        entries["ycoordinates"] = result.beta
    entries["train_loss"] = result.loss.T
    entries["train_acc"] = np.full_like(result.loss.T, _UNDONE)
    values = result.metric_values if result.metric_values is not None else ()
    for metric, array in zip(result.metrics, values, strict=True):
        if metric == "accuracy":
            entries["train_acc"] = 100 * array.T
        elif metric not in (*_COORDINATES, "dir_file", "train_loss"):
            entries[metric.replace("/", "_")] = array.T
    return _image(entries)


def _image(entries: Mapping[str, Any]) -> bytes:
    """The bytes of an HDF5 file in its oldest format, which every version of HDF5 reads."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver="earliest") as file:
        for name, value in entries.items():
            file.create_dataset(name, data=value)
    return memory.getvalue()


def _read(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by path and its texts, after the checks of `landscape.files.hdf5.read`.

    Raises:
        DamagedFile: if the file is not whole or holds what this layout never has.
    """
    with open_regular(path) as raw:
        size = hdf5.signed_size(path, raw)
        raw.seek(0)
        try:
            with hdf5.access_through(raw) as access:
                file = h5py.File(h5py.h5f.open(hdf5.NAME, h5py.h5f.ACC_RDONLY, access))
                with file:
                    found = declarations.datasets(h5g.open(file.id, b"/"))
                    texts = (
                        {"dir_file": _text(found.pop("dir_file"), raw, size)}
                        if "dir_file" in found
                        else {}
                    )
                    declarations.check(found, size, max(hdf5.BUDGET, size))
                    arrays = {name: hdf5.loaded(name, found[name]) for name in sorted(found)}
        except hdf5.HDF5_ERRORS as error:
            raise DamagedFile(path, str(error) or type(error).__name__) from None
    return arrays, texts


def _text(dataset: h5d.DatasetID, raw: io.FileIO, size: int) -> str:
    """One text, of fixed length or not.

    Raises:
        ValueError: if it is anything else, or too long, or says so.
    """
    kind, plan = dataset.get_type(), dataset.get_create_plist()
    plain = kind.get_class() == h5t.STRING and kind.get_size() <= _TEXT_BYTES
    inside = plan.get_layout() in (h5d.COMPACT, h5d.CONTIGUOUS) and not plan.get_external_count()
    single = dataset.get_space().get_simple_extent_type() == h5s.SCALAR
    if not (plain and inside and single) or dataset.get_storage_size() > _TEXT_BYTES:
        raise ValueError("dir_file is not a single text")
    if kind.is_variable_str():
        # HDF5 takes the memory for the length that the file states before it looks for the text.
        if (place := dataset.get_offset()) is None:
            raise ValueError("dir_file is not a single text")
        raw.seek(place)
        length = int.from_bytes(raw.read(_LENGTH_BYTES), "little")
        if length > min(size, _TEXT_BYTES):
            raise ValueError(f"dir_file says that it has {length} bytes, which no name has")
    value = h5py.Dataset(dataset)[()]
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value))[
        :_TEXT_BYTES
    ]


def _slice(
    arrays: dict[str, np.ndarray], texts: Mapping[str, str], name: str, order: str
) -> Surface | Line:
    axes = [_coordinates(key, arrays.pop(key)) for key in _COORDINATES if key in arrays]
    if not axes or name not in arrays:
        have = sorted(key for key in arrays if "/" not in key)
        raise ValueError(f"a surface needs xcoordinates and {name}, and it has {have}")
    shape = tuple(len(axis) for axis in axes)
    fitting = {key: _placed(key, a, shape, order) for key, a in arrays.items()
               if key == name or a.shape in (shape, shape[::-1])}  # fmt: skip
    done = {key: np.where(_undone(key, fitting), np.nan, a) for key, a in fitting.items()}
    loss = done.pop(name)
    metrics = {key: values for key, values in done.items() if not np.isnan(values).all()}
    at = [np.flatnonzero(axis == 0) for axis in axes]
    center = float(loss[tuple(i[0] for i in at)]) if all(map(len, at)) else math.nan
    common: dict[str, Any] = {
        "loss": loss,
        "center": center,
        "metrics": tuple(metrics),
        "metric_values": np.stack(list(metrics.values())) if metrics else None,
        "provenance": provenance(
            format="loss-landscape surface file",
            array=name,
            undone=int(_undone(name, fitting).sum()),
            **texts,
        ),
    }
    if len(axes) == 1:
        return Line(alpha=axes[0], direction="x", **common)
    return Surface(alpha=axes[0], beta=axes[1], directions=("x", "y"), **common)


def _coordinates(name: str, values: np.ndarray) -> np.ndarray:
    """The coordinates of an axis as floats.

    Raises:
        ValueError: if they are no list of finite numbers that increase, also once they are floats.
    """
    numbers = _numbers(name, values)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be a list of finite numbers, got {_some(values)}")
    # Not their differences, which integers have no room for.
    if not (numbers[1:] > numbers[:-1]).all():
        raise ValueError(f"{name} must be a list of increasing numbers, got {_some(values)}")
    return numbers


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    """The values as floats.

    Raises:
        ValueError: if they are no numbers.
    """
    if values.dtype == bool:
        raise ValueError(f"{name} must be numbers, got true and false")
    return values.astype(float)


def _some(values: np.ndarray) -> str:
    """The first values of an array, or its shape where it is no list."""
    if values.ndim != 1:
        return f"the shape {values.shape}"
    return f"{values[:5].tolist()}{' ...' if len(values) > 5 else ''}"


def _placed(name: str, values: np.ndarray, shape: Sequence[int], order: str) -> np.ndarray:
    """The values as [i, j] at x[i], y[j].

    Raises:
        ValueError: if there are not as many as there are points.
    """
    if values.shape not in (tuple(shape), tuple(shape)[::-1]):
        raise ValueError(f"{name} has the shape {values.shape} and the grid has {tuple(shape)}")
    values = _numbers(name, values)
    if len(shape) == 1:
        return values
    if order == "ij":
        if values.shape != tuple(shape):
            raise ValueError(f"{name} has the shape {values.shape}, and order='ij' needs {shape}")
        return values
    return values.reshape(shape[::-1]).T


def _undone(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where nothing was computed: -1, for a loss also in the accuracy that belongs to it."""
    undone = arrays[name] == _UNDONE
    beside = arrays.get(name.replace("_loss", "_acc")) if name.endswith("_loss") else None
    if beside is not None and not (beside == _UNDONE).all():
        undone &= beside == _UNDONE
    return undone
