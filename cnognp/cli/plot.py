"""``cnognp plot``: pictures of the results in a folder."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.training.config import RunFolder
from landscape.files import DamagedFile, check_writable


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
    # To glob a folder that may not be read would find it empty.
    found = os.listdir(folder.analysis) if folder.analysis.is_dir() else []
    files = sorted(folder.analysis / name for name in found if name.endswith(".h5"))
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
    """The pictures drawn from result files, by the name of the file and of the picture.

    Raises:
        DamagedFile: if a file is no result, or holds numbers that cannot be drawn.
    """
    from figures.animation import save as animate
    from figures.catalogue import figures_of, frames_of, together
    from figures.style import save
    from landscape.results import load

    check_writable(folder)
    written: list[Path] = []
    found: dict[str, Any] = {}
    with console.bar() as bar:
        line = bar.add_task("drawing", total=len(files), note="")
        for file in files:
            result = found[file.stem] = load(file)
            try:
                for name, figure in figures_of(result).items():
                    title = file.stem if name == file.stem else f"{file.stem}-{name}"
                    written += save(figure, folder / title)
                if (frames := frames_of(result)) is not None:
                    written.append(animate(frames, folder / f"{file.stem}.gif"))
            except ValueError as error:
                # Numbers that no measurement gives, such as infinite coordinates.
                raise DamagedFile(file, f"it cannot be drawn: {error}") from error
            bar.update(line, advance=1, note=file.name)
        for title, figure in together(found).items():
            written += save(figure, folder / title)
    return written
