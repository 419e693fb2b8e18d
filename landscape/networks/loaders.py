"""Reading loaders: the same batches in every pass, and no global generator moved by it."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from landscape.networks.batches import (
    Batch,
    Unpack,
    batch_of,
    dense_parts,
    moved,
    rowwise,
    tensors_of,
)

# Samples that are fetched twice, to see whether they are the same.
_PROBED = 3


@dataclass(frozen=True)
class LoaderBatches:
    """The batches of a loader, the same ones in every pass.

    Python's, NumPy's and torch's global generators and those of the loader and its samplers are put
    into a state that depends on ``seed`` while a batch is fetched, and put back afterwards.
    """

    loader: DataLoader
    device: torch.device
    seed: int = 0
    unpack: Unpack | None = None
    whole: bool = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        private = _fresh_state(self.loader, self.seed)
        with _swapped(self.loader, private):
            iterator = iter(self.loader)
        while True:
            with _swapped(self.loader, private):
                content = next(iterator, _END)
            if content is _END:
                return
            yield moved(self._batch(content), self.device)

    def drawn(self, index: list[int], seed: int) -> Batch:
        """The samples ``index`` of a dataset with places, fetched anew from a seed.

        Raises:
            TypeError: if they do not make a batch.
        """
        content = _fetched(self.loader, index, seed)
        return moved(self._batch(content), self.device)

    def _batch(self, content: Any) -> Batch:
        batch = batch_of(content, self.unpack, whole=self.whole)
        # A loader's default collation makes lists of the tuples that a dataset gives.
        inputs = batch.inputs
        listed = isinstance(inputs, list) and not self.whole and self.unpack is None
        return batch._replace(inputs=tuple(inputs)) if listed else batch


_END = object()


def check_complete(loader: DataLoader) -> None:
    """Nothing, if every pass sees the same samples.

    Raises:
        ValueError: if the loader shuffles and drops its last batch.
    """
    length = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0  # type: ignore[arg-type]
    shuffles = isinstance(loader.sampler, RandomSampler)
    if loader.drop_last and shuffles and length % (loader.batch_size or 1):
        raise ValueError(
            "the DataLoader shuffles and drops its last batch, so every pass would see other data; "
            "set drop_last=False"
        )


def _orderly(loader: DataLoader) -> bool:
    """Whether samplers of torch give every sample once."""
    batches: Any = loader.batch_sampler
    if type(batches) is not BatchSampler:
        return False
    sampler: Any = batches.sampler
    if type(sampler) is SequentialSampler:
        return True
    every = type(sampler) is RandomSampler and not sampler.replacement and not batches.drop_last
    return every and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]


def _sampled(loader: DataLoader, seed: int) -> list[Any]:
    """The samples of a pass, sorted."""
    with _swapped(loader, _fresh_state(loader, seed)):
        places = [place for batch in loader.batch_sampler for place in batch]  # type: ignore[union-attr]
    return sorted(places, key=repr)


def has_places(loader: DataLoader) -> bool:
    """Whether single samples of the loader can be fetched by their number."""
    dataset = loader.dataset
    return (
        not isinstance(dataset, IterableDataset)
        and hasattr(dataset, "__len__")
        and loader.batch_sampler is not None
    )


def randomness(loader: DataLoader) -> str:
    """What differs between two readings of the same samples; empty where nothing does.

    A few samples are fetched twice, from other states of the global generators; a whole pass of
    what fits in memory is read twice by `differs`.
    """
    if not has_places(loader) or not len(loader.dataset):  # type: ignore[arg-type]
        return ""
    last = len(loader.dataset) - 1  # type: ignore[arg-type]
    index = sorted({last * k // max(_PROBED - 1, 1) for k in range(_PROBED)})
    if not _orderly(loader) and _sampled(loader, 1) != _sampled(loader, 2):
        return "the sampler draws other samples in every pass"
    first, second = (list(tensors_of(_fetched(loader, index, seed))) for seed in (1, 2))
    same = len(first) == len(second) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(first, second, strict=True)
    )
    if same:
        return ""
    kind = type(loader.dataset).__name__
    return f"two readings of the same samples of {kind} differ (augmentation, noise or dropout)"


def differs(stream: LoaderBatches, first: list[Batch]) -> str:
    """What differs between a pass and another from another seed; empty where nothing does.

    Samples are compared without their order where a batch has rows.
    """
    loader = stream.loader
    if type(loader.dataset) is TensorDataset or loader.num_workers:
        return ""
    again = LoaderBatches(loader, stream.device, stream.seed + 1, stream.unpack, stream.whole)
    if _marks(first) == _marks(again):
        return ""
    kind = type(loader.dataset).__name__
    return f"two passes over {kind} differ (augmentation, noise or dropout, or what is drawn)"


def _marks(batches: Iterable[Batch]) -> Counter[bytes]:
    """The samples of a pass as hashes, however they are ordered and batched."""
    found: Counter[bytes] = Counter()
    for batch in batches:
        tensors = [p for t in tensors_of(batch[:2]) for p in dense_parts(t.detach().cpu())]
        apart = rowwise(batch)
        for place in range(batch.samples) if apart else (slice(None),):
            digest = hashlib.blake2b(digest_size=16)
            for tensor in tensors:
                part = tensor[place] if apart and tensor.ndim else tensor
                digest.update(part.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            found[digest.digest()] += 1
    return found


def _fetched(loader: DataLoader, index: list[int], seed: int) -> Any:
    with _swapped(loader, _fresh_state(loader, seed)):
        samples = [loader.dataset[place] for place in index]
        return loader.collate_fn(samples)


def _fresh_state(loader: DataLoader, seed: int) -> list[Any]:
    seed &= (1 << 63) - 1
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
