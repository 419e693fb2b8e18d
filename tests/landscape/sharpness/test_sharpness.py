"""Flatness measures against closed forms on quadratics, and what they say where they are lost."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives import CE, X, Y, built, chain, mean_square, normal, plain, seeded, uneven
from scipy.optimize import brentq
from torch import nn

from landscape.functions import f1, f2, himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum
from landscape.randomness import derive
from landscape.results import load, save, table
from landscape.sharpness import MEASURES, Measure, Options, Reading, panel, worst_case
from landscape.sharpness.basin import median, widths
from landscape.sharpness.relative_flatness import relative_flatness

NAN = float("nan")
QUICK = Options(starts=2, steps=4, pairs=8, directions=6, batch_size=10)


def point(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype, device="cpu")


def matrix(eigenvalues, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return torch.as_tensor((basis * np.asarray(eigenvalues, dtype=float)) @ basis.T, device="cpu")


def quadratic(a, base=0.0):
    """base + z'Az / 2."""
    return Analytic(lambda z: base + 0.5 * ((z @ a.to(z)) * z).sum(-1), len(a))


def diagonal(*curvatures, base=0.0):
    return quadratic(torch.diag(point(*curvatures)), base)


def reading(objective, z, name, **options):
    """The only row of one measure."""
    (row,) = table(panel(objective, z, only=(name,), options=Options(**options)))
    return row


def trust_region_maximum(a, z, radius):
    """max of g'u + u'Au / 2 over the ball, by the secular equation in float64."""
    values, vectors = np.linalg.eigh(a.numpy())
    slope = vectors.T @ (a.numpy() @ z.numpy())

    def excess(mu):
        return np.linalg.norm(slope / (mu - values)) - radius

    low = max(values.max(), 0.0)
    mu = brentq(excess, low + 1e-12, low + 1 + np.linalg.norm(slope) / radius, xtol=1e-14)
    u = slope / (mu - values)
    return slope @ u + 0.5 * values @ u**2


# ------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("eigenvalues", [[5.0, 3.0, 1.0, 0.1], [4.0], np.linspace(0, 9, 40)])
def test_worst_case_at_a_minimum_is_half_the_largest_curvature_times_the_squared_radius(
    eigenvalues,
):
    a = matrix(eigenvalues)
    row = reading(quadratic(a), torch.zeros_like(a[0]), "worst-l2", rho=0.3, steps=100)
    truth = 0.3**2 * max(eigenvalues) / 2
    assert row["value"] == pytest.approx(truth, rel=1e-3)
    assert row["value"] <= truth * (1 + 1e-12)
    assert (row["kind"], row["high"]) == ("lower bound", math.inf)
    assert row["low"] == row["value"] - row["error"] and row["error"] < 1e-13
    assert row["status"] == ""


@pytest.mark.parametrize("eigenvalues", [[5, 3, 1, 0.1, -2], np.linspace(-1, 2, 60), [-3, -1]])
def test_worst_case_off_a_minimum_is_the_trust_region_maximum(eigenvalues):
    a = matrix(eigenvalues)
    z = normal(len(a), seed=1)
    row = reading(quadratic(a), z, "worst-l2", rho=0.3)
    truth = trust_region_maximum(a, z, 0.3)
    assert row["value"] == pytest.approx(truth, rel=1e-6)
    assert row["value"] <= truth + 1e-12


def test_worst_case_inside_the_ball_is_the_height_of_the_top():
    a = matrix([-2.0, -1.0, -0.5])
    z = 0.1 * normal(3)
    row = reading(quadratic(a), z, "worst-l2", rho=5.0, steps=60)
    assert row["value"] == pytest.approx(-float(z @ a @ z) / 2, rel=1e-6)


def test_a_slope_at_the_point_is_climbed_though_the_boundary_lies_lower():
    hills = Analytic(lambda z: (torch.sin(12 * z) - 5 * z**2).sum(-1), 1)
    row = reading(hills, point(0.0), "worst-l2", rho=1.0, starts=1)
    ball = np.linspace(-1, 1, 100_001)
    assert row["value"] == pytest.approx((np.sin(12 * ball) - 5 * ball**2).max(), rel=1e-6)
    assert row["evaluations"] <= 1 + 21


def test_worst_case_at_a_maximum_is_zero():
    row = reading(diagonal(-1.0, -2.0), point(0.0, 0.0), "worst-l2")
    assert row["value"] == 0.0


def test_box_maximum_of_a_diagonal_quadratic_is_a_sum_over_coordinates():
    curvatures, z = point(3.0, 0.5, 2.0), point(0.2, -1.0, 0.0)
    row = reading(diagonal(*curvatures.tolist()), z, "worst-linf", rho_linf=0.1)
    truth = (curvatures * (z.abs() * 0.1 + 0.1**2 / 2)).sum()
    assert row["value"] == pytest.approx(float(truth), rel=1e-12)


