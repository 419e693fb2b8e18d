"""The fast ways to evaluate a slice, each against the plain one; the model stays as it was."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from objectives import CE, IMAGES, X, Y, built, case, chain, classes, loaded, normal, uneven
from torch import nn
from torch.nn import functional as F

from cnognp.tasks.networks import resnet20, small_conv
from landscape.networks.folding import InPlace, folded
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Ridge, Sum, value
from landscape.slices import line, plane
from landscape.slices.evaluators import Plain, evaluator

AXES = {"alpha": [-0.5, 0.0, 0.3], "beta": [-0.2, 0.0]}


class Residual(nn.Module):
    """Every shape of pair: with and without bias, affine or not, a sum, one that must stay."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.plain = nn.BatchNorm2d(3, affine=False)
        self.third, self.seen = nn.Conv2d(3, 3, 1, groups=3), nn.BatchNorm2d(3)
        self.out = nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.plain(self.second(x)))
        y = self.third(x)
        return self.out(F.relu(self.seen(y) + 0.1 * y).mean((-2, -1)))


class Undecided(nn.Module):
    """Its path depends on a number, so that it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.out((x if float(x.sum()) > 0 else -x).mean((-2, -1)))


def settled(make, dtype=torch.float64):
    """A model whose running statistics, scales and shifts are not those of the start."""
    model = built(make, dtype=dtype)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += normal(len(module.running_mean), seed=3, dtype=dtype)
                module.running_var *= (
                    0.5 + normal(len(module.running_mean), seed=4, dtype=dtype) ** 2
                )
                if module.affine:
                    module.weight += 0.3 * normal(len(module.weight), seed=5, dtype=dtype)
                    module.bias += normal(len(module.weight), seed=6, dtype=dtype)
    return model


def agreement(risk, z, u, v, wanted, tolerance):
    fast = plane(risk, z, u, v, evaluation=wanted, **AXES)
    slow = plane(risk, z, u, v, evaluation="plain", **AXES)
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=tolerance)
    assert slow.provenance["evaluation"] == "plain"
    return fast


@pytest.mark.parametrize("data", [uneven, loaded])
def test_folding_changes_no_loss(data):
    risk = EmpiricalRisk(settled(Residual), data(IMAGES, Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    found = agreement(risk, z, u, v, "folded", 1e-11)
    assert found.provenance["evaluation"] == "folded"
    assert plane(risk, z, u, v, **AXES).provenance["evaluation"] == "folded"
    assert agreement(risk, z, u, v, "in-place", 1e-12).provenance["evaluation"] == "in-place"


def test_only_pairs_that_nobody_else_sees_are_folded():
    module, pairs = folded(settled(Residual).eval())
    assert [pair.added for pair in pairs] == [False, True]
    kept = [m for m in module.graph.nodes if m.op == "call_module" and m.target == "seen"]
    assert len(kept) == 1


def test_frozen_layers_are_folded_at_every_point_anew():
    model = settled(Residual)
    for parameter in (model.first.weight, model.first.bias, model.norm.weight, model.second.weight):
        parameter.requires_grad_(False)
    risk = EmpiricalRisk(model, (IMAGES, Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    agreement(risk, z, u, v, "folded", 1e-11)


def test_statistics_estimated_at_the_point_are_folded_too():
    risk = EmpiricalRisk(settled(Residual), uneven(IMAGES, Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    risk = risk.reestimated(z)
    assert "re-estimated" in agreement(risk, z, u, v, "folded", 1e-11).statistics


@pytest.mark.parametrize(("model", "statistics"), [
    (Residual, "batch"), (Undecided, "frozen"),
])  # fmt: skip
def test_what_cannot_be_folded_is_moved_in_place(model, statistics):
    risk = EmpiricalRisk(settled(model), uneven(IMAGES, Y), CE, statistics=statistics)
    z = risk.point()
    u, v = 0.1 * normal(2, len(z), seed=7)
    found = agreement(risk, z, u, v, "in-place", 1e-12)
    assert found.statistics == statistics
    assert plane(risk, z, u, v, **AXES).provenance["evaluation"] == "in-place"
    with pytest.raises(ValueError, match="evaluation='folded' does not fit this objective"):
        plane(risk, z, u, v, evaluation="folded", **AXES)


@pytest.mark.parametrize("blocked", ["hook", "shared", "twice"])
def test_layers_that_are_watched_or_shared_are_not_folded(blocked):
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, padding=1),
        nn.Identity(), nn.Flatten(), nn.Linear(36, 3),
    ).to("cpu").eval()  # fmt: skip
    assert len(folded(copy.deepcopy(model))[1]) == 1
    if blocked == "hook":
        model[0].register_forward_hook(lambda *_: None)
    elif blocked == "shared":
        model[2].weight = model[0].weight
    else:
        model[2] = model[0]
    assert folded(model) == (model, [])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:BatchNorm.s statistics are frozen")
def test_the_project_s_own_networks_are_folded_in_float32():
    images, target = normal(6, 3, 32, 32, dtype=torch.float32), classes(6, 10)
    risk = EmpiricalRisk(resnet20().eval(), (images, target), CE)
    z = risk.point()
    u = 0.1 * normal(len(z), seed=1, dtype=torch.float32)
    fast = line(risk, z, u, alpha=[-0.1, 0.0, 0.2])
    slow = line(risk, z, u, alpha=[-0.1, 0.0, 0.2], evaluation="plain")
    assert fast.provenance["evaluation"] == "folded"
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=1e-5)
    assert len(folded(copy.deepcopy(resnet20()).eval())[1]) == 19
    assert len(folded(small_conv().eval())[1]) == 2


@pytest.mark.parametrize("make", [Residual, chain])
def test_the_model_the_point_and_the_directions_are_as_they_were(make):
    model = settled(make)
    model.train()
    data = uneven(IMAGES, Y) if make is Residual else uneven(X, Y)
    before = copy.deepcopy(model.state_dict())
    risk = EmpiricalRisk(model, data, CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    copies = [t.clone() for t in (z, u, v)]
    state = torch.get_rng_state()
    plane(risk, z, u, v, standard_errors=True, metrics=["gradient_norm"], **AXES)
    for t, old in zip((z, u, v), copies, strict=True):
        assert torch.equal(t, old)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(("make", "name"), [(Residual, "folded"), (Undecided, "in-place")])
def test_the_working_copy_goes_with_the_evaluator_without_a_garbage_collection(make, name):
    risk = EmpiricalRisk(settled(make), (IMAGES, Y), CE)
    z = risk.point()
    gc.collect()
    gc.disable()
    try:
        fast = evaluator(risk, z, normal(2, len(z), seed=7).unbind())
        left = [weakref.ref(fast.module), *map(weakref.ref, fast.module.parameters())]
        assert fast.name == name
        del fast
        assert not any(reference() is not None for reference in left)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", [
    "stacked", "stacked-uneven", "stacked-mean-square", "stacked-ignored", "stacked-padded",
    "flattened", "accuracy",
])  # fmt: skip
def test_an_affine_first_layer_changes_no_loss(name):
    objective, _, z = case(name)
    u, v = normal(2, len(z), seed=7)
    fast = agreement(objective, z, u, v, "stacked", 1e-11)
    assert fast.provenance["evaluation"] == "stacked, first layer affine"
    for chunk in (1, 2, 5):
        again = plane(objective, z, u, v, chunk=chunk, **AXES)
        np.testing.assert_allclose(again.loss, fast.loss, rtol=1e-12)


def test_hyperbolic_tangents_in_float32_are_those_of_torch():
    model = built(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh()),
                  dtype=torch.float32)  # fmt: skip
    risk = EmpiricalRisk(model, (X.float(), Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7, dtype=torch.float32)
    agreement(risk, z, u, v, "stacked", 2e-6)


def test_a_sum_goes_the_fast_way_with_its_risk():
    risk = EmpiricalRisk(settled(Residual), uneven(IMAGES, Y), CE)
    objective = Sum(risk, Ridge(0.3, dim=risk.dim))
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    assert agreement(objective, z, u, v, "folded", 1e-11).provenance["evaluation"] == "folded"


def test_weights_move_without_a_second_copy_of_origin_and_directions():
    risk = EmpiricalRisk(settled(Residual), (IMAGES, Y), CE)
    z = risk.point()
    found = evaluator(risk, z, [z + 1], "folded")
    origins = {slot.origin.untyped_storage().data_ptr() for slot in found._slots if slot.directions}
    assert origins == {z.untyped_storage().data_ptr()}


def test_a_way_that_is_wrong_is_found_out(monkeypatch):
    risk = EmpiricalRisk(settled(Residual), uneven(IMAGES, Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    expected = plane(risk, z, u, v, evaluation="plain", **AXES).loss
    monkeypatch.setattr("landscape.networks.folding._fold", lambda *_: None)
    found = plane(risk, z, u, v, **AXES)
    assert found.provenance["evaluation"] == "plain"
    assert found.provenance["self-check"].startswith("failed, so all points were evaluated the")
    np.testing.assert_array_equal(found.loss, expected)
    with pytest.raises(RuntimeError, match="evaluation='folded' disagrees with the plain way"):
        plane(risk, z, u, v, evaluation="folded", **AXES)


class Centred(Residual):
    """Sees the mean of its batch."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


