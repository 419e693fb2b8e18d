"""Lines and planes: every cell of functions that are known, and what they refuse."""

import numpy as np
import pytest
import torch
from objectives import CE, IMAGES, MASKED, X, Y, built, chain, normal, padded, seeded, uneven
from objectives import case as made
from torch import nn

from landscape import directions
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum, value
from landscape.restriction import Restriction
from landscape.results import load, save
from landscape.slices import line, plane


def affine(coefficients):
    return Analytic(lambda z: (z * coefficients.to(z)).sum(-1) + 2, len(coefficients))


@pytest.fixture
def directions_of_five():
    return normal(5), normal(5, seed=1), normal(5, seed=2)


def test_every_cell_of_an_affine_function_is_known(directions_of_five):
    z, u, v = directions_of_five
    c = normal(5, seed=3)
    alpha, beta = np.array([-2.0, 0.0, 0.5, 3.0]), np.array([-1.0, 0.25])
    found = plane(affine(c), z, u, v, alpha=alpha, beta=beta)
    assert found.loss.shape == (4, 2)
    for i, a in enumerate(alpha):
        for j, b in enumerate(beta):
            expected = float(c @ z) + 2 + a * float(c @ u) + b * float(c @ v)
            assert found.loss[i, j] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(found.alpha, alpha)
    np.testing.assert_array_equal(found.beta, beta)
    rows = np.diff(found.loss, axis=0) / np.diff(alpha)[:, None]
    np.testing.assert_allclose(rows, float(c @ u), rtol=1e-10)


def test_every_cell_of_a_quadratic_function_is_known(directions_of_five):
    z, u, v = directions_of_five
    root = normal(5, 5, seed=4)
    bowl = Analytic(lambda z: ((z @ root.to(z)) ** 2).sum(-1), 5)
    found = plane(bowl, z, u, v, alpha=np.linspace(-1, 2, 7), beta=np.linspace(0, 1, 3))
    a, b = np.meshgrid(found.alpha, found.beta, indexing="ij")
    points = z.numpy() + a[..., None] * u.numpy() + b[..., None] * v.numpy()
    np.testing.assert_allclose(found.loss, ((points @ root.numpy()) ** 2).sum(-1), rtol=1e-11)
    along = line(bowl, z, u, alpha=[-1, 0, 2])
    expected = [((z + t * u) @ root).square().sum() for t in (-1, 0, 2)]
    np.testing.assert_allclose(along.loss, expected, rtol=1e-12)


def test_a_plane_is_made_of_lines():
    objective, _, z = made("stacked-uneven")
    u, v = directions.random(objective.layout, z, seeded(0))
    found = plane(objective, z, u, v, alpha=[-1, 0, 2], beta=[-0.5, 0, 0.5, 1])
    across = line(objective, z, u, alpha=[-1, 0, 2])
    np.testing.assert_allclose(found.loss[:, 1], across.loss, rtol=1e-10)
    np.testing.assert_allclose(
        found.loss[2], line(objective, z + 2 * u, v, alpha=[-0.5, 0, 0.5, 1]).loss, rtol=1e-10
    )


def test_a_slice_of_a_network_is_the_loss_of_the_networks_on_it():
    risk = EmpiricalRisk(built(chain), uneven(X, Y), CE)
    z = risk.point()
    u, v = directions.random(risk.layout, z, seeded(0))
    found = plane(risk, z, u, v, alpha=[-1, 0, 1], beta=[0, 0.5])
    for i, a in enumerate(found.alpha):
        for j, b in enumerate(found.beta):
            model = built(chain)
            model.load_state_dict(risk.state_dict(z + a * u + b * v))
            assert found.loss[i, j] == pytest.approx(CE(model(X), Y).item(), rel=1e-10)


def test_the_defaults_are_51_coordinates_from_minus_one_to_one_around_the_centre(
    directions_of_five,
):
    z, u, v = directions_of_five
    function = affine(normal(5, seed=3))
    found = plane(function, z, u, v)
    np.testing.assert_array_equal(found.alpha, np.linspace(-1, 1, 51))
    np.testing.assert_array_equal(found.beta, found.alpha)
    assert found.loss[25, 25] == pytest.approx(found.center, rel=1e-12)
    assert found.center == pytest.approx(float(function.formula(z)), rel=1e-12)
    assert line(function, z, u).loss[25] == pytest.approx(found.center, rel=1e-12)
    assert found.directions == ("u", "v")
    assert plane(function, z, u, v, names=("a", "b")).directions == ("a", "b")
    assert line(function, z, u, name="gradient").direction == "gradient"


