"""Steps of SGD, Adam and AdamW by torch's fused kernels, which pass once over memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from cnognp.methods.adaptive import Adam, AdamW
from cnognp.methods.descent import SGD
from cnognp.torch_optim.flat import Flat

_KINDS = (SGD, Adam, AdamW)
_DEVICES = ("cpu", "cuda")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Fused:
    """A method's state over the flat vector, which is moved together with the parameters in place.

    Args:
        flat: the parameters.
        state: of `SGD`, `Adam` or `AdamW` with one member; copied.
    """

    def __init__(self, flat: Flat, state: Any):
        self._flat = flat
        # The position is in the parameters.
        names = [name for name in state._fields if name not in ("position", "round")]
        vectors = {name: getattr(state, name).clone() for name in names}
        self._state = state._replace(position=None, **vectors)
        self._pieces = [
            [piece.view_as(t) for piece, t in zip(pieces, flat.tensors, strict=True)]
            for pieces in (vector[0].split(flat.layout.sizes) for vector in vectors.values())
        ]
        self._steps = None
        if "round" in state._fields:
            # The kernels count in single precision, where the parameters are.
            self._steps = state.round.to(flat.tensors[0].device, torch.float32)
            self._pieces.append(list(self._steps.unbind()))

    @staticmethod
    def suits(method: Any, flat: Flat) -> bool:
        """Whether there is a kernel for a step of the method on the parameters as they are now."""
        if type(method) not in _KINDS or getattr(method, "decoupled", False):
            return False
        kinds = {t.dtype for t in flat.tensors}
        if len(kinds) > 1 or kinds.pop() not in _TYPES:
            return False
        # Kernels walk through memory as it lies.
        there = flat.tensors[0].device.type in _DEVICES
        return there and all(map(Tensor.is_contiguous, flat.tensors))

    def step(self, method: Any, groups: Sequence[Mapping[str, Any]]) -> None:
        """Moves the parameters that have gradients.

        Args:
            method: what all groups have in common.
            groups: parameter groups, each with its ``lr`` and ``weight_decay``.
        """
        for group, members in self._grouped(groups):
            tensors, *pieces = (
                of if len(members) == len(of) else [of[k] for k in members]
                for of in (self._flat.tensors, *self._pieces)
            )
            grads = [t.grad.contiguous() for t in tensors]  # type: ignore[union-attr]
            lr, decay = float(group["lr"]), float(group["weight_decay"])
            if isinstance(method, SGD):
                sgd(
                    tensors, grads, pieces[0], fused=True, momentum=method.momentum, dampening=0.0,
                    nesterov=method.nesterov, maximize=False, lr=lr, weight_decay=decay,
                )  # type: ignore[arg-type] # fmt: skip
            else:
                mean, square, steps = pieces
                beta1, beta2 = method.betas
                step = adamw if isinstance(method, AdamW) else adam
                step(
                    tensors, grads, mean, square, [], steps, fused=True, amsgrad=False,
                    beta1=beta1, beta2=beta2, eps=method.eps, maximize=False,
                    lr=lr, weight_decay=decay,
                )  # fmt: skip

    def state(self) -> Any:
        """The state as the method has it; its vectors change with the next step."""
        found = self._state._replace(position=self._flat.read().unsqueeze(0))
        if self._steps is None:
            return found
        return found._replace(round=self._steps.to("cpu", torch.int64))

    def _grouped(
        self, groups: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
        """Every group, and which of the flat vector's tensors are in it and have a gradient."""
        start, tensors = 0, self._flat.tensors
        for group in groups:
            stop = start + len([p for p in group["params"] if p.requires_grad])
            members = [k for k in range(start, stop) if tensors[k].grad is not None]
            if members:
                yield group, members
            start = stop
