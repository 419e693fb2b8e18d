"""Curvature and slope at one or many points: the pictures of `Spectrum` and `Gradients`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures import style
from figures.picture import count, part, picture, statistics
from landscape.results import Gradients, Spectrum

_SIGNS = {
    "positive": ("o", style.BLUE, "λ ≥ 0"),
    "negative": ("s", style.VERMILION, "λ < 0"),
}
_WHICH = {
    "LM": "largest by magnitude",
    "LA": "largest",
    "SA": "smallest",
    "BE": "both ends",
}


@style.context()
def draw(result: Spectrum, ax: Axes) -> dict[str, Any]:
    """The artists "positive", "negative", "bounds" and "estimates" of the eigenvalues in order.

    Circles are eigenvalues from zero up, squares those below zero; pairs that did not converge are
    hollow. The thin bar is the proven error bound, the thick one the estimate of the error.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    values = result.eigenvalues
    finite = np.isfinite(values)
    gap = " " if result.operator == "Hessian" else "\n"
    ax.set_ylabel(f"eigenvalue λ of{gap}{style.wrap(style.matrix(result), 1.9)}")
    place = _places(result, ax)
    if not finite.any():
        return {"message": style.message(ax, "no finite eigenvalue")}
    kind = style.scale(ax, "y", values, signed="symlog")
    artists: dict[str, Any] = {}
    for name, sizes, colour, width in (
        ("bounds", result.bounds, style.GREY, 1.0),
        ("estimates", result.estimates, style.BLACK, 3.2),
    ):
        look: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": width, "zorder": 1}
        error = np.where(finite & np.isfinite(sizes), np.abs(sizes), 0.0)
        artists[name] = ax.errorbar(place, values, yerr=error, label=name[:-1], **look)
    handles = []
    for name, chosen in (("positive", values >= 0), ("negative", values < 0)):
        if chosen.any():
            marker, colour, text = _SIGNS[name]
            face = [colour if done else "white" for done in result.converged[chosen]]
            look = {"marker": marker, "facecolors": face, "edgecolors": colour, "zorder": 3}
            artists[name] = ax.scatter(place[chosen], values[chosen], s=26, **look)
            handles.append(_handle(text, marker=marker, color=colour))
    if not result.converged.all():
        hollow = {"markerfacecolor": "white", "color": style.GREY}
        handles.append(_handle("not converged", marker="o", **hollow))
    if kind != "log":
        artists["zero"] = ax.axhline(0.0, color=style.GREY, linewidth=0.7, linestyle="-", zorder=0)
    style.legend_above(ax, [*handles, artists["bounds"], artists["estimates"]])
    return artists


@style.context()
def errors(result: Spectrum, ax: Axes) -> dict[str, Any]:
    """The artists "bounds", "residuals", "estimates", "tolerance": how well λ is known.

    The line is the tolerance asked for, which is relative to the largest eigenvalue by magnitude.

    Args:
        result: what is drawn.
        ax: where it is drawn.
    """
    ax.set_ylabel("error of λ")
    place = _places(result, ax)
    artists: dict[str, Any] = {}
    shown = []
    # H is the Hessian and no other matrix.
    letter = "H" if result.operator == "Hessian" else "A"
    residual = f"residual ‖{letter}v \N{MINUS SIGN} λv‖₂"
    for name, sizes, marker, colour, text in (
        ("bounds", result.bounds, "_", style.BLACK, "bound"),
        ("residuals", result.residuals, "^", style.ORANGE, residual),
        ("estimates", result.estimates, "x", style.BLUE, "estimate"),
    ):
        shown.append(np.where(np.isfinite(sizes), sizes, np.nan))
        look: dict[str, Any] = {"linestyle": "none", "color": colour, "label": text}
        look |= {"markersize": 13.0} if marker == "_" else {}
        (artists[name],) = ax.plot(place, shown[-1], marker, markeredgewidth=1.4, **look)
    finite = result.eigenvalues[np.isfinite(result.eigenvalues)]
    limit = result.tolerance * np.abs(finite).max(initial=0.0)
    artists["tolerance"] = ax.axhline(limit, color=style.VERMILION, linestyle="--", linewidth=1.0)
    artists["tolerance"].set_label("tolerance")
    style.scale(ax, "y", np.concatenate([*shown, [limit]]))
    style.legend_above(ax, list(artists.values()))
    return artists


