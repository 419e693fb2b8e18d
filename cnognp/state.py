"""States as named arrays and back, so that one function checkpoints every method."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_arrays(state: Any, prefix: str = "state") -> dict[str, np.ndarray]:
    """The tensors of a nested NamedTuple by path, ``state/local/position``; None is left out.

    Raises:
        TypeError: if a leaf is neither a tensor nor None.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, item in zip(state._fields, state, strict=True):
        path = f"{prefix}/{name}"
        if item is None:
            continue
        if isinstance(item, Tensor):
            arrays[path] = item.detach().cpu().numpy().copy()
        elif hasattr(item, "_fields"):
            arrays |= to_arrays(item, path)
        else:
            raise TypeError(f"{path} must be a tensor, got {type(item).__name__}")
    return arrays


def from_arrays(template: Any, arrays: dict[str, np.ndarray], prefix: str = "state") -> Any:
    """The state in ``arrays``, with the structure, types and devices of ``template``.

    Raises:
        ValueError: if an array is missing, has another shape or type, or is not expected.
    """
    found: dict[str, Any] = {}
    parts = template._asdict()
    for key in arrays:
        inside = key.startswith(f"{prefix}/")
        if inside and parts.get(key.removeprefix(f"{prefix}/").split("/")[0]) is None:
            raise ValueError(f"{key} is not expected: the file belongs to another method")
    for name, item in zip(template._fields, template, strict=True):
        path = f"{prefix}/{name}"
        if item is None:
            found[name] = None
        elif isinstance(item, Tensor):
            found[name] = _tensor(path, item, arrays)
        else:
            found[name] = from_arrays(item, arrays, path)
    return type(template)(**found)


def _tensor(path: str, like: Tensor, arrays: dict[str, np.ndarray]) -> Tensor:
    if path not in arrays:
        raise ValueError(f"{path} is missing: the file belongs to another method")
    tensor = torch.from_numpy(arrays[path].copy())
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(
            f"{path} must be {like.dtype} {tuple(like.shape)}, got {tensor.dtype} "
            f"{tuple(tensor.shape)}: the file belongs to another model or population"
        )
    return tensor.to(like.device)