def test_keskar_of_a_diagonal_quadratic_has_a_closed_form():
    curvatures, z = point(3.0, 0.5, 2.0), point(0.2, -1.0, 0.0)
    epsilon = 0.01
    row = reading(diagonal(*curvatures.tolist(), base=0.7), z, "keskar", epsilon=epsilon)
    side = epsilon * (z.abs() + 1)
    loss = 0.7 + (curvatures * z**2).sum() / 2
    truth = 100 * (curvatures * (z.abs() * side + side**2 / 2)).sum() / (1 + loss)
    assert row["value"] == pytest.approx(float(truth), rel=1e-12)
    assert row["unit"] == "%"


def test_keskar_is_not_defined_where_one_plus_the_loss_is_not_positive():
    minimum = min(f1().minima, key=lambda found: found.value).point
    row = reading(f1(), point(*minimum), "keskar")
    assert math.isnan(row["value"])
    assert row["status"].startswith("not defined here: 1 + f is")


def test_adaptive_ball_is_the_plain_one_in_relative_coordinates():
    curvatures, z = point(3.0, 0.5, 2.0), point(0.2, -1.0, 0.7)
    scaled = diagonal(*(curvatures * z**2).tolist())
    row = reading(diagonal(*curvatures.tolist()), z, "adaptive", rho_adaptive=0.4, steps=60)
    plainly = reading(scaled, torch.ones_like(z), "worst-l2", rho=0.4, steps=60)
    assert row["value"] == pytest.approx(plainly["value"], rel=1e-6)


def test_weights_that_are_zero_stay_zero_in_the_adaptive_ball_unless_eta_is_positive():
    bowl, z = diagonal(1.0, 100.0), point(1.0, 0.0)
    row = reading(bowl, z, "adaptive", rho_adaptive=0.5)
    assert row["value"] == pytest.approx(0.5 + 0.125, rel=1e-9)
    assert row["status"] == "1 of 2 weights are zero and stay so, since eta = 0"
    assert reading(bowl, z, "adaptive", rho_adaptive=0.5, eta=0.1)["value"] > row["value"]
    nothing = reading(bowl, point(0.0, 0.0), "adaptive")
    assert nothing["value"] == 0.0
    assert nothing["status"].startswith("2 of 2 weights are zero")


def test_average_case_is_half_the_trace_times_the_variance():
    a = matrix([5.0, 3.0, 1.0, -2.0])
    row = reading(quadratic(a), normal(4, seed=2), "average", sigma=0.1, pairs=2000)
    truth = 0.1**2 * 7 / 2
    assert abs(row["value"] - truth) < 4 * row["error"]
    # The variance of u'Au / 2 for a standard normal u is the squared Frobenius norm of A over 2.
    assert row["error"] == pytest.approx(0.1**2 * math.sqrt(39 / 2 / 2000), rel=0.15)
    assert row["low"] < truth < row["high"]
    assert row["evaluations"] == 4001


def test_the_interval_of_an_average_holds_the_truth_as_often_as_it_says_for_few_pairs():
    bowl, options = quadratic(torch.eye(50, dtype=torch.float64)), Options(pairs=3, sigma=0.1)
    hits = 0
    for seed in range(300):
        found = panel(
            bowl, torch.zeros_like(normal(50)), only=("average",), options=options,
            generator=seeded(seed),
        )  # fmt: skip
        hits += bool(found.low[0] < 0.1**2 * 50 / 2 < found.high[0])
    # Four standard errors of 300 draws are 5 points; by the normal quantile it would be 81 %.
    assert abs(hits / 300 - 0.95) < 0.05


def test_antithetic_draws_leave_no_noise_from_the_slope():
    row = reading(Analytic(lambda z: 3 * z.sum(-1), 3), point(1.0, 2.0, 3.0), "average")
    assert abs(row["value"]) < 1e-14
    assert row["kind"] == "unresolved" and row["low"] < 0 < row["high"]
    assert row["status"].startswith("no larger than the noise of the loss, ")


def test_one_step_of_sam_goes_along_the_gradient():
    a, z = matrix([5.0, 3.0, -1.0]), point(0.3, -0.2, 0.9)
    row = reading(quadratic(a), z, "sam", rho=0.2)
    slope = a @ z
    unit = slope / slope.norm()
    truth = 0.2 * slope.norm() + 0.02 * unit @ a @ unit
    assert row["value"] == pytest.approx(float(truth), rel=1e-12)
    assert row["evaluations"] == 2
    flat = reading(quadratic(a), torch.zeros_like(z), "sam")
    assert (flat["value"], flat["status"]) == (
        0.0, "the gradient is zero: the step has no direction",
    )  # fmt: skip


