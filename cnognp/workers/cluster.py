"""A cluster of Ray as an executor: units as tasks, which are run again where a node is lost."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from cnognp.workers.messages import LARGE
from cnognp.workers.units import threaded

RETRIES = 5
"""So often a unit is run again whose worker or node is lost."""


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
        ClusterError: if Ray is not installed, or there is no such cluster, or it is of another
            version.
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

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future:
        """A future of what the call returns."""
        with _explained(self._ray):
            reference = self._task.remote(self.threads, work, given, named)
        return _Explained(self._ray, reference)

    def put(self, array: np.ndarray) -> Any:
        """The array as several calls are given it; a large one is in the object store once."""
        if array.nbytes < LARGE:
            return array
        with _explained(self._ray):
            return Stored(self._ray.put(array))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the cluster; one on this machine that was started here ends."""
        if self._owns:
            self._ray.shutdown()


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
                found = future.result()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(found)

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
    """Ray, with tokens where it is ours to say; it reads that once, when it is imported.

    Raises:
        ClusterError: if it is not installed.
    """
    if guarded and "ray" not in sys.modules:
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
    if address:
        said["address"] = address
    else:
        said |= {"num_cpus": processors, "include_dashboard": False}
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _explained(ray, address):
            ray.init(**said)
    finally:
        # Ray would end this process where we heed the signal.
        if here:
            signal.signal(signal.SIGTERM, handler)


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
    except errors.RayError as error:
        raise ClusterError(
            f"the cluster has lost a unit {RETRIES + 1} times, or its head "
            f"({type(error).__name__}: {_first(error)}); what was saved before stays: start it "
            "anew and go on with --resume"
        ) from None
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ImportError) as error:
        raise ClusterError(_advice(address, _first(error))) from None


_FULL = (
    "the object store of the cluster is full; give it more (ray start --object-store-memory) or "
    "take fewer workers"
)


def _advice(address: str, said: str) -> str:
    if "ersion" in said:
        return f"Ray or Python has another version there than here: {said}"
    where = address or "on this machine"
    return f"no cluster of Ray can be used at {where} ({said}): is ray start running there?"


def _first(error: BaseException) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
