"""Directions to look along: random, between points, along a population, and how long they are."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.layout import Entry, Layout

By = Literal["filter", "layer", "model", "none"]
IGNORED = ("norm", "bias")


def random(
    layout: Layout | None,
    z: Float[Tensor, " p"],
    generator: torch.Generator,
    *,
    count: int = 2,
    by: By = "filter",
    ignore: Sequence[str] = IGNORED,
) -> Float[Tensor, "count p"]:
    """Random Gaussian directions, orthogonal within every filter and as long as its weights.

    First each part (see ``by``) of each later direction is made orthogonal to the same part of the
    earlier ones, then all are normalised, so that both properties hold and whole directions are
    orthogonal too. A part with fewer entries than directions has room for no more: later directions
    are zero there.

    Args:
        layout: names and roles inside the vector; a vector without structure where None, which is
            one filter.
        z: (p,), the point whose weights give the lengths.
        generator: source of the Gaussian numbers.
        count: how many.
        by: as in `normalise`; ``"none"`` gives orthonormal directions without scaling.
        ignore: roles that stay zero.

    Raises:
        ValueError: if ``count`` is not positive, ``by`` is unknown, or the layout is not that of z.

    Reference: filter normalisation, Li et al. (2018), section 4.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    z = z.detach()
    kept = _kept(layout, z, ignore)
    drawn = torch.randn(
        (count, len(z)), generator=generator, dtype=torch.float64, device=generator.device
    ).to(z.device)
    if layout is None or by in ("model", "none"):
        whole = _orthonormal(drawn * kept).to(z)
        return whole if by == "none" else normalise(layout, z, whole, by=by, ignore=ignore)
    blocks = []
    for entry in layout.entries:
        groups = _groups(drawn[:, entry.span], entry, by)
        groups = _orthonormal(groups.transpose(0, 1)).transpose(0, 1)
        blocks.append(_ungrouped(groups, entry, by))
    return normalise(layout, z, torch.cat(blocks, dim=-1).to(z), by=by, ignore=ignore)


def normalise(
    layout: Layout | None,
    z: Float[Tensor, " p"],
    u: Float[Tensor, "*batch p"],
    by: By = "filter",
    *,
    ignore: Sequence[str] = IGNORED,
) -> Float[Tensor, "*batch p"]:
    r"""The direction ``u`` with every part as long as the same part of ``z``.

    :math:`u_f \leftarrow u_f \, \|z_f\| / \|u_f\|`. A part that is zero in u or in z becomes zero.

    Args:
        layout: names and roles inside the vector; one part where None.
        z: (p,), the point.
        u: directions; leading axes are batch.
        by: what a part is: a ``"filter"`` (output unit of a convolution or a linear layer, row of
            an embedding), a ``"layer"`` (one tensor), the whole ``"model"``; ``"none"`` only
            zeroes what is ignored.
        ignore: roles that become zero; normalisation scales and biases unless told otherwise.

    Raises:
        ValueError: if ``by`` is unknown or the lengths differ.
    """
    if by not in ("filter", "layer", "model", "none"):
        raise ValueError(f"by must be filter, layer, model or none, got {by!r}")
    if z.ndim != 1 or u.shape[-1] != len(z):
        raise ValueError(
            f"a point (p,) and directions (..., p) are needed, got {tuple(z.shape)} and "
            f"{tuple(u.shape)}"
        )
    z = z.detach()
    u = u * _kept(layout, z, ignore).to(u)
    if by == "none":
        return u
    if layout is None or by == "model":
        kept = z * _kept(layout, z, ignore).to(z)
        return _scaled(u.unsqueeze(-2), kept.unsqueeze(0)).squeeze(-2)
    parts = []
    for entry in layout.entries:
        groups = _groups(u[..., entry.span], entry, by)
        own = _groups(z[entry.span], entry, by)
        parts.append(_ungrouped(_scaled(groups, own), entry, by))
    return torch.cat(parts, dim=-1)


