"""Test functions that are sums over coordinates, from the simulations of CNOGNP.

A critical point of a sum is critical in every coordinate: its name joins their names ("0,3"), its
value is the sum of their values, its Hessian is diagonal. It is a minimum where every coordinate
is at a minimum, a maximum where every coordinate is at a maximum, and a saddle otherwise, whatever
the sign of a second derivative that vanishes.
"""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from landscape.objective import Analytic, Critical

# There are up to 9^dim critical points. Beyond this many coordinates they are not spelled out.
_SPELLED_OUT = 3


def f1(dim: int = 1) -> Analytic:
    """The sum over coordinates of ``sin(x^4)`` on [-1.6, 1.6]^dim.

    The global minima G of one coordinate lie at ``(3 pi / 2)^(1/4)``, with ``f'' = 16 x^6``. The
    minimum O at 0 is flat to third order: its second derivative is 0, its value is 0, and gradient
    descent approaches it only like ``t^(-1/2)``.

    Args:
        dim: number of coordinates. The critical points are declared up to dim = 3.

    Raises:
        ValueError: if ``dim`` is below 1.
    """
    minima = (
        _point("O", 0.0, 0.0, 0.0),
        _point("G-", -1.4733647761755413, -1.0, 163.67474775230002),
        _point("G+", 1.4733647761755413, -1.0, 163.67474775230002),
    )
    maxima = (
        _point("max-", -1.1195151349202477, 1.0, -31.499219891444838),
        _point("max+", 1.1195151349202477, 1.0, -31.499219891444838),
    )
    return _separable("f1", dim, _f1, _f1_gradient, (-1.6, 1.6), minima, maxima)


def f2(dim: int = 1) -> Analytic:
    """The sum over coordinates of ``cos(u)``, ``u = 2^(0.8 x) + 0.1 x``, on [-2, 6]^dim.

    Five equal global minima of one coordinate, at ``u = (2 k + 1) pi`` for k = 0 (flattest) to 4
    (sharpest): ``f'' = u'^2`` there. Since they tie, where a method ends says what it prefers.

    Args:
        dim: number of coordinates. The critical points are declared up to dim = 3.

    Raises:
        ValueError: if ``dim`` is below 1.

    >>> f2().minima[0].name, f2(2).minima[3].name, len(f2(2).saddles)
    ('0', '0,3', 40)
    """
    minima = (
        _point("0", 1.9488781945713463, -1.0, 3.006756409838304),
        _point("1", 3.9680035498481057, -1.0, 26.073010660186196),
        _point("2", 4.909516449228248, -1.0, 72.89920219720604),
        _point("3", 5.527655240351313, -1.0, 143.71127640825776),
        _point("4", 5.988172926762245, -1.0, 238.59637140256336),
    )
    maxima = (
        _point("01", 3.219513736661422, 1.0, -11.598179437624964),
        _point("12", 4.498627561674874, 1.0, -46.49628721031253),
        _point("23", 5.244685217576485, 1.0, -105.3001499390835),
        _point("34", 5.772467462203584, 1.0, -188.14120399663256),
    )
    return _separable("f2", dim, _f2, _f2_gradient, (-2.0, 6.0), minima, maxima)


def f3(dim: int = 1) -> Analytic:
    """The sum over coordinates of ``sin(x - 1.5 cos x) - cos(2 x - 2 sin x)`` on [2.1, 8.3]^dim.

    One coordinate has period 2 pi, a flat minimum and a sharp one, higher by 0.0024. No box is
    published; this one is a period cut short at both maxima, so that the gradient flow stays in.

    Args:
        dim: number of coordinates. The critical points are declared up to dim = 3.

    Raises:
        ValueError: if ``dim`` is below 1.
    """
    minima = (
        _point("flat", 6.208171552847893, -1.999999990106591, 0.7878609445713679),
        _point("sharp", 3.145730868309803, -1.9976413199205034, 17.082895346729124),
    )
    maxima = (_point("max", 3.970768406774268, 0.03662241790594977, -11.502090537820036),)
    return _separable("f3", dim, _f3, _f3_gradient, (2.1, 8.3), minima, maxima)


def _f1(z: Tensor) -> Tensor:
    s = z * z
    return torch.sin(s * s).sum(-1)


def _f1_gradient(z: Tensor) -> Tensor:
    s = z * z
    return 4 * z * s * torch.cos(s * s)


def _f2(z: Tensor) -> Tensor:
    return torch.cos(torch.exp2(0.8 * z) + 0.1 * z).sum(-1)


def _f2_gradient(z: Tensor) -> Tensor:
    power = torch.exp2(0.8 * z)
    return -torch.sin(power + 0.1 * z) * (0.8 * math.log(2) * power + 0.1)


def _f3(z: Tensor) -> Tensor:
    return (torch.sin(z - 1.5 * torch.cos(z)) - torch.cos(2 * z - 2 * torch.sin(z))).sum(-1)


def _f3_gradient(z: Tensor) -> Tensor:
    sin, cos = torch.sin(z), torch.cos(z)
    slow = torch.cos(z - 1.5 * cos) * (1 + 1.5 * sin)
    return slow + torch.sin(2 * z - 2 * sin) * (2 - 2 * cos)


def _point(name: str, x: float, value: float, curvature: float) -> Critical:
    return Critical(name, (x,), value, (curvature,))


def _separable(
    name: str,
    dim: int,
    formula: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    interval: tuple[float, float],
    minima: tuple[Critical, ...],
    maxima: tuple[Critical, ...],
) -> Analytic:
    if dim < 1:
        raise ValueError(f"{name} needs at least one coordinate, got dim = {dim}")
    by_maxima: list[list[Critical]] = [[] for _ in range(dim + 1)]
    if dim <= _SPELLED_OUT:
        for factors in product((*minima, *maxima), repeat=dim):
            by_maxima[sum(factor in maxima for factor in factors)].append(_joined(factors))
    return Analytic(
        formula,
        dim,
        gradient=gradient,
        name=name if dim == 1 else f"{name}-{dim}d",
        box=(interval,) * dim,
        minima=tuple(by_maxima[0]),
        saddles=tuple(point for some in by_maxima[1:dim] for point in some),
        maxima=tuple(by_maxima[dim]),
    )


def _joined(factors: tuple[Critical, ...]) -> Critical:
    return Critical(
        name=",".join(factor.name for factor in factors),
        point=tuple(x for factor in factors for x in factor.point),
        value=sum(factor.value for factor in factors),
        eigenvalues=tuple(sorted((e for f in factors for e in f.eigenvalues), reverse=True)),
    )
