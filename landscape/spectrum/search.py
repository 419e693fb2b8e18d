"""The search for eigenpairs at one end: what it holds, and the first look, until it is settled."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.spectrum.krylov import Basis, Krylov, Pairs, Which, ends, norm
from landscape.spectrum.recomputed import originals

# Pairs after the wanted ones that have to be known too.
GUARDS = 2
# What a start along a given vector has of a random one: of everything there is, a little.
_RANDOM = 0.1
# A projection on rows that were so far from orthonormal is off by about its square.
_SKEW = 1e-2


class Search:
    """All that a search holds, from the first product to the last.

    Looks change it (`look`, then `landscape.spectrum.multiplicity.uncover`); afterwards its rows
    are the wanted Ritz vectors, then those after them.

    Args:
        operator: has ``point`` (for device and dtype) and ``@``.
        k: how many pairs are wanted.
        which: the end of the spectrum, as in `landscape.spectrum.top_eigenpairs`.
        tolerance: relative to the largest Ritz value by magnitude.
        limit: most products, of all looks together.
        generator: source of the starting vectors.
        room: most rows of the basis; as many as there are products where None.
        start: (p,), along which the first look mostly starts; random where it is None, zero or not
            finite.
        basis: an empty one; one that is kept where None.

    Attributes:
        krylov: the basis, the projection on it, and the products so far.
        pairs: its Ritz pairs, when last looked at.
        status: how the first look ended; empty before.
        verdict: how the second look ended; empty before.
        hidden: how many pairs were found by it that the first look did not see.
        checked: products of the second look.
    """

    def __init__(
        self,
        operator: Any,
        k: int,
        which: Which,
        tolerance: float,
        limit: int,
        generator: torch.Generator,
        *,
        room: int | None = None,
        start: Float[Tensor, " p"] | None = None,
        basis: Basis | None = None,
    ):
        self.k, self.which, self.tolerance, self.limit = k, which, tolerance, limit
        room = min(operator.point.numel(), limit if room is None else room)
        start = _start(operator, start, generator)
        self.krylov = Krylov(operator, room, generator, start, basis)
        self.pairs = Pairs(np.empty(0), np.empty((0, 0)), np.empty(0))
        self.status = self.verdict = ""
        self.hidden = self.checked = 0

    @property
    def spent(self) -> bool:
        """Whether there are no products left."""
        owed = self.krylov.basis.owed + (0 if self.krylov.basis.kept else self.k + GUARDS)
        return self.krylov.products + owed >= self.limit

    @property
    def slack(self) -> float:
        """The tolerance times the largest Ritz value by magnitude."""
        return self.tolerance * float(np.abs(self.pairs.values).max())

    @property
    def ended(self) -> str:
        """How it ended, both looks taken together."""
        if not self.verdict.startswith("stopped"):
            return self.status
        return f"converged, but the check for hidden eigenvalues {self.verdict}"

    def said(self, check: bool) -> dict[str, Any]:
        """What the provenance says of the second look, which was asked for or not."""
        if self.verdict:
            found = f"{self.hidden} hidden found; {self.verdict}"
            return {"hidden": self.hidden, "check": found}
        if self.krylov.complete:
            return {"check": "not needed: the whole space was seen"}
        reached = self.status == "converged" and not check
        return {"check": "not asked for" if reached else "not reached"}

    def ritz(self, first: int = 0) -> Pairs:
        """The Ritz pairs of the rows from ``first``, without copies that are made by rounding."""
        pairs = self.krylov.pairs(first)
        if self.krylov.basis.kept:
            return pairs
        limit = self.tolerance * float(np.abs(pairs.values).max())
        return originals(pairs, limit, torch.finfo(self.krylov.operator.point.dtype).eps)

    def settled(self) -> bool:
        """Whether the Ritz pairs, taken anew, meet the tolerance."""
        self.pairs = self.ritz()
        return settled(self.pairs, self.k, self.which, self.tolerance)

    def lock(self) -> None:
        """Nothing; the rows become the wanted Ritz vectors, and behind them those after them."""
        self.krylov.lock(self._wanted(), self.pairs)
        self._mend()

    def add(self, found: np.ndarray, inner: Pairs) -> None:
        """Nothing; the rows are again as after `lock`, with some pairs of the last chain in them.

        Args:
            found: which pairs.
            inner: the pairs of the operator projected on that chain.
        """
        krylov = self.krylov
        first = krylov.size - len(inner.coefficients)
        krylov.keep(inner.coefficients[:, found], first)
        krylov.trim(krylov.size)
        self.pairs = krylov.pairs()
        krylov.keep(self.pairs.coefficients[:, self._wanted()])
        self._mend()

    def _wanted(self) -> np.ndarray:
        """Which pairs are wanted, and behind them those after them."""
        chosen = ends(self.pairs.values, self.which, self.k)
        after = np.setdiff1d(ends(self.pairs.values, self.which, self.k + GUARDS), chosen)
        return np.concatenate([chosen, after])

    def _mend(self) -> None:
        """Nothing; rows that were no Ritz vectors, since theirs were lost, are measured anew."""
        krylov = self.krylov
        if krylov.basis.fill(self.k) or krylov.basis.skew > _SKEW:
            krylov.measure()
            self.pairs = krylov.pairs()
            krylov.keep(self.pairs.coefficients[:, self._wanted()])


def look(search: Search) -> None:
    """Nothing; the search has a space with the wanted pairs, locked, and says how that ended.

    Lanczos with full reorthogonalisation and, where the basis has no more room, thick restart. It
    goes on from a fresh random vector where the recurrence closes early, on an invariant subspace.
    When it stops is in `settled`.
    """
    krylov = search.krylov
    wanted = min(search.k + GUARDS, krylov.basis.dim)
    while not search.status:
        krylov.restart(search.which, wanted)
        krylov.extend()
        if not krylov.finite:
            search.status = "not finite"
            return
        last = krylov.complete or search.spent or _stuck(krylov)
        if last or (krylov.size >= wanted and _due(krylov)):
            if search.settled() or krylov.complete:
                search.status = "converged"
            elif _stuck(krylov):
                search.status = (
                    f"stopped: the space closed after {krylov.size} products, and a basis that is "
                    "not kept cannot go on from there"
                )
            elif last:
                search.status = f"stopped after {search.limit} products"
    search.lock()


def settled(pairs: Pairs, k: int, which: Which, tolerance: float) -> bool:
    """Whether the k wanted Ritz pairs and the two after them meet the tolerance.

    It is relative to the largest Ritz value by magnitude. The wanted pairs meet it with their
    residual r. The two after them meet it with min(r, r^2 / gap), the estimate of how much they can
    still be mixed with the wanted ones: the gap is that to the nearest wanted Ritz value less r.
    They may be mixed with what comes after them; that they are so far settled is what tells that
    neither is about to turn into something larger.
    """
    limit = tolerance * np.abs(pairs.values).max()
    chosen = ends(pairs.values, which, k)
    if len(pairs.values) < k or (pairs.residuals[chosen] > limit).any():
        return False
    after = np.setdiff1d(ends(pairs.values, which, k + GUARDS), chosen)
    residuals = pairs.residuals[after]
    gaps = abs(pairs.values[after, None] - pairs.values[chosen]).min(1, initial=np.inf) - residuals
    return bool(((residuals <= limit) | (residuals**2 <= limit * gaps)).all())


def estimates(values: np.ndarray, residuals: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """min(r, r^2 / gap), with the gap to the nearest other of all Ritz values less r."""
    found = residuals.copy()
    if len(everything) > 1:
        gaps = np.sort(abs(everything - values[:, None]))[:, 1] - residuals
        apart = gaps > 0
        found[apart] = np.minimum(residuals[apart], residuals[apart] ** 2 / gaps[apart])
    return found


def _start(
    operator: Any, start: Tensor | None, generator: torch.Generator
) -> Float[Tensor, " p"] | None:
    """A unit vector along ``start`` with some of a random one; None where it has no direction."""
    length = 0.0 if start is None else norm(start)
    if start is None or not (np.isfinite(length) and length > 0):
        return None
    random = torch.randn(
        len(start), generator=generator, dtype=torch.float64, device=generator.device
    ).to(operator.point)
    mixed = start / length + random * (_RANDOM / norm(random))
    return mixed / norm(mixed)


def _stuck(krylov: Krylov) -> bool:
    """Whether a next row would have to be orthogonal to rows that are gone."""
    return krylov.closed and not krylov.basis.kept


def _due(krylov: Krylov) -> bool:
    """Whether to look: at every step, and in large bases, where looking costs, at some."""
    return krylov.size <= 50 or krylov.products % (krylov.size // 25) == 0
