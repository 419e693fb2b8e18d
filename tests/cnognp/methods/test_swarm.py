"""Swarms against transcriptions of the published loops in plain Python, and their parts alone."""

import math
from dataclasses import replace
from itertools import pairwise, repeat

import numpy as np
import populations
import pytest
import torch
from populations import Counting, annotations_unchecked, network, risk, seeded, start, unchecked
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from cnognp import METHODS
from cnognp.methods.descent import GradientDescent
from cnognp.methods.fitness import Fitness, GradientNormPenalty, Loss
from cnognp.methods.flat_fitness import BallGradientNorm, HessianEigenvalue, SAMSharpness
from cnognp.methods.swarm import Swarm, WaveletMutation
from cnognp.run import run
from landscape.functions import CATALOGUE, f2, himmelblau, six_hump_camel
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.randomness import derive

SEED = 11
FREE = ((-math.inf, math.inf),) * 2


def camel(x):
    a, b = x
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (-4 + 4 * b**2) * b**2


def camel_slope(x):
    a, b = x
    return [8 * a - 8.4 * a**3 + 2 * a**5 + b, a - 8 * b + 16 * b**3]


def numbers(member, rounds, width, members):
    """r1 and r2 of a member in round k: the generator of the round, for the attraction."""
    generator = derive(derive(seeded(SEED), "round", rounds), "attraction")
    r = torch.rand((members, 2, width), generator=generator, dtype=torch.float64, device="cpu")
    return r[member].tolist()


