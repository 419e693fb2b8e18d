"""Local search and basin hopping: stops, budgets, and which hops are accepted."""

import math
from dataclasses import replace
from itertools import pairwise, repeat

import invariants
import populations
import pytest
import torch
from populations import annotations_unchecked, seeded, start

from cnognp import METHODS
from cnognp.method import norms
from cnognp.methods.basin_hopping import BasinHopping, LocalSearch
from cnognp.methods.descent import DescentState, Epoch, GradientDescent
from cnognp.methods.noise import uniform_ball
from cnognp.methods.stochastic_hopping import StochasticHopping
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.functions import f2, himmelblau, six_hump_camel
from landscape.objective import Analytic, value, value_and_grad
from landscape.randomness import derive

HOPS = {
    f"{kind}-{rule}": BasinHopping(
        lr=0.003, rho=0.5, eps=0.1, tau=4, perturbation=kind, acceptance=rule, temperature=0.5
    )
    for kind in ("gradient", "model")
    for rule in ("always", "monotone", "metropolis")
}
METHODS_HERE = {"local-search": LocalSearch(lr=0.003, eps=0.1, tau=4), **HOPS}
every_method = pytest.mark.parametrize("case", METHODS_HERE)
every_hop = pytest.mark.parametrize("case", HOPS)
every_objective = pytest.mark.parametrize("name", ["himmelblau", "network"])
BOWL = Analytic(lambda z: 2.0 * (z * z).sum(-1), dim=2)


def terrace(height):
    """0 to the left of 1 and ``height`` from there on, without any slope."""
    return Analytic(
        lambda z: torch.where(z[..., 0] < 1, 0.0, height), dim=1, gradient=torch.zeros_like
    )


def test_a_search_ends_where_the_gradient_is_small_after_as_many_steps_as_theory_says():
    z = torch.tensor([[8.0, 0.0], [0.1, 0.0], [1e-4, 0.0]], dtype=torch.float64, device="cpu")
    lr, eps, curvature = 0.05, 1e-3, 4.0
    found = LocalSearch(lr=lr, eps=eps, tau=1000).descend(BOWL, z)
    for row, end, used in zip(z, found.position, found.evaluations, strict=True):
        rate = 1 - lr * curvature
        steps = max(0, math.ceil(math.log(eps / (curvature * float(row[0]))) / math.log(rate)))
        assert used == steps + 1
        torch.testing.assert_close(end, row * rate**steps, rtol=1e-10, atol=0.0)
    assert (norms(found.grad) < eps).all()


@annotations_unchecked()
def test_a_search_is_gradient_descent_member_by_member():
    z, search = start(himmelblau, members=20), LocalSearch(lr=0.01, eps=1.0, tau=60)
    found = search.descend(himmelblau, z)
    path = populations.states(GradientDescent(lr=0.01), himmelblau, z, 60)
    path = [z, *(state.position for state in path)]
    assert len(set(found.evaluations.tolist())) > 3
    for member, used in enumerate(found.evaluations.tolist()):
        assert torch.equal(found.position[member], path[used - 1][member])
        slopes = [norms(value_and_grad(himmelblau, point[member])[1]) for point in path[:used]]
        assert slopes[-1] < 1.0 <= min(slopes[:-1])
    loss, grad = value_and_grad(himmelblau, found.position)
    torch.testing.assert_close((found.loss, found.grad), (loss, grad))


def test_a_search_takes_tau_steps_at_most():
    counted = populations.Counting(BOWL)
    found = LocalSearch(lr=0.01, eps=0.0, tau=7).descend(counted, start(BOWL))
    assert found.evaluations.tolist() == [8] * 4
    assert counted.gradients == 4 * 8
    expected = populations.last(GradientDescent(lr=0.01), BOWL, start(BOWL), 7).position
    assert torch.equal(found.position, expected)


def test_a_search_does_not_write_into_what_an_objective_returns():
    kept = {}

    class Keeping:
        dim = 2

        def terms(self):
            return BOWL.terms()

        def value_and_grad(self, z):
            kept.setdefault("first", value_and_grad(BOWL, z))
            return value_and_grad(BOWL, z) if "again" in kept else kept["first"]

    z = start(BOWL)
    before = [tensor.clone() for tensor in value_and_grad(BOWL, z)]
    objective = Keeping()
    value_and_grad(objective, z)
    LocalSearch(lr=0.1, eps=1e-3, tau=1).descend(objective, z)
    assert all(map(torch.equal, kept["first"], before))


