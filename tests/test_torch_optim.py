"""The methods as torch optimisers: equal to torch's own, and to the population with one member."""

import copy
from collections import deque
from itertools import repeat

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import METHODS, torch_optim
from cnognp.run import run
from landscape.risk import EmpiricalRisk

CPU = torch.device("cpu")
NAMES = ("SGD", "NormalisedGD", "Adam", "AdamW", "NiG", "NiM", "SAM", "ASAM", "GCSAM", "GNP")
DRAWING = ("NiG", "NiM")


@pytest.fixture
def data():
    generator = torch.Generator(device=CPU).manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (40,), generator=generator)


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    return network.double()


def closure_of(model, data, clip=None):
    def closure():
        loss = cross_entropy(model(data[0]), data[1])
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        return loss

    return closure


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(model, data, build, steps=50):
    model = copy.deepcopy(model)
    optimiser = build(model)
    closure = closure_of(model, data)
    for _ in range(steps):
        optimiser.zero_grad()
        optimiser.step(closure)
    return weights(model)


@pytest.mark.parametrize(
    ("ours", "theirs", "keys"),
    [
        ("SGD", torch.optim.SGD, {"lr": 0.1}),
        ("SGD", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ("SGD", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("Adam", torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
        ("AdamW", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_fifty_steps_are_those_of_torch(model, data, ours, theirs, keys):
    got = trained(model, data, lambda m: getattr(torch_optim, ours)(m.parameters(), **keys))
    wanted = trained(model, data, lambda m: theirs(m.parameters(), **keys))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_fifty_steps_are_those_of_a_population_of_one(model, data, name):
    kind = getattr(torch_optim, name)
    got = trained(model, data, lambda m: kind(m.parameters(), lr=0.05, seed=7))
    risk = EmpiricalRisk(model, data, cross_entropy)
    whole = {"batch_size": 0} if "batch_size" in kind._signature() else {}
    method = METHODS[kind.name](lr=0.05, **whole)
    generator = torch.Generator(device=CPU).manual_seed(7)
    rounds = run(method, repeat(risk, 50), risk.point().unsqueeze(0), generator)
    ((state, _),) = deque(rounds, maxlen=1)
    torch.testing.assert_close(got, state.position[0], rtol=1e-6, atol=1e-6)


def test_parameter_groups_have_their_own_rates(model, data):
    def groups(m):
        return [
            {"params": list(m[0].parameters()), "lr": 0.1},
            {"params": list(m[2].parameters()), "weight_decay": 0.5},
        ]

    for name in ("SGD", "Adam", "AdamW"):
        ours = trained(model, data, lambda m, n=name: getattr(torch_optim, n)(groups(m), lr=0.01))
        theirs = trained(model, data, lambda m, n=name: getattr(torch.optim, n)(groups(m), lr=0.01))
        # SGD and Adam of torch decay by 0 where no group says otherwise; AdamW by 0.01, as here.
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_groups_that_differ_elsewhere_are_refused(model):
    groups = [
        {"params": list(model[0].parameters()), "momentum": 0.9},
        {"params": list(model[2].parameters())},
    ]
    with pytest.raises(ValueError, match="momentum must be the same in all parameter groups"):
        torch_optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_saved_by_torch_goes_on_bit_for_bit(model, data, name, tmp_path):
    kind = getattr(torch_optim, name)

    def build(m):
        return kind(m.parameters(), lr=0.05, seed=3)

    unbroken = trained(model, data, build, steps=8)
    first = copy.deepcopy(model)
    optimiser = build(first)
    for _ in range(5):
        optimiser.step(closure_of(first, data))
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    second = copy.deepcopy(first)
    resumed = kind(second.parameters(), lr=1.0)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        resumed.step(closure_of(second, data))
    assert torch.equal(weights(second), unbroken)


def test_torch_schedulers_change_the_rate(model, data):
    def scheduled(library):
        m = copy.deepcopy(model)
        optimiser = library.SGD(m.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.StepLR(optimiser, step_size=3, gamma=0.1)
        for _ in range(9):
            optimiser.zero_grad()
            optimiser.step(closure_of(m, data))
            scheduler.step()
        return weights(m)

    torch.testing.assert_close(scheduled(torch_optim), scheduled(torch.optim), rtol=1e-10, atol=0)


def test_clipping_in_the_closure_counts(model, data):
    moved = {}
    for clip in (None, 1e-3):
        m = copy.deepcopy(model)
        torch_optim.SGD(m.parameters(), lr=1.0).step(closure_of(m, data, clip))
        moved[clip] = float((weights(m) - weights(model)).norm())
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 0.1


def test_the_loss_returned_is_that_before_the_step(model, data):
    before = cross_entropy(model(data[0]), data[1])
    for name in ("SGD", "SAM"):
        m = copy.deepcopy(model)
        loss = getattr(torch_optim, name)(m.parameters(), lr=0.1).step(closure_of(m, data))
        assert torch.equal(loss.detach(), before.detach())


def test_one_evaluation_works_without_a_closure(model, data):
    with_closure = trained(model, data, lambda m: torch_optim.Adam(m.parameters(), lr=0.01), 5)
    m = copy.deepcopy(model)
    optimiser = torch_optim.Adam(m.parameters(), lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        closure_of(m, data)()
        optimiser.step()
    assert torch.equal(weights(m), with_closure)


def test_bfloat16_autocast_inside_the_closure_trains(model, data):
    model = model.float()
    inputs = data[0].float()
    optimiser = torch_optim.SAM(model.parameters(), lr=0.5)

    def closure():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(inputs), data[1])
        loss.backward()
        return loss

    losses = [float(optimiser.step(closure).detach()) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_mistakes_name_themselves_and_leave_the_weights(model, data):
    before = weights(model)
    sam = torch_optim.SAM(model.parameters(), lr=0.1)
    closure_of(model, data)()
    with pytest.raises(RuntimeError, match="needs a closure.*GradScaler"):
        sam.step()
    with pytest.raises(RuntimeError, match="the closure must call loss.backward"):
        sam.step(lambda: torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="must return the loss"):
        sam.step(lambda: None)
    with pytest.raises(ValueError, match="SAM has no option 'radius'"):
        torch_optim.SAM(model.parameters(), radius=0.1)
    with pytest.raises(ValueError, match="rho must be"):
        torch_optim.SAM(model.parameters(), rho=-1.0)
    with pytest.raises(ValueError, match="no state of SAM: method, seed, steps missing"):
        sam.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert torch.equal(weights(model), before)
