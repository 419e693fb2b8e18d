"""The optimiser that another one wraps: made from a name or a class, or taken as it is."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

Base = str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer]

_NAMED = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def based(
    kind: str,
    prefix: str,
    options: Mapping[str, Any],
    base: Base,
    params: Iterable[Any],
    keys: Mapping[str, Any],
) -> tuple[torch.optim.Optimizer, dict[str, str]]:
    """The optimiser that does the steps, and what the wrapper's own options are called beside it.

    Args:
        kind: class of the wrapper, for messages.
        prefix: put before those options that the base has too.
        options: the wrapper's own, with their defaults.
        base: as in `cnognp.torch_optim.SharpnessAware`.
        params: likewise.
        keys: what was given, for wrapper and base.

    Raises:
        ValueError: if there is no such base, it needs a closure or has other parameters, or a key
            is unknown.
    """
    if isinstance(base, str) and base in _NAMED:
        base, keys = _NAMED[base], {"lr": 0.1, "weight_decay": 0.0, **keys}
    if not callable(base) and not isinstance(base, torch.optim.Optimizer):
        known = ", ".join(_NAMED)
        raise ValueError(f"base must be one of {known} or an optimiser, got {base!r}")
    made = isinstance(base, torch.optim.Optimizer)
    taken = base.defaults if made else inspect.signature(base).parameters  # type: ignore[union-attr, arg-type]
    names = {key: f"{prefix}_{key}" if key in taken else key for key in options}
    theirs = {key: value for key, value in keys.items() if key not in names.values()}
    if isinstance(base, torch.optim.Optimizer):
        if theirs:
            raise ValueError(f"{min(theirs)} belongs to the optimiser that is given as base")
        _check_parameters(base, params)
    else:
        unknown = set(theirs) - set(taken)
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            known = ", ".join([*names.values(), *list(taken)[1:]])
            raise ValueError(f"{kind} has no option {min(unknown)!r}; there are {known}")
        base = base(params, **theirs)
    _check_step(base)
    return base, names


def _check_parameters(base: torch.optim.Optimizer, params: Iterable[Any]) -> None:
    """Nothing, if the base has the parameters given.

    Raises:
        ValueError: if it has not.
    """
    given: list[Any] = []
    for entry in params:
        inside = entry["params"] if isinstance(entry, dict) else [entry]
        given += [p[1] if isinstance(p, tuple) else p for p in inside]
    held = [p for group in base.param_groups for p in group["params"]]
    if {id(p) for p in given} != {id(p) for p in held}:
        raise ValueError(
            f"the optimiser given as base has {len(held)} tensors that are not the {len(given)} "
            "given as params; give it the same ones"
        )


def _check_step(base: torch.optim.Optimizer) -> None:
    """Nothing, if the base steps without a closure.

    Raises:
        ValueError: if it does not.
    """
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{type(base).__name__} needs a closure of its own; the base must step along the "
            "gradients that are there"
        )
