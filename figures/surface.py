"""A loss on a plane: contour plot, heat map and relief of a `Surface`.

``loss[i, j]`` belongs to ``alpha[i], beta[j]``. matplotlib wants rows along the vertical axis, so
the array is transposed in the calls that draw it and nowhere else.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from figures import style
from figures.levels import Levels, draw_lines, levels
from landscape.results import Surface

Ends = tuple[float, float]

# Towards the light, in axes coordinates of the relief.
_LIGHT = np.array([-0.6, -0.35, 0.72])


@style.context()
def contour(
    result: Surface,
    ax: Axes,
    *,
    count: int = 14,
    colorbar: bool = True,
    scale: Levels | None = None,
) -> dict[str, Any]:
    """The artists "filled", "lines", "labels", "colorbar" and "center" of a contour plot.

    Where a loss is not finite nothing is interpolated and the hatched background shows. A grid that
    is too small for contours is drawn as cells. Cells whose loss was interpolated when the grid was
    refined carry a dot ("interpolated").

    Args:
        result: what is drawn.
        ax: where it is drawn.
        count: number of lines aimed at.
        colorbar: whether a bar beside the axes says what the colours mean.
        scale: the levels, for surfaces that are to be compared; chosen for this one where None.
    """
    if min(result.loss.shape) < 2:
        return heat(result, ax, colorbar=colorbar, scale=scale)
    found = scale or levels(result.loss, count=count)
    artists = _frame(result, ax, style.ends(result.alpha), style.ends(result.beta))
    if not np.isfinite(result.loss).any():
        return artists | {"message": style.message(ax, "no finite loss")}
    grid = result.alpha, result.beta, np.ma.masked_invalid(result.loss).T
    artists["filled"] = ax.contourf(*grid, found.bands, cmap=style.LEVELS, norm=found.banded())
    if len(found.lines):
        look: dict[str, Any] = {"colors": _inks(found), "linewidths": 0.5, "linestyles": "solid"}
        artists |= draw_lines(ax, grid, found, avoid=np.zeros((1, 2)), **look)
    if colorbar:
        artists["colorbar"] = _colorbar(ax, artists["filled"], found)
    return artists


@style.context()
def heat(
    result: Surface,
    ax: Axes,
    *,
    colorbar: bool = True,
    scale: Levels | None = None,
    quantity: str = "loss",
) -> dict[str, Any]:
    """The artists "cells", "colorbar" and "center": one coloured cell per grid point.

    Nothing is interpolated here; cells whose loss is not finite are hatched, and those whose loss
    was interpolated when the grid was refined carry a dot ("interpolated").

    Args:
        result: what is drawn.
        ax: where it is drawn.
        colorbar: whether a bar beside the axes says what the colours mean.
        scale: the levels, for surfaces that are to be compared; chosen for this one where None.
        quantity: what stands in the place of the loss.
    """
    found = scale or levels(result.loss)
    borders = style.edges(result.alpha), style.edges(result.beta)
    across, up = map(style.ends, borders)
    artists = _frame(result, ax, across, up, quantity)
    if not np.isfinite(result.loss).any():
        return artists | {"message": style.message(ax, f"no finite {quantity}")}
    loss = np.ma.masked_invalid(result.loss).T
    look: dict[str, Any] = {"cmap": style.LEVELS, "norm": found.smooth(), "rasterized": True}
    artists["cells"] = ax.pcolormesh(*borders, loss, **look)
    if colorbar:
        artists["colorbar"] = _colorbar(ax, artists["cells"], found, quantity)
    return artists


@style.context()
def compare(
    results: Sequence[Surface],
    axes: Sequence[Axes],
    *,
    labels: Sequence[str] = (),
    cells: bool = False,
) -> dict[str, Any]:
    """The artists "panels" (a dictionary for each) and "colorbar" of surfaces on one scale.

    All panels have the same levels, colours and limits, so that what looks alike is alike. The
    grids may differ.

    Args:
        results: what is drawn, one panel each.
        axes: as many, of one figure.
        labels: a name for each panel.
        cells: draw heat maps; contour plots otherwise.

    Raises:
        ValueError: if there is no surface, or there are not as many axes or labels.
    """
    if not results or len(axes) != len(results) or len(labels) not in (0, len(results)):
        raise ValueError(
            f"every surface needs axes of its own, and a label or none has one: got {len(results)} "
            f"surfaces, {len(axes)} axes and {len(labels)} labels"
        )
    found = levels(np.concatenate([result.loss.ravel() for result in results]))
    draw = heat if cells else contour
    panels = [
        draw(result, ax, colorbar=False, scale=found)
        for result, ax in zip(results, axes, strict=True)
    ]
    limits = np.array([(ax.get_xlim(), ax.get_ylim()) for ax in axes])
    sides = {"xlim": limits[:, 0], "ylim": limits[:, 1]}
    for i, (result, ax, panel) in enumerate(zip(results, axes, panels, strict=True)):
        ax.set(**{side: (ends[:, 0].min(), ends[:, 1].max()) for side, ends in sides.items()})
        if "background" in panel:
            _confine(ax, *limits[i])
        # The directions have long names: the figure says once what they are.
        ax.set(xlabel="α", ylabel="β")
        if (legend := ax.get_legend()) is not None:
            legend.remove()
        inches = ax.bbox.width / ax.figure.dpi
        parts = [style.wrap(label, inches) for label in labels[i : i + 1]]
        if "center" in panel:
            parts.append(f"loss {style.number(result.center, 3)} at the point")
        ax.set_title("\n".join(parts), loc="left")
    artists: dict[str, Any] = {"panels": panels}
    drawn = [panel.get("filled", panel.get("cells")) for panel in panels]
    drawn = [mappable for mappable in drawn if mappable is not None]
    if drawn:
        artists["colorbar"] = _colorbar(list(axes), drawn[0], found)
    return artists


@style.context()
def comparison(
    results: Sequence[Surface], *, labels: Sequence[str] = (), cells: bool = False, columns: int = 4
) -> Figure:
    """A figure of surfaces on one scale, as `compare` draws them, in rows of ``columns``.

    Raises:
        ValueError: if there is no surface, or neither a label for each nor none.
    """
    width = max(1, min(len(results), columns))
    height = max(1, -(-len(results) // width))
    figure = style.new_figure(1.2 + 2.3 * width, 1.0 + 2.5 * height)
    axes = figure.subplots(height, width, squeeze=False).ravel()
    compare(results, list(axes[: len(results)]), labels=labels, cells=cells)
    for ax in axes[len(results) :]:
        ax.remove()
    for i, ax in enumerate(axes[: len(results)]):
        below = i + width < len(results)
        ax.tick_params(labelsize=style.SMALL, labelbottom=not below, labelleft=i % width == 0)
        ax.set(xlabel="" if below else "α", ylabel="" if i % width else "β")
    names = {name or "its direction" for result in results for name in result.directions}
    if not all(np.isfinite(result.loss).all() for result in results):
        figure.legend(handles=[style.not_finite()], loc="outside lower right")
    style.note(figure, f"multiples of {' and '.join(sorted(names))}", "one scale for all")
    return style.settle(figure)


@style.context()
def relief(result: Surface, ax: Any, *, most: int = 150) -> dict[str, Any]:
    """The artists "surface" and "holes" of the loss as a lit surface above its plane.

    On a logarithmic scale the height is log10 of the distance from the lowest loss, cut off below
    at the lowest level. Cells with a corner that is not finite are left out, and hatched on the
    floor instead.

    Args:
        result: what is drawn.
        ax: axes with ``projection="3d"``.
        most: grid points drawn along each axis; larger grids are thinned.
    """
    found = levels(result.loss)
    _room(result, ax)
    alpha, beta, loss = _thinned(result, most)
    grid = np.broadcast_arrays(alpha[:, None], beta[None, :], found.height(loss))
    box = np.array([ax.get_xlim(), ax.get_ylim(), _heights(ax, found)])
    ax.set_zlim(box[2])
    if min(loss.shape) < 2:
        (points,) = ax.plot(*map(np.ravel, grid), color=style.BLUE, marker="o", markersize=3)
        return {"surface": points}
    quads = _quads(np.stack(grid, axis=-1))
    whole = np.isfinite(quads).all(axis=(1, 2))
    surface = Poly3DCollection(quads[whole], antialiased=False, rasterized=True)
    surface.set_facecolor(_lit((quads[whole] - box[:, 0]) / (box[:, 1] - box[:, 0])))
    artists = {"surface": ax.add_collection3d(surface)}
    if not whole.all():
        floor = quads[~whole]
        floor[..., 2] = box[2, 0]
        holes = Poly3DCollection(
            floor, facecolor=style.PALE, edgecolor=style.STROKES, hatch=style.HATCH
        )
        holes.set_linewidth(0.0)
        artists["holes"] = ax.add_collection3d(holes)
        ax.legend(handles=[style.not_finite()], loc="upper right")
    return artists


def _frame(
    result: Surface, ax: Axes, across: Ends, up: Ends, quantity: str = "loss"
) -> dict[str, Any]:
    """The hatched background, the labels and limits, and the mark of the point itself."""
    ax.set(xlim=across, ylim=up)
    ax.set_xlabel(style.step("α", result.directions[0]))
    ax.set_ylabel(style.step("β", result.directions[1]))
    artists: dict[str, Any] = {}
    if not np.isfinite(result.loss).all():
        style.hatch(ax)
        artists["background"] = style.not_finite()
    if result.evaluated is not None and not result.evaluated.all():
        places = np.argwhere(~result.evaluated)
        share = len(places) / result.evaluated.size
        text = f"interpolated: {100 * share:.0f} % of the grid"
        look: dict[str, Any] = {"color": "white", "markeredgecolor": style.GREY}
        look |= {"markersize": 1.2, "markeredgewidth": 0.2, "linestyle": "none", "zorder": 3}
        at = result.alpha[places[:, 0]], result.beta[places[:, 1]]
        (artists["interpolated"],) = ax.plot(*at, "o", label=text, **look)
    if across[0] <= 0 <= across[1] and up[0] <= 0 <= up[1]:
        known = f": {quantity} {style.number(result.center)}" if np.isfinite(result.center) else ""
        artists["center"] = style.cross(ax, 0.0, 0.0, f"the point{known}")
    style.legend_above(ax, list(artists.values()))
    return artists


def _confine(ax: Axes, across: np.ndarray, up: np.ndarray) -> None:
    """Hatches the surface's own stretch alone: what lies outside was not measured."""
    ax.patch.set(hatch=None, facecolor="white")
    look: dict[str, Any] = {"facecolor": style.PALE, "edgecolor": style.STROKES, "linewidth": 0}
    corner = (across[0], up[0])
    ax.add_patch(
        Rectangle(corner, np.ptp(across), np.ptp(up), hatch=style.HATCH, zorder=-1, **look)
    )


