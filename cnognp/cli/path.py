"""``cnognp path``: the loss along a path between two points."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.cli.arguments import spelled_out, unknown, unmark, value_of

KINDS = ("linear", "fourier", "elastic-band", "string", "bezier", "polygon")
_DEFAULT = "fourier"


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp path A B [--kind NAME] [options]"
    each = "RUN, RUN:MEMBER, RUN/checkpoints/00000100.h5, a file of weights, or FUNCTION:MINIMUM"
    parser.add_argument("a", type=str, help=f"one end: {each}")
    parser.add_argument("b", type=str, help="the other end, of the same model and data")
    parser.add_argument(
        "--metrics", type=str, default="",
        help="further numbers along the path, comma-separated: gradient_norm, lambda_max, trace, "
        "metrics of the task, test_loss and the like",
    )  # fmt: skip
    parser.add_argument(
        "--points", type=int, default=101, help="of the grid of equal arc length, at least 3"
    )
    parser.add_argument(
        "--refinement", type=int, default=4, help="rounds of 8 points that refine the maximum"
    )
    parser.add_argument(
        "--standard-errors", action="store_true",
        help="of loss, height and barrier, over batches of data (16 of them where it is one)",
    )  # fmt: skip
    parser.add_argument(
        "--statistics", type=str, default="reestimated",
        help="of BatchNorm: reestimated at every point, or as given: those at A",
    )  # fmt: skip
    parser.add_argument(
        "--saddle", action="store_true", help="climb from the top of the path to the saddle"
    )
    parser.add_argument(
        "--align", type=str, default="", choices=["", "weights", "activations"],
        help="put the units of B in the order in which they are closest to A, by weights or by "
        "activations",
    )  # fmt: skip
    parser.add_argument(
        "--task", type=str, default="", help="of two files of weights: my_task.py:make_task"
    )
    parser.add_argument("--out", type=str, default="runs/path", help="folder of the results")
    parser.add_argument(
        "--data", type=str, default=None, help="folder of the task's data, where it is now"
    )
    parser.add_argument("--device", type=str, default="", help="as in train; that of the run")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    argv = spelled_out(argv, None, ("kind",))
    _kind(parser, argv)
    return argv


def _kind(parser: ArgumentParser, argv: list[str]) -> None:
    """Adds ``--kind`` with its keys, or one line of help that stands for them.

    Raises:
        ValueError: if there is no such kind.
    """
    chosen = value_of(argv, "--kind.name")
    hint = f"how the path is found (--kind NAME): {', '.join(KINDS)}"
    if chosen is not None and chosen not in KINDS:
        raise ValueError(unknown("kind", chosen, dict.fromkeys(KINDS)))
    parser.add_argument("--kind.name", type=str, default=chosen or _DEFAULT, help=hint)
    if not any(word.startswith("--kind.") for word in argv):
        parser.add_argument(
            "--kind.KEY", type=str, default=SUPPRESS,
            help="settings of the kind; cnognp path --kind NAME --help lists them",
        )  # fmt: skip
        return
    # They come with torch, which help without them does not need.
    from landscape.paths import FINDERS

    parser.add_class_arguments(FINDERS[chosen or _DEFAULT], "kind")
    unmark(parser)


def command(options: Namespace) -> None:
    """Finds the path, measures it, saves it, and prints what came out."""
    from cnognp.measuring import paths
    from cnognp.measuring.settings import names
    from landscape.paths import FINDERS

    given = vars(options.kind)
    kind = given.get("name", _DEFAULT)
    settings = {e.name: given[e.name] for e in fields(FINDERS[kind]) if e.name in given}
    wanted = paths.Wanted(
        kind,
        settings,
        names(options.metrics),
        {
            "points": options.points, "refinement": options.refinement,
            "standard_errors": options.standard_errors, "statistics": options.statistics,
        },
        options.saddle,
    )  # fmt: skip
    folder = Path(options.out) / "analysis"
    with console.bar() as bar:
        line = bar.add_task("measuring", total=None, note="")

        def told(name: str, done: int, total: int) -> None:
            bar.update(line, note=name, completed=done, total=total if total > 1 else None)

        ends = paths.between(
            options.a, options.b, task=options.task, device=options.device, data=options.data,
            align=options.align,
        )  # fmt: skip
        found = paths.measured(ends, wanted, folder, told)
    _told(found)
    if options.json:
        document = {name: result.numbers() for name, result in found.items()}
        console.emit({"folder": str(folder), "results": document})
        return
    rows = [(name, *result.said()) for name, result in found.items()]
    console.table(str(folder), ("result", "what it says", "how it ended"), rows)


def _told(found: dict[str, Any]) -> None:
    """Says on standard error what a reader of the numbers has to know."""
    for name, result in found.items():
        if older := result.provenance.get("set_aside"):
            console.note(f"{name}.h5 had other settings; that result is now {older}")
    for end in next(iter(found.values())).provenance.get("ends", ()):
        if kept := end.get("kept"):
            console.note(
                f"{end['name']}: {', '.join(kept[:3])}{' and others' * (len(kept) > 3)} are no "
                "trained parameters: frozen ones stay those of the task on the whole path, and "
                "statistics are re-estimated"
            )
