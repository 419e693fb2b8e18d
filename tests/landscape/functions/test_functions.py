"""The test functions against autograd, printed critical points, and index and degree counts."""

import itertools
import math
import pickle

import pytest
import torch

from landscape.functions import (
    CATALOGUE,
    f1,
    f2,
    f3,
    himmelblau,
    six_hump_camel,
    three_hump_camel,
    three_hump_camel_misprint,
    two_wells,
)
from landscape.objective import value, value_and_grad

FUNCTIONS = list(CATALOGUE.values())
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)


def critical(function):
    return [*function.minima, *function.saddles, *function.maxima]


def points(some):
    return torch.tensor([point.point for point in some], dtype=torch.float64, device="cpu")


def hessians(function, z):
    return torch.func.vmap(torch.func.hessian(function.formula))(z)


def in_box(function, count, seed=0):
    low, high = torch.tensor(function.box, dtype=torch.float64).T
    draws = torch.rand(
        count, function.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return low + (high - low) * draws


def grid(function, count):
    edges = [torch.linspace(low, high, count, dtype=torch.float64) for low, high in function.box]
    return torch.cartesian_prod(*edges).reshape(-1, function.dim)


@every_function
def test_declared_points_have_the_declared_value_a_zero_gradient_and_the_declared_curvature(
    function,
):
    found = critical(function)
    z = points(found)
    values, gradients = value_and_grad(function, z)
    slopes = torch.func.vmap(torch.func.grad(function.formula))(z)
    declared = torch.tensor([point.value for point in found], dtype=torch.float64)
    eigenvalues = torch.tensor([point.eigenvalues for point in found], dtype=torch.float64)
    exact = torch.linalg.eigvalsh(hessians(function, z)).flip(-1)
    largest = eigenvalues.abs().max()
    torch.testing.assert_close(values, declared, rtol=1e-13, atol=1e-13)
    assert gradients.abs().max() <= 1e-14 * largest + 1e-14
    assert slopes.abs().max() <= 1e-14 * largest + 1e-14
    torch.testing.assert_close(exact, eigenvalues, rtol=1e-9, atol=1e-9)


@every_function
def test_minima_are_below_and_maxima_above_a_small_circle_around_them_and_saddles_between(function):
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(200, function.dim, dtype=torch.float64, generator=generator)
    directions = torch.cat([directions, torch.eye(function.dim, dtype=torch.float64)])
    circle = 0.01 * directions / directions.norm(dim=-1, keepdim=True)
    kinds = [(function.minima, True, False), (function.saddles, True, True)]
    kinds.append((function.maxima, False, True))
    for some, above, below in kinds:
        for point in some:
            around = value(function, points([point]) + circle) - point.value
            assert bool((around > 1e-9).any()) is above, point.name
            assert bool((around < -1e-9).any()) is below, point.name


@every_function
def test_the_gradient_is_the_derivative_of_the_formula(function):
    low, high = torch.tensor(function.box, dtype=torch.float64).T
    z = in_box(function, 300) * 1.1
    exact = torch.func.vmap(torch.func.grad(function.formula))(z)
    torch.testing.assert_close(value_and_grad(function, z)[1], exact, rtol=1e-11, atol=1e-11)


@every_function
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
def test_every_leading_axis_is_a_batch_axis(function, shape):
    z = in_box(function, 12)[: math.prod(shape)].reshape(*shape, function.dim)
    values, gradients = value_and_grad(function, z)
    assert values.shape == shape
    assert gradients.shape == z.shape
    for index in itertools.product(*map(range, shape)):
        one, slope = value_and_grad(function, z[index])
        torch.testing.assert_close(values[index], one, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradients[index], slope, rtol=1e-13, atol=1e-13)


@every_function
def test_single_precision_stays_single_precision(function):
    z = in_box(function, 20)
    values, gradients = value_and_grad(function, z.float())
    assert values.dtype == gradients.dtype == torch.float32
    scale = float(value(function, z).abs().max())
    torch.testing.assert_close(values.double(), value(function, z), rtol=1e-4, atol=1e-5 * scale)


@every_function
def test_no_tensor_is_made_on_the_default_device(function):
    z = in_box(function, 3)
    before = value_and_grad(function, z)
    torch.set_default_device("meta")
    try:
        after = value_and_grad(function, z)
    finally:
        torch.set_default_device(None)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@every_function
def test_functions_travel_to_other_processes(function):
    copy = pickle.loads(pickle.dumps(function))
    z = in_box(function, 5)
    assert copy == function
    assert torch.equal(value(copy, z), value(function, z))


@pytest.mark.parametrize(
    "function",
    [three_hump_camel, three_hump_camel_misprint, six_hump_camel, f1(), f1(2)],
    ids=lambda f: f.name,
)
def test_the_mirror_image_of_a_point_has_its_value(function):
    z = in_box(function, 100)
    assert torch.equal(value(function, z), value(function, -z))
    opposite = {tuple(-x for x in point.point): point for point in critical(function)}
    for point in critical(function):
        image = opposite[point.point]
        assert (image.value, image.eigenvalues) == (point.value, point.eigenvalues)


def test_f3_has_the_period_two_pi():
    z = in_box(f3(), 100)
    torch.testing.assert_close(value(f3(), z + 2 * math.pi), value(f3(), z), rtol=0, atol=1e-12)


@every_function
def test_gradient_flow_stays_in_the_box_and_so_the_indices_of_the_critical_points_add_up_to_one(
    function,
):
    z = grid(function, 201)
    slope = value_and_grad(function, z)[1]
    for axis, (low, high) in enumerate(function.box):
        assert (slope[z[:, axis] == low, axis] < 0).all()
        assert (slope[z[:, axis] == high, axis] > 0).all()
    sign = (-1) ** function.dim
    minima, saddles, maxima = map(len, (function.minima, function.saddles, function.maxima))
    assert minima - saddles + sign * maxima == 1


@pytest.mark.parametrize(
    "function, degrees",
    [
        (himmelblau, (3, 3)),
        (three_hump_camel, (5, 1)),
        (three_hump_camel_misprint, (5, 1)),
        (six_hump_camel, (5, 3)),
    ],
    ids=lambda f: getattr(f, "name", None),
)
def test_there_are_as_many_critical_points_as_two_polynomials_of_these_degrees_can_share(
    function, degrees
):
    z = points(critical(function))
    distances = torch.cdist(z, z) + torch.eye(len(z), dtype=torch.float64)
    assert distances.min() > 0.1
    assert len(z) == math.prod(degrees)


# The critical points of a sum over coordinates are the products of those of one coordinate.
@pytest.mark.parametrize(
    "function", [f for f in FUNCTIONS if not f.name.endswith("-2d")], ids=lambda f: f.name
)
def test_newton_from_everywhere_finds_every_declared_point_and_no_other(function):
    low, high = torch.tensor(function.box, dtype=torch.float64).T
    z = grid(function, 401 if function.dim == 1 else 25)
    for _ in range(50):
        slope = value_and_grad(function, z)[1]
        step = torch.linalg.lstsq(hessians(function, z), slope.unsqueeze(-1)).solution.squeeze(-1)
        length = step.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        z = z - step * (0.1 / length).clamp_max(1)
    slope = value_and_grad(function, z)[1]
    found = z[(slope.norm(dim=-1) < 1e-12) & (z > low).all(-1) & (z < high).all(-1)]
    nearest = torch.cdist(found, points(critical(function)))
    assert nearest.min(dim=1).values.max() < 1e-3
    assert nearest.min(dim=0).values.max() < 1e-3


# The critical points as printed to ten decimals: coordinates, value, eigenvalues.
PRINTED = {
    himmelblau: """
        A 3.0000000000 2.0000000000 0 82.2842712475 25.7157287525
        B 3.5844283403 -1.8481265270 0 105.4189083363 28.6906771568
        C -3.7793102534 -3.2831859913 0 133.7856152131 70.7143547442
        D -2.8051180870 3.1313125183 0 80.5500717789 64.8403727707
        AB 3.3851541836 0.0738518798 13.3119262704 97.5478781026 -14.1351784855
        AD 0.0866775046 2.8842547012 67.7191500875 75.5076092382 -31.7066223628
        CD -3.0730257508 -0.0813530443 104.0151629176 72.4352480681 -39.6514962562
        BC -0.1279613467 -1.9537149802 178.3372392019 20.2840499759 -50.6102393204
        max -0.2708445907 -0.9230385565 181.6165215226 -16.0660196673 -45.6052292928""",
    three_hump_camel: """
        O 0 0 0 4.4142135624 1.5857864376
        L- -1.7475523458 0.8737761729 0.2986384422 12.2506441369 1.9024451550
        L+ 1.7475523458 -0.8737761729 0.2986384422 12.2506441369 1.9024451550
        OL- -1.0705422918 0.5352711459 0.8773615578 2.1655988803 -4.0386881722
        OL+ 1.0705422918 -0.5352711459 0.8773615578 2.1655988803 -4.0386881722""",
    three_hump_camel_misprint: """
        O 0 0 0 4.4142135624 1.5857864376
        L- -1.7288913946 0.8644456973 0.3899454362 11.4745702630 1.8944543159
        L+ 1.7288913946 -0.8644456973 0.3899454362 11.4745702630 1.8944543159
        OL- -1.0820972904 0.5410486452 0.8907798971 2.1687320419 -3.9265566207
        OL+ 1.0820972904 -0.5410486452 0.8907798971 2.1687320419 -3.9265566207""",
    six_hump_camel: """
        G- -0.0898420131 0.7126564030 -1.0316284535 16.4931952322 7.6822514134
        G+ 0.0898420131 -0.7126564030 -1.0316284535 16.4931952322 7.6822514134
        M- -1.7036067150 0.7960835687 -0.2154638244 22.6975150069 18.8171386352
        M+ 1.7036067150 -0.7960835687 -0.2154638244 22.6975150069 18.8171386352
        H- -1.6071047529 -0.5686514549 2.1042503103 10.0216025162 7.1215121202
        H+ 1.6071047529 0.5686514549 2.1042503103 10.0216025162 7.1215121202
        GG 0 0 0 8.0622577483 -8.0622577483
        MG- -1.1092053368 0.7682680925 0.5437186010 20.3667397391 -7.9026191200
        MG+ 1.1092053368 -0.7682680925 0.5437186010 20.3667397391 -7.9026191200
        HM- -1.6380679842 -0.2286740690 2.2293571975 12.4366644364 -5.5457750172
        HM+ 1.6380679842 0.2286740690 2.2293571975 12.4366644364 -5.5457750172
        H-G+ -1.2960702672 -0.6050843880 2.2294708180 9.6375884880 -6.1771821270
        H+G- 1.2960702672 0.6050843880 2.2294708180 9.6375884880 -6.1771821270
        max- -1.2302298765 -0.1623345845 2.4962953510 -5.9537241668 -8.0149071565
        max+ 1.2302298765 0.1623345845 2.4962953510 -5.9537241668 -8.0149071565""",
    f1(): """
        O 0 0 0
        G- -1.4733647762 -1 163.6747477523
        G+ 1.4733647762 -1 163.6747477523""",
    f2(): """
        0 1.9488781946 -1 3.0067564098
        1 3.9680035498 -1 26.0730106602
        2 4.9095164492 -1 72.8992021972
        3 5.5276552404 -1 143.7112764083
        4 5.9881729268 -1 238.5963714026""",
}


@pytest.mark.parametrize("function", PRINTED, ids=lambda f: f.name)
def test_critical_points_are_the_printed_ones_by_name_and_in_order(function):
    rows = [row.split() for row in PRINTED[function].strip().splitlines()]
    declared = critical(function)[: len(rows)]
    assert [point.name for point in declared] == [name for name, *_ in rows]
    for point, (_, *numbers) in zip(declared, rows, strict=True):
        ours = (*point.point, point.value, *point.eigenvalues)
        assert ours == pytest.approx(tuple(map(float, numbers)), rel=0, abs=6e-11)


def test_the_boxes_are_the_usual_ones():
    assert himmelblau.box == three_hump_camel.box == ((-5.0, 5.0), (-5.0, 5.0))
    assert three_hump_camel_misprint.box == three_hump_camel.box
    assert six_hump_camel.box == ((-3.0, 3.0), (-2.0, 2.0))
    assert (f1().box, f2(2).box) == (((-1.6, 1.6),), ((-2.0, 6.0), (-2.0, 6.0)))


@pytest.mark.parametrize(
    "function, a, b, highest",
    [
        (himmelblau, "A", "B", 13.71223925),
        (himmelblau, "A", "C", 180.70730118),
        (himmelblau, "A", "D", 71.08045957),
        (himmelblau, "B", "C", 184.03458454),
        (himmelblau, "B", "D", 142.59811395),
        (himmelblau, "C", "D", 105.86730151),
        (three_hump_camel, "O", "L-", 0.87736156),
        (three_hump_camel, "L-", "L+", 0.87736156),
    ],
)
def test_straight_lines_between_minima_are_as_high_as_published(function, a, b, highest):
    ends = points([{m.name: m for m in function.minima}[name] for name in (a, b)])
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64).unsqueeze(-1)
    assert float(value(function, torch.lerp(*ends, t)).max()) == pytest.approx(highest, abs=2e-8)


