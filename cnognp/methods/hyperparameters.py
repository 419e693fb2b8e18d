"""Hyper-parameters that are numbers, or tensors with one number per coordinate."""

from math import isfinite

import torch
from torch import Tensor

from cnognp.method import require

Rate = float | Tensor


def require_positive(name: str, value: Rate) -> None:
    """Nothing, if the number, or every entry of the tensor, is positive and finite.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, Tensor):
        require(bool((value > 0).all() and value.isfinite().all()), name, _POSITIVE, value)
    else:
        require(value > 0 and isfinite(value), name, _POSITIVE, value)


def require_not_negative(name: str, value: Rate) -> None:
    """Nothing, if the number, or every entry of the tensor, is at least 0 and finite.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, Tensor):
        require(bool((value >= 0).all() and value.isfinite().all()), name, _NOT_NEGATIVE, value)
    else:
        require(value >= 0 and isfinite(value), name, _NOT_NEGATIVE, value)


def descended(z: Tensor, lr: Rate, direction: Tensor) -> Tensor:
    """The points after a step, ``z - lr * direction``, with one new tensor instead of two."""
    step = lr * direction
    return torch.sub(z, step, out=step)


_POSITIVE = "positive and finite"
_NOT_NEGATIVE = "at least 0 and finite"
