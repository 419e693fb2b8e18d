"""Small convolution networks of several members as one network whose convolutions are in groups.

Members lie side by side on the axis of channels, (samples, members * channels, height, width), with
channels last in memory from the first layer to the last, so that nothing is transposed in between.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.networks.folding import keep_freed
from landscape.networks.layout import Layout
from landscape.networks.network import Network, is_batchnorm
from landscape.networks.stacked import POINTWISE, at_rest, leaves_of, unchanged

_POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# Bytes of the largest activation of all members of a group. Beyond that, starting a kernel costs
# nothing beside running it, and members only drive one another out of the cache. The second
# derivative of a convolution goes through its groups one by one.
_BYTES = 3 * 2**20
_BYTES_TWICE = 2**20


class Groups(NamedTuple):
    """What a plain chain of convolutions does, in order.

    Attributes:
        steps: modules with the prefix of their tensors' names.
        widest: numbers in the largest activation of one sample of one member.
    """

    steps: tuple[tuple[str, nn.Module], ...]
    widest: int


def groups_of(network: Network, layout: Layout, inputs: Any) -> Groups | None:
    """The chain that a network is on such ``inputs``, or None if it is anything else.

    A chain is nested ``nn.Sequential``: a convolution of images, then convolutions, BatchNorm,
    pooling and functions of each number, a ``Flatten``, then linear layers and such functions. Each
    parameter is used once; those of no role in the vector are the same for all members.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
        return None
    if not unchanged(network.module):
        return None
    steps = [pair for pair in leaves_of(network.module, "") if not at_rest(network, pair[1])]
    kinds = [type(module) for _, module in steps]
    if not kinds or kinds[0] is not nn.Conv2d or kinds.count(nn.Flatten) != 1:
        return None
    flat = kinds.index(nn.Flatten)
    head, tail = steps[:flat], steps[flat + 1 :]
    if not all(_on_images(network, module) for _, module in head):
        return None
    if not all(_on_features(network, module) for _, module in tail) or nn.Linear not in kinds:
        return None
    flatten: Any = steps[flat][1]
    if (flatten.start_dim, flatten.end_dim) not in ((1, -1), (1, 3)):
        return None
    used = [f"{prefix}{name}" for prefix, module in steps for name in module._parameters]
    used = [name for name in used if name in network.parameters]
    present = sum(1 for _, m in steps for p in m._parameters.values() if p is not None)
    if len(used) != present or not set(layout.names) <= set(used):
        return None
    if inputs.device.type == "cpu":
        keep_freed()
    return Groups(tuple(steps), _widest(network, tuple(steps), inputs))


