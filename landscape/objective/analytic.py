"""Formulas as objectives: test functions and weight decay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from landscape.objective.derivatives import differentiated, ordinary
from landscape.objective.protocol import Term


class Critical(NamedTuple):
    """A critical point of a test function: its place, its value, its Hessian eigenvalues."""

    name: str
    point: tuple[float, ...]
    value: float
    eigenvalues: tuple[float, ...]


@dataclass(frozen=True)
class Analytic:
    """A formula as an objective of one term.

    Args:
        formula: maps (..., dim) to (...); it indexes ``z[..., i]``.
        dim: number of coordinates.
        gradient: maps (..., dim) to (..., dim); automatic differentiation where neither it nor
            ``both`` is given.
        name: how the catalogue and the pictures call it.
        box: (low, high) for each coordinate, the region that one draws and starts in.
        minima: the local minima that are known, flattest first where that is unambiguous.
        saddles: the saddle points that are known.
        maxima: the local maxima that are known.
        both: maps (..., dim) to value and gradient, where these have work in common.

    >>> import torch
    >>> from landscape.objective import value_and_grad
    >>> parabola = Analytic(lambda z: 3 * z[..., 0] ** 2, dim=1)
    >>> value_and_grad(parabola, torch.tensor([2.0], device="cpu"))[1]
    tensor([12.])
    """

    formula: Callable[[Tensor], Tensor]
    dim: int
    gradient: Callable[[Tensor], Tensor] | None = None
    name: str = ""
    box: tuple[tuple[float, float], ...] = ()
    minima: tuple[Critical, ...] = ()
    saddles: tuple[Critical, ...] = ()
    maxima: tuple[Critical, ...] = ()
    both: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def terms(self) -> Iterator[Term]:
        yield self.formula

    def batched_terms(self) -> Iterator[Term]:
        yield self.formula

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.both is not None:
            return self.both(z)
        if self.gradient is None:
            return differentiated(self.formula, z)
        return self.formula(z), self.gradient(z)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Weight decay as an objective: ``weight / 2 * sum_i mask_i z_i^2``.

    Args:
        weight: non-negative strength.
        mask: (p,), 1 for the coordinates that are decayed and 0 for the others; all where None.
        dim: number of coordinates, needed only where ``mask`` is None.

    Raises:
        ValueError: if ``weight`` is negative, or neither ``mask`` nor ``dim`` says how long z is.
    """

    weight: float
    mask: Tensor | None = None
    dim: int = 0

    def __post_init__(self):
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")
        if self.mask is not None:
            if self.dim not in (0, self.mask.numel()):
                raise ValueError(f"dim is {self.dim} but mask has {self.mask.numel()} entries")
            object.__setattr__(self, "mask", ordinary(self.mask))
            object.__setattr__(self, "dim", self.mask.numel())
        if self.dim < 1:
            raise ValueError("Ridge needs a mask, or dim, to know how long the vector is")

    def terms(self) -> Iterator[Term]:
        yield self._value

    def batched_terms(self) -> Iterator[Term]:
        yield self._value

    def _value(self, z: Tensor) -> Tensor:
        weighted = z if self.mask is None else z * self.mask.to(z)
        return self.weight / 2 * (weighted * z).sum(-1)
