"""Optimum shifting: the smallest weights of each layer that give the same outputs on the data."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.networks.risk import Risk
from landscape.objective import value

_LOOSE = 1e3  # times what outputs may move by the cut-off


class Layer(NamedTuple):
    """What became of a layer.

    Attributes:
        name: of its module.
        inputs: length of an input, one more where there is a bias.
        rank: dimensions that the inputs span; where it is ``inputs``, nothing can move.
        before: length of weights and bias.
        after: their length now.
    """

    name: str
    inputs: int
    rank: int
    before: float
    after: float


class Shift(NamedTuple):
    """Another point with the same loss.

    Attributes:
        z: (p,).
        layers: those that were asked for.
        before: the loss where it began.
        after: the loss at z, equal but for rounding.
    """

    z: Tensor
    layers: tuple[Layer, ...]
    before: float
    after: float


def shifted(
    risk: Risk,
    z: Float[Tensor, " p"],
    layers: Sequence[str] | None = None,
    *,
    cutoff: float | None = None,
) -> Shift:
    r"""The point whose layers are as short as can be with all their outputs on the data unchanged.

    Of a layer with inputs :math:`A` (samples by inputs, a column of ones for the bias) and weights
    :math:`V` that is :math:`A^+ A V`, the projection on the row space of :math:`A`. As outputs
    stay, so do the inputs of all layers behind, and all are shifted at once. The loss stays on
    these data only: elsewhere it is another function. Weights move only where the inputs of a layer
    do not span all dimensions, as with few samples or collapsed features.

    Args:
        risk: the data and the network, its BatchNorm statistics frozen.
        z: (p,).
        layers: names of linear layers and convolutions without groups; all of them where None.
        cutoff: singular values of the inputs below this share of the largest count as none; from
            the type of the point where None.

    Raises:
        ValueError: if there is no such layer, or the loss changes, since a weight is used elsewhere
            too or random numbers are drawn.

    Reference: Zhou, Li, Feng & Huang (2024), Optimum Shifting, equation 5.
    """
    modules = _layers(risk, layers)
    triangles = _triangles(risk, z, modules)
    tensors = dict(risk.layout.unflatten(z))
    eps = torch.finfo(z.dtype).eps
    done = []
    for name, module in modules.items():
        rows, count = triangles[name]
        share = 10 * eps * count**0.5 if cutoff is None else cutoff
        weight = tensors[f"{name}.weight"]
        bias = tensors.get(f"{name}.bias") if module.bias is not None else None
        before = weight.reshape(len(weight), -1).T.double()
        if bias is not None:
            before = torch.cat([before, bias.unsqueeze(0).double()])
        _, sizes, span = torch.linalg.svd(rows, full_matrices=False)
        span = span[sizes > share * sizes[0]]
        after = span.T @ (span @ before)
        lengths = (float(torch.linalg.matrix_norm(part)) for part in (before, after))
        done.append(Layer(name, len(before), len(span), *lengths))
        if len(span) == len(before):
            continue
        if bias is not None:
            tensors[f"{name}.bias"] = after[-1].to(bias)
            after = after[:-1]
        tensors[f"{name}.weight"] = after.T.reshape(weight.shape).to(weight)
    moved = risk.layout.flatten(tensors)
    losses = [float(value(risk, point)) for point in (z, moved)]
    most = max(share, eps) * _LOOSE * (abs(losses[0]) + 1)
    if not abs(losses[1] - losses[0]) <= most:
        raise ValueError(
            f"the loss goes from {losses[0]:.7g} to {losses[1]:.7g}: a weight of "
            f"{', '.join(modules)} is used elsewhere too, or the network draws random numbers"
        )
    return Shift(moved, tuple(done), *losses)


def _layers(risk: Risk, wanted: Sequence[str] | None) -> dict[str, Any]:
    """The modules by name, in the order of the network.

    Raises:
        ValueError: if one of the names is not among them.
    """
    own = set(risk.layout.names)
    known = {
        name: module for name, module in risk.model.named_modules()
        if f"{name}.weight" in own
        and (
            type(module) is nn.Linear
            or (
                type(module) in (nn.Conv1d, nn.Conv2d)
                and module.groups == 1 and module.padding_mode == "zeros"
            )
        )
        and (module.bias is None or f"{name}.bias" in own)
    }  # fmt: skip
    strange = [name for name in wanted or () if name not in known]
    if strange or not known:
        raise ValueError(
            f"there is no trained linear layer or convolution without groups {', '.join(strange)}; "
            f"there are {', '.join(known) or 'none'}"
        )
    return known if wanted is None else {name: known[name] for name in known if name in wanted}


def _triangles(risk: Risk, z: Tensor, modules: dict[str, Any]) -> dict[str, tuple[Tensor, int]]:
    """Of each layer a matrix with the row space of its inputs on all data, and how many these are.

    Of more inputs than dimensions the triangle of their QR decomposition, batch by batch.

    Raises:
        ValueError: if a layer is not used.
    """
    found: dict[str, tuple[Tensor, int]] = {}

    def hook(name: str, module: Any, args: tuple[Any, ...]) -> None:
        rows = _rows(module, args[0]).double()
        if module.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        count = len(rows)
        if name in found:
            rows, count = torch.cat([found[name][0], rows]), count + found[name][1]
        if len(rows) > rows.shape[1]:
            rows = torch.linalg.qr(rows, mode="r").R
        found[name] = rows, count

    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: hook(name, m, args))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad(), risk.forward.given(z):
            for batch in risk.data:
                ready = risk.forward.prepared(batch, z.dtype)
                risk.forward.through(risk.model, ready)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in modules if name not in found]:
        raise ValueError(f"{', '.join(missing)}: not used in the forward pass")
    return found


def _rows(module: Any, given: Tensor) -> Tensor:
    """What a layer multiplies its weights with, a row for each sample and place."""
    if isinstance(module, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    flat = isinstance(module, nn.Conv1d)
    given = F.pad(given.unsqueeze(-2) if flat else given, module._reversed_padding_repeated_twice)
    kernel, stride, dilation = (
        (1, *each) if flat else each
        for each in (module.kernel_size, module.stride, module.dilation)
    )
    parts = F.unfold(given, kernel, dilation, 0, stride)
    return parts.transpose(1, 2).reshape(-1, parts.shape[1])
