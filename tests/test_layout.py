"""The layout of a flat vector: order, spans, roles, filters, and the way there and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import Named, SelfAttention, Tied, built, frozen_first, normal, own_point
from torch import nn

from landscape.layout import Entry, Layout


class Everything(nn.Module):
    """One of each kind of tensor."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2, groups=1)
        self.transposed = nn.ConvTranspose1d(2, 3, 2)
        self.linear = nn.Linear(4, 3)
        self.pairs = nn.Bilinear(2, 3, 4)
        self.words = nn.Embedding(5, 2)
        self.recurrent = nn.LSTM(2, 3)
        self.cell = nn.GRUCell(2, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.batch = nn.BatchNorm2d(3)
        self.layer = nn.LayerNorm((2, 3))
        self.group = nn.GroupNorm(1, 2)
        self.root = nn.RMSNorm(3)
        self.slope = nn.PReLU()
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.table = nn.Parameter(torch.ones(2, 3))


@pytest.fixture(scope="module")
def everything():
    model = built(Everything)
    return model, Layout.of(model)


def test_the_vector_holds_the_trainable_parameters_in_their_order(everything):
    model, layout = everything
    names = [name for name, _ in model.named_parameters()]
    assert list(layout.names) == names
    assert [entry.shape for entry in layout.entries] == [tuple(p.shape) for p in model.parameters()]
    assert list(layout.sizes) == [p.numel() for p in model.parameters()]
    assert layout.dim == sum(layout.sizes)
    flat = layout.flatten(dict(model.named_parameters()))
    assert torch.equal(flat, own_point(model))
    for entry in layout.entries:
        tensor = model.get_parameter(entry.name)
        assert torch.equal(flat[entry.span], tensor.reshape(-1))


def test_tied_parameters_count_once_and_frozen_ones_not_at_all():
    assert Layout.of(Tied()).names == ("first.weight", "first.bias", "second.bias", "out.weight",
                                       "out.bias")  # fmt: skip
    assert Layout.of(frozen_first()).names == ("0.bias", "2.0.weight", "3.weight")


ROLES = {
    "convolution.weight": ("convolution", 0),
    "convolution.bias": ("bias", None),
    "transposed.weight": ("convolution", 1),
    "linear.weight": ("linear", 0),
    "linear.bias": ("bias", None),
    "pairs.weight": ("linear", 0),
    "words.weight": ("embedding", 0),
    "recurrent.weight_ih_l0": ("recurrent", 0),
    "recurrent.bias_hh_l0": ("bias", None),
    "cell.weight_hh": ("recurrent", 0),
    "attention.in_proj_weight": ("attention", 0),
    "attention.in_proj_bias": ("bias", None),
    "attention.out_proj.weight": ("linear", 0),
    "batch.weight": ("norm", None),
    "batch.bias": ("bias", None),
    "layer.weight": ("norm", None),
    "layer.bias": ("bias", None),
    "group.weight": ("norm", None),
    "root.weight": ("norm", None),
    "slope.weight": ("other", None),
    "temperature": ("other", None),
    "table": ("other", 0),
}


@pytest.mark.parametrize("name", ROLES)
def test_every_tensor_has_its_role_and_the_axis_of_its_filters(everything, name):
    (entry,) = [entry for entry in everything[1].entries if entry.name == name]
    assert (entry.role, entry.filter_axis) == ROLES[name]


@pytest.mark.parametrize("lead", [(), (3,), (2, 0), (2, 3)])
def test_flatten_and_unflatten_are_inverse_for_any_leading_axes(everything, lead):
    layout = everything[1]
    z = normal(*lead, layout.dim)
    tensors = layout.unflatten(z)
    assert all(tensors[e.name].shape == (*lead, *e.shape) for e in layout.entries)
    assert torch.equal(layout.flatten(tensors), z)


@given(
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4),
    lead=st.lists(st.integers(0, 2), max_size=2).map(tuple),
)
@settings(max_examples=50, deadline=None)
def test_any_shapes_survive_the_way_into_the_vector_and_back(shapes, lead):
    entries, offset = [], 0
    for i, shape in enumerate(shapes):
        entries.append(Entry(str(i), shape, offset, "other", None))
        offset += entries[-1].size
    layout = Layout(tuple(entries))
    z = torch.arange(offset, dtype=torch.float64, device="cpu").expand(*lead, offset)
    tensors = layout.unflatten(z)
    assert torch.equal(layout.flatten(tensors), z)
    for entry in entries:
        assert torch.equal(tensors[entry.name].reshape(*lead, entry.size), z[..., entry.span])


def test_a_point_of_a_model_is_a_copy():
    model = nn.Linear(3, 1, bias=False)
    z = Layout.of(model).flatten({"weight": model.weight.detach()})
    z += 1
    assert not torch.equal(z, model.weight.detach().reshape(-1))


def test_tensors_that_do_not_fit_are_refused(everything):
    layout = Layout.of(Named())
    tensors = layout.unflatten(normal(layout.dim))
    with pytest.raises(ValueError, match="no tensor named left.bias; got"):
        layout.flatten({name: t for name, t in tensors.items() if name != "left.bias"})
    with pytest.raises(ValueError, match=r"left.weight must have shape \(3, 4\) at the end, got"):
        layout.flatten({**tensors, "left.weight": normal(4, 3)})
    with pytest.raises(ValueError, match=rf"last axis must have length {layout.dim}, got \(2, 3\)"):
        layout.unflatten(normal(2, 3))


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="Linear has no trainable parameter"):
        Layout.of(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="Identity has no trainable parameter"):
        Layout.of(nn.Identity())


def test_a_mask_marks_the_coordinates_of_the_wanted_tensors(everything):
    model, layout = everything
    mask = layout.mask(lambda entry: entry.role == "bias", "cpu")
    expected = torch.cat([
        torch.full((p.numel(),), "bias" in name, device="cpu")
        for name, p in model.named_parameters()
    ])  # fmt: skip
    assert torch.equal(mask, expected)


def test_numbers_per_tensor_are_spread_over_its_coordinates(everything):
    layout = everything[1]
    numbers = torch.arange(len(layout.entries), dtype=torch.float64, device="cpu")
    spread = layout.spread(torch.stack([numbers, -numbers]))
    for i, entry in enumerate(layout.entries):
        assert (spread[0, entry.span] == i).all()
        assert (spread[1, entry.span] == -i).all()


def test_the_digest_tells_models_with_other_tensors_apart():
    layout = Layout.of(SelfAttention())
    assert layout.digest == Layout.of(SelfAttention()).digest
    others = [nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 3, bias=False), Tied()]
    digests = {Layout.of(model).digest for model in others}
    assert len(digests) == len(others)
