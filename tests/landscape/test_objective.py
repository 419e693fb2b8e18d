"""`value`, `value_and_grad` and `hvp` of every objective against dense float64 autograd."""

import pytest
import torch
from objectives import NAMES, RISKS, Coin, X, Y, built, chain, normal, seeded
from objectives import case as made
from torch.nn.functional import cross_entropy

from landscape.curvature import Hessian
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import (
    Analytic,
    Derived,
    Objective,
    Ridge,
    Sum,
    batched_terms,
    check_deterministic,
    hvp,
    judged,
    value,
    value_and_grad,
)
from landscape.restriction import Restriction

# One of each kind, for what does not depend on the formula.
KINDS = ("himmelblau", "minimal", "ridge", "stacked-padded", "vmapped", "sequential", "named",
         "batch-norm-frozen", "encoder", "lstm", "sum", "twice-restricted")  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)

close = torch.testing.assert_close
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def around(point, *lead, seed=0):
    """Points (*lead, p) near one point."""
    return point + 0.2 * normal(*lead, len(point), seed=seed).to(point)


def each(function, points):
    """A function of one point at every point of (..., p)."""
    rows = [function(row) for row in points.reshape(-1, points.shape[-1])]
    return torch.stack(rows).reshape((*points.shape[:-1], *rows[0].shape))


def gradient(function, point):
    leaf = point.clone().requires_grad_()
    found = function(leaf)
    if not found.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(found, leaf, materialize_grads=True)[0]


def test_every_objective_is_one(case):
    objective, _, point = case
    assert isinstance(objective, Objective)
    assert objective.dim == len(point)


def test_values_and_gradients_equal_the_truth_for_any_leading_axes(case):
    objective, truth, point = case
    for lead in ((), (1,), (2, 2)):
        z = around(point, *lead, seed=len(lead))
        values, gradients = value_and_grad(objective, z)
        close(value(objective, z), each(truth, z), **CLOSE)
        close(values, each(truth, z), **CLOSE)
        close(gradients, each(lambda row: gradient(truth, row), z), **CLOSE)


def test_products_with_the_hessian_equal_those_with_the_dense_one(case, hessian):
    objective, _, point = case
    u = around(torch.zeros_like(point), 3)
    close(hvp(objective, point, u), u @ hessian, **CLOSE)
    close(hvp(objective, point, u[0]), hessian @ u[0], **CLOSE)


def test_the_kept_graph_gives_the_same_products_and_the_whole_matrix(case, hessian):
    objective, _, point = case
    kept, rebuilt = Hessian(objective, point), Hessian(objective, point, memory=0)
    close(kept.dense(), hessian, **CLOSE)
    u = around(torch.zeros_like(point), 2)
    close(kept @ u, u @ hessian, **CLOSE)
    close(rebuilt @ u, u @ hessian, **CLOSE)
    close(kept @ u[0], hessian @ u[0], **CLOSE)
    assert kept.products == len(point) + 3


@every_kind
def test_products_at_several_points_with_several_vectors_are_broadcast(kind):
    objective, _, point = made(kind)
    z, u = around(point, 2, 1), around(torch.zeros_like(point), 3)
    found = hvp(objective, z, u)
    assert found.shape == (2, 3, len(point))
    for i in range(2):
        for j in range(3):
            close(found[i, j], hvp(objective, z[i, 0], u[j]), **CLOSE)


@every_kind
def test_the_chunk_does_not_change_the_answer(kind):
    objective, _, point = made(kind)
    z, u = around(point, 5), around(torch.zeros_like(point), 5)
    expected = value(objective, z), value_and_grad(objective, z), hvp(objective, z, u)
    for chunk in (1, 2, 100):
        how = {"chunk": chunk}
        found = value(objective, z, **how), value_and_grad(objective, z, **how)
        close((*found, hvp(objective, z, u, **how)), expected, **CLOSE)


def test_a_chunk_bounds_the_points_that_are_evaluated_together():
    seen = []

    def formula(z):
        seen.append(len(z))
        return (z**2).sum(-1)

    value(Analytic(formula, 2), normal(7, 2), chunk=3)
    assert seen == [3, 3, 1]


@pytest.mark.parametrize("own", [n for n in NAMES if n not in {*RISKS, "minimal", "ridge"}])
def test_an_objectives_own_gradient_equals_autograd_on_its_terms(own):
    objective, _, point = made(own)
    z = around(point, 3)
    values, gradients = objective.value_and_grad(z)
    for i, row in enumerate(z):
        leaf = row.clone().requires_grad_()
        total = sum(term(leaf) for term in objective.terms())
        close(values[i], total.detach(), **CLOSE)
        close(gradients[i], gradient(lambda v: sum(t(v) for t in objective.terms()), row), **CLOSE)