@pytest.mark.parametrize(("model", "way"), [(Residual, "folded"), (Centred, "plain")])
def test_samples_go_in_parts_only_where_none_sees_another(monkeypatch, model, way):
    monkeypatch.setattr("landscape.networks.folding._TOGETHER", 3)
    risk = EmpiricalRisk(settled(model), (IMAGES, Y), CE)
    z = risk.point()
    u, v = normal(2, len(z), seed=7)
    found = plane(risk, z, u, v, **AXES)
    assert found.provenance["evaluation"] == way
    expected = plane(risk, z, u, v, evaluation="plain", **AXES).loss
    np.testing.assert_allclose(found.loss, expected, rtol=1e-11)


def test_networks_with_seeded_noise_and_recurrent_ones_are_right():
    dropping = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 3))
    risk = EmpiricalRisk(dropping.double().to("cpu"), (IMAGES, Y), CE, seed=4)
    z = risk.point()
    assert isinstance(evaluator(risk, z, [z]), Plain)
    for name in ("lstm", "encoder", "attention", "tied", "frozen", "named", "positional"):
        objective, truth, z = case(name)
        u = 0.3 * normal(len(z), seed=7)
        found = line(objective, z, u, alpha=[-1, 0, 1])
        assert found.loss[2] == pytest.approx(float(truth(z + u)), rel=1e-9)
        assert found.loss[2] == pytest.approx(float(value(objective, z + u)), rel=1e-9)


