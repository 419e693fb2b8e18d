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
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum
from landscape.restriction import Restriction
from landscape.results import load, save
from landscape.spectrum import residuals, top_eigenpairs

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
    assert found.joint_bound >= found.residuals.max() * 0.999
    if len(found.eigenvalues) == len(true):
        apart = abs(np.sort(found.eigenvalues) - np.sort(true)).max()
        assert apart <= found.joint_bound + rounding


# Ends that are a tolerance apart, so that every wanted eigenvalue can be told from the next.
SPECTRA = {
    "outliers": np.r_[[50, 30, 20, -10, 8], np.linspace(-0.5, 0.5, 95)],
    "negative": -np.arange(1, 61.0),
    "both signs": np.r_[np.linspace(1, 5, 40), -np.linspace(1.05, 5.05, 40)],
    "sixteen decades": np.r_[np.logspace(-8, 8, 60), -np.logspace(-8, 7, 20)],
    "tiny": 1e-12 * np.linspace(-1, 2, 50),
    "huge": 1e12 * np.linspace(-1, 2, 50),
    "small matrix": np.r_[[4, 3, -5], np.linspace(-0.9, 1, 17)],
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
def test_eigenvalues_that_repeat_are_all_found(name, which):
    eigenvalues = HIDING[name]
    for k in (2, 5):
        found = top_eigenpairs(quadratic(eigenvalues), normal(len(eigenvalues)), k, which)
        check_bounds(found, eigenvalues)
        assert found.converged.all() and found.status == "converged"
        reached, asked = found.eigenvalues, wanted(eigenvalues, k, which)
        if which == "LM":
            reached, asked = abs(reached), abs(asked)
        scale = abs(eigenvalues).max()
        np.testing.assert_allclose(np.sort(reached), np.sort(asked), atol=1e-3 * scale)
        assert found.joint_bound <= 1.5e-3 * k**0.5 * scale + 1e-12


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
    assert 0 < found.provenance["rounding_norm"] < 1e-5 * 50
    assert found.vectors.dtype == np.float32
    check_bounds(found, eigenvalues)
    assert found.converged.all()
    strict = top_eigenpairs(quadratic(eigenvalues), z, 4, tolerance=1e-9)
    check_bounds(strict, eigenvalues)
    assert not strict.converged.all()
    assert strict.status.startswith("not converged: ")
    assert "converged: converged" not in strict.status


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_allow_for_the_rounding_of_the_explicit_product(dtype):
    found = top_eigenpairs(quadratic(SPECTRA["outliers"]), normal(100, dtype=dtype), 3)
    allowed = found.bounds - found.residuals
    np.testing.assert_allclose(allowed, 8 * 2.0**-52 * 50, rtol=1e-3)
    measured = found.provenance["rounding"].startswith("measured")
    assert measured == (dtype == torch.float32) == (found.provenance["rounding_norm"] is not None)


def test_a_formula_of_one_type_only_is_measured_in_that_type():
    a = matrix(SPECTRA["outliers"]).float()
    objective = Analytic(lambda z: 0.5 * ((z @ a) * z).sum(-1), 100)
    found = top_eigenpairs(objective, normal(100, dtype=torch.float32), 2)
    assert found.provenance["rounding"].startswith("not measured: bounds in torch.float32")
    np.testing.assert_allclose(found.eigenvalues, [50, 30], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_are_measured_in_single_precision(dtype):
    eigenvalues = SPECTRA["outliers"]
    found = top_eigenpairs(quadratic(eigenvalues), normal(100, dtype=dtype), 2)
    check_bounds(found, eigenvalues)
    assert found.converged.all()
    assert found.vectors.dtype == np.float32
    assert found.provenance["arithmetic"] == f"float32 (the point is {str(dtype)[6:]})"


NETWORKS = (
    "stacked-uneven", "convolution", "batch-norm-frozen", "layer-norm", "attention", "encoder",
    "dot-product", "lstm", "gru", "tied", "sum",
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
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
        assert found.products + found.check_products == sum(taken)


def test_equal_generators_give_equal_results_and_other_ones_other_bits():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    first, second, other = (top_eigenpairs(objective, z, 3, generator=seeded(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    assert (first.eigenvalues != other.eigenvalues).any()
    zero = top_eigenpairs(objective, z, 3, generator=seeded(0))
    np.testing.assert_array_equal(top_eigenpairs(objective, z, 3).vectors, zero.vectors)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", ["outliers", "both signs", "rank 3", "repeated"])
def test_a_short_basis_gives_the_same_answers_by_restarting(name, which):
    eigenvalues = (SPECTRA | HIDING)[name]
    objective, z = quadratic(eigenvalues), normal(len(eigenvalues))
    whole = top_eigenpairs(objective, z, 3, which, max_products=2000)
    for vectors in (8, 12):
        short = top_eigenpairs(
            objective, z, 3, which, max_products=2000, memory=8 * len(z) * (vectors + 3)
        )
        assert short.status == "converged" and short.converged.all()
        check_bounds(short, eigenvalues)
        reached, asked = short.eigenvalues, whole.eigenvalues
        if which == "LM":
            reached, asked = abs(reached), abs(asked)
        np.testing.assert_allclose(reached, asked, atol=1e-3 * abs(eigenvalues).max())


def test_too_little_memory_says_how_much_is_needed():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    assert top_eigenpairs(objective, z, 2, memory=7200).converged.all()
    with pytest.raises(ValueError, match="memory of 7199 bytes .* 9 vectors, 7200 bytes"):
        top_eigenpairs(objective, z, 2, memory=7199)


def test_a_hidden_copy_is_found_by_the_check_alone_and_its_products_count_apart():
    eigenvalues = np.r_[[9, 9, 8, 3], np.linspace(-1, 1, 96)]
    objective, z = quadratic(eigenvalues), normal(100)
    blind = top_eigenpairs(objective, z, 3, check=False)
    np.testing.assert_allclose(blind.eigenvalues, [9, 8, 3], atol=1e-2)
    assert (blind.check_products, blind.provenance["check"]) == (0, "not asked for")
    seen = top_eigenpairs(objective, z, 3)
    np.testing.assert_allclose(seen.eigenvalues, [9, 9, 8], atol=1e-2)
    assert seen.products == blind.products and seen.check_products > 0
    assert seen.provenance["check"].startswith("1 hidden found; ")
    check_bounds(seen, eigenvalues)


def test_a_check_that_finds_nothing_changes_nothing():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    checked, plain = (top_eigenpairs(objective, z, 4, check=check) for check in (True, False))
    np.testing.assert_array_equal(checked.vectors, plain.vectors)
    np.testing.assert_array_equal(checked.eigenvalues, plain.eigenvalues)
    assert checked.check_products > 0
    assert "0 hidden found; the chance that one is missed" in checked.provenance["check"]


def test_all_products_together_stay_within_the_limit():
    objective, z = quadratic(SPECTRA["outliers"]), normal(100)
    free = top_eigenpairs(objective, z, 4)
    tight = top_eigenpairs(objective, z, 4, max_products=free.products + 2)
    assert tight.products + tight.check_products == free.products + 2
    assert tight.status.startswith("converged, but the check for hidden eigenvalues stopped after")
    assert tight.converged.all()
    small = top_eigenpairs(quadratic(np.arange(30.0)), normal(30), 2, max_products=20)
    assert small.products + small.check_products <= 20


def family(name, random):
    """A random spectrum of 100 eigenvalues."""
    bulk = random.normal(0, 0.1, 100)
    if name == "outliers":
        bulk[:8] = random.uniform(1, 50, 8) * random.choice([1, 1, -1], 8)
    elif name == "power law":
        bulk = np.arange(1, 101.0) ** -random.uniform(1, 2)
    else:
        bulk[:9] = np.repeat(random.uniform(2, 10, 3), 3)
    return bulk


@pytest.mark.parametrize("name", ["outliers", "power law", "tied"])
def test_the_ith_value_is_the_ith_eigenvalue_on_random_spectra(name):
    for seed in range(8):
        eigenvalues = family(name, np.random.default_rng(seed))
        z = normal(100, dtype=torch.float32)
        found = top_eigenpairs(quadratic(eigenvalues, seed), z, 5, generator=seeded(seed))
        check_bounds(found, eigenvalues)
        right = np.sort(abs(wanted(eigenvalues, 5, "LM")))
        atol = 1e-3 * abs(eigenvalues).max()
        np.testing.assert_allclose(np.sort(abs(found.eigenvalues)), right, atol=atol)


def test_a_linear_model_has_the_eigenvalues_of_a_kronecker_product():
    x, y = normal(20, 8), normal(20, 5, seed=1)
    risk = EmpiricalRisk(built(lambda: nn.Linear(8, 5, bias=False)), (x, y), nn.MSELoss())
    exact = np.repeat(np.linalg.eigvalsh((2 / (20 * 5) * x.T @ x).numpy())[::-1], 5)
    found = top_eigenpairs(risk, risk.point(), 12, "LA", 1e-8)
    np.testing.assert_allclose(found.eigenvalues, exact[:12], rtol=1e-6)
    check_bounds(found, exact)


@pytest.mark.parametrize("pieces", [(10,), (4, 4, 2), (2, 4, 4), (1,) * 10])
def test_the_order_and_number_of_batches_change_nothing(pieces):
    whole = EmpiricalRisk(built(chain), (X, Y), CE)
    split = EmpiricalRisk(built(chain), uneven(X.flip(0), Y.flip(0), pieces), CE)
    first, second = (top_eigenpairs(risk, whole.point(), 3, "LM", 1e-9) for risk in (whole, split))
    np.testing.assert_allclose(second.eigenvalues, first.eigenvalues, rtol=1e-9)


def test_parameters_that_take_no_part_have_eigenvalue_zero():
    function = Analytic(lambda z: (z[..., :3] ** 4).sum(-1), 50)
    z = torch.ones(50, dtype=torch.float64, device="cpu")
    found = top_eigenpairs(function, z, 4, "LA")
    np.testing.assert_allclose(found.eigenvalues, [12, 12, 12, 0], atol=1e-12)
    nothing = top_eigenpairs(Analytic(lambda z: z.sum(-1), 50), z, 3)
    assert not nothing.eigenvalues.any() and not nothing.bounds.any()
    assert nothing.status == "converged"


@pytest.mark.usefixtures("unchecked")
def test_integer_points_are_refused():
    with pytest.raises(ValueError, match="points must be floating point, got torch.int64"):
        top_eigenpairs(quadratic([1, 2, 3]), torch.ones(3, dtype=torch.int64, device="cpu"), 1)


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
    with pytest.raises(ValueError, match="max_products must be at least 2 k . 1 = 5, got 3"):
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


def test_residuals_in_single_precision_agree_and_say_that_rounding_is_not_measured():
    objective = quadratic(np.array([50.0, -20.0, 9.0, 7.0, *np.linspace(-1, 1, 60)]))
    z = torch.zeros(objective.dim, dtype=torch.float32, device="cpu")
    exact = np.array([50.0, -20.0, 9.0])
    twice = top_eigenpairs(objective, z, 3)
    once = top_eigenpairs(objective, z, 3, double=False)
    assert once.provenance["rounding"].startswith("not measured: bounds in torch.float32")
    assert "not asked for" in once.provenance["rounding"]
    assert once.provenance["rounding_norm"] is None
    assert once.products == twice.products - 1
    assert (np.abs(once.eigenvalues - exact) <= once.bounds + 1e-5 * 50).all()
    assert once.eigenvalues == pytest.approx(twice.eigenvalues, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_images_one_at_a_time_prove_the_same(dtype, monkeypatch):
    objective = quadratic(SPECTRA["outliers"])
    z = normal(objective.dim).to(dtype)
    together = top_eigenpairs(objective, z, 3)
    monkeypatch.setattr(residuals, "_TOGETHER", 0)
    alone = top_eigenpairs(objective, z, 3)
    for name in ("eigenvalues", "residuals", "bounds", "joint_bound"):
        one, other = getattr(alone, name), getattr(together, name)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-15)


def test_the_joint_norm_is_that_of_orthonormal_vectors():
    source = np.random.default_rng(0)
    matrix = source.standard_normal((40, 40))
    matrix += matrix.T
    vectors = np.linalg.eigh(matrix)[1][:, -3:].T + 1e-3 * source.standard_normal((3, 40))
    x, images = torch.tensor(vectors), torch.tensor(vectors @ matrix)
    gram, form, rest, _ = residuals._forms(x, images.__getitem__)
    values = form.diagonal() / gram.diagonal()
    change = np.linalg.inv(np.linalg.cholesky(vectors @ vectors.T))
    q = change @ vectors
    expected = np.linalg.norm(q @ matrix - values.numpy()[:, None] * q, 2)
    assert residuals._joint(gram, form, rest, values) == pytest.approx(expected, rel=1e-6)
