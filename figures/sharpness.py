"""Flatness measures of points, and how they go with generalisation: `Panel` and `Flatness`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from figures import style
from landscape.results import Flatness, Panel

_MARKS = "os^DvPX*"
_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)


def units(results: Sequence[Panel]) -> dict[str, list[str]]:
    """The measures that have a value at some point, by their unit, in the order of the panels."""
    found: dict[str, list[str]] = {}
    for result in results:
        for name, unit, value in zip(result.measures, result.units, result.value, strict=True):
            if not np.isnan(value) and name not in found.setdefault(unit, []):
                found[unit].append(name)
    return {unit: names for unit, names in found.items() if names}


@style.context()
def panels(results: Mapping[str, Panel], axes: Sequence[Axes]) -> dict[str, Any]:
    """The artists by point: values with what is known of their errors, one row a measure.

    A bar is a proven range or a 95 % interval, an arrow to the right a lower bound. A hollow mark
    is no larger than the noise of the loss. Measures of one unit share an axis. Infinite values
    stand at the right edge.

    Args:
        results: the panels by the name of their point.
        axes: one for each of `units`, where they are drawn.
    """
    artists: dict[str, Any] = {name: [] for name in results}
    for ax, (unit, names) in zip(axes, units(list(results.values())).items(), strict=True):
        place = {name: row for row, name in enumerate(names)}
        columns = [_columns(result, place) for result in results.values()]
        everything = np.concatenate([column[1] for column in columns])
        style.scale(ax, "x", everything, signed="symlog")
        if ax.get_xscale() == "linear":
            # Numbers in full: an offset in a corner is read by nobody.
            ax.ticklabel_format(axis="x", useOffset=False)
            ax.locator_params(axis="x", nbins=6)
        step = 0.6 / max(len(results), 1)
        for k, (name, column) in enumerate(zip(results, columns, strict=True)):
            offset = step * (k - (len(results) - 1) / 2)
            look = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
            artists[name] += _strip(ax, column, offset, name, look)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", color=style.PALE, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel(unit)
        ax.margins(x=0.1)
    return artists


@style.context()
def tau(result: Flatness, ax: Axes) -> dict[str, Any]:
    """The artists "all" and "within": Kendall's tau-b with the gap, one row a measure.

    Bars are bootstrap intervals. Filled marks are measures that say something after correction for
    all of them.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    (kept,) = np.nonzero(np.isfinite(result.tau))
    ax.set(xlabel="Kendall's τ with the gap", xlim=(-1.08, 1.08))
    if not len(kept):
        ax.set_yticks([])
        return {"message": style.message(ax, "no measure has a correlation")}
    kept = kept[np.argsort(-result.tau[kept], kind="stable")]
    place = np.arange(len(kept))
    artists: dict[str, Any] = {"zero": ax.axvline(0, color=style.GREY, linewidth=0.7)}
    several = len(np.unique(result.group)) > 1
    kinds = [("all", result.tau, result.tau_low, result.tau_high, "over all points")]
    if several and np.isfinite(result.within[kept]).any():
        ends = result.within_low, result.within_high
        kinds.append(("within", result.within, *ends, "within groups"))
    for k, (name, middle, low, high, label) in enumerate(kinds):
        colour, mark = _COLOURS[k], _MARKS[k]
        height = place + 0.18 * (2 * k - 1) * (len(kinds) - 1)
        error = [np.nan_to_num(np.abs(middle - end)[kept]) for end in (low, high)]
        look: dict[str, Any] = {"linestyle": "none", "color": colour, "capsize": 2.5}
        look |= {"marker": mark, "markerfacecolor": "white", "label": label, "elinewidth": 1.1}
        artists[name] = ax.errorbar(middle[kept], height, xerr=error, **look)
        if name == "all" and result.says[kept].any():
            loud = result.says[kept]
            face: dict[str, Any] = {"linestyle": "none", "color": colour, "marker": mark}
            (artists["says"],) = ax.plot(
                middle[kept][loud], height[loud], **face, zorder=4, label="says something"
            )
    labels = [f"{result.measures[i]} (n = {result.count[i]})" for i in kept]
    ax.set_yticks(place, labels)
    ax.set_ylim(len(kept) - 0.5, -0.5)
    handles = [artists[name] for name in ("all", "within", "says") if name in artists]
    style.legend_above(ax, handles if len(handles) > 1 else [])
    return artists