def test_mixed_precision_is_asked_for_and_its_error_is_said():
    risk = EmpiricalRisk(settled(Residual, torch.float32), (IMAGES.float(), Y), CE)
    z = risk.point()
    u, v = 0.1 * normal(2, len(z), seed=7, dtype=torch.float32)
    exact = plane(risk, z, u, v, **AXES)
    rough = plane(risk, z, u, v, precision="bfloat16", **AXES)
    said = rough.provenance["precision"]
    assert (said["name"], said["points"]) == ("bfloat16", rough.loss.size)
    error = np.abs(rough.loss / exact.loss - 1).max()
    assert 0 < error < 0.05
    assert said["largest relative error"] == pytest.approx(error, rel=1e-6)
    assert "precision" not in exact.provenance


@pytest.mark.parametrize("evaluation", ["stacked", "plain"])
def test_mixed_precision_serves_stacked_networks_whose_coordinates_it_does_not_round(evaluation):
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    model = built(lambda: nn.Sequential(*layers), dtype=torch.float32)
    risk = EmpiricalRisk(model, uneven(X.float(), Y), CE)
    z = risk.point()
    u = normal(len(z), seed=7, dtype=torch.float32)
    how = {"alpha": np.linspace(-1, 0, 40), "evaluation": evaluation}
    exact = line(risk, z, u, **how)
    rough = line(risk, z, u, precision="bfloat16", **how)
    error = np.abs(rough.loss / exact.loss - 1).max()
    said = rough.provenance["precision"]
    assert said["points"] == 9
    assert error / 10 < said["largest relative error"] < 1.001 * error
    assert 0 < error < 0.02
    again = line(risk, z, u, **how)
    np.testing.assert_array_equal(again.loss, exact.loss)


def test_the_fast_way_is_checked_far_out_however_the_range_ends(monkeypatch):
    risk = EmpiricalRisk(settled(Residual), uneven(IMAGES, Y), CE)
    z = risk.point()
    u, v = 0.1 * normal(2, len(z), seed=7)
    move = InPlace._move

    def stays_at_first(self, t):
        move(self, t if t[0] > -0.5 else (0.0, 0.0))

    monkeypatch.setattr(InPlace, "_move", stays_at_first)
    found = plane(risk, z, u, v, alpha=[-1.0, -0.25, 0.0], beta=[-1.0, 0.0])
    assert found.provenance["evaluation"] == "plain"


def test_ways_that_do_not_exist_are_refused():
    objective, _, z = case("stacked")
    with pytest.raises(ValueError, match="evaluation='folded' does not fit this objective"):
        line(objective, z, z, evaluation="folded")
    objective, _, z = case("himmelblau")
    with pytest.raises(ValueError, match="'auto' takes 'plain'"):
        line(objective, z, z, evaluation="stacked")
