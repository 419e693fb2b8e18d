"""Draws the gallery from the results of runs: ``python -m figures.gallery runs``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from figures import animation, catalogue, demo, minima, style, surface
from landscape.files import replacing
from landscape.results import Result, Stationary, Surface, Walks, load

HERE = Path(__file__).parent

# Result files below the folder of runs, and which of their figures is drawn under which name.
PICTURES: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "wine/analysis/history.h5": {"history": "history"},
    "wine/analysis/spectrum.h5": {"spectrum": "spectrum"},
    "wine/analysis/density.h5": {"density": "density"},
    "wine/analysis/sharpness.h5": {"panel": "sharpness"},
    "wine/analysis/plane.h5": {
        "contour": "plane-contour", "heat": "plane-heat", "relief": "plane-relief",
    },
    "resnet20_cifar10/analysis/plane.h5": {
        "contour": "resnet20-contour", "relief": "resnet20-relief",
    },
    "finetune/analysis/finetune.h5": {"differences": "finetune", "planes": "finetune-planes"},
    "finetune-resnet32/analysis/finetune.h5": {"differences": "finetune-resnet32"},
    "false-positives/analysis/false-positives.h5": {"promises": "false-positives"},
    "mountain-passes/analysis/passes-six-hump-camel.h5": {"above": "mountain-passes"},
    "topography-fcp/analysis/topography-fcp.h5": {"walls": "topography-fcp"},
    "populations/analysis/populations.h5": {"p-values": "populations"},
    "gcsam-breastmnist/analysis/gcsam.h5": {"ratios": "gcsam-breastmnist"},
    "gcsam-cifar10/analysis/gcsam.h5": {"ratios": "gcsam-cifar10"},
    "path/analysis/path-string.h5": {"contour": "himmelblau-path"},
    "connect/analysis/connectivity.h5": {"barriers": "barriers"},
    "connect/analysis/valleys.h5": {"disconnectivity": "disconnectivity"},
    "digits/analysis/curvature.h5": {"recording": "recording"},
    "demo/analysis/six-hump-camel-gd.h5": {
        "map": "six-hump-camel-map", "shares": "six-hump-camel-shares",
    },
    "demo/analysis/distribution.h5": {"shares": "distribution"},
    "demo/analysis/flat-minima.h5": {"flattest": "flat-minima"},
    "demo/analysis/himmelblau-walks.h5": {"paths": "himmelblau-walks"},
    "demo/analysis/himmelblau-cycle.h5": {"amplitude": "himmelblau-cycle"},
})  # fmt: skip
# Bytes.
LARGE = 250_000
_COMPARED = ("wine", "wine-cno", "wine-gd", "wine-pso")


def main(runs: Path) -> None:
    """Writes every picture whose results are in ``runs``; the others stay as they are.

    Raises:
        TypeError: if a file holds another kind of result than its name says.
    """
    for file, names in PICTURES.items():
        if (runs / file).is_file():
            drawn = catalogue.figures_of(load(runs / file))
            for kind, name in names.items():
                write(drawn[kind], name)
    histories = {name: runs / name / "analysis" / "history.h5" for name in _COMPARED}
    if all(path.is_file() for path in histories.values()):
        found: dict[str, Any] = {name: load(path) for name, path in histories.items()}
        write(catalogue.compared(found), "learning-curves")
    sides = (runs / "wine/analysis/plane.h5", runs / "demo/analysis/himmelblau-gd.h5")
    if all(path.is_file() for path in sides):
        write(overview(*map(load, sides)), "overview")
    walks = runs / "demo/analysis/himmelblau-walks.h5"
    if walks.is_file():
        found_walks = load(walks)
        if not isinstance(found_walks, Walks):
            raise TypeError(f"{walks} must hold walks, got {type(found_walks).__name__}")
        animation.save(demo.moving(found_walks), HERE / "himmelblau-walks.gif")


def overview(plane: Result, restarts: Result) -> Figure:
    """The loss around a trained network beside the minima map of a test function.

    Raises:
        TypeError: if they are results of another kind.
    """
    if not isinstance(plane, Surface) or not isinstance(restarts, Stationary):
        raise TypeError("the overview is drawn from a plane and the ends of restarts")
    with style.context():
        figure = style.new_figure(10.5, 4.2)
        left, right = figure.subplots(1, 2)
        surface.contour(plane, left)
        minima.map(restarts, right)
        return style.settle(figure)


def write(figure: Figure, name: str) -> None:
    """Saves the PNG of a figure, in 256 colours where it would be large otherwise."""
    png, pdf = style.save(figure, HERE / name)
    pdf.unlink()
    if png.stat().st_size > LARGE:
        # Rare colours, those of small markers, are kept as they are.
        picture = Image.open(png).convert("RGB")
        reduced = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        with replacing(png) as temporary:
            reduced.save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
