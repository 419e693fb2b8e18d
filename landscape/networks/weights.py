"""What batches weigh in a risk, and the part of it that each of them is."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from landscape.networks.batches import Batch
from landscape.networks.data import Data
from landscape.networks.forward import Forward
from landscape.networks.losses import Known
from landscape.networks.network import twin_of


class Weights:
    """What the loss of every batch is multiplied by; nothing is weighed until `weigh`.

    Args:
        forward: the loss of a batch.
        known: that loss, where it is one of torch's own.

    Attributes:
        each: the weight of every batch; None where they are weighed when they are asked for.
        total: of the weights, where the loss gives (sum, weight) and there are several batches.
    """

    def __init__(self, forward: Forward, known: Known | None):
        self.forward, self.known = forward, known
        self.each: list[float] | None = None
        self.total: float | None = None
        self._masked = False

    def changed(self, forward: Forward) -> "Weights":
        """The same weights of another forward pass."""
        twin = twin_of(self)
        twin.forward = forward
        return twin

    def unweighed(self, forward: Forward) -> "Weights":
        """The same for batches of which each stands for the whole, as mini-batches do."""
        twin = self.changed(forward)
        twin.each = twin.total = None
        return twin

    def weigh(self, data: Data) -> "Weights":
        """Weighs every batch; the sum of the weights is kept where the loss gives (sum, weight).

        Raises:
            ValueError: if nothing has a weight.
        """
        self.each = self.weights_of(data)
        total = sum(self.each)
        if self.known is not None and not total > 0:
            # Every label is ignored: the loss is what torch makes of that, not a number.
            self.each = [float(batch.samples) for batch in data.batches]
            total = float(data.samples)
        if not (total > 0 and all(weight >= 0 for weight in self.each)):
            raise ValueError(f"the loss's weights must have a positive sum, got {total}")
        # The quotient of a single batch is taken as it is, whatever its weight depends on.
        self.total = total if self.forward.paired and len(self.each) > 1 else None
        self._masked = self.known is not None and any(map(self.known.masks, data.batches))
        return self

    def of(self, batch: Batch) -> float:
        """What a batch weighs: its samples, its labels, or what the loss says."""
        if self.known is not None:
            return self.known.weight(None, batch.target, batch.samples)
        if self.total is None and not self.forward.paired:
            return float(batch.samples)
        loss = self.forward.tried(batch)
        return float(loss[1]) if isinstance(loss, tuple) else float(batch.samples)

    def weights_of(self, data: Data) -> list[float]:
        """What every batch weighs."""
        # Inputs are prepared only where the loss is evaluated to know the weight.
        return [self.of(batch) for batch in (data if self.forward.paired else data.batches)]

    def shared(self, data: Data) -> Iterator[tuple[Batch, float]]:
        """Every batch with what its mean loss is multiplied by."""
        if self.each is None:
            for batch in data:
                # 0 for a mini-batch in which nothing has a weight.
                yield batch, 0.0 if self._masked and self.of(batch) == 0 else 1.0
            return
        added = self.known is not None and self.known.added
        total = sum(self.each)
        for batch, weight in zip(data, self.each, strict=True):
            yield batch, 1.0 if added else weight / total

    def idle(self, share: float) -> bool:
        """Whether a batch of that share has no part in the risk."""
        return share == 0.0 and self.total is None

    def scaled(self, loss: Any, share: float) -> Tensor:
        """A batch's part of the risk, from its mean loss or from its (sum, weight)."""
        if isinstance(loss, tuple):
            total, weight = loss
            if self.total is not None:
                return total / self.total
            if isinstance(weight, Tensor):
                return total / weight.where(weight != 0, torch.ones_like(weight))
            return total / (weight or 1)
        return loss if share == 1.0 else loss * share

    def term(self, z: Tensor, batch: Batch, share: float) -> Tensor:
        """A batch's part of the risk at z."""
        if self.idle(share):
            return z.new_zeros(())
        forward = self.forward
        if forward.graphed and not torch.is_grad_enabled():
            with torch.enable_grad():
                return self.term(z, batch, share).detach()
        batch = forward.prepared(batch, z.dtype)
        with forward.given(z):
            return self.scaled(forward.batch_loss(batch), share)
