"""Where the contour lines of a loss lie, and how they are labelled and coloured."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, FuncNorm, Normalize
from matplotlib.ticker import MaxNLocator

from figures import style

# A grid point close to a minimum lies almost infinitely deep on a logarithmic scale: the lowest
# line leaves about this share of the surface below it.
_LOWEST = 0.003
# A surface whose first decile lies this factor below its top gets a logarithmic scale. The factor
# of a quadratic bowl is about 10.
_WIDE = 40.0


class Levels(NamedTuple):
    """Where contour lines are drawn.

    Attributes:
        values: ascending; the first is the lowest finite loss and the last the highest, the lines
            lie in between. Empty where no loss is finite.
        base: what is subtracted in labels: 0, or the lowest loss.
        floor: smallest distance from the lowest loss that is resolved on a logarithmic scale; 0
            where the scale is linear.
    """

    values: np.ndarray
    base: float = 0.0
    floor: float = 0.0

    @property
    def lines(self) -> np.ndarray:
        """The levels between the lowest and the highest loss."""
        return self.values[1:-1]

    @property
    def bands(self) -> np.ndarray:
        """The borders of the coloured bands: ascending also where the loss is constant."""
        low, high = self.values[0], self.values[-1]
        if low < high:
            return self.values
        pad = 1e-3 * max(abs(low), 1e-3)
        return np.array([low - pad, high + pad])

    @property
    def ticks(self) -> np.ndarray:
        """The levels that a colour bar names."""
        return self.lines if len(self.lines) else self.values[:1]

    def label(self, symbol: str = "loss") -> str:
        """What the labelled numbers are: the loss, or its distance from the lowest loss."""
        if not self.base:
            return symbol
        sign = "\N{MINUS SIGN}" if self.base > 0 else "+"
        return f"{symbol} {sign} {style.number(abs(self.base))}"

    def text(self, value: float) -> str:
        """The label of one level, with digits enough to tell it from its neighbours."""
        digits = 3
        if len(self.lines) > 1 and not self.floor:
            digits += int(np.log10(np.abs(self.lines).max() / np.diff(self.lines).min()))
        return style.number(value - self.base, digits)

    def height(self, loss: np.ndarray) -> np.ndarray:
        """The loss, or on a logarithmic scale log10 of its distance from the lowest loss.

        Distances below ``floor`` count as ``floor``; what is not finite becomes NaN.
        """
        loss = np.where(np.isfinite(loss), loss, np.nan)
        return np.log10(np.maximum(loss - self.values[0], self.floor)) if self.floor else loss

    def banded(self) -> Normalize:
        """The norm that gives every band between two levels one colour."""
        return BoundaryNorm(self.bands, 256)

    def smooth(self) -> Normalize:
        """The norm that colours a loss by its height."""
        low, high = float(self.bands[0]), float(self.bands[-1])
        if not self.floor:
            return Normalize(low, high)
        floor = self.floor
        return FuncNorm(
            (
                lambda loss: np.log10(np.maximum(loss - low, 0) + floor),
                lambda h: low + 10**h - floor,
            ),
            low,
            high,
        )


def levels(loss: np.ndarray, *, count: int = 14) -> Levels:
    """About ``count`` round levels for the finite values of ``loss``.

    They lie 1, 2, 5, 10, ... above the lowest value where much of the surface lies far below its
    top, and are evenly spaced otherwise.

    Args:
        loss: values of any shape; those that are not finite are ignored.
        count: number of lines aimed at.
    """
    finite = loss[np.isfinite(loss)].astype(float)
    if not finite.size:
        return Levels(np.empty(0))
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return Levels(np.array([low, high]))
    heights = finite[finite > low] - low
    lowest, decile = np.quantile(heights, [_LOWEST, 0.1])
    base = floor = 0.0
    if high - low < _WIDE * decile:
        lines = np.asarray(MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high))
    else:
        steps = _decades(float(lowest), high - low, count)
        floor = float(steps[0])
        # Beside a lowest loss that is almost zero, the steps themselves are round losses.
        base = low if abs(low) > floor else 0.0
        lines = base + steps
    inside = lines[(lines > low) & (lines < high)]
    return Levels(np.unique(np.concatenate([[low], inside, [high]])), base, floor)


def draw_lines(
    ax: Axes, grid: Sequence[np.ndarray], found: Levels, avoid: np.ndarray, **look: Any
) -> dict[str, Any]:
    """The artists "lines" and "labels" of the contour lines at ``found.lines``.

    Args:
        ax: axes whose limits are set.
        grid: horizontal and vertical coordinates, and the values with rows along the vertical.
        found: the levels; at least one line.
        avoid: (n, 2) points that labels keep away from, as they do from edges and other labels.
        look: how the lines are drawn.
    """
    text: dict[str, Any] = {"fmt": found.text, "fontsize": 6.5}
    # matplotlib chooses places along the lines without looking at what else is there. These lines
    # are drawn for their labels' places only.
    trial = ax.contour(*grid, found.lines)
    places = np.array([t.get_position() for t in ax.clabel(trial, inline=False, **text)])
    trial.remove()
    clear = _apart(ax, places.reshape(-1, 2), avoid)
    lines = ax.contour(*grid, found.lines, **look)
    labels = ax.clabel(lines, manual=clear, inline_spacing=5, use_clabeltext=True, **text)
    return {"lines": lines, "labels": labels}


def _apart(ax: Axes, places: np.ndarray, avoid: np.ndarray) -> list[np.ndarray]:
    """The places that are clear of the edges of the axes, of ``avoid``, and of one another."""
    low, high = np.transpose([ax.get_xlim(), ax.get_ylim()])
    taken = list((avoid - low) / (high - low))
    chosen = []
    for place in places:
        at = (place - low) / (high - low)
        inside = (np.abs(at - 0.5) < 0.46).all()
        if inside and all(np.hypot(*(at - other)) > 0.065 for other in taken):
            taken.append(at)
            chosen.append(place)
    return chosen


def _decades(low: float, high: float, count: int) -> np.ndarray:
    """The steps 1, 2, 5 (or 1, 3, or 1) times powers of ten in [low, high), about ``count``."""
    tens = 10.0 ** np.arange(np.floor(np.log10(low)), np.floor(np.log10(high)) + 1)
    for digits in ([1.0, 2.0, 5.0], [1.0, 3.0], [1.0]):
        steps = np.outer(tens, digits).ravel()
        steps = steps[(steps >= low) & (steps < high)]
        if len(steps) <= count:
            break
    else:
        steps = steps[:: -(-len(steps) // count)]
    return steps
