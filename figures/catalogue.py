"""Complete figures, ready to be saved: which ones there are for each kind of result."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import (
    demo,
    density,
    flatness,
    legends,
    line,
    population,
    recording,
    spectrum,
    style,
    surface,
    trace,
    trajectory,
)
from landscape.results import (
    Density,
    FiniteScaleTrace,
    Gradients,
    History,
    Line,
    Lines,
    Recording,
    Spectrum,
    Surface,
    Trajectory,
)


def figures_of(result: Any) -> dict[str, Figure]:
    """The figures of a result by name; none for a kind of result that has no picture.

    >>> sorted(FIGURES["Surface"])
    ['contour', 'heat', 'relief']
    """
    drawn = FIGURES.get(type(result).__name__, {})
    found = {name: _ready(draw(result)) for name, draw in drawn.items()}
    if isinstance(result, Line | Surface) and _others(result):
        found["metrics"] = _ready(_metrics(result))
    return found


def frames_of(result: Any) -> list[np.ndarray] | None:
    """The frames of the result's animation; None for a kind of result that has none."""
    draw = demo.FRAMES.get(type(result).__name__)
    return None if draw is None else draw(result)


def _ready(figure: Figure) -> Figure:
    for ax in figure.axes:
        # Ticks are made when they are first drawn, which may be under other settings than ours.
        ax.tick_params(labelsize=style.SMALL)
    return style.settle(figure)


@style.context()
def _line(result: Line) -> Figure:
    figure = style.new_figure(5.2, 3.6)
    line.draw(result, figure.add_subplot())
    style.note(figure, _count(result.loss, "point"), _statistics(result))
    return figure


