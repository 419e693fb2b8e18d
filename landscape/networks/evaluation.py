"""Several points of a risk at once: ways to evaluate them, and which of them fits."""

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from landscape.networks import batches as data_batches
from landscape.networks import chain_rule, grouped
from landscape.networks.batches import Batch
from landscape.networks.data import Data
from landscape.networks.grouped import Groups
from landscape.networks.recomputation import unchecked
from landscape.networks.stacked import Stack, losses, members_together, outputs
from landscape.networks.weights import Weights

Evaluation = Literal["auto", "stacked", "grouped", "vmap", "sequential"]

_SEQUENTIAL_ON_CPU = (
    nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
_LARGE = 1_000_000
_PROBED = 32  # samples on which ways to evaluate are compared


class Together:
    """The terms of a risk at several points at once.

    Args:
        chain: what the network is, if it is a chain.
        kept: whether the batches stay in memory.

    Attributes:
        way: how points are evaluated.
    """

    def __init__(self, chain: Stack | Groups | None, kept: bool, way: Evaluation = "sequential"):
        self.chain, self.kept, self.way = chain, kept, way
        self._features: dict[tuple[int, torch.dtype], Tensor] = {}

    def emptied(self, kept: bool) -> "Together":
        """The same for other data."""
        return Together(self.chain, kept, self.way)

    def rows(
        self, weights: Weights, rows: Tensor, index: int, batch: Batch, share: float
    ) -> Tensor:
        """The term of a batch at points (n, p)."""
        if weights.idle(share):
            return rows.new_zeros(len(rows))
        if len(rows) == 1 and self.way != "stacked":
            # A view of all has a gradient without a copy; that of a row begins as zeros.
            return weights.term(rows.reshape(-1), batch, share).reshape(1)
        if self.way == "sequential":
            return torch.stack([weights.term(row, batch, share) for row in rows])
        if self.way == "vmap":
            with unchecked():
                return torch.func.vmap(lambda row: weights.term(row, batch, share))(rows)
        features, target = self.features(index, batch, rows.dtype)
        forward = weights.forward
        tensors = forward.layout.unflatten(rows)
        if isinstance(self.chain, Groups):
            fixed = forward.fixed(rows.dtype)
            tensors |= {name: t.expand(len(rows), *t.shape) for name, t in fixed.items()}
            frozen = forward.model.statistics == "frozen"
            with forward.mixed():
                output = grouped.outputs(self.chain, tensors, features, frozen=frozen)
        else:
            with forward.mixed():
                output = outputs(self.chain, tensors, features)  # type: ignore[arg-type]
        return stacked_share(weights, forward.widened(output), target, share)

    def members(self, samples: int, *, twice: bool = False) -> int:
        """How many points are best evaluated together on a batch of so many samples.

        Args:
            samples: in the batch.
            twice: whether they are differentiated twice.
        """
        if isinstance(self.chain, Groups) and self.way == "grouped":
            return grouped.members_together(self.chain, samples, twice=twice)
        if isinstance(self.chain, Stack) and self.way == "stacked":
            return members_together(self.chain, samples)
        return 64 if self.way == "vmap" else 1

    def slopes(
        self, weights: Weights, rows: Tensor, index: int, batch: Batch, share: float
    ) -> tuple[Tensor, Tensor] | None:
        """The term of a batch at points (n, p) and its gradient; None where autograd has to."""
        forward, chain = weights.forward, self.chain
        if self.way != "stacked" or weights.idle(share) or not isinstance(chain, Stack):
            return None
        if forward.autocast is not None:
            return None
        if not chain_rule.suits(chain, forward.loss, rows, batch.target):
            return None
        features, target = self.features(index, batch, rows.dtype)
        value, grad = chain_rule.slopes(chain, forward.layout, rows, features, target)
        return (value, grad) if share == 1.0 else (value * share, grad.mul_(share))

    def features(self, index: int, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Any]:
        """Inputs as the chain wants them, and the target, kept for batches that stay in memory.

        That is (inputs, samples) contiguous, or images with channels last.
        """
        inputs, target, _ = data_batches.cast(batch, dtype)
        if (index, dtype) in self._features:
            return self._features[index, dtype], target
        images = isinstance(self.chain, Groups)
        features = grouped.arranged(inputs) if images else inputs.flatten(1).T.contiguous()
        if self.kept:
            self._features[index, dtype] = features
        return features, target


def stacked_share(weights: Weights, output: Tensor, target: Any, share: float) -> Tensor:
    """A batch's part of the risk, from the outputs of several members."""
    if weights.idle(share):
        return output.new_zeros(len(output))
    forward = weights.forward
    own = forward.own_of_loss(output.dtype) if forward.model.loss is not None else {}
    if not own:
        return weights.scaled(losses(forward.loss, output, target), share)
    with forward.model.given(own):
        return weights.scaled(losses(forward.loss, output, target), share)


def chosen(
    weights: Weights, data: Data, chain: Stack | Groups | None, wanted: Evaluation
) -> Evaluation:
    """The way to evaluate several points. On a CPU, vmapped convolutions lose to a loop.

    Args:
        weights: of the risk.
        data: ways are compared on a batch of them.
        chain: what the network is, if it is a chain.
        wanted: a way, or ``"auto"``.

    Raises:
        ValueError: if the wanted way does not exist or does not fit the model.
    """
    if wanted not in get_args(Evaluation):
        *others, last = get_args(Evaluation)
        raise ValueError(f"evaluation must be {', '.join(others)} or {last}, got {wanted!r}")
    if wanted == "grouped" and not isinstance(chain, Groups):
        raise ValueError(
            "evaluation='grouped' needs a chain of convolutions, BatchNorm, pooling and "
            "activations, then Flatten and linear layers, and images (samples, channels, height, "
            "width)"
        )
    if wanted == "stacked" and not isinstance(chain, Stack):
        raise ValueError(
            "evaluation='stacked' needs a chain of linear layers and activations, and inputs "
            "(samples, features)"
        )
    if wanted != "auto":
        return wanted
    forward = weights.forward
    heavy = forward.layout.dim > _LARGE or any(
        isinstance(module, _SEQUENTIAL_ON_CPU) for module in forward.model.modules()
    )
    apart = forward.random or forward.graphed or forward.live
    if apart:
        return "sequential"
    choices: list[Evaluation] = ["stacked"] if isinstance(chain, Stack) else []
    if not (heavy and forward.device.type == "cpu"):
        choices.append("vmap")
    elif isinstance(chain, Groups) and grouped.members_together(chain, 1) > 1:
        choices.append("grouped")
    for choice in choices:
        batch, share = next((b, s) for b, s in weights.shared(data) if s != 0)
        if _agrees(weights, batch, share, Together(chain, False, choice)):
            return choice
    return "sequential"


def _agrees(weights: Weights, batch: Batch, share: float, together: Together) -> bool:
    """Whether two points at once have the values and gradients of each alone.

    A loss that calls .item() does not go through at all; one that reads the model's parameters
    goes through, and sees those of another point.
    """
    batch = data_batches.few(batch, _PROBED)
    z = weights.forward.point()
    shift = 0.05 * torch.linalg.vector_norm(z, ord=1) / len(z) + 1e-3
    with torch.inference_mode(False), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        leaf = z.repeat(2, 1)
        leaf[0] += shift
        leaf[1] -= 0.5 * shift
        leaf.requires_grad_()
        try:
            # An operation without a batching rule falls back to a loop, and warns of it.
            warnings.filterwarnings("error", message="There is a performance drop")
            found = together.rows(weights, leaf, -1, batch, share)
            slopes = _slope(found, leaf)
        except (RuntimeError, TypeError, ValueError, UserWarning, AttributeError):
            return False
        warnings.simplefilter("ignore")
        for value, slope, point in zip(found.detach(), slopes, leaf.detach(), strict=True):
            # One point after another, since those of large networks are large.
            row = point.requires_grad_()
            alone = weights.term(row, batch, share)
            if not (_near(value, alone.detach()) and _near(slope, _slope(alone, row))):
                return False
    return True


def _near(found: Tensor, expected: Tensor) -> bool:
    close = torch.finfo(found.dtype).eps ** 0.5 * 4
    largest = float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, expected, rtol=close, atol=close * largest, equal_nan=True)


def _slope(values: Tensor, leaf: Tensor) -> Tensor:
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (slope,) = torch.autograd.grad(values.sum(), leaf, materialize_grads=True)
    return slope
