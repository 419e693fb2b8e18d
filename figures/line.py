"""The loss along one direction and along several: the pictures of a `Line` and of `Lines`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures import style
from landscape.results import Line, Lines

_ERRORS = 2.0
# More curves than this say no more than their band.
_CURVES = 12


@style.context()
def draw(result: Line, ax: Axes, *, label: str = "", quantity: str = "loss") -> dict[str, Any]:
    """The artists "loss", "band", "center" and "gaps" of the loss against the step.

    The vertical axis is logarithmic where the losses are positive and wide apart. The band, where
    standard errors are known, reaches two of them up and down. Steps at which the loss is not
    finite are hatched.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        label: name of the curve, for axes that hold several.
        quantity: what stands in the place of the loss.
    """
    finite = np.isfinite(result.loss)
    artists = _frame(result, finite, ax)
    ax.set_ylabel(quantity)
    if not finite.any():
        return artists | {"message": style.message(ax, f"no finite {quantity}")}
    loss = np.where(finite, result.loss, np.nan)
    (artists["loss"],) = ax.plot(result.alpha, loss, label=label, **_marker(finite))
    handles = [artists["loss"]] if label else []
    if result.standard_error is not None:
        reach = _ERRORS * result.standard_error
        text = f"± {_ERRORS:g} standard errors over batches"
        colour = artists["loss"].get_color()
        artists["band"] = _band(result.alpha, loss - reach, loss + reach, text, ax, colour)
        handles.append(artists["band"])
    return artists | _finished(result, loss, finite, handles, ax)


@style.context()
def spread(result: Lines, ax: Axes) -> dict[str, Any]:
    """The artists "mean", "band", "curves", "center" and "gaps" of several directions of one kind.

    The band reaches from the least to the largest loss over the directions; the curves themselves
    are thin. Steps at which the loss is not finite along some direction are hatched.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    finite = np.isfinite(result.loss).all(axis=0)
    artists = _frame(result, finite, ax)
    if not np.isfinite(result.loss).any():
        return artists | {"message": style.message(ax, "no finite loss")}
    curves = np.where(np.isfinite(result.loss), result.loss, np.nan)
    mean, low, high = (np.where(finite, v, np.nan) for v in (result.mean, result.low, result.high))
    count = len(result.loss)
    text = f"range of {count} directions"
    artists["band"] = _band(result.alpha, low, high, text, ax, style.BLUE)
    look: dict[str, Any] = {"color": style.BLUE, "linewidth": 0.5, "linestyle": "-", "alpha": 0.6}
    if count <= _CURVES:
        artists["curves"] = ax.plot(result.alpha, curves.T, **look)
    bold: dict[str, Any] = _marker(finite) | {
        "color": style.BLUE,
        "linestyle": "-",
        "label": "mean",
    }
    (artists["mean"],) = ax.plot(result.alpha, mean, **bold)
    handles = [artists["mean"], artists["band"]]
    return artists | _finished(result, curves, finite, handles, ax)


def _frame(result: Line | Lines, finite: np.ndarray, ax: Axes) -> dict[str, Any]:
    ax.set(xlabel=style.step("α", result.direction), ylabel="loss")
    ax.set_xlim(style.ends(style.edges(result.alpha) if len(result.alpha) < 2 else result.alpha))
    return {"gaps": _gaps(result.alpha, finite, ax)}


def _marker(finite: np.ndarray) -> dict[str, Any]:
    # A line joins two points; one that has no finite neighbour needs a marker to be seen.
    few = len(finite) <= 30 or _lonely(finite)
    return {"marker": "o" if few else "none", "markersize": 3.5}


def _band(
    alpha: np.ndarray, low: np.ndarray, high: np.ndarray, label: str, ax: Axes, colour: str
) -> Any:
    look: dict[str, Any] = {"color": colour, "alpha": 0.18, "linewidth": 0, "zorder": 1}
    return ax.fill_between(alpha, low, high, label=label, **look)


def _finished(
    result: Line | Lines, loss: np.ndarray, finite: np.ndarray, handles: list[Any], ax: Axes
) -> dict[str, Any]:
    """The mark of the point itself, the vertical scale and the legend."""
    artists: dict[str, Any] = {}
    left, right = ax.get_xlim()
    if left <= 0 <= right and np.isfinite(result.center):
        text = f"the point: loss {style.number(result.center)}"
        artists["center"] = style.cross(ax, 0.0, result.center, text)
        handles = [*handles, artists["center"]]
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
