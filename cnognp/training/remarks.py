"""What is said of a run beside its numbers: before it begins, and where memory is short."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cnognp.methods import METHODS
from cnognp.tasks import fit
from cnognp.tasks.memory import exhausted
from cnognp.tasks.problem import Problem
from cnognp.training import checkpoint, minibatches
from cnognp.training.config import Config, RunFolder
from landscape.networks.compiled import NotCompiled, failure


class OutOfMemory(RuntimeError):
    """A device, or the host, had no memory left; what was saved before stays."""


def remarks(given: Config, problem: Problem) -> Iterator[str]:
    """One line for each thing that is odd about a run, and no error.

    Args:
        given: its configuration as it was given.
        problem: what is trained.
    """
    size, samples = minibatches.size_in(given), problem.training.samples
    if size and size > samples and not minibatches.left_open(given):
        yield (
            f"batch_size {size} is more than the {samples} samples of train: every mini-batch is "
            "all of them"
        )
    yield from fit.empty_classes(problem)


@contextmanager
def told_of_memory(config: Config, folder: RunFolder) -> Iterator[None]:
    """Inside, an error that says that memory is short becomes one that says what to lower.

    Raises:
        OutOfMemory: in the place of such an error.
        RuntimeError: any other, as it is.
        MemoryError: never, since it says so.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
        said = " ".join(str(error).split())[:160] or type(error).__name__
        place = "the host" if _on_host(config) else f"device {config.device}"
        raise OutOfMemory(
            f"{place} has no memory left ({said}): {_relief(config)}. {_left(folder)}"
        ) from error


@contextmanager
def told_of_compiling(config: Config, folder: RunFolder) -> Iterator[None]:
    """Inside, an error of the compiler becomes one that says so, and what to do.

    Raises:
        NotCompiled: in the place of such an error.
    """
    try:
        yield
    except Exception as error:
        if not config.compile or not (reason := failure(error)):
            raise
        raise NotCompiled(
            f"torch.compile has made nothing of the network ({reason}): leave out --compile. "
            f"{_left(folder)}"
        ) from error


def _on_host(config: Config) -> bool:
    return config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())


def _relief(config: Config) -> str:
    """What to lower."""
    known = inspect.signature(METHODS[config.method]).parameters
    ways = []
    if "batch_size" in known:
        size = minibatches.size_in(config)
        now = "all samples" if size == 0 else size
        ways.append(f"lower --batch-size ({now} now)" if now else "lower --batch-size")
    if "accumulation" in known:
        ways.append("cut mini-batches into parts with --accumulation")
    if config.members > 1:
        ways.append(f"lower --members ({config.members} now)")
    if config.members_live in ("auto", "device") and config.members > 1:
        ways.append("let the members of a swarm live elsewhere with --members-live host or files")
    return ", or ".join(ways) or "take a smaller network, or another device"


def _left(folder: RunFolder) -> str:
    steps = checkpoint.steps(folder.checkpoints)
    if not steps:
        return "Nothing of this run was saved yet"
    return f"Its checkpoint of round {steps[-1]} stays as it is, in {folder.path}"
