"""The order of one network's units in which it is closest to another network."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from landscape.alignment.symmetry import Group, Symmetry, tensors_in

SWEEPS = 100
"""So often all groups are gone through, unless none gains any more."""
_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)
_SECOND = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
           nn.GroupNorm)  # fmt: skip
"""Modules whose outputs have along this axis the units of the first axis of their weights."""
_GAIN = 1e-12  # of the product of both networks with themselves


class Alignment(NamedTuple):
    """A network with its units in another order.

    Attributes:
        tensors: of that network.
        permutation: unit k of each group is the unit ``permutation[group][k]`` of what was given.
        before: distance to the other network as it was given, over the tensors that have units.
        after: distance to it now.
        sweeps: times that all groups were gone through.
        converged: whether the last of them gained nothing.
    """

    tensors: dict[str, Tensor]
    permutation: dict[str, np.ndarray]
    before: float
    after: float
    sweeps: int
    converged: bool


def align(
    symmetry: Symmetry,
    one: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    seed: int = 0,
    sweeps: int = SWEEPS,
) -> Alignment:
    """The other network, its units in the order in which its weights are closest to the first's.

    Coordinate descent: of one group after the other, in random order, the best permutation with all
    others held, by linear assignment, until none gains. It ends at a local optimum; it is begun
    twice, from the order as given and from one that is found group by group, from those whose
    neighbours are known, and the better end is taken. Equal networks with their units in another
    order come back exactly where their units can be told apart.

    Args:
        symmetry: the groups.
        one: its tensors by name, as of a state dict or of `Layout.unflatten`.
        other: the network that is changed, the same names; tensors that only one has are left.
        seed: of the order of groups.
        sweeps: times that all groups are gone through at most.

    Raises:
        ValueError: if shapes differ, a number is not finite, or there is no group.

    Reference: Ainsworth, Hayase & Srinivasa (2023), Git Re-Basin, algorithm 1.
    """
    _check(symmetry, one, other)
    ends = []
    for anchored in (False, True):
        search = _Search(symmetry, one, other)
        if anchored:
            search.anchor()
        ends.append((search, *search.descend(symmetry, np.random.default_rng(seed), sweeps)))
    search, done, converged = max(ends, key=lambda end: end[0].product())
    return _ended(search, other, done, converged)


def align_by_activations(
    symmetry: Symmetry,
    model: nn.Module,
    one: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    batches: Sequence[Any],
) -> Alignment:
    """The other network, its units in the order in which they answer most like the first's.

    Of each group the sum of the correlations of units over samples and places, at the outputs of
    the modules whose weights have the units along their first axis, is largest; by linear
    assignment. Groups that no module puts out as they are, such as heads of attention, are then
    ordered by weights with all others held.

    Args:
        symmetry: the groups.
        model: what the tensors are put into; a copy in evaluation mode runs.
        one: all its tensors by name, statistics of BatchNorm included.
        other: the network that is changed, likewise.
        batches: inputs, or tuples of inputs.

    Raises:
        ValueError: if shapes differ, a number is not finite, or there is no group or no batch.

    Reference: Li, Yosinski, Clune, Lipson & Hopcroft (2016), Convergent Learning.
    """
    _check(symmetry, one, other)
    if not len(batches):
        raise ValueError("at least one batch is needed, got none: units are told by their answers")
    answers = [_answers(symmetry, model, tensors, batches) for tensors in (one, other)]
    search = _Search(symmetry, one, other)
    for group in symmetry.groups:
        if group.name in answers[0]:
            gain = sum(map(_correlation, answers[0][group.name], answers[1][group.name]))
            search.move(group, linear_sum_assignment(np.asarray(gain), maximize=True)[1])
    silent = Symmetry(tuple(g for g in symmetry.groups if g.name not in answers[0]))
    return _ended(search, other, *search.descend(silent, np.random.default_rng(0), SWEEPS))


class _Search:
    """Where the coordinate descent stands: the other network with its units as they are now."""

    def __init__(self, symmetry: Symmetry, one: Mapping[str, Tensor], other: Mapping[str, Tensor]):
        places = {place.tensor for group in symmetry.groups for place in group.places}
        names = [name for name in one if name in other and name in places]
        self.symmetry = symmetry
        self.one, self.given = ({n: t[n].detach().double() for n in names} for t in (one, other))
        self.moved = dict(self.given)
        self.permutation = {g.name: np.arange(g.size) for g in symmetry.groups}
        self._least = _GAIN * sum(float((t * t).sum()) for t in self.one.values())

    def product(self) -> float:
        """The product of both networks, over the tensors that have units."""
        return sum(float((self.one[n] * self.moved[n]).sum()) for n in self.one)

    def descend(
        self, symmetry: Symmetry, source: np.random.Generator, sweeps: int
    ) -> tuple[int, bool]:
        """The number of sweeps over some groups, and whether the last has gained nothing."""
        for sweep in range(sweeps):
            order = source.permutation(len(symmetry.groups))
            gained = [self._improved(symmetry.groups[k]) for k in order]
            if not any(gained):
                return sweep + 1, True
        return sweeps, False

    def anchor(self) -> None:
        """Orders groups one by one, first those whose other axes are all known."""
        left = {group.name: group for group in self.symmetry.groups}
        tied = {
            (place.tensor, place.axis): group.name
            for group in self.symmetry.groups for place in group.places
        }  # fmt: skip
        while left:
            scores = {}
            for name, group in left.items():
                known = [
                    place for place in group.places
                    if place.tensor in self.one and not any(
                        tied.get((place.tensor, axis)) in left
                        for axis in range(self.one[place.tensor].ndim) if axis != place.axis
                    )
                ]  # fmt: skip
                scores[name] = sum(self.one[p.tensor].numel() for p in known), known
            name = max(scores, key=lambda name: scores[name][0])
            group = left.pop(name)
            if scores[name][1]:
                self.move(group, self._best(group._replace(places=tuple(scores[name][1]))))

    def _improved(self, group: Group) -> bool:
        """Whether another order of a group gains; it is then taken."""
        order = self._best(group)
        names = {place.tensor for place in group.places} & self.one.keys()
        before = {name: self.moved[name] for name in names}
        self.move(group, order)
        gain = sum(
            float((self.one[name] * (self.moved[name] - before[name])).sum()) for name in names
        )
        if gain > self._least:
            return True
        self.move(group, np.argsort(order))
        return False

    def _best(self, group: Group) -> np.ndarray:
        """The order of the units as they are now that is best with everything else held."""
        gain = np.zeros((group.size, group.size))
        for place in group.places:
            if place.tensor in self.one:
                left, right = (
                    _units(tensors[place.tensor], place.axis, place.entries)
                    for tensors in (self.one, self.moved)
                )
                gain += (left @ right.T).cpu().numpy()
        return linear_sum_assignment(gain, maximize=True)[1]

    def move(self, group: Group, order: np.ndarray) -> None:
        """Puts the units of a group, as they are now, into another order."""
        names = {place.tensor for place in group.places} & self.moved.keys()
        part = {name: self.moved[name] for name in names}
        self.moved |= self.symmetry.permuted(part, {group.name: order})
        self.permutation[group.name] = self.permutation[group.name][order]


def _ended(search: _Search, other: Mapping[str, Tensor], sweeps: int, converged: bool) -> Alignment:
    """What a search has come to."""
    return Alignment(
        search.symmetry.permuted(other, search.permutation), search.permutation,
        _distance(search.one, search.given), _distance(search.one, search.moved), sweeps, converged,
    )  # fmt: skip


def _units(tensor: Tensor, axis: int, index: np.ndarray) -> Tensor:
    """What belongs to each unit of a tensor, a row for each."""
    chosen = torch.as_tensor(index.ravel(), device=tensor.device)
    return tensor.movedim(axis, 0)[chosen].reshape(len(index), -1)


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return float(sum(((one[n] - other[n]) ** 2).sum() for n in one)) ** 0.5


def _check(symmetry: Symmetry, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Nothing, where both fit.

    Raises:
        ValueError: where they do not.
    """
    if not symmetry.groups:
        raise ValueError("there is no group of units that could change places")
    for name in one:
        if name in other and one[name].shape != other[name].shape:
            raise ValueError(
                f"both must have the same shapes, got {tuple(one[name].shape)} and "
                f"{tuple(other[name].shape)} for {name}"
            )
    for place in (place for group in symmetry.groups for place in group.places):
        if place.tensor in one and one[place.tensor].shape[place.axis] <= place.entries.max():
            raise ValueError(f"{place.tensor} has another shape than the groups were made for")
        for tensors in (one, other):
            if place.tensor in tensors and not bool(tensors[place.tensor].isfinite().all()):
                raise ValueError(f"both must be finite, and {place.tensor} is not")


