"""Networks by name: published counts, timm's and torchvision's own, weights from a generator."""

import inspect
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from cnognp.tasks import load
from cnognp.tasks.architectures import NETWORKS, architecture
from cnognp.tasks.vit import vit
from cnognp.tasks.wide import wide_resnet
from landscape.networks import EmpiricalRisk
from landscape.objective import hvp

SMALL = ("resnet20", "wrn16-4", "vgg11", "vit-t", "torchvision:squeezenet1_1")


def seeded(seed):
    return torch.Generator(device="cpu").manual_seed(seed)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "parameters"), [
    # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 million; Zagoruyko: 2.7 million.
    ("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018),
    ("resnet110", 1_727_962), ("wrn16-4", 2_748_890), ("vgg11", 9_231_114), ("vgg16", 14_728_266),
])  # fmt: skip
def test_networks_have_their_published_number_of_parameters(name, parameters):
    assert count(architecture(name, 10)) == parameters


def test_every_name_is_a_network_of_as_many_classes_as_asked_for():
    x = torch.randn(2, 3, 32, 32, generator=seeded(0))
    for name in NETWORKS:
        with torch.no_grad():
            assert architecture(name, 7).eval()(x).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_weights_follow_from_the_generator_alone(name):
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    state = torch.get_rng_state()
    first, again, other = (
        architecture(name, 10, generator=seeded(s)).state_dict() for s in (1, 1, 2)
    )
    default, zero = architecture(name, 10), architecture(name, 10, generator=seeded(0))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    pairs = zip(default.state_dict().values(), zero.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6)])
def test_the_transformer_is_that_of_timm(width, heads):
    timm = pytest.importorskip("timm")
    ours = vit(width, heads, 10, depth=3, generator=seeded(3)).eval()
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=width, depth=3, num_heads=heads
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 3, 32, 32, generator=seeded(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x))


def test_products_with_the_hessian_of_a_transformer_are_differences_of_gradients():
    """The gradients by torch alone, in float64, without the engine of this package."""
    model = vit(4, 2, 3, depth=1, generator=seeded(1)).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=seeded(2))
    y = torch.tensor([0, 1, 2, 1])
    risk = EmpiricalRisk(model, (x, y), F.cross_entropy)
    z, u = risk.point(), torch.randn(risk.dim, dtype=torch.float64, generator=seeded(3))

    def gradient(point):
        nn.utils.vector_to_parameters(point, model.parameters())
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        return nn.utils.parameters_to_vector([p.grad for p in model.parameters()])

    found, step = hvp(risk, z, u), 1e-6
    truth = (gradient(z + step * u) - gradient(z - step * u)) / (2 * step)
    assert float((found - truth).norm() / truth.norm()) < 1e-7


def test_weights_of_the_wide_network_have_the_published_deviations():
    model = wide_resnet(16, 4, generator=seeded(0))
    for name, weight in model.named_parameters():
        if weight.ndim == 4 and weight.numel() > 10_000:
            fan_out = weight.shape[0] * weight[0, 0].numel()
            assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.03), (
                name
            )


def test_a_wide_block_is_its_formula():
    block = wide_resnet(10, 1, generator=seeded(2)).double().block2.layer[0].eval()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64, generator=seeded(4))
    # Untrained BatchNorm in evaluation mode divides by sqrt(1 + eps).
    scale = (1 + 1e-5) ** -0.5
    y = (x * scale).clamp(min=0)
    conv = torch.nn.functional.conv2d
    inner = (conv(y, block.conv1.weight, stride=2, padding=1) * scale).clamp(min=0)
    truth = conv(inner, block.conv2.weight, padding=1)
    truth = truth + conv(y, block.convShortcut.weight, stride=2)
    torch.testing.assert_close(block(x), truth)


@pytest.mark.parametrize("name", ["resnet20", "wrn16-4", "vgg11"])
def test_group_norm_replaces_every_batch_norm_and_keeps_weights_and_count(name):
    batch, group = architecture(name, 10), architecture(name, 10, norm="group")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
    groups = [m for m in group.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == sum(isinstance(m, nn.BatchNorm2d) for m in batch.modules())
    assert {m.num_channels // m.num_groups for m in groups} == {8}
    for key, tensor in group.state_dict().items():
        assert torch.equal(tensor, batch.state_dict()[key])
    x = torch.randn(4, 3, 32, 32, generator=seeded(5))
    with torch.no_grad():
        # Samples do not see each other, in training mode either.
        torch.testing.assert_close(group.train()(x)[:1], group(x[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "wrn16-4", "vgg11"])
def test_statistics_of_a_point_are_those_that_torch_gathers_there(name):
    source = torch.Generator(device="cpu").manual_seed(0)
    images = torch.randn(6, 3, 32, 32, generator=source)
    model = architecture(name, 10)
    risk = EmpiricalRisk(model, (images, torch.arange(6)), F.cross_entropy, statistics="batch")
    z = 1.1 * risk.point()
    found = risk.reestimated(z).network(z).state_dict()
    vector_to_parameters(z, model.parameters())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running means over all that is seen
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(images)
    theirs = model.state_dict()
    running = [key for key in theirs if "running" in key]
    assert len(running) > 10
    for key in running:
        torch.testing.assert_close(found[key], theirs[key], rtol=1e-4, atol=1e-5)


def test_torchvision_has_the_same_network_under_its_name():
    models = pytest.importorskip("torchvision.models")
    ours = architecture("torchvision:resnet18", 10, generator=seeded(1))
    theirs = models.resnet18(num_classes=10)
    assert type(ours) is type(theirs)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(("name", "norm", "message"), [
    ("ViT_T", "batch", "no network is called 'ViT_T'. Did you mean 'vit-t'?"),
    ("resnet20", "layer", "norm must be one of batch, group, got 'layer'"),
    ("vit-t", "group", "norm='group' replaces BatchNorm, and vit-t has none"),
    ("torchvision:resnet19", "batch", "torchvision has no classifier 'resnet19'; near are resnet1"),
])  # fmt: skip
def test_what_there_is_not_is_said(name, norm, message):
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    with pytest.raises(ValueError) as caught:
        inspect.unwrap(architecture)(name, 10, norm)
    assert message in str(caught.value)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: wide_resnet(15, 4), "depth must be 6 n \\+ 4"),
    (lambda: wide_resnet(16, 0), "width and num_classes must be at least 1"),
    (lambda: vit(190, 3), "width must be a multiple of heads"),
])  # fmt: skip
def test_numbers_that_make_no_network_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("part", ["models", "datasets"])
def test_without_torchvision_the_way_to_install_it_is_told(monkeypatch, part, tmp_path):
    monkeypatch.setitem(sys.modules, f"torchvision.{part}", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnognp\[vision\]'"):
        if part == "models":
            architecture("torchvision:resnet18", 10)
        else:
            load("cifar10", data=str(tmp_path))
