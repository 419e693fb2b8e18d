"""A command under torchrun: the first rank speaks, and one line says what went wrong."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.distributed import Ranks

_FAILED = 1


def together(work: Callable[["Ranks"], None]) -> int:
    """The exit code of the work, which every rank does with the ranks that there are.

    Of all that goes wrong on several ranks, the first is said; a rank that is not the first exits
    without a word where another has spoken.

    Raises:
        Exception: what the work raises, on the first rank if it is the first to fail.
        KeyboardInterrupt: likewise.
    """
    from landscape.distributed import start

    ranks = start()
    try:
        with nullcontext() if ranks.leads else _silent():
            work(ranks)
    except (Exception, KeyboardInterrupt) as error:
        if ranks.size == 1:
            raise
        if not ranks.first_to_fail():
            return _FAILED
        if isinstance(error, KeyboardInterrupt):
            _say("ended by a signal, which torchrun sends to all ranks where one of them has ended")
        elif ranks.leads:
            raise
        else:
            _say(f"rank {ranks.rank} of {ranks.size}: {' '.join(str(error).split())}")
        return _FAILED
    ranks.close()
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"cnognp analyze: {line}\n")


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, nothing that this process prints is seen."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
