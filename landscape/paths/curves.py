"""Curves between two points of a large space that lie in the span of a few directions."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import ordinary, widened

Coefficients = Callable[[np.ndarray], np.ndarray]


class Curve:
    """A curve ``t -> a + c(t) @ directions`` for t from 0 to 1, which ends at a and b exactly.

    Lengths need the products of the directions alone, so that no point exists for them.

    Args:
        a: (p,), the point at t = 0.
        b: (p,), the point at t = 1.
        directions: (k, p).
        coefficients: from t (n,) to (n, k); what it gives at 0 and 1 is not used.
        corners: increasing t from 0 to 1 between which the curve is smooth.
        chords: by how many at least its length is measured.
    """

    def __init__(
        self,
        a: Float[Tensor, " p"],
        b: Float[Tensor, " p"],
        directions: Float[Tensor, "k p"],
        coefficients: Coefficients,
        corners: np.ndarray | None = None,
        chords: int = 2000,
    ):
        self.a, self.b = ordinary(a), ordinary(b)
        self._directions, self._coefficients = ordinary(directions), coefficients
        corners = np.array([0.0, 1.0]) if corners is None else corners
        self._t = _finer(corners, chords)
        coordinates = coefficients(self._t)
        wide = widened(self._directions)
        gram = (wide @ wide.T).cpu().numpy()
        steps = np.diff(coordinates, axis=0)
        squares = np.einsum("ni,ij,nj->n", steps, gram, steps)
        self._length = np.append(0.0, np.cumsum(np.sqrt(np.clip(squares, 0.0, None))))

    @property
    def length(self) -> float:
        """How long it is, by chords."""
        return float(self._length[-1])

    def parameter(self, share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The t at which these shares of the length are reached; the shares where it has none."""
        if not self.length > 0:
            return np.asarray(share, dtype=float)
        return np.interp(np.asarray(share) * self.length, self._length, self._t)

    def at(self, share: Float[np.ndarray, " n"]) -> Float[Tensor, "n p"]:
        """The points up to which these shares of the length lie; the ends at 0 and 1 bit for bit.

        Args:
            share: from 0 to 1.
        """
        share = np.asarray(share, dtype=float)
        rows = self._rows(self.parameter(share))
        rows[torch.as_tensor(share <= 0, device=rows.device)] = self.a
        rows[torch.as_tensor(share >= 1, device=rows.device)] = self.b
        return rows

    def _rows(self, t: np.ndarray) -> Tensor:
        c = torch.as_tensor(self._coefficients(t), dtype=self.a.dtype, device=self.a.device)
        return torch.addmm(self.a, c, self._directions)


def straight(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> Curve:
    """The straight line."""
    return Curve(a, b, (b - a).unsqueeze(0), lambda t: t[:, None])


def chain(pivots: Float[Tensor, "k p"]) -> Curve:
    """The straight pieces from pivot to pivot.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(pivots) < 2:
        raise ValueError(f"a chain needs at least 2 pivots, got {len(pivots)}")
    corners = np.linspace(0.0, 1.0, len(pivots))

    def coefficients(t: np.ndarray) -> np.ndarray:
        return hats(t, len(pivots))[:, 1:]

    return Curve(pivots[0], pivots[-1], pivots[1:] - pivots[0], coefficients, corners)


def hats(t: np.ndarray, count: int) -> Float[np.ndarray, "n k"]:
    """The weights (n, count) of pivots at equal distances in t, between which all is linear."""
    position = np.asarray(t, dtype=float)[:, None] * (count - 1)
    return np.clip(1 - np.abs(position - np.arange(count)), 0.0, None)


def sines(a: Tensor, b: Tensor, amplitudes: Float[Tensor, "n p"]) -> Curve:
    """The straight line with ``sum_n amplitudes_n sin(n pi t)`` on top."""
    orders = np.arange(1, len(amplitudes) + 1)

    def coefficients(t: np.ndarray) -> np.ndarray:
        t = np.asarray(t)[:, None]
        return np.concatenate([t, np.sin(np.pi * orders * t)], axis=1)

    return Curve(a, b, torch.cat([(b - a).unsqueeze(0), amplitudes]), coefficients)


def bernstein(a: Tensor, b: Tensor, inner: Float[Tensor, "k p"]) -> Curve:
    """The Bezier curve whose control points are a, the inner ones, and b."""
    degree = len(inner) + 1

    def coefficients(t: np.ndarray) -> np.ndarray:
        return bernstein_weights(t, degree)[:, 1:]

    return Curve(a, b, torch.cat([inner - a, (b - a).unsqueeze(0)]), coefficients)


def bernstein_weights(t: np.ndarray, degree: int) -> Float[np.ndarray, "n k"]:
    """The weights (n, degree + 1) of the control points of a Bezier curve."""
    t = np.asarray(t, dtype=float)[:, None]
    rows = np.ones((len(t), 1))
    for _ in range(degree):
        # De Casteljau, for all points at once.
        padded = np.pad(rows, ((0, 0), (1, 1)))
        rows = t * padded[:, :-1] + (1 - t) * padded[:, 1:]
    return rows


def _finer(corners: np.ndarray, chords: int) -> np.ndarray:
    """The corners with equally many points between any two, for at least so many chords."""
    each = -(-chords // (len(corners) - 1))
    pairs = zip(corners[:-1], corners[1:], strict=True)
    parts = [np.linspace(low, high, each, endpoint=False) for low, high in pairs]
    return np.append(np.concatenate(parts), corners[-1])
