"""Units of work: two workers beside one, and what a round of units costs beside its work.

Wall time on a machine that is free, one thread for each process. Workers are warm: what it takes to
start them, most of it the import of torch, is told apart. Results are compared bit for bit.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import report

from cnognp.measuring import subjects
from cnognp.measuring.kinds import KINDS
from cnognp.measuring.spread import Source, Spread
from cnognp.tasks.problem import Problem, task_of
from cnognp.training import checkpoint
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from cnognp.workers import Pool, in_order

MEMBERS, TRAJECTORIES, SIDE = 20, 64, 41
GOALS = {"pool": 5.0, "ray": 50.0, "speed": 1.8}

TASK = """
import torch
from torch.nn.functional import cross_entropy
from cnognp.tasks import Task
from cnognp.tasks.networks import resnet20


def make_task(images={images}):
    drawn = torch.Generator().manual_seed(0)
    batch = torch.randn(images, 3, 32, 32, generator=drawn), torch.arange(images) % 10
    return Task(model=resnet20().eval(), loss=cross_entropy, train=batch)
"""


def returned(state: np.ndarray) -> np.ndarray:
    """What a unit that does nothing gives back."""
    return state


def overhead(executor, rounds: int) -> float:
    """Milliseconds of a round of 20 members that do nothing."""
    states = [(np.full((3, 1000), k, dtype=np.float32),) for k in range(MEMBERS)]
    taken = []
    for _ in range(rounds + 5):
        began = time.perf_counter()
        found = list(in_order(returned, states, executor))
        taken.append(1000 * (time.perf_counter() - began))
        assert all(np.array_equal(a, b[0]) for a, b in zip(found, states, strict=True))
    return statistics.median(taken[5:])


def trajectories(executor, folder: Path, rounds: int) -> bytes:
    """The bits of 64 networks that are trained."""
    config = Config(
        "digits", method="sgd", members=TRAJECTORIES, iterations=rounds, threads=1, together=8,
        checkpoint_every=rounds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        run = RunFolder(Path(inside) / "run")
        train(config, run, executor=executor)
        found, _ = checkpoint.newest(run.checkpoints)
        return found.arrays["state/position"].tobytes()  # type: ignore[union-attr]


def plane(executor, folder: Path, side: int) -> bytes:
    """The bits of a plane of ResNet-20."""
    source = Source(task=f"{folder / 'task.py'}:make_task", device="cpu")
    problem = Problem(task_of(source.task, 0, {}), torch.device("cpu"))
    subject = subjects.of_weights(problem, None)
    spread = None if executor is None else Spread(executor, source, 1)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        kinds = [KINDS["plane"](grid=side)]
        found = dict(subjects.measured(subject, Path(inside), kinds, spread=spread))
    (result,) = found.values()
    return result.loss.tobytes()  # type: ignore[attr-defined]


def compared(work: Callable, pool: Pool, folder: Path, size: int, rounds: int) -> dict:
    """Seconds of work in this process and by two workers, in turn."""
    bits, taken = set(), {None: list[float](), pool: list[float]()}
    # Each worker makes its task once.
    work(pool, folder, min(size, 3))
    for _ in range(rounds):
        for executor, seconds in taken.items():
            began = time.perf_counter()
            bits.add(work(executor, folder, size))
            seconds.append(time.perf_counter() - began)
    alone, shared = (min(seconds) for seconds in taken.values())
    return {
        "seconds, 1 and 2 workers": [alone, shared],
        "times faster": alone / shared,
        f"at least {GOALS['speed']} times faster": alone / shared >= GOALS["speed"],
        "bit for bit": len(bits) == 1,
    }


def main() -> None:
    """The parts that are asked for, one table each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["pool", "trajectories", "plane"],
                        help="of pool, ray, trajectories, plane")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=60, help="epochs of the trajectories")
    parser.add_argument("--side", type=int, default=SIDE, help="of the plane")
    parser.add_argument("--images", type=int, default=64, help="that the plane is measured on")
    options = parser.parse_args()
    options.threads = 1
    torch.set_num_threads(1)
    began = time.perf_counter()
    with Pool(2) as pool, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.py").write_text(TASK.format(images=options.images))
        list(in_order(abs, [(1,)] * 8, pool))
        started = time.perf_counter() - began
        if "pool" in options.parts:
            said = overhead(pool, 50)
            report(
                "a round of 20 units that do nothing, 2 workers of the pool",
                {
                    "milliseconds": said,
                    "under 5": said < GOALS["pool"],
                    "seconds to start": started,
                },
                options,
            )  # fmt: skip
        if "trajectories" in options.parts:
            found = compared(trajectories, pool, folder, options.iterations, options.rounds)
            report(f"{TRAJECTORIES} trajectories of a perceptron on digits", found, options)
        if "plane" in options.parts:
            found = compared(plane, pool, folder, options.side, options.rounds)
            title = f"a {options.side} x {options.side} plane of ResNet-20, {options.images} images"
            report(title, found, options)
    if "ray" in options.parts:
        from cnognp.workers.cluster import Cluster

        began = time.perf_counter()
        with Cluster("", 2) as cluster:
            list(in_order(abs, [(1,)] * 8, cluster))
            started = time.perf_counter() - began
            said = overhead(cluster, 50)
            report(
                "a round of 20 units that do nothing, 2 processors of Ray",
                {
                    "milliseconds": said,
                    "under 50": said < GOALS["ray"],
                    "seconds to start": started,
                },
                options,
            )  # fmt: skip


if __name__ == "__main__":
    main()
