"""Checks and benchmarks of a device: ``python -m benchmarks.device``, from the top of a clone.

It needs torch, NumPy, SciPy, h5py, scikit-learn and jaxtyping, no installation and no network. On
an accelerator it takes under five minutes, on a CPU it runs in small. Rows are printed as they are
found; JSON and a table are written to ``benchmarks/results``.
"""

import argparse
import faulthandler
import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.device import machine, record
from benchmarks.device.checks import CHECKS
from benchmarks.device.populations import Population
from benchmarks.device.products import SMALL as SMALL_WORK
from benchmarks.device.products import WORK, Products
from benchmarks.device.record import Found, Row
from benchmarks.device.training import FULL, SMALL, Plane, Restarts, epoch, plain_epoch

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUDGET = 240.0  # seconds after which nothing begins
PATIENCE = 45.0  # more seconds after which a row that cannot be interrupted ends the process


class Plan:
    """The rows of a run, in the order of what one wants to know first.

    Args:
        device: what is measured.
        small: whether everything is small.
        bfloat16: whether bfloat16 is measured too, with its error.
    """

    def __init__(self, device: torch.device, small: bool, bfloat16: bool):
        self.device, self.bfloat16 = device, bfloat16
        self.sizes, self.work = (SMALL, SMALL_WORK) if small else (FULL, WORK)
        self.peaks: Found = {}
        self._kept: tuple[tuple[Any, ...], Any] = ((), None)

    def rows(self) -> list[Row]:
        """All of them; what takes long to compile comes last."""
        checks = [
            Row(f"check: {name}", 45, functools.partial(self.checked, name)) for name in CHECKS
        ]
        first = [Row("peaks", 20, self.measured_peaks), *checks, *self.populations()]
        return [*first, *self.training(), *self.products(), *self.slow()]

    def measured_peaks(self) -> Found:
        """What the device can do at most."""
        self.peaks = machine.peaks(self.device, self.sizes.matrix)
        return self.peaks

    def checked(self, name: str) -> Found:
        """What a check says."""
        return {"checked": CHECKS[name](self.device)}

    def populations(self) -> list[Row]:
        """Steps of populations, all ways but the compiled one."""
        ways = ["stacked", "swarm", "loop"]
        ways.insert(1, "captured") if self.device.type == "cuda" else None
        return [
            Row(f"population of {n}: {way}", 15, self._call(Population, way, n))
            for n in self.sizes.members
            for way in ways
        ]

    def training(self) -> list[Row]:
        """An epoch, a plane, restarts."""
        sizes, device = self.sizes, self.device
        captured = device.type == "cuda"
        return [
            Row("epoch of ResNet-20", 40, lambda: epoch(sizes, device, self.peak)),
            Row(
                "epoch of ResNet-20: plain loop", 30, lambda: plain_epoch(sizes, device, self.peak)
            ),
            Row("plane of ResNet-20", 25, self._call(Plane, "part", sizes)),
            Row("plane of ResNet-20: plain loop", 15, self._call(Plane, "loop", sizes)),
            Row("restarts", 15, self._restarts("together")),
            *([Row("restarts: captured", 15, self._restarts("captured"))] if captured else []),
            Row("restarts: plain loop", 15, self._restarts("loop")),
        ]

    def products(self) -> list[Row]:
        """Products and eigenvalues, and bfloat16 where it is wanted."""
        rows = [
            Row(f"{name}: {what}", 30, self._call(Products, way, work))
            for name, work in self.work.items()
            for what, way in (("product", "eager"), ("top 5", "top"))
        ]
        if self.bfloat16:
            rows.append(Row("plane in bfloat16", 15, self._call(Plane, "bfloat16", self.sizes)))
            for name, work in self.work.items():
                call = self._call(Products, "bfloat16", work)
                rows.append(Row(f"{name}: product in bfloat16", 15, call))
        return rows

    def slow(self) -> list[Row]:
        """What is compiled, and the whole plane."""
        if self.sizes is SMALL:
            return []
        rows = [Row("plane of ResNet-20: all points", 90, self._call(Plane, "whole", self.sizes))]
        for n in self.sizes.members[-1:] + self.sizes.members[:1]:
            call = self._call(Population, "compiled", n)
            rows.insert(0, Row(f"population of {n}: compiled", 30, call))
        order = ("ResNet-18", "GPT-2", "ResNet-50")
        return (
            rows[:1]
            + [
                Row(
                    f"{name}: product, compiled",
                    60,
                    self._call(Products, "compiled", self.work[name]),
                )
                for name in order
            ]
            + rows[1:]
        )

    @property
    def peak(self) -> float:
        """TFLOP/s of products in float32; no number where it is not known."""
        return self.peaks.get("matmul float32 TFLOP/s", float("nan"))

    def _restarts(self, way: str) -> Callable[[], Found]:
        rate = "copy GB/s"
        return lambda: getattr(
            Restarts(self.sizes, self.device, self.peaks.get(rate, float("nan"))), way
        )()

    def _call(self, kind: Any, way: str, what: Any) -> Callable[[], Found]:
        """A way of something that is made when it is needed, and kept until something else is."""

        def measured() -> Found:
            if self._kept[0] != (kind, what):
                self._kept = ((), None)
                machine.release(self.device)
                self._kept = ((kind, what), kind(what, self.device, self.peak))
            return getattr(self._kept[1], way)()

        return measured


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--small", action="store_true", help="everything small, as on a CPU")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 too, with its error")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names begin so")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is written")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """0 if nothing failed."""
    options = arguments(words)
    device = machine.chosen(options.device)
    faulthandler.dump_traceback_later(options.budget + PATIENCE, exit=True)
    warnings.simplefilter("ignore")
    machine.precise()
    if device.type == "cpu":
        torch.set_num_threads(1)
    plan = Plan(device, options.small or device.type == "cpu", options.bfloat16)
    rows = [
        row for row in plan.rows()
        if row.name == "peaks" or not options.only or row.name.startswith(tuple(options.only))
    ]  # fmt: skip
    about = machine.about(device)
    path = options.out / f"device-{machine.file_name(about['card'])}.json"
    print(record.shown(about), flush=True)
    found = record.run(rows, about, path, options.budget)
    path.with_suffix(".md").write_text(record.table(found), encoding="utf-8")
    faulthandler.cancel_dump_traceback_later()
    statuses = [told["status"] for told in found["rows"]]
    print(f"{statuses.count('ok')} of {len(statuses)} rows in {found['seconds']} s: {path}")
    return int("failed" in statuses)


if __name__ == "__main__":
    sys.exit(main())
