"""Small tensors of the host on an accelerator, without waiting for it."""

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
