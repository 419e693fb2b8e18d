"""Gradient descent, momentum and epochs against torch.optim and closed forms."""

import copy
import math
from dataclasses import replace
from itertools import repeat

import numpy as np
import populations
import pytest
import torch
from populations import Record, data, network, risk, seeded, start
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cnognp import METHODS
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.quasi_newton import LBFGS
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.networks.reestimation import Reestimated, Stochastic
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Ridge, Sum, value
from landscape.randomness import derive

SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.1},
    "all": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.05},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)


class Trained:
    """Plain networks, each with its own torch optimiser, at the rows of z."""

    def __init__(self, z, kind=torch.optim.SGD, **options):
        self.models = [network(z.dtype) for _ in z]
        self.place(z)
        self.optimisers = [kind(model.parameters(), **options) for model in self.models]

    def place(self, z):
        for model, row in zip(self.models, z, strict=True):
            vector_to_parameters(row.clone(), model.parameters())

    def step(self, inputs, target):
        for model, optimiser in zip(self.models, self.optimisers, strict=True):
            optimiser.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimiser.step()

    def at(self):
        return torch.stack([parameters_to_vector(m.parameters()).detach() for m in self.models])


@every_setting
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fifty_steps_are_those_of_torch(setting, dtype, within):
    inputs, target = data()
    z = start(risk(), members=3, dtype=dtype)
    theirs = Trained(z, lr=0.05, **SETTINGS[setting])
    states = populations.states(SGD(lr=0.05, **SETTINGS[setting]), risk(), z, 50)
    for k, state in enumerate(states, 1):
        theirs.step(inputs.to(dtype), target)
        if k in (1, 2, 50):
            torch.testing.assert_close(state.position, theirs.at(), rtol=0, atol=within)


def test_gradient_descent_is_torch_without_momentum_and_follows_its_closed_form():
    inputs, target = data()
    z = start(risk(), members=2)
    theirs = Trained(z, lr=0.05)
    for _ in range(50):
        theirs.step(inputs, target)
    ours = populations.last(GradientDescent(lr=0.05), risk(), z, 50)
    torch.testing.assert_close(ours.position, theirs.at(), rtol=0, atol=1e-12)
    # On weight / 2 |z|^2 the error shrinks by 1 - lr * weight in every step.
    bowl = Ridge(4.0, dim=3)
    z = start(bowl)
    states = populations.states(GradientDescent(lr=0.1), bowl, z, 20)
    for k, state in enumerate(states, 1):
        torch.testing.assert_close(state.position, 0.6**k * z, rtol=1e-13, atol=0)


@pytest.mark.parametrize("curvature, momentum", [(4.0, 0.5), (1.0, 0.9)])
def test_momentum_on_a_parabola_follows_its_two_term_recurrence(curvature, momentum):
    bowl, lr = Ridge(curvature, dim=1), 0.1
    z = torch.tensor([[1.0]], dtype=torch.float64, device="cpu")
    before, now = 1.0, 1.0 - lr * curvature
    states = populations.states(SGD(lr=lr, momentum=momentum), bowl, z, 30)
    for state in states:
        assert float(state.position[0, 0]) == pytest.approx(now, abs=1e-13)
        before, now = now, now - lr * curvature * now + momentum * (now - before)


@pytest.mark.parametrize("lr, ends", [(0.098, True), (0.102, False)])
def test_a_minimum_attracts_only_below_two_over_its_curvature(lr, ends):
    bowl = Ridge(20.0, dim=2)
    far = populations.last(METHODS["gd"](lr=lr), bowl, start(bowl), 200).position.abs().max()
    assert bool(far < 0.1) is ends
    assert math.isfinite(far)


@pytest.mark.parametrize("size", [1, 7, 8, 30, 100])
def test_an_epoch_takes_every_sample_once(size):
    seen = []
    method = Epoch(Record(seen), size, evaluate=False)
    populations.last(method, numbered(), start(numbered(), 2), 2)
    batches = [objective.batches[0][1] for kind, objective, _ in seen if kind == "step"]
    lengths = [min(size, 30 - first) for first in range(0, 30, size)]
    assert [len(batch) for batch in batches] == lengths * 2
    first, second = (torch.cat(part) for part in (batches[: len(lengths)], batches[len(lengths) :]))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(30))
    assert not torch.equal(first, second)
    assert first.tolist() != list(range(30))
    seeds = [seed for kind, _, seed in seen if kind == "step"]
    assert len(set(seeds)) == len(seeds)


def numbered():
    """A risk whose targets are the numbers of its samples."""
    inputs, _ = data()
    model = nn.Linear(4, 1, device="cpu", dtype=torch.float64)
    return EmpiricalRisk(
        model, (inputs, torch.arange(30, device="cpu")), lambda out, y: (out[:, 0] - y).abs().mean()
    )


def minibatches(generator, size, epochs=1):
    """(inputs, target) of one epoch."""
    for batch in risk().minibatches(size, generator, epochs=epochs):
        ((inputs, target),) = batch.batches
        yield inputs, target


