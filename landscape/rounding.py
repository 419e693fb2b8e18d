"""The noise of a loss: how far its computed values scatter, rounding inside the model included."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import arithmetic
from landscape.objective import Objective, value, widened

T = TypeVar("T")

# Longest points that are also taken in float64.
_DOUBLE_DIM = 10_000_000
# Steps to the next point, in units of the rounding of every coordinate.
_STRIDES = (1.0, 8.0, 64.0)
# Where these are too small to be seen in the values, longer ones up to this part of the point.
_LONGEST, _LONGER = 0.25, 5
_EACH_SIDE = 3
_DIRECTIONS = 2
# Three orders of differences that agree within this factor are a plateau.
_PLATEAU = 4.0
# Numbers of points that are held at once.
_NUMBERS = 2**24
# Standard deviations that one value, and the best of some hundred, are taken to stray at most.
_ONE, _BEST = 4.0, 6.0
# Of eps |f|: what rounding of the result alone may do to a difference of two losses.
_RESULT = 2.0


class Noise(NamedTuple):
    """How far the computed values of a function scatter near a point.

    Attributes:
        level: the standard deviation of one value; 0 where the values do not scatter, NaN where
            they are not finite.
        value: the function at the point itself.
        eps: relative rounding of the type in which it was computed.
        evaluations: of the function, 37 or 68.
        status: what is special about it; empty where some stride gave a plateau.
    """

    level: float
    value: float
    eps: float
    evaluations: int
    status: str

    @property
    def single(self) -> float:
        r"""What noise does to f(z + u) - f(z) at most: four levels, or 2 eps \|f(z)\|."""
        return max(_ONE * math.sqrt(2) * self.level, _RESULT * self.eps * abs(self.value))

    @property
    def highest(self) -> float:
        r"""The same, where z + u was chosen among many for its high value: six levels."""
        return max(_BEST * math.sqrt(2) * self.level, _RESULT * self.eps * abs(self.value))

    def mean(self, count: int) -> float:
        r"""The same for a mean over ``count`` values less f(z), whose own error does not average.

        >>> Noise(1.0, 0.0, 0.0, 37, "").mean(1)  # 4 times the square root of 2
        5.656854249492381
        >>> Noise(1.0, 0.0, 0.0, 37, "").mean(10**9)
        4.000000002
        """
        once = math.sqrt(1 + 1 / count) * self.level
        return max(_ONE * once, self.eps * abs(self.value))


def noise(
    objective: Objective, z: Float[Tensor, " p"], *, generator: torch.Generator | None = None
) -> Noise:
    r"""The noise level of the objective at ``z``, as it is computed in the type of ``z``.

    A loss in float32 is off by more than the last digit of its value: what a layer has rounded
    away, for instance from logits that share a large part, no later layer can bring back. Of
    values :math:`f(z + i h), i = 0, \dots, m` at a tiny stride h the k-th differences
    :math:`T_k` of the smooth part vanish like :math:`|h|^k`, while those of independent noise of
    standard deviation :math:`\varepsilon` keep :math:`E\, T_k^2 = \varepsilon^2 (2k)! / (k!)^2`:

    .. math:: \varepsilon_k^2 = \frac{(k!)^2}{(2k)!} \operatorname{mean} T_k^2

    is a level of noise as soon as :math:`\varepsilon_k, \varepsilon_{k+1}, \varepsilon_{k+2}` agree
    within a factor of 4 and :math:`T_k` has both signs. m is 6, along two random directions in
    which a coordinate moves in proportion to its own rounding. Three strides, of 1, 8 and 64
    roundings, are taken at once; one at which half of the values are equal is too small, and the
    level is the largest of the others. Where none has a plateau, it is the highest order at the
    smallest stride that is not too small. Costs 37 evaluations, in one call of `value` unless the
    points are too large to be held together. Where all strides are too small, as for a loss that is
    nearly 0 in float32 and goes in steps, 31 more find the first of five longer ones that is not.

    The level is a standard deviation and not a bound: good to a factor of about 2, and rather too
    high than too low, in the median by 1.5 for independent noise. It says nothing of errors that
    all values near z share. A constant function has level 0: what its differences are known to is
    then 2 eps \|f(z)\|.

    Args:
        objective: what is evaluated; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32.
        generator: source of the direction; seed 0 where None.

    Raises:
        ValueError: if ``z`` is not one point of the objective's length.

    Reference: Moré & Wild (2011), Estimating computational noise, SIAM J. Sci. Comput. 33.
    """
    if z.shape != (objective.dim,):
        raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
    z, _ = arithmetic(z)
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    eps = torch.finfo(z.dtype).eps
    shape = (_DIRECTIONS, len(z))
    drawn = torch.randn(
        shape, generator=generator, dtype=torch.float64, device=generator.device
    ).to(z)
    # A coordinate that is zero has no rounding; a point of zeros still has to be left.
    directions = eps * (drawn * z.abs() if bool(z.any()) else drawn)
    centre, tables = _tables(objective, z, directions, _STRIDES)
    evaluations = 1 + 2 * _EACH_SIDE * len(tables)
    if not np.isfinite(tables).all():
        return Noise(math.nan, centre, eps, evaluations, "the values near it are not finite")
    usable = [row for row in tables if _differ(row)]
    if not usable:
        longer = np.geomspace(_STRIDES[-1], _LONGEST / eps, _LONGER + 1)[1:]
        _, tables = _tables(objective, z, directions[:1], longer.tolist())
        usable = [row for row in tables if _differ(row) and np.isfinite(row).all()][:1]
        evaluations += 1 + 2 * _EACH_SIDE * len(tables)
    level, status = _level(usable)
    return Noise(level, centre, eps, evaluations, status)


def in_float64(take: Callable[[Tensor], T], z: Float[Tensor, " p"]) -> tuple[T, str]:
    """What ``take`` gives at z in float64 and "", or at z as it is and why not.

    Not in float64 where z is longer than 10 million, where the device has none, or where the model
    holds tensors of a fixed type.
    """
    if z.dtype == torch.float64:
        return take(z), ""
    reason = f"more than {_DOUBLE_DIM} parameters"
    if len(z) <= _DOUBLE_DIM:
        try:
            return take(z.double()), ""
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
    return take(z), f"in {z.dtype}, rounding not measured ({reason})"


def _tables(
    objective: Objective, z: Tensor, directions: Tensor, strides: Sequence[float]
) -> tuple[float, np.ndarray]:
    """The value at z, and for each stride and direction the values at steps before, at, behind."""
    places = np.arange(-_EACH_SIDE, _EACH_SIDE + 1)
    steps = np.multiply.outer(strides, places[places != 0])
    steps = torch.as_tensor(steps, dtype=z.dtype, device=z.device)
    # (strides, directions, places), and the point itself before all of them.
    step = torch.cat([
        steps.new_zeros(1),
        steps.unsqueeze(1).expand(-1, len(directions), -1).flatten(),
    ])
    number = torch.arange(len(step) - 1, device=z.device) // (2 * _EACH_SIDE) % len(directions)
    number = torch.cat([number.new_zeros(1), number])
    size = max(1, _NUMBERS // len(z))
    found = [
        value(objective, torch.addcmul(z, some.unsqueeze(-1), directions[along]))
        for some, along in zip(step.split(size), number.split(size), strict=True)
    ]
    values = np.concatenate([widened(part).cpu().numpy() for part in found])
    rows = values[1:].reshape(-1, 2 * _EACH_SIDE)
    return float(values[0]), np.insert(rows, _EACH_SIDE, values[0], axis=1)


def _level(rows: list[np.ndarray]) -> tuple[float, str]:
    """The level of noise in values at equal steps, the smallest first, and words for it."""
    if not rows:
        return 0.0, "the values near the point are equal"
    levels, highest = [], []
    for row in rows:
        sizes, mixed = _differences(row)
        highest.append(float(sizes[-1]))
        for k in range(len(sizes) - 2):
            three = sizes[k : k + 3]
            if mixed[k] and three.max() <= _PLATEAU * three.min():
                levels.append(float(sizes[k]))
                break
    if levels:
        return max(levels), ""
    return highest[0], "no order of differences settles: the highest is taken"


def _differ(row: np.ndarray) -> bool:
    """Whether fewer than half of the values are equal to the one before."""
    return bool(2 * np.count_nonzero(np.diff(row) == 0) < len(row))


def _differences(row: np.ndarray) -> tuple[np.ndarray, list[bool]]:
    """The level of noise by differences of each order, and whether these have both signs."""
    sizes, mixed = [], []
    for order in range(1, len(row)):
        row = np.diff(row)
        sizes.append(math.sqrt((row**2).mean() / math.comb(2 * order, order)))
        mixed.append(bool(row.min() < 0 < row.max()))
    return np.array(sizes), mixed
