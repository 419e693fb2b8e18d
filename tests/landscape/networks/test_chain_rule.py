"""Gradients that are written out are those of autograd on each network alone."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape.networks import EmpiricalRisk
from landscape.objective import batched_terms, value, value_and_grad

CPU = torch.device("cpu")
CHAINS = {
    "one layer": lambda: nn.Sequential(nn.Linear(5, 3)),
    "two layers": lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
    "tanh, no bias": lambda: nn.Sequential(
        nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)
    ),
    "three layers": lambda: nn.Sequential(
        nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 3), nn.ReLU()
    ),
}
OTHERS = {
    "two activations": lambda: nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.ReLU(), nn.Linear(4, 3)
    ),
    "gelu": lambda: nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)),
}


def risk_of(make, cut=40, ignored=False, loss=cross_entropy, labels=40):
    generator = torch.Generator(device=CPU).manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (40,), generator=generator)
    target[labels:] = 0
    if ignored:
        target[::2] = -100
        target[labels:] = -100
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = make().double()
    batches = list(zip(inputs.split(cut), target.split(cut), strict=True))
    return EmpiricalRisk(model, batches, loss, evaluation="stacked"), inputs, target


def points(risk):
    generator = torch.Generator(device=CPU).manual_seed(2)
    return torch.randn(6, risk.dim, generator=generator, dtype=torch.float64)


def written_out(risk, z):
    return [term.slopes(z) is not None for term in batched_terms(risk)]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("cut", [40, 16])
@pytest.mark.parametrize("name", CHAINS)
def test_values_and_gradients_are_those_of_each_network_alone(name, cut, ignored):
    risk, inputs, target = risk_of(CHAINS[name], cut, ignored)
    z = points(risk)
    assert all(written_out(risk, z))
    values, grads = value_and_grad(risk, z)
    model = risk.model.module
    for k in range(len(z)):
        weights = {n: t.requires_grad_() for n, t in risk.layout.unflatten(z[k].clone()).items()}
        loss = cross_entropy(torch.func.functional_call(model, weights, (inputs,)), target)
        slopes = torch.autograd.grad(loss, list(weights.values()))
        torch.testing.assert_close(values[k], loss.detach(), rtol=1e-12, atol=1e-12)
        truth = torch.cat([slope.flatten() for slope in slopes])
        torch.testing.assert_close(grads[k], truth, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(value(risk, z), values, rtol=1e-12, atol=0)


def test_the_loss_may_be_a_module():
    risk, _, _ = risk_of(CHAINS["two layers"], ignored=True)
    other, _, _ = risk_of(CHAINS["two layers"], ignored=True, loss=nn.CrossEntropyLoss())
    z = points(risk)
    assert written_out(other, z) == [True]
    for one, same in zip(value_and_grad(risk, z), value_and_grad(other, z), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("name", OTHERS)
def test_other_chains_go_by_autograd(name):
    risk, _, _ = risk_of(OTHERS[name])
    assert not any(written_out(risk, points(risk)))


def test_other_losses_go_by_autograd():
    losses = (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(torch.ones(3).double()))
    for loss in losses:
        risk, _, _ = risk_of(CHAINS["two layers"], loss=loss)
        assert not any(written_out(risk, points(risk)))


def test_a_mini_batch_without_labels_has_no_slope():
    risk, _, _ = risk_of(CHAINS["two layers"], ignored=True, labels=3)
    z = points(risk)
    stream = risk.minibatches(4, torch.Generator(device=CPU).manual_seed(0), epochs=1)
    slopes = [value_and_grad(batch, z)[1].abs().max() for batch in stream]
    assert len(slopes) == 10
    assert 1 <= sum(slope > 0 for slope in slopes) <= 2
    assert all(slope >= 0 for slope in slopes)


def test_without_any_label_the_loss_is_no_number_and_its_slope_0_as_with_torch():
    risk, _, target = risk_of(CHAINS["two layers"])
    (term,) = risk.batched_terms()
    nothing = term._replace(batch=term.batch._replace(target=torch.full_like(target, -100)))
    z = points(risk).requires_grad_()
    loss = nothing(z)
    (slopes,) = torch.autograd.grad(loss.sum(), z)
    values, grads = nothing.slopes(z.detach())
    assert values.isnan().all() and loss.isnan().all()
    assert torch.equal(grads, slopes) and not grads.any()


def doubled_output(model):
    return model[1].register_forward_hook(lambda module, args, output: 2 * output)


def doubled_slope(model):
    return model[1].register_full_backward_hook(lambda module, slopes, given: (2 * slopes[0],))


def doubled_slope_before(model):
    return model[1].register_full_backward_pre_hook(lambda module, given: (2 * given[0],))


def doubled_everywhere(model):
    def hook(module, args, output):
        return 2 * output if isinstance(module, nn.Tanh) else None

    return nn.modules.module.register_module_forward_hook(hook)


def doubled_forward(model):
    model[1].forward = lambda x: 2 * torch.tanh(x)


@pytest.mark.parametrize(
    "changed",
    [doubled_output, doubled_slope, doubled_slope_before, doubled_everywhere, doubled_forward],
)
def test_modules_that_do_something_else_than_their_class_go_by_autograd(changed):
    x, y = torch.randn(9, 5, device=CPU), torch.randint(0, 3, (9,), device=CPU)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    handle = changed(model)
    try:
        risk = EmpiricalRisk(model, (x, y), cross_entropy, check=False)
        assert risk.evaluation != "stacked"
        values, grads = value_and_grad(risk, risk.point())
        loss = cross_entropy(model(x), y)
        truth = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
    finally:
        if handle is not None:
            handle.remove()
    torch.testing.assert_close(values, loss.detach())
    torch.testing.assert_close(grads, truth, rtol=1e-5, atol=1e-6)


def test_points_of_single_precision_points_of_half_precision_and_members_that_diverged():
    risk, _, _ = risk_of(CHAINS["two layers"])
    z = points(risk)
    exact = value_and_grad(risk, z)[1]
    assert written_out(risk, z.float()) == [True]
    assert written_out(risk, z.to(torch.bfloat16)) == [False]
    torch.testing.assert_close(
        value_and_grad(risk, z.float())[1].double(), exact, rtol=1e-4, atol=1e-6
    )
    z[2] = torch.nan
    values, grads = value_and_grad(risk, z)
    assert values.isnan().tolist() == grads.isnan().any(-1).tolist() == [k == 2 for k in range(6)]


def test_labels_that_are_ignored_on_a_later_pass_only_count_as_with_torch():
    risk, inputs, target = risk_of(CHAINS["one layer"])
    z = points(risk)
    later = target.clone()
    later[::4] = -100
    (term,) = risk.batched_terms()
    other = term._replace(batch=term.batch._replace(target=later))
    values, _ = other.slopes(z)
    weight, bias = z[0, :15].view(3, 5), z[0, 15:]
    truth = cross_entropy(inputs @ weight.T + bias, later)
    torch.testing.assert_close(values[0], truth, rtol=1e-12, atol=0)


def test_a_small_loss_is_not_lost_in_single_precision():
    risk, _, _ = risk_of(CHAINS["one layer"], labels=0)
    z = torch.zeros(1, risk.dim, device=CPU)
    z[0, -3] = 9.0
    wanted = float(torch.log1p(2 * torch.exp(torch.tensor(-9.0, device=CPU, dtype=torch.float64))))
    assert float(value_and_grad(risk, z)[0]) == pytest.approx(wanted, rel=1e-3)
