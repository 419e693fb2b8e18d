"""Directions that something else points out: derivatives, an optimiser's state, a file."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape import spectrum
from landscape.networks import Layout
from landscape.objective import Objective, check_deterministic, value_and_grad
from landscape.results import Spectrum


def eigenvectors(
    source: Objective | Spectrum, z: Float[Tensor, " p"], k: int = 2, **options: Any
) -> Float[Tensor, "k p"]:
    """Unit eigenvectors of the Hessian: those of a `Spectrum`, or computed at ``z``.

    They come in the order of the spectrum, each with its largest entry positive. Pairs that did not
    converge are given too, with a warning.

    Args:
        source: a spectrum with vectors, of which the first k are taken, or an objective.
        z: (p,), the point; gives dtype and device.
        k: how many.
        options: for an objective, what `landscape.spectrum.top_eigenpairs` takes: ``which``,
            ``tolerance``, ``generator`` and so on.

    Returns:
        (k, p), of norm 1, in the type and on the device of z.

    Raises:
        ValueError: if the spectrum has no vectors, too few, or those of another model, or the
            Hessian is not finite at z.
    """
    if not isinstance(source, Spectrum):
        source = spectrum.top_eigenpairs(source, z, k, **options)
    elif options:
        raise ValueError(f"a spectrum is computed already, so {sorted(options)} change nothing")
    vectors = source.vectors
    if vectors is None:
        raise ValueError(
            f"the spectrum has no vectors ({source.status}): compute it with vectors=True"
        )
    if not 1 <= k <= len(vectors) or vectors.shape[1:] != z.shape:
        raise ValueError(
            f"{k} vectors of length {z.numel()} are needed, and the spectrum has the shape "
            f"{vectors.shape}: is it of another model?"
        )
    if not source.converged[:k].all():
        loose = [i + 1 for i, good in enumerate(source.converged[:k]) if not good]
        warnings.warn(f"eigenvectors {loose} did not converge: {source.status}", stacklevel=2)
    return torch.tensor(vectors[:k], dtype=z.dtype, device=z.device)


def gradient(objective: Objective, z: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    r"""The gradient :math:`\nabla f(z)`: uphill for positive steps, not normalised.

    Raises:
        ValueError: if it is zero or not finite.
        RuntimeError: if the objective is random.
    """
    check_deterministic(objective, z)
    _, slope = value_and_grad(objective, z.detach())
    return _sound(slope.detach(), "the gradient")


def moments(
    layout: Layout,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    kind: Literal["first", "update"] = "first",
) -> Float[Tensor, " p"]:
    r"""A direction that the state of an optimiser has gathered: uphill for positive steps.

    ``"first"`` is the running mean of gradients: ``exp_avg`` of Adam and its kin, else
    ``momentum_buffer``. ``"update"`` is what Adam subtracts for a learning rate of 1 without weight
    decay: :math:`\hat m / (\sqrt{\hat v} + \epsilon)` with
    :math:`\hat m = m / (1 - \beta_1^t)` and :math:`\hat v = v / (1 - \beta_2^t)` (Kingma and Ba,
    2015, algorithm 1). Parameters that the optimiser has not moved are zero there. Nothing is
    changed.

    Args:
        layout: of the model.
        model: whose parameters the optimiser moves.
        optimiser: after at least one step, or with a loaded state.
        kind: which one.

    Returns:
        (p,), not normalised.

    Raises:
        ValueError: if ``kind`` is unknown, or the state is of another model, has no such moments,
            or is empty.
    """
    if kind not in ("first", "update"):
        raise ValueError(f"kind must be first or update, got {kind!r}")
    groups = {p: group for group in optimiser.param_groups for p in group["params"]}
    tensors, moved = {}, False
    for name, parameter in model.named_parameters():
        tensors[name] = torch.zeros_like(parameter, requires_grad=False)
        if parameter in groups and optimiser.state.get(parameter):
            tensors[name] = _moment(optimiser, parameter, groups[parameter], kind)
            moved = True
    if not moved:
        raise ValueError(
            f"{type(optimiser).__name__} has no state for the parameters of this "
            f"{type(model).__name__}: take a step, load a state, or give the model that it moves"
        )
    return _sound(layout.flatten(tensors), "the moment")


def given(
    layout: Layout,
    direction: Tensor | Mapping[str, Any] | Sequence[Any],
    z: Float[Tensor, " p"] | None = None,
    *,
    drop: Collection[str] = (),
) -> Float[Tensor, " p"]:
    """The vector of a direction that comes from elsewhere, checked against the layout.

    Args:
        layout: of the model that is looked at.
        direction: a vector (p,); tensors or arrays by parameter name; or one for each parameter, in
            the order of the layout.
        z: a point; gives dtype and device. Those of the direction where None.
        drop: names to leave out, such as the buffers in the difference of two state dicts.

    Returns:
        (p,), in the order of the layout.

    Raises:
        ValueError: if names, shapes or the length are those of another model, or an entry is not
            finite, or all are zero.
    """
    if isinstance(direction, Tensor):
        if direction.shape != (layout.dim,):
            raise ValueError(
                f"a direction ({layout.dim},) is needed, got shape {tuple(direction.shape)}: is it "
                f"of another model?"
            )
        flat = direction.detach()
    else:
        if not isinstance(direction, Mapping):
            if len(direction) != len(layout.names):
                raise ValueError(
                    f"the direction has {len(direction)} tensors and the model "
                    f"{len(layout.names)}: is it of another model, or of a state dict with buffers?"
                )
            direction = dict(zip(layout.names, direction, strict=True))
        tensors = {
            name: t.detach() if isinstance(t, Tensor) else torch.as_tensor(t, device="cpu")
            for name, t in direction.items()
            if name not in drop
        }
        strange = sorted(tensors.keys() - set(layout.names))
        missing = [name for name in layout.names if name not in tensors]
        if strange or missing:
            raise ValueError(
                f"the direction is of another model: it lacks {missing[:5]} and has "
                f"{strange[:5]}; name buffers in drop"
            )
        flat = layout.flatten(tensors)
    return _sound(flat if z is None else flat.to(z), "the direction")


def _moment(
    optimiser: torch.optim.Optimizer, parameter: Tensor, group: Mapping[str, Any], kind: str
) -> Tensor:
    state, name = optimiser.state[parameter], type(optimiser).__name__
    first = state.get("exp_avg", state.get("momentum_buffer"))
    if first is None:
        raise ValueError(f"{name} keeps {sorted(state)}, and neither exp_avg nor momentum_buffer")
    if kind == "first":
        return first
    second = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if second is None or "exp_avg" not in state:
        raise ValueError(f"{name} keeps {sorted(state)}, and no exp_avg_sq: use kind='first'")
    (beta1, beta2), step = group["betas"], float(state["step"])
    scale = (second / (1 - beta2**step)).sqrt() + group["eps"]
    return first / (1 - beta1**step) / scale


def _sound(u: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(u).all()):
        raise ValueError(f"{what} has NaN or infinite entries")
    if not bool(u.any()):
        raise ValueError(f"{what} is zero: there is nothing to see along it")
    return u
