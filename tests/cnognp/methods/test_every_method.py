"""One table: every method on every function, on a bowl with known rates, and beside a NaN."""

import inspect
import math
from itertools import repeat

import populations
import pytest
import torch
from populations import EVEN, Counting, annotations_unchecked, frozen, seeded, start

from cnognp import METHODS
from cnognp.method import norms, traits_of
from cnognp.methods.averaging import SWA
from cnognp.run import run
from cnognp.state import from_arrays, to_arrays
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, batched_terms, value, value_and_grad

TRAITS = {name: traits_of(METHODS[name]()) for name in METHODS}
HOPS = tuple(name for name, traits in TRAITS.items() if traits.stride == "search")
COUPLED = tuple(name for name, traits in TRAITS.items() if traits.couples)
NOISY = tuple(name for name, traits in TRAITS.items() if traits.random and not traits.couples)
DETERMINISTIC = tuple(name for name in METHODS if name not in NOISY + COUPLED)

every_method = pytest.mark.parametrize("name", METHODS)
every_function = pytest.mark.parametrize("function", CATALOGUE)
deterministic = pytest.mark.parametrize("name", DETERMINISTIC)


@pytest.fixture(autouse=True)
def quick():
    """Annotations are checked elsewhere; here it would take most of the time."""
    with annotations_unchecked():
        yield


def takes(name, key):
    return key in inspect.signature(METHODS[name]).parameters


def made(name, **changes):
    """The method on the whole data; noise, hops and averages are to happen within a few steps."""
    soon = {"batch_size": 0, "lr": 0.003, "start": 1}
    if name in HOPS:
        soon |= {"rho": 0.3, "eps": 0.1, "tau": 6}
    if name == "nim":
        soon |= {"eps": 1e3, "tau": 1}
    if TRAITS[name].stride == "curvature":
        del soon["lr"]
    return METHODS[name](**{key: soon[key] for key in soon if takes(name, key)} | changes)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def reports(name, rounds):
    """Evaluations that are there only to be told: those of a weight average once it has begun."""
    return rounds - 1 if isinstance(made(name), SWA) else 0


@every_function
@every_method
def test_a_run_repeats_goes_on_from_any_step_and_costs_what_it_says(name, function):
    method, objective, rounds = made(name), CATALOGUE[function], 3
    counted, z = Counting(objective), start(objective)
    steps = list(run(method, repeat(counted, rounds), z, seeded(7)))
    told = sum(info.evaluations for _, info in steps)
    assert counted.values + counted.gradients == round(len(z) * (told + reports(name, rounds)))
    whole = [frozen(state) for state, _ in steps]
    assert whole == [frozen(s) for s in populations.states(method, objective, z, rounds)]
    for k, (state, _) in enumerate(steps[:-1], 1):
        restored = from_arrays(method.init(objective, z), to_arrays(state))
        rest = populations.states(method, objective, z, rounds - k, state=restored, start=k)
        assert [frozen(s) for s in rest] == whole[k:]
    other = populations.states(method, objective, z, rounds, seed=8)
    assert (frozen(other[-1]) == whole[-1]) == (name in DETERMINISTIC)


