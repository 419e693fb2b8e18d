"""Gauss-Newton and Fisher matrices, parts of matrices, diagonals and Frobenius norms."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import CE, MASKED, VALUES, X, Y, built, case, chain, normal, padded, seeded, uneven
from torch import nn
from torch.func import functional_call

from landscape.curvature import Hessian
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum, value
from landscape.operators import EmpiricalFisher, Fisher, GaussNewton, Selection, block, blocks
from landscape.operators.blocks import name_of
from landscape.spectrum import density, top_eigenpairs
from landscape.trace import diagonal, finite_scale, frobenius, trace

close = torch.testing.assert_close


def dense(operator):
    return operator @ torch.eye(operator.dim, dtype=operator.point.dtype, device="cpu")


def jacobian(model, z, x):
    """(n, outputs, p), by torch.func and no code of the project."""

    def output(z):
        tensors, start = {}, 0
        for name, parameter in model.named_parameters():
            stop = start + parameter.numel()
            tensors[name] = z[start:stop].reshape(parameter.shape)
            start = stop
        return functional_call(model, tensors, (x,))

    return output(z), torch.func.jacrev(output)(z)


def quadratic(matrix):
    return Analytic(lambda z: 0.5 * ((z @ matrix) * z).sum(-1), dim=len(matrix))


def symmetric(dim, seed=0):
    root = normal(dim, dim, seed=seed)
    return (root + root.T) / 2


def test_gauss_newton_of_cross_entropy_is_the_softmax_covariance_between_jacobians():
    model = built(chain)
    risk = EmpiricalRisk(model, uneven(X, Y), CE)
    z = risk.point() + 0.1 * normal(risk.dim)
    output, slopes = jacobian(model, z, X)
    p = output.softmax(-1)
    middle = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    truth = torch.einsum("ncp,ncd,ndq->pq", slopes, middle, slopes) / len(X)
    operator = GaussNewton(risk, z)
    close(dense(operator), truth)
    assert operator.products == risk.dim and operator.cached
    u = normal(2, 3, risk.dim)
    close(operator.forms(u), ((u @ truth) * u).sum(-1))
    close(dense(Fisher(risk, z, "categorical")), truth)


def test_gauss_newton_of_mean_square_is_the_gaussian_fisher_with_half_the_outputs_as_variance():
    model = built(chain)
    risk = EmpiricalRisk(model, uneven(X, VALUES), F.mse_loss)
    z = risk.point()
    _, slopes = jacobian(model, z, X)
    truth = torch.einsum("ncp,ncq->pq", slopes, slopes) * 2 / (3 * len(X))
    close(dense(GaussNewton(risk, z)), truth)
    close(dense(Fisher(risk, z, "gaussian", variance=1.5)), truth)
    close(dense(Fisher(risk, z, "gaussian")), 1.5 * truth)


def test_gauss_newton_is_the_hessian_of_a_network_without_curvature_whatever_the_loss():
    def loss(output, target):
        return 0.1 * output.exp().mean() - (output.sum(-1) - target).square().mean()

    risk = EmpiricalRisk(built(lambda: nn.Linear(4, 3)), uneven(X, Y), loss)
    z = normal(risk.dim)
    truth = Hessian(risk, z).dense()
    close(dense(GaussNewton(risk, z)), truth)
    assert torch.linalg.eigvalsh(truth)[0] < -0.01


@pytest.mark.parametrize("name", ["attention", "encoder", "lstm", "layer-norm", "convolution"])
def test_gauss_newton_and_fisher_agree_for_cross_entropy_on_every_kind_of_layer(name):
    risk, _, z = case(name, "cpu")
    matrix = dense(GaussNewton(risk, z))
    close(matrix, matrix.T)
    close(matrix, dense(Fisher(risk, z, "categorical")))
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12


def test_recurrent_layers_go_without_the_kernels_that_have_no_second_derivative(monkeypatch):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.last = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x):
            return self.last(self.cells(x.unsqueeze(-1))[0][:, -1])

    seen = []

    def loss(output, target):
        seen.append(torch.backends.cudnn.enabled)
        return CE(output, target)

    risk = EmpiricalRisk(built(Recurrent), (X, Y), loss)
    before = torch.backends.cudnn.enabled
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seen.clear()
    operator = GaussNewton(risk, risk.point(), memory=0)
    operator @ normal(risk.dim)
    operator.forms(normal(risk.dim))
    assert seen == [False] * 3
    assert torch.backends.cudnn.enabled == before


def test_the_ridge_is_part_of_the_gauss_newton_matrix():
    risk, _, z = case("stacked-uneven", "cpu")
    mask = (torch.arange(risk.dim, device="cpu") % 2).double()
    both = dense(GaussNewton(Sum(risk, Ridge(0.3, mask)), z))
    close(both, dense(GaussNewton(risk, z)) + 0.3 * torch.diag(mask))


@pytest.mark.parametrize("weighted", [False, True])
def test_empirical_fisher_is_the_mean_outer_product_of_gradients_of_single_samples(weighted):
    target, loss = (MASKED, padded) if weighted else (Y, CE)
    risk = EmpiricalRisk(built(chain), uneven(X, target), loss)
    z = risk.point()
    truth, weight = torch.zeros(risk.dim, risk.dim, dtype=z.dtype, device="cpu"), 0
    for x, y in zip(X, Y, strict=True) if not weighted else zip(X, MASKED, strict=True):
        if y < 0:
            continue
        leaf = z.clone().requires_grad_()
        one = EmpiricalRisk(built(chain), (x[None], y[None]), CE)
        (grad,) = torch.autograd.grad(next(one.terms())(leaf), leaf)
        truth, weight = truth + torch.outer(grad, grad), weight + 1
    close(dense(EmpiricalFisher(risk, z)), truth / weight)


def test_empirical_fisher_goes_sample_by_sample_where_vmap_cannot_map_the_loss():
    stubborn, _, z = case("stubborn-loss", "cpu")
    plain, _, _ = case("stacked", "cpu")
    close(dense(EmpiricalFisher(stubborn, z)), dense(EmpiricalFisher(plain, z)))


@pytest.mark.parametrize("make", [GaussNewton, EmpiricalFisher])
def test_a_graph_that_is_not_kept_gives_the_same_products(make):
    risk, _, z = case("convolution", "cpu")
    u = normal(2, risk.dim)
    kept, rebuilt = make(risk, z), make(risk, z, memory=0)
    assert kept.cached and not rebuilt.cached
    close(kept @ u, rebuilt @ u)
    assert kept.products == rebuilt.products == 2


@pytest.mark.usefixtures("unchecked")
def test_what_has_no_such_matrix_is_refused():
    risk, _, z = case("stacked", "cpu")
    with pytest.raises(TypeError, match="Gauss-Newton needs the loss of a network .* got Analytic"):
        GaussNewton(himmelblau, normal(2))
    with pytest.raises(TypeError, match="empirical Fisher needs an EmpiricalRisk, got Sum"):
        EmpiricalFisher(Sum(risk, Ridge(1.0, dim=risk.dim)), z)
    with pytest.raises(ValueError, match="one point .61,. is needed"):
        GaussNewton(risk, z[:-1])
    with pytest.raises(ValueError, match="vectors of length 61 are needed"):
        GaussNewton(risk, z) @ z[:-1]
    with pytest.raises(ValueError, match="likelihood must be categorical or gaussian, got 'poisso"):
        Fisher(risk, z, "poisson")
    with pytest.raises(ValueError, match="variance must be positive and finite, got 0"):
        Fisher(risk, z, "gaussian", variance=0.0)
    weighted, _, z = case("stacked-padded", "cpu")
    with pytest.raises(ValueError, match="counts all predictions alike"):
        Fisher(weighted, z, "categorical")
    own, _, z = case("labelled", "cpu")
    for make in (GaussNewton, EmpiricalFisher):
        with pytest.raises(ValueError, match="a scalar among its outputs"):
            make(own, z)


def test_a_loss_that_mixes_samples_has_no_empirical_fisher():
    risk = EmpiricalRisk(built(chain), (X, Y), lambda output, _: output.mean(0).square().sum())
    with pytest.raises(ValueError, match="is not the mean over its samples"):
        EmpiricalFisher(risk, risk.point())


# --------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("2", {"2.0.weight", "2.0.bias"}),
        ("*.bias", {"0.bias", "2.0.bias"}),
        (["0.bias", "3"], {"0.bias", "3.weight"}),
        (lambda entry: entry.role == "bias", {"0.bias", "2.0.bias"}),
    ],
)
@pytest.mark.parametrize("make", [Hessian, GaussNewton])
def test_a_block_is_the_matrix_of_the_parameters_that_are_chosen(where, names, make):
    risk, _, z = case("stacked-uneven", "cpu")
    mask = risk.layout.mask(lambda entry: entry.name in names, "cpu")
    truth = dense(make(risk, z))[mask][:, mask]
    part = block(make(risk, z), where)
    close(dense(part), truth)
    close(part.point, z[mask])
    close(dense(block(make(risk, z), mask)), truth)


def test_a_small_block_of_a_large_matrix_takes_few_whole_vectors_at_a_time(monkeypatch):
    taken = []

    class Wide:
        def __init__(self):
            self.point, self.dim, self.objective = normal(1000), 1000, quadratic(symmetric(1000))

        def __matmul__(self, u):
            taken.append(len(u))
            return 2 * u

    monkeypatch.setattr(blocks, "_NUMBERS", 3000)
    u = normal(2, 4, 5)
    close(block(Wide(), slice(0, 5)) @ u, 2 * u)
    assert taken == [3, 3, 2]
    monkeypatch.setattr(blocks, "_NUMBERS", 10)
    assert (block(Wide(), slice(0, 5)) @ u[:0]).shape == (0, 4, 5)


def test_eigenvalues_of_a_layer_are_those_of_the_objective_of_its_coordinates_alone():
    risk, _, z = case("stacked-uneven", "cpu")
    truth = torch.linalg.eigvalsh(Hessian(risk, z).dense()[:40, :40]).flip(0)[:3].numpy()
    chosen = Selection(risk, z, slice(0, 40))
    close(value(chosen, chosen.start), value(risk, z))
    spectrum = top_eigenpairs(chosen, chosen.start, 3, "LA", 1e-8)
    np.testing.assert_allclose(spectrum.eigenvalues, truth, rtol=1e-7)


def test_a_choice_that_fits_nothing_is_refused():
    risk, _, z = case("stacked", "cpu")
    hessian = Hessian(risk, z)
    with pytest.raises(ValueError, match="no parameter is called 'layer9'; there are"):
        block(hessian, ["0", "layer9"])
    with pytest.raises(ValueError, match="no coordinate is chosen by '5:5'"):
        block(hessian, slice(5, 5))
    with pytest.raises(ValueError, match="a mask must be booleans .61,."):
        block(hessian, z > 0 if risk.dim != 61 else (z > 0)[:-1])
    with pytest.raises(ValueError, match="Analytic has no names of coordinates"):
        block(Hessian(himmelblau, normal(2)), "0")


# --------------------------------------------------------------------------------- entries


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_few_coordinates_have_an_exact_diagonal_and_norm(dtype):
    matrix = symmetric(7)
    objective = quadratic(matrix.to(dtype))
    z = normal(7, dtype=dtype)
    found = diagonal(objective, z)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found.estimate, matrix.diagonal(), atol=tolerance)
    assert found.method == "dense" and found.products == 7 and not found.standard_error.any()
    norm = frobenius(objective, z)
    np.testing.assert_allclose(norm.estimate, torch.linalg.matrix_norm(matrix), rtol=tolerance)
    assert norm.standard_error == 0 and norm.products == 7


def test_estimated_diagonals_are_as_far_off_as_their_standard_errors_say():
    matrix = symmetric(60)
    found = diagonal(quadratic(matrix), normal(60), probes=50)
    assert found.method == "bekas" and found.products == found.probes == 50
    off = (found.estimate - matrix.diagonal().numpy()) / found.standard_error
    # 60 nearly normal numbers of variance 1 (1.04 by Student's law): 4 standard deviations.
    assert abs(np.mean(off**2) - 1.04) < 4 * np.sqrt(2 / 60)
    variance = (matrix.square().sum(0) - matrix.diagonal().square()).numpy() / 50
    np.testing.assert_allclose(found.standard_error**2, variance, rtol=1.0)


def test_the_estimated_squared_norm_has_no_bias_and_the_error_that_it_states():
    matrix = symmetric(40)
    truth = float(matrix.square().sum())
    found = [
        frobenius(quadratic(matrix), normal(40), probes=20, generator=seeded(s)) for s in range(60)
    ]
    off = np.array([(f.square - truth) / f.square_error for f in found])
    assert abs(np.mean([f.square for f in found]) / truth - 1) < 0.02
    assert 0.6 < np.mean(off**2) < 1.8
    one = found[0]
    assert one.estimate == pytest.approx(one.square**0.5) and one.products == 20
    assert one.standard_error == pytest.approx(one.square_error / (2 * one.estimate))


@pytest.mark.parametrize("probes", [10, 32])
def test_the_interval_of_the_norm_covers_it_also_for_few_probes(probes):
    # One eigenvalue far above the others: no squared length of a product is more skewed.
    matrix, runs = symmetric(60) * 1e-3 + 10 * torch.ones(60, 60, dtype=torch.float64), 300
    truth = float(torch.linalg.matrix_norm(matrix))
    found = [
        frobenius(quadratic(matrix), normal(60), probes=probes, generator=seeded(s))
        for s in range(runs)
    ]
    hits = sum(f.interval[0] <= truth <= f.interval[1] for f in found)
    plain = sum(abs(f.estimate - truth) <= 1.96 * f.standard_error for f in found)
    # 0.92 for 10 probes and 0.95 for 32, less four standard deviations of the share of 300 runs.
    assert hits / runs > {10: 0.86, 32: 0.90}[probes]
    assert hits > plain
    exact = frobenius(quadratic(matrix), normal(60))
    np.testing.assert_allclose(exact.interval, [truth, truth])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_points_of_16_bits_are_measured_in_single_precision(dtype):
    risk, _, z = case("stacked-uneven", "cpu")
    z = z.to(dtype)
    for measure in (
        trace, partial(trace, where="0"), diagonal, partial(frobenius, probes=3),
        partial(density, steps=5, probes=2), partial(finite_scale, scales=(0.5,)),
    ):  # fmt: skip
        found, single = measure(risk, z), measure(risk, z.float())
        assert found.provenance["arithmetic"] == f"float32 (the point is {str(dtype)[6:]})"
        assert single.provenance["arithmetic"] == "float32"
        name = "density" if hasattr(found, "density") else "estimate"
        np.testing.assert_array_equal(getattr(found, name), getattr(single, name))


def test_infinite_curvature_has_no_error_and_warns_of_nothing():
    steep = Analytic(lambda z: (z**2).sum(-1) * float("inf"), 60)
    for found in (
        trace(steep, normal(60)),
        frobenius(steep, normal(60), probes=10),
        diagonal(steep, normal(60), probes=10),
        finite_scale(steep, normal(60), (1.0,)),
    ):
        assert not np.isfinite(found.estimate).any()
        assert np.isnan(found.standard_error).all()


def test_factors_are_multiplied_in_inference_mode_too():
    risk, _, z = case("stacked-uneven", "cpu")
    u = normal(2, risk.dim)
    both = Sum(risk, Ridge(0.3, dim=risk.dim))
    expected = GaussNewton(both, z) @ u, GaussNewton(both, z).forms(u)
    with torch.inference_mode():
        operator = GaussNewton(both, z.clone())
        found = operator @ u, operator.forms(u)
    close(found, expected)


@pytest.mark.parametrize("where", [None, slice(3, 40)])
def test_a_matrix_of_ones_own_needs_no_more_than_products(where):
    class Scaled:
        def __init__(self, objective, z):
            self.objective, self.point, self.dim, self.products = objective, z, len(z), 0

        def __matmul__(self, u):
            self.products += u.shape[:-1].numel()
            return u * torch.arange(self.dim, dtype=u.dtype, device="cpu")

    objective, z = quadratic(symmetric(50)), normal(50)
    found = top_eigenpairs(objective, z, 2, operator=Scaled, where=where)
    top = 49 if where is None else 39
    np.testing.assert_allclose(found.eigenvalues, [top, top - 1], rtol=1e-3)
    assert found.operator == "Scaled" and "graph_bytes" not in found.provenance
    spread = density(objective, z, operator=Scaled, where=where, probes=2)
    assert spread.nodes.max() == pytest.approx(top) and spread.products == 2 * spread.steps
    whole = top_eigenpairs(objective, z, 2, where=where)
    assert whole.provenance["graph_cached"] and whole.provenance["graph_bytes"] > 0


def test_diagonals_and_norms_of_a_layer_and_of_other_matrices():
    risk, _, z = case("stacked-uneven", "cpu")
    matrix = dense(GaussNewton(risk, z))
    mask = risk.layout.mask(lambda entry: entry.name.startswith("2."), "cpu")
    found = diagonal(risk, z, where="2", operator=GaussNewton)
    np.testing.assert_allclose(found.estimate, matrix.diagonal()[mask], atol=1e-14)
    assert (found.operator, found.where) == ("Gauss-Newton", "2")
    fisher = partial(Fisher, likelihood="categorical")
    norm = frobenius(risk, z, where="2", operator=fisher)
    assert norm.estimate == pytest.approx(float(torch.linalg.matrix_norm(matrix[mask][:, mask])))
    assert norm.operator == "Fisher (categorical)"
    assert name_of(Hessian(risk, z)) == "Hessian"


def test_a_single_probe_has_no_error_and_is_refused():
    for measure in (diagonal, frobenius):
        with pytest.raises(ValueError, match="probes must be at least 2, got 1"):
            measure(himmelblau, normal(2), probes=1)


MATRICES = {
    "Hessian": Hessian,
    "Gauss-Newton": GaussNewton,
    "empirical Fisher": EmpiricalFisher,
    "Fisher (categorical)": partial(Fisher, likelihood="categorical"),
}


@pytest.mark.parametrize("where", [None, "2", lambda entry: entry.role == "linear"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_eigenvalues_of_every_matrix_and_of_its_blocks_are_those_of_the_dense_one(
    name, dtype, where
):
    risk, _, z = case("stacked-uneven", "cpu")
    make = MATRICES[name]
    whole = dense(make(risk, z))
    index = torch.arange(risk.dim, device="cpu")
    if where is not None:
        index = block(Hessian(risk, z), where).index
    truth = torch.linalg.eigvalsh(whole[index][:, index]).numpy()
    truth = truth[np.argsort(-np.abs(truth))][:3]
    found = top_eigenpairs(risk, z.to(dtype), 3, tolerance=1e-6, operator=make, where=where)
    rounding = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found.eigenvalues, truth, rtol=1e-5, atol=rounding)
    assert (found.operator, found.dim) == (name, len(index))
    assert (found.where == "") == (where is None)
    outside = np.setdiff1d(np.arange(risk.dim), index.numpy())
    assert found.vectors.shape == (3, risk.dim) and not found.vectors[:, outside].any()
    images = found.vectors.astype(float) @ whole.numpy()
    rest = images[:, index] - found.eigenvalues[:, None] * found.vectors[:, index]
    assert (np.linalg.norm(rest, axis=1) <= found.bounds + 10 * rounding).all()


@pytest.mark.parametrize("where", [None, "0"])
@pytest.mark.parametrize("name", MATRICES)
def test_the_density_of_every_matrix_has_the_moments_of_its_eigenvalues(name, where):
    risk, _, z = case("stacked-uneven", "cpu")
    make = MATRICES[name]
    whole = dense(make(risk, z))
    index = torch.arange(risk.dim, device="cpu")
    if where is not None:
        index = block(Hessian(risk, z), where).index
    truth = torch.linalg.eigvalsh(whole[index][:, index]).numpy()
    found = density(risk, z, steps=20, probes=40, operator=make, where=where)
    assert (found.operator, found.where, found.dim) == (name, where or "", len(index))
    # The rule of each probe is exact for polynomials up to degree 39.
    moments = [(found.weights * found.nodes**power).sum(1) for power in (1, 2)]
    for power, samples in enumerate(moments, start=1):
        error = samples.std(ddof=1) / len(samples) ** 0.5
        assert abs(samples.mean() - (truth**power).mean()) < 5 * error


def test_a_block_has_no_more_eigenvalues_than_coordinates_and_names_what_is_unknown():
    risk, _, z = case("stacked-uneven", "cpu")
    few = len(block(Hessian(risk, z), "0.bias").index)
    assert len(top_eigenpairs(risk, z, few, where="0.bias").eigenvalues) == few
    with pytest.raises(ValueError, match=f"k must be from 1 to the number of parameters {few}"):
        top_eigenpairs(risk, z, few + 1, where="0.bias")
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        top_eigenpairs(risk, z, 1, where="head")
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        density(risk, z, where="head")
    with pytest.raises(TypeError, match="Gauss-Newton"):
        top_eigenpairs(himmelblau, torch.zeros(2, dtype=torch.float64, device="cpu"), 1,
                       operator=GaussNewton)  # fmt: skip
