"""``cnognp tasks``: what can be trained on."""

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.tasks.registry import describe


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Prints a line for each task."""
    lines = describe()
    if options.json:
        console.emit({"tasks": lines})
        return
    console.table("", ("task", "what it is"), lines.items())
    console.note("A task of your own: cnognp train my_task.py:make_task")
