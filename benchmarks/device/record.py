"""Rows of a run: each has a limit, none ends the run, and all that is known is on disk."""

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.device import machine
from landscape.files import replacing

Found = dict[str, Any]


class Row(NamedTuple):
    """Something to measure.

    Attributes:
        name: what it is called, once in a run.
        limit: seconds after which it is given up.
        measure: gives numbers by name.
    """

    name: str
    limit: float
    measure: Callable[[], Found]


class OverLimit(BaseException):
    """A row has used up its time. No error, so that nothing on the way takes it for one."""


def run(rows: Sequence[Row], about: Found, path: Path, budget: float) -> Found:
    """What was found, a row each, as it lies in ``path``; no row starts after the budget.

    Args:
        rows: in the order in which they are measured.
        about: the machine; with its ``device``.
        path: of the JSON, which is written after every row.
        budget: seconds.
    """
    began = time.monotonic()
    found: Found = {"machine": about, "rows": []}
    device = torch.device(about["device"])
    for row in rows:
        left = budget - (time.monotonic() - began)
        if left <= 0:
            told: Found = {"name": row.name, "status": "not started: the time is used up"}
        else:
            # What has begun may end a little after the budget.
            told = _measured(row, device, min(row.limit, left + 20))
        found["rows"].append(told)
        found["seconds"] = round(time.monotonic() - began, 1)
        written(found, path)
        print(line(told), flush=True)
    return found


def _measured(row: Row, device: torch.device, limit: float) -> Found:
    """The row, whatever happens in it."""
    machine.forget_peak(device)
    began, numbers, status, error = time.monotonic(), {}, "ok", ""
    try:
        with limited(limit):
            numbers = row.measure()
            machine.wait(device)
    except OverLimit:
        status = f"over its limit of {limit:.0f} s"
    except Exception as failure:
        said = str(failure).strip().splitlines() or [""]
        status, error = "failed", f"{type(failure).__name__}: {said[0]}"[:2000]
    told = {"name": row.name, "status": status, "seconds": round(time.monotonic() - began, 2)}
    told |= {"error": error} if error else {}
    peak = machine.peak_gib(device)
    told |= {"peak GiB": peak} if peak is not None else {}
    told["found"] = numbers
    # What a failed row has left behind would be missing for the next.
    gc.collect()
    machine.release(device)
    return told


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside, `OverLimit` is raised once the seconds are over; where there are alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        raise OverLimit

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def written(found: Found, path: Path) -> None:
    """Nothing; the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")


def line(told: Found) -> str:
    """A row in words."""
    numbers = ", ".join(f"{name} {shown(n)}" for name, n in told.get("found", {}).items())
    parts = [told["status"], told.get("error", ""), numbers]
    seconds = f"{told['seconds']:6.1f} s  " if "seconds" in told else " " * 10
    return f"{seconds}{told['name']}: {'; '.join(part for part in parts if part)}"


def shown(number: Any) -> str:
    """A number with three digits; anything else as it is."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return str(number)
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"


def table(found: Found) -> str:
    """All rows as a table in Markdown, under the machine."""
    about = "; ".join(f"{name}: {shown(value)}" for name, value in found["machine"].items())
    head = ["row", "status", "seconds", "peak GiB", "found"]
    rows = [
        [
            told["name"],
            told["status"] + (f" ({told['error']})" if told.get("error") else ""),
            shown(told.get("seconds", "")),
            shown(told.get("peak GiB", "")),
            "; ".join(f"{name}: {shown(n)}" for name, n in told.get("found", {}).items()),
        ]
        for told in found["rows"]
    ]
    cells = [head, ["---"] * len(head), *rows]
    lines = ("| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in cells)
    return f"{about}\n\n" + "\n".join(lines) + "\n"
