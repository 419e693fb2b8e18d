"""Schedules against those of torch, and the methods whose step length they change."""

import itertools
from itertools import repeat

import invariants
import populations
import pytest
import torch
from populations import start
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.methods import descent
from cnognp.methods.adaptive import Adam
from cnognp.methods.averaging import SWA
from cnognp.methods.basin_hopping import BasinHopping
from cnognp.methods.composition import Schedule
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.noise import NiG, NormalisedGD
from cnognp.methods.quasi_newton import LBFGSGoldenSection
from cnognp.methods.schedule import Constant, Cosine, Scheduled, StepDecay, WarmUp, slowed
from cnognp.methods.sharpness_aware import SAM
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.networks import Stochastic
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum
from landscape.randomness import derive

SLOPE = Analytic(lambda z: z.sum(-1), dim=1)


def torch_factors(make, rounds):
    parameter = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    scheduler, found = make(optimiser), []
    for _ in range(rounds):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


LR = torch.optim.lr_scheduler
PAIRS = {
    "constant": (Constant(), lambda o: LR.LambdaLR(o, lambda k: 1.0), 20),
    "step": (StepDecay(7, 0.3), lambda o: LR.StepLR(o, 7, 0.3), 30),
    "cosine": (Cosine(20), lambda o: LR.CosineAnnealingLR(o, 20), 20),
    "cosine-final": (Cosine(20, 0.2), lambda o: LR.CosineAnnealingLR(o, 20, eta_min=0.2), 20),
    "warm-up": (WarmUp(5), lambda o: LR.LinearLR(o, start_factor=0.2, total_iters=4), 12),
}