@every_hop
def test_the_first_hop_is_the_local_search_from_the_start(case):
    method, z = HOPS[case], start(himmelblau)
    search = LocalSearch(lr=method.lr, eps=method.eps, tau=method.tau).descend(himmelblau, z)
    state = populations.last(method, himmelblau, z, 1)
    assert torch.equal(state.position, search.position)
    assert torch.equal(state.trial, search.position)
    assert torch.equal(state.evaluations, search.evaluations)


@annotations_unchecked()
@pytest.mark.parametrize("acceptance", ["always", "monotone"])
def test_a_hop_starts_at_the_accepted_minimum_and_not_at_the_last_candidate(
    acceptance, monkeypatch
):
    zeta = torch.tensor([[0.3, -0.2]], dtype=torch.float64, device="cpu")
    drawn = lambda objective, z, rho, generator, per_tensor: zeta.expand_as(z)  # noqa: E731
    monkeypatch.setattr("cnognp.methods.basin_hopping.uniform_ball", drawn)
    for kind in ("gradient", "model"):
        method = BasinHopping(
            lr=0.01, rho=1.0, eps=0.5, tau=30, perturbation=kind, acceptance=acceptance
        )
        states = populations.states(method, six_hump_camel, start(six_hump_camel), 5)
        search = LocalSearch(lr=0.01, eps=0.5, tau=30)
        for before, after in pairwise(states):
            w = before.position
            _, grad = value_and_grad(six_hump_camel, w)
            begin = w - 0.01 * (grad + zeta) if kind == "gradient" else w + zeta
            candidate = search.descend(six_hump_camel, begin).position
            torch.testing.assert_close(after.trial, candidate, rtol=1e-13, atol=1e-13)


@annotations_unchecked()
@pytest.mark.parametrize("kind", ["gradient", "model"])
def test_monotone_hops_compare_with_the_minimum_accepted_last(kind):
    how = {"lr": 0.01, "rho": 1.5, "eps": 0.01, "tau": 200, "perturbation": kind}
    if kind == "gradient":
        how["rho"] = 150.0
    objective, z = six_hump_camel, 2 * start(six_hump_camel, members=20)
    states = populations.states(BasinHopping(**how, acceptance="monotone"), objective, z, 12)
    refused = 0
    for before, after in pairwise(states):
        better = value(objective, after.trial) < value(objective, before.position)
        expected = torch.where(better.unsqueeze(-1), after.trial, before.position)
        assert torch.equal(after.position, expected)
        refused += int((~better).sum())
    assert 0 < refused < 20 * 11


@annotations_unchecked()
def test_monotone_and_plain_hops_by_the_model_part_where_a_hop_rises():
    # The published listing of NiM-MBH compares with the perturbed point: it would be NiM-BH.
    how = {"lr": 0.01, "rho": 1.5, "eps": 0.01, "tau": 200}
    z = 2 * start(six_hump_camel, members=20)
    plain = populations.states(METHODS["nim-bh"](**how), six_hump_camel, z, 12)
    monotone = populations.states(METHODS["nim-mbh"](**how), six_hump_camel, z, 12)
    losses = [
        torch.stack([value(six_hump_camel, state.position) for state in states])
        for states in (plain, monotone)
    ]
    assert torch.equal(plain[0].position, monotone[0].position)
    assert not torch.allclose(plain[-1].position, monotone[-1].position)
    assert (losses[0].diff(dim=0) > 0.1).any()
    assert (losses[1].diff(dim=0) <= 0).all()
    assert losses[1][-1].mean() < losses[0][-1].mean() - 0.1


@annotations_unchecked()
def test_a_candidate_is_always_below_the_perturbed_point_so_comparing_with_that_tests_nothing(
    monkeypatch,
):
    from cnognp.methods import basin_hopping

    seen, original = [], basin_hopping.LocalSearch.descend

    def watched(self, objective, z):
        found = original(self, objective, z)
        seen.append((value(objective, z), found.loss))
        return found

    monkeypatch.setattr(basin_hopping.LocalSearch, "descend", watched)
    how = {"lr": 0.01, "rho": 1.5, "eps": 0.01, "tau": 200}
    populations.last(METHODS["nim-bh"](**how), six_hump_camel, start(six_hump_camel), 10)
    assert all((candidate < perturbed).all() for perturbed, candidate in seen)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_metropolis_accepts_a_rise_as_often_as_boltzmann_says(temperature):
    members, height = 20_000, 1.0
    method = BasinHopping(
        lr=1.0, rho=0.5, perturbation="model", acceptance="metropolis", temperature=temperature
    )
    z = torch.full((members, 1), 1.0 - 1e-12, dtype=torch.float64, device="cpu")
    end = populations.last(method, terrace(height), z, 2)
    up = end.trial[:, 0] >= 1
    moved = (end.position != z)[:, 0]
    assert moved[~up].all()
    expected = math.exp(-height / temperature)
    error = math.sqrt(expected * (1 - expected) / int(up.sum()))
    assert abs(moved[up].double().mean() - expected) < 5 * error


