"""Members of a convolution network as groups of one: against each member alone, in plain torch."""

import copy

import pytest
import torch
from objectives import CE, Y, built, convolution, normal, plain
from torch import nn

from cnognp.tasks.networks import small_conv
from landscape.networks import EmpiricalRisk, grouped
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.slices import line

IMAGES = normal(10, 2, 8, 8)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def pooled():
    """Every kind of pooling, and a function before the first norm."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"), nn.Tanh(), nn.BatchNorm2d(4), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3, affine=False)),
        nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(),
        nn.Linear(6, 3, bias=False),
    )  # fmt: skip


def cut():
    """Convolutions that are in groups already, the first one too, dilated and with strides."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, stride=(2, 1)), nn.GELU(),
        nn.Conv2d(4, 6, 2, groups=2, dilation=2), nn.Dropout2d(0.0), nn.Flatten(1, 3),
        nn.Linear(24, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def frozen():
    """Some parameters are none of the vector's."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
    )
    for parameter in (model[0].weight, model[1].bias, model[4].bias):
        parameter.requires_grad_(False)
    return model


def forgetful():
    """Norms without running statistics."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3),
    )  # fmt: skip


NETWORKS = {
    "small": lambda: small_conv(3, (3, 4), in_channels=2), "pooled": pooled, "cut": cut,
    "frozen": frozen,
}  # fmt: skip


def settled(make, statistics):
    """The model, in the mode that belongs to the statistics, which are not those of the start."""
    model = built(make)
    for number, module in enumerate(model.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean += 0.1 * normal(len(module.running_mean), seed=number)
            module.running_var *= 1 + normal(len(module.running_var), seed=number) ** 2
    return model.train(statistics == "batch")


def both(name, statistics, samples=10):
    """The risk, points of three members, and a loop over these of plain modules."""
    x, y = IMAGES[:samples], Y[:samples]
    model = settled(NETWORKS[name], statistics)
    risk = EmpiricalRisk(
        copy.deepcopy(model), (x, y), CE, statistics=statistics, evaluation="grouped", check=False
    )
    z = risk.point() + 0.2 * normal(3, risk.dim, seed=4)
    return risk, z, plain(model, x, y, CE)


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_gradients_and_products_are_those_of_each_member_alone(name, statistics):
    risk, z, truth = both(name, statistics)
    u = normal(3, risk.dim, seed=5)
    alone = [torch.autograd.functional.vhp(truth, row, v) for row, v in zip(z, u, strict=True)]
    slopes = [torch.autograd.functional.vjp(truth, row)[1] for row in z]
    values, grads = value_and_grad(risk, z, chunk=3)
    torch.testing.assert_close(values, torch.stack([f for f, _ in alone]), **CLOSE)
    torch.testing.assert_close(grads, torch.stack(slopes), **CLOSE)
    expected = torch.stack([product for _, product in alone])
    for chunk in (1, 2, 3):
        torch.testing.assert_close(hvp(risk, z, u, chunk=chunk), expected, **CLOSE)
        torch.testing.assert_close(value(risk, z, chunk=chunk), values, **CLOSE)


@pytest.mark.parametrize("samples", [4, 10])
def test_channels_are_last_from_the_first_layer_to_the_last(samples):
    risk, z, _ = both("small", "batch", samples)
    chain, tensors = risk.together.chain, risk.layout.unflatten(z)
    for images in (IMAGES[:samples], IMAGES[:samples, :1]):
        first = tensors["0.weight"][:, :, : images.shape[1]].contiguous()
        first.requires_grad_()
        found = list(grouped._through(
            chain.steps, {**tensors, "0.weight": first}, grouped.arranged(images), frozen=False
        ))  # fmt: skip
        wide = [hidden for hidden in found if hidden.ndim == 4]
        assert len(wide) == 7
        wide += torch.autograd.grad(found[-1].square().sum(), [wide[0], *wide[-2:]])
        assert all(h.is_contiguous(memory_format=torch.channels_last) for h in wide)


def test_norms_without_running_statistics_normalise_with_the_batch():
    model = built(forgetful)
    risk = EmpiricalRisk(model, (IMAGES, Y), CE, statistics="batch", evaluation="grouped")
    z = risk.point() + 0.2 * normal(3, risk.dim, seed=4)
    truth = plain(model, IMAGES, Y, CE)
    slopes = torch.stack([torch.autograd.functional.vjp(truth, row)[1] for row in z])
    torch.testing.assert_close(value_and_grad(risk, z)[1], slopes, **CLOSE)


def test_the_user_s_images_are_not_written_over():
    x = IMAGES.clone()
    model = built(lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(True), nn.Flatten(),
                                        nn.Linear(128, 3)))  # fmt: skip
    risk = EmpiricalRisk(model, (x, Y), CE, evaluation="grouped")
    value_and_grad(risk, risk.point().expand(3, -1))
    assert torch.equal(x, IMAGES)


