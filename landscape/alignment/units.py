"""Numbers that stand for units, and which of them are one: a union-find over arrays."""

import numpy as np
import torch
from torch import Tensor

FREE, FIXED = 0, 1
"""What has no unit, such as a padded zero, and what may not move, such as the outputs."""


class Units:
    """Units that tensors bring in, axis by axis, and that operations join.

    Attributes:
        axes: the units along an axis of a tensor, by the tensor's name and the axis.
    """

    def __init__(self) -> None:
        self.axes: dict[tuple[str, int], Tensor] = {}
        self._above = [FREE, FIXED]

    def along(self, name: str, axis: int, size: int) -> Tensor:
        """The units (size,) along an axis of a tensor, new at the first time."""
        if (name, axis) not in self.axes:
            first = len(self._above)
            self._above += range(first, first + size)
            self.axes[name, axis] = torch.arange(first, first + size, device="cpu")
        return self.axes[name, axis]

    def join(self, one: Tensor, other: Tensor) -> Tensor:
        """The units of both, which are one from now on, pair by pair; shapes are broadcast."""
        one, other = torch.broadcast_tensors(one, other)
        # As one number: pairs of rows are sorted ten times as slowly.
        count = len(self._above)
        for pair in (one * count + other).unique().tolist():
            left, right = divmod(pair, count)
            if FREE not in (left, right):
                self._joined(left, right)
        return torch.where(one == FREE, other, one)

    def merge(self, units: Tensor, axes: tuple[int, ...]) -> Tensor:
        """The units with all that differ along some axes made one, without these axes."""
        kept = [axis for axis in range(units.ndim) if axis % units.ndim not in axes]
        rows = units.permute(*kept, *axes).reshape(*(units.shape[k] for k in kept), -1)
        found = rows.max(-1).values  # free ones are the lowest
        self.join(rows, found.unsqueeze(-1))
        return found

    def fix(self, units: Tensor) -> None:
        """None of them may move."""
        self.join(units, torch.tensor(FIXED, device="cpu"))

    def root(self, unit: int) -> int:
        """The one that stands for all that are one with it; `FIXED` for what may not move."""
        above = self._above
        while above[unit] != unit:
            above[unit] = unit = above[above[unit]]
        return unit

    def places(self) -> dict[int, dict[tuple[str, int], list[int]]]:
        """Where each unit that may move lies: of every axis of a tensor, which indices."""
        found: dict[int, dict[tuple[str, int], list[int]]] = {}
        for key, units in self.axes.items():
            for index, unit in enumerate(units.tolist()):
                root = self.root(unit)
                if root != FIXED:
                    found.setdefault(root, {}).setdefault(key, []).append(index)
        return found

    def _joined(self, one: int, other: int) -> None:
        one, other = sorted((self.root(one), self.root(other)))
        self._above[other] = one


def constant_along(values: Tensor, axis: int) -> bool:
    """Whether a tensor is the same everywhere along an axis."""
    return values.shape[axis] == 1 or bool((values == values.narrow(axis, 0, 1)).all())


def varied(units: Tensor, constant: Tensor) -> bool:
    """Whether a constant differs between units: along an axis along which units differ."""
    shape = np.broadcast_shapes(tuple(units.shape), tuple(constant.shape))
    units, constant = units.expand(shape), constant.expand(shape)
    return any(
        not constant_along(units, axis) and not constant_along(constant, axis)
        for axis in range(len(shape))
    )