def test_terms_over_many_points_sum_to_the_terms_over_one(name):
    objective, _, point = made(name)
    z = around(point, 2)
    together = sum(term(z) for term in batched_terms(objective))
    alone = [sum(term(row) for term in objective.terms()) for row in z]
    close(together.detach(), torch.stack(alone).detach(), **CLOSE)


@pytest.mark.parametrize("flat", ["linear", "constant", "independent", "accuracy"])
def test_what_has_no_curvature_has_zero_products(flat):
    objective, _, point = made(flat)
    u = around(point, 2)
    assert not hvp(objective, point, u).any()
    assert not (Hessian(objective, point) @ u).any()


@every_kind
def test_no_point_gives_no_value(kind):
    objective, _, point = made(kind)
    none = point.new_empty(2, 0, objective.dim)
    values, gradients = value_and_grad(objective, none)
    assert value(objective, none).shape == values.shape == (2, 0)
    assert gradients.shape == hvp(objective, none, point).shape == (2, 0, objective.dim)
    assert (Hessian(objective, point) @ none).shape == (2, 0, objective.dim)


@every_kind
def test_points_may_be_strided_expanded_or_part_of_a_graph(kind):
    objective, _, point = made(kind)
    z = around(point, 3)
    values, gradients = value_and_grad(objective, z)
    strided = torch.stack([z, z], dim=-1)[..., 0]
    assert not strided.is_contiguous() or len(point) == 1
    asking = z.clone().requires_grad_()
    for other in (strided, asking, asking * 1):
        close(value(objective, other), values, **CLOSE)
        found = value_and_grad(objective, other)
        close(found[1], gradients, **CLOSE)
        product = hvp(objective, other, other)
        close(product, hvp(objective, z, z), **CLOSE)
        assert not (found[0].requires_grad or found[1].requires_grad or product.requires_grad)
    assert asking.grad is None
    expanded = point.expand(3, -1)
    close(value_and_grad(objective, expanded)[1], value_and_grad(objective, point)[1].expand(3, -1))


@every_kind
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(kind, mode):
    objective, _, point = made(kind)
    u = around(torch.zeros_like(point))
    expected = value_and_grad(objective, point), hvp(objective, point, u)
    with mode():
        inside = point * 1
        found = value_and_grad(objective, inside), hvp(objective, inside, u)
        product = Hessian(objective, inside) @ u
        assert value(objective, inside) == found[0][0]
    close(found, expected, **CLOSE)
    close(product, expected[1], **CLOSE)
    close(value_and_grad(objective, inside), expected[0], **CLOSE)


