"""Classes of one's own that are a chain: evaluated together, with what the class itself gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.networks.risk import EmpiricalRisk
from landscape.objective import value, value_and_grad


class Own(nn.Module):
    """Two layers, and attributes."""

    def __init__(self):
        super().__init__()
        self.first, self.body = nn.Linear(6, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))
        self.flag, self.width, self.drop = True, 5, nn.Dropout(0.5)


def made(through):
    return type("Made", (Own,), {"forward": through})()


CHAINS = {
    "modules": lambda m, x: m.body(m.first(x)),
    "function": lambda m, x: m.body(torch.relu(m.first(x))),
    "method": lambda m, x: m.body(m.first(x).sigmoid()),
    "keywords": lambda m, x: m.body(F.elu(F.gelu(m.first(x)))),
    "flat": lambda m, x: m.body(m.first(torch.flatten(x, 1))),
}
OTHERS = {
    "attribute": lambda m, x: m.body(m.first(x)) if m.flag else m.first(x)[:, :3],
    "skip": lambda m, x: m.body(h := m.first(x)) + h[:, :3],
    "scaled": lambda m, x: 2 * m.body(m.first(x)),
    "another slope": lambda m, x: m.body(F.elu(m.first(x), alpha=0.5)),
    "tanh approximation": lambda m, x: m.body(F.gelu(m.first(x), approximate="tanh")),
    "data": lambda m, x: m.body(m.first(x)) if x.sum() > 0 else m.first(x)[:, :3],
    "training": lambda m, x: m.body(m.first(x) if m.training else m.first(x).relu()),
    "dropout": lambda m, x: m.body(m.drop(m.first(x))),
    "a weight": lambda m, x: F.linear(m.body(m.first(x)), m.first.weight[:3, :3]),
    "twice": lambda m, x: m.body[1](m.body(m.first(x)) @ torch.ones(3, 5)),
    "one left out": lambda m, x: m.first(x)[:, :3],
}


def risk(through, shape=(30, 6), **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, y = made(through), torch.randn(shape), torch.randint(3, (len(range(shape[0])),))
        z = torch.randn(4, sum(p.numel() for p in model.parameters()))
    return EmpiricalRisk(model, (x, y), F.cross_entropy, seed=1, **options), z


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_stacked_and_gives_what_the_class_gives(name):
    shape = (30, 2, 3) if name == "flat" else (30, 6)
    ours, z = risk(CHAINS[name], shape, evaluation="stacked")
    truth, _ = risk(CHAINS[name], shape, evaluation="vmap")
    one, _ = risk(CHAINS[name], shape, evaluation="sequential")
    for other in (truth, one):
        torch.testing.assert_close(value(ours, z), value(other, z))
        for own, theirs in zip(value_and_grad(ours, z), value_and_grad(other, z), strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_not(name):
    with pytest.raises(ValueError, match="stacked"):
        risk(OTHERS[name], evaluation="stacked")


def test_neither_is_a_class_that_is_watched_or_changed():
    class Counted(type(made(CHAINS["modules"]))):
        def __call__(self, *args):
            return 2 * super().__call__(*args)

    hooked, patched = made(CHAINS["modules"]), made(CHAINS["modules"])
    hooked.first.register_forward_hook(lambda module, args, output: 2 * output)
    patched.first.forward = lambda x: 2 * x[:, :5]
    data = torch.randn(8, 6), torch.zeros(8, dtype=torch.long)
    for model in (Counted(), hooked, patched):
        with pytest.raises((ValueError, TypeError), match="stacked"):
            EmpiricalRisk(model, data, F.cross_entropy, evaluation="stacked")


def test_dropout_that_is_off_is_no_obstacle():
    risk(OTHERS["dropout"], evaluation="stacked", mode="eval")
