"""What is done many times over on a device, and a device that says who waits for it."""

import inspect
from collections import Counter
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnognp import METHODS
from cnognp.method import traits_of
from cnognp.tasks.networks import small_conv
from landscape.curvature import Hessian
from landscape.networks import EmpiricalRisk, network
from landscape.networks.augmentation import cropped_and_flipped, normalised, resized_and_flipped
from landscape.networks.data import Data
from landscape.objective import hvp, value, value_and_grad
from landscape.randomness import derive

# What asks the host: a number, or places that only numbers tell.
NUMBERS = ("_local_scalar_dense", "is_nonzero", "equal", "allclose")
PLACES = ("nonzero", "masked_select", "unique_dim", "_unique2")
# Methods that ask for every step how many evaluations it took: searches along a line, whole
# descents, and the one that evaluates again only where it has stirred.
WAITING = ("nim", "bfgs", "lbfgs-gss") + tuple(
    name for name in METHODS if traits_of(METHODS[name]()).stride == "search"
)
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)


class Waited(Exception):
    """What was asked has a shape that depends on the numbers."""


class Watch(TorchDispatchMode):
    """Counts what a device would be waited for, while tensors on ``meta`` stand for its own.

    What asks for a number gets one, so that all goes on; what asks for places raises `Waited`.
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        name = func._schema.name.partition("::")[2]
        there = any(t.is_meta for t in tensors)
        if there and name in (*NUMBERS, *PLACES):
            self.waits[name] += 1
            if name in PLACES:
                raise Waited(name)
            number = name == "_local_scalar_dense"
            return tensors[0].new_zeros((), device="cpu").item() if number else True
        if there and name in ("index", "index_put_", "index_put"):
            if any(t.dtype == torch.bool for t in tensors[1:]):
                self.waits["booleans as places"] += 1
                raise Waited(name)
        out = func(*args, **kwargs)
        found = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if name in ("_to_copy", "copy_") and not self._ahead(func, args, kwargs):
            self.waits["copy to the device"] += any(not t.is_meta for t in tensors) and (
                there or any(t.is_meta for t in found)
            )
        return out

    @staticmethod
    def _ahead(func, args, kwargs):
        places = [argument.name for argument in func._schema.arguments]
        return {**dict(zip(places, args, strict=False)), **kwargs}.get("non_blocking", False)


class Made(TorchFunctionMode):
    """Counts tensors that are made on a device from numbers of the host."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            self.waits["tensor of numbers"] += (
                torch.device(kwargs.get("device", "cpu")).type != "cpu"
            )
        return func(*args, **kwargs)


@contextmanager
def watched():
    """Inside, a counter of what waits; call it before anything is made on ``meta``."""
    watch = Watch()
    with watch, Made(watch.waits):
        yield watch.waits


def blindly(monkeypatch):
    """Nothing; tensors on ``meta`` are taken for those of a device, though they have no numbers."""
    monkeypatch.setattr(network, "_random_state", lambda device: [])
    monkeypatch.setattr(network, "_check_plain", lambda model: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind=None: False)


def drawn(*shape, device):
    """Normal numbers of seed 0, on a device."""
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(0)).to(device)


def perceptron(device):
    """A chain of linear layers on 32 samples, whose members are stacked."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)
    return _risk(model, drawn(32, 4, device=device), 3, evaluation="stacked")


def convolutions(device, statistics="frozen"):
    """Convolutions with BatchNorm on 32 images of bytes, evaluated one after another."""
    model = small_conv(in_channels=3).to(device).eval()
    images = (drawn(32, 3, 8, 8, device="cpu") * 50 + 120).clamp(0, 255).byte().to(device)
    data = Data(
        (images, _classes(10, device)), images.device,
        prepare=partial(normalised, mean=MEAN, deviation=DEVIATION),
        augment=lambda images, seed, step: cropped_and_flipped(images, seed, 0, step),
    )  # fmt: skip
    options = {"evaluation": "sequential", "check": False, "statistics": statistics}
    return EmpiricalRisk(model, data, cross_entropy, **options)


def _risk(model, x, classes, **options):
    return EmpiricalRisk(
        model, (x, _classes(classes, x.device)), cross_entropy, check=False, **options
    )


def _classes(count, device):
    return (torch.arange(32, device="cpu") % count).to(device)


def stepped(name, risk, members=3, **options):
    """A function that takes one more step of a method each time."""
    known = inspect.signature(METHODS[name]).parameters
    method = METHODS[name](**{key: options[key] for key in options if key in known})
    z = drawn(members, risk.dim, device=risk.device) / 3
    state, round = method.init(risk, z), 0

    def step():
        nonlocal state, round
        generator = torch.Generator("cpu").manual_seed(7)
        state, _ = method.step(risk, state, derive(generator, "round", round))
        round += 1
        return state

    return step


def actions(device):
    """Everything that is done in a loop, by name: functions without arguments.

    The first call of some asks what later ones need not.
    """
    found = {}
    chain, images = perceptron(device), convolutions(device)
    trained = convolutions(device, "batch")
    for name in METHODS:
        found[f"a step of {name}"] = stepped(name, chain, batch_size=0, tau=2)
    for name in ("sgd", "gcsam", "cnognp"):
        found[f"an epoch of {name}"] = stepped(name, trained, members=2, batch_size=16)
    for name, options in {
        "clip": {"clip": 1.0}, "decay of weights": {"decay_of": "weights", "weight_decay": 0.1},
        "schedule": {"schedule": "cosine"},
    }.items():  # fmt: skip
        found[f"a step of sgd, {name}"] = stepped("sgd", chain, batch_size=0, **options)
    found["a step of cnognp, mutation"] = stepped("cnognp", chain, box=(-5.0, 5.0), mutation=1.0)
    found["a step of cnognp, tensor"] = stepped("cnognp", chain, batch_size=0, randomness="tensor")
    found["a step of nig, per tensor"] = stepped("nig", chain, batch_size=0, per_tensor=True)
    for kind, risk in {"perceptron": chain, "convolutions": images}.items():
        z = drawn(3, risk.dim, device=risk.device) / 3
        hessian = Hessian(risk, z[0], blocks=False)
        found |= {
            f"values, {kind}": partial(value, risk, z),
            f"gradients, {kind}": partial(value_and_grad, risk, z),
            f"a product, {kind}": partial(hvp, risk, z[0], z[1]),
            f"a product with a kept graph, {kind}": partial(hessian.__matmul__, z[1]),
            f"products with a kept graph, {kind}": partial(hessian.__matmul__, z),
        }
    kept = images.data.batches[0].inputs
    found |= {
        "crops": partial(cropped_and_flipped, kept, 0, 0, 0),
        "resized crops": partial(resized_and_flipped, kept, 0, 0, 0, 8),
        "normalisation": partial(normalised, kept, MEAN, DEVIATION),
    }
    return found


def waits(name):
    """Whether what is done asks the host by its nature."""
    return any(word.rstrip(",") in WAITING for word in name.split())
