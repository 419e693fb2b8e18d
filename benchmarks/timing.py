"""Side-by-side timing: one process, one thread, interleaved rounds, processor time."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of every candidate, after one round that is not counted.

    The candidates take turns within a round, so that a machine that slows down slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, candidate in candidates.items():
            began = time.process_time()
            candidate()
            if number:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def report(title: str, rows: Mapping[str, object], options: argparse.Namespace) -> None:
    """Prints the figures with the machine that they were measured on."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    print(json.dumps({"benchmark": title, "machine": machine, **rows}, indent=2))