@every_setting
def test_epochs_are_those_of_torch_on_the_same_minibatches_and_momentum_lasts_over_them(setting):
    z = start(risk(), members=2)
    theirs = Trained(z, lr=0.05, **SETTINGS[setting])
    method = Epoch(SGD(lr=0.05, **SETTINGS[setting]), 8)
    states = populations.states(method, risk(), z, 3, seed=5)
    for k, state in enumerate(states):
        order = derive(derive(seeded(5), "round", k), "epoch")
        for inputs, target in minibatches(order, 8):
            theirs.step(inputs, target)
        torch.testing.assert_close(state.position, theirs.at(), rtol=0, atol=1e-12)
        assert torch.equal(state.inner.position, state.position)


def test_a_stream_of_minibatches_is_an_epoch_in_single_steps():
    z, method = start(risk(), members=2), SGD(lr=0.05, momentum=0.9)
    theirs = Trained(z, lr=0.05, momentum=0.9)
    stream = risk().minibatches(8, seeded(5), epochs=2)
    states = [state for state, _ in run(method, stream, z, seeded(0))]
    for inputs, target in minibatches(seeded(5), 8, epochs=2):
        theirs.step(inputs, target)
    assert len(states) == 8
    torch.testing.assert_close(states[-1].position, theirs.at(), rtol=0, atol=1e-12)


def test_the_same_seed_repeats_an_epoch_and_another_one_does_not():
    method, z = METHODS["sgd"](lr=0.1, batch_size=8), start(risk())
    ends = [populations.last(method, risk(), z, 2, seed=seed).position for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_an_epoch_on_an_objective_without_minibatches_is_one_step():
    z = start(himmelblau)
    one = populations.last(METHODS["sgd"](lr=0.01, momentum=0.5), himmelblau, z, 5)
    other = populations.last(SGD(lr=0.01, momentum=0.5), himmelblau, z, 5)
    assert torch.equal(one.position, other.position)


def test_the_ridge_of_a_sum_stays_whole_in_every_minibatch():
    z, weight = start(risk(), members=2), 0.3
    summed = Sum(risk(), Ridge(weight, dim=risk().dim))
    decayed = METHODS["sgd"](lr=0.05, weight_decay=weight, batch_size=8)
    one = populations.last(METHODS["sgd"](lr=0.05, batch_size=8), summed, z, 3).position
    other = populations.last(decayed, risk(), z, 3).position
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method, evaluations",
    [(SGD(lr=0.1), 1), (LBFGS(iterations=4), 4), (Epoch(SGD(lr=0.1), 5), 1)],
)
def test_an_epoch_counts_the_passes_of_its_method(method, evaluations):
    for evaluate in (True, False):
        epoch = Epoch(method, 8, evaluate=evaluate)
        (_, info), *_ = run(epoch, [risk()], start(risk()), seeded(0))
        assert info.evaluations == evaluations
        swarm = Swarm(lr=0.0, local=epoch)
        (_, first), (_, info) = run(swarm, [risk()] * 2, start(risk()), seeded(0))
        assert info.evaluations == evaluations + 1
        # The starts are judged too, and their evaluation counts in the first step.
        assert first.evaluations == evaluations + 2


def test_an_epoch_that_does_not_evaluate_moves_in_the_same_way_and_reports_nothing():
    z, loud = start(risk()), Epoch(SGD(lr=0.05), 8)
    quiet = replace(loud, evaluate=False)
    for (one, told), (other, silent) in zip(
        run(loud, [risk()] * 2, z, seeded(0)), run(quiet, [risk()] * 2, z, seeded(0)), strict=True
    ):
        assert torch.equal(one.position, other.position)
        assert silent[:4] == (None, None, None, None)
        assert torch.equal(told.loss, value(risk(), one.position))


@pytest.mark.parametrize("inertia", [1.0, 0.7])
def test_an_epoch_as_a_local_search_is_torch_between_the_pulls_of_the_swarm(inertia):
    z, social = start(risk(), members=3), 0.4
    method = Swarm(
        lr=0.0, local=Epoch(SGD(lr=0.05, momentum=0.9), 8, evaluate=False), inertia=inertia,
        cognitive=0.0, social=social,
    )  # fmt: skip
    theirs = Trained(z, lr=0.05, momentum=0.9)
    inputs, target = data()
    best, best_loss = z.clone(), losses(theirs.models, inputs, target)
    for k, state in enumerate(populations.states(method, risk(), z, 4, seed=3)):
        generator = derive(seeded(3), "round", k)
        before, leader = theirs.at(), best[best_loss.argmin()]
        for pair in minibatches(derive(derive(generator, "local"), "epoch"), 8):
            theirs.step(*pair)
        r = torch.rand(
            (3, 2, 1), generator=derive(generator, "attraction"), dtype=z.dtype, device="cpu"
        )
        moved = before + inertia * (theirs.at() - before) + social * r[:, 1] * (leader - before)
        # The optimisers keep their momentum where the swarm puts their networks elsewhere.
        theirs.place(moved)
        torch.testing.assert_close(state.position, moved, rtol=0, atol=1e-12)
        now = losses(theirs.models, inputs, target)
        best = torch.where((now < best_loss)[:, None], moved, best)
        best_loss = torch.minimum(now, best_loss)
        torch.testing.assert_close(state.best, best, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.best_fitness, best_loss, rtol=0, atol=1e-12)
    velocity = [o.state[p]["momentum_buffer"].flatten() for o, p in last_tensors(theirs)]
    kept = state.local.inner.velocity[:, -len(velocity[0]) :]
    torch.testing.assert_close(kept, torch.stack(velocity), rtol=0, atol=1e-12)


