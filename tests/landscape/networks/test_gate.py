"""What is checked at the door: that a loss is one function of the vector alone."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import CE, X, Y, built, chain, convolution, normal, seeded
from torch import nn
from torch.utils.checkpoint import checkpoint

from landscape import directions, slices
from landscape.networks import difference_quotients
from landscape.networks.reestimation import Reestimated
from landscape.networks.risk import EmpiricalRisk, ModelRisk
from landscape.networks.weighing import shifted
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.operators import GaussNewton
from landscape.recorder import CurvatureRecorder
from landscape.restriction import Restriction
from landscape.sharpness import panel
from landscape.spectrum import density, top_eigenpairs
from landscape.trace import trace

close = torch.testing.assert_close


def own(model):
    return [p for p in model.parameters() if p.requires_grad]


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def dense(model, loss):
    """The Hessian by plain autograd on the user's own module."""
    slope = flat(torch.autograd.grad(loss(), own(model), create_graph=True, materialize_grads=True))
    rows = [
        flat(torch.autograd.grad(s, own(model), retain_graph=True, materialize_grads=True))
        for s in slope
    ]
    return torch.stack(rows).detach()


def largest(matrix, k=2):
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return values[values.abs().argsort(descending=True)][:k].numpy()


class Net(nn.Module):
    """A perceptron with something between its layers."""

    def __init__(self, between=torch.tanh):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


# ------------------------------------------------------------------ only the substituted vector


