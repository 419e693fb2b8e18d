"""What a batch weighs in the mean over all samples: torch's own losses, known by their formulas.

The mean of torch's cross-entropy is over the labels that are not ignored, each with the weight of
its class; that of most others over the entries of the target, or over the samples. ``sum`` adds up.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.networks.batches import Batch

Over = Literal["labels", "entries", "samples"]

# What the mean of each function of torch is over.
_FUNCTIONS: Mapping[Callable[..., Any], Over] = MappingProxyType({
    F.cross_entropy: "labels",
    F.nll_loss: "labels",
    F.mse_loss: "entries",
    F.l1_loss: "entries",
    F.smooth_l1_loss: "entries",
    F.huber_loss: "entries",
    F.binary_cross_entropy: "entries",
    F.binary_cross_entropy_with_logits: "entries",
    F.poisson_nll_loss: "entries",
    F.soft_margin_loss: "entries",
    F.kl_div: "entries",
    F.hinge_embedding_loss: "entries",
    F.multi_margin_loss: "samples",
    F.multilabel_margin_loss: "samples",
    F.multilabel_soft_margin_loss: "samples",
})
_MODULES: Mapping[type, Callable[..., Any]] = MappingProxyType({
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.KLDivLoss: F.kl_div,
    nn.HingeEmbeddingLoss: F.hinge_embedding_loss,
    nn.MultiMarginLoss: F.multi_margin_loss,
    nn.MultiLabelMarginLoss: F.multilabel_margin_loss,
    nn.MultiLabelSoftMarginLoss: F.multilabel_soft_margin_loss,
})


class Known(NamedTuple):
    """A loss of torch, as (sum, weight).

    Attributes:
        over: what its mean is over.
        added: whether it adds up instead of taking the mean.
        loss: as it was given; its tensors are read when it is used.
    """

    over: Over
    added: bool
    loss: Any

    def option(self, name: str, default: Any = None) -> Any:
        """What a keyword of the loss is now."""
        if isinstance(self.loss, nn.Module):
            return getattr(self.loss, name, default)
        if isinstance(self.loss, functools.partial):
            return self.loss.keywords.get(name, default)
        return default

    @property
    def weighs_classes(self) -> bool:
        """Whether the labels have weights that depend on their class."""
        return self.over == "labels" and self.option("weight") is not None

    def label_weights(self, target: Tensor) -> Tensor | None:
        """The weight of every label, 0 where it is ignored; None if targets are probabilities."""
        if self.over != "labels" or target.is_floating_point():
            return None
        kept = target != self.option("ignore_index", -100)
        weight = self.option("weight")
        if weight is None:
            return kept.to(torch.float64)
        return torch.where(kept, weight.double()[target.where(kept, torch.zeros_like(target))], 0.0)

    def summed(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of a cross-entropy over its labels, and their weight; 0 if all are ignored."""
        weights = self.label_weights(target)
        assert weights is not None
        function = _function(self.loss)
        names = ("weight", "ignore_index", "label_smoothing")
        given = {name: self.option(name) for name in names[: 2 if function is F.nll_loss else 3]}
        keywords = {name: value for name, value in given.items() if value is not None}
        return function(output, target, reduction="sum", **keywords), weights.sum().to(output)

    def masks(self, batch: Batch) -> bool:
        """Whether some label of a batch has no weight."""
        if self.over != "labels" or self.added or not isinstance(batch.target, Tensor):
            return False
        weights = self.label_weights(batch.target)
        return weights is not None and bool((weights == 0).any())

    def weight(self, output: Any, target: Any, samples: int) -> float:
        """What a batch weighs: the denominator of its mean."""
        if not isinstance(target, Tensor) or self.over == "samples":
            return float(samples)
        found = self.label_weights(target)
        if found is not None:
            return float(found.sum())
        entries = target.numel()
        if isinstance(output, Tensor):
            entries = max(entries, output.numel())
        if self.over == "labels" and isinstance(output, Tensor):
            return float(entries // output.shape[1 if output.ndim > 1 else 0])
        return float(samples if self.option("reduction") == "batchmean" else entries)


def _function(loss: Any) -> Any:
    """The function of torch behind a loss, or whatever it is."""
    if isinstance(loss, nn.Module):
        return _MODULES.get(type(loss))
    return loss.func if isinstance(loss, functools.partial) else loss


def known(loss: Any) -> Known | None:
    """The loss as a `Known` one, or None if it is the user's own.

    >>> known(torch.nn.functional.mse_loss).over
    'entries'
    """
    function = _function(loss)
    if isinstance(loss, functools.partial) and (
        loss.args or {"size_average", "reduce"} & set(loss.keywords)
    ):
        return None
    try:
        over = _FUNCTIONS.get(function)  # type: ignore[arg-type]
    except TypeError:
        return None
    if over is None:
        return None
    found = Known(over, False, loss)
    reduction = found.option("reduction", "mean")
    if reduction not in ("mean", "sum", "batchmean"):
        return None
    return found._replace(added=reduction == "sum")
