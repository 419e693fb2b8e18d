"""What it costs to record curvature every 50 steps of training, and what a warm start saves.

A 13-64-64-3 network on the wine data: full-batch gradient descent, and mini-batches of 32. The
same loop runs with and without a `CurvatureRecorder`; cold is a fresh recorder for every record.
"""

import torch
from sklearn.datasets import load_wine
from timing import arguments, interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy

from landscape.networks import EmpiricalRisk
from landscape.recorder import CurvatureRecorder

STEPS, EVERY, LR, BATCH = 1000, 50, 0.1, 32


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """The standardised wine data."""
    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def network() -> nn.Module:
    """The same start every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(13, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)
        return nn.Sequential(*layers)


def trained(size: int, watch=lambda step, model, optimiser: None) -> None:
    """One run of a plain torch loop."""
    x, y = data()
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    order = torch.Generator("cpu").manual_seed(0)
    for step in range(STEPS):
        watch(step, model, optimiser)
        rows = torch.randint(len(x), (size,), generator=order) if size < len(x) else slice(None)
        optimiser.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()


def products() -> tuple[int, int]:
    """Products of all records after the first, warm and cold."""
    risk = EmpiricalRisk(network(), data(), cross_entropy)
    warm = CurvatureRecorder(risk, every=EVERY, trace_probes=0)
    cold = []

    def watch(step, model, optimiser):
        if warm(step, model):
            alone = CurvatureRecorder(risk, every=EVERY, trace_probes=0)
            alone(step, model)
            cold.append(int(alone.result().products[0]))

    trained(len(data()[0]), watch)
    return int(warm.result().products[1:].sum()), sum(cold[1:])


def main() -> None:
    """Times both loops and counts products."""
    options = arguments(__doc__)
    whole = len(data()[0])
    risk = EmpiricalRisk(network(), data(), cross_entropy)
    kinds = {
        "plain": None,
        "sharpness": {"trace_probes": 0},
        "sharpness and trace": {},
        "and mini-batches": {"minibatch": BATCH},
    }
    rows: dict[str, object] = {}
    for name, size in (("full batch", whole), (f"batches of {BATCH}", BATCH)):
        candidates = {
            kind: (lambda keys=keys, size=size: trained(
                size, *([] if keys is None else [CurvatureRecorder(risk, every=EVERY, **keys)])
            ))
            for kind, keys in kinds.items()
        }  # fmt: skip
        seconds = interleaved(candidates, options.rounds)
        rows[f"{name}, s for {STEPS} steps"] = seconds["plain"]
        for kind in list(kinds)[1:]:
            rows[f"{name}, with {kind}, times"] = seconds[kind] / seconds["plain"]
    warm, cold = products()
    rows |= {"products, warm": warm, "products, cold": cold}
    report(f"curvature every {EVERY} steps", rows, options)


if __name__ == "__main__":
    main()
