"""What a batch is: its inputs, its target and how many samples they hold.

A part of a batch is a tensor, a structure of tensors (tuples, dictionaries, packed sequences), or
an object that holds tensors, such as a graph. The functions here look through all of them.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import rnn

from landscape.objective import ordinary

Unpack = Callable[[Any], tuple[Any, Any, int]]
_ATOMS = (str, bytes, int, float, complex, bool, type(None), torch.Size, torch.dtype, torch.device)
_MEND = (
    "; say what it is with unpack=lambda batch: (inputs, target, samples), for instance "
    "unpack=lambda batch: ((batch[0], batch[1]), batch[2], len(batch[2]))"
)


class Batch(NamedTuple):
    """One batch.

    Attributes:
        inputs: what goes into the model.
        target: what the loss compares the output with; the inputs again where there is nothing
            else; None where the loss takes the batch as a whole.
        samples: how many samples it counts.
    """

    inputs: Any
    target: Any
    samples: int


def batch_of(content: Any, unpack: Unpack | None = None, *, whole: bool = False) -> Batch:
    """The batch that ``content`` is.

    A pair is (inputs, target). A dictionary, a tensor or any other object goes in whole, and the
    loss gets it as the target.

    Args:
        content: as a list or a loader gives it.
        unpack: from it to (inputs, target, samples).
        whole: the loss takes the content as it is, so that it need not be a pair.

    Raises:
        ValueError: if it holds no sample, or no tensor to count them by.
        TypeError: if it is a tuple or list of another length, or ``unpack`` gives something else.
    """
    if unpack is not None:
        found = unpack(content)
        if not isinstance(found, tuple) or len(found) != 3 or not isinstance(found[2], int):
            raise TypeError(
                f"unpack must return (inputs, target, samples) with samples an int, got "
                f"{found!r:.80}"
            )
        if found[2] < 1:
            raise ValueError("a batch holds no sample")
        return Batch(content, None, found[2]) if whole else Batch(*found)
    if whole:
        listed = isinstance(content, list) and not any(isinstance(t, Tensor) for t in content)
        return Batch(content, None, len(content) if listed and content else count(None, content))
    if isinstance(content, Sequence) and not isinstance(content, rnn.PackedSequence):
        if len(content) != 2 or isinstance(content, (str, bytes)):
            raise TypeError(
                "a batch must be (inputs, target), or a dictionary that holds both, got "
                f"{type(content).__name__} of length {len(content)}{_MEND}"
            )
        return Batch(content[0], content[1], count(content[0], content[1]))
    return Batch(content, content, count(content, content))


def count(inputs: Any, target: Any) -> int:
    """The number of samples: the length of the first tensor of the target, or of the inputs.

    Raises:
        ValueError: if there is no tensor with a leading axis, or no sample.
    """
    for part in (target, inputs):
        length = _length(part)
        if length is not None:
            if length == 0:
                raise ValueError("a batch holds no sample")
            return length
    raise ValueError(f"a batch holds no tensor with a leading axis to count its samples by{_MEND}")


def tensors_of(part: Any) -> Iterator[Tensor]:
    """Every tensor inside a part of a batch, each once."""
    yield from _tensors(part, set())


def mapped(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``part`` with ``change`` applied to every tensor inside.

    A tensor that occurs twice is changed once; what requires a gradient still does.
    """
    return _mapped(part, change, {})


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point tensors in ``dtype``."""
    if not any(t.is_floating_point() and t.dtype != dtype for t in tensors_of(batch[:2])):
        return batch
    return _changed(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device, apart from any graph; NumPy arrays become tensors."""
    return _changed(batch, lambda t: ordinary(t).to(device))


def copied(batch: Batch) -> Batch:
    """The batch in memory of its own, which may be written over."""
    return _changed(batch, lambda t: t.detach().clone())


def live(batch: Batch, everything: bool) -> Batch:
    """The batch with differentiated inputs as fresh leaves: all floats, or those that came so."""
    if not everything and not any(t.requires_grad for t in tensors_of(batch[:2])):
        return batch

    def fresh(t: Tensor) -> Tensor:
        return t.detach().requires_grad_(t.is_floating_point() and everything)

    return _changed(batch, fresh)