def test_an_objective_first_used_in_inference_mode_can_be_differentiated_later():
    with torch.inference_mode():
        x, y = normal(6, 4) * 1, torch.tensor([0, 1, 2, 0, 1, 2], device="cpu")
        risk = EmpiricalRisk(chain().double(), (x, y), cross_entropy)
        ridge = Ridge(1.0, torch.ones(risk.dim, device="cpu", dtype=torch.float64))
        z = risk.point() * 1
        restricted = Restriction(Sum(risk, ridge), z, z + 1)
        value(restricted, torch.zeros(1, dtype=torch.float64, device="cpu"))
    t, step = torch.zeros(1, dtype=torch.float64, device="cpu"), 1e-6
    _, (slope,) = value_and_grad(restricted, t)
    difference = value(restricted, t + step) - value(restricted, t - step)
    close(slope, difference / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_answer_has_the_type_of_the_points(dtype):
    for name in ("himmelblau", "stacked", "named"):
        objective, _, point = made(name)
        z = point.to(dtype)
        exact = value_and_grad(objective, z.double())
        values, gradients = value_and_grad(objective, z)
        assert values.dtype == gradients.dtype == value(objective, z).dtype == dtype
        tolerance = 60 * torch.finfo(dtype).eps
        close(values.double(), exact[0], rtol=tolerance, atol=tolerance)
        close(gradients.double(), exact[1], rtol=tolerance, atol=tolerance * exact[1].abs().max())


@pytest.mark.usefixtures("unchecked")
def test_points_of_another_length_or_type_are_refused():
    z = normal(3)
    for function in (value, value_and_grad):
        with pytest.raises(ValueError, match=r"points of length 2 .* got shape \(3,\)"):
            function(himmelblau, z)
        with pytest.raises(ValueError, match="floating point, got torch.int64"):
            function(himmelblau, torch.tensor([1, 2], device="cpu"))
        with pytest.raises(ValueError, match=r"points of length 2 .* got shape \(\)"):
            function(himmelblau, z[0])
        with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
            function(himmelblau, z[:2], chunk=0)
    for point, probe in ((z[:2], z[:1]), (z[:1], z[:2]), (z[:2], z)):
        with pytest.raises(ValueError, match="points of length 2"):
            hvp(himmelblau, point, probe)


@pytest.mark.usefixtures("unchecked")
def test_the_hessian_takes_one_point_and_vectors_of_its_length():
    with pytest.raises(ValueError, match=r"one point \(2,\) is needed, got shape \(3, 2\)"):
        Hessian(himmelblau, normal(3, 2))
    with pytest.raises(ValueError, match=r"vectors of length 2 are needed, got \(3,\)"):
        Hessian(himmelblau, normal(2)) @ normal(3)


def test_an_objective_without_terms_is_refused():
    class Nothing:
        dim = 2

        def terms(self):
            return iter(())

    for function in (value, value_and_grad):
        with pytest.raises(ValueError, match="Nothing has no terms"):
            function(Nothing(), normal(2))


def test_a_ridge_and_a_sum_say_what_they_need():
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        Ridge(-1.0, dim=2)
    with pytest.raises(ValueError, match="weight must be at least 0, got nan"):
        Ridge(float("nan"), dim=2)
    with pytest.raises(ValueError, match="needs a mask, or dim"):
        Ridge(1.0)
    with pytest.raises(ValueError, match="dim is 3 but mask has 2"):
        Ridge(1.0, torch.ones(2, device="cpu"), dim=3)
    with pytest.raises(ValueError, match=r"one length are needed, got lengths \[2, 3\]"):
        Sum(himmelblau, Ridge(1.0, dim=3))
    with pytest.raises(ValueError, match=r"lengths \[\]"):
        Sum()


def test_a_sum_without_mini_batches_is_its_own_only_one():
    total = Sum(himmelblau, Ridge(1.0, dim=2))
    assert list(total.minibatches(3, seeded(0), epochs=2)) == [total, total]


@pytest.mark.parametrize(
    ("origin", "basis"), [((3,), (1, 2)), ((2,), (1, 3)), ((2,), (1, 1, 2)), ((1, 2), (2, 2))]
)
def test_a_restriction_refuses_shapes_that_do_not_fit(origin, basis):
    with pytest.raises(ValueError, match=r"origin must be \(2,\) and basis \(k, 2\)"):
        Restriction(himmelblau, normal(*origin), normal(*basis))


@pytest.mark.parametrize("first", [True, False])
def test_a_sum_in_mini_batches_keeps_its_other_parts_whole(first):
    risk, truth, point = made("stacked")
    ridge = Ridge(0.5, dim=risk.dim)
    total = Sum(risk, ridge) if first else Sum(ridge, risk)
    batches = list(total.minibatches(5, seeded(0), epochs=1))
    gradients = [value_and_grad(batch, point)[1] for batch in batches]
    expected = gradient(truth, point) + 0.5 * point
    close(torch.stack(gradients).mean(0), expected, **CLOSE)
    assert total.layout is risk.layout
    assert total.chunk == risk.chunk


def test_a_random_formula_is_noticed_and_the_random_state_left_alone():
    noisy = Analytic(lambda z: z.sum(-1) + torch.rand((), device=z.device), 2)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="unknown: two evaluations gave"):
        check_deterministic(noisy, normal(2))
    check_deterministic(himmelblau, normal(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_draws_random_numbers_is_named_wherever_it_hides():
    x, y = normal(6, 4, dtype=torch.float32), torch.zeros(6, dtype=torch.int64, device="cpu")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Coin())
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    hidden = Restriction(Sum(Ridge(1.0, dim=risk.dim), risk), risk.point(), risk.point())
    with pytest.raises(RuntimeError, match=r"found 1 \(Coin draws random numbers\)"):
        check_deterministic(hidden, torch.zeros(1, device="cpu"))
    check_deterministic(risk.seeded(0), risk.point())


def test_a_value_that_is_not_a_number_is_not_taken_for_random():
    check_deterministic(Analytic(lambda z: z.sum(-1) * float("nan"), 2), normal(2))


class Doubled(Derived):
    """A wrapper that says nothing but where its part's coordinates lie."""

    def __init__(self, part):
        self.parts, self.dim = (part,), part.dim

    def inside(self, z):
        return 2 * z


def test_a_wrapper_of_ones_own_is_differentiated_measured_and_judged_where_its_part_lies():
    risk = EmpiricalRisk(built(chain), (X, Y), cross_entropy)
    z = risk.point()
    wrapped = Doubled(risk)
    assert wrapped.layout is risk.layout and wrapped.chunk == risk.chunk
    torch.testing.assert_close(value(wrapped, z / 2), value(risk, z))
    expected = value_and_grad(risk, z)[1]
    torch.testing.assert_close(value_and_grad(wrapped, z / 2)[1], 2 * expected)
    u = normal(risk.dim)
    torch.testing.assert_close(hvp(wrapped, z / 2, u), 4 * hvp(risk, z, u))
    check_deterministic(wrapped, z / 2)
    assert judged(wrapped, z / 2) == judged(risk, z)
