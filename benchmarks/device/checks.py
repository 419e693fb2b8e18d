"""What is checked on every device: functions that raise where something is wrong.

The tests call them on every device that is there, and so does a run without pytest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tables"))

import loops
import objectives

from benchmarks.device.populations import Population, captured, stepping
from landscape import directions
from landscape.curvature import Hessian
from landscape.functions import himmelblau
from landscape.networks.augmentation import cropped_and_flipped, normalised, resized_and_flipped
from landscape.objective import hvp, value, value_and_grad
from landscape.randomness import draw_rows
from landscape.slices import plane
from landscape.spectrum import top_eigenpairs

# A share of correct answers has no derivatives that could be wrong.
_DERIVATIVES = [name for name in objectives.NAMES if name != "accuracy"]


def derivatives(device: torch.device) -> str:
    """Values, gradients and products of every kind of objective are those of plain torch."""
    _require_double(device)
    wrong = []
    for name in _DERIVATIVES:
        try:
            objective, truth, z = objectives.MAKERS[name](str(device))
            u = objectives.normal(len(z), seed=11).to(device)
            with _twice_differentiable():
                expected, product = torch.autograd.functional.hvp(truth, z, u)
                slope = torch.autograd.functional.jacobian(truth, z)
            found, grad = value_and_grad(objective, z)
            pairs = {
                "value": (value(objective, z), expected),
                "value beside the gradient": (found, expected),
                "gradient": (grad, slope),
                "product": (hvp(objective, z, u), product),
            }
            for what, (ours, theirs) in pairs.items():
                if not torch.allclose(ours, theirs, rtol=1e-8, atol=1e-9):
                    off = float((ours - theirs).abs().max())
                    wrong.append(f"{name}: {what} off by {off:.3g}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:120]}")
    _require(not wrong, "; ".join(wrong))
    return f"{len(_DERIVATIVES)} objectives"


def waiting(device: torch.device) -> str:
    """No step, product or augmentation waits for the device."""
    if device.type != "cuda":
        return "counted on a device without numbers, by the tests"
    wrong, count = [], 0
    for name, action in loops.actions(device).items():
        if loops.waits(name):
            continue
        count += 1
        try:
            action()
            torch.cuda.synchronize()
            with _waiting_is_an_error():
                action()
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:160]}")
    _require(not wrong, "; ".join(wrong))
    return f"{count} kinds of steps and products"


def numbers(device: torch.device) -> str:
    """Random numbers and augmented images are the same wherever they are wanted."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    generator = torch.Generator("cpu").manual_seed(3)
    for law in ("normal", "uniform"):
        here, there = (
            draw_rows(law, (5, 7), generator, torch.zeros(1, dtype=dtype, device=place))
            for place in ("cpu", device)
        )
        _require(torch.equal(here, there.cpu()), f"{law} numbers differ")
    draw = torch.Generator("cpu").manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8, generator=draw)
    cropped = [cropped_and_flipped(images.to(d), 1, 2, 3).cpu() for d in ("cpu", device)]
    _require(torch.equal(*cropped), "crops differ")
    resized = [resized_and_flipped(images.to(d), 1, 2, 3, 8).cpu() for d in ("cpu", device)]
    _require(_near(*resized, 1e-2), "resized crops differ")
    scaled = [normalised(images.to(d), loops.MEAN, loops.DEVIATION).cpu() for d in ("cpu", device)]
    _require(_near(*scaled, 1e-5), "normalised images differ")
    return "draws, crops, normalisation"


def methods(device: torch.device) -> str:
    """Every method takes the steps that it takes on a CPU."""
    wrong = []
    for name in loops.METHODS:
        # A search ends where rounding decides; what it finds is compared by its loss.
        ends = []
        for place in (torch.device("cpu"), device):
            risk = loops.perceptron(place)
            step = loops.stepped(name, risk, batch_size=0, tau=3)
            for _ in range(3):
                state = step()
            ends.append(value(risk, state.position).cpu())
        if not _near(*ends, 2e-2 if loops.waits(name) else 1e-3):
            wrong.append(f"{name}: losses {ends[0].tolist()} and {ends[1].tolist()}")
    _require(not wrong, "; ".join(wrong))
    return f"{len(loops.METHODS)} methods"


def measurements(device: torch.device) -> str:
    """Eigenvalues, the dense Hessian and a plane of a small network are those of plain torch."""
    _require_double(device)
    objective, truth, z = objectives.MAKERS["layer-norm"](str(device))
    dense = torch.autograd.functional.hessian(truth, z)
    largest = torch.linalg.eigvalsh(dense).abs().max()
    found = top_eigenpairs(objective, z, 1, tolerance=1e-8)
    _require(abs(abs(found.eigenvalues[0]) - float(largest)) < 1e-6 * float(largest), "eigenvalue")
    _require(_near(Hessian(objective, z).dense(), dense, 1e-9), "dense Hessian")
    draw = torch.Generator("cpu").manual_seed(0)
    u, v = directions.random(objective.layout, z, draw)
    axis = [-0.5, 0.0, 1.0]
    grid = plane(objective, z, u, v, alpha=axis, beta=axis).loss
    for i, a in enumerate(axis):
        for j, b in enumerate(axis):
            expected = float(truth(z + a * u + b * v))
            _require(abs(grid[i, j] - expected) < 1e-9 * (1 + abs(expected)), "plane")
    return "eigenvalue, dense Hessian, plane"


def precision(device: torch.device) -> str:
    """Products in float32 have the error of float32 whatever is allowed outside, which stays."""
    risk = loops.convolutions(device)
    z, u = loops.drawn(2, risk.dim, device=device) / 5
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        found = Hessian(risk, z) @ u
        kept = device.type != "cuda" or torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    _require(kept, "the caller's settings were not put back")
    here = loops.convolutions(torch.device("cpu"))
    expected = hvp(here, z.cpu().double(), u.cpu().double())
    error = float((found.cpu() - expected).norm() / expected.norm())
    _require(error < 1e-4, f"a product in float32 is off by {error:.3g}")
    return f"relative error {error:.2g}"


def graphs(device: torch.device) -> str:
    """Steps inside a CUDA graph end where plain ones do."""
    if device.type != "cuda":
        return "there are none here"
    population = Population(4, device, 1.0)
    for name, (step, state) in {
        "sgd": stepping("sgd", population.risk, population.start, momentum=0.9, lr=0.05),
        "gd": stepping("gd", himmelblau, population.start[:, :2].double(), lr=0.001),
    }.items():
        replay, held = captured(step, state)
        for _ in range(5):
            replay()
            state = step(state)
        _require(_near(held.position, state.position, 1e-6), f"{name} differs")
    return "sgd, gd"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    check.__name__: check
    for check in (numbers, waiting, derivatives, methods, measurements, precision, graphs)
}


def _require(right: Any, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)


def _require_double(device: torch.device) -> None:
    if device.type == "mps":
        raise NotImplementedError("there is no float64 here")


def _near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Plain torch without cuDNN, whose recurrent layers have one derivative."""
    before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
