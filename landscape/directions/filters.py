"""Directions to look along: random, from derivatives, between points, along a population, given.

A direction is a vector (p,) of the objective's length, and several are rows (k, p). How long it is
belongs to `normalise`; which directions it leaves to others belongs to `orthogonalise`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.directions.parts import By, blocks
from landscape.networks import Layout

IGNORED = ("norm", "bias")
# What Gram-Schmidt in float64 leaves of a part with no room; a share of its length.
_NOISE = 1e-10
# Numbers that are drawn in float64 together.
_PIECE = 2**20


def random(
    layout: Layout | None,
    z: Float[Tensor, " p"],
    generator: torch.Generator,
    *,
    count: int = 2,
    by: By = "filter",
    ignore: Sequence[str] = IGNORED,
    beside: Float[Tensor, "*known p"] | None = None,
) -> Float[Tensor, "count p"]:
    """Random Gaussian directions, orthogonal within every filter and as long as its weights.

    First each part (see ``by``) of each later direction is made orthogonal to the same part of the
    earlier ones, then all are normalised, so that both properties hold and whole directions are
    orthogonal too. A part with fewer entries than directions has room for no more: later directions
    are zero there. Two directions thus lie in no filter of one entry together, and are orthogonal
    all the same.

    Args:
        layout: names and roles inside the vector; a vector without structure where None, which is
            one filter.
        z: (p,), the point whose weights give the lengths.
        generator: source of the Gaussian numbers.
        count: how many.
        by: as in `normalise`; ``"none"`` gives orthonormal directions without scaling.
        ignore: roles that stay zero.
        beside: directions that exist already, such as an eigenvector: the new ones are orthogonal
            to them too, part by part.

    Returns:
        (count, p) directions.

    Raises:
        ValueError: if ``count`` is not positive, ``by`` is unknown, the layout is not that of z, or
            there is a direction that every part leaves no room for, or no length.

    Reference: filter normalisation, Li et al. (2018), section 4.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    z = z.detach()
    _check_point(layout, z)
    known = z.new_empty((0, len(z)))
    if beside is not None:
        _check_directions(z, beside)
        known = beside.detach().reshape(-1, len(z))
    found = torch.zeros((count, len(z)), dtype=z.dtype, device=z.device)
    for block in blocks(layout, len(z), by, ignore):
        drawn = found[:, block.span]
        for row in drawn:
            _draw(row, generator)
        rows = block.orthogonal(torch.cat([known[:, block.span], drawn]) if len(known) else drawn,
                                _NOISE)[len(known) :]  # fmt: skip
        for row, place in zip(rows, drawn, strict=True):
            place.copy_(block.scaled(row, None if by == "none" else z[block.span]))
    empty = [len(known) + i + 1 for i, u in enumerate(found) if not bool(u.any())]
    if empty:
        raise ValueError(
            f"direction {empty[0]} is zero everywhere: every part has fewer entries than there are "
            f"directions, the point is zero, or a given direction is parallel. Ask for fewer "
            f"directions, or for by='model' or 'none'"
        )
    return found


def orthogonalise(
    layout: Layout | None,
    u: Float[Tensor, "k p"],
    by: By = "filter",
    *,
    ignore: Sequence[str] = IGNORED,
) -> Float[Tensor, "k p"]:
    """The directions ``u`` with each part orthogonal to the same part of the directions before it.

    The first direction stays as it is, apart from what is ignored. To have orthogonal parts and the
    lengths of the weights too, normalise afterwards: scaling a part changes no angle. Where a part
    has no room left (one entry and two directions, parallel parts), it becomes zero. NaN and
    infinite entries stay, and make the same part of later directions NaN.

    Args:
        layout: names and roles inside the vector; one part where None.
        u: (k, p), the directions, the most important one first.
        by: as in `normalise`; whole directions are made orthogonal for ``"model"`` and ``"none"``.
        ignore: roles that become zero.

    Returns:
        (k, p), in the same order.

    Raises:
        ValueError: if ``by`` is unknown or the lengths differ.
    """
    if u.ndim != 2 or (layout is not None and u.shape[-1] != layout.dim):
        wanted = "(k, p)" if layout is None else f"(k, {layout.dim})"
        raise ValueError(f"directions {wanted} are needed, got shape {tuple(u.shape)}")
    noise = max(_NOISE, 16 * torch.finfo(u.dtype).eps)
    u = u.detach()
    found = torch.zeros_like(u)
    for block in blocks(layout, u.shape[-1], by, ignore):
        found[:, block.span] = block.orthogonal(u[:, block.span].clone(), noise)
    return found


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
            an embedding, head of a fused projection; see `landscape.networks.layout.Layout.of`), a
            ``"layer"`` (one tensor), the whole ``"model"``; ``"none"`` only zeroes what is ignored.
        ignore: roles that become zero; normalisation scales and biases unless told otherwise.

    Returns:
        in the shape of u.

    Raises:
        ValueError: if ``by`` is unknown or the lengths differ.
    """
    _check_directions(z, u)
    z = z.detach()
    _check_point(layout, z)
    rows = u.detach().reshape(-1, len(z))
    found = torch.zeros_like(rows)
    for block in blocks(layout, len(z), by, ignore):
        for row, place in zip(rows[:, block.span], found[:, block.span], strict=True):
            part = row.clone()
            place.copy_(block.zeroed(part) if by == "none" else block.scaled(part, z[block.span]))
    return found.reshape(u.shape)


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


def _draw(row: Tensor, generator: torch.Generator) -> None:
    """Nothing; the row gets Gaussian numbers, drawn in float64 piece by piece."""
    for piece in row.split(_PIECE):
        numbers = torch.randn(
            len(piece), generator=generator, dtype=torch.float64, device=generator.device
        )
        piece.copy_(numbers)


def _check_point(layout: Layout | None, z: Tensor) -> None:
    if z.ndim != 1 or (layout is not None and layout.dim != len(z)):
        wanted = "(p,)" if layout is None else f"({layout.dim},)"
        raise ValueError(f"one point {wanted} is needed, got shape {tuple(z.shape)}")


def _check_directions(z: Tensor, u: Tensor) -> None:
    if z.ndim != 1 or u.shape[-1] != len(z):
        raise ValueError(
            f"a point (p,) and directions (..., p) are needed, got {tuple(z.shape)} and "
            f"{tuple(u.shape)}: is a direction of another model?"
        )