def members_together(groups: Groups, samples: int, *, twice: bool = False) -> int:
    """How many members are best evaluated together; 1 where each is large enough alone."""
    one = 4 * groups.widest * samples
    if twice:
        return max(1, _BYTES_TWICE // one) if one <= _BYTES_TWICE // 4 else 1
    return max(1, _BYTES // one)


def arranged(images: Tensor) -> Tensor:
    """A copy of the images with channels last; all of one channel lie so too, unlike in torch."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def outputs(groups: Groups, tensors: dict[str, Tensor], images: Tensor, *, frozen: bool) -> Tensor:
    """The networks' outputs, (members, outputs, samples).

    Args:
        groups: the chain.
        tensors: its parameters and buffers, each with one leading axis of members.
        images: as `arranged`, shared by all members.
        frozen: whether BatchNorm normalises with its running statistics.
    """
    *_, output = _through(groups.steps, tensors, images, frozen)
    return output.mT


def _through(
    steps: Sequence[tuple[str, nn.Module]], tensors: dict[str, Tensor], hidden: Tensor, frozen: bool
) -> Iterator[Tensor]:
    """The output of every step."""
    members = len(tensors[f"{steps[0][0]}weight"])
    fresh = False  # whether nobody else needs what a step gets
    for index, (prefix, module) in enumerate(steps):
        if isinstance(module, nn.Conv2d):
            hidden = _convolved(module, prefix, tensors, hidden, first=index == 0)
        elif is_batchnorm(module):
            hidden = _normalised(module, prefix, tensors, hidden, frozen)
        elif isinstance(module, nn.Flatten):
            hidden = _flattened(hidden, members)
        elif isinstance(module, nn.Linear):
            weight, bias = tensors[f"{prefix}weight"].mT, tensors.get(f"{prefix}bias")
            if bias is None:
                hidden = torch.bmm(hidden, weight)
            else:
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight)
        else:
            hidden = torch.relu_(hidden) if fresh and type(module) is nn.ReLU else module(hidden)
        fresh = isinstance(module, nn.Conv2d) or is_batchnorm(module)
        yield hidden


def _convolved(
    module: nn.Conv2d, prefix: str, tensors: dict[str, Tensor], hidden: Tensor, *, first: bool
) -> Tensor:
    """(samples, members * channels, ...); all members look at the same images ``first``."""
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    groups = len(weight) * module.groups
    if first and module.groups == 1:
        groups = 1
    elif first:
        hidden = hidden.repeat(1, len(weight), 1, 1)
    return F.conv2d(
        hidden, weight.flatten(0, 1), None if bias is None else bias.flatten(),
        module.stride, module.padding, module.dilation, groups,
    )  # fmt: skip


def _normalised(
    module: Any, prefix: str, tensors: dict[str, Tensor], hidden: Tensor, frozen: bool
) -> Tensor:
    """BatchNorm of images, or of features (members, samples, features)."""
    names = ("running_mean", "running_var") if frozen else ()
    mean, variance = (
        (tensors[f"{prefix}{name}"].flatten() for name in names) if names else (None, None)
    )
    scale, shift = (
        None if tensor is None else tensor.flatten()
        for tensor in (tensors.get(f"{prefix}{name}") for name in ("weight", "bias"))
    )
    if hidden.ndim == 4:
        return F.batch_norm(hidden, mean, variance, scale, shift, not frozen, 0.0, module.eps)
    # All features of all members as channels.
    wide = hidden.transpose(0, 1).flatten(1)
    found = F.batch_norm(wide, mean, variance, scale, shift, not frozen, 0.0, module.eps)
    return found.unflatten(1, (len(hidden), -1)).transpose(0, 1)


def _flattened(hidden: Tensor, members: int) -> Tensor:
    """(members, samples, features) from images; their gradient comes with channels last, too."""
    samples, channels, height, width = hidden.shape
    last = hidden.permute(0, 2, 3, 1).reshape(samples, height * width, members, -1)
    # The gradient of this has to be copied for the shape before, to channels that are last.
    return last.permute(2, 0, 3, 1).reshape(members, samples, channels // members * height * width)


def _on_images(network: Network, module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros"
    if type(module) is nn.BatchNorm2d:
        return network.statistics == "batch" or module.running_mean is not None
    if type(module) in (nn.MaxPool2d, nn.AdaptiveMaxPool2d):
        return not module.return_indices  # type: ignore[union-attr]
    return type(module) in _POOLS or type(module) in POINTWISE


def _on_features(network: Network, module: nn.Module) -> bool:
    if type(module) is nn.BatchNorm1d:
        return network.statistics == "batch" or module.running_mean is not None
    return type(module) is nn.Linear or type(module) in POINTWISE


def _widest(network: Network, steps: tuple[tuple[str, nn.Module], ...], inputs: Tensor) -> int:
    known = {**network.parameters, **network.buffers}
    tensors = {name: torch.empty((1, *t.shape), device="meta") for name, t in known.items()}
    images = torch.empty((2, *inputs.shape[1:]), device="meta")
    frozen = network.statistics == "frozen"
    sizes = [hidden.numel() // 2 for hidden in _through(steps, tensors, images, frozen)]
    return max(sizes)
