"""Weight decay of weights alone, and not of biases and the scales of norms."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from cnognp.method import Info, Method
from landscape.devices import sent
from landscape.objective import Objective, offered


@dataclass(frozen=True)
class SelectiveDecay:
    """A method whose decay shrinks tensors of more than one axis alone.

    Biases, and the scales and shifts of norms, have one axis. The state is that of the method.

    Args:
        base: what does the step, and has ``weight_decay``.
    """

    base: Method

    def init(self, objective: Objective, z: torch.Tensor) -> Any:
        return self.base.init(objective, z)

    def step(
        self, objective: Objective, state: Any, generator: torch.Generator
    ) -> tuple[Any, Info]:
        """As that of the method.

        Raises:
            ValueError: if the objective knows no tensors.
        """
        layout = offered(objective, "layout")
        if layout is None:
            raise ValueError("decay_of='weights' needs an objective with a layout, a network's")
        z = state.position
        marks = [float(len(entry.shape) > 1) for entry in layout.entries]
        share = layout.spread(sent(torch.tensor(marks, dtype=z.dtype, device="cpu"), z.device))
        method: Any = copy.copy(self.base)
        # A share of what is in range is; to look again at every number would wait for the device.
        object.__setattr__(method, "weight_decay", method.weight_decay * share)
        return method.step(objective, state, generator)
