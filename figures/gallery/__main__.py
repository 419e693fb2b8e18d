"""Draws the gallery from the results of ``make demo``."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from figures import minima, page, style, surface
from landscape.results import Stationary, Surface, load

HERE = Path(__file__).parent


def overview(plane: Surface, restarts: Stationary) -> Figure:
    """The loss around a trained network beside the minima map of a test function."""
    with style.context():
        figure = style.new_figure(10.5, 4.2)
        left, right = figure.subplots(1, 2)
        surface.contour(plane, left)
        minima.map(restarts, right)
        return style.settle(figure)


def main(run: Path, demo: Path) -> None:
    """Writes the PNG of every picture in the gallery.

    Raises:
        TypeError: if a file holds something else than ``make demo`` writes there.
    """
    plane, restarts = (
        load(run / "analysis" / "plane.h5"),
        load(demo / "analysis" / "himmelblau-gd.h5"),
    )
    if not isinstance(plane, Surface) or not isinstance(restarts, Stationary):
        raise TypeError("plane.h5 must hold a plane, and himmelblau-gd.h5 the ends of restarts")
    pictures = {"overview": overview(plane, restarts)}
    for name in ("history", "spectrum", "plane"):
        for kind, figure in page.figures_of(load(run / "analysis" / f"{name}.h5")).items():
            pictures[name if kind == name else f"{name}-{kind}"] = figure
    camel = load(demo / "analysis" / "six-hump-camel-gd.h5")
    for kind, figure in page.figures_of(camel).items():
        pictures[f"six-hump-camel-{kind}"] = figure
    for name, figure in pictures.items():
        png, pdf = style.save(figure, HERE / name)
        pdf.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
