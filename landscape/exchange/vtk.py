"""Slices and paths as VTK's XML files, for ParaView and its kin; written without VTK.

The format is that of "VTK File Formats" in the VTK documentation: one `<VTKFile>` with arrays in
base64, each behind its length in bytes as an unsigned 64-bit number, all little-endian.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from landscape.results import Line, Lines, Result, Surface, Trajectory

_TYPES = {"<f8": "Float64", "<i8": "Int64", "|u1": "UInt8"}


def image(surface: Surface) -> str:
    """The surface as ``ImageData`` (.vti), with x = alpha, y = beta, on an even grid.

    Raises:
        ValueError: if the coordinates are not evenly spaced.
    """
    steps = [_step(name, getattr(surface, name)) for name in ("alpha", "beta")]
    extent = _extent(surface)
    head = (
        f'<ImageData WholeExtent="{extent}" Origin="{float(surface.alpha[0])!r} '
        f'{float(surface.beta[0])!r} 0" Spacing="{steps[0]!r} {steps[1]!r} 1">'
    )
    body = [f'<Piece Extent="{extent}">', _point_data(_columns(surface)), "</Piece>"]
    return _file("ImageData", surface, [head, *body, "</ImageData>"])


def grid(surface: Surface) -> str:
    """The surface as ``RectilinearGrid`` (.vtr), with x = alpha, y = beta, on any grid."""
    extent = _extent(surface)
    axes = ("alpha", surface.alpha), ("beta", surface.beta), ("zero", np.zeros(1))
    body = [
        f'<RectilinearGrid WholeExtent="{extent}">',
        f'<Piece Extent="{extent}">',
        _point_data(_columns(surface)),
        "<Coordinates>",
        *(_array(name, values) for name, values in axes),
        "</Coordinates>",
        "</Piece>",
        "</RectilinearGrid>",
    ]
    return _file("RectilinearGrid", surface, body)


def polygons(result: Surface | Line | Lines | Trajectory, *, log: bool = False) -> str:
    """The result as ``PolyData`` (.vtp) with the loss as height: triangles, or a line for each run.

    What has a corner that is not finite is left out. Its points lie at the lowest height and keep
    their numbers, NaN and infinities included.

    Args:
        result: a surface, a line, several, or paths at the loss of the points themselves.
        log: the height is log10 of the loss.

    Raises:
        ValueError: if a logarithm is asked for and a loss is not positive.
    """
    points, columns = _placed(result)
    height = _height(columns["loss"], log)
    finite = np.isfinite(np.column_stack([*points, height])).all(axis=1)
    low = height[finite].min(initial=np.inf)
    height = np.where(finite, height, low if np.isfinite(low) else 0.0)
    if isinstance(result, Surface):
        lines: list[np.ndarray] = []
        polys = _triangles(result.loss.shape, finite)
    else:
        lines = _stretches(finite, _paths(result))
        polys = np.empty((0, 3), dtype=np.int64)
    coordinates = np.column_stack([*points, height])
    body = [
        "<PolyData>",
        f'<Piece NumberOfPoints="{len(height)}" NumberOfVerts="0" NumberOfLines="{len(lines)}" '
        f'NumberOfStrips="0" NumberOfPolys="{len(polys)}">',
        _point_data(columns),
        f"<Points>{_array('Points', coordinates)}</Points>",
        _cells("Lines", lines),
        _cells("Polys", list(polys)),
        "</Piece>",
        "</PolyData>",
    ]
    return _file("PolyData", result, body)


def _placed(result: Any) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Where the points lie in the plane, and the numbers at each of them."""
    if isinstance(result, Surface):
        alpha, beta = np.meshgrid(result.alpha, result.beta, indexing="ij")
        columns = {name: values.ravel() for name, values in _fields(result).items()}
        return (alpha.ravel(), beta.ravel()), columns
    if isinstance(result, Lines):
        seed, alpha = np.indices(result.loss.shape)[0].ravel(), result.alpha
        along = np.tile(alpha, len(result.loss))
        return (along, np.zeros_like(along)), {"loss": result.loss.ravel(), "seed": seed}
    if isinstance(result, Line):
        return (result.alpha, np.zeros_like(result.alpha)), _fields(result)
    names = ("loss", "run", "step", "distance", "relative")
    return (result.alpha, result.beta), {name: getattr(result, name) for name in names}


def _fields(result: Surface | Line) -> dict[str, np.ndarray]:
    """The arrays over all axes of a slice, by name."""
    found: dict[str, np.ndarray | None] = {"loss": result.loss}
    found["standard_error"] = result.standard_error
    if isinstance(result, Surface):
        found["evaluated"] = result.evaluated
    values = result.metric_values if result.metric_values is not None else ()
    for name, numbers in zip(result.metrics, values, strict=True):
        # A metric may have the name of an array, which stays.
        found[f"metric {name}" if name in (*found, "finite") else name] = numbers
    return {name: values for name, values in found.items() if values is not None}


