"""Complete figures of what methods do on test functions, and the moving one."""

import numpy as np
from matplotlib.figure import Figure

from figures import background, cycle, distribution, minima, style, walks
from figures.picture import animation, picture
from landscape.results import Cycle, Distribution, Maps, Stationary, Walks


@picture("map", Stationary)
def _map(result: Stationary) -> Figure:
    shape = 1.5
    if result.points.shape[1] == 2 and result.beta is not None:
        shape = float(np.ptp(result.alpha) / np.ptp(result.beta))
    figure = style.new_figure(float(np.clip(3.9 * shape, 2.6, 6.4)) + 2.5, 4.6)
    minima.map(result, figure.add_subplot())
    style.note(figure, *_restarts(result))
    return figure


@picture("shares", Stationary)
def _shares(result: Stationary) -> Figure:
    figure = style.new_figure(max(4.6, 0.32 * len(result.share)), 3.6)
    minima.shares(result, figure.add_subplot())
    style.note(figure, *_restarts(result))
    return figure


@picture("maps", Maps)
def _maps(result: Maps) -> Figure:
    shape = 1.3
    if result.points.shape[1] == 2 and result.beta is not None:
        shape = float(np.ptp(result.alpha) / np.ptp(result.beta))
    figure, axes = _panels(len(result.methods), 2.3 * float(np.clip(shape, 0.6, 1.6)), 2.5)
    background.maps(result, axes)
    restarts = style.plural(result.position.shape[1], "restart")
    style.note(figure, result.function, f"{restarts} of each method, from the same starts")
    return figure


@picture("shares", Distribution)
def _distribution(result: Distribution) -> Figure:
    size = len(result.methods), len(result.functions)
    widths = np.bincount(result.function).tolist()
    height = 1.05 if size[0] <= 8 else 0.75
    figure = style.new_figure(2.2 + 0.42 * len(result.outcomes), 1.4 + height * size[0])
    axes = figure.subplots(*size, squeeze=False, width_ratios=widths)
    distribution.shares(result, axes)
    style.note(figure, *_side_by_side(result))
    return figure


@picture("flattest", Distribution)
def _flattest(result: Distribution) -> Figure:
    figure = style.new_figure(1.8 + 3.0 * len(result.functions), 1.9 + 0.27 * len(result.methods))
    axes = figure.subplots(1, len(result.functions), squeeze=False)
    distribution.flattest(result, axes[0])
    style.note(figure, *_side_by_side(result))
    return figure


@picture("paths", Walks)
def _paths(result: Walks) -> Figure:
    figure, axes = _room(result)
    walks.paths(result, axes)
    style.note(figure, *_walked(result))
    return figure


@picture("curves", Walks)
def _curves(result: Walks) -> Figure:
    figure = style.new_figure(5.6, 4.0)
    walks.curves(result, figure.add_subplot())
    style.note(figure, *_walked(result))
    return figure


@picture("amplitude", Cycle)
def _cycle(result: Cycle) -> Figure:
    figure = style.new_figure(9.4, 4.9)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    cycle.path(result, left)
    cycle.amplitude(result, right)
    style.note(
        figure,
        f"SAM on {result.function} beside its minimum {result.minimum}",
        f"ρ = {style.number(result.rho)}",
        f"η = {style.number(result.lr)}",
        f"l = λ₁ = {style.number(result.eigenvalues[0])}",
    )
    return figure


@animation(Walks)
def moving(result: Walks) -> list[np.ndarray]:
    """The frames of the paths as they grow."""
    figure, axes = _room(result)
    figure.set_dpi(100)
    style.note(figure, *_walked(result)[:2])
    return walks.frames(result, figure, axes)


def _room(result: Walks) -> tuple[Figure, np.ndarray]:
    shape = float(np.ptp(result.alpha) / np.ptp(result.beta))
    return _panels(len(result.methods), 2.9 * float(np.clip(shape, 0.6, 1.6)), 3.1)


def _panels(count: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with so many axes, as nearly square as whole rows of at most four allow."""
    columns = min(count, 4 if count > 4 else 2)
    rows = -(-count // columns)
    figure = style.new_figure(max(4.4, 0.6 + width * columns), 1.2 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.remove()
    return figure, grid[:count]


def _restarts(result: Stationary) -> tuple[str, ...]:
    return (
        f"{result.function}, {result.method}",
        style.plural(result.restarts, "restart"),
        style.plural(result.evaluations, "gradient evaluation"),
        result.status,
    )


def _walked(result: Walks) -> tuple[str, ...]:
    return (
        result.function,
        style.plural(result.position.shape[2], "member") + " of each method from the same starts",
        style.plural(int(result.evaluations[-1]), "gradient evaluation") + " each",
        result.settings,
    )


def _side_by_side(result: Distribution) -> tuple[str, ...]:
    ends = result.evaluations.min(), result.evaluations.max()
    costs = dict.fromkeys(f"{cost:,.0f}" for cost in ends)
    return (
        style.plural(result.restarts, "restart") + " each",
        f"{' to '.join(costs)} gradient evaluations for each restart",
        f"a minimum within {result.tolerance:g}",
    )