def transcribed(
    starts, rounds, *, eta, omega, c1, c2, penalty=0.0, power=2, box=None, stale=False,
    velocity=False, width=1,
):  # fmt: skip
    """Lines 1 to 16 of the published algorithm in scalars; g* is the one before the round.

    With ``stale``, line 10 takes loss and gradient from before the move, as the published code
    does. With ``velocity``, line 8 remembers v, and the gradient is left out (PSO).
    """

    def fitness(x):
        return camel(x) + penalty * math.hypot(*camel_slope(x)) ** power

    def clipped(x):
        return [min(max(c, low), high) for c, (low, high) in zip(x, box or FREE, strict=True)]

    z = [clipped(list(x)) for x in starts]
    v = [[0.0] * len(x) for x in z]
    p, phi_p = [list(x) for x in z], [fitness(x) for x in z]
    phi_g = min(phi_p)
    g = p[phi_p.index(phi_g)]
    for k in range(rounds):
        leader = list(g)
        for i in range(len(z)):
            old, slope = z[i], camel_slope(z[i])
            r1, r2 = numbers(i, k, width, len(z))
            r1, r2 = (r * (len(old) // len(r)) for r in (r1, r2))
            moved = []
            for j, x in enumerate(old):
                own, common = c1 * r1[j] * (p[i][j] - x), c2 * r2[j] * (leader[j] - x)
                bar = x - eta * slope[j]
                v[i][j] = omega * (v[i][j] if velocity else bar - x) + own + common
                moved.append(x + v[i][j])
            z[i] = clipped(moved)
            phi = fitness(old if stale else z[i])
            if phi < phi_p[i]:
                p[i], phi_p[i] = z[i], phi
            if phi < phi_g:
                g, phi_g = z[i], phi
    return z, p, phi_p, phi_g


def crowd(members=7):
    u = torch.rand((members, 2), generator=seeded(4), dtype=torch.float64, device="cpu")
    return 2.2 * u - 1


BOX = ((-0.5, 1.0), (-0.7, 0.4))
PLAIN = {"eta": 0.01, "omega": 0.7, "c1": 0.6, "c2": 0.5}
PUBLISHED = {
    "cno": (PLAIN, {}),
    "cnognp": ({**PLAIN, "penalty": 0.05}, {"fitness": GradientNormPenalty(0.05)}),
    "cnognp-norm": (
        {**PLAIN, "penalty": 0.05, "power": 1},
        {"fitness": GradientNormPenalty(0.05, "norm")},
    ),
    "box": ({**PLAIN, "penalty": 0.05, "box": BOX}, {"fitness": GradientNormPenalty(0.05)}),
    "coordinate": ({**PLAIN, "width": 2}, {}),
    "stale": (
        {**PLAIN, "penalty": 0.05, "stale": True},
        {"fitness": GradientNormPenalty(0.05), "stale_fitness": True},
    ),
    "pso": ({**PLAIN, "velocity": True}, {"velocity": True, "lr": 0.0}),
    "pso-box": (
        {**PLAIN, "velocity": True, "box": BOX, "width": 2},
        {"velocity": True, "lr": 0.0},
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_a_swarm_does_what_the_published_lines_say(case):
    plain, parts = PUBLISHED[case]
    method = Swarm(**{
        "lr": plain["eta"], "inertia": plain["omega"], "cognitive": plain["c1"],
        "social": plain["c2"], "box": plain.get("box"),
        "randomness": "coordinate" if plain.get("width") == 2 else "particle", **parts,
    })  # fmt: skip
    z = crowd()
    for rounds in (1, 2, 15):
        state = populations.last(method, six_hump_camel, z, rounds, seed=SEED)
        position, best, best_fitness, leading = transcribed(z.tolist(), rounds, **plain)
        np.testing.assert_allclose(state.position, position, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.best, best, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.best_fitness, best_fitness, rtol=0, atol=1e-12)
        assert float(state.best_fitness.min()) == pytest.approx(leading, abs=1e-12)


def test_one_number_per_tensor_is_spread_over_the_entries_of_that_tensor():
    objective, layout = risk(), risk().layout
    method = Swarm(lr=0.02, inertia=0.9, cognitive=0.6, social=0.5, randomness="tensor")
    z, members = start(objective, 3), 3
    state = method.init(objective, z)
    for k in range(3):
        generator = derive(seeded(SEED), "round", k)
        r = torch.rand(
            (members, 2, len(layout.names)), generator=derive(generator, "attraction"),
            dtype=torch.float64, device="cpu",
        )  # fmt: skip
        leader = state.best[int(np.argmin(state.best_fitness.tolist()))]
        _, slope = value_and_grad(objective, state.position)
        expected = state.position - 0.9 * 0.02 * slope
        for t, entry in enumerate(layout.entries):
            here = (slice(None), entry.span)
            own = 0.6 * r[:, 0, t, None] * (state.best - state.position)[here]
            common = 0.5 * r[:, 1, t, None] * (leader - state.position)[here]
            expected[here] += own + common
        state, _ = method.step(objective, state, generator)
        torch.testing.assert_close(state.position, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("randomness, distinct", [("particle", 1), ("tensor", 4)])
def test_there_are_as_many_random_numbers_as_there_are_things_to_draw_for(randomness, distinct):
    ratios = social_factors(risk(), randomness, members=5)
    for row in ratios:
        assert len(set(row.mul(1e9).round().tolist())) == distinct
    assert len(set(ratios[:, 0].mul(1e9).round().tolist())) == len(ratios)


def test_random_numbers_per_coordinate_are_uniform_and_not_those_of_the_other_pull():
    objective = Ridge(1.0, dim=40)
    social = social_factors(objective, "coordinate", members=251).flatten()
    cognitive = social_factors(objective, "coordinate", members=251, pull="cognitive").flatten()
    n = len(social)
    assert n == 10_000
    for r in (social, cognitive):
        assert 0 <= r.min() < 0.01
        assert 0.99 < r.max() < 1 + 1e-9
        # Four standard errors of the mean and the variance of n uniform numbers.
        assert abs(r.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
        assert abs(r.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    correlation = torch.corrcoef(torch.stack([social, cognitive]))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n)


def social_factors(objective, randomness, members, pull="social"):
    """r of every member but the leader: displacement over distance where nothing else moves."""
    pulls = {"social": 0.0, "cognitive": 0.0, pull: 1.0}
    method = Swarm(lr=0.0, randomness=randomness, **pulls)
    state = method.init(objective, start(objective, members))
    leader = int(state.best_fitness.argmin())
    if pull == "cognitive":
        state = state._replace(best=state.best + 1)
    moved, _ = method.step(objective, state, seeded(5))
    to = state.best[leader] if pull == "social" else state.best
    ratios = (moved.position - state.position) / (to - state.position)
    return torch.cat([ratios[:leader], ratios[leader + 1 :]])


def test_randomness_per_tensor_needs_a_layout():
    with pytest.raises(ValueError, match="randomness='tensor' needs an objective with a layout"):
        populations.last(Swarm(randomness="tensor"), himmelblau, crowd(), 1)
    summed = Sum(risk(), Ridge(0.1, dim=risk().dim))
    assert populations.last(Swarm(randomness="tensor"), summed, start(summed), 1) is not None


@pytest.mark.parametrize("name", populations.OBJECTIVES)
@pytest.mark.parametrize("inertia", [1.0, 0.7])
@pytest.mark.parametrize("method", ["egd", "cno", "cnognp"])
def test_one_member_without_attraction_is_gradient_descent_bit_for_bit(name, inertia, method):
    objective = populations.OBJECTIVES[name]()
    if method == "egd":
        lonely = replace(METHODS["egd"](lr=0.004), inertia=inertia)
    else:
        lonely = METHODS[method](lr=0.004, inertia=inertia, cognitive=0.0, social=0.0, batch_size=0)
    z = start(objective, members=1)
    swarm = populations.states(lonely, objective, z, 12)
    descent = populations.states(GradientDescent(inertia * 0.004), objective, z, 12)
    for one, other in zip(swarm, descent, strict=True):
        assert torch.equal(one.position, other.position)
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        total = sum(term(leaf[0]) for term in objective.terms())
        (slope,) = torch.autograd.grad(total, leaf)
    by_hand = z - inertia * 0.004 * slope
    torch.testing.assert_close(swarm[0].position, by_hand, rtol=1e-12, atol=1e-12)


def judged(model, z, penalty=0.0, power=2):
    """Fitness of a network by plain autograd on the plain module."""
    inputs, target = populations.data()
    vector_to_parameters(z, model.parameters())
    loss = cross_entropy(model(inputs), target)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    squared = sum((slope**2).sum() for slope in slopes)
    return float(loss.detach() + penalty * squared ** (power / 2))


@pytest.mark.parametrize("penalty, power", [(0.0, "squared"), (0.3, "squared"), (0.3, "norm")])
def test_the_stored_best_fitness_is_that_of_the_stored_best_point(penalty, power):
    method = METHODS["cnognp"](lr=0.3, penalty=penalty, power=power, batch_size=0)
    model = network()
    for state in populations.states(method, risk(), start(risk()), 6):
        for z, stored in zip(state.best, state.best_fitness, strict=True):
            expected = judged(model, z, penalty, {"squared": 2, "norm": 1}[power])
            assert float(stored) == pytest.approx(expected, rel=1e-12)


def test_stale_fitness_stores_the_best_point_with_the_fitness_of_the_point_before():
    right = METHODS["cnognp"](lr=0.3, penalty=0.3, batch_size=0)
    stale = METHODS["cnognp"](lr=0.3, penalty=0.3, batch_size=0, stale_fitness=True)
    model, z = network(), start(risk())
    rounds = populations.states(stale, risk(), z, 6)
    last = rounds[-1]
    true = [judged(model, point, 0.3) for point in last.best]
    assert not np.isclose(last.best_fitness, true, rtol=1e-3).any()
    # While the loss still falls in every round, the best is the last, with the fitness before.
    before = [judged(model, point, 0.3) for point in rounds[-2].position]
    falling = torch.equal(last.best, last.position)
    assert falling
    np.testing.assert_allclose(last.best_fitness, before, rtol=1e-12)
    assert not torch.equal(last.position, populations.last(right, risk(), z, 6).position)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_penalised_fitness_is_the_function_itself_at_its_minima_and_above_it_elsewhere(name):
    function = CATALOGUE[name]
    minima = torch.tensor([m.point for m in function.minima], dtype=torch.float64, device="cpu")
    loss, grad = value_and_grad(function, minima)
    for power in ("squared", "norm"):
        phi = GradientNormPenalty(0.5, power)(function, minima, loss, grad)
        torch.testing.assert_close(phi, loss, rtol=1e-11, atol=1e-11)
    z = start(function, 9)
    loss, grad = value_and_grad(function, z)
    squares = torch.tensor([sum(c * c for c in row) for row in grad.tolist()], dtype=torch.float64)
    phi = GradientNormPenalty(0.5)(function, z, loss, grad)
    torch.testing.assert_close(phi, loss + 0.5 * squares, rtol=1e-13, atol=0)
    phi = GradientNormPenalty(0.5, "norm")(function, z, loss, grad)
    torch.testing.assert_close(phi, loss + 0.5 * squares.sqrt(), rtol=1e-13, atol=0)
    assert torch.equal(Loss()(function, z, loss, None), loss)
    assert isinstance(Loss(), Fitness)
    assert isinstance(GradientNormPenalty(0.5), Fitness)


def test_the_default_penalty_is_on_the_squared_norm():
    assert METHODS["cnognp"]().fitness == GradientNormPenalty(0.01, "squared")
    assert GradientNormPenalty(0.3).power == "squared"


@pytest.mark.parametrize(
    "method, values, gradients",
    [
        (METHODS["gd"](), 0, 1),
        (METHODS["egd"](), 0, 1),
        (METHODS["cno"](batch_size=0), 0, 1),
        (METHODS["cno"](batch_size=32), 1, 1),
        (METHODS["cnognp"](batch_size=32), 0, 2),
        (METHODS["cnognp"](batch_size=0), 0, 1),
        (METHODS["cnognp"](power="norm", box=(-3.0, 3.0), mutation=1.0, batch_size=0), 0, 1),
        (METHODS["cnognp"](stale_fitness=True, batch_size=0), 0, 1),
        (METHODS["pso"](), 1, 0),
        (METHODS["pso-bfgs"](search_iterations=5), 1, 5),
        (METHODS["pso-bfgs"](search_iterations=2), 1, 2),
        (METHODS["sgd"](batch_size=0), 0, 1),
    ],
)
def test_a_step_evaluates_every_member_as_often_as_it_says(method, values, gradients):
    objective = Counting(himmelblau)
    state = method.init(objective, crowd(6))
    begun = (objective.values + objective.gradients) / 6
    for k in range(3):
        objective.values = objective.gradients = 0
        state, info = method.step(objective, state, seeded(k))
        assert (objective.values, objective.gradients) == (6 * values, 6 * gradients)
        # The starts, which a swarm evaluates before its first step, count in it.
        assert info.evaluations == values + gradients + (begun if k == 0 else 0)
    assert begun == isinstance(method, Swarm)


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize(
    "fitness",
    [BallGradientNorm(0.1, 0.05, samples=4), SAMSharpness(0.1), HessianEigenvalue(0.1, 2)],
)
def test_what_a_fitness_evaluates_itself_is_counted(fitness, stale, monkeypatch):
    products = []
    monkeypatch.setattr(
        "cnognp.methods.flat_fitness.hvp",
        lambda f, z, u: products.append(len(z)) or hvp(himmelblau, z, u),
    )
    counted, told = Counting(himmelblau), []
    swarm = Swarm(lr=0.001, fitness=fitness, stale_fitness=stale)
    for _, info in run(swarm, repeat(counted, 3), crowd(6), seeded(0)):
        told.append(info.evaluations)
    assert counted.values + counted.gradients + 2 * sum(products) == 6 * sum(told)
    # The starts are judged before the first step.
    assert told == [2 * (1 + fitness.evaluations), *[1 + fitness.evaluations] * 2]


@pytest.mark.parametrize("case", ["cno", "cnognp", "pso", "pso-bfgs"])
def test_a_box_holds_every_member_from_the_start(case):
    box = ((-0.2, 0.3), (0.1, 0.4))
    method = replace(populations.SWARMS[case], box=box)
    low, high = torch.tensor(box, dtype=torch.float64, device="cpu").T
    z = crowd()
    first = method.init(himmelblau, z)
    assert torch.equal(first.position, z.clamp(low, high))
    touched = torch.zeros(2, dtype=torch.bool, device="cpu")
    for state in populations.states(method, himmelblau, z, 20):
        assert ((low <= state.position) & (state.position <= high)).all()
        assert ((low <= state.best) & (state.best <= high)).all()
        touched |= ((state.position == high) | (state.position == low)).any(0)
    assert touched.any()


def test_one_pair_is_a_box_for_all_coordinates():
    runs = [
        populations.last(
            METHODS["cno"](lr=0.01, box=(-0.3, 0.2), cognitive=0.5, social=0.5, batch_size=0),
            himmelblau,
            crowd(),
            3,
        ),
        *(
            populations.last(Swarm(lr=0.01, box=box), himmelblau, crowd(), 3)
            for box in (((-0.3, 0.2),), ((-0.3, 0.2), (-0.3, 0.2)), [[-0.3, 0.2]] * 2)
        ),
    ]
    for other in runs[1:]:
        assert torch.equal(other.position, runs[0].position)
    with pytest.raises(ValueError, match="box has 3 pairs for 2 coordinates"):
        populations.last(Swarm(box=((0.0, 1.0),) * 3), himmelblau, crowd(), 1)


def wavelet(x, low, high, ratio, width):
    """The mutation of one coordinate; ratio is phi / a, width is a."""
    mu = math.exp(-(ratio**2) / 2) * math.cos(5 * ratio) / math.sqrt(width)
    return (x + mu * (high - x) if mu > 0 else x + mu * (x - low)), mu


def test_the_wavelet_moves_as_its_formula_says_on_both_sides():
    low, high = torch.tensor([[-1.0, 0.0], [2.0, 3.0]], dtype=torch.float64, device="cpu")
    z = low + (high - low) * torch.rand(
        (200, 2), generator=seeded(2), dtype=torch.float64, device="cpu"
    )
    mutation = WaveletMutation(threshold=1.0, horizon=20)
    signs = set()
    for j in (0, 3, 20):
        at = torch.tensor(j, device="cpu")
        found = mutation(z, low, high, at, seeded(9))
        phi = torch.rand((200, 1), generator=seeded(9), dtype=torch.float64, device="cpu")
        assert ((low <= found) & (found <= high)).all()
        for row, r, new in zip(z.tolist(), phi[:, 0].tolist(), found.tolist(), strict=True):
            for x, b, a, y in zip(row, low.tolist(), high.tolist(), new, strict=True):
                expected, mu = wavelet(x, b, a, 5 * r - 2.5, math.exp(10 * j / 20))
                assert y == pytest.approx(expected, abs=1e-14)
                signs.add(mu > 0)
    assert signs == {True, False}


def test_the_wavelet_narrows_to_nothing_with_the_round():
    low, high = torch.tensor([-1.0], device="cpu"), torch.tensor([1.0], device="cpu")
    mutation = WaveletMutation(threshold=1.0, horizon=10)
    z = torch.zeros((1000, 1), device="cpu")
    reach = [
        float(mutation(z, low, high, torch.tensor(j, device="cpu"), seeded(9)).abs().max())
        for j in (0, 2, 5, 10, 200)
    ]
    for j, r in zip((0, 2, 5, 10, 200), reach, strict=True):
        assert r <= math.exp(-5 * j / 10) * (1 + 1e-6)
    assert reach[0] > 0.9
    assert reach == sorted(reach, reverse=True)
    assert reach[-1] == 0.0


def test_members_mutate_only_where_their_mean_distance_to_the_leader_is_below_the_threshold():
    calm = Swarm(lr=0.01, box=(-3.0, 3.0))
    z = crowd()
    state = calm.init(himmelblau, z)
    quiet, _ = calm.step(himmelblau, state, seeded(1))
    leader = state.best[int(np.argmin(state.best_fitness.tolist()))]
    distance = float(np.mean([math.dist(a, leader) for a in quiet.position.tolist()]))
    for threshold, mutates in ((distance * 0.999, False), (distance * 1.001, True)):
        method = replace(calm, mutation=WaveletMutation(threshold, horizon=10))
        moved, _ = method.step(himmelblau, state, seeded(1))
        assert torch.equal(moved.position, quiet.position) is not mutates
    low, high = (torch.tensor(end, dtype=torch.float64, device="cpu") for end in (-3.0, 3.0))
    generator = derive(seeded(1), "mutation")
    expected = method.mutation(quiet.position, low, high, state.round, generator)
    assert torch.equal(moved.position, expected)


def test_a_diverged_member_does_not_keep_the_others_from_mutating():
    method = Swarm(lr=0.01, box=(-3.0, 3.0), mutation=WaveletMutation(1e9, horizon=10))
    broken = torch.cat([crowd(), torch.full((1, 2), math.nan, dtype=torch.float64, device="cpu")])
    with_it = populations.last(method, himmelblau, broken, 2).position
    without = populations.last(replace(method, mutation=None), himmelblau, broken, 2).position
    assert (with_it[:-1] != without[:-1]).any(-1).all()
    assert with_it[:-1].isfinite().all()


def test_velocity_is_remembered_only_where_it_is_asked_for():
    coasting = Swarm(lr=0.0, inertia=0.5, cognitive=0.0, social=0.0, velocity=True)
    state = coasting.init(himmelblau, crowd())
    state = state._replace(velocity=torch.ones_like(state.position))
    expected = crowd()
    for k in range(3):
        expected = expected + 0.5 ** (k + 1)
        state, _ = coasting.step(himmelblau, state, seeded(k))
        torch.testing.assert_close(state.position, expected, rtol=0, atol=1e-14)
    assert Swarm().init(himmelblau, crowd()).velocity is None


# Of f2's five equal minima, how often the flattest one wins at each penalty: 4000 runs of a NumPy
# transcription with the settings below, standard errors below 0.008.
FLATTEST = {0.0: 0.596, 0.01: 0.694, 0.1: 0.808, 0.5: 0.860}


def leader_after_100(method, function, seed):
    low, high = function.box[0]
    u = torch.rand((30, 1), generator=seeded(seed), dtype=torch.float64, device="cpu")
    with annotations_unchecked():
        state = populations.last(method, function, low + (high - low) * u, 100, seed=seed)
    return state.best[state.best_fitness.argmin(), 0]


@pytest.mark.slow
def test_the_flattest_of_equal_minima_wins_the_oftener_the_larger_the_penalty():
    function, seeds = f2(), 60
    minima = torch.tensor([m.point[0] for m in function.minima], dtype=torch.float64, device="cpu")
    assert function.minima[0].eigenvalues[0] == min(m.eigenvalues[0] for m in function.minima)
    low, high = function.box[0]
    won = {}
    for penalty in FLATTEST:
        method = METHODS["cnognp"](
            lr=0.01,
            penalty=penalty,
            inertia=0.7,
            cognitive=1.5,
            social=1.5,
            box=(low, high),
            batch_size=0,
        )
        # The same seeds for every penalty, so that the runs differ by nothing else.
        ends = torch.stack([leader_after_100(method, function, seed) for seed in range(seeds)])
        away = (ends[:, None] - minima).abs()
        assert away.min(-1).values.max() < 1e-4
        won[penalty] = (away.argmin(-1) == 0).double()
        share, known = float(won[penalty].mean()), FLATTEST[penalty]
        assert abs(share - known) < 4 * math.sqrt(known * (1 - known) / seeds + 0.008**2)
    for one, other in pairwise(won.values()):
        # Paired by seed: no step down beyond three standard errors of the differences.
        rise = other - one
        assert rise.mean() > -3 * rise.std() / math.sqrt(seeds)
    gain = won[0.5] - won[0.0]
    assert gain.mean() > 2 * gain.std() / math.sqrt(seeds)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.1}, "lr must be at least 0 and finite, got -0.1"),
        ({"lr": math.inf}, "lr must be at least 0 and finite, got inf"),
        ({"inertia": -1.0}, "inertia must be at least 0 and finite, got -1.0"),
        ({"cognitive": math.nan}, "cognitive must be at least 0 and finite, got nan"),
        ({"social": -1e-9}, "social must be at least 0 and finite, got -1e-09"),
        ({"randomness": "member"}, "randomness must be one of .*, got member"),
        ({"box": (1.0, 1.0)}, r"box must be \(low, high\) with low below high, got \(1.0, 1.0\)"),
        ({"box": (0.0, math.nan)}, "box must be"),
        ({"box": ()}, "box must be"),
        ({"box": (1.0,)}, "box must be"),
        ({"box": (0.0, 1.0, 2.0)}, "box must be"),
        ({"box": ((0.0, 1.0), (2.0, -2.0))}, "box must be"),
        ({"mutation": WaveletMutation(1.0, 10)}, "give a finite box"),
        ({"mutation": WaveletMutation(1.0, 10), "box": (0.0, math.inf)}, "give a finite box"),
        ({"local": GradientDescent(0.1)}, "set lr=0 with local"),
    ],
)
def test_parts_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unchecked(Swarm, **options)


def test_numbers_of_parts_out_of_range_are_refused_by_name():
    with pytest.raises(ValueError, match="penalty must be at least 0 and finite, got -0.1"):
        GradientNormPenalty(-0.1)
    with pytest.raises(ValueError, match="penalty must be at least 0 and finite, got nan"):
        GradientNormPenalty(math.nan)
    with pytest.raises(ValueError, match="power must be 'squared' or 'norm', got cubed"):
        unchecked(GradientNormPenalty, penalty=0.1, power="cubed")
    with pytest.raises(ValueError, match="threshold must be positive, got 0.0"):
        WaveletMutation(0.0, 10)
    with pytest.raises(ValueError, match="horizon must be positive, got 0"):
        WaveletMutation(1.0, 0)


def test_all_moves_see_the_best_of_the_round_before():
    # The leader and the second member find better points in this very round.
    method = Swarm(lr=0.1, cognitive=0.0, social=1.0)
    bowl = Ridge(1.0, dim=1)
    z = torch.tensor([[1.0], [1.001], [3.0]], dtype=torch.float64, device="cpu")
    (state, _) = next(run(method, repeat(bowl, 1), z, seeded(SEED)))
    r2 = numbers(2, 0, 1, 3)[1][0]
    assert (value(bowl, state.position)[:2] < value(bowl, z).min()).all()
    expected = 3.0 - 0.1 * 3.0 + r2 * (1.0 - 3.0)
    assert float(state.position[2, 0]) == pytest.approx(expected, abs=1e-14)


def test_the_mutation_narrows_along_a_run():
    still = Swarm(
        lr=0.0, cognitive=0.0, social=0.0, box=(-1.0, 1.0), mutation=WaveletMutation(1e9, 10)
    )
    before, moves = start(himmelblau, members=200), []
    for k, state in enumerate(populations.states(still, himmelblau, before, 11)):
        assert int(state.round) == k + 1
        moves.append(float((state.position - before).abs().max()))
        assert moves[-1] <= 2 * math.exp(-5 * k / 10)
        before = state.position
    assert moves[0] > 0.5
    assert moves[-1] < 0.014


def test_a_swarm_is_refused_as_the_local_search_of_a_swarm():
    with pytest.raises(ValueError, match="a swarm cannot be the local search of a swarm"):
        Swarm(lr=0.0, local=Swarm())
