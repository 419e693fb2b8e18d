"""The names, shapes and roles of the tensors inside a flat vector."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.devices import sent
from landscape.networks.roles import declared, roles


class Entry(NamedTuple):
    """One tensor of a `Layout`.

    ``role`` is one of convolution, linear, embedding, recurrent, attention, norm, bias, other.
    ``filter_axis`` is the axis whose slices are filters (output units), or None for a tensor that
    has none: a bias, a normalisation scale. Where a filter is a whole block of slices (a head of
    attention) or a slice over two axes (a transposed convolution in groups), ``view`` is the shape
    to which the tensor is reshaped and ``filter_axes`` are the axes of that shape that count them.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    role: str
    filter_axis: int | None
    view: tuple[int, ...] | None = None
    filter_axes: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return torch.Size(self.shape).numel()

    @property
    def span(self) -> slice:
        """Where the tensor lies in the flat vector."""
        return slice(self.offset, self.offset + self.size)

    @property
    def filters(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A shape of the tensor and the axes of it that count filters; none for a single filter."""
        if self.view is not None and self.filter_axes is not None:
            return self.view, self.filter_axes
        return self.shape, () if self.filter_axis is None else (self.filter_axis,)


@dataclass(frozen=True)
class Layout:
    """The order in which named tensors lie in a flat vector.

    `Layout.of` reads it from a module: trainable parameters in the order of
    ``named_parameters()``, tied ones once, frozen ones left out.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        axes: Mapping[str, int] | None = None,
        blocks: Mapping[str, int] | None = None,
    ) -> "Layout":
        """The layout of the trainable parameters of ``model``, with the role of each.

        Roles and filters come from the module that owns a parameter: rows of linear layers and
        embeddings, output channels of convolutions (in groups, transposed), units of gates, heads
        of `torch.nn.MultiheadAttention`. A parametrised weight has the role of the weight itself,
        and the lengths under weight normalisation count as normalisation scales. One-dimensional
        parameters of a module with "norm" in the name of its class are norms. Buffers, such as the
        statistics of BatchNorm, are no part of the vector.

        Args:
            model: what is read; nothing is changed.
            axes: the axis of the filters where it is not found by itself, by the name of a
                parameter or of the module of a ``weight``, as ``{"h.0.mlp.c_fc": 1}`` for a weight
                that is stored as (in, out).
            blocks: the number of equal blocks into which that axis is cut, each of them one filter:
                the heads of a projection, as ``{"attn.qkv": 36}`` for queries, keys and values of
                12 heads in one linear layer.

        Raises:
            ValueError: if no parameter is trainable, or what is declared does not fit.
        """
        shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        if not shapes:
            raise ValueError(
                f"{type(model).__name__} has no trainable parameter: is requires_grad False "
                "everywhere?"
            )
        found = declared(roles(model), shapes, axes or {}, blocks or {})
        entries, offset = [], 0
        for name, shape in shapes.items():
            role, axis, view, filter_axes = found[name]
            entries.append(Entry(name, shape, offset, role, axis, view, filter_axes))
            offset += entries[-1].size
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
        sizes = sent(torch.tensor(self.sizes, device="cpu"), per_tensor.device)
        return per_tensor.repeat_interleave(sizes, dim=-1, output_size=self.dim)
