"""Units in another order: found, tried out, and put back, on networks of every kind."""

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
