"""BatchNorm: frozen, re-estimated and batch statistics, against plain torch modules."""

import copy

import pytest
import torch
from objectives import (
    CE,
    IMAGES,
    X,
    Y,
    batch_normalised,
    built,
    chain,
    convolution,
    normal,
    own_point,
    plain,
    seeded,
    settled,
    uneven,
)
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from landscape.curvature import Hessian, gradients
from landscape.networks.data import Data
from landscape.networks.reestimation import Reestimated, Stochastic
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.restriction import Restriction
from landscape.slices import line
from landscape.spectrum import top_eigenpairs

close = torch.testing.assert_close
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
SEQUENCES = normal(10, 3, 4, seed=2)


def twice():
    """Two layers in a row, so that the second sees what the first made of the batch."""
    layers = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4), nn.BatchNorm1d(4),
              nn.Tanh(), nn.Linear(4, 3))  # fmt: skip
    return settled(nn.Sequential(*layers), normal(16, 4, seed=8, dtype=torch.float32))


def sequences():
    layers = (nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4, affine=False), nn.Flatten(), nn.Linear(12, 3))
    return settled(nn.Sequential(*layers), normal(9, 3, 4, seed=8, dtype=torch.float32))


MODELS = {"rows": (batch_normalised, X), "twice": (twice, X), "images": (convolution, IMAGES),
          "sequences": (sequences, SEQUENCES)}  # fmt: skip


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param][0]


@pytest.fixture
def x(make):
    return next(x for function, x in MODELS.values() if function is make)


def moved(make):
    """Parameters away from those at which the statistics were taken."""
    return own_point(built(make)) + 0.3 * normal(len(own_point(built(make))), seed=4)


def evaluated(model, z, statistics):
    """The plain module in evaluation mode, with these weights and statistics."""
    twin = copy.deepcopy(model).eval()
    start = 0
    for parameter in twin.parameters():
        parameter.data = z[start : start + parameter.numel()].reshape(parameter.shape).clone()
        start += parameter.numel()
    twin.load_state_dict({**twin.state_dict(), **statistics})
    return twin


def pooled(model, z, parts):
    """Mean and unbiased variance of every BatchNorm input over all batches together, by hand."""
    twin, seen = evaluated(model, z, {}).train(), {}
    for name, module in twin.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            seen[name] = []
            module.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[0]))
    with torch.no_grad():
        for part in parts:
            twin(part)
    statistics = {}
    for name, inputs in seen.items():
        channels = torch.cat([i.transpose(0, 1).flatten(1) for i in inputs], dim=1)
        statistics[f"{name}.running_mean"] = channels.mean(1)
        statistics[f"{name}.running_var"] = channels.var(1, correction=1)
    return statistics


# ---------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("mode", [True, False])
def test_frozen_statistics_are_the_models_own_in_either_mode(make, x, mode):
    model, z = built(make).train(mode), moved(make)
    risk = EmpiricalRisk(model, uneven(x, Y), CE)
    truth = plain(built(make).eval(), x, Y, CE)
    close(value(risk, z), truth(z).detach(), **CLOSE)
    dense = torch.autograd.functional.hessian(truth, z)
    close(hvp(risk, z, z), dense @ z, **CLOSE)


def test_frozen_statistics_are_those_of_the_moment_the_risk_was_made():
    model, z = built(twice), moved(twice)
    risk = EmpiricalRisk(model, (X, Y), CE)
    before = value(risk, z)
    model(3 * X)
    assert not torch.equal(model[1].running_mean, built(twice)[1].running_mean)
    assert value(risk, z) == before


def test_layers_without_running_statistics_use_those_of_the_batch():
    def bare():
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))

    risk = EmpiricalRisk(built(bare), (X, Y), CE)
    truth = plain(built(bare), X, Y, CE)
    z = moved(bare)
    close(value_and_grad(risk, z)[0], truth(z).detach(), **CLOSE)
    close(value(risk.reestimated(z), z), truth(z).detach(), **CLOSE)


