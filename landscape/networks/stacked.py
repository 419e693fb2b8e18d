"""Many small networks at once: one matrix product for the first layer of all members.

Activations lie features first, (members, features, samples). All members share the inputs, so the
first layers of n members form one (n * features, inputs) matrix; later layers are batched products.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landscape.networks import softplus, traced
from landscape.networks.batches import Batch
from landscape.networks.layout import Layout
from landscape.networks.network import Network

# Modules that act on each number alone, so that the order of axes does not matter.
POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip


def _tanh_(x: Tensor) -> Tensor:
    """tanh(x) = 2 sigmoid(2 x) - 1, to an absolute rounding error; on a CPU in half of the time."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.tanh_()
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


# Functions that write over their argument.
_IN_PLACE = {nn.ReLU: torch.relu_, nn.Tanh: _tanh_, nn.Sigmoid: torch.sigmoid_}
_BYTES = 2**22
Room = Callable[[int, tuple[int, ...], Tensor], Tensor]
IGNORED = -100  # what cross_entropy ignores unless told otherwise


class Dense(NamedTuple):
    """A linear layer by the names of its parameters."""

    weight: str
    bias: str | None


class Stack(NamedTuple):
    """What a plain chain of linear layers and pointwise functions does, in order."""

    steps: tuple[Dense | nn.Module, ...]
    widest: int


def stack_of(network: Network, layout: Layout, inputs: Any) -> Stack | None:
    """The chain that a network is on such ``inputs``, or None if it is anything else.

    A chain is nested ``nn.Sequential`` of linear layers and pointwise functions on inputs (samples,
    features), perhaps made so by a leading ``Flatten``; each parameter trainable and used once. Or
    a class that calls such modules one after the other, and gives what the chain gives.
    """
    model = network.module
    flat = isinstance(inputs, Tensor) and inputs.ndim == 2
    steps: list[Dense | nn.Module] = []
    leaves = leaves_of(model, "")
    own = any(module._modules for _, module in leaves)
    if own and isinstance(inputs, Tensor) and inputs.is_floating_point():
        leaves = traced.chain(model) or []
    for prefix, module in leaves:
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{prefix}bias"
            steps.append(Dense(f"{prefix}weight", bias))
        elif type(module) is nn.Flatten and not steps and module.start_dim == 1:
            flat = isinstance(inputs, Tensor) and module.end_dim in (-1, inputs.ndim - 1)
        elif type(module) in POINTWISE:
            steps.append(module)
        elif at_rest(network, module):
            continue
        else:
            return None
    dense = [step for step in steps if isinstance(step, Dense)]
    names = [name for step in dense for name in step if name is not None]
    if (
        not flat
        or not dense
        or not unchanged(model)
        or isinstance(steps[0], nn.Module)
        or sorted(names) != sorted(layout.names)
    ):
        return None
    shapes = {entry.name: entry.shape for entry in layout.entries}
    stack = Stack(tuple(steps), max(shapes[step.weight][0] for step in dense))
    evaluated = network.mode == "eval"
    same = not own or traced.agrees(model, inputs, partial(outputs, stack), evaluated)
    return stack if same else None


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
    return later_layers(stack, tensors, first_layer(stack, tensors, features))


