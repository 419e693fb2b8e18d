"""``cnognp plot``: pictures of the results in a folder."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.config import RunFolder


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.add_argument("run", type=str, help="folder of a run, or --out of analyze")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Draws every result that has a picture, as PNG and PDF.

    Raises:
        FileNotFoundError: if there is no result.
    """
    folder = RunFolder(Path(options.run))
    files = sorted(folder.analysis.glob("*.h5"))
    if not files:
        raise FileNotFoundError(
            f"{folder.analysis} holds no results; measure first: cnognp analyze {options.run}"
        )
    written = draw(files, folder.figures)
    if options.json:
        console.emit({"figures": [str(path) for path in written]})
    else:
        console.table(str(folder.figures), ("figure",), [(path.name,) for path in written])


def draw(files: list[Path], folder: Path) -> list[Path]:
    """The pictures drawn from result files, by the name of the file and of the picture."""
    from figures.page import figures_of
    from figures.style import save
    from landscape.results import load

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with console.bar() as bar:
        line = bar.add_task("drawing", total=len(files), note="")
        for file in files:
            for name, figure in figures_of(load(file)).items():
                title = file.stem if name == file.stem else f"{file.stem}-{name}"
                written += save(figure, folder / title)
            bar.update(line, advance=1, note=file.name)
    return written
