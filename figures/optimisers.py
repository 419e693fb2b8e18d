"""How optimisers compare, and how flat it is where they end: pictures of `Optimisers`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import style
from figures.picture import picture
from landscape.results.optimisers import Optimisers

_SHOWN = ("test accuracy", "lambda-max", "trace")


@style.context()
def ratios(result: Optimisers, network: int, ax: Axes) -> dict[str, Any]:
    """The artists "interval", one for each pair: a row for each score that is compared.

    A mark is the geometric mean of the ratio, filled where it differs from 1 after correction, with
    its interval.

    Args:
        result: what is drawn.
        network: the index of the network.
        ax: where it is drawn, on a logarithmic axis.
    """
    _logarithmic(ax)
    ax.axvline(1, color=style.GREY, linewidth=0.7, zorder=1)
    count = len(result.pairs)
    artists: dict[str, Any] = {"interval": []}
    for i, pair in enumerate(result.pairs):
        color = f"C{i}"
        places = np.arange(len(result.compared)) + (i - (count - 1) / 2) * 0.8 / max(count, 1)
        middle = result.ratio[network, i]
        spans = np.array([middle - result.low[network, i], result.high[network, i] - middle])
        artists["interval"].append(ax.errorbar(
            middle, places, xerr=np.nan_to_num(spans), color=color, marker="o", markersize=4,
            markerfacecolor="white", linestyle="none", capsize=2, elinewidth=1, label=pair,
        ))  # fmt: skip
        sure = result.p_holm[network, i] < 1 - result.confidence
        ax.plot(middle[sure], places[sure], "o", color=color, markersize=4, zorder=4)
    ax.set_yticks(range(len(result.compared)), result.compared)
    ax.set_ylim(len(result.compared) - 0.5, -0.5)
    ax.set_xlabel("ratio (below 1: less)")
    ax.set_title(f"{result.networks[network]} on {result.task}")
    return artists


@style.context()
def ends(result: Optimisers, network: int, score: str, ax: Axes) -> dict[str, Any]:
    """The artists "seeds" and "median", one for each method: where its runs end.

    Args:
        result: what is drawn.
        network: the index of the network.
        score: one of the result's.
        ax: where it is drawn.
    """
    values = result.value[network, :, :, result.scores.index(score)]
    artists: dict[str, Any] = {"seeds": [], "median": []}
    for i, row in enumerate(values):
        artists["seeds"] += ax.plot(
            row, np.full(len(row), i), "o", color=f"C{i}", markersize=4, alpha=0.6,
            markeredgewidth=0,
        )  # fmt: skip
        artists["median"].append(
            ax.plot(np.median(row), i, "|", color=style.BLACK, markersize=13)[0]
        )
    if (values > 0).all() and values.max() > 20 * values.min():
        _logarithmic(ax)
    ax.set_yticks(range(len(result.methods)), result.methods)
    ax.set_ylim(len(result.methods) - 0.5, -0.5)
    ax.set_xlabel(score)
    return artists


def _logarithmic(ax: Axes) -> None:
    """Makes the horizontal axis logarithmic, with plain numbers at 1, 2 and 5."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


@picture("ratios", Optimisers)
def _ratios(result: Optimisers) -> Figure | None:
    count = len(result.networks)
    if not result.pairs:
        return None
    figure = style.new_figure(max(5.6, 1.2 + 3.4 * count), 1.6 + 0.25 * len(result.pairs) * 4)
    axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    drawn = [ratios(result, network, ax) for network, ax in enumerate(axes)]
    figure.legend(handles=drawn[0]["interval"], loc="outside lower center", ncols=2)
    style.note(
        figure,
        f"{100 * result.confidence:g} % t-intervals over {len(result.seeds)} paired seeds",
        "filled: differs from 1 after correction",
    )
    return figure


@picture("ends", Optimisers)
def _ends(result: Optimisers) -> Figure:
    shown = [name for name in _SHOWN if name in result.scores]
    count = len(result.networks)
    figure = style.new_figure(0.9 + 2.9 * len(shown), 0.9 + 1.9 * count)
    axes = figure.subplots(count, len(shown), squeeze=False, sharey=True)
    for network, row in enumerate(axes):
        for score, ax in zip(shown, row, strict=True):
            ends(result, network, score, ax)
        row[0].set_title(f"{result.networks[network]} on {result.task}", loc="left")
    style.note(figure, f"{len(result.seeds)} seeds; line: median")
    return figure
