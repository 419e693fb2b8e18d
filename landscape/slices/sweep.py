"""Many points of one line or plane, block by block: losses, error bars and further metrics."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.files import PathLike
from landscape.networks import dense_parts, reestimated, tensors_of
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    offered,
    value,
    widened,
)
from landscape.slices.columns import Asked, Columns, in_precision, total, ungraphed
from landscape.slices.evaluators import Evaluation, Plain, evaluator, has_fast
from landscape.slices.journal import Journal
from landscape.slices.metrics import MEASURED, Metric

Precision = Literal["same", "bfloat16"]
Statistics = Literal["as given", "reestimated"]
Progress = Callable[[int, int], None]
Elsewhere = Callable[[Asked, Iterable[np.ndarray]], Iterator[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Options:
    r"""How the points of a slice are evaluated, and what else is measured at them.

    Attributes:
        chunk: points evaluated together, between two synchronisations with the device; the
            objective's own choice where None. Results depend on it by rounding only.
        metrics: further numbers at every point, by name: another objective over the same vector
            (an ``EmpiricalRisk`` whose loss is the accuracy), or one of ``"gradient_norm"``,
            ``"lambda_max"``, ``"trace"``; a sequence of these words stands for themselves.
        standard_errors: also the standard error of the loss, from its spread over the batches of
            data: :math:`\sqrt{\sum_b w_b (\ell_b - \bar\ell)^2 / (B - 1)}` with
            :math:`w_b = n_b / N`, for B batches of samples that were drawn independently.
        evaluation: ``"plain"``: each point as a vector of its own; ``"stacked"``: chains of linear
            layers, many points at once; ``"in-place"``: one copy of a network is moved from point
            to point; ``"folded"``: the same with BatchNorm folded into convolutions. ``"auto"``
            takes the fastest that fits, and that agrees with the plain way at two points.
        precision: ``"bfloat16"`` evaluates the loss in mixed precision (``torch.autocast``). The
            largest relative error of a sample, 1 % of the points and at least nine, goes into
            the provenance; other points may be several times as far off. Faster on hardware that is
            made for it.
        statistics: of BatchNorm. ``"as given"``: those of the objective, the same at all points,
            with a warning where they spoil the loss at the farthest corner; ``"reestimated"``: at
            every point those of the network there, on the risk's own data.
        store: a file that takes finished blocks, so that the same call goes on after a kill, with
            equal results bit for bit. It stays when all is done: then the same call evaluates
            nothing. Delete it when the result is saved.
        progress: called with the number of points done and of all points after every block.
        elsewhere: gives what `landscape.slices.columns.columns_of` gives for blocks of coordinates,
            in their order; other processes may do that. Blocks are the same whoever does.
    """

    chunk: int | None = None
    metrics: Mapping[str, Metric] | Sequence[str] = ()
    standard_errors: bool = False
    evaluation: Evaluation = "auto"
    precision: Precision = "same"
    statistics: Statistics = "as given"
    store: PathLike | None = None
    progress: Progress | None = None
    elsewhere: Elsewhere | None = None

    def __post_init__(self):
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.evaluation not in get_args(Evaluation):
            raise ValueError(
                f"evaluation must be one of {get_args(Evaluation)}, got {self.evaluation!r}"
            )
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {get_args(Precision)}, got {self.precision!r}"
            )
        if self.statistics not in get_args(Statistics):
            raise ValueError(
                f"statistics must be one of {get_args(Statistics)}, got {self.statistics!r}"
            )
        if isinstance(self.metrics, str):
            raise ValueError(
                f"metrics must be a sequence or a dictionary, got the text {self.metrics!r}"
            )
        if not isinstance(self.metrics, Mapping):
            object.__setattr__(self, "metrics", {name: name for name in self.metrics})
        for name, metric in self.metrics.items():  # type: ignore[union-attr]
            if isinstance(metric, str) and metric not in MEASURED:
                raise ValueError(
                    f"metric {name!r} must be an objective or one of {sorted(MEASURED)}, got "
                    f"{metric!r}"
                )


class Cells(NamedTuple):
    """What was found at m points: loss (m,), standard error (m,) or None, metrics (M, m)."""

    loss: np.ndarray
    standard_error: np.ndarray | None
    metrics: np.ndarray | None


class Sweep:
    """The points of one line or plane, evaluated block by block in the order in which they come.

    Args:
        objective: what is evaluated; without random modules.
        origin: (p,), the point at which all coordinates are 0.
        directions: one or two vectors (p,), used as given.
        axes: the coordinates along each direction; at the corner that is farthest from the origin
            the fast way is checked too.
        options: how, and what else.
        total: the number of points that will be asked for, for the progress.

    Attributes:
        center: the loss at the origin, evaluated by the objective itself.

    Raises:
        ValueError: if a metric has another length, or an option does not fit the objective.
        RuntimeError: if the objective is random, or ``evaluation`` is given and disagrees with the
            plain way.
    """

    def __init__(
        self,
        objective: Objective,
        origin: Tensor,
        directions: Sequence[Tensor],
        axes: Sequence[np.ndarray],
        options: Options,
        total: int,
    ):
        if options.statistics == "reestimated":
            objective = reestimated(objective)
        self.center = float(check_deterministic(objective, origin, curvature=False))
        self.options, self.total, self.done = options, total, 0
        self._origin, self._directions = origin, tuple(directions)
        self._plain = Plain(objective, origin, directions)
        self._objective = objective
        self.notes: dict[str, Any] = {"judged": judged(objective, origin, curvature=False)}
        self._centers: dict[str, float] = {}
        with ungraphed():
            self._evaluator = self._chosen(np.array([axis[np.abs(axis).argmax()] for axis in axes]))
            metrics = {
                name: metric if isinstance(metric, str) else self._checked_metric(name, metric)
                for name, metric in options.metrics.items()  # type: ignore[union-attr]
            }
            self.chunk = self._evaluator.chunk = options.chunk or self._evaluator.chunk
            if options.precision != "same":
                self.notes["precision"] = self._error_of_precision(axes)
        self._columns = Columns(
            objective, origin, self._directions, self._evaluator, metrics,
            options.standard_errors, options.precision,
        )  # fmt: skip
        self.notes |= {"evaluation": self._evaluator.name, "chunk": self.chunk}
        self._compare_statistics(np.array([axis[np.abs(axis).argmax()] for axis in axes]))
        self._block = 0
        self._journal: Journal | None = None

    @property
    def statistics(self) -> str:
        """What BatchNorm normalises with."""
        return normalisation_of(self._objective)

    @property
    def exact(self) -> bool:
        """Whether losses are those of the objective to the rounding of its own precision."""
        return self.options.precision == "same"

    @property
    def tolerance(self) -> float:
        """What two ways to evaluate one point may differ by, relative to 1 plus the loss."""
        return 100 * torch.finfo(self._origin.dtype).eps

    @contextmanager
    def stored(self, coordinates: Mapping[str, Any]) -> Iterator["Sweep"]:
        """The sweep with its file open, if it has one; ``coordinates`` say what will be asked."""
        if self.options.store is None:
            yield self
            return
        journal = Journal(self.options.store, self._identity(coordinates))
        self.notes["blocks found in the file"] = len(journal)
        self._journal = journal
        try:
            yield self
        finally:
            journal.close()

    def measure(self, t: np.ndarray) -> Cells:
        """What is found at the points with coordinates t (m, k)."""
        width, errors = self._columns.width, 1 if self._columns.shares else 0
        blocks = list(self._found([t[i : i + self.chunk] for i in range(0, len(t), self.chunk)]))
        columns = np.concatenate(blocks, axis=1) if blocks else np.zeros((width, 0))
        return Cells(
            columns[0],
            columns[1] if errors else None,
            columns[1 + errors :] if width > 1 + errors else None,
        )

    def _found(self, cut: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The columns (width, n) of the next blocks, from the file where it has them."""
        known = [self._known(self._block + k, t) for k, t in enumerate(cut)]
        fresh = self._fresh([t for t, found in zip(cut, known, strict=True) if found is None])
        for t, found in zip(cut, known, strict=True):
            if found is None:
                found = next(fresh)
                if self._journal is not None:
                    self._journal.append(self._block, found)
            self._block += 1
            self.done += len(t)
            if self.options.progress is not None:
                self.options.progress(self.done, self.total)
            yield found.reshape(self._columns.width, len(t))

    def _known(self, block: int, t: np.ndarray) -> np.ndarray | None:
        """What the file has of a block, if that is of these points."""
        known = None if self._journal is None else self._journal.get(block)
        return known if known is not None and known.size == self._columns.width * len(t) else None

    def _fresh(self, cut: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The columns of blocks that are in no file; there is nothing to share in one alone."""
        if self.options.elsewhere is None or len(cut) < 2:
            return map(self._columns, cut)
        evaluation: Any = self._evaluator.name.partition(",")[0]
        asked = Asked(
            self._origin, self._directions, self.chunk, evaluation, self.options.precision,
            self.options.statistics, self.options.standard_errors,
        )  # fmt: skip
        return self.options.elsewhere(asked, cut)

    def _points(self, t: np.ndarray) -> Iterator[Tensor]:
        for row in t:
            yield self._plain.points(row[None])[0]

    def _chosen(self, corner: np.ndarray) -> Any:
        """The evaluator, after it agreed with the plain way at the origin and at a corner.

        Raises:
            RuntimeError: if it disagrees and was asked for by name.
        """
        wanted = self.options.evaluation
        # Before there is a working copy of a large network, so that there are never two.
        far = self._far(corner) if wanted != "plain" and has_fast(self._objective) else np.nan
        fast = evaluator(self._objective, self._origin, self._directions, wanted)
        if isinstance(fast, Plain):
            self.notes["self-check"] = "the plain way is the objective's own"
            return fast
        t = np.stack([np.zeros_like(corner), corner])
        found = _fetched(total(fast, t))
        expected = np.array([self.center, far])
        finite = np.isfinite(expected)
        differences = np.abs(found - expected)[finite] / (1 + np.abs(expected[finite]))
        if (differences <= self.tolerance).all() and (np.isfinite(found) == finite).all():
            self.notes["self-check"] = {
                "points": 2,
                "largest difference": max(differences, default=0.0),
            }
            return fast
        said = (
            f"{fast.name}: {found.tolist()}, plain: {expected.tolist()} at the centre and a corner"
        )
        if wanted != "auto":
            raise RuntimeError(
                f"evaluation={wanted!r} disagrees with the plain way ({said}); use 'plain'"
            )
        self.notes["self-check"] = f"failed, so all points were evaluated the plain way; {said}"
        return self._plain

    def _compare_statistics(self, corner: np.ndarray) -> None:
        """Warns where BatchNorm's statistics, those of the centre, spoil the loss at a corner."""
        if not normalisation_of(self._objective).startswith("frozen"):
            return
        (point,) = self._points(corner[None])
        frozen = float(value(self._objective, point))
        own = float(value(reestimated(self._objective), point))
        said = f"{frozen:.4g} at the farthest corner, {own:.4g} with statistics re-estimated there"
        self.notes["frozen statistics"] = said
        # Far from any minimum both are large, and neither is what anybody asks for.
        sound = own <= 1.1 * abs(self.center) + 0.1
        if sound and not abs(frozen - own) <= 0.5 * (1 + abs(own)):
            warnings.warn(
                f"BatchNorm's statistics are frozen at those of the model: the loss is {said}; "
                "statistics='reestimated' re-estimates them at every point",
                stacklevel=5,
            )

    def _told_apart(self) -> dict[str, Any]:
        """What tells every metric from another one of the same name."""
        metrics = self.options.metrics.items()  # type: ignore[union-attr]
        words = {
            name: metric if isinstance(metric, str) else digest(_data(metric))
            for name, metric in metrics
        }
        return {"metrics": words} | {
            f"metric {name} at the centre": value for name, value in self._centers.items()
        }

    def _far(self, corner: np.ndarray) -> float:
        return float(_fetched(total(self._plain, corner[None]))[0])

    def _checked_metric(self, name: str, metric: Objective) -> Any:
        if getattr(metric, "dim", None) != self._objective.dim:
            raise ValueError(
                f"metric {name!r} must be an objective over vectors of length "
                f"{self._objective.dim}, got {getattr(metric, 'dim', type(metric).__name__)}"
            )
        self._centers[name] = float(check_deterministic(metric, self._origin, curvature=False))
        return evaluator(metric, self._origin, self._directions)

    def _error_of_precision(self, axes: Sequence[np.ndarray]) -> dict[str, Any]:
        """The largest relative error of the loss at a sample of the points."""
        t = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        count = min(len(t), max(9, len(t) // 100))
        t = t[np.sort(np.random.default_rng(0).choice(len(t), count, replace=False))]
        exact = _fetched(total(self._evaluator, t))
        with in_precision(self.options.precision, self._origin.device):
            rough = _fetched(total(self._evaluator, t))
        known = np.isfinite(exact) & (exact != 0)
        errors = np.abs(np.where(np.isfinite(rough), rough, np.inf)[known] / exact[known] - 1)
        return {
            "name": self.options.precision,
            "points": len(errors),
            "largest relative error": float(errors.max()) if len(errors) else None,
        }

    def _identity(self, coordinates: Mapping[str, Any]) -> dict[str, Any]:
        objective = self._objective
        return {
            "objective": f"{type(objective).__name__}({objective.dim})",
            "loss at the centre": self.center,
            "point": digest([self._origin]),
            "directions": digest(self._directions),
            "data": digest(_data(objective)),
            "standard errors": self._columns.shares is not None,
            "evaluation": self._evaluator.name,
            "precision": f"{self.options.precision}, {self._origin.dtype}",
            "statistics": normalisation_of(objective),
            "chunk": self.chunk,
            **self._told_apart(),
            **coordinates,
        }


def digest(tensors: Any) -> str:
    """SHA-256 of the bytes, types and shapes of tensors or arrays."""
    found = hashlib.sha256()
    for tensor in tensors:
        tensor = torch.as_tensor(tensor, device=getattr(tensor, "device", "cpu")).detach().cpu()
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for part in dense_parts(tensor):
            found.update(part.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _data(objective: Any) -> Iterator[Tensor]:
    """The tensors of the data: all of what is kept in memory, the first batch of a loader."""
    batches = offered(objective, "batches")
    resident = isinstance(batches, (list, tuple)) or getattr(batches, "resident", False)
    for batch in batches:
        yield from tensors_of(batch[:2])
        if not resident:
            break
    for part in offered(objective, "parts"):
        yield from _data(part)


def _fetched(values: Tensor) -> np.ndarray:
    return widened(values).cpu().numpy()
