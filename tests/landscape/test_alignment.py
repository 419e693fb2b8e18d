"""Units in another order: found, tried out, and put back, on networks of every kind."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnognp.tasks.networks import resnet20
from cnognp.tasks.vit import vit
from landscape.alignment import Untraceable, align, align_by_activations, symmetry


class Recurrent(nn.Module):
    """Two layers with gates."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.layers = kind(8, 12, 2, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        return self.out(self.layers(self.words(x))[0][:, -1])


class Joined(nn.Module):
    """Two branches that are concatenated, a scale of each unit, a matrix multiplied by hand."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.rand(11) + 0.5)
        self.matrix = nn.Parameter(torch.randn(11, 7))
        self.out = nn.Linear(7, 2)

    def forward(self, x):
        both = torch.cat([torch.tanh(self.left(x)), F.gelu(self.right(x))], 1) * self.scale
        return self.out(torch.relu(both @ self.matrix))


class Shortcut(nn.Module):
    """A shortcut from the inputs: its units may not move."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(torch.relu(self.inner(x + torch.tanh(self.first(x)))))


def chain():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 3),
    )  # fmt: skip


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 6 * 6, 20), nn.Tanh(), nn.Linear(20, 4),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4),
        nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 2))


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WORDS = torch.tensor([[1, 5, 3, 2], [7, 7, 0, 19]])
# Of each network an input, and how many units are in each group.
NETWORKS = {
    "chain": (chain, torch.randn(2, 8), [16, 16, 16]),
    "lenet": (lenet, torch.randn(2, 1, 20, 20), [6, 8, 20]),
    "resnet20": (resnet20, IMAGES, [16, 16, 16, 16, 32, 16, 32, 32, 64, 32, 64, 64]),
    "vit": (lambda: vit(24, 3, depth=2), IMAGES, [24, 3, 96, 3, 96]),
    "encoder": (encoder, torch.randn(2, 7, 5), [16, 4, 32, 4, 32]),
    "groups": (grouped, torch.randn(2, 3, 12, 12), [4]),
    "lstm": (Recurrent, WORDS, [8, 12, 12]),
    "gru": (lambda: Recurrent(nn.GRU), WORDS, [8, 12, 12]),
    "joined": (Joined, torch.randn(3, 4), [5, 6, 7]),
    "shortcut": (Shortcut, torch.randn(3, 4), [6]),
}


