"""Directions are orthogonal, as long as they say, and zero where they say."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape import directions
from landscape.layout import Layout

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator(device=CPU).manual_seed(seed)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2),
            nn.Flatten(), nn.Linear(75, 6), nn.LayerNorm(6), nn.Linear(6, 3),
        )  # fmt: skip
        return network.double()


@pytest.fixture
def network():
    module = model()
    layout = Layout.of(module)
    z = layout.flatten({name: p.detach() for name, p in module.named_parameters()})
    return module, layout, z


def filters(module, layout, u):
    """Every filter of every weight, by the axis that torch documents for its output units."""
    tensors = layout.unflatten(u)
    for prefix, child in module.named_children():
        if isinstance(child, nn.ConvTranspose2d):
            yield from tensors[f"{prefix}.weight"].transpose(0, 1).flatten(1)
        elif isinstance(child, (nn.Conv2d, nn.Linear)):
            yield from tensors[f"{prefix}.weight"].flatten(1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_filter_is_as_long_as_its_weights_and_orthogonal_to_the_others(network, count):
    module, layout, z = network
    basis = directions.random(layout, z, seeded(), count=count)
    assert basis.shape == (count, len(z))
    for parts in zip(filters(module, layout, z), *(filters(module, layout, u) for u in basis),
                     strict=True):  # fmt: skip
        own, rest = parts[0], torch.stack(parts[1:])
        gram = rest @ rest.T
        torch.testing.assert_close(gram, own @ own * torch.eye(count, dtype=z.dtype, device=CPU))
    gram = basis @ basis.T
    assert (gram - torch.diag(gram.diag())).abs().max() < 1e-12 * gram.max()


def test_biases_and_normalisation_scales_are_left_out_unless_wanted(network):
    _, layout, z = network
    kept = layout.mask(lambda entry: entry.role not in ("bias", "norm"), device=CPU)
    (u,) = directions.random(layout, z, seeded(), count=1)
    assert bool((u[~kept] == 0).all()) and bool((u[kept] != 0).all())
    (everything,) = directions.random(layout, z, seeded(), count=1, ignore=())
    for entry in layout.entries:
        wanted = torch.linalg.vector_norm(z[entry.span])
        got = torch.linalg.vector_norm(everything[entry.span])
        torch.testing.assert_close(got, wanted)


def test_a_filter_without_room_for_a_second_direction_is_zero_in_it():
    layout = Layout.of(nn.Linear(1, 5))
    z = torch.arange(1.0, 11.0, device=CPU, dtype=torch.float64)
    first, second = directions.random(layout, z, seeded())
    torch.testing.assert_close(first[:5].abs(), z[:5])
    assert not second.any()


def test_the_same_seed_gives_the_same_directions_and_another_others(network):
    _, layout, z = network
    first = directions.random(layout, z, seeded(3))
    assert torch.equal(first, directions.random(layout, z, seeded(3)))
    assert not torch.equal(first, directions.random(layout, z, seeded(4)))


def test_directions_are_gaussian_before_they_are_normalised():
    """Entries of one long filter: mean 0 within 5 standard errors, kurtosis 3 within 5."""
    layout = Layout.of(nn.Linear(20_000, 1, bias=False))
    z = torch.ones(20_000, device=CPU, dtype=torch.float64)
    (u,) = directions.random(layout, z, seeded(1), count=1)
    n = len(u)
    assert abs(float(u.mean())) < 5 / n**0.5
    kurtosis = float((u**4).mean() / (u**2).mean() ** 2)
    assert abs(kurtosis - 3) < 5 * (24 / n) ** 0.5


@pytest.mark.parametrize("by", ["filter", "layer", "model"])
def test_normalising_twice_changes_nothing_and_scale_does_not_matter(network, by):
    _, layout, z = network
    u = torch.randn(2, len(z), generator=seeded(5), dtype=z.dtype, device=CPU)
    once = directions.normalise(layout, z, u, by=by)
    torch.testing.assert_close(directions.normalise(layout, z, once, by=by), once)
    torch.testing.assert_close(directions.normalise(layout, z, 7.5 * u, by=by), once)


def test_by_layer_and_by_model_give_the_norms_that_they_name(network):
    _, layout, z = network
    u = torch.randn(len(z), generator=seeded(5), dtype=z.dtype, device=CPU)
    layers = directions.normalise(layout, z, u, by="layer")
    for entry in layout.entries:
        wanted = 0.0 if entry.role in ("bias", "norm") else float(z[entry.span].norm())
        assert float(layers[entry.span].norm()) == pytest.approx(wanted)
    kept = layout.mask(lambda entry: entry.role not in ("bias", "norm"), device=CPU)
    whole = directions.normalise(layout, z, u, by="model")
    assert float(whole.norm()) == pytest.approx(float(z[kept].norm()))
    torch.testing.assert_close(whole / whole.norm(), (u * kept) / (u * kept).norm())


def test_a_part_that_is_zero_stays_zero_and_never_becomes_nan(network):
    _, layout, z = network
    z = z.clone()
    z[layout.entries[0].span] = 0
    u = torch.ones_like(z)
    u[layout.entries[2].span] = 0
    out = directions.normalise(layout, z, u)
    assert bool(out.isfinite().all())
    assert not out[layout.entries[0].span].any() and not out[layout.entries[2].span].any()


def test_without_a_layout_directions_are_orthogonal_and_as_long_as_the_point():
    z = torch.tensor([3.0, 4.0, 0.0], device=CPU, dtype=torch.float64)
    basis = directions.random(None, z, seeded())
    expected = 25 * torch.eye(2, dtype=z.dtype, device=CPU)
    torch.testing.assert_close(basis @ basis.T, expected)
    unit = directions.random(None, z, seeded(), by="none")
    torch.testing.assert_close(unit @ unit.T, torch.eye(2, dtype=z.dtype, device=CPU))


def test_principal_directions_are_those_of_a_singular_value_decomposition():
    cloud = torch.randn(12, 40, generator=seeded(2), dtype=torch.float64, device=CPU)
    cloud[:, 0] *= 9
    cloud[:, 1] *= 5
    basis, shares = directions.pca(cloud, count=3)
    centred = cloud.numpy() - cloud.numpy().mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(abs((basis.numpy() * rows[:3]).sum(1)), 1.0, rtol=1e-10)
    np.testing.assert_allclose(shares.numpy(), singular[:3] ** 2 / (singular**2).sum())
    assert bool((basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all())


def test_between_leads_from_one_point_to_the_other():
    a, b = torch.tensor([1.0, 2.0], device=CPU), torch.tensor([0.5, 4.0], device=CPU)
    assert torch.equal(a + directions.between(a, b), b)


def test_bad_arguments_are_refused(network, unchecked):
    _, layout, z = network
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        directions.random(layout, z, seeded(), count=0)
    with pytest.raises(ValueError, match="directions of length|directions \\(..., p\\) are needed"):
        directions.normalise(layout, z, z[:-1])
    with pytest.raises(ValueError, match="two points are equal"):
        directions.between(z, z)
    with pytest.raises(ValueError, match="more than 2 points"):
        directions.pca(z.expand(2, -1))
    with pytest.raises(ValueError, match="span fewer than 1 directions"):
        directions.pca(z.expand(3, -1), count=1)
