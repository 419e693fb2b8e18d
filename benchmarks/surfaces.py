"""Loss planes against other tools: a small perceptron on Wine, and ResNet-20 on CIFAR-10 images.

The loop that everybody writes, weights loaded and a DataLoader passed at every point, is part of
this file; loss-landscapes and landscaper take part where they are installed. All ways see the same
data and number of points; ours and the loop see the same points, and their values are compared.
ResNet-20 takes trained weights and images from ``shared/data`` beside the checkout, where present,
else its starting weights and random images: the time is the same. ``--only costs`` measures how a
plane's time grows with its points and its data, ``--only adaptive`` what refinement saves.
"""

import argparse
import contextlib
import io
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_wine
from timing import interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from cnognp.tasks.networks import resnet20
from landscape import directions
from landscape.networks import EmpiricalRisk
from landscape.slices import adaptive_plane, plane

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOPS = 81.1e6  # of ResNet-20's forward pass for one image of 32 x 32 pixels
SQUARE = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))


def perceptron() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """13-64-64-3 with tanh, 5,251 parameters, trained on the 178 rows of Wine to a loss of 0.03."""
    data = load_wine()
    x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
    y = torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(13, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)
        )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = torch.tensor(1.0)
    while float(loss.detach()) > 0.03:
        optimiser.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
    return model.eval(), x, y


