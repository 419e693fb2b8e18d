"""Whether populations differ, and what tests of that promise: pictures of their results."""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.inference import Inference, Promises

_LOOKS = {
    "differs": {"color": style.VERMILION, "marker": "^"},
    "same": {"color": style.GREEN, "marker": "s"},
    "open": {"color": style.BLUE, "marker": "o"},
}
_MEANINGS = {"differs": "differs", "same": "same to within the margin", "open": "undecided"}


@style.context()
def differences(result: Inference, ax: Axes) -> dict[str, Any]:
    """The artists "margin" and "interval", one for each comparison that is a row.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    band: dict[str, Any] = {"color": style.PALE, "alpha": 0.6, "linewidth": 0, "zorder": 0}
    artists: dict[str, Any] = {"interval": []}
    artists["margin"] = ax.axvspan(-result.margin, result.margin, **band)
    ax.axvline(0, color=style.GREY, linewidth=0.7, zorder=1)
    for k in range(len(result.comparisons)):
        middle, low, high = result.difference[k], result.low[k], result.high[k]
        ends = None if np.isnan(low) else np.array([[middle - low], [high - middle]])
        look: dict[str, Any] = {"linestyle": "none", "capsize": 2.5, "elinewidth": 1.2, "zorder": 3}
        look |= _LOOKS[result.verdict(k)]
        artists["interval"].append(ax.errorbar([middle], [k], xerr=ends, **look))
    ax.set_yticks(range(len(result.comparisons)), result.comparisons)
    ax.set_ylim(len(result.comparisons) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"difference of {result.metric}")
    return artists


@style.context()
def values(result: Inference, place: int, ax: Axes) -> dict[str, Any]:
    """The artists "points" and "mean", one for each trajectory: a column for each group.

    Args:
        result: what is drawn.
        place: the index of the set of points.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"points": [], "mean": []}
    for k, _ in enumerate(result.groups):
        own = np.flatnonzero(result.group == k)
        places = k + np.linspace(-0.3, 0.3, len(own)) if len(own) > 1 else [k]
        for x, row in zip(places, result.value[own, place], strict=True):
            known = row[np.isfinite(row)]
            if not known.size:
                continue
            artists["points"] += ax.plot(
                np.full(known.size, x), known, "o", color=f"C{k}", markersize=2.5, alpha=0.6,
                markeredgewidth=0,
            )  # fmt: skip
            artists["mean"] += ax.plot(x, known.mean(), "_", color=style.BLACK, markersize=6)
    ax.set_xticks(range(len(result.groups)), result.groups, rotation=30, ha="right")
    ax.set_xlim(-0.5, len(result.groups) - 0.5)
    ax.set_title(fill(result.sets[place], 12))
    return artists


@style.context()
def rejected(result: Promises, ax: Axes) -> dict[str, Any]:
    """The artists "share", one for each correlation: a row for each test.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"share": []}
    ax.axvline(100 * result.level, color=style.GREY, linewidth=0.7, zorder=1)
    count = len(result.correlation)
    for k, correlation in enumerate(result.correlation):
        share, low, high = (100 * part[:, k] for part in (result.rejected, result.low, result.high))
        places = np.arange(len(share)) + (k - (count - 1) / 2) * 0.6 / max(count, 1)
        artists["share"].append(ax.errorbar(
            share, places, xerr=np.array([share - low, high - share]), color=f"C{k}",
            marker="os^Dv"[k % 5], markersize=4, linestyle="none", capsize=2,
            label=f"correlation {correlation:g}",
        ))  # fmt: skip
    ax.set_yticks(range(len(result.tests)), result.tests)
    ax.set_ylim(len(result.tests) - 0.5, -0.5)
    ax.set_xlabel("studies without a difference in which it rejects (%)")
    return artists


@style.context()
def powers(result: Promises, ax: Axes) -> dict[str, Any]:
    """The artists "found", one for each test, and "predicted": power by trajectories.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"found": []}
    for k, name in enumerate(result.powered):
        look: dict[str, Any] = {"marker": "os"[k % 2], "color": f"C{k}", "linestyle": "none"}
        artists["found"] += ax.plot(result.counts, 100 * result.power[k], label=name, **look)
    (artists["predicted"],) = ax.plot(
        result.counts, 100 * result.predicted, color=style.GREY, linestyle="-",
        label="t, closed form",
    )  # fmt: skip
    ax.set_xticks(result.counts)
    ax.set_xlabel("trajectories of each method")
    ax.set_ylabel(f"power (%) for {result.effect:g} s.d. of trajectories")
    ax.set_ylim(0, 100)
    return artists


@picture("comparisons", Inference)
def _comparisons(result: Inference) -> Figure:
    rows, sets = len(result.comparisons), len(result.sets)
    width = sets * max(1.4, 0.6 * len(result.groups))
    figure = style.new_figure(5.0 + width, max(3.2, 1.4 + 0.26 * rows))
    left, right = figure.subfigures(1, 2, width_ratios=[5.0, 0.8 + width])
    differences(result, left.add_subplot())
    axes = right.subplots(1, sets, squeeze=False, sharey=True)[0]
    for place, ax in enumerate(axes):
        values(result, place, ax)
    axes[0].set_ylabel(result.metric)
    handles: list[Any] = [
        axes[0].plot([], [], linestyle="none", label=_MEANINGS[name], **look)[0]  # type: ignore[arg-type]
        for name, look in _LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    style.note(
        figure,
        f"{100 * result.confidence:g} % t-intervals over trajectories",
        f"decided by {result.decided}, Holm's correction for {rows}",
        f"margin {result.margin:g}",
    )
    return figure


@picture("promises", Promises)
def _promises(result: Promises) -> Figure:
    figure = style.new_figure(8.6, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    artists = rejected(result, left)
    left.legend(handles=artists["share"], loc="lower right")
    powers(result, right)
    right.legend(loc="lower right")
    style.note(
        figure, f"{result.studies:,} simulated studies",
        f"{result.trajectories} trajectories of {result.points} points each (left)",
        f"promised {100 * result.level:g} %",
    )  # fmt: skip
    return figure
