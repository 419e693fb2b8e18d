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
from cnognp.methods.fitness import GradientNormPenalty
from cnognp.methods.registry import completed, searches
from cnognp.methods.schedule import Cosine, Scheduled, WarmUp
from cnognp.methods.sharpness_aware import GCSAM, SAM
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from cnognp.training.config import Config
from cnognp.training.judging import Judging
from cnognp.training.record import Record
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


def trained_on(member, batches, penalty, power):
    """Steps on the batches; the mean over them of loss plus penalty, as the published loop has."""
    total = 0.0
    for batch in batches:
        loss, norm = member.step(*batch)
        total += loss + penalty * norm**power
    return total / len(batches)


@pytest.mark.parametrize(("power", "exponent"), [("norm", 1), ("squared", 2)])
def test_members_are_ranked_by_means_over_their_epochs(power, exponent):
    risk, c1, c2 = populations.risk(), 0.3, 0.4
    z = populations.start(risk, 3)
    method = METHODS["cnognp"](
        lr=0.1, batch_size=SIZE, momentum=0.5, weight_decay=0.02, fitness_from="epoch",
        penalty=0.2, power=power, cognitive=c1, social=c2,
    )  # fmt: skip
    start = method.init(risk, z)
    found = list(run(method, [risk] * ROUNDS, z, seeded(7)))

    def made(p):
        return torch.optim.SGD(p, 0.1, momentum=0.5, weight_decay=0.02)

    def still(p):
        return torch.optim.SGD(p, 0.0)

    order = seeded(0)
    stream = risk.minibatches(SIZE, derive(order, "epoch"), epochs=1)
    first = [(b.data.first.inputs, b.data.first.target) for b in stream]
    ranks = [trained_on(Plain(row, still), first, 0.2, exponent) for row in z]
    torch.testing.assert_close(start.rank, torch.tensor(ranks, dtype=torch.float64))
    members, best = [Plain(row, made) for row in z], list(z)
    for k, (state, info) in enumerate(found):
        batches, r = list(epochs(k)), factors(k, 3, 1, z)
        seen = [trained_on(member, batches, 0.2, exponent) for member in members]
        for i, member in enumerate(members):
            if seen[i] < ranks[i]:
                ranks[i], best[i] = seen[i], member.z
        leader = best[ranks.index(min(ranks))]
        for i, member in enumerate(members):
            own, common = c1 * r[i, 0] * (best[i] - member.z), c2 * r[i, 1] * (leader - member.z)
            member.put(member.z + own + common)
        torch.testing.assert_close(info.fitness, torch.tensor(seen, dtype=torch.float64))
        torch.testing.assert_close(state.rank, torch.tensor(ranks, dtype=torch.float64))
        torch.testing.assert_close(state.position, torch.stack([m.z for m in members]))
        # A pass for the epoch, and one for the starts.
        assert info.evaluations == (2 if k == 0 else 1)


class Parts:
    """Mini-batches whose losses are shares of the first coordinate, of as many points as come."""

    dim = 1

    def __init__(self, share=1.0):
        self.share = share

    def terms(self):
        yield lambda z: self.share * z[0]

    def minibatches(self, size, generator, epochs):
        return (Parts(share) for share in torch.rand(25, generator=seeded(1)).tolist())

    def value_and_grad(self, z):
        return self.share * z[:, 0], self.share * torch.ones_like(z)


def test_means_over_an_epoch_have_the_same_bits_however_many_members_come():
    # Members that visit the device one at a time have the ranks that they have together.
    epoch = Epoch(GradientDescent(0.0), 4, evaluate=False, fitness=GradientNormPenalty(0.1))
    z = torch.rand(9, 1, generator=seeded(0))
    together = epoch.step(Parts(), epoch.init(Parts(), z), seeded(2))[1]
    for member in range(len(z)):
        row = z[member : member + 1]
        alone = epoch.step(Parts(), epoch.init(Parts(), row), seeded(2))[1]
        for name in ("loss", "gradient_norm", "fitness"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[member]), name


