"""Normalised and noisy gradient descent: the ball's law, the rules, the rates."""

import math
from itertools import repeat

import invariants
import populations
import pytest
import torch
from populations import seeded, start
from scipy import stats

from cnognp import METHODS
from cnognp.method import norms
from cnognp.methods.descent import GradientDescent
from cnognp.methods.noise import NiG, NiM, NormalisedGD, uniform_ball
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.objective import Analytic, value_and_grad

NOISY = {
    "nig": NiG(lr=0.003, rho=0.5),
    "nim": NiM(lr=0.003, rho=0.5, eps=50.0, tau=1),
}
METHODS_HERE = {"normalised-gd": NormalisedGD(lr=0.05), **NOISY}
every_method = pytest.mark.parametrize("case", METHODS_HERE)
every_objective = pytest.mark.parametrize("name", invariants.OBJECTIVES)

# A true law is rejected once in a million times: P(D > bound) <= 2 exp(-2 n bound^2)
# (Dvoretzky, Kiefer & Wolfowitz, with Massart's constant).
DRAWS = 4000
BOUND = math.sqrt(math.log(2e6) / (2 * DRAWS))


def bowl(curvature, dim=2):
    return Analytic(lambda z: curvature / 2 * (z * z).sum(-1), dim=dim)


def zeros(n, dim):
    return torch.zeros((n, dim), dtype=torch.float64, device="cpu")


def distance(sample, law):
    return stats.kstest(sample.numpy(), law).statistic


@pytest.mark.parametrize("dim", [1, 2, 7, 43])
def test_the_ball_is_filled_uniformly(dim):
    rho = 0.3
    zeta = uniform_ball(bowl(1.0, dim), zeros(DRAWS, dim), rho, seeded(11))
    length = norms(zeta)
    assert length.max() <= rho
    # The share of the ball within a radius r is (r / rho)^dim.
    assert distance((length / rho) ** dim, stats.uniform.cdf) < BOUND
    if dim > 1:
        cosine = zeta[:, 0] / length
        law = stats.beta(0.5, (dim - 1) / 2).cdf
        assert distance(cosine**2, law) < BOUND
    positive = (zeta[:, 0] > 0).double().mean()
    assert abs(positive - 0.5) < 5 * 0.5 / math.sqrt(DRAWS)


def test_direction_and_length_are_independent():
    zeta = uniform_ball(bowl(1.0), zeros(DRAWS, 2), 1.0, seeded(12))
    angle = torch.atan2(zeta[:, 1], zeta[:, 0])
    assert distance(angle, stats.uniform(-math.pi, 2 * math.pi).cdf) < BOUND
    near = norms(zeta) < math.sqrt(0.5)
    for half in (angle[near], angle[~near]):
        bound = math.sqrt(math.log(2e6) / (2 * len(half)))
        assert distance(half, stats.uniform(-math.pi, 2 * math.pi).cdf) < bound


def test_every_tensor_has_a_ball_of_its_own_that_scales_with_it():
    risk = populations.risk()
    layout = risk.layout
    z = risk.point().repeat(DRAWS, 1)
    last = layout.entries[-1]
    z[:, last.span] = 0.0
    zeta = uniform_ball(risk, z, 0.2, seeded(13), per_tensor=True)
    assert (zeta[:, last.span] == 0).all()
    for entry in layout.entries[:-1]:
        share = norms(zeta[:, entry.span]) / (0.2 * norms(z[:, entry.span]))
        assert share.max() <= 1 + 1e-12
        assert distance(share**entry.size, stats.uniform.cdf) < BOUND, entry.name


def test_tensors_need_a_layout():
    for method in (NiG(lr=0.1, rho=0.1, per_tensor=True), NiM(0.1, 0.1, 1e9, 0, per_tensor=True)):
        with pytest.raises(ValueError, match="per_tensor=True needs an objective with a layout"):
            populations.last(method, himmelblau, start(himmelblau), 1)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_steps_of_equal_length_end_within_their_length(curvature):
    z = start(bowl(curvature), members=6)
    ends = populations.states(NormalisedGD(lr=0.05), bowl(curvature), z, 60)[-5:]
    assert all((norms(state.position) <= 0.05 * (1 + 1e-9)).all() for state in ends)


def test_noise_in_the_gradient_is_a_gradient_step_and_lr_times_a_point_of_the_ball():
    z = start(himmelblau, members=DRAWS)
    _, grad = value_and_grad(himmelblau, z)
    moved = populations.last(NiG(lr=0.01, rho=0.7), himmelblau, z, 1).position
    zeta = (z - moved) / 0.01 - grad
    assert norms(zeta).max() <= 0.7 * (1 + 1e-9)
    assert distance((norms(zeta) / 0.7) ** 2, stats.uniform.cdf) < BOUND


def test_noise_in_the_gradient_settles_at_the_variance_of_an_autoregression():
    lr, curvature, rho, dim = 0.1, 3.0, 0.5, 2
    method = NiG(lr=lr, rho=rho)
    end = populations.last(method, bowl(curvature), zeros(DRAWS, dim), 60).position
    noise = (lr * rho) ** 2 / (dim + 2)
    expected = noise / (1 - (1 - lr * curvature) ** 2)
    # Bounded noise has lighter tails than a normal law, whose variance of the variance is 2 v^2.
    error = expected * math.sqrt(2 / (DRAWS * dim))
    assert abs((end**2).mean() - expected) < 5 * error


