"""What is found at points of one line or plane: a pure function of their coordinates."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.networks import reestimated
from landscape.objective import Objective, widened
from landscape.slices.evaluators import Evaluation, Plain, evaluator, shares_of, standard_error
from landscape.slices.metrics import MEASURED, Metric


class Asked(NamedTuple):
    """What another process has to know, beside objective and metrics, to find the same columns.

    Attributes:
        origin: (p,), the point at which all coordinates are 0.
        directions: one or two vectors (p,).
        chunk: points evaluated together.
        evaluation: by which way, see `landscape.slices.Options`.
        precision: likewise.
        statistics: likewise.
        standard_errors: likewise.
    """

    origin: Tensor
    directions: tuple[Tensor, ...]
    chunk: int
    evaluation: Evaluation
    precision: str
    statistics: str
    standard_errors: bool


class Columns:
    """Losses, and whatever else is measured, at points in a row.

    Args:
        objective: what is evaluated, its statistics those that are asked for.
        origin: (p,), the point at which all coordinates are 0.
        directions: one or two vectors (p,).
        source: evaluates the objective, see `landscape.slices.evaluators`.
        metrics: by name, words or what evaluates them.
        standard_errors: also those of the loss over batches.
        precision: of the loss.
    """

    def __init__(
        self,
        objective: Objective,
        origin: Tensor,
        directions: Sequence[Tensor],
        source: Any,
        metrics: Mapping[str, Any],
        standard_errors: bool = False,
        precision: str = "same",
    ):
        self.source, self.shares = source, shares_of(objective) if standard_errors else None
        self._objective, self._origin, self._metrics = objective, origin, metrics
        self._plain, self._precision = Plain(objective, origin, directions), precision

    @property
    def width(self) -> int:
        """How many numbers belong to a point."""
        return 1 + bool(self.shares) + len(self._metrics)

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """The columns (width, n) at coordinates (n, k), computed on the device and fetched once."""
        with ungraphed():
            columns = self._losses(t)
            for metric in self._metrics.values():
                if isinstance(metric, str):
                    points = (self._plain.points(row[None])[0] for row in t)
                    measured = [MEASURED[metric](self._objective, point) for point in points]
                    columns.append(torch.as_tensor(measured, dtype=torch.float64, device="cpu"))
                else:
                    columns.append(total(metric, t))
            home = widened(self._origin[:0]).device
            return torch.stack([widened(column).to(home) for column in columns]).cpu().numpy()

    def _losses(self, t: np.ndarray) -> list[Tensor]:
        with in_precision(self._precision, self._origin.device):
            if self.shares is None:
                return [total(self.source, t)]
            terms = torch.stack([torch.cat(parts) for parts in _by_term(self.source, t)])
        error = standard_error(widened(terms), self.shares)
        return [_summed(terms), error]


def columns_of(objective: Objective, metrics: Mapping[str, Metric], asked: Asked) -> Columns:
    """The columns that a sweep in another process has asked for, after all its checks.

    Args:
        objective: what is evaluated.
        metrics: further numbers at every point, by name.
        asked: how.
    """
    if asked.statistics == "reestimated":
        objective = reestimated(objective)
    with ungraphed():
        source = evaluator(objective, asked.origin, asked.directions, asked.evaluation)
        source.chunk = asked.chunk
        others = {
            name: metric if isinstance(metric, str)
            else evaluator(metric, asked.origin, asked.directions)
            for name, metric in metrics.items()
        }  # fmt: skip
    return Columns(
        objective, asked.origin, asked.directions, source, others, asked.standard_errors,
        asked.precision,
    )  # fmt: skip


def total(source: Any, t: np.ndarray) -> Tensor:
    """The values (n,) of an evaluator at coordinates (n, k), in pieces of its own chunk."""
    pieces = [
        _summed(source.terms(t[i : i + source.chunk])) for i in range(0, len(t), source.chunk)
    ]
    return torch.cat(pieces)


def in_precision(name: str, device: torch.device) -> Any:
    """Inside, networks compute in that precision."""
    return nullcontext() if name == "same" else torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def ungraphed() -> Iterator[None]:
    """Without a graph; what is kept for later must not be made in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _by_term(source: Any, t: np.ndarray) -> list[list[Tensor]]:
    """For every term its values at the points t, in pieces of the evaluator's own chunk."""
    pieces = [list(source.terms(t[i : i + source.chunk])) for i in range(0, len(t), source.chunk)]
    return [list(parts) for parts in zip(*pieces, strict=True)]


def _summed(terms: Any) -> Tensor:
    total = None
    for term in terms:
        total = term if total is None else total + term
    if total is None:
        raise ValueError("the objective has no terms: is its data empty?")
    return total
