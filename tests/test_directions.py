"""Directions: lengths of filters, orthogonality, what stays zero, principal axes, differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from objectives import built, normal, own_point, seeded
from scipy import stats
from torch import nn

from landscape import directions
from landscape.functions import himmelblau
from landscape.layout import Layout
from landscape.objective import hvp
from landscape.restriction import Restriction

close = torch.testing.assert_close


class Network(nn.Module):
    """Filters along every axis that occurs, a filter of one entry, norms and biases."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2)
        self.transposed = nn.ConvTranspose2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4, affine=True)
        self.words = nn.Embedding(5, 6)
        self.linear = nn.Linear(4, 3)
        self.narrow = nn.Linear(1, 3)
        self.gain = nn.Parameter(torch.ones(()))


@pytest.fixture(scope="module")
def layout():
    return Layout.of(built(Network))


@pytest.fixture(scope="module")
def z():
    return own_point(built(Network)) * 3


def filters(flat, layout):
    """Every filter of every tensor with weights, by hand: name, index, entries."""
    for entry in layout.entries:
        block = flat[entry.span].reshape(entry.shape)
        if entry.role in ("norm", "bias"):
            continue
        if entry.name == "transposed.weight":
            parts = [block[:, i] for i in range(block.shape[1])]
        elif block.ndim > 1:
            parts = list(block)
        else:
            parts = [block]
        for i, part in enumerate(parts):
            yield entry.name, i, part.reshape(-1)


def ignored(flat, layout):
    return torch.cat([flat[e.span] for e in layout.entries if e.role in ("norm", "bias")])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_filter_is_as_long_as_the_same_filter_of_the_point(layout, z, count):
    found = directions.random(layout, z, seeded(0), count=count)
    assert found.shape == (count, len(z))
    for i, direction in enumerate(found):
        pairs = zip(filters(direction, layout), filters(z, layout), strict=True)
        for (_, _, part), (_, _, own) in pairs:
            room = len(own) > i
            close(part.norm(), own.norm() if room else own.new_zeros(()))
        assert not ignored(direction, layout).any()
    assert len(list(filters(z, layout))) == 3 + 4 + 5 + 3 + 3 + 1


def test_directions_are_orthogonal_within_every_filter_and_overall(layout, z):
    found = directions.random(layout, z, seeded(1), count=3)
    for first, second in itertools.combinations(found, 2):
        for (_, _, a), (_, _, b) in zip(
            filters(first, layout), filters(second, layout), strict=True
        ):
            assert abs(a @ b) <= 1e-12 * (a.norm() * b.norm() + 1e-300)
        assert abs(first @ second) <= 1e-12 * first.norm() * second.norm()


@pytest.mark.parametrize("by", ["layer", "model"])
def test_layers_or_the_whole_may_be_scaled_instead(layout, z, by):
    found = directions.random(layout, z, seeded(1), by=by)
    assert abs(found[0] @ found[1]) <= 1e-12 * found[0].norm() * found[1].norm()
    for direction in found:
        assert not ignored(direction, layout).any()
        if by == "model":
            kept = torch.where(layout.mask(lambda e: e.role not in ("norm", "bias"), "cpu"), z, 0)
            close(direction.norm(), kept.norm())
            continue
        for entry in layout.entries:
            if entry.role not in ("norm", "bias") and entry.size > 1:
                close(direction[entry.span].norm(), z[entry.span].norm())


def test_directions_by_the_model_are_gaussian_and_favour_no_filter():
    model = built(
        lambda: nn.Sequential(nn.Linear(1, 30, bias=False), nn.Linear(30, 30, bias=False))
    )
    layout, z = Layout.of(model), own_point(model)
    found = directions.random(layout, z, seeded(0), count=1, by="model")[0]
    entries = found / found.std()
    small, large = entries[:30], entries[30:]
    assert stats.kstest(large.numpy(), "norm").pvalue > 1e-3
    assert 0.5 < float(small.std()) < 2


