"""Processes of ours as an executor: kept warm, and started anew where one is killed."""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from cnognp.workers.messages import Lent, Message, receive
from cnognp.workers.units import threaded

ATTEMPTS = 3
"""So often a call is tried whose worker dies; then it counts as what kills them."""
_GONE = (EOFError, OSError)
# A fresh process that has imported what is slow, once, and becomes a worker where one is needed.
_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_STARTING = threading.Lock()
_IMPORTED = ["cnognp.training.session", "cnognp.measuring.subjects"]


class WorkerDied(RuntimeError):
    """A call whose workers died, every time that it was tried."""


class Pool(Executor):
    """Processes that stay, each with its number of threads, and with a device of its own.

    Each is started when it is first needed. A call whose worker dies is made again by another one,
    which is right for functions that have no effect but what they return. Large arrays go by shared
    memory, those that were `put` once. To cancel a call that runs ends its worker.

    Args:
        workers: how many.
        threads: of torch, in each of them. Sums may differ in their last bits between numbers of
            threads, but not between numbers of workers.
        devices: what ``CUDA_VISIBLE_DEVICES`` says in each; as here where there are none.

    Raises:
        ValueError: if a number is below one, or there are devices, but not one for each worker.
    """

    def __init__(self, workers: int = 2, threads: int = 1, devices: Sequence[str] = ()):
        for name, number in (("workers", workers), ("threads", threads)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if devices and len(devices) < workers:
            raise ValueError(
                f"every worker needs a device of its own, got {workers} workers and "
                f"{len(devices)} {'device' if len(devices) == 1 else 'devices'} "
                f"({', '.join(devices)}): take at most {len(devices)} workers"
            )
        self.workers, self.threads, self.devices = workers, threads, tuple(devices)
        self.ahead = 4 * workers
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._hands: list[_Hand] = []
        self._closed = False

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future:
        """A future of what the call returns.

        Raises:
            RuntimeError: if the pool is shut down.
        """
        if self._closed:
            raise RuntimeError("the pool is shut down")
        call = _Call(work, given, named)
        self._calls.put(call)
        if len(self._hands) < self.workers:
            device = self.devices[len(self._hands)] if self.devices else None
            self._hands.append(_Hand(self._calls, self.threads, device))
        return call

    def put(self, array: np.ndarray) -> Lent:
        """The array as several calls are given it, in memory that all workers share."""
        return Lent(array)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers: when all is done, or at once where calls are cancelled."""
        self._closed = True
        while cancel_futures:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                break
            if call is not None:
                call.cancel()
        for hand in self._hands:
            self._calls.put(None)
            if cancel_futures:
                hand.drop()
        for hand in self._hands if wait else ():
            hand.join()

    def __exit__(self, kind: Any, *error: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


class _Call(Future):
    """A call, and the worker that makes it; to cancel it ends that."""

    def __init__(self, work: Callable[..., Any], given: tuple, named: dict[str, Any]):
        super().__init__()
        self.what = work, given, named
        self.worker: _Worker | None = None
        self.dropped = False

    def cancel(self) -> bool:
        if super().cancel() or self.done():
            return self.cancelled()
        self.dropped = True
        if self.worker is not None:
            self.worker.kill()
        return True


class _Hand(threading.Thread):
    """What hands calls to one worker, and has another one for it when it dies."""

    def __init__(self, calls: "queue.SimpleQueue[_Call | None]", threads: int, device: str | None):
        super().__init__(daemon=True)
        self._calls, self._threads, self._device = calls, threads, device
        self._worker: _Worker | None = None
        self._call: _Call | None = None
        self._over = False
        self.start()

    def run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._call = call
            if not self._over and call.set_running_or_notify_cancel():
                self._make(call)
            self._call = call = None
        self._end()

    def drop(self) -> None:
        """Nothing; the call that runs is over."""
        self._over = True
        if (call := self._call) is not None:
            call.cancel()

    def _make(self, call: _Call) -> None:
        try:
            message = Message(call.what)
        except Exception as error:
            call.set_exception(error)
            return
        try:
            call.set_result(self._answer(call, message))
        except BaseException as error:
            call.set_exception(error)
        finally:
            message.close()

    def _answer(self, call: _Call, message: Message) -> Any:
        """What the call returns.

        Raises:
            Exception: what it raises.
            WorkerDied: if it is what kills workers, or they do not even start.
            CancelledError: if nobody waits for it any more.
        """
        code: int | None = None
        for _ in range(ATTEMPTS):
            call.worker = self._ready()
            if call.dropped:
                break
            try:
                message.send(call.worker.pipe)
                found, error = receive(call.worker.pipe)
            except _GONE:
                code = self._end()
                if call.dropped:
                    break
                continue
            if error is not None:
                raise error
            return found
        if call.dropped:
            raise CancelledError
        raise WorkerDied(f"its worker died {ATTEMPTS} times, at last with {code}")

    def _ready(self) -> "_Worker":
        """The worker, a new one where there is none; what kills it meanwhile kills no call.

        Raises:
            WorkerDied: if none starts.
        """
        code: int | None = None
        for _ in range(ATTEMPTS):
            if self._worker is None:
                self._worker = _Worker(self._threads, self._device)
                try:
                    receive(self._worker.pipe)
                except _GONE:
                    code = self._end()
                    continue
            if self._worker.process.is_alive():
                return self._worker
            code = self._end()
        raise WorkerDied(f"workers do not start: the last of {ATTEMPTS} ended with {code}")

    def _end(self) -> int | None:
        """The exit code of the worker, which is gone."""
        worker, self._worker = self._worker, None
        return None if worker is None else worker.end()


class _Worker:
    """A process that does what comes through its pipe."""

    def __init__(self, threads: int, device: str | None):
        context: Any = multiprocessing.get_context(_START)
        context.set_forkserver_preload(_IMPORTED)
        self.pipe, theirs = context.Pipe()
        given = theirs, threads, {**os.environ, **_named(device)}
        self.process = context.Process(target=_serve, args=given, daemon=True)
        with _STARTING:
            self.process.start()
        # Only then does its death close the pipe.
        theirs.close()

    def kill(self) -> None:
        """Nothing; the process ends, and whoever waits for it sees that."""
        with suppress(ValueError):
            self.process.kill()

    def end(self) -> int | None:
        """The exit code, once the process is gone."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        code = self.process.exitcode
        return code


def _named(device: str | None) -> dict[str, str]:
    """What the environment says of a device; nothing where there is none of its own."""
    return {} if device is None else {"CUDA_VISIBLE_DEVICES": device}


def _serve(pipe: Connection, threads: int, environment: dict[str, str]) -> None:
    """Calls what comes, until the other end is closed."""
    # Before anything has asked for a device, after which it would be too late.
    os.environ.clear()
    os.environ.update(environment)
    # Who started us is told as well, and closes the pipe.
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # The standard output is that of the command, which may promise one object there.
    sys.stdout = sys.stderr
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with suppress(*_GONE), threaded(threads):
        _reply(pipe, None, None)
        while True:
            try:
                work, given, named = receive(pipe)
            except _GONE:
                return
            except Exception as error:
                _reply(pipe, None, error)
                continue
            try:
                found, error = work(*given, **named), None
            except Exception as raised:
                found, error = None, raised
            _reply(pipe, found, error)


def _reply(pipe: Connection, found: Any, error: Exception | None) -> None:
    """Sends what a call has returned or raised."""
    try:
        message = Message((found, None if error is None else _carried(error)))
    except Exception as unsent:
        message = Message((None, _carried(unsent)))
    message.send(pipe)
    message.close()


def _carried(error: Exception) -> Exception:
    """The error as another process can have it, with what is known of where it came from."""
    where = RuntimeError("in a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Told(error, where)


class _Told(Exception):
    """An error and its cause, which pickling an error alone leaves behind."""

    def __init__(self, error: Exception, cause: Exception):
        super().__init__(error, cause)

    def __reduce__(self) -> Any:
        return _joined, self.args


def _joined(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _leave_with_parent() -> None:
    """Ends this process when the one that started it has ended."""
    wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)
