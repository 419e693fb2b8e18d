"""Sharpness-aware optimisers around any other optimiser, for loops with and without closures."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnognp.methods import METHODS, sharpness_aware
from cnognp.methods.composition import OF_TRAINING, Schedule
from cnognp.methods.descent import GradientDescent
from cnognp.methods.hyperparameters import require_not_negative
from cnognp.torch_optim.bases import Base, based
from cnognp.torch_optim.flat import Closure, Flat

# Keywords of the named methods that are none of ours: the base has them, or a step is what it is.
_OF_THE_BASE = ("lr", "momentum", "weight_decay", "base", *OF_TRAINING)
_PER_COORDINATE = ("rho", "eta", "r")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_STATE = "sharpness_aware"
# The formulas need a method to step with; here the base optimiser steps.
NOBODY = GradientDescent(lr=0.0)


class _Begun(NamedTuple):
    """A step of which the first half is done: where it began, and what it found there."""

    here: Closure
    grad: Tensor
    reached: list[bool]
    statistics: list[tuple[Tensor, Tensor]]
    hooks: list[Any]


class SharpnessAware(torch.optim.Optimizer):
    """An optimiser around another one, which steps along the gradient that it makes.

    Parameter groups and state are those of the other optimiser, ``base``, so that a learning rate
    scheduler of either drives both. `step` takes a closure. A loop that has none calls
    `first_step`, computes the gradients once more and calls `second_step`, or ``step()``, which is
    the same. ``evaluations`` counts the gradients so far.

    Args:
        params: tensors or parameter groups. Everything that ``base`` allows may differ between
            groups, and so may ``rho``, ``eta`` and ``r``; one norm is taken over all of them.
        base: ``"sgd"``, ``"adam"`` or ``"adamw"``; a class of optimisers, or a function, that is
            called with ``params`` and the keys that are not ours; or an optimiser of these
            parameters.
        model: whose BatchNorm layers (all modules with running statistics) leave the second
            evaluation out of them. Without it they follow both.
        seed: for nothing; the other optimisers here have one.
        keys: our own keywords, as ``cnognp methods NAME`` lists them, and those of ``base``. One
            that ``base`` has too (the rho of Adadelta) is ours with the name before it,
            ``sam_rho``.

    Raises:
        ValueError: if a key is unknown or out of range, the base needs a closure of its own or has
            other parameters, or the parameters are no real numbers on one device.
    """

    name: str = ""
    # GradScaler then calls `step` whatever it found, and we unscale, or take back the first half.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        base: Base = "sgd",
        *,
        model: nn.Module | None = None,
        seed: int = 0,
        **keys: Any,
    ):
        listed = inspect.signature(METHODS[self.name]).parameters.items()
        options = {key: p.default for key, p in listed if key not in _OF_THE_BASE}
        self.base, self._names = based(type(self).__name__, self.name, options, base, params, keys)
        own = {theirs: keys.get(theirs, options[key]) for key, theirs in self._names.items()}
        self._begun: _Begun | None = None
        super().__init__(self.base.param_groups, own)
        self.defaults = {**self.base.defaults, **own}
        self._share()
        self._model = model
        self._flat: Flat | None = None
        self._steps = self.evaluations = 0
        self._formula(self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, to the base too.

        Raises:
            RuntimeError: if a step has begun.
        """
        if self.param_groups is not self.base.param_groups:
            # Called while this is made, for groups that the base has.
            super().add_param_group(param_group)
            return
        self._refuse_begun("add parameters")
        self.base.add_param_group(param_group)
        for key in self._names.values():
            param_group.setdefault(key, self.defaults[key])

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> Any:  # type: ignore[override]
        """The loss of the first evaluation; the parameters are then moved.

        Args:
            closure: evaluates the model, calls ``backward`` once or, for gradients that accumulate,
                several times, and returns the loss. It is called twice, without gradients at first.
                Leave it out after `first_step`; the loss is then None.

        Raises:
            RuntimeError: if the closure leaves no gradient, or is missing or superfluous. The
                weights are then where they were.
        """
        if closure is None:
            self._finish()
            return None
        self._refuse_begun("take another one by a closure")
        loss = self._evaluated(closure)
        self._begin("the closure must call loss.backward() and return the loss")
        try:
            self._evaluated(closure)
        except BaseException:
            self.undo_first_step()
            raise
        self._finish()
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Moves to the neighbour, where the gradients have then to be computed once more.

        Gradients may be accumulated before, and must be accumulated in the same way after. Those of
        a ``GradScaler`` stay scaled here: call ``unscale_`` only before `second_step`.

        Args:
            zero_grad: clear the gradients afterwards; without that the next ones add up on them.

        Raises:
            RuntimeError: if no parameter has a gradient, or a step has begun.
        """
        self._refuse_begun("begin another one")
        self._begin("call loss.backward() before first_step()")
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """Moves back and takes the step of the base along the gradients from the neighbour.

        Args:
            zero_grad: clear the gradients afterwards.

        Raises:
            RuntimeError: if there was no `first_step`, or no gradient is there. The weights are
                then where they were.
        """
        # By `step`, on which torch's schedulers and hooks listen.
        self.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def undo_first_step(self) -> None:
        """Moves back, with the running statistics as they were; for a loop that gives up a step."""
        if self._begun is None:
            return
        begun, self._begun = self._begun, None
        for hook in begun.hooks:
            hook.remove()
        self._parameters().write(begun.here.position)
        for buffer, value in begun.statistics:
            buffer.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What the base has, and the number of steps and evaluations.

        Raises:
            RuntimeError: if a step has begun; the weights are then not where they belong.
        """
        self._refuse_begun("be stored")
        own = {"steps": self._steps, "evaluations": self.evaluations}
        return {**self.base.state_dict(), _STATE: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Nothing; the optimiser then goes on from where ``state_dict`` was taken.

        Raises:
            RuntimeError: if a step has begun.
            ValueError: if it belongs to another kind of optimiser.
        """
        self._refuse_begun("load another state")
        if _STATE not in state_dict:
            raise ValueError(f"no state of {type(self).__name__}: {_STATE} missing")
        for group in state_dict["param_groups"]:
            if missing := set(self._names.values()) - set(group):
                raise ValueError(
                    f"no state of {type(self).__name__}: its groups lack {min(missing)}"
                )
        theirs = {key: value for key, value in state_dict.items() if key != _STATE}
        self.base.load_state_dict(theirs)
        self._share()
        self._steps = state_dict[_STATE]["steps"]
        self.evaluations = state_dict[_STATE]["evaluations"]

    def __getstate__(self) -> dict[str, Any]:
        """Everything, so that a copy goes on like the original."""
        self._refuse_begun("be copied")
        own = ("base", "_names", "_begun", "_model", "_steps", "evaluations")
        return {
            **super().__getstate__(),
            **{name: getattr(self, name) for name in own},
            "_flat": None,
        }

    def _formula(self, flat: Flat) -> Any:
        """The method whose formulas the parameter groups describe now.

        Raises:
            ValueError: if a key differs between groups that must not, or is out of range.
        """
        for group in self.param_groups:
            require_not_negative("lr", group.get("lr", 0.0))
        values = {}
        for key, theirs in self._names.items():
            given = [group[theirs] for group in self.param_groups]
            values[key] = given[0]
            if any(value != given[0] for value in given):
                if key not in _PER_COORDINATE:
                    raise ValueError(f"{key} must be the same in all parameter groups, got {given}")
                values[key] = self._joined(flat, given)
        decays = {key: values.pop(key) for key in ("schedule", "horizon", "warmup")}
        self._decay = Schedule(**decays).factors()
        return self._described(**values)

    def _described(self, **values: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must say which formulas it is made of")

    def _joined(self, flat: Flat, given: Sequence[float]) -> Tensor:
        """A key of all groups as a tensor over the whole vector."""
        first = flat.tensors[0]
        pieces = [
            torch.full((p.numel(),), float(value), dtype=_width(flat), device=first.device)
            for value, group in zip(given, self.param_groups, strict=True)
            for p in group["params"]
            if p.requires_grad
        ]
        return torch.cat(pieces)

    def _parameters(self) -> Flat:
        """The trainable parameters of all groups."""
        tensors = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        flat = self._flat
        if flat is None or [id(t) for t in flat.tensors] != [id(t) for t in tensors]:
            flat = self._flat = Flat(tensors)
        return flat

    def _evaluated(self, closure: Callable[..., Any]) -> Any:
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        if loss is None:
            raise RuntimeError(f"the closure given to {type(self).__name__} must return the loss")
        return loss

    def _begin(self, advice: str) -> None:
        """Moves to the neighbour and remembers the way back.

        Raises:
            RuntimeError: if no parameter has a gradient; ``advice`` says what to do.
        """
        flat = self._parameters()
        formula, reached = self._formula(flat), _reached(flat)
        if not any(reached):
            raise RuntimeError(f"no parameter of {type(self).__name__} has a gradient: {advice}")
        grad = flat.read_gradients(again=False).to(_width(flat)).unsqueeze(0)
        here = Closure(flat, None, type(self).__name__)
        z = here.position.to(grad.dtype).unsqueeze(0)
        there = z + formula.perturbation(here, z, grad)
        self.evaluations += 1
        hooks: list[Any] = []
        if bool(torch.isfinite(there).all()):
            flat.write(there[0])
        else:
            # After an overflow the second pass stays here: a neighbour that is no number would fill
            # running statistics. Its gradients are none either, for whoever looks for that.
            hooks = [t.register_hook(lambda g: torch.full_like(g, torch.nan)) for t in flat.tensors]
        self._begun = _Begun(here, grad, reached, self._statistics(), hooks)

    def _finish(self) -> None:
        """Moves back and lets the base step, unless a ``GradScaler`` has found an overflow.

        Raises:
            RuntimeError: if no step has begun.
        """
        begun, flat = self._begun, self._parameters()
        if begun is None:
            raise RuntimeError(
                f"{type(self).__name__} evaluates more than one point in a step and needs a "
                "closure: optimiser.step(closure). A loop that has none, as GradScaler takes none, "
                "calls first_step() and computes the gradients once more before step()"
            )
        self.undo_first_step()
        self.evaluations += 1
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and bool(found_inf):
            return
        self._redirect(flat, begun, unscaled=found_inf is not None and scale is None)
        if scale is not None:
            slopes = [p.grad for p in flat.tensors if p.grad is not None]
            torch._foreach_mul_(slopes, float(1 / scale.double()))
        self._step_base()
        self._steps += 1

    def _redirect(self, flat: Flat, begun: _Begun, unscaled: bool) -> None:
        """Puts what the base is to step along into the gradients.

        Raises:
            RuntimeError: if there are none, or they cannot be mixed.
        """
        reached = _reached(flat)
        if not any(reached):
            raise RuntimeError(
                f"no parameter of {type(self).__name__} has a gradient at the neighbour: call "
                "loss.backward() between first_step() and the end of the step"
            )
        slope = flat.read_gradients(again=True).to(begun.grad).unsqueeze(0)
        formula = self._formula(flat)
        direction = formula.mixed(begun.here, begun.grad, slope)
        if direction is slope:
            return
        if isinstance(formula, sharpness_aware.GNP):
            if unscaled:
                raise RuntimeError(
                    "GNP mixes the gradients of both evaluations, and those of the first are still "
                    "scaled: leave unscale_ to GradScaler.step"
                )
            reached = [a or b for a, b in zip(reached, begun.reached, strict=True)]
        pieces = direction[0].split(flat.layout.sizes)
        for tensor, piece, here in zip(flat.tensors, pieces, reached, strict=True):
            if here:
                if tensor.grad is None:
                    tensor.grad = torch.empty_like(tensor)
                tensor.grad.copy_(piece.view_as(tensor))

    def _step_base(self) -> None:
        """A step of the base, at the rates that the schedule gives it for this one."""
        factor = self._decay(self._steps)
        rates = [group.get("lr") for group in self.param_groups]
        try:
            for group in self.param_groups if factor != 1 else ():
                group["lr"] = group["lr"] * factor
            self.base.step()
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                if rate is not None:
                    group["lr"] = rate

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        """The running statistics of the model, and copies of them."""
        modules = () if self._model is None else self._model.modules()
        found = [getattr(module, name, None) for module in modules for name in _STATISTICS]
        return [(buffer, buffer.clone()) for buffer in found if isinstance(buffer, Tensor)]

    def _share(self) -> None:
        """Makes groups and state of the base ours."""
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def _refuse_begun(self, what: str) -> None:
        if self._begun is not None:
            raise RuntimeError(
                f"{type(self).__name__} has begun a step by first_step() and cannot {what} before "
                "second_step() or undo_first_step()"
            )


def _reached(flat: Flat) -> list[bool]:
    return [tensor.grad is not None for tensor in flat.tensors]


def _width(flat: Flat) -> torch.dtype:
    """What norms and sums are computed in: single precision at least."""
    dtype = torch.float32
    for tensor in flat.tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
