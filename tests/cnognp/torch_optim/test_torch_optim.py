"""The methods as torch optimisers: equal to torch's own, and to the population with one member."""

import copy
import inspect
from collections import deque
from itertools import repeat

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import METHODS, torch_optim
from cnognp.method import traits_of
from cnognp.run import run
from cnognp.torch_optim.flat import Closure, Flat
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import hvp, value

CPU = torch.device("cpu")
DESCENTS = ("SGD", "NormalisedGD", "Adam", "AdamW", "NiG", "NiM", "SAM", "ASAM", "GCSAM", "GNP")
HOPS = ("NiGBH", "NiMBH", "NiGMBH", "NiMMBH")
# Averaging, noise and hops are to happen within the steps of a test.
KEYS = {name: {"lr": 0.05} for name in DESCENTS}
KEYS |= {name: {"lr": 0.5, "eps": 0.05, "tau": 6, "rho": 0.3} for name in HOPS}
KEYS["NiM"] |= {"eps": 1.0, "tau": 2}
KEYS |= {"SWA": {"lr": 0.05, "start": 3, "every": 2, "momentum": 0.5}, "LBFGS": {}, "BFGS": {}}
NAMES = tuple(KEYS)


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
    # Where a search has found its minimum, what it does next is decided by rounding.
    steps = {"LBFGS": 20, "BFGS": 20}.get(name, 50)
    got = trained(model, data, lambda m: kind(m.parameters(), **KEYS[name], seed=7), steps)
    risk = EmpiricalRisk(model, data, cross_entropy)
    listed = inspect.signature(METHODS[kind.name]).parameters
    whole = {"batch_size": 0} if "batch_size" in listed else {}
    method = METHODS[kind.name](**KEYS[name], **whole)
    generator = torch.Generator(device=CPU).manual_seed(7)
    rounds = run(method, repeat(risk, steps), risk.point().unsqueeze(0), generator)
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
        return kind(m.parameters(), **KEYS[name], seed=3)

    unbroken = trained(model, data, build, steps=8)
    first = copy.deepcopy(model)
    optimiser = build(first)
    for _ in range(5):
        optimiser.step(closure_of(first, data))
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    second = copy.deepcopy(first)
    resumed = kind(second.parameters())
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
    with pytest.raises(ValueError, match="no state of SAM: sharpness_aware missing"):
        sam.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_moves_one_model_is_an_optimiser(model, data, name):
    if traits_of(METHODS[name]()).couples:
        with pytest.raises(ValueError, match=f"{name} moves a population"):
            torch_optim.named(name)
        return
    kind = torch_optim.named(name)
    assert torch_optim.named(name) is kind and kind.name == name
    if kind.__name__ in NAMES:
        assert kind is getattr(torch_optim, kind.__name__)
        return
    got = trained(model, data, lambda m: kind(m.parameters(), lr=0.05), 20)
    whole = {"batch_size": 0} if "batch_size" in inspect.signature(METHODS[name]).parameters else {}
    risk = EmpiricalRisk(model, data, cross_entropy)
    generator = torch.Generator(device=CPU).manual_seed(0)
    start = risk.point().unsqueeze(0)
    rounds = run(METHODS[name](lr=0.05, **whole), repeat(risk, 20), start, generator)
    ((state, _),) = deque(rounds, maxlen=1)
    torch.testing.assert_close(got, state.position[0], rtol=1e-6, atol=1e-6)


def test_an_optimiser_of_no_method_is_refused():
    with pytest.raises(ValueError, match="name must be one of gd, sgd, .*, got lyon"):
        torch_optim.named("lyon")


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_the_calls_of_the_closure_and_values_alone_need_no_gradient(
    model, data, name
):
    calls = {True: 0, False: 0}

    def closure(backward=True):
        calls[backward] += 1
        assert torch.is_grad_enabled() == backward
        loss = cross_entropy(model(data[0]), data[1])
        if backward:
            loss.backward()
        return loss

    twin = copy.deepcopy(model)
    optimiser = getattr(torch_optim, name)(model.parameters(), **KEYS[name])
    other = getattr(torch_optim, name)(twin.parameters(), **KEYS[name])
    for _ in range(6):
        optimiser.step(closure)
        other.step(closure_of(twin, data))
    assert optimiser.evaluations == other.evaluations == sum(calls.values())
    assert (calls[False] > 0) == (name == "LBFGS")
    assert torch.equal(weights(model), weights(twin))


