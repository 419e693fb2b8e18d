"""Fitness that sees flatness at minima: its values, its draws, its cost, what it selects."""

import math
from dataclasses import replace

import populations
import pytest
import torch
from populations import annotations_unchecked, seeded, start

from cnognp.method import norms
from cnognp.methods.fitness import Fitness, GradientNormPenalty
from cnognp.methods.flat_fitness import (
    BallGradientNorm,
    HessianEigenvalue,
    SAMSharpness,
    filter_rms,
)
from cnognp.methods.swarm import Swarm
from landscape.functions import f2, himmelblau
from landscape.networks.layout import Entry, Layout
from landscape.objective import Analytic, value, value_and_grad

KINDS = {
    "ball": BallGradientNorm(penalty=0.1, radius=0.05, samples=4),
    "sam": SAMSharpness(penalty=0.5, rho=0.1),
    "eigenvalue": HessianEigenvalue(penalty=0.01, iterations=4),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def quadratic(matrix):
    return Analytic(lambda z: ((z @ matrix) * z).sum(-1) / 2, dim=len(matrix))


def judged(fitness, objective, z):
    loss, grad = value_and_grad(objective, z)
    return fitness(objective, z, loss, grad if fitness.needs_gradient else None)


def indefinite(dim=5):
    root = torch.randn((dim, dim), generator=seeded(2), dtype=torch.float64, device="cpu")
    return root + root.T


@pytest.mark.parametrize("dim", [1, 2, 5])
@annotations_unchecked()
def test_at_a_stationary_point_the_ball_sees_the_frobenius_norm_of_the_hessian(dim):
    matrix, sigma, samples = indefinite(dim), 0.3, 4000
    fitness = BallGradientNorm(penalty=1.0, radius=sigma, samples=samples)
    found = judged(
        fitness, quadratic(matrix), torch.zeros((1, dim), dtype=torch.float64, device="cpu")
    )
    expected = sigma**2 * (matrix**2).sum()
    rho = sigma * math.sqrt(dim + 2)
    assert float(expected) == pytest.approx(float(rho**2 / (dim + 2) * (matrix**2).sum()))
    # |H u|^2 <= |H|^2 |u|^2 bounds its second moment; a pair counts once, both ends being equal.
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    error = largest**2 * rho**2 * math.sqrt(dim / (dim + 4)) / math.sqrt(samples / 2)
    assert abs(found - expected) < 5 * error
    assert abs(found - expected) < 0.2 * expected


def test_in_one_dimension_the_scale_of_the_ball_is_exact():
    # Draws u = rho U sign: the estimate is curvature^2 times their mean square, member by member.
    fitness = BallGradientNorm(penalty=1.0, radius=0.3, samples=64)
    flat, sharp = (
        judged(fitness, quadratic(tensor(c).reshape(1, 1)), tensor(0.0)[None]) for c in (1.0, 7.0)
    )
    assert float(sharp / flat) == pytest.approx(49.0)


def test_pairs_cancel_what_is_odd():
    # The mean of |g + H u|^2 over a pair has no term g . H u: at slope g it is |g|^2 more.
    matrix = indefinite()
    fitness = BallGradientNorm(penalty=1.0, radius=0.3, samples=2)
    z = torch.zeros((1, 5), dtype=torch.float64, device="cpu")
    g = tensor(3.0, -1.0, 2.0, 0.5, 4.0)
    tilted = Analytic(lambda z: ((z @ matrix) * z).sum(-1) / 2 + z @ g, dim=5)
    still = fitness.mean_square(quadratic(matrix), z)
    torch.testing.assert_close(fitness.mean_square(tilted, z), still + (g * g).sum())


def test_draws_are_common_to_members_and_rounds_and_differ_between_seeds():
    fitness = BallGradientNorm(penalty=1.0, radius=0.1, samples=6)
    z = start(himmelblau)
    once = judged(fitness, himmelblau, z)
    assert torch.equal(once, judged(fitness, himmelblau, z))
    alone = torch.cat([judged(fitness, himmelblau, row[None]) for row in z])
    torch.testing.assert_close(once, alone, rtol=1e-13, atol=0.0)
    twins = judged(fitness, himmelblau, z[:1].expand(4, 2))
    assert (twins == twins[0]).all()
    other = judged(replace(fitness, seed=1), himmelblau, z)
    assert (other != once).all()
    assert ((other - once).abs() < 0.5 * once).all()


def test_exact_minima_that_tie_for_the_gradient_norm_are_told_apart_by_flatness():
    function = f2()
    z = torch.cat([tensor(*minimum.point)[None] for minimum in function.minima])
    tied = judged(GradientNormPenalty(0.5), function, z)
    torch.testing.assert_close(tied, torch.full_like(tied, -1.0), rtol=0.0, atol=1e-9)
    curvatures = [minimum.eigenvalues[0] for minimum in function.minima]
    assert curvatures == sorted(curvatures)
    for fitness in (BallGradientNorm(0.01, 0.05), HessianEigenvalue(0.01)):
        assert (judged(fitness, function, z).diff() > 0.01).all()


def test_the_ball_is_relative_to_each_filter_where_that_is_wanted():
    risk = populations.risk()
    z = risk.point()[None]
    scale = filter_rms(risk.layout, z)
    fitness = BallGradientNorm(penalty=1.0, radius=0.2, samples=2, scaling="filter")
    u = fitness._ball(z)[0]
    pair = torch.cat([z + scale * u, z - scale * u])
    expected = (norms(value_and_grad(risk, pair)[1]) ** 2).mean()
    torch.testing.assert_close(fitness.mean_square(risk, z)[0], expected)
    with pytest.raises(ValueError, match="scaling='filter' needs an objective with a layout"):
        judged(fitness, himmelblau, start(himmelblau))


def test_filters_are_rows_of_linear_layers_and_output_channels_of_convolutions():
    layout = Layout((
        Entry("linear", (2, 2), 0, "linear", 0),
        Entry("bias", (2,), 4, "bias", None),
        Entry("transposed", (2, 2, 1, 1), 6, "convolution", 1),
    ))
    z = tensor(3, 4, 0, 0, 9, 9, 1, 2, 7, 14)
    expected = [math.sqrt(12.5)] * 2 + [0.0] * 4 + [5.0, 10.0, 5.0, 10.0]
    assert filter_rms(layout, z).tolist() == pytest.approx(expected)
    both = filter_rms(layout, torch.stack([z, 2 * z]))
    torch.testing.assert_close(both[1], 2 * both[0])


def test_sams_sharpness_of_a_quadratic_has_a_closed_form():
    matrix = indefinite()
    objective, z = quadratic(matrix), start(quadratic(matrix))
    loss, grad = value_and_grad(objective, z)
    unit = grad / norms(grad).unsqueeze(-1)
    expected = 0.1 * norms(grad) + 0.005 * ((unit @ matrix) * unit).sum(-1)
    found = judged(SAMSharpness(penalty=0.5, rho=0.1), objective, z)
    torch.testing.assert_close(found, loss + 0.5 * expected, rtol=1e-9, atol=1e-9)
    still = torch.zeros((1, 5), dtype=torch.float64, device="cpu")
    assert judged(SAMSharpness(penalty=0.5, rho=0.1), objective, still) == 0


def test_the_eigenvalue_is_exact_with_as_many_iterations_as_coordinates():
    risk = populations.risk()
    z = start(risk)
    found = HessianEigenvalue(penalty=1.0, iterations=risk.dim).largest(risk, z)
    for row, largest in zip(z, found, strict=True):
        dense = torch.func.hessian(next(iter(risk.terms())))(row)
        torch.testing.assert_close(largest, torch.linalg.eigvalsh(dense)[-1])
    short = HessianEigenvalue(penalty=1.0, iterations=8).largest(risk, z)
    assert (short <= found * (1 + 1e-9)).all()
    assert (short > 0.9 * found).all()
    loss = value(risk, z)
    torch.testing.assert_close(
        judged(HessianEigenvalue(0.3, risk.dim), risk, z), loss + 0.3 * found
    )


@pytest.mark.parametrize("curvatures", [(-2.0, -2.0, -2.0), (-3.0, -1.0, -1.0), (0.0, 0.0, 0.0)])
def test_an_invariant_space_that_is_reached_early_does_not_add_a_zero(curvatures):
    objective = quadratic(torch.diag(tensor(*curvatures)))
    found = HessianEigenvalue(penalty=1.0).largest(objective, start(objective))
    torch.testing.assert_close(found, torch.full_like(found, max(curvatures)))


def test_members_with_different_hessians_do_not_disturb_each_other():
    # Member 0 lies where the Hessian is a multiple of the identity, the others do not.
    quartic = Analytic(lambda z: (tensor(1, 2, 3) * z**4 / 12 - z * z).sum(-1), dim=3)
    z = torch.cat([torch.zeros_like(start(quartic)[:1]), start(quartic)])
    expected = (tensor(1, 2, 3) * z * z - 2).max(-1).values
    torch.testing.assert_close(HessianEigenvalue(1.0).largest(quartic, z), expected)
    broken = torch.cat([z[:2], z[2:3] * math.nan, z[3:]])
    found = HessianEigenvalue(1.0).largest(quartic, broken)
    assert found[2].isnan()
    kept = [0, 1, 3, 4]
    torch.testing.assert_close(found[kept], expected[kept])


@every_kind
def test_it_is_a_fitness_that_costs_what_it_says(kind):
    fitness = KINDS[kind]
    assert isinstance(fitness, Fitness)
    function, z = himmelblau, start(himmelblau)
    counted = populations.Counting(function)
    loss, grad = value_and_grad(function, z)
    found = fitness(counted, z, loss, grad if fitness.needs_gradient else None)
    expected = {"ball": (0, 16), "sam": (4, 0)}
    if kind in expected:
        assert (counted.values, counted.gradients) == expected[kind]
        assert counted.values + counted.gradients == 4 * fitness.evaluations
    else:
        # As many products as coordinates suffice.
        assert (counted.values, fitness.evaluations) == (4 * 2, 8)
    assert found.shape == loss.shape
    assert torch.equal(found, judged(fitness, function, z))


@every_kind
def test_without_a_penalty_it_is_the_loss(kind):
    found = judged(replace(KINDS[kind], penalty=0.0), himmelblau, start(himmelblau))
    assert torch.equal(found, value(himmelblau, start(himmelblau)))


@every_kind
def test_no_tensor_is_made_on_the_default_device_and_types_stay(kind):
    z = start(f2(2), dtype=torch.float32)
    expected = judged(KINDS[kind], f2(2), z)
    with torch.device("meta"):
        found = judged(KINDS[kind], f2(2), z)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32


@every_kind
def test_a_nan_stays_with_its_member(kind):
    z = start(himmelblau)
    broken = torch.cat([z[:1] * math.nan, z[1:]])
    found = judged(KINDS[kind], himmelblau, broken)
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], judged(KINDS[kind], himmelblau, z)[1:])