def test_within_a_filter_directions_are_gaussian():
    layout = Layout.of(nn.Linear(4000, 1, bias=False))
    z = torch.ones(4000, dtype=torch.float64, device="cpu")
    for direction in directions.random(layout, z, seeded(0)):
        assert stats.kstest(direction.numpy(), "norm").pvalue > 1e-3


def test_without_scaling_directions_are_orthonormal(layout, z):
    found = directions.random(layout, z, seeded(0), count=4, by="none")
    close(found @ found.T, torch.eye(4, dtype=z.dtype, device="cpu"))
    assert not any(ignored(direction, layout).any() for direction in found)


def test_a_vector_without_structure_is_one_filter():
    z = normal(6)
    found = directions.random(None, z, seeded(0))
    close(found @ found.T, torch.eye(2, dtype=z.dtype, device="cpu") * (z @ z))
    plain = directions.random(None, z, seeded(0), by="none")
    close(plain @ plain.T, torch.eye(2, dtype=z.dtype, device="cpu"))
    u = normal(2, 3, 6, seed=1)
    scaled = directions.normalise(None, z, u)
    close(scaled, u * z.norm() / u.norm(dim=-1, keepdim=True))


def test_directions_are_a_function_of_the_generator(layout, z):
    first, again, other = (directions.random(layout, z, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    one = directions.random(layout, z, seeded(3), count=1)
    close(one[0].norm(), first[0].norm())


def test_roles_to_ignore_may_be_chosen(layout, z):
    everything = directions.random(layout, z, seeded(0), ignore=())
    assert everything[0, layout.entries[1].span].any()
    for entry in layout.entries:
        if entry.role in ("norm", "bias"):
            close(everything[0, entry.span].norm(), z[entry.span].norm())
    without = directions.random(layout, z, seeded(0), ignore=("convolution", "norm"))
    spans = {entry.name: without[0, entry.span] for entry in layout.entries}
    assert not spans["convolution.weight"].any() and not spans["transposed.weight"].any()
    assert spans["linear.bias"].any()


@pytest.mark.parametrize("by", ["filter", "layer", "model", "none"])
def test_normalising_twice_changes_nothing_and_keeps_leading_axes(layout, z, by):
    u = normal(2, 3, len(z))
    once = directions.normalise(layout, z, u, by=by)
    assert once.shape == u.shape
    close(directions.normalise(layout, z, once, by=by), once)
    close(directions.normalise(layout, z, 7 * u, by=by), 7 * once if by == "none" else once)
    close(once[1, 2], directions.normalise(layout, z, u[1, 2], by=by))


def test_the_point_itself_is_a_direction_of_the_right_length(layout, z):
    kept = layout.mask(lambda entry: entry.role not in ("norm", "bias"), "cpu")
    close(directions.normalise(layout, z, z), torch.where(kept, z, 0))


def test_parts_that_are_zero_stay_zero(layout, z):
    u, point = normal(len(z)), z.clone()
    u[layout.entries[0].span] = 0
    point[layout.entries[2].span] = 0
    found = directions.normalise(layout, point, u)
    assert not found[layout.entries[0].span].any()
    assert not found[layout.entries[2].span].any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directions_have_the_type_of_the_point_and_no_graph(layout, z, dtype):
    point = z.to(dtype).requires_grad_()
    found = directions.random(layout, point, seeded(0))
    assert found.dtype == dtype and not found.requires_grad
    assert not directions.normalise(layout, point, found).requires_grad
    expected = directions.random(layout, z.to(dtype).double(), seeded(0))
    tolerance = 8 * torch.finfo(dtype).eps
    close(found.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(layout, z):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        directions.random(layout, z, seeded(0), count=0)
    for by in ("filters", ""):
        with pytest.raises(ValueError, match=f"filter, layer, model or none, got '{by}'"):
            directions.normalise(layout, z, z, by=by)
        with pytest.raises(ValueError, match=f"filter, layer, model or none, got '{by}'"):
            directions.random(layout, z, seeded(0), by=by)
    wrong = rf"one point \({len(z)},\) is needed, got shape"
    for point in (z[:-1], z.expand(2, -1)):
        with pytest.raises(ValueError, match=wrong):
            directions.random(layout, point, seeded(0))
    with pytest.raises(ValueError, match=wrong):
        directions.normalise(layout, z[:-1], z[:-1])
    with pytest.raises(ValueError, match=r"directions \(\.\.\., p\) are needed, got"):
        directions.normalise(layout, z, z[:-1])


# ------------------------------------------------------------------------------ between and along


def test_between_leads_from_the_one_point_to_the_other():
    a, b = normal(2), normal(2, seed=1)
    restricted = Restriction(himmelblau, a, directions.between(a, b))
    ends = restricted.point(torch.tensor([[0.0], [1.0]], dtype=torch.float64, device="cpu"))
    close(ends, torch.stack([a, b]))


@pytest.mark.usefixtures("unchecked")
def test_there_is_no_direction_between_equal_or_unequally_long_points():
    with pytest.raises(ValueError, match="the two points are equal"):
        directions.between(normal(3), normal(3))
    with pytest.raises(ValueError, match=r"two points \(p,\) are needed, got \(3,\) and \(4,\)"):
        directions.between(normal(3), normal(4))
    with pytest.raises(ValueError, match=r"two points \(p,\) are needed, got \(1, 3\)"):
        directions.between(normal(1, 3), normal(1, 3, seed=1))


@pytest.mark.parametrize("shape", [(8, 3), (5, 200), (30, 30)])
@pytest.mark.parametrize("count", [1, 3])
def test_principal_directions_are_those_of_numpy(shape, count):
    scales = torch.logspace(0, 1.5, shape[1], dtype=torch.float64, device="cpu")
    points = normal(*shape) * scales + 5
    found, shares = directions.pca(points, count)
    centred = points.numpy() - points.numpy().mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:count], rtol=1e-9)
    np.testing.assert_allclose(abs((found.numpy() * axes[:count]).sum(1)), 1, rtol=1e-9)
    close(found @ found.T, torch.eye(count, dtype=points.dtype, device="cpu"))
    peaks = found.abs().argmax(1)
    assert (found[torch.arange(count, device="cpu"), peaks] > 0).all()


def test_the_path_of_a_descent_lies_in_the_plane_of_its_principal_directions():
    target = normal(2, 40)
    points = torch.stack([math.exp(-k / 3) * target[0] + k * target[1] for k in range(9)])
    found, shares = directions.pca(points)
    rest = points - points.mean(0)
    close(rest @ found.T @ found, rest)
    close(shares.sum(), torch.ones((), dtype=points.dtype, device="cpu"))


@pytest.mark.usefixtures("unchecked")
def test_too_few_or_too_similar_points_have_no_principal_directions():
    with pytest.raises(ValueError, match="more than 2 points .* for 2 directions, got shape"):
        directions.pca(normal(2, 5))
    with pytest.raises(ValueError, match="more than 0 points"):
        directions.pca(normal(4, 5), count=0)
    with pytest.raises(ValueError, match=r"got shape \(5,\)"):
        directions.pca(normal(5))
    with pytest.raises(ValueError, match="span fewer than 2 directions"):
        directions.pca(normal(5).outer(normal(7)))
    with pytest.raises(ValueError, match="span fewer than 1 directions"):
        directions.pca(torch.ones(4, 3, device="cpu"), 1)


def test_curvature_along_a_direction_is_that_of_the_restriction():
    z, u = normal(2), normal(2, seed=1)
    restricted = Restriction(himmelblau, z, u)
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    close(hvp(restricted, 0 * one, one), (u @ hvp(himmelblau, z, u)).reshape(1))