def rowwise(batch: Batch) -> bool:
    """Whether the first axis of every tensor counts the samples, so that rows can be taken."""
    return all(length == batch.samples for length in _lengths(batch[:2])) and not _opaque(batch[:2])


def rows(batch: Batch, index: Tensor, *, graph: bool = False) -> Batch:
    """The samples ``index`` of a batch; with ``graph``, of one that is itself computed."""
    taken = _rows(batch[:2], index, graph)
    return Batch(taken[0], taken[1], len(index))


def spread(batch: Batch, samples: int) -> Batch:
    """So many samples of a batch, from all over it."""
    return rows(batch, places(batch, samples))


def places(batch: Batch, samples: int) -> Tensor:
    """Where so many samples from all over a batch are; on its device."""
    device = next(tensors_of(batch[:2])).device
    return torch.linspace(0, batch.samples - 1, samples, dtype=torch.float64, device=device).long()


def few(batch: Batch, samples: int) -> Batch:
    """At most so many samples, which show what all would; a batch without samples as it is."""
    large = batch.samples > samples and rowwise(batch)
    return spread(batch, samples) if large else batch


def joined(batches: Sequence[Batch]) -> Batch:
    """All batches as one, tensors joined along the first axis.

    Raises:
        RuntimeError: if their shapes do not fit.
    """
    if len(batches) == 1:
        return batches[0]
    whole = _join([batch[:2] for batch in batches], {})
    return Batch(whole[0], whole[1], sum(b.samples for b in batches))


def first_samples(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The batches up to ``samples`` samples; the last one is cut."""
    left = samples
    for batch in batches:
        if batch.samples > left:
            device = next(tensors_of(batch[:2])).device
            batch = rows(batch, torch.arange(left, device=device))
        yield batch
        left -= batch.samples
        if left <= 0:
            return


def without_singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, one of a single sample joined with its neighbour: batch statistics need two."""
    held: Batch | None = None
    for batch in batches:
        if held is not None and 1 in (held.samples, batch.samples):
            batch = joined([held, batch])
        elif held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that a tensor consists of: itself, or places and values if it is sparse."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    rows_first = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    places = (
        (tensor.crow_indices(), tensor.col_indices())
        if rows_first
        else (tensor.ccol_indices(), tensor.row_indices())
    )
    return (*places, tensor.values())


def _changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    new = _mapped(batch[:2], change, {})
    return Batch(new[0], new[1], batch.samples)


def _held(part: Any) -> dict[str, Any] | None:
    """What an object holds by name, if it is one that may hold tensors."""
    if isinstance(part, (*_ATOMS, torch.nn.Module, np.generic)) or callable(part):
        return None
    return getattr(part, "__dict__", None) or None


