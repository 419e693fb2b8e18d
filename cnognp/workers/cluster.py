"""A cluster of Ray as an executor: units as tasks, which are run again where a node is lost."""

import os
import re
import secrets
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from cnognp.workers.messages import LARGE
from cnognp.workers.units import threaded

RETRIES = 5
"""So often a unit is run again whose worker or node is lost."""
_ASKED, _SILENT = 5.0, 3
"""Seconds between two looks at the head, and how many in a row find that it is gone. Ray itself
ends this process after a minute."""


class ClusterError(RuntimeError):
    """A cluster that cannot be used, or no more; says what to do."""


class Stored:
    """An array in the object store of the cluster."""

    def __init__(self, reference: Any):
        self._reference = reference

    def taken(self) -> np.ndarray:
        """The array, in the store's own pages where it is on this node."""
        import ray

        return ray.get(self._reference)


class Cluster(Executor):
    """Tasks of a Ray cluster, one for each call.

    Args:
        address: as ``ray.init`` takes it; where empty that of ``RAY_ADDRESS``, and where there is
            none a cluster on this machine, which ends with this executor.
        workers: of a cluster on this machine, how many units run at once.
        threads: of torch in each unit, which has as many processors.
        gpus: of each unit.

    Raises:
        ClusterError: if Ray is not installed, or there is no such cluster, or it has another
            version or token.
    """

    def __init__(self, address: str = "", workers: int = 1, threads: int = 1, gpus: int = 0):
        address = address or os.environ.get("RAY_ADDRESS", "")
        self._ray = _imported(guarded=not address)
        self._owns = not self._ray.is_initialized()
        if self._owns:
            _connect(self._ray, address, workers * threads)
        self.threads = threads
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES}
        self._task = self._ray.remote(**options)(_run)
        self.ahead = max(64, 4 * int(self._ray.cluster_resources().get("CPU", 1)) // threads)
        self._pending: weakref.WeakSet[_Explained] = weakref.WeakSet()
        self._gone, self._left = threading.Event(), threading.Event()
        if not address.startswith("ray://"):
            head = self._ray.get_runtime_context().gcs_address
            threading.Thread(target=self._watch, args=(head,), daemon=True).start()

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future:
        """A future of what the call returns.

        Raises:
            ClusterError: if the head is gone.
        """
        if self._gone.is_set():
            raise ClusterError(_HEADLESS)
        with _explained(self._ray):
            reference = self._task.remote(self.threads, work, given, named)
        future = _Explained(self._ray, reference)
        self._pending.add(future)
        return future

    def put(self, array: np.ndarray) -> Any:
        """The array as several calls are given it; a large one is in the object store once."""
        if array.nbytes < LARGE:
            return array
        with _explained(self._ray):
            return Stored(self._ray.put(array))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the cluster; one on this machine that was started here ends."""
        self._left.set()
        if self._owns:
            self._ray.shutdown()

    def _watch(self, head: str) -> None:
        """Nothing; what is waited for fails once the head is gone."""
        silent = 0
        while silent < _SILENT:
            if self._left.wait(_ASKED):
                return
            silent = 0 if _answers(head) else silent + 1
        self._gone.set()
        for future in list(self._pending):
            with suppress(InvalidStateError):
                future.set_exception(ClusterError(_HEADLESS))


class _Explained(Future):
    """The future of a task, whose errors are told in one line."""

    def __init__(self, ray: Any, reference: Any):
        super().__init__()
        self._ray, self._reference = ray, reference
        self.set_running_or_notify_cancel()
        reference.future().add_done_callback(self._over)

    def _over(self, future: Future) -> None:
        try:
            with _explained(self._ray):
                found, error = future.result(), None
        except BaseException as raised:
            found, error = None, raised
        # Unless the head was gone before.
        with suppress(InvalidStateError):
            self.set_result(found) if error is None else self.set_exception(error)

    def cancel(self) -> bool:
        if self.done():
            return False
        with suppress(Exception):
            self._ray.cancel(self._reference, force=True)
        return True


def _run(threads: int, work: Callable[..., Any], given: Any, named: Any) -> Any:
    """What a call returns, on a node of the cluster."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with threaded(threads):
        return work(*given, **named)


def _imported(guarded: bool) -> Any:
    """Ray, with tokens and on the loopback interface alone, where it is ours to say.

    It reads that once, when it is imported.

    Raises:
        ClusterError: if it is not installed.
    """
    if guarded and "ray" not in sys.modules:
        # What has one machine need not be heard on others, whatever the name of the setting says.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Nobody else on this machine may send work to what is started here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise ClusterError(
            "the engine ray needs Ray: pip install 'cnognp[ray]', the same version on every node"
        ) from None
    return ray


