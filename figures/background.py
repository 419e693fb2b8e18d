"""A test function as the ground of small panels, and where restarts on it end, panel by panel."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures import minima, style
from figures.levels import levels
from landscape.results import Maps, Walks

Ground = Maps | Walks


def ground(result: Ground, ax: Axes) -> dict[str, Any]:
    """The artists "lines" or "curve" of the function, and "minima", one for each flatness.

    Contours have no labels: panels are small, and all of a figure have the same ones.

    Args:
        result: has one or two coordinates.
        ax: where it is drawn.

    Raises:
        ValueError: if there are more coordinates than can be drawn.
    """
    coordinates = result.points.shape[1]
    if coordinates > 2:
        raise ValueError(f"a map shows functions of 1 or 2 coordinates, got {coordinates}")
    artists = _curve(result, ax) if coordinates == 1 else _contours(result, ax)
    places = np.column_stack([result.points, result.values])[:, :2]
    groups = minima.flatness(result.eigenvalues[:, 0])
    artists["minima"] = []
    for rank, group in enumerate(groups):
        look = minima.mark(rank, len(groups))
        look["markersize"] *= 0.6
        artists["minima"] += ax.plot(*places[group].T, **look, label=_label(result, group))
    return artists


@style.context()
def maps(result: Maps, axes: np.ndarray) -> dict[str, Any]:
    """The artists by name, lists over the axes: where the restarts of each method end.

    "population" are the ends that reached a minimum, "else" the others that can be seen, "names"
    the minima with their shares of the restarts. "minima" are the marks by flatness.

    Args:
        result: what is drawn.
        axes: (method,), where it is drawn.
    """
    artists: dict[str, Any] = {"names": []}
    for i, ax in enumerate(axes):
        for name, artist in (ground(result, ax) | _ends(result, i, ax)).items():
            artists.setdefault(name, []).append(artist)
        artists["names"].append(_named(result, i, ax))
        missed = float((result.label[i] == len(result.names)).mean())
        ax.set_title(f"{result.methods[i]}: else {100 * missed:.3g} %" if missed else
                     result.methods[i])  # fmt: skip
    label_outer(axes)
    handles = artists["minima"][0] + [
        artists[name][0] for name in ("population", "else") if name in artists
    ]
    legend(axes, handles)
    return artists


def label_outer(axes: np.ndarray) -> None:
    """Ticks are numbered and axes named only at the left and at the bottom of the figure."""
    for ax in axes:
        place = ax.get_subplotspec()
        below = place.num1 + place.get_gridspec().ncols
        lowest = below >= len(axes)
        ax.tick_params(labelbottom=lowest, labelleft=place.is_first_col())
        ax.set(xlabel="x" if lowest else "", ylabel=ax.get_ylabel() if place.is_first_col() else "")


def legend(axes: np.ndarray, handles: list[Any]) -> None:
    """One legend for all axes, below them, with the minima from flat to sharp first."""
    figure = axes[0].figure
    columns = max(1, int(figure.get_figwidth() / 1.7))
    title = "minima, flattest by λ₁ first"
    found = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), title=title
    )
    found.get_title().set_fontsize(style.SMALL)


def _label(result: Ground, group: np.ndarray) -> str:
    shown = group if len(group) <= 3 else group[:2]
    more = f" + {len(group) - len(shown)}" if len(group) > len(shown) else ""
    names = " ".join(minima.minus(result.names[i]) for i in shown)
    return f"{names}{more}: λ₁ = {style.number(result.eigenvalues[group[0], 0])}"


def _contours(result: Ground, ax: Axes) -> dict[str, Any]:
    alpha, beta, surface = result.alpha, result.beta, result.surface
    if beta is None or surface is None:
        return {}
    ax.set(xlim=style.ends(alpha), ylim=style.ends(beta), aspect="equal", xlabel="x", ylabel="y")
    found = levels(surface)
    if min(surface.shape) < 2 or not len(found.lines):
        return {}
    look: dict[str, Any] = {"cmap": minima.INKS, "norm": found.banded(), "linewidths": 0.6}
    grid = alpha, beta, np.ma.masked_invalid(surface).T
    return {"lines": ax.contour(*grid, found.lines, alpha=0.55, **look)}


def _curve(result: Ground, ax: Axes) -> dict[str, Any]:
    ax.set(xlim=style.ends(result.alpha), xlabel="x", ylabel="f(x)")
    ax.margins(y=0.12)
    if result.surface is None:
        return {}
    (line,) = ax.plot(result.alpha, result.surface[:, 0], "-", color=style.GREY, linewidth=0.9)
    return {"curve": line}


def _ends(result: Maps, i: int, ax: Axes) -> dict[str, Any]:
    places, label = result.position[i], result.label[i]
    if places.shape[1] == 1:
        surface = np.zeros((len(result.alpha), 1)) if result.surface is None else result.surface
        places = np.column_stack([places, np.interp(places[:, 0], result.alpha, surface[:, 0])])
    box = np.transpose([ax.get_xlim(), ax.get_ylim()])
    seen = ((places >= box[0]) & (places <= box[1])).all(axis=1)
    reached = label < len(result.names)
    artists = {}
    for name, chosen, marker, colour, size, text in (
        ("population", reached, "o", style.BLACK, 2.0, "restarts at a minimum"),
        ("else", ~reached, "x", style.VERMILION, 3.5, "restarts elsewhere"),
    ):
        if (chosen & seen).any():
            look: dict[str, Any] = {"color": colour, "markersize": size, "zorder": 6}
            look |= {"linestyle": "none", "label": text, "rasterized": len(places) > 2000}
            (artists[name],) = ax.plot(*places[chosen & seen].T, marker, **look)
    return artists


def _named(result: Maps, i: int, ax: Axes) -> list[Any]:
    """The names of the minima with their shares; the names alone where there are many."""
    counts = np.bincount(result.label[i], minlength=len(result.names) + 1)
    shares = 100 * counts / max(len(result.label[i]), 1)
    places = np.column_stack([result.points, result.values])[:, :2]
    crowded = len(result.names) > 9
    return [
        minima.named(
            ax,
            result.names[k] if crowded else f"{result.names[k]}\n{shares[k]:.0f} %",
            places[k],
            crowded=True,
            edge=0.75,
        )
        for k in range(len(places))
    ]
