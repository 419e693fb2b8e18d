"""Where members of a population live, and how many of them are evaluated together."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from cnognp.method import norms, traits_of
from landscape.devices import free_memory
from landscape.objective import Objective, offered, value, value_and_grad

Home = Literal["auto", "device", "host", "files"]
LARGE = 1 << 28
"""Bytes of all members from which on these do not live on the device by themselves."""
_COPIES = 8  # of all members that a step on a device may need
_ROWS = 1 << 24  # numbers of all members from which on these are evaluated one after another


def home_of(home: Home, method: Any, size: int, device: torch.device) -> Home:
    """Where members live: ``auto`` is the device, or the host where they are large.

    Those of a swarm are large from `LARGE` bytes on. Those of other methods are, too, where the
    device is the host, whose memory is saved; on an accelerator they stay as long as they fit.

    Args:
        home: what is asked for.
        method: how they move.
        size: bytes of all members.
        device: that they visit.
    """
    if home != "auto":
        return home
    if size < LARGE or not apart(method):
        return "device"
    free = 0 if device.type == "cpu" else free_memory(device)
    return "host" if hasattr(method, "leader") or _COPIES * size > free else "device"


def apart(method: Any) -> bool:
    """Whether the members of a method can move a few at a time, as they do together."""
    return getattr(method, "apart", not traits_of(method).couples)


def blocks(objective: Objective, members: int, most: int = 0) -> Iterator[slice]:
    """The members in order, cut as the objective evaluates them together; else one by one.

    Args:
        objective: what is evaluated.
        members: how many there are.
        most: of them in a block; 0 for the objective's own choice.
    """
    size = offered(objective, "chunk") or 1
    size = min(size, most) if most else size
    return (slice(k, min(k + size, members)) for k in range(0, members, size))


def measured(
    objective: Objective, z: Tensor, device: torch.device, gradient: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Loss, and norm of the gradient where it is wanted, (n,) each, at points that live anywhere.

    There need be room for the gradients of a few of them only.

    Args:
        objective: what is evaluated.
        z: (n, p).
        device: where.
        gradient: whether it is wanted.
    """
    together = z.device == device and (z.numel() <= _ROWS or not offered(objective, "chunk"))
    cut = [slice(0, len(z))] if together else blocks(objective, len(z))
    losses, lengths = [], []
    for block in cut:
        rows = z[block].to(device)
        if not gradient:
            losses.append(value(objective, rows))
            continue
        loss, grad = value_and_grad(objective, rows)
        losses.append(loss)
        lengths.append(norms(grad))
    return torch.cat(losses), torch.cat(lengths) if gradient else None
