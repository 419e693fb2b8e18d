"""What a measurement must leave as it was, and that no tensor is made on an implicit device."""

import gc
import random
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from objectives import CE, X, Y, built, case, normal, seeded, uneven
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape import directions, slices
from landscape.curvature import Hessian, gradients
from landscape.directions import sources
from landscape.functions import CATALOGUE, f1, f2, f3
from landscape.networks.layout import Layout
from landscape.networks.reestimation import Reestimated, Stochastic
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import (
    Ridge,
    Sum,
    check_deterministic,
    hvp,
    value,
    value_and_grad,
)
from landscape.randomness import derive
from landscape.recorder import CurvatureRecorder
from landscape.restriction import Restriction
from landscape.results import load, save
from landscape.sharpness import Options, panel
from landscape.spectrum import density, top_eigenpairs
from landscape.trace import diagonal, finite_scale, frobenius, trace

# ------------------------------------------------------------------- the caller's model and state


class Careful(nn.Module):
    """A bit of everything that a careless measurement would leave changed."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.drop, self.rest = nn.Dropout(0.5), nn.Dropout(0.3)
        self.frozen, self.out = nn.Linear(5, 5), nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(5), persistent=False)

    def forward(self, x):
        self.calls += 1
        hidden = self.drop(torch.tanh(self.norm(self.first(x))))
        return self.out(torch.relu(self.rest(self.frozen(hidden)) * self.scale))


def careful(*, dropout=False):
    """In mixed modes, with gradients on some parameters and others frozen."""
    model = built(Careful).train()
    model.drop.train(dropout)
    model.rest.eval()
    model.frozen.requires_grad_(False)
    model.out.weight.grad = normal(3, 5, seed=3)
    return model


def remembered(model):
    """Everything about the model, the global generators and torch's switches, bit for bit."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    legacy, sdp = np.random.get_state(), torch.backends.cuda  # noqa: NPY002
    return {
        "tensors": {n: (id(t), t.data_ptr(), t._version, t.detach().numpy().tobytes())
                    for n, t in tensors.items()},
        "grads": {n: None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes())
                  for n, p in model.named_parameters()},
        "wants": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": {n: m.training for n, m in model.named_modules()},
        "tracks": (model.norm.track_running_stats, model.norm.momentum),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "modules": [id(m) for m in model.modules()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "python": random.getstate(),
        "numpy": (legacy[1].tobytes(), legacy[2:]),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "attention": (sdp.flash_sdp_enabled(), sdp.math_sdp_enabled(),
                      sdp.mem_efficient_sdp_enabled()),
        "default": (torch.get_default_dtype(), torch.empty(0).device, torch.get_num_threads()),
    }  # fmt: skip


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, **options)


def risk_on(model, loss=CE, **options):
    return EmpiricalRisk(model, uneven(X, Y, (5, 5)), loss, **options)


def some_directions(risk, count=2):
    return directions.random(risk.layout, risk.point(), seeded(0), count=count)


def trained_on(risk, batches=3):
    for batch in islice(risk.minibatches(5, seeded(0)), batches):
        value_and_grad(batch, batch.point().expand(2, -1))


