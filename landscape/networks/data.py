"""The noun Data: samples in batches, and how they are read, cut, joined, counted and drawn."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from landscape.devices import sent
from landscape.networks import batches as parts
from landscape.networks.batches import Batch, Unpack, batch_of, moved, tensors_of
from landscape.networks.loaders import (
    LoaderBatches,
    check_complete,
    differs,
    has_places,
    randomness,
)
from landscape.randomness import derive, derived_seed

RESIDENT_BYTES = 2**28
_READ = 256  # samples of a dataset that are read together
_PREPARED = 4096  # samples that are prepared together

Prepare = Callable[[Any], Any]
Augment = Callable[[Any, int, int], Any]


class Data:
    """Samples in batches, the same ones in every pass.

    Batches are kept on the device where they fit in memory; else a loader is read again in every
    pass, from the same seed. What is random in a loader (augmentation) is drawn from that seed too:
    a pass is a frozen copy, and ``random`` says what differs between copies.

    Args:
        source: one batch, a list of batches, a ``Dataset`` (read in order as one batch, where it
            fits in memory) or a ``DataLoader``. What a batch is, says
            `landscape.networks.batches.batch_of`.
        device: where the batches go.
        unpack: a function from a batch to (inputs, target, samples).
        whole: the loss takes a batch as it is.
        seed: of what is random in a loader; None where nobody asked for a frozen copy.
        prepare: from inputs as they are kept (bytes) to what the model takes; applied to every
            batch when it is asked for, at most 4,096 samples at a time.
        augment: ``augment(inputs, seed, step)`` of the inputs of a mini-batch, before ``prepare``;
            must follow from its arguments. A pass over all samples is augmented only where
            BatchNorm statistics are estimated, `as_trained`.

    Attributes:
        batches: as they are kept: a list, or a `LoaderBatches` that does not fit in memory.
        samples: how many there are.
        random: what is random in the data, in words; empty where nothing is known to be.
        seed: as above.
        advice: what to look at where the model does not take the data.

    Raises:
        ValueError: if there is no batch, one holds no sample, or a shuffling loader drops its last
            batch, so that two passes would see different data.
        TypeError: if ``source`` or a batch is of another kind.
    """

    def __init__(
        self,
        source: Any,
        device: torch.device | str = "cpu",
        *,
        unpack: Unpack | None = None,
        whole: bool = False,
        seed: int | None = None,
        prepare: Prepare | None = None,
        augment: Augment | None = None,
    ):
        self.device, self.seed = torch.device(device), seed
        self.unpack, self.whole = unpack, whole
        self.prepare, self.augment = prepare, augment
        self.random = self.advice = ""
        self._stream: LoaderBatches | None = None
        self._joined: Batch | None = None
        one = isinstance(source, Dataset) or is_dataset(source)
        loader = DataLoader(source, batch_size=_READ) if one else source
        if isinstance(loader, DataLoader):
            self._stream = LoaderBatches(loader, self.device, seed or 0, unpack, whole)
            self.random = randomness(loader)
            self.batches = _resident(self._stream)
            if not self.random and isinstance(self.batches, list):
                self.random = differs(self._stream, self.batches)
            if one and isinstance(self.batches, list):
                self.batches = [parts.joined(self.batches)]
        else:
            contents: Any = _listed(source, whole or unpack is not None)
            twice = isinstance(source, tuple) and all(
                isinstance(item, tuple) and len(item) == 2 for item in source
            )
            if contents is not source and not isinstance(source, (Mapping, tuple, list)):
                self.advice = (
                    "data must be one batch (inputs, target), a list of batches, a Dataset or a "
                    f"DataLoader, got {type(source).__name__}, which goes in whole and is the "
                    "target too"
                )
            if twice:
                self.advice = (
                    "data is a tuple of two pairs, which is one batch whose inputs are the first "
                    "pair: give a list for two batches"
                )
            self.batches = [
                moved(batch_of(content, unpack, whole=whole), self.device) for content in contents
            ]
        if prepare is not None and isinstance(self.batches, list):
            self.batches = self._cut(_PREPARED)
        sizes = [batch.samples for batch in self.batches]
        self.samples, self._read = sum(sizes), len(sizes)
        if not self.advice and isinstance(self.first.inputs, Mapping) and unpack is None:
            self.advice = (
                "a dictionary goes into the model by its keys: say what of it is input and target, "
                "unpack=lambda batch: (batch['x'], batch['y'], len(batch['y'])), or give a loss of "
                "the whole model (ModelRisk, loss_of='model')"
            )

    def __iter__(self) -> Iterator[Batch]:
        return map(self._prepared, self.batches)

    def as_trained(self) -> Iterator[Batch]:
        """The batches as training sees them: augmented, always in the same way, and prepared."""
        for step, batch in enumerate(self.batches):
            yield self._prepared(self._augmented(batch, self.seed or 0, step))

    @property
    def resident(self) -> bool:
        """Whether all batches are kept on the device."""
        return isinstance(self.batches, list)

    @property
    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    @property
    def pairs(self) -> Any:
        """The batches as (inputs, target): a list where they stay in memory as they are."""
        if isinstance(self.batches, list) and self.prepare is None:
            return [(batch.inputs, batch.target) for batch in self.batches]
        return _Pairs(self)

    @property
    def batch_size(self) -> int | None:
        """The samples in a loader's batches; None where there is no loader, or it does not say."""
        return None if self._stream is None else self._stream.loader.batch_size

    def of(self, batches: list[Batch]) -> "Data":
        """The same kind of data in other batches, which are augmented, if at all, and prepared."""
        twin = self.like(batches)
        twin.prepare = twin.augment = None
        return twin

    def cut(self, count: int) -> "Data":
        """All samples in ``count`` batches, in order and as equal as can be.

        Raises:
            ValueError: if rows cannot be taken, or there are fewer samples.
        """
        if not 1 <= count <= self.samples:
            raise ValueError(f"count must be from 1 to the {self.samples} samples, got {count}")
        return self.like(self.pieces(self.joined(), count))

    def pieces(self, batch: Batch, count: int) -> list[Batch]:
        """The samples of a batch in at most ``count`` batches, in order and as equal as can be.

        Raises:
            ValueError: if rows cannot be taken.
        """
        if not parts.rowwise(batch):
            raise ValueError(
                "the first axis of the tensors in a batch does not count its samples, so that it "
                f"cannot be cut into {count}"
            )
        order = torch.arange(batch.samples, device=self.device)
        return [parts.rows(batch, i) for i in order.tensor_split(min(count, batch.samples))]

    def limited(self, most: int) -> "Data":
        """The same batches, those of more than ``most`` samples cut into pieces of that size."""
        return self.like(self._cut(most))

    def joined(self) -> Batch:
        """All samples as one batch, as they are kept.

        Raises:
            ValueError: if the data do not stay in memory, have no rows, or do not fit together.
        """
        if self._joined is None:
            if not isinstance(self.batches, list):
                raise ValueError("the data are a loader that is too large to keep in memory")
            if not all(map(parts.rowwise, self.batches)):
                raise ValueError(
                    "the first axis of the tensors in a batch does not count its samples (a graph, "
                    "or a list of objects), so that batches are neither cut nor joined"
                )
            try:
                self._joined = parts.joined(self.batches)
            except (RuntimeError, KeyError, ValueError) as error:
                raise ValueError(f"the batches do not fit together as one: {error}") from None
        return self._joined

    def epoch(self, size: int, generator: torch.Generator, *, kept: str = "") -> Iterator[Batch]:
        """Mini-batches of all samples in a new order; random data are drawn anew.

        They are augmented, each as the seed of the generator and its place in the epoch say, and
        prepared.

        Args:
            size: samples in each; the last one may have fewer.
            generator: source of the order and of what is random.
            kept: why batches must stay as they are; they then come whole, in a new order.

        Raises:
            ValueError: if batches must stay as they are, and are of another size.
        """
        seed = generator.initial_seed()
        for step, batch in enumerate(self._ordered(size, generator, kept)):
            yield self._prepared(self._augmented(batch, seed, step))

    def steps(self, size: int, *, kept: str = "") -> int:
        """How many mini-batches an `epoch` has; its arguments, and its errors as it begins."""
        stream = self._stream
        if stream is not None and (self.random or not self.resident):
            loader = stream.loader
            fetched = self.random and has_places(loader) and size != loader.batch_size and not kept
            return -(-len(loader.dataset) // size) if fetched else self._read  # type: ignore[arg-type]
        return len(self.batches) if self._kept(kept) else -(-self.samples // size)

    def _kept(self, kept: str) -> str:
        """Why batches in memory come whole; empty where their samples are drawn anew."""
        if not kept and len(self.batches) > 1:
            try:
                self.joined()
            except ValueError as error:
                return str(error)
        elif not kept and not parts.rowwise(self.first):
            return "the first axis of the tensors in a batch does not count its samples"
        return kept

    def _ordered(self, size: int, generator: torch.Generator, kept: str) -> Iterator[Batch]:
        """The mini-batches of an epoch as they are kept.

        Raises:
            ValueError: if batches must stay as they are, and are of another size.
        """
        if self._stream is not None and (self.random or not self.resident):
            yield from self._streamed(size, generator, kept)
            return
        if kept := self._kept(kept):
            self._check_size(size, max(batch.samples for batch in self.batches), kept)
            order = torch.randperm(len(self.batches), generator=generator, device=generator.device)
            for place in order.tolist():
                yield self.batches[place]  # type: ignore[index]
            return
        whole = self.joined()
        order = torch.randperm(self.samples, generator=generator, device=generator.device)
        for index in sent(order, self.device).split(size):
            yield parts.rows(whole, index)

    def _augmented(self, batch: Batch, seed: int, step: int) -> Batch:
        if self.augment is None:
            return batch
        return batch._replace(inputs=self.augment(batch.inputs, seed, step))

    def _prepared(self, batch: Batch) -> Batch:
        if self.prepare is None:
            return batch
        return batch._replace(inputs=self.prepare(batch.inputs))

    def like(self, batches: list[Batch]) -> "Data":
        """The same kind of data in other batches, as they are kept."""
        twin = copy.copy(self)
        twin.batches, twin._joined, twin._stream = batches, None, None
        twin.samples = sum(batch.samples for batch in batches)
        return twin

    def _cut(self, most: int) -> list[Batch]:
        """The batches in memory, those of more than ``most`` samples in pieces of that size."""
        pieces: list[Batch] = []
        for batch in self.batches:
            order = torch.arange(batch.samples, device=self.device)
            large = batch.samples > most and parts.rowwise(batch)
            pieces += [parts.rows(batch, i) for i in order.split(most)] if large else [batch]
        return pieces

    def redrawn(self, seed: int) -> "Data":
        """The same data with what is random drawn from another seed, in the same batches."""
        if not self.random or self._stream is None:
            return self
        stream = copy.copy(self._stream)
        object.__setattr__(stream, "seed", seed)
        twin = copy.copy(self)
        twin._stream, twin._joined, twin.seed = stream, None, seed
        twin.batches = _resident(stream)
        return twin

    def _streamed(self, size: int, generator: torch.Generator, kept: str) -> Iterator[Batch]:
        stream, seed = self._stream, generator.initial_seed()
        assert stream is not None
        loader = stream.loader
        if not self.random or not has_places(loader) or size == loader.batch_size or kept:
            self._check_size(size, loader.batch_size, kept or "it is too large to keep in memory")
            yield from LoaderBatches(loader, self.device, seed, stream.unpack, stream.whole)
            return
        count = len(loader.dataset)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=generator, device=generator.device)
        for k, index in enumerate(order.split(size)):
            yield stream.drawn(index.tolist(), derived_seed(seed, "samples", k))

    @staticmethod
    def _check_size(size: int, own: int | None, reason: str) -> None:
        if own is not None and size != own:
            raise ValueError(
                f"mini-batches of {size} are asked for, but the data come in batches of {own} and "
                f"stay so, since {reason}; ask for {own} (--method.batch_size {own}, or 0 for "
                f"steps on all of them), or give a list or a DataLoader of batches of {size}"
            )


class _Pairs:
    """The batches of data that do not stay in memory, or not prepared, as pairs."""

    def __init__(self, data: Data):
        self._data = data

    @property
    def resident(self) -> bool:
        return self._data.resident

    def __len__(self) -> int:
        return len(self._data.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return ((batch.inputs, batch.target) for batch in self._data)


def order_of(generator: torch.Generator, epoch: int) -> torch.Generator:
    """The generator of an epoch's order: a function of the generator's seed and the epoch alone."""
    return derive(generator, "mini-batches", epoch)


def _listed(source: Any, free: bool) -> Sequence[Any]:
    """The batches in ``source``, which is one or a list of them.

    Raises:
        ValueError: if there is none.
        TypeError: if it is neither.
    """
    if isinstance(source, (str, bytes)) or callable(source) or isinstance(source, nn.Module):
        raise TypeError(
            "data must be one batch (inputs, target), a list of batches, a Dataset or a "
            f"DataLoader, got {type(source).__name__}"
        )
    pair = not free and isinstance(source, list) and len(source) == 2
    if isinstance(source, list) and not (pair and all(isinstance(t, Tensor) for t in source)):
        if not source:
            raise ValueError("data holds no batch")
        return source
    if (
        isinstance(source, tuple)
        and len(source) != 2
        and not free
        and all(isinstance(item, tuple) for item in source)
    ):
        if not source:
            raise ValueError("data holds no batch")
        raise TypeError(
            f"data is a tuple of {len(source)} pairs: give a list of batches, [(inputs, target), "
            "...]"
        )
    return [source]


def _resident(stream: LoaderBatches) -> "list[Batch] | LoaderBatches":
    """The loader's batches where they fit in memory, else the loader.

    Raises:
        ValueError: if there is none.
    """
    check_complete(stream.loader)
    kept, size = [], 0
    for batch in stream:
        size += sum(
            part.numel() * part.element_size()
            for tensor in tensors_of(batch[:2])
            for part in parts.dense_parts(tensor)
        )
        if size > RESIDENT_BYTES:
            return stream
        kept.append(batch)
    if not kept:
        raise ValueError("the DataLoader gives no batch")
    return kept


def is_dataset(source: Any) -> bool:
    """Whether something without a base class is read by number like a dataset."""
    plain = (Sequence, Mapping, Tensor)
    numbers = hasattr(source, "dtype")
    return (
        hasattr(type(source), "__getitem__")
        and hasattr(type(source), "__len__")
        and not isinstance(source, plain)
        and not numbers
    )
