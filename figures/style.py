"""One look for every figure, and the only function here that writes files.

Levels are coloured by viridis or cividis, lines by the colours of Okabe & Ito. Every series also
has a line style or a marker of its own, so that the figures can be read in grey.
"""

import io
import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.rcsetup import cycler
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullLocator,
    SymmetricalLogLocator,
)

from landscape.files import replacing

BLACK, GREY, PALE = "#000000", "#5a5a5a", "#dcdcdc"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

LEVELS = "viridis"
HATCH = "////"
STROKES = "#8c8c8c"
SMALL = 8.0

_LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
# Colours come again with another stroke, so that 36 series differ.
_SERIES = [(i % 6, (i + i // 6) % 6) for i in range(36)]

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": cycler(color=[_LINES[i] for i, _ in _SERIES])
    + cycler(linestyle=[_STYLES[i] for _, i in _SERIES]),
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "hatch.linewidth": 0.5,
    "hatch.color": STROKES,
    "image.cmap": LEVELS,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "cnognp",
}

_DPI = 200

# Without a date and a program version, equal figures are equal files.
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def context() -> Iterator[None]:
    """A context, or decorator, in which matplotlib draws in our style.

    It starts from matplotlib's defaults, so that a user's own settings do not change a figure,
    and puts those settings back on leaving.
    """
    with matplotlib.style.context(["default", SETTINGS]):
        yield


@context()
def new_figure(width: float = 5.2, height: float = 4.0) -> Figure:
    """An empty figure of ``width`` by ``height`` inches whose layout leaves room for all text."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


@context()
def settle(figure: Figure) -> Figure:
    """The figure, its layout computed and then fixed.

    The room that labels need depends on the size of the axes and the other way round, so that it
    takes a few passes. A fixed layout is the same in files of any resolution.
    """
    engine = figure.get_layout_engine()
    if engine is None or not figure.axes:
        return figure
    before = np.full((len(figure.axes), 4), np.inf)
    for _ in range(12):
        engine.execute(figure)
        after = np.array([ax.get_position().bounds for ax in figure.axes])
        if np.abs(after - before).max() < 1e-6:
            break
        before = after
    figure.set_layout_engine("none")
    return figure


@context()
def save(figure: Figure, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The paths of the PNG (200 dpi) and the PDF (TrueType fonts) written for ``figure``.

    The figure is settled first. Each file is written beside its final name, flushed to disk and
    renamed, so that a reader never sees half a figure. Equal figures give equal bytes.

    Args:
        figure: what is written.
        path: the files' common name without suffix; its folder is made where it is missing.
    """
    settle(figure)
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, metadata in _FORMATS.items():
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix[1:], dpi=_DPI, metadata=metadata)
        target = base.with_name(base.name + suffix)
        with replacing(target) as temporary:
            temporary.write_bytes(picture.getvalue())
        written.append(target)
    return written[0], written[1]


def scale(
    ax: Axes,
    axis: Literal["x", "y"],
    values: Any,
    *,
    signed: Literal["linear", "symlog"] = "linear",
    wide: float = 30.0,
) -> str:
    """The scale that was set on an axis: "log", "symlog" or "linear".

    Logarithmic where the finite values are positive and span more than a factor ``wide``; linear up
    to the smallest magnitude and logarithmic beyond where some of them are zero. Values of both
    signs get the scale ``signed``.
    """
    values = np.ravel(np.asarray(values, dtype=float))
    values = values[np.isfinite(values)]
    sizes = np.abs(values[values != 0])
    kind = "linear"
    if len(sizes) and sizes.max() > wide * sizes.min():
        kind = "log" if values.min() > 0 else "symlog" if values.min() >= 0 else signed
    set_scale = ax.set_xscale if axis == "x" else ax.set_yscale
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    if kind == "symlog":
        # A rounding error beside ordinary values must not stretch the axis over 300 decades.
        threshold = 10.0 ** math.floor(math.log10(max(sizes.min(), 1e-12 * sizes.max())))
        set_scale("symlog", linthresh=threshold)
        locator = SymmetricalLogLocator(base=10, linthresh=threshold)
        locator.set_params(numticks=9)
        ticks.set_major_locator(locator)
    elif kind == "log":
        set_scale("log")
        if sizes.max() < 1e2 * sizes.min():
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ticks.set_minor_locator(NullLocator())
    return kind


def signed(ax: Axes, unit: float, low: float, high: float) -> None:
    """A horizontal axis from ``low`` to ``high``, linear up to ``unit`` and logarithmic beyond."""
    ax.set_xscale("asinh", linear_width=unit)
    top = max(abs(low), abs(high), unit)
    # Decades within the linear part would crowd around zero.
    last = math.floor(math.log10(top))
    first = min(math.ceil(math.log10(unit)), last)
    decades = 10.0 ** np.arange(last, first - 1, -max(1, (last - first) // 5 + 1))
    ticks = _ticks([], [0.0, *np.outer(decades, [1, -1]).ravel()], ax, unit, low, high)
    if len(ticks) < 5:
        # With so few decades nothing could be read off a scale that is not even.
        between = np.outer(10.0 ** np.arange(last, first - 2, -1), [5, -5, 2, -2])
        ticks = _ticks(ticks, list(between.ravel()), ax, unit, low, high)
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 3)))
    ax.set_xlim(low, high)