@every_function
@deterministic
def test_members_are_as_many_runs_of_their_own_and_may_change_places(name, function):
    method, objective = made(name), CATALOGUE[function]
    z, order = start(objective), torch.tensor([2, 0, 3, 1], device="cpu")
    together = populations.last(method, objective, z, 3).position
    alone = [populations.last(method, objective, row[None], 3).position for row in z]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)
    other = populations.last(method, objective, z[order], 3).position
    torch.testing.assert_close(other, together[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", EVEN)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOISY])
def test_mirrored_starts_on_an_even_function_give_mirrored_runs(name, function):
    method, objective = made(name), EVEN[function]()
    z = start(objective)
    one = populations.last(method, objective, z, 5).position
    other = populations.last(method, objective, -z, 5).position
    assert torch.equal(other, -one)
    assert not torch.equal(one, z)


class Passes:
    """A risk that counts, in passes over its data, at how many points it is evaluated."""

    def __init__(self, inner, share=1.0, total=None):
        self.inner, self.share, self.dim, self.layout = inner, share, inner.dim, inner.layout
        self.total = [0.0] if total is None else total

    def terms(self):
        return self.inner.terms()

    def batched_terms(self):
        for term in batched_terms(self.inner):
            yield lambda rows, term=term: self._counted(term, rows)

    def value_and_grad(self, z):
        return self._counted(lambda rows: value_and_grad(self.inner, rows), z)

    def minibatches(self, size, generator, *, epochs=None):
        samples = len(populations.data()[0])
        assert samples % size == 0
        for batch in self.inner.minibatches(size, generator, epochs=epochs):
            yield Passes(batch, size / samples, self.total)

    def _counted(self, function, rows):
        self.total[0] += self.share * len(rows)
        return function(rows)


@pytest.mark.parametrize("name", [name for name in METHODS if takes(name, "batch_size")])
def test_an_epoch_of_minibatches_costs_what_it_says(name):
    objective, rounds = Passes(populations.risk()), 3
    z = start(objective)
    steps = run(made(name, batch_size=6), repeat(objective, rounds), z, seeded(7))
    told = sum(info.evaluations for _, info in steps)
    # The end of each epoch is evaluated to be told; a swarm judges its points in any case.
    extra = 0 if name in COUPLED else rounds
    assert objective.total[0] == pytest.approx(len(z) * (told + extra))


CURVATURES = tensor(1.0, 10.0)
BOWL = Analytic(
    lambda z: (CURVATURES * z * z).sum(-1) / 2, dim=2, gradient=lambda z: CURVATURES * z
)
FROM = tensor(1.0, -0.7)[None]
LR = 0.03
# Powers of these take (z, velocity) of one coordinate of curvature c from step to step.
LINEAR = {
    "gd": ("gd", {}, lambda c: [[1 - LR * c, 0], [0, 0]]),
    "egd": ("egd", {}, lambda c: [[1 - LR * c, 0], [0, 0]]),
    "nig": ("nig", {"rho": 0.0}, lambda c: [[1 - LR * c, 0], [0, 0]]),
    "sgd": ("sgd", {}, lambda c: [[1 - LR * c, 0], [0, 0]]),
    "coupled": ("sgd", {"weight_decay": 0.5}, lambda c: [[1 - LR * (c + 0.5), 0], [0, 0]]),
    "decoupled": (
        "sgd",
        {"weight_decay": 0.5, "decoupled": True, "momentum": 0.9},
        lambda c: [[1 - LR * (c + 0.5), -LR * 0.9], [c, 0.9]],
    ),
    "momentum": ("sgd", {"momentum": 0.9}, lambda c: [[1 - LR * c, -LR * 0.9], [c, 0.9]]),
    "nesterov": (
        "sgd",
        {"momentum": 0.9, "nesterov": True},
        lambda c: [[1 - LR * 1.9 * c, -LR * 0.81], [c, 0.9]],
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_on_a_bowl_linear_methods_contract_by_their_known_matrix(case):
    name, options, matrix = LINEAR[case]
    states = populations.states(made(name, lr=LR, **options), BOWL, FROM, 40)
    for k, curvature in enumerate(CURVATURES.tolist()):
        once = tensor(*matrix(curvature))
        found = torch.stack([state.position[0, k] for state in states])
        powers = [torch.linalg.matrix_power(once, step) for step in range(1, 41)]
        expected = torch.stack([(power @ tensor(float(FROM[0, k]), 0.0))[0] for power in powers])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
        radius = torch.linalg.eigvals(once).abs().max()
        if case == "momentum" and curvature == 10.0:
            assert radius == pytest.approx(math.sqrt(0.9))
        assert 0.1 < float(radius) < 1


# On f = 10 x^2 / 2 from 1, the next point of methods that look at a neighbour, or only at a sign.
NEXT = {
    "normalised-gd": ({}, 1 - LR),
    "sam": ({"rho": 0.05}, 1 - LR * 10 * 1.05),
    "gcsam": ({"rho": 0.05}, 1 - LR * 10 * 1.05),
    "asam": ({"rho": 0.05, "eta": 0.2}, 1 - LR * 10 * (1 + 0.05 * 1.2)),
    "gnp": ({"alpha": 0.8, "r": 0.1}, 1 - LR * 10 * 1.08),
    "adam": ({}, 1 - LR),
    "adamw": ({"weight_decay": 0.5}, 1 - LR * 0.5 - LR),
    "swa": ({"start": 0}, 1 - LR * 10),
    "nim": ({}, 1 - LR * 10),
}


@pytest.mark.parametrize("name", NEXT)
def test_the_first_step_on_a_bowl_has_its_closed_form(name):
    options, expected = NEXT[name]
    bowl = Analytic(lambda z: 5 * (z * z).sum(-1), dim=1)
    found = populations.last(made(name, lr=LR, **options), bowl, tensor(1.0)[None], 1)
    assert found.position.item() == pytest.approx(expected, abs=1e-8)


def settling(name):
    """Steps and options with which a method descends the bowl, and how far from 0 it then is."""
    stride, far = TRAITS[name].stride, 4e-5
    if name in HOPS:
        # A descent ends where the gradient, of curvature 1 at least, is as small as eps.
        return 3, {"lr": 0.05, "eps": 0.01, "tau": 300, "rho": 0.1}, 0.011
    if stride == "curvature" and name not in COUPLED:
        return 15, {}, 1e-8 if name == "bfgs" else 1e-6
    options = {"lr": 0.05} if takes(name, "lr") and stride != "curvature" else {}
    radii = [key for key in ("rho", "r") if takes(name, key)]
    options |= dict.fromkeys(radii, 0.05)
    if name == "nim":
        options |= {"eps": 0.0}
    elif name == "swa":
        # The average of z_k = (1 - lr l)^k z_0 over 199 rounds.
        far = 1.1 / (199 * 0.05)
    elif radii:
        far = 0.06
    elif stride == "adaptive":
        far = 0.02
    elif stride == "length":
        # What is travelled while a mean over ten steps forgets, in twenty, on which side it was:
        # lr (pi k / 200)^2 / 4 in the k-th step before the last.
        options |= {"schedule": "cosine", "horizon": 200}
        far = sum(0.05 * (math.pi * k / 200) ** 2 / 4 for k in range(20))
    # Gradient descent leaves (1 - lr)^200 < 4e-5; a swarm's best is closer.
    return 200, options, far


@every_method
def test_every_method_descends_a_bowl_as_far_as_theory_says(name):
    z = start(BOWL, members=6)
    steps, options, left = settling(name)
    state = populations.last(made(name, **options), BOWL, z, steps)
    end = state.best if name in COUPLED else state.position
    assert norms(end).max() < left * max(1.0, norms(z).max())
    assert (value(BOWL, end) < value(BOWL, z)).all()


def cliff(edge):
    """A bowl that is NaN, and its gradient too, further than ``edge`` from its middle."""

    def beyond(z, inside):
        return torch.where(norms(z).reshape(inside.shape[:1] + (1,) * (inside.ndim - 1)) > edge,
                           math.nan, inside)  # fmt: skip

    return Analytic(
        lambda z: beyond(z, (z * z).sum(-1)), dim=2, gradient=lambda z: beyond(z, 2 * z)
    )


@every_method
def test_a_member_with_a_nan_is_marked_and_the_others_go_on_as_if_it_were_healthy(name):
    method = made(name)
    z = start(cliff(100.0), members=3)
    broken = torch.cat([z[:2], z[2:] + 1e5])
    steps = list(run(method, repeat(cliff(100.0), 5), broken, seeded(7)))
    state, info = steps[-1]
    assert state.position[:2].isfinite().all()
    if name not in COUPLED:
        healthy = populations.last(method, cliff(100.0), z, 5)
        assert torch.equal(state.position[:2], healthy.position[:2])
    if name in DETERMINISTIC:
        alone = populations.last(method, cliff(100.0), z[:2], 5)
        assert torch.equal(state.position[:2], alone.position)
    else:
        assert all(i.finite[:2].all() for _, i in steps)
    if name in COUPLED:
        assert state.best_fitness[:2].isfinite().all()
        assert state.best.isfinite().all()
    # Without a gradient a swarm may pull its member back.
    assert not steps[0][1].finite[2]
    assert info.finite.tolist() == [True, True, name == "pso" and bool(info.loss[2].isfinite())]


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_the_leader_of_a_swarm_is_never_a_member_that_is_not_finite(name, beyond):
    bowl = Analytic(lambda z: torch.where(norms(z) > 100, beyond, (z * z).sum(-1)), dim=2)
    z = torch.cat([start(bowl, members=1) + 1e5, start(bowl, members=2)])
    state = populations.last(made(name), bowl, z, 1)
    assert state.best_fitness.argmin() > 0
    assert state.best_fitness[0] == math.inf


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name in DETERMINISTIC + NOISY and takes(name, "schedule")]
)
def test_schedules_are_there_for_every_descent_and_slow_it(name):
    z = start(BOWL)
    constant = populations.last(made(name), BOWL, z, 9).position
    for options in ({"schedule": "cosine"}, {"schedule": "step"}, {"warmup": 5}):
        slowed = populations.last(made(name, horizon=9, **options), BOWL, z, 9).position
        assert (norms(slowed - z) < norms(constant - z)).any()
        first = populations.last(made(name, horizon=9, **options), BOWL, z, 1).position
        assert torch.equal(first, populations.last(made(name), BOWL, z, 1).position) == (
            "warmup" not in options
        )


def test_the_descents_with_a_step_length_are_those_with_a_schedule():
    lacking = {n for n in DETERMINISTIC + NOISY if takes(n, "lr") and not takes(n, "schedule")}
    # A hop is a whole descent; egd is a swarm, for comparison with swarms.
    assert lacking == {"egd", *HOPS}


RANGES = {
    "lr": ("lr must be", (-1.0, math.nan, math.inf)),
    "rho": ("rho must be", (-0.1, math.nan, math.inf)),
    "eps": ("eps must be", (-0.1, math.nan)),
    "tau": ("tau must be", (-1,)),
    "temperature": ("temperature must be", (-0.1, math.nan, math.inf)),
    "weight_decay": ("weight_decay must be", (-0.1, math.nan)),
    "momentum": ("momentum must be", (-0.1, 1.0, math.nan)),
    "horizon": ("horizon must be", (0,)),
    "warmup": ("warmup must be", (-1,)),
    "batch_size": ("batch_size must be", (-1,)),
    "alpha": ("alpha must be", (-0.1, 1.1, math.nan)),
    "r": ("r must be", (-0.1, math.nan)),
    "penalty": ("penalty must be", (-0.1, math.nan)),
    "inertia": ("inertia must be", (-0.1, math.nan)),
    "trials": ("trials must be", (0,)),
    "history": ("history must be", (0,)),
}


@every_method
def test_what_is_out_of_range_is_refused_by_name(name):
    tried = 0
    for key in inspect.signature(METHODS[name]).parameters:
        message, bad = RANGES.get(key, ("", ()))
        for number in bad:
            more = (
                {"batch_size": 4} if name in COUPLED and key in ("momentum", "weight_decay") else {}
            )
            more |= (
                {"mutation": 0.1, "box": (0.0, 1.0)} if name in COUPLED and key == "horizon" else {}
            )
            with pytest.raises(ValueError, match=message):
                METHODS[name](**{key: number, **more})
            tried += 1
    assert tried
