"""Which points are trainings of their own, and how far they and their measures are apart."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NEAR = 1e-3
"""Points nearer than this, relative to their norm, are one: what tells them apart is how far they
have converged, not where to."""


def distances(points: Sequence[Tensor]) -> np.ndarray:
    """The distance between each two points over the larger of their norms, (n, n).

    Infinite between points of different lengths, which are of different networks; 0 between two
    points that are both 0.

    >>> one, two = torch.tensor([3.0, 4.0], device="cpu"), torch.tensor([3.0, 0.0], device="cpu")
    >>> distances([one, two]).tolist()
    [[0.0, 0.8], [0.8, 0.0]]
    """
    norms = [float(torch.linalg.vector_norm(z, dtype=torch.float64)) for z in points]
    found = np.zeros((len(points), len(points)))
    for i, z in enumerate(points):
        for j in range(i):
            size = max(norms[i], norms[j])
            if len(z) != len(points[j]):
                found[i, j] = found[j, i] = np.inf
            elif size:
                apart = torch.linalg.vector_norm(z - points[j].to(z), dtype=torch.float64)
                found[i, j] = found[j, i] = float(apart) / size
    return found


def trainings(run: np.ndarray, coupled: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The training that each point belongs to, numbered in order of the points, (n,).

    A training is what could have come out otherwise without the others knowing of it. The members
    of a run whose method couples them learn from each other, so all of them are one training,
    however far apart they are. The members of any other run have a start each, and are trainings of
    their own; they have data, the order of mini-batches and hyper-parameters in common, so what is
    concluded from one such run holds for starts under these. Points that are nearer to each other
    than `NEAR`, directly or over others, are one training whatever run they are of.

    Args:
        run: (n,), which run each point is of.
        coupled: (n,), whether the method of that run couples members; see
            `cnognp.method.Traits`.
        distance: (n, n) from `distances`.
    """
    joined = (distance < NEAR) | (np.equal.outer(run, run) & np.logical_or.outer(coupled, coupled))
    label = np.arange(len(run))
    for i in range(len(run)):
        met = np.isin(label, label[joined[i]])
        label[met] = label[met].min(initial=label[i])
    return np.unique(label, return_inverse=True)[1]


def nearest(distance: np.ndarray) -> np.ndarray:
    """How far the nearest other point is from each point, (n,); NaN for a point that is alone."""
    if len(distance) < 2:
        return np.full(len(distance), np.nan)
    return np.where(np.eye(len(distance), dtype=bool), np.inf, distance).min(axis=1)


def medians(column: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The median of a column over the points of each training that have a value, (trainings,).

    >>> medians(np.array([1.0, 3.0, np.nan, 7.0, np.nan]), np.array([0, 0, 0, 1, 2]))
    array([ 2.,  7., nan])
    """
    parts = [column[training == name] for name in np.unique(training)]
    known = [part[~np.isnan(part)] for part in parts]
    return np.array([_median(part) for part in known])


def spread(column: np.ndarray) -> float:
    """The standard deviation of the finite values; NaN of fewer than two."""
    finite = column[np.isfinite(column)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else np.nan


def half_width(low: np.ndarray, high: np.ndarray) -> float:
    """The median over points of half the width of their own bound or interval; NaN if none is."""
    known = np.isfinite(low) & np.isfinite(high)
    return float(np.median((high - low)[known]) / 2) if known.any() else np.nan


def _median(values: np.ndarray) -> float:
    """The median, of infinite values too: between 1 and infinity lies infinity."""
    return float(np.median(values)) if len(values) else np.nan