def test_basin_of_an_isotropic_bowl_has_the_same_width_along_every_direction():
    bowl = diagonal(4.0, 4.0, 4.0)
    row = reading(bowl, point(0.0, 0.0, 0.0), "basin-width", delta=0.5, by="none")
    for key in ("value", "low", "high"):
        assert row[key] == pytest.approx(math.sqrt(2 * 0.5 / 4), rel=3e-4)
    z = point(3.0, 4.0, 0.0)
    there = Analytic(lambda t: 2 * ((t - z) ** 2).sum(-1), 3)
    scaled = reading(there, z, "basin-width", delta=0.5)
    assert scaled["value"] == pytest.approx(math.sqrt(2 * 0.5 / 4) / 5, rel=3e-4)


def test_widths_follow_the_curvature_along_each_direction():
    curvatures = point(9.0, 1.0, 0.01)
    bowl, u = diagonal(*curvatures.tolist()), torch.eye(3, dtype=torch.float64, device="cpu")
    found = widths(bowl, torch.zeros_like(curvatures), u, 0.5, 20.0, 0.0)
    np.testing.assert_allclose(found.radius, 1 / np.sqrt(curvatures.numpy()), rtol=3e-4)
    assert found.evaluations <= 3 * 27
    short = widths(bowl, torch.zeros_like(curvatures), u, 0.5, 5.0, 0.0)
    assert np.isinf(short.radius[2])
    assert np.isfinite(short.radius[:2]).all()


def test_a_basin_without_an_end_is_infinitely_wide_and_says_so():
    row = reading(diagonal(1e-6, 1e-6), point(1.0, 1.0), "basin-width", directions=8)
    assert row["value"] == math.inf
    said = (
        "8 of 8 directions do not rise so far; without layers a direction is as long as the point"
    )
    assert row["status"] == said


@pytest.mark.parametrize("count, covered", [(5, None), (6, 1 - 2**-5), (9, 0.961), (20, 0.959)])
def test_the_interval_of_a_median_has_the_coverage_of_its_order_statistics(count, covered):
    source = np.random.default_rng(count)
    ends = np.array([median(source.normal(size=count))[1:] for _ in range(400)])
    if covered is None:
        assert np.isnan(ends).all()
        return
    hit = ((ends[:, 0] < 0) & (ends[:, 1] > 0)).mean()
    assert hit == pytest.approx(covered, abs=4 * math.sqrt(covered * (1 - covered) / 400))


@pytest.mark.parametrize("number, curvature", [(0, 3.0067564098), (4, 238.5963714026)])
def test_simulation_measures_of_f2_follow_their_definition(number, curvature):
    z = sorted(minimum.point for minimum in f2().minima)[number]
    row = reading(f2(), point(*z), "interval-mean", radius=0.01, points=11)
    y = np.linspace(z[0] - 0.01, z[0] + 0.01, 11)
    gaps = np.abs(np.cos(2 ** (0.8 * y) + 0.1 * y) - np.cos(2 ** (0.8 * z[0]) + 0.1 * z[0]))
    assert row["value"] == pytest.approx(gaps.mean(), rel=1e-9)
    highest = reading(f2(), point(*z), "interval-max", radius=0.01, points=11)
    assert highest["value"] == pytest.approx(gaps.max(), rel=1e-9)
    # Mean of (r t)^2 f'' / 2 over t = -1, -0.8, ..., 1, which is 0.4.
    assert row["value"] == pytest.approx(0.2 * 1e-4 * curvature, rel=0.02)


def test_simulation_measures_take_a_square_in_two_coordinates_and_no_more():
    bowl = diagonal(2.0, 4.0)
    row = reading(bowl, point(0.0, 0.0), "interval-max", radius=0.5, points=3)
    assert row["value"] == pytest.approx(0.25 + 0.5, rel=1e-12)
    mean = reading(bowl, point(0.0, 0.0), "interval-mean", radius=0.5, points=3)
    assert mean["value"] == pytest.approx((0.75 * 4 + 0.25 * 2 + 0.5 * 2) / 9, rel=1e-12)
    assert mean["evaluations"] == 10
    third = reading(diagonal(1.0, 1.0, 1.0), point(0.0, 0.0, 0.0), "interval-mean")
    assert third["status"].startswith("not defined here: a grid over 3 coordinates is too large")


def test_curvature_rows_are_those_of_the_matrix():
    values = [5.0, 3.0, 1.0, -6.0]
    found = panel(quadratic(matrix(values)), normal(4), only=("lambda-max", "trace", "frobenius"))
    np.testing.assert_allclose(found.value, [5, 3, math.sqrt(71)], rtol=1e-12)
    assert found.kinds == ("bound", "exact", "exact")
    assert found.low[0] <= 5 <= found.high[0]


# --------------------------------------------------------------------------- networks


def network():
    return EmpiricalRisk(built(chain), uneven(X, Y), CE)


