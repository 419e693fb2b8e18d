r"""A network that moves from point to point: one working copy of its weights, updated in place.

Convolutions run with channels last on a CPU. BatchNorm with frozen statistics is folded into the
convolution before it: conv followed by norm is the convolution with weight :math:`s W` and bias
:math:`s (b - \mu) + \beta`, where :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`. Weights move, so
that this is computed anew at every point; it costs as much as reading the weights once.
"""

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch
from landscape.networks.layout import Layout
from landscape.networks.network import Network, called, is_batchnorm

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LOADED_TOGETHER = 16
_TOGETHER = 64  # samples
# glibc gives freed memory back to the system beyond twice the largest block that it ever freed, of
# blocks up to this size. Activations would then come in fresh pages at every layer of every point.
_KEPT_BYTES = 2**25 - 2**16

Scaled = Callable[[Any, Any, float], Tensor]


class _Fold(NamedTuple):
    """A convolution, the BatchNorm after it, one over its deviation, and if the bias is ours."""

    layer: Any
    norm: Any
    inverse: Tensor
    added: bool


class _Slot(NamedTuple):
    """A tensor of the working copy, its numbers at the origin, and along each direction."""

    tensor: Tensor
    origin: Tensor
    directions: tuple[Tensor, ...]


class InPlace:
    """A risk along a few directions, evaluated point by point on one working copy of the network.

    Beside the origin and the directions, which are not copied, it takes memory for one more set of
    weights, however many points there are.

    Args:
        network: its module is copied, and must write to none of its tensors.
        constants: frozen parameters and buffers by name.
        layout: of the vectors.
        origin: (p,), the point at t = 0.
        directions: vectors (p,).
        weighed: gives every batch of the data with its share of the risk.
        scaled: gives a batch's part of the risk from the output, the target and the share.
        fold: fold BatchNorm into convolutions where the module traces.
        keep: keep the batches as the network wants them, where they stay in memory.

    Raises:
        RuntimeError, TypeError: if the module cannot be copied.

    Attributes:
        name: ``"folded"``, or ``"in-place"`` where nothing could be folded.
        chunk: how many points see a batch before the next batch is fetched.
    """

    def __init__(
        self,
        network: Network,
        constants: dict[str, Tensor],
        layout: Layout,
        origin: Tensor,
        directions: Sequence[Tensor],
        weighed: Callable[[], Iterator[tuple[Batch, float]]],
        scaled: Scaled,
        *,
        fold: bool = True,
        keep: bool = True,
    ):
        working = copy.deepcopy(network.module).requires_grad_(False).to(origin.dtype)
        for module in working.modules():
            if network.mode == "eval" or is_batchnorm(module):
                module.training = network.mode == "given" and network.statistics == "batch"
        known = dict(working.named_parameters()) | dict(working.named_buffers())
        for name, tensor in constants.items():
            if name in known:
                known[name].copy_(tensor)
        self.module, self._folds = folded(working) if fold else (working, [])
        self.name = "folded" if self._folds else "in-place"
        self._last = _channels_last(working) if origin.device.type == "cpu" else False
        if origin.device.type == "cpu":
            keep_freed()
        self._slots = _slots(known, layout, origin, directions)
        moving = {id(slot.tensor) for slot in self._slots}
        self._slots += [
            _Slot(tensor, tensor.clone(), ())
            for layer, _, _, added in self._folds
            for tensor in ([layer.weight] if added else [layer.weight, layer.bias])
            if id(tensor) not in moving
        ]
        self._dtype = origin.dtype
        self._at: tuple[float, ...] | None = None
        self._weighed, self._scaled, self._keep = weighed, scaled, keep
        self._resident: dict[int, Batch] = {}
        self.chunk = 1 if keep else _LOADED_TOGETHER

    def terms(self, t: Float[np.ndarray, "n k"]) -> Iterator[Float[Tensor, " n"]]:
        """The share of every batch at the points with coordinates ``t``."""
        for index, (batch, share) in enumerate(self._weighed()):
            inputs, target, _ = self._prepared(index, batch)
            yield torch.stack([self._loss(tuple(row), inputs, target, share) for row in t.tolist()])

    def _loss(self, t: tuple[float, ...], inputs: Any, target: Any, share: float) -> Tensor:
        if share == 0.0:
            return next(iter(self._slots)).origin.new_zeros(())
        self._move(t)
        return self._scaled(self._output(inputs), target, share)

    def _output(self, inputs: Any) -> Any:
        """The network's output; of many samples in parts, whose activations stay in the cache.

        Only where nothing but a foreign operation could mix samples; who checks the losses against
        those of the whole batch finds it.
        """
        if self._folds and self._last and isinstance(inputs, Tensor) and len(inputs) > _TOGETHER:
            parts = [self.module(part) for part in inputs.split(_TOGETHER)]
            if all(isinstance(part, Tensor) and part.ndim > 0 for part in parts):
                return torch.cat(parts)
        return called(self.module, inputs)

    def _move(self, t: tuple[float, ...]) -> None:
        if t == self._at:
            return
        self._at = None
        for tensor, origin, directions in self._slots:
            if not directions:
                tensor.copy_(origin)
                continue
            torch.add(origin, directions[0], alpha=t[0], out=tensor)
            for step, direction in zip(t[1:], directions[1:], strict=True):
                tensor.add_(direction, alpha=step)
        for fold in self._folds:
            _fold(*fold)
        self._at = t

    def _prepared(self, index: int, batch: Batch) -> Batch:
        """The batch as the network wants it, kept where the batches stay in memory."""
        if index in self._resident:
            return self._resident[index]
        batch = data_batches.cast(batch, self._dtype)
        if self._last:
            batch = batch._replace(inputs=data_batches.mapped(batch.inputs, _last))
        if self._keep:
            self._resident[index] = batch
        return batch


