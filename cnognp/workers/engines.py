"""The executor that a few words ask for."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager

import torch

from cnognp.workers.pool import Pool
from cnognp.workers.units import threaded

POOL, RAY = "pool", "ray"


@contextmanager
def engine(
    name: str = POOL, workers: int = 1, threads: int = 0, device: str = "cpu"
) -> Iterator[Executor | None]:
    """What runs units inside: None for this process, else processes here or those of a cluster.

    Args:
        name: ``pool``, processes of this machine; ``ray``, the cluster that ``RAY_ADDRESS`` names,
            or one on this machine; ``ray://HOST:PORT``, that cluster.
        workers: processes of this machine, or units that a cluster has at work for us.
        threads: of torch in each; 0 for its choice in this process, and 1 in others.
        device: that units ask for, each a whole one where it is a GPU.

    Raises:
        ValueError: if there is no such engine, or a number is out of range.
        RuntimeError: if the cluster cannot be used.
    """
    for number, least, what in ((workers, 1, "workers"), (threads, 0, "threads")):
        if number < least:
            raise ValueError(f"{what} must be at least {least}, got {number}")
    kind, _, address = name.partition("://")
    if kind not in (POOL, RAY) or (kind == POOL and address) or (name.endswith("://")):
        raise ValueError(f"engine must be pool, ray or ray://HOST:PORT, got {name!r}")
    if kind == POOL and workers == 1:
        with threaded(threads or None):
            yield None
        return
    gpu = device_type(device) == "cuda"
    executor: Executor
    if kind == POOL:
        executor = Pool(workers, threads or 1, devices_of(device) if gpu else ())
    else:
        from cnognp.workers.cluster import Cluster

        executor = Cluster(name if address else "", workers, threads or 1, int(gpu))
    # What is done here is done as it is there.
    with threaded(threads or 1), executor:
        yield executor


def device_type(device: str) -> str:
    """``cpu``, ``cuda``, ...; of ``auto`` and nothing that of what there is."""
    if device in ("", "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]


def devices_of(device: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that workers may have, as ``CUDA_VISIBLE_DEVICES`` calls them.

    Args:
        device: ``cuda`` for all that are visible here, ``cuda:1`` for that one of them.
        environment: says which are visible; all that there are where it says nothing.
    """
    said = environment.get("CUDA_VISIBLE_DEVICES")
    named = [n.strip() for n in said.split(",") if n.strip()] if said is not None else None
    if named is None:
        named = [str(number) for number in range(torch.cuda.device_count())]
    _, colon, number = device.partition(":")
    return tuple(named[int(number) : int(number) + 1] if colon else named)
