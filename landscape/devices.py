"""What devices hold, and small tensors of the host on an accelerator without waiting for it."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

# A copy to CUDA has left pageable memory when the call returns, so that its source may be freed;
# other devices do not promise that.
_AHEAD = ("cuda", "meta")
# Thresholds of glibc's mallopt(3), up to which it goes by itself: the size of a block from which
# on the system is asked for it alone, and how much freed memory is not yet given back.
_MMAP, _TRIM = (-3, 2**25), (-1, 2**26)
_NEVER = (-1, 2**31 - 1)
_SAID = ("MALLOC_", "GLIBC_TUNABLES")


def sent(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device, in a type; the host goes on before the device has it.

    An ordinary copy waits until everything that was asked of the device before is done. On a CPU
    this is `Tensor.to`.

    Args:
        tensor: on the CPU.
        device: where it is wanted.
        dtype: its own where None.
    """
    ahead = torch.device(device).type in _AHEAD
    return tensor.to(device, dtype or tensor.dtype, non_blocking=ahead)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; 0 where that is not known.

    Of a CPU it is what Linux says is available, which counts what the system would give back.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines() if device.type == "cpu" else []
        return next((1024 * int(li.split()[1]) for li in lines if li.startswith("MemAvail")), 0)
    return 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, the process keeps the memory of the host that it frees, for what comes next.

    By itself glibc gives what is beyond 64 MiB at most back to the system, so that activations come
    in fresh pages in every step, which the system has to clear; for a ResNet-20 on a CPU that is a
    tenth of the time. Blocks of more than 32 MiB are given back at once as ever, and all that is
    not in use is at the end. Where the environment says how memory is allocated, and where it is
    not glibc's, nothing is changed.
    """
    library = None
    if platform.libc_ver()[0] == "glibc" and not any(n.startswith(_SAID) for n in os.environ):
        library = ctypes.CDLL(None)
    if library is None or not all(library.mallopt(*pair) for pair in (_MMAP, _NEVER)):
        yield
        return
    try:
        yield
    finally:
        library.mallopt(*_TRIM)
        library.malloc_trim(0)
