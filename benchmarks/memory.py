"""Peak memory of top-5 eigenvalues against the formula, and of planes, each in a fresh process.

A wide perceptron of 25 million parameters on a small batch, its basis bounded. The formula is the
bytes that `top_eigenpairs` may take for the basis and what is beside it, and one graph; beside it
stand the point and the model's own copy of it, which are there before.

Planes are of a wide perceptron and of a convolution network with BatchNorm, about 25 million
parameters each: the peak from before the model was made until the plane is done, in copies of the
parameters, for two numbers of points.
"""

import json
import resource
import subprocess
import sys
import time
from itertools import pairwise

import torch
from timing import arguments, report
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import directions
from landscape.networks import EmpiricalRisk
from landscape.slices import plane
from landscape.spectrum import top_eigenpairs

# Width, samples, vectors of the basis and beside it, and most products.
SIZES = {"2.1 million": (1000, 32, 40, 400), "25 million": (3500, 32, 40, 400)}
K, LIMIT_GIB = 5, 8.0
PLANES, POINTS, LIMIT_COPIES = ("perceptron", "convolutions"), (9, 81), 6.0
SAMPLES = 4  # of a plane: activations are no part of what is asked
_STEPS = 10


def peak() -> int:
    """The most bytes that this process has held at once."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def measure(width: int, samples: int, vectors: int, products: int) -> dict[str, object]:
    """One run in this process, which must be a fresh one."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = perceptron(width)
    # Classes around centres, so that some eigenvalues stand out as those of real data do.
    y = torch.arange(samples, device="cpu") % 10
    x = torch.randn(10, 64, generator=generator)[y]
    x = x + 0.3 * torch.randn(samples, 64, generator=generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    del optimiser
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    z = risk.point()
    budget = vectors * z.numel() * z.element_size()
    # What torch itself takes when it first differentiates twice is no part of the formula.
    top_eigenpairs(EmpiricalRisk(nn.Linear(64, 10), (x, y), cross_entropy), torch.zeros(650), 1)
    before, began = peak(), time.process_time()
    found = top_eigenpairs(risk, z, K, memory=budget, max_products=products, vectors=False)
    seconds = time.process_time() - began
    graph = found.provenance["graph_bytes"]
    return {
        "parameters": risk.dim,
        "basis and beside it, GiB": budget / 2**30,
        "graph, GiB": graph / 2**30,
        "formula, GiB": (budget + graph) / 2**30,
        "measured above the start, GiB": (peak() - before) / 2**30,
        "measured in all, GiB": peak() / 2**30,
        "products": found.products,
        "check products": found.check_products,
        "converged": bool(found.converged.all()),
        "status": found.status,
        "seconds": seconds,
        "largest": float(found.eigenvalues[0]),
        "bound, without rounding above 10 million": float(found.bounds.max()),
    }


def perceptron(width: int) -> nn.Module:
    """64-width-width-width-10 with tanh."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10),
        )  # fmt: skip


def convolutions(*channels: int) -> nn.Module:
    """3 x 3 convolutions with BatchNorm and ReLU on images of 32 x 32, pooled, and a classifier."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise((3, *channels))):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if place < 3 else [])]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10)
    ).eval()


def sliced(kind: str, points: int) -> dict[str, object]:
    """A plane in this process, which must be a fresh one."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(SAMPLES, device="cpu") % 10
    if kind == "perceptron":
        x = torch.randn(SAMPLES, 64, generator=generator)
        small, large = (lambda: perceptron(8)), lambda: perceptron(SIZES["25 million"][0])
    else:
        x = torch.randn(SAMPLES, 3, 32, 32, generator=generator)
        small, large = (lambda: convolutions(4, 4, 4)), lambda: convolutions(
            64, 512, 1024, 1024, 1024
        )  # fmt: skip
    # What is loaded when the first plane is made is no part of a plane.
    square(small(), x, y, 9)
    before = peak()
    found, dim = square(large(), x, y, points)
    return {
        "parameters": dim,
        "evaluation": found.provenance["evaluation"],
        "copies of the parameters": (peak() - before) / (4 * dim),
    }


def square(model: nn.Module, x: torch.Tensor, y: torch.Tensor, points: int):
    """A plane of so many points along two random directions, and the number of parameters."""
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    z = risk.point()
    u, v = directions.random(risk.layout, z, torch.Generator().manual_seed(0))
    axis = torch.linspace(-1, 1, round(points**0.5))
    return plane(risk, z, u, v, alpha=axis, beta=axis), risk.dim


def child(*words: object) -> dict[str, object]:
    """What a run of this file in a process of its own says."""
    command = [sys.executable, __file__, "--child", *map(str, words)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """One child process for each size."""
    options = arguments(__doc__)
    rows = {name: child(*size) for name, size in SIZES.items()}
    planes = {f"plane, {kind}, {n} points": child(kind, n) for kind in PLANES for n in POINTS}
    most = max(row["copies of the parameters"] for row in planes.values())
    largest = rows["25 million"]["measured in all, GiB"]
    report(
        f"memory of top-{K} eigenvalues and of planes",
        {
            **rows,
            **planes,
            f"25 million parameters inside {LIMIT_GIB:.0f} GiB": largest < LIMIT_GIB,
            f"a plane inside {LIMIT_COPIES:.0f} copies": most < LIMIT_COPIES,
        },
        options,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        words = sys.argv[2:]
        kind = words[0] in PLANES
        print(json.dumps(sliced(words[0], int(words[1])) if kind else measure(*map(int, words))))
    else:
        main()