@pytest.mark.parametrize("method", [NiG(lr=0.01, rho=0.0), NiM(lr=0.01, rho=0.5, eps=0.0, tau=0)])
def test_without_noise_it_is_gradient_descent_bit_for_bit(method):
    z = start(himmelblau)
    expected = populations.last(GradientDescent(lr=0.01), himmelblau, z, 20).position
    assert torch.equal(populations.last(method, himmelblau, z, 20).position, expected)


def test_noise_in_the_model_comes_after_tau_gradients_and_only_to_members_that_stand_still():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64, device="cpu")
    method = NiM(lr=0.1, rho=0.2, eps=0.5, tau=3)
    rounds = list(run(method, repeat(bowl(1.0), 4), z, seeded(3)))
    for k, (state, info) in enumerate(rounds[:3], 1):
        assert torch.equal(state.position[0], z[0])
        assert info.evaluations == 1
        assert state.evaluations.tolist() == [k, k]
    state, info = rounds[3]
    assert info.evaluations == 1.5
    assert state.evaluations.tolist() == [5, 4]
    assert 0 < norms(state.position[:1]) <= 0.9 * 0.2
    torch.testing.assert_close(state.position[1], z[1] * 0.9**4, rtol=1e-14, atol=0.0)


def test_noise_in_the_model_is_followed_by_a_step_along_the_gradient_there():
    method = NiM(lr=0.1, rho=0.2, eps=0.5, tau=0)
    end = populations.last(method, bowl(4.0), zeros(DRAWS, 2), 1).position
    share = norms(end) / (0.2 * (1 - 0.1 * 4.0))
    assert share.max() <= 1
    assert distance(share**2, stats.uniform.cdf) < BOUND


def test_normalised_steps_are_all_of_one_length_and_end_where_there_is_no_gradient():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, device="cpu")
    states = populations.states(NormalisedGD(lr=0.25), bowl(7.0), z, 19)
    for k, state in enumerate(states, 1):
        torch.testing.assert_close(state.position[0], z[0] * (1 - 0.25 * k / 5))
        assert torch.equal(state.position[1], z[1])


def test_normalised_steps_stay_within_their_length_of_a_minimum():
    z = start(bowl(2.0), members=50)
    last = populations.states(NormalisedGD(lr=0.1), bowl(2.0), z, 60)[20:]
    assert all(norms(state.position).max() <= 0.1 for state in last)


@every_objective
@every_method
def test_steps_are_pure_and_resumable(name, case):
    invariants.check_purity(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_resumption(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_devices_types_and_info_are_right(name, case):
    invariants.check_devices_and_types(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_info(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_a_members_numbers_are_its_own(name, case):
    invariants.check_rows_belong_to_members(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
def test_members_are_as_many_runs_of_their_own(name):
    invariants.check_alone(METHODS_HERE["normalised-gd"], invariants.OBJECTIVES[name]())


@every_method
def test_a_nan_stays_with_its_member(case):
    invariants.check_nan_stays_alone(METHODS_HERE[case])


@every_method
def test_members_that_a_swarm_has_moved_go_on_from_there(case):
    invariants.check_moved(METHODS_HERE[case])


def test_members_and_rounds_draw_different_numbers():
    states = populations.states(NiG(lr=1.0, rho=0.5), bowl(1.0), zeros(4, 2), 3)
    drawn = torch.cat([state.position for state in states])
    assert len(drawn.unique(dim=0)) == 12
    again = populations.states(NiG(lr=1.0, rho=0.5), bowl(1.0), zeros(4, 2), 3, seed=8)
    assert not torch.equal(again[0].position, states[0].position)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NormalisedGD(lr=-0.5), "lr must be at least 0 and finite, got -0.5"),
        (lambda: NiG(lr=-1.0, rho=0.1), "lr must be at least 0 and finite, got -1.0"),
        (lambda: NiG(lr=0.1, rho=-0.1), "rho must be at least 0 and finite, got -0.1"),
        (lambda: NiM(lr=float("nan"), rho=0.1), "lr must be at least 0 and finite, got nan"),
        (lambda: NiM(lr=0.1, rho=float("inf")), "rho must be at least 0 and finite, got inf"),
        (lambda: NiM(lr=0.1, rho=0.1, eps=-1.0), "eps must be at least 0 and finite, got -1.0"),
        (lambda: NiM(lr=0.1, rho=0.1, tau=-1), "tau must be at least 0, got -1"),
        (lambda: METHODS["nig"](rho=-1.0), "rho must be at least 0 and finite, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_keywords_of_the_named_methods_arrive_where_they_belong():
    assert METHODS["normalised-gd"](lr=0.3) == NormalisedGD(lr=0.3)
    assert METHODS["nig"](lr=0.3, rho=0.2, per_tensor=True) == NiG(0.3, 0.2, True)
    made = METHODS["nim"](lr=0.3, rho=0.2, eps=0.1, tau=7, per_tensor=True)
    assert made == NiM(0.3, 0.2, 0.1, 7, True)
