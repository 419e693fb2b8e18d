"""Whether a search for eigenvalues has missed some: a second look from a fresh random start."""

import numpy as np

from landscape.spectrum.krylov import Pairs, Which, ends
from landscape.spectrum.search import Search, settled

# Chance of a miss, for each end, at which a look is over; and the part of the spread beyond which
# it must be that small where the next eigenvalue is too near to be told apart.
_CHANCE = 0.005
_NEAR = 0.1
# What a step counts after a restart, which the theorem does not cover.
_RESTARTED = 0.5


def uncover(search: Search) -> None:
    r"""Nothing; the search looked again and again until nothing was found, and says how that ended.

    The rows are the wanted Ritz vectors and the two after them. Lanczos from a random start
    orthogonal to these sees the operator projected on the rest of the space, in which
    a second copy of an eigenvalue is visible. What lies beyond the wanted ones takes its place.

    A look ends when an eigenvalue t that is beyond the wanted ones by more than the tolerance would
    have shown with a probability of 99 %. With j steps, the largest Ritz value rho, the smallest
    eigenvalue s and :math:`\epsilon = (t - \rho) / (t - s)`, the chance of not seeing it is at most
    :math:`1.648 \sqrt p \, e^{-(2 j - 1) \sqrt \epsilon}` (Kuczynski and Wozniakowski 1992); the
    smallest Ritz value less its residual stands for s. Where the next eigenvalue is so near that
    this would take long, a look ends when its Ritz pair meets the tolerance and this chance is that
    small for whatever is beyond it by a tenth of the spread. The theorem knows no restart; steps
    after one count half, and the chance is then an estimate.
    """
    krylov = search.krylov
    before = krylov.products
    while not search.verdict:
        locked = krylov.size
        search.verdict, hidden = _look(search)
        search.hidden += hidden
        if hidden and krylov.basis.kept:
            search.pairs = krylov.pairs()
            search.lock()
        elif hidden:
            inner = search.ritz(locked)
            search.add(np.flatnonzero(_beyond(inner, search)), inner)
        else:
            krylov.trim(locked)
    search.checked = krylov.products - before


def _look(search: Search) -> tuple[str, int]:
    """How it ended, and how many Ritz values are beyond the wanted ones."""
    krylov, which, slack = search.krylov, search.which, search.slack
    first, steps, full, hidden = krylov.size, 0.0, 1.0, 0
    low, high = _edges(search.pairs.values[ends(search.pairs.values, which, search.k)], which)
    while not krylov.complete:
        if search.spent:
            return f"stopped after {search.limit} products in all", hidden
        if krylov.size == krylov.basis.room:
            krylov.restart(which, hidden + 1, first)
            full = _RESTARTED
        krylov.extend()
        steps += full
        if not krylov.finite:
            return "met a product that is not finite", 0
        inner = search.ritz(first)
        beyond = _beyond(inner, search)
        hidden = int(beyond.sum())
        if hidden:
            if krylov.closed or _found(search, inner.residuals[beyond]):
                return "", hidden
            continue
        verdict = "the rest of the space was seen"
        if not krylov.closed:
            verdict = _verdict(inner, steps, krylov.basis.dim - first, (low, high), slack)
        if verdict:
            return verdict if full == 1.0 else f"{verdict}, by an estimate for restarts", 0
    return "the whole space was seen", hidden


def _beyond(inner: Pairs, search: Search) -> np.ndarray:
    """Which Ritz values are beyond the wanted ones by more than the tolerance."""
    which, slack = search.which, search.slack
    low, high = _edges(search.pairs.values[ends(search.pairs.values, which, search.k)], which)
    return (inner.values > high + slack) | (inner.values < low - slack)


def _found(search: Search, residuals: np.ndarray) -> bool:
    """Whether what is beyond the wanted ones is known as well as they are."""
    if not search.krylov.basis.kept:
        return bool((residuals <= search.slack).all())
    return settled(search.krylov.pairs(), search.k, search.which, search.tolerance)


def _edges(values: np.ndarray, which: Which) -> tuple[float, float]:
    """Beyond these on either side an eigenvalue would be among the wanted ones."""
    if which == "LM":
        least = float(np.abs(values).min())
        return -least, least
    high = (len(values) + 1) // 2 if which == "BE" else len(values)
    top = float("inf") if which == "SA" else float(values[:high].min())
    bottom = values if which == "SA" else values[high:]
    return float(bottom.max(initial=-np.inf)), top


def _verdict(inner: Pairs, steps: float, dim: int, edges: tuple[float, float], slack: float) -> str:
    """Why the look may end; empty where it may not."""
    values, residuals = inner.values, inner.residuals
    near = False
    for edge, sign, this, other in ((edges[1], 1, -1, 0), (-edges[0], -1, 0, -1)):
        if not np.isfinite(edge):
            continue
        target = edge + slack
        spread = target - sign * values[other] + residuals[other]
        part = (target - sign * values[this]) / spread
        if _chance(part, steps, dim) <= _CHANCE:
            continue
        if residuals[this] > slack or _chance(max(part, _NEAR), steps, dim) > _CHANCE:
            return ""
        near = True
    if near:
        return "the next eigenvalue is within a tenth of the spread, and its pair has converged"
    return "the chance that one is missed is below 1 %"


def _chance(part: float, steps: float, dim: int) -> float:
    """That an eigenvalue was not seen whose distance is this part of the spread."""
    return 1.648 * dim**0.5 * float(np.exp(-(2 * steps - 1) * max(part, 0.0) ** 0.5))
