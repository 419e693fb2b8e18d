"""Krylov spaces of matrices: orthogonality, the recurrence, restarts, and what may stay hidden."""

import numpy as np
import pytest
import torch
from objectives import normal, seeded

from landscape.spectrum import krylov as space
from landscape.spectrum.krylov import Basis, Krylov, Pairs, ends
from landscape.spectrum.multiplicity import uncover
from landscape.spectrum.search import Search, look, settled


class Matrix:
    """A dense matrix as an operator."""

    def __init__(self, eigenvalues, dtype=torch.float64, seed=0):
        basis, _ = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))
        values = torch.as_tensor(eigenvalues, dtype=torch.float64, device="cpu")
        self.a = ((basis * values) @ basis.T).to(dtype)
        self.point = self.a[0]
        self.products = 0

    def __matmul__(self, u):
        self.products += 1
        return u @ self.a


OUTLIERS = np.r_[[50, 30, 20, 12, -45, -25, -15, -9], np.linspace(-0.5, 0.5, 92)]


@pytest.mark.parametrize("block", [1, 3, 32])
def test_a_basis_turns_in_place_whatever_its_blocks(block, monkeypatch):
    monkeypatch.setattr(space, "_ROWS", block)
    monkeypatch.setattr(space, "_FEWEST", 1)
    rows = torch.linalg.qr(normal(50, 50))[0][:17]
    basis = Basis(rows[0], 20)
    for row in rows:
        basis.append(row)
    weights = np.linalg.qr(normal(17, 17, seed=1).numpy())[0][:, :6]
    expected = torch.as_tensor(weights.T.copy(), device="cpu") @ rows
    basis.rotate(weights)
    torch.testing.assert_close(basis.rows(), expected)
    vector = normal(50, seed=2)
    coefficients, rest = basis.split(kept := vector.clone())
    np.testing.assert_allclose(coefficients, expected @ vector)
    assert rest == pytest.approx(float(kept.norm()))
    assert float((basis.rows() @ kept).abs().max()) < 1e-14
    basis.append(kept / rest)
    assert (basis.size, len(basis.rows())) == (7, 7)


def test_a_basis_stays_orthogonal_where_a_plain_recurrence_finds_ghosts():
    operator = Matrix(np.r_[[100.0, 60.0], np.linspace(0, 1, 198)], torch.float32)
    krylov = Krylov(operator, 80, seeded(0))
    for _ in range(80):
        krylov.extend()
    assert (abs(krylov.pairs().values) > 10).sum() == 2
    rows = krylov.basis.rows().double()
    np.testing.assert_allclose(rows @ rows.T, np.eye(80), atol=1e-5)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("check", [False, True])
def test_the_projection_and_what_it_leaves_stay_exact_through_restarts(which, check):
    operator = Matrix(OUTLIERS)
    search = Search(operator, 4, which, 1e-6, 1000, seeded(0), room=11)
    look(search)
    if check:
        uncover(search)
    krylov = search.krylov
    assert search.ended == "converged" and krylov.size <= 11 < krylov.products
    _assert_exact(krylov, operator)
    asked = OUTLIERS[ends(OUTLIERS, which, 4)]
    np.testing.assert_allclose(np.diag(krylov.matrix)[:4], asked, atol=1e-6)


def test_a_start_along_a_vector_is_near_it_and_finds_what_it_does_not_touch():
    operator = Matrix(OUTLIERS)
    along = torch.linalg.eigh(operator.a)[1][:, -1]
    search = Search(operator, 3, "LA", 1e-3, 100, seeded(0), start=7 * along)
    look(search)
    np.testing.assert_allclose(np.diag(search.krylov.matrix)[:3], [50, 30, 20], atol=1e-2)
    first = Search(operator, 3, "LA", 1e-3, 1, seeded(0), start=7 * along)
    look(first)
    assert abs(float(first.krylov.basis.rows()[0] @ along)) > 0.98


@pytest.mark.parametrize("start", [0.0, float("nan")])
def test_a_start_without_a_direction_is_a_random_one(start):
    search = Search(Matrix(OUTLIERS), 3, "LA", 1e-3, 100, seeded(0), start=start * normal(100))
    look(search)
    assert search.status == "converged"


def _assert_exact(krylov, operator):
    """The rows are orthonormal, and their products are what the space says they are."""
    rows = krylov.basis.rows().numpy()
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    left = krylov.leaks.T @ torch.stack(krylov.left).numpy()
    np.testing.assert_allclose(rows @ operator.a.numpy(), krylov.matrix @ rows + left, atol=1e-11)


def test_residuals_count_what_an_abandoned_chain_has_left():
    operator = Matrix(OUTLIERS)
    search = Search(operator, 3, "LA", 1e-2, 100, seeded(0))
    look(search)
    krylov = search.krylov
    for _ in range(4):
        krylov.extend()
    found = krylov.pairs()
    vectors = torch.as_tensor(found.coefficients.T.copy(), device="cpu") @ krylov.basis.rows()
    rest = vectors @ operator.a - torch.as_tensor(found.values, device="cpu")[:, None] * vectors
    true = torch.linalg.vector_norm(rest, dim=-1).numpy()
    assert (true <= found.residuals + 1e-12).all()
    assert (true >= 0.3 * found.residuals - 1e-6).all()


@pytest.mark.parametrize("room", [7, 100])
def test_copies_are_uncovered_one_after_another(room):
    eigenvalues = np.r_[np.full(4, 9.0), [5, 4], np.linspace(-1, 1, 94)]
    operator = Matrix(eigenvalues)
    search = Search(operator, 3, "LA", 1e-2, 1000, seeded(0), room=room)
    look(search)
    np.testing.assert_allclose(np.diag(search.krylov.matrix)[:3], [9, 5, 4], atol=0.05)
    before = operator.products
    uncover(search)
    np.testing.assert_allclose(np.diag(search.krylov.matrix)[:3], [9, 9, 9], atol=0.05)
    assert search.hidden == 2
    assert search.checked == operator.products - before > 0
    _assert_exact(search.krylov, operator)


def test_a_check_without_products_says_so():
    search = Search(Matrix(OUTLIERS), 3, "LA", 1e-3, 100, seeded(0))
    look(search)
    search.limit = search.krylov.products
    uncover(search)
    assert (search.hidden, search.checked) == (0, 0)
    assert search.verdict.startswith("stopped after")


def test_guards_must_be_told_apart_from_the_wanted_pairs():
    def pairs(*residuals):
        return Pairs(np.array([0.1, 0.5, 1.0, 4.0]), np.eye(4), np.array(residuals))

    assert settled(pairs(1, 0.04, 0.04, 0.003), 1, "LA", 1e-3)
    assert not settled(pairs(1, 0.04, 0.04, 0.005), 1, "LA", 1e-3)
    assert not settled(pairs(1, 0.04, 0.2, 0.003), 1, "LA", 1e-3)
    assert not settled(pairs(1, 0.2, 0.04, 0.003), 1, "LA", 1e-3)


def test_a_space_that_is_whole_is_the_end():
    search = Search(Matrix([3.0, 1.0]), 1, "LA", 1e-3, 50, seeded(0))
    look(search)
    assert search.status == "converged" and search.krylov.complete and search.krylov.products == 2
    np.testing.assert_allclose(search.pairs.values, [1, 3])
