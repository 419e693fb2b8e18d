"""Line searches, and the quasi-Newton methods that are built on them."""

import math
from itertools import pairwise, repeat

import invariants
import populations
import pytest
import torch
from populations import annotations_unchecked, seeded, start
from scipy.optimize import minimize_scalar

from cnognp import METHODS
from cnognp.method import norms
from cnognp.methods.bfgs import BFGS
from cnognp.methods.line_search import Rules, golden_section, search_ray, search_wolfe
from cnognp.methods.quasi_newton import LBFGSGoldenSection
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.objective import Analytic, value, value_and_grad

PHI = (1 + math.sqrt(5)) / 2
METHODS_HERE = {
    "bfgs": BFGS(),
    "lbfgs-gss": LBFGSGoldenSection(),
    "lbfgs-gss-short": LBFGSGoldenSection(history=2, trials=4, tolerance=0.5),
    "lbfgs-gss-published": LBFGSGoldenSection(published=True),
}
MONOTONE = ["bfgs", "lbfgs-gss", "lbfgs-gss-short"]
every_method = pytest.mark.parametrize("case", METHODS_HERE)
every_monotone = pytest.mark.parametrize("case", MONOTONE)
every_objective = pytest.mark.parametrize("name", invariants.OBJECTIVES)

ROSENBROCK = Analytic(
    lambda z: (1 - z[..., 0]) ** 2 + 100 * (z[..., 1] - z[..., 0] ** 2) ** 2, dim=2
)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def quadratic(*curvatures):
    return Analytic(lambda z: (tensor(*curvatures) * z * z).sum(-1) / 2, dim=len(curvatures))


def watched(function):
    """The function, and the list of the arguments that it is called with."""
    asked = []

    def watching(*arguments):
        asked.append(arguments)
        return function(*arguments)

    return watching, asked


def test_golden_sections_need_42_reductions_with_one_evaluation_each():
    parabola, asked = watched(lambda u: (u - 2) ** 2)
    found = golden_section(parabola, tensor(0.0), tensor(5.0), 1e-8)
    assert len(asked) == 1 + 42 == 1 + math.ceil(math.log(5e8) / math.log(PHI))
    assert float(found.high - found.low) == pytest.approx(5 / PHI**42, rel=1e-6)
    assert found.high - found.low < 1e-8
    assert found.low <= 2 <= found.high
    assert abs(found.best - 2) < 1e-8


def test_every_member_has_a_bracket_of_its_own_around_the_minimum_that_scipy_finds():
    places = tensor(0.3, 1.7, 2.9)
    found = golden_section(
        lambda u: torch.cosh(u - places) + u, tensor(-9.0, -3.0, -1.0), tensor(4.0, 5.0, 4.0), 1e-6
    )
    for place, low, high in zip(places, found.low, found.high, strict=True):
        best = minimize_scalar(lambda u, place=place: math.cosh(u - place) + u, tol=1e-12).x
        assert low - 1e-7 <= best <= high + 1e-7
        assert high - low <= 1e-6


@pytest.mark.parametrize(
    "low, high, tolerance, message",
    [
        (1.0, 1.0, 0.1, "low must be below high and both finite"),
        (2.0, 1.0, 0.1, "low must be below high and both finite"),
        (0.0, math.inf, 0.1, "low must be below high and both finite"),
        (0.0, 1.0, 0.0, "tolerance must be positive, got 0.0"),
        (0.0, 1.0, math.nan, "tolerance must be positive, got nan"),
    ],
)
def test_intervals_that_make_no_sense_are_refused(low, high, tolerance, message):
    with pytest.raises(ValueError, match=message):
        golden_section(lambda u: u, tensor(low), tensor(high), tolerance)


def rules(first, trials, tolerance=0.1):
    return Rules(first, 1 + PHI, 1 + PHI, trials, torch.zeros_like(first), tolerance)


def test_rays_are_searched_by_expansion_contraction_and_section():
    places = tensor(0.01, 0.9, 40.0, 1e4)

    def valleys(t, rows):
        return (t - places[rows]) ** 2 / places[rows] ** 2

    asked = watched(valleys)
    bracket, used = search_ray(
        asked[0], tensor(1.0, 1.0, 1.0, 1.0), rules(torch.ones(4).double(), 60)
    )
    torch.testing.assert_close(bracket.best, places, rtol=0.06, atol=0.0)
    assert ((bracket.low <= places) & (places <= bracket.high)).all()
    assert (bracket.high - bracket.low <= 0.1 * bracket.high).all()
    torch.testing.assert_close(bracket.value, valleys(bracket.best, torch.arange(4)))
    assert used.sum() == sum(len(t) for t, _ in asked[1])
    assert len(set(used.tolist())) > 1


