"""From calls to results: one after the other here, or by whatever executor there is."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch

AHEAD = 64
"""Calls that an executor has at most before the first of them is waited for."""

# Modules of torch are written to while they run, and there is one default generator: what runs in
# the threads of one process takes turns.
_TURN = threading.RLock()


def in_order(
    work: Callable[..., Any],
    calls: Iterable[tuple],
    executor: Executor | None = None,
    threads: int | None = None,
) -> Iterator[Any]:
    """What the calls return, in their order.

    Args:
        work: what is called, a function at the top of a module.
        calls: the arguments of each; asked for as they are needed, a few ahead of the results.
        executor: runs them; this process, when a result is asked for, where None.
        threads: of torch in each call; as they are there where None.

    Raises:
        Exception: what a call raises, once all before it have returned.
    """
    if executor is None:
        for given in calls:
            with threaded(threads):
                found = work(*given)
            yield found
        return
    pending: deque[Future] = deque()
    unit = partial(_unit, os.getcwd(), threads, work)
    try:
        for given in calls:
            pending.append(executor.submit(unit, given))
            if len(pending) >= getattr(executor, "ahead", AHEAD):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Who stops asking wants no more of these.
        for future in pending:
            future.cancel()


def outcomes(
    work: Callable[..., Any], calls: Sequence[tuple], executor: Executor | None = None
) -> Iterator[tuple[int, Any]]:
    """The place of each call and what it returns, or raises, as they come to an end.

    Args:
        work: as in `in_order`.
        calls: the arguments of each.
        executor: as in `in_order`.
    """
    if executor is None:
        for place, given in enumerate(calls):
            yield place, _outcome(work, given)
        return
    unit = partial(_unit, os.getcwd(), None, work)
    futures = {executor.submit(unit, given): i for i, given in enumerate(calls)}
    try:
        for future in as_completed(futures):
            yield futures[future], future.exception() or future.result()
    finally:
        for future in futures:
            future.cancel()


def put(executor: Executor | None, array: np.ndarray) -> Any:
    """The array as several calls are given it, so that it goes to workers once; see `taken`."""
    own = getattr(executor, "put", None)
    return array if own is None else own(array)


def taken(array: Any) -> np.ndarray:
    """The array that was `put`, in a worker; not to be written to."""
    return array.taken() if hasattr(array, "taken") else array


@contextmanager
def threaded(number: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads; as before where None."""
    before = torch.get_num_threads()
    if number in (None, before):
        yield
        return
    torch.set_num_threads(number)  # type: ignore[arg-type]
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _unit(folder: str, threads: int | None, work: Callable[..., Any], given: tuple) -> Any:
    """What a call returns, in a process where nothing else runs meanwhile.

    Names of files are relative to the folder of who asks, if it is there.
    """
    with _TURN, threaded(threads):
        if os.getcwd() != folder:
            with suppress(OSError):
                os.chdir(folder)
        return work(*given)


def _outcome(work: Callable[..., Any], given: tuple) -> Any:
    try:
        return work(*given)
    except Exception as error:
        return error