@pytest.mark.parametrize("case", PAIRS)
def test_factors_are_those_of_torch(case):
    schedule, make, rounds = PAIRS[case]
    found = [schedule(k) for k in range(rounds)]
    assert found == pytest.approx(torch_factors(make, rounds), rel=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_a_cosine_falls_to_its_end_and_stays_there(final):
    schedule = Cosine(10, final)
    assert all(schedule(k) > schedule(k + 1) for k in range(10))
    assert schedule(10) == schedule(11) == schedule(1000) == final


def test_after_the_warm_up_the_other_schedule_begins_at_its_beginning():
    schedule = WarmUp(4, StepDecay(2, 0.5))
    assert [schedule(k) for k in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_each_round_steps_by_its_own_step_length():
    z = torch.zeros((1, 1), dtype=torch.float64, device="cpu")
    method = Scheduled(GradientDescent(lr=0.5), StepDecay(2, 0.1))
    states = populations.states(method, SLOPE, z, 6)
    places = torch.cat([z, *(state.position for state in states)]).squeeze(1)
    expected = torch.tensor([0.5, 0.5, 0.05, 0.05, 0.005, 0.005], dtype=torch.float64, device="cpu")
    torch.testing.assert_close(places[:-1] - places[1:], expected, rtol=1e-12, atol=1e-15)


def test_a_scheduled_optimiser_is_torchs_with_its_scheduler():
    z = start(himmelblau)
    method = Scheduled(SGD(lr=0.004, momentum=0.8), WarmUp(3, Cosine(17)))
    found = populations.last(method, himmelblau, z, 20).position
    for row, end in zip(z, found, strict=True):
        parameter = torch.nn.Parameter(row.clone())
        optimiser = torch.optim.SGD([parameter], lr=0.004, momentum=0.8)
        factors = method.schedule
        scheduler = LR.LambdaLR(optimiser, factors)
        for _ in range(20):
            optimiser.zero_grad()
            himmelblau.formula(parameter).backward()
            optimiser.step()
            scheduler.step()
        torch.testing.assert_close(end, parameter.detach(), rtol=1e-10, atol=1e-10)


ROUNDS, SIZE, STEPS = 6, 8, 4  # of the 30 samples the last mini-batch has 6
WARMED_UP = 2 * STEPS
PER_STEP = {
    "cosine": ({"schedule": "cosine"}, lambda o: LR.CosineAnnealingLR(o, ROUNDS * STEPS)),
    "step": ({"schedule": "step"}, lambda o: LR.StepLR(o, 2 * STEPS)),
    "warm-up": (
        {"warmup": 2}, lambda o: LR.LinearLR(o, 1 / WARMED_UP, total_iters=WARMED_UP - 1)
    ),
    "warm-up, then a cosine": (
        {"schedule": "cosine", "warmup": 2},
        lambda o: LR.SequentialLR(o, [
            LR.LinearLR(o, 1 / WARMED_UP, total_iters=WARMED_UP - 1),
            LR.CosineAnnealingLR(o, ROUNDS * STEPS - WARMED_UP),
        ], [WARMED_UP]),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("case", PER_STEP)
@pytest.mark.parametrize("swarm", [False, True])
def test_from_step_to_step_it_is_torchs_scheduler_stepped_by_batch(case, swarm):
    options, make = PER_STEP[case]
    how = {"lr": 0.3, "momentum": 0.8, "batch_size": SIZE}
    how |= {"horizon": ROUNDS, "schedule_per": "step", **options}
    # A swarm whose members are not drawn anywhere is a local search, whose draws are its own.
    how |= {"cognitive": 0.0, "social": 0.0} if swarm else {}
    method, risk = METHODS["cno" if swarm else "sgd"](**how), populations.risk()
    z = risk.point()[None]
    found = populations.states(method, risk, z, ROUNDS, seed=5)
    model = populations.network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.8)
    scheduler = make(optimiser)
    for k, state in enumerate(found):
        of_round = derive(populations.seeded(5), "round", k)
        order = derive(derive(of_round, "local") if swarm else of_round, "epoch")
        for batch in risk.minibatches(SIZE, order, epochs=1):
            ((inputs, target),) = batch.batches
            optimiser.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimiser.step()
            scheduler.step()
        end = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.testing.assert_close(state.position[0], end, rtol=0, atol=1e-12)
    # Else the schedule is another one, but for drops that are made between epochs anyway.
    by_epoch = METHODS["cno" if swarm else "sgd"](**{**how, "schedule_per": "epoch"})
    other = populations.last(by_epoch, risk, z, ROUNDS, seed=5).position
    assert ((other - found[-1].position).abs().max() > 1e-4) == (case != "step")


def test_a_schedule_that_counts_steps_goes_on_where_it_was():
    risk = populations.risk()
    method = METHODS["sgd"](
        lr=0.3, batch_size=SIZE, schedule="cosine", warmup=1, horizon=5, schedule_per="step"
    )
    invariants.check_purity(method, risk)
    invariants.check_resumption(method, risk, rounds=5)


def test_without_minibatches_a_step_is_a_round():
    z = start(himmelblau)
    ends = [
        populations.last(
            METHODS[name](lr=0.003, schedule="cosine", horizon=7, warmup=2, schedule_per=per),
            himmelblau, z, 7,
        ).position
        for name in ("gd", "sgd") for per in ("epoch", "step")
    ]  # fmt: skip
    assert all(torch.equal(ends[0], end) for end in ends)


def test_the_steps_of_an_epoch_are_counted_as_the_data_have_them():
    x, y = populations.data()
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    together = EmpiricalRisk(populations.network(), batches, cross_entropy)
    model = populations.network().float()
    single = torch.utils.data.TensorDataset(x.float(), y)
    loader = EmpiricalRisk(model, torch.utils.data.DataLoader(single, batch_size=7), cross_entropy)
    risks = {
        "rows": populations.risk(), "list": together, "loader": loader,
        "sum": Sum(Ridge(0.1, dim=together.dim), together),
        "trained": Stochastic(together, populations.risk()),
    }  # fmt: skip
    for name, risk in risks.items():
        for size in (1, 7, 8, 30, 31):
            counted = len(list(risk.minibatches(size, populations.seeded(0), epochs=1)))
            assert risk.steps(size) == counted == -(-30 // size), name
    assert descent.steps_of(himmelblau, 8) == descent.steps_of(Ridge(1.0, dim=2), 8) == 1


def test_every_step_length_inside_a_method_is_multiplied():
    assert slowed(Epoch(SAM(Adam(lr=0.4)), 8), 0.5) == Epoch(SAM(Adam(lr=0.2)), 8)
    assert slowed(SWA(Epoch(SGD(lr=0.4), 8)), 0.25) == SWA(Epoch(SGD(lr=0.1), 8))
    assert slowed(Swarm(lr=0.0, local=SGD(lr=0.4)), 0.5) == Swarm(lr=0.0, local=SGD(lr=0.2))
    assert slowed(BasinHopping(lr=0.4, rho=0.1), 0.5) == BasinHopping(lr=0.2, rho=0.1)
    rates = torch.tensor([0.2, 0.4], device="cpu")
    assert torch.equal(slowed(NormalisedGD(lr=rates), 0.5).lr, rates / 2)


@pytest.mark.parametrize("name", ["himmelblau", "network"])
def test_a_schedule_keeps_what_every_method_keeps(name):
    objective = invariants.OBJECTIVES[name]()
    method = Scheduled(SGD(lr=0.003, momentum=0.5), Cosine(6))
    invariants.check_purity(method, objective)
    invariants.check_resumption(method, objective, rounds=5)
    invariants.check_devices_and_types(method, objective)
    invariants.check_alone(method, objective)
    invariants.check_info(method, objective)
    invariants.check_nan_stays_alone(method)
    invariants.check_moved(method)


def test_epochs_inside_a_schedule_are_its_rounds():
    risk = populations.risk()
    method = Scheduled(Epoch(SGD(lr=0.1), 8), StepDecay(1, 0.1))
    z = risk.point()[None]
    far, near = [
        state.position for state, _ in run(method, repeat(risk, 2), z, populations.seeded(0))
    ]
    assert (near - far).norm() < 0.2 * (far - z).norm()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: StepDecay(0), "every must be at least 1, got 0"),
        (lambda: StepDecay(3, 0.0), "factor must be above 0 and at most 1, got 0.0"),
        (lambda: StepDecay(3, 1.5), "factor must be above 0 and at most 1, got 1.5"),
        (lambda: Cosine(0), "horizon must be at least 1, got 0"),
        (lambda: Cosine(3, -0.1), "final must be from 0 to 1, got -0.1"),
        (lambda: Cosine(3, 1.1), "final must be from 0 to 1, got 1.1"),
        (lambda: WarmUp(-1), "rounds must be at least 0, got -1"),
        (
            lambda: Scheduled(LBFGSGoldenSection(), Constant()),
            "method must be one with an lr, itself or in a part, got LBFGS",
        ),
        (lambda: Scheduled(Swarm(lr=0.0), Constant()), "method must be one with an lr"),
        (
            lambda: Scheduled(SGD(), lambda round: 1.0, "step"),
            "schedule must be one with stretched",
        ),
        (
            lambda: populations.unchecked(Schedule, schedule_per="batch"),
            r"schedule_per must be one of \('epoch', 'step'\), got batch",
        ),
        (
            lambda: Schedule(schedule_per="step"),
            "schedule_per must be 'epoch' without schedule or warmup, got step",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_factor_that_is_negative_or_nan_is_refused_by_the_method_itself():
    z = torch.zeros((1, 1), dtype=torch.float64, device="cpu")
    for factor in (-1.0, float("nan")):
        method = Scheduled(GradientDescent(lr=0.1), lambda round, factor=factor: factor)
        with pytest.raises(ValueError, match="lr must be at least 0 and finite"):
            populations.last(method, SLOPE, z, 1)


WARMED = {
    "sgd": SGD(lr=0.004, momentum=0.8),
    "adam": Adam(lr=0.01),
    "sam": SAM(SGD(lr=0.004), rho=0.01),
    "nig": NiG(lr=0.004, rho=0.5),
    "normalised-gd": NormalisedGD(lr=0.05),
    "swarm": Swarm(lr=0.003, cognitive=0.0, social=0.0),
    "swarm-local": Swarm(lr=0.0, local=SGD(lr=0.003), cognitive=0.0, social=0.0),
}


@pytest.mark.parametrize("name", WARMED)
def test_where_the_factor_is_zero_members_stay_and_then_they_go_on(name):
    method = Scheduled(WARMED[name], lambda round: [0.0, 1.0, 0.0, 0.0, 1.0][round])
    z = start(himmelblau)
    places = [z, *(s.position for s in populations.states(method, himmelblau, z, 5))]
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(places)]
    assert moved == [False, True, False, False, True]


@pytest.mark.parametrize("name", ["gd", "sgd", "adam", "nig", "nim-bh", "sam", "gnp", "swa", "cno"])
def test_a_rate_of_zero_is_one(name):
    pulls = {"cognitive": 0.0, "social": 0.0} if name == "cno" else {}
    method = METHODS[name](lr=0.0, **pulls)
    z = start(himmelblau)
    assert torch.equal(populations.last(method, himmelblau, z, 1).position, z)