def _inks(found: Levels) -> list[str]:
    """For each line, white or black, whichever stands out from the bands on both its sides."""
    middle = (found.bands[1:] + found.bands[:-1]) / 2
    bands = colormaps[style.LEVELS](found.banded()(middle))[:, :3]
    luminance = (bands[1:] + bands[:-1]) / 2 @ np.array([0.299, 0.587, 0.114])
    return ["white" if light < 0.42 else "black" for light in luminance]


def _colorbar(axes: Axes | list[Axes], mappable: Any, found: Levels, quantity: str = "loss") -> Any:
    figure = (axes[0] if isinstance(axes, list) else axes).figure
    bar = figure.colorbar(mappable, ax=axes, ticks=found.ticks, pad=0.02)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: found.text(value)))
    bar.ax.minorticks_off()
    bar.set_label(found.label(quantity))
    return bar


def _room(result: Surface, ax: Any) -> None:
    """The box of the relief, its sides and the view of it."""
    ax.set(xlabel="α", ylabel="β", xlim=style.ends(result.alpha), ylim=style.ends(result.beta))
    ax.set_box_aspect((1, 1, 0.7), zoom=0.97)
    ax.view_init(elev=32, azim=-58)
    ax.tick_params(pad=0)
    ax.tick_params(axis="z", pad=6)
    for axis, pad in ((ax.xaxis, 0), (ax.yaxis, 0), (ax.zaxis, 12)):
        axis.set_major_locator(MaxNLocator(5))
        axis.labelpad = pad