def residual(images: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """ResNet-20 and the first test images of CIFAR-10."""
    model = resnet20().eval()
    if not (SHARED / "weights").is_dir():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(images, 3, 32, 32, generator=generator)
        return model, x, torch.randint(0, 10, (images,), generator=generator)
    from PIL import Image
    from safetensors.torch import load_file

    model.load_state_dict(load_file(SHARED / "weights" / "cifar10_resnet20.safetensors"))
    with zipfile.ZipFile(SHARED / "cifar10" / "test_batch.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))[:2]
        strips = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
        (labels,) = [name for name in archive.namelist() if name.endswith(".npy")]
        target = np.load(io.BytesIO(archive.read(labels)), allow_pickle=False)
    pixels = np.concatenate([np.asarray(strip).reshape(-1, 32, 32, 3) for strip in strips])
    pixels = (pixels[:images].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return model, x, torch.from_numpy(target[:images].astype(np.int64))


class Workload:
    """One network on one batch, and a plane through its point."""

    def __init__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: int):
        self.model, self.x, self.y, self.count = model, x, y, count
        self.risk = EmpiricalRisk(model, (x, y), cross_entropy)
        self.z = self.risk.point()
        draw = torch.Generator().manual_seed(0)
        self.u, self.v = directions.random(self.risk.layout, self.z, draw)
        self.axis = np.linspace(-1, 1, count)
        self.speed = float("nan")  # of the matrix product, in operations a second

    def ours(self) -> np.ndarray:
        found = plane(self.risk, self.z, self.u, self.v, alpha=self.axis, beta=self.axis)
        return found.loss

    def loop(self) -> np.ndarray:
        """Load the weights, pass the DataLoader, at every point."""
        loader = DataLoader(TensorDataset(self.x, self.y), batch_size=128)
        losses = np.zeros((self.count, self.count))
        for i, a in enumerate(self.axis):
            for j, b in enumerate(self.axis):
                point = self.z + float(a) * self.u + float(b) * self.v
                self.model.load_state_dict(self.risk.state_dict(point))
                total = 0.0
                with torch.no_grad():
                    for x, y in loader:
                        total += cross_entropy(self.model(x), y, reduction="sum").item()
                losses[i, j] = total / len(self.y)
        self.model.load_state_dict(self.risk.state_dict(self.z))
        return losses

    def peers(self) -> dict[str, Callable[[], object]]:
        """The other tools that are installed."""
        found: dict[str, Callable[[], object]] = {}
        with contextlib.suppress(ImportError):
            import loss_landscapes
            from loss_landscapes.metrics import Loss

            metric = Loss(cross_entropy, self.x, self.y)

            def loss_landscapes_plane() -> object:
                with torch.no_grad():
                    return loss_landscapes.random_plane(
                        self.model, metric, 1, self.count, "filter", deepcopy_model=True
                    )

            found["loss-landscapes"] = loss_landscapes_plane
        with contextlib.suppress(ImportError):
            from landscaper.compute import compute_loss_landscape

            def landscaper_plane() -> object:
                vectors = [self.risk.layout.unflatten(d) for d in (self.u, self.v)]
                with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
                    with contextlib.redirect_stderr(quiet):
                        return compute_loss_landscape(
                            self.model, (self.x, self.y),
                            [[t.clone() for t in vector.values()] for vector in vectors],
                            lambda model, data: cross_entropy(model(data[0]), data[1]).item(),
                            steps=self.count, distance=1.0, dim=2, device="cpu",
                        )  # fmt: skip

            found["landscaper"] = landscaper_plane
        return found


def compared(work: Workload, rounds: int, *, others: bool = True) -> dict[str, object]:
    """Processor seconds a point of every way, and how much faster ours is."""
    ways = {"matrix product": product, "ours": work.ours}
    if others:
        ways |= {"DataLoader loop": work.loop, **work.peers()}
    seconds = interleaved(ways, rounds)
    work.speed = 2 * len(SQUARE) ** 3 / seconds.pop("matrix product")
    exact = work.loop()
    rows: dict[str, object] = {
        "points": work.count**2,
        "largest relative difference to the loop": float(
            np.max(np.abs(work.ours() - exact) / np.abs(exact))
        ),
        "milliseconds a point": {k: 1e3 * s / work.count**2 for k, s in seconds.items()},
        "ours is faster by": {k: s / seconds["ours"] for k, s in seconds.items()},
    }
    return rows


def adaptive(work: Workload, levels: np.ndarray) -> dict[str, object]:
    """What an adaptive plane takes and how far it is from all points, on a log scale."""
    exact, began = np.log(work.ours()), time.process_time()
    found = adaptive_plane(
        work.risk, work.z, work.u, work.v, count=work.count, levels=levels, scale="log"
    )
    seconds = time.process_time() - began
    errors = np.abs(np.log(found.loss) - exact) / np.ptp(exact)
    return {
        "points": work.count**2,
        "share of the points evaluated": float(np.mean(found.evaluated)),
        "largest true error, share of the range of the log": float(errors.max()),
        "mean true error, share of the range of the log": float(errors.mean()),
        "error that it says": found.interpolation_error,
        "seconds": seconds,
    }


def costs(rounds: int, images: int, counts: Sequence[int]) -> dict[str, object]:
    """Seconds for planes of growing grids, and a point's on growing data, with straight lines."""
    works = {count**2: Workload(*residual(images), count) for count in counts}
    grids = interleaved({str(n): work.ours for n, work in works.items()}, rounds)
    data = {}
    for n in (images, 2 * images, 4 * images):
        small, large = (Workload(*residual(n), count) for count in counts[:2])
        taken = interleaved({"small": small.ours, "large": large.ours}, rounds)
        # The difference of two grids: what is done once for a plane is no part of a point's cost.
        data[n] = (taken["large"] - taken["small"]) / (large.count**2 - small.count**2)
    return {
        f"points, {images} images": line_through({int(n): s for n, s in grids.items()}),
        "images, a point": line_through(data),
    }


def line_through(seconds: dict[int, float]) -> dict[str, object]:
    """The least-squares line through the seconds, and the power that they grow with."""
    size, taken = np.array(list(seconds)), np.array(list(seconds.values()))
    slope, start = np.polyfit(size, taken, 1)
    rest = taken - start - slope * size
    return {
        "seconds": seconds,
        "slope": float(slope),
        "intercept": float(start),
        "R squared": float(1 - rest @ rest / ((taken - taken.mean()) @ (taken - taken.mean()))),
        "power": float(np.polyfit(np.log(size), np.log(taken), 1)[0]),
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """A picture of the costs with their lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = zip(figure.subplots(1, len(found)), found.items(), strict=True)
    for panel, (name, line) in panels:
        size = np.array(list(line["seconds"]))
        panel.plot(size, list(line["seconds"].values()), "o", color="#0072B2", label="measured")
        fit = line["intercept"] + line["slope"] * size
        panel.plot(size, fit, color="#D55E00", label=f"line, R² = {line['R squared']:.4f}")
        panel.set(xlabel=name, ylabel="processor time / s", xlim=(0, None), ylim=(0, None))
        panel.legend(frameon=False)
    figure.savefig(path, dpi=150)


def product() -> torch.Tensor:
    """A large matrix product, as fast as the machine can be."""
    return SQUARE @ SQUARE


def main() -> None:
    """Runs the workloads that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    known = ["mlp", "resnet64", "resnet512", "costs", "adaptive"]
    parser.add_argument("--only", nargs="*", choices=known, default=known[:3])
    parser.add_argument("--points", type=int, default=51, help="of each axis, in adaptive")
    parser.add_argument("--images", type=int, default=16, help="in costs and adaptive")
    parser.add_argument("--plot", type=Path, help="where a picture of the costs goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, object] = {}
    for count in (21, 51):
        if "mlp" in options.only:
            work = Workload(*perceptron(), count)
            rows[f"MLP 13-64-64-3, {count} x {count}"] = compared(work, options.rounds)
    for images, count in ((64, 15), (512, 7)):
        if f"resnet{images}" in options.only:
            work = Workload(*residual(images), count)
            found = compared(work, options.rounds)
            flops = FLOPS * images / (1e-3 * found["milliseconds a point"]["ours"])
            found["share of the matrix product's speed"] = flops / work.speed
            rows[f"ResNet-20, {images} images, {count} x {count}"] = found
    if "costs" in options.only:
        found = costs(options.rounds, options.images, (3, 5, 7, 9))
        rows["ResNet-20, cost"] = found
        if options.plot is not None:
            draw(found, options.plot)
    if "adaptive" in options.only:
        work = Workload(*residual(options.images), options.points)
        rows[f"ResNet-20, adaptive, {options.images} images"] = adaptive(
            work, np.geomspace(0.1, 10, 10)
        )
    report("loss planes", rows, options)


if __name__ == "__main__":
    main()
