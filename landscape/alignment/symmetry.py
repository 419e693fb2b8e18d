"""Which units of a network can change places: groups of them, and where they lie in its tensors."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from landscape.alignment.tracing import Untraceable, traced

Table = Mapping[str, tuple[Any, ...]]
Permutation = Mapping[str, np.ndarray]


class Place(NamedTuple):
    """Where the units of a group lie: unit k has the entries ``entries[k]`` (m,) along an axis."""

    tensor: str
    axis: int
    entries: np.ndarray


class Group(NamedTuple):
    """Units that can change places with each other.

    Attributes:
        name: the first tensor that they lie in.
        size: how many there are.
        places: where they lie.
    """

    name: str
    size: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Symmetry:
    """All groups of a network.

    A permutation has an array for some groups: unit k of what comes out is unit ``array[k]`` of
    what goes in.

    Attributes:
        groups: the groups.
        shared: further names of tensors that several modules share, and the name that places have.
    """

    groups: tuple[Group, ...]
    shared: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def permuted(
        self, tensors: Mapping[str, Tensor], permutation: Permutation
    ) -> dict[str, Tensor]:
        """The tensors with their units in another order; those not known stay as they are.

        Raises:
            ValueError: if there is no such group, or an array is no permutation of its units.
        """
        sources: dict[tuple[str, int], np.ndarray] = {}
        known = {group.name: group for group in self.groups}
        for name, order in permutation.items():
            if name not in known or sorted(order) != list(range(known[name].size)):
                raise ValueError(
                    f"each group ({', '.join(known)}) takes an order of its units, "
                    f"{name} got {list(order)[:8]}"
                )
            for place, axis, entries in known[name].places:
                others = (other for other, first in self.shared if first == place)
                for tensor in (each for each in (place, *others) if each in tensors):
                    whole = np.arange(tensors[tensor].shape[axis])
                    sources.setdefault((tensor, axis), whole)[entries] = entries[order]
        found = dict(tensors)
        for (tensor, axis), source in sources.items():
            chosen = torch.as_tensor(source, device=found[tensor].device)
            found[tensor] = found[tensor].index_select(axis, chosen)
        return found

    def drawn(self, generator: torch.Generator) -> dict[str, np.ndarray]:
        """A random permutation of every group."""
        return {
            group.name: torch.randperm(group.size, generator=generator, device="cpu").numpy()
            for group in self.groups
        }


def symmetry(model: nn.Module, example: Any, *, table: Table | None = None) -> Symmetry:
    """The groups of units that can change places without changing what the network computes.

    They are read from one pass of a copy in evaluation mode: outputs of linear layers and
    convolutions, with all that is tied to them by normalisation, shortcuts, padding, flattening
    and recurrences; heads of attention and channels of GroupNorm as wholes. Whatever was found is
    then tried out: every group is permuted at random, and the outputs have to stay; with weights
    beside those of the model, since where these are 0 or 1, as at a start, nothing would be seen.

    Args:
        model: what is read; it stays as it is.
        example: an input, or a tuple of inputs, as the model takes them.
        table: instead of reading: of some tensors the group that each axis belongs to, None for
            an axis that stays, as ``{"fc1.weight": ("hidden", None)}``; ``("conv", 49)`` where
            each unit has 49 entries in a row.

    Raises:
        Untraceable: if there is an operation of which it is not known how units pass through.
        ValueError: if the table does not fit, or permuting changes the outputs.
    """
    twin = copy.deepcopy(model).eval().double()
    inputs = tuple(
        _double(each) for each in (example if isinstance(example, tuple) else (example,))
    )
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    if table is None:
        found = _grouped(traced(twin, inputs).places())
    else:
        found = _of_table(table, {name: tuple(t.shape) for name, t in tensors.items()})
    _try_out(twin, inputs, _beside(twin, tensors), found)
    return replace(found, shared=_shared(twin))


def _shared(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """The names of tensors that have another name already, and that one."""
    first: dict[int, str] = {}
    every = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return tuple(
        (name, first[id(tensor)]) for name, tensor in every
        if first.setdefault(id(tensor), name) != name
    )  # fmt: skip


def _beside(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, what is trained and the statistics of BatchNorm moved at random; signs stay."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    moving = {id(tensor) for tensor in model.parameters() if tensor.requires_grad}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            moving |= {id(tensor) for tensor in module.buffers(recurse=False)}
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.detach()
        if id(tensor) in moving and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
            noise = noise.to(tensor.device)
            found[name] = torch.where(tensor == 0, noise / 10, tensor * (1 + noise / 4)).detach()
    return found


def _grouped(units: Mapping[int, Mapping[tuple[str, int], list[int]]]) -> Symmetry:
    """Units that lie in the same axes of the same tensors, as often, make a group."""
    alike: dict[Any, list[Mapping[tuple[str, int], list[int]]]] = {}
    for unit in sorted(units):
        places = units[unit]
        kind = tuple(sorted((key, len(index)) for key, index in places.items()))
        alike.setdefault(kind, []).append(places)
    groups: list[Group] = []
    names: set[str] = set()
    for members in alike.values():
        if len(members) < 2:
            continue
        # In the order in which the network meets them.
        found = tuple(
            Place(tensor, axis, np.array([member[tensor, axis] for member in members]))
            for tensor, axis in members[0]
        )
        name = next((place.tensor for place in found if place.axis == 0), found[0].tensor)
        while name in names:
            name += "'"
        names.add(name)
        groups.append(Group(name, len(members), found))
    return Symmetry(tuple(groups))


def _of_table(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> Symmetry:
    """The groups that a table names.

    Raises:
        ValueError: if it does not fit the tensors.
    """
    places: dict[str, list[Place]] = {}
    for tensor, axes in table.items():
        if tensor not in shapes or len(axes) != len(shapes[tensor]):
            known = shapes.get(tensor, f"no such tensor, there are {', '.join(shapes)}")
            raise ValueError(f"{tensor} is given {len(axes)} axes, and its shape is {known}")
        for axis, given in enumerate(axes):
            if given is None:
                continue
            name, each = given if isinstance(given, tuple) else (given, 1)
            size = shapes[tensor][axis]
            if size % each:
                raise ValueError(f"axis {axis} of {tensor} has {size} entries, not {each} a unit")
            index = np.arange(size).reshape(-1, each)
            places.setdefault(name, []).append(Place(tensor, axis, index))
    for name, found in places.items():
        sizes = {len(place.entries) for place in found}
        if len(sizes) > 1:
            raise ValueError(f"group {name} has {' and '.join(map(str, sorted(sizes)))} units")
    return Symmetry(
        tuple(Group(name, len(found[0].entries), tuple(found)) for name, found in places.items())
    )


def _try_out(
    model: nn.Module, inputs: tuple[Any, ...], tensors: dict[str, Tensor], found: Symmetry
) -> None:
    """Nothing, where outputs stay as they are with the units of each group in another order.

    Raises:
        ValueError: where they do not.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)

    def outputs(given: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return tensors_in(torch.func.functional_call(model, given, inputs))

    expected = outputs(tensors)
    largest = max((float(each.abs().max()) for each in expected if each.numel()), default=0.0)
    for name, chosen in found.drawn(generator).items():
        order = np.empty_like(chosen)
        order[chosen] = np.roll(chosen, 1)  # none stays where it is, of two neither
        changed = outputs(found.permuted(tensors, {name: order}))
        for one, other in zip(expected, changed, strict=True):
            apart = float((one - other).abs().max()) if one.numel() else 0.0
            scale = float(one.abs().max()) if one.numel() else 0.0
            if not apart <= 1e-8 * scale + 1e-12 * largest:
                raise ValueError(
                    f"permuting the {found[name].size} units of {name} changes the outputs by "
                    f"{apart:.3g}: they are no symmetry of this network; give the groups as a table"
                )


def tensors_in(value: Any) -> list[Tensor]:
    """The floating-point tensors inside lists, tuples and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [each for part in value for each in tensors_in(part)] if isinstance(
        value, (list, tuple)
    ) else []  # fmt: skip


def _double(value: Any) -> Any:
    """A value with the floating-point tensors in lists, tuples and dictionaries in double."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if type(value) is dict:
        return {key: _double(each) for key, each in value.items()}
    return type(value)(map(_double, value)) if type(value) in (list, tuple) else value


__all__ = ["Group", "Place", "Symmetry", "Untraceable", "symmetry", "tensors_in"]
