"""Legends whose names have room, however many or long they are."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from figures import style

# Inches that every figure has for a legend.
_USUAL = 0.5


def fitted(
    holder: Axes | Figure, handles: list[Any], inches: float, size: float = style.SMALL, **how: Any
) -> Any:
    """A legend in as many columns as ``inches`` have room for; longer names are broken.

    Args:
        holder: whose legend it is.
        handles: labelled artists, at least one.
        inches: how wide it may be.
        size: of the letters.
        how: further arguments of matplotlib's legend.
    """
    names = [style.wrap(handle.get_label(), inches - 0.5, size) for handle in handles]
    longest = max(len(line) for name in names for line in name.splitlines() or [""])
    # Beside its name, an entry has its stroke and the room to the next column.
    each = (3.9 + 0.6 * longest) * size / 72
    columns = max(1, min(len(handles), int(inches / each)))
    legend = holder.legend(handles, names, ncols=columns, fontsize=size, **how)
    legend.set_alignment("left")
    return legend


def make_room(figure: Figure) -> None:
    """Nothing; the figure is then so much higher that its tallest legend takes from no panel."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    found = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    heights = [legend.get_window_extent(renderer).height for legend in found if legend is not None]
    tallest = max(heights, default=0.0) / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, tallest - _USUAL))
