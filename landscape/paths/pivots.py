"""Points in a row along a path: how far they are apart, and how they are spread evenly again."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from landscape.objective import widened
from landscape.paths.curves import Curve

Rows = Float[Tensor, "n p"]


def distances(pivots: Rows) -> Float[np.ndarray, " n"]:
    """The length of the chain up to each pivot, in float64."""
    steps = torch.linalg.vector_norm(widened(pivots.diff(dim=0)), dim=-1)
    return np.append(0.0, np.cumsum(steps.cpu().numpy()))


def between(a: Float[Tensor, " p"], b: Float[Tensor, " p"], count: int) -> Rows:
    """Both ends and so many pivots on the line between them."""
    t = torch.linspace(0, 1, count + 2, dtype=a.dtype, device=a.device).unsqueeze(-1)
    rows = torch.lerp(a, b, t)
    rows[0], rows[-1] = a, b
    return rows


def spread(pivots: Rows, fixed: int | None = None) -> Rows:
    """The pivots at equal distances along their chain; the ends stay, and so does a fixed one."""
    if fixed is not None and 0 < fixed < len(pivots) - 1:
        left, right = spread(pivots[: fixed + 1]), spread(pivots[fixed:])
        return torch.cat([left, right[1:]])
    if len(pivots) < 3:
        return pivots
    at = distances(pivots)
    even = np.linspace(0.0, at[-1], len(at))
    place = np.clip(np.searchsorted(at, even, side="right") - 1, 0, len(at) - 2)
    gap = at[place + 1] - at[place]
    part = np.divide(even - at[place], gap, out=np.zeros_like(even), where=gap > 0)
    weight = torch.as_tensor(part, dtype=pivots.dtype, device=pivots.device).unsqueeze(-1)
    index = torch.as_tensor(place, device=pivots.device)
    rows = torch.lerp(pivots[index], pivots[index + 1], weight)
    rows[0], rows[-1] = pivots[0], pivots[-1]
    return rows


def tangents(pivots: Float[Tensor, "n p"], losses: Float[Tensor, " n"]) -> Float[Tensor, "inner p"]:
    """The unit tangents at the inner pivots, each towards its higher neighbour.

    At a maximum or minimum of the losses both sides count, the higher neighbour's by the larger
    difference of losses (Henkelman & Jonsson 2000).
    """
    ahead, behind = pivots[2:] - pivots[1:-1], pivots[1:-1] - pivots[:-2]
    rise, fall = (losses[2:] - losses[1:-1]), (losses[:-2] - losses[1:-1])
    large, small = torch.maximum(rise.abs(), fall.abs()), torch.minimum(rise.abs(), fall.abs())
    higher_ahead = losses[2:] > losses[:-2]
    weight_ahead = torch.where(higher_ahead, large, small).unsqueeze(-1)
    weight_behind = torch.where(higher_ahead, small, large).unsqueeze(-1)
    both = weight_ahead * ahead + weight_behind * behind
    up, down = (rise > 0) & (fall < 0), (rise < 0) & (fall > 0)
    found = torch.where(up.unsqueeze(-1), ahead, torch.where(down.unsqueeze(-1), behind, both))
    # Where all three losses are equal, both sides count alike.
    flat = torch.linalg.vector_norm(found, dim=-1, keepdim=True) == 0
    found = torch.where(flat, ahead + behind, found)
    norms = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
    return found / norms.clamp_min(torch.finfo(found.dtype).tiny)


def spline(pivots: Rows, chords: int = 2000) -> Curve:
    """The natural cubic spline through pivots that are at different places."""
    at = distances(pivots)
    # Two pivots that have met would be one knot.
    gaps = np.maximum(np.diff(at), 1e-9 * at[-1])
    knots = np.append(0.0, np.cumsum(gaps / gaps.sum()))
    knots[-1] = 1.0
    weights = CubicSpline(knots, np.eye(len(pivots))[:, 1:], bc_type="natural")
    return Curve(pivots[0], pivots[-1], pivots[1:] - pivots[0], weights, knots, chords)
