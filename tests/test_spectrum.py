"""Eigenvalues of Hessians whose spectra are known, and of networks against scipy and LAPACK."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import CE, X, Y, built, chain, normal, seeded, uneven
from objectives import case as made
from objectives import hessian as dense
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_wine
from torch import nn

from landscape.curvature import Hessian
from landscape.objective import Analytic, Ridge, Sum
from landscape.restriction import Restriction
from landscape.results import load, save
from landscape.risk import EmpiricalRisk
from landscape.spectrum import lanczos, top_eigenpairs

WHICH = ("LM", "LA", "SA", "BE")
EPS = np.finfo(float).eps


def matrix(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    product = (basis * np.asarray(eigenvalues, dtype=float)) @ basis.T
    return torch.as_tensor((product + product.T) / 2, device="cpu")


def quadratic(eigenvalues, seed=0):
    """A function whose Hessian is such a matrix, in the type of the point."""
    a = matrix(eigenvalues, seed)
    return Analytic(lambda z: 0.5 * ((z @ a.to(z)) * z).sum(-1), len(a))


def wanted(eigenvalues, k, which):
    """The k of the true eigenvalues that are asked for, in the order of the result."""
    values = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    if which == "LM":
        return values[np.argsort(-abs(values), kind="stable")][:k]
    if which == "BE":
        high = (k + 1) // 2
        return np.concatenate([values[:high], values[len(values) - (k - high) :]])
    return values[:k] if which == "LA" else values[::-1][:k]


def check_bounds(found, eigenvalues):
    """Some true eigenvalue lies within every bound, up to the rounding of the true ones."""
    true = np.asarray(eigenvalues, dtype=float)
    rounding = 4 * EPS * len(true) ** 0.5 * abs(true).max()
    distances = abs(found.eigenvalues[:, None] - true).min(1)
    assert (distances <= found.bounds + rounding).all()
    assert (found.residuals <= found.bounds).all()
    assert (found.estimates <= found.residuals).all()


# Ends that are a tolerance apart, so that every wanted eigenvalue can be told from the next.
SPECTRA = {
    "outliers": np.r_[[50, 30, 20, -10, 8], np.linspace(-0.5, 0.5, 95)],
    "negative": -np.arange(1, 61.0),
    "both signs": np.r_[np.linspace(1, 5, 40), -np.linspace(1.05, 5.05, 40)],
    "sixteen decades": np.r_[np.logspace(-8, 8, 60), -np.logspace(-8, 7, 20)],
    "tiny": 1e-12 * np.linspace(-1, 2, 50),
    "huge": 1e12 * np.linspace(-1, 2, 50),
    "small matrix": np.r_[[4, 3, -5], np.linspace(-1, 1, 17)],
    "two": np.array([2.0, -3.0]),
    "one": np.array([-2.0]),
}
# Eigenvalues that repeat, or lie closer together than the tolerance: some may hide.
HIDING = {
    "power law": np.arange(1, 121.0) ** -1.5,
    "rank 3": np.r_[[3, 2, -1], np.zeros(77)],
    "clusters": np.r_[10 + 1e-6 * np.arange(3), 5 + 1e-4 * np.arange(3), np.linspace(0, 1, 60)],
    "zero": np.zeros(40),
    "multiple of the identity": np.full(45, 3.0),
    "repeated": np.r_[np.full(20, 7.0), np.full(20, 2.0), np.full(20, -1.0)],
    "mirrored": np.r_[np.linspace(1, 5, 30), -np.linspace(1, 5, 30)],
    "repeated in a small matrix": np.r_[np.full(5, 7.0), np.full(5, -7.0)],
}


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_wanted_end_of_a_known_spectrum_is_found(name, which):
    eigenvalues = SPECTRA[name]
    k = min(4, len(eigenvalues))
    found = top_eigenpairs(quadratic(eigenvalues), normal(len(eigenvalues)), k, which)
    scale = abs(eigenvalues).max()
    np.testing.assert_allclose(
        found.eigenvalues, wanted(eigenvalues, k, which), rtol=0, atol=1e-3 * scale
    )
    assert found.converged.all()
    assert found.status == "converged"
    check_bounds(found, eigenvalues)
    assert (found.bounds <= 1.001e-3 * scale).all()


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", HIDING)
def test_bounds_hold_and_the_edge_is_found_where_eigenvalues_can_hide(name, which):
    eigenvalues = HIDING[name]
    edges = wanted(eigenvalues, 2, which)[: 2 if which == "BE" else 1]
    for k in (2, 5):
        found = top_eigenpairs(quadratic(eigenvalues), normal(len(eigenvalues)), k, which)
        check_bounds(found, eigenvalues)
        assert found.converged.all()
        ends = found.eigenvalues[[0, -1]] if which == "BE" else found.eigenvalues[:1]
        reached = abs(ends) if which == "LM" else ends
        asked = abs(edges) if which == "LM" else edges
        np.testing.assert_allclose(reached, asked, atol=1e-3 * abs(eigenvalues).max())


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-6, 1e-10])
def test_converged_pairs_are_within_the_tolerance(which, tolerance):
    eigenvalues = SPECTRA["outliers"]
    found = top_eigenpairs(quadratic(eigenvalues), normal(100), 3, which, tolerance)
    assert found.converged.all()
    check_bounds(found, eigenvalues)
    assert (found.residuals <= tolerance * 50 * 1.001).all()
    nearest = abs(found.eigenvalues[:, None] - eigenvalues).min(1)
    assert (nearest <= tolerance * 50).all()


@given(
    eigenvalues=st.lists(
        st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, max_size=70
    ),
    k=st.integers(1, 5),
    which=st.sampled_from(WHICH),
    tolerance=st.sampled_from([1e-1, 1e-3, 1e-8, 1e-13]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_a_true_eigenvalue_lies_within_every_bound(eigenvalues, k, which, tolerance, seed):
    k = min(k, len(eigenvalues))
    objective = quadratic(eigenvalues, seed)
    exact = np.linalg.eigvalsh(matrix(eigenvalues, seed).numpy())
    found = top_eigenpairs(
        objective, normal(len(eigenvalues), seed=seed), k, which, tolerance, generator=seeded(seed)
    )
    check_bounds(found, exact)
    assert found.converged[found.residuals <= tolerance * abs(exact).max() * 0.999].all()


@pytest.mark.parametrize("n", [1, 5, 32, 33, 50])
def test_all_eigenvalues_can_be_asked_for(n):
    eigenvalues = np.linspace(-1, 3, n) ** 3
    found = top_eigenpairs(quadratic(eigenvalues), normal(n), n, "LA", 1e-9)
    np.testing.assert_allclose(found.eigenvalues, np.sort(eigenvalues)[::-1], atol=1e-8)
    check_bounds(found, eigenvalues)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(n), atol=1e-8)


@pytest.mark.parametrize("name", ["outliers", "small matrix"])
def test_vectors_are_unit_eigenvectors_with_a_fixed_sign(name):
    eigenvalues = SPECTRA[name]
    a = matrix(eigenvalues).numpy()
    found = top_eigenpairs(quadratic(eigenvalues), normal(len(a)), 3, "LM", 1e-8)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-12)
    rest = found.vectors @ a - found.eigenvalues[:, None] * found.vectors
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), found.residuals, atol=1e-12)
    peaks = abs(found.vectors).argmax(1)
    assert (found.vectors[range(3), peaks] > 0).all()
    assert top_eigenpairs(quadratic(eigenvalues), normal(len(a)), 3, vectors=False).vectors is None


def test_single_precision_points_are_bounded_in_double():
    eigenvalues = SPECTRA["outliers"]
    z = normal(100, dtype=torch.float32)
    found = top_eigenpairs(quadratic(eigenvalues), z, 4)
    assert found.provenance["rounding"].startswith("measured: bounds in float64")
    assert found.vectors.dtype == np.float32
    check_bounds(found, eigenvalues)
    assert found.converged.all()
    strict = top_eigenpairs(quadratic(eigenvalues), z, 4, tolerance=1e-9)
    check_bounds(strict, eigenvalues)
    assert not strict.converged.all()
    assert strict.status.startswith("not converged: ")
    assert "converged: converged" not in strict.status


def test_a_formula_of_one_type_only_is_measured_in_that_type():
    a = matrix(SPECTRA["outliers"]).float()
    objective = Analytic(lambda z: 0.5 * ((z @ a) * z).sum(-1), 100)
    found = top_eigenpairs(objective, normal(100, dtype=torch.float32), 2)
    assert found.provenance["rounding"].startswith("not measured: bounds in torch.float32")
    np.testing.assert_allclose(found.eigenvalues, [50, 30], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_a_rough_answer_or_says_that_it_does_not(dtype):
    eigenvalues = SPECTRA["outliers"]
    found = top_eigenpairs(quadratic(eigenvalues), normal(100, dtype=dtype), 2, tolerance=5e-2)
    check_bounds(found, eigenvalues)
    assert found.vectors.dtype == np.float32


@pytest.mark.parametrize("name", ["stacked-uneven", "batch-norm-frozen", "lstm", "encoder", "sum"])
def test_eigenvalues_of_networks_are_those_of_the_dense_hessian(name):
    objective, _, point = made(name)
    exact = np.linalg.eigvalsh(dense(name).numpy())
    for which in WHICH:
        found = top_eigenpairs(objective, point, 3, which, 1e-8)
        np.testing.assert_allclose(
            found.eigenvalues, wanted(exact, 3, which), atol=1e-7 * abs(exact).max()
        )
        check_bounds(found, exact)


def test_a_restriction_has_the_spectrum_of_the_projected_hessian():
    objective, _, point = made("sum")
    basis = torch.linalg.qr(normal(len(point), 40))[0].T.contiguous()
    restricted = Restriction(objective, point, basis)
    exact = np.linalg.eigvalsh((basis @ dense("sum") @ basis.T).numpy())
    found = top_eigenpairs(restricted, torch.zeros(40, dtype=point.dtype, device="cpu"), 3)
    np.testing.assert_allclose(found.eigenvalues, wanted(exact, 3, "LM"), rtol=1e-2)
    check_bounds(found, exact)


def test_weight_decay_shifts_every_eigenvalue():
    risk = EmpiricalRisk(built(chain), uneven(X, Y), CE)
    z = risk.point()
    plain = top_eigenpairs(risk, z, 3, "LA", 1e-9)
    decayed = top_eigenpairs(Sum(risk, Ridge(0.5, dim=risk.dim)), z, 3, "LA", 1e-9)
    np.testing.assert_allclose(decayed.eigenvalues, plain.eigenvalues + 0.5, rtol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [3, 50])
def test_a_point_that_is_not_finite_gives_a_status_and_no_number(n, bad):
    z = normal(n)
    z[1] = bad
    found = top_eigenpairs(Analytic(lambda z: (z**4).sum(-1).exp(), n), z, 2)
    assert found.status.startswith("not finite")
    assert np.isnan(found.eigenvalues).all() and np.isinf(found.bounds).all()
    assert not found.converged.any()


def test_too_few_products_give_honest_bounds():
    eigenvalues = np.linspace(-1, 1, 200)
    found = top_eigenpairs(quadratic(eigenvalues), normal(200), 3, max_products=12)
    assert found.products == 12
    assert found.status == "not converged: stopped after 9 products"
    assert not found.converged.all()
    check_bounds(found, eigenvalues)


def test_products_are_counted(monkeypatch):
    taken = []
    original = Hessian.__matmul__

    def counting(self, u):
        taken.append(u.reshape(-1, self.dim).shape[0])
        return original(self, u)

    monkeypatch.setattr(Hessian, "__matmul__", counting)
    for n, dtype in ((20, torch.float64), (100, torch.float64), (100, torch.float32)):
        taken.clear()
        eigenvalues = np.r_[[9, 7, 5], np.linspace(-1, 1, n - 3)]
        found = top_eigenpairs(quadratic(eigenvalues), normal(n, dtype=dtype), 3)
        assert found.products == sum(taken)


def test_equal_generators_give_equal_results_and_other_ones_other_bits():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    first, second, other = (top_eigenpairs(objective, z, 3, generator=seeded(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    assert (first.eigenvalues != other.eigenvalues).any()
    zero = top_eigenpairs(objective, z, 3, generator=seeded(0))
    np.testing.assert_array_equal(top_eigenpairs(objective, z, 3).vectors, zero.vectors)


def test_the_basis_may_be_short_of_memory():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    found = top_eigenpairs(objective, z, 2, memory=8 * 100 * 6)
    assert found.products == 8
    check_bounds(found, SPECTRA["outliers"])
    with pytest.raises(ValueError, match="memory of 800 bytes holds 1 vectors, and k = 2 need 2"):
        top_eigenpairs(objective, z, 2, memory=800)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused():
    objective, z = quadratic([1, 2, 3]), normal(3)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k must be from 1 to .* parameters 3, got {k}"):
            top_eigenpairs(objective, z, k)
    with pytest.raises(ValueError, match="which must be LM, LA, SA or BE, got 'max'"):
        top_eigenpairs(objective, z, 1, "max")
    for tolerance in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="tolerance must lie between 0 and 1, got"):
            top_eigenpairs(objective, z, 1, tolerance=tolerance)
    with pytest.raises(ValueError, match="max_products must be at least 2 k = 4, got 3"):
        top_eigenpairs(objective, z, 2, max_products=3)
    with pytest.raises(ValueError, match=r"one point \(3,\) is needed, got shape \(2, 3\)"):
        top_eigenpairs(objective, normal(2, 3), 1)


@pytest.mark.parametrize("n", [10, 60])
def test_wrong_second_derivatives_are_noticed(n):
    class Halved(torch.autograd.Function):
        """x^T B x / 2 with a gradient that forgets to be symmetric."""

        @staticmethod
        def forward(ctx, x, b):
            ctx.save_for_backward(x, b)
            return 0.5 * (x @ b * x).sum(-1)

        @staticmethod
        def backward(ctx, g):
            x, b = ctx.saved_tensors
            return g[..., None] * (x @ b), None

    b = normal(n, n)
    with pytest.raises(RuntimeError, match="second derivatives are not symmetric"):
        top_eigenpairs(Analytic(lambda z: Halved.apply(z, b), n), normal(n), 3)


def test_a_result_survives_its_file(tmp_path):
    found = top_eigenpairs(quadratic(SPECTRA["outliers"]), normal(100), 3)
    save(found, tmp_path / "spectrum.h5")
    again = load(tmp_path / "spectrum.h5")
    np.testing.assert_array_equal(again.vectors, found.vectors)
    assert (again.products, again.status, again.which) == (found.products, "converged", "LM")


class Matrix:
    """A dense matrix as the operator that Lanczos needs."""

    def __init__(self, a):
        self.a, self.dim, self.point = a, len(a), a[0]

    def __matmul__(self, u):
        return u @ self.a


def test_lanczos_keeps_its_basis_orthogonal_where_a_plain_recurrence_finds_ghosts():
    eigenvalues = np.r_[[100.0, 60.0], np.linspace(0, 1, 198)]
    operator = Matrix(matrix(eigenvalues).float())
    found = lanczos(operator, 5, "LM", 1e-14, 80, seeded(0))
    assert len(found.everything) == 80
    assert (abs(found.everything) > 10).sum() == 2
    gram = found.vectors.double() @ found.vectors.double().T
    np.testing.assert_allclose(gram, np.eye(5), atol=1e-4)


# ------------------------------------------------------------- a network on Wine, as one meets it


def wine():
    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return torch.as_tensor(x, dtype=torch.float32, device="cpu"), torch.as_tensor(y, device="cpu")


def trained(seed, activation=nn.Tanh):
    """13-64-64-3, trained by gradient descent to a loss of 0.03."""
    x, y = wine()
    model = built(
        lambda: nn.Sequential(nn.Linear(13, 64), activation(), nn.Linear(64, 64), activation(),
                              nn.Linear(64, 3)), seed, torch.float32)  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(1000):
        optimiser.zero_grad()
        loss = CE(model(x), y)
        loss.backward()
        optimiser.step()
        if loss.item() < 0.03:
            break
    return EmpiricalRisk(model, (x, y), CE)


def reference(risk):
    """The ten eigenvalues of largest magnitude by scipy, in float64."""
    hessian = Hessian(risk, risk.point().double())
    operator = LinearOperator(
        (risk.dim, risk.dim),
        matvec=lambda u: (hessian @ torch.as_tensor(u.ravel(), device="cpu")).numpy(),
        dtype=np.float64,
    )
    values = eigsh(operator, k=10, which="LM", tol=1e-10, return_eigenvectors=False)
    return values[np.argsort(-abs(values))]


@pytest.mark.slow
def test_five_eigenvalues_of_a_network_take_at_most_24_products_on_20_seeds():
    products = []
    for seed in range(20):
        risk = trained(seed)
        found = top_eigenpairs(risk, risk.point(), 5, generator=seeded(seed))
        exact = reference(risk)
        assert (abs(found.eigenvalues - exact[:5]) <= 1e-3 * abs(exact[0])).all()
        assert (abs(found.eigenvalues[:, None] - exact).min(1) <= found.bounds).all()
        assert found.converged.all()
        products.append(found.products)
    assert max(products) <= 24, products


def test_a_rectified_network_is_bounded_as_well():
    risk = trained(0, nn.ReLU)
    exact = reference(risk)
    found = top_eigenpairs(risk, risk.point(), 5)
    np.testing.assert_allclose(found.eigenvalues, exact[:5], atol=1e-3 * exact[0])
    assert (abs(found.eigenvalues[:, None] - exact).min(1) <= found.bounds).all()
