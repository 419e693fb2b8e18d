"""How the eigenvalues of a Hessian are spread: the pictures of a `Density`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import part, picture, statistics
from landscape.results import Density

# Below this part of what one eigenvalue gives, a kernel's tail says nothing.
_TAIL = 1e-2


@style.context()
def draw(result: Density, ax: Axes) -> dict[str, Any]:
    """The artists "density", "band", "one" and "outliers" of the smoothed spectral density.

    "one" is the height of a single eigenvalue; where the density is near it, what is seen are
    eigenvalues one by one. The horizontal axis is linear up to the result's unit and logarithmic
    beyond.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set_ylabel("density (share per unit of λ)")
    if not _prepared(result, ax):
        return {"message": style.message(ax, "no finite eigenvalue")}
    jacobian = np.hypot(result.eigenvalue, result.unit) if result.unit else 1.0
    one = 1.0 / (result.dim * result.width * np.sqrt(2 * np.pi) * jacobian)
    seen = np.where(result.density > _TAIL * one, result.density, np.nan)
    artists: dict[str, Any] = {}
    (artists["density"],) = ax.plot(result.eigenvalue, seen, "-", label="mean of probes")
    handles = [artists["density"]]
    if np.isfinite(result.density_low).all():
        low = np.maximum(result.density_low, _TAIL * one)
        look: dict[str, Any] = {"alpha": 0.25, "linewidth": 0, "color": style.BLUE}
        artists["band"] = ax.fill_between(
            result.eigenvalue, low, np.maximum(result.density_high, low), **look
        )
        artists["band"].set_label("95 % of random directions")
        handles.append(artists["band"])
    (artists["one"],) = ax.plot(
        result.eigenvalue, one * np.ones_like(seen), ":", color=style.GREY, linewidth=1.0
    )
    artists["one"].set_label("one eigenvalue")
    handles.append(artists["one"])
    if len(result.outliers):
        artists["outliers"] = ax.plot(
            result.outliers, np.full(len(result.outliers), 0.03), "|", color=style.VERMILION,
            markersize=9, markeredgewidth=1.4, transform=ax.get_xaxis_transform(),
            label="found on its own", clip_on=False,
        )[0]  # fmt: skip
        handles.append(artists["outliers"])
    ax.set_yscale("log")
    style.legend_above(ax, handles)
    return artists


@style.context()
def distribution(result: Density, ax: Axes) -> dict[str, Any]:
    """The artists "share" and "band" of the share of eigenvalues up to λ.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set_ylabel("share of eigenvalues ≤ λ")
    if not _prepared(result, ax):
        return {"message": style.message(ax, "no finite eigenvalue")}
    artists: dict[str, Any] = {}
    look: dict[str, Any] = {"alpha": 0.3, "linewidth": 0, "color": style.BLUE, "step": "mid"}
    artists["band"] = ax.fill_between(
        result.eigenvalue, result.distribution_low, result.distribution_high, **look
    )
    artists["band"].set_label("95 %, of quadrature and probes")
    (artists["share"],) = ax.step(
        result.eigenvalue, result.distribution, "-", where="mid", label="quadrature"
    )
    ax.set_ylim(-0.03, 1.03)
    style.legend_above(ax, [artists["share"], artists["band"]])
    return artists


def _prepared(result: Density, ax: Axes) -> bool:
    """Whether there is something to draw; the horizontal axis is then set."""
    ax.set_xlabel(f"eigenvalue λ of {style.matrix(result)}")
    if not np.isfinite(result.density).all():
        return False
    low, high = result.eigenvalue[[0, -1]]
    if result.unit:
        style.signed(ax, result.unit, low, high)
    ax.set_xlim(low, high)
    return True


@picture("density", Density)
def _density(result: Density) -> Figure:
    figure = style.new_figure(5.8, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    draw(result, upper)
    distribution(result, lower)
    upper.set_xlabel("")
    probes = f"{style.plural(result.probes, 'probe')} of {style.plural(result.steps, 'step')}"
    kernel = f"kernel width {style.number(result.width, 2)}"
    kernel += f" in asinh(λ / {style.number(result.unit, 2)})" if result.unit else " in λ"
    spread = f"{result.dim:,} eigenvalues"
    style.note(figure, spread, probes, kernel, part(result), statistics(result))
    return figure