def test_two_wells_has_its_published_ends_heights_and_saddles():
    ends = torch.tensor([[-0.62, -0.54], [0.49, -0.02]], dtype=torch.float64)
    at_ends = value(two_wells, ends)
    line = torch.lerp(*ends, torch.linspace(0, 1, 100, dtype=torch.float64).unsqueeze(-1))
    assert float(at_ends[0]) == pytest.approx(0.1090605, abs=5e-8)
    assert float(at_ends[1]) == pytest.approx(-8.94e-6, abs=5e-9)
    assert float(value(two_wells, line).max()) == pytest.approx(1.1018119712, abs=6e-11)
    assert [m.value for m in two_wells.minima] == pytest.approx(
        [-3.0904230563e-5, 0.1087071679], abs=6e-11
    )
    assert [s.value for s in two_wells.saddles[:2]] == pytest.approx(
        [0.6243933472, 0.6372572377], abs=6e-11
    )


def test_f1_has_its_published_edges_and_maxima():
    edges = torch.tensor([[-1.6], [1.6]], dtype=torch.float64)
    assert value(f1(), edges).tolist() == pytest.approx([0.2671310826] * 2, abs=6e-11)
    assert [m.point[0] for m in f1().maxima] == pytest.approx([-1.1195151349, 1.1195151349])