def _tensors(part: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        if id(part) not in seen:
            seen.add(id(part))
            yield part
        return
    if isinstance(part, np.ndarray):
        if part.dtype != object:
            yield _tensor(part)
        return
    items: Iterable[Any] = ()
    if isinstance(part, Mapping):
        items = part.values()
    elif isinstance(part, (tuple, list)):
        items = part
    elif (held := _held(part)) is not None and id(part) not in seen:
        seen.add(id(part))
        items = list(held.values())
    for item in items:
        yield from _tensors(item, seen)


def _tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor, whatever its strides, bytes and width of integers."""
    kind = np.dtype(np.int64) if array.dtype.kind == "i" else array.dtype.newbyteorder("=")
    return torch.as_tensor(np.ascontiguousarray(array, dtype=kind), device="cpu")


def _mapped(part: Any, change: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    if isinstance(part, np.ndarray) and part.dtype != object:
        part = _tensor(part)
    elif id(part) in known:
        return known[id(part)]
    new: Any
    if isinstance(part, Tensor):
        new = change(part)
        if part.requires_grad and not new.requires_grad and new.is_floating_point():
            new = new.detach().requires_grad_()
        known[id(part)] = new
        return new
    if isinstance(part, rnn.PackedSequence):
        return _packed_like(part, _mapped(part.data, change, known))
    if isinstance(part, Mapping):
        new = _like(part, {key: _mapped(item, change, known) for key, item in part.items()})
    elif isinstance(part, tuple) and hasattr(part, "_fields"):
        new = type(part)(*(_mapped(item, change, known) for item in part))
    elif isinstance(part, (tuple, list)):
        new = type(part)(_mapped(item, change, known) for item in part)
    elif _held(part) is not None and any(True for _ in tensors_of(part)):
        new = copy.copy(part)
        known[id(part)] = new
        for name, item in list(vars(new).items()):
            vars(new)[name] = _mapped(item, change, known)
    else:
        return part
    known[id(part)] = new
    return new


def _like(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """The items in a mapping of the same kind, whose keys may be attributes too."""
    if type(mapping) is dict:
        return items
    new: Any = copy.copy(mapping)
    try:
        for key, item in items.items():
            new[key] = item
    except (TypeError, AttributeError):
        return items
    return new


def _packed_like(part: Any, data: Tensor) -> Any:
    """A packed sequence with other numbers; the sizes of its steps stay on the CPU."""
    places = [None if t is None else t.to(data.device) for t in (part[2], part[3])]
    return rnn.PackedSequence(data, part.batch_sizes, *places)


def _length(part: Any) -> int | None:
    return next(_lengths(part), None)


def _lengths(part: Any) -> Iterator[int]:
    """The number of rows of every tensor and packed sequence inside that has any."""
    if isinstance(part, rnn.PackedSequence):
        yield int(part.batch_sizes[0])
    elif isinstance(part, Mapping):
        for item in part.values():
            yield from _lengths(item)
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from _lengths(item)
    else:
        # An object's own target says best what it counts: the labels of a graph.
        own = getattr(part, "y", None) if _held(part) is not None else None
        for tensor in ([own] if isinstance(own, Tensor) else []) + list(tensors_of(part)):
            if tensor.ndim > 0:
                yield len(tensor)


def _opaque(part: Any) -> bool:
    """Whether a part holds what rows cannot be taken of: an object, or a list that is no tensor."""
    if isinstance(part, (Tensor, np.ndarray, rnn.PackedSequence, *_ATOMS)):
        return isinstance(part, Tensor) and part.layout != torch.strided
    if isinstance(part, Mapping):
        return any(_opaque(item) for item in part.values())
    if isinstance(part, list):
        return not part or not all(isinstance(item, Tensor) for item in part)
    if isinstance(part, tuple):
        return any(_opaque(item) for item in part)
    return True


def _rows(part: Any, index: Tensor, graph: bool, known: dict[int, Any] | None = None) -> Any:
    """Samples of a part, each object of it taken once; a function of its own would be a cycle."""
    known = {} if known is None else known
    if id(part) in known:
        return known[id(part)]
    taken = partial(_rows, index=index, graph=graph, known=known)
    new: Any
    if isinstance(part, Tensor):
        own = part if graph else part.detach()
        new = own.index_select(0, index) if part.ndim > 0 else part
        new = new.requires_grad_() if part.requires_grad and not graph else new
    elif isinstance(part, rnn.PackedSequence):
        new = _packed_rows(part, index)
    elif isinstance(part, Mapping):
        new = _like(part, {key: taken(item) for key, item in part.items()})
    elif isinstance(part, tuple) and hasattr(part, "_fields"):
        new = type(part)(*map(taken, part))
    elif isinstance(part, (tuple, list)):
        new = type(part)(map(taken, part))
    else:
        return part
    known[id(part)] = new
    return new


def _packed_rows(part: Any, index: Tensor) -> Any:
    padded, lengths = rnn.pad_packed_sequence(part, batch_first=True)
    chosen = index.to(padded.device)
    return rnn.pack_padded_sequence(
        padded.index_select(0, chosen), lengths[index.cpu()], batch_first=True, enforce_sorted=False
    )


def _join(parts: list[Any], known: dict[tuple[int, ...], Any]) -> Any:
    key = tuple(map(id, parts))
    if key not in known:
        known[key] = _joined(parts, known)
    return known[key]


def _joined(parts: list[Any], known: dict[tuple[int, ...], Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return (
            torch.cat([p.detach() for p in parts]).requires_grad_(first.requires_grad)
            if (first.ndim)
            else first
        )
    if isinstance(first, rnn.PackedSequence):
        sequences = [row for part in parts for row in rnn.unpack_sequence(part)]
        return rnn.pack_sequence(sequences, enforce_sorted=False)
    if isinstance(first, Mapping):
        return _like(first, {key: _join([part[key] for part in parts], known) for key in first})
    if isinstance(first, (tuple, list)):
        items = [_join(list(group), known) for group in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first