def test_m_sharpness_with_one_batch_is_the_worst_case_of_the_whole():
    risk = network()
    one = reading(risk, risk.point(), "m-sharpness", batch_size=10)
    whole = reading(risk, risk.point(), "worst-l2")
    assert one["value"] == pytest.approx(whole["value"], rel=1e-6)
    # One batch has no standard error; rounding is left.
    assert 0 < one["error"] < 1e-14
    assert one["evaluations"] == pytest.approx(whole["evaluations"], abs=40)


def test_m_sharpness_is_the_mean_over_batches_weighted_by_their_samples():
    risk, options = network(), Options(batch_size=4)
    (row,) = table(panel(risk, risk.point(), only=("m-sharpness",), options=options))
    source = derive(seeded(0), "batches")
    rises, sizes = [], []
    for batch in risk.minibatches(4, source, epochs=1):
        ascent = worst_case(batch, risk.point(), options.rho, derive(seeded(0), "m-sharpness"))
        rises.append(ascent.rise)
        sizes.append(batch.samples)
    assert sizes == [4, 4, 2]
    assert row["value"] == pytest.approx(np.average(rises, weights=sizes), rel=1e-12)
    assert row["value"] > reading(risk, risk.point(), "worst-l2")["value"]
    assert row["status"] == "3 batches of 4"
    few = reading(risk, risk.point(), "m-sharpness", batch_size=4, batches=2)
    assert few["value"] == pytest.approx(np.mean(rises[:2]), rel=1e-12)


def test_m_sharpness_weighs_batches_as_the_loss_weighs_their_samples():
    inputs, labels = X[:6], Y[:6]
    weights = point(3.0, 1.0, 0.0, 2.0, 0.5, 4.0)

    def weighted(output, target):
        each = nn.functional.cross_entropy(output, target[0], reduction="none")
        return (each * target[1]).sum(), target[1].sum()

    risk = EmpiricalRisk(built(chain), (inputs, (labels, weights)), weighted)
    z, rises = risk.point(), []
    for i in range(6):
        alone = EmpiricalRisk(built(chain), (inputs[i : i + 1], labels[i : i + 1]), CE)
        source = derive(seeded(0), "m-sharpness")
        rises.append(worst_case(alone, z, Options().rho, source).rise)
    ridge = Ridge(0.0, dim=risk.dim)
    for objective in (risk, Sum(risk, ridge)):
        row = reading(objective, z, "m-sharpness", batch_size=1)
        assert row["value"] == pytest.approx(np.average(rises, weights=weights), rel=1e-6)
        assert row["value"] >= reading(objective, z, "worst-l2")["value"]
        assert row["status"] == "5 batches of 1"


def test_fisher_rao_norm_is_the_mean_squared_slope_along_the_weights():
    risk = network()
    z = risk.point()
    truth, model = [], []
    logits = built(chain)
    for x, y in zip(X, Y, strict=True):
        single = plain(logits, x[None], y[None], CE)
        truth.append(float(torch.func.grad(single)(z) @ z) ** 2)
        nn.utils.vector_to_parameters(z, logits.parameters())
        chances = logits(x[None]).softmax(-1)[0].detach()
        for label, chance in enumerate(chances):
            drawn = plain(logits, x[None], torch.tensor([label], device="cpu"), CE)
            model.append(float(chance * (torch.func.grad(drawn)(z) @ z) ** 2))
    found = panel(risk, z, only=("fisher-rao-empirical", "fisher-rao"))
    np.testing.assert_allclose(found.value, [np.mean(truth), np.sum(model) / 10], rtol=1e-9)
    decayed = panel(Sum(risk, Ridge(0.1, dim=risk.dim)), z, only=("fisher-rao",))
    assert decayed.value[0] == found.value[1]
    assert decayed.notes == ("of the data's part of Sum",)


def test_the_models_fisher_needs_to_know_what_the_outputs_mean():
    risk = EmpiricalRisk(built(chain), (X, normal(10, 3)), mean_square)
    row = reading(risk, risk.point(), "fisher-rao")
    assert row["status"].startswith("not defined here: the loss does not say what the outputs mean")
    assert reading(risk, risk.point(), "fisher-rao", likelihood="gaussian")["value"] > 0


def dense_relative_flatness(risk, z):
    """The definition, with the dense Hessian: sum over pairs of <w_s, w_s'> tr H_ss'."""
    whole = torch.func.hessian(lambda z: sum(term(z) for term in risk.terms()))(z)
    found = {}
    for entry in risk.layout.entries:
        if entry.role != "linear":
            continue
        neurons, inputs = entry.shape
        weight = z[entry.span].reshape(neurons, inputs)
        block = whole[entry.span, entry.span].reshape(neurons, inputs, neurons, inputs)
        traces = torch.einsum("siti->st", block)
        found[entry.name] = float(((weight @ weight.T) * traces).sum())
    return found


