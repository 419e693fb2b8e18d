"""Walls between the minima of two methods, and how these minima lie: pictures of `Topography`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.topography import Topography

_LOOKS = ({"color": style.BLUE, "marker": "o"}, {"color": style.VERMILION, "marker": "s"})


@style.context()
def walls(result: Topography, quantity: str, stop: str, ax: Axes) -> dict[str, Any]:
    """The artists "pairs" and "mean", one for each method and way.

    Small marks are pairs of starts, large ones their means.

    Args:
        result: what is drawn.
        quantity: which of its quantities.
        stop: which of its stops.
        ax: where it is drawn.
    """
    k, at = result.quantities.index(quantity), result.stops.index(stop)
    artists: dict[str, Any] = {"pairs": [], "mean": []}
    shown = result.value[k, :, :, at]
    for i, method in enumerate(result.methods):
        for j in range(len(result.ways)):
            values = shown[:, i, j]
            place = j + 0.3 * (i - 0.5)
            spots = np.full(len(values), place) + np.linspace(-0.08, 0.08, len(values))
            artists["pairs"] += ax.plot(
                values, spots, linestyle="none", markersize=2.5, alpha=0.5, **_LOOKS[i]  # type: ignore[arg-type]
            )  # fmt: skip
            artists["mean"] += ax.plot(
                [values.mean()], [place], linestyle="none", markersize=7, markeredgecolor="black",
                label=method if j == 0 else "_", **_LOOKS[i],  # type: ignore[arg-type]
            )  # fmt: skip
    style.scale(ax, "x", shown)
    ax.set_yticks(range(len(result.ways)), result.ways)
    ax.set_ylim(len(result.ways) - 0.5, -0.5)
    ax.set_xlabel(f"{quantity} (loss)")
    ax.set_title(_titled(stop))
    return artists


@style.context()
def differences(result: Topography, quantity: str, ax: Axes) -> dict[str, Any]:
    """The artists "interval": the mean difference of the methods for each stop and way.

    Args:
        result: what is drawn.
        quantity: which of its quantities.
        ax: where it is drawn.
    """
    k = result.quantities.index(quantity)
    artists: dict[str, Any] = {"interval": []}
    ax.axvline(0, color=style.GREY, linewidth=0.7)
    count = len(result.stops)
    for i, stop in enumerate(result.stops):
        mean, low, high = (
            column[k, i] for column in (result.difference, result.low, result.high)
        )  # fmt: skip
        places = np.arange(len(result.ways)) + 0.6 * ((i + 0.5) / count - 0.5)
        ends = np.nan_to_num(np.stack([mean - low, high - mean]))
        artists["interval"].append(ax.errorbar(
            mean, places, xerr=ends, linestyle="none", marker="osD^"[i], capsize=2.5,
            color=(style.BLUE, style.GREEN, style.ORANGE, style.BLACK)[i], markersize=4.5,
            label=_titled(stop),
        ))  # fmt: skip
    ax.set_yticks(range(len(result.ways)), result.ways)
    ax.set_ylim(len(result.ways) - 0.5, -0.5)
    style.scale(
        ax, "x", np.concatenate([result.low[k].ravel(), result.high[k].ravel()]), signed="symlog"
    )
    one, other = result.methods
    ax.set_xlabel(f"{quantity}, {one} less {other} (loss)")
    return artists


@style.context()
def components(result: Topography, stop: str, ax: Axes) -> dict[str, Any]:
    """The artists "points", one for each method: the first two components of their kernel PCA.

    Args:
        result: what is drawn.
        stop: which of its stops.
        ax: where it is drawn.
    """
    at = result.stops.index(stop)
    artists: dict[str, Any] = {"points": []}
    for i, method in enumerate(result.methods):
        x, y = result.component[:, i, at, :2].T
        artists["points"] += ax.plot(
            x, y, linestyle="none", alpha=0.7, label=method, **_LOOKS[i]  # type: ignore[arg-type]
        )  # fmt: skip
    for axis, k in ((ax.set_xlabel, 0), (ax.set_ylabel, 1)):
        axis(f"component {k + 1} ({100 * result.explained[at, k]:.0f} %)")
    ax.set_title(_titled(stop))
    return artists


def _titled(stop: str) -> str:
    return "equal training loss" if stop == "equal" else f"lowest {stop} loss"


@picture("walls", Topography)
def _walls(result: Topography) -> Figure:
    count = len(result.stops)
    figure = style.new_figure(1.4 + 2.6 * count, 3.4)
    axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for stop, ax in zip(result.stops, axes, strict=True):
        walls(result, "barrier", stop, ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.note(
        figure, result.network, f"{len(result.ends)} pairs of {len(result.loss)} starts",
        "small: a pair, large: their mean",
    )  # fmt: skip
    return figure


@picture("differences", Topography)
def _differences(result: Topography) -> Figure:
    figure = style.new_figure(5.6, 4.0)
    ax = figure.subplots()
    differences(result, "barrier", ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.note(
        figure, result.network,
        f"{100 * result.confidence:g} % intervals over {len(result.loss)} starts",
    )  # fmt: skip
    return figure


@picture("components", Topography)
def _components(result: Topography) -> Figure:
    count = len(result.stops)
    figure = style.new_figure(0.6 + 2.6 * count, 3.2)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for stop, ax in zip(result.stops, axes, strict=True):
        components(result, stop, ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.note(figure, result.network, "kernel PCA of the weights, RBF kernel, gamma 1 / p")
    return figure
