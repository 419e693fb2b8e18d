"""The path of a training loop: recorded within a memory budget, and projected onto a plane."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape import directions
from landscape.networks import Layout
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    value,
)
from landscape.recorder.points import point_of
from landscape.results import Trajectory, provenance


class TrajectoryRecorder:
    """Points of a training loop: ``recorder(step, model)``, then `points` and `steps`.

    The points are copies and never take more than ``memory`` bytes. When there is no room for the
    next one, every second point is dropped and from then on only every second one is kept. The
    first and the latest point are always there. Which points are kept depends on the number of
    calls alone.

    Args:
        layout: names and shapes of the parameters, or the number of coordinates.
        every: a call at a step that is not a multiple of it returns at once.
        memory: bytes for the points.
        dtype: in which they are kept; that of the first point where None.
        device: where they are kept.

    Raises:
        ValueError: if ``every`` is not positive, or ``memory`` holds fewer than two points.
    """

    def __init__(
        self,
        layout: Layout | int,
        *,
        every: int = 1,
        memory: int = 2**28,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ):
        self.layout = layout if isinstance(layout, Layout) else None
        self.dim: int = layout.dim if isinstance(layout, Layout) else layout
        if self.dim < 1:
            raise ValueError(f"the number of coordinates must be at least 1, got {self.dim}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every, self.memory, self.dtype, self.device = every, memory, dtype, device
        self.stride = 1
        self._seen = 0
        self._kept: list[tuple[int, float, Tensor]] = []
        self._latest: tuple[int, float, Tensor] | None = None
        if dtype is not None:
            self._capacity(dtype)

    def __call__(self, step: int, point: Any, *, loss: float | Tensor | None = None) -> bool:
        """Whether this step is among the points now.

        Args:
            step: number of steps done.
            point: where the loop is: a vector (p,), the model, or its parameters.
            loss: the loss there, if the loop knows it.

        Raises:
            ValueError: if the point does not fit, the steps do not increase, or ``memory`` holds
                fewer than two points of its type.
        """
        if step % self.every:
            return False
        last = self._latest or (self._kept[-1] if self._kept else None)
        if last is not None and step <= last[0]:
            raise ValueError(f"steps must increase, got {step} after {last[0]}")
        with torch.inference_mode(False), torch.no_grad():
            z, _ = point_of(point, self.dim, self.layout)
            self.dtype = z.dtype if self.dtype is None else self.dtype
            room = self._capacity(self.dtype)
            # The last point's memory is free before the new one's is taken.
            self._latest = None
            if len(self._kept) == room:
                self._kept = self._kept[::2]
                self.stride *= 2
            z = z.to(device=self.device, dtype=self.dtype)
        entry = step, math.nan if loss is None else float(loss), z
        if self._seen % self.stride == 0:
            self._kept.append(entry)
        else:
            self._latest = entry
        self._seen += 1
        return True

    @property
    def steps(self) -> np.ndarray:
        """(m,), the steps of the points."""
        return np.array([step for step, _, _ in self._entries()], dtype=np.int64)

    @property
    def losses(self) -> np.ndarray:
        """(m,), the losses that came with the points; NaN where none came."""
        return np.array([loss for _, loss, _ in self._entries()], dtype=np.float64)

    @property
    def bytes(self) -> int:
        """What the points take."""
        return sum(z.numel() * z.element_size() for _, _, z in self._entries())

    def points(self) -> Float[Tensor, "m p"]:
        """The points, in a tensor of their own.

        Raises:
            ValueError: if there is none.
        """
        if not self._seen:
            raise ValueError("no point was recorded: call the recorder in the training loop")
        return torch.stack([z for _, _, z in self._entries()])

    def _entries(self) -> list[tuple[int, float, Tensor]]:
        return self._kept + ([] if self._latest is None else [self._latest])

    def _capacity(self, dtype: torch.dtype) -> int:
        size = self.dim * torch.empty((), dtype=dtype, device="cpu").element_size()
        if self.memory < 2 * size:
            raise ValueError(
                f"memory must hold at least two points of {size} bytes, got {self.memory} bytes"
            )
        return self.memory // size


class Plane(NamedTuple):
    """A plane in parameter space: ``origin + alpha * u + beta * v``."""

    origin: Tensor
    u: Tensor
    v: Tensor


_PRINCIPAL = ("principal direction 1", "principal direction 2")

Paths = Mapping[str, TrajectoryRecorder | Tensor]


def plane_of(trajectories: Paths, *, origin: Float[Tensor, " p"] | None = None) -> Plane:
    """The plane of the two principal directions of all points of all trajectories together.

    Args:
        trajectories: recorders or points (m, p), by the name of the run. Points that are not
            finite are left out.
        origin: (p,), a point of the plane, and what the directions are principal about: for one
            run often its last point. The mean of all points where None, which makes it the plane
            that lies closest to them.

    Raises:
        ValueError: if there are no trajectories, they are of different models, or the points span
            no plane.
    """
    if not trajectories:
        raise ValueError("no trajectory was given")
    runs = {name: _points(name, path) for name, path in trajectories.items()}
    widths = {name: points.shape[1] for name, points in runs.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"all points must have one length, got {widths}: one plane, one model")
    points = torch.cat(list(runs.values()))
    points = points[torch.isfinite(points).all(-1)]
    if len(points) < 3:
        raise ValueError(f"three finite points are needed for a plane, got {len(points)}")
    wide = points if points.element_size() >= 4 else points.float()
    origin = None if origin is None else origin.detach().to(wide)
    first, second = directions.pca(wide, center=origin)[0]
    return Plane(wide.mean(0) if origin is None else origin, first, second)


def project(
    objective: Objective,
    trajectories: Paths,
    origin: Float[Tensor, " p"] | None = None,
    u: Float[Tensor, " p"] | None = None,
    v: Float[Tensor, " p"] | None = None,
    *,
    chunk: int | None = None,
    names: tuple[str, str] | None = None,
) -> Trajectory:
    r"""The paths of one or several runs in one plane, and how far off it they are.

    Coordinates are those of the nearest point of the plane, by least squares, so that u and v need
    not be orthogonal. The loss is that of the point itself, not of its projection.

    Args:
        objective: what is evaluated at every point; not random.
        trajectories: recorders or points (m, p), by the name of the run.
        origin: (p,), where both coordinates are zero.
        u: (p,), first direction.
        v: (p,), second direction, not parallel to u. The plane of `plane_of` where origin, u and v
            are None.
        chunk: number of points evaluated together; the objective's own choice where None.
        names: what the directions are, for the picture.

    Raises:
        ValueError: if there are no trajectories, lengths differ, one of u and v is missing, or they
            span no plane.
        RuntimeError: if the objective is random.
    """
    if not trajectories:
        raise ValueError("no trajectory was given")
    if (u is None) != (v is None) or (u is not None and origin is None):
        raise ValueError("origin, u and v make a plane: give all of them, or neither u nor v")
    own = u is None or v is None or origin is None
    plane = plane_of(trajectories, origin=origin) if own else Plane(origin, u, v)  # type: ignore[arg-type]
    names = names or (_PRINCIPAL if own else ("u", "v"))
    origin, span = plane.origin.detach(), torch.stack([plane.u, plane.v]).detach()
    if origin.shape != (objective.dim,) or span.shape != (2, objective.dim):
        raise ValueError(
            f"origin and directions of length {objective.dim} are needed, got "
            f"{tuple(origin.shape)} and {tuple(span.shape[1:])}"
        )
    frame = _frame(span.double())
    paths = {name: _points(name, path).to(origin) for name, path in trajectories.items()}
    for name, points in paths.items():
        if points.shape[1] != objective.dim:
            raise ValueError(
                f"{name} must have points of length {objective.dim}, got {points.shape[1]}: it is "
                f"of another model"
            )
    check_deterministic(objective, origin)
    placed = [_placed(points, origin.double(), frame) for points in paths.values()]
    along = np.concatenate([part.along for part in placed])
    beta = along[:, 1] / frame.beta
    lengths = [len(part.along) for part in placed]
    losses = [value(objective, points, chunk=chunk) for points in paths.values()]
    return Trajectory(
        run=np.repeat(np.arange(len(placed)), lengths),
        step=np.concatenate([_steps(path) for path in trajectories.values()]),
        alpha=(along[:, 0] - frame.shear * beta) / frame.alpha,
        beta=beta,
        loss=torch.cat(losses).double().cpu().numpy(),
        distance=np.concatenate([part.distance for part in placed]),
        relative=np.concatenate([_relative(part) for part in placed]),
        explained=_explained(along, list(paths.values())),
        labels=tuple(paths),
        directions=names,
        statistics=normalisation_of(objective),
        provenance=provenance(
            judged=judged(objective, origin),
            lengths=torch.linalg.vector_norm(span.double(), dim=-1).tolist(),
            cosine=frame.shear / float(torch.linalg.vector_norm(span[1].double())),
        ),
    )


class _Frame(NamedTuple):
    """Orthonormal e with u = alpha e_0 and v = shear e_0 + beta e_1."""

    e: Tensor
    alpha: float
    shear: float
    beta: float


class _Placed(NamedTuple):
    """Coordinates in the frame, distances off the plane and from the first point of the run."""

    along: np.ndarray
    distance: np.ndarray
    travelled: np.ndarray


def _frame(span: Tensor) -> _Frame:
    """The frame of two directions in float64.

    Raises:
        ValueError: if one is zero or not finite, or they are parallel.
    """
    lengths = torch.linalg.vector_norm(span, dim=-1)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("a direction is zero or not finite: there is no plane")
    first = span[0] / lengths[0]
    shear = first @ span[1]
    rest = span[1] - shear * first
    rest = rest - (first @ rest) * first
    left = torch.linalg.vector_norm(rest)
    if not float(left / lengths[1]) > 1e-6:
        raise ValueError("the two directions are parallel: they span no plane")
    frame = torch.stack([first, rest / left])
    return _Frame(frame, float(lengths[0]), float(shear), float(left))


def _placed(points: Tensor, origin: Tensor, frame: _Frame) -> _Placed:
    """One run in the frame; point by point, so that no wide copy of all of it is made."""
    along, distance, travelled = [], [], []
    for point in points.detach():
        step = point.double() - origin
        along.append(frame.e @ step)
        distance.append(torch.linalg.vector_norm(step - along[-1] @ frame.e))
        travelled.append(torch.linalg.vector_norm(point.double() - points[0].double()))
    found = (torch.stack(part).cpu().numpy() for part in (along, distance, travelled))
    return _Placed(*found)


def _relative(part: _Placed) -> np.ndarray:
    """Distances off the plane over the extent of the run; 0 / 0 is 0."""
    extent = part.travelled[np.isfinite(part.travelled)].max(initial=0.0)
    return part.distance / extent if extent else np.where(part.distance > 0, np.inf, part.distance)


def _explained(along: np.ndarray, paths: list[Tensor]) -> np.ndarray:
    """The shares of the variance about the mean that lie along u, and further along v."""
    sound = np.isfinite(along).all(axis=1)
    rows = [row for points in paths for row in points]
    finite = [row for row, good in zip(rows, sound, strict=True) if good]
    if not finite:
        return np.full(2, np.nan)
    mean = sum((row.double() for row in finite), torch.zeros_like(rows[0], dtype=torch.float64))
    mean = mean / len(finite)
    total = sum(float(((row.double() - mean) ** 2).sum()) for row in finite)
    inside = ((along[sound] - along[sound].mean(axis=0)) ** 2).sum(axis=0)
    return inside / total if total > 0 else np.zeros(2)


def _points(name: str, path: TrajectoryRecorder | Tensor) -> Tensor:
    points = path.points() if isinstance(path, TrajectoryRecorder) else path.detach()
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"{name} must have points (m, p), got shape {tuple(points.shape)}")
    return points


def _steps(path: TrajectoryRecorder | Tensor) -> np.ndarray:
    return path.steps if isinstance(path, TrajectoryRecorder) else np.arange(len(path))
