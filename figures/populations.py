"""Trajectories of several methods on several tasks: pictures of `Populations`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.populations import Populations

_SETS: tuple[dict[str, Any], ...] = (
    {"color": style.BLUE, "marker": "o"},
    {"color": style.VERMILION, "marker": "s", "markerfacecolor": "none"},
    {"color": style.GREY, "marker": "^", "markerfacecolor": "none"},
)


@style.context()
def trajectories(
    result: Populations, setting: int, task: int, quantity: str, ax: Axes
) -> dict[str, Any]:
    """The artists "sets": means of the trajectories of every method, a mark for each and set.

    Args:
        result: what is drawn; its first view.
        setting: the place of the setting.
        task: the place of the task.
        quantity: which of its quantities.
        ax: where it is drawn.
    """
    artists: dict[str, Any] = {"sets": []}
    value = result.value[0, setting, task, ..., result.quantities.index(quantity)]
    for k, (name, look) in enumerate(zip(result.sets, _SETS, strict=True)):
        means = np.array([[_mean(row) for row in method] for method in value[:, :, k]])
        shift = 0.24 * (k - 1) + np.linspace(-0.08, 0.08, means.shape[1])
        places = np.arange(len(means))[:, None] + shift
        artists["sets"] += ax.plot(
            places.ravel(), means.ravel(), linestyle="none", markersize=3.5, label=name, **look
        )
    ax.set_xticks(range(len(result.methods)), result.methods, rotation=40, ha="right")
    ax.set_xlim(-0.6, len(result.methods) - 0.4)
    ax.set_ylabel(quantity)
    ax.set_title(f"{result.tasks[task]}, {result.settings[setting]}")
    return artists


@style.context()
def p_values(result: Populations, table: str, ax: Axes) -> dict[str, Any]:
    """The artists "published", "pooled" and "exact": p values of a table, by comparison.

    Args:
        result: what is drawn; its first view.
        table: which of its tables.
        ax: where it is drawn.
    """
    at = [k for k, name in enumerate(result.table) if name == table]
    rows = np.arange(len(at))
    artists: dict[str, Any] = {}
    looks: tuple[tuple[str, np.ndarray, dict[str, Any]], ...] = (
        ("published", result.published, {"color": style.GREY, "marker": "x"}),
        ("pooled", result.pooled[0], {"color": style.VERMILION, "marker": "s"}),
        ("exact", result.exact[0], {"color": style.BLUE, "marker": "o"}),
    )
    names = {"published": "as published", "pooled": "ours, points pooled",
             "exact": "ours, trajectories permuted"}  # fmt: skip
    for name, column, look in looks:
        shown = np.maximum(column[at], 1e-6)
        (artists[name],) = ax.plot(
            shown, rows, linestyle="none", markersize=4, label=names[name], **look
        )
    ax.axvline(1 - result.confidence, color=style.GREY, linewidth=0.7, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(right=1.5)
    labels = [f"{result.row_task[k]}, {result.row_compared[k]}" for k in at]
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(at) - 0.5, -0.5)
    ax.set_xlabel("p value")
    head, _, what = table.partition(": ")
    ax.set_title(f"{head}\n{what}")
    return artists


def _mean(row: np.ndarray) -> float:
    known = row[np.isfinite(row)]
    return float(known.mean()) if known.size else np.nan


@picture("scores", Populations)
def _scores(result: Populations) -> Figure:
    columns, rows = len(result.tasks), len(result.settings)
    figure = style.new_figure(max(4.4, 3.6 * columns), 1.0 + 2.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for s in range(rows):
        for t in range(columns):
            trajectories(result, s, t, "test score", axes[s, t])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    style.note(figure, "a mark is the mean of a trajectory's points", result.views[0])
    return figure


@picture("p-values", Populations)
def _p_values(result: Populations) -> Figure:
    tables = list(dict.fromkeys(result.table))
    count = max(result.table.count(name) for name in tables)
    columns = min(4, len(tables))
    rows = -(-len(tables) // columns)
    figure = style.new_figure(3.4 * columns, rows * (1.2 + 0.2 * count) + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, name in zip(axes.flat, tables, strict=False):
        p_values(result, name, ax)
    for ax in axes.flat[len(tables) :]:
        ax.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    style.note(figure, result.views[0], f"line: {1 - result.confidence:.2g}, before any correction")
    return figure
