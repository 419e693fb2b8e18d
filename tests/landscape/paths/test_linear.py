"""The straight line, and what every path is measured by: heights, barriers, lengths, error bars."""

import json

import numpy as np
import passes
import pytest
import torch
from objectives import CE, IMAGES, X, Y, built, chain, normal, uneven
from objectives import case as made
from torch import nn

from landscape.functions import himmelblau, three_hump_camel
from landscape.networks import EmpiricalRisk
from landscape.objective import Analytic, value
from landscape.paths import linear
from landscape.paths.curves import Curve, bernstein, sines, straight
from landscape.paths.curves import chain as pieces
from landscape.results import load, save

A, B = passes.minima(himmelblau)["A"], passes.minima(himmelblau)["B"]


@pytest.mark.parametrize(("function", "one", "other"), passes.LINES)
def test_heights_of_lines_are_the_known_ones(function, one, other):
    known = passes.LINES[function, one, other]
    function = passes.FUNCTIONS[function]
    ends = passes.minima(function)
    found = linear(function, ends[one], ends[other])
    assert found.height == pytest.approx(known, rel=5e-9)
    assert found.height == found.line_height
    # The height is the loss at the summit, and no bound or interpolation.
    assert float(value(function, torch.tensor(found.summit))) == pytest.approx(found.height)
    there = linear(function, ends[other], ends[one])
    assert there.height == pytest.approx(found.height, rel=1e-9)
    np.testing.assert_allclose(there.loss[::-1], found.loss, rtol=1e-10, atol=1e-12)


def test_both_barriers_are_those_of_their_definitions():
    ends = passes.minima(three_hump_camel)
    found = linear(three_hump_camel, ends["O"], ends["L+"])
    assert found.chord_barrier == pytest.approx(0.69778505, abs=5e-9)
    assert found.barrier == pytest.approx(0.87736156 - 0.2986384422 / 2, abs=5e-9)


def test_points_lie_at_equal_arc_length_and_the_ends_are_the_ends_bit_for_bit():
    a, b = normal(7), normal(7, seed=1)
    line = linear(Analytic(lambda z: z.square().sum(-1), 7), a, b, points=11)
    assert np.array_equal(line.points[0], a.numpy()) and np.array_equal(line.points[-1], b.numpy())
    np.testing.assert_allclose(line.share, np.linspace(0, 1, 11))
    np.testing.assert_allclose(line.points[3], 0.7 * a + 0.3 * b, rtol=1e-12)
    assert line.length == pytest.approx(float((b - a).norm()), rel=1e-12)


@pytest.mark.parametrize("kind", ["straight", "chain", "sines", "bernstein"])
def test_every_curve_ends_at_its_ends_and_its_points_are_evenly_spaced(kind):
    a, b, inner = normal(5), normal(5, seed=1), normal(3, 5, seed=2)
    curve = {
        "straight": lambda: straight(a, b),
        "chain": lambda: pieces(torch.stack([a, *inner, b])),
        "sines": lambda: sines(a, b, 0.3 * inner),
        "bernstein": lambda: bernstein(a, b, inner),
    }[kind]()
    assert isinstance(curve, Curve)
    rows = curve.at(np.linspace(0, 1, 2001))
    assert torch.equal(rows[0], a) and torch.equal(rows[-1], b)
    steps = torch.linalg.vector_norm(rows.diff(dim=0), dim=-1)
    assert float(steps.sum()) == pytest.approx(curve.length, rel=1e-3)
    # A chord over the corner of a chain is shorter.
    assert float(steps.median() / steps.max()) > 0.999
    assert float((steps > 0.99 * steps.max()).double().mean()) > 0.99


def test_curves_are_those_of_their_formulas():
    a, b, inner = normal(4), normal(4, seed=1), normal(2, 4, seed=2)
    t = np.array([0.2, 0.5, 0.9])
    s = torch.tensor(t)[:, None]
    wave = (1 - s) * a + s * b + sum(
        inner[n] * torch.sin((n + 1) * np.pi * s) for n in range(2)
    )  # fmt: skip
    torch.testing.assert_close(sines(a, b, inner)._rows(t), wave)
    cubic = (1 - s) ** 3 * a + 3 * s * (1 - s) ** 2 * inner[0] + 3 * s**2 * (1 - s) * inner[1]
    torch.testing.assert_close(bernstein(a, b, inner)._rows(t), cubic + s**3 * b)
    corners = torch.stack([a, *inner, b])
    torch.testing.assert_close(pieces(corners)._rows(np.array([1 / 3])), inner[:1])
    torch.testing.assert_close(pieces(corners)._rows(np.array([0.5]))[0], inner.mean(0))


def test_evaluations_are_those_that_were_asked_for():
    counting = passes.Counting(himmelblau)
    found = linear(counting, A, B)
    assert (found.evaluations, found.gradients) == (counting.values, counting.gradients)
    assert found.gradients == 0 and found.evaluations >= 101


def test_a_maximum_between_the_points_of_the_grid_is_found():
    spike = Analytic(lambda z: torch.exp(-((z[..., 0] - 0.5037) ** 2) / 2e-4), 1)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    found = linear(spike, *ends, points=51)
    assert found.loss.max() < 0.98
    assert found.height == pytest.approx(1.0, abs=1e-5)
    assert found.top == pytest.approx(0.5037, abs=1e-4)
    assert linear(spike, *ends, points=51, refinement=0).height == found.loss.max()


