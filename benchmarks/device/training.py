"""A plane and an epoch of ResNet-20, and many restarts on a function of two numbers.

Images are random bytes of CIFAR-10's shape: time does not depend on what they show. Each stands
beside a plain loop of torch that does the same.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.device import machine
from benchmarks.device.populations import captured, stepping
from cnognp.methods.descent import SGD, Epoch
from cnognp.tasks.networks import resnet20
from landscape import directions
from landscape.functions import himmelblau
from landscape.networks import EmpiricalRisk
from landscape.networks.augmentation import cropped_and_flipped, normalised
from landscape.networks.data import Data
from landscape.slices import plane

FLOPS = 81.1e6  # of ResNet-20's forward pass for one image of 32 x 32 pixels
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BATCH, LR, MOMENTUM = 128, 0.1, 0.9
PIECE = 2500  # images that the plain loop evaluates together

prepared = partial(normalised, mean=MEAN, deviation=DEVIATION)


class Sizes(NamedTuple):
    """How large the benchmarks are.

    Attributes:
        images: of a plane.
        points: on each axis of a plane.
        part: points on each axis that are always measured.
        trained: images in an epoch.
        restarts: on a function.
        steps: of each restart.
        members: of the populations, each size.
        matrix: rows of the matrices whose products are the peak.
    """

    images: int
    points: int
    part: int
    trained: int
    restarts: int
    steps: int
    members: tuple[int, ...]
    matrix: int


FULL = Sizes(10_000, 51, 7, 50_000, 20_000, 1000, (32, 256, 2048), 8192)
SMALL = Sizes(8, 5, 3, 32, 200, 20, (4,), 256)


def images(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bytes (count, 3, 32, 32) and classes."""
    draw = torch.Generator("cpu").manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    return pixels.to(device), torch.randint(0, 10, (count,), generator=draw).to(device)


class Plane:
    """The loss of ResNet-20 over a plane of two filter-normalised directions.

    Args:
        sizes: how large.
        device: where.
        peak: of products in float32, in TFLOP/s.
    """

    def __init__(self, sizes: Sizes, device: torch.device, peak: float):
        self.sizes, self.device, self.peak = sizes, device, peak
        self.x, self.y = images(sizes.images, device)
        self.model = resnet20().to(device).eval()
        data = Data((self.x, self.y), device, prepare=prepared)
        options: dict[str, Any] = {"evaluation": "sequential", "check": False}
        self.risk = EmpiricalRisk(self.model, data, cross_entropy, **options)
        self.z = self.risk.point()
        draw = torch.Generator("cpu").manual_seed(0)
        self.u, self.v = directions.random(self.risk.layout, self.z, draw)

    def part(self, precision: str = "same") -> dict[str, Any]:
        """Some of the points, by the project; what all of them would take."""
        self._measured(3, precision)
        count = self.sizes.part
        taken = machine.once(lambda: self._measured(count, precision), self.device)
        each, all_of_them = taken / count**2, self.sizes.points**2
        rate = FLOPS * self.sizes.images / each / 1e12
        return {
            "points measured": count**2, "ms a point": 1e3 * each,
            f"s for {all_of_them} points": each * all_of_them, "TFLOP/s": rate,
            "share of the float32 peak": rate / self.peak,
        }  # fmt: skip

    def whole(self) -> dict[str, Any]:
        """All of the points."""
        taken = machine.once(lambda: self._measured(self.sizes.points), self.device)
        return {"points measured": self.sizes.points**2, "s": taken}

    def bfloat16(self) -> dict[str, Any]:
        """Some of the points in bfloat16, and the error that the plane itself says."""
        found = self._measured(3, "bfloat16")
        error = found.provenance["precision"]["largest relative error"]
        return self.part("bfloat16") | {"largest relative error": error}

    def loop(self) -> dict[str, Any]:
        """Weights put in place and all images passed, point by point."""
        names = {name: p.data for name, p in self.model.named_parameters()}
        before = {name: tensor.clone() for name, tensor in names.items()}

        def point(a: float) -> Tensor:
            there = self.risk.layout.unflatten(self.z + a * self.u + a * self.v)
            for name, tensor in names.items():
                tensor.copy_(there[name])
            with torch.no_grad():
                pieces = zip(self.x.split(PIECE), self.y.split(PIECE), strict=True)
                return sum(
                    cross_entropy(self.model(prepared(x)), y, reduction="sum") for x, y in pieces
                ) / len(self.y)

        taken = machine.seconds(lambda: point(0.1), self.device)
        for name, tensor in before.items():
            names[name].copy_(tensor)
        return {"ms a point": 1e3 * taken}

    def _measured(self, count: int, precision: str = "same") -> Any:
        axis = np.linspace(-1, 1, count)
        return plane(self.risk, self.z, self.u, self.v, alpha=axis, beta=axis, precision=precision)


