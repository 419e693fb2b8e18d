"""Networks for coloured images by name."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import nn

from cnognp.tasks.networks import resnet
from cnognp.tasks.vgg import vgg
from cnognp.tasks.vit import vit
from cnognp.tasks.wide import wide_resnet

Norm = Literal["batch", "group"]
FOREIGN = "torchvision:"
"""What comes before the name of a network of torchvision."""
_FASTER_LAST = ("resnet", "wide_resnet", "wrn")
_PER_GROUP = 8

_KNOWN: Mapping[str, Callable[..., nn.Module]] = MappingProxyType({
    **{f"resnet{depth}": partial(resnet, depth=depth) for depth in (20, 32, 44, 56, 110)},
    "resnet8-w8": partial(resnet, depth=8, channels=8),
    "wrn16-4": partial(wide_resnet, depth=16, width=4),
    "vgg11": partial(vgg, depth=11),
    "vgg16": partial(vgg, depth=16),
    "vit-t": partial(vit, width=192, heads=3),
    "vit-s": partial(vit, width=384, heads=6),
})

NETWORKS: tuple[str, ...] = tuple(_KNOWN)
"""Those of this package, for images of 32 x 32 pixels."""


def architecture(
    name: str,
    num_classes: int,
    norm: Norm = "batch",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network called ``name`` with fresh weights, float32 on the CPU.

    Args:
        name: one of `NETWORKS`, or ``torchvision:NAME`` for a classifier of torchvision.
        num_classes: number of outputs.
        norm: ``"group"`` puts GroupNorm in the place of every BatchNorm: groups of 8 channels, or
            one of all channels where these do not fall into eights.
        generator: source of the weights, on the CPU; seed 0 where None.

    Raises:
        ValueError: if there is no such network or norm, or the network has no BatchNorm to replace.
        ModuleNotFoundError: if torchvision is wanted and not installed.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
    model = _builder(name)(num_classes=num_classes, generator=generator)
    return model if norm == "batch" else _with_groups(model, name)


def memory_format(name: str) -> torch.memory_format:
    """How images lie in memory so that the network called ``name`` is fastest on a CPU.

    With channels last, residual networks train 1.15 to 1.25 times as fast, as their convolutions do
    where activations are many beside the weights. Those of a VGG are not, since weights are
    arranged anew for every mini-batch; a vision transformer has none but the first.
    """
    last = name.removeprefix(FOREIGN).startswith(_FASTER_LAST)
    return torch.channels_last if last else torch.contiguous_format


def _builder(name: str) -> Callable[..., nn.Module]:
    """What makes the network from ``num_classes`` and ``generator``.

    Raises:
        ValueError: if there is none of this name.
    """
    if name.startswith(FOREIGN):
        return partial(_foreign, name.removeprefix(FOREIGN))
    if name not in _KNOWN:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), NETWORKS, n=1)
        advice = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no network is called {name!r}. {advice}There are {', '.join(NETWORKS)}, and "
            f"{FOREIGN}NAME for those of torchvision"
        )
    return _KNOWN[name]


def _foreign(name: str, num_classes: int, generator: torch.Generator | None) -> nn.Module:
    """A classifier of torchvision, its weights drawn from the generator.

    Raises:
        ValueError: if torchvision has no such classifier.
        ModuleNotFoundError: if there is no torchvision.
    """
    models = torchvision("models")
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3)
        advice = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"torchvision has no classifier {name!r}{advice}")
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    seed = torch.randint(2**62, (), generator=source, device="cpu")
    with torch.random.fork_rng(devices=[]):
        # Its constructors draw from nothing but the default generator.
        torch.default_generator.manual_seed(int(seed))
        return models.get_model(name, weights=None, num_classes=num_classes)


def torchvision(part: str) -> Any:
    """A part of torchvision, which is no requirement of this package.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to install it.
    """
    try:
        return import_module(f"torchvision.{part}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this needs torchvision, which is not installed ({error}): pip install "
            "'cnognp[vision]'"
        ) from None


def _with_groups(model: nn.Module, name: str) -> nn.Module:
    """The model with GroupNorm in the place of BatchNorm.

    Raises:
        ValueError: if it has none.
    """
    found = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    if not found:
        raise ValueError(f"norm='group' replaces BatchNorm, and {name} has none")
    for parent, key, child in found:
        channels = child.num_features
        groups = channels // _PER_GROUP if channels % _PER_GROUP == 0 else 1
        parent._modules[key] = nn.GroupNorm(
            groups, channels, eps=child.eps, device="cpu", dtype=child.weight.dtype
        )
    return model
