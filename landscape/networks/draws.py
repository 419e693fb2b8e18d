"""Random modules as functions: what they draw follows from a seed, and not from the arithmetic."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Draws by the word in the name of torch's operation.
_DRAWN = (
    "rand", "randn", "rand_like", "randn_like", "normal", "normal_", "uniform_", "uniform",
    "bernoulli", "bernoulli_", "exponential_", "cauchy_", "log_normal_", "native_dropout",
    "normal_functional", "_standard_gamma", "poisson", "rrelu_with_noise",
)  # fmt: skip


_SEED = (1 << 63) - 1


class seeded:
    """Whoever draws does so from ``seed`` inside, and global generators come back untouched.

    Those of torch, NumPy and Python.

    Does nothing where ``seed`` is None.

    Args:
        seed: of the global generators inside.
        device: where the model lives.
        drawn: the type in which numbers are drawn: a model in float32 that is evaluated in float64
            sees the same ones, widened. That of the arithmetic where None.
    """

    def __init__(self, seed: int | None, device: torch.device, drawn: torch.dtype | None = None):
        self._fork: Any = None
        self._mode: Any = None
        if seed is not None:
            self._seed, self._device = seed & _SEED, device
            self._fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
            self._mode = None if drawn in (None, torch.float64) else drawn_in(drawn)

    def __enter__(self) -> None:
        if self._fork is None:
            return
        self._others = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(self._seed)
        np.random.seed(self._seed & 0xFFFFFFFF)  # noqa: NPY002
        self._fork.__enter__()
        torch.default_generator.manual_seed(self._seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)
        if self._mode is not None:
            self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._fork is None:
            return
        if self._mode is not None:
            self._mode.__exit__(*error)
        self._fork.__exit__(*error)
        random.setstate(self._others[0])
        np.random.set_state(self._others[1])  # noqa: NPY002


@contextmanager
def kept_states(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the global generators come back untouched."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


class drawn_in(TorchDispatchMode):
    """Numbers that are drawn in float64 are drawn in a narrower type and widened."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if name not in _DRAWN:
            return func(*args, **kwargs)
        own = next((a for a in args if isinstance(a, torch.Tensor)), None)
        wide = kwargs.get("dtype") or (own.dtype if own is not None else None)
        if wide is None:
            wide = torch.get_default_dtype()
        if wide != torch.float64:
            return func(*args, **kwargs)
        narrow = [self._narrow(a) for a in args]
        if name.endswith("_"):
            target = torch.empty_like(args[0], dtype=self._dtype)
            target.copy_(args[0])
            func(target, *narrow[1:], **kwargs)
            return args[0].copy_(target)
        if "dtype" in kwargs or own is None:
            kwargs = {**kwargs, "dtype": self._dtype}
        found = func(*narrow, **kwargs)
        if name == "native_dropout":
            # The values are those of the wide input; only which of them stay is drawn.
            rate = args[1]
            kept = found[1]
            return args[0] * kept / (1 - rate) if rate < 1 else args[0] * 0, kept
        return found.to(torch.float64)

    def _narrow(self, item: Any) -> Any:
        wide = isinstance(item, torch.Tensor) and item.dtype == torch.float64
        return item.to(self._dtype) if wide else item
