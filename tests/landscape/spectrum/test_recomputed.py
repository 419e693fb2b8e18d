"""Lanczos in two passes, without a basis: the same pairs, and no copy taken for an eigenvalue."""

import numpy as np
import pytest
import torch
from objectives import built, chain, normal
from runs import annotations_unchecked
from torch import nn
from torch.utils.checkpoint import checkpoint

from landscape.curvature import Hessian
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, hvp
from landscape.spectrum import top_eigenpairs
from landscape.spectrum.krylov import Krylov, Pairs
from landscape.spectrum.recomputed import Recomputed, originals

SPECTRA = {
    "outliers": lambda r, n: np.concatenate([r.uniform(1, 20, 5), r.normal(0, 0.1, n - 5)]),
    # The largest is known to rounding long before the fifth is known at all.
    "decades": lambda r, n: np.concatenate([10.0 ** np.arange(5, 0, -1), r.normal(0, 0.1, n - 5)]),
    "tied": lambda r, n: np.concatenate([[2, 2, 2, 1, 1], r.uniform(0, 0.5, n - 5)]),
    "clustered": lambda r, n: np.concatenate(
        [1 + 1e-4 * r.normal(size=6), r.uniform(0, 0.5, n - 6)]
    ),
}  # fmt: skip


def quadratic(values, seed):
    """A function with these eigenvalues, and the matrix."""
    n = len(values)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    a = torch.as_tensor((turn * values) @ turn.T, device="cpu")
    a = (a + a.T) / 2
    return Analytic(lambda z: 0.5 * ((z @ a.to(z)) * z).sum(-1), n), a


def pair(kind, dtype, k, which="LA", size=80, seed=1, **options):
    """What two passes find, and the true eigenvalues from the largest."""
    f, a = quadratic(SPECTRA[kind](np.random.default_rng(seed), size), seed)
    z = torch.zeros(size, dtype=dtype, device="cpu")
    options = {"basis": "recomputed", "max_products": 1500} | options
    return top_eigenpairs(f, z, k, which, **options), np.linalg.eigvalsh(a.numpy())[::-1]


def network():
    """A small network on a few samples, and its point."""
    target = torch.arange(12, device="cpu") % 3
    risk = EmpiricalRisk(built(chain), (normal(12, 4, seed=1), target), nn.functional.cross_entropy)
    return risk, risk.point()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SPECTRA)
def test_what_converged_is_the_i_th_eigenvalue_with_its_multiplicity(kind, dtype):
    found, true = pair(kind, dtype, 5)
    assert found.status == "converged", found.status
    assert (np.abs(found.eigenvalues - true[:5]) <= found.bounds + 2e-3 * true[0]).all()
    nearest = np.abs(true[:, None] - found.eigenvalues).min(0)
    assert (nearest <= found.bounds).all()
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(5), atol=2e-3)


def test_bounds_are_true_residuals_of_the_vectors_that_are_handed_over():
    f, a = quadratic(SPECTRA["decades"](np.random.default_rng(3), 60), 3)
    z = torch.zeros(60, dtype=torch.float64, device="cpu")
    found = top_eigenpairs(f, z, 4, basis="recomputed", max_products=30)
    rest = found.vectors @ a.numpy() - found.eigenvalues[:, None] * found.vectors
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), found.residuals, atol=1e-9 * 1e5)
    assert (found.converged == (found.residuals <= 1e-3 * 1e5 + 1e-6)).all()


def test_too_few_products_are_said_and_are_not_exceeded():
    found, _ = pair("outliers", torch.float32, 2, max_products=14)
    assert "stopped after" in found.status
    assert found.products + found.check_products <= 14


def test_the_second_pass_has_the_vectors_of_the_first_to_the_bit_and_says_what_it_cost():
    risk, z = network()
    seen, again = [], []
    operator = Hessian(risk, z)
    krylov = Krylov(operator, 2, torch.Generator("cpu").manual_seed(0), basis=Recomputed(operator))
    for _ in range(7):
        krylov.extend()
        seen.append(krylov.basis._recent[-1].clone())
    append = krylov.basis.append
    krylov.basis.append = lambda vector: (again.append(vector.clone()), append(vector))
    krylov.basis.rotate(np.eye(7)[:, :2])
    assert len(again) == 7 and all(map(torch.equal, seen, again))
    assert (krylov.basis.products, krylov.products, operator.products) == (6, 13, 13)
    torch.testing.assert_close(krylov.basis.rows(), torch.stack(seen[:2]), rtol=0, atol=1e-5)