@every_kind
def test_a_swarm_ranks_by_it_at_its_best_points(kind):
    swarm = Swarm(lr=0.003, fitness=KINDS[kind])
    state = populations.last(swarm, himmelblau, 3 * start(himmelblau), 8)
    torch.testing.assert_close(
        judged(KINDS[kind], himmelblau, state.best), state.best_fitness, rtol=1e-9, atol=1e-9
    )


def flattest(fitness, runs):
    """The share of swarms of 30 that end in the flattest of the five tied minima of F2."""
    function, hits = f2(), 0
    minima = tensor(*(minimum.point[0] for minimum in function.minima))
    low, high = function.box[0]
    swarm = Swarm(
        lr=0.01, inertia=0.7, cognitive=1.5, social=1.5, fitness=fitness, box=function.box
    )
    for seed in range(runs):
        drawn = torch.rand((30, 1), generator=seeded(seed), dtype=torch.float64, device="cpu")
        state = populations.last(swarm, function, low + (high - low) * drawn, 100, seed)
        best = state.best[state.best_fitness.argmin()]
        distance = (best - minima).abs()
        hits += int(distance.argmin() == 0 and distance.min() < 0.1)
    return hits / runs


@pytest.mark.slow
@annotations_unchecked()
def test_swarms_find_the_flattest_of_tied_minima_by_the_ball_and_not_by_the_gradient_norm():
    assert flattest(BallGradientNorm(penalty=0.01, radius=0.05), 100) > 0.95
    # About 70 %: 0.9 is more than four standard errors above.
    assert flattest(GradientNormPenalty(penalty=0.01), 100) < 0.9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BallGradientNorm(-1.0, 0.1), "penalty must be at least 0 and finite, got -1.0"),
        (lambda: BallGradientNorm(1.0, 0.0), "radius must be positive and finite, got 0.0"),
        (lambda: BallGradientNorm(1.0, 0.1, 3), "samples must be even and at least 2, got 3"),
        (lambda: BallGradientNorm(1.0, 0.1, 0), "samples must be even and at least 2, got 0"),
        (
            lambda: populations.unchecked(
                BallGradientNorm, penalty=1.0, radius=0.1, scaling="layer"
            ),
            r"scaling must be one of \('none', 'filter'\), got layer",
        ),
        (lambda: SAMSharpness(math.nan), "penalty must be at least 0 and finite, got nan"),
        (lambda: SAMSharpness(1.0, rho=-0.1), "rho must be at least 0 and finite, got -0.1"),
        (lambda: HessianEigenvalue(-1.0), "penalty must be at least 0 and finite, got -1.0"),
        (lambda: HessianEigenvalue(1.0, iterations=0), "iterations must be at least 1, got 0"),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