def drawn(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def tensors_of(model, seed=0):
    """All tensors of a network, parameters and statistics drawn so that no two units are alike."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in model.state_dict().items():
        noise = torch.rand(tensor.shape, generator=generator) - 0.5
        moves = tensor.is_floating_point()
        found[name] = (
            tensor + (0.2 * noise if "running_var" not in name else noise.abs())
            if moves
            else tensor
        )
    return found


@pytest.fixture(params=NETWORKS)
def network(request):
    make, inputs, sizes = NETWORKS[request.param]
    return drawn(make).eval(), inputs, sizes


def outputs(model, tensors, inputs):
    with torch.no_grad():
        return torch.func.functional_call(model, tensors, (inputs,))


def test_groups_are_found_and_permuting_them_changes_nothing(network):
    model, inputs, sizes = network
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = symmetry(model, inputs)
    assert sorted(group.size for group in groups.groups) == sorted(sizes)
    given = tensors_of(model)
    moved = groups.permuted(given, groups.drawn(torch.Generator().manual_seed(3)))
    expected = outputs(model, given, inputs)
    torch.testing.assert_close(outputs(model, moved, inputs), expected, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(moved[name], given[name]) for name in given)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_equal_networks_come_back_bit_for_bit(network):
    model, inputs, _ = network
    groups = symmetry(model, inputs)
    one = tensors_of(model)
    other = groups.permuted(one, groups.drawn(torch.Generator().manual_seed(5)))
    found = align(groups, one, other)
    assert found.converged and found.after == 0 < found.before
    assert all(torch.equal(found.tensors[name], one[name]) for name in one)
    again = groups.permuted(other, found.permutation)
    assert all(torch.equal(again[name], one[name]) for name in one)


def test_equal_networks_answer_alike_in_the_right_order(network):
    model, inputs, _ = network
    generator = torch.Generator().manual_seed(7)
    shape = (64, *inputs.shape[1:])
    words = not inputs.is_floating_point()
    many = (
        torch.randint(20, shape, generator=generator) if words
        else torch.randn(shape, generator=generator)
    )  # fmt: skip
    groups = symmetry(model, inputs)
    one = tensors_of(model)
    other = groups.permuted(one, groups.drawn(torch.Generator().manual_seed(5)))
    found = align_by_activations(groups, model, one, other, many.split(16))
    assert all(torch.equal(found.tensors[name], one[name]) for name in one)


def test_different_networks_come_closer_and_compute_the_same(network):
    model, inputs, _ = network
    groups = symmetry(model, inputs)
    one, other = tensors_of(model), tensors_of(model, seed=1)
    other = groups.permuted(other, groups.drawn(torch.Generator().manual_seed(2)))
    found = align(groups, one, other)
    assert found.converged and found.after < found.before
    torch.testing.assert_close(
        outputs(model, found.tensors, inputs), outputs(model, other, inputs), rtol=1e-4, atol=1e-5
    )
    # No single group can be put into a better order.
    places = {place.tensor for group in groups.groups for place in group.places}

    def product(tensors):
        return sum(float((one[name].double() * tensors[name].double()).sum()) for name in places)

    best = product(found.tensors)
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        for name, order in groups.drawn(generator).items():
            swapped = np.arange(len(order))
            swapped[order[:2]] = order[:2][::-1]
            assert product(groups.permuted(found.tensors, {name: swapped})) <= best * (1 + 1e-12)


def test_one_hidden_layer_is_solved_exactly():
    model = drawn(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    groups = symmetry(model, torch.randn(2, 3))
    one, other = tensors_of(model), tensors_of(model, seed=1)
    found = align(groups, one, other)

    def apart(order):
        moved = groups.permuted(other, {"0.weight": np.array(order)})
        return sum(float(((one[n] - moved[n]) ** 2).sum()) for n in one if n != "2.bias") ** 0.5

    least = min(map(apart, itertools.permutations(range(5))))
    assert found.after == pytest.approx(least, rel=1e-6)


def test_a_table_stands_in_for_what_cannot_be_traced():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc2(torch.cummax(self.fc1(x), 0).values)

    model = drawn(Odd)
    inputs = torch.randn(4, 3)
    with pytest.raises(Untraceable, match="pass through cummax: give the groups as a table"):
        symmetry(model, inputs)
    table = {
        "fc1.weight": ("hidden", None),
        "fc1.bias": ("hidden",),
        "fc2.weight": (None, "hidden"),
    }
    groups = symmetry(model, inputs, table=table)
    assert groups["hidden"].size == 6
    wrong = table | {"fc1.bias": (None,)}
    with pytest.raises(ValueError, match="6 units of hidden changes the outputs by .* no symmetry"):
        symmetry(model, inputs, table=wrong)
    with pytest.raises(ValueError, match="fc1.weight is given 1 axes"):
        symmetry(model, inputs, table={"fc1.weight": ("hidden",)})
    with pytest.raises(ValueError, match="no such tensor, there are fc1.weight"):
        symmetry(model, inputs, table={"fc3.weight": ("hidden", None)})
    with pytest.raises(ValueError, match="axis 0 of fc1.weight has 6 entries, not 4 a unit"):
        symmetry(model, inputs, table={"fc1.weight": (("hidden", 4), None)})
    with pytest.raises(ValueError, match="group hidden has 3 and 6 units"):
        symmetry(model, inputs, table=table | {"fc1.bias": (("hidden", 2),)})


def test_a_table_may_say_that_units_have_several_entries():
    model = drawn(lenet)
    table = {
        "3.weight": ("maps", None, None, None),
        "3.bias": ("maps",),
        "6.weight": (None, ("maps", 36)),
    }
    groups = symmetry(model, torch.randn(2, 1, 20, 20), table=table)
    assert groups["maps"].places[-1].entries.shape == (8, 36)


def test_weights_that_are_computed_or_frozen_are_told_or_stay():
    model = drawn(chain)
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    assert [g.size for g in symmetry(model, torch.randn(2, 8)).groups] == [16]
    torch.nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(Untraceable, match="give the groups as a table"):
        symmetry(model, torch.randn(2, 8))


def test_permutations_and_networks_that_do_not_fit_are_refused():
    model = drawn(chain)
    groups, one = symmetry(model, torch.randn(2, 8)), model.state_dict()
    with pytest.raises(ValueError, match=r"each group \(0.weight, 2.weight, 4.weight\) takes"):
        groups.permuted(one, {"1.weight": np.arange(16)})
    with pytest.raises(ValueError, match="0.weight got"):
        groups.permuted(one, {"0.weight": np.zeros(16, int)})
    other = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).state_dict()
    with pytest.raises(ValueError, match="both must have the same shapes"):
        align(groups, one, other)
    linear = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="no group of units"):
        align(symmetry(linear, torch.randn(1, 3)), linear.state_dict(), linear.state_dict())


class Begun(nn.Module):
    """A recurrent layer that begins in a state which is learned, and 0 at first."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.out = kind(6, 5, batch_first=True), nn.Linear(5, 3)
        self.state = nn.Parameter(torch.zeros(1, 1, 5))

    def forward(self, x):
        state = self.state.expand(1, len(x), -1).contiguous()
        several = isinstance(self.layer, nn.LSTM)
        return self.out(self.layer(x, (state, state) if several else state)[0])


class Biased(nn.Module):
    """Attention of two heads, each with a bias of its own that is 0 at first."""

    def __init__(self):
        super().__init__()
        self.three, self.out = nn.Linear(6, 24), nn.Linear(8, 3)
        self.bias = nn.Parameter(torch.zeros(2, 4, 4))

    def forward(self, x):
        q, k, v = self.three(x).view(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        answer = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None])
        return self.out(answer.transpose(1, 2).flatten(2))


