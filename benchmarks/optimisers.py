"""A step of `cnognp.torch_optim` on networks of 270,000 parameters against torch.optim's own.

Whole steps, closure included: LeNet-300-100 with 64 images of 28 x 28, ResNet-20 with 8 of 32 x 32,
float32 random numbers as data. Each optimiser trains a copy of its own; where the copies end is
compared first. Then steps alone, along gradients that are there, also against torch's other
implementations of the same.
"""

import copy
from collections.abc import Callable

import torch
from timing import arguments, interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import torch_optim
from cnognp.tasks.networks import resnet20

KEYS = {
    "SGD": {"lr": 0.01},
    "SGD with momentum": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    "Adam": {"lr": 1e-4},
}


def lenet() -> nn.Module:
    """LeNet-300-100: 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


WORK = {
    "LeNet-300-100, batch 64": (lenet, (64, 1, 28, 28), 40),
    "ResNet-20, batch 8": (lambda: resnet20(10), (8, 3, 32, 32), 5),
}


def training(model: nn.Module, kind: type, keys: dict, shape: tuple, steps: int) -> Callable:
    """A function that takes so many steps of a copy of ``model`` and returns its parameters."""
    twin = copy.deepcopy(model)
    optimiser = kind(twin.parameters(), **keys)
    source = torch.Generator(device="cpu").manual_seed(1)
    inputs = torch.randn(shape, generator=source)
    target = torch.randint(0, 10, shape[:1], generator=source)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(twin(inputs), target)
        loss.backward()
        return loss

    def several() -> torch.Tensor:
        for _ in range(steps):
            optimiser.step(closure)
        return nn.utils.parameters_to_vector(twin.parameters()).detach()

    return several


def stepping(model: nn.Module, kind: type, keys: dict, steps: int) -> Callable:
    """A function that takes so many steps alone, along the same gradients."""
    twin = copy.deepcopy(model)
    optimiser = kind(twin.parameters(), **keys)
    source = torch.Generator(device="cpu").manual_seed(1)
    for p in twin.parameters():
        p.grad = torch.randn(p.shape, generator=source)

    def several() -> torch.Tensor:
        for _ in range(steps):
            optimiser.step()
        return nn.utils.parameters_to_vector(twin.parameters()).detach()

    return several


def alone(model: nn.Module, rounds: int, steps: int = 50) -> dict:
    """Microseconds of a step without its evaluation, ours and each of torch's own."""
    rows = {}
    for case, keys in KEYS.items():
        name = case.split()[0]
        ours, theirs = getattr(torch_optim, name), getattr(torch.optim, name)
        made = {"ours": stepping(model, ours, keys, steps)}
        for how in ({}, {"foreach": True}, {"fused": True}):
            made[" ".join(["torch", *how])] = stepping(model, theirs, {**keys, **how}, steps)
        torch.testing.assert_close(made["ours"](), made["torch fused"](), rtol=1e-3, atol=1e-4)
        seconds = interleaved(made, rounds)
        rows[case] = {k: 1e6 * taken / steps for k, taken in seconds.items()}
    return rows


def main() -> None:
    """Compares SGD and Adam on both networks."""
    options = arguments(__doc__)
    # A process that once freed a large block, as any that has loaded data, keeps smaller ones that
    # it frees; in a fresh one every vector of a megabyte costs 256 page faults.
    torch.empty(2**22)
    rows = {}
    for work, (make, shape, steps) in WORK.items():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = make()
        dim = sum(p.numel() for p in model.parameters())
        for case, keys in KEYS.items():
            name = case.split()[0]
            kinds = {"ours": getattr(torch_optim, name), "torch": getattr(torch.optim, name)}
            made = {k: training(model, kind, keys, shape, steps) for k, kind in kinds.items()}
            # Adam's step has the sign of gradients that are nothing but rounding: the same kernel.
            fused = training(model, kinds["torch"], {**keys, "fused": True}, shape, steps)
            torch.testing.assert_close(made["ours"](), fused(), rtol=1e-3, atol=1e-4)
            made["torch"]()
            seconds = interleaved(made, options.rounds)
            rows[f"{work}, {case}"] = {
                "parameters": dim,
                "ms a step": {k: 1000 * taken / steps for k, taken in seconds.items()},
                "ours over torch": seconds["ours"] / seconds["torch"],
            }
        rows[f"{work.split(',')[0]}, us a step alone"] = alone(model, options.rounds)
    report("whole steps, closure included", rows, options)


if __name__ == "__main__":
    main()
