"""The paths of training runs in a plane: the pictures of a `Trajectory`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures import legends, style, surface
from figures.picture import picture, statistics
from landscape.results import Surface, Trajectory

_LETTERS = 7.0
_COLOURS = (style.VERMILION, style.BLUE, style.ORANGE, style.PURPLE, style.GREEN, style.SKY)
_STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (8, 2)))


@style.context()
def draw(result: Trajectory, ax: Axes, background: Surface | None = None) -> dict[str, Any]:
    """The artists "paths", "starts" and "ends", and those of the contour plot behind them.

    Each run has a colour and a stroke of its own; a circle is where it starts, a star where it
    ends. What is drawn is the projection: see `distance` for how far the run is from it.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        background: the loss on the same plane, with the same origin and directions.
    """
    artists: dict[str, Any] = {}
    if background is not None:
        artists = surface.contour(background, ax)
        mark = artists.pop("center", None)
        if mark is not None:
            # The origin of a plane through many points is none of them.
            mark.remove()
    ax.set_xlabel(style.step("α", result.directions[0]))
    ax.set_ylabel(style.step("β", result.directions[1]))
    artists |= {"paths": [], "starts": [], "ends": []}
    for run, name in enumerate(result.labels):
        chosen = result.run == run
        _path(artists, result.alpha[chosen], result.beta[chosen], run, name, ax)
    _room(result, ax, background is not None)
    look: dict[str, Any] = {"linestyle": "none", "color": style.GREY}
    marks = [
        Line2D([], [], marker="o", markerfacecolor="white", label="start", **look),
        Line2D([], [], marker="*", markersize=9, label="end", **look),
    ]
    holes = [artists["background"]] if "background" in artists else []
    _legend(ax, [*artists["paths"], *marks, *holes], style.SMALL)
    return artists


@style.context()
def loss(result: Trajectory, ax: Axes) -> dict[str, Any]:
    """The artist "lines": the true loss of each run against its steps.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set(xlabel="step", ylabel="loss at the point")
    artists = _series(result, result.loss, ax)
    style.scale(ax, "y", result.loss)
    return artists


@style.context()
def distance(result: Trajectory, ax: Axes) -> dict[str, Any]:
    """The artist "lines": how far each run is off the plane, in parameter space.

    The legend names the largest distance of each run in percent of its extent.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set(xlabel="step", ylabel="distance off the plane")
    artists = _series(result, result.distance, ax)
    for run, line in enumerate(artists["lines"]):
        far = result.relative[result.run == run]
        far = far[np.isfinite(far)]
        line.set_label(f"{style.number(100 * far.max(), 3)} %" if len(far) else "unknown")
    ax.set_ylim(bottom=0)
    if artists["lines"]:
        legend = _legend(ax, artists["lines"], _LETTERS)
        legend.set_title("largest, in % of the extent", prop={"size": _LETTERS})
    return artists


def _path(
    artists: dict[str, Any], alpha: np.ndarray, beta: np.ndarray, run: int, name: str, ax: Axes
) -> None:
    """One run, with a white rim that keeps it apart from the contours."""
    look = _look(run)
    ax.plot(alpha, beta, "-", color="white", linewidth=3.2, zorder=3)
    (line,) = ax.plot(alpha, beta, label=name or f"run {run}", zorder=4, **look)
    artists["paths"].append(line)
    sound = np.flatnonzero(np.isfinite(alpha) & np.isfinite(beta))
    for kind, marker, size, face in (("starts", "o", 6, "white"), ("ends", "*", 12, look["color"])):
        if len(sound):
            place = sound[0 if kind == "starts" else -1]
            edge = look["color"] if kind == "starts" else "white"
            (mark,) = ax.plot(
                alpha[place], beta[place], marker, markersize=size, markerfacecolor=face,
                markeredgecolor=edge, markeredgewidth=1.0, zorder=5,
            )  # fmt: skip
            artists[kind].append(mark)


def _legend(ax: Axes, handles: list[Any], size: float) -> Any:
    inches = ax.figure.bbox.width / ax.figure.dpi - 0.9
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
    return legends.fitted(ax, handles, inches, size, borderaxespad=0.1, **where)


def _series(result: Trajectory, values: np.ndarray, ax: Axes) -> dict[str, Any]:
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    ax.set_xlim(style.ends(result.step))
    values = np.where(np.isfinite(values), values, np.nan)
    if not np.isfinite(values).any():
        return {"lines": [], "message": style.message(ax, "not finite")}
    lines = []
    for run, name in enumerate(result.labels):
        chosen = result.run == run
        marker = "o" if chosen.sum() < 2 else "none"
        lines += ax.plot(
            result.step[chosen], values[chosen], label=name, marker=marker, **_look(run)
        )
    return {"lines": lines}


def _look(run: int) -> dict[str, Any]:
    count = len(_COLOURS)
    # Colours come again with another stroke.
    stroke = _STROKES[(run + run // count) % count]
    return {"color": _COLOURS[run % count], "linestyle": stroke, "linewidth": 1.5}


def _room(result: Trajectory, ax: Axes, keep: bool) -> None:
    """Limits around all paths, and around what is drawn behind them where that is to be kept."""
    for axis, values in (("x", result.alpha), ("y", result.beta)):
        low, high = style.ends(values[np.isfinite(values)])
        pad = 0.06 * (high - low)
        limits = np.array([low - pad, high + pad])
        if keep:
            now = ax.get_xlim() if axis == "x" else ax.get_ylim()
            # Markers at the border of the background need no room of their own.
            limits = np.array([min(now[0], low), max(now[1], high)])
        (ax.set_xlim if axis == "x" else ax.set_ylim)(*limits)


@picture("paths", Trajectory)
def _paths(result: Trajectory) -> Figure:
    figure = style.new_figure(7.6, 4.2)
    left, right = figure.subfigures(1, 2, width_ratios=[3, 2])
    draw(result, left.add_subplot())
    upper, lower = right.subplots(2, 1, sharex=True)
    loss(result, upper)
    distance(result, lower)
    upper.set_xlabel("")
    legends.make_room(figure)
    explained = ""
    if np.isfinite(result.explained).all():
        shares = " + ".join(f"{100 * share:.3g}" for share in result.explained)
        explained = f"{shares} % of the variance lies in the plane"
    style.note(figure, style.plural(len(result.step), "point"), explained, statistics(result))
    return figure
