"""What is told while a run is trained: a line on a terminal, lines in a file, curves elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
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
) -> Iterator[tuple[Callable[["Training"], None], Callable[["Training", Any], None]]]:
    """What is to be called when a run is set up, and what after every round.

    Where there is no terminal, what is done is said before anything is waited for; not of small
    tasks, which are done before that is read.

    Args:
        config: what is trained.
        folder: where.
        log: where curves go; empty for nowhere.
        quiet: nothing is written to standard error.
        breakable: validation data are judged inside.
    """
    from cnognp.tasks.registry import defaults
    from cnognp.training.curves import WRITERS, package
    from cnognp.training.judging import is_small
    from cnognp.training.pace import Pace, line, setting, things_of

    if log:
        package(log)
    pace, writer, things = Pace(always=bool(log)), None, ""
    began = last = time.monotonic()
    source = {**defaults(config.task), **config.task_options}.get("data")
    reads = isinstance(source, str) and Path(source).expanduser().is_dir()
    with console.bar(timed=False, hidden=quiet) as bar:
        task = bar.add_task(config.method, total=config.iterations, note="reading the data")
        aloud = bar.disable and not quiet
        if aloud and reads:
            console.note(f"reading {config.task} for a run in {folder.path}")

        def begun(training: "Training") -> None:
            said = setting(training)
            bar.update(task, note=said)
            if aloud and (reads or not is_small(training.problem)):
                console.note(f"{said}, in {folder.path}")

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
                if aloud and now - began > _FIRST and now - last > _BETWEEN:
                    last = now
                    console.note(f"round {found.iteration} of {config.iterations}: {said}")
                if log:
                    if writer is None:
                        writer = WRITERS[log](folder.log, config, found.iteration)
                    writer.write(found.iteration, found.numbers())

        try:
            yield begun, progress
        finally:
            if writer is not None:
                writer.close()
