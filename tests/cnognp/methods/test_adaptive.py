"""Adam and AdamW against ``torch.optim``, and what every method keeps."""

import copy
from itertools import repeat

import invariants
import populations
import pytest
import torch
from populations import seeded, start
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.methods.adaptive import Adam, AdamW
from cnognp.methods.centralisation import Centralised
from cnognp.methods.descent import Epoch
from cnognp.methods.schedule import Cosine, Scheduled, StepDecay, WarmUp
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, value_and_grad

METHODS_HERE = {
    "adam": Adam(lr=0.01),
    "adam-decay": Adam(lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adamw": AdamW(lr=0.01, weight_decay=0.2),
}
every_method = pytest.mark.parametrize("case", METHODS_HERE)
every_objective = pytest.mark.parametrize("name", invariants.OBJECTIVES)


def classes(dtype):
    x, target = populations.data()
    return x.to(dtype), target


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def torch_run(model, make, steps, dtype):
    """The parameters after steps of a torch optimiser on the whole data."""
    model = copy.deepcopy(model)
    optimiser, (x, target) = make(model), classes(dtype)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(model(x), target).backward()
        optimiser.step()
    return flat(model)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind, other", [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_fifty_steps_on_a_network_are_those_of_torch(kind, other, weight_decay, dtype, tolerance):
    how = {"lr": 0.01, "betas": (0.85, 0.98), "eps": 1e-7, "weight_decay": weight_decay}
    model = populations.network(dtype)
    risk = EmpiricalRisk(model, classes(dtype), cross_entropy)
    expected = torch_run(model, lambda m: other(m.parameters(), **how), 50, dtype)
    found = populations.last(kind(**how), risk, risk.point()[None], 50).position[0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert (found - risk.point()).abs().max() > 0.1


@pytest.mark.parametrize("kind, other", [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_a_step_length_and_a_decay_per_coordinate_are_parameter_groups(kind, other):
    model = populations.network()
    risk = EmpiricalRisk(model, classes(torch.float64), cross_entropy)
    rates, decays = (0.01, 0.03, 0.02, 0.05), (0.1, 0.0, 0.2, 0.3)
    sizes = [p.numel() for p in model.parameters()]
    spread = [
        torch.cat([
            torch.full((n,), x, dtype=torch.float64) for n, x in zip(sizes, numbers, strict=True)
        ])
        for numbers in (rates, decays)
    ]

    def groups(m):
        parameters = zip(m.parameters(), rates, decays, strict=True)
        return other([{"params": p, "lr": lr, "weight_decay": wd} for p, lr, wd in parameters])

    expected = torch_run(model, groups, 20, torch.float64)
    method = kind(lr=spread[0], weight_decay=spread[1])
    found = populations.last(method, risk, risk.point()[None], 20).position[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_first_step_is_as_long_as_lr_in_every_coordinate():
    z = start(himmelblau)
    _, grad = value_and_grad(himmelblau, z)
    found = populations.last(Adam(lr=0.3, eps=0.0), himmelblau, z, 1).position
    torch.testing.assert_close(found, z - 0.3 * grad.sign(), rtol=1e-12, atol=1e-12)


def test_decoupled_decay_shrinks_where_there_is_no_gradient_and_coupled_decay_is_normalised():
    level = Analytic(lambda z: 0.0 * z.sum(-1), dim=2)
    z = torch.tensor([[2.0, -3.0]], dtype=torch.float64, device="cpu")
    shrunk = populations.last(AdamW(lr=0.1, weight_decay=0.5), level, z, 3).position
    torch.testing.assert_close(shrunk, z * 0.95**3)
    walked = populations.last(Adam(lr=0.1, weight_decay=0.5, eps=0.0), level, z, 1).position
    torch.testing.assert_close(walked, z - 0.1 * z.sign())


@every_objective
@every_method
def test_steps_are_pure_and_resumable(name, case):
    invariants.check_purity(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_resumption(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_members_are_as_many_runs_of_their_own(name, case):
    invariants.check_alone(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_devices_types_and_info_are_right(name, case):
    invariants.check_devices_and_types(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_info(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_method
def test_a_nan_stays_with_its_member(case):
    invariants.check_nan_stays_alone(METHODS_HERE[case])


@every_method
def test_members_that_a_swarm_has_moved_go_on_from_there(case):
    invariants.check_moved(METHODS_HERE[case])


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.5}, "lr must be at least 0 and finite, got -0.5"),
        ({"lr": float("inf")}, "lr must be at least 0 and finite, got inf"),
        ({"lr": torch.tensor([0.1, -0.1], device="cpu")}, "lr must be at least 0 and finite, got "),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers .* got \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, r"betas must be two numbers .* got \(-0.1, 0.9\)"),
        ({"eps": -1e-8}, "eps must be at least 0 and finite, got -1e-08"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0 and finite, got nan"),
        (
            {"weight_decay": torch.tensor([0.0, -1.0], device="cpu")},
            "weight_decay must be at least 0 and finite, got tensor",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_keywords_of_the_named_methods_arrive_where_they_belong():
    method = METHODS["adam"](
        lr=0.3, beta1=0.5, beta2=0.6, eps=0.1, weight_decay=0.2, centralise="convolutions",
        batch_size=4, schedule="cosine", horizon=30, warmup=10,
    )  # fmt: skip
    step = Centralised(Adam(0.3, (0.5, 0.6), 0.1, 0.2), conv_only=True)
    assert method == Scheduled(Epoch(step, 4), WarmUp(10, Cosine(20)))
    assert METHODS["adam"]() == Epoch(Adam(), 32)
    assert METHODS["adam"](batch_size=0, schedule="step", horizon=30) == Scheduled(
        Adam(), WarmUp(0, StepDecay(10))
    )
    assert METHODS["adamw"](batch_size=0, centralise="all") == Centralised(AdamW())
    assert METHODS["adamw"](lr=0.3, beta1=0.5, beta2=0.6, eps=0.1, weight_decay=0.2) == Epoch(
        AdamW(0.3, (0.5, 0.6), 0.1, 0.2), 32
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": -1}, "batch_size must be at least 0, got -1"),
        ({"centralise": "some"}, r"centralise must be one of \('none', .* got some"),
        ({"schedule": "linear"}, r"schedule must be one of .* got linear"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
    ],
)
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_keywords_of_the_named_methods_out_of_range_are_refused(name, options, message):
    with populations.annotations_unchecked(), pytest.raises(ValueError, match=message):
        METHODS[name](**options)


def test_epochs_of_adam_go_on_from_the_means_of_the_last_epoch():
    risk = populations.risk()
    z = risk.point()[None]
    whole = METHODS["adam"](lr=0.01, batch_size=30)
    found = populations.last(whole, risk, z, 3).position
    assert risk.samples == 30
    torch.testing.assert_close(
        found, populations.last(Adam(lr=0.01), risk, z, 3).position, rtol=1e-9, atol=1e-9
    )
    assert len(list(run(whole, repeat(risk, 2), z, seeded(0)))) == 2
