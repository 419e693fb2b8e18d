"""Test functions whose critical points are known to double precision.

Every function is an `Analytic` objective. Beside its formula it declares the box that one draws
and starts in, and every critical point inside that box. The docstring of ``function.formula`` has
the formula, its source and its traps. F1 to F3, which are sums over coordinates, come from
`landscape.functions.additive`.

The tables were found by Newton's method in 50-digit arithmetic. A row is: name, point, value,
Hessian eigenvalues from the largest down. A name with a sign stands for two points, this one and
its mirror image at -z, which has the opposite signs in its name; the last sign of L- and L+ is the
sign of x. A saddle between the minima A and B is AB.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from landscape.functions.additive import f1, f2, f3
from landscape.objective import Analytic, Critical


def _table(rows: str) -> tuple[Critical, ...]:
    points = []
    for row in rows.strip().splitlines():
        name, *words = row.split()
        numbers = tuple(map(float, words))
        dim = len(numbers) // 2
        point, value, eigenvalues = numbers[:dim], numbers[dim], numbers[dim + 1 :]
        points.append(Critical(name, point, value, eigenvalues))
        if "-" in name or "+" in name:
            mirrored = name.translate(str.maketrans("+-", "-+"))
            points.append(Critical(mirrored, tuple(-x for x in point), value, eigenvalues))
    return tuple(points)


def _himmelblau(z: Tensor) -> Tensor:
    """Himmelblau's function: ``(x^2 + y - 11)^2 + (x + y^2 - 7)^2``.

    Four minima of value 0. Which one is the flattest depends on the measure (D by the largest
    eigenvalue, A by the trace); C is the sharpest by every one. The box [-6, 6]^2 is in use too.

    Reference: Himmelblau (1972), Applied Nonlinear Programming.
    """
    a, b, _, _ = _himmelblau_parts(z)
    return torch.addcmul(a * a, b, b)


def _himmelblau_both(z: Tensor) -> tuple[Tensor, Tensor]:
    a, b, x, y = _himmelblau_parts(z)
    halves = torch.addcmul(b, x, a, value=2), torch.addcmul(a, y, b, value=2)
    return torch.addcmul(a * a, b, b), torch.stack(halves, -1).mul_(2)


def _himmelblau_parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two squared terms, x and y; fused operations, since a step costs little else."""
    x, y = z.unbind(-1)
    return torch.addcmul(y - 11, x, x), torch.addcmul(x - 7, y, y), x, y


himmelblau = Analytic(
    _himmelblau,
    dim=2,
    both=_himmelblau_both,
    name="himmelblau",
    box=((-5.0, 5.0), (-5.0, 5.0)),
    minima=_table("""
A 3.0 2.0 0.0 82.2842712474619 25.7157287525381
B 3.584428340330492 -1.848126526964404 0.0 105.4189083363161 28.69067715675524
C -3.779310253377747 -3.28318599128617 0.0 133.7856152130671 70.71435474424425
D -2.805118086952745 3.131312518250573 0.0 80.55007177893319 64.8403727706842
"""),
    saddles=_table("""
AB 3.385154183607021 0.07385187983774928 13.31192627040559 97.5478781026018 -14.13517848545049
AD 0.08667750455539636 2.884254701174776 67.71915008752615 75.50760923823201 -31.70662236277434
CD -3.07302575076439 -0.08135304428796751 104.0151629175581 72.43524806811875 -39.65149625621665
BC -0.1279613467306801 -1.953714980244576 178.3372392019275 20.28404997593508 -50.61023932036576
"""),
    maxima=_table("""
max -0.2708445906673476 -0.9230385564799815 181.6165215225827 -16.06601966729087 -45.60522929278952
"""),
)


def _three_hump_camel(z: Tensor) -> Tensor:
    """The three-hump camel function: ``2 x^2 - 1.05 x^4 + x^6 / 6 + x y + y^2``.

    The global minimum O is the flattest; the pair L ties exactly. Towards the edge of the box the
    gradient grows like x^5: plain gradient descent needs a step below about 0.001 to follow the
    gradient flow from everywhere.
    """
    return _camel(z, 1.05)


