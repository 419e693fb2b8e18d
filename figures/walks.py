"""How members of several methods move on a test function: the pictures of a `Walks`.

A member has one colour in all panels, so that equal colours start at equal points.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from figures import minima, style
from figures.background import ground, label_outer, legend
from landscape.results import Walks

_COLOURS = (
    style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY, style.BLACK,
    style.GREY,
)  # fmt: skip

# Heights below this are rounding errors.
_FLOOR = 1e-12


@style.context()
def paths(result: Walks, axes: np.ndarray) -> dict[str, Any]:
    """The artists by name, lists over the axes: the path of every member of each method.

    "paths" are lists of lines over the members, "starts" circles and "ends" dots. Steps that leave
    the axes are cut off at their edge.

    Args:
        result: what is drawn.
        axes: (method,), where it is drawn.
    """
    artists: dict[str, Any] = {}
    for i, ax in enumerate(axes):
        drawn = ground(result, ax) | _paths(result.position[i], ax)
        drawn["names"] = [
            minima.named(ax, name, place, crowded=True)
            for name, place in zip(result.names, result.points, strict=True)
        ]
        for name, artist in drawn.items():
            artists.setdefault(name, []).append(artist)
        ax.set_title(result.methods[i])
    label_outer(axes)
    legend(axes, [*artists["minima"][0], artists["starts"][0][0], artists["ends"][0][0]])
    return artists


@style.context()
def curves(result: Walks, ax: Axes) -> dict[str, Any]:
    """The artists "median" and "range", lists over the methods: how low they are, and when.

    The height is that above the lowest minimum, drawn down to 1e-12; the band reaches from the
    lowest to the highest finite member. The axis counts evaluations, so that methods whose steps
    cost more are drawn as slow as they are.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    height = result.loss - result.values.min()
    shown = np.ma.masked_invalid(height)
    artists: dict[str, Any] = {"median": [], "range": []}
    for i, method in enumerate(result.methods):
        low, middle, high = (
            np.ma.filled(np.ma.asarray(part), np.nan)
            for part in (shown[i].min(axis=1), np.ma.median(shown[i], axis=1), shown[i].max(axis=1))
        )
        low, middle, high = (np.maximum(part, _FLOOR) for part in (low, middle, high))
        (line,) = ax.plot(result.evaluations, middle, label=method)
        artists["median"].append(line)
        band: dict[str, Any] = {"color": line.get_color(), "alpha": 0.13, "linewidth": 0}
        artists["range"].append(ax.fill_between(result.evaluations, low, high, **band))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(max(1.0, result.evaluations[result.evaluations > 0].min(initial=1.0)),
                max(2.0, result.evaluations.max(initial=2.0)))  # fmt: skip
    ax.set(xlabel="gradient evaluations of each member", ylabel="f above its lowest minimum")
    ax.set_ylim(_FLOOR, None)
    legend = ax.legend(title="median of the members", loc="lower left")
    legend.set_alignment("left")
    legend.get_title().set_fontsize(style.SMALL)
    return artists


@style.context()
def frames(result: Walks, figure: Figure, axes: np.ndarray, count: int = 40) -> list[np.ndarray]:
    """Pictures (height, width, 3) of the paths as they grow, the whole ones last.

    Args:
        result: what is drawn.
        figure: empty but for the axes.
        axes: (method,), where it is drawn.
        count: pictures at most.
    """
    artists = paths(result, axes)
    lines, dots = artists["paths"], artists["ends"]
    for artist in (artist for part in (*lines, *dots) for artist in part):
        artist.set_animated(True)
    style.settle(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    pictures = []
    last = len(result.evaluations) - 1
    for time in np.unique(np.linspace(0, last, count).round().astype(int)):
        canvas.restore_region(still)
        for i, ax in enumerate(axes):
            for member, (line, dot) in enumerate(zip(lines[i], dots[i], strict=True)):
                seen = result.position[i, : time + 1, member]
                line.set_data(*seen.T)
                dot.set_data(*seen[-1:].T)
            for artist in (*lines[i], *dots[i]):
                ax.draw_artist(artist)
        _count(figure, float(result.evaluations[time]))
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return pictures


def _paths(position: np.ndarray, ax: Axes) -> dict[str, Any]:
    """The paths (time, member, coordinate) with where they begin and end."""
    artists: dict[str, Any] = {"paths": [], "starts": [], "ends": []}
    for member in range(position.shape[1]):
        x, y = position[:, member].T
        colour = _COLOURS[member % len(_COLOURS)]
        artists["paths"] += ax.plot(x, y, "-", color=colour, linewidth=1.2, zorder=5)
        circle: dict[str, Any] = {"markerfacecolor": "white", "markersize": 4.5, "zorder": 6}
        artists["starts"] += ax.plot(
            x[:1], y[:1], "o", markeredgecolor=colour, linestyle="none", label="start", **circle
        )
        # A member that is lost has no end.
        dot: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "markersize": 5.0}
        artists["ends"] += ax.plot(
            x[-1:], y[-1:], "o", markeredgewidth=0.5, linestyle="none", label="end", zorder=7, **dot
        )
    return artists


def _count(figure: Figure, evaluations: float) -> None:
    """Writes how many evaluations there were onto the figure's canvas."""
    look: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": style.SMALL}
    text = figure.text(0.99, 0.99, f"after {evaluations:,.0f} evaluations", **look)
    figure.draw_artist(text)
    text.remove()
