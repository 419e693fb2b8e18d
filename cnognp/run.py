"""The one training loop."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import Info, Method
from landscape.objective import Objective
from landscape.randomness import derive


def run(
    method: Method,
    stream: Iterable[Objective],
    z: Float[Tensor, "n p"],
    generator: torch.Generator,
    *,
    state: Any = None,
    start: int = 0,
) -> Iterator[tuple[Any, Info]]:
    """State and info after every step of ``method``, one step for each objective of ``stream``.

    Round k draws from a generator of its own, derived from the seed of ``generator`` and k, so that
    a run that goes on from round k ends like one that never stopped. The stream says when to stop:
    repeat one objective K times, or take K mini-batches.

    Args:
        method: how the population moves.
        stream: one objective per step.
        z: (n, p), where the members start.
        generator: only its seed is used.
        state: the state after ``start`` rounds, to go on from; from ``z`` where None.
        start: how many rounds lie behind ``state``.

    Raises:
        ValueError: if ``z`` does not have two axes, or rounds lie behind a state that is not given.
    """
    if z.ndim != 2:
        raise ValueError(f"a population (members, parameters) is needed, got {tuple(z.shape)}")
    if start and state is None:
        raise ValueError(f"state must be the one after round {start} to go on from there, got None")
    for k, objective in enumerate(stream, start):
        if state is None:
            # Detached, so that no autograd graph grows along the run.
            state = method.init(objective, z.detach())
        state, info = method.step(objective, state, derive(generator, "round", k))
        yield state, info