def _three_hump_camel_gradient(z: Tensor) -> Tensor:
    return _camel_gradient(z, 1.05)


def _camel(z: Tensor, quartic: float) -> Tensor:
    x, y = z[..., 0], z[..., 1]
    s = x * x
    return s * (2 + s * (s / 6 - quartic)) + y * (x + y)


def _camel_gradient(z: Tensor, quartic: float) -> Tensor:
    x, y = z[..., 0], z[..., 1]
    s = x * x
    return torch.stack((x * (4 + s * (s - 4 * quartic)) + y, x + 2 * y), dim=-1)


three_hump_camel = Analytic(
    _three_hump_camel,
    dim=2,
    gradient=_three_hump_camel_gradient,
    name="three-hump-camel",
    box=((-5.0, 5.0), (-5.0, 5.0)),
    minima=_table("""
O 0.0 0.0 0.0 4.414213562373095 1.585786437626905
L- -1.747552345830289 0.8737761729151444 0.2986384422368598 12.25064413690953 1.902445154992817
"""),
    saddles=_table("""
OL- -1.07054229182366 0.53527114591183 0.8773615577631402 2.165598880332629 -4.038688172234973
"""),
)


def _three_hump_camel_misprint(z: Tensor) -> Tensor:
    """The three-hump camel function with a misprint: ``2 x^2 - 1.04 x^4 + x^6 / 6 + x y + y^2``.

    Figure 1 of Inan, Liu & Shehu (AAAI 2024) has 1.04 for 1.05. The outer minima then lie at 0.390
    and not at 0.299; the basins differ by less than two points of the box.
    """
    return _camel(z, 1.04)


def _three_hump_camel_misprint_gradient(z: Tensor) -> Tensor:
    return _camel_gradient(z, 1.04)


three_hump_camel_misprint = Analytic(
    _three_hump_camel_misprint,
    dim=2,
    gradient=_three_hump_camel_misprint_gradient,
    name="three-hump-camel-misprint",
    box=((-5.0, 5.0), (-5.0, 5.0)),
    minima=_table("""
O 0.0 0.0 0.0 4.414213562373095 1.585786437626905
L- -1.728891394561579 0.8644456972807895 0.3899454362193812 11.47457026295765 1.894454315895502
"""),
    saddles=_table("""
OL- -1.082097290362987 0.5410486451814936 0.8907798971139521 2.168732041890871 -3.926556620744024
"""),
)


def _six_hump_camel(z: Tensor) -> Tensor:
    """The six-hump camel function: ``(4 - 2.1 x^2 + x^4 / 3) x^2 + x y + (-4 + 4 y^2) y^2``.

    Three pairs of minima, global G, middle M and high H. By every measure H is the flattest and
    M the sharpest; H is also the shallowest, 0.125 below its lowest saddle.

    Figure 1 of Inan, Liu & Shehu (AAAI 2024) prints ``(-44 y^2) y^2``, which has no lower bound.
    The box of most pictures is [-2, 2] x [-1, 1].

    Reference: Dixon & Szego (1978), Towards Global Optimisation 2.
    """
    x, y = z[..., 0], z[..., 1]
    s, t = x * x, y * y
    return s * (4 + s * (s / 3 - 2.1)) + x * y + 4 * t * (t - 1)


def _six_hump_camel_gradient(z: Tensor) -> Tensor:
    x, y = z[..., 0], z[..., 1]
    s = x * x
    return torch.stack((x * (8 + s * (2 * s - 8.4)) + y, x + y * (16 * y * y - 8)), dim=-1)


