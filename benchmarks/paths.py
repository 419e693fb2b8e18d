"""FourierPathFinder on a network of 42,200 parameters, against autograd point after point.

A network 784-50-50-10 without biases and with softplus (that of Yu & Morozov) on images of digits,
28 x 28; 50 points of the path, 10 sines, 100 steps of Adam. The loop is what one writes first: for
each point the parameters are set, the loss is back-propagated, and the gradient is added to those
of the amplitudes. Both are given the same sum (equation 4), and end at the same amplitudes. A few
steps are timed and scaled.
"""

import torch
from sklearn.datasets import load_digits
from timing import arguments, interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from landscape.networks import EmpiricalRisk
from landscape.paths.curves import straight
from landscape.paths.fourier import Fourier, _Descent
from landscape.paths.ground import Ground
from landscape.paths.profile import Options, Profile, profile
from landscape.paths.steps import Adam

GRID, SINES, STEPS, TIMED, LR, PENALTY = 50, 10, 100, 2, 1e-3, 1e-4
SAMPLES = (100, 500, 1797)


def main() -> None:
    """Times both for several numbers of samples, and compares what they come to."""
    options = arguments(__doc__)
    rows = {}
    for samples in SAMPLES:
        risk, a, b = ends(samples)
        found = {}

        # What comes once for a path, and not with every step, is not timed.
        finder = Fourier(sines=SINES, grid=GRID, penalty=PENALTY, power="1")
        ground = Ground(risk, a, b)
        line = profile(ground, straight(a, b), Options(points=3, refinement=0))

        def ours(finder=finder, ground=ground, line=line, found=found) -> None:
            found["ours"] = together(finder, ground, line)

        def loop(risk=risk, a=a, b=b, found=found) -> None:
            found["loop"] = one_by_one(risk, a, b)

        seconds = interleaved({"ours": ours, "loop": loop}, options.rounds)
        # Where a gradient is as good as zero, Adam makes a step of its rounding.
        off = (found["ours"] - found["loop"]).abs() > 0.01 * LR
        if (share := float(off.double().mean())) > 1e-3:
            raise RuntimeError(f"the two disagree in {share:.2%} of the amplitudes")
        each = {name: taken * STEPS / TIMED for name, taken in seconds.items()}
        rows[f"{samples} samples"] = {
            "100 steps, s": round(each["ours"], 2),
            "loop, s (scaled)": round(each["loop"], 2),
            "faster": round(each["loop"] / each["ours"], 2),
        }
    report("FourierPathFinder, 42,200 parameters, 50 points", rows, options)


def ends(samples: int) -> tuple[EmpiricalRisk, torch.Tensor, torch.Tensor]:
    """The loss, and two trained points."""
    data = load_digits()
    images = torch.tensor(data.images[:samples], dtype=torch.float32).unsqueeze(1) / 16
    x = interpolate(images, size=(28, 28), mode="bilinear", align_corners=False).flatten(1)
    y = torch.tensor(data.target[:samples])
    points = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = network()
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimiser.zero_grad()
            cross_entropy(model(x), y).backward()
            optimiser.step()
        risk = EmpiricalRisk(model, (x, y), cross_entropy)
        points.append(risk.point())
    return risk, points[0], points[1]


def network() -> nn.Module:
    """784-50-50-10."""
    layers = [nn.Linear(784, 50, bias=False), nn.Softplus(), nn.Linear(50, 50, bias=False)]
    return nn.Sequential(*layers, nn.Softplus(), nn.Linear(50, 10, bias=False))


def together(finder: Fourier, ground: Ground, line: Profile) -> torch.Tensor:
    """The amplitudes after a few steps, the points of the path evaluated together."""
    descent, adam = _Descent(finder, ground, line), Adam(LR)
    amplitudes = ground.a.new_zeros(SINES, len(ground.a))
    for _ in range(TIMED):
        _, slope = descent(amplitudes, ground.objective)
        amplitudes = adam.step(amplitudes, slope)
    return amplitudes


def one_by_one(risk: EmpiricalRisk, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The same by a loop over points with a module and autograd."""
    model, ((x, y, *_),) = network(), list(risk.data)
    t = torch.linspace(0, 1, GRID)
    waves = torch.sin(torch.pi * torch.outer(t, torch.arange(1, SINES + 1)))
    waves[[0, -1]] = 0.0
    amplitudes = a.new_zeros(SINES, len(a)).requires_grad_()
    optimiser = torch.optim.Adam([amplitudes], lr=LR)
    for _ in range(TIMED):
        optimiser.zero_grad()
        rows = torch.lerp(a, b, t[:, None]) + waves @ amplitudes
        (PENALTY * rows.diff(dim=0).square().sum()).backward()
        for k in range(1, GRID - 1):
            place = (torch.lerp(a, b, t[k]) + waves[k] @ amplitudes).detach()
            start = 0
            for p in model.parameters():
                p.data.copy_(place[start : start + p.numel()].view_as(p))
                start += p.numel()
            loss = cross_entropy(model(x), y)
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            slope = torch.cat([g.reshape(-1) for g in slopes])
            amplitudes.grad += torch.outer(waves[k], slope)
        optimiser.step()
    return amplitudes.detach()


if __name__ == "__main__":
    main()
