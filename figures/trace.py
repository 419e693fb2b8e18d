"""The trace of the Hessian at the point and as seen from a distance: the picture of the ladder."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from figures import style
from figures.picture import count, picture, statistics
from landscape.results import FiniteScaleTrace

_CONFIDENCE, _WIDE = 0.95, 1.96


@style.context()
def ladder(result: FiniteScaleTrace, ax: Axes) -> dict[str, Any]:
    """The artists "resolved", "unresolved", "rounding", "trace" of the curvature at each distance.

    Bars are 95 % intervals. Hollow markers lie below what rounding of the loss can do, which is the
    grey band. The dashed line is the trace of the almost-everywhere Hessian at the point itself,
    the band around it its own interval.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set_xlabel("distance σ")
    ax.set_ylabel("curvature summed over coordinates")
    finite = np.isfinite(result.estimate) & np.isfinite(result.standard_error)
    if not finite.any():
        return {"message": style.message(ax, "no finite curvature")}
    order = np.argsort(result.sigma)
    sigma = result.sigma[order]
    wide = student.ppf((1 + _CONFIDENCE) / 2, max(result.probes - 1, 1))
    error = wide * np.where(finite, result.standard_error, 0.0)
    low, high = _reach(result, finite, error)
    artists: dict[str, Any] = {}
    for name, chosen, face, text in (
        ("resolved", result.resolved, style.BLUE, f"at distance σ, {100 * _CONFIDENCE:g} %"),
        ("unresolved", ~result.resolved.astype(bool), "white", "below rounding"),
    ):
        shown = chosen.astype(bool) & finite & (result.estimate >= low) & (result.estimate <= high)
        if shown.any():
            look: dict[str, Any] = {"fmt": "o", "color": style.BLUE, "markerfacecolor": face}
            artists[name] = ax.errorbar(
                result.sigma[shown], result.estimate[shown], yerr=error[shown], capsize=3,
                elinewidth=1.1, label=text, zorder=3, **look,
            )  # fmt: skip
    if result.rounding.max() > max(low, -high, 0.01 * (high - low)):
        rounding = result.rounding[order]
        look = {"color": style.PALE, "zorder": 0, "linewidth": 0, "label": "rounding"}
        artists["rounding"] = ax.fill_between(sigma, -rounding, rounding, **look)
    if np.isfinite(result.trace):
        line: dict[str, Any] = {"color": style.VERMILION, "linestyle": "--", "zorder": 2}
        artists["trace"] = ax.axhline(result.trace, label="trace at the point", **line)
        spread = _WIDE * result.trace_error
        if spread > 0:
            ends = result.trace - spread, result.trace + spread
            ax.axhspan(*ends, color=style.VERMILION, alpha=0.15, linewidth=0, zorder=1)
    ax.set_xscale("log")
    room = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - room, high + room)
    style.legend_above(ax, list(artists.values()))
    return artists


def _reach(result: FiniteScaleTrace, finite: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest number to be seen; rounding alone must not stretch the axis."""
    shown = finite & result.resolved.astype(bool)
    shown = shown if shown.any() else finite
    ends = [result.estimate[shown] - error[shown], result.estimate[shown] + error[shown]]
    if np.isfinite(result.trace):
        spread = _WIDE * (result.trace_error if np.isfinite(result.trace_error) else 0.0)
        ends.append(np.array([result.trace - spread, result.trace + spread]))
    joined = np.concatenate(ends)
    low, high = float(joined.min()), float(joined.max())
    rest = result.estimate[finite & ~shown]
    near = rest[(rest > 2 * low - high) & (rest < 2 * high - low)]
    return float(near.min(initial=low)), float(near.max(initial=high))


@picture("ladder", FiniteScaleTrace)
def _ladder(result: FiniteScaleTrace) -> Figure:
    figure = style.new_figure(5.4, 3.9)
    ladder(result, figure.add_subplot())
    directions = f"{style.plural(result.probes, 'direction')} in {result.dim:,} coordinates"
    distances = count(result.estimate, "distance")
    style.note(figure, distances, directions, result.status, statistics(result))
    return figure
