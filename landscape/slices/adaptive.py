"""A loss plane on a fine grid from a part of its cells: refined where the surface asks for it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.results import Surface, provenance
from landscape.slices.grids import check_center, prepared, span
from landscape.slices.refinement import Goal, filled, refined
from landscape.slices.sweep import Cells, Options, Sweep, digest

Scale = Literal["linear", "log"]


def adaptive_plane(
    objective: Objective,
    z: Float[Tensor, " p"],
    u: Float[Tensor, " p"],
    v: Float[Tensor, " p"],
    *,
    alpha: tuple[float, float] = (-1.0, 1.0),
    beta: tuple[float, float] = (-1.0, 1.0),
    count: int | tuple[int, int] = 51,
    levels: Sequence[float] = (),
    tolerance: float = 0.01,
    scale: Scale = "linear",
    ceiling: float = np.inf,
    seed: int = 0,
    names: tuple[str, str] = ("u", "v"),
    **options: Any,
) -> Surface:
    r"""The loss on a fine grid, evaluated where the surface bends and interpolated elsewhere.

    Nested grids with cubic interpolation from each to the next (`landscape.slices.refinement`).
    Cells that are only interpolated are marked: ``evaluated`` is False there. At the end 1 % of all
    cells, 16 at least, are evaluated after all, most of them where the largest errors are expected.
    ``interpolation_error`` is the largest difference found there, as a share of the range, and
    where it exceeds the tolerance the neighbourhood is refined. It is the error of a sample and no
    bound: the largest error of all cells is usually up to three times as large, and more where a
    spike lies between the lines of the coarse grids and is missed.

    Args:
        objective: as in `landscape.slices.plane`.
        z: as in `landscape.slices.plane`.
        u: as in `landscape.slices.plane`.
        v: as in `landscape.slices.plane`.
        alpha: (low, high) along u.
        beta: (low, high) along v.
        count: coordinates of each axis of the fine grid, or of (alpha, beta).
        levels: contour levels; where one passes, half of the tolerance is allowed.
        tolerance: share of the range that interpolated losses may be wrong by.
        scale: whether the loss or its logarithm is interpolated, and what the range is taken of.
            ``"log"`` suits contour levels on a log scale; losses that are not positive are then all
            evaluated.
        ceiling: losses above it count as equal to it when errors are judged, so that no cells are
            spent on walls that are not drawn. The values themselves are not clipped.
        seed: of those cells that are drawn at random to be checked.
        names: what the directions are, for the picture.
        options: fields of `landscape.slices.Options`, as in `landscape.slices.plane`. Metrics and
            standard errors are interpolated in the same cells.

    Returns:
        as of `landscape.slices.plane`, with ``evaluated`` (n, m) and
        ``interpolation_error``.

    Raises:
        ValueError: as `landscape.slices.plane`, or if a range is empty or reversed, ``tolerance``
            is not between 0 and 1, or the scale is unknown.
        RuntimeError: as `landscape.slices.plane`.
    """
    counts = (count, count) if isinstance(count, int) else count
    axes = [span(*alpha, counts[0]), span(*beta, counts[1])]
    goal = _goal(levels, tolerance, scale, ceiling)
    settings = Options(**options)
    sweep = prepared(objective, z, [u, v], axes, settings, counts[0] * counts[1])
    kept = _Kept(sweep, axes, scale)
    asked = {"coordinates": digest(axes), "adaptive": f"{goal}, {scale}, seed {seed}"}
    with sweep.stored(asked):
        found = refined(kept.measure, axes, goal, np.random.default_rng(seed))
    if settings.progress is not None:
        settings.progress(sweep.total, sweep.total)
    columns = kept.columns(found.measured)
    loss = np.where(
        found.measured, columns[0], np.exp(found.values) if scale == "log" else found.values
    )
    at = found.measured.ravel()
    check_center(sweep, Cells(loss.ravel()[at], None, None), _pairs(axes)[at])
    rest = [filled(column, found.measured, axes) for column in columns[1:]]
    # Cubic curves swing below 0 beside a step.
    error = np.maximum(rest.pop(0), 0.0) if settings.standard_errors else None
    return Surface(
        alpha=axes[0],
        beta=axes[1],
        loss=loss,
        center=sweep.center,
        directions=names,
        statistics=sweep.statistics,
        standard_error=error,
        metrics=tuple(sweep.options.metrics),
        metric_values=np.stack(rest) if rest else None,
        evaluated=found.measured,
        interpolation_error=found.error,
        provenance=provenance(
            tolerance=tolerance, scale=scale, ceiling=float(ceiling), levels=list(levels),
            seed=seed,
            evaluated=int(found.measured.sum()), checked=found.checks, **sweep.notes,
        ),
    )  # fmt: skip


class _Kept:
    """What was measured so far, cell by cell."""

    def __init__(self, sweep: Sweep, axes: Sequence[np.ndarray], scale: Scale):
        self._sweep, self._axes, self._log = sweep, axes, scale == "log"
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    def measure(self, cells: np.ndarray) -> np.ndarray:
        """The loss, or its logarithm, at the cells (m, 2)."""
        t = np.stack([axis[index] for axis, index in zip(self._axes, cells.T, strict=True)], axis=1)
        got = self._sweep.measure(t)
        parts = [
            got.loss[None],
            *([] if got.standard_error is None else [got.standard_error[None]]),
        ]
        parts += [] if got.metrics is None else [got.metrics]
        self._found.append((cells, np.concatenate(parts)))
        if not self._log:
            return got.loss
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(got.loss)

    def columns(self, measured: np.ndarray) -> np.ndarray:
        """All columns (c, n, m), NaN where nothing was measured."""
        found = np.full((len(self._found[0][1]), *measured.shape), np.nan)
        for cells, columns in self._found:
            found[:, cells[:, 0], cells[:, 1]] = columns
        return found


def _goal(levels: Sequence[float], tolerance: float, scale: Scale, ceiling: float) -> Goal:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', got {scale!r}")
    if scale == "linear":
        return Goal(tolerance, tuple(float(level) for level in levels), float(ceiling))
    if min((*levels, ceiling)) <= 0:
        raise ValueError("levels and ceiling must be positive on a log scale")
    return Goal(tolerance, tuple(float(np.log(level)) for level in levels), float(np.log(ceiling)))


def _pairs(axes: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