def _ticks(
    taken: list[float], wanted: list[float], ax: Axes, unit: float, low: float, high: float
) -> list[float]:
    """The ticks taken, and those wanted, in their order, whose numbers cover no other."""
    ticks = list(taken)
    scale = ax.bbox.width / ax.figure.dpi / float(np.ptp(np.arcsinh([low / unit, high / unit])))

    def half(tick: float) -> float:
        return (0.35 * len(number(tick, 3)) + 0.3) * SMALL / 72

    for tick in wanted:
        apart = [scale * abs(np.arcsinh(tick / unit) - np.arcsinh(other / unit)) for other in ticks]
        room = [half(tick) + half(other) for other in ticks]
        if low <= tick <= high and all(a > r for a, r in zip(apart, room, strict=True)):
            ticks.append(float(tick))
    return ticks


def edges(coordinates: np.ndarray) -> np.ndarray:
    """The (n + 1,) borders of the cells around n coordinates: the midpoints between them.

    The outermost cells reach as far outward as inward; a lone cell is one unit wide.
    """
    if len(coordinates) < 2:
        return np.append(coordinates - 0.5, coordinates + 0.5)
    middle = (coordinates[1:] + coordinates[:-1]) / 2
    first, last = 2 * coordinates[0] - middle[0], 2 * coordinates[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def wrap(text: str, inches: float, size: float = 9.0) -> str:
    """``text`` in lines of at most about ``inches`` at a font of ``size`` points."""
    return textwrap.fill(text, max(12, int(inches * 72 / (0.54 * size))))


def ends(coordinates: np.ndarray) -> tuple[float, float]:
    """The lowest and highest coordinate, one apart where they are equal."""
    if not len(coordinates):
        return 0.0, 1.0
    low, high = float(np.min(coordinates)), float(np.max(coordinates))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def step(symbol: str, direction: str) -> str:
    """The axis label of a step along a direction."""
    return wrap(f"{symbol} along {direction or 'the direction'} (multiples of it)", 3.6)


def note(figure: Figure, *parts: str) -> Any:
    """A small line on top of the figure that says what is shown; empty parts are left out.

    A line that is too long is broken between the parts, if it can be.
    """
    inches = figure.get_figwidth() - 0.3
    shown = [part for part in parts if part]
    # A line ends with the dot, and never begins with one.
    shown = [f"{part}\N{NO-BREAK SPACE}·" for part in shown[:-1]] + shown[-1:]
    whole = [p.replace(" ", "\xa0") if wrap(p, inches, SMALL) == p else p for p in shown]
    text = wrap(" ".join(whole), inches, SMALL)
    return figure.suptitle(text, x=0.02, ha="left", fontsize=SMALL, color=GREY)


def legend_above(ax: Axes, handles: list[Any]) -> None:
    """A legend on top of the axes, right-aligned, where it hides nothing."""
    if handles:
        where: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}
        ax.legend(handles=handles, ncols=len(handles), borderaxespad=0.1, **where)


def cross(ax: Axes, x: float, y: float, label: str) -> Any:
    """The mark of the point that was measured, whole also on the edge of the axes."""
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
    look["clip_on"] = False
    (mark,) = ax.plot(x, y, "P", color=VERMILION, markersize=7, zorder=5, label=label, **look)
    return mark


def hatch(ax: Axes) -> None:
    """A hatched background, seen wherever nothing is drawn over it."""
    ax.set_facecolor(PALE)
    ax.patch.set(hatch=HATCH, edgecolor=STROKES, linewidth=0)


def message(ax: Axes, text: str) -> Any:
    """A text in the middle of axes that have nothing to draw."""
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY, "linewidth": 0.7}
    middle = (0.5, 0.5)
    look: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 6}
    return ax.annotate(text, middle, xycoords="axes fraction", bbox=box, **look)


def not_finite() -> Patch:
    """The legend's patch for what is not finite."""
    return Patch(facecolor=PALE, edgecolor=STROKES, hatch=HATCH, linewidth=0, label="not finite")


def number(value: float, digits: int = 4) -> str:
    """``value`` with ``digits`` significant digits and a true minus sign."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def matrix(result: Any) -> str:
    """What a result is of, in words.

    >>> from types import SimpleNamespace
    >>> matrix(SimpleNamespace(operator="Gauss-Newton"))
    'the Gauss-Newton matrix'
    """
    return "the Hessian" if result.operator == "Hessian" else f"the {result.operator} matrix"


def plural(count: int, thing: str) -> str:
    """So many of a thing, for instance "1 point" and "2,000 points"."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