def epoch(sizes: Sizes, device: torch.device, peak: float) -> dict[str, Any]:
    """An epoch of momentum on augmented mini-batches, by the project."""
    method = Epoch(SGD(lr=LR, momentum=MOMENTUM), BATCH, evaluate=False)
    model, generator = resnet20().to(device), torch.Generator("cpu").manual_seed(0)
    x, y = images(sizes.trained, device)

    def risk(count: int) -> EmpiricalRisk:
        data = Data((x[:count], y[:count]), device, prepare=prepared, augment=_augmented)
        options: dict[str, Any] = {"evaluation": "sequential", "check": False}
        return EmpiricalRisk(model, data, cross_entropy, statistics="batch", **options)

    few, whole = risk(min(4 * BATCH, sizes.trained)), risk(sizes.trained)
    state = method.init(whole, whole.point()[None])
    state, _ = method.step(few, state, generator)
    taken = machine.once(lambda: method.step(whole, state, generator), device)
    return _trained(sizes, taken, peak)


def plain_epoch(sizes: Sizes, device: torch.device, peak: float) -> dict[str, Any]:
    """The same as one would write it."""
    model = resnet20().to(device).train()
    x, y = images(sizes.trained, device)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

    def steps(count: int) -> None:
        for step, chosen in enumerate(torch.randperm(count, device=device).split(BATCH)):
            optimiser.zero_grad()
            batch = prepared(cropped_and_flipped(x[chosen], 0, 0, step))
            cross_entropy(model(batch), y[chosen]).backward()
            optimiser.step()

    steps(min(4 * BATCH, sizes.trained))
    return _trained(sizes, machine.once(lambda: steps(sizes.trained), device), peak)


def _augmented(pixels: Tensor, seed: int, step: int) -> Tensor:
    return cropped_and_flipped(pixels, seed, 0, step)


def _trained(sizes: Sizes, taken: float, peak: float) -> dict[str, Any]:
    rate = 3 * FLOPS * sizes.trained / taken / 1e12
    return {
        "s an epoch": taken, "images/s": sizes.trained / taken, "TFLOP/s": rate,
        "share of the peak": rate / peak,
    }  # fmt: skip


class Restarts:
    """Gradient descents on Himmelblau's function, all at once, in float64 where there is such.

    Args:
        sizes: how many, and how many steps.
        device: where.
        bandwidth: of a copy, in GB/s.
    """

    def __init__(self, sizes: Sizes, device: torch.device, bandwidth: float):
        self.sizes, self.device, self.bandwidth = sizes, device, bandwidth
        dtype = torch.float32 if device.type == "mps" else torch.float64
        draw = torch.Generator("cpu").manual_seed(0)
        start = 10 * torch.rand(sizes.restarts, 2, generator=draw, dtype=torch.float64) - 5
        self.start = start.to(dtype).to(device)

    def together(self) -> dict[str, Any]:
        """By the project."""
        step, first = stepping_on_function(self.start)

        def call() -> None:
            state = first
            for _ in range(self.sizes.steps):
                state = step(state)

        return self._rates(machine.once(call, self.device))

    def captured(self) -> dict[str, Any]:
        """The same steps inside a CUDA graph."""
        step, state = stepping_on_function(self.start)
        replay, held = captured(step, state)
        plain = state
        for _ in range(10):
            replay()
            plain = step(plain)
        far = float((held.position - plain.position).abs().max())

        def call() -> None:
            for _ in range(self.sizes.steps):
                replay()

        return self._rates(machine.once(call, self.device)) | {"differs after 10 steps": far}

    def loop(self) -> dict[str, Any]:
        """By autograd and an optimiser, all restarts as one parameter."""
        z = self.start.clone().requires_grad_()
        optimiser = torch.optim.SGD([z], lr=0.001)

        def call() -> None:
            for _ in range(self.sizes.steps):
                optimiser.zero_grad()
                x, y = z[:, 0], z[:, 1]
                ((x * x + y - 11) ** 2 + (x + y * y - 7) ** 2).sum().backward()
                optimiser.step()

        return self._rates(machine.once(call, self.device))

    def _rates(self, taken: float) -> dict[str, Any]:
        steps = self.sizes.restarts * self.sizes.steps
        # A step reads and writes every point at least once.
        moved = 2 * self.start.element_size() * 2 * steps / taken / 1e9
        return {
            "s": taken, "steps/s": steps / taken,
            "us for a step of all": 1e6 * taken / self.sizes.steps,
            "share of the bandwidth": moved / self.bandwidth,
        }  # fmt: skip


def stepping_on_function(start: Tensor) -> tuple[Any, Any]:
    """A step of gradient descent on Himmelblau's function, and the first state."""
    return stepping("gd", himmelblau, start, lr=0.001)
