"""What is told while a run is trained: a line on a terminal, lines in a file, curves elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cnognp.cli import console
from cnognp.training.config import Config, RunFolder

if TYPE_CHECKING:
    from cnognp.training.session import Training

# Seconds before the first line where there is no terminal, and between any two.
_FIRST, _BETWEEN = 30.0, 60.0


@contextmanager
def told(
    config: Config,
    folder: RunFolder,
    log: str,
    quiet: bool,
    breakable: Callable[[], AbstractContextManager[None]],
) -> Iterator[Callable[["Training", Any], None]]:
    """What is to be called after every round.

    Args:
        config: what is trained.
        folder: where.
        log: where curves go; empty for nowhere.
        quiet: nothing is written to standard error.
        breakable: validation data are judged inside.
    """
    from cnognp.training.curves import WRITERS, package
    from cnognp.training.pace import Pace, line, things_of

    if log:
        package(log)
    pace, writer, things = Pace(always=bool(log)), None, ""
    began = last = time.monotonic()
    with console.bar(timed=False, hidden=quiet) as bar:
        task = bar.add_task(config.method, total=config.iterations, note="")

        def progress(training: "Training", info: Any) -> None:
            nonlocal writer, things, last
            if quiet and not log:
                return
            things = things or things_of(training)
            # A signal that comes meanwhile is heeded when the round is done, which it is.
            with suppress(KeyboardInterrupt), breakable():
                found = pace.told(training, info)
                said = line(found, things)
                bar.update(task, completed=found.iteration, note=said)
                now = time.monotonic()
                if bar.disable and not quiet and now - began > _FIRST and now - last > _BETWEEN:
                    last = now
                    console.note(f"round {found.iteration} of {config.iterations}: {said}")
                if log:
                    if writer is None:
                        writer = WRITERS[log](folder.log, config, found.iteration)
                    writer.write(found.iteration, found.numbers())

        try:
            yield progress
        finally:
            if writer is not None:
                writer.close()
