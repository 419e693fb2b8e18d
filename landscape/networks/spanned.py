"""A stack of linear layers at many points in the span of a few vectors, and its gradient by those.

The first layer of a point is the same combination of the first layers of the basis as the point is
of the basis. Where there are more points than vectors, that saves most of its products, forward and
backward; it is most of a network whose inputs are many.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.networks.stacked import Dense, Stack, combined, first_layer, later_layers

Weigh = Callable[[Tensor], Tensor]
# Bytes of activations that one graph may hold.
_BYTES = 2**29


class Spanned:
    """The terms of a risk on a stack, as functions of a basis.

    Args:
        stack: the chain.
        layout: of the vectors.
        batches: (features, target, share) of every batch.
        scaled: gives a batch's part of the risk from the outputs, the target and the share.
    """

    def __init__(
        self,
        stack: Stack,
        layout: Any,
        batches: list[tuple[Tensor, Any, float]],
        scaled: Callable[[Tensor, Any, float], Tensor],
    ):
        self._stack, self._layout = stack, layout
        self._batches, self._scaled = batches, scaled

    def slopes(
        self, basis: Float[Tensor, "k p"], coefficients: Float[Tensor, "n k"], weigh: Weigh
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "k p"]]:
        """The values at ``coefficients @ basis``, and the gradient of their sum by the basis.

        Args:
            basis: the vectors.
            coefficients: of the points.
            weigh: gives from the values the weight of each in the sum.
        """
        tensors = self._layout.unflatten(basis.detach())
        later = [step for step in self._stack.steps[1:] if isinstance(step, Dense)]
        names = [name for step in later for name in step if name is not None]
        slope = torch.zeros_like(basis)
        found = self._layout.unflatten(slope)
        firsts = [first_layer(self._stack, tensors, features) for features, *_ in self._batches]
        pieces = self._pieces(coefficients)
        alone = len(pieces) == len(self._batches) == 1
        values, weights = coefficients.new_zeros(len(coefficients)), None
        if not alone:
            with torch.no_grad():
                values = self._values(tensors, names, firsts, pieces)
            weights = weigh(values)
        for (features, target, share), first in zip(self._batches, firsts, strict=True):
            with torch.enable_grad():
                leaf = first.requires_grad_()
                rest = {name: tensors[name].clone().requires_grad_() for name in names}
                start = 0
                for piece in pieces:
                    loss = self._share(rest, leaf, piece, target, share)
                    if weights is None:
                        values, weights = loss.detach(), weigh(loss.detach())
                    if loss.requires_grad:
                        loss.backward(weights[start : start + len(piece)])
                    start += len(piece)
            if leaf.grad is not None:
                for name, tensor in rest.items():
                    found[name] += tensor.grad
                self._first(found, leaf.grad, features)
        return values, slope

    def _values(
        self, tensors: dict[str, Tensor], names: list[str], firsts: list[Tensor], pieces: Any
    ) -> Tensor:
        rest = {name: tensors[name] for name in names}
        totals = [
            sum(
                self._share(rest, first, piece, target, share)
                for (_, target, share), first in zip(self._batches, firsts, strict=True)
            )
            for piece in pieces
        ]
        return torch.cat(totals)  # type: ignore[arg-type]

    def _share(
        self, rest: dict[str, Tensor], first: Tensor, piece: Tensor, target: Any, share: float
    ) -> Tensor:
        """A batch's part of the risk at some points."""
        mixed = {name: combined(tensor, piece) for name, tensor in rest.items()}
        output = later_layers(self._stack, mixed, combined(first, piece), once=True)
        return self._scaled(output, target, share)

    def _first(self, found: dict[str, Tensor], slope: Any, features: Tensor) -> None:
        """Adds the slope of the first layer's output to those of its tensors."""
        first: Any = self._stack.steps[0]
        product = slope.flatten(0, 1) @ features.T
        found[first.weight] += product.view_as(found[first.weight])
        if first.bias is not None:
            found[first.bias] += slope.sum(-1)

    def _pieces(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        samples = max(features.shape[1] for features, *_ in self._batches)
        layers = 2 * sum(isinstance(step, Dense) for step in self._stack.steps)
        each = coefficients.element_size() * self._stack.widest * samples * layers
        return coefficients.split(max(1, _BYTES // each))
