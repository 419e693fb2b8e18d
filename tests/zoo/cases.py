"""What a case of the zoo is, the table that its functions fill, and data that many share."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def usual(model, data, loss):
    """The loss as its user writes it, where the data are inputs and target."""
    x, y = data
    return loss(model(*x) if type(x) is tuple else model(x), y)


def by_name(model, data, loss):
    """The loss as its user writes it, where the data are a dictionary."""
    return loss(model(**data), data)


def whole(model, data, loss):
    """The loss as its user writes it, where a batch goes into the model as it is."""
    return loss(model(data), data)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with data and loss, how its user evaluates it, and what is right.

    Attributes:
        own: from (model, data, loss) to the right scalar, in plain torch; the truth is its.
        risk: which class of `landscape.networks.risk` takes it.
        options: keywords of that class.
        refused: what must stand in the message where there is no right answer, as a pattern.
        excused: a pattern of the message where refusing is as good as the right answer.
        span: how far the plane goes, in units of its directions.
        padded: whether parameters that are 0 belong to padding and stay there.
        accuracy: relative, for what is computed in float64; some models compute in float32 inside.
    """

    model: nn.Module
    data: Any
    loss: Any
    own: Callable[[nn.Module, Any, Any], torch.Tensor] = usual
    risk: str = "EmpiricalRisk"
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    excused: str = ""
    span: float = 0.1
    padded: bool = False
    accuracy: float = 1e-9


CASES: dict[str, Callable[[], Case]] = {}
REFUSED: dict[str, Callable[[], Case]] = {}


def case(make):
    """Enters a function that gives a case whose numbers are known."""
    CASES[make.__name__.replace("_", " ")] = make
    return make


def refused(make):
    """Enters a function that gives a case without a right answer."""
    REFUSED[make.__name__.replace("_", " ")] = make
    return make


def made(name: str) -> Case:
    """The case of that name, the same in every call."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Libraries warn as they are imported; what they say when they run is not hidden.
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(7)
        return {**CASES, **REFUSED}[name]()


def labels(samples=8, classes=3):
    return torch.arange(samples) % classes


def images(samples=8, channels=2, size=6):
    return torch.randn(samples, channels, size, size), labels(samples)


def rows(samples=12, width=4):
    return torch.randn(samples, width), labels(samples)


def perceptron(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def trainable(model, *parts):
    """The model with nothing trainable but the parameters whose names begin like that."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(parts))
    return model


CE = F.cross_entropy
MSE = F.mse_loss


def tensors(data):
    """Every tensor inside, in order."""
    if isinstance(data, torch.Tensor):
        yield data
    elif isinstance(data, (tuple, list)):
        for part in data:
            yield from tensors(part)
    elif isinstance(data, Mapping) or hasattr(data, "apply"):
        yield from tensors(list((data if isinstance(data, Mapping) else vars(data)).values()))
