"""Complete figures of slices of a loss: lines and planes."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from figures import line, style, surface
from figures.picture import count, picture, statistics
from landscape.results import Line, Lines, Surface


@picture("line", Line)
def _line(result: Line) -> Figure:
    figure = style.new_figure(5.2, 3.6)
    line.draw(result, figure.add_subplot())
    style.note(figure, count(result.loss, "point"), statistics(result))
    return figure


@picture("lines", Lines)
def _lines(result: Lines) -> Figure:
    figure = style.new_figure(5.2, 3.6)
    line.spread(result, figure.add_subplot())
    style.note(figure, count(result.loss, "point"), statistics(result))
    return figure


@picture("contour", Surface)
def _contour(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.contour(result, figure.add_subplot())
    style.note(figure, *_grid(result), statistics(result))
    return figure


@picture("heat", Surface)
def _heat(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.heat(result, figure.add_subplot())
    style.note(figure, *_grid(result), statistics(result))
    return figure


@picture("relief", Surface)
def _relief(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.relief(result, figure.add_subplot(projection="3d"))
    first, second = (name or "its direction" for name in result.directions)
    steps = f"multiples of {first} (α) and {second} (β)"
    style.note(figure, steps, *_grid(result), statistics(result))
    return figure


@picture("metrics", Line, Surface)
def _metrics(result: Line | Surface) -> Figure | None:
    """One panel for whatever else is known at the points of a slice; None if nothing is."""
    if not (others := _others(result)):
        return None
    wide = min(len(others), 2)
    high = -(-len(others) // wide)
    figure = style.new_figure(0.6 + 4.6 * wide, 0.6 + 3.4 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for ax, (name, values) in zip(axes, others.items(), strict=False):
        if isinstance(result, Surface):
            instead = replace(result, loss=values, center=float("nan"))
            surface.heat(instead, ax, quantity=name.replace("_", " "))
        else:
            plain = replace(result, loss=values, center=float("nan"), standard_error=None)
            line.draw(plain, ax, quantity=name.replace("_", " "))
    for ax in axes[len(others) :]:
        ax.remove()
    style.note(figure, statistics(result))
    return figure


def _others(result: Line | Surface) -> dict[str, np.ndarray]:
    """What else is known at every point, by name: metrics and, for a plane, standard errors."""
    found = {}
    if isinstance(result, Surface) and result.standard_error is not None:
        found["standard error of the loss"] = result.standard_error
    if result.metric_values is not None:
        found |= dict(zip(result.metrics, result.metric_values, strict=True))
    return found


def _grid(result: Surface) -> tuple[str, ...]:
    rows, columns = result.loss.shape
    text = f"{rows} × {columns} grid, {count(result.loss, 'point')}"
    if result.evaluated is None or result.evaluated.all():
        return (text,)
    error = style.number(100 * result.interpolation_error, 2)
    span = "range of log loss" if result.provenance.get("scale") == "log" else "range"
    measured = f"{text}, {result.evaluated.sum():,} measured"
    checked = style.plural(int(result.provenance.get("checked", 0)), "checked cell")
    return measured, f"others interpolated (largest error of {checked}: {error} % of the {span})"
