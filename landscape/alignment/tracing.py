"""Units of a network on their way through one pass, operation by operation."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from landscape.alignment.units import FIXED, FREE, Units, constant_along, varied


class Untraceable(ValueError):
    """It is not known how units pass through an operation; names it."""


def traced(model: nn.Module, inputs: tuple[Any, ...]) -> Units:
    """The units of a model's tensors, joined by one pass; those of its outputs may not move.

    Args:
        model: in evaluation mode.
        inputs: its arguments.

    Raises:
        Untraceable: if it is not known how units pass through an operation.
    """
    tracer = Tracer(model)
    with torch.no_grad(), tracer:
        outputs = model(*inputs)
    tracer.fix(outputs)
    return tracer.units


class Tracer(TorchFunctionMode):
    """Follows the units of every tensor, in a tensor of the same shape that holds numbers of units.

    Attributes:
        units: what is one unit.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.units = Units()
        tensors = (*model.named_parameters(), *model.named_buffers())
        self._names = {id(tensor): name for name, tensor in tensors}
        self._moving = {id(p) for p in model.parameters() if p.requires_grad}
        # The tensors are held, so that no other gets the number of one.
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        self._turned: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not any(isinstance(part, Tensor) for part in _flat(result)):
            return result
        if not any(self.has(part) for part in _flat((args, kwargs))):
            return result
        rule = RULES.get(func.__name__)
        if rule is None:
            raise Untraceable(
                f"it is not known how units pass through {func.__name__}: give the groups as a "
                "table, {tensor name: (group or None for each axis)}"
            )
        self._note(result, rule(self, func, result, *args, **kwargs))
        return result

    def has(self, value: Any) -> bool:
        """Whether something is a tensor with units."""
        return isinstance(value, Tensor) and (id(value) in self._held or id(value) in self._moving)

    def of(self, tensor: Any) -> Tensor:
        """The units of a tensor, in its shape; what has none may not move.

        A parameter by itself has units along its last axis of more than one entry.
        """
        if isinstance(tensor, Tensor) and id(tensor) in self._held:
            return self._held[id(tensor)][1]
        if not self.has(tensor):
            shape = tensor.shape if isinstance(tensor, Tensor) else ()
            return torch.full(shape, FIXED, device="cpu")
        long = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        if not long:
            return torch.full(tensor.shape, FREE, device="cpu")
        for axis in long[:-1]:
            self.units.fix(self.axis(tensor, axis))
        return _along(self.axis(tensor, long[-1]), long[-1], tensor)

    def axis(self, tensor: Any, axis: int) -> Tensor:
        """The units along an axis of a parameter or of BatchNorm's statistics.

        Raises:
            Untraceable: if the tensor is computed from others.
        """
        if id(tensor) in self._turned:
            tensor, axis = self._turned[id(tensor)][1], 1 - axis
        name = self._names.get(id(tensor))
        if name is None:
            if isinstance(tensor, Tensor) and not self.has(tensor):
                return torch.full((tensor.shape[axis],), FIXED, device="cpu")
            raise Untraceable(
                "a weight is computed from parameters (weight normalisation, a hypernetwork): "
                "give the groups as a table, {tensor name: (group or None for each axis)}"
            )
        found = self.units.along(name, axis, tensor.shape[axis])
        if isinstance(tensor, nn.Parameter) and id(tensor) not in self._moving:
            self.units.fix(found)
        return found

    def channels(self, tensor: Tensor, axis: int) -> Tensor:
        """The units along an axis, those that differ elsewhere made one."""
        units = self.of(tensor)
        others = tuple(k for k in range(units.ndim) if k != axis % units.ndim)
        return self.units.merge(units, others) if others else units

    def turned(self, result: Tensor, tensor: Tensor) -> None:
        """Notes that a matrix is a parameter the other way round."""
        if id(tensor) in self._names and tensor.ndim == 2:
            self._turned[id(result)] = result, tensor

    def fix(self, outputs: Any) -> None:
        """None of the units of the outputs may move."""
        for part in _flat(outputs):
            if self.has(part):
                self.units.fix(self.of(part))

    def _note(self, result: Any, units: Any) -> None:
        results, found = list(_flat(result)), list(_flat(units))
        for part, its in zip(results, found, strict=False):
            if isinstance(part, Tensor) and isinstance(its, Tensor):
                self._held[id(part)] = part, its.expand(part.shape)


def _flat(value: Any) -> Iterable[Any]:
    """What lists, tuples and dictionaries hold."""
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


Rule = Callable[..., Any]
"""From tracer, function, result and its arguments to the units of the result."""


