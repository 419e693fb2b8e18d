"""How many samples are evaluated together, so that memory does not grow with the data."""

import re
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from landscape.networks import Batch, Risk
from landscape.networks import batches as data_batches

# A power of two between these, so that what a version of torch keeps more or less of is no matter.
MOST, LEAST = 4096, 32
# What torch says on a host, and other accelerators and their libraries.
_FULL = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")
# What a gradient may keep of a batch.
_BYTES = 1 << 27


def exhausted(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_FULL.search(str(error)))


def judged_together(risk: Risk) -> int:
    """The samples that a batch may have, by what the graph of a gradient keeps for each.

    Between `LEAST` and `MOST`; the latter where that cannot be found out.
    """
    batch = data_batches.few(risk.data.first, LEAST)
    try:
        kept = _kept(risk, batch)
    except Exception:
        # The model and the loss are a user's: what is wrong with them is said elsewhere.
        return MOST
    allowed = _BYTES * batch.samples // max(kept, 1)
    return min(MOST, max(LEAST, 1 << max(allowed, 1).bit_length() - 1))


def slope(risk: Risk, batch: Batch, z: Tensor, watched: Any = None) -> Tensor:
    """The loss of one batch at ``z`` with its graph; the random state stays as it is.

    Args:
        risk: of the loss.
        batch: what it is of.
        z: (p,), the point.
        watched: a context for the forward pass alone: what finds out how to evaluate several
            points builds graphs of its own before that.
    """
    with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
        term = next(risk.measuring(risk.loss, risk.data.of([batch])).terms())
        with torch.enable_grad(), watched or nullcontext():
            return term(z)


def _kept(risk: Risk, batch: Batch) -> int:
    """The bytes that the graph keeps of the activations."""
    z = risk.point().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (z, *risk.model.parameters.values())}
    sizes: dict[int, int] = {}
    # So that no other can lie in the memory of one that was counted.
    held: list[Any] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    slope(risk, batch, z, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
    return sum(sizes.values())
