"""Scores of classifications; a mean over classes is no mean over batches."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cnognp.tasks.task import accuracy, binary_accuracy


class MacroF1:
    r"""The mean over classes of :math:`F_1 = 2 t / (a + p)`.

    Of each class, a samples belong to it, p are predicted, and t of these rightly. Classes that
    neither occur nor are predicted do not count, as in ``sklearn.metrics.f1_score`` with
    ``average="macro"``. It is a function of counts, which add up over batches: a mean of the
    numbers of batches would be another one. Samples whose target is no class are left out.
    """

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The score of one batch."""
        return self.score(self.counts(output, target)).to(output.dtype)

    def counts(self, output: Tensor, target: Tensor) -> Tensor:
        """How many samples each class has, is predicted for, and both: (3, classes).

        Args:
            output: (..., classes), the largest predicts; or logits (n, 1) and (n,) of two classes,
                of which positive ones predict class 1; or (n, classes) beside a target of that
                shape, of which each positive one predicts its class.
            target: (...), the classes as numbers from 0; or (n, classes), 1 for those it has.
        """
        if output.ndim > 1 and output.shape == target.shape:
            has, predicted = target > 0.5, output > 0
            return torch.stack([has, predicted, has & predicted]).flatten(1, -2).sum(1)
        two = output.shape[-1:] == (1,) or (output.ndim == 1 and target.ndim == 1)
        classes = 2 if two else output.shape[-1]
        said = (output.reshape(target.shape) > 0).long() if two else output.argmax(-1)
        known = torch.arange(classes, device=output.device)
        has = target.reshape(-1, 1).to(known) == known
        predicted = (said.reshape(-1, 1) == known) & has.any(-1, keepdim=True)
        counted = torch.stack([has, predicted, has & predicted])
        return counted.sum(1).to(torch.int64)

    def score(self, counts: Tensor) -> Tensor:
        """The score of counts (3, classes), which may be sums over batches."""
        actual, predicted, right = counts.cpu() if counts.device.type == "mps" else counts
        seen = (actual + predicted) > 0
        each = 2 * right.double() / (actual + predicted).clamp_min(1)
        return each.sum() / seen.sum().clamp_min(1)


def exact_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """The share of samples whose logits (n, classes) are positive for their labels alone."""
    return ((output > 0) == (target > 0.5)).all(-1).to(output.dtype).mean()


macro_f1 = MacroF1()

SCORES: Mapping[str, Any] = MappingProxyType({"accuracy": accuracy, "macro_f1": macro_f1})
"""What classifications of several outputs report beside the loss."""
BINARY: Mapping[str, Any] = MappingProxyType({"accuracy": binary_accuracy, "macro_f1": macro_f1})
"""The same of one logit."""
MULTILABEL: Mapping[str, Any] = MappingProxyType({"accuracy": exact_accuracy, "macro_f1": macro_f1})
"""The same where a sample has several labels."""
