"""What members that live in host memory need: their state, and a few members' worth beside it."""

import weakref

import pytest
import torch
from runs import annotations_unchecked
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnognp import METHODS, homes
from cnognp.population import Population
from cnognp.run import run
from cnognp.state import to_tensors
from cnognp.tasks.problem import Problem
from cnognp.tasks.registry import load
from cnognp.training import record
from cnognp.training.config import Config
from cnognp.training.session import Training

HIDDEN = (300, 300)
CPU = torch.device("cpu")
# Numbers of a member's size that a state holds for each member.
STATES = {
    "sgd": ("sgd", {"momentum": 0.9}, 2),
    "adam": ("adam", {}, 3),
    "sam": ("sam", {}, 2),
    "swa": ("swa", {"start": 0}, 3),
    "gd": ("gd", {}, 1),
    "cno, steps": ("cno", {"batch_size": 0}, 3),
    "cnognp, epochs": ("cnognp", {"batch_size": 53}, 4),
    "cnognp, ranked by epochs": ("cnognp", {"batch_size": 53, "fitness_from": "epoch"}, 3),
}


class Live(TorchDispatchMode):
    """Bytes of all tensors that operations have made and that are still there.

    Each storage counts once, from the operation that returns it until it is freed, so that graphs,
    views and writes in place count for what they are.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self._known = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return found

    def _add(self, storage):
        if storage._cdata in self._known:
            return
        key, size = storage._cdata, storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._freed(key, size))
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _freed(self, key, size):
        del self._known[key]
        self.bytes -= size


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """A small population is treated as a large one, and nobody checks annotations."""
    for place, name in ((homes, "_ROWS"), (record, "_ROWS"), (homes, "LARGE")):
        monkeypatch.setattr(place, name, 1)
    monkeypatch.setattr("cnognp.training.baseline.LARGE", 1)
    with annotations_unchecked():
        yield


def test_what_is_counted_is_what_lives():
    with Live() as live:
        a = torch.zeros(1000)
        b = a[:10] + 1
        assert live.bytes == 4000 + 40
        del a
        assert live.bytes == 40
        c = b.repeat(100)
        del c, b
        assert (live.bytes, live.peak) == (0, 4040)


def trained(monkeypatch, method, keys, members):
    """The peak of a training of two rounds, judged and recorded, in numbers of a member's size."""
    config = Config(
        "wine", method, members, 2, device="cpu", threads=1, members_live="host",
        task_options={"hidden": HIDDEN}, method_options=keys,
    )  # fmt: skip
    training = Training.of(config)
    monkeypatch.setattr(type(training.problem.training), "chunk", 1)
    with Live() as live:
        training.advance(lambda training, info: False)
    return live.peak / (4 * training.problem.training.dim)


@pytest.mark.parametrize("name", STATES)
def test_memory_beside_the_state_does_not_grow_with_the_members(monkeypatch, name):
    method, keys, held = STATES[name]
    few, many = (trained(monkeypatch, method, keys, members) for members in (2, 5))
    # Numbers for each member, such as its loss, and what is remembered of mini-batches.
    assert many - few == pytest.approx(3 * held, abs=0.25)
    # A place, two gradients and what is on the way between them; of steps with a memory, this; and
    # the rows on which it is tried at the end whether members are evaluated together.
    assert few - 2 * held < held + 11


def test_epochs_of_two_members_take_eight_copies_of_one_beyond_the_state(monkeypatch):
    risk = Problem(load("wine", hidden=HIDDEN), CPU).training
    monkeypatch.setattr(type(risk), "chunk", 1)
    for fitness_from in ("epoch", "point"):
        method = METHODS["cnognp"](batch_size=53, fitness_from=fitness_from)
        z = torch.randn(2, risk.dim, device="cpu") / 20
        # What is checked before a first step is checked.
        for _ in run(Population(method, "host", CPU), [risk] * 2, z, torch.Generator("cpu")):
            pass
        with Live() as live:
            elsewhere, generator = Population(method, "host", CPU), torch.Generator("cpu")
            for state, _ in run(elsewhere, [risk] * 2, z, generator):
                homes = {t.data_ptr(): t.nbytes for t in to_tensors(state).values()}
        extra = (live.peak - sum(homes.values())) / (4 * risk.dim)
        # A swarm that judges points keeps the leader of the round beside them.
        assert extra < (8 if fitness_from == "epoch" else 9)
