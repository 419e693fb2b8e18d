"""Where valleys begin and where they meet: pictures of `MergeTree`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.topology import MergeTree

_MOST = 40


@style.context()
def barcode(result: MergeTree, ax: Axes, most: int = _MOST) -> dict[str, Any]:
    """The artists "bar", one for each minimum, those of the longest bars.

    A bar goes from the loss at the minimum to where its valley meets a lower one; an arrow says
    that it never does.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        most: bars that are drawn.
    """
    shown, end = _longest(result, most), _ceiling(result)
    artists: dict[str, Any] = {"bar": []}
    for place, k in enumerate(shown):
        finite = np.isfinite(result.death[k])
        color = f"C{0 if finite else 1}"
        last = result.death[k] if finite else end
        artists["bar"] += ax.plot(
            [result.birth[k], last], [place, place], color=color, linestyle="-", linewidth=2.5,
            solid_capstyle="butt",
        )  # fmt: skip
        ax.plot(result.birth[k], place, "o", color=color, markersize=4)
        ax.plot(last, place, "|" if finite else ">", color=color, markersize=6)
    names = [result.names[k] for k in shown]
    few = len(shown) <= 20
    ax.set_yticks(range(len(shown)) if few else [], names if few else [])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel("loss")
    ax.set_ylabel("minimum")
    return artists


@style.context()
def disconnectivity(result: MergeTree, ax: Axes, most: int = _MOST) -> dict[str, Any]:
    """The artists "branch", one for each minimum: which valleys are one at which height.

    A branch ends at the loss of its minimum, and joins the others where their valleys meet.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        most: minima that are drawn, those of the longest bars.
    """
    shown = set(_longest(result, most).tolist())
    across, end = _places(result, shown), _ceiling(result)
    artists: dict[str, Any] = {"branch": []}
    for k in sorted(shown):
        finite = np.isfinite(result.death[k])
        top = result.death[k] if finite else end
        color = style.BLACK if finite else "C1"
        artists["branch"] += ax.plot(
            [across[k], across[k]], [result.birth[k], top], color=color, linestyle="-", linewidth=1
        )
        ax.plot(across[k], result.birth[k], "o", color=color, markersize=3.5)
        if finite:
            ends = [across[k], across[int(result.into[k])]]
            ax.plot(ends, [top, top], color=style.BLACK, linestyle="-", linewidth=1)
        else:
            ax.plot(across[k], top, "^", color=color, markersize=5)
    names = sorted(shown, key=lambda k: across[k])
    if len(names) <= 12:
        ax.set_xticks(range(len(names)), [result.names[k] for k in names])
        ax.tick_params(axis="x", rotation=0 if len(names) <= 3 else 60)
    else:
        ax.set_xticks([])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_xlabel("minimum")
    ax.set_ylabel("loss")
    return artists


def _longest(result: MergeTree, most: int) -> np.ndarray:
    """The minima with the longest bars, in ascending order of their loss."""
    return np.sort(np.argsort(-result.persistence, kind="stable")[:most])


def _ceiling(result: MergeTree) -> float:
    """Up to where what never ends is drawn."""
    finite = result.death[np.isfinite(result.death)]
    low, high = result.birth.min(), max(finite.max(initial=-np.inf), result.birth.max())
    return high + 0.1 * ((high - low) or abs(high) or 1.0)


def _places(result: MergeTree, shown: set[int]) -> dict[int, int]:
    """Where each branch stands, so that none crosses another: what joins it last is farthest."""
    joined: dict[int, list[int]] = {k: [] for k in shown}
    for k in sorted(shown, key=lambda k: result.death[k]):
        if np.isfinite(result.death[k]):
            joined[int(result.into[k])].append(k)
    order: list[int] = []
    waiting = sorted((k for k in shown if not np.isfinite(result.death[k])), reverse=True)
    while waiting:
        k = waiting.pop()
        order.append(k)
        waiting += reversed(joined[k])
    return {k: place for place, k in enumerate(order)}


@picture("barcode", MergeTree)
def _barcode(result: MergeTree) -> Figure:
    count = min(len(result.birth), _MOST)
    figure = style.new_figure(5.2, 1.2 + 0.22 * max(count, 3))
    barcode(result, figure.subplots())
    style.note(figure, *_notes(result))
    return figure


@picture("disconnectivity", MergeTree)
def _disconnectivity(result: MergeTree) -> Figure | None:
    if len(result.birth) < 2:
        return None
    figure = style.new_figure(max(4.0, 1.5 + 0.2 * min(len(result.birth), _MOST)), 3.6)
    disconnectivity(result, figure.subplots())
    style.note(figure, *_notes(result))
    return figure


def _notes(result: MergeTree) -> list[str]:
    """What is not drawn, and what the landscape is."""
    more = len(result.birth) - _MOST
    said = [f"{result.source}; {len(result.birth)} minima"]
    said += [f"the {_MOST} longest bars"] if more > 0 else []
    said += [result.left_out] if result.dropped else []
    return said
