"""The device that is measured: how its time is taken, and what it can do at most."""

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def chosen(name: str) -> torch.device:
    """The device of that name; with ``auto`` the first accelerator, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def about(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    card = {"cuda": lambda: torch.cuda.get_device_name(device)}.get(
        device.type, lambda: device.type
    )
    told = {
        "device": str(device),
        "card": card(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "TF32": "off, for products and convolutions alike",
        "clock": "processor time" if device.type == "cpu" else "wall time, after all is done",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        told |= {
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return told


def file_name(card: str) -> str:
    """The card's name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-").lower()


def precise() -> None:
    """Nothing; from now on float32 is float32 on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def wait(device: torch.device) -> None:
    """Nothing, once the device has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release(device: torch.device) -> None:
    """Nothing; memory that is not in use is given back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def forget_peak(device: torch.device) -> None:
    """Nothing; the peak of memory is counted from now on, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most memory that was in use: of the device, or of the whole process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    if device.type == "cpu" and sys.platform != "win32":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round((most if sys.platform == "darwin" else most * 1024) / 2**30, 3)
    return None


def room(device: torch.device) -> int:
    """Bytes of graph that may be kept: a third of what an accelerator has, 2 GiB otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 3
    return 2**31


def now(device: torch.device) -> float:
    """Seconds, once all is done; of the processor on a CPU."""
    wait(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def once(call: Callable[[], Any], device: torch.device) -> float:
    """The seconds of one call."""
    began = now(device)
    call()
    return now(device) - began


def seconds(call: Callable[[], Any], device: torch.device, wanted: float = 0.6) -> float:
    """Median seconds of a call, after two that are not counted; takes about ``wanted`` in all.

    On a CPU, which is there to show that everything runs, it takes a tenth of that.
    """
    wanted = wanted / 10 if device.type == "cpu" else wanted
    call()
    first = max(once(call, device), 1e-7)
    count = int(min(300, max(1, wanted / 3 / first)))
    taken = []
    for _ in range(3 if first < wanted else 1):
        began = now(device)
        for _ in range(count):
            call()
        taken.append((now(device) - began) / count)
    return statistics.median(taken)


def flops(call: Callable[[], Any]) -> int:
    """The floating-point operations of the products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peaks(device: torch.device, size: int) -> dict[str, Any]:
    """TFLOP/s of products of square matrices, and GB/s of a copy.

    Args:
        device: what is measured.
        size: rows and columns.
    """
    found: dict[str, Any] = {}
    kinds = [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
    if device.type != "mps":
        kinds.append(("float64", torch.float64))
    for name, dtype in kinds:
        a = torch.randn(size, size, device=device).to(dtype)
        found[f"matmul {name} TFLOP/s"] = _rate(a, device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            a = torch.randn(size, size, device=device)
            found["matmul TF32 TFLOP/s, not used"] = _rate(a, device)
        finally:
            precise()
    source = torch.ones(size * size * 2, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    found["copy GB/s"] = moved / seconds(lambda: target.copy_(source), device, 0.2) / 1e9
    return found


def _rate(a: torch.Tensor, device: torch.device) -> float:
    out = torch.empty_like(a)
    taken = seconds(lambda: torch.mm(a, a, out=out), device, 0.3)
    return 2 * len(a) ** 3 / taken / 1e12
