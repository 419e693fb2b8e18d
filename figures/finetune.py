"""How far methods end from the reference after equally many gradients: pictures of `Finetuning`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style, surface
from figures.picture import picture
from landscape.results import Surface
from landscape.results.finetuning import Finetuning

_LOOKS = {
    "differs": {"color": style.VERMILION, "marker": "^"},
    "same": {"color": style.GREEN, "marker": "s"},
    "open": {"color": style.BLUE, "marker": "o"},
}
_MEANINGS = {"differs": "differs", "same": "same to within the margin", "open": "undecided"}


@style.context()
def differences(result: Finetuning, network: int, ax: Axes) -> dict[str, Any]:
    """The artists "interval", "seeds", "published", "margin": one row a method.

    A mark with a bar is the mean difference with its interval, small rings are the seeds, a diamond
    is the difference of the published means.

    Args:
        result: what is drawn.
        network: the index of the network.
        ax: where it is drawn.
    """
    reference = result.methods.index(result.reference)
    rows = [i for i in range(len(result.methods)) if i != reference]
    artists: dict[str, Any] = {"interval": [], "seeds": [], "published": []}
    band: dict[str, Any] = {"color": style.PALE, "alpha": 0.6, "linewidth": 0, "zorder": 0}
    artists["margin"] = ax.axvspan(-result.margin, result.margin, **band)
    ax.axvline(0, color=style.GREY, linewidth=0.7, zorder=1)
    apart = result.accuracy[network] - result.accuracy[network, reference]
    published = result.published[network] - result.published[network, reference]
    for place, i in enumerate(rows):
        mean, low, high = (
            column[network, i] for column in (result.difference, result.low, result.high)
        )
        ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 3.5, "linestyle": "none"}
        artists["seeds"] += ax.plot(
            apart[i], np.full(len(apart[i]), place + 0.22), "o", markeredgecolor=style.GREY,
            markeredgewidth=0.6, zorder=2, **ring,
        )  # fmt: skip
        look: dict[str, Any] = {"linestyle": "none", "capsize": 2.5, "elinewidth": 1.2, "zorder": 3}
        ends = None if np.isnan(low) else np.array([[mean - low], [high - mean]])
        look |= _LOOKS[result.verdict(network, i)]
        artists["interval"].append(ax.errorbar([mean], [place], xerr=ends, **look))
        artists["published"] += ax.plot(
            [published[i]], [place - 0.24], "D", color=style.BLACK, markersize=3.5, zorder=3,
            linestyle="none",
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [result.methods[i] for i in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"test accuracy less that of {result.reference} (points)")
    level = result.mean[network, reference]
    ax.set_title(f"{result.networks[network]}, {result.reference} {level:.2f} %")
    return artists


@picture("planes", Finetuning)
def _planes(result: Finetuning) -> Figure | None:
    """The loss around where each method ends from the first seed, on one scale."""
    if result.planes is None:
        return None
    rows, columns = len(result.networks), len(result.methods)
    ends = np.linspace(-1, 1, result.planes.shape[-1])
    middle = len(ends) // 2
    figure = style.new_figure(0.9 + 1.75 * columns, 0.9 + 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    planes = [
        Surface(
            alpha=ends,
            beta=ends,
            loss=loss,
            center=float(loss[middle, middle]),
            directions=("", ""),
        )
        for loss in result.planes.reshape(-1, len(ends), len(ends))
    ]
    names = [name if k else f"{network}\n{name}" for network in result.networks
             for k, name in enumerate(result.methods)]  # fmt: skip
    surface.compare(planes, list(axes.ravel()), labels=names)
    for ax in axes[:, 1:].ravel():
        ax.set_ylabel("")
    for ax in axes[:-1].ravel():
        ax.set_xlabel("")
    style.note(figure, "two random directions, filters as long as those of the weights")
    return figure


@picture("differences", Finetuning)
def _differences(result: Finetuning) -> Figure:
    count, rows = len(result.networks), len(result.methods) - 1
    figure = style.new_figure(max(5.6, 0.9 + 3.1 * count), 1.5 + 0.34 * rows)
    axes = figure.subplots(1, count, squeeze=False, sharex=True, sharey=True)[0]
    for network, ax in enumerate(axes):
        differences(result, network, ax)
    handles: list[Any] = [
        axes[0].plot([], [], linestyle="-", label=_MEANINGS[name], **look)[0]  # type: ignore[arg-type]
        for name, look in _LOOKS.items()
    ]
    handles += [
        axes[0].plot([], [], "o", color=style.GREY, markerfacecolor="none", markersize=3.5,
                     linestyle="none", label="a seed")[0],
        axes[0].plot([], [], "D", color=style.BLACK, markersize=3.5, linestyle="none",
                     label="published means")[0],
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    style.note(
        figure,
        f"{100 * result.confidence:g} % t-intervals over {len(result.seeds)} paired seeds",
        f"{result.budget:,.0f} gradients of mini-batches each",
        f"margin {result.margin:g} points",
    )
    return figure