@style.context()
def _metrics(result: Line | Surface) -> Figure:
    """One panel for whatever else is known at the points of a slice."""
    others = _others(result)
    wide = min(len(others), 2)
    high = -(-len(others) // wide)
    figure = style.new_figure(0.6 + 4.6 * wide, 0.6 + 3.4 * high)
    axes = figure.subplots(high, wide, squeeze=False).ravel()
    for ax, (name, values) in zip(axes, others.items(), strict=False):
        if isinstance(result, Surface):
            instead = replace(result, loss=values, center=float("nan"))
            surface.heat(instead, ax, quantity=name)
        else:
            plain = replace(result, loss=values, center=float("nan"), standard_error=None)
            line.draw(plain, ax, quantity=name)
    for ax in axes[len(others) :]:
        ax.remove()
    style.note(figure, _statistics(result))
    return figure


def _others(result: Line | Surface) -> dict[str, np.ndarray]:
    """What else is known at every point, by name: metrics and, for a plane, standard errors."""
    found = {}
    if isinstance(result, Surface) and result.standard_error is not None:
        found["standard error of the loss"] = result.standard_error
    if result.metric_values is not None:
        found |= dict(zip(result.metrics, result.metric_values, strict=True))
    return found


@style.context()
def _lines(result: Lines) -> Figure:
    figure = style.new_figure(5.2, 3.6)
    line.spread(result, figure.add_subplot())
    style.note(figure, _count(result.loss, "point"), _statistics(result))
    return figure


@style.context()
def _contour(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.contour(result, figure.add_subplot())
    style.note(figure, *_grid(result), _statistics(result))
    return figure


@style.context()
def _heat(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.heat(result, figure.add_subplot())
    style.note(figure, *_grid(result), _statistics(result))
    return figure


@style.context()
def _relief(result: Surface) -> Figure:
    figure = style.new_figure(5.4, 4.4)
    surface.relief(result, figure.add_subplot(projection="3d"))
    first, second = (name or "its direction" for name in result.directions)
    steps = f"multiples of {first} (α) and {second} (β)"
    style.note(figure, steps, *_grid(result), _statistics(result))
    return figure


@style.context()
def _spectrum(result: Spectrum) -> Figure:
    figure = style.new_figure(5.4, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    spectrum.draw(result, upper)
    spectrum.errors(result, lower)
    upper.set_xlabel("")
    which = _WHICH.get(result.which, result.which)
    found = f"{len(result.eigenvalues)} of {result.dim:,} eigenvalues ({which})"
    products = style.plural(result.products, "matrix-vector product")
    style.note(figure, found, products, result.status, _part(result), _statistics(result))
    return figure


@style.context()
def _density(result: Density) -> Figure:
    figure = style.new_figure(5.8, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    density.draw(result, upper)
    density.distribution(result, lower)
    upper.set_xlabel("")
    probes = f"{style.plural(result.probes, 'probe')} of {style.plural(result.steps, 'step')}"
    kernel = f"kernel width {style.number(result.width, 2)}"
    kernel += f" in asinh(λ / {style.number(result.unit, 2)})" if result.unit else " in λ"
    spread = f"{result.dim:,} eigenvalues"
    style.note(figure, spread, probes, kernel, _part(result), _statistics(result))
    return figure


@style.context()
def _ladder(result: FiniteScaleTrace) -> Figure:
    figure = style.new_figure(5.4, 3.9)
    trace.ladder(result, figure.add_subplot())
    directions = f"{style.plural(result.probes, 'direction')} in {result.dim:,} coordinates"
    distances = _count(result.estimate, "distance")
    style.note(figure, distances, directions, result.status, _statistics(result))
    return figure


@style.context()
def _gradients(result: Gradients) -> Figure:
    figure = style.new_figure(5.2, 4.0)
    spectrum.gradients(result, figure.add_subplot())
    sound = np.isfinite(result.loss) & np.isfinite(result.gradient_norm)
    members = _count(np.where(sound, result.loss, np.nan), "member")
    style.note(figure, members, _statistics(result))
    return figure


@style.context()
def compared(results: Mapping[str, History]) -> Figure:
    """The learning curves of several runs, by name, on one axis of evaluations."""
    figure = style.new_figure(8.4, 3.9)
    population.compared(results, figure.subplots(1, 2))
    legends.make_room(figure)
    members = {result.loss.shape[1] for result in results.values() if result.loss.ndim == 2}
    sizes = " or ".join(f"{count:,}" for count in sorted(members))
    style.note(figure, style.plural(len(results), "run"), f"{sizes} members each" if sizes else "")
    return _ready(figure)


@style.context()
def _history(result: History) -> Figure:
    figure = style.new_figure(7.2, 5.2)
    population.history(result, figure.subplots(2, 2), against="evaluations")
    last = np.isfinite(result.fitness[-1:])
    lost = "" if last.all() else f"{last.sum():,} of {last.size:,} members finite at the end"
    cost = style.plural(int(result.evaluations.max(initial=0)), "gradient evaluation")
    style.note(figure, f"{result.method} on {result.task}", cost, result.status, lost)
    return figure


@style.context()
def _recording(result: Recording) -> Figure:
    panels = [recording.sharpness]
    if np.isfinite(result.preconditioned).any():
        panels.append(recording.preconditioned)
    if np.isfinite(result.trace).any():
        panels.append(recording.trace)
    panels += [recording.loss, recording.gradient_norm]
    rows = -(-len(panels) // 2)
    figure = style.new_figure(7.6, 0.6 + 2.6 * rows)
    axes = figure.subplots(rows, 2).ravel()
    for draw, ax in zip(panels, axes, strict=False):
        draw(result, ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    cost = style.plural(int(result.products.sum()), "Hessian-vector product") + " for eigenvalues"
    found = style.plural(len(result.step), "record")
    style.note(figure, result.label, found, cost, result.status, _statistics(result))
    return figure


@style.context()
def _paths(result: Trajectory) -> Figure:
    figure = style.new_figure(7.6, 4.2)
    left, right = figure.subfigures(1, 2, width_ratios=[3, 2])
    trajectory.draw(result, left.add_subplot())
    upper, lower = right.subplots(2, 1, sharex=True)
    trajectory.loss(result, upper)
    trajectory.distance(result, lower)
    upper.set_xlabel("")
    legends.make_room(figure)
    explained = ""
    if np.isfinite(result.explained).all():
        shares = " + ".join(f"{100 * share:.3g}" for share in result.explained)
        explained = f"{shares} % of the variance lies in the plane"
    style.note(figure, style.plural(len(result.step), "point"), explained, _statistics(result))
    return figure


FIGURES: Mapping[str, Mapping[str, Callable[[Any], Figure]]] = MappingProxyType({
    "Line": {"line": _line},
    "Lines": {"lines": _lines},
    "Surface": {"contour": _contour, "heat": _heat, "relief": _relief},
    "Spectrum": {"spectrum": _spectrum},
    "Density": {"density": _density},
    "FiniteScaleTrace": {"ladder": _ladder},
    "Gradients": {"gradients": _gradients},
    "Recording": {"recording": _recording},
    "Trajectory": {"paths": _paths},
    "History": {"history": _history},
    **demo.FIGURES,
    **flatness.FIGURES,
})

_WHICH = {
    "LM": "largest by magnitude",
    "LA": "largest",
    "SA": "smallest",
    "BE": "both ends",
}


def _part(result: Any) -> str:
    """The layers that a matrix is restricted to; empty for all."""
    return f"parameters of {result.where}" if result.where else ""


def _statistics(result: Any) -> str:
    return f"BatchNorm statistics: {result.statistics}" if result.statistics else ""


def _grid(result: Surface) -> tuple[str, ...]:
    rows, columns = result.loss.shape
    text = f"{rows} × {columns} grid, {_count(result.loss, 'point')}"
    if result.evaluated is None or result.evaluated.all():
        return (text,)
    error = style.number(100 * result.interpolation_error, 2)
    span = "range of log loss" if result.provenance.get("scale") == "log" else "range"
    measured = f"{text}, {result.evaluated.sum():,} measured"
    checked = style.plural(int(result.provenance.get("checked", 0)), "checked cell")
    return measured, f"others interpolated (largest error of {checked}: {error} % of the {span})"


def _count(values: np.ndarray, thing: str) -> str:
    finite = np.isfinite(values).sum()
    return style.plural(values.size, thing) + (
        f", {finite:,} finite" if finite < values.size else ""
    )