@pytest.mark.parametrize("name", ["stacked-uneven", "vmapped", "convolution", "sum", "lstm"])
def test_the_centre_is_the_loss_of_the_model_and_the_chunk_does_not_matter(name):
    objective, truth, z = made(name)
    u, v = normal(2, len(z))
    how = {"alpha": [-0.1, 0, 0.1], "beta": [-0.2, 0]}
    found = plane(objective, z, u, v, **how)
    assert found.center == pytest.approx(float(truth(z)), rel=1e-9)
    assert found.loss[1, 1] == pytest.approx(found.center, rel=1e-12)
    for chunk in (1, 4, 100):
        other = plane(objective, z, u, v, chunk=chunk, **how)
        np.testing.assert_allclose(other.loss, found.loss, rtol=1e-10)


def test_points_exist_only_a_chunk_at_a_time():
    seen = []

    def formula(z):
        seen.append(len(z))
        return z.sum(-1)

    plane(Analytic(formula, 3), normal(3), normal(3, seed=1), normal(3, seed=2), chunk=10)
    assert max(seen) == 10
    assert sum(seen) == 51 * 51 + 2


def test_losses_that_are_not_finite_are_kept():
    function = Analytic(lambda z: torch.log(z[..., 0]) + 0 * z[..., 1], 2)
    z, u = torch.tensor([1.0, 0.0], device="cpu"), torch.tensor([1.0, 0.0], device="cpu")
    found = line(function, z, u, alpha=[-2.0, -1.0, 0.0, 1.0])
    assert np.isnan(found.loss[0])
    assert found.loss[1] == -np.inf
    np.testing.assert_allclose(found.loss[2:], [0, np.log(2)], atol=1e-7)
    nowhere = line(function, -z, u, alpha=[-1, 0])
    assert np.isnan(nowhere.center) and np.isnan(nowhere.loss).all()


@pytest.mark.parametrize("alpha", [np.arange(-1, 1.05, 0.1), np.linspace(-1, 1, 99), [-1, 0, 1]])
def test_points_that_are_other_together_than_alone_are_found_out_at_the_centre(alpha):
    class Mixing(Analytic):
        def batched_terms(self):
            yield lambda rows: (rows**2).sum(-1) + 0.1 * (len(rows) > 1)

    objective, z = Mixing(lambda z: (z**2).sum(-1), 3), normal(3)
    with pytest.raises(RuntimeError, match="points evaluated together disagree with one alone"):
        line(objective, z, normal(3, seed=1), alpha=alpha)
    line(objective, z, normal(3, seed=1), alpha=alpha, chunk=1)


@pytest.mark.parametrize(
    "alpha",
    [
        [-1, 0, 2],
        (-1.0, 0.0, 2.0),
        range(-1, 2),
        np.array([-1, 0, 2], dtype=np.int32),
        torch.tensor([-1.0, 0.0, 2.0], device="cpu", requires_grad=True),
    ],
)
def test_coordinates_may_be_any_sequence_of_numbers(alpha):
    found = line(affine(normal(3)), normal(3, seed=1), normal(3, seed=2), alpha=alpha)
    assert found.alpha.dtype == np.float64
    assert found.alpha[0] == -1


def test_points_and_directions_may_ask_for_gradients(directions_of_five):
    z, u, v = (t.clone().requires_grad_() for t in directions_of_five)
    function = affine(normal(5, seed=3))
    plane(function, z, u, v, alpha=[0, 1], beta=[0, 1])
    line(function, z, u, alpha=[0, 1])
    assert z.grad is u.grad is v.grad is None


def test_a_single_coordinate_is_a_line_too():
    found = line(Analytic(lambda z: z[..., 0] ** 2, 1), torch.tensor([1.0], device="cpu"),
                 torch.tensor([2.0], device="cpu"), alpha=[-1, 0, 1])  # fmt: skip
    np.testing.assert_allclose(found.loss, [1, 1, 9])