def test_a_ray_that_does_not_fall_is_left_at_its_beginning_and_nan_does_not_fall():
    first, slopes = torch.ones(3, dtype=torch.float64, device="cpu"), tensor(1.0, math.nan, 0.0)
    bracket, used = search_ray(lambda t, rows: slopes[rows] * t, 0 * first, rules(first, 8))
    assert bracket.best.tolist() == [0.0, 0.0, 0.0]
    assert bracket.value.tolist() == [0.0, 0.0, 0.0]
    assert used.tolist() == [8, 8, 8]
    shrinking = [((3 - math.sqrt(5)) / 2) ** k for k in range(8)]
    assert float(bracket.high[0]) == pytest.approx(shrinking[-1])


def test_a_ray_that_only_falls_is_followed_until_the_trials_run_out():
    bracket, _ = search_ray(lambda t, rows: -t, tensor(0.0), rules(tensor(2.0), 5))
    assert float(bracket.best) == pytest.approx(2 * (1 + PHI) ** 4)
    assert bracket.high.isinf().all()


def test_wolfe_steps_satisfy_both_conditions():
    places = tensor(0.01, 0.9, 40.0, 1e4)

    def valleys(t, rows):
        return (t - places[rows]) ** 2, 2 * (t - places[rows])

    t, used = search_wolfe(valleys, places**2, -2 * places, torch.ones(4).double(), 40)
    loss, slope = valleys(t, torch.arange(4))
    assert (loss <= places**2 - 1e-4 * t * 2 * places).all()
    assert (slope >= -0.9 * 2 * places).all()
    assert len(set(used.tolist())) > 1
    # A step across the valley that gains next to nothing is not enough.
    places = tensor(0.500001)
    t, _ = search_wolfe(valleys, places**2, -2 * places, tensor(1.0), 40)
    assert t == 0.5


def test_wolfe_steps_that_are_not_found_are_zero_or_fall_enough():
    nowhere, _ = search_wolfe(
        lambda t, rows: (t, torch.ones_like(t)), tensor(0.0), tensor(-1.0), tensor(1.0), 9
    )
    assert nowhere == 0
    # Falling for ever: the first condition holds everywhere, the second nowhere.
    forever, used = search_wolfe(
        lambda t, rows: (-t, -torch.ones_like(t)), tensor(0.0), tensor(-1.0), tensor(1.0), 5
    )
    assert forever == 16
    assert used == 5


@pytest.mark.parametrize("dim", [2, 5])
def test_with_exact_line_searches_a_quadratic_ends_after_as_many_steps_as_coordinates(dim):
    curvatures = torch.logspace(0, 2, dim, dtype=torch.float64, device="cpu").tolist()
    objective = quadratic(*curvatures)
    z = start(objective, members=3)
    exact = LBFGSGoldenSection(history=dim, trials=80, tolerance=1e-9)
    states = populations.states(exact, objective, z, dim + 1)
    before, after = value(objective, states[-3].position), value(objective, states[-2].position)
    assert (after < 1e-5 * before).all()
    assert (value(objective, states[-1].position) < 1e-18).all()


def dense_direction(state, grad, member):
    """The same direction from dense BFGS updates of the scaled identity."""
    pairs = [
        (s, y)
        for s, y in zip(state.moves[member], state.changes[member], strict=True)
        if s.abs().sum() > 0
    ]
    identity = torch.eye(grad.shape[-1], dtype=grad.dtype, device="cpu")
    inverse = identity
    if pairs:
        s, y = pairs[-1]
        inverse = (s @ y) / (y @ y) * identity
    for s, y in pairs:
        left = identity - torch.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
    return -inverse @ grad[member]


def test_the_direction_is_that_of_dense_updates_with_the_same_pairs():
    method = LBFGSGoldenSection(history=3)
    z = start(ROSENBROCK)
    states = [None, *populations.states(method, ROSENBROCK, z, 7)]
    for k, state in enumerate(states[1:], 1):
        grad = state.grad
        for member in range(4):
            moved = state.position[member] - state.previous[member]
            expected = dense_direction(state, grad, member)
            cosine = (moved @ expected) / (moved.norm() * expected.norm())
            assert cosine == pytest.approx(1.0, abs=1e-9), (k, member)
    assert (state.moves.abs().sum(-1) > 0).all()


