"""Where methods end on functions, side by side: the pictures of a `Distribution`.

Bars are light for the flattest minima and dark for the sharpest, by the largest Hessian eigenvalue.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from figures import legends, minima, style
from landscape.results import Distribution


@style.context()
def shares(result: Distribution, axes: np.ndarray) -> dict[str, Any]:
    """The artists by name, lists over the axes: a bar chart for each method and function.

    "bars" are the shares of restarts, "intervals" Wilson's at 95 %, "basins" the exact fractions of
    the box, "published" the published shares and "relabelled" the same under other labels, drawn
    only where they differ. What is not known is not drawn.

    Args:
        result: what is drawn.
        axes: (method, function), where it is drawn.
    """
    artists: dict[str, Any] = {}
    for (i, k), ax in np.ndenumerate(axes):
        for name, artist in _cell(result, i, k, ax).items():
            artists.setdefault(name, []).append(artist)
    for k, name in enumerate(result.functions):
        axes[0, k].set_title(name)
        tops = [ax.get_ylim()[1] for ax in axes[:, k]]
        for ax in axes[:, k]:
            ax.set_ylim(0, max(tops))
        axes[-1, k].tick_params(axis="x", labelbottom=True)
        axes[-1, k].set_xlabel("1 is the flattest" if k else "minimum, its place by λ₁, by trace")
    for i, name in enumerate(result.methods):
        look: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
        axes[i, 0].set_ylabel(f"{name}\n(%)", **look)
    handles = [
        artists[name][0]
        for name in ("intervals", "basins", "published", "relabelled")
        if name in artists
    ]
    figure = axes[0, 0].figure
    legends.fitted(figure, handles, figure.get_figwidth(), loc="outside lower center")
    return artists


@style.context()
def flattest(result: Distribution, axes: np.ndarray) -> dict[str, Any]:
    """The artists by name: how often each method ends at the flattest minima, by each measure.

    The measures' names hold one list of points with intervals over the axes, and "basins" the lines
    at the fraction of the box that flows there, where it is known.

    Args:
        result: what is drawn.
        axes: (function,), where it is drawn.
    """
    artists: dict[str, Any] = {}
    place = np.arange(len(result.methods))
    ties = [_named_flattest(result, k) for k in range(len(result.functions))]
    for k, ax in enumerate(axes):
        one = ties[k][0] == ties[k][1]
        for j, measure in enumerate(result.measures[: 1 if one else 2]):
            share, low, high = (
                100 * table[:, k, j]
                for table in (result.flattest, result.flattest_low, result.flattest_high)
            )
            error = np.maximum([share - low, high - share], 0.0)
            look: dict[str, Any] = {"linestyle": "none", "capsize": 2.5, "elinewidth": 1.1}
            look |= {"color": (style.BLUE, style.VERMILION)[j], "marker": "os"[j]}
            height = place if one else place + 0.18 * (2 * j - 1)
            by = "both measures" if one else measure
            label = f"{ties[k][j]}, flattest by {by}"
            drawn = ax.errorbar(share, height, xerr=error, label=label, **look)
            artists.setdefault(measure, []).append(drawn)
            places = (result.order_largest, result.order_trace)[j]
            area = 100 * result.basin[(result.function == k) & (places == 0)].sum()
            if np.isfinite(area):
                look = {"color": look["color"], "linestyle": (":", "-.")[j], "linewidth": 1.0}
                look["label"] = f"share of the box that flows to {ties[k][j]}"
                artists.setdefault("basins", []).append(ax.axvline(area, **look))
        top = 100 * result.flattest_high[:, k].max()
        ax.set(title=result.functions[k], xlabel="runs that end there (%)")
        ax.set_xlim(-2, 102 if top > 45 else 50)
        ax.set_yticks(place, result.methods)
        ax.tick_params(axis="y", labelleft=k == 0)
        ax.set_ylim(len(place) - 0.5, -0.5)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / ax.figure.get_figheight() - 0.04))
    return artists


def _cell(result: Distribution, i: int, k: int, ax: Axes) -> dict[str, Any]:
    here = result.function == k
    place = np.arange(here.sum())
    places = result.order_largest[here]
    colours = [style.PALE if p < 0 else minima.colour(p, places.max() + 1) for p in places]
    share, low, high = (100 * t[i, here] for t in (result.share, result.low, result.high))
    look: dict[str, Any] = {"edgecolor": style.BLACK, "linewidth": 0.5, "width": 0.7}
    artists: dict[str, Any] = {"bars": ax.bar(place, share, color=colours, **look)}
    error = np.maximum([share - low, high - share], 0.0)
    look = {"fmt": "none", "ecolor": style.GREY, "elinewidth": 1.0, "capsize": 2.5}
    artists["intervals"] = ax.errorbar(
        place, share, error, label="ours, with its 95 % interval (Wilson)", **look
    )
    for part in (*artists["intervals"].lines[1], *artists["intervals"].lines[2]):
        part.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    nothing = np.full(len(result.outcomes), np.nan)
    printed = nothing if result.published is None else result.published[i]
    other = nothing if result.relabelled is None else result.relabelled[i]
    other = np.where(other == printed, np.nan, other)
    for name, values, marker, colour, label in (
        ("basins", result.basin, "_", style.VERMILION, "exact basin fraction"),
        ("published", printed, "s", style.BLUE, "published"),
        ("relabelled", other, "X", style.PURPLE, "published, relabelled (hypothesis)"),
    ):
        if np.isfinite(values[here]).any():
            size = 11 if marker == "_" else 4.5
            look = {"linestyle": "none", "markersize": size, "zorder": 4, "label": label}
            look["clip_on"] = False
            if marker != "_":
                look |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
            (artists[name],) = ax.plot(place, 100 * values[here], marker, color=colour, **look)
    ax.set_xticks(place, _ranked(result, k))
    ax.tick_params(axis="x", length=0, labelbottom=False)
    return artists


def _ranked(result: Distribution, k: int) -> list[str]:
    """The names of the outcomes, with the places of minima from flat to sharp by each measure."""
    here = result.function == k
    return [
        minima.minus(name) + (f"\n{first + 1}\n{second + 1}" if first >= 0 else "")
        for name, first, second in zip(
            np.array(result.outcomes)[here],
            result.order_largest[here],
            result.order_trace[here],
            strict=True,
        )
    ]


def _named_flattest(result: Distribution, k: int) -> list[str]:
    """The names of the flattest minima of a function by each measure."""
    here = result.function == k
    names = np.array(result.outcomes)[here]
    orders = (result.order_largest[here], result.order_trace[here])
    found = [" ".join(minima.minus(name) for name in names[order == 0]) for order in orders]
    return [f"minimum {name}" if name.isdigit() else name for name in found]
