"""One objective as a function of a few coordinates, by the fastest way that fits it."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Analytic, Objective, Ridge, Sum, batched_terms, offered, ordinary

Evaluation = Literal["auto", "plain", "stacked", "in-place", "folded"]
_BYTES = 2**26


class Evaluator(Protocol):
    """An objective's terms at ``origin + sum_k t_k directions_k``.

    ``name`` says by which way, and ``chunk`` how many points are best evaluated together.
    """

    name: str
    chunk: int

    def terms(self, t: Float[np.ndarray, "n k"]) -> Iterator[Float[Tensor, " n"]]: ...


class Plain:
    """Every point as a vector of its own, handed to the objective; this fits every objective."""

    name = "plain"

    def __init__(self, objective: Objective, origin: Tensor, directions: Sequence[Tensor]):
        self._objective = objective
        self._origin = ordinary(origin)
        self._directions = [ordinary(direction).to(origin) for direction in directions]
        room = max(1, _BYTES // (origin.element_size() * objective.dim))
        self.chunk = offered(objective, "chunk") or room

    def points(self, t: Float[np.ndarray, "n k"]) -> Float[Tensor, "n p"]:
        """The points (n, p) with coordinates ``t``."""
        steps = torch.as_tensor(t, dtype=self._origin.dtype, device=self._origin.device)
        rows = self._origin.expand(len(t), -1).clone(memory_format=torch.contiguous_format)
        for step, direction in zip(steps.T, self._directions, strict=True):
            rows.addr_(step, direction)
        return rows

    def terms(self, t: Float[np.ndarray, "n k"]) -> Iterator[Float[Tensor, " n"]]:
        rows = self.points(t)
        for term in batched_terms(self._objective):
            yield term(rows)


class _Joined:
    """The terms of several evaluators, one after another."""

    def __init__(self, parts: Sequence[Any]):
        self._parts = parts
        self.name = next((part.name for part in parts if part.name != "plain"), "plain")
        self.chunk = min(part.chunk for part in parts)

    def terms(self, t: Float[np.ndarray, "n k"]) -> Iterator[Float[Tensor, " n"]]:
        for part in self._parts:
            yield from part.terms(t)


def evaluator(
    objective: Objective,
    origin: Float[Tensor, " p"],
    directions: Sequence[Tensor],
    wanted: Evaluation = "auto",
) -> Any:
    """The `Evaluator` of ``objective``: the fastest that there is, or the wanted one.

    Raises:
        ValueError: if the wanted way does not exist, or does not fit the objective.
    """
    if wanted not in ("auto", "plain", "stacked", "in-place", "folded"):
        raise ValueError(
            f"evaluation must be auto, plain, stacked, in-place or folded, got {wanted!r}"
        )
    found = _fast(objective, origin, directions, wanted) if wanted != "plain" else None
    found = Plain(objective, origin, directions) if found is None else found
    if wanted != "auto" and not found.name.startswith(wanted):
        raise ValueError(
            f"evaluation={wanted!r} does not fit this objective: 'stacked' needs a chain of linear "
            "layers, 'in-place' a network that is evaluated point by point, 'folded' one that "
            "torch.fx can trace, with BatchNorm in frozen mode right after convolutions; 'auto' "
            f"takes {found.name!r}"
        )
    return found


def has_fast(objective: Any) -> bool:
    """Whether there may be another way than the plain one."""
    parts = objective.parts if isinstance(objective, Sum) else ()
    return offered(objective, "along") is not None or any(has_fast(part) for part in parts)


def shares_of(objective: Any) -> list[float | None]:
    """The weight of every term: a batch's share of the data, or None for a term without data.

    Raises:
        ValueError: if it is unknown how the terms depend on the data, or there are not at least
            two batches.
    """
    shares = _shares(objective)
    batches = [share for share in shares if share is not None]
    if len(batches) < 2:
        raise ValueError(
            f"standard errors need at least 2 batches of data, got {len(batches)}: give the data "
            "as a list of batches or a DataLoader"
        )
    if not np.isclose(sum(batches), 1.0):
        raise ValueError("standard errors need one risk on data in the objective, got several")
    return shares


def standard_error(terms: Tensor, shares: Sequence[float | None]) -> Tensor:
    """The standard error (n,) of sums of terms (b, n), from their spread over batches of data.

    Args:
        terms: in float64, each with its batch's share in it.
        shares: as `shares_of` gives them.
    """
    known = torch.tensor(
        [np.nan if s is None else s for s in shares], dtype=torch.float64, device=terms.device
    )
    kept = ~known.isnan()
    weights, batches = known[kept].unsqueeze(-1), terms[kept]
    spread = (batches / weights - batches.sum(0)) ** 2
    return ((weights * spread).sum(0) / (len(batches) - 1)).sqrt()


def _fast(objective: Any, origin: Tensor, directions: Sequence[Tensor], wanted: str) -> Any:
    if isinstance(objective, Sum):
        parts = [_fast(part, origin, directions, wanted) for part in objective.parts]
        if not any(parts):
            return None
        return _Joined([
            Plain(part, origin, directions) if fast is None else fast
            for part, fast in zip(objective.parts, parts, strict=True)
        ])
    along = offered(objective, "along")
    return None if along is None else along(origin, directions, fold=wanted != "in-place")


def _shares(objective: Any) -> list[float | None]:
    own = offered(objective, "shares")
    if own is not None:
        return list(own)
    if isinstance(objective, (Analytic, Ridge)):
        return [None]
    parts = offered(objective, "parts")
    if not parts:
        raise ValueError(
            f"standard errors need an objective on batches of data, such as EmpiricalRisk; "
            f"{type(objective).__name__} does not say what its terms weigh"
        )
    return [share for part in parts for share in _shares(part)]
