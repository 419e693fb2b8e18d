"""A few coordinates of a large space: slices, line searches, planes."""

from torch import Tensor

from landscape.objective import Derived, Objective, ordinary, value_and_grad


class Restriction(Derived):
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
        self.origin = ordinary(origin)
        self.basis = ordinary(basis).to(self.origin)
        self.dim = basis.shape[0]

    layout = None  # its coordinates are no tensors

    def point(self, t: Tensor) -> Tensor:
        """The point (..., p) at coordinates t (..., k)."""
        return self.origin.to(t) + t @ self.basis.to(t)

    def inside(self, z: Tensor) -> Tensor:
        return self.point(z)

    def value_and_grad(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = value_and_grad(self.parts[0], self.point(t))
        return value, grad @ self.basis.T.to(grad)