class Checkpointed(Net):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        hidden = torch.tanh(self.a(x)).requires_grad_()
        return checkpoint(lambda h: self.b(h).sin(), hidden, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_sees_the_point_and_not_the_model(reentrant):
    risk = EmpiricalRisk(built(lambda: Checkpointed(reentrant)), (X, Y), CE)
    plain = built(Net)
    w = 1.5 * risk.point() + 0.1
    nn.utils.vector_to_parameters(w, plain.parameters())

    def loss():
        return CE(plain.b(torch.tanh(plain.a(X))).sin(), Y)

    expected = flat(torch.autograd.grad(loss(), own(plain)))
    close(value_and_grad(risk, w)[1], expected)
    close(value_and_grad(risk, w.expand(2, -1))[1][1], expected)
    found = top_eigenpairs(risk, w, 2, tolerance=1e-6).eigenvalues
    np.testing.assert_allclose(found, largest(dense(plain, loss)), rtol=1e-6)


def test_a_checkpoint_in_a_checkpoint_sees_the_point():
    class Nested(Net):
        def inner(self, h):
            return checkpoint(lambda t: torch.tanh(self.a(t)), h, use_reentrant=False)

        def forward(self, x):
            return self.b(checkpoint(self.inner, x, use_reentrant=False))

    risk, plain = EmpiricalRisk(built(Nested), (X, Y), CE), EmpiricalRisk(built(Net), (X, Y), CE)
    z = plain.point() + 0.3
    close(hvp(risk, z, z), hvp(plain, z, z))


def test_a_regulariser_that_reads_the_models_parameters_is_part_of_the_loss():
    model = built(Net)

    def loss(output, target):
        return CE(output, target) + 0.5 * sum(p.pow(2).sum() for p in model.parameters())

    risk = EmpiricalRisk(model, (X, Y), loss)
    z = risk.point()
    with_ridge = Sum(EmpiricalRisk(model, (X, Y), CE), Ridge(1.0, dim=risk.dim))
    close(value(risk, 2 * z), value(with_ridge, 2 * z))
    truth = largest(dense(model, lambda: loss(model(X), Y)))
    np.testing.assert_allclose(top_eigenpairs(risk, z, 2).eigenvalues, truth)
    with pytest.raises(ValueError, match="past the outputs"):
        GaussNewton(risk, z)


def test_a_function_that_closes_over_the_model_sees_the_point():
    class Closing(Net):
        def __init__(self):
            super().__init__()
            self.body = lambda x: torch.tanh(self.a(x))

        def forward(self, x):
            return self.b(self.body(x))

    risk, plain = EmpiricalRisk(built(Closing), (X, Y), CE), EmpiricalRisk(built(Net), (X, Y), CE)
    z = plain.point() + 0.1 * normal(3, plain.dim)
    close(value_and_grad(risk, z), value_and_grad(plain, z))


def test_parameters_of_a_loss_belong_to_the_vector():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.log = nn.Parameter(torch.zeros(2))

        def forward(self, output, target):
            parts = torch.stack([CE(output, target), output.pow(2).mean()])
            return (torch.exp(-self.log) * parts + self.log).sum()

    model, loss = built(Net), built(Weighted)
    risk = EmpiricalRisk(model, (X, Y), loss)
    assert risk.layout.names[-1] == "loss.log" and risk.dim == 45
    both = nn.ModuleList([model, loss])
    truth = dense(both, lambda: loss(model(X), Y))
    close(hvp(risk, risk.point(), torch.eye(45, dtype=torch.float64)), truth)
    assert set(risk.state_dict(risk.point())) == set(model.state_dict())


def test_tensors_that_reach_the_loss_past_the_vector_are_named_and_refused():
    model = built(Net)
    held = list(model.parameters())
    risk = EmpiricalRisk(model, (X, Y), lambda o, t: CE(o, t) + sum(p.sum() for p in held))
    with pytest.raises(RuntimeError, match=r"the parameter a.weight|b.bias reaches the loss past"):
        top_eigenpairs(risk, risk.point(), 1)

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(normal(3, 4))
            self.twice = self.w * 2

        def forward(self, x):
            return x @ self.w.T + x @ self.twice.T

    risk = EmpiricalRisk(Cached(), (X, Y), CE)
    with pytest.raises(RuntimeError, match="the parameter w reaches the loss past the vector"):
        trace(risk, risk.point())
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    risk = EmpiricalRisk(model, (X, Y), lambda o, t: scale * CE(o, t))
    with pytest.raises(RuntimeError, match=r"a parameter of shape \(\) that is no part of the mod"):
        slices.line(risk, risk.point(), risk.point())


def test_an_embedding_that_limits_its_rows_is_a_function_of_its_weight():
    class Words(nn.Module):
        def __init__(self, limit):
            super().__init__()
            self.words, self.out = nn.Embedding(8, 4, max_norm=limit), nn.Linear(4, 3)

        def forward(self, places):
            return self.out(self.words(places).mean(1))

    places = torch.randint(0, 8, (10, 5), generator=seeded(0))
    model = built(lambda: Words(1.0))
    before = model.words.weight.detach().clone()
    risk = EmpiricalRisk(model, (places, Y), CE)
    z = risk.point()
    loss, slope = value_and_grad(risk, z)
    assert torch.equal(model.words.weight, before) and model.words.max_norm == 1.0
    h, v = 1e-6, normal(risk.dim)
    ends = value(risk, torch.stack([z + h * v, z - h * v]))
    close((ends[0] - ends[1]) / (2 * h), slope @ v, rtol=1e-7, atol=1e-9)
    close(loss, CE(model(places), Y).detach(), rtol=1e-6, atol=0)  # torch limits them in place


def test_a_parameter_that_forward_writes_to_is_refused():
    class Clipped(Net):
        def forward(self, x):
            with torch.no_grad():
                self.a.weight.clamp_(-0.1, 0.1)
            return super().forward(x)

    model = built(Clipped)
    before = model.a.weight.detach().clone()
    with pytest.raises(RuntimeError, match="writes to the parameter a.weight"):
        EmpiricalRisk(model, (X, Y), CE)
    assert torch.equal(model.a.weight, before)


# ------------------------------------------------------------------------------ one function


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx, grad):
        return grad


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + 10 * ctx.saved_tensors[0].abs()) ** 2


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class Frozen(torch.autograd.Function):
    """The right gradient, and a second derivative without the curvature of the sine."""

    @staticmethod
    def forward(ctx, x):
        ctx.cos = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.cos


