"""How high the walls between minima are: pictures of `Connectivity`."""

from itertools import combinations
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.connectivity import Connectivity

_NUMBERED, _NAMED = 10, 30


@style.context()
def matrix(result: Connectivity, ax: Axes) -> dict[str, Any]:
    """The artists "barrier", an image with a cell for each pair, and "number" in each of a few.

    Args:
        result: what is drawn.
        ax: where it is drawn; gets a colour bar.
    """
    count = len(result.names)
    shown = np.ma.masked_invalid(np.where(np.eye(count, dtype=bool), np.nan, result.barrier))
    ax.set_facecolor(style.PALE)
    low = min(0.0, float(shown.min())) if shown.count() else 0.0
    image = ax.imshow(shown, cmap=style.LEVELS, vmin=low, interpolation="nearest")
    artists: dict[str, Any] = {"barrier": image, "number": []}
    if count <= _NUMBERED:
        limit = low + 0.6 * (float(shown.max()) - low) if shown.count() else 0.0
        for i, j in np.argwhere(~np.ma.getmaskarray(shown)):
            value = float(shown[i, j])
            if np.isfinite(value):
                color = "black" if value > limit else "white"
                artists["number"].append(
                    ax.text(j, i, f"{value:.3g}", ha="center", va="center", color=color,
                            fontsize=style.SMALL)
                )  # fmt: skip
    named = count <= _NAMED
    names = [shorten(name, 24, placeholder=" ...") for name in result.names]
    ax.set_xticks(range(count) if named else [], names if named else [], rotation=60, ha="right")
    ax.set_yticks(range(count) if named else [], names if named else [])
    for edge in np.flatnonzero(np.diff(result.group)) + 0.5:
        ax.axhline(edge, color="white", linewidth=1.5)
        ax.axvline(edge, color="white", linewidth=1.5)
    ax.set_xlabel("minimum")
    ax.set_ylabel("minimum")
    figure: Any = ax.figure
    figure.colorbar(image, ax=ax, label="barrier (loss above the mean of both ends)")
    return artists


@style.context()
def barriers(result: Connectivity, ax: Axes) -> dict[str, Any]:
    """The artists "pairs", one for each kind of pair, and "mean" with its interval.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"pairs": [], "mean": []}
    upper = np.triu(np.ones_like(result.barrier, dtype=bool), 1)
    inside = {name: (k, k) for k, name in enumerate(result.groups)}
    across = {
        f"{one} and {other}": (k, j)
        for (k, one), (j, other) in combinations(enumerate(result.groups), 2)
    }
    for row, name in enumerate(result.pairs):
        one, other = (inside | across)[name]
        of = np.logical_and.outer(result.group == one, result.group == other)
        values = result.barrier[upper & (of | of.T)]
        artists["pairs"] += ax.plot(
            values, np.full(len(values), row), "|", color=f"C{row}", alpha=0.6, markersize=9
        )
        spans = [[result.means[row] - result.low[row]], [result.high[row] - result.means[row]]]
        artists["mean"].append(ax.errorbar(
            result.means[row], row, xerr=np.nan_to_num(spans), color=style.BLACK, marker="o",
            markersize=4, capsize=3, linestyle="none",
        ))  # fmt: skip
    ax.set_yticks(range(len(result.pairs)), result.pairs)
    ax.set_ylim(len(result.pairs) - 0.5, -0.5)
    ax.set_xlabel("barrier")
    ax.set_ylabel("minima of")
    return artists


@picture("barriers", Connectivity)
def _barriers(result: Connectivity) -> Figure:
    count = len(result.names)
    several = len(result.pairs) > 1
    side = min(3.2 + 0.22 * count, 7.0)
    figure = style.new_figure(side + 1.2 + (4.2 if several else 0), side)
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    matrix(result, axes[0])
    if several:
        barriers(result, axes[1])
    order = f"units in order by {result.align}" if result.align else "units as they are"
    style.note(figure, f"{result.finder} paths", order, result.statistics)
    return figure
