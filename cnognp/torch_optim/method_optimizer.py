"""A population method with one member as an optimiser of torch."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from operator import is_
from typing import Any

import torch
from torch import Tensor

from cnognp.methods import METHODS
from cnognp.methods.composition import COMPOSED, OF_TRAINING, unevaluated
from cnognp.state import from_tensors, to_tensors
from cnognp.torch_optim.flat import Closure, Flat
from cnognp.torch_optim.fused import Fused
from landscape.randomness import derived_seed

# What may differ between parameter groups: one number per coordinate does.
_PER_COORDINATE = ("lr", "weight_decay")
_OWN = ("method", "steps", "seed", "evaluations")


class MethodOptimizer(torch.optim.Optimizer):
    """A population method with one member as a ``torch.optim.Optimizer``.

    ``evaluations`` counts the calls of closures so far.

    Args:
        params: tensors or parameter groups. ``lr`` and ``weight_decay`` may differ between groups;
            every other key must agree.
        seed: of whatever the method draws.
        keys: the method's own keywords, as ``cnognp methods NAME`` lists them.

    Raises:
        ValueError: if a key is unknown or out of range, or the parameters are no real numbers on
            one device.
    """

    name: str = ""
    # Whether the method itself leaves alone what no gradient has reached.
    keeps_unreached: bool = False

    def __init__(self, params: Iterable[Any], *, seed: int = 0, **keys: Any):
        parameters = self._signature().items()
        known = {k: p.default for k, p in parameters if k not in OF_TRAINING}
        unknown = set(keys) - set(known)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no option {sorted(unknown)[0]!r}; there are "
                f"{', '.join(known)}"
            )
        self._keys = tuple(known)
        self._begun = False
        super().__init__(params, {**known, **keys})
        self._seed = seed
        self._steps = self.evaluations = 0
        self._state: Any = None
        self._restored: dict[str, Tensor] | None = None
        self._built: tuple[Any, Any] = (None, None)
        self._flat: Flat | None = None
        self._fused: Fused | None = None
        self._method(self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, before the first step.

        Raises:
            RuntimeError: afterwards, when the method's state is that of the others.
        """
        if self._begun:
            raise RuntimeError(
                f"{type(self).__name__} has begun with other parameters; make a new one for all"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> Any:  # type: ignore[override]
        """The loss of the first evaluation; the parameters are then moved.

        That is the loss at the parameters as they were, unless the method begins elsewhere: `SWA`
        where its base method is, `NiMBH` at a perturbed point.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss. Without it the
                gradients that are there are used, which is enough for methods that need one.

        Raises:
            RuntimeError: if the closure leaves no gradient, a method that needs several evaluations
                gets no closure, or parameters were frozen or thawed since the first step.
        """
        flat = self._parameters()
        method = self._method(flat)
        objective = Closure(flat, closure, type(self).__name__)
        if self._state is None and self._fused is None:
            self._state = self._initial(method, objective)
        move = self._step_fused if Fused.suits(method, flat) else self._step_flat
        try:
            move(method, flat, objective)
        finally:
            self.evaluations += objective.evaluations
        self._steps += 1
        self._begun = True
        return objective.first_loss

    def _initial(self, method: Any, objective: Closure) -> Any:
        """The state before the first step, or the one that was restored."""
        state = method.init(objective, objective.position.unsqueeze(0))
        if self._restored is not None:
            state = from_tensors(state, _fitted(self._restored, state))
            self._restored = None
        return state

    def _step_fused(self, method: Any, flat: Flat, objective: Closure) -> None:
        """Moves the parameters by a kernel of torch, in place."""
        objective.differentiate()
        if self._fused is None:
            self._fused, self._state = Fused(flat, self._state), None
        self._fused.step(method, self.param_groups)

    def _step_flat(self, method: Any, flat: Flat, objective: Closure) -> None:
        """Moves the parameters by the method's own formula over the flat vector."""
        self._state, self._fused = self._current(), None
        z = objective.position.unsqueeze(0)
        seed = derived_seed(self._seed, "round", self._steps)
        draws = torch.Generator(device="cpu").manual_seed(seed)
        try:
            state, _ = method.step(objective, self._state._replace(position=z), draws)
        except BaseException:
            objective.move(objective.position)
            raise
        self._state = state
        objective.finish(state.position[0], everywhere=self.keeps_unreached)
        flat.reclaim(to_tensors(state).values())

    def _current(self) -> Any:
        """The state, wherever it is; None before the first step."""
        return self._state if self._fused is None else self._fused.state()

    def state_dict(self) -> dict[str, Any]:
        """Parameter groups, the method's state by path, and the number of steps and evaluations."""
        tensors, state = dict(self._restored or {}), self._current()
        if state is not None:
            tensors = {path: tensor.clone() for path, tensor in to_tensors(state).items()}
        own = (tensors, self._steps, self._seed, self.evaluations)
        return {**super().state_dict(), **dict(zip(_OWN, own, strict=True))}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Nothing; the optimiser then goes on from where ``state_dict`` was taken.

        Raises:
            ValueError: if it belongs to another kind of optimiser.
        """
        missing = set(_OWN) - set(state_dict)
        if missing:
            raise ValueError(
                f"no state of {type(self).__name__}: {', '.join(sorted(missing))} missing"
            )
        # What an older version could not be composed with is at its default.
        newer = {key: self.defaults[key] for key in self._keys if key in COMPOSED}
        groups = [{**newer, **group} for group in state_dict["param_groups"]]
        for group in groups:
            if missing := set(self._keys) - set(group):
                raise ValueError(
                    f"no state of {type(self).__name__}: its groups lack {min(missing)}"
                )
        super().load_state_dict({"state": state_dict["state"], "param_groups": groups})
        tensors, self._steps, self._seed, self.evaluations = (state_dict[key] for key in _OWN)
        self._state, self._fused, self._flat = None, None, None
        self._restored = {path: tensor.clone() for path, tensor in tensors.items()} or None
        self._begun = self._restored is not None

    def __getstate__(self) -> dict[str, Any]:
        """Everything, so that a copy goes on like the original."""
        own = ("_keys", "_begun", "_seed", "_steps", "evaluations", "_restored")
        return {
            **super().__getstate__(),
            **{name: getattr(self, name) for name in own},
            "_state": self._current(),
            "_built": (None, None),
            "_flat": None,
            "_fused": None,
        }

    def _parameters(self) -> Flat:
        """The trainable parameters of all groups.

        Raises:
            RuntimeError: if they are others than in the first step.
        """
        tensors = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if self._flat is not None:
            known = self._flat.tensors
            if len(known) == len(tensors) and all(map(is_, known, tensors)):
                return self._flat
            if self._begun:
                raise RuntimeError(
                    f"{type(self).__name__} has begun with {len(known)} trainable parameters and "
                    f"now there are {len(tensors)}; make a new one where some freeze or thaw"
                )
        self._flat = Flat(tensors)
        return self._flat

    def _method(self, flat: Flat) -> Any:
        """The frozen method that the parameter groups describe now.

        Raises:
            ValueError: if a key differs between groups that must not.
        """
        values = {key: [group[key] for group in self.param_groups] for key in self._keys}
        stamp = repr(values), id(flat)
        if self._built[0] == stamp:
            return self._built[1]
        differing = {key for key, given in values.items() if any(v != given[0] for v in given)}
        for key in differing - set(_PER_COORDINATE):
            raise ValueError(f"{key} must be the same in all parameter groups, got {values[key]}")
        # A step is one closure, whatever the command line makes of an iteration.
        whole = {"batch_size": 0} if "batch_size" in self._signature() else {}
        first = {key: given[0] for key, given in values.items()}
        method = unevaluated(METHODS[self.name](**first, **whole))
        self._built = (stamp, _spread(method, {key: self._joined(key) for key in differing}))
        return self._built[1]

    @classmethod
    def _signature(cls) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(METHODS[cls.name]).parameters

    def _joined(self, key: str) -> Tensor:
        """A key of all groups as a tensor over the whole vector."""
        pieces = [
            torch.full((p.numel(),), float(group[key]), dtype=p.dtype, device=p.device)
            for group in self.param_groups
            for p in group["params"]
            if p.requires_grad
        ]
        return torch.cat(pieces)


def _fitted(stored: Mapping[str, Tensor], template: Any) -> dict[str, Tensor]:
    """The tensors, one count of older versions as one for each parameter."""
    wanted = {path: tensor.shape for path, tensor in to_tensors(template).items()}
    return {
        path: tensor.expand(wanted.get(path, tensor.shape)) if tensor.ndim == 0 else tensor
        for path, tensor in stored.items()
    }


def _spread(method: Any, rates: Mapping[str, Tensor]) -> Any:
    """The method, and the methods inside it, with these rates in place of their numbers."""
    changed = {}
    for entry in fields(method) if rates else ():
        value = getattr(method, entry.name)
        if entry.name in rates:
            changed[entry.name] = rates[entry.name]
        elif is_dataclass(value):
            changed[entry.name] = _spread(value, rates)
    return replace(method, **changed) if changed else method
