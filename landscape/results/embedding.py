"""Points of a large space in a few coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(Result):
    """Points of a parameter space in the coordinates of a principal component analysis.

    Attributes:
        names: of the points.
        groups: names of what the points belong to.
        group: index of each point's group.
        kind: ``"pca"``, or ``"rbf"`` for kernel PCA with the kernel exp(-gamma |x - y|^2).
        gamma: of the kernel; NaN for ``"pca"``.
        coordinates: of each point, (point, component).
        explained: share of the variance along each component; for a kernel, in its feature space.
        radius: distance of each point from the origin of the parameter space.
        centroid_distance: of each point to the mean of each group, itself left out of its own;
            NaN where nothing is left.
        new_names: of the points that were projected and had no part in finding the components.
        new: their coordinates.
        dim: length of the points.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    group: np.ndarray = axes("point")
    kind: str
    gamma: float
    coordinates: np.ndarray = axes("point", "component")
    explained: np.ndarray = axes("component")
    radius: np.ndarray = axes("point")
    centroid_distance: np.ndarray = axes("point", "group")
    new_names: tuple[str, ...] = ()
    new: np.ndarray | None = axes("new point", "component", optional=True)
    dim: int

    def said(self) -> Said:
        """How much of the variance is seen."""
        shares = ", ".join(f"{100 * share:.3g} %" for share in self.explained)
        what = "kernel PCA" if self.kind == "rbf" else "PCA"
        return (
            f"{what} of {len(self.names)} points: {shares} of the variance",
            f"{self.dim} numbers",
        )

    def tables(self) -> Sequence[Table]:
        """The groups: how many points, how far out, how far apart."""
        rows: list[Sequence[Any]] = []
        for k, name in enumerate(self.groups):
            own = self.group == k
            spread = [
                f"{np.nanmean(self.centroid_distance[own, j]):.4g}"
                if np.isfinite(self.centroid_distance[own, j]).any() else "-"
                for j in range(len(self.groups))
            ]  # fmt: skip
            rows.append([name, int(own.sum()), f"{self.radius[own].mean():.4g}", *spread])
        columns = ("group", "points", "radius", *(f"to mean of {name}" for name in self.groups))
        return [("Mean distances", columns, rows)]
