"""A few coordinates of a large space: slices, line searches, planes."""

from collections.abc import Iterator

from torch import Tensor

from landscape.objective import Objective, Term, batched_terms, ordinary, value_and_grad


class Restriction:
    """An objective seen along a few directions: ``t -> objective(origin + t @ basis)``.

    A slice of a network's loss is thereby a function of one or two coordinates. The points in the
    large space exist only while a chunk of them is evaluated.

    Args:
        objective: over vectors of length p.
        origin: (p,), the point at t = 0.
        basis: (k, p), used exactly as given.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def __init__(self, objective: Objective, origin: Tensor, basis: Tensor):
        basis = basis.unsqueeze(0) if basis.ndim == 1 else basis
        if origin.shape != (objective.dim,) or basis.ndim != 2 or basis.shape[1] != objective.dim:
            raise ValueError(
                f"origin must be ({objective.dim},) and basis (k, {objective.dim}), "
                f"got {tuple(origin.shape)} and {tuple(basis.shape)}"
            )
        self.parts = (objective,)
        self.layout = None
        self.origin = ordinary(origin)
        self.basis = ordinary(basis).to(self.origin)
        self.dim = basis.shape[0]

    @property
    def chunk(self) -> int | None:
        return getattr(self.parts[0], "chunk", None)

    def point(self, t: Tensor) -> Tensor:
        """The point (..., p) at coordinates t (..., k)."""
        return self.origin.to(t) + t @ self.basis.to(t)

    inside = point

    def terms(self) -> Iterator[Term]:
        for term in self.parts[0].terms():
            yield lambda t, term=term: term(self.point(t))

    def batched_terms(self) -> Iterator[Term]:
        for term in batched_terms(self.parts[0]):
            yield lambda t, term=term: term(self.point(t))

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = value_and_grad(self.parts[0], self.point(t))
        return value, grad @ self.basis.T.to(grad)
