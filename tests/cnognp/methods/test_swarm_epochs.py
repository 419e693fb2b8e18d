"""Swarms whose local search is an epoch, against plain loops over plain modules."""

import math

import populations
import pytest
import torch
from populations import seeded
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from cnognp import METHODS
from cnognp.method import traits_of
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.registry import completed, searches
from cnognp.methods.schedule import Cosine, Scheduled, WarmUp
from cnognp.methods.sharpness_aware import GCSAM, SAM
from cnognp.methods.swarm import Swarm
from cnognp.training.config import Config
from landscape.randomness import derive, draw_rows

SIZE, ROUNDS = 8, 3


class Plain:
    """One member: a module and an optimiser of torch."""

    def __init__(self, z, made):
        self.model = populations.network()
        self.put(z)
        self.optimiser = made(self.model.parameters())

    def put(self, z):
        vector_to_parameters(z, self.model.parameters())

    @property
    def z(self):
        return parameters_to_vector(self.model.parameters()).detach().clone()

    def loss(self, inputs, target):
        self.optimiser.zero_grad()
        loss = cross_entropy(self.model(inputs), target)
        loss.backward()
        return loss.detach()

    @property
    def grads(self):
        return [p.grad for p in self.model.parameters()]

    def step(self, inputs, target, clip=0.0, ascent=None):
        """A step; ascent gives from gradients how far the neighbour is, in each tensor."""
        loss = self.loss(inputs, target)
        norm = math.sqrt(sum(float((g**2).sum()) for g in self.grads))
        if ascent:
            away = ascent([g.clone() for g in self.grads], norm)
            with torch.no_grad():
                for p, e in zip(self.model.parameters(), away, strict=True):
                    p.add_(e)
            self.loss(inputs, target)
            with torch.no_grad():
                for p, e in zip(self.model.parameters(), away, strict=True):
                    p.sub_(e)
        if clip:
            clip_grad_norm_(self.model.parameters(), clip)
        self.optimiser.step()
        return float(loss), norm


def epochs(round, seed=7):
    """The mini-batches of a round, as ``run`` hands them to the local search."""
    drawn = derive(seeded(seed), "round", round)
    stream = populations.risk().minibatches(SIZE, derive(derive(drawn, "local"), "epoch"), epochs=1)
    for batch in stream:
        (only,) = batch.data
        yield only.inputs, only.target


def factors(round, members, width, like, seed=7):
    drawn = derive(derive(seeded(seed), "round", round), "attraction")
    return draw_rows("uniform", (members, 2, width), drawn, like)


def centred(grads, norm):
    rows = [g - g.mean(dim=1, keepdim=True) if g.ndim > 1 else g for g in grads]
    return [0.05 * g / norm for g in rows]


def uphill(grads, norm):
    return [0.2 * g / norm for g in grads]