def test_statistics_that_are_estimated_again_are_used():
    risk, z, _ = both("pooled", "batch")
    again = risk.reestimated(z[0])
    assert again.evaluation == "grouped"
    alone = torch.stack([next(again.terms())(row) for row in z])
    torch.testing.assert_close(value(again, z, chunk=3), alone.detach(), **CLOSE)
    assert not torch.allclose(value(risk, z, chunk=3), alone.detach())


def test_fewer_members_go_together_the_larger_they_are():
    model = small_conv()
    risk = EmpiricalRisk(model, (normal(512, 1, 8, 8), torch.zeros(512, dtype=torch.long)), CE)
    assert risk.evaluation == "grouped"
    sizes = {
        batch: next(risk.minibatches(batch, torch.Generator(device="cpu").manual_seed(0)))
        for batch in (16, 64, 256, 512)
    }
    assert [one.chunk for one in sizes.values()] == [32, 8, 2, 1]
    assert [one.product_chunk for one in sizes.values()] == [10, 1, 1, 1]
    assert Sum(sizes[16], Ridge(0.1, dim=risk.dim)).product_chunk == 10


OTHERS = {
    "no convolution first": lambda: nn.Sequential(nn.ReLU(), *pooled()),
    "circular padding": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(128, 3)),
    "a norm over groups": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.GroupNorm(2, 2), nn.Flatten(), nn.Linear(128, 3)),
    "channels kept apart": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 8), nn.Flatten(2), nn.Flatten(), nn.Linear(3, 3)),
    "dropout": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(128, 3)),
    "no linear layer": lambda: nn.Sequential(nn.Conv2d(2, 3, 8), nn.Flatten()),
    "a weight in two places": lambda: twice(),
}  # fmt: skip


def twice():
    layer = nn.Conv2d(2, 2, 1)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(128, 3))


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_refused_and_goes_one_by_one(name):
    with pytest.raises(ValueError, match="evaluation='grouped' needs a chain of convolutions"):
        EmpiricalRisk(built(OTHERS[name]), (IMAGES, Y), CE, evaluation="grouped", seed=1)
    risk = EmpiricalRisk(built(OTHERS[name]), (IMAGES, Y), CE, seed=1, check=False)
    assert risk.evaluation == "sequential"


def test_hooks_and_losses_of_one_s_own_go_one_by_one():
    model = built(convolution)
    handle = model[0].register_forward_hook(lambda module, args, output: 2 * output)
    images = IMAGES[:, :1, :6, :6]
    assert EmpiricalRisk(model, (images, Y), CE).evaluation == "sequential"
    handle.remove()
    model[0].register_full_backward_hook(lambda module, slopes, given: None)
    assert EmpiricalRisk(model, (images, Y), CE).evaluation == "sequential"

    def looking(output, target):
        return CE(output, target) * (1 if output.sum().item() > 0 else 2)

    assert EmpiricalRisk(built(convolution), (images, Y), looking).evaluation == "sequential"


def test_lines_still_fold_batchnorm_into_convolutions():
    risk, z, truth = both("small", "frozen")
    found = line(risk, z[0], z[1], alpha=[-0.5, 0.0, 0.5])
    assert found.provenance["evaluation"] == "folded"
    assert found.loss[2] == pytest.approx(float(truth(z[0] + 0.5 * z[1])), rel=1e-10)
