"""The layout of a flat vector: order, spans, roles, filters, and the way there and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import Named, SelfAttention, Tied, built, frozen_first, normal, own_point
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from landscape.directions.parts import Block
from landscape.networks.layout import Entry, Layout


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


def filters_of(model, name, **declared):
    """The coordinates of each filter of a tensor, as sets of places in the tensor itself."""
    (entry,) = [e for e in Layout.of(model, **declared).entries if e.name == name]
    places = torch.arange(entry.size, device="cpu")
    return [set(row.tolist()) for row in Block.of(entry, "filter").rows(places)]


def places(model, name, *indices):
    """Where the entries at ``tensor[index]`` lie in the flattened tensor, by plain indexing."""
    shape = model.get_parameter(name).shape
    numbers = torch.arange(shape.numel(), device="cpu").reshape(shape)
    return [set(numbers[index].reshape(-1).tolist()) for index in indices]


def test_a_head_of_a_fused_projection_is_one_filter():
    model = nn.MultiheadAttention(6, 3)
    rows = [slice(start, start + 2) for start in range(0, 18, 2)]
    assert filters_of(model, "in_proj_weight") == places(model, "in_proj_weight", *rows)
    parts = nn.MultiheadAttention(6, 3, kdim=4, vdim=5, add_bias_kv=True)
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        assert filters_of(parts, name) == places(parts, name, *rows[:3])
    kinds = {entry.name: entry.role for entry in Layout.of(parts).entries}
    assert kinds["bias_k"] == kinds["bias_v"] == "bias"
    out = [slice(i, i + 1) for i in range(6)]
    assert filters_of(parts, "out_proj.weight") == places(parts, "out_proj.weight", *out)


class Conv1D(nn.Module):
    """The linear layer of GPT-2 as transformers has it: stored as (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


def test_fused_projections_can_be_declared_in_either_layout():
    model = nn.ModuleDict({"qkv": nn.Linear(4, 12), "c_attn": Conv1D(12, 4)})
    declared = {"blocks": {"qkv": 6, "c_attn.weight": 6}}
    rows = [slice(start, start + 2) for start in range(0, 12, 2)]
    assert filters_of(model, "qkv.weight", **declared) == places(model, "qkv.weight", *rows)
    columns = [(slice(None), row) for row in rows]
    found = filters_of(model, "c_attn.weight", **declared)
    assert found == places(model, "c_attn.weight", *columns)
    plain = [(slice(None), i) for i in range(12)]
    assert filters_of(model, "c_attn.weight") == places(model, "c_attn.weight", *plain)
    by_axis = filters_of(nn.Linear(3, 2), "weight", axes={"weight": -1})
    assert by_axis == [{0, 3}, {1, 4}, {2, 5}]
    kinds = {entry.name: entry.role for entry in Layout.of(model, **declared).entries}
    assert kinds == {"qkv.weight": "attention", "qkv.bias": "bias",
                     "c_attn.weight": "attention", "c_attn.bias": "bias"}  # fmt: skip


def test_what_is_declared_wrongly_is_refused():
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"no parameter 'qkv' or 'qkv.weight'; .* are 0.weight, 0"):
        Layout.of(model, blocks={"qkv": 2})
    for count in (4, 0):
        with pytest.raises(ValueError, match=rf"axis 0 cannot be cut into {count} equal blocks"):
            Layout.of(model, blocks={"0": count})
    for axis in (2, -3):
        with pytest.raises(ValueError, match=rf"0.weight has shape \(6, 4\) and no axis {axis}"):
            Layout.of(model, axes={"0": axis})


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_filter_of_a_convolution_is_what_makes_one_output_channel(groups):
    """Independent of the layout: which weights does an output channel depend on?"""
    for model in (nn.Conv2d(4, 8, 2, groups=groups), nn.ConvTranspose2d(4, 8, 2, groups=groups)):
        x = torch.ones(1, 4, 3, 3, device="cpu")
        expected = []
        for channel in range(8):
            (grad,) = torch.autograd.grad(model(x)[0, channel].sum(), model.weight)
            expected.append(set(grad.reshape(-1).nonzero().flatten().tolist()))
        assert filters_of(model, "weight") == expected


def test_units_of_gates_and_rows_of_embeddings_are_filters():
    cell = nn.LSTM(2, 3, proj_size=2)
    rows = [slice(i, i + 1) for i in range(12)]
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert filters_of(cell, name) == places(cell, name, *rows)
    assert filters_of(cell, "weight_hr_l0") == places(cell, "weight_hr_l0", *rows[:2])
    words = nn.EmbeddingBag(4, 3)
    assert filters_of(words, "weight") == places(words, "weight", *rows[:4])


def test_parametrised_weights_keep_the_role_of_the_weight():
    model = nn.Sequential(
        weight_norm(nn.Linear(3, 2)), weight_norm(nn.Conv2d(2, 3, 2)),
        spectral_norm(nn.Linear(3, 3)), weight_norm(nn.ConvTranspose1d(2, 3, 2), dim=1),
    )  # fmt: skip
    found = {e.name: (e.role, e.filter_axis) for e in Layout.of(model).entries if e.role != "bias"}
    assert found == {
        "0.parametrizations.weight.original0": ("norm", None),
        "0.parametrizations.weight.original1": ("linear", 0),
        "1.parametrizations.weight.original0": ("norm", None),
        "1.parametrizations.weight.original1": ("convolution", 0),
        "2.parametrizations.weight.original": ("linear", 0),
        "3.parametrizations.weight.original0": ("norm", None),
        "3.parametrizations.weight.original1": ("convolution", 1),
    }
    alone = Layout.of(weight_norm(nn.Linear(3, 2)))
    assert [entry.role for entry in alone.entries] == ["bias", "norm", "linear"]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_older_weight_normalisation_is_read_too():
    found = {e.name: e.role for e in Layout.of(nn.utils.weight_norm(nn.Conv1d(2, 3, 2))).entries}
    assert found == {"bias": "bias", "weight_g": "norm", "weight_v": "convolution"}


class LlamaRMSNorm(nn.Module):
    """A norm that is nobody's subclass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def test_a_norm_is_known_by_its_name_too():
    assert Layout.of(LlamaRMSNorm()).entries[0].role == "norm"


def test_statistics_of_batchnorm_are_no_part_of_the_vector(everything):
    model, layout = everything
    buffers = {name for name, _ in model.named_buffers()}
    assert "batch.running_mean" in buffers and not buffers & set(layout.names)


@pytest.mark.parametrize("lead", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("by", ["filter", "layer"])
def test_cutting_into_parts_and_joining_them_are_inverse(everything, lead, by):
    layout = everything[1]
    z = normal(*lead, layout.dim)
    for entry in layout.entries:
        flat, block = z[..., entry.span], Block.of(entry, by)
        rows = block.rows(flat)
        assert rows.ndim == len(lead) + 2 and rows.numel() == flat.numel()
        assert torch.equal(block.flat(rows), flat)


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