# What one can ask for of a risk without random modules.
SMALL = Options(starts=1, steps=1, pairs=2, directions=1, probes=2, budget=3, points=2)
CALLS = {
    "value": lambda r: value(r, r.point().expand(3, -1)),
    "value_and_grad": lambda r: value_and_grad(r, r.point().expand(3, -1)),
    "hvp": lambda r: hvp(r, r.point(), r.point()),
    "Hessian": lambda r: Hessian(r, r.point()) @ normal(3, r.dim),
    "Hessian without memory": lambda r: Hessian(r, r.point(), memory=0) @ normal(3, r.dim),
    "gradients": lambda r: gradients(r, r.point().expand(3, -1)),
    "top_eigenpairs": lambda r: top_eigenpairs(r, r.point(), 2),
    "top_eigenpairs in single": lambda r: top_eigenpairs(r, r.point().float(), 2),
    "density": lambda r: density(r, r.point(), steps=4, probes=2, points=5),
    "trace": lambda r: trace(r, r.point(), probes=3),
    "finite_scale": lambda r: finite_scale(r, r.point(), (0.1, 0.01), probes=2),
    "diagonal": lambda r: diagonal(r, r.point(), probes=3),
    "frobenius": lambda r: frobenius(r, r.point(), probes=3),
    "panel": lambda r: panel(r, r.point(), options=SMALL),
    "recorder": lambda r: CurvatureRecorder(r, every=1, trace_probes=2)(0, r.point()),
    "eigenvectors": lambda r: sources.eigenvectors(r, r.point(), 1),
    "gradient": lambda r: sources.gradient(r, r.point()),
    "line with all": lambda r: slices.line(
        r, r.point(), some_directions(r)[0], alpha=[0, 1], metrics=("gradient_norm", "trace"),
    ),
    "line": lambda r: slices.line(r, r.point(), some_directions(r)[0], alpha=[0, 1]),
    "plane": lambda r: slices.plane(
        r, r.point(), *some_directions(r), alpha=[0, 1], beta=[0, 1]
    ),
    "random": lambda r: some_directions(r, 3),
    "normalise": lambda r: directions.normalise(r.layout, r.point(), normal(r.dim)),
    "between": lambda r: directions.between(r.point(), r.point() + 1),
    "pca": lambda r: directions.pca(r.point() + normal(5, r.dim)),
    "state_dict": lambda r: [t.add_(1) for t in r.state_dict(r.point()).values()],
    "point": lambda r: r.point().add_(1),
    "reestimated": lambda r: value(r.reestimated(r.point() + 1), r.point()),
    "Reestimated": lambda r: value_and_grad(Reestimated(r), r.point().expand(2, -1)),
    "minibatches": trained_on,
    "seeded": lambda r: value(r.seeded(3), r.point()),
    "check_deterministic": lambda r: check_deterministic(r, r.point()),
    "Sum": lambda r: hvp(Sum(r, Ridge(0.1, dim=r.dim)), r.point(), r.point()),
    "Restriction": lambda r: hvp(
        Restriction(r, r.point(), r.point()), normal(2, 1), normal(2, 1)
    ),
}  # fmt: skip


@pytest.fixture
def _moved():
    """Global generators away from the states in which they begin."""
    torch.rand(3)
    random.random()
    np.random.rand(3)  # noqa: NPY002


