"""How far the paths of several finders are above the passes: the picture of `Crossings`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.passes import Crossings

_LEAST = 1e-10


@style.context()
def above(result: Crossings, ax: Axes) -> dict[str, Any]:
    """The artists "line" and "finders": heights above the pass, a row for each pair of minima.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    rows = np.arange(len(result.pairs))
    artists: dict[str, Any] = {"finders": []}
    (artists["line"],) = ax.plot(
        np.maximum(result.line - result.lowest, _LEAST), rows, "|", color=style.BLACK,
        markersize=10, linestyle="none", label="straight line",
    )  # fmt: skip
    count = len(result.finders)
    for k, (name, row) in enumerate(zip(result.finders, result.above, strict=True)):
        artists["finders"] += ax.plot(
            np.maximum(row, _LEAST), rows + 0.6 * ((k + 0.5) / count - 0.5), "osD^v"[k % 5],
            color=f"C{k}", markersize=3.5, linestyle="none", label=name,
        )  # fmt: skip
    ax.axvline(1e-3, color=style.GREY, linewidth=0.7, zorder=0)
    ax.set_xscale("log")
    names = [f"{result.names[int(i)]} - {result.names[int(j)]}" for i, j in result.pairs]
    ax.set_yticks(rows, names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"height above the pass (at least {_LEAST:g})")
    return artists


@picture("above", Crossings)
def _above(result: Crossings) -> Figure | None:
    if not len(result.pairs):
        return None
    figure = style.new_figure(5.6, 1.7 + 0.27 * len(result.pairs))
    above(result, ax := figure.subplots())
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    style.note(figure, result.function, "line: 0.001")
    return figure