def test_relative_flatness_is_the_sum_over_pairs_of_neurons():
    risk = network()
    z = risk.point()
    truth = dense_relative_flatness(risk, z)
    found = relative_flatness(risk, z, seeded(0))
    assert found.exact
    assert found.layers == tuple(truth)
    np.testing.assert_allclose(found.value, list(truth.values()), rtol=1e-9)
    (only,) = table(
        panel(risk, z, only=("relative-flatness",), options=Options(layers=("3.weight",)))
    )
    assert only["measure"] == "relative-flatness 3.weight"
    assert only["value"] == pytest.approx(truth["3.weight"], rel=1e-9)


def test_relative_flatness_by_probes_is_within_its_standard_error():
    risk = network()
    z = risk.point()
    truth = list(dense_relative_flatness(risk, z).values())
    found = relative_flatness(risk, z, seeded(1), probes=150, budget=0)
    assert (found.exact, found.products) == (False, 150)
    assert (abs(found.value - truth) < 4 * found.standard_error).all()
    assert (found.standard_error < 0.03).all()


def test_relative_flatness_of_linear_regression_is_its_ridge_penalty():
    """For f = mean (w'x - y)^2 it is |w|^2 times twice the mean of |x|^2."""
    model = built(lambda: nn.Linear(4, 1, bias=False))
    risk = EmpiricalRisk(model, (X, normal(10, 1)), mean_square)
    found = relative_flatness(risk, risk.point(), seeded(0))
    truth = (risk.point() ** 2).sum() * 2 * (X**2).sum(1).mean()
    assert found.value[0] == pytest.approx(float(truth), rel=1e-12)


# --------------------------------------------------------------- what is lost, and says so


def test_a_function_without_data_has_a_whole_panel_all_the_same():
    rows = {row["measure"]: row for row in table(panel(himmelblau, point(3.0, 2.0)))}
    assert tuple(rows) == tuple(MEASURES)
    lost = {name for name, row in rows.items() if row["kind"] == "none"}
    assert lost == {"m-sharpness", "fisher-rao-empirical", "fisher-rao", "relative-flatness"}
    for name in lost:
        assert math.isnan(rows[name]["value"])
        assert rows[name]["status"].startswith("not defined here: the objective has no ")
    assert all(math.isfinite(row["value"]) for name, row in rows.items() if name not in lost)


def test_a_sum_without_data_has_no_batches():
    row = reading(Sum(himmelblau, Ridge(0.1, dim=2)), point(3.0, 2.0), "m-sharpness")
    assert row["status"] == "not defined here: the objective has no data"


def test_a_loss_that_is_not_finite_nearby_is_said_and_not_hidden():
    for edge in (NAN, math.inf):
        cliff = Analytic(
            lambda z, edge=edge: torch.where(z[..., 0] > 1.001, edge, (z**2).sum(-1)), 2
        )
        found = panel(cliff, point(1.0, 0.5), options=Options(rho_linf=0.01, epsilon=0.01))
        rows = {row["measure"]: row for row in table(found)}
        for name in ("worst-l2", "worst-linf", "keskar", "adaptive"):
            assert rows[name]["value"] == math.inf
            assert rows[name]["status"] == "the loss is not finite within the ball"
        for name in ("average", "sam", "interval-mean", "interval-max"):
            assert rows[name]["value"] == math.inf
            assert rows[name]["status"].startswith("the loss is not finite")
        assert math.isfinite(rows["basin-width"]["value"])
        assert rows["basin-width"]["status"].startswith("the loss is not finite along some")


def test_where_the_loss_itself_is_not_finite_nothing_is_measured():
    found = panel(Analytic(lambda z: (z[..., 0] - 1).log(), 2), point(0.5, 1.0))
    assert np.isnan(found.value).all()
    assert set(found.notes) == {"the loss at the point is nan"}


def test_an_ascent_that_has_not_come_to_rest_says_so():
    a = matrix(np.linspace(1, 2, 200))
    z = torch.zeros_like(a[0])
    row = reading(quadratic(a), z, "worst-l2", steps=4, starts=1)
    assert row["status"] == "the ascent was still rising when its steps were spent"
    assert row["value"] < 0.95 * 0.05**2


def test_a_flat_function_rises_nowhere():
    flat = Analytic(lambda z: 2.0 + 0 * z.sum(-1), 3)
    found = panel(flat, point(1.0, 0.0, -1.0))
    rows = {row["measure"]: row["value"] for row in table(found)}
    for name in ("lambda-max", "trace", "gradient-norm", "worst-l2", "adaptive", "keskar", "sam"):
        assert rows[name] == 0
    assert rows["basin-width"] == math.inf


def test_one_coordinate_is_enough():
    rows = {row["measure"]: row for row in table(panel(diagonal(3.0), point(0.5)))}
    # The box is (x +- r)^2, and all balls in one coordinate are boxes.
    assert rows["worst-l2"]["value"] == pytest.approx(1.5 * (0.55**2 - 0.25), rel=1e-9)
    assert rows["lambda-max"]["value"] == pytest.approx(3.0)