CASES = {
    "sgd": (
        {"momentum": 0.9, "weight_decay": 0.05, "clip": 0.4},
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.05),
        {"clip": 0.4},
    ),
    "adamw": (
        {"base": "adamw", "weight_decay": 0.05},
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.05),
        {},
    ),
    "sam": (
        {"base": "sam", "base_rho": 0.2, "momentum": 0.5},
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.5),
        {"ascent": uphill},
    ),
    "gcsam": (
        {"base": "gcsam", "base_step": "adam"},
        lambda p: torch.optim.Adam(p, 0.1),
        {"ascent": centred},
    ),
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", CASES)
def test_the_local_search_is_an_epoch_of_any_method(name, schedule):
    """Loss, pulls and memory of three rounds of two members, against torch's own optimisers."""
    options, made, how = CASES[name]
    risk = populations.risk()
    z = populations.start(risk, 2)
    method = METHODS["cno"](
        lr=0.1, batch_size=SIZE, cognitive=0.3, social=0.4, inertia=0.8,
        schedule=schedule, horizon=4, **options,
    )  # fmt: skip
    found = populations.states(method, risk, z, ROUNDS)
    members = [Plain(row, made) for row in z]
    own, best = [math.inf, math.inf], [None, None]
    inputs, target = populations.data()

    def judged():
        for i, member in enumerate(members):
            loss = float(cross_entropy(member.model(inputs), target).detach())
            if loss < own[i]:
                own[i], best[i] = loss, member.z

    judged()
    for k in range(ROUNDS):
        factor = (1 + math.cos(math.pi * k / 4)) / 2 if schedule == "cosine" else 1.0
        batches, r = list(epochs(k)), factors(k, 2, 1, z)
        leader = best[own.index(min(own))].clone()
        for i, member in enumerate(members):
            before = member.z
            member.optimiser.param_groups[0]["lr"] = 0.1 * factor
            for batch in batches:
                member.step(*batch, **how)
            after = before + 0.8 * (member.z - before)
            pulls = 0.3 * r[i, 0] * (best[i] - before) + 0.4 * r[i, 1] * (leader - before)
            member.put(after + pulls)
        judged()
        position = torch.stack([member.z for member in members])
        torch.testing.assert_close(found[k].position, position, rtol=1e-9, atol=1e-11)
        fitness = torch.tensor(own, dtype=torch.float64)
        torch.testing.assert_close(found[k].best_fitness, fitness, rtol=1e-9, atol=1e-11)


def test_what_the_local_search_is_made_of():
    how = {"lr": 0.2, "batch_size": 16}
    plain = METHODS["cno"](**how, schedule="cosine", horizon=9, warmup=2)
    assert plain.local == Scheduled(
        Epoch(GradientDescent(0.2), 16, evaluate=False), WarmUp(2, Cosine(7))
    )
    assert METHODS["cno"](**how, base="sam").local.method == SAM(SGD(0.2), 0.05)
    made = METHODS["cnognp"](**how, base="gcsam", base_rho=0.3, momentum=0.5, accumulation=2)
    assert made.local == Epoch(GCSAM(SGD(0.2, 0.5), 0.3), 16, evaluate=False, parts=2)
    assert {"sgd", "adamw", "lion", "sam", "asam", "gcsam", "gnp"} == set(searches()) - {"adam"}


@pytest.mark.parametrize("base", searches())
def test_every_base_searches(base):
    risk = populations.risk()
    method = METHODS["cnognp"](lr=0.01, batch_size=SIZE, base=base)
    assert isinstance(method, Swarm) and traits_of(method).couples
    first, *_, last = populations.states(method, risk, populations.start(risk, 3), 6)
    assert float(last.best_fitness.min()) < float(first.best_fitness.min())


def test_members_do_not_share_what_an_optimiser_remembers():
    risk = populations.risk()
    z = populations.start(risk, 3)
    method = METHODS["cno"](
        lr=0.05, base="adamw", batch_size=SIZE, cognitive=0.0, social=0.0
    )  # fmt: skip
    together = populations.last(method, risk, z, 3).position
    alone = torch.cat([populations.last(method, risk, row[None], 3).position for row in z])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
    assert not torch.equal(together, z)


def test_a_run_that_an_older_version_began_is_the_same_run():
    begun = (
        "task: {name: wine}\n"
        "method: {name: cnognp, lr: 0.1, penalty: 0.01, power: squared, inertia: 1.0,\n"
        "  cognitive: 0.1, social: 0.1, randomness: particle, batch_size: 16, momentum: 0.5,\n"
        "  weight_decay: 0.1, box: null, mutation: 0.0, horizon: 70, stale_fitness: false}\n"
    )
    options = {"batch_size": 16, "momentum": 0.5, "weight_decay": 0.1, "horizon": 70}
    now = Config("wine", "cnognp", method_options=completed("cnognp", options))
    older = Config.from_yaml(begun)
    assert older.differences(now) == now.differences(older) == []
    assert Config.from_yaml(now.to_yaml()) == now
    made = METHODS["cnognp"](**older.method_options)
    # Its state, which checkpoints hold, has the parts that it had.
    assert made.local == Epoch(SGD(0.1, 0.5, weight_decay=0.1), 16, evaluate=False)