def keep_freed() -> None:
    """From here on the process keeps the memory of activations that it frees."""
    torch.empty(_KEPT_BYTES, dtype=torch.uint8, device="cpu")


def folded(module: nn.Module) -> tuple[nn.Module, list[_Fold]]:
    """The module without those BatchNorm layers that follow a convolution, and these pairs.

    A pair is found where the module traces by ``torch.fx``, both layers are used once, nobody else
    sees the convolution's output, no tensor is shared and no hook looks at them. Elsewhere, the
    module itself and no pairs. The module's convolutions get a bias where they have none.
    """
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        return module, []
    if not any(type(m) in _NORMS for m in module.modules()):
        return module, []
    tracer = fx.Tracer()
    try:
        traced = fx.GraphModule(module, tracer.trace(module))
    except Exception:  # whatever the caller's forward raises when it meets a proxy
        return module, []
    finally:
        # Tracer and graph are parts of cycles, and would keep all weights until they are collected.
        vars(tracer).clear()
    pairs = list(_pairs(traced))
    for layer_node, norm_node, *_ in pairs:
        norm_node.replace_all_uses_with(layer_node)
        traced.graph.erase_node(norm_node)
    _write_over(traced)
    traced.recompile()
    traced.graph.owning_module = None  # as above
    return (traced, [_opened(layer, norm) for *_, layer, norm in pairs]) if pairs else (module, [])


def _pairs(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node, Any, Any]]:
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    direct = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    owners: dict[int, int] = {}
    for _, tensor in traced.named_parameters(remove_duplicate=False):
        owners[id(tensor)] = owners.get(id(tensor), 0) + 1
    for node in traced.graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, layer = _called(traced, node), _called(traced, before)
        tensors = [*norm.parameters(), *layer.parameters()]
        if (
            type(norm) in _NORMS
            and type(layer) in _CONVOLUTIONS
            and not norm.training
            and norm.running_mean is not None
            and calls.count(node.target) == calls.count(before.target) == 1
            and all(owners[id(tensor)] == 1 for tensor in tensors)
            and not any(
                name.startswith((f"{node.target}.", f"{before.target}.")) for name in direct
            )
        ):
            yield before, node, layer, norm


def _write_over(traced: fx.GraphModule) -> None:
    """Rectifiers then write over the convolution's output or the sum that nobody else sees."""
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or len(before.users) != 1:
            continue
        made = type(_called(traced, before)) in _CONVOLUTIONS
        added = before.op == "call_function" and before.target is operator.add
        if not made and not added:
            continue
        module = type(_called(traced, node)) is nn.ReLU
        function = node.op == "call_function" and node.target in (F.relu, torch.relu)
        if module or function:
            node.op, node.target, node.args, node.kwargs = (
                "call_function", torch.relu_, (before,), {},
            )  # fmt: skip


def _called(traced: fx.GraphModule, node: fx.Node) -> Any:
    """The module that the node calls, or None."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _opened(layer: Any, norm: Any) -> _Fold:
    added = layer.bias is None
    if added:
        empty = torch.zeros_like(norm.running_mean, dtype=layer.weight.dtype)
        layer.bias = nn.Parameter(empty, requires_grad=False)
    return _Fold(layer, norm, torch.rsqrt(norm.running_var + norm.eps), added)


def _fold(layer: Any, norm: Any, inverse: Tensor, added: bool) -> None:
    scale = inverse if norm.weight is None else inverse * norm.weight
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    shift = norm.running_mean if added else norm.running_mean - layer.bias
    before = torch.zeros_like(shift) if norm.bias is None else norm.bias
    torch.addcmul(before, shift, scale, value=-1, out=layer.bias)


def _slots(
    known: dict[str, Tensor], layout: Layout, origin: Tensor, directions: Sequence[Tensor]
) -> list[_Slot]:
    places = layout.unflatten(origin)
    steps = [layout.unflatten(direction) for direction in directions]
    return [
        _Slot(known[name], places[name], tuple(step[name] for step in steps))
        for name in layout.names
    ]


def _channels_last(module: nn.Module) -> bool:
    """Whether the module has two-dimensional convolutions; their weights then lie channels last."""
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    for layer in found:
        for parameter in layer.parameters():
            if parameter.ndim == 4:
                parameter.data = _last(parameter.data)
    return bool(found)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
