"""What a model computes once more in the backward pass: activation checkpoints."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.utils.checkpoint as checkpointing

# What torch calls when a checkpoint runs its function again; by version.
_GENERATORS = (
    "_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator",
)  # fmt: skip


class _Direct:
    """In the place of torch's reentrant checkpoint, which knows only ``backward`` and ``.grad``."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return checkpointing.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )


@contextmanager
def resumed(context: Callable[[], Any]) -> Iterator[None]:
    """Inside, activation checkpoints run their function again in ``context``."""
    saved = {"CheckpointFunction": checkpointing.CheckpointFunction}
    for name in _GENERATORS:
        if hasattr(checkpointing, name):
            saved[name] = getattr(checkpointing, name)
    try:
        for name, original in saved.items():
            changed = (
                _Direct if name == "CheckpointFunction" else partial(_again, original, context)
            )
            setattr(checkpointing, name, changed)
        yield
    finally:
        for name, original in saved.items():
            setattr(checkpointing, name, original)


def _again(original: Any, context: Callable[[], Any], function: Any, *args: Any, **kw: Any) -> Any:
    def once_more(*inner: Any, **words: Any) -> Any:
        with context():
            return function(*inner, **words)

    return original(once_more, *args, **kw)


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside, activation checkpoints run their function once and keep what it computes.

    Under vmap nothing can be run again.
    """

    def nothing(*_: Any, **__: Any) -> Iterator[None]:
        yield

    with contextlib.ExitStack() as stack:
        for name in _GENERATORS:
            if hasattr(checkpointing, name):
                stack.callback(setattr, checkpointing, name, getattr(checkpointing, name))
                setattr(checkpointing, name, nothing)
        yield