@style.context()
def gradients(result: Gradients, ax: Axes, *, named: int = 10) -> dict[str, Any]:
    """The artists "norm" and "largest" of the members' slopes against their losses.

    Args:
        result: what is drawn.
        ax: where it is drawn.
        named: populations of at most this size get their members' numbers beside the points.
    """
    ax.set(xlabel="loss", ylabel="gradient norm")
    finite = np.isfinite(result.loss) & np.isfinite(result.gradient_norm)
    if not finite.any():
        return {"message": style.message(ax, "no finite member")}
    loss = result.loss[finite]
    artists: dict[str, Any] = {}
    for name, sizes, marker, face, text in (
        ("norm", result.gradient_norm, "o", style.BLUE, "‖∇f‖₂"),
        ("largest", result.gradient_max, "^", "white", "largest component ‖∇f‖∞"),
    ):
        colour = style.BLUE if name == "norm" else style.VERMILION
        look: dict[str, Any] = {"facecolors": face, "edgecolors": colour, "linewidths": 1.0}
        shown = np.where(np.isfinite(sizes), sizes, np.nan)[finite]
        artists[name] = ax.scatter(loss, shown, marker=marker, s=24, label=text, **look)
    style.scale(ax, "x", loss)
    style.scale(ax, "y", [result.gradient_norm[finite], result.gradient_max[finite]])
    ax.margins(0.1)
    if len(result.member) <= named:
        places = np.column_stack([loss, result.gradient_norm[finite]])
        artists["names"] = _named(ax, result.member[finite], places)
    style.legend_above(ax, [artists["norm"], artists["largest"]])
    return artists


def _named(ax: Axes, member: np.ndarray, places: np.ndarray) -> list[Any]:
    """The members' numbers beside their points, joined where they would cover one another."""
    ax.autoscale_view()
    seen = ax.transAxes.inverted().transform(ax.transData.transform(places))
    groups: list[list[int]] = []
    for i in range(len(places)):
        near = [group for group in groups if (np.abs(seen[group[0]] - seen[i]) < 0.03).all()]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    look: dict[str, Any] = {"textcoords": "offset points", "xytext": (5, 3)}
    look["fontsize"] = style.SMALL
    texts = [", ".join(str(member[i]) for i in group) for group in groups]
    return [
        ax.annotate(text, places[group[0]], **look)
        for text, group in zip(texts, groups, strict=True)
    ]


def _places(result: Spectrum, ax: Axes) -> np.ndarray:
    """Where the pairs stand on the horizontal axis: 1, 2, ..."""
    pairs = len(result.eigenvalues)
    ax.set_xlabel("pair")
    ax.set_xlim(0.4, max(pairs, 1) + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    return np.arange(1, pairs + 1)


def _handle(text: str, **look: Any) -> Line2D:
    return Line2D([], [], linestyle="none", label=text, **look)


@picture("spectrum", Spectrum)
def _spectrum(result: Spectrum) -> Figure:
    figure = style.new_figure(5.4, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    draw(result, upper)
    errors(result, lower)
    upper.set_xlabel("")
    which = _WHICH.get(result.which, result.which)
    found = f"{len(result.eigenvalues)} of {result.dim:,} eigenvalues ({which})"
    products = style.plural(result.products, "matrix-vector product")
    style.note(figure, found, products, result.status, part(result), statistics(result))
    return figure


@picture("gradients", Gradients)
def _gradients(result: Gradients) -> Figure:
    figure = style.new_figure(5.2, 4.0)
    gradients(result, figure.add_subplot())
    sound = np.isfinite(result.loss) & np.isfinite(result.gradient_norm)
    members = count(np.where(sound, result.loss, np.nan), "member")
    style.note(figure, members, statistics(result))
    return figure