def _connect(ray: Any, address: str, processors: int) -> None:
    """Nothing; this process is part of the cluster.

    Raises:
        ClusterError: if it cannot be.
    """
    said: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    named = address.removeprefix("ray://")
    if ":" in named and not _answers(named):
        # Ray would ask again for minutes.
        raise ClusterError(_advice(address, "nobody listens there"))
    if address:
        said["address"] = address
    else:
        # One that others have started here is not ours to take.
        said |= {"address": "local", "num_cpus": processors, "include_dashboard": False}
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _explained(ray, address):
            if address and address == named:
                _ask(address)
            ray.init(**said)
    finally:
        # Ray would end this process where we heed the signal.
        if here:
            signal.signal(signal.SIGTERM, handler)


def _ask(address: str) -> None:
    """Nothing; the head there has answered a question.

    ``ray.init`` itself would ask for minutes, without a word, where its token is wrong.

    Raises:
        RayError: if the head does not know the token, or nothing there speaks as a head does.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient

    GcsClient(address=canonicalize_bootstrap_address_or_die(address))


@contextmanager
def _explained(ray: Any, address: str = "") -> Iterator[None]:
    """Inside, what Ray raises for reasons of its own becomes an error of one line.

    Raises:
        ClusterError: in its place.
    """
    errors = ray.exceptions
    try:
        yield
    except errors.RayTaskError as error:
        # What the unit itself has raised.
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from None
    except errors.OutOfDiskError as error:
        raise ClusterError(f"{_FULL}: {_first(error)}") from None
    except errors.ObjectStoreFullError as error:
        raise ClusterError(f"{_FULL}: {_first(error)}") from None
    except errors.AuthenticationError:
        raise ClusterError(
            f"the cluster at {address or 'work'} has another token, or none was given: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as its head has them"
        ) from None
    except errors.RpcError as error:
        raise ClusterError(_advice(address, _first(error))) from None
    except errors.RayError as error:
        raise ClusterError(
            f"the cluster has lost a unit {RETRIES + 1} times, or its head "
            f"({type(error).__name__}: {_first(error)}); {_GO_ON}"
        ) from None
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ImportError) as error:
        raise ClusterError(_versions(error) or _advice(address, _first(error))) from None


_GO_ON = "what was saved before stays: start it anew and go on with --resume"
_HEADLESS = f"the head of the cluster is gone; {_GO_ON}"
_FULL = (
    "the object store of the cluster is full; give it more (ray start --object-store-memory) or "
    "take fewer workers"
)


def _versions(error: BaseException) -> str:
    """What to do where Ray says that the versions of two sides differ, and nothing elsewhere."""
    found = [re.findall(rf"^ *{name}: (\S+)$", str(error), re.M) for name in ("Ray", "Python")]
    if [len(versions) for versions in found] != [2, 2]:
        return ""
    (ray, our_ray), (python, our_python) = found
    return (
        f"the cluster has Ray {ray} and Python {python}, this process Ray {our_ray} and Python "
        f"{our_python}: start this command with Python {python} and pip install 'ray=={ray}'"
    )


def _advice(address: str, said: str) -> str:
    if not address:
        return f"no cluster of Ray can be used on this machine ({said}): is one running?"
    return (
        f"no cluster of Ray can be used at {address} ({said}): is ray start running there, with "
        "the token that is set here?"
    )


def _first(error: BaseException) -> str:
    """The first line of what an error says, and the last where the first announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announced = lines[-1:] if lines[1:] and lines[0].endswith(":") else []
    return " ".join(lines[:1] + announced)


def _answers(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ASKED).close()
    except OSError:
        return False
    return True
