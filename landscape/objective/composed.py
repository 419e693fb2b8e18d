"""Objectives that are made of others."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from landscape.objective.derivatives import batched_terms, value, value_and_grad
from landscape.objective.protocol import Objective, Term, offered


class Derived:
    """What objectives that are made of others, or wrap another, have in common.

    Whoever asks for what a risk knows of itself (see `Offer`) finds it through ``parts``, so
    that a wrapper passes nothing on by hand. What is not said here of the whole, is said by the
    first part that says it.

    Attributes:
        parts: the objectives inside, at least one.
        dim: the length of the whole's own vector.
    """

    parts: tuple[Any, ...]
    dim: int

    def inside(self, z: Tensor) -> Tensor:
        """The points (..., p) of the parts at points (..., dim) of the whole."""
        return z

    @property
    def value(self) -> Callable[[Tensor], Tensor] | None:
        """The values (n,) at points (n, dim), part by part; None where no part has its own way."""
        if all(offered(part, "value") is None for part in self.parts):
            return None
        return self._own_values

    def _own_values(self, rows: Tensor) -> Tensor:
        first, *others = (value(part, self.inside(rows)) for part in self.parts)
        return sum(others, first)

    @property
    def chunk(self) -> int | None:
        return min(filter(None, (offered(part, "chunk") for part in self.parts)), default=None)

    @property
    def product_chunk(self) -> int | None:
        chunks = (offered(part, "product_chunk") for part in self.parts)
        return min(filter(None, (*chunks, self.chunk)), default=None)

    @property
    def layout(self) -> Any:
        found = (offered(part, "layout") for part in self.parts)
        return next((layout for layout in found if layout is not None), None)

    def terms(self) -> Iterator[Term]:
        for part in self.parts:
            for term in part.terms():
                yield lambda z, term=term: term(self.inside(z))

    def batched_terms(self) -> Iterator[Term]:
        for part in self.parts:
            for term in batched_terms(part):
                yield lambda z, term=term: term(self.inside(z))


class Sum(Derived):
    """The sum of objectives over the same vector, for instance a risk and a `Ridge`.

    Raises:
        ValueError: if the objectives do not have the same length, or none is given.
    """

    def __init__(self, *parts: Objective):
        dims = {part.dim for part in parts}
        if len(dims) != 1:
            raise ValueError(f"objectives of one length are needed, got lengths {sorted(dims)}")
        self.parts = parts
        self.dim = parts[0].dim

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        values, grads = zip(*(value_and_grad(part, z) for part in self.parts), strict=True)
        return sum(values[1:], values[0]), sum(grads[1:], grads[0])

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None, **cut: int
    ) -> Iterator["Sum"]:
        """The first part that has mini-batches in them, each with the other parts whole.

        A sum of which no part has any is its own only mini-batch.
        """
        for place, part in enumerate(self.parts):
            if offered(part, "minibatches") is not None:
                others = (*self.parts[:place], *self.parts[place + 1 :])
                for batch in part.minibatches(size, generator, epochs=epochs, **cut):
                    yield Sum(batch, *others)
                return
        yield from repeat(self) if epochs is None else repeat(self, epochs)

    def steps(self, size: int) -> int:
        """How many mini-batches there are in an epoch."""
        streams = (part for part in self.parts if offered(part, "minibatches") is not None)
        first = next(streams, None)
        return 1 if first is None else first.steps(size)
