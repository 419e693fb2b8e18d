"""The methods as optimisers of torch, for people who keep their own training loop.

    optimiser = SAM(model.parameters(), lr=0.1, rho=0.05)

    def closure():
        loss = criterion(model(inputs), target)
        loss.backward()
        return loss

    optimiser.step(closure)

A step may evaluate several points, so that it takes a closure. The gradients are cleared before
every call of it; whatever it does to them after ``backward`` (clipping, for one) counts.
``torch.autocast`` with bfloat16 works inside the closure. ``torch.amp.GradScaler`` takes no closure
and rescales gradients of one evaluation only: methods that need several refuse it.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cnognp.methods import METHODS
from cnognp.state import from_arrays, to_arrays
from landscape.layout import Entry, Layout
from landscape.objective import Term
from landscape.randomness import derive

# What may differ between parameter groups: one number per coordinate does.
_PER_COORDINATE = ("lr", "weight_decay")
_NOT_HERE = ("batch_size",)


class MethodOptimizer(torch.optim.Optimizer):
    """A population method with one member as a ``torch.optim.Optimizer``.

    Args:
        params: tensors or parameter groups. ``lr`` and ``weight_decay`` may differ between groups;
            every other key must agree.
        seed: of whatever the method draws.
        keys: the method's own keywords, as ``cnognp methods NAME`` lists them.

    Raises:
        ValueError: if a key is unknown or out of range.
    """

    name: str = ""

    def __init__(self, params: Iterable[Any], *, seed: int = 0, **keys: Any):
        parameters = self._signature().items()
        known = {k: p.default for k, p in parameters if k not in _NOT_HERE}
        unknown = set(keys) - set(known)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no option {sorted(unknown)[0]!r}; there are "
                f"{', '.join(known)}"
            )
        self._keys = tuple(known)
        super().__init__(params, {**known, **keys})
        self._generator = torch.Generator(device="cpu").manual_seed(seed)
        self._steps = 0
        self._state: Any = None
        self._restored: dict[str, Tensor] | None = None
        self._built: tuple[Any, Any] = (None, None)
        self._method()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """The loss at the parameters as they were, which are then moved.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss. Without it the
                gradients that are there are used, which is enough for methods that need one.

        Raises:
            RuntimeError: if the closure leaves no gradient, or a method that needs several
                evaluations gets no closure.
        """
        method = self._method()
        tensors = [p for group in self.param_groups for p in group["params"]]
        objective = Closure(tensors, closure, type(self).__name__)
        z = objective.position.unsqueeze(0)
        if self._state is None:
            self._state = method.init(objective, z)
            if self._restored is not None:
                arrays = {path: t.cpu().numpy() for path, t in self._restored.items()}
                self._state = from_arrays(self._state, arrays)
                self._restored = None
        state = self._state._replace(position=z)
        draws = derive(self._generator, "round", self._steps)
        try:
            self._state, _ = method.step(objective, state, draws)
        except BaseException:
            objective.move(z[0])
            raise
        self._steps += 1
        objective.move(self._state.position[0])
        return objective.first_loss

    def state_dict(self) -> dict[str, Any]:
        """Parameter groups, the method's state by path, and the number of steps."""
        packed = super().state_dict()
        arrays = {} if self._state is None else to_arrays(self._state)
        tensors = {path: torch.from_numpy(array) for path, array in arrays.items()}
        tensors = tensors or dict(self._restored or {})
        seed = self._generator.initial_seed()
        return {**packed, "method": tensors, "steps": self._steps, "seed": seed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Nothing; the optimiser then goes on from where ``state_dict`` was taken.

        Raises:
            ValueError: if it belongs to another kind of optimiser.
        """
        missing = {"method", "steps", "seed"} - set(state_dict)
        if missing:
            raise ValueError(
                f"no state of {type(self).__name__}: {', '.join(sorted(missing))} missing"
            )
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._generator = torch.Generator(device="cpu").manual_seed(state_dict["seed"])
        self._steps = state_dict["steps"]
        self._state = None
        tensors = {path: tensor.clone() for path, tensor in state_dict["method"].items()}
        self._restored = tensors or None

    def _method(self) -> Any:
        """The frozen method that the parameter groups describe now.

        Raises:
            ValueError: if a key differs between groups that must not.
        """
        values = {key: [group[key] for group in self.param_groups] for key in self._keys}
        stamp = repr(values)
        if self._built[0] == stamp:
            return self._built[1]
        differing = {key for key, given in values.items() if any(v != given[0] for v in given)}
        for key in differing - set(_PER_COORDINATE):
            raise ValueError(f"{key} must be the same in all parameter groups, got {values[key]}")
        # A step is one closure, whatever the command line makes of an iteration.
        whole = {key: 0 for key in _NOT_HERE if key in self._signature()}
        first = {key: given[0] for key, given in values.items()}
        method = METHODS[self.name](**first, **whole)
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
        ]
        return torch.cat(pieces)


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


class Closure:
    """A closure that calls ``backward`` as an objective over the flat vector of its parameters.

    Args:
        tensors: the parameters.
        closure: evaluates and differentiates at the parameters as they are.
        name: of the optimiser, for messages.
    """

    chunk = 1

    def __init__(self, tensors: list[Tensor], closure: Callable[[], Any] | None, name: str):
        self._tensors, self._closure, self._name = tensors, closure, name
        self.layout = _layout(tensors)
        self.dim = self.layout.dim
        self.position = torch.cat([t.detach().reshape(-1) for t in tensors])
        self._here: Tensor | None = self.position
        self._evaluations = 0
        self.first_loss: Any = None

    def terms(self) -> Iterator[Term]:
        """Nothing: a closure cannot be differentiated twice.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{self._name} needs more than values and gradients of its objective, and a closure "
            "gives no more; use the method on an EmpiricalRisk"
        )

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient at the one row of z.

        Raises:
            RuntimeError: if there is no closure to ask, or it leaves no gradient.
        """
        self.move(z[0])
        loss = self._evaluate()
        grads = [t.grad for t in self._tensors]
        if all(grad is None for grad in grads):
            raise RuntimeError(
                f"no parameter of {self._name} has a gradient: the closure must call "
                "loss.backward() and return the loss"
            )
        flat = torch.cat([
            torch.zeros_like(t).reshape(-1) if grad is None else grad.detach().reshape(-1)
            for t, grad in zip(self._tensors, grads, strict=True)
        ]).to(z)
        number = loss.detach().to(z) if isinstance(loss, Tensor) else z.new_tensor(loss)
        return number.reshape(1), flat.unsqueeze(0)

    def move(self, z: Tensor) -> None:
        """Writes z into the parameters, unless it is there."""
        if self._here is not None and (z is self._here or z.data_ptr() == self._here.data_ptr()):
            return
        pieces = z.split(self.layout.sizes)
        shaped = [piece.view_as(t) for piece, t in zip(pieces, self._tensors, strict=True)]
        torch._foreach_copy_([t.detach() for t in self._tensors], shaped)
        self._here = z

    def _evaluate(self) -> Any:
        self._evaluations += 1
        if self._closure is None:
            if self._evaluations > 1:
                raise RuntimeError(
                    f"{self._name} evaluates more than one point in a step and needs a closure: "
                    "optimiser.step(closure). GradScaler takes none; use bfloat16 autocast"
                )
            return math.nan
        for tensor in self._tensors:
            tensor.grad = None
        with torch.enable_grad():
            loss = self._closure()
        if loss is None:
            raise RuntimeError(f"the closure given to {self._name} must return the loss")
        if self._evaluations == 1:
            self.first_loss = loss
        return loss


def _layout(tensors: list[Tensor]) -> Layout:
    """Roles as far as shapes tell: more than three axes is a convolution, two is a linear layer."""
    entries, offset = [], 0
    for k, tensor in enumerate(tensors):
        role = {0: "other", 1: "bias", 2: "linear"}.get(tensor.ndim, "convolution")
        axis = 0 if tensor.ndim > 1 else None
        entries.append(Entry(f"parameter{k}", tuple(tensor.shape), offset, role, axis))
        offset += tensor.numel()
    return Layout(tuple(entries))


class SGD(MethodOptimizer):
    """Stochastic gradient descent with momentum."""

    name = "sgd"


class NormalisedGD(MethodOptimizer):
    """Gradient descent along the unit gradient."""

    name = "normalised-gd"


class Adam(MethodOptimizer):
    """Adam with coupled weight decay."""

    name = "adam"


class AdamW(MethodOptimizer):
    """Adam with decoupled weight decay."""

    name = "adamw"


class NiG(MethodOptimizer):
    """Gradient descent with noise in the gradient."""

    name = "nig"


class NiM(MethodOptimizer):
    """Gradient descent with noise in the model where the gradient is small."""

    name = "nim"


class SAM(MethodOptimizer):
    """Sharpness-aware minimisation: two evaluations in a step, so it needs a closure."""

    name = "sam"


class ASAM(MethodOptimizer):
    """Adaptive sharpness-aware minimisation: two evaluations in a step, so it needs a closure."""

    name = "asam"


class GCSAM(MethodOptimizer):
    """SAM with a centralised ascent: two evaluations in a step, so it needs a closure."""

    name = "gcsam"


class GNP(MethodOptimizer):
    """Gradient norm penalty by a second gradient: two evaluations, so it needs a closure."""

    name = "gnp"