# ----------------------------------------------------------------------------- behaviour


def test_a_measure_does_not_depend_on_what_else_is_measured():
    risk = network()
    z = risk.point()
    whole = {row["measure"]: row for row in table(panel(risk, z, options=QUICK))}
    for name in ("average", "worst-l2", "basin-width"):
        (alone,) = table(panel(risk, z, only=(name,), options=QUICK))
        assert repr(alone) == repr(whole[name])
    other = panel(risk, z, only=("average",), options=QUICK, generator=seeded(1))
    assert other.value[0] != whole["average"]["value"]


def test_single_precision_gives_the_same_panel_to_its_own_digits():
    risk = network()
    names = [name for name in MEASURES if not name.startswith("interval")]
    double = panel(risk, risk.point(), only=names, options=replace(QUICK, sigma=0.1))
    single = panel(risk, risk.point().float(), only=names, options=replace(QUICK, sigma=0.1))
    np.testing.assert_allclose(single.value, double.value, rtol=2e-2)


def test_the_same_panel_comes_from_data_in_other_batches():
    risk, whole = network(), EmpiricalRisk(built(chain), (X, Y), CE)
    names = [n for n in MEASURES if not n.startswith("interval")]
    a, b = (panel(r, risk.point(), only=names, options=QUICK) for r in (risk, whole))
    np.testing.assert_allclose(a.value, b.value, rtol=1e-6)


def test_the_model_is_left_as_it_was():
    model = built(chain)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    risk = EmpiricalRisk(model, (X, Y), CE)
    state = torch.get_rng_state()
    panel(risk, risk.point() + 1, options=QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_panel_needs_no_default_device():
    risk = network()
    names = tuple(MEASURES)
    expected = panel(risk, risk.point(), only=names, options=QUICK)
    with torch.device("meta"):
        found = panel(risk, risk.point(), only=names, options=QUICK)
        flat = panel(himmelblau, point(3.0, 2.0), only=("interval-mean",))
    np.testing.assert_array_equal(found.value, expected.value)
    assert math.isfinite(flat.value[0])


def test_a_panel_survives_a_file_and_a_table(tmp_path):
    found = panel(himmelblau, point(3.0, 2.0), options=Options(layers=("a",)))
    save(found, tmp_path / "panel.h5")
    again = load(tmp_path / "panel.h5")
    rows = table(again)
    assert repr(rows) == repr(table(found))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    text.seek(0)
    read = list(csv.DictReader(text))
    assert [row["measure"] for row in read] == list(MEASURES)
    assert [float(row["value"]) for row in read][:4] == found.value[:4].tolist()
    assert again.provenance["options"]["rho"] == 0.05


def test_every_row_states_its_radius_with_the_numbers_in_use():
    found = panel(himmelblau, point(3.0, 2.0), options=Options(rho=0.123, sigma=0.0456))
    radii = dict(zip(found.measures, found.radii, strict=True))
    assert radii["worst-l2"] == radii["sam"].replace("=", "≤") == "‖u‖₂ ≤ 0.123"
    assert radii["average"] == "u ~ N(0, 0.0456² I)"
    assert all(found.units) and all(found.invariant)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "z, given, message",
    [
        (point(1.0), {}, r"one point \(2,\) is needed, got shape \(1,\)"),
        (point(1.0, 2.0)[None], {}, r"one point \(2,\) is needed"),
        (torch.tensor([1, 2], device="cpu"), {}, "must be float32 or float64, got torch.int64"),
        (point(1.0, 2.0).half(), {}, "give z.float()"),
        (point(1.0, NAN), {}, "the point has NaN or infinite entries"),
        (point(1.0, 2.0), {"only": ("flat",)}, "unknown measure 'flat'; there are lambda-max"),
        (point(1.0, 2.0), {"only": ("sam", "sam")}, "a measure is named twice"),
    ],
)
def test_a_panel_that_means_nothing_is_refused(z, given, message):
    with pytest.raises(ValueError, match=message):
        panel(himmelblau, z, **given)


def test_a_random_model_is_refused():
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3))).train()
    risk = EmpiricalRisk(model, (X, Y), CE)
    with pytest.raises(RuntimeError, match=r"1 \(Dropout in training mode\)"):
        panel(risk, risk.point())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given, message",
    [
        ({"rho": 0.0}, "rho must be positive and finite, got 0.0"),
        ({"sigma": NAN}, "sigma must be positive"),
        ({"epsilon": math.inf}, "epsilon must be positive and finite"),
        ({"eta": -0.1}, "eta must be at least 0"),
        ({"steps": 0}, "steps must be a whole number from 1 on"),
        ({"pairs": 1}, "pairs must be a whole number from 2 on"),
        ({"starts": 2.5}, "starts must be a whole number"),
        ({"tolerance": 1.0}, "tolerance must lie between 0 and 1"),
        ({"by": "layer"}, "by must be filter or none, got 'layer'"),
        ({"likelihood": "poisson"}, "likelihood must be categorical, gaussian or empty"),
        ({"layers": "0.weight"}, "layers must be names in a tuple"),
    ],
)
def test_options_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        replace(Options(), **given)