class Clamped(nn.Module):
    """Each unit has a lowest value, 0 at first."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.least = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return self.out(torch.clamp(self.first(x), min=self.least))


class Alike(nn.Module):
    """Two modules that share a weight, which has two names."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.out = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 2)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.out(torch.relu(self.one(x)) + torch.relu(self.other(2 * x)))


def elsewhere(model, seed=3):
    """A copy in double with all tensors moved, as training would, and its outputs' tensors."""
    source = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor += 0.3 * torch.randn(tensor.shape, generator=source, dtype=tensor.dtype)
    return twin


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        (lambda: Begun(nn.LSTM), 1), (lambda: Begun(nn.GRU), 1), (lambda: Begun(nn.RNN), 1),
        (Biased, 0), (Clamped, 1), (Alike, 1),
    ],
    ids=["lstm", "gru", "rnn", "biased", "clamped", "alike"],
)  # fmt: skip
def test_what_is_nothing_at_the_start_and_learned_moves_with_its_units(model, groups):
    torch.manual_seed(0)
    model, x = model(), torch.randn(2, 4, 6)
    found = symmetry(model, x)
    assert len(found.groups) == groups
    trained = elsewhere(model)
    orders = {group.name: np.roll(np.arange(group.size), 1) for group in found.groups}
    other = copy.deepcopy(trained)
    other.load_state_dict(found.permuted(trained.state_dict(), orders))
    assert torch.allclose(trained(x.double()), other(x.double()), rtol=0, atol=1e-12)


class Maxout(nn.Module):
    """Of each two units the larger one, and a last layer that is 0 at first."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(6, 8), nn.Linear(4, 3)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        return self.out(self.first(x).unflatten(-1, (4, 2)).amax(-1))


def test_no_symmetry_hides_behind_a_layer_of_zeros():
    with pytest.raises(ValueError, match="no symmetry of this network"):
        symmetry(Maxout(), torch.randn(3, 6))


def test_the_two_units_of_a_group_are_exchanged_when_tried_out():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    for seed in range(6):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match="no symmetry of this network"):
            symmetry(model, torch.randn(9, 3), table={"0.bias": (f"a{seed}",)})
        table = {"2.bias": ("first",), "0.weight": ("second", None)}
        with pytest.raises(ValueError, match="units of first"):
            symmetry(model, torch.randn(9, 3), table=table)


class Mean(nn.Module):
    """Means over units, of padded ones too, in a dictionary of inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.over, self.along = nn.Conv1d(4, 5, 1), nn.Linear(6, 3), nn.Linear(5, 3)

    def forward(self, given):
        x = torch.relu(self.first(given["x"]))
        return self.over(x.mean(1)) + self.along(F.pad(x, (1, 1)).mean(-1))


def test_a_mean_over_units_is_known_by_its_place():
    (group,) = symmetry(Mean(), ({"x": torch.randn(2, 4, 6)},)).groups
    assert (group.name, group.size) == ("first.weight", 5)
    assert {place.tensor for place in group.places} == {
        "first.weight", "first.bias", "along.weight",
    }  # fmt: skip


class Turned(nn.Module):
    """Modules whose outputs have other axes than most: upwards, and norms along the last axis."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.out = (
            nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(4, 2, 1)
        )  # fmt: skip
        self.norm = nn.RMSNorm(6)

    def forward(self, x):
        x = torch.relu(self.norm(self.down(x).movedim(1, -1)).movedim(-1, 1))
        return self.out(torch.relu(self.up(x)))


def test_answers_are_read_along_the_axis_that_has_the_units():
    torch.manual_seed(0)
    x, model = torch.randn(4, 3, 6, 6).double(), elsewhere(Turned())
    found = symmetry(model, x)
    own = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    other = found.permuted(own, found.drawn(torch.Generator().manual_seed(1)))
    back = align_by_activations(found, model, own, other, [x])
    assert len(found.groups) == 2 and back.after == 0 < back.before


def test_both_halves_of_a_gated_layer_move_together():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(6, 10), nn.GLU(), nn.Linear(5, 2)).double(),
        torch.randn(3, 6),
    )
    (group,) = symmetry(model, x).groups
    assert group.size == 5 and group.places[0].entries.tolist() == [[k, k + 5] for k in range(5)]


def test_numbers_that_are_not_finite_and_no_batches_are_refused():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    found, own = symmetry(model, x), model.state_dict()
    wrong = own | {"0.bias": torch.full((4,), torch.nan)}
    with pytest.raises(ValueError, match=r"both must be finite, and 0\.bias is not"):
        align(found, own, wrong)
    with pytest.raises(ValueError, match="at least one batch is needed, got none"):
        align_by_activations(found, model, own, own, [])