@every_monotone
@every_objective
@annotations_unchecked()
def test_the_loss_never_rises(case, name):
    objective = invariants.OBJECTIVES[name]()
    z = start(objective)
    states = populations.states(METHODS_HERE[case], objective, z, 12)
    losses = torch.stack([value(objective, point) for point in [z, *(s.position for s in states)]])
    # Near a minimum, evaluations of one point and of several differ in the last digit.
    assert (losses.diff(dim=0) <= 1e-12 * (1 + losses[:-1].abs())).all()
    assert (losses[-1] < losses[0]).all()


@annotations_unchecked()
def test_rosenbrocks_valley_is_followed_to_its_end():
    z = torch.cat([tensor(-1.2, 1.0)[None], 2 * start(ROSENBROCK)])
    for case in ("bfgs", "lbfgs-gss"):
        end = populations.last(METHODS_HERE[case], ROSENBROCK, z, 60).position
        torch.testing.assert_close(end, torch.ones_like(end), rtol=0.0, atol=1e-7)


def test_dense_estimates_satisfy_the_secant_equation_and_stay_positive_definite():
    states = populations.states(BFGS(), ROSENBROCK, 2 * start(ROSENBROCK), 15)
    for one, other in pairwise(states):
        move, change = other.previous - one.previous, other.grad - one.grad
        learned = other.updates > one.updates
        image = (other.inverse @ change.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(image[learned], move[learned], rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(other.inverse, other.inverse.mT, rtol=1e-9, atol=1e-9)
        assert (torch.linalg.eigvalsh(other.inverse) > 0).all()
    assert (states[8].updates >= 7).all()


def test_dense_estimates_find_the_inverse_hessian_of_a_quadratic():
    objective = quadratic(1.0, 4.0, 20.0)
    state = populations.last(BFGS(), objective, start(objective), 25)
    expected = torch.diag(tensor(1.0, 1 / 4, 1 / 20)).expand(4, 3, 3)
    found = populations.states(BFGS(), objective, start(objective), 14)[-1].inverse
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert norms(state.position).max() < 1e-8


def test_bfgs_is_for_small_dimensions():
    large = Analytic(lambda z: (z * z).sum(-1), dim=2001)
    z = torch.zeros((2, 2001), dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match=r"2001 x 2001 numbers .* up to 2000 .* lbfgs-gss"):
        BFGS().init(large, z)


def steps_of_a_search(objective, z, method):
    """The step lengths tried in the first step, along -g."""
    tried = []

    class Watching:
        dim = objective.dim

        def terms(self):
            return objective.terms()

        def batched_terms(self):
            for term in objective.batched_terms():
                yield lambda rows, term=term: (tried.append(rows[0].clone()), term(rows))[1]

        def value_and_grad(self, z):
            return value_and_grad(objective, z)

    populations.last(method, Watching(), z, 1)
    _, grad = value_and_grad(objective, z)
    return [float((z[0] - point) @ grad[0] / (grad[0] @ grad[0])) for point in tried]


def test_the_published_search_leaps_to_four_times_its_first_trial_and_then_doubles():
    falling = Analytic(lambda z: -z.sum(-1), dim=1)
    tried = steps_of_a_search(falling, tensor(0.0)[None], LBFGSGoldenSection(published=True))
    assert tried == pytest.approx([0.2, 0.8, 1.6, 3.2, 6.4, 12.8])


def test_the_published_search_contracts_by_0382_and_may_end_higher_than_it_began():
    steep = quadratic(1e5)
    z = tensor(1.0)[None]
    tried = steps_of_a_search(steep, z, LBFGSGoldenSection(published=True))
    assert tried == pytest.approx([0.2 * 0.381966**k for k in range(6)], rel=1e-6)
    rises = populations.last(LBFGSGoldenSection(published=True), steep, z, 1).position
    assert value(steep, rises) > 100 * value(steep, z)
    torch.testing.assert_close(rises, z * (1 - 1e5 * tried[-1]), rtol=1e-9, atol=0.0)
    safe = populations.last(LBFGSGoldenSection(), steep, z, 1).position
    assert value(steep, safe) < value(steep, z)


def test_the_published_search_sections_the_larger_part_once_it_has_a_bracket():
    tried = steps_of_a_search(quadratic(1.0), tensor(1.0)[None], LBFGSGoldenSection(published=True))
    # 0.2 and 0.8 fall and 1.6 rises above 0.8: the bracket is 0.2, 0.8, 1.6.
    assert tried[:3] == pytest.approx([0.2, 0.8, 1.6])
    fourth = 0.8 + 0.381966 * 0.8
    assert tried[3] == pytest.approx(fourth, rel=1e-6)
    # It is better, so that 0.8, 1.106, 1.6 is left, and the upper part is the larger one.
    assert tried[4] == pytest.approx(fourth + 0.381966 * (1.6 - fourth), rel=1e-6)


def test_a_member_that_finds_nothing_better_stays_and_then_forgets():
    # Values that the gradient lies about: every trial is worse.
    liar = Analytic(lambda z: norms(z), dim=2, gradient=lambda z: -z)
    for method in (LBFGSGoldenSection(), BFGS()):
        learned = populations.last(method, ROSENBROCK, start(ROSENBROCK), 4)
        stuck, _ = method.step(liar, learned, seeded(0))
        assert torch.equal(stuck.position, learned.position)
        forgot, _ = method.step(liar, stuck, seeded(0))
        if isinstance(method, BFGS):
            identity = torch.eye(2, dtype=torch.float64, device="cpu").expand(4, 2, 2)
            assert torch.equal(forgot.inverse, identity)
            assert not torch.isclose(stuck.inverse, identity).all(-1).all(-1).any()
            assert (forgot.updates == 0).all()
        else:
            assert (forgot.moves == 0).all()
            assert (stuck.moves.abs().sum((-1, -2)) > 0).all()


@pytest.mark.parametrize("case", ["bfgs", "lbfgs-gss"])
def test_a_member_whose_gradient_is_nan_stays(case):
    half = Analytic(
        lambda z: norms(z), dim=2, gradient=lambda z: torch.where(z[..., :1] > 0, math.nan, z)
    )
    z = torch.cat([tensor(1.0, 1.0)[None], tensor(-1.0, 1.0)[None]])
    end = populations.last(METHODS_HERE[case], half, z, 3).position
    assert torch.equal(end[0], z[0])
    assert norms(end[1:]) < norms(z[1:])


def test_a_swarm_may_search_by_golden_sections():
    states = populations.states(
        Swarm(lr=0.0, local=LBFGSGoldenSection()), himmelblau, 3 * start(himmelblau), 15
    )
    fitness = torch.stack([state.best_fitness for state in states])
    assert (fitness.diff(dim=0) <= 0).all()
    assert fitness[-1].min() < 1e-6


@every_objective
@every_method
def test_steps_are_pure_and_resumable(name, case):
    invariants.check_purity(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_resumption(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_members_are_as_many_runs_of_their_own(name, case):
    invariants.check_alone(METHODS_HERE[case], invariants.OBJECTIVES[name](), tolerance=1e-8)


@every_objective
@every_method
def test_devices_types_and_info_are_right(name, case):
    invariants.check_devices_and_types(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_info(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_method
def test_a_nan_stays_with_its_member(case):
    invariants.check_nan_stays_alone(METHODS_HERE[case])


@every_method
def test_members_that_a_swarm_has_moved_go_on_from_there(case):
    invariants.check_moved(METHODS_HERE[case])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BFGS(trials=0), "trials must be at least 1, got 0"),
        (lambda: LBFGSGoldenSection(history=0), "history must be at least 1, got 0"),
        (lambda: LBFGSGoldenSection(trials=0), "trials must be at least 1, got 0"),
        (lambda: LBFGSGoldenSection(tolerance=0.0), "tolerance must be positive and finite, got 0"),
        (
            lambda: METHODS["lbfgs-gss"](tolerance=math.inf),
            "tolerance must be positive and finite, got inf",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_keywords_of_the_named_methods_arrive_where_they_belong():
    assert METHODS["bfgs"](trials=7) == BFGS(trials=7)
    made = METHODS["lbfgs-gss"](history=3, trials=7, tolerance=0.2, published=True)
    assert made == LBFGSGoldenSection(3, 7, 0.2, True)


def test_evaluations_are_those_of_the_gradient_and_of_the_trials():
    counted, total = populations.Counting(ROSENBROCK), 0.0
    for _, info in run(LBFGSGoldenSection(), repeat(counted, 5), start(ROSENBROCK), seeded(0)):
        total += info.evaluations
    assert counted.gradients == 5 * 4
    assert counted.values == round(4 * total) - counted.gradients > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ray_expands_by_the_golden_ratio_to_the_last_digit(dtype):
    seen = []

    def falling(t, rows):
        seen.append(t)
        return -t

    one = torch.ones(2, dtype=dtype, device="cpu")
    rules = Rules(one, 1 + PHI, 1 + PHI, 6, 0 * one, 0.1)
    search_ray(falling, 0 * one, rules)
    places = torch.stack(seen)
    assert places.dtype == dtype
    expected = torch.tensor([(1 + PHI) ** k for k in range(6)], dtype=dtype, device="cpu")
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(places[:, 0], expected, rtol=8 * eps, atol=0.0)
