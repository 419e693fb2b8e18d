"""States as named tensors or arrays and back, so that one function stores every method."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_arrays(state: Any, prefix: str = "state") -> dict[str, np.ndarray]:
    """The tensors of a nested NamedTuple by path, ``state/local/position``; None is left out.

    Raises:
        TypeError: if a leaf is neither a tensor nor None.
    """
    tensors = to_tensors(state, prefix)
    return {path: tensor.cpu().numpy().copy() for path, tensor in tensors.items()}


def from_arrays(
    template: Any, arrays: Mapping[str, np.ndarray], prefix: str = "state", *, copy: bool = True
) -> Any:
    """The state in ``arrays``, with the structure, types and devices of ``template``.

    Args:
        template: a state of the same method.
        arrays: by path, as `to_arrays` gives them.
        prefix: of the paths.
        copy: False where there is no room for the state beside ``arrays``, which it then shares.

    Raises:
        ValueError: if an array is missing, has another shape or type, or is not expected.
    """
    inside = (path for path in arrays if path.startswith(f"{prefix}/"))
    return from_tensors(
        template, {path: _read(path, arrays[path], copy) for path in inside}, prefix
    )


def to_tensors(state: Any, prefix: str = "state") -> dict[str, Tensor]:
    """The tensors of a nested NamedTuple as they are, by path as in `to_arrays`.

    Raises:
        TypeError: if a leaf is neither a tensor nor None.
    """
    tensors: dict[str, Tensor] = {}
    for name, item in zip(state._fields, state, strict=True):
        path = f"{prefix}/{name}"
        if item is None:
            continue
        if isinstance(item, Tensor):
            tensors[path] = item.detach()
        elif hasattr(item, "_fields"):
            tensors |= to_tensors(item, path)
        else:
            raise TypeError(f"{path} must be a tensor, got {type(item).__name__}")
    return tensors


def from_tensors(template: Any, tensors: Mapping[str, Tensor], prefix: str = "state") -> Any:
    """The state in ``tensors``, with the structure, types and devices of ``template``.

    Raises:
        ValueError: if a tensor is missing, has another shape or type, or is not expected.
    """
    found: dict[str, Any] = {}
    parts = template._asdict()
    for key in tensors:
        inside = key.startswith(f"{prefix}/")
        if inside and parts.get(key.removeprefix(f"{prefix}/").split("/")[0]) is None:
            raise ValueError(f"{key} is not expected: the file belongs to another method")
    for name, item in zip(template._fields, template, strict=True):
        path = f"{prefix}/{name}"
        if item is None:
            found[name] = None
        elif isinstance(item, Tensor):
            found[name] = _tensor(path, item, tensors)
        else:
            found[name] = from_tensors(item, tensors, path)
    return type(template)(**found)


def _read(path: str, array: np.ndarray, copy: bool) -> Tensor:
    try:
        return torch.from_numpy(array.copy() if copy else array)
    except TypeError:
        raise ValueError(f"{path} must hold numbers, got {array.dtype}") from None


def _tensor(path: str, like: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    if path not in tensors:
        raise ValueError(f"{path} is missing: the file belongs to another method")
    tensor = tensors[path]
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(
            f"{path} must be {like.dtype} {tuple(like.shape)}, got {tensor.dtype} "
            f"{tuple(tensor.shape)}: the file belongs to another model or population"
        )
    return tensor.to(like.device)
