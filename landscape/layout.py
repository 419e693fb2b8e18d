"""The names, shapes and roles of the tensors inside a flat vector."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Entry(NamedTuple):
    """One tensor of a `Layout`.

    ``role`` is one of convolution, linear, embedding, recurrent, attention, norm, bias, other.
    ``filter_axis`` is the axis whose slices are filters (output units), or None for a tensor that
    has none: a bias, a normalisation scale.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    role: str
    filter_axis: int | None

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return torch.Size(self.shape).numel()

    @property
    def span(self) -> slice:
        """Where the tensor lies in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """The order in which named tensors lie in a flat vector.

    `Layout.of` reads it from a module: trainable parameters in the order of
    ``named_parameters()``, tied ones once, frozen ones left out.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """The layout of the trainable parameters of ``model``.

        Raises:
            ValueError: if no parameter is trainable.
        """
        roles = dict(_roles(model))
        entries, offset = [], 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                role, axis = roles[name]
                entries.append(Entry(name, tuple(parameter.shape), offset, role, axis))
                offset += parameter.numel()
        if not entries:
            raise ValueError(
                f"{type(model).__name__} has no trainable parameter: is requires_grad False "
                "everywhere?"
            )
        return cls(tuple(entries))

    @cached_property
    def dim(self) -> int:
        """The length p of the flat vector."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tensors' names in their order."""
        return tuple(entry.name for entry in self.entries)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The tensors' numbers of entries in their order."""
        return tuple(entry.size for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names and shapes: equal for models whose vectors mean the same."""
        text = ";".join(f"{entry.name}:{entry.shape}" for entry in self.entries)
        return hashlib.sha256(text.encode()).hexdigest()

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*batch p"]:
        """The vector that holds ``tensors``, whose leading axes beyond the shapes are batch.

        Raises:
            ValueError: if a name is missing or a shape does not fit.
        """
        rows = []
        for entry in self.entries:
            if entry.name not in tensors:
                raise ValueError(f"no tensor named {entry.name}; got {sorted(tensors)}")
            tensor, depth = tensors[entry.name], len(entry.shape)
            if tuple(tensor.shape[tensor.ndim - depth :]) != entry.shape:
                raise ValueError(
                    f"{entry.name} must have shape {entry.shape} at the end, got "
                    f"{tuple(tensor.shape)}"
                )
            rows.append(tensor.reshape(*tensor.shape[: tensor.ndim - depth], entry.size))
        return torch.cat(rows, dim=-1)

    def unflatten(self, z: Float[Tensor, "*batch p"]) -> dict[str, Tensor]:
        """The tensors inside ``z`` by name, each with the leading axes of ``z``.

        Raises:
            ValueError: if the last axis of ``z`` does not have length ``dim``.
        """
        if z.shape[-1] != self.dim:
            raise ValueError(f"the last axis must have length {self.dim}, got {tuple(z.shape)}")
        batch = z.shape[:-1]
        pieces = z.split(self.sizes, dim=-1)
        return {
            entry.name: piece.reshape((*batch, *entry.shape))
            for entry, piece in zip(self.entries, pieces, strict=True)
        }

    def mask(self, wanted: Callable[[Entry], bool], device: torch.device | str) -> Tensor:
        """(p,) booleans: True for the coordinates of the entries that ``wanted`` accepts."""
        pieces = [
            torch.full((entry.size,), wanted(entry), dtype=torch.bool, device=device)
            for entry in self.entries
        ]
        return torch.cat(pieces)

    def spread(self, per_tensor: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch p"]:
        """One number per tensor, repeated over the coordinates of that tensor."""
        sizes = torch.tensor(self.sizes, device=per_tensor.device)
        return per_tensor.repeat_interleave(sizes, dim=-1, output_size=self.dim)


def _roles(model: nn.Module) -> Iterator[tuple[str, tuple[str, int | None]]]:
    """Role and filter axis of every parameter, by its first name."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{prefix}.{name}" if prefix else name
            yield path, _role(module, name, parameter)


def _role(module: nn.Module, name: str, parameter: Tensor) -> tuple[str, int | None]:
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    if isinstance(module, norms):
        return ("bias" if name == "bias" else "norm"), None
    if parameter.ndim < 2:
        return ("bias" if "bias" in name else "other"), None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "convolution", 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution", 0
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding", 0
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "recurrent", 0
    if isinstance(module, nn.MultiheadAttention):
        return "attention", 0
    if isinstance(module, (nn.Linear, nn.Bilinear)):
        return "linear", 0
    return "other", 0
