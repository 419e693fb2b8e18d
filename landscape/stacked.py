"""Many small networks at once: one matrix product for the first layer of all members.

Activations lie features first, (members, features, samples). All members share the inputs, so the
first layers of n members form one (n * features, inputs) matrix; later layers are batched products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.layout import Layout

# Modules that act on each number alone, so that the order of axes does not matter.
_POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
_BYTES = 2**22
_IGNORED = -100  # what cross_entropy ignores unless told otherwise


class Dense(NamedTuple):
    """A linear layer by the names of its parameters."""

    weight: str
    bias: str | None


class Stack(NamedTuple):
    """What a plain chain of linear layers and pointwise functions does, in order."""

    steps: tuple[Dense | nn.Module, ...]
    widest: int


def stack_of(model: nn.Module, layout: Layout, inputs: Any) -> Stack | None:
    """The chain that ``model`` is on such ``inputs``, or None if it is anything else.

    A chain is nested ``nn.Sequential`` of linear layers and pointwise functions on inputs (samples,
    features), perhaps made so by a leading ``Flatten``; each parameter trainable and used once.
    """
    flat = isinstance(inputs, Tensor) and inputs.ndim == 2
    steps: list[Dense | nn.Module] = []
    for prefix, module in _leaves(model, ""):
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{prefix}bias"
            steps.append(Dense(f"{prefix}weight", bias))
        elif type(module) is nn.Flatten and not steps and module.start_dim == 1:
            flat = isinstance(inputs, Tensor) and module.end_dim in (-1, inputs.ndim - 1)
        elif type(module) in _POINTWISE:
            steps.append(module)
        elif isinstance(module, nn.Dropout) and (module.p == 0 or not module.training):
            continue
        else:
            return None
    dense = [step for step in steps if isinstance(step, Dense)]
    names = [name for step in dense for name in step if name is not None]
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    if (
        not flat
        or not dense
        or hooked
        or isinstance(steps[0], nn.Module)
        or sorted(names) != sorted(layout.names)
    ):
        return None
    shapes = {entry.name: entry.shape for entry in layout.entries}
    return Stack(tuple(steps), max(shapes[step.weight][0] for step in dense))


def members_together(stack: Stack, samples: int) -> int:
    """How many members are best evaluated together: as many as keep a layer inside the cache."""
    return max(1, min(4096, _BYTES // (4 * stack.widest * samples)))


def outputs(stack: Stack, tensors: dict[str, Tensor], features: Tensor) -> Tensor:
    """The networks' outputs, (members, outputs, samples).

    Args:
        stack: the chain.
        tensors: its parameters, each with one leading axis of members.
        features: (inputs, samples), shared by all members.
    """
    hidden: Tensor | None = None
    for step in stack.steps:
        if not isinstance(step, Dense):
            hidden = step(hidden)
            continue
        weight = tensors[step.weight]
        bias = None if step.bias is None else tensors[step.bias]
        if hidden is None:
            hidden = _first_layer(weight, bias, features)
        elif bias is None:
            hidden = torch.bmm(weight, hidden)
        else:
            hidden = torch.baddbmm(bias.unsqueeze(-1), weight, hidden)
    return hidden  # type: ignore[return-value]


def losses(loss: Callable[[Any, Any], Any], output: Tensor, target: Any) -> Any:
    """``loss`` of every member, from outputs (members, outputs, samples).

    Plain mean cross-entropy is evaluated for all members in one call; any other loss is mapped
    over the members.
    """
    if _is_cross_entropy(loss) and isinstance(target, Tensor) and target.ndim == 1:
        # Members times samples as one batch would need a copy of the outputs; classes on axis 1
        # and samples behind is the layout that cross_entropy takes anyway.
        targets = target.expand(len(output), len(target))
        kept = (target != _IGNORED).sum()
        return F.cross_entropy(output, targets, reduction="none").sum(-1) / kept
    return torch.func.vmap(loss, in_dims=(0, None))(output.transpose(1, 2), target)


def _first_layer(weight: Tensor, bias: Tensor | None, features: Tensor) -> Tensor:
    members, width, inputs = weight.shape
    flat = weight.reshape(members * width, inputs)
    if bias is None:
        product = flat @ features
    else:
        product = torch.addmm(bias.reshape(-1, 1), flat, features)
    return product.view(members, width, features.shape[1])


def _is_cross_entropy(loss: Any) -> bool:
    if loss is F.cross_entropy:
        return True
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.reduction == "mean"
        and loss.ignore_index == _IGNORED
        and loss.label_smoothing == 0.0
    )


def _leaves(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        return [(prefix, module)]
    found = []
    for name, child in module._modules.items():
        found += _leaves(child, f"{prefix}{name}.")  # type: ignore[arg-type]
    return found
