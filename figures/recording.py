"""Curvature along a training run: the panels of a `Recording`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import style
from figures.picture import picture, statistics
from landscape.results import Recording

_LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@style.context()
def sharpness(result: Recording, ax: Axes) -> dict[str, Any]:
    """The artists "largest", "bound", "further", "minibatch" and "threshold" against the step.

    The band is the proven bound on the largest eigenvalue; records that did not converge are
    hollow. The dashed line is the largest eigenvalue at which the optimiser is stable.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    _prepared(result, ax, "eigenvalue λ of the Hessian")
    largest, bound = result.eigenvalues[:, 0], result.bounds[:, 0]
    artists = _eigenvalue(result, ax, largest, bound, ~result.converged[:, 0], "largest, λ₁")
    handles = [artists[name] for name in ("largest", "bound", "poor") if name in artists]
    if result.eigenvalues.shape[1] > 1:
        look: dict[str, Any] = {"color": style.SKY, "linewidth": 0.9, "linestyle": "-"}
        artists["further"] = ax.plot(result.step, result.eigenvalues[:, 1:], zorder=1, **look)
        last = str(result.eigenvalues.shape[1]).translate(_LOWERED)
        artists["further"][0].set_label("λ₂" if last == "₂" else f"λ₂ to λ{last}")
        handles.append(artists["further"][0])
    if np.isfinite(result.minibatch_sharpness).any():
        artists["minibatch"] = ax.errorbar(
            result.step, result.minibatch_sharpness, yerr=_finite(result.minibatch_error), fmt="s",
            color=style.ORANGE, markersize=3.2, elinewidth=0.9,
            label=f"of {result.minibatch} samples: mean of {result.minibatches} ± s.e.",
        )  # fmt: skip
        handles.append(artists["minibatch"])
    handles += _threshold(artists, result, result.threshold, ax)
    shown = [largest, result.minibatch_sharpness, result.threshold]
    style.scale(ax, "y", np.concatenate(shown), wide=100.0)
    _legend(ax, handles)
    return artists


@style.context()
def preconditioned(result: Recording, ax: Axes) -> dict[str, Any]:
    """The artists "largest", "bound" and "threshold" of the preconditioned Hessian.

    Records whose bound is wider than twice the tolerance are hollow.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    _prepared(result, ax, "eigenvalue of $P^{-1/2} H P^{-1/2}$")
    values, bounds = result.preconditioned, result.preconditioned_bound
    poor = bounds > 2 * result.tolerance * np.abs(values)
    artists = _eigenvalue(result, ax, values, bounds, poor, "preconditioned λ₁", style.GREEN)
    handles = [artists[name] for name in ("largest", "bound", "poor") if name in artists]
    handles += _threshold(artists, result, result.preconditioned_threshold, ax)
    style.scale(ax, "y", np.concatenate([values, result.preconditioned_threshold]), wide=100.0)
    _legend(ax, handles)
    return artists


@style.context()
def trace(result: Recording, ax: Axes) -> dict[str, Any]:
    """The artist "trace": the estimates of the Hessian's trace, each with its standard error.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    _prepared(result, ax, "trace of the Hessian")
    if not np.isfinite(result.trace).any():
        return {"message": style.message(ax, "no finite trace")}
    bars = ax.errorbar(
        result.step, result.trace, yerr=_finite(result.trace_error), fmt="o", color=style.PURPLE,
        markersize=3.2, elinewidth=0.9, label="estimate ± s.e.",
    )  # fmt: skip
    style.scale(ax, "y", result.trace, wide=100.0)
    _legend(ax, [bars])
    return {"trace": bars}


@style.context()
def loss(result: Recording, ax: Axes) -> dict[str, Any]:
    """The artist "line": the loss against the step.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    return _plain(result, result.loss, "loss", ax)


@style.context()
def gradient_norm(result: Recording, ax: Axes) -> dict[str, Any]:
    """The artist "line": the Euclidean norm of the gradient against the step.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    return _plain(result, result.gradient_norm, "gradient norm ‖∇f‖₂", ax)


