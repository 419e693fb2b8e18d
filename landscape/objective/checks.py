"""Whether an objective may be measured: one finite function of the vector, judged by its parts."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective.derivatives import value
from landscape.objective.protocol import Objective, leaves, located, offered


def judged(objective: Any, z: Tensor, curvature: bool = True) -> dict[str, Any]:
    """What was checked of an objective and its parts before it is measured at z.

    Raises:
        RuntimeError: if it is no function of the vector, or not one function.
        ValueError: if its batches are weighed by something that is not known.
    """
    found: dict[str, Any] = {}
    for part, place in located(objective, z):
        if (judge := offered(part, "judge")) is not None:
            found |= judge(place, curvature)
    return found


def check_deterministic(
    objective: Objective, z: Float[Tensor, " p"], *, curvature: bool = True
) -> Tensor:
    """The objective at ``z``, a scalar, if it may be measured.

    It has the same value twice, though the second evaluation sees other random numbers than the
    first; it is finite where it is the loss of a network; and it passed its own gate, see
    `landscape.networks.gate`, for values and gradients alone where no ``curvature`` is wanted of a
    very large network. The caller's random state is left as it was.

    Raises:
        RuntimeError: if the two values differ or a module draws random numbers; the message names
            the module where it is known. If the gate is not passed, or under ``torch.autocast``.
        ValueError: if the loss of a network is not finite; the message names the batch.
    """
    if torch.is_autocast_enabled(z.device.type):
        raise RuntimeError(
            "measurements are taken in the type of the point: call this outside of torch.autocast; "
            "mixed precision inside the model's own forward is part of the loss"
        )
    asked = [offered(part, "stochastic_modules") for part in leaves(objective)]
    suspects = [name for ask in asked if ask is not None for name in ask()]
    if not suspects:
        with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
            first, second = value(objective, z), value(objective, z)
        if torch.allclose(first, second, rtol=1e-5, atol=0.0, equal_nan=True):
            if not bool(torch.isfinite(first).all()) and bool(torch.isfinite(z).all()):
                _check_finite(objective, z)
            judged(objective, z, curvature)
            return first
        suspects = [f"unknown: two evaluations gave {float(first):.9g} and {float(second):.9g}"]
    raise RuntimeError(
        "the objective is random, so no measurement of it means anything; found "
        + ", ".join(suspects)
        + _advice(suspects)
    )


def _advice(suspects: list[str]) -> str:
    """What to do about randomness: evaluation mode where that helps, else a seed."""
    calm = any("in training mode" in suspect for suspect in suspects)
    if calm:
        return (
            ". Put these modules in evaluation mode (module.eval()) before building the objective, "
            "or measure one draw of them with seed=0 (--noise-seed 0)"
        )
    if any("draws random" in suspect for suspect in suspects):
        return ". No mode switches that off: measure one draw of it with seed=0 (--noise-seed 0)"
    return (
        ". Is a state kept between calls, or a random number drawn by something else than torch? "
        "Give seed=0 if torch draws it"
    )


def _check_finite(objective: Objective, z: Tensor) -> None:
    """Nothing, unless a network among the parts has a loss that is not finite.

    Raises:
        ValueError: if one has, naming the first batch.
    """
    for part, place in located(objective, z):
        if offered(part, "judge") is None:
            continue
        for number, term in enumerate(part.terms()):
            with torch.inference_mode(False), torch.no_grad():
                found = float(term(place))
            if not abs(found) < float("inf"):
                raise ValueError(
                    f"the loss is {found} on batch {number}, at a point whose numbers are finite: "
                    "look at that batch (no label, a mask over everything, a number that is not "
                    "finite, a logarithm of 0), or let the loss return (sum, weight)"
                )
