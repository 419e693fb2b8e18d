"""An objective as paths see it: evaluated at many points together, and every evaluation counted."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.networks import normalised_by_batch, reestimated
from landscape.objective import (
    Objective,
    check_deterministic,
    normalisation_of,
    offered,
    value,
    value_and_grad,
    values_by_term,
)

Statistics = Literal["reestimated", "as given"]
# Bytes of points that are made at a time, where the objective does not say how many it likes.
_BYTES = 2**27


class Ground:
    """An objective between two points, and how often it was evaluated.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        statistics: of BatchNorm: ``"reestimated"``: at every point those of the network there, on
            the risk's own data, held fixed in gradients; ``"as given"``: those of the objective.
        chunk: points evaluated together; the objective's own choice where None.

    Attributes:
        objective: with its statistics.
        evaluations: points at which the loss was evaluated alone.
        gradients: points at which it was evaluated with its gradient.
        losses: (2,), at the two ends.
        tried: (p,), where it was seen that the objective may be measured.

    Raises:
        ValueError: if the ends are no two points of the objective, or its loss there is not finite.
        RuntimeError: if the objective is random.
    """

    def __init__(
        self,
        objective: Objective,
        a: Float[Tensor, " p"],
        b: Float[Tensor, " p"],
        *,
        statistics: Statistics = "reestimated",
        chunk: int | None = None,
    ):
        if statistics not in get_args(Statistics):
            raise ValueError(
                f"statistics must be one of {get_args(Statistics)}, got {statistics!r}"
            )
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        _check_ends(objective, a, b)
        self._given = objective
        self.objective: Any = reestimated(objective) if statistics == "reestimated" else objective
        self.a, self.b = a.detach(), b.detach().to(a)
        room = max(1, _BYTES // (a.element_size() * objective.dim))
        self.chunk = chunk or offered(self.objective, "chunk") or room
        self.tried = self._between()
        check_deterministic(self.objective, self.tried, curvature=False)
        # One to find a place, two to see that it is not random.
        self.evaluations, self.gradients = 3, 0
        self.losses = self.values(torch.stack([self.a, self.b]))
        for name, loss in zip("ab", self.losses.tolist(), strict=True):
            if not abs(loss) < float("inf"):
                raise ValueError(
                    f"the loss at the end {name} is {loss}: a path goes between two points where "
                    "it is finite"
                )

    def _between(self) -> Tensor:
        """The middle of the line, or the first end where the loss is not finite there.

        Of data that are fitted to the last bit, gradients at an end are nothing but rounding, and
        say nothing of whether the loss is a function.
        """
        middle = (self.a + self.b) / 2
        return middle if bool(value(self.objective, middle).isfinite()) else self.a

    @property
    def statistics(self) -> str:
        """What BatchNorm normalises with."""
        return normalisation_of(self.objective)

    @property
    def scale(self) -> float:
        """The root mean square difference of the coordinates of the two ends."""
        return float((self.b - self.a).square().mean().sqrt())

    def values(self, rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        """The losses at points."""
        self.evaluations += len(rows)
        return value(self.objective, rows, chunk=self.chunk)

    def values_by_term(self, rows: Float[Tensor, "n p"]) -> Float[Tensor, "b n"]:
        """The losses at points, term by term."""
        self.evaluations += len(rows)
        return torch.stack(list(values_by_term(self.objective, rows, self.chunk)))

    def slopes(
        self, rows: Float[Tensor, "n p"], objective: Any = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n p"]]:
        """The losses at points and their gradients, 0 where one is not finite.

        Args:
            rows: the points.
            objective: one that `stream` gave; the whole where None.
        """
        self.gradients += len(rows)
        objective = self.objective if objective is None else objective
        values, grads = value_and_grad(objective, rows, chunk=self.chunk)
        sound = values.isfinite() & grads.isfinite().all(-1)
        if not bool(sound.all()):
            grads = torch.where(sound.unsqueeze(-1), grads, torch.zeros_like(grads))
            values = torch.where(values.isfinite(), values, torch.full_like(values, torch.inf))
        return values, grads

    def spanned(self, objective: Any) -> Any:
        """As `landscape.objective.Offer.spanned`, counted; None where the objective has none.

        Args:
            objective: one that `stream` gave.
        """
        own = offered(objective, "spanned")
        if own is None:
            return None

        def counted(basis: Tensor, coefficients: Tensor, weigh: Any) -> tuple[Tensor, Tensor]:
            self.gradients += len(coefficients)
            return own(basis, coefficients, weigh)

        return counted

    def stream(self, batch_size: int, seed: int) -> Iterator[Any]:
        """One objective a step: the whole where ``batch_size`` is 0, else mini-batches, endless.

        BatchNorm of a mini-batch normalises with that.

        Raises:
            ValueError: if the objective has no mini-batches.
        """
        if not batch_size:
            return repeat(self.objective)
        source = normalised_by_batch(self._given)
        cut = offered(source, "minibatches")
        if cut is None:
            raise ValueError(
                f"batch_size {batch_size} needs an objective on data, such as EmpiricalRisk; "
                f"{type(self._given).__name__} has no mini-batches: leave it at 0"
            )
        generator = torch.Generator(device="cpu").manual_seed(seed)
        return cut(batch_size, generator)


def _check_ends(objective: Objective, a: Tensor, b: Tensor) -> None:
    for name, end in (("a", a), ("b", b)):
        if end.shape != (objective.dim,):
            raise ValueError(
                f"both ends must be points of length {objective.dim}, got {tuple(a.shape)} and "
                f"{tuple(b.shape)}: are they of two models?"
            )
        if not end.is_floating_point():
            raise ValueError(f"points must be floating point, got {end.dtype} for the end {name}")
        if not bool(end.isfinite().all()):
            raise ValueError(f"the end {name} has NaN or infinite coordinates")