def _same(tracer: Tracer, func: Any, result: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    return tracer.of(x)


def _shaped(tracer: Tracer, func: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
    """Where entries go, units go."""
    if args and isinstance(args[0], Tensor) and isinstance(result, Tensor):
        swapped = func.__name__ in ("t", "transpose", "swapaxes", "permute", "__get__")
        if swapped and result.shape == args[0].shape[::-1]:
            tracer.turned(result, args[0])

    def exchanged(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(map(exchanged, value))
        if not isinstance(value, Tensor) or (
            not tracer.has(value) and not value.is_floating_point()
        ):
            return value
        if not tracer.has(value) and bool((value == value.flatten()[:1]).all()):
            return torch.full(value.shape, FREE, device="cpu")
        return tracer.of(value).contiguous()

    return func(*map(exchanged, args), **{k: exchanged(v) for k, v in kwargs.items()})


def _padded(
    tracer: Tracer, func: Any, result: Any, x: Tensor, pad: Any, mode: str = "constant",
    value: Any = None,
) -> Tensor:  # fmt: skip
    units = tracer.of(x).double()
    return (func(units, pad, mode) if mode != "constant" else func(units, pad)).long()


def _elementwise(tracer: Tracer, func: Any, result: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    units: Tensor = torch.full((), FREE, device="cpu")
    for each in filter(tracer.has, given):
        units = tracer.units.join(units, tracer.of(each))
    for each in given:
        if not tracer.has(each) and varied(units, each.detach()):
            tracer.units.fix(units)
    return units


def _reduced(
    tracer: Tracer, func: Any, result: Any, x: Tensor, dim: Any = None, keepdim: bool = False,
    **kwargs: Any,
) -> Tensor:  # fmt: skip
    if isinstance(dim, Tensor):
        return _elementwise(tracer, func, result, x, dim)
    dim = kwargs.get("axis", dim)
    units = tracer.of(x)
    axes = tuple(range(units.ndim)) if dim is None else dim
    found = torch.where(units == FREE, torch.iinfo(units.dtype).max, units)
    low, high = found.amin(axes, keepdim=keepdim), units.amax(axes, keepdim=keepdim)
    # Where all are free, the highest is.
    return torch.where((low == high) | (high == FREE), high, FREE)


def _gated(tracer: Tracer, func: Any, result: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    one, other = tracer.of(x).chunk(2, dim)
    return tracer.units.join(one, other)


def _placed(units: Tensor) -> Tensor:
    """Units that weights multiply: what has none, as a mean over units, is known by its place."""
    return torch.where(units == FREE, FIXED, units)


def _linear(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, weight: Tensor, bias: Any = None
) -> Tensor:
    tracer.units.join(_placed(tracer.of(x)), tracer.axis(weight, 1))
    out = tracer.axis(weight, 0)
    if bias is not None:
        tracer.units.join(out, tracer.axis(bias, 0))
    return out


def _product(tracer: Tracer, func: Any, result: Tensor, one: Tensor, other: Tensor) -> Tensor:
    if other.ndim == 2 and _is_weight(tracer, other):
        tracer.units.join(_placed(tracer.of(one)), tracer.axis(other, 0))
        return tracer.axis(other, 1)
    left, right = tracer.of(one), tracer.of(other)
    if left.ndim < 2 or right.ndim < 2:
        raise Untraceable("products of vectors are not followed: give the groups as a table")
    rows = tracer.units.merge(left, (left.ndim - 1,))
    columns = tracer.units.merge(right, (right.ndim - 2,))
    return tracer.units.join(rows.unsqueeze(-1), columns.unsqueeze(-2))


def _affine(
    tracer: Tracer, func: Any, result: Tensor, bias: Tensor, x: Tensor, weight: Tensor, **_: Any
) -> Tensor:
    out = _product(tracer, func, result, x, weight)
    return tracer.units.join(out, tracer.of(bias))


def _is_weight(tracer: Tracer, tensor: Tensor) -> bool:
    return id(tensor) in tracer._moving or id(tensor) in tracer._turned


def _convolution(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, weight: Tensor, bias: Any = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    units, place = tracer.units, x.ndim - weight.ndim + 1
    out, into = tracer.axis(weight, 0), _placed(tracer.channels(x, place))
    if bias is not None:
        units.join(out, tracer.axis(bias, 0))
    if groups == 1:
        units.join(into, tracer.axis(weight, 1))
    else:
        # Groups change places as wholes.
        if weight.shape[1] > 1:
            units.fix(tracer.axis(weight, 1))
        units.join(
            units.merge(into.view(groups, -1), (1,)), units.merge(out.view(groups, -1), (1,))
        )
    return _along(out, place, result)


def _transposed(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, weight: Tensor, bias: Any = None,
    stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    if groups > 1:
        raise Untraceable("transposed convolutions in groups: give the groups as a table")
    place = x.ndim - weight.ndim + 1
    tracer.units.join(_placed(tracer.channels(x, place)), tracer.axis(weight, 0))
    out = tracer.axis(weight, 1)
    if bias is not None:
        tracer.units.join(out, tracer.axis(bias, 0))
    return _along(out, place, result)


def _pooled(tracer: Tracer, func: Any, result: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    place = 1 if x.ndim > 2 else 0
    return _along(tracer.channels(x, place), place, result)


def _along(units: Tensor, axis: int, like: Tensor) -> Tensor:
    """Units along an axis of a result, the same everywhere else."""
    shape = [1] * like.ndim
    shape[axis] = -1
    return units.view(shape).expand(like.shape)


def _batch_norm(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, mean: Any = None, variance: Any = None,
    weight: Any = None, bias: Any = None, *_: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    own = (mean, variance, kwargs.get("weight", weight), kwargs.get("bias", bias))
    for tensor in own:
        if tensor is not None:
            tracer.units.join(tracer.channels(x, 1), tracer.axis(tensor, 0))
    return tracer.of(x)


def _layer_norm(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, shape: Any, weight: Any = None,
    bias: Any = None, *_: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    for tensor in (kwargs.get("weight", weight), kwargs.get("bias", bias)):
        if isinstance(tensor, Tensor):
            if tensor.ndim > 1:
                tracer.units.fix(tracer.of(x))
                tracer.units.fix(tracer.of(tensor))
            else:
                tracer.units.join(tracer.of(x), tracer.axis(tensor, 0))
    return tracer.of(x)


def _group_norm(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, groups: int, weight: Any = None,
    bias: Any = None, *_: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    channels = tracer.channels(x, 1)
    for tensor in (kwargs.get("weight", weight), kwargs.get("bias", bias)):
        if tensor is not None:
            tracer.units.join(channels, tracer.axis(tensor, 0))
    # Groups change places as wholes.
    tracer.units.merge(channels.view(groups, -1), (1,))
    return tracer.of(x)


def _prelu(tracer: Tracer, func: Any, result: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1:
        tracer.units.join(tracer.channels(x, 1), tracer.axis(weight, 0))
    return tracer.of(x)


def _embedding(
    tracer: Tracer, func: Any, result: Tensor, x: Tensor, weight: Tensor, *_: Any, **__: Any
) -> Tensor:
    tracer.units.fix(tracer.axis(weight, 0))
    return tracer.axis(weight, 1)


def _attention(
    tracer: Tracer, func: Any, result: Tensor, query: Tensor, key: Tensor, value: Tensor,
    attn_mask: Any = None, *_: Any, **__: Any,
) -> Tensor:  # fmt: skip
    """Heads change places as wholes, but for those that each have a mask of their own."""
    units = tracer.units
    first, second, third = (
        units.merge(tracer.of(each), (each.ndim - 2, each.ndim - 1)) for each in (query, key, value)
    )
    heads = units.join(units.join(first, second), third)
    _masked(tracer, attn_mask, heads)
    return heads[..., None, None]


def _masked(tracer: Tracer, mask: Any, heads: Tensor) -> None:
    """Fixes what is added to products of queries and keys, and heads where theirs differ."""
    if not isinstance(mask, Tensor):
        return
    if tracer.has(mask):
        tracer.units.fix(tracer.of(mask))
    learned = tracer.has(mask) and mask.ndim > 2 and mask.shape[-3] > 1
    if learned or (mask.ndim > 2 and not constant_along(mask, -3)):
        tracer.units.fix(heads)


def _multihead(
    tracer: Tracer, func: Any, result: Any, query: Tensor, key: Tensor, value: Tensor, width: int,
    heads: int, weight: Any, bias: Any, bias_k: Any, bias_v: Any, zero: bool, rate: float,
    out_weight: Tensor, out_bias: Any, *_: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Heads change places as wholes.

    Raises:
        Untraceable: if keys and values have biases of their own.
    """
    units = tracer.units
    if bias_k is not None or bias_v is not None:
        raise Untraceable("attention with biases of keys and values: give the groups as a table")
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    parts = [weight] if weight is not None else [kwargs[name] for name in names]
    found = []
    for part in parts:
        rows = tracer.axis(part, 0)
        found.append(units.merge(rows.view(-1, heads, width // heads), (0, 2)))
    for given, part in zip((query, key, value), parts * 3, strict=False):
        units.join(tracer.of(given), tracer.axis(part, 1))
    if bias is not None:
        own = tracer.axis(bias, 0).view(3, heads, -1)
        found.append(units.merge(own, (0, 2)))
    found.append(units.merge(tracer.axis(out_weight, 1).view(heads, -1), (1,)))
    for other in found[1:]:
        units.join(found[0], other)
    _masked(tracer, kwargs.get("attn_mask"), found[0])
    out = tracer.axis(out_weight, 0)
    if out_bias is not None:
        units.join(out, tracer.axis(out_bias, 0))
    return (out.expand(result[0].shape),)


def _recurrent(gates: int) -> Rule:
    """The rule of layers whose weights are those of several gates, one below the other."""

    def rule(
        tracer: Tracer, func: Any, result: Any, x: Tensor, state: Any, weights: Any,
        bias: Any = True, layers: int = 1, rate: float = 0.0, training: bool = False,
        bidirectional: bool = False, *_: Any,
    ) -> Any:  # fmt: skip
        each = 4 if bias else 2
        if not isinstance(bias, bool) or bidirectional or len(weights) != each * layers:
            raise Untraceable(
                "recurrent layers in both directions, projected or of packed sequences: give the "
                "groups as a table"
            )
        units, given, last = tracer.units, tracer.of(x), []
        for layer in range(layers):
            into, again, *biases = weights[each * layer : each * (layer + 1)]
            units.join(_placed(given), tracer.axis(into, 1))
            own = units.merge(tracer.axis(into, 0).view(gates, -1), (0,))
            for tensor in (again, *biases):
                units.join(own, units.merge(tracer.axis(tensor, 0).view(gates, -1), (0,)))
            units.join(own, tracer.axis(again, 1))
            _begun(tracer, own, layer, state)
            given = own
            last.append(own)
        ends = torch.stack(last).unsqueeze(1)
        return [given, *(ends.expand(part.shape) for part in list(_flat(result))[1:])]

    return rule


def _begun(tracer: Tracer, own: Tensor, layer: int, states: Any) -> None:
    """Joins the units of a recurrent layer with those of the states that it begins in."""
    for state in _flat(states):
        if tracer.has(state):
            tracer.units.join(own, tracer.of(state)[layer])
        elif not constant_along(state[layer], -1):
            tracer.units.fix(own)


def _table(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Each rule under each of the names, which blanks keep apart."""
    return {name: rule for names, rule in rules.items() for name in names.split()}


RULES: dict[str, Rule] = _table({
    "relu relu_ relu6 gelu silu silu_ mish tanh tanh_ sigmoid sigmoid_ leaky_relu leaky_relu_ elu "
    "elu_ celu selu softplus softsign hardtanh hardtanh_ hardswish hardsigmoid logsigmoid "
    "tanhshrink softshrink threshold softmax log_softmax softmin normalize dropout dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout exp expm1 log log1p sqrt rsqrt abs "
    "neg __neg__ square sin cos erf sign reciprocal nan_to_num to "
    "float double half bfloat16 type type_as contiguous clone detach cpu": _same,
    "view reshape flatten unflatten permute transpose swapaxes t movedim squeeze unsqueeze expand "
    "expand_as view_as reshape_as repeat tile repeat_interleave __getitem__ __get__ narrow select "
    "index_select chunk split split_with_sizes tensor_split unbind cat concat concatenate stack "
    "flip roll broadcast_to atleast_2d": _shaped,
    "pad": _padded,
    "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ rsub mul mul_ __mul__ __rmul__ "
    "__imul__ div div_ true_divide __truediv__ __rtruediv__ pow __pow__ maximum minimum where lerp "
    "addcmul masked_fill masked_fill_ eq ne lt le gt ge __eq__ __lt__ __le__ __gt__ "
    "__ge__ clamp clamp_ clip clamp_min clamp_max": _elementwise,
    "mean sum amax amin max min var std logsumexp norm": _reduced,
    "glu": _gated,
    "linear": _linear,
    "matmul __matmul__ mm bmm": _product,
    "addmm": _affine,
    "conv1d conv2d conv3d": _convolution,
    "conv_transpose1d conv_transpose2d conv_transpose3d": _transposed,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d lp_pool2d interpolate "
    "boolean_dispatch fn": _pooled,
    "batch_norm instance_norm": _batch_norm,
    "layer_norm rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    "embedding": _embedding,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multihead,
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh rnn_relu": _recurrent(1),
})  # fmt: skip
