"""Cross-entropy of a stack and its gradient, the chain rule written out.

For small networks the graph that autograd builds and walks costs more than the mathematics. Forward
and backward are here the same products in the same order, but for the sum over samples.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from landscape.networks.layout import Layout
from landscape.networks.stacked import IGNORED, Dense, Stack, first_layer, is_cross_entropy

Function = Callable[[Tensor], Tensor]
Pull = Callable[[Tensor, Tensor], Tensor]

# Each activation, and what its output makes of a slope; both write over their first argument. The
# output is not needed any more and may be written over, too.
_ACTIVATIONS: dict[type, tuple[Function, Pull]] = {
    nn.Identity: (lambda x: x, lambda slope, y: slope),
    nn.ReLU: (torch.relu_, lambda slope, y: slope.mul_(y.sign_())),
    nn.Tanh: (torch.tanh_, lambda slope, y: slope.mul_(y.square_().neg_().add_(1))),
    nn.Sigmoid: (torch.sigmoid_, lambda slope, y: slope.mul_(y.mul_(1 - y))),
}


def suits(stack: Stack | None, loss: Any, rows: Tensor, target: Any) -> bool:
    """Whether the gradient of a stack's loss is written out here.

    Args:
        stack: the chain, if the network is one.
        loss: of the outputs.
        rows: points (n, p).
        target: of a batch.
    """
    return (
        stack is not None
        and is_cross_entropy(loss)
        and rows.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(rows.device.type)
        and isinstance(target, Tensor)
        and target.ndim == 1
        and target.dtype == torch.int64
        and all(type(step) in (Dense, *_ACTIVATIONS) for step in stack.steps)
        # What an activation has made is not written over by another one.
        and all(Dense in map(type, pair) for pair in zip(stack.steps, stack.steps[1:]))  # noqa: B905
    )


def slopes(
    stack: Stack, layout: Layout, rows: Tensor, features: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (n,) at every point, and its gradient (n, p).

    Args:
        stack: the chain.
        layout: of the points.
        rows: (n, p).
        features: (inputs, samples), shared by all members.
        target: (samples,).
    """
    tensors, grad = layout.unflatten(rows), torch.empty_like(rows)
    # What goes into a linear layer, and what comes out of an activation.
    seen, hidden = [features], first_layer(stack, tensors, features)
    for step in stack.steps[1:]:
        if isinstance(step, Dense):
            seen.append(hidden)
            hidden = _dense(step, tensors, hidden)
        else:
            hidden = _ACTIVATIONS[type(step)][0](hidden)
            seen.append(hidden)
    values, slope = _cross_entropy(hidden, target)
    found = layout.unflatten(grad)
    for step, given in zip(reversed(stack.steps[1:]), reversed(seen), strict=False):
        if isinstance(step, Dense):
            found[step.weight].copy_(torch.bmm(slope, given.transpose(1, 2)))
            _bias(step, found, slope)
            slope = torch.bmm(tensors[step.weight].transpose(1, 2), slope)
        else:
            slope = _ACTIVATIONS[type(step)][1](slope, given)
    first: Dense = stack.steps[0]  # type: ignore[assignment]
    product = slope.flatten(0, 1) @ features.T
    found[first.weight].copy_(product.view_as(found[first.weight]))
    _bias(first, found, slope)
    return values, grad


def _dense(step: Dense, tensors: dict[str, Tensor], hidden: Tensor) -> Tensor:
    weight = tensors[step.weight]
    if step.bias is None:
        return torch.bmm(weight, hidden)
    return torch.baddbmm(tensors[step.bias].unsqueeze(-1), weight, hidden)


def _bias(step: Dense, found: dict[str, Tensor], slope: Tensor) -> None:
    if step.bias is not None:
        torch.sum(slope, -1, out=found[step.bias])


def _cross_entropy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Means (n,) over samples from outputs (n, classes, samples), and slopes like the outputs."""
    logs = output.log_softmax(1)
    counted = target != IGNORED
    # An accelerator need not wait for the answer.
    masked = target.device.type != "cpu" or not bool(counted.all())
    classes = torch.where(counted, target, 0) if masked else target
    each = logs.gather(1, classes.expand(len(logs), 1, len(classes))).squeeze(1)
    hot = classes == torch.arange(logs.shape[1], device=logs.device).unsqueeze(-1)
    slope = logs.exp_().sub_(hot.to(logs))
    if not masked:
        return -each.sum(-1) / len(target), slope.div_(len(target))
    kept = counted.sum()
    each = each.where(counted, 0)
    # Where every label is ignored, the loss is no number and its slope 0, as torch has it.
    return -each.sum(-1) / kept, slope.div_(kept).where(counted, 0)