@pytest.mark.usefixtures("unchecked", "_moved")
@pytest.mark.parametrize("statistics", ["frozen", "batch"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_the_model_and_every_global_state_as_they_were(call, statistics):
    model = careful()
    before = remembered(model)
    risk = risk_on(model, statistics=statistics)
    assert remembered(model) == before
    CALLS[call](risk)
    assert remembered(model) == before


@pytest.mark.usefixtures("unchecked", "_moved")
@pytest.mark.parametrize("kind", ["loader", "dropout", "vmap", "file", "layout", "stochastic"])
def test_other_ways_to_use_a_model_leave_it_as_it_was(kind, tmp_path):
    model = careful(dropout=kind in ("dropout", "stochastic"))
    before = remembered(model)
    if kind == "loader":
        risk = EmpiricalRisk(model, loader(), CE)
        top_eigenpairs(risk, risk.point(), 1)
    elif kind == "dropout":
        risk = risk_on(model, statistics="batch")
        trained_on(risk)
        with pytest.raises(RuntimeError, match=r"drop \(Dropout in training mode\)"):
            slices.line(risk, risk.point(), risk.point())
    elif kind == "vmap":
        risk = risk_on(model, evaluation="vmap", statistics="batch")
        value_and_grad(risk, risk.point().expand(3, -1))
    elif kind == "file":
        risk = risk_on(model)
        save(slices.line(risk, risk.point(), risk.point()), tmp_path / "line.h5")
        load(tmp_path / "line.h5")
    elif kind == "layout":
        Layout.of(model).unflatten(normal(Layout.of(model).dim))
    else:
        risk = risk_on(model, statistics="batch")
        trained_on(Stochastic(Reestimated(risk_on(careful())), risk))
    assert remembered(model) == before


class Stop(Exception):
    """What the loss raises in the middle of a measurement."""


@pytest.mark.usefixtures("unchecked", "_moved")
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_an_error_in_the_middle_leaves_everything_as_it_was(call, dropout):
    model, left = careful(dropout=dropout), [10**6]

    def loss(output, target):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return CE(output, target)

    risk = risk_on(model, loss, statistics="batch")
    risk = risk.seeded(5) if dropout else risk
    before = remembered(model)
    left[0] = 1
    quiet = {"random", "normalise", "between", "pca", "state_dict", "point"}
    with nullcontext() if call in quiet else pytest.raises(Stop):
        CALLS[call](risk)
    assert remembered(model) == before


def test_an_error_at_construction_leaves_everything_as_it_was():
    model = careful(dropout=True)

    def loss(output, target):
        raise Stop

    before = remembered(model)
    for make in (
        lambda: risk_on(model, loss),
        lambda: risk_on(model, lambda o, t: o),
        lambda: EmpiricalRisk(model, (X, Y, Y), CE),
        lambda: EmpiricalRisk(model, (X[:, :2], Y), CE),
    ):
        with pytest.raises((Stop, ValueError, TypeError, RuntimeError)):
            make()
        assert {**remembered(model), "python": 0} == {**before, "python": 0}


def test_the_model_stays_the_callers_to_train():
    model = careful()
    model.out.weight.grad = None
    risk = risk_on(model)
    top_eigenpairs(risk, risk.point(), 1)
    CE(model(X), Y).backward()
    assert model.out.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.out.weight += 1
    assert torch.equal(risk.point(), Layout.of(model).flatten(dict(model.named_parameters())))


# ---------------------------------------------------------------------------- implicit devices


@pytest.fixture(scope="module")
def made_before():
    """Models, data and points on the CPU."""
    names = ("stacked-uneven", "stacked-padded", "vmapped", "convolution", "batch-norm-frozen",
             "named", "lstm", "encoder", "dot-product", "sum", "restricted-sum", "minimal",
             "ridge")  # fmt: skip
    return {
        "cases": {name: case(name) for name in names},
        "normalised": built(Careful).train(),
        "data": uneven(X, Y, (5, 5)),
        "generator": seeded(0),
        "numbers": {n: normal(3, n) for n in (1, 2)},
        "t": normal(2, 3),
    }


def on_cpu(*tensors):
    assert all(tensor.device.type == "cpu" for tensor in tensors)


def run_core(made):
    """Every part of the core once."""
    for objective, _, point in made["cases"].values():
        z = point.expand(2, -1)
        on_cpu(value(objective, z), *value_and_grad(objective, z), hvp(objective, z, point))
        hessian = Hessian(objective, point)
        on_cpu(hessian @ point, hessian.dense() if objective.dim < 40 else hessian @ z)
        top_eigenpairs(objective, point, min(2, objective.dim))
        gradients(objective, z)
        slices.line(objective, point, point, alpha=[0, 1])
        density(objective, point, steps=3, probes=2, points=3)
        trace(objective, point, probes=2)
        finite_scale(objective, point, (0.1,), probes=2)
        panel(objective, point, options=SMALL)
        if objective.dim > 1:
            slices.plane(objective, point, point, point.flip(0) + 1, alpha=[0, 1], beta=[0, 1])
        if getattr(objective, "layout", None) is not None:
            on_cpu(directions.random(objective.layout, point, made["generator"], count=3))
            on_cpu(objective.layout.mask(lambda entry: entry.role == "bias", point.device))
            on_cpu(objective.layout.spread(point[: len(objective.layout.entries)]))
    for function in (*CATALOGUE.values(), *(family(2) for family in (f1, f2, f3))):
        z = made["numbers"][function.dim]
        on_cpu(value(function, z), *value_and_grad(function, z), hvp(function, z, z))
    on_cpu(*directions.pca(made["numbers"][2]), directions.random(None, z[0], made["generator"]))
    for statistics in ("frozen", "batch"):
        risk = EmpiricalRisk(made["normalised"], made["data"], CE, statistics=statistics)
        z = risk.point()
        on_cpu(z, value(risk.reestimated(z, 6), z), *risk.state_dict(z).values())
        on_cpu(value_and_grad(Reestimated(risk), z)[1])
        for batch in risk.minibatches(4, made["generator"], epochs=1):
            on_cpu(*value_and_grad(batch, z))
    on_cpu(torch.rand(2, generator=derive(made["generator"], "noise"), device="cpu"))


def test_no_tensor_is_made_on_an_implicit_device(made_before):
    with torch.device("meta"):
        run_core(made_before)


def test_a_tensor_on_the_implicit_device_would_be_noticed():
    with torch.device("meta"), pytest.raises(AssertionError):
        on_cpu(torch.zeros(2))


@pytest.mark.parametrize("call", CALLS)
def test_nothing_large_waits_for_the_garbage_collector(call):
    risk = risk_on(built(lambda: nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3))))
    CALLS[call](risk)  # What is made once stays.
    gc.collect()
    gc.disable()
    try:
        CALLS[call](risk)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        large = [
            tuple(item.shape)
            for item in gc.garbage
            if isinstance(item, torch.Tensor) and item.untyped_storage().nbytes() >= 4 * risk.dim
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not large