SURROGATES = {
    "reversal": (Reversed.apply, "values and gradient"),
    "straight through": (Rounded.apply, "values and gradient"),
    "rounded by detach": (lambda h: h + ((4 * h).round() / 4 - h).detach(), "values and gradient"),
    "spiking": (Spike.apply, "values and gradient"),
    "spiking in float32": (lambda h: Spike.apply(h).float().to(h), "values and gradient"),
    "detached in part": (lambda h: torch.tanh(h) + 0.2 * h.detach(), "values and gradient"),
    "once": (Once.apply, "no second derivative|products belong.*derivatives='differences'"),
    "second derivative left out": (Frozen.apply, "gradients and Hessian-vector products"),
}
MEASURED = {
    "spectrum": lambda r, z: top_eigenpairs(r, z, 1),
    "trace": lambda r, z: trace(r, z),
    "density": lambda r, z: density(r, z, steps=3, probes=1),
    "block": lambda r, z: top_eigenpairs(r, z, 1, where="a"),
    "panel": lambda r, z: panel(r, z, only=("trace",)),
    "slice": lambda r, z: slices.line(r, z, z),
    "recorder": lambda r, z: CurvatureRecorder(r)(0, z),
    "sum": lambda r, z: trace(Sum(r, Ridge(1.0, dim=len(z))), z),
    "restriction": lambda r, z: top_eigenpairs(
        Restriction(r, z, torch.stack([z, z.flip(0)])), torch.zeros(2, dtype=z.dtype), 1
    ),
    "re-estimated": lambda r, z: trace(Reestimated(r), z),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_and_products_of_another_function_are_refused(name, dtype):
    between, message = SURROGATES[name]
    risk = EmpiricalRisk(built(lambda: Net(between), dtype=dtype), (X.to(dtype), Y), CE)
    with pytest.raises(RuntimeError, match=message):
        top_eigenpairs(risk, risk.point(), 1)
    unchecked = EmpiricalRisk(risk.model.module, (X.to(dtype), Y), CE, check=False)
    found = slices.line(unchecked, unchecked.point(), unchecked.point(), alpha=[0, 1])
    assert found.provenance["judged"] == {"nothing": "check=False"}


@pytest.mark.parametrize("kind", MEASURED)
def test_every_measurement_passes_the_gate(kind):
    risk = EmpiricalRisk(built(lambda: Net(Reversed.apply)), (X, Y), CE)
    with pytest.raises(RuntimeError, match="different functions.*custom operations: Reversed"):
        MEASURED[kind](risk, risk.point())


def test_what_is_refused_can_be_trained_all_the_same():
    risk = EmpiricalRisk(built(lambda: Net(Reversed.apply)), (X, Y), CE)
    z = risk.point().requires_grad_()
    batch = next(risk.minibatches(4, seeded(0)))
    assert bool(value_and_grad(batch, z.detach())[1].any())


def test_a_value_that_differs_without_a_graph_is_refused():
    class Sly(Net):
        def forward(self, x):
            return super().forward(x) * (1.0 if torch.is_grad_enabled() else 1.1)

    risk = EmpiricalRisk(built(Sly), (X, Y), CE)
    with pytest.raises(RuntimeError, match="without a graph.*is_grad_enabled"):
        trace(risk, risk.point())


SMOOTH = {
    "relu": lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)),
    "deep": lambda: nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(4, 4), nn.ReLU())],
                                  nn.Linear(4, 3)),
    "large logits": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Shifted()),
    "zero gate": lambda: Gated(),
    "unused": lambda: Unused(),
    "float32 inside": lambda: Net(lambda h: h.float().tanh().to(h)),
    "bias before a norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
}  # fmt: skip


class Shifted(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)

    def forward(self, x):
        return super().forward(x) + 100


