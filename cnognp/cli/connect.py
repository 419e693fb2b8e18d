"""``cnognp connect``: the walls between minima of some runs, and which valleys they leave."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console, findings
from cnognp.cli.path import KINDS
from cnognp.cli.study import add_running, studied


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp connect RUN [RUN ...] [--kind NAME] [--align NAME] [options]"
    parser.add_argument(
        "runs", type=str, nargs="+", help="folders of runs of one task, or RUN:MEMBER"
    )
    parser.add_argument(
        "--members", type=str, default="all",
        help="of each run that is named without: all, best, or numbers, comma-separated",
    )  # fmt: skip
    parser.add_argument(
        "--kind", type=str, default="linear", choices=KINDS, help="how paths are found"
    )
    parser.add_argument(
        "--pairs", type=str, default="all", choices=["all", "tree"],
        help="all pairs, or those of the shortest tree that spans all minima",
    )  # fmt: skip
    parser.add_argument(
        "--align", type=str, default="", choices=["", "weights", "activations"],
        help="put the units of the second of each pair in the order closest to the first",
    )  # fmt: skip
    parser.add_argument("--points", type=int, default=51, help="of the grid on each path")
    parser.add_argument(
        "--statistics", type=str, default="reestimated",
        help="of BatchNorm at every point: reestimated, or as given",
    )  # fmt: skip
    parser.add_argument("--data", type=str, default="", help="folder of the task's data now")
    parser.add_argument("--device", type=str, default="", help="that of the first run if none")
    add_running(parser, "connect")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Finds a path for each pair, saves and draws walls, valleys and minima, and prints them."""
    from analyses.connectivity import Config

    names = ("members", "kind", "pairs", "align", "points", "statistics", "data", "device")
    config = Config(tuple(options.runs), **{name: getattr(options, name) for name in names})
    found = studied("connectivity", config, options)
    if options.json:
        console.emit({name: result.numbers() for name, result in found.items()})
        return
    for result in found.values():
        findings.tell(result)
    console.note(f"pictures in {Path(options.out) / 'figures'}")
