"""Principal directions of a cloud of points, without any matrix as large as a point is long."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import widened


def pca(
    points: Float[Tensor, "n p"],
    count: int = 2,
    *,
    center: Float[Tensor, " p"] | None = None,
    memory: int = 2**28,
) -> tuple[Float[Tensor, "count p"], Float[Tensor, " count"]]:
    r"""Principal directions (unit, orthogonal) of a cloud of points, and their shares of variance.

    By the eigenvectors of the (n, n) Gram matrix
    :math:`G_{ij} = (z_i - c)^\top (z_j - c) = \sum_k \lambda_k a_{ik} a_{jk}` in float64, added up
    over blocks of coordinates: memory grows with n squared and not with p squared. Direction k is
    :math:`\sum_i a_{ik} (z_i - c) / \sqrt{\lambda_k}`, and its share
    :math:`\lambda_k / \sum_l \lambda_l` of the squared distances from c is what it explains. The
    largest entry of every direction is positive.

    Args:
        points: (n, p), a population or a trajectory.
        count: how many, at most n.
        center: (p,), the point c that is subtracted: the mean where None. Li et al. (2018), section
            7.2, take the last point of a trajectory.
        memory: bytes for a block of coordinates in float64; the Gram matrix comes on top.

    Returns:
        directions (count, p), the one that explains most first, and shares (count,) of the
        squared distances.

    Raises:
        ValueError: if there are too few points, or they span fewer directions than asked for, or a
            point is not finite.
    """
    most = len(points) - (center is None)
    if points.ndim != 2 or not 1 <= count <= most:
        many = "more than" if center is None else "at least"
        raise ValueError(
            f"{many} {count} points (n, p) are needed for {count} directions, got shape "
            f"{tuple(points.shape)}"
        )
    if center is not None and center.shape != points.shape[1:]:
        raise ValueError(
            f"center must be one point ({points.shape[1]},), got shape {tuple(center.shape)}"
        )
    values, columns = _eigenpairs(points, center, memory)
    if not float(values[count - 1]) > 1e-12 * float(values.sum()):
        raise ValueError(f"the points span fewer than {count} directions")
    weights = columns[:, :count].T / values[:count, None].sqrt()
    directions = torch.empty((count, points.shape[1]), dtype=points.dtype, device=points.device)
    squares = torch.zeros(count, dtype=torch.float64, device=values.device)
    for span, block in _blocks(points, center, memory):
        piece = weights @ block
        squares += piece.square().sum(-1)
        directions[:, span] = piece.to(points)
    directions /= squares.sqrt()[:, None].to(points)
    peak = directions.gather(-1, directions.abs().argmax(-1, keepdim=True))
    shares = values[:count] / values.sum()
    return directions * peak.sign(), shares.to(points)


def _eigenpairs(points: Tensor, center: Tensor | None, memory: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues of the Gram matrix, descending, and the eigenvectors in columns.

    Raises:
        ValueError: if a point is not finite.
    """
    gram: Tensor | float = 0.0
    for _, block in _blocks(points, center, memory):
        gram = gram + block @ block.T
    if not isinstance(gram, Tensor) or not bool(torch.isfinite(gram).all()):
        raise ValueError("the points have NaN or infinite entries, or none at all")
    values, columns = torch.linalg.eigh(gram)
    return values.flip(0).clamp_min(0), columns.flip(1)


def _blocks(points: Tensor, center: Tensor | None, memory: int) -> Iterator[tuple[slice, Tensor]]:
    """Where each block of coordinates lies, and the points there in float64, centred."""
    n, p = points.shape
    # The block itself, and what centring it takes.
    step = max(1, memory // (8 * 2 * n))
    for start in range(0, p, step):
        span = slice(start, min(start + step, p))
        block = widened(points[:, span].detach())
        middle = block.mean(0) if center is None else widened(center[span].detach()).to(block)
        yield span, block - middle