def between(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The direction from ``a`` to ``b``: a slice along it is at a for 0 and at b for 1.

    Raises:
        ValueError: if the points have different lengths or are equal.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two points (p,) are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    if torch.equal(a, b):
        raise ValueError("the two points are equal: there is no direction between them")
    return b - a


def pca(
    points: Float[Tensor, "n p"], count: int = 2
) -> tuple[Float[Tensor, "count p"], Float[Tensor, " count"]]:
    """Principal directions (unit, orthogonal) of a cloud of points, and their shares of variance.

    By the eigenvectors of the (n, n) Gram matrix in float64, so that memory grows with n p and not
    with p squared. The largest entry of every direction is positive.

    Args:
        points: (n, p), a population or a trajectory; centred here on its mean.
        count: how many, at most n - 1.

    Raises:
        ValueError: if there are too few points, or they span fewer directions than asked for.
    """
    if points.ndim != 2 or not 1 <= count < len(points):
        raise ValueError(
            f"more than {count} points (n, p) are needed for {count} directions, got shape "
            f"{tuple(points.shape)}"
        )
    centred = points.double() - points.double().mean(0)
    values, columns = torch.linalg.eigh(centred @ centred.T)
    values, columns = values.flip(0).clamp_min(0), columns.flip(1)
    if not float(values[count - 1]) > 1e-12 * float(values.sum()):
        raise ValueError(f"the points span fewer than {count} directions")
    directions = columns[:, :count].T @ centred
    directions = directions / torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    peak = directions.gather(-1, directions.abs().argmax(-1, keepdim=True))
    shares = values[:count] / values.sum()
    return (directions * peak.sign()).to(points), shares.to(points)


def _kept(layout: Layout | None, z: Tensor, ignore: Sequence[str]) -> Tensor:
    if z.ndim != 1 or (layout is not None and layout.dim != len(z)):
        wanted = "(p,)" if layout is None else f"({layout.dim},)"
        raise ValueError(f"one point {wanted} is needed, got shape {tuple(z.shape)}")
    if layout is None:
        return torch.ones(len(z), dtype=torch.bool, device=z.device)
    return layout.mask(lambda entry: entry.role not in ignore, device=z.device)


def _groups(block: Tensor, entry: Entry, by: By) -> Tensor:
    """The parts of a tensor as rows: (..., size) to (..., parts, entries of a part)."""
    if by == "layer" or entry.filter_axis is None:
        return block.unsqueeze(-2)
    shaped = block.reshape(*block.shape[:-1], *entry.shape)
    axis = entry.filter_axis - len(entry.shape)
    return shaped.movedim(axis, block.ndim - 1).flatten(block.ndim)


def _ungrouped(groups: Tensor, entry: Entry, by: By) -> Tensor:
    """The inverse of `_groups`."""
    if by == "layer" or entry.filter_axis is None:
        return groups.squeeze(-2)
    shape = list(entry.shape)
    filters = shape.pop(entry.filter_axis)
    shaped = groups.reshape(*groups.shape[:-2], filters, *shape)
    lead = groups.ndim - 2
    return shaped.movedim(lead, lead + entry.filter_axis).flatten(lead)


def _scaled(groups: Tensor, own: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(groups, dim=-1, keepdim=True)
    wanted = torch.linalg.vector_norm(own, dim=-1, keepdim=True)
    return torch.where(lengths > 0, groups * (wanted / lengths), torch.zeros_like(groups))


def _orthonormal(rows: Tensor) -> Tensor:
    """Gram-Schmidt over the axis before the last, twice; what has no room left becomes zero."""
    done: list[Tensor] = []
    for row in _along(rows):
        start = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        for _ in range(2):
            for other in done:
                row = row - (row * other).sum(-1, keepdim=True) * other
        length = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        room = length > 1e-10 * start
        done.append(torch.where(room, row / length, torch.zeros_like(row)))
    return torch.stack(done, dim=-2)


def _along(rows: Tensor) -> Iterator[Tensor]:
    yield from rows.unbind(-2)
