"""The units of one point of a task in the order in which they are closest to another's."""

from typing import Any

from torch import Tensor

from cnognp.tasks.problem import Problem
from landscape.alignment import Alignment, align, align_by_activations, symmetry
from landscape.networks import batches as data_batches

ALIGNED = ("weights", "activations")
_FEW, _SEEN = 2, 512  # samples by which units are found, and by whose activations they are matched


def aligned(problem: Problem, a: Tensor, b: Tensor, how: str) -> tuple[Tensor, dict[str, Any]]:
    """The point b with its units in another order, and what was done, in words and numbers.

    Args:
        problem: whose points they are.
        a: (p,), what b is brought close to.
        b: (p,).
        how: ``"weights"`` or ``"activations"``, of the first training samples.

    Raises:
        Untraceable: if the network's units cannot be found.
        ValueError: if there are no units to move, or no such way.
    """
    if how not in ALIGNED:
        raise ValueError(f"align must be one of {', '.join(ALIGNED)}, got {how!r}")
    risk: Any = problem.training
    model = problem.task.model
    few = _inputs(problem, _FEW)
    found = symmetry(model, few)
    done: Alignment
    if how == "weights":
        done = align(found, risk.layout.unflatten(a), risk.layout.unflatten(b))
    else:
        one, other = (problem.at(z).state_dict(z) for z in (a, b))
        done = align_by_activations(found, model, one, other, [_inputs(problem, _SEEN)])
    moved = {name: done.tensors[name].to(b) for name in risk.layout.names}
    units = sum(group.size for group in found.groups)
    return risk.layout.flatten(moved), {
        "by": how, "groups": len(found.groups), "units": units, "before": done.before,
        "after": done.after, "sweeps": done.sweeps, "converged": done.converged,
    }  # fmt: skip


def _inputs(problem: Problem, count: int) -> Any:
    """The inputs of some training samples, as the model takes them."""
    risk: Any = problem.as_given
    batch = data_batches.few(risk.data.first, count)
    return risk.prepared(batch, risk.point_dtype).inputs
