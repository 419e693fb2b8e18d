"""The loss along a line and over a plane through a point."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective, check_deterministic, normalisation_of, value
from landscape.restriction import Restriction
from landscape.results import Line, Surface, provenance

Coordinates = Any


def line(
    objective: Objective,
    z: Float[Tensor, " p"],
    direction: Float[Tensor, " p"],
    *,
    alpha: Coordinates = None,
    chunk: int | None = None,
    name: str = "",
) -> Line:
    r"""The loss :math:`f(z + \alpha u)` at every coordinate ``alpha``.

    Args:
        objective: what is evaluated; without random modules.
        z: (p,), the point at alpha = 0.
        direction: (p,), used exactly as given.
        alpha: increasing coordinates in units of the direction; 51 from -1 to 1 where None.
        chunk: number of points evaluated together; the objective's own choice where None.
        name: what the direction is, for the picture.

    Returns:
        ``alpha``, ``loss`` and ``center``, the loss at z itself, evaluated without the slice.

    Raises:
        ValueError: if the direction is zero, not finite or of another length, or the coordinates do
            not increase.
        RuntimeError: if the objective is random.
    """
    z, direction = z.detach(), direction.detach()
    alpha = _coordinates("alpha", alpha)
    loss = _evaluated(objective, z, [direction], [alpha], chunk)
    return Line(
        alpha=alpha,
        loss=loss,
        center=float(value(objective, z)),
        direction=name,
        statistics=normalisation_of(objective),
        provenance=provenance(lengths=_lengths(direction)),
    )


def plane(
    objective: Objective,
    z: Float[Tensor, " p"],
    u: Float[Tensor, " p"],
    v: Float[Tensor, " p"],
    *,
    alpha: Coordinates = None,
    beta: Coordinates = None,
    chunk: int | None = None,
    names: tuple[str, str] = ("u", "v"),
) -> Surface:
    r"""The loss :math:`f(z + \alpha u + \beta v)`: ``loss[i, j]`` belongs to ``alpha[i], beta[j]``.

    Args:
        objective: what is evaluated; without random modules.
        z: (p,), the point at the origin.
        u: (p,), used exactly as given.
        v: (p,), used exactly as given; not parallel to u.
        alpha: increasing coordinates along u; 51 from -1 to 1 where None.
        beta: increasing coordinates along v; 51 from -1 to 1 where None.
        chunk: number of points evaluated together; the objective's own choice where None.
        names: what the directions are, for the picture.

    Raises:
        ValueError: if a direction is zero, not finite, of another length or parallel to the other,
            or the coordinates do not increase.
        RuntimeError: if the objective is random.
    """
    z, u, v = z.detach(), u.detach(), v.detach()
    alpha, beta = _coordinates("alpha", alpha), _coordinates("beta", beta)
    loss = _evaluated(objective, z, [u, v], [alpha, beta], chunk)
    return Surface(
        alpha=alpha,
        beta=beta,
        loss=loss,
        center=float(value(objective, z)),
        directions=names,
        statistics=normalisation_of(objective),
        provenance=provenance(lengths=_lengths(u, v), cosine=_cosine(u, v)),
    )


def _evaluated(
    objective: Objective,
    z: Tensor,
    directions: list[Tensor],
    coordinates: list[np.ndarray],
    chunk: int | None,
) -> np.ndarray:
    for direction in directions:
        if direction.shape != z.shape or z.shape != (objective.dim,):
            raise ValueError(
                f"point and directions must have shape ({objective.dim},), got {tuple(z.shape)} "
                f"and {tuple(direction.shape)}"
            )
        if not bool(torch.isfinite(direction).all()):
            raise ValueError("a direction has NaN or infinite entries")
        if not bool(direction.any()):
            raise ValueError("a direction is zero: there is nothing to see along it")
    if len(directions) == 2 and abs(_cosine(*directions)) > 1 - 1e-6:
        raise ValueError("the two directions are parallel: they span no plane")
    check_deterministic(objective, z)
    restricted = Restriction(objective, z, torch.stack(directions))
    axes = [torch.as_tensor(c, dtype=z.dtype, device=z.device) for c in coordinates]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return value(restricted, grid, chunk=chunk).double().cpu().numpy()


def _coordinates(name: str, given: Coordinates) -> np.ndarray:
    given = np.linspace(-1.0, 1.0, 51) if given is None else given
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    array = array.astype(np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must be at least two coordinates (n,), got shape {array.shape}")
    if not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise ValueError(f"{name} must increase from one finite coordinate to the next")
    return array


def _lengths(*directions: Tensor) -> list[float]:
    return [float(torch.linalg.vector_norm(u.double())) for u in directions]


def _cosine(u: Tensor, v: Tensor) -> float:
    u, v = u.double(), v.double()
    return float(u @ v / (torch.linalg.vector_norm(u) * torch.linalg.vector_norm(v)))
