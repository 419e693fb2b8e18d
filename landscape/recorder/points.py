"""Points as training loops hold them: a vector, a model, its parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.networks import Layout


def point_of(
    holder: Any, dim: int, layout: Layout | None = None
) -> tuple[Float[Tensor, " p"], list[Tensor]]:
    """A copy of the point that ``holder`` is at, and the tensors that it was copied from.

    Args:
        holder: a flat vector (p,), a module (compiled or wrapped for data parallelism or not), its
            parameters in the order of the vector, or by name. Only read.
        dim: p.
        layout: which parameters there are, in which order; the trainable ones of the module where
            None.

    Raises:
        ValueError: if the tensors do not fit, are not floating point, or one is missing.
        TypeError: if it is none of these.
    """
    tensors = [tensor.detach() for tensor in _tensors(holder, layout)]
    sizes = [tensor.numel() for tensor in tensors]
    if sum(sizes) != dim or (isinstance(holder, Tensor) and holder.ndim != 1):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(f"a point of length {dim} is needed, got tensors of shape {shapes}")
    if layout is not None and not isinstance(holder, Tensor) and sizes != list(layout.sizes):
        raise ValueError(f"parameters of sizes {list(layout.sizes)} are needed, got {sizes}")
    if not all(tensor.is_floating_point() for tensor in tensors):
        raise ValueError("points must be floating point")
    z = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return z, list(_tensors(holder, layout))


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what compiles it or spreads it over devices, in whatever order."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def _tensors(holder: Any, layout: Layout | None) -> list[Tensor]:
    if isinstance(holder, Tensor):
        return [holder]
    if isinstance(holder, nn.Module):
        holder = _unwrapped(holder)
        layout = Layout.of(holder) if layout is None else layout
        holder = dict(holder.named_parameters())
    if isinstance(holder, Mapping):
        names = holder if layout is None else layout.names
        missing = [name for name in names if name not in holder]
        if missing:
            raise ValueError(f"no tensor named {missing[0]}; got {sorted(holder)}")
        return [holder[name] for name in names]
    found = list(holder) if isinstance(holder, Iterable) else [holder]
    if not found or not all(isinstance(tensor, Tensor) for tensor in found):
        raise TypeError(
            f"a vector (p,), a module or its parameters are needed, got {type(holder).__name__}"
        )
    return found