def test_f3_is_flat_at_its_global_minimum_and_sharp_at_the_other():
    flat, sharp = f3().minima
    assert (flat.point[0], flat.value) == pytest.approx((6.2081715528, -1.9999999901), abs=6e-11)
    assert (sharp.point[0], sharp.value) == pytest.approx((3.1457308683, -1.9976413199), abs=6e-11)
    assert (flat.eigenvalues[0], sharp.eigenvalues[0]) == pytest.approx((0.7879, 17.0829), abs=5e-5)


@pytest.mark.parametrize("family", [f1, f2, f3], ids=["f1", "f2", "f3"])
def test_a_sum_over_coordinates_adds_up_its_coordinates(family):
    one, three = family(), family(3)
    z = in_box(three, 50)
    parts = torch.stack([value(one, z[:, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(value(three, z), parts.sum(0), rtol=1e-13, atol=1e-13)
    kinds = len(one.minima), len(one.maxima)
    assert len(three.minima) == kinds[0] ** 3
    assert len(three.maxima) == kinds[1] ** 3
    assert len(critical(three)) == sum(kinds) ** 3
    assert len({point.point for point in critical(three)}) == sum(kinds) ** 3


def test_names_and_curvatures_of_a_sum_are_those_of_its_coordinates():
    declared = {point.name: point for point in critical(f2(2))}
    flat, sharp = f2().minima[0], f2().minima[3]
    assert declared["3,0"].point == (sharp.point[0], flat.point[0])
    assert declared["3,0"].eigenvalues == (sharp.eigenvalues[0], flat.eigenvalues[0])
    assert declared["3,0"] in f2(2).minima
    assert declared["3,01"] in f2(2).saddles


def test_a_sum_of_many_coordinates_declares_its_box_and_leaves_its_points_out():
    many = f1(12)
    assert (many.dim, many.name, len(many.box)) == (12, "f1-12d", 12)
    assert (many.minima, many.saddles, many.maxima) == ((), (), ())


def test_a_sum_of_no_coordinates_is_refused():
    with pytest.raises(ValueError, match="f3 needs at least one coordinate, got dim = 0"):
        f3(0)


def test_the_catalogue_is_read_only_and_knows_every_function_by_its_name():
    assert all(function.name == name for name, function in CATALOGUE.items())
    assert CATALOGUE["six-hump-camel"] is six_hump_camel
    assert {"himmelblau", "three-hump-camel", "f1", "f2", "f3", "f1-2d"} <= set(CATALOGUE)
    with pytest.raises(TypeError, match="does not support item assignment"):
        CATALOGUE["mine"] = himmelblau