class Affine:
    r"""The risk of a stack along a few directions, with its first layer precomputed.

    The first layer's output is affine in the coordinates,
    :math:`W(t) x + b(t) = (W_0 x + b_0) + \sum_k t_k (U_k x + c_k)`, so that its matrix products
    are taken once for a batch, and only combined at a point.

    Args:
        stack: the chain.
        layout: of the vectors.
        origin: (p,), the point at t = 0.
        directions: vectors (p,).
        weighed: gives every batch of the data with its share of the risk.
        features: gives (inputs, samples) and the target, from a batch, its index and the type.
        scaled: gives a batch's part of the risk from the outputs, the target and the share.
        chunk: how many points are evaluated together.
        keep: whether products are kept for the next points, which is good for batches that stay.
    """

    name = "stacked, first layer affine"

    def __init__(
        self,
        stack: Stack,
        layout: Layout,
        origin: Tensor,
        directions: Sequence[Tensor],
        weighed: Callable[[], Iterator[tuple[Batch, float]]],
        features: Callable[[int, Batch, torch.dtype], tuple[Tensor, Any]],
        scaled: Callable[[Tensor, Any, float], Tensor],
        *,
        chunk: int,
        keep: bool,
    ):
        self._stack, self._weighed = stack, weighed
        self._features, self._scaled = features, scaled
        self._tensors = layout.unflatten(torch.stack([origin, *directions]))
        self._products: dict[int, tuple[Tensor, Any]] = {}
        self._rooms: dict[int, Tensor] = {}
        self._keep = keep
        self.chunk = chunk

    def terms(self, t: Float[np.ndarray, "n k"]) -> Iterator[Float[Tensor, " n"]]:
        """The share of every batch at the points with coordinates ``t``."""
        like = next(iter(self._tensors.values()))
        steps = torch.as_tensor(t, dtype=like.dtype, device=like.device)
        steps = torch.cat([torch.ones_like(steps[:, :1]), steps], 1)
        later = [name for step in self._stack.steps[1:] if isinstance(step, Dense) for name in step]
        # Where points lie and what is kept for others is never rounded by mixed precision.
        exactly = torch.autocast(like.device.type, enabled=False)
        with exactly:
            tensors = {name: combined(self._tensors[name], steps) for name in later if name}
        for index, (batch, share) in enumerate(self._weighed()):
            with exactly:
                products, target = self._product(index, batch)
                room = self._room(0, (len(t), *products.shape[1:]), like)
                hidden = combined(products, steps, room)
            output = later_layers(self._stack, tensors, hidden, self._room)
            yield self._scaled(output, target, share)

    def _room(self, step: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory for the output of a step, the same ever again: fresh pages cost more than math."""
        if step not in self._rooms or self._rooms[step].numel() < math.prod(shape):
            self._rooms[step] = like.new_empty(math.prod(shape))
        return self._rooms[step][: math.prod(shape)].view(shape)

    def _product(self, index: int, batch: Batch) -> tuple[Tensor, Any]:
        """The first layer's output at the origin and along each direction, and the target."""
        if index in self._products:
            return self._products[index]
        dtype = next(iter(self._tensors.values())).dtype
        features, target = self._features(index, batch, dtype)
        found = first_layer(self._stack, self._tensors, features), target
        if self._keep:
            self._products[index] = found
        return found


def losses(loss: Callable[[Any, Any], Any], output: Tensor, target: Any) -> Any:
    """``loss`` of every member, from outputs (members, outputs, samples).

    Plain mean cross-entropy is evaluated for all members in one call; any other loss is mapped
    over the members.
    """
    if is_cross_entropy(loss) and isinstance(target, Tensor) and target.ndim == 1:
        # Members times samples as one batch would need a copy of the outputs; classes on axis 1
        # and samples behind is the layout that cross_entropy takes anyway.
        targets = target.expand(len(output), len(target))
        kept = (target != IGNORED).sum()
        return F.cross_entropy(output, targets, reduction="none").sum(-1) / kept
    return torch.func.vmap(loss, in_dims=(0, None))(output.transpose(1, 2), target)


def combined(parts: Tensor, steps: Tensor, room: Tensor | None = None) -> Tensor:
    """``sum_k steps[i, k] parts[k]`` for every row i of ``steps``, in ``room`` if there is any."""
    shape = (len(steps), *parts.shape[1:])
    out = None if room is None else room.view(len(steps), -1)
    return torch.mm(steps, parts.flatten(1), out=out).view(shape)


def later_layers(
    stack: Stack,
    tensors: dict[str, Tensor],
    hidden: Tensor,
    room: Room | None = None,
    once: bool = False,
) -> Tensor:
    """The outputs from the first layer's; with ``room``, what nobody needs is written over.

    With ``once`` they are differentiated at most once.
    """
    last = max(i for i, step in enumerate(stack.steps) if isinstance(step, Dense))
    mixed = torch.is_autocast_enabled(hidden.device.type)  # then nothing is written into rooms
    for index, step in enumerate(stack.steps[1:], start=1):
        if not isinstance(step, Dense):
            kind = None if room is None else _IN_PLACE.get(type(step))
            if once and index < last and softplus.suits(step, hidden):
                hidden = softplus.softplus(hidden)
            else:
                hidden = step(hidden) if kind is None or index > last else kind(hidden)
            continue
        weight, out = tensors[step.weight], None
        if room is not None and index != last and not mixed:
            out = room(index, (len(weight), weight.shape[1], hidden.shape[2]), hidden)
        if step.bias is None:
            hidden = torch.bmm(weight, hidden, out=out)
        else:
            hidden = torch.baddbmm(tensors[step.bias].unsqueeze(-1), weight, hidden, out=out)
    return hidden


def first_layer(stack: Stack, tensors: dict[str, Tensor], features: Tensor) -> Tensor:
    """The first layer's output, (members, features, samples), by one product for all members."""
    first: Dense = stack.steps[0]  # type: ignore[assignment]
    weight = tensors[first.weight]
    bias = None if first.bias is None else tensors[first.bias]
    members, width, inputs = weight.shape
    flat = weight.reshape(members * width, inputs)
    if bias is None:
        product = flat @ features
    else:
        product = torch.addmm(bias.reshape(-1, 1), flat, features)
    return product.view(members, width, features.shape[1])


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is torch's plain mean cross-entropy."""
    if loss is F.cross_entropy:
        return True
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.reduction == "mean"
        and loss.ignore_index == IGNORED
        and loss.label_smoothing == 0.0
        and unchanged(loss)
    )


def unchanged(model: nn.Module) -> bool:
    """Whether modules do what their classes say: no hooks, also none on all, no other forward."""
    hooks = (
        "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward",
    )  # fmt: skip
    plain = not any(vars(module).get(name) for module in model.modules() for name in hooks)
    return plain and not nn.modules.module._has_any_global_hook()


def at_rest(network: Network, module: nn.Module) -> bool:
    """Whether a module is dropout that lets everything through."""
    if not isinstance(module, (nn.Dropout, nn.Dropout2d)):
        return False
    return module.p == 0 or network.mode == "eval" or not module.training


def leaves_of(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The modules of nested ``nn.Sequential`` in order, each with the prefix of its tensors."""
    if type(module) is not nn.Sequential:
        return [(prefix, module)]
    found = []
    for name, child in module._modules.items():
        found += leaves_of(child, f"{prefix}{name}.")  # type: ignore[arg-type]
    return found
