"""The loss along one direction: the picture of a `Line`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures import style
from landscape.results import Line


@style.context()
def draw(result: Line, ax: Axes, *, label: str = "") -> dict[str, Any]:
    """The artists "loss", "center" and "gaps" of the loss against the step along the direction.

    The vertical axis is logarithmic where the losses are positive and wide apart. Steps at which
    the loss is not finite are hatched.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        label: name of the curve, for axes that hold several.
    """
    finite = np.isfinite(result.loss)
    ax.set(xlabel=style.step("α", result.direction), ylabel="loss")
    ax.set_xlim(style.ends(style.edges(result.alpha) if len(result.alpha) < 2 else result.alpha))
    artists: dict[str, Any] = {"gaps": _gaps(result.alpha, finite, ax)}
    if not finite.any():
        return artists | {"message": style.message(ax, "no finite loss")}
    # A line joins two points; one that has no finite neighbour needs a marker to be seen.
    few = len(result.alpha) <= 30 or _lonely(finite)
    loss = np.where(finite, result.loss, np.nan)
    look: dict[str, Any] = {"marker": "o" if few else "none", "markersize": 3.5}
    (artists["loss"],) = ax.plot(result.alpha, loss, label=label, **look)
    handles = [artists["loss"]] if label else []
    left, right = ax.get_xlim()
    if left <= 0 <= right and np.isfinite(result.center):
        text = f"the point: loss {style.number(result.center)}"
        artists["center"] = style.cross(ax, 0.0, result.center, text)
        handles.append(artists["center"])
    style.scale(ax, "y", np.append(loss, result.center))
    style.legend_above(ax, handles + ([] if finite.all() else [style.not_finite()]))
    return artists


def _lonely(finite: np.ndarray) -> bool:
    padded = np.concatenate([[False], finite, [False]])
    return bool((finite & ~padded[:-2] & ~padded[2:]).any())


def _gaps(alpha: np.ndarray, finite: np.ndarray, ax: Axes) -> list[Any]:
    """The hatched spans around the steps whose loss is not finite, neighbours joined."""
    borders = style.edges(alpha)
    change = np.diff(np.concatenate([[0], ~finite, [0]]).astype(int))
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    look: dict[str, Any] = {"facecolor": style.PALE, "edgecolor": style.STROKES, "linewidth": 0}
    return [
        ax.axvspan(borders[start], borders[stop], hatch=style.HATCH, zorder=0, **look)
        for start, stop in zip(starts, stops, strict=True)
    ]
