"""Data as batches: counting them, moving them, drawing mini-batches, reading loaders safely."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from landscape.objective import ordinary

Batch = tuple[Any, Any]
RESIDENT_BYTES = 2**28


def as_batches(data: Any, device: torch.device) -> "list[Batch] | LoaderBatches":
    """The batches inside ``data``, on ``device`` where they fit in memory.

    Args:
        data: one batch, a list of batches, or a ``DataLoader``. A batch is ``(inputs, target)`` or
            a dictionary that holds both.
        device: where the model lives.

    Raises:
        ValueError: if there is no batch, or a shuffling loader drops its last batch, so that two
            passes would see different data.
        TypeError: if ``data`` is of another kind.
    """
    if isinstance(data, DataLoader):
        return _read_loader(data, device)
    if isinstance(data, Mapping) or _is_pair(data):
        data = [data]
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
        raise TypeError(
            "data must be one batch (inputs, target), a list of batches or a DataLoader, got "
            f"{type(data).__name__}"
        )
    if not data:
        raise ValueError("data holds no batch")
    return [_moved(_as_pair(batch), device) for batch in data]


def count(batch: Batch) -> int:
    """The number of samples in a batch: the length of the first tensor of its target, or inputs.

    Raises:
        ValueError: if the batch holds no tensor with a leading axis, or no sample.
    """
    inputs, target = batch
    for part in (target, inputs):
        for tensor in tensors_of(part):
            if tensor.ndim > 0:
                if len(tensor) == 0:
                    raise ValueError("a batch holds no sample")
                return len(tensor)
    raise ValueError("a batch holds no tensor with a leading axis to count its samples by")


def tensors_of(part: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists and dictionaries."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        for item in part.values():
            yield from tensors_of(item)
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from tensors_of(item)


def mapped(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``part`` with ``change`` applied to every tensor inside."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, Mapping):
        return {key: mapped(item, change) for key, item in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(mapped(item, change) for item in part))
    if isinstance(part, (tuple, list)):
        return type(part)(mapped(item, change) for item in part)
    return part


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point tensors in ``dtype``."""
    return mapped(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)


def joined(batches: Sequence[Batch]) -> Batch:
    """All batches as one, tensors joined along the first axis."""
    first = batches[0]
    if len(batches) == 1:
        return first
    return _join(list(batches))


def rows(batch: Batch, index: Tensor) -> Batch:
    """The samples ``index`` of a batch."""
    return mapped(batch, lambda t: t.index_select(0, index) if t.ndim > 0 else t)


def first_samples(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The batches up to ``samples`` samples; the last one is cut."""
    left = samples
    for batch in batches:
        size = count(batch)
        if size <= left:
            yield batch
        elif left > 0:
            yield mapped(batch, partial(_head, samples=left))
        left -= size
        if left <= 0:
            return


def without_singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, one of a single sample joined with its neighbour: batch statistics need two."""
    held: Batch | None = None
    for batch in batches:
        if held is not None and 1 in (count(held), count(batch)):
            batch = joined([held, batch])
        elif held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


@dataclass(frozen=True)
class LoaderBatches:
    """The batches of a loader that is too large to keep, the same ones in every pass.

    Python's, NumPy's and torch's global generators and those of the loader and its samplers are put
    into a state that depends on ``seed`` while a batch is fetched, and put back afterwards.
    """

    loader: DataLoader
    device: torch.device
    seed: int = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        private = _fresh_state(self.loader, self.seed)
        with _swapped(self.loader, private):
            iterator = iter(self.loader)
        while True:
            with _swapped(self.loader, private):
                batch = next(iterator, None)
            if batch is None:
                return
            inputs, target = _as_pair(batch)
            # A loader's default collation makes lists of the tuples that a dataset gives.
            inputs = tuple(inputs) if isinstance(inputs, list) else inputs
            yield _moved((inputs, target), self.device)


def _read_loader(loader: DataLoader, device: torch.device) -> "list[Batch] | LoaderBatches":
    length = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0  # type: ignore[arg-type]
    shuffles = isinstance(loader.sampler, RandomSampler)
    if loader.drop_last and shuffles and length % (loader.batch_size or 1):
        raise ValueError(
            "the DataLoader shuffles and drops its last batch, so every pass would see other data; "
            "set drop_last=False"
        )
    stream, kept, size = LoaderBatches(loader, device), [], 0
    for batch in stream:
        size += sum(t.numel() * t.element_size() for t in tensors_of(batch))
        if size > RESIDENT_BYTES:
            return stream
        kept.append(batch)
    if not kept:
        raise ValueError("the DataLoader gives no batch")
    return kept


def _fresh_state(loader: DataLoader, seed: int) -> list[Any]:
    torch_state = torch.Generator(device="cpu").manual_seed(seed).get_state()
    numpy_state = np.random.RandomState(seed & 0xFFFFFFFF).get_state()
    own = [
        torch.Generator(device=generator.device).manual_seed(seed).get_state()
        for generator in _generators(loader)
    ]
    return [torch_state, random.Random(seed).getstate(), numpy_state, own]


def _generators(loader: DataLoader) -> list[torch.Generator]:
    """The generators of the loader and of the samplers inside it, each once."""
    holders = (loader, loader.sampler, loader.batch_sampler)
    inner = getattr(loader.batch_sampler, "sampler", None)
    found = (getattr(holder, "generator", None) for holder in (*holders, inner))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


@contextmanager
def _swapped(loader: DataLoader, private: list[Any]) -> Iterator[None]:
    outer = _state(loader)
    _set_state(loader, private)
    try:
        yield
    finally:
        private[:] = _state(loader)
        _set_state(loader, outer)


def _state(loader: DataLoader) -> list[Any]:
    own = [generator.get_state() for generator in _generators(loader)]
    return [torch.get_rng_state(), random.getstate(), np.random.get_state(), own]  # noqa: NPY002


def _set_state(loader: DataLoader, state: list[Any]) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])  # noqa: NPY002
    for generator, own in zip(_generators(loader), state[3], strict=True):
        generator.set_state(own)


def _is_pair(data: Any) -> bool:
    if isinstance(data, tuple):
        return len(data) == 2
    return isinstance(data, list) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)


def _as_pair(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        return batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise TypeError(
        "a batch must be (inputs, target), or a dictionary that holds both, got "
        f"{type(batch).__name__}"
        + (f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else "")
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return mapped(batch, lambda t: ordinary(t).to(device))


def _join(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts) if first.ndim else first
    if isinstance(first, Mapping):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        items = [_join(list(group)) for group in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first


def _head(tensor: Tensor, samples: int) -> Tensor:
    return tensor[:samples] if tensor.ndim > 0 else tensor
