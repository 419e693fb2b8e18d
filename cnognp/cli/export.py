"""``cnognp export``: results for other programs."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp export RESULT.h5 FILE [--log]"
    parser.add_argument(
        "result", type=str,
        help="file of a result, in the analysis of a run, or a surface, line or path of the "
        "classic loss-landscape code",
    )  # fmt: skip
    parser.add_argument(
        "file", type=str,
        help="what to write: .vti .vtr .vtp (ParaView), .csv, .npz, .h5 (classic loss-landscape)",
    )  # fmt: skip
    parser.add_argument("--log", action="store_true", help="heights in .vtp are log10 of the loss")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Writes the result in the format that the name asks for.

    Raises:
        FileExistsError: if that would write over the result itself.
        FileNotFoundError: if there is no such result, or no folder to write to.
    """
    from landscape.exchange import classic, export
    from landscape.results import load

    source, target = Path(options.result), Path(options.file)
    if target.exists() and target.samefile(source):
        raise FileExistsError(f"{target} is the result itself: name another file to write")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write to")
    result = classic.read(source) or load(source)
    export(result, target, log=options.log)
    if options.json:
        console.emit({"kind": type(result).__name__, "file": str(target)})
    else:
        console.note(f"{type(result).__name__} written to {target}")