class Gated(Net):
    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return super().forward(x) + self.gate * x[:, :3]


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(2, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_gate_does_not_cry_wolf(name, dtype):
    for seed in range(5):
        risk = EmpiricalRisk(built(SMOOTH[name], seed, dtype), (X.to(dtype), Y), CE)
        for scale in (1.0, 1e-3, 5.0):
            risk.gate.__init__()
            said = risk.judge(scale * risk.point())
            assert said["substitution"] == "the loss depends on the vector alone"
            assert said["derivatives"].startswith("values, gradients and products agree")


def test_what_was_judged_stands_in_every_result_and_is_judged_once(monkeypatch):
    risk = EmpiricalRisk(built(Net), (X, Y), CE)
    z = risk.point()
    calls = []
    original = type(risk.gate)._derivatives
    monkeypatch.setattr(type(risk.gate), "_derivatives", lambda *a: calls.append(1) or original(*a))
    u, v = directions.random(risk.layout, z, seeded(0))
    axis = [-1, 0, 1]
    found = [
        top_eigenpairs(risk, z, 1), trace(risk, z), density(risk, z, steps=3, probes=2),
        panel(risk, z, only=("trace",)), slices.plane(risk, z, u, v, alpha=axis, beta=axis),
    ]  # fmt: skip
    assert len(calls) == 1
    for result in found:
        assert result.provenance["judged"]["mean"] == "cross_entropy over labels"
        assert result.provenance["judged"]["data"] == "the same twice"


# ------------------------------------------------------------------------------ finite or said


def test_a_loss_that_is_not_finite_names_its_batch():
    x = X.clone()
    x[7] = float("nan")
    risk = EmpiricalRisk(built(Net), [(x[:5], Y[:5]), (x[5:], Y[5:])], CE)
    for measure in MEASURED.values():
        with pytest.raises(ValueError, match="the loss is nan on batch 1"):
            measure(risk, risk.point())


# ----------------------------------------------------------------------- by differences, models


def test_products_by_differences_serve_a_loss_without_a_second_derivative():
    def once(output, target):
        return CE(Once.apply(output), target)

    model = built(Net)
    risk = EmpiricalRisk(model, (X, Y), once, derivatives="differences")
    z = risk.point()
    truth = dense(model, lambda: CE(model(X).sin(), Y))
    found = top_eigenpairs(risk, z, 3)
    assert found.converged.all() and found.operator == "Hessian by differences"
    assert "estimated from two steps" in found.provenance["differences"]
    off = np.abs(found.eigenvalues - largest(truth, 3))
    assert (off <= found.bounds).all() and off.max() < 1e-5
    close(hvp(risk, z, z), truth @ z, rtol=1e-6, atol=1e-8)
    part = trace(risk, z, where="b", probes=50)
    assert part.operator == "Hessian by differences"
    exact = EmpiricalRisk(model, (X, Y), lambda o, t: CE(o.sin(), t))
    again = top_eigenpairs(exact, z, 3, derivatives="differences")
    np.testing.assert_allclose(again.eigenvalues, found.eigenvalues, atol=1e-5)
    assert again.operator == "Hessian by differences"


def contrastive(model, batch):
    left, right = model(batch[0]), model(batch[0] + 0.1)
    return F.cross_entropy(left @ right.T, torch.arange(len(left)))


def physics(model, batch):
    x = batch[0].detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return slope.pow(2).mean() + 1e-2 * sum(p.pow(2).sum() for p in model.parameters())


@pytest.mark.parametrize("loss", [contrastive, physics])
def test_a_loss_of_the_whole_model_is_measured_as_it_is_written(loss):
    model = built(Net)
    risk = ModelRisk(model, (X, Y), loss)
    z = risk.point()
    truth = dense(model, lambda: loss(model, (X, Y)))
    close(value(risk, z), loss(model, (X, Y)).detach())
    np.testing.assert_allclose(top_eigenpairs(risk, z, 2).eigenvalues, largest(truth), rtol=1e-6)
    found = trace(risk, z, "auto", probes=400)
    assert abs(found.estimate - float(truth.trace())) < 4 * found.standard_error
    assert "not taken" in found.provenance["exact"]
    surface = slices.plane(risk, z, z, z.flip(0), alpha=[-1, 0, 1], beta=[-1, 0, 1])
    nn.utils.vector_to_parameters(z + z + z.flip(0), model.parameters())
    np.testing.assert_allclose(surface.loss[2, 2], float(loss(model, (X, Y)).detach()))


def test_a_state_that_is_kept_between_calls_is_that_of_the_beginning():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out, self.state = nn.LSTM(4, 3), nn.Linear(3, 3), None

        def forward(self, x):
            output, state = self.layer(x[None], self.state)
            self.state = tuple(part.detach() for part in state)
            return self.out(output[0])

    model = built(Stateful)
    risk = EmpiricalRisk(model, (X, Y), CE)
    z = risk.point()
    assert value(risk, z) == value(risk, z) == CE(built(Stateful)(X), Y).detach()
    assert model.state is None
    assert top_eigenpairs(risk, z, 1).converged.all()


@pytest.mark.parametrize("change", [
    lambda m: nn.utils.prune.l1_unstructured(m.a, "weight", 0.3),
    lambda m: nn.utils.weight_norm(m.a),
    lambda m: nn.utils.spectral_norm(m.a),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_modules_with_weights_that_a_hook_computes_are_measured(change):
    import torch.nn.utils.prune

    model = built(Net)
    change(model)
    model.train()(X)
    model.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    weight = model.a.weight
    risk = EmpiricalRisk(model, (X, Y), CE)
    z = risk.point()
    h, v = 1e-6, normal(risk.dim)
    slopes = value_and_grad(risk, torch.stack([z + h * v, z - h * v]))[1]
    close(hvp(risk, z, v), (slopes[0] - slopes[1]) / (2 * h), rtol=1e-6, atol=1e-7)
    close(value(risk, z), CE(model(X), Y).detach())
    assert model.a.weight is not None and weight.shape == model.a.weight.shape
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_seeded_model_draws_the_same_in_float64():
    class Noisy(Net):
        def forward(self, x):
            hidden = self.a(x)
            dropped = F.dropout(hidden, 0.3, training=True)
            return self.b(torch.tanh(dropped + torch.randn_like(hidden)))

    model = built(Noisy, dtype=torch.float32)
    risk = EmpiricalRisk(model, (X.float(), Y), CE, seed=3)
    z = risk.point()
    close(value(risk, z.double()), value(risk, z).double(), rtol=1e-6, atol=0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        close(value(risk, z), CE(model(X.float()), Y).detach())


def test_the_model_that_is_used_is_the_callers_and_comes_back_as_it_was():
    model = built(convolution)
    attributes = {n: dict(vars(m)) for n, m in model.named_modules()}
    risk = EmpiricalRisk(model, (normal(10, 1, 6, 6), Y), CE)
    assert risk.model.module is model
    for statistics in ("frozen", "batch"):
        risk = EmpiricalRisk(model, (normal(10, 1, 6, 6), Y), CE, statistics=statistics)
        value_and_grad(risk, risk.point().expand(2, -1))
    for name, module in model.named_modules():
        now = vars(module)
        assert now.keys() == attributes[name].keys()
        assert all(now[key] is old or now[key] == old for key, old in attributes[name].items()
                   if key not in ("_parameters", "_buffers", "_modules"))  # fmt: skip
    partial = functools.partial(F.cross_entropy, ignore_index=2)
    assert EmpiricalRisk(model, (normal(10, 1, 6, 6), Y), partial).known is not None


# ----------------------------------------------------------------- what is held somewhere else


class Cached(nn.Module):
    """Keeps what it computed from a weight in a dictionary, a list or an object."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.kept = {"dictionary": {}, "list": [], "object": functools.partial(print)}[kind]
        if kind == "object":
            self.kept = type("Holder", (), {})()

    def forward(self, x):
        held = self.kept if isinstance(self.kept, (dict, list)) else vars(self.kept)
        if not held:
            twice = self.a.weight * 2
            held.append(twice) if isinstance(held, list) else held.update(w=twice)
        (twice,) = held if isinstance(held, list) else held.values()
        return self.b(torch.tanh(x @ twice.T + self.a.bias))


@pytest.mark.parametrize("kind", ["dictionary", "list", "object"])
def test_a_cache_begins_empty_in_every_call_and_stays_empty(kind):
    class Plain(Net):
        def forward(self, x):
            return self.b(torch.tanh(x @ (2 * self.a.weight).T + self.a.bias))

    model = built(lambda: Cached(kind))
    risk, plain = EmpiricalRisk(model, (X, Y), CE), EmpiricalRisk(built(Plain), (X, Y), CE)
    z = 1.3 * plain.point()
    close(hvp(risk, z, z), hvp(plain, z, z))
    np.testing.assert_allclose(
        top_eigenpairs(risk, z, 2).eigenvalues, top_eigenpairs(plain, z, 2).eigenvalues, rtol=1e-5
    )
    assert not (vars(model.kept) if kind == "object" else model.kept)


def test_numbers_that_are_read_past_the_module_are_refused():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = built(lambda: nn.Linear(4, 5)), built(lambda: nn.Linear(5, 3))
            self.first = functools.partial(F.linear, weight=self.a.weight.detach())

        def forward(self, x):
            return self.b(torch.tanh(self.first(x) + self.a.bias))

    model = Aliased()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    risk = EmpiricalRisk(model, (X, Y), CE)
    with pytest.raises(RuntimeError, match="something reads their numbers past the module"):
        trace(risk, risk.point())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("width", [50, 400])
def test_a_tensor_that_is_detached_on_its_way_is_found_in_a_wide_network(width):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = (
                nn.Linear(4, width),
                nn.Linear(width, width),
                nn.Linear(width, 3),
            )
            self.g = nn.Parameter(torch.ones(width))

        def forward(self, x):
            hidden = torch.tanh(self.a(x)) * self.g.detach()
            return self.b(torch.tanh(self.c(hidden)))

    risk = EmpiricalRisk(built(Scaled, dtype=torch.float32), (X.float(), Y), CE)
    with pytest.raises(RuntimeError, match="different functions"):
        trace(risk, risk.point())


class Words(nn.Module):
    """A few rows of a large table, which float32 must do: it bends within a step for all of it."""

    def __init__(self, between=torch.tanh):
        super().__init__()
        self.table, self.out, self.between = nn.Embedding(100_000, 8), nn.Linear(8, 3), between

    def forward(self, words):
        return self.out(self.between(4 * self.table(words))).float()


WORDS = torch.arange(6, device="cpu") * 11, torch.arange(6, device="cpu") % 3


def test_a_large_table_of_which_few_rows_are_read_is_judged_at_steps_short_beside_them():
    risk = EmpiricalRisk(built(Words, dtype=torch.float32), WORDS, CE)
    found = trace(risk, risk.point(), "hutchinson", probes=2).provenance["judged"]
    assert found["derivatives"].startswith("values, gradients and products agree")


@pytest.mark.parametrize(
    "name", ["reversal", "straight through", "detached in part", "second derivative left out"]
)
def test_what_is_wrong_with_a_large_table_is_found_at_such_steps(name):
    between, _ = SURROGATES[name]
    risk = EmpiricalRisk(built(lambda: Words(between), dtype=torch.float32), WORDS, CE)
    with pytest.raises(RuntimeError, match="belong to different functions"):
        trace(risk, risk.point(), "hutchinson", probes=2)


def test_a_kernel_for_float32_alone_is_judged_there():
    class Narrow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if x.dtype == torch.float64:
                raise RuntimeError("only float32")
            ctx.out = x.tanh().detach()
            return x.tanh()

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 - ctx.out**2)

    model = built(lambda: Net(Narrow.apply), dtype=torch.float32)
    risk = EmpiricalRisk(model, (X.float(), Y), CE)
    with pytest.raises(RuntimeError, match="gradients and Hessian-vector products belong"):
        trace(risk, risk.point())
    free = EmpiricalRisk(model, (X.float(), Y), CE, derivatives="differences")
    assert (
        "not in float64: only float32"
        in trace(free, free.point()).provenance["judged"]["derivatives"]
    )
    smooth = built(lambda: Net(lambda h: (h.mm(torch.eye(5))).relu()), dtype=torch.float32)
    for seed in range(6):
        risk = EmpiricalRisk(built(lambda: smooth, seed, torch.float32), (X.float(), Y), CE)
        trace(risk, risk.point() + 0.3 * normal(risk.dim, seed=seed).float())


def test_an_expert_that_few_samples_ask_for_is_judged_too():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(4, 300), nn.Linear(4, 300)])
            self.out = nn.Linear(300, 3)

        def forward(self, x):
            rare = x[:, 0] > 1.7
            hidden = torch.tanh(self.parts[0](x))
            if bool(rare.any()):
                hidden = torch.where(rare[:, None], Reversed.apply(self.parts[1](x)), hidden)
            return self.out(hidden)

    x = normal(200, 4)
    assert 2 < int((x[:, 0] > 1.7).sum()) < 20
    risk = EmpiricalRisk(built(Experts), (x, torch.arange(200) % 3), CE)
    with pytest.raises(RuntimeError, match="different functions"):
        trace(risk, risk.point())


def test_a_point_far_away_is_judged_again():
    class Branch(Net):
        def forward(self, x):
            output = super().forward(x)
            return 2 * output.detach() - output if float(self.a.weight.abs().max()) > 1 else output

    risk = EmpiricalRisk(built(Branch), (X, Y), CE)
    trace(risk, risk.point())
    z = risk.point()
    with pytest.raises(RuntimeError, match="different functions"):
        trace(risk, 4 * z)
    trace(risk, z)
    with pytest.raises(RuntimeError, match="different functions"):
        trace(risk, z.mul_(4))


def test_a_weight_that_depends_on_the_parameters_makes_a_quotient():
    def loss(model, batch):
        output = model(batch[0])
        weight = output[:, 0].sigmoid()
        return (CE(output, batch[1], reduction="none") * weight).sum(), weight.sum()

    model = built(Net)
    risk = ModelRisk(model, (X, Y), loss)
    truth = dense(model, lambda: torch.div(*loss(model, (X, Y))))
    z = risk.point()
    np.testing.assert_allclose(top_eigenpairs(risk, z, 2).eigenvalues, largest(truth), rtol=1e-5)
    risk = ModelRisk(model, [(X[:4], Y[:4]), (X[4:], Y[4:])], loss)
    with pytest.raises(ValueError, match="the weight that the loss returns depends on the param"):
        trace(risk, z)


def test_measurements_are_taken_outside_of_autocast():
    risk = EmpiricalRisk(built(Net, dtype=torch.float32), (X.float(), Y), CE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError, match="outside of torch.autocast"):
            trace(risk, risk.point())


def test_models_that_take_no_other_numbers_are_refused_with_what_to_do():
    compiled = built(Net)
    compiled.compile()
    for model, message in (
        (compiled, "do without model.compile"),
        (nn.Linear(4, 3, device="meta"), "on the meta device"),
        (nn.DataParallel(built(Net)), "give that module, model.module"),
        (nn.LazyLinear(3), "run one batch through the model first"),
    ):
        with pytest.raises(TypeError, match=message):
            EmpiricalRisk(model, (X, Y), CE)


@pytest.mark.parametrize(("room", "kind"), [(10**6, "float64"), (0, "float32")])
def test_a_very_long_vector_is_judged_in_float64_where_there_is_room(room, kind, monkeypatch):
    monkeypatch.setattr(difference_quotients, "_WIDE_DIM", 10)
    monkeypatch.setattr(difference_quotients, "free_memory", lambda device: room)
    risk = EmpiricalRisk(built(chain, dtype=torch.float32), (X.float(), Y), CE)
    said = risk.gate.judged(risk, risk.point())["derivatives"]
    assert said == f"values, gradients and products agree by differences in {kind}"


class Bent(nn.Module):
    """A loss with a kink that is no farther from the place of the check than its smallest step."""

    def __init__(self, kink=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
        self.kink = kink

    def forward(self, x):
        return torch.relu(self.weight[0] - self.kink) * x[:, 0] + self.weight[1] ** 2 * x[:, 1]


def test_a_kink_beside_the_place_of_the_check_is_no_reason_to_refuse():
    inputs = normal(6, 2)
    place = shifted(Bent().weight.detach())
    risk = EmpiricalRisk(Bent(float(place[0]) - 1e-11), (inputs, inputs[:, 0]), F.mse_loss)
    said = risk.gate.judged(risk, risk.point())["derivatives"]
    assert said == "values, gradients and products agree by differences in float64"


def test_samples_that_are_fitted_are_not_what_is_judged(monkeypatch):
    monkeypatch.setattr(difference_quotients, "_CHEAP", 0)
    # Of 40 samples only the one in place 7 is not fitted: three from all over are not it.
    labels = torch.arange(40) % 4
    inputs = 30 * F.one_hot(labels, 4).double()
    wrong = labels.clone()
    wrong[7] = (labels[7] + 1) % 4
    model = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    nn.init.eye_(model.weight)
    for targets, least in ((labels, 0.0), (wrong, 5.0)):
        risk = EmpiricalRisk(model, (inputs, targets), F.cross_entropy)
        base = difference_quotients.based(risk, risk.point(), exact=True)
        assert base.value >= least
        assert base.risk.data.samples < 40
