"""Complete figures of flatness measures, of one point or several."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import legends, sharpness, style
from figures.picture import picture
from landscape.results import Flatness, Panel

_COLUMNS = 4


@style.context()
def panels(results: Mapping[str, Panel]) -> Figure:
    """One figure of the flatness measures of several points.

    Args:
        results: the panels by the name of their point, at least one.

    Raises:
        ValueError: if there is no panel.
    """
    if not results:
        raise ValueError("at least one panel is needed, got none")
    groups = sharpness.units(list(results.values()))
    count = len(results)
    heights = [max(1.6, len(names) * max(1.0, 0.5 * count)) for names in groups.values()]
    figure = style.new_figure(5.6, 1.1 + 0.30 * sum(heights) + 0.42 * len(groups))
    if not groups:
        style.message(figure.add_subplot(), "no measure has a value")
        return figure
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    artists = sharpness.panels(results, list(axes))
    handles: list[Any] = [drawn[0] for drawn in artists.values() if drawn and count > 1]
    handles.append(Line2D([], [], linestyle="none", marker="$→$", color=style.GREY,
                          label="lower bound"))  # fmt: skip
    if any("unresolved" in result.kinds for result in results.values()):
        handles.append(Line2D([], [], linestyle="none", marker="o", color=style.GREY,
                              markerfacecolor="white", label="below the noise"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    first = next(iter(results.values()))
    where = f"loss {style.number(first.loss)}" if count == 1 else style.plural(count, "point")
    missing = sum(kind == "none" for kind in first.kinds)
    lost = f"{missing} of {len(first.kinds)} measures not defined" if missing else ""
    statistics = f"BatchNorm statistics: {first.statistics}" if first.statistics else ""
    style.note(figure, where, f"{first.dim:,} parameters", lost, statistics)
    return figure


@picture("panel", Panel)
def _panel(result: Panel) -> Figure:
    return panels({"": result})


@picture("tau", Flatness)
def _tau(result: Flatness) -> Figure:
    rows = int(np.isfinite(result.tau).sum())
    figure = style.new_figure(6.0, 1.5 + 0.26 * max(rows, 4))
    sharpness.tau(result, figure.add_subplot())
    intervals = f"{100 * result.confidence:g} % intervals by bootstrap over {result.resampled}"
    style.note(figure, *_where(result), intervals)
    return figure


@picture("gaps", Flatness)
def _gaps(result: Flatness) -> Figure:
    count = max(1, len(sharpness.shown(result)))
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = style.new_figure(0.6 + 2.1 * columns, 0.8 + 1.85 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    artists = sharpness.gaps(result, axes)
    if not artists:
        axes[0].set_visible(True)
        style.message(axes[0], "no measure has a finite value")
    what = "loss" if result.criterion == "loss" else result.criterion
    sign = f"{result.split} − training" if what == "loss" else f"training − {result.split}"
    figure.supxlabel(f"generalisation gap of the {what} ({sign})", fontsize=9.0)
    style.note(figure, *_where(result))
    if artists and sharpness.by_run(result):
        handles = [drawn for drawn in max(artists.values(), key=len)]
        legends.fitted(
            figure, handles, figure.get_figwidth(), loc="outside lower center", title="run"
        )
        legends.make_room(figure)
    return figure


def _where(result: Flatness) -> tuple[str, str]:
    """How many points, of how many independent trainings where that is known, and runs."""
    points = style.plural(len(result.points), "point")
    if result.training is not None:
        trainings = style.plural(len(np.unique(result.training)), "independent training")
        points = f"{points} of {trainings}"
    return points, style.plural(len(result.runs), "run")