def test_slices_of_sums_and_of_slices_are_slices():
    objective, truth, z = made("sum")
    basis = normal(3, len(z), seed=5)
    inner = Restriction(Sum(objective, Ridge(0.2, dim=len(z))), z, basis)
    t, u = normal(3), normal(3, seed=1)
    found = line(inner, t, u, alpha=[0, 1])
    for a, loss in zip(found.alpha, found.loss, strict=True):
        point = z + (t + a * u) @ basis
        assert loss == pytest.approx(float(truth(point) + 0.1 * (point @ point)), rel=1e-9)


def test_losses_with_weights_and_images_are_sliced_like_others():
    risk = EmpiricalRisk(built(chain), uneven(X, MASKED), padded)
    z = risk.point()
    assert line(risk, z, z, alpha=[0, 1]).loss[1] == pytest.approx(float(value(risk, 2 * z)))
    images = EmpiricalRisk(
        built(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))),
        (IMAGES, Y), CE,
    )  # fmt: skip
    z = images.point()
    assert line(images, z, z, alpha=[0, 1]).loss[1] == pytest.approx(float(value(images, 2 * z)))


def test_the_result_says_how_long_the_directions_are(directions_of_five):
    z, u, v = directions_of_five
    found = plane(affine(normal(5, seed=3)), z, u, v, alpha=[0, 1], beta=[0, 1])
    np.testing.assert_allclose(found.provenance["lengths"], [float(u.norm()), float(v.norm())])
    cosine = float(u @ v / (u.norm() * v.norm()))
    assert found.provenance["cosine"] == pytest.approx(cosine)


def test_slices_survive_their_files(tmp_path, directions_of_five):
    z, u, v = directions_of_five
    function = affine(normal(5, seed=3))
    for name, found in (
        ("line", line(function, z, u, name="up")),
        ("plane", plane(function, z, u, v, alpha=[0, 1], beta=[0, 1, 2])),
    ):
        save(found, tmp_path / f"{name}.h5")
        again = load(tmp_path / f"{name}.h5")
        np.testing.assert_array_equal(again.loss, found.loss)
        assert again.center == found.center


BAD = [
    ({"alpha": [0.0]}, r"alpha must be at least two coordinates \(n,\), got shape \(1,\)"),
    ({"alpha": 3.0}, r"alpha must be at least two coordinates \(n,\), got shape \(\)"),
    ({"beta": [[0.0, 1.0]]}, r"beta must be at least two coordinates \(n,\), got shape \(1, 2\)"),
    ({"alpha": [0.0, 0.0]}, "alpha must increase"),
    ({"beta": [1.0, 0.0]}, "beta must increase"),
    ({"alpha": [0.0, float("nan")]}, "alpha must increase from one finite"),
    ({"alpha": [0.0, float("inf")]}, "alpha must increase from one finite"),
    ({"chunk": 0}, "chunk must be at least 1, got 0"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_coordinates_are_refused(given, message, directions_of_five):
    z, u, v = directions_of_five
    with pytest.raises(ValueError, match=message):
        plane(affine(u), z, u, v, **given)


@pytest.mark.usefixtures("unchecked")
def test_bad_directions_are_refused(directions_of_five):
    z, u, v = directions_of_five
    function = affine(u)
    bad = [
        (0 * u, v, "a direction is zero"),
        (1e-180 * u, v, "a direction is zero"),
        (u, float("nan") * v, "a direction has NaN or infinite entries"),
        (u / 0, v, "a direction has NaN or infinite entries"),
        (u, -3 * u, "the two directions are parallel"),
        (u[:-1], v, r"must have shape \(5,\), got \(5,\) and \(4,\)"),
        (u, v[None], r"must have shape \(5,\), got \(5,\) and \(1, 5\)"),
    ]
    for first, second, message in bad:
        with pytest.raises(ValueError, match=message):
            plane(function, z, first, second)
    for point in (z[:-1], z[None]):
        with pytest.raises(ValueError, match=r"must have shape \(5,\)"):
            plane(function, point, u, v)
        with pytest.raises(ValueError, match=r"must have shape \(5,\)"):
            line(function, point, u)
    with pytest.raises(ValueError, match="a direction is zero"):
        line(function, z, 0 * u)
    with pytest.raises(ValueError, match="floating point, got torch.int64"):
        line(function, torch.ones(5, dtype=torch.int64, device="cpu"), u)
