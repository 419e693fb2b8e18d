"""What every method must keep, whatever it does; each check fails by its own assertion.

Annotations are checked by `check_devices_and_types` alone: they take most of the time of small
steps.
"""

from itertools import repeat

import populations
import torch
from populations import Counting, annotations_unchecked, frozen, seeded, start

from cnognp.method import Info, norms
from cnognp.run import run
from cnognp.state import from_arrays, to_arrays
from landscape.functions import himmelblau, six_hump_camel
from landscape.objective import Analytic, Ridge, Sum, value_and_grad

OBJECTIVES = {
    "himmelblau": lambda: himmelblau,
    "six-hump-camel": lambda: six_hump_camel,
    "terms-only": populations.Chained,
    "network": lambda: Sum(populations.risk(), Ridge(0.01, dim=populations.risk().dim)),
}


@annotations_unchecked()
def check_purity(method, objective):
    """A step changes neither its state nor any generator, and repeats bit for bit."""
    z = start(objective)
    state = populations.last(method, objective, z, 2)
    before, generator, outer = frozen(state), seeded(3), torch.get_rng_state()
    drawn = generator.get_state()
    first, info = method.step(objective, state, generator)
    assert frozen(state) == before
    assert torch.equal(z, start(objective))
    assert torch.equal(generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), outer)
    torch.rand(100, generator=generator, device="cpu")
    second, again = method.step(objective, state, generator)
    assert frozen(first) == frozen(second)
    assert frozen(info._replace(evaluations=None)) == frozen(again._replace(evaluations=None))
    assert frozen(first) != before


@annotations_unchecked()
def check_resumption(method, objective, rounds=4):
    """A run cut after any round, and stored, ends like the unbroken one bit for bit."""
    z = start(objective)
    whole = populations.states(method, objective, z, rounds)
    for k, state in enumerate(whole[:-1], 1):
        restored = from_arrays(method.init(objective, z), to_arrays(state))
        rest = populations.states(method, objective, z, rounds - k, state=restored, start=k)
        assert [frozen(s) for s in rest] == [frozen(s) for s in whole[k:]]


def check_devices_and_types(method, objective):
    """No tensor is made on the default device, and float32 stays float32."""
    z = start(objective, dtype=torch.float32)
    expected = populations.last(method, objective, z, 3)
    generator = seeded(7)
    with torch.device("meta"):
        state, info = list(run(method, repeat(objective, 3), z, generator))[-1]
    assert frozen(state) == frozen(expected)
    for name, array in to_arrays(state).items():
        assert array.dtype.name in ("float32", "int64"), name
    for tensor in info[:4]:
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"


@annotations_unchecked()
def check_alone(method, objective, tolerance=1e-11):
    """Members are as many runs of their own, and may change places; no random numbers."""
    z, order = start(objective), torch.tensor([2, 0, 3, 1], device="cpu")
    together = populations.last(method, objective, z, 4).position
    alone = [populations.last(method, objective, row[None], 4).position for row in z]
    torch.testing.assert_close(together, torch.cat(alone), rtol=tolerance, atol=tolerance)
    other = populations.last(method, objective, z[order], 4).position
    torch.testing.assert_close(other, together[order], rtol=tolerance, atol=tolerance)


@annotations_unchecked()
def check_rows_belong_to_members(method, objective):
    """Where the other members start does not matter to a member, random numbers included."""
    z = start(objective)
    elsewhere = torch.cat([z[:1], start(objective, seed=9)[1:]])
    one = populations.last(method, objective, z, 4).position
    other = populations.last(method, objective, elsewhere, 4).position
    torch.testing.assert_close(one[:1], other[:1], rtol=1e-11, atol=1e-11)
    assert not torch.equal(one[1:], other[1:])


@annotations_unchecked()
def check_nan_stays_alone(method):
    """A member whose loss or gradient is NaN leaves the others exactly as they were."""
    for slope in (0.0, float("nan")):
        bowl = _cliff(slope)
        z = start(bowl)
        broken = torch.cat([z[:1] + 1e5, z[1:]])
        whole = populations.last(method, bowl, z, 5).position
        part = populations.last(method, bowl, broken, 5).position
        torch.testing.assert_close(part[1:], whole[1:], rtol=1e-12, atol=1e-12)
        assert part[1:].isfinite().all()
    nowhere = populations.last(method, himmelblau, start(himmelblau) * float("nan"), 3)
    assert nowhere.position.isnan().all()


@annotations_unchecked()
def check_moved(method):
    """Members that somebody else has moved, a swarm for one, go on from where they are."""
    z = start(himmelblau)
    state = populations.last(method, himmelblau, z, 2)
    stayed, _ = method.step(himmelblau, state, seeded(3))
    moved, _ = method.step(himmelblau, state._replace(position=z + 0.25), seeded(3))
    assert not torch.isclose(moved.position, stayed.position).all(-1).any()


@annotations_unchecked()
def check_info(method, objective, counts_all=True):
    """Info tells loss and gradient norm where it says so, and what was evaluated."""
    counted = Counting(objective)
    counted.layout = getattr(objective, "layout", None)
    z, rounds = start(objective), 0.0
    for _, info in run(method, repeat(counted, 4), z, seeded(7)):
        assert isinstance(info, Info)
        loss, grad = value_and_grad(objective, info.position)
        torch.testing.assert_close(info.loss, loss)
        torch.testing.assert_close(info.gradient_norm, norms(grad))
        rounds += info.evaluations
    if counts_all:
        # Values are counted term by term.
        values = counted.values / len(list(objective.terms()))
        assert values + counted.gradients == round(rounds * len(z))


def _cliff(slope):
    """A bowl that is NaN further than 100 from its middle."""

    def formula(z):
        return torch.where(norms(z) > 100, float("nan"), (z * z).sum(-1))

    def gradient(z):
        return torch.where(norms(z).unsqueeze(-1) > 100, slope, 2 * z)

    return Analytic(formula, dim=2, gradient=gradient)