def last_tensors(trained):
    return [
        (optimiser, list(model.parameters())[-1])
        for optimiser, model in zip(trained.optimisers, trained.models, strict=True)
    ]


def losses(models, inputs, target):
    return torch.stack([cross_entropy(m(inputs), target).detach() for m in models])


@pytest.mark.parametrize(
    "local", [GradientDescent(0.05), SGD(lr=0.05, momentum=0.9), LBFGS(0.1), Epoch(SGD(0.05), 8)]
)
def test_a_lonely_member_is_its_local_search(local):
    z = start(risk(), members=1)
    lonely = Swarm(lr=0.0, local=local, cognitive=0.0, social=0.0)
    outer = seeded(2)
    state, own = lonely.init(risk(), z), local.init(risk(), z)
    for k in range(4):
        generator = derive(outer, "round", k)
        state, _ = lonely.step(risk(), state, generator)
        own, _ = local.step(risk(), own, derive(generator, "local"))
        torch.testing.assert_close(state.position, own.position, rtol=1e-14, atol=1e-14)


def normalised():
    model = nn.Sequential(
        nn.Linear(4, 6, device="cpu", dtype=torch.float64),
        nn.BatchNorm1d(6, device="cpu", dtype=torch.float64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(6, 3, device="cpu", dtype=torch.float64),
    )
    source = seeded(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=p.dtype, device="cpu") / 2)
    return model


def trained_and_judged():
    """Mini-batches with batch statistics and dropout; judged with re-estimated ones and without."""
    model = normalised()
    training = EmpiricalRisk(model, data(), cross_entropy, statistics="batch")
    quiet = copy.deepcopy(model).eval()
    return Stochastic(Reestimated(EmpiricalRisk(quiet, data(), cross_entropy)), training)


@pytest.mark.parametrize("name", ["sgd", "cno", "cnognp"])
def test_networks_with_batch_norm_and_dropout_are_judged_by_the_statistics_of_their_point(name):
    objective = trained_and_judged()
    method = METHODS[name](lr=0.1, momentum=0.9, batch_size=8)
    z, outer = start(objective, members=3), torch.get_rng_state()
    rounds = list(run(method, repeat(objective, 4), z, seeded(1)))
    again = populations.last(method, objective, z, 4, seed=1)
    assert torch.equal(rounds[-1][0].position, again.position)
    assert torch.equal(torch.get_rng_state(), outer)
    inputs, target = data()
    for state, info in rounds:
        expected = [judged(z, inputs, target) for z in state.position]
        np.testing.assert_allclose(info.loss, expected, rtol=1e-10)
        if hasattr(state, "best") and name == "cno":
            best = [judged(z, inputs, target) for z in state.best]
            np.testing.assert_allclose(state.best_fitness, best, rtol=1e-10)
    assert rounds[-1][1].loss.mean() < value(objective, z).mean()


def judged(z, inputs, target):
    """Loss in evaluation mode after one pass in training mode has set the running statistics."""
    model = normalised()
    vector_to_parameters(z, model.parameters())
    model[1].momentum = 1.0
    model[3].p = 0.0
    with torch.no_grad():
        model.train()(inputs)
        return float(cross_entropy(model.eval()(inputs), target))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GradientDescent(lr=-0.5), "lr must be at least 0 and finite, got -0.5"),
        (lambda: GradientDescent(lr=math.inf), "lr must be at least 0 and finite, got inf"),
        (lambda: GradientDescent(lr=math.nan), "lr must be at least 0 and finite, got nan"),
        (lambda: SGD(lr=-0.1), "lr must be at least 0 and finite, got -0.1"),
        (lambda: SGD(lr=0.1, momentum=1.0), "momentum must be from 0 to below 1, got 1.0"),
        (lambda: SGD(lr=0.1, momentum=-0.1), "momentum must be from 0 to below 1, got -0.1"),
        (lambda: SGD(lr=0.1, momentum=math.nan), "momentum must be from 0 to below 1, got nan"),
        (lambda: SGD(lr=0.1, weight_decay=-1.0), "weight_decay must be at least 0 and finite"),
        (lambda: SGD(lr=0.1, weight_decay=math.inf), "weight_decay must be at least 0 and finite"),
        (lambda: SGD(lr=0.1, nesterov=True), "momentum must be positive with nesterov, got 0"),
        (lambda: Epoch(SGD(lr=0.1), 0), "size must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
