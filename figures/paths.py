"""The loss along paths between two points, and paths on a function of two coordinates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import legends, style, surface
from figures.picture import picture, statistics
from landscape.results import Path, Surface

_ERRORS = 2.0
# What is less than this share of the largest loss is taken for zero.
_ZERO = 1e-5
_LINE: dict[str, Any] = {"color": style.GREY, "linestyle": "--", "linewidth": 1.0}
_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)
_STROKES = ("-", "-.", ":", (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
# The mark of the highest point as the legend has it, whatever its colour.
_SUMMIT = [Line2D([], [], marker="^", color=style.GREY, linestyle="none", label="highest point")]
_SHARE = "share of the length, from {} to {}"


@style.context()
def along(results: Mapping[str, Path], ax: Axes) -> dict[str, Any]:
    """The artists "curves", "bands", "summits" and "line" of the loss along paths, by name.

    All go from the same end to the other, each by the share of its own length, so that the straight
    line that is drawn beside them is that of the first. Bands reach two standard errors up and
    down, where these are known. A triangle is the highest point that was found, which is not one of
    the grid. The vertical axis is logarithmic where losses are positive and wide apart.

    Args:
        results: what is drawn, at least one.
        ax: where it is drawn.

    Raises:
        ValueError: if there is none.
    """
    if not results:
        raise ValueError("at least one path is needed, got none")
    first = next(iter(results.values()))
    ax.set(xlabel=style.wrap(_SHARE.format(*first.names), 4.5), ylabel="loss", xlim=(0, 1))
    artists: dict[str, Any] = {"curves": [], "bands": [], "summits": []}
    drawn: list[np.ndarray] = []
    if all(result.finder != "linear" for result in results.values()):
        line = np.where(np.isfinite(first.line_loss), first.line_loss, np.nan)
        (artists["line"],) = ax.plot(first.share, line, **_LINE, label=_named("line", first, True))
        drawn.append(line)
    for k, (name, result) in enumerate(results.items()):
        look = _look(k, result)
        loss = np.where(np.isfinite(result.loss), result.loss, np.nan)
        label = _named(name, result)
        artists["curves"] += ax.plot(result.share, loss, label=label, **look)
        drawn.append(loss)
        if result.standard_error is not None:
            reach = _ERRORS * result.standard_error
            band = ax.fill_between(
                result.share, loss - reach, loss + reach, color=look["color"], alpha=0.18,
                linewidth=0, zorder=1, label=f"± {_ERRORS:g} standard errors over batches",
            )  # fmt: skip
            artists["bands"].append(band)
        if np.isfinite(result.height):
            mark = _summit(ax, result.top, result.height, look["color"])
            artists["summits"].append(mark)
    if not any(np.isfinite(loss).any() for loss in drawn):
        return artists | {"message": style.message(ax, "no finite loss")}
    _scale(ax, np.concatenate(drawn))
    handles = [*([artists["line"]] if "line" in artists else []), *artists["curves"]]
    handles += _SUMMIT[: len(artists["summits"])] + artists["bands"][:1]
    _legend(ax, handles)
    return artists


@style.context()
def metric(results: Mapping[str, Path], ax: Axes, name: str) -> dict[str, Any]:
    """The artists "curves" of a further number along paths that have it.

    Args:
        results: what is drawn.
        ax: where it is drawn.
        name: of the number.
    """
    ax.set(ylabel=name.replace("_", " "), xlim=(0, 1))
    curves, drawn = [], []
    for k, result in enumerate(results.values()):
        if name in result.metrics and result.metric_values is not None:
            values = result.metric_values[result.metrics.index(name)]
            values = np.where(np.isfinite(values), values, np.nan)
            curves += ax.plot(result.share, values, **_look(k, result))
            drawn.append(values)
    if not drawn or not np.isfinite(np.concatenate(drawn)).any():
        return {"curves": curves, "message": style.message(ax, "no finite number")}
    _scale(ax, np.concatenate(drawn))
    return {"curves": curves}


@style.context()
def on_contour(
    results: Mapping[str, Path], ax: Axes, background: Surface | None = None
) -> dict[str, Any]:
    """The artists "curves", "line", "ends" and "summits", and those of the contour plot behind.

    Args:
        results: paths in two coordinates between the same ends, by name.
        ax: where it is drawn.
        background: the loss in the same two coordinates; that of the first path where None.

    Raises:
        ValueError: if there is no path, or one has no points or not two coordinates.
    """
    if not results or any(r.points is None or r.points.shape[1] != 2 for r in results.values()):
        raise ValueError("paths on a contour plot need their points (points, 2)")
    first: Any = next(iter(results.values()))
    ground = background or _ground(first)
    artists: dict[str, Any] = {}
    if ground is not None:
        artists = surface.contour(ground, ax)
        mark = artists.pop("center", None)
        if mark is not None:
            # The origin is no point of interest here.
            mark.remove()
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    ax.set(xlabel="x", ylabel="y")
    ends = first.points[[0, -1]]
    (artists["line"],) = ax.plot(*ends.T, **{**_LINE, "color": "white"}, zorder=3)
    (artists["line"],) = ax.plot(
        *ends.T, color=style.BLACK, linestyle="--", linewidth=0.9, zorder=3.5,
        label=_named("line", first, True),
    )  # fmt: skip
    artists |= {"curves": [], "summits": []}
    for k, (name, result) in enumerate(results.items()):
        if result.finder == "linear":
            continue
        points: Any = result.points
        ax.plot(*points.T, "-", color="white", linewidth=3.4, zorder=4)
        artists["curves"] += ax.plot(*points.T, **_look(k), label=_named(name, result), zorder=5)
        x, y = map(float, result.summit)
        mark = _summit(ax, x, y, _look(k)["color"])
        artists["summits"].append(mark)
    (artists["ends"],) = ax.plot(
        *ends.T, "o", color=style.BLACK, markerfacecolor="white", markersize=6, zorder=6,
        label="ends", clip_on=False,
    )  # fmt: skip
    handles = [artists["line"], *artists["curves"], *_SUMMIT, artists["ends"]]
    _legend(ax, handles)
    return artists


def compared(results: Mapping[str, Path]) -> dict[str, Figure]:
    """The figures by name of several paths between the same two ends.

    Raises:
        ValueError: if there is none, or they are between other ends.
    """
    ends = {result.names for result in results.values()}
    if len(ends) != 1:
        raise ValueError(f"paths that are compared have the same ends, got {sorted(ends)}")
    drawn = {"along": _along(results)}
    flat = all(r.points is not None and r.points.shape[1] == 2 for r in results.values())
    if flat and any(_ground(result) is not None for result in results.values()):
        drawn["contour"] = _contour(results)
    return drawn


def _ground(result: Path) -> Surface | None:
    if result.alpha is None or result.beta is None or result.surface is None:
        return None
    return Surface(
        alpha=result.alpha, beta=result.beta, loss=result.surface, center=float("nan"),
        directions=("x", "y"),
    )  # fmt: skip


def _scale(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for values that are wide apart, unless an end is as good as zero."""
    sizes = values[np.isfinite(values)]
    if len(sizes) and sizes.min() > _ZERO * np.abs(sizes).max():
        style.scale(ax, "y", sizes)


