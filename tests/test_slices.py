"""Lines and planes hold the right number in every cell."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import slices
from landscape.functions import six_hump_camel
from landscape.objective import Analytic, Ridge, Sum
from landscape.risk import EmpiricalRisk

CPU = torch.device("cpu")
SLOPE = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64, device=CPU)
AFFINE = Analytic(lambda z: z @ SLOPE.to(z) + 1.0, dim=3)
BOWL = Analytic(lambda z: (z * z).sum(-1), dim=3)
Z = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, device=CPU)
U = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64, device=CPU)
V = torch.tensor([0.0, -1.0, 4.0], dtype=torch.float64, device=CPU)

coordinates = st.lists(
    st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=7, unique=True
).map(sorted)


@settings(max_examples=40, deadline=None)
@given(alpha=coordinates, beta=coordinates)
def test_every_cell_of_an_affine_function_is_known(alpha, beta):
    plane = slices.plane(AFFINE, Z, U, V, alpha=alpha, beta=beta)
    z, u, v, slope = (t.numpy() for t in (Z, U, V, SLOPE))
    expected = (
        1 + slope @ z + np.add.outer(np.array(alpha) * (slope @ u), np.array(beta) * (slope @ v))
    )
    assert plane.loss.shape == (len(alpha), len(beta))
    np.testing.assert_allclose(plane.loss, expected, atol=1e-12)
    np.testing.assert_array_equal(plane.alpha, alpha)
    np.testing.assert_array_equal(plane.beta, beta)


def test_a_row_belongs_to_alpha_and_a_column_to_beta():
    only_u = Analytic(lambda z: z[..., 0], dim=3)
    axis = torch.eye(3, dtype=torch.float64, device=CPU)
    plane = slices.plane(only_u, 0 * Z, axis[0], axis[1], alpha=[-1, 0, 2], beta=[-3, 5])
    np.testing.assert_array_equal(plane.loss, [[-1, -1], [0, 0], [2, 2]])


def test_a_line_of_a_quadratic_is_its_parabola():
    alpha = np.linspace(-2, 3, 11)
    line = slices.line(BOWL, Z, U, alpha=alpha)
    z, u = Z.numpy(), U.numpy()
    np.testing.assert_allclose(line.loss, z @ z + 2 * alpha * (z @ u) + alpha**2 * (u @ u))
    assert line.center == pytest.approx(z @ z)


def test_the_default_grid_goes_through_the_point():
    line = slices.line(BOWL, Z, U)
    assert line.alpha[0] == -1 and line.alpha[-1] == 1 and len(line.alpha) == 51
    assert line.loss[25] == pytest.approx(line.center)
    plane = slices.plane(BOWL, Z, U, V)
    assert plane.loss.shape == (51, 51)
    assert plane.loss[25, 25] == pytest.approx(plane.center)


def test_the_six_hump_camel_is_symmetric_about_the_origin():
    axis = torch.eye(2, dtype=torch.float64, device=CPU)
    side = np.linspace(-1.5, 1.5, 14)
    plane = slices.plane(six_hump_camel, 0 * axis[0], *axis, alpha=side, beta=side)
    np.testing.assert_allclose(plane.loss, plane.loss[::-1, ::-1], atol=1e-12)


def test_not_finite_cells_stay_what_they_are():
    def formula(z):
        return torch.where(z[..., 0] > 1, torch.inf, torch.where(z[..., 0] < -1, torch.nan, 0.0))

    line = slices.line(Analytic(formula, dim=3), 0 * Z, U / U[0], alpha=[-2, 0, 2])
    assert np.isnan(line.loss[0]) and line.loss[1] == 0 and np.isposinf(line.loss[2])


def network(kind):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if kind == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        )


@pytest.fixture
def data():
    generator = torch.Generator(device=CPU).manual_seed(1)
    inputs = torch.randn(20, 1, 6, 6, generator=generator)
    return inputs, torch.randint(0, 3, (20,), generator=generator)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("statistics", ["frozen", "batch"])
def test_cells_are_the_loss_of_the_moved_module(kind, statistics, data):
    model = network(kind).train()
    before = copy.deepcopy(model.state_dict())
    risk = EmpiricalRisk(model, data, cross_entropy, statistics=statistics)
    z = risk.point()
    generator = torch.Generator(device=CPU).manual_seed(2)
    u, v = torch.randn(2, len(z), generator=generator)
    plane = slices.plane(risk, z, u, v, alpha=[-0.1, 0.0, 0.2], beta=[0.0, 0.3])
    moved = copy.deepcopy(model).train(statistics == "batch")
    for i, a in enumerate(plane.alpha):
        for j, b in enumerate(plane.beta):
            moved.load_state_dict(before)
            nn.utils.vector_to_parameters(z + float(a) * u + float(b) * v, moved.parameters())
            with torch.no_grad():
                loss = float(cross_entropy(moved(data[0]), data[1]))
            assert plane.loss[i, j] == pytest.approx(loss, rel=2e-6)
    assert plane.center == pytest.approx(plane.loss[1, 0], rel=1e-6)
    assert plane.statistics == (statistics if kind == "conv" else "")
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_the_answer_does_not_depend_on_how_many_points_go_together(chunk, data):
    risk = EmpiricalRisk(network("mlp"), data, cross_entropy)
    total = Sum(risk, Ridge(0.1, dim=risk.dim))
    z = risk.point()
    u, v = torch.eye(len(z), device=CPU)[:2]
    whole = slices.plane(total, z, u, v, alpha=np.linspace(-1, 1, 4), beta=np.linspace(0, 1, 3))
    cut = slices.plane(
        total, z, u, v, alpha=np.linspace(-1, 1, 4), beta=np.linspace(0, 1, 3), chunk=chunk
    )
    np.testing.assert_allclose(cut.loss, whole.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": [0.0]}, "alpha must be at least two coordinates"),
        ({"alpha": []}, "alpha must be at least two coordinates"),
        ({"alpha": [[0.0, 1.0]]}, "alpha must be at least two coordinates"),
        ({"beta": [1.0, 0.0]}, "beta must increase"),
        ({"beta": [0.0, 0.0]}, "beta must increase"),
        ({"beta": [0.0, float("nan")]}, "beta must increase from one finite coordinate"),
        ({"u": 0 * U}, "a direction is zero"),
        ({"v": -2 * U}, "the two directions are parallel"),
        ({"v": V[:2]}, r"must have shape \(3,\)"),
    ],
)
def test_bad_slices_are_refused(changes, message, unchecked):
    arguments = {"u": U, "v": V, "alpha": [0.0, 1.0], "beta": [0.0, 1.0], **changes}
    with pytest.raises(ValueError, match=message):
        slices.plane(BOWL, Z, arguments.pop("u"), arguments.pop("v"), **arguments)


def test_a_model_with_active_dropout_is_refused_by_name(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    risk = EmpiricalRisk(model, data, cross_entropy)
    z = risk.point()
    u, v = torch.eye(len(z), device=CPU)[:2]
    with pytest.raises(RuntimeError, match=r"2 \(Dropout in training mode\)"):
        slices.plane(risk, z, u, v)
    with pytest.raises(RuntimeError, match=r"2 \(Dropout in training mode\)"):
        slices.line(risk, z, u)
    model.eval()
    assert slices.line(EmpiricalRisk(model, data, cross_entropy), z, u).center > 0
