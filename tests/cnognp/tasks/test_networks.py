"""The networks against closed forms, their published counts, and weights trained elsewhere."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnognp.tasks.networks import BasicBlock, mlp, resnet, resnet20, resnet32, small_conv

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

BUILDS = {
    "mlp": lambda **k: mlp(7, (5, 4), 3, **k),
    "small_conv": small_conv,
    "resnet20": resnet20,
    "resnet32": resnet32,
}


def seeded(seed):
    return torch.Generator(device="cpu").manual_seed(seed)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(params=BUILDS)
def build(request):
    return BUILDS[request.param]


def test_weights_follow_from_the_generator_alone(build):
    first, again, other = (build(generator=seeded(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_without_a_generator_the_weights_are_those_of_seed_0(build):
    default, zero = build().state_dict(), build(generator=seeded(0)).state_dict()
    assert all(torch.equal(default[k], zero[k]) for k in zero)


def test_building_leaves_the_global_random_state_as_it_was(build):
    state = torch.get_rng_state()
    build()
    build(generator=seeded(4))
    assert torch.equal(state, torch.get_rng_state())


def test_weights_are_float32_on_the_cpu_whatever_the_defaults_are(build):
    expected = build(generator=seeded(3)).state_dict()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        found = build(generator=seeded(3)).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for key, tensor in expected.items():
        assert found[key].device.type == "cpu"
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize(
    ("inputs", "hidden", "outputs"), [(13, (10,), 3), (30, (10,), 1), (4, (), 2), (5, (6, 7, 8), 9)]
)
def test_an_mlp_has_one_weight_per_pair_of_units_and_one_bias_per_unit(inputs, hidden, outputs):
    widths = [inputs, *hidden, outputs]
    expected = sum(m * n + n for m, n in zip(widths[:-1], widths[1:], strict=True))
    model = mlp(inputs, hidden, outputs)
    assert count(model) == expected
    assert [type(m) for m in model] == ([nn.Linear, nn.ReLU] * len(hidden)) + [nn.Linear]


def test_an_mlp_is_alternating_affine_maps_and_activations():
    model = mlp(6, (5, 4), 2, nn.Tanh, seeded(0)).double()
    x = np.random.default_rng(0).normal(size=(9, 6))
    weights = [p.detach().numpy() for p in model.parameters()]
    y = x
    for k in range(0, 6, 2):
        y = y @ weights[k].T + weights[k + 1]
        y = np.tanh(y) if k < 4 else y
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), y, rtol=1e-12)


def test_mlp_weights_are_xavier_uniform_and_biases_zero():
    model = mlp(300, (100,), 50, generator=seeded(5))
    for linear in (model[0], model[2]):
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        w = linear.weight.detach().double()
        assert w.abs().max() <= bound
        # The mean of w^2 is bound^2 / 3 with variance bound^4 (1/5 - 1/9) / n; 5 standard errors.
        error = bound**2 * ((1 / 5 - 1 / 9) / w.numel()) ** 0.5
        assert abs(float((w**2).mean()) - bound**2 / 3) < 5 * error
        assert abs(float(w.mean())) < 5 * bound / (3 * w.numel()) ** 0.5
        assert not linear.bias.any()


@pytest.mark.parametrize("build", [small_conv, resnet20])
def test_convolutions_are_normal_with_variance_two_over_fan_in(build):
    model = build(generator=seeded(6))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            w = module.weight.detach().double()
            variance = 2 / w[0].numel()
            # The mean of squares of n normal numbers has standard error variance * sqrt(2 / n).
            assert abs(float((w**2).mean()) / variance - 1) < 5 * (2 / w.numel()) ** 0.5
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and not module.bias.any()
            assert not module.running_mean.any() and bool((module.running_var == 1).all())


@pytest.mark.parametrize("widths", [(0, (3,), 2), (3, (0,), 2), (3, (4, -1), 2), (3, (), 0)])
def test_an_mlp_refuses_layers_without_units(widths):
    with pytest.raises(ValueError, match="at least 1 unit, got widths"):
        mlp(*widths)


def test_small_conv_is_two_normalised_convolutions_and_a_linear_layer_on_quarters():
    model = small_conv(generator=seeded(7)).double()
    assert count(model) == 4650
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, device="cpu", generator=seeded(8))
    p = dict(model.named_parameters())
    y = x
    for conv, norm in (("0", "1"), ("3", "4")):
        y = F.conv2d(y, p[f"{conv}.weight"], padding=1)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
        y = (y - mean) / (var + 1e-5).sqrt()
        y = (y * p[f"{norm}.weight"].view(-1, 1, 1) + p[f"{norm}.bias"].view(-1, 1, 1)).clamp(min=0)
    quarters = [y[..., i : i + 4, j : j + 4].mean((-2, -1)) for i in (0, 4) for j in (0, 4)]
    features = torch.stack(quarters, dim=-1).flatten(1)
    torch.testing.assert_close(model(x), features @ p["8.weight"].T + p["8.bias"])


def test_small_conv_takes_colours_other_sizes_and_other_numbers_of_classes():
    model = small_conv(num_classes=4, channels=(3, 5), in_channels=3, size=12)
    assert model(torch.zeros(2, 3, 12, 12, device="cpu")).shape == (2, 4)


@pytest.mark.parametrize("size", [0, 7])
def test_small_conv_refuses_images_without_quarters(size):
    with pytest.raises(ValueError, match=f"even number of pixels, at least 2, got {size}"):
        small_conv(size=size)


def test_small_conv_refuses_empty_layers():
    with pytest.raises(ValueError, match="must be at least 1, got 1 -> 0 -> 4 -> 10"):
        small_conv(channels=(0, 4))


@pytest.mark.parametrize(("build", "blocks", "parameters"), [
    (resnet20, 3, 269722), (resnet32, 5, 464154),
])  # fmt: skip
def test_resnets_have_the_published_counts_and_the_usual_keys(build, blocks, parameters):
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{key}" for key in norm}
    for stage in (1, 2, 3):
        for block in range(blocks):
            for part in (1, 2):
                prefix = f"layer{stage}.{block}"
                expected.add(f"{prefix}.conv{part}.weight")
                expected |= {f"{prefix}.bn{part}.{key}" for key in norm}
    model = build()
    assert set(model.state_dict()) == expected
    assert count(model) == parameters


def test_a_resnet_has_as_many_outputs_as_classes():
    assert resnet20(num_classes=7)(torch.zeros(2, 3, 32, 32, device="cpu")).shape == (2, 7)
    with pytest.raises(ValueError, match="must be at least 1, got 3 and 0"):
        resnet20(num_classes=0)


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = BasicBlock(4, 8).eval()
    nn.init.zeros_(block.conv1.weight)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6, device="cpu", generator=seeded(9))
    expected = np.zeros((2, 8, 3, 3), dtype=np.float32)
    expected[:, 2:6] = np.maximum(x.numpy()[:, :, ::2, ::2], 0)
    np.testing.assert_array_equal(block(x).detach().numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "build", "correct", "entropy"), [
    ("resnet20", resnet20, 455, 0.37451), ("resnet32", resnet32, 466, 0.279718),
])  # fmt: skip
def test_pretrained_weights_fit_and_give_the_known_accuracy(name, build, correct, entropy):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = SHARED / "weights" / f"cifar10_{name}.safetensors"
    if not weights.is_file():
        pytest.skip("the pretrained CIFAR-10 weights are not beside the checkout")
    model = build().eval()
    model.load_state_dict(safetensors.load_file(weights), strict=True)
    images, labels = first_test_images()
    with torch.no_grad():
        output = torch.cat([model(part) for part in images.split(100)])
    assert int((output.argmax(1) == labels).sum()) == correct
    assert float(F.cross_entropy(output, labels)) == pytest.approx(entropy, abs=1e-5)


def first_test_images():
    image = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(SHARED / "cifar10" / "test_batch.zip") as archive:
        names = sorted(archive.namelist())
        strip = next(name for name in names if name.endswith("_000.webp"))
        pixels = np.asarray(image.open(io.BytesIO(archive.read(strip))).convert("RGB"))
        (label_name,) = [name for name in names if name.endswith(".npy")]
        labels = np.load(io.BytesIO(archive.read(label_name)), allow_pickle=False)
    pixels = pixels.reshape(-1, 32, 32, 3).astype(np.float32) / 255
    pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(labels[: len(images)].astype(np.int64))


@pytest.mark.parametrize(("depth", "count"), [(44, 658_586), (56, 853_018), (110, 1_727_962)])
def test_deeper_cifar_resnets_have_the_published_parameters(depth, count):
    model = resnet(depth)
    assert sum(p.numel() for p in model.parameters()) == count
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_a_depth_that_no_cifar_resnet_has():
    with pytest.raises(ValueError, match="6 n \\+ 2, for instance 20, 32, 44, 56 or 110, got 18"):
        resnet(18)
