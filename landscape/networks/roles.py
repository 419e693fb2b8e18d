"""What each tensor of a network is and where its filters lie, read from the module that owns it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Role(NamedTuple):
    """What a tensor is; the fields mean the same as those of `landscape.networks.layout.Entry`."""

    role: str
    filter_axis: int | None = None
    view: tuple[int, ...] | None = None
    filter_axes: tuple[int, ...] | None = None


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter of ``model``, by its first name."""
    return dict(_roles(model))


def declared(
    found: Mapping[str, Role],
    shapes: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, int],
    blocks: Mapping[str, int],
) -> dict[str, Role]:
    """The roles ``found``, with what the user says about some tensors in its place.

    Args:
        found: roles by parameter name.
        shapes: shapes by parameter name.
        axes: the axis of the filters, by the name of a parameter or of the module of a ``weight``.
        blocks: into how many equal blocks that axis is cut, each of them one filter.

    Raises:
        ValueError: if a name is unknown, an axis does not exist, or the blocks do not fit.
    """
    changed = dict(found)
    for name, axis in axes.items():
        full = _resolved(name, shapes)
        depth = len(shapes[full])
        if not -depth <= axis < depth:
            raise ValueError(f"{full} has shape {shapes[full]} and no axis {axis} for filters")
        changed[full] = Role(changed[full].role, axis % depth)
    for name, count in blocks.items():
        full = _resolved(name, shapes)
        axis = changed[full].filter_axis or 0
        if count < 1 or not shapes[full] or shapes[full][axis] % count:
            raise ValueError(
                f"{full} has shape {shapes[full]}, whose axis {axis} cannot be cut into {count} "
                f"equal blocks: give the number of heads, three times that for a fused projection "
                f"to queries, keys and values"
            )
        changed[full] = _cut(Role("attention", axis), shapes[full], count)
    return changed


def _resolved(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    for full in (name, f"{name}.weight"):
        if full in shapes:
            return full
    raise ValueError(
        f"there is no parameter {name!r} or {name + '.weight'!r}; the trainable ones are "
        f"{', '.join(shapes)}"
    )


def _roles(model: nn.Module) -> Iterator[tuple[str, Role]]:
    modules = dict(model.named_modules())
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(module, parametrize.ParametrizationList):
                owner, _, tensor = f".{prefix}".rpartition(".parametrizations.")
                yield path, _parametrised(module, name, modules[owner[1:]], tensor, parameter)
            else:
                yield path, _role(module, name, parameter)


def _parametrised(
    parts: nn.Module, name: str, owner: nn.Module, tensor: str, parameter: Tensor
) -> Role:
    """The role of what a parametrised tensor is computed from: that of the tensor itself.

    Under weight normalisation the first part has the length of each filter. It scales a filter as a
    normalisation layer does, and is treated like one.
    """
    weight_norm = any(type(part).__name__ == "_WeightNorm" for part in parts.children())
    if weight_norm and name == "original0":
        return Role("norm")
    return _role(owner, tensor, parameter)


def _role(module: nn.Module, name: str, parameter: Tensor) -> Role:
    shape = tuple(parameter.shape)
    if isinstance(module, _NORMS) or ("norm" in type(module).__name__.lower() and len(shape) < 2):
        return Role("bias" if name == "bias" else "norm")
    if name.endswith("_g") and hasattr(module, f"{name[:-2]}_v"):
        return Role("norm")  # the lengths under torch.nn.utils.weight_norm
    if len(shape) < 2 or name in ("bias_k", "bias_v"):
        return Role("bias" if "bias" in name else "other")
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return _transposed(shape, module.groups)
    if isinstance(module, nn.modules.conv._ConvNd):
        return Role("convolution", 0)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Role("embedding", 0)
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return Role("recurrent", 0)
    if isinstance(module, nn.MultiheadAttention):
        heads = module.num_heads * (3 if name == "in_proj_weight" else 1)
        return _cut(Role("attention", 0), shape, heads)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return Role("linear", 1)  # the linear layer of GPT-2 in transformers, stored as (in, out)
    return Role("linear" if isinstance(module, (nn.Linear, nn.Bilinear)) else "other", 0)


def _transposed(shape: tuple[int, ...], groups: int) -> Role:
    """The weight (in, out / groups, ...): a filter is one output channel of one group."""
    if groups == 1:
        return Role("convolution", 1)
    return Role("convolution", 1, (groups, shape[0] // groups, *shape[1:]), (0, 2))


def _cut(role: Role, shape: tuple[int, ...], blocks: int) -> Role:
    """Filters that are whole blocks of the axis, as many as ``blocks``."""
    axis = role.filter_axis or 0
    if shape[axis] % blocks:
        return role
    view = (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :])
    return Role(role.role, axis, view, (axis,))