def test_parts_refuse_what_they_cannot_do():
    bowl, z = diagonal(1.0, 2.0), point(0.0, 0.0)
    with pytest.raises(ValueError, match="radius must be positive and finite, got -1"):
        worst_case(bowl, z, -1.0, seeded(0))
    with pytest.raises(ValueError, match="starts and steps must be at least 1, got 0 and 20"):
        worst_case(bowl, z, 1.0, seeded(0), starts=0)
    with pytest.raises(ValueError, match="delta and largest must be positive, got 0.0 and 1.0"):
        widths(bowl, z, torch.ones_like(z)[None], 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="the objective has no layers"):
        relative_flatness(bowl, z, seeded(0))
    risk = network()
    with pytest.raises(ValueError, match="layers must be among .*'0.weight'.*got 'nowhere'"):
        relative_flatness(risk, risk.point(), seeded(0), layers=("nowhere",))
    with pytest.raises(ValueError, match="probes must be at least 2 and budget at least 0"):
        relative_flatness(risk, risk.point(), seeded(0), probes=1)


def test_beyond_the_budget_sums_are_estimated_and_their_intervals_hold_the_truth():
    a = matrix(np.r_[[20, 10, -5], np.linspace(0, 2, 57)])
    exactly, roughly = (
        panel(
            quadratic(a), normal(60), only=("trace", "frobenius"),
            options=Options(budget=budget, probes=50),
        )
        for budget in (60, 59)
    )  # fmt: skip
    assert (exactly.kinds, roughly.kinds) == (("exact",) * 2, ("estimate",) * 2)
    np.testing.assert_allclose(exactly.value, [a.trace(), a.norm()], rtol=1e-12)
    assert exactly.products.tolist() == [60, 60]
    assert roughly.products.tolist() == [50, 50]
    assert (np.abs(roughly.value - exactly.value) < 4 * roughly.error).all()
    assert (roughly.low < roughly.value).all() and (roughly.value < roughly.high).all()


def test_the_frobenius_norm_that_is_exact_in_the_panel_has_an_interval_of_no_width():
    objective = Analytic(lambda z: (z**2).sum(-1), 50)
    point = torch.ones(50, dtype=torch.float64, device="cpu")
    options = Options(budget=0, probes=100)
    found = panel(objective, point, options=options, only=("frobenius",))
    assert found.value[0] == found.low[0] == found.high[0] == pytest.approx(2 * 50**0.5)


# --------------------------------------------------------------------------- rounding

ASCENTS = ("worst-l2", "worst-linf", "adaptive", "m-sharpness", "keskar")
DIFFERENCES = (*ASCENTS, "sam", "average")


def rounded(kind, seed=0):
    """A risk in float32 whose loss loses digits."""
    generator = seeded(seed)
    x = torch.randn(256, 20, generator=generator, device="cpu")
    y = torch.randint(0, 5, (256,), generator=generator, device="cpu")
    model = built(
        lambda: nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 5))
    ).float()
    with torch.no_grad():
        model[-1].bias.add_(1e3 * (kind == "shifted"))
        model[-1].weight.mul_(1e3 if kind == "large" else 1.0)
        model[0].bias.add_(1e4 * (kind == "offset"))
    return EmpiricalRisk(model, (x, y), CE)


def small(rho, **more):
    lengths = {"rho": rho, "rho_linf": rho / 50, "epsilon": rho / 50, "rho_adaptive": rho}
    return Options(**lengths, sigma=rho / 10, steps=8, pairs=16, batch_size=64, **more)


@pytest.mark.parametrize("kind", ["plain", "shifted", "large", "offset"])
@pytest.mark.parametrize("rho", [1e-7, 1e-5, 1e-3])
def test_no_difference_of_losses_is_off_by_more_than_its_error(kind, rho):
    risk = rounded(kind)
    rough, fine = (
        panel(risk, z, options=small(rho), only=DIFFERENCES)
        for z in (risk.point(), risk.point().double())
    )
    for i, name in enumerate(DIFFERENCES):
        assert rough.low[i] <= fine.value[i] + fine.error[i], name
        if rough.kinds[i] == "lower bound":
            assert rough.value[i] - rough.error[i] <= fine.value[i] + fine.error[i], name
        else:
            assert fine.value[i] <= rough.high[i], name
        if rough.kinds[i] == "unresolved":
            assert "no larger than the noise of the loss" in rough.notes[i]


