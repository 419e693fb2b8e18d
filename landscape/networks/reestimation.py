"""Risks whose evaluation differs from their training: statistics of each point, mini-batches."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.networks.risk import Risk
from landscape.objective import Derived, Sum, Term, value, value_and_grad


class Reestimated(Derived):
    """A risk whose BatchNorm statistics are, at every point, those of the network at that point.

    The value at z is that of ``risk.reestimated(z, samples)`` at z. Derivatives hold the statistics
    fixed.
    """

    chunk = 1

    def __init__(self, risk: Risk, samples: Any = None):
        self.risk = risk
        self.parts = (risk,)
        self.estimation = samples
        self.dim = risk.dim
        how = "re-estimated at every point (batches by themselves), held fixed"
        self.normalisation = how if risk.normalisation else ""
        self._last: tuple[Tensor, Risk] | None = None

    def at(self, z: Float[Tensor, " p"]) -> Risk:
        """The frozen risk that belongs to ``z``; the last one is kept, with a copy of its point."""
        if torch.is_inference_mode_enabled():
            return self.risk.reestimated(z.detach(), self.estimation)
        known = self._last
        if known is None or not _equal(known[0], z):
            own = z.detach().clone()
            known = self._last = own, self.risk.reestimated(own, self.estimation)
        return known[1]

    def terms(self) -> Iterator[Term]:
        for term in self.batched_terms():
            yield lambda z, term=term: term(z.unsqueeze(0))[0]

    def batched_terms(self) -> Iterator[Term]:
        held: list[tuple[tuple[int, int], Tensor, list[list[Term]]]] = []

        def parts(rows: Tensor) -> list[list[Term]]:
            # All terms are asked for the same rows, whose statistics are estimated once. The rows
            # are held, so that no others can lie in their memory.
            mark = rows.data_ptr(), 0 if rows.is_inference() else rows._version
            if not held or held[0][0] != mark or held[0][1].shape != rows.shape:
                held[:] = [(mark, rows, [list(self.at(row).terms()) for row in rows])]
            return held[0][2]

        for place in range(len(self.risk.data.batches)):
            yield lambda rows, i=place: torch.stack([
                terms[i](row) for terms, row in zip(parts(rows), rows, strict=True)
            ])

    def value(self, rows: Tensor) -> Tensor:
        # Point by point: from term to term, every point would be estimated anew.
        return torch.stack([value(self.at(row), row) for row in rows])

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [value_and_grad(self.at(row), row) for row in z]
        values, grads = zip(*pairs, strict=True)
        return torch.stack(values), torch.stack(grads)


def _equal(one: Tensor, other: Tensor) -> bool:
    alike = one.dtype == other.dtype and one.device == other.device
    return alike and torch.equal(one, other)


def reestimated(objective: Any) -> Any:
    """The objective with the statistics of every risk inside it re-estimated at every point."""
    if isinstance(objective, Risk):
        return Reestimated(objective) if objective.normalisation else objective
    if isinstance(objective, Sum):
        return Sum(*map(reestimated, objective.parts))
    return objective


def normalised_by_batch(objective: Any) -> Any:
    """The objective with every risk inside it as training sees it: BatchNorm takes the batch."""
    if isinstance(objective, Reestimated):
        return normalised_by_batch(objective.risk)
    if isinstance(objective, Risk):
        return objective.normalised_by_batch() if objective.normalisation else objective
    if isinstance(objective, Sum):
        return Sum(*map(normalised_by_batch, objective.parts))
    return objective


class Stochastic(Derived):
    """One risk to be evaluated and another to draw mini-batches from.

    A network that trains with dropout and batch statistics is judged without the one and with
    re-estimated others. Values and derivatives are those of ``evaluation``; ``minibatches`` are
    those of ``training``.

    Args:
        evaluation: any objective.
        training: a risk over the same vector.
    """

    def __init__(self, evaluation: Any, training: Risk):
        self.parts = (evaluation,)
        self.training = training
        self.dim = training.dim

    @property
    def layout(self) -> Any:
        return self.training.layout

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_grad(self.parts[0], z)

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None, parts: int = 1
    ) -> Iterator[Risk]:
        """The mini-batches of the risk that is trained on."""
        return self.training.minibatches(size, generator, epochs=epochs, parts=parts)

    def steps(self, size: int) -> int:
        """How many of them there are in an epoch."""
        return self.training.steps(size)
