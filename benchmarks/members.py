"""Peak memory of populations whose members live in host memory, in copies of the population.

Each row is a process of its own: a run of one round that leaves a checkpoint, and another process
that goes on from it for a second round and leaves the best point, its metrics and the last
checkpoint. A copy is what all members take, n p numbers. torch and all that it loads are inside the
peak; what a run of tiny members takes is told beside it.

Then what epochs of two members take beyond the state, in copies of one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from memory import peak, perceptron
from timing import arguments, report

from cnognp.tasks import Task
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train

MEMBERS, WIDTH, SAMPLES, LIMIT_GIB = 20, 3500, 64, 16.0
METHODS = {
    "cno, steps": ("cno", {"batch_size": 0}),
    "cnognp, steps": ("cnognp", {"batch_size": 0}),
    "cno, epochs": ("cno", {"batch_size": 32}),
    "cnognp, epochs": ("cnognp", {"batch_size": 32}),
    "cnognp, ranked by epochs": ("cnognp", {"batch_size": 32, "fitness_from": "epoch"}),
    "sgd": ("sgd", {"momentum": 0.9}),
    "sam": ("sam", {}),
}


def make_task(width: int = WIDTH) -> Task:
    """A perceptron of 24.8 million parameters on a few drawn samples."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(SAMPLES, 64, generator=generator, device="cpu")
    y = torch.arange(SAMPLES, device="cpu") % 10
    return Task(
        perceptron(width), torch.nn.functional.cross_entropy, (x, y), validation=(x[:32], y[:32])
    )


def measure(name: str, members: int, width: int, folder: str, rounds: int) -> dict[str, float]:
    """The peak of one process that trains, or goes on with, a run."""
    method, keys = METHODS[name]
    config = Config(
        f"{Path(__file__).resolve()}:make_task", method, members, 2, checkpoint_every=1,
        device="cpu", threads=1, members_live="host", task_options={"width": width},
        method_options={"lr": 0.01, **keys},
    )  # fmt: skip
    asked = iter(range(9))
    run = RunFolder(Path(folder) / "run")
    last = train(config, run, resume=rounds == 2, leave=lambda: next(asked) + 1 == 1)
    parameters = last.arrays["state/position"].shape[1]
    return {"bytes": peak(), "parameters": parameters, "rounds": last.iteration}


def child(name: str, members: int, width: int) -> list[dict[str, float]]:
    """What the two processes of a run say."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rounds in (1, 2):
            words = map(str, (name, members, width, folder, rounds))
            command = [sys.executable, __file__, "--child", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
    return found


def row(name: str, members: int, width: int = WIDTH) -> dict[str, float]:
    """Peaks of a method, as they are and in copies beyond those of tiny members."""
    large, tiny = child(name, members, width), child(name, members, 8)
    copy = 4 * members * large[0]["parameters"]
    found: dict[str, float] = {"parameters": large[0]["parameters"]}
    for number, what in enumerate(("from the start", "resumed")):
        found[f"{what}, GiB"] = large[number]["bytes"] / 2**30
        above = large[number]["bytes"] - tiny[number]["bytes"]
        found[f"{what}, copies of the population"] = above / copy
    return found


def main() -> None:
    """A row for each method."""
    options = arguments(__doc__)
    rows = {name: row(name, MEMBERS) for name in METHODS}
    largest = max(value for each in rows.values() for key, value in each.items() if "GiB" in key)
    inside = {f"{MEMBERS} members inside {LIMIT_GIB:.0f} GiB": largest < LIMIT_GIB}
    report("members in host memory: peak memory of training", {**rows, **inside}, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, members, width, folder, rounds = sys.argv[2:]
        print(json.dumps(measure(name, int(members), int(width), folder, int(rounds))))
    else:
        main()