def test_the_published_order_is_that_of_the_published_loop():
    """The loop over particles of the script, with the order of samples that members share."""
    risk, c1, c2, penalty = populations.risk(), 0.3, 0.4, 0.1
    z = populations.start(risk, 3)
    method = METHODS["cnognp"](
        published=True, lr=0.1, batch_size=SIZE, cognitive=c1, social=c2, weight_decay=5e-4
    )
    assert (method.fitness, method.randomness) == (GradientNormPenalty(0.1, "norm"), "tensor")
    found = list(run(method, [risk] * ROUNDS, z, seeded(7)))

    def made(p):
        return torch.optim.SGD(p, 0.1, weight_decay=5e-4)

    particles = [
        {"model": Plain(row, made), "pbest": row, "pbest_fitness": 999 + penalty * 999} for row in z
    ]
    gbest_fitness, gbest = math.inf, None
    tensors = len(list(populations.network().parameters()))
    for k, (state, info) in enumerate(found):
        batches, r = list(epochs(k)), factors(k, 3, tensors, z)
        for i, particle in enumerate(particles):
            fitness = trained_on(particle["model"], batches, penalty, 1)
            z_bar = particle["model"].z
            if fitness < particle["pbest_fitness"]:
                particle |= {"pbest": z_bar, "pbest_fitness": fitness}
            if fitness < gbest_fitness:
                gbest_fitness, gbest = fitness, particle["pbest"]
            at = 0
            for j, p in enumerate(particle["model"].model.parameters()):
                part = slice(at, at + p.numel())
                velocity = c1 * r[i, 0, j] * (particle["pbest"] - z_bar)[part]
                velocity += c2 * r[i, 1, j] * (gbest - z_bar)[part]
                p.data.add_(velocity.view_as(p))
                at = part.stop
            assert float(info.fitness[i]) == pytest.approx(fitness)
            assert info.evaluations == 1
        positions = torch.stack([particle["model"].z for particle in particles])
        torch.testing.assert_close(state.position, positions)
        assert float(state.rank.min()) == pytest.approx(gbest_fitness)
        torch.testing.assert_close(state.best[state.rank.argmin()], gbest)


def test_published_settings_are_those_of_the_script_and_said_in_the_configuration():
    asked = Config("cifar10", "cnognp", method_options={"published": True, "lr": 0.01})
    method = METHODS["cnognp"](**asked.method_options)
    assert method == METHODS["cnognp"](published=True, lr=0.01)
    assert method.local == Epoch(SGD(0.01, weight_decay=5e-4), 128, evaluate=False)
    assert (method.cognitive, method.social, method.randomness) == (1e-5, 1e-5, "tensor")
    again = Config.from_yaml(asked.to_yaml())
    assert again == asked and asked.method_options["penalty"] == 0.1


class Lucky:
    """A square whose mini-batches say too little in the second epoch that is asked for."""

    dim, asked = 1, 0

    def __init__(self, less=0.0):
        self.less = less

    def terms(self):
        yield lambda z: (z[0] - 3) ** 2 - self.less

    def minibatches(self, size, generator, epochs):
        Lucky.asked += 1
        yield Lucky(100.0 if Lucky.asked == 2 else 0.0)


def test_a_lucky_epoch_is_not_the_best_point():
    objective = Lucky()
    method = METHODS["cnognp"](
        lr=0.1, batch_size=1, fitness_from="epoch", penalty=0.5, power="norm",
        cognitive=0.0, social=0.0,
    )  # fmt: skip
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    record, judge = Record(), Judging(1, 6, True, z.device, method.fitness)
    record.offer(z, judge.measured(objective, z))
    assert record.best_fitness == pytest.approx(4 + 0.5 * 4)
    Lucky.asked = 0
    for state, info in run(method, [objective] * 6, z, seeded(0)):
        record.offer(*judge.elected(objective, method, state, info))
    lucky, last = 3 - 2 * 0.8, 3 - 2 * 0.8**6
    assert float(state.best[1]) == pytest.approx(lucky)  # the ranks believe it
    assert record.best[0] == pytest.approx(last)
    assert record.best_fitness == pytest.approx((last - 3) ** 2 + 0.5 * 2 * (3 - last))
    assert record.best_member == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "'point' without mini-batches: set batch_size"),
        ({"batch_size": 8, "stale_fitness": True}, "stale_fitness must be False in epochs"),
    ],
)
def test_epochs_that_cannot_rank_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        METHODS["cnognp"](fitness_from="epoch", **options)