@style.context()
def gaps(result: Flatness, axes: np.ndarray) -> dict[str, Any]:
    """The artists by measure: its value at each point against the gap, with its errors.

    Colours and marks are runs, up to six of them. Points whose measure is not finite are left out.

    Args:
        result: what is drawn.
        axes: (k,), at least as many as measures with a finite value; the others are hidden.
    """
    artists: dict[str, Any] = {}
    spare = iter(axes)
    one = not by_run(result)
    for k in shown(result):
        ax = next(spare)
        finite = np.isfinite(result.value[:, k]) & np.isfinite(result.gap)
        style.scale(ax, "y", result.value[finite, k], signed="symlog")
        artists[result.measures[k]] = [
            _run(
                result,
                k,
                finite & (result.run == run),
                ax,
                0 if one else number,
                _named(result, run),
            )
            for number, run in enumerate(np.unique(result.run))
            if (finite & (result.run == run)).any()
        ]
        ax.set_title(style.wrap(result.measures[k], 1.9))
        ax.set_ylabel(result.units[k], fontsize=style.SMALL)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.margins(0.12)
    for ax in spare:
        ax.set_visible(False)
    return artists


def by_run(result: Flatness) -> bool:
    """Whether runs have marks of their own: there are several, and enough marks."""
    return 1 < len(np.unique(result.run)) <= len(_COLOURS)


def shown(result: Flatness) -> list[int]:
    """The measures that are finite at some point with a finite gap."""
    known = np.isfinite(result.value) & np.isfinite(result.gap)[:, None]
    return np.flatnonzero(known.any(axis=0)).tolist()


def _named(result: Flatness, run: int) -> str:
    """What a run is called."""
    return result.runs[run] if run < len(result.runs) else str(run)


def _run(
    result: Flatness, k: int, chosen: np.ndarray, ax: Axes, number: int, name: str
) -> Any:  # fmt: skip
    value = result.value[chosen, k]
    low, high = (end[chosen, k] for end in (result.low, result.high))
    error = [_length(value, low), _length(value, high)]
    look: dict[str, Any] = {"linestyle": "none", "markersize": 4, "elinewidth": 0.8}
    look |= {"color": _COLOURS[number], "marker": _MARKS[number]}
    return ax.errorbar(result.gap[chosen], value, yerr=error, label=name, **look)


def _columns(result: Panel, place: Mapping[str, int]) -> tuple[np.ndarray, ...]:
    """Rows, values, lower and upper ends, whether resolved, of the measures that are drawn here."""
    (chosen,) = np.nonzero([
        name in place and not np.isnan(value)
        for name, value in zip(result.measures, result.value, strict=True)
    ])
    rows = np.array([place[result.measures[i]] for i in chosen], dtype=float)
    resolved = np.array([result.kinds[i] != "unresolved" for i in chosen], dtype=bool)
    return rows, result.value[chosen], result.low[chosen], result.high[chosen], resolved


def _strip(
    ax: Axes, column: tuple[np.ndarray, ...], offset: float, name: str, look: dict[str, Any]
) -> list[Any]:
    rows, value, low, high, resolved = column
    rows, finite = rows + offset, np.isfinite(value)
    drawn: list[Any] = []
    for chosen, label, face in (
        (finite & resolved, name, look["color"]),
        (finite & ~resolved, f"_{name}", "white"),
    ):
        if label == name or chosen.any():
            error = [_length(value, low)[chosen], _length(value, high)[chosen]]
            drawn.append(ax.errorbar(
                value[chosen], rows[chosen], xerr=error, linestyle="none", label=label,
                capsize=2.0, elinewidth=1.0, markerfacecolor=face, **look,
            ))  # fmt: skip
    aside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": look["color"]}
    bound = finite & resolved & np.isinf(high)
    for x, y in zip(value[bound], rows[bound], strict=True):
        drawn.append(ax.annotate("→", (x, y), xytext=(5, 0), fontsize=style.SMALL, **aside))
    for y in rows[~finite]:
        edge: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 0)}
        drawn.append(ax.annotate("∞", (1.0, y), ha="right", **edge, **aside))
    return drawn


def _length(value: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The lengths of error bars: none where an end is not known."""
    known = np.isfinite(value) & np.isfinite(end)
    return np.where(known, np.abs(np.where(known, value, 0.0) - np.where(known, end, 0.0)), 0.0)