def test_standard_errors_are_those_of_the_batches_and_barriers_are_paired():
    risk = EmpiricalRisk(built(chain), uneven(X, Y), CE)
    a = risk.point()
    b = a + 0.5 * normal(len(a))
    found = linear(risk, a, b, standard_errors=True, points=21)
    shares = np.array([len(y) for _, y in uneven(X, Y)]) / len(X)
    losses = np.array([
        value(EmpiricalRisk(built(chain), batch, CE), torch.tensor(found.points)).numpy()
        for batch in uneven(X, Y)
    ])  # fmt: skip

    def error(columns):
        spread = (columns - shares @ columns) ** 2
        return np.sqrt(shares @ spread / (len(shares) - 1))

    np.testing.assert_allclose(found.standard_error, error(losses), rtol=1e-8)
    summit = np.array([
        float(value(EmpiricalRisk(built(chain), batch, CE), torch.tensor(found.summit)))
        for batch in uneven(X, Y)
    ])  # fmt: skip
    contrast = summit - (losses[:, 0] + losses[:, -1]) / 2
    assert found.height_error == pytest.approx(error(summit), rel=1e-8)
    assert found.barrier_error == pytest.approx(error(contrast), rel=1e-8)
    with pytest.raises(ValueError, match="standard errors need"):
        linear(himmelblau, A, B, standard_errors=True)


def test_metrics_are_measured_along_the_path():
    doubled = Analytic(lambda z: 2 * himmelblau.formula(z), 2)
    found = linear(
        himmelblau, A, B, points=5,
        metrics={"twice": doubled, "gradient_norm": "gradient_norm", "x": lambda z: float(z[0])},
    )  # fmt: skip
    assert found.metrics == ("twice", "gradient_norm", "x")
    np.testing.assert_allclose(found.metric_values[0], 2 * found.loss)
    np.testing.assert_allclose(found.metric_values[2], found.points[:, 0])
    assert found.metric_values[1, 0] == pytest.approx(0, abs=1e-9)


def test_statistics_are_reestimated_at_every_point_unless_they_are_to_stay():
    model = built(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    )
    risk = EmpiricalRisk(model, (IMAGES, Y), CE)
    a = risk.point()
    b = a + 0.3 * normal(len(a))
    found = linear(risk, a, b, points=5)
    expected = [float(value(risk.reestimated(z), z)) for z in torch.tensor(found.points)]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-9)
    assert "re-estimated at every point" in found.statistics
    given = linear(risk, a, b, points=5, statistics="as given")
    assert given.statistics == "frozen"
    expected = [float(value(risk, z)) for z in torch.tensor(given.points)]
    np.testing.assert_allclose(given.loss, expected, rtol=1e-9)


def test_a_path_is_saved_and_loaded(tmp_path):
    found = linear(himmelblau, A, B, keep=False, metrics=["gradient_norm"])
    assert found.points is None
    save(found, tmp_path / "path.h5")
    again = load(tmp_path / "path.h5")
    assert json.dumps(again.numbers()) == json.dumps(found.numbers())
    np.testing.assert_array_equal(again.loss, found.loss)
    np.testing.assert_array_equal(again.summit, found.summit)
    assert "barrier" in again.said()[0]


def test_identical_ends_have_no_barrier():
    found = linear(himmelblau, A, A)
    assert (found.height, found.barrier, found.chord_barrier, found.length) == (0, 0, 0, 0)
    np.testing.assert_array_equal(found.points, np.broadcast_to(A, (101, 2)))


def test_a_path_that_is_not_finite_says_so():
    wall = Analytic(lambda z: torch.where(z[..., 0].abs() < 0.1, torch.nan, z[..., 0]), 1)
    found = linear(wall, torch.tensor([-1.0]).double(), torch.tensor([1.0]).double())
    assert found.height == found.barrier == np.inf
    assert "not finite" in found.status
    assert np.isnan(found.loss).sum() == np.count_nonzero(np.abs(found.points) < 0.1)
    assert found.top == pytest.approx(0.455, abs=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": torch.zeros(3, dtype=torch.float64)}, "of two models"),
        ({"b": torch.tensor([1.0, torch.nan]).double()}, "the end b has NaN"),
        ({"a": torch.tensor([1, 2])}, "floating point"),
        ({"points": 1}, "points must be at least 3"),
        ({"refinement": -1}, "refinement must not be negative"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"statistics": "none"}, "statistics must be one of"),
        ({"metrics": "gradient_norm"}, "sequence or a dictionary"),
        ({"metrics": ["nonsense"]}, "nonsense"),
        ({"metrics": {"one": Analytic(lambda z: z.sum(-1), 3)}}, "vectors of length 2"),
    ],
)
def test_bad_input_is_named(unchecked, change, said):
    with pytest.raises(ValueError, match=said):
        linear(himmelblau, **{"a": A, "b": B, **change})


def test_a_loss_that_is_not_finite_at_an_end_is_refused():
    with pytest.raises(ValueError, match="at the end b is nan"):
        linear(Analytic(lambda z: z[..., 0].log(), 1), torch.ones(1), -torch.ones(1))


def test_a_setting_that_there_is_not_is_named():
    with pytest.raises(TypeError, match="linear has no setting sines"):
        linear(himmelblau, A, B, sines=3)


@pytest.mark.parametrize("name", ["stacked-uneven", "convolution", "lstm", "sum"])
def test_any_objective_has_a_line(name):
    objective, truth, z = made(name)
    far = z + 0.1 * normal(len(z))
    found = linear(objective, z, far, points=5, statistics="as given")
    for k, share in enumerate(found.share):
        expected = float(truth(z + share * (far - z)))
        assert found.loss[k] == pytest.approx(expected, rel=1e-8)
