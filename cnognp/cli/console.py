"""What a command says: objects and tables on standard output, bars and notes on standard error."""

# rich is imported where it draws, so that help comes at once.
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

_WIDE, _ENDLESS = 120, 100_000
_OUTPUT: ContextVar[TextIO | None] = ContextVar("output", default=None)


@contextmanager
def only_objects() -> Iterator[None]:
    """Inside, what anybody prints goes to standard error; `emit` alone has the standard output."""
    token = _OUTPUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUTPUT.reset(token)


def emit(document: Mapping[str, Any]) -> None:
    """Writes one machine-readable object to standard output; not finite numbers become null."""
    output = _OUTPUT.get() or sys.stdout
    json.dump(plain(document), output, allow_nan=False, indent=2)
    output.write("\n")


def plain(item: Any) -> Any:
    """The item with what JSON knows alone."""
    if isinstance(item, Mapping):
        return {str(key): plain(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [plain(value) for value in item]
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if hasattr(item, "tolist"):
        return plain(item.tolist())
    return item


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table to standard output."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_header=any(columns),
    )
    rows = [*rows]
    numbers = [all(isinstance(row[i], float) for row in rows) for i in range(len(columns))]
    texts = [[_cell(item) for item in row] for row in rows]
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A file or another program has as much room as a line needs.
        console = Console(width=_ENDLESS)
    widths = _widths([columns, *texts], numbers, console.width - 1)
    for column, width in zip(columns, widths, strict=True):
        drawn.add_column(column, overflow="fold", width=width)
    for row in texts:
        drawn.add_row(*row)
    console.print(drawn)


def markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text for a file in Markdown."""
    texts = [[" ".join(_cell(item).split()) for item in row] for row in (columns, *rows)]
    lines = [texts[0], ["---"] * len(columns), *texts[1:]]
    drawn = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join([f"**{title}**", "", *drawn, ""])


def note(message: str) -> None:
    """Prints a line to standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


def bar(*, timed: bool = True, hidden: bool = False) -> "Progress":
    """A progress bar on standard error, shown where that is a terminal.

    Args:
        timed: with the time that is left, by the pace of all that was done; where not, the note
            has more room.
        hidden: not shown there either.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    # A narrow terminal has no room for a bar beside much text.
    drawn = [BarColumn()] if timed or console.width >= _WIDE else []
    count = [MofNCompleteColumn(), TimeRemainingColumn()]
    whole = Column(no_wrap=True)
    if not timed:
        count = [TextColumn("{task.completed}/{task.total}", table_column=whole)]
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        *drawn,
        *count,
        TextColumn("{task.fields[note]}", table_column=whole),
        console=console,
        disable=hidden or not console.is_terminal,
        transient=True,
    )


def _widths(rows: Sequence[Sequence[str]], numbers: Sequence[bool], room: int) -> list[int]:
    """How wide columns are; lines are broken between words, and within words where they must.

    Args:
        rows: the texts, with those of the heading.
        numbers: of which columns nothing is broken: a number in two lines reads like two.
        room: columns of the terminal for all of them, three each for the lines between included.
    """
    columns = [*zip(*rows, strict=True)]
    words = [max((len(w) for cell in c for w in cell.split()), default=1) for c in columns]
    widths = [max(len(line) for cell in c for line in cell.split("\n")) for c in columns]
    while sum(widths) + 3 * len(widths) > room:
        slack = [width - word for width, word in zip(widths, words, strict=True)]
        text = [width - 1 if not whole else 0 for width, whole in zip(widths, numbers, strict=True)]
        by = slack if max(slack) > 0 else text
        if max(by) <= 0:
            break
        widths[by.index(max(by))] -= 1
    return widths


def _cell(item: Any) -> str:
    return f"{item:.6g}" if isinstance(item, float) else str(item)