def _prepared(result: Recording, ax: Axes, label: str) -> None:
    low, high = style.ends(result.step)
    ax.set(
        xlabel="step", ylabel=label, xlim=(low - 0.02 * (high - low), high + 0.02 * (high - low))
    )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _plain(result: Recording, values: np.ndarray, label: str, ax: Axes) -> dict[str, Any]:
    _prepared(result, ax, label)
    finite = np.where(np.isfinite(values), values, np.nan)
    if not np.isfinite(finite).any():
        return {"message": style.message(ax, "not finite")}
    (line,) = ax.plot(result.step, finite, "-", color=style.BLUE, **_marks(finite))
    style.scale(ax, "y", finite)
    return {"line": line}


def _eigenvalue(
    result: Recording, ax: Axes, values: np.ndarray, bounds: np.ndarray, poor: np.ndarray,
    label: str, colour: str = style.BLUE,
) -> dict[str, Any]:  # fmt: skip
    """The curve of one eigenvalue in the band of its bounds, hollow where it is poor."""
    finite = np.isfinite(values)
    if not finite.any():
        return {"message": style.message(ax, "no finite eigenvalue")}
    artists: dict[str, Any] = {}
    (artists["largest"],) = ax.plot(
        result.step, np.where(finite, values, np.nan), "-", color=colour, label=label,
        **_marks(values),
    )  # fmt: skip
    artists["bound"] = ax.fill_between(
        result.step, values - bounds, values + bounds, where=finite, color=colour, alpha=0.3,
        linewidth=0, label="proven bound",
    )  # fmt: skip
    poor = finite & poor
    if poor.any():
        look: dict[str, Any] = {"color": style.BLACK, "markerfacecolor": "white", "markersize": 4.0}
        (artists["poor"],) = ax.plot(result.step[poor], values[poor], "o", **look)
        artists["poor"].set_label("not converged")
    return artists


def _threshold(
    artists: dict[str, Any], result: Recording, values: np.ndarray, ax: Axes
) -> list[Any]:
    """The line of stability, named by its formula, and by its value if that never changes."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return []
    constant = np.ptp(finite) <= 1e-9 * abs(finite[0])
    label = result.rule + (f" = {style.number(finite[0], 3)}" if constant else "")
    (artists["threshold"],) = ax.plot(
        result.step, values, "--", color=style.VERMILION, linewidth=1.2, label=label,
        marker="_" if len(values) < 2 else "none",
    )  # fmt: skip
    return [artists["threshold"]]


def _marks(values: np.ndarray) -> dict[str, Any]:
    """Markers for curves with so few points that they can be told apart, or have no line."""
    return {"marker": "o" if np.isfinite(values).sum() <= 40 else "none", "markersize": 2.8}


def _finite(errors: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(errors), errors, 0.0)


def _legend(ax: Axes, handles: list[Any]) -> None:
    """A legend on top of the axes, in two columns, where it hides nothing."""
    if handles:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        ax.legend(handles=handles, ncols=2, borderaxespad=0.1, fontsize=7.0, **place)


@picture("recording", Recording)
def _recording(result: Recording) -> Figure:
    panels = [sharpness]
    if np.isfinite(result.preconditioned).any():
        panels.append(preconditioned)
    if np.isfinite(result.trace).any():
        panels.append(trace)
    panels += [loss, gradient_norm]
    rows = -(-len(panels) // 2)
    figure = style.new_figure(7.6, 0.6 + 2.6 * rows)
    axes = figure.subplots(rows, 2).ravel()
    for draw, ax in zip(panels, axes, strict=False):
        draw(result, ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    cost = style.plural(int(result.products.sum()), "Hessian-vector product") + " for eigenvalues"
    found = style.plural(len(result.step), "record")
    style.note(figure, result.label, found, cost, result.status, statistics(result))
    return figure