def _thinned(result: Surface, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = (
        np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
        for n in result.loss.shape
    )
    return result.alpha[rows], result.beta[columns], result.loss[np.ix_(rows, columns)]


def _heights(ax: Any, found: Levels) -> tuple[float, float]:
    """The lower and upper end of the vertical axis, whose label and ticks are set here."""
    ax.set_zlabel(found.label())
    if not found.values.size:
        ax.set_zticks([])
        return 0.0, 1.0
    if found.floor:
        named = found.lines[:: -(-len(found.lines) // 7)]
        ax.set_zticks(found.height(named), [found.text(value) for value in named])
    low, high = found.height(found.bands[[0, -1]])
    return float(low), float(high)


def _quads(corners: np.ndarray) -> np.ndarray:
    """The (cells, 4, 3) outlines of the cells of a (rows, columns, 3) grid of points."""
    around = corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]
    return np.stack(around, axis=2).reshape(-1, 4, 3)


def _lit(quads: np.ndarray) -> np.ndarray:
    """Colours (cells, 3) of quads in the unit cube: by height, shaded as by a distant light."""
    normal = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    normal *= np.sign(normal[:, 2:]) / np.linalg.norm(normal, axis=1, keepdims=True)
    facing = np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    colour = colormaps[style.LEVELS](quads[..., 2].mean(axis=1))[:, :3]
    return np.clip(colour * (0.7 + 0.45 * facing[:, None]), 0, 1)
