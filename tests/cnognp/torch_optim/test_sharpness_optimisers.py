"""Sharpness-aware optimisers around others: against the published formulas, in people's loops."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import torch_optim
from cnognp.torch_optim import ASAM, GCSAM, GNP, SAM

CPU = torch.device("cpu")
KINDS = {"SAM": SAM, "ASAM": ASAM, "GCSAM": GCSAM, "GNP": GNP}
BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.005}),
}


@pytest.fixture
def data():
    generator = torch.Generator(device=CPU).manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (40,), generator=generator)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return make()


@pytest.fixture
def model():
    layers = nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)
    return seeded(lambda: nn.Sequential(nn.Linear(5, 8), *layers[1:2], nn.Linear(8, 3))).double()


@pytest.fixture
def normalised():
    """With BatchNorm of both kinds of momentum, and one that keeps no statistics."""

    def make():
        return nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8),
            nn.BatchNorm1d(8, momentum=None), nn.BatchNorm1d(8, track_running_stats=False),
            nn.Linear(8, 3),
        ).double()  # fmt: skip

    return seeded(make)


def closure_of(model, data):
    def closure():
        loss = cross_entropy(model(data[0]), data[1])
        loss.backward()
        return loss

    return closure


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(some, others):
    assert some.keys() == others.keys()
    assert all(torch.equal(some[key], others[key]) for key in some)


def published(model, data, base, steps, rho, adaptive=False):
    """Foret et al. (2021) and Kwon et al. (2021) as their formulas read, one tensor at a time."""
    rhos = rho if isinstance(rho, list) else [rho] * len(base.param_groups)
    for _ in range(steps):
        base.zero_grad()
        closure_of(model, data)()
        groups = [(p, r) for g, r in zip(base.param_groups, rhos, strict=True) for p in g["params"]]
        start = [p.detach().clone() for p, _ in groups]
        scales = [w.abs() if adaptive else torch.ones_like(w) for w in start]
        length = sum(((t * p.grad) ** 2).sum() for t, (p, _) in zip(scales, groups, strict=True))
        with torch.no_grad():
            for scale, (p, radius) in zip(scales, groups, strict=True):
                p += radius * scale**2 * p.grad / length.sqrt()
        base.zero_grad()
        closure_of(model, data)()
        with torch.no_grad():
            for value, (p, _) in zip(start, groups, strict=True):
                p.copy_(value)
        base.step()


def by_closure(optimiser, model, data, steps):
    for _ in range(steps):
        optimiser.step(closure_of(model, data))


def by_two_steps(optimiser, model, data, steps):
    for _ in range(steps):
        closure_of(model, data)()
        optimiser.first_step(zero_grad=True)
        closure_of(model, data)()
        optimiser.second_step(zero_grad=True)


def by_plain_step(optimiser, model, data, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        closure_of(model, data)()
        optimiser.first_step()
        optimiser.zero_grad(set_to_none=False)
        closure_of(model, data)()
        optimiser.step()


LOOPS = {"closure": by_closure, "two steps": by_two_steps, "plain step": by_plain_step}
every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_loop
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("case", BASES)
def test_fifty_steps_are_those_of_the_published_formula(model, data, case, adaptive, loop):
    kind, keys = BASES[case]
    twin = copy.deepcopy(model)
    own = {"rho": 0.5, "eta": 0.0} if adaptive else {"rho": 0.05}
    optimiser = (ASAM if adaptive else SAM)(model.parameters(), base=kind, **own, **keys)
    loop(optimiser, model, data, 50)
    published(twin, data, kind(twin.parameters(), **keys), 50, own["rho"], adaptive)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-9, atol=1e-9)
    assert optimiser.evaluations == 100


def test_groups_have_rates_and_radii_of_their_own(model, data):
    def groups(m):
        return [
            {"params": list(m[0].parameters()), "lr": 0.05, "rho": 0.2},
            {"params": list(m[2].parameters()), "momentum": 0.5},
        ]

    keys = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    twin, plain = copy.deepcopy(model), copy.deepcopy(model)
    held = copy.deepcopy(model)
    by_closure(SAM(groups(model), torch.optim.SGD, rho=0.05, **keys), model, data, 20)
    base = torch.optim.SGD(groups(held), **keys)
    by_closure(SAM(held.parameters(), base), held, data, 20)
    assert torch.equal(weights(held), weights(model))
    published(twin, data, torch.optim.SGD(groups(twin), **keys), 20, [0.2, 0.05])
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-10, atol=1e-10)
    by_closure(SAM(plain.parameters(), torch.optim.SGD, **keys), plain, data, 20)
    assert not torch.allclose(weights(plain), weights(model), rtol=1e-3)


def test_a_base_is_a_name_a_class_a_function_or_an_optimiser(model, data):
    keys = {"lr": 0.02, "weight_decay": 0.1}
    ends = []
    for make in (
        lambda m: SAM(m.parameters(), base="adamw", **keys),
        lambda m: SAM(m.parameters(), torch.optim.AdamW, **keys),
        lambda m: SAM(
            m.parameters(), functools.partial(torch.optim.AdamW, lr=0.02), weight_decay=0.1
        ),
        lambda m: SAM(m.parameters(), torch.optim.AdamW(m.parameters(), **keys)),
        lambda m: SAM(m.named_parameters(), torch.optim.AdamW, **keys),
        lambda m: SAM(m.parameters(), torch_optim.AdamW, **keys),
    ):
        twin = copy.deepcopy(model)
        by_closure(make(twin), twin, data, 20)
        ends.append(weights(twin))
    for end in ends[1:-1]:
        assert torch.equal(end, ends[0])
    torch.testing.assert_close(ends[-1], ends[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["whole", "base"])
def test_schedulers_of_torch_drive_both_and_a_rate_of_zero_is_one(model, data, which):
    lr = torch.optim.lr_scheduler
    plans = (
        lambda o: lr.LambdaLR(o, lambda t: min(1.0, t / 4)),
        lambda o: lr.CosineAnnealingLR(o, 6),
        lambda o: lr.PolynomialLR(o, 6),
        lambda o: lr.OneCycleLR(o, 0.1, total_steps=8),
    )
    for plan in plans:
        ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
        optimiser = SAM(ours.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
        base = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
        plan_a, plan_b = plan(optimiser if which == "whole" else optimiser.base), plan(base)
        rates = []
        for _ in range(7):
            by_two_steps(optimiser, ours, data, 1)
            published(theirs, data, base, 1, 0.05)
            assert optimiser.param_groups[0]["lr"] == base.param_groups[0]["lr"]
            rates.append(base.param_groups[0]["lr"])
            plan_a.step()
            plan_b.step()
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-10, atol=1e-10)
    assert len(set(rates)) == 7


@every_kind
def test_a_rate_of_zero_leaves_every_bit_where_it_was(model, data, kind):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        twin = copy.deepcopy(model).to(dtype)
        before = weights(twin)
        inputs = data[0].to(dtype), data[1]
        optimiser = kind(twin.parameters(), torch.optim.SGD, lr=0.0, momentum=0.9)
        by_closure(optimiser, twin, inputs, 2)
        by_two_steps(optimiser, twin, inputs, 2)
        assert torch.equal(weights(twin), before)


def test_the_keyword_schedule_multiplies_the_rates(model, data):
    twin = copy.deepcopy(model)
    optimiser = SAM(model.parameters(), lr=0.1, schedule="cosine", horizon=10, warmup=2)
    other = SAM(twin.parameters(), torch.optim.SGD, lr=0.1)
    factors = [
        0.5,
        1.0,
        1.0,
        *[(1 + torch.cos(torch.tensor(torch.pi * k / 8))) / 2 for k in (1, 2)],
    ]
    for factor in factors:
        by_two_steps(optimiser, model, data, 1)
        assert optimiser.param_groups[0]["lr"] == 0.1
        other.param_groups[0]["lr"] = 0.1 * float(factor)
        by_two_steps(other, twin, data, 1)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-6, atol=1e-7)


@every_loop
@pytest.mark.parametrize("case", BASES)
def test_a_stored_state_goes_on_bit_for_bit(model, data, case, loop, tmp_path):
    kind, keys = BASES[case]
    whole = copy.deepcopy(model)
    loop(SAM(whole.parameters(), kind, rho=0.1, **keys), whole, data, 6)
    optimiser = SAM(model.parameters(), kind, rho=0.1, **keys)
    loop(optimiser, model, data, 3)
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    copied = copy.deepcopy({"model": model, "optimiser": optimiser})
    resumed = SAM(model.parameters(), kind)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for m, o in ((model, resumed), (copied["model"], copied["optimiser"])):
        loop(o, m, data, 3)
        assert torch.equal(weights(m), weights(whole))
        assert o.evaluations == 12
        assert o.param_groups is o.base.param_groups
        assert o.state is o.base.state


@every_kind
def test_accumulated_gradients_are_the_ones_of_all_samples(model, data, kind):
    parts = [(data[0][k::4], data[1][k::4]) for k in range(4)]

    def accumulated(m):
        def closure():
            losses = [cross_entropy(m(x), y) / 4 for x, y in parts]
            for loss in losses:
                loss.backward()
            return sum(losses)

        return closure

    whole, two = copy.deepcopy(model), copy.deepcopy(model)
    keys = {"lr": 0.1, "momentum": 0.9}
    by_closure(kind(whole.parameters(), torch.optim.SGD, **keys), whole, data, 10)
    one = kind(model.parameters(), torch.optim.SGD, **keys)
    other = kind(two.parameters(), torch.optim.SGD, **keys)
    for _ in range(10):
        one.step(accumulated(model))
        accumulated(two)()
        other.first_step(zero_grad=True)
        accumulated(two)()
        other.second_step(zero_grad=True)
    for m in (model, two):
        torch.testing.assert_close(weights(m), weights(whole), rtol=1e-10, atol=1e-10)


@every_loop
def test_running_statistics_are_those_of_one_pass_where_the_weights_are(normalised, data, loop):
    plain = copy.deepcopy(normalised)
    modes = [m.training for m in normalised.modules()]
    momenta = [getattr(m, "momentum", None) for m in normalised.modules()]
    optimiser = SAM(normalised.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, model=normalised)
    for _ in range(3):
        plain.load_state_dict(normalised.state_dict())
        plain(data[0])
        loop(optimiser, normalised, data, 1)
        assert_same(buffers(normalised), buffers(plain))
    assert [m.training for m in normalised.modules()] == modes
    assert [getattr(m, "momentum", None) for m in normalised.modules()] == momenta


def test_without_the_model_both_passes_are_in_the_statistics(normalised, data):
    optimiser = SAM(normalised.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    by_closure(optimiser, normalised, data, 1)
    assert int(normalised[1].num_batches_tracked) == 2


def test_layers_in_evaluation_mode_stay_so_and_learn_no_statistics(normalised, data):
    normalised[1].eval()
    before = buffers(normalised[1])
    optimiser = SAM(normalised.parameters(), torch.optim.SGD, lr=0.1, model=normalised)
    by_two_steps(optimiser, normalised, data, 2)
    assert_same(buffers(normalised[1]), before)
    assert not normalised[1].training
    assert normalised[4].training
    assert int(normalised[4].num_batches_tracked) == 2


@every_kind
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_the_second_evaluation_leaves_no_trace(normalised, data, kind, error):
    optimiser = kind(normalised.parameters(), torch.optim.SGD, lr=0.1, model=normalised)
    by_closure(optimiser, normalised, data, 2)
    plain = copy.deepcopy(normalised)
    plain(data[0])
    before, calls = weights(normalised), []

    def failing():
        calls.append(weights(normalised))
        loss = closure_of(normalised, data)()
        if len(calls) == 2:
            raise error
        return loss

    with pytest.raises(error):
        optimiser.step(failing)
    assert not torch.equal(calls[1], before)
    assert torch.equal(weights(normalised), before)
    assert_same(buffers(normalised), buffers(plain))
    by_closure(optimiser, normalised, data, 1)
    assert not torch.equal(weights(normalised), before)


def test_a_step_that_is_given_up_leaves_no_trace(normalised, data):
    optimiser = SAM(normalised.parameters(), "adamw", lr=0.1, model=normalised)
    before = weights(normalised)
    closure_of(normalised, data)()
    statistics = buffers(normalised)
    optimiser.first_step(zero_grad=True)
    for refused, message in (
        (optimiser.first_step, "begin another one"),
        (optimiser.state_dict, "be stored"),
        (lambda: copy.deepcopy(optimiser), "be copied"),
        (lambda: optimiser.step(closure_of(normalised, data)), "by a closure"),
        (lambda: optimiser.load_state_dict({}), "load another state"),
    ):
        with pytest.raises(RuntimeError, match=f"begun a step by first_step.*{message}"):
            refused()
    closure_of(normalised, data)()
    optimiser.undo_first_step()
    optimiser.undo_first_step()
    assert torch.equal(weights(normalised), before)
    assert_same(buffers(normalised), statistics)
    assert optimiser.state_dict()["sharpness_aware"]["steps"] == 0


class Accelerated(torch.optim.Optimizer):
    """What wrappers do: they hide methods, reload the state, and step without a closure."""

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler = optimizer, scaler
        optimizer.load_state_dict(optimizer.state_dict())

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def zero_grad(self, set_to_none=None):
        self.optimizer.zero_grad(set_to_none=bool(set_to_none))

    def step(self, closure=None):
        if self.scaler is None:
            self.optimizer.step(closure)
        else:
            self.scaler.step(self.optimizer, closure)
            self.scaler.update()


class Trainer:
    """The loop of the Trainer of Hugging Face, as far as it touches an optimiser."""

    def __init__(self, model, optimiser, scheduler, accumulation=1, clip=0.0):
        self.model, self.optimizer, self.scheduler = model, Accelerated(optimiser), scheduler
        self.accumulation, self.clip = accumulation, clip
        self.accelerator = type("Accelerator", (), {"sync_gradients": True})()

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = cross_entropy(model(inputs[0]), inputs[1]) / self.accumulation
        loss.backward()
        return loss.detach()

    def train(self, batches):
        for k, inputs in enumerate(batches, 1):
            self.accelerator.sync_gradients = k % self.accumulation == 0
            self.training_step(self.model, inputs, None)
            if self.accelerator.sync_gradients:
                if self.clip:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                self.optimizer.step()
                self.scheduler.step()
                self.model.zero_grad()


class SharpTrainer(Trainer):
    """As the documentation of `cnognp.torch_optim` shows it."""

    seen = ()

    def training_step(self, model, inputs, *more):
        loss = super().training_step(model, inputs, *more)
        self.seen = [*self.seen, inputs]
        if self.accelerator.sync_gradients:
            self.optimizer.optimizer.first_step(zero_grad=True)
            for each in self.seen:
                super().training_step(model, each, *more)
            self.seen = ()
        return loss


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_trainer_that_steps_without_a_closure_through_a_wrapper_trains(
    normalised, data, accumulation
):
    twin = copy.deepcopy(normalised)
    batches = [(data[0][k::8], data[1][k::8]) for k in range(8)] * 2
    keys = {"rho": 0.1, "lr": 0.05, "weight_decay": 0.1}

    def made(m):
        optimiser = SAM(m.parameters(), torch.optim.AdamW, model=m, **keys)
        return optimiser, torch.optim.lr_scheduler.LinearLR(optimiser, 0.5, 0.0, 16)

    SharpTrainer(normalised, *made(normalised), accumulation, clip=0.5).train(batches)
    optimiser, scheduler = made(twin)
    for k in range(0, 16, accumulation):
        calls = []

        def closure(k=k, calls=calls):
            for inputs, target in batches[k : k + accumulation]:
                loss = cross_entropy(twin(inputs), target) / accumulation
                loss.backward()
            calls.append(loss)
            if len(calls) == 2:
                nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            return loss

        optimiser.step(closure)
        scheduler.step()
    torch.testing.assert_close(weights(normalised), weights(twin), rtol=1e-12, atol=1e-12)
    assert_same(buffers(normalised), buffers(twin))
    assert int(normalised[1].num_batches_tracked) == 16


@every_kind
def test_a_gradient_scaler_changes_nothing_and_skips_overflows(model, data, kind):
    model.float()
    inputs = data[0].float(), data[1]
    twin = copy.deepcopy(model)
    keys = {"lr": 0.1, "momentum": 0.9}
    optimiser = kind(model.parameters(), torch.optim.SGD, **keys)
    by_closure(kind(twin.parameters(), torch.optim.SGD, **keys), twin, inputs, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def backward(factor=1.0):
        scaler.scale(factor * cross_entropy(model(inputs[0]), inputs[1])).backward()

    def step(first=1.0, second=1.0):
        backward(first)
        optimiser.first_step(zero_grad=True)
        backward(second)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()

    for _ in range(4):
        step()
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-5, atol=1e-6)
    before, scale = weights(model), scaler.get_scale()
    for k, factors in enumerate(((float("inf"), 1.0), (1.0, float("inf"))), 1):
        step(*factors)
        assert torch.equal(weights(model), before)
        assert scaler.get_scale() == scale / 2**k
    step()
    assert not torch.equal(weights(model), before)


def test_gradients_may_be_unscaled_and_clipped_before_the_second_step(model, data):
    model.float()
    inputs = data[0].float(), data[1]
    twin = copy.deepcopy(model)
    optimiser = SAM(model.parameters(), torch.optim.SGD, lr=1.0)
    mixing = GNP(model.parameters(), torch.optim.SGD, lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    before = weights(model)
    for each in (optimiser, mixing):
        scaler.scale(cross_entropy(model(inputs[0]), inputs[1])).backward()
        each.first_step(zero_grad=True)
        scaler.scale(cross_entropy(model(inputs[0]), inputs[1])).backward()
        scaler.unscale_(each)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        if each is mixing:
            now = weights(model)
            with pytest.raises(RuntimeError, match="leave unscale_ to GradScaler.step"):
                scaler.step(each)
            assert not torch.equal(weights(model), now)
            break
        scaler.step(each)
        scaler.update()
        each.zero_grad()
    calls = []

    def closure():
        calls.append(closure_of(twin, inputs)())
        if len(calls) == 2:
            nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
        return calls[-1]

    SAM(twin.parameters(), torch.optim.SGD, lr=1.0).step(closure)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-4, atol=1e-7)
    assert float((weights(model) - before).norm()) == pytest.approx(0.01, rel=1e-3)


@every_loop
def test_parameters_that_a_pass_does_not_reach_are_left_to_the_base(data, loop):
    a, b, c = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (1.0, 2.0, 3.0))
    frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)

    class Routed:
        calls = 0

        def __call__(self, inputs):
            self.calls += 1
            # b is reached in the first pass alone, c in the second alone, in every other step.
            which = self.calls % 4
            routed = b if which == 1 else c if which == 2 else b + c
            return (a * routed).expand(40, 3) * inputs[:, :3] * frozen[0]

    optimiser = SAM([a, b, c, frozen], torch.optim.Adam, lr=0.1, weight_decay=0.1)
    places = [(b.item(), c.item())]
    model = Routed()
    for _ in range(4):
        loop(optimiser, model, data, 1)
        places.append((b.item(), c.item()))
    if loop is not by_plain_step:
        moved = [(x != u, y != v) for (x, y), (u, v) in zip(places, places[1:], strict=False)]
        assert moved == [(False, True), (True, True), (False, True), (True, True)]
        assert int(optimiser.state[b]["step"]) == 2
        assert int(optimiser.state[c]["step"]) == 4
    assert torch.equal(frozen, torch.ones(2, dtype=torch.float64))
    assert frozen not in optimiser.state


@pytest.mark.parametrize("kind", [SAM, GNP])
def test_a_gradient_of_the_first_pass_alone_counts_where_both_are_mixed(kind):
    a, b = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (1.0, 2.0))
    optimiser = kind([a, b], torch.optim.SGD, lr=0.5)
    (a * b).sum().backward()
    optimiser.first_step(zero_grad=True)
    (3 * a).sum().backward()
    optimiser.second_step()
    # GNP steps along a fifth of the first gradient and four fifths of the second one.
    expected = (1.0 - 0.5 * 3.0, 2.0) if kind is SAM else (1.0 - 0.5 * 2.8, 2.0 - 0.5 * 0.2)
    assert (a.item(), b.item()) == pytest.approx(expected, rel=1e-12)


def test_what_freezes_and_thaws_between_steps_does_so_with_the_base(model, data):
    twin = copy.deepcopy(model)
    optimiser = SAM(model.parameters(), torch.optim.AdamW, lr=0.1)
    base = torch.optim.AdamW(twin.parameters(), lr=0.1)
    for frozen in (True, False, True):
        for m in (model, twin):
            m[0].requires_grad_(not frozen)
        by_closure(optimiser, model, data, 2)
        trainable = [p for p in twin.parameters() if p.requires_grad]
        held, base.param_groups[0]["params"] = base.param_groups[0]["params"], trainable
        published(twin, data, base, 2, 0.05)
        base.param_groups[0]["params"] = held
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-10, atol=1e-10)


def test_parameters_of_several_types_train_and_return_exactly(model, data):
    mixed = nn.Sequential(copy.deepcopy(model[0]).to(torch.bfloat16), nn.Tanh(), model[2].float())
    inputs = data[0].to(torch.bfloat16)
    optimiser = SAM(mixed.parameters(), torch.optim.SGD, lr=0.3, momentum=0.5)

    def closure():
        loss = cross_entropy(mixed[2](mixed[1](mixed[0](inputs)).float()), data[1])
        loss.backward()
        return loss

    losses = [float(optimiser.step(closure).detach()) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert mixed[0].weight.dtype == torch.bfloat16


def test_half_precision_gradients_of_large_norm_make_a_finite_neighbour():
    p = nn.Parameter(torch.zeros(400, dtype=torch.float16))
    optimiser = SAM([p], torch.optim.SGD, rho=1.0, lr=0.0)
    p.grad = torch.full_like(p, 6e4)
    optimiser.first_step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 0.05))


def test_parameters_added_later_belong_to_both(model, data):
    twin = copy.deepcopy(model)
    optimiser = SAM(model[0].parameters(), torch.optim.AdamW, rho=0.1, lr=0.05)
    optimiser.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    by_closure(optimiser, model, data, 5)
    groups = [{"params": list(twin[k].parameters()), "lr": r} for k, r in ((0, 0.05), (2, 0.01))]
    published(twin, data, torch.optim.AdamW(groups), 5, 0.1)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-10, atol=1e-10)


def test_a_keyword_that_both_have_is_ours_with_the_name_before_it(model, data):
    for kind, base, keys, ours in (
        (SAM, torch.optim.Adadelta, {"rho": 0.8}, {"sam_rho": 0.1}),
        (GNP, torch.optim.RMSprop, {"alpha": 0.9}, {"gnp_alpha": 0.5}),
    ):
        optimiser = kind(model.parameters(), base, lr=0.01, **keys, **ours)
        assert {**optimiser.param_groups[0], **keys, **ours} == optimiser.param_groups[0]
        by_closure(optimiser, model, data, 2)
        wrapped = kind(model.parameters(), base(model.parameters(), **keys), **ours)
        assert wrapped.base.param_groups[0][next(iter(keys))] == next(iter(keys.values()))


def test_a_closure_of_somebody_else_that_clears_gradients_itself_changes_nothing(model, data):
    twin = copy.deepcopy(model)
    clearing = SAM(twin.parameters(), torch.optim.SGD, lr=0.1)
    by_closure(SAM(model.parameters(), torch.optim.SGD, lr=0.1), model, data, 3)
    for _ in range(3):
        closure_of(twin, data)()

        def closure():
            clearing.zero_grad()
            return closure_of(twin, data)()

        clearing.step(closure)
    assert torch.equal(weights(twin), weights(model))


def test_mistakes_name_themselves_and_leave_the_weights(model, data):
    before = weights(model)
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    for call, message in (
        (sam.step, "needs a closure.*first_step"),
        (sam.second_step, "needs a closure.*first_step"),
        (sam.first_step, r"no parameter of SAM has a gradient: call loss.backward\(\) before"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    closure_of(model, data)()
    sam.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match="no parameter of SAM has a gradient at the neighbour"):
        sam.second_step()
    assert torch.equal(weights(model), before)
    losses = iter([closure_of(model, data), lambda: None])
    with pytest.raises(RuntimeError, match="must return the loss"):
        sam.step(lambda: next(losses)())
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda p: SAM(p, "lion"),
            "base must be one of sgd, adam, adamw or an optimiser, got 'lion'",
        ),
        (lambda p: SAM(p, torch.optim.LBFGS), "LBFGS needs a closure of its own"),
        (
            lambda p: SAM(p, torch.optim.SGD, radius=1.0),
            "SAM has no option 'radius'; there are rho",
        ),
        (lambda p: SAM(p, torch.optim.SGD, rho=-1.0), "rho must be at least 0 and finite, got -1"),
        (lambda p: SAM(p, torch.optim.SGD, lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda p: SAM(p, lr=float("nan")), "lr must be at least 0 and finite, got nan"),
        (lambda p: SAM(p, torch.optim.SGD(p), lr=1.0), "lr belongs to the optimiser"),
        (lambda p: SAM(p[:1], torch.optim.SGD(p)), "4 tensors that are not the 1 given as params"),
        (
            lambda p: GNP([{"params": p[:1], "alpha": 0.5}, {"params": p[1:]}], "sgd"),
            "alpha must be the same in all parameter groups",
        ),
        (lambda p: SAM([q.detach() for q in p], "sgd"), "no parameter is trainable"),
    ],
)
def test_what_makes_no_optimiser_is_refused(model, make, message):
    with pytest.raises(ValueError, match=message):
        make(list(model.parameters()))


def test_sparse_gradients_are_refused_with_the_weights_as_they_were():
    table = seeded(lambda: nn.Embedding(4, 2, sparse=True))
    before = table.weight.detach().clone()
    optimiser = SAM(table.parameters(), torch.optim.SGD, lr=0.1)

    def sparse():
        loss = table(torch.tensor([1, 2])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="dense gradients.*sparse=False"):
        optimiser.step(sparse)
    assert torch.equal(table.weight, before)
