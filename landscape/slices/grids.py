"""The loss along lines and over planes through a point."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective, widened
from landscape.results import Line, Lines, Surface, provenance
from landscape.slices.sweep import Cells, Options, Sweep, digest

Coordinates = Any
_PIECE = 1 << 20


def line(
    objective: Objective,
    z: Float[Tensor, " p"],
    direction: Float[Tensor, " p"],
    *,
    alpha: Coordinates = None,
    name: str = "",
    **options: Any,
) -> Line:
    r"""The loss :math:`f(z + \alpha u)` at every coordinate ``alpha``.

    Args:
        objective: what is evaluated; without random modules.
        z: (p,), the point at alpha = 0.
        direction: (p,), used exactly as given.
        alpha: increasing coordinates in units of the direction; 51 from -1 to 1 where None.
        name: what the direction is, for the picture.
        options: fields of `landscape.slices.Options`: ``metrics``, ``standard_errors``,
            ``evaluation``, ``precision``, ``statistics``, ``chunk``, ``store``, ``progress``.

    Returns:
        ``alpha`` and ``loss`` (n,), and ``center``, the loss at z itself, evaluated without
        the slice. ``standard_error`` is (n,) and ``metric_values`` (metrics, n), where
        asked for. The provenance says how the points were evaluated, and what the
        self-check found.

    Raises:
        ValueError: if the direction is zero, not finite or of another length, the coordinates do
            not increase, or the file ``store`` belongs to another slice.
        RuntimeError: if the objective is random, or the slice at 0 is not the loss at z.
    """
    alpha = coordinates("alpha", alpha)
    sweep, cells = _measured(objective, z, [direction], [alpha], Options(**options))
    return Line(
        alpha=alpha,
        loss=cells.loss,
        center=sweep.center,
        direction=name,
        statistics=sweep.statistics,
        standard_error=cells.standard_error,
        metrics=tuple(sweep.options.metrics),
        metric_values=cells.metrics,
        provenance=provenance(lengths=_lengths(direction), **sweep.notes),
    )


def lines(
    objective: Objective,
    z: Float[Tensor, " p"],
    directions: Sequence[Float[Tensor, " p"]],
    *,
    alpha: Coordinates = None,
    name: str = "",
    **options: Any,
) -> Lines:
    """The loss along several directions through one point, for instance of several seeds.

    Args:
        objective: as in `line`.
        z: as in `line`.
        directions: at least two, each used exactly as given.
        alpha: as in `line`; in units of each direction.
        name: what the directions are, for the picture.
        options: as in `line`, without ``metrics`` and ``standard_errors``. A ``store`` becomes one
            file for each direction, with its number at the end.

    Returns:
        ``alpha`` (n,), ``loss`` (directions, n), its ``mean``, ``low`` and ``high`` (n,),
        and ``center``, the loss at z.

    Raises:
        ValueError: as in `line`, or if there are fewer than two directions.
        RuntimeError: as in `line`.
    """
    if len(directions) < 2:
        raise ValueError(f"a band needs at least 2 directions, got {len(directions)}: use line")
    if wrong := {"metrics", "standard_errors"} & options.keys():
        raise ValueError(f"{sorted(wrong)} are measured along one direction at a time: use line")
    alpha, found = coordinates("alpha", alpha), []
    store, progress = options.pop("store", None), options.pop("progress", None)
    total = len(alpha) * len(directions)
    for seed, direction in enumerate(directions):
        path = None if store is None else Path(f"{store}.{seed}")
        before = seed * len(alpha)
        told = None if progress is None else lambda done, _, b=before: progress(b + done, total)
        found.append(
            line(objective, z, direction, alpha=alpha, store=path, progress=told, **options)
        )
    loss = np.stack([one.loss for one in found])
    keys = ("evaluation", "chunk", "self-check")
    return Lines(
        alpha=alpha,
        loss=loss,
        mean=loss.mean(0),
        low=loss.min(0),
        high=loss.max(0),
        center=found[0].center,
        direction=name,
        statistics=found[0].statistics,
        provenance=provenance(
            lengths=_lengths(*directions), **{key: found[0].provenance[key] for key in keys}
        ),
    )


def plane(
    objective: Objective,
    z: Float[Tensor, " p"],
    u: Float[Tensor, " p"],
    v: Float[Tensor, " p"],
    *,
    alpha: Coordinates = None,
    beta: Coordinates = None,
    names: tuple[str, str] = ("u", "v"),
    **options: Any,
) -> Surface:
    r"""The loss :math:`f(z + \alpha u + \beta v)`: ``loss[i, j]`` belongs to ``alpha[i], beta[j]``.

    Args:
        objective: what is evaluated; without random modules.
        z: (p,), the point at the origin.
        u: (p,), used exactly as given.
        v: (p,), used exactly as given; not parallel to u.
        alpha: increasing coordinates along u; 51 from -1 to 1 where None.
        beta: increasing coordinates along v; 51 from -1 to 1 where None.
        names: what the directions are, for the picture.
        options: as in `line`.

    Returns:
        ``alpha`` (n,), ``beta`` (m,), ``loss`` (n, m), and ``center``, the loss at z.
        ``standard_error`` is (n, m) and ``metric_values`` (metrics, n, m), where asked for.

    Raises:
        ValueError: if a direction is zero, not finite, of another length or parallel to the other,
            the coordinates do not increase, or the file ``store`` belongs to another slice.
        RuntimeError: if the objective is random, or the slice at 0 is not the loss at z.
    """
    alpha, beta = coordinates("alpha", alpha), coordinates("beta", beta)
    sweep, cells = _measured(objective, z, [u, v], [alpha, beta], Options(**options))
    shape = len(alpha), len(beta)
    error, values = cells.standard_error, cells.metrics
    return Surface(
        alpha=alpha,
        beta=beta,
        loss=cells.loss.reshape(shape),
        center=sweep.center,
        directions=names,
        statistics=sweep.statistics,
        standard_error=None if error is None else error.reshape(shape),
        metrics=tuple(sweep.options.metrics),
        metric_values=None if values is None else values.reshape(-1, *shape),
        provenance=provenance(lengths=_lengths(u, v), cosine=_cosine(u, v), **sweep.notes),
    )


def span(low: float, high: float, count: int = 51) -> Float[np.ndarray, " n"]:
    """``count`` coordinates at equal distances from ``low`` to ``high``, both included.

    Raises:
        ValueError: if the range is empty, reversed or not finite, or ``count`` is below 2.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"a range must go from a lower to a higher number, got {low} to {high}")
    if count < 2:
        raise ValueError(f"a range needs at least 2 coordinates, got {count}")
    return np.linspace(low, high, count)