# ----------------------------------------------------------------------------------------- batch


def in_training(make, parts):
    """The loss in training mode, batch by batch, as a function of the parameters; plain torch."""
    model = built(make).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False

    def truth(z):
        tensors, start = {}, 0
        for name, parameter in model.named_parameters():
            tensors[name] = z[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
        return sum(CE(functional_call(model, tensors, (x,)), y) * len(y) / 10 for x, y in parts)

    return truth


@pytest.mark.parametrize(("sizes", "mode"), [((10,), False), ((4, 4, 2), True)])
def test_batch_statistics_are_differentiated_through(make, x, sizes, mode):
    parts, z = uneven(x, Y, sizes), moved(make)
    risk = EmpiricalRisk(built(make).train(mode), parts, CE, statistics="batch")
    truth = in_training(make, parts)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(truth(leaf), leaf)
    close(value_and_grad(risk, z), (truth(z).detach(), slope), **CLOSE)
    dense = torch.autograd.functional.hessian(truth, z)
    close(Hessian(risk, z).dense(), dense, rtol=1e-7, atol=1e-8)


def test_a_step_with_batch_statistics_equals_one_of_plain_torch_in_training_mode():
    model, reference = built(twice).train(), built(twice).train()
    CE(reference(X), Y).backward()
    risk = EmpiricalRisk(model, (X, Y), CE, statistics="batch")
    expected = torch.cat([p.grad.reshape(-1) for p in reference.parameters()])
    close(value_and_grad(risk, risk.point())[1], expected, **CLOSE)


def test_mini_batches_see_their_own_statistics():
    risk = EmpiricalRisk(built(twice), (X, Y), CE, statistics="batch")
    z = risk.point()
    for batch in risk.minibatches(5, seeded(0), epochs=1):
        ((inputs, target),) = batch.batches
        truth = in_training(twice, [(inputs, target)])
        close(value(batch, z), truth(z).detach() * 10 / len(target), **CLOSE)


@pytest.mark.parametrize("statistics", ["frozen", "batch"])
def test_neither_the_model_nor_the_risk_remembers_an_evaluation(make, x, statistics):
    model = built(make).train()
    before = copy.deepcopy(model.state_dict())
    risk = EmpiricalRisk(model, (x, Y), CE, statistics=statistics)
    z = moved(make)
    values = [value(risk, z), value_and_grad(risk, z)[0], value(risk.reestimated(z), z)]
    value(risk, -z)
    assert value(risk, z) == values[0] == values[1]
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    state = risk.state_dict(z)
    assert all(torch.equal(state[n], before[n]) for n, _ in model.named_buffers())


# ----------------------------------------------------------------------------------- reestimated


def test_statistics_of_one_batch_are_those_of_update_bn(make, x):
    model, z = built(make), moved(make)
    risk = EmpiricalRisk(model, (x, Y), CE).reestimated(z)
    twin = evaluated(model, z, {})
    update_bn([x], twin)
    close(value(risk, z), CE(twin.eval()(x), Y).detach(), **CLOSE)
    state = risk.state_dict(z)
    for name, buffer in twin.named_buffers():
        if "running" in name:
            close(state[name], buffer, **CLOSE)


def test_statistics_of_several_batches_are_pooled(make, x):
    model, z = built(make), moved(make)
    risk = EmpiricalRisk(model, uneven(x, Y), CE).reestimated(z)
    statistics = pooled(model, z, x.split((4, 4, 2)))
    state = risk.state_dict(z)
    for name, expected in statistics.items():
        close(state[name], expected, **CLOSE)
    truth = CE(evaluated(model, z, statistics)(x), Y).detach()
    close(value(risk, z), truth, **CLOSE)


def test_statistics_may_come_from_the_first_samples_or_from_other_data():
    model, z, other = built(twice), moved(twice), normal(8, 4, seed=11) + 1
    risk = EmpiricalRisk(model, uneven(X, Y), CE)
    found = {
        "five": (risk.reestimated(z, 5), [X[:5]]),
        "six": (risk.reestimated(z, 6), X[:6].split((4, 2))),
        "plenty": (risk.reestimated(z, 100), X.split((4, 4, 2))),
        "other": (risk.reestimated(z, (other, Y[:8])), [other]),
        "others": (risk.reestimated(z, uneven(other, Y[:8], (4, 4))), other.split(4)),
    }
    for frozen, parts in found.values():
        state = frozen.state_dict(z)
        for name, expected in pooled(model, z, parts).items():
            close(state[name], expected, **CLOSE)
        assert frozen.samples == 10


def test_statistics_are_those_of_data_as_training_sees_them_and_losses_of_data_as_they_are():
    def moved_by(inputs, seed, step):
        return inputs + 0.1 * (step + 1) + seed

    model, z = built(twice), moved(twice)
    data = Data(uneven(X, Y), seed=3, augment=moved_by)
    frozen = EmpiricalRisk(model, data, CE).reestimated(z)
    parts = [part + 0.1 * (k + 1) + 3 for k, part in enumerate(X.split((4, 4, 2)))]
    statistics = pooled(model, z, parts)
    state = frozen.state_dict(z)
    for name, expected in statistics.items():
        close(state[name], expected, **CLOSE)
    close(value(frozen, z), CE(evaluated(model, z, statistics)(X), Y).detach(), **CLOSE)
    # So they are where the risk on other data takes them from there.
    other = EmpiricalRisk(model, (X[:3], Y[:3]), CE).reestimated(z, data).state_dict(z)
    for name, expected in statistics.items():
        close(other[name], expected, **CLOSE)


def test_a_mini_batch_is_augmented_once():
    model, z = built(twice), moved(twice)
    data = Data((X, Y), augment=lambda inputs, seed, step: inputs * 3 + 1)
    risk = EmpiricalRisk(model, data, CE)
    batch = next(risk.minibatches(10, seeded(1))).reestimated(z)
    statistics = pooled(model, z, [X * 3 + 1])
    state = batch.state_dict(z)
    for name, expected in statistics.items():
        close(state[name], expected, **CLOSE)


def test_derivatives_hold_reestimated_statistics_fixed():
    model, z = built(twice), moved(twice)
    for statistics in ("frozen", "batch"):
        risk = EmpiricalRisk(model, uneven(X, Y), CE, statistics=statistics).reestimated(z)
        fixed = evaluated(model, z, pooled(model, z, X.split((4, 4, 2))))
        truth = plain(fixed, X, Y, CE)
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(truth(leaf), leaf)
        close(value_and_grad(risk, z)[1], slope, **CLOSE)
        dense = torch.autograd.functional.hessian(truth, z)
        close(hvp(risk, z, z), dense @ z, **CLOSE)


def test_a_risk_that_reestimates_at_every_point_is_that_of_each_point():
    risk = EmpiricalRisk(built(twice), uneven(X, Y), CE)
    everywhere = Reestimated(risk)
    z = moved(twice) + 0.2 * normal(3, risk.dim)
    values, slopes = value_and_grad(everywhere, z)
    products = hvp(everywhere, z, z.flip(0))
    for i, row in enumerate(z):
        frozen = risk.reestimated(row)
        expected = value_and_grad(frozen, row)
        close((values[i], slopes[i]), expected, **CLOSE)
        close(products[i], hvp(frozen, row, z.flip(0)[i]), **CLOSE)
    close(value(everywhere, z), values, **CLOSE)
    assert value(risk, z[0]) != values[0]


@pytest.mark.parametrize("of", [
    lambda risk: Reestimated(risk),
    lambda risk: Stochastic(Reestimated(risk), risk),
    lambda risk: Sum(Ridge(0.1, dim=risk.dim), Reestimated(risk)),
    lambda risk: Restriction(Reestimated(risk), risk.point(), torch.eye(risk.dim)),
])  # fmt: skip
def test_statistics_are_estimated_once_for_each_of_several_points(of, monkeypatch):
    risk, estimated = EmpiricalRisk(built(twice), uneven(X, Y), CE), []
    own = EmpiricalRisk.reestimated
    monkeypatch.setattr(
        EmpiricalRisk, "reestimated", lambda *given: estimated.append(1) or own(*given)
    )
    objective, z = of(risk), 0.2 * normal(3, risk.dim)
    together = value(objective, z)
    assert len(estimated) == 3
    close(together, torch.stack([value(objective, row) for row in z]), **CLOSE)


def test_a_state_with_reestimated_statistics_loads_into_the_plain_module(make, x):
    z = moved(make)
    risk = EmpiricalRisk(built(make), uneven(x, Y), CE, statistics="batch").reestimated(z)
    model = built(make, seed=9)
    model.load_state_dict(risk.state_dict(z))
    close(CE(model.eval()(x), Y).detach(), value(risk, z), **CLOSE)


def test_reestimation_in_double_on_a_single_precision_model_with_frozen_parameters():
    model = built(twice, dtype=torch.float32)
    model[0].weight.requires_grad_(False)
    risk = EmpiricalRisk(model, (X.float(), Y), CE)
    z = risk.point().double()
    exact = evaluated(model.double(), own_point(model.requires_grad_(True)), {})
    update_bn([X.float().double()], exact)
    close(value(risk.reestimated(z), z), CE(exact.eval()(X.float().double()), Y).detach(), **CLOSE)


def test_reestimation_with_random_modules_is_repeatable_and_draws_from_no_global_generator():
    def dropping():
        return nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.BatchNorm1d(5), nn.Linear(5, 3))

    risk = EmpiricalRisk(built(dropping), (X, Y), CE)
    before = torch.get_rng_state()
    first, second = (risk.reestimated(risk.point()).state_dict(risk.point()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_that_is_called_twice_pools_what_it_saw_in_both_places():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.out = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.norm(torch.tanh(self.norm(self.first(x)))))

    model, z = built(Shared), moved(Shared)
    state = EmpiricalRisk(model, (X, Y), CE).reestimated(z).state_dict(z)
    for name, expected in pooled(model, z, [X]).items():
        close(state[name], expected, **CLOSE)


@pytest.mark.parametrize("sizes", [(5, 4, 1), (1, 9), (1, 4, 1, 1, 3), (1,) * 10])
def test_a_batch_of_a_single_sample_goes_with_its_neighbour(sizes):
    risk = EmpiricalRisk(built(twice), uneven(X, Y, sizes), CE)
    z = moved(twice)
    joined = {(5, 4, 1): (5, 5), (1, 9): (10,), (1, 4, 1, 1, 3): (7, 3)}.get(sizes, (10,))
    state = risk.reestimated(z).state_dict(z)
    for name, expected in pooled(built(twice), z, X.split(joined)).items():
        close(state[name], expected, **CLOSE)


def test_too_few_samples_are_refused():
    risk = EmpiricalRisk(built(twice), (X, Y), CE)
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        risk.reestimated(risk.point(), 1)
    lonely = EmpiricalRisk(built(twice), (X[:1], Y[:1]), CE)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        lonely.reestimated(lonely.point())


# --------------------------------------------------------------------------------------- results


def test_results_say_what_batchnorm_normalised_with():
    model = built(twice)
    frozen = EmpiricalRisk(model, (X, Y), CE)
    batch = EmpiricalRisk(model, (X, Y), CE, statistics="batch")
    without = EmpiricalRisk(built(chain), (X, Y), CE)
    z = frozen.point()
    wrapped = Sum(frozen, Ridge(0.1, dim=frozen.dim))
    assert gradients(without, without.point()[None]).statistics == ""
    for objective, word in ((frozen, "frozen"), (batch, "batch"), (wrapped, "frozen"),
                            (frozen.reestimated(z), "estimated at the point")):  # fmt: skip
        assert word in gradients(objective, z[None]).statistics
        assert word in line(objective, z, z).statistics
        assert word in top_eigenpairs(objective, z, 1).statistics