def tied():
    """Two layers that share a matrix, and one that is frozen, and one that is never used."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        first, second = nn.Linear(5, 5), nn.Linear(5, 5)
        second.weight = first.weight
        frozen, unused = nn.Linear(5, 5), nn.Linear(5, 5)
        frozen.requires_grad_(False)
        model = nn.ModuleList([first, nn.Tanh(), frozen, second, nn.Linear(5, 3), unused])
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    return model.double()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_tied_frozen_and_unreached_parameters_are_as_with_torch(data, name):
    ended = []
    for library in (torch_optim, torch.optim):
        model = tied()
        before = weights(model)
        optimiser = getattr(library, name)(model.parameters(), lr=0.05, weight_decay=0.1)
        for _ in range(10):
            optimiser.zero_grad()
            optimiser.step(closure_of(model, data))
        assert torch.equal(weights(model[2]), weights(tied()[2]))
        assert torch.equal(weights(model[5]), weights(tied()[5]))
        assert not torch.isclose(weights(model[0]), before[:30]).any()
        ended.append(weights(model))
    torch.testing.assert_close(*ended, rtol=1e-10, atol=1e-10)


def test_basin_hops_leave_frozen_parameters_where_they_are_at_every_evaluation(data):
    model = tied()
    optimiser = torch_optim.NiMBH(model.parameters(), **KEYS["NiMBH"])
    kept, closure = weights(model[2]), closure_of(model, data)

    def watched():
        assert torch.equal(weights(model[2]), kept)
        return closure()

    for _ in range(3):
        optimiser.step(watched)
    assert not torch.equal(weights(model[0]), weights(tied()[0]))


def test_what_is_trainable_may_not_change_after_the_first_step(model, data):
    optimiser = torch_optim.SGD(model.parameters(), lr=0.1)
    optimiser.step(closure_of(model, data))
    with pytest.raises(RuntimeError, match="has begun with other parameters"):
        optimiser.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    model[0].bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="with 4 trainable parameters and now there are 3"):
        optimiser.step(closure_of(model, data))


def test_parameters_that_make_no_vector_are_refused():
    with pytest.raises(ValueError, match="no parameter is trainable"):
        torch_optim.SGD(nn.Linear(2, 2).requires_grad_(False).parameters())
    with pytest.raises(ValueError, match="real floating-point numbers, got torch.complex64"):
        torch_optim.SGD([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    parts = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))]
    with pytest.raises(ValueError, match="on one device, got cpu and meta"):
        torch_optim.SGD(parts)


def test_a_copy_goes_on_like_the_original(model, data):
    optimiser = torch_optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.step(closure_of(model, data))
    both = copy.deepcopy({"model": model, "optimiser": optimiser})
    for each in (both["model"], both["optimiser"]), (model, optimiser):
        for _ in range(3):
            each[1].step(closure_of(each[0], data))
    assert torch.equal(weights(both["model"]), weights(model))
    assert both["optimiser"].evaluations == optimiser.evaluations == 6


def test_stored_states_do_not_share_memory_with_what_goes_on(model, data):
    for name in ("LBFGS", "BFGS", "NiGMBH", "SWA"):
        twin = copy.deepcopy(model)
        optimiser = getattr(torch_optim, name)(twin.parameters(), **KEYS[name])
        for _ in range(4):
            optimiser.step(closure_of(twin, data))
        stored = optimiser.state_dict()["method"]
        before = {path: tensor.clone() for path, tensor in stored.items()}
        optimiser.step(closure_of(twin, data))
        assert all(torch.equal(stored[path], tensor) for path, tensor in before.items())


def test_parameters_in_bfloat16_train_and_are_stored(data):
    model = nn.Linear(5, 3).to(torch.bfloat16)
    optimiser = torch_optim.Adam(model.parameters(), lr=0.05)
    inputs = data[0].to(torch.bfloat16), data[1]
    first = float(optimiser.step(closure_of(model, inputs)).detach())
    kept = optimiser.state_dict()
    assert kept["method"]["state/mean"].dtype == torch.bfloat16
    optimiser.load_state_dict(kept)
    losses = [float(optimiser.step(closure_of(model, inputs)).detach()) for _ in range(30)]
    assert losses[-1] < first


def test_a_gradient_scaler_serves_methods_of_one_evaluation_and_is_refused_by_the_others(
    model, data
):
    model.float()
    inputs = data[0].float(), data[1]
    twin = copy.deepcopy(model)
    torch_optim.SGD(twin.parameters(), lr=0.1).step(closure_of(twin, inputs))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(cross_entropy(model(inputs[0]), inputs[1])).backward()
    before = weights(model)
    for name in ("SAM", "LBFGS", "BFGS", "NiGBH"):
        optimiser = getattr(torch_optim, name)(model.parameters(), **KEYS[name])
        with pytest.raises(RuntimeError, match="needs a closure.*GradScaler takes none"):
            optimiser.step()
        assert torch.equal(weights(model), before)
    sgd = torch_optim.SGD(model.parameters(), lr=0.1)
    scaler.step(sgd)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-5, atol=1e-6)


def test_a_closure_that_gives_no_number_or_a_sparse_gradient_is_refused(model, data):
    def vector():
        loss = cross_entropy(model(data[0]), data[1], reduction="none")
        loss.sum().backward()
        return loss

    optimiser = torch_optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"must return a scalar, got shape \(40,\)"):
        optimiser.step(vector)
    table = nn.Embedding(4, 2, sparse=True)

    def sparse():
        loss = table(torch.tensor([1, 2])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="dense gradients.*sparse=False"):
        torch_optim.SGD(table.parameters(), lr=0.1).step(sparse)


def test_a_closure_cannot_be_differentiated_twice(model, data):
    objective = Closure(Flat(list(model.parameters())), closure_of(model, data), "Mine")
    z = objective.position
    torch.testing.assert_close(value(objective, z), cross_entropy(model(data[0]), data[1]))
    with pytest.raises(TypeError, match="Mine needs more than values and gradients"):
        hvp(objective, z, z)


ROUTED = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
]


def routed(build, pattern, dtype=torch.float64, groups=False):
    """Three experts, of which step k reaches those that ``pattern(k)`` names."""
    experts = [nn.Parameter(torch.tensor([1.0 + k, 2.0], dtype=dtype)) for k in range(3)]
    given = [{"params": experts[:1], "lr": 0.02}, {"params": experts[1:]}] if groups else experts
    optimiser = build(given)
    for k in range(12):

        def closure(k=k):
            optimiser.zero_grad()
            loss = sum((experts[e] ** 2).sum() for e in pattern(k))
            loss.backward()
            return loss

        optimiser.step(closure)
    return torch.cat(experts).detach(), optimiser


PATTERNS = {
    "every second step": lambda k: (0, 1) if k % 2 == 0 else (0,),
    "late and never": lambda k: (0,) if k < 5 else (0, 1),
    "in turn": lambda k: (k % 3,),
}


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(("name", "keys"), ROUTED)
def test_experts_that_backward_does_not_reach_are_as_with_torch(name, keys, pattern, groups):
    ours, _ = routed(lambda p: getattr(torch_optim, name)(p, **keys), pattern, groups=groups)
    theirs, _ = routed(lambda p: getattr(torch.optim, name)(p, **keys), pattern, groups=groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_experts_in_bfloat16_keep_their_types(pattern):
    ours, optimiser = routed(lambda p: torch_optim.Adam(p, lr=0.05), pattern, torch.bfloat16)
    theirs, _ = routed(lambda p: torch.optim.Adam(p, lr=0.05), pattern, torch.bfloat16)
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    kinds = {path: t.dtype for path, t in optimiser.state_dict()["method"].items()}
    assert set(kinds.values()) == {torch.bfloat16, torch.int64}


def test_the_average_of_an_expert_counts_the_steps_that_do_not_reach_it():
    keys = {"lr": 0.05, "momentum": 0.9}
    ours, _ = routed(lambda p: torch_optim.SWA(p, start=2, **keys), PATTERNS["in turn"])

    class Averaging(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, **keys)
            self.places = []

        def step(self, closure):
            super().step(closure)
            self.places.append(torch.cat(self.param_groups[0]["params"]).detach().clone())

    _, theirs = routed(Averaging, PATTERNS["in turn"])
    torch.testing.assert_close(ours, torch.stack(theirs.places[2:]).mean(0), rtol=1e-12, atol=0)


def test_a_state_with_experts_goes_on_bit_for_bit_and_older_ones_are_read():
    _, optimiser = routed(lambda p: torch_optim.Adam(p, lr=0.05), PATTERNS["late and never"])
    stored = optimiser.state_dict()
    assert stored["method"]["state/round"].tolist() == [12, 7, 0]
    experts = [p for group in optimiser.param_groups for p in group["params"]]
    twins = [nn.Parameter(p.detach().clone()) for p in experts]
    resumed = torch_optim.Adam(twins)
    resumed.load_state_dict(stored)
    for each, params in ((optimiser, experts), (resumed, twins)):
        for p in params:
            p.grad = 2 * p.detach()
        each.step()
    assert torch.equal(torch.cat(experts), torch.cat(twins))
    stored["method"]["state/round"] = torch.tensor(12)
    resumed.load_state_dict(stored)
    resumed.step()
    assert resumed.state_dict()["method"]["state/round"].tolist() == [13, 13, 13]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("LBFGS", "BFGS")])
def test_a_rate_of_zero_is_one_as_with_torch(model, data, name):
    keys = {**KEYS[name], "lr": 0.0}
    optimiser = getattr(torch_optim, name)(model.parameters(), **keys)
    before = weights(model)
    optimiser.step(closure_of(model, data))
    if "NiM" not in name:
        assert torch.equal(weights(model), before)
    for rate in (-0.1, float("nan")):
        optimiser.param_groups[0]["lr"] = rate
        with pytest.raises(ValueError, match="lr must be at least 0 and finite"):
            optimiser.step(closure_of(model, data))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "NiG", "SWA"])
def test_warm_ups_from_zero_and_decays_to_zero_train_through(model, data, kind):
    lr = torch.optim.lr_scheduler
    for plan in (
        lambda o: lr.LambdaLR(o, lambda t: min(1.0, t / 4)),
        lambda o: lr.CosineAnnealingLR(o, 6),
        lambda o: lr.PolynomialLR(o, 6),
    ):
        ends = []
        for library in (torch_optim, torch.optim)[: 1 if kind in ("NiG", "SWA") else 2]:
            m = copy.deepcopy(model)
            optimiser = getattr(library, kind)(m.parameters(), lr=0.1)
            scheduler = plan(optimiser)
            for _ in range(9):
                optimiser.zero_grad()
                optimiser.step(closure_of(m, data))
                scheduler.step()
            ends.append(weights(m))
        torch.testing.assert_close(ends[0], ends[-1], rtol=1e-9, atol=1e-9)
        assert not torch.equal(ends[0], weights(model))


def transposed(model):
    """The first matrix in memory column by column."""
    return model[0].weight.data.t().contiguous().t()


FORMS = {
    "as it is": lambda m, k: m,
    "columns": lambda m, k: setattr(m[0].weight, "data", transposed(m)),
    # The state goes from the kernel to the formula and back.
    "columns for a while": lambda m, k: setattr(
        m[0].weight, "data", transposed(m) if k in (3, 4) else m[0].weight.data.contiguous()
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("name", "keys"), [*ROUTED, ("SGD", {"lr": 0.05, "momentum": 0.5, "decoupled": True})]
)
def test_steps_do_not_depend_on_how_parameters_lie_in_memory(model, data, name, keys, form):
    twin = copy.deepcopy(model)
    optimiser = getattr(torch_optim, name)(twin.parameters(), **keys)
    theirs = {key: value for key, value in keys.items() if key != "decoupled"}
    other = getattr(torch.optim, name)(model.parameters(), **theirs)
    for k in range(8):
        form(twin, k)
        optimiser.step(closure_of(twin, data))
        other.zero_grad()
        other.step(closure_of(model, data))
    torch.testing.assert_close(weights(twin), weights(model), rtol=1e-10, atol=1e-10)


def test_a_step_of_a_kernel_keeps_parameters_where_they_are(model, data):
    places = [p.data_ptr() for p in model.parameters()]
    optimiser = torch_optim.Adam(model.parameters(), lr=0.05)
    optimiser.step(closure_of(model, data))
    stored = optimiser.state_dict()["method"]
    assert torch.equal(stored["state/position"][0], weights(model))
    grad = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(stored["state/mean"][0], 0.1 * grad)
    assert [p.data_ptr() for p in model.parameters()] == places