def test_three_vectors_are_held_beside_those_that_are_found():
    f, _ = quadratic(np.arange(1.0, 61.0), 0)
    z = torch.zeros(60, dtype=torch.float64, device="cpu")
    operator = Hessian(f, z)
    krylov = Krylov(operator, 2, torch.Generator("cpu").manual_seed(0), basis=Recomputed(operator))
    for _ in range(25):
        krylov.extend()
    assert len(krylov.basis._recent) == 2 and len(krylov.basis.rows()) == 0


def test_copies_are_told_from_neighbours_by_their_residuals():
    values = np.array([0.5, 0.9, 0.9 + 1e-9, 1.0])
    coefficients = np.array([[0.3, 1e-9, 0.2, 0.5]] * 4)
    residuals = np.array([0.2, 1e-8, 1e-8, 1e-9])
    found = originals(Pairs(values, coefficients, residuals), 1e-3, 2.0**-52)
    np.testing.assert_array_equal(found.values, values[[0, 2, 3]])


def test_a_space_that_closes_is_not_gone_on_from():
    f, _ = quadratic(np.repeat([3.0, 1.0], 30), 0)
    z = torch.zeros(60, dtype=torch.float64, device="cpu")
    found = top_eigenpairs(f, z, 3, basis="recomputed", check=False)
    assert found.status.startswith("not converged: stopped: the space closed after 2 products")
    assert found.converged.sum() == 2
    for value, bound in zip(found.eigenvalues, found.bounds, strict=True):
        assert min(abs(value - 3), abs(value - 1)) <= bound + 1e-12


def test_a_network_has_the_pairs_of_a_basis_that_is_kept():
    risk, z = network()
    kept = top_eigenpairs(risk, z, 3, tolerance=1e-5)
    found = top_eigenpairs(risk, z, 3, tolerance=1e-5, basis="recomputed", max_products=400)
    np.testing.assert_allclose(found.eigenvalues, kept.eigenvalues, rtol=1e-5)
    assert found.provenance["basis"].startswith("recomputed: two passes, ")
    assert found.products > kept.products and "basis" not in kept.provenance


def test_only_what_there_is_can_be_asked_for():
    with (
        annotations_unchecked(),
        pytest.raises(ValueError, match="basis must be kept or recomputed, got 'none'"),
    ):
        pair("tied", torch.float64, 1, basis="none")


class Block(nn.Module):
    """Attention and a layer, recomputed in the backward pass where wanted."""

    def __init__(self, recompute):
        super().__init__()
        self.recompute = recompute
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def inner(self, h):
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return h + self.narrow(nn.functional.gelu(self.wide(h)))

    def forward(self, h):
        return checkpoint(self.inner, h, use_reentrant=False) if self.recompute else self.inner(h)


def language(recompute, batches):
    """Next words by a small transformer with tied embeddings, on as many batches."""

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(11, 8)
            self.blocks = nn.Sequential(Block(recompute), Block(recompute))

        def forward(self, words):
            return self.blocks(self.words(words)) @ self.words.weight.T

    generator = torch.Generator("cpu").manual_seed(0)
    model = Language().double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4, generator=generator)
    words = torch.randint(11, (8, 6), generator=generator)
    data = [(w[:, :-1], w[:, 1:]) for w in words.split(8 // batches)]

    def loss(output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    return EmpiricalRisk(model, data, loss)


def test_recomputed_activations_and_micro_batches_change_no_product():
    plain = language(False, 1)
    z = plain.point()
    u = torch.randn(z.shape, generator=torch.Generator("cpu").manual_seed(1), dtype=z.dtype)
    expected = Hessian(plain, z) @ u
    for recompute, batches, memory in ((True, 1, 2**31), (False, 4, 2**31), (True, 4, 0)):
        other = Hessian(language(recompute, batches), z, memory=memory)
        torch.testing.assert_close(other @ u, expected, rtol=1e-9, atol=1e-11)
    step = 1e-6
    ends = [plain_gradient(plain, z + s * u) for s in (step, -step)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hvp(plain, z, u), expected, rtol=1e-9, atol=1e-11)


def plain_gradient(risk, z):
    """By autograd alone."""
    leaf = z.clone().requires_grad_()
    total = sum(term(leaf) for term in risk.terms())
    return torch.autograd.grad(total, leaf)[0]