def _look(k: int, result: Path | None = None) -> dict[str, Any]:
    if result is not None and result.finder == "linear":
        return _LINE
    return {"color": _COLOURS[k % 6], "linestyle": _STROKES[k % 6], "linewidth": 1.6}


def _named(name: str, result: Path, line: bool = False) -> str:
    """The name of a path with its height."""
    height = result.line_height if line else result.height
    error = result.height_error if not line else float("nan")
    about = f" ± {style.number(error, 1)}" if np.isfinite(error) else ""
    return f"{name}: height {style.number(height, 5)}{about}"


def _summit(ax: Axes, x: float, y: float, colour: str) -> Any:
    (mark,) = ax.plot(
        x, y, "^", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=0.8,
        linestyle="none", zorder=7, label="highest point", clip_on=False,
    )  # fmt: skip
    return mark


def _legend(ax: Axes, handles: list[Any]) -> None:
    inches = ax.figure.bbox.width / ax.figure.dpi - 0.9
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
    legends.fitted(ax, handles, inches, borderaxespad=0.1, **where)


def _metrics(results: Mapping[str, Path]) -> list[str]:
    return list(dict.fromkeys(name for result in results.values() for name in result.metrics))


@style.context()
def _along(results: Mapping[str, Path]) -> Figure:
    """The loss, and a panel for each further number below it."""
    others = _metrics(results)
    figure = style.new_figure(6.0, 3.9 + 1.5 * len(others))
    heights = [3.0, *[1.5] * len(others)]
    axes = figure.subplots(
        1 + len(others), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]  # fmt: skip
    along(results, axes[0])
    for ax, name in zip(axes[1:], others, strict=True):
        metric(results, ax, name)
    axes[-1].set_xlabel(axes[0].get_xlabel())
    for ax in axes[:-1]:
        ax.set_xlabel("")
    legends.make_room(figure)
    _note(figure, results)
    return figure


@style.context()
def _contour(results: Mapping[str, Path]) -> Figure:
    figure = style.new_figure(5.6, 4.9)
    ground = next((g for r in results.values() if (g := _ground(r)) is not None), None)
    on_contour(results, figure.add_subplot(), ground)
    legends.make_room(figure)
    _note(figure, results)
    return figure


def _note(figure: Figure, results: Mapping[str, Path]) -> None:
    first = next(iter(results.values()))
    points = style.plural(len(first.share), "point")
    barrier = "" if len(results) > 1 else (
        f"barrier {style.number(first.barrier)} above the mean of the ends, "
        f"{style.number(first.chord_barrier)} above their chord"
    )  # fmt: skip
    note = f"largest of {points}, refined around the maximum"
    style.note(figure, barrier, note, statistics(first))


@picture("along", Path)
def _alone(result: Path) -> Figure:
    return _along({result.finder: result})


@picture("contour", Path)
def _flat(result: Path) -> Figure | None:
    if _ground(result) is None or result.points is None or result.finder == "linear":
        return None
    return _contour({result.finder: result})
