"""What devices hold, and small tensors of the host on an accelerator without waiting for it."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

# A copy to CUDA has left pageable memory when the call returns, so that its source may be freed;
# other devices do not promise that.
_AHEAD = ("cuda", "meta")


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