six_hump_camel = Analytic(
    _six_hump_camel,
    dim=2,
    gradient=_six_hump_camel_gradient,
    name="six-hump-camel",
    box=((-3.0, 3.0), (-2.0, 2.0)),
    minima=_table("""
G- -0.08984201310031806 0.7126564030207396 -1.031628453489877 16.49319523222773 7.682251413369077
M- -1.703606714969981 0.7960835686726251 -0.2154638243837176 22.6975150069289 18.81713863516046
H- -1.607104752920197 -0.5686514548841314 2.104250310311258 10.02160251618325 7.121512120207152
"""),
    saddles=_table("""
GG 0.0 0.0 0.0 8.062257748298549 -8.062257748298549
MG- -1.109205336804787 0.7682680925095399 0.5437186009781851 20.366739739128 -7.902619119987387
HM- -1.638067984189779 -0.2286740690443941 2.229357197530715 12.43666443635839 -5.545775017246524
H-G+ -1.296070267167109 -0.6050843880386585 2.22947081802986 9.637588488012842 -6.177182126967409
"""),
    maxima=_table("""
max- -1.230229876516653 -0.162334584458995 2.496295351023577 -5.953724166834645 -8.014907156539829
"""),
)

# Sign, sharpness and centre: the wells c1 and c2, the hills d1 and d2.
_BUMPS = ((-1, 3, -0.5, -0.5), (-1, 3, 0.5, 0.0), (1, 15, -0.2, -0.4), (1, 15, 0.0, 0.3))


def _two_wells(z: Tensor) -> Tensor:
    """Two wells with two hills between them, a test for paths.

    ``C - exp(-3 |z - c1|^2) - exp(-3 |z - c2|^2) + exp(-15 |z - d1|^2) + exp(-15 |z - d2|^2)`` with
    c1 = (-.5, -.5), c2 = (.5, 0), d1 = (-.2, -.4), d2 = (0, .3), C = 1.0190055296306975.

    Every path from well to well climbs at least to the saddle "pass", 0.6243933472. The published
    paths run from (-.62, -.54) to (.49, -.02), which are near the minima but not on them. No box
    is published; in this one lie all critical points, and the gradient flow stays inside.

    Reference: Yu & Morozov, arXiv 2602.21276.
    """
    _, _, _, heights = _bumps(z)
    return 1.0190055296306975 + heights.sum(-1)


def _two_wells_gradient(z: Tensor) -> Tensor:
    u, v, sharpness, heights = _bumps(z)
    factor = -2 * sharpness * heights
    return torch.stack(((factor * u).sum(-1), (factor * v).sum(-1)), dim=-1)


def _bumps(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets from each centre, sharpness and height of each bump at z; the last axis is bumps."""
    table = torch.tensor(_BUMPS, dtype=z.dtype, device=z.device)
    sign, sharpness, a, b = table.unbind(-1)
    u, v = z[..., 0, None] - a, z[..., 1, None] - b
    return u, v, sharpness, sign * torch.exp(-sharpness * (u * u + v * v))


two_wells = Analytic(
    _two_wells,
    dim=2,
    gradient=_two_wells_gradient,
    name="two-wells",
    box=((-1.0, 1.0), (-1.0, 1.0)),
    minima=_table("""
c2 0.4881002180073282 -0.02225546063184096 -3.09042305626947e-05 7.592096090942239 5.029307983720038
c1 -0.6138016125151484 -0.5354155250543252 0.1087071678864151 12.95492498587432 4.054233406524905
"""),
    saddles=_table("""
pass -0.1647265485404378 -0.06991718206187822 0.6243933471869938 22.80518412065963 -8.35669420063601
detour 0.05288953025371507 -0.6881582077713638 0.6372572376560084 10.7569458742943 -4.50930926060227
rim -0.2927095998594377 0.7436239301641692 0.9960671956794482 2.040800506388422 -0.5007160884139751
"""),
    maxima=_table("""
d1 -0.1752100699343324 -0.3978614473682515 1.145515253485343 -24.44624401072596 -30.34876111027257
d2 -0.02759040978882282 0.3320718454307031 1.616921167792976 -28.714369488545 -30.00005556409416
"""),
)


CATALOGUE: Mapping[str, Analytic] = MappingProxyType({
    function.name: function
    for function in (
        himmelblau,
        three_hump_camel,
        six_hump_camel,
        three_hump_camel_misprint,
        two_wells,
        *(family(dim) for family in (f1, f2, f3) for dim in (1, 2)),
    )
})
"""Every function by name, those of several coordinates also as "f1-2d"."""