@annotations_unchecked()
def test_metropolis_is_monotone_without_heat_and_accepts_everything_with_a_lot_of_it():
    how = {"lr": 0.01, "rho": 1.5, "eps": 0.01, "tau": 200, "perturbation": "model"}
    z = 2 * start(six_hump_camel, members=20)

    def end(**more):
        return populations.last(BasinHopping(**how, **more), six_hump_camel, z, 8).position

    cold = end(acceptance="metropolis", temperature=1e-12)
    hot = end(acceptance="metropolis", temperature=1e12)
    # A hop that falls back into its own minimum may land a little higher or lower.
    torch.testing.assert_close(cold, end(acceptance="monotone"), rtol=0.0, atol=0.01)
    assert torch.equal(hot, end(acceptance="always"))


@every_hop
def test_evaluations_are_counted_member_by_member(case):
    method, total = replace(HOPS[case], eps=20.0, tau=30), 0.0
    counted = populations.Counting(himmelblau)
    z = start(himmelblau)
    for state, info in run(method, repeat(counted, 4), z, seeded(7)):
        total += info.evaluations
        assert state.evaluations.double().mean() == pytest.approx(total)
    assert counted.gradients == state.evaluations.sum()
    assert len(set(state.evaluations.tolist())) > 1


@annotations_unchecked()
@pytest.mark.parametrize("name", ["nig-mbh", "nim-mbh"])
def test_monotone_hopping_finds_the_global_minima_of_the_six_hump_camel(name):
    rho = {"nig-mbh": 200.0, "nim-mbh": 2.0}[name]
    method = METHODS[name](lr=0.01, rho=rho, eps=1e-3, tau=300)
    z = 2 * start(six_hump_camel, members=10)
    end = populations.last(method, six_hump_camel, z, 25).position
    lowest = six_hump_camel.minima[0].value
    torch.testing.assert_close(
        value(six_hump_camel, end), torch.full_like(end[:, 0], lowest), rtol=0.0, atol=1e-4
    )


@every_objective
@every_method
def test_steps_are_pure_and_resumable(name, case):
    invariants.check_purity(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_resumption(METHODS_HERE[case], invariants.OBJECTIVES[name](), rounds=3)


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
def test_searches_are_as_many_runs_of_their_own(name):
    invariants.check_alone(METHODS_HERE["local-search"], invariants.OBJECTIVES[name]())


@every_method
def test_a_nan_stays_with_its_member(case):
    invariants.check_nan_stays_alone(METHODS_HERE[case])


@every_method
def test_members_that_a_swarm_has_moved_go_on_from_there(case):
    invariants.check_moved(METHODS_HERE[case])


def test_a_swarm_may_search_by_hopping():
    hops = BasinHopping(lr=0.002, rho=0.05, eps=0.1, tau=20, perturbation="model")
    swarm = Swarm(lr=0.0, local=hops)
    states = populations.states(swarm, f2(2), start(f2(2)), 6)
    fitness = torch.stack([state.best_fitness for state in states])
    assert (fitness.diff(dim=0) <= 0).all()
    torch.testing.assert_close(value(f2(2), states[-1].best), states[-1].best_fitness)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LocalSearch(lr=-0.5), "lr must be at least 0 and finite, got -0.5"),
        (lambda: LocalSearch(lr=0.1, eps=-1.0), "eps must be at least 0 and finite, got -1.0"),
        (lambda: LocalSearch(lr=0.1, tau=0), "tau must be at least 1, got 0"),
        (lambda: BasinHopping(lr=-1.0, rho=0.1), "lr must be at least 0 and finite, got -1.0"),
        (lambda: BasinHopping(lr=0.1, rho=-0.1), "rho must be at least 0 and finite, got -0.1"),
        (lambda: BasinHopping(lr=0.1, rho=0.1, tau=0), "tau must be at least 1, got 0"),
        (
            lambda: BasinHopping(lr=0.1, rho=0.1, temperature=0.0),
            "temperature must be positive and finite, got 0.0",
        ),
        (
            lambda: populations.unchecked(BasinHopping, lr=0.1, rho=0.1, perturbation="both"),
            r"perturbation must be one of \('gradient', 'model'\), got both",
        ),
        (
            lambda: populations.unchecked(BasinHopping, lr=0.1, rho=0.1, acceptance="never"),
            r"acceptance must be one of \('always', 'monotone', 'metropolis'\), got never",
        ),
        (
            lambda: METHODS["nim-mbh"](temperature=-1.0),
            "temperature must be at least 0 and finite, got -1.0",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["nig-bh", "nim-bh", "nig-mbh", "nim-mbh"])