def _columns(surface: Surface) -> dict[str, np.ndarray]:
    """The numbers at each point with alpha running fastest, as VTK orders the points of a grid."""
    return {name: values.T.ravel() for name, values in _fields(surface).items()}


def _paths(result: Line | Lines | Trajectory) -> np.ndarray:
    if isinstance(result, Trajectory):
        return result.run
    if isinstance(result, Lines):
        return np.indices(result.loss.shape)[0].ravel()
    return np.zeros(len(result.alpha), dtype=np.int64)


def _height(loss: np.ndarray, log: bool) -> np.ndarray:
    """The loss or its logarithm; NaN where it is not finite.

    Raises:
        ValueError: if a logarithm is asked for and a loss is not positive.
    """
    height = np.where(np.isfinite(loss), loss, np.nan).astype(float)
    if not log:
        return height
    if (height <= 0).any():
        raise ValueError(
            f"the lowest loss is {np.nanmin(height):g}: a logarithm needs losses above 0; export "
            f"without it"
        )
    return np.log10(height)


def _triangles(shape: tuple[int, ...], finite: np.ndarray) -> np.ndarray:
    """Two triangles for each cell of the grid, counterclockwise from above; finite ones alone."""
    number = np.arange(finite.size).reshape(shape)
    a, b = number[:-1, :-1].ravel(), number[1:, :-1].ravel()
    c, d = number[1:, 1:].ravel(), number[:-1, 1:].ravel()
    every = np.stack([np.column_stack([a, b, c]), np.column_stack([a, c, d])], 1).reshape(-1, 3)
    return every[finite[every].all(axis=1)]


def _stretches(finite: np.ndarray, run: np.ndarray) -> list[np.ndarray]:
    """The points of each run in their order, cut where one is not finite; two points at least."""
    found = []
    for label in np.unique(run):
        points = np.flatnonzero(run == label)
        borders = np.flatnonzero(np.diff(finite[points].astype(int))) + 1
        pieces = np.split(points, borders)
        found += [piece for piece in pieces if len(piece) > 1 and finite[piece[0]]]
    return found


def _step(name: str, coordinates: np.ndarray) -> float:
    """The distance between neighbours, which must all be equally far apart.

    Raises:
        ValueError: if they are not.
    """
    if len(coordinates) < 2:
        return 1.0
    step = float(coordinates[-1] - coordinates[0]) / (len(coordinates) - 1)
    even = coordinates[0] + step * np.arange(len(coordinates))
    if not np.allclose(even, coordinates, rtol=0, atol=1e-6 * abs(step)):
        raise ValueError(
            f"{name} is not evenly spaced, and a .vti file knows even grids only: export to .vtr, "
            f"which keeps every coordinate"
        )
    return step


def _extent(surface: Surface) -> str:
    rows, columns = surface.loss.shape
    return f"0 {rows - 1} 0 {columns - 1} 0 0"


def _file(kind: str, result: Result, body: Sequence[str]) -> str:
    names = getattr(result, "directions", None) or (getattr(result, "direction", ""),)
    # Hyphens could end the comment.
    text = _printable("; ".join(names)).replace("-", "\N{HYPHEN}")
    head = f'<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">'
    return "\n".join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<!-- x and y are multiples of: {text} -->",
        head,
        *body,
        "</VTKFile>",
        "",
    ])


def _point_data(columns: Mapping[str, np.ndarray]) -> str:
    finite = np.isfinite(columns["loss"])
    arrays = [_array(name, values) for name, values in {**columns, "finite": finite}.items()]
    return "\n".join(['<PointData Scalars="loss">', *arrays, "</PointData>"])


def _cells(kind: str, cells: Sequence[np.ndarray]) -> str:
    joined = np.concatenate([np.empty(0, dtype=np.int64), *cells]).astype(np.int64)
    ends = np.cumsum([len(cell) for cell in cells], dtype=np.int64)
    arrays = _array("connectivity", joined), _array("offsets", ends)
    return "\n".join([f"<{kind}>", *arrays, f"</{kind}>"])


def _printable(text: str) -> str:
    """The text without what XML cannot say."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _array(name: str, values: np.ndarray) -> str:
    kind = {"b": "|u1", "i": "<i8", "u": "<i8"}.get(values.dtype.kind, "<f8")
    data = np.ascontiguousarray(values, dtype=kind).tobytes()
    text = base64.b64encode(np.array(len(data), dtype="<u8").tobytes() + data).decode("ascii")
    parts = values.shape[1] if values.ndim > 1 else 1
    head = f'<DataArray type="{_TYPES[kind]}" Name={quoteattr(_printable(name))}'
    return f'{head} NumberOfComponents="{parts}" format="binary">{text}</DataArray>'