def _answers(
    symmetry: Symmetry, model: nn.Module, tensors: Mapping[str, Tensor], batches: Sequence[Any]
) -> dict[str, list[Tensor]]:
    """Of each group the outputs of its modules, units by samples and places."""
    twin = copy.deepcopy(model).eval()
    seen: dict[tuple[str, str], list[Tensor]] = {}
    handles = []
    for group in symmetry.groups:
        for place in group.places:
            name, _, tensor = place.tensor.rpartition(".")
            if tensor != "weight" or place.axis != 0 or place.entries.shape[1] != 1:
                continue
            if type(twin.get_submodule(name)) not in (*_LAST, *_SECOND):
                continue
            handles.append(twin.get_submodule(name).register_forward_hook(
                _kept(seen.setdefault((group.name, name), []), place.entries[:, 0])
            ))  # fmt: skip
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = batch if isinstance(batch, tuple) else (batch,)
                torch.func.functional_call(twin, dict(tensors), inputs)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, list[Tensor]] = {}
    for (group_name, _), parts in seen.items():
        if parts:
            found.setdefault(group_name, []).append(torch.cat(parts, -1))
    return found


def _kept(into: list[Tensor], index: np.ndarray) -> Callable[..., None]:
    """A hook that keeps what the units put out, those of linear layers along the last axis."""

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        (answer,) = tensors_in(output)[:1]
        rows = answer.movedim(-1 if type(module) in _LAST else 1, 0)[index]
        into.append(rows.reshape(len(index), -1).double())

    return hook


def _correlation(left: Tensor, right: Tensor) -> np.ndarray:
    """The correlation of each unit of the one with each of the other; 0 for constant ones."""
    rows = [part - part.mean(-1, keepdim=True) for part in (left, right)]
    rows = [part / part.norm(dim=-1, keepdim=True).clamp_min(1e-300) for part in rows]
    return (rows[0] @ rows[1].T).cpu().numpy()
