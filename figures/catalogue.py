"""Complete figures, ready to be saved: those that there are of a result."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import legends, paths, population, style
from figures.picture import Animation, pictures
from landscape.results import History, Path


def figures_of(result: Any) -> dict[str, Figure]:
    """The figures of a result by name; none for a kind of result that has no picture."""
    drawn = {
        each.name: each(result) for each in pictures(result) if not isinstance(each, Animation)
    }
    return {name: _ready(figure) for name, figure in drawn.items() if figure is not None}


def frames_of(result: Any) -> list[np.ndarray] | None:
    """The frames of the result's animation; None for a kind of result that has none."""
    moving = [each for each in pictures(result) if isinstance(each, Animation)]
    return moving[0](result) if moving else None


def _ready(figure: Figure) -> Figure:
    for ax in figure.axes:
        # Ticks are made when they are first drawn, which may be under other settings than ours.
        ax.tick_params(labelsize=style.SMALL)
    return style.settle(figure)


def together(results: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures by name of several results that are of one kind: paths between the same ends."""
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for name, result in results.items():
        if isinstance(result, Path):
            groups.setdefault(result.names, {})[name.removeprefix("path-")] = result
    found: dict[str, Figure] = {}
    for several in (group for group in groups.values() if len(group) > 1):
        # Two groups in one folder are told apart by a number.
        suffix = "" if not found else f"-{1 + len(found)}"
        drawn = paths.compared(several)
        found |= {f"paths-{name}{suffix}": _ready(figure) for name, figure in drawn.items()}
    return found


@style.context()
def compared(results: Mapping[str, History]) -> Figure:
    """The learning curves of several runs, by name, on one axis of evaluations."""
    figure = style.new_figure(8.4, 3.9)
    population.compared(results, figure.subplots(1, 2))
    legends.make_room(figure)
    members = {result.loss.shape[1] for result in results.values() if result.loss.ndim == 2}
    sizes = " or ".join(f"{count:,}" for count in sorted(members))
    style.note(figure, style.plural(len(results), "run"), f"{sizes} members each" if sizes else "")
    return _ready(figure)
