"""Limited-memory BFGS of a population against torch.optim.LBFGS, member by member."""

import math
from functools import cache

import populations
import pytest
import torch
from populations import Counting, risk, seeded, start

from cnognp import METHODS
from cnognp.methods.quasi_newton import LBFGS
from landscape.functions import f1, himmelblau, six_hump_camel, two_wells
from landscape.objective import Analytic, value, value_and_grad


def searched(objective, row, steps, lr, **options):
    """The ends of ``steps`` searches by torch from a fresh memory, none of them cut short."""
    x = row.clone().requires_grad_()
    ends = []
    for _ in range(steps):
        optimiser = torch.optim.LBFGS(
            [x], lr=lr, tolerance_grad=0.0, tolerance_change=0.0, max_eval=10**6, **options
        )

        def closure(optimiser=optimiser):
            optimiser.zero_grad()
            total = sum(term(x) for term in objective.terms())
            total.backward()
            return total.detach()

        optimiser.step(closure)
        ends.append(x.detach().clone())
    return torch.stack(ends)


@cache
def quadratic():
    """Curvatures from 1 to 100 in mixed directions, minimum 0 at (1, ..., 1)."""
    source = seeded(8)
    mixed = torch.randn((6, 6), generator=source, dtype=torch.float64, device="cpu")
    axes, _ = torch.linalg.qr(mixed)
    curvature = torch.logspace(0, 2, 6, dtype=torch.float64, device="cpu")
    matrix = axes @ torch.diag(curvature) @ axes.T
    return Analytic(lambda z: (((z - 1) @ matrix) * (z - 1)).sum(-1) / 2, dim=6)


SEARCHED = {
    "quadratic": quadratic,
    "himmelblau": lambda: himmelblau,
    "six-hump-camel": lambda: six_hump_camel,
    "two-wells": lambda: two_wells,
    "network": risk,
}


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("lr", [0.1, 1.0])
def test_every_member_searches_as_torch_does(name, lr):
    objective = SEARCHED[name]()
    z = start(objective, members=5)
    states = populations.states(LBFGS(lr=lr, iterations=5), objective, z, 4)
    ours = torch.stack([state.position for state in states], dim=1)
    for found, row in zip(ours, z, strict=True):
        theirs = searched(objective, row, 4, lr, max_iter=5)
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("iterations, history", [(1, 10), (2, 1), (12, 1), (12, 3), (12, 100)])
def test_the_memory_holds_as_many_pairs_as_it_is_told_to(iterations, history):
    method = LBFGS(lr=0.3, iterations=iterations, history=history)
    z = start(quadratic(), members=3)
    ours = populations.last(method, quadratic(), z, 2).position
    for found, row in zip(ours, z, strict=True):
        theirs = searched(
            quadratic(), row, 2, 0.3, max_iter=iterations, history_size=history
        )  # fmt: skip
        torch.testing.assert_close(found, theirs[-1], rtol=0, atol=1e-9)


def test_the_first_step_is_along_the_gradient_and_no_longer_than_the_rate():
    z = start(himmelblau, members=5)
    _, grad = value_and_grad(himmelblau, z)
    moved = populations.last(LBFGS(lr=0.2, iterations=1), himmelblau, z, 1).position
    sums = grad.abs().sum(-1, keepdim=True)
    assert (sums > 1).all()
    torch.testing.assert_close(moved, z - 0.2 * grad / sums, rtol=0, atol=1e-15)
    flat = Analytic(lambda z: 1e-3 * (z * z).sum(-1), dim=2)
    z = start(flat)
    moved = populations.last(LBFGS(lr=0.2, iterations=1), flat, z, 1).position
    torch.testing.assert_close(moved, z * (1 - 0.2 * 2e-3), rtol=0, atol=1e-15)


def test_it_solves_an_ill_conditioned_quadratic_that_gradient_descent_does_not():
    z = start(quadratic())
    end = populations.last(LBFGS(lr=1.0, iterations=40, history=40), quadratic(), z, 1).position
    assert value(quadratic(), end).max() < 1e-14
    torch.testing.assert_close(end, torch.ones_like(end), rtol=0, atol=1e-6)
    plain = populations.last(METHODS["gd"](lr=0.019), quadratic(), z, 40).position
    assert value(quadratic(), plain).min() > 1e-3


def test_a_member_where_the_function_curves_down_changes_nothing_for_the_others():
    # At x near 1.2 the pairs of f1 have negative curvature and are skipped for that member alone.
    z = torch.tensor([[1.2], [1.4], [1.5], [0.9], [-1.4]], dtype=torch.float64, device="cpu")
    method = LBFGS(lr=0.02, iterations=5)
    together = populations.last(method, f1(), z, 3).position
    for row, end in zip(z, together, strict=True):
        alone = populations.last(method, f1(), row[None], 3).position[0]
        torch.testing.assert_close(end, alone, rtol=0, atol=1e-13)
        theirs = searched(f1(), row, 3, 0.02, max_iter=5)[-1]
        torch.testing.assert_close(end, theirs, rtol=0, atol=1e-10)
    _, slopes = value_and_grad(f1(), torch.stack([z[0], z[0] + 0.01]))
    assert slopes[1] < slopes[0]


def test_a_member_at_rest_stays_there():
    minima = torch.tensor([[1.0] * 6], dtype=torch.float64, device="cpu")
    for lr in (0.1, 1.0):
        end = populations.last(LBFGS(lr=lr), quadratic(), minima, 3).position
        assert torch.equal(end, minima)


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_a_search_evaluates_once_per_iteration(iterations):
    objective, method = Counting(himmelblau), LBFGS(iterations=iterations)
    z = start(himmelblau, members=4)
    _, info = method.step(objective, method.init(objective, z), seeded(0))
    assert (objective.values, objective.gradients) == (0, 4 * iterations)
    assert info.evaluations == iterations
    assert torch.equal(info.position, z)
    assert torch.equal(info.loss, value(himmelblau, z))


def test_the_hybrid_swarm_is_searches_and_pulls():
    method = METHODS["pso-bfgs"](lr=0.2, search_iterations=5, cognitive=0.0, social=0.0)
    z = start(quadratic(), members=3)
    ours = populations.last(method, quadratic(), z, 3)
    for end, best, row in zip(ours.position, ours.best, z, strict=True):
        theirs = searched(quadratic(), row, 3, 0.2, max_iter=5)
        torch.testing.assert_close(end, theirs[-1], rtol=0, atol=1e-9)
        visited = torch.cat([row[None], theirs])
        expected = visited[value(quadratic(), visited).argmin()]
        torch.testing.assert_close(best, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.5}, "lr must be at least 0 and finite, got -0.5"),
        ({"lr": math.nan}, "lr must be at least 0 and finite, got nan"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"history": 0}, "history must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LBFGS(**options)
