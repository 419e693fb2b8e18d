"""Populations, trajectories and end points in a few coordinates: PCA and kernel PCA."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA, KernelPCA
from torch import Tensor

from landscape.results import provenance
from landscape.results.embedding import Embedding

Kind = Literal["pca", "rbf"]


def embedding(
    points: Tensor | np.ndarray,
    *,
    kind: Kind = "pca",
    components: int = 2,
    gamma: float | None = None,
    names: Sequence[str] = (),
    groups: Sequence[str] = (),
    new: Tensor | np.ndarray | None = None,
    new_names: Sequence[str] = (),
) -> Embedding:
    r"""The points in the coordinates of their principal components, by scikit-learn.

    For ``"rbf"`` the components are those of the centred kernel matrix
    :math:`\exp(-\gamma \lVert x_i - x_j \rVert^2)`, an eigenvector :math:`a` of eigenvalue
    :math:`l` scaled to :math:`\sqrt l\, a`. Nearly orthogonal points of a large space all have
    kernels near :math:`\exp(-\gamma (r_i^2 + r_j^2))`: the first component then mostly sorts by
    the distance ``radius`` from the origin. Networks have symmetries, so that directions mean
    something only between points of one basin, or aligned ones; distances to the origin do not
    depend on that.

    Args:
        points: (n, p), at least 2 that differ, finite.
        kind: ``"pca"`` or ``"rbf"``.
        components: how many, at most n - 1 and p.
        gamma: of the kernel, positive; 1 / p where None (Yu & Morozov 2026).
        names: of the points; numbers where none are given.
        groups: the name of each point's group; one group where none are given.
        new: (m, p), points that are projected.
        new_names: of these.

    Raises:
        ValueError: if shapes or numbers do not fit, a point is not finite, or all are one.
    """
    rows = _rows("points", points)
    others = None if new is None else _rows("new", new)
    count, dim = rows.shape
    _check(rows, others, components)
    if kind not in ("pca", "rbf"):
        raise ValueError(f"kind must be pca or rbf, got {kind!r}")
    if gamma is not None and not (gamma > 0 and kind == "rbf"):
        raise ValueError(f"gamma must be positive and is that of the kernel rbf, got {gamma}")
    names = _named("names", names, count)
    labels = _named("groups", groups, count) if groups else ("",) * count
    kinds = tuple(dict.fromkeys(labels))
    group = np.array([kinds.index(label) for label in labels])
    if kind == "pca":
        found = PCA(components, svd_solver="full").fit(rows)
        width, explained = np.nan, found.explained_variance_ratio_
    else:
        width = 1 / dim if gamma is None else gamma
        found = KernelPCA(components, kernel="rbf", gamma=width, eigen_solver="dense").fit(rows)
        kernel = np.exp(-width * _squares(rows))
        explained = found.eigenvalues_ / (np.trace(kernel) - kernel.sum() / count)
    return Embedding(
        names=names,
        groups=kinds,
        group=group,
        kind=kind,
        gamma=width,
        coordinates=found.transform(rows),
        explained=explained,
        radius=np.linalg.norm(rows, axis=1),
        centroid_distance=_to_centroids(rows, group, len(kinds)),
        new_names=_named("new_names", new_names, 0 if others is None else len(others)),
        new=None if others is None else found.transform(others),
        dim=dim,
        provenance=provenance(),
    )


def _rows(name: str, points: Tensor | np.ndarray) -> np.ndarray:
    """The points in double precision.

    Raises:
        ValueError: if they are no matrix of finite numbers.
    """
    given = points.detach().cpu().numpy() if isinstance(points, Tensor) else points
    rows = np.asarray(given, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{name} must have two axes, points and numbers, got {rows.shape}")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise ValueError(f"{name} must be finite, and number {bad} is not")
    return rows


def _check(rows: np.ndarray, new: np.ndarray | None, components: int) -> None:
    """Nothing, where the numbers fit.

    Raises:
        ValueError: where they do not.
    """
    count, dim = rows.shape
    if count < 2 or not (rows != rows[0]).any():
        raise ValueError(f"at least two points that differ are needed, got {count}")
    if not 1 <= components <= min(count - 1, dim):
        raise ValueError(
            f"components must lie between 1 and {min(count - 1, dim)} for {count} points of "
            f"{dim} numbers, got {components}"
        )
    if new is not None and new.shape[1] != dim:
        raise ValueError(f"new points must have {dim} numbers as the others, got {new.shape[1]}")


def _named(what: str, names: Sequence[str], count: int) -> tuple[str, ...]:
    """As many names as points.

    Raises:
        ValueError: if there are others.
    """
    if names and len(names) != count:
        raise ValueError(f"{what} must be as many as points, got {len(names)} for {count}")
    return tuple(names) or tuple(str(k) for k in range(count))


def _squares(rows: np.ndarray) -> np.ndarray:
    """The squared distances (n, n) of all pairs."""
    gram = rows @ rows.T
    norms = np.diag(gram)
    return np.maximum(norms[:, None] + norms - 2 * gram, 0)


def _to_centroids(rows: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The distance (n, groups) of each point to the mean of the other points of each group."""
    found = np.full((len(rows), groups), np.nan)
    for k in range(groups):
        own = group == k
        size, total = own.sum(), rows[own].sum(0)
        found[~own, k] = np.linalg.norm(rows[~own] - total / size, axis=1)
        if size > 1:
            found[own, k] = np.linalg.norm(rows[own] - total / size, axis=1) * size / (size - 1)
    return found