def test_keywords_of_the_named_methods_arrive_where_they_belong(name):
    how = {"lr": 0.3, "rho": 0.2, "eps": 0.1, "tau": 7, "per_tensor": True}
    kind = "gradient" if name.startswith("nig") else "model"
    rule = "monotone" if name.endswith("mbh") else "always"
    made = METHODS[name](**how)
    assert made == BasinHopping(**how, perturbation=kind, acceptance=rule)
    if rule == "monotone":
        assert METHODS[name](**how, temperature=0.7) == BasinHopping(
            **how, perturbation=kind, acceptance="metropolis", temperature=0.7
        )


def hops(perturbation, rho=0.05, eps=0.0, tau=3):
    return StochasticHopping(0.01, rho, eps, tau, perturbation)


def test_a_hop_on_mini_batches_is_descent_with_noise_after_every_tau_steps():
    """A loop of its own, of one member, with the same draws of the noise."""
    objective = himmelblau
    for perturbation, period in (("model", 3), ("gradient", 4)):
        method = hops(perturbation)
        state = method.init(objective, start(objective))
        z = state.position.clone()
        for k in range(13):
            generator = seeded(k)
            noise = torch.zeros_like(z)
            # NiG's perturbed step comes between two descents; NiM's is the first of a descent.
            if k >= 3 and (k - 3) % period == 0:
                noise = uniform_ball(objective, z, 0.05, derive(seeded(k), "noise"))
            if perturbation == "model":
                z = z + noise
                z = z - 0.01 * value_and_grad(objective, z)[1]
            else:
                z = z - 0.01 * (value_and_grad(objective, z)[1] + noise)
            state, info = method.step(objective, state, generator)
            assert info.evaluations == 1
            torch.testing.assert_close(state.position, z, rtol=1e-12, atol=0)


def test_a_descent_on_mini_batches_ends_where_the_gradient_is_small():
    method = hops("model", rho=1.0, eps=1e3, tau=1000)
    state = method.init(himmelblau, start(himmelblau))
    still, _ = method.step(himmelblau, state, seeded(0))
    assert (still.taken == -1).all()
    plain = LocalSearch(0.01, 0.0, 1).step(himmelblau, DescentState(start(himmelblau)), seeded(0))
    assert torch.equal(still.position, plain[0].position)
    moved, _ = method.step(himmelblau, still, seeded(1))
    assert (norms(moved.position - still.position) > 0.1).all()


def test_basin_hopping_by_name_takes_mini_batches_and_a_hop_that_compares_does_not():
    made = METHODS["nim-bh"](lr=0.2, rho=0.1, eps=0.5, tau=7, batch_size=8)
    assert made == Epoch(StochasticHopping(0.2, 0.1, 0.5, 7, "model", False), 8)
    assert METHODS["nig-bh"](batch_size=4).method.perturbation == "gradient"
    assert isinstance(METHODS["nig-bh"](), BasinHopping)
    with pytest.raises(TypeError, match="batch_size"):
        METHODS["nim-mbh"](batch_size=8)
    with pytest.raises(ValueError, match="acceptance must be 'always' on mini-batches"):
        BasinHopping(acceptance="monotone").on_minibatches()
    for kind, more in (("nig", {}), ("nim", {"eps": 1.0})):
        epoch = METHODS[kind](lr=0.1, batch_size=16, **more)
        assert isinstance(epoch, Epoch) and epoch.size == 16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": -1.0}, "lr must be at least 0"), ({"rho": math.nan}, "rho must be at least 0"),
        ({"tau": 0}, "tau must be at least 1"), ({"eps": -1.0}, "eps must be at least 0"),
        ({"perturbation": "loss"}, "perturbation must be one of"),
    ],
)  # fmt: skip
def test_a_hop_on_mini_batches_refuses_what_is_out_of_range(given, said):
    with pytest.raises(ValueError, match=said):
        StochasticHopping(**given)
