"""Objectives, methods and small helpers that the tests of populations share."""

from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from itertools import repeat

import jaxtyping
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.method import Info
from cnognp.methods.descent import DescentState
from cnognp.methods.quasi_newton import LBFGS
from cnognp.run import run
from cnognp.state import to_arrays
from landscape.functions import f1, f2, himmelblau, six_hump_camel, three_hump_camel
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Ridge, Sum, batched_terms, value_and_grad

INSIDE = (-1.5, 1.5)


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


def data(samples=30, features=4, classes=3, seed=0):
    """Standardised inputs and classes that a small network can learn, float64."""
    source = np.random.default_rng(seed)
    x = torch.from_numpy(source.normal(size=(samples, features)))
    target = (x @ torch.from_numpy(source.normal(size=(features, classes)))).argmax(-1)
    return x, target


def network(dtype=torch.float64):
    """4-5-3 with ReLU; its weights come from a generator of its own."""
    model = nn.Sequential(
        nn.Linear(4, 5, device="cpu", dtype=dtype),
        nn.ReLU(),
        nn.Linear(5, 3, device="cpu", dtype=dtype),
    )
    source = seeded(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=dtype, device="cpu") / 2)
    return model


@cache
def risk():
    return EmpiricalRisk(network(), data(), cross_entropy)


class Chained:
    """A chain of two springs and a quartic: nothing but ``dim`` and ``terms``."""

    dim = 3

    def terms(self):
        yield lambda z: (z[0] - 1) ** 2 + (z[1] - z[0]) ** 2
        yield lambda z: (z[2] - z[1] * z[0]) ** 4


OBJECTIVES = {
    "himmelblau": lambda: himmelblau,
    "six-hump-camel": lambda: six_hump_camel,
    "f1": f1,
    "f2-2d": lambda: f2(2),
    "terms-only": Chained,
    "network": risk,
    "network-ridge": lambda: Sum(risk(), Ridge(0.01, dim=risk().dim)),
}

EVEN = {
    "six-hump-camel": lambda: six_hump_camel,
    "three-hump-camel": lambda: three_hump_camel,
    "f1-2d": lambda: f1(2),
}

# No member of these knows of another one.
INDEPENDENT = {
    "gd": METHODS["gd"](lr=0.003),
    "sgd-momentum": METHODS["sgd"](lr=0.002, momentum=0.8, weight_decay=0.1, batch_size=0),
    "sgd-epochs": METHODS["sgd"](lr=0.002, momentum=0.5, nesterov=True, batch_size=8),
    "egd": METHODS["egd"](lr=0.003),
    "lbfgs": LBFGS(lr=0.05, iterations=3),
}

# As published: one step on the whole data, and strong pulls.
STEP = {"lr": 0.003, "batch_size": 0, "cognitive": 0.5, "social": 0.5}

SWARMS = {
    "cno": METHODS["cno"](**STEP, inertia=0.7),
    "cno-box": METHODS["cno"](**STEP, randomness="coordinate", box=INSIDE),
    "cno-mutation": METHODS["cno"](**STEP, box=INSIDE, mutation=1e9, horizon=5),
    "cno-epochs": METHODS["cno"](lr=0.002, batch_size=8, momentum=0.9, weight_decay=0.1),
    "cnognp": METHODS["cnognp"](**STEP, penalty=0.05),
    "cnognp-norm": METHODS["cnognp"](**STEP, penalty=0.05, power="norm"),
    "cnognp-stale": METHODS["cnognp"](**STEP, penalty=0.05, stale_fitness=True),
    "pso": METHODS["pso"](),
    "pso-box": METHODS["pso"](box=INSIDE, randomness="particle"),
    "pso-bfgs": METHODS["pso-bfgs"](lr=0.05, search_iterations=3),
}

CASES = {**INDEPENDENT, **SWARMS}


def start(objective, members=4, seed=1, dtype=torch.float64):
    shape = (members, objective.dim)
    return 2 * torch.rand(shape, generator=seeded(seed), dtype=dtype, device="cpu") - 1


def states(method, objective, z, rounds, seed=7, **how):
    """Every state of a run."""
    return [state for state, _ in run(method, repeat(objective, rounds), z, seeded(seed), **how)]


def last(method, objective, z, rounds, seed=7):
    return states(method, objective, z, rounds, seed)[-1]


@contextmanager
def annotations_unchecked():
    """Annotations are not checked inside, which makes small steps four times as fast."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def frozen(state):
    """The state's bits, for comparisons without any tolerance."""
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in to_arrays(state).items()}


class Counting:
    """An objective that counts the points at which it is evaluated, with and without gradient."""

    def __init__(self, inner):
        self.inner, self.dim = inner, inner.dim
        self.values = self.gradients = 0

    def terms(self):
        return self.inner.terms()

    def batched_terms(self):
        for term in batched_terms(self.inner):
            yield lambda rows, term=term: self._counted(term, rows)

    def value_and_grad(self, z):
        self.gradients += len(z)
        return value_and_grad(self.inner, z)

    def _counted(self, term, rows):
        self.values += len(rows)
        return term(rows)


@dataclass(frozen=True)
class Record:
    """A method that stays where it is and keeps the objectives and generators that it was given."""

    seen: list

    def init(self, objective, z):
        self.seen.append(("init", objective, z))
        return DescentState(z)

    def step(self, objective, state, generator):
        self.seen.append(("step", objective, generator.initial_seed()))
        return state, Info(None, None, None, None, 1)


def unchecked(kind, **changes):
    """``kind(**changes)`` past the annotations, which are checked only when tests run."""
    made = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(made, field.name, changes.get(field.name, field.default))
    made.__post_init__()
    return made
