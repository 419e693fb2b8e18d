"""Ways to evaluate several points of a risk at once, and which of them fits."""

import warnings
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from landscape.networks import batches as data_batches

if TYPE_CHECKING:
    from landscape.networks.risk import Risk

Evaluation = Literal["auto", "stacked", "vmap", "sequential"]

_SEQUENTIAL_ON_CPU = (
    nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
_LARGE = 1_000_000
_PROBED = 32  # samples on which ways to evaluate are compared


def chosen(risk: "Risk", wanted: Evaluation) -> Evaluation:
    """The way to evaluate several points. On a CPU, vmapped convolutions lose to a loop.

    Raises:
        ValueError: if the wanted way does not exist or does not fit the model.
    """
    if wanted not in ("auto", "stacked", "vmap", "sequential"):
        raise ValueError(f"evaluation must be auto, stacked, vmap or sequential, got {wanted!r}")
    if wanted == "stacked" and risk._stack is None:
        raise ValueError(
            "evaluation='stacked' needs a chain of linear layers and activations, and inputs "
            "(samples, features)"
        )
    if wanted != "auto":
        return wanted
    heavy = risk.dim > _LARGE or any(
        isinstance(module, _SEQUENTIAL_ON_CPU) for module in risk.model.modules()
    )
    apart = risk._random or risk._graphed or risk._live
    if apart or (heavy and risk.device.type == "cpu"):
        return "sequential"
    for choice in ("stacked", "vmap"):
        if (choice == "vmap" or risk._stack is not None) and _agrees(risk, choice):
            return choice  # type: ignore[return-value]
    return "sequential"


def _agrees(risk: "Risk", evaluation: Evaluation) -> bool:
    """Whether two points at once have the values and gradients of each alone.

    A loss that calls .item() does not go through at all; one that reads the model's parameters
    goes through, and sees those of another point.
    """
    batch, share = next((b, s) for b, s in risk.weighed() if s != 0)
    if batch.samples > _PROBED and data_batches.rowwise(batch):
        batch = data_batches.spread(batch, _PROBED)
    z = risk.point()
    shift = 0.05 * z.abs().mean() + 1e-3
    points = torch.stack([z + shift, z - 0.5 * shift])
    risk.evaluation = evaluation
    try:
        with torch.inference_mode(False), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            # An operation without a batching rule falls back to a loop, and warns of it.
            warnings.filterwarnings("error", message="There is a performance drop")
            leaf = points.clone().requires_grad_()
            together = risk._rows(leaf, -1, batch, share)
            slopes = _slope(together, leaf)
    except (RuntimeError, TypeError, ValueError, UserWarning, AttributeError):
        return False
    finally:
        risk._features.clear()
    with torch.inference_mode(False), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        leaf = points.clone().requires_grad_()
        alone = torch.stack([risk._term(row, batch, share) for row in leaf])
        expected = _slope(alone, leaf)
    close = torch.finfo(z.dtype).eps ** 0.5 * 4
    return all(
        torch.allclose(
            a,
            b,
            rtol=close,
            atol=close * float(b.nan_to_num(0, 0, 0).abs().max()),
            equal_nan=True,
        )
        for a, b in ((together.detach(), alone.detach()), (slopes, expected))
    )


def _slope(values: Tensor, leaf: Tensor) -> Tensor:
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (slope,) = torch.autograd.grad(values.sum(), leaf, materialize_grads=True)
    return slope
