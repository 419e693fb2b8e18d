"""How populations moved: the picture of a `History`, and of several on one axis of evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import legends, style
from figures.picture import picture
from landscape.results import History

_LABELS = ("fitness", "loss", "gradient norm ‖∇f‖₂", "diversity of the population")
_SO_FAR = "best so far"
_AGAINST = {"iteration": "iteration", "evaluations": "gradient evaluations of all members"}


@style.context()
def history(
    result: History,
    axes: Sequence[Axes],
    *,
    against: Literal["iteration", "evaluations"] = "iteration",
) -> list[dict[str, Any]]:
    """The artists "range", "median" and "best" of four panels, in the order of the axes.

    The panels are fitness, loss, gradient norm and diversity. The band reaches from the lowest to
    the highest finite member and the solid line is their median. The dashed line is the best
    fitness so far, and for loss and gradient norm the member whose fitness is the lowest of the
    iteration. Scales are logarithmic where values are positive and wide apart.

    Args:
        result: what is drawn.
        axes: four axes, given flat or as an array.
        against: what is on the horizontal axis.

    Raises:
        ValueError: if there are not four axes.
    """
    panels = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(panels) != 4:
        raise ValueError(f"history draws into four axes, got {len(panels)}")
    steps = np.asarray(getattr(result, against), dtype=float)
    best = _lowest(result.fitness)
    drawn = [
        _members(steps, result.fitness, result.best_fitness, _SO_FAR, panels[0]),
        _members(steps, result.loss, _of(result.loss, best), "lowest fitness", panels[1]),
        _members(steps, result.gradient_norm, _of(result.gradient_norm, best), "", panels[2]),
        _single(steps, result.diversity, panels[3]),
    ]
    for panel, label in zip(panels, _LABELS, strict=True):
        panel.set(xlabel=_AGAINST[against], ylabel=label, xlim=style.ends(steps))
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return drawn


@style.context()
def compared(results: Mapping[str, History], axes: Sequence[Axes]) -> list[dict[str, Any]]:
    """The artists "median" and "best", lists over the runs, of two panels: loss, gradient norm.

    All runs share one axis, the evaluations of the objective by all members of each, so that a
    method whose steps cost more, or a larger population, is drawn as slow as it is. The line is the
    median of the finite members; beside it, thin, in the panel of the loss is the lowest that any
    member has had so far, and in that of the gradient the smallest. Fitness is not drawn, since
    each method has its own.

    Args:
        results: runs by the name that the legend gives them, at least one.
        axes: two axes.

    Raises:
        ValueError: if there is no run, or there are not two axes.
    """
    panels = list(np.ravel(np.asarray(axes, dtype=object)))
    if not results or len(panels) != 2:
        raise ValueError(
            f"at least one run is compared, in two axes; got {len(results)} runs and "
            f"{len(panels)} axes"
        )
    drawn = []
    for name, panel in zip(("loss", "gradient_norm"), panels, strict=True):
        artists: dict[str, Any] = {"median": [], "best": []}
        for label, result in results.items():
            steps = np.asarray(result.evaluations, dtype=float)
            low, middle, _ = _spread(getattr(result, name))
            look: dict[str, Any] = {"marker": _marker(steps), "markersize": 4.0}
            (line,) = panel.plot(steps, middle, label=label, **look)
            artists["median"].append(line)
            look |= {"color": line.get_color(), "linestyle": line.get_linestyle()}
            best = np.fmin.accumulate(low) if len(low) else low
            artists["best"] += panel.plot(steps, best, linewidth=0.7, **look)
        shown = [line.get_ydata() for line in (*artists["median"], *artists["best"])]
        style.scale(panel, "y", np.concatenate([np.ravel(np.asarray(y)) for y in shown]))
        longest = max((float(r.evaluations.max(initial=0)) for r in results.values()), default=0)
        panel.set(xlabel="gradient evaluations of all members", xlim=(0, longest or 1.0))
        panel.set_ylabel(_LABELS[1 if name == "loss" else 2])
        drawn.append(artists)
    # Beside the lines there is no place that all runs leave free.
    figure = panels[0].figure
    inches = figure.bbox.width / figure.dpi - 0.5
    where: dict[str, Any] = {"loc": "outside lower left", "title": "median; thin: lowest so far"}
    legend = legends.fitted(figure, drawn[0]["median"], inches, **where)
    legend.get_title().set_fontsize(style.SMALL)
    return drawn


def _members(
    steps: np.ndarray, values: np.ndarray, best: np.ndarray, name: str, ax: Axes
) -> dict[str, Any]:
    """The range, median and best member of (iteration, member) values, with a legend if named."""
    low, middle, high = _spread(values)
    best = np.where(np.isfinite(best), best, np.nan)
    if not np.isfinite(middle).any():
        return {"message": style.message(ax, "no finite member")}
    members = values.shape[1]
    artists: dict[str, Any] = {}
    if members > 1:
        look: dict[str, Any] = {"facecolor": "#b9ddf4", "edgecolor": style.SKY, "linewidth": 0.8}
        artists["range"] = ax.fill_between(steps, low, high, label=f"{members} members", **look)
    look = {"marker": _marker(steps), "markersize": 4.0}
    text = "median" if members > 1 else "the member"
    (artists["median"],) = ax.plot(steps, middle, "-", color=style.BLUE, label=text, **look)
    if members > 1 or name == _SO_FAR:
        (artists["best"],) = ax.plot(steps, best, "--", color=style.BLACK, label=name, **look)
    style.scale(ax, "y", [low, high, best])
    if name:
        style.legend_above(ax, list(artists.values()))
    return artists


def _single(steps: np.ndarray, values: np.ndarray, ax: Axes) -> dict[str, Any]:
    finite = np.where(np.isfinite(values), values, np.nan)
    if not np.isfinite(finite).any():
        return {"message": style.message(ax, "not finite")}
    (line,) = ax.plot(steps, finite, "-", color=style.GREEN, marker=_marker(steps), markersize=4.0)
    style.scale(ax, "y", finite)
    return {"median": line}


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lowest, median and highest finite member of each iteration, NaN where none is finite."""
    finite = np.ma.masked_invalid(values.astype(float))
    low, middle, high = (
        np.ma.filled(np.ma.asarray(part), np.nan)
        for part in (finite.min(axis=1), np.ma.median(finite, axis=1), finite.max(axis=1))
    )
    return low, middle, high


def _lowest(fitness: np.ndarray) -> np.ndarray:
    """The member of lowest fitness in each iteration; members that are not finite come last."""
    return np.argmin(np.where(np.isfinite(fitness), fitness, np.inf), axis=1)


def _of(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, member[:, None], axis=1)[:, 0]


def _marker(steps: np.ndarray) -> str:
    """A marker for curves of one point, which have no line to be seen."""
    return "o" if len(steps) < 2 else "none"


@picture("history", History)
def _history(result: History) -> Figure:
    figure = style.new_figure(7.2, 5.2)
    history(result, figure.subplots(2, 2), against="evaluations")
    last = np.isfinite(result.fitness[-1:])
    lost = "" if last.all() else f"{last.sum():,} of {last.size:,} members finite at the end"
    cost = style.plural(int(result.evaluations.max(initial=0)), "gradient evaluation")
    style.note(figure, f"{result.method} on {result.task}", cost, result.status, lost)
    return figure