def prepared(
    objective: Objective,
    z: Tensor,
    directions: Sequence[Tensor],
    axes: Sequence[np.ndarray],
    options: Options,
    total: int,
) -> Sweep:
    """The sweep over a line or plane, after its point and directions were checked.

    Raises:
        ValueError: if a direction is zero, not finite, of another length or parallel to the other.
    """
    for direction in directions:
        if direction.shape != z.shape or z.shape != (objective.dim,):
            raise ValueError(
                f"point and directions must have shape ({objective.dim},), got {tuple(z.shape)} "
                f"and {tuple(direction.shape)}: is the direction one of another model?"
            )
        if not all(bool(torch.isfinite(piece).all()) for piece in direction.split(_PIECE)):
            raise ValueError("a direction has NaN or infinite entries")
        if not _dot(direction, direction) > 0:
            raise ValueError("a direction is zero: there is nothing to see along it")
    if len(directions) == 2 and abs(_cosine(*directions)) > 1 - 1e-6:
        raise ValueError("the two directions are parallel: they span no plane")
    directions = [direction.detach() for direction in directions]
    return Sweep(objective, z.detach(), directions, axes, options, total)


def coordinates(name: str, given: Coordinates) -> Float[np.ndarray, " n"]:
    """The coordinates of one axis; 51 from -1 to 1 where None is given.

    Raises:
        ValueError: if they are fewer than two, not finite, or do not increase.
    """
    given = np.linspace(-1.0, 1.0, 51) if given is None else given
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    array = array.astype(np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must be at least two coordinates (n,), got shape {array.shape}")
    if not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise ValueError(f"{name} must increase from one finite coordinate to the next")
    return array


def check_center(sweep: Sweep, cells: Cells, t: np.ndarray) -> None:
    """Nothing, if the slice where all coordinates are 0, if it has that cell, is the loss itself.

    Zero up to the rounding of the coordinates.

    Raises:
        RuntimeError: if it is not.
    """
    # Coordinates that are computed, such as linspace(-1, 1, 99), have 1e-16 in their middle.
    at = np.flatnonzero((np.abs(t) <= 1e-12 * np.ptp(t, axis=0)).all(1))
    if not len(at) or not sweep.exact or not np.isfinite(sweep.center):
        return
    found = cells.loss[at[0]]
    if not abs(found - sweep.center) <= sweep.tolerance * (1 + abs(sweep.center)):
        raise RuntimeError(
            f"the slice has {found} at its centre, but the loss there is {sweep.center}: points "
            "evaluated together disagree with one alone; try evaluation='plain', chunk=1"
        )


def _measured(
    objective: Objective,
    z: Tensor,
    directions: Sequence[Tensor],
    axes: Sequence[np.ndarray],
    options: Options,
) -> tuple[Sweep, Cells]:
    t = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    sweep = prepared(objective, z, directions, axes, options, len(t))
    with sweep.stored({"coordinates": digest(axes)}):
        cells = sweep.measure(t)
    check_center(sweep, cells, t)
    return sweep, cells


def _lengths(*directions: Tensor) -> list[float]:
    return [_dot(u, u) ** 0.5 for u in directions]


def _cosine(u: Tensor, v: Tensor) -> float:
    return _dot(u, v) / (_dot(u, u) ** 0.5 * _dot(v, v) ** 0.5)


def _dot(u: Tensor, v: Tensor) -> float:
    """In float64, piece by piece, so that no second copy of a large direction is made."""
    pieces = zip(u.detach().split(_PIECE), v.detach().split(_PIECE), strict=True)
    return float(sum(widened(a) @ widened(b) for a, b in pieces))