def test_below_the_noise_nothing_is_called_a_lower_bound_and_above_it_everything():
    risk = rounded("shifted")
    below, above = (panel(risk, risk.point(), options=small(rho), only=ASCENTS)
                    for rho in (1e-7, 0.05))  # fmt: skip
    assert all(k == "unresolved" or v == 0 for k, v in zip(below.kinds, below.value, strict=True))
    assert (below.low == 0).all() and np.isinf(below.high).all()
    assert set(above.kinds) == {"lower bound"} and (above.low > 0).all()


def test_a_ball_as_small_as_the_rounding_of_the_weights_is_not_left_unsaid():
    # Weights of 1 cannot move by less than 1.2e-7, so that they leave a box of 8e-8 by 40 %.
    slope = Analytic(lambda z: 1e3 * (z - 1).sum(-1), 20_000)
    z = torch.ones(20_000, device="cpu")
    radius = 0.7 * 2**-23
    found = worst_case(slope, z, radius, seeded(0), norm="linf")
    assert found.reach == pytest.approx(1 / 0.7, rel=1e-6)
    row = reading(slope, z, "worst-linf", rho_linf=radius)
    assert row["value"] == pytest.approx(1e3 * 20_000 * 2**-23)
    assert row["low"] <= 1e3 * 20_000 * radius


def test_sam_knows_of_a_step_that_rounding_has_changed():
    slope = Analytic(lambda z: 1e3 * (z - 1).sum(-1), 50)
    z = torch.ones(50, device="cpu")
    rho = 0.7 * 2**-23 * 50**0.5
    row = reading(slope, z, "sam", rho=rho)
    assert abs(row["value"] - 1e3 * 50**0.5 * rho) <= row["error"] * (1 + 1e-6)


def test_exact_derivatives_of_a_float32_point_are_those_of_float64():
    risk, only = rounded("offset"), ("gradient-norm", "fisher-rao", "fisher-rao-empirical")
    rough, fine = (panel(risk, z, only=only) for z in (risk.point(), risk.point().double()))
    np.testing.assert_allclose(rough.value, fine.value, rtol=1e-9)
    assert set(rough.kinds) == {"exact"} and (rough.error == 0).all()


def test_exact_derivatives_that_cannot_be_taken_in_float64_claim_no_error():
    weights = normal(6, 6, seed=2).float()
    fixed = Analytic(lambda z: 0.5 * ((z @ weights) * z).sum(-1), 6)
    found = panel(fixed, normal(6).float(), only=("gradient-norm", "trace", "frobenius"))
    assert np.isfinite(found.value).all() and set(found.kinds) == {"exact"}
    assert np.isnan(found.error).all() and np.isnan(found.low).all()
    assert all("in torch.float32, rounding not measured" in note for note in found.notes)


def test_a_loss_that_is_zero_in_float32_claims_nothing():
    generator = seeded(0)
    x = torch.randn(20, 10, generator=generator, device="cpu")
    model = built(lambda: nn.Sequential(nn.Linear(10, 3))).float()
    with torch.no_grad():
        model[0].weight.mul_(1e5)
        y = model(x).argmax(1)
    risk = EmpiricalRisk(model, (x, y), CE)
    found = panel(risk, risk.point(), options=small(1e-3), only=DIFFERENCES)
    assert found.loss == 0.0
    for value, kind, low in zip(found.value, found.kinds, found.low, strict=True):
        assert kind == "unresolved" or (kind == "lower bound" and value == low == 0)


def test_a_network_of_zero_weights_has_a_panel():
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    risk = EmpiricalRisk(model, (X, Y), CE)
    found = panel(risk, risk.point(), options=QUICK)
    rows = {row["measure"]: row for row in table(found)}
    assert rows["basin-width"]["status"].startswith("not defined here: the weights are zero")
    assert rows["worst-l2"]["value"] > 0


def test_a_rise_below_the_noise_does_not_end_a_basin():
    bowl = Analytic(lambda z: 1000 + z.square().sum(-1), 3)
    row = reading(bowl, torch.ones(3, device="cpu"), "basin-width", delta=1e-6)
    assert row["kind"] == "unresolved" and "delta is no larger than the noise" in row["status"]
    assert reading(bowl, point(1.0, 1.0, 1.0), "basin-width", delta=1e-6)["kind"] == "estimate"


def test_a_measure_of_ones_own_stands_beside_the_others_and_may_not_take_their_names():
    height = Measure(lambda site: Reading(site.loss, evaluations=1), "loss", "at the point", "", "")
    z = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = panel(himmelblau, z, only=["height", "trace"], further={"height": height})
    assert found.measures == ("height", "trace")
    assert found.value[0] == float(himmelblau.formula(z)) and found.kinds[0] == "exact"
    with pytest.raises(ValueError, match="'trace' is a measure already"):
        panel(himmelblau, z, further={"trace": height})
    with pytest.raises(ValueError, match="unknown measure 'depth'; there are height, lambda-max"):
        panel(himmelblau, z, only=["depth"], further={"height": height})
