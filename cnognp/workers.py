"""Units of work with a result file each, in processes of ours: resumed one by one.

A unit is a pure function of one argument, so that it gives the same bits wherever, whenever and
however often it runs: a worker that is killed costs time and nothing else.
"""

import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from landscape.files import DamagedFile, check_writable, temporaries
from landscape.results import Result, load, save

ATTEMPTS = 3
"""So often a unit is tried whose worker dies; then it counts as what kills them."""


class Unit(NamedTuple):
    """One piece of a study.

    Attributes:
        name: differs from that of every other unit, in letters and digits.
        work: a function at the top of a module, of the argument and of nothing else.
        argument: can be sent to another process, and its ``repr`` says everything about it.
    """

    name: str
    work: Callable[[Any], Result]
    argument: Any


class Failure(NamedTuple):
    """An exception in a unit: what it says, where it came from, and itself if it was here."""

    said: str
    where: str = ""
    error: Exception | None = None


class UnitError(RuntimeError):
    """Units that failed; the results of the others are kept."""


class Pool:
    """Processes that stay, each with its number of threads; with one worker, this process.

    Args:
        workers: how many.
        threads: of torch, in each of them. Sums may differ in their last bits between numbers of
            threads, but not between numbers of workers. As it is in this process where None.

    Raises:
        ValueError: if a number is below one.
    """

    def __init__(self, workers: int = 1, threads: int | None = None):
        for name, number in (("workers", workers), ("threads", threads)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.workers, self.threads = workers, threads
        self._free: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, int]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, whatever they do."""
        for worker in (*self._free, *(worker for worker, _ in self._busy.values())):
            worker.end()
        self._free.clear()
        self._busy.clear()

    def outcomes(
        self, work: Callable[..., Any], arguments: Sequence[tuple]
    ) -> Iterator[tuple[int, Any]]:
        """The place of each call and what it returns, or a `Failure`, as they come to an end.

        Args:
            work: what is called, a function at the top of a module.
            arguments: of every call.
        """
        if self.workers == 1:
            with _threads(self.threads):
                for place, given in enumerate(arguments):
                    yield place, _outcome(work, given)
            return
        waiting = list(reversed(range(len(arguments))))
        tried = [0] * len(arguments)
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.workers:
                    place = waiting.pop()
                    tried[place] += 1
                    worker = self._free.pop() if self._free else _Worker(self.threads)
                    self._busy[worker.pipe] = worker, place
                    # One that has died since takes nothing; that it is gone is seen below.
                    with suppress(ConnectionError):
                        worker.pipe.send((work, arguments[place]))
                for pipe in wait(list(self._busy)):
                    worker, place = self._busy.pop(pipe)
                    try:
                        outcome = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        code = worker.end()
                        if tried[place] < ATTEMPTS:
                            waiting.append(place)
                            continue
                        outcome = Failure(f"its worker died {ATTEMPTS} times, at last with {code}")
                    else:
                        self._free.append(worker)
                    yield place, outcome
        finally:
            # Who stops asking wants no more of these, and the next call none of them either.
            for worker, _ in self._busy.values():
                worker.end()
            self._busy.clear()


def results_of(
    units: Sequence[Unit],
    folder: Path | None = None,
    *,
    pool: Pool | None = None,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """The results of the units, in their order.

    Args:
        units: what is done.
        folder: where each leaves its file; nowhere where None.
        pool: does the work; this process where None.
        resume: take the files of units that were finished with the same argument.
        progress: called with the name of a unit when it is done.

    Raises:
        ValueError: if two units have one name.
        UnitError: if units fail, after all the others are done; names them.
    """
    pool = pool or Pool()
    names = [re.sub(r"\W+", "-", unit.name).strip("-") for unit in units]
    if len(set(names)) < len(names):
        raise ValueError(f"units must have names that differ, got {', '.join(names)}")
    paths = [None if folder is None else check_writable(folder) / f"{n}.h5" for n in names]
    for left in temporaries(folder) if folder is not None else ():
        left.unlink(missing_ok=True)
    found: dict[int, Result] = {}
    if resume:
        finished = ((i, _finished(unit, paths[i])) for i, unit in enumerate(units))
        found = {i: result for i, result in finished if result is not None}
    for i in found:
        _tell(progress, units[i].name)
    missing = [i for i in range(len(units)) if i not in found]
    failed: dict[int, Failure] = {}
    for k, outcome in pool.outcomes(_done, [(units[i], paths[i]) for i in missing]):
        i = missing[k]
        if isinstance(outcome, Failure):
            failed[i] = outcome
            continue
        path = paths[i]
        found[i] = outcome if path is None else load(path)
        _tell(progress, units[i].name)
    if failed:
        first = failed[min(failed)]
        cause = first.error or RuntimeError(first.where)
        if len(units) == 1 and first.error is not None:
            raise first.error
        others = ", the others are done" if len(failed) < len(units) else ""
        count = f"{len(failed)} of {len(units)} units failed{others}"
        raise UnitError(f"{count}: {_reasons(units, failed)}") from cause
    return [found[i] for i in range(len(units))]


def _reasons(units: Sequence[Unit], failed: Mapping[int, Failure]) -> str:
    """What the failures say, each thing once, behind the names of its units."""
    names: dict[str, list[str]] = {}
    for i in sorted(failed):
        names.setdefault(failed[i].said, []).append(units[i].name)
    parts = []
    for said, of in names.items():
        more = f" and {len(of) - 2} more" if len(of) > 2 else ""
        parts.append(f"{', '.join(of[:2])}{more}: {said}")
    return "; ".join(parts)


def _tell(progress: Callable[[str], None] | None, name: str) -> None:
    if progress is not None:
        progress(name)


def _done(unit: Unit, path: Path | None) -> Result | None:
    """The result of a unit; None where it is in a file."""
    result = unit.work(unit.argument)
    if path is None:
        return result
    save(replace(result, provenance={**result.provenance, "unit": repr(unit.argument)}), path)
    return None


def _finished(unit: Unit, path: Path | None) -> Result | None:
    """What the file of a unit holds, if it is whole and of this argument."""
    if path is None or not path.is_file():
        return None
    try:
        found = load(path)
    except DamagedFile:
        return None
    return found if found.provenance.get("unit") == repr(unit.argument) else None


class _Worker:
    """A process that does what comes through its pipe."""

    def __init__(self, threads: int | None):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads or 1), daemon=True)
        self.process.start()
        # Only then does its death close the pipe.
        theirs.close()

    def end(self) -> int | None:
        """The exit code, once the process is gone."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def _serve(pipe: Connection, threads: int) -> None:
    """Calls what comes, until the other end is closed."""
    # Who started us is told as well, and closes the pipe.
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The standard output is that of the command, which may promise one object there.
    sys.stdout = sys.stderr
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with suppress(EOFError, ConnectionError), _threads(threads):
        while True:
            try:
                work, given = pipe.recv()
            except (EOFError, ConnectionError):
                return
            except Exception as error:
                pipe.send(_failure(error)._replace(error=None))
                continue
            outcome = _outcome(work, given)
            if isinstance(outcome, Failure):
                # Not every exception can be sent.
                outcome = outcome._replace(error=None)
            try:
                pipe.send(outcome)
            except (EOFError, ConnectionError):
                return
            except Exception as error:
                pipe.send(_failure(error)._replace(error=None))


def _outcome(work: Callable[..., Any], given: tuple) -> Any:
    try:
        return work(*given)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), error)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
