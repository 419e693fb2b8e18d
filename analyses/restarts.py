"""Many independent restarts on a test function: where they start, how they go, where they end."""

from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.swarms import together
from cnognp.method import Method
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.objective import Analytic, value


class Plan(NamedTuple):
    """How many start, and for how long they go.

    Attributes:
        restarts: independent starts; of a swarm, independent swarms.
        members: particles in a swarm; other methods ignore it.
        iterations: steps of the method; no limit where None.
        budget: evaluations of each restart, which ends with the step that reaches them; no limit
            where None.
        seed: of the starts, and of everything that the method draws.
    """

    restarts: int
    members: int
    iterations: int | None
    budget: int | None
    seed: int


def starts(function: Analytic, seed: int, *shape: int) -> Tensor:
    """Points (*shape, dim) uniform in the box of the function, in double precision.

    They are ``numpy.random.default_rng(seed).uniform(low, high, size=(*shape, dim))``.

    Raises:
        ValueError: if the box is empty.
    """
    box = np.array(function.box, dtype=float).reshape(-1, 2)
    if len(box) != function.dim or not (box[:, 0] < box[:, 1]).all():
        raise ValueError(
            f"starts are uniform in the box of {function.name or 'the function'}: it must have "
            f"(low, high) with low below high for each of its {function.dim} coordinates, got "
            f"{function.box}"
        )
    low, high = box.T
    drawn = np.random.default_rng(seed).uniform(low, high, size=(*shape, function.dim))
    return torch.from_numpy(drawn)


def walk(
    function: Analytic, method: Method, start: Float[Tensor, "n dim"], plan: Plan
) -> Iterator[tuple[Any, Tensor]]:
    """State and evaluations (n,) after every step, until steps or budget are used up.

    Args:
        function: what is minimised.
        method: how.
        start: where the members start, whatever the numbers of them in the plan.
        plan: how long they go, and the seed.
    """
    stream = islice(repeat(function), plan.iterations)
    generator = torch.Generator("cpu").manual_seed(plan.seed)
    used = torch.zeros(len(start), dtype=torch.float64, device="cpu")
    for state, info in run(method, stream, start, generator):
        own = getattr(state, "evaluations", None)
        used = used + info.evaluations if own is None else own.double()
        yield state, used
        # A member that is lost may never use up its budget.
        lost = ~state.position.isfinite().all(dim=-1)
        if plan.budget is not None and bool(((used >= plan.budget) | lost).all()):
            return


def ends(
    function: Analytic, method: Method, plan: Plan
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"], int]:
    """Start and end of every restart, and the evaluations of all of them.

    A swarm starts from as many points as it has members; its start is the best of them, and its end
    the best point that it has seen.
    """
    if collaborates(method):
        return _swarms(function, method, plan)
    return _walkers(function, method, plan)


def collaborates(method: Method) -> bool:
    """Whether members are drawn to each other, so that a restart is a swarm and not a member."""
    return isinstance(method, Swarm) and bool(method.cognitive or method.social)


def _walkers(function: Analytic, method: Method, plan: Plan) -> tuple[Tensor, Tensor, int]:
    """Start and end of every restart, all restarts at once, and the evaluations."""
    start = starts(function, plan.seed, plan.restarts)
    position, spent = start, torch.zeros(len(start), dtype=torch.float64, device="cpu")
    for state, used in walk(function, method, start, plan):
        if plan.budget is None:
            position, spent = state.position, used
            continue
        # A restart stays where its own budget ended, however far the others still go.
        goes_on = spent < plan.budget
        position = torch.where(goes_on.unsqueeze(-1), state.position, position)
        spent = torch.where(goes_on, used, spent)
    return start, position, round(float(spent.sum()))


def _swarms(function: Analytic, method: Any, plan: Plan) -> tuple[Tensor, Tensor, int]:
    """Start and end of every swarm, all swarms at once, and the evaluations."""
    start = starts(function, plan.seed, plan.restarts, plan.members)
    state: Any = None
    used = torch.zeros((), device="cpu")
    every = together(method, plan.restarts)
    for after, spent in walk(function, every, start.flatten(0, 1), plan):
        state, used = after, spent
    first = _lowest(start, value(function, start))
    last = _lowest(state.best.view_as(start), state.best_fitness.view(start.shape[:-1]))
    return first, last, round(float(used.sum()))


def _lowest(points: Float[Tensor, "n k dim"], heights: Float[Tensor, "n k"]) -> Tensor:
    return points[torch.arange(len(points), device="cpu"), heights.argmin(dim=1)]
