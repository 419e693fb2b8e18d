"""What a network puts out at a point, and how the loss bends as a function of that.

The Gauss-Newton matrix, both Fisher matrices and the exact trace are made of these two.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from landscape.networks import Batch, EmpiricalRisk
from landscape.networks import batches as data_batches
from landscape.objective import Objective, Ridge, Sum, ordinary

Bend = Callable[[list[Tensor]], list[Tensor]]


class Outputs(NamedTuple):
    """The network's output for one batch as a function of the point ``leaf``.

    ``tensors`` are those inside ``whole`` that depend on the point; ``share`` is the batch's.
    """

    whole: Any
    tensors: list[Tensor]
    target: Any
    leaf: Tensor
    share: float


def outputs_at(risk: EmpiricalRisk, leaf: Tensor, batch: Batch, share: float = 1.0) -> Outputs:
    """What the network gives for ``batch`` with the parameters ``leaf``.

    Raises:
        ValueError: if the model computes its loss itself.
    """
    batch = risk.prepared(batch, leaf.dtype)
    whole = risk.outputs(leaf, batch)
    tensors = [t for t in data_batches.tensors_of(whole) if t.requires_grad]
    if any(t.ndim == 0 for t in tensors):
        raise ValueError(
            "the model gives a scalar among its outputs, which is a loss and not an output: let it "
            "return the outputs alone, and the loss be a function of them"
        )
    return Outputs(whole, tensors, batch.target, leaf, share)


def check_by_sample(outputs: Outputs, count: int, name: str) -> None:
    """Nothing, if the first axis of every output counts the samples.

    Raises:
        ValueError: if not; single samples cannot be told apart then.
    """
    for tensor in outputs.tensors:
        if len(tensor) != count:
            raise ValueError(
                f"{name} needs outputs whose first axis is the {count} samples, got "
                f"{tuple(tensor.shape)}"
            )


def loss_hessian(risk: EmpiricalRisk, outputs: Outputs) -> Bend:
    """The Hessian of the batch's share of the risk with respect to the outputs, as a product.

    Raises:
        ValueError: if the loss depends on the point past the outputs.
    """
    detached = [t.detach().requires_grad_() for t in outputs.tensors]
    replaced = replacing(outputs, detached)
    loss = risk.scaled(risk.loss_at(outputs.leaf, replaced, outputs.target), outputs.share)
    if not loss.requires_grad:
        return lambda vectors: [torch.zeros_like(v) for v in vectors]
    *slopes, past = torch.autograd.grad(
        loss, [*detached, outputs.leaf], create_graph=True, allow_unused=True
    )
    if past is not None:
        raise ValueError(
            "the loss depends on the parameters past the outputs (a regulariser, or parameters of "
            "its own), which a matrix of the outputs leaves out: add a Ridge to the risk instead, "
            "or use the Hessian"
        )
    slopes = [
        torch.zeros_like(t) if s is None else s for t, s in zip(detached, slopes, strict=True)
    ]
    bent = [place for place, slope in enumerate(slopes) if slope.requires_grad]
    if not bent:
        return lambda vectors: [torch.zeros_like(v) for v in vectors]

    def product(vectors: list[Tensor]) -> list[Tensor]:
        grads = torch.autograd.grad(
            [slopes[i] for i in bent], detached, [vectors[i] for i in bent],
            retain_graph=True, materialize_grads=True,
        )  # fmt: skip
        return list(grads)

    return product


def replacing(outputs: Outputs, tensors: list[Tensor]) -> Any:
    """The whole output with other tensors in the place of those that depend on the point."""
    new = {id(old): t for old, t in zip(outputs.tensors, tensors, strict=True)}
    return data_batches.mapped(outputs.whole, lambda t: new.get(id(t), t))


def separated(objective: Objective) -> tuple[list[Objective], list[Ridge]]:
    """The parts of a sum, however nested: all others, and its ridges."""
    if isinstance(objective, Ridge):
        return [], [objective]
    if not isinstance(objective, Sum):
        return [objective], []
    others, ridges = [], []
    for part in objective.parts:
        inner = separated(part)
        others += inner[0]
        ridges += inner[1]
    return others, ridges


def ridge_diagonal(ridges: list[Ridge], like: Tensor) -> Tensor:
    """(p,) in float64: the diagonal of the Hessian of all ridges together."""
    total = torch.zeros(like.shape, dtype=torch.float64, device="cpu")
    for ridge in ridges:
        total += ridge.weight if ridge.mask is None else ridge.weight * ridge.mask.double().cpu()
    return total


def risks_of(objective: Objective, name: str) -> tuple[list[EmpiricalRisk], list[Ridge]]:
    """The empirical risks and the ridges that an objective consists of.

    Raises:
        TypeError: if there is anything else among its parts, or no risk.
    """
    others, ridges = separated(objective)
    strange = [type(part).__name__ for part in others if not isinstance(part, EmpiricalRisk)]
    if strange or not others:
        found = ", ".join(strange) or "no risk"
        raise TypeError(
            f"{name} needs the loss of a network (EmpiricalRisk, or a Sum of it and Ridge), got "
            f"{found}"
        )
    return [part for part in others if isinstance(part, EmpiricalRisk)], ridges


def fresh_leaf(z: Tensor) -> Tensor:
    """The point as a leaf of a graph."""
    return ordinary(z).requires_grad_()


def sample_losses(
    risk: EmpiricalRisk, outputs: Outputs, count: int
) -> tuple[Tensor, Tensor | None]:
    """(n,) losses of the samples alone, and their weights where the loss has them.

    With weights a loss is the sample's sum; without, it is its mean.
    """
    pair = Batch(outputs.whole, outputs.target, count)
    labelled = (
        risk.known is not None and not risk.known.added and isinstance(outputs.target, Tensor)
        and risk.known.label_weights(outputs.target) is not None
    )  # fmt: skip

    def single(place: Tensor) -> Any:
        alone = data_batches.rows(pair, place.unsqueeze(0), graph=True)
        if labelled:
            with risk.given(outputs.leaf):
                return risk.known.summed(alone.inputs, alone.target)  # type: ignore[union-attr]
        return risk.loss_at(outputs.leaf, alone.inputs, alone.target)

    places = torch.arange(count, device=outputs.leaf.device)
    try:
        with warnings.catch_warnings():
            # An operation without a batching rule falls back to a loop, and warns of it.
            warnings.filterwarnings("error", message="There is a performance drop")
            found = torch.func.vmap(single)(places)
    except (RuntimeError, TypeError, ValueError, UserWarning):
        alone = [single(place) for place in places]
        if not isinstance(alone[0], tuple):
            return torch.stack(alone), None
        weights = [torch.as_tensor(w, device=places.device) for _, w in alone]
        return torch.stack([total for total, _ in alone]), torch.stack(weights).detach()
    if isinstance(found, tuple):
        return found[0], torch.as_tensor(found[1], device=places.device).detach()
    return found, None
