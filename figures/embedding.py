"""Points of a large space in two coordinates: pictures of `Embedding`."""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.embedding import Embedding

_MARKERS = "osD^vP"
_WIDTH = 18  # of a line of a group's name


@style.context()
def scatter(
    result: Embedding, ax: Axes, first: int = 0, second: int = 1, *, tell: bool = True
) -> dict[str, Any]:
    """The artists "group", one for each group, and "new" where points were projected.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        first: the component along the horizontal axis.
        second: the one along the vertical axis.
        tell: whether groups have a legend.
    """
    artists: dict[str, Any] = {"group": []}
    for k, name in enumerate(result.groups):
        x, y = result.coordinates[result.group == k][:, [first, second]].T
        artists["group"] += ax.plot(
            x, y, _MARKERS[k % len(_MARKERS)], color=f"C{k}", label=fill(name, _WIDTH), alpha=0.8,
            markeredgewidth=0,
        )  # fmt: skip
    if result.new is not None:
        x, y = result.new[:, [first, second]].T
        artists["new"] = ax.plot(
            x, y, "o", markerfacecolor="none", color=style.BLACK, label="projected"
        )[0]
    for side, component in (("x", first), ("y", second)):
        share = 100 * result.explained[component]
        getattr(ax, f"set_{side}label")(f"component {component + 1} ({share:.3g} %)")
    if tell and (len(result.groups) > 1 or result.new is not None):
        ax.legend(loc="best")
    return artists


@style.context()
def radii(result: Embedding, ax: Axes) -> dict[str, Any]:
    """The artists "group": how far each point is from the origin, a row for each group.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"group": []}
    for k in range(len(result.groups)):
        own = result.radius[result.group == k]
        artists["group"] += ax.plot(
            own, np.full(len(own), k), _MARKERS[k % len(_MARKERS)], color=f"C{k}", alpha=0.6,
            markeredgewidth=0,
        )  # fmt: skip
        ax.plot(np.median(own), k, "|", color=style.BLACK, markersize=14)
    ax.set_yticks(range(len(result.groups)), [fill(name, _WIDTH) for name in result.groups])
    ax.set_ylim(len(result.groups) - 0.5, -0.5)
    ax.set_xlabel("distance from the origin (line: median)")
    ax.set_ylabel("group")
    return artists


@picture("embedding", Embedding)
def _embedding(result: Embedding) -> Figure | None:
    if result.coordinates.shape[1] < 2:
        return None
    several = len(result.groups) > 1
    figure = style.new_figure(8.0 if several else 4.6, 3.6)
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    scatter(result, axes[0])
    if several:
        radii(result, axes[1])
    kernel = f"kernel exp(-γ|x − y|²), γ = {result.gamma:.3g}" if result.kind == "rbf" else "PCA"
    style.note(figure, f"{kernel}; {len(result.names)} points of {result.dim} numbers")
    return figure
