"""Members that live elsewhere move as if they had fitted on the device, bit for bit."""

import inspect
from dataclasses import replace

import pytest
import torch
from runs import annotations_unchecked

from cnognp import METHODS, homes
from cnognp.homes import home_of
from cnognp.methods import attraction
from cnognp.methods.averaging import SWA
from cnognp.methods.descent import SGD, Epoch
from cnognp.methods.fitness import GradientNormPenalty
from cnognp.methods.noise import NiG
from cnognp.methods.swarm import Swarm, WaveletMutation
from cnognp.population import Population
from cnognp.run import run
from cnognp.state import from_tensors, to_arrays, to_tensors
from cnognp.tasks.problem import Problem
from cnognp.tasks.registry import load
from cnognp.training import record
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape.randomness import derive, draw_rows, from_member

CPU = torch.device("cpu")
SWARMS = {
    "cnognp": METHODS["cnognp"](batch_size=0),
    "per tensor": Swarm(fitness=GradientNormPenalty(), randomness="tensor"),
    "per coordinate": Swarm(randomness="coordinate"),
    "velocity": Swarm(velocity=True),
    "epoch": Swarm(lr=0.0, local=Epoch(SGD(0.1, 0.9), 32, evaluate=False)),
    "noise": Swarm(lr=0.0, local=NiG()),
    "flows alone": Swarm(cognitive=0.0, social=0.0),
    "box": Swarm(box=(-0.1, 0.1)),
}


@pytest.fixture(scope="module")
def wine():
    return Problem(load("wine"), CPU).training


# As members move in a few rounds: hops, noise and averages happen, line searches find something.
_SOON = {"start": 1, "tau": 3, "eps": 1e3, "rho": 0.3}
_STEPS = {
    f"{name}, {size}": METHODS[name](**{key: soon[key] for key in soon if key in known})
    for name in METHODS
    for known in [inspect.signature(METHODS[name]).parameters]
    for size in ((60, 0) if "batch_size" in known else ("whole",))
    for soon in [_SOON | {"batch_size": size}]
}  # fmt: skip
EVERY = _STEPS | {
    f"{name}, ranked by epochs": METHODS[name](fitness_from="epoch", batch_size=60, **more)
    for name, more in (("cno", {}), ("cnognp", {"base": "gcsam", "momentum": 0.5}))
} | {
    "cnognp, scheduled": METHODS["cnognp"](batch_size=60, schedule="cosine", base="adam"),
    "cnognp, published": METHODS["cnognp"](published=True, batch_size=60),
    "cnognp, stale": METHODS["cnognp"](stale_fitness=True, batch_size=0),
    "sgd, averaged later": METHODS["sgd"](average="swa", average_start=2, batch_size=60),
    "adam, exponential": METHODS["adam"](average="ema", average_start=2, batch_size=60),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick():
    """Annotations are checked elsewhere; here it would take most of the time."""
    with annotations_unchecked():
        yield


def ended(method, objective, rounds=4, members=5):
    torch.manual_seed(0)
    z = torch.randn(members, objective.dim, device="cpu") * 0.3
    generator = torch.Generator("cpu").manual_seed(7)
    infos, state, best = [], None, record.Record()
    for after, info in run(method, [objective] * rounds, z, generator):
        state = after
        best.update(state, info)
        told = [t if t is None else t.clone() for t in (info.loss, info.fitness)]
        infos.append((*told, info.evaluations))
    return to_arrays(state) | best.to_arrays(), infos


@pytest.mark.parametrize("home", ["host", "files"])
@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("name", SWARMS)
def test_members_elsewhere_end_with_the_same_bits(wine, tmp_path, monkeypatch, name, chunk, home):
    if chunk:
        monkeypatch.setattr(type(wine), "chunk", chunk)
    expected, seen = ended(SWARMS[name], wine)
    found, also = ended(Population(SWARMS[name], home, CPU, tmp_path), wine)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key
    for (loss, fitness, cost), (loss2, fitness2, cost2) in zip(seen, also, strict=True):
        assert torch.equal(loss, loss2)
        assert torch.equal(fitness, fitness2)
        assert cost == cost2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EVERY)
def test_every_method_moves_members_elsewhere_with_the_same_bits(wine, monkeypatch, name):
    monkeypatch.setattr(type(wine), "chunk", 2)  # of 5 members, so that the last visits alone
    expected, seen = ended(EVERY[name], wine, 3)
    found, also = ended(Population(EVERY[name], "host", CPU), wine, 3)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key
    for told, again in zip(seen, also, strict=True):
        assert told[2] == again[2]
        for one, other in zip(told[:2], again[:2], strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("cell", [1, 40, 400])
@pytest.mark.parametrize("name", SWARMS)
def test_members_that_move_in_parts_end_with_the_same_bits(wine, monkeypatch, name, cell):
    expected, seen = ended(SWARMS[name], wine)
    monkeypatch.setattr(attraction, "_CELL", cell)
    for method in (SWARMS[name], Population(SWARMS[name], "host", CPU)):
        found, also = ended(method, wine)
        assert all(found[key].tobytes() == array.tobytes() for key, array in expected.items())
        assert all(torch.equal(a[1], b[1]) for a, b in zip(seen, also, strict=True))


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_some_members_draw_their_own_rows(law):
    like, generator = torch.zeros(1, device="cpu"), torch.Generator("cpu").manual_seed(3)
    whole = draw_rows(law, (6, 2, 7), derive(generator, "x", 1), like)
    some = draw_rows(law, (2, 2, 7), derive(from_member(generator, 3), "x", 1), like)
    assert torch.equal(some, whole[3:5])


def test_what_cannot_live_elsewhere_is_refused():
    with pytest.raises(ValueError, match="SWA learn from each other and must fit"):
        Population(SWA(Swarm()), "host", CPU)
    scatters = Swarm(box=(-1.0, 1.0), mutation=WaveletMutation(1.0, 10))
    with pytest.raises(ValueError, match="set mutation to 0"):
        Population(scatters, "host", CPU)


def test_only_large_swarms_leave_the_device_by_themselves():
    small, large = 1 << 10, 1 << 30
    for method in (Swarm(), SGD(), METHODS["cnognp"](fitness_from="epoch", batch_size=8)):
        assert home_of("auto", method, small, CPU) == "device"
        assert home_of("auto", method, large, CPU) == "host"
        assert home_of("files", method, small, CPU) == "files"
    scatters = Swarm(box=(-1.0, 1.0), mutation=WaveletMutation(1.0, 10))
    assert home_of("auto", scatters, large, CPU) == "device"


@pytest.mark.parametrize("home", ["host", "files"])
def test_a_run_elsewhere_is_cut_and_ends_like_the_one_on_the_device(tmp_path, monkeypatch, home):
    config = Config("wine", members=4, iterations=6, checkpoint_every=2, device="cpu", threads=1)
    expected = train(config, RunFolder(tmp_path / "device"))
    # As large members are looked at.
    monkeypatch.setattr(record, "_ROWS", 0)
    elsewhere, folder = replace(config, members_live=home), RunFolder(tmp_path / home)
    rounds = iter(range(10))
    cut = train(elsewhere, folder, leave=lambda: next(rounds) == 2)
    assert cut.iteration == 3
    found = train(elsewhere, folder, resume=True)
    assert found.iteration == 6
    assert found.arrays.keys() == expected.arrays.keys()
    for key, array in expected.arrays.items():
        assert found.arrays[key].tobytes() == array.tobytes(), key
    best = [folder.best.read_bytes() for folder in (folder, RunFolder(tmp_path / "device"))]
    assert best[0] == best[1]


@pytest.mark.parametrize("method", ["sgd", "gd"])
def test_a_run_goes_on_elsewhere_than_it_began(tmp_path, method):
    config = Config("wine", method, 3, 4, checkpoint_every=2, device="cpu", threads=1)
    expected = train(config, RunFolder(tmp_path / "device"))
    folder, rounds = RunFolder(tmp_path / "moved"), iter(range(10))
    train(config, folder, leave=lambda: next(rounds) == 1)
    found = train(replace(config, members_live="host"), folder, resume=True)
    assert found.iteration == 4
    assert found.arrays.keys() == expected.arrays.keys()
    for key, array in expected.arrays.items():
        assert found.arrays[key].tobytes() == array.tobytes(), key
    assert found.meta["best"] == expected.meta["best"]


def test_members_that_are_moved_out_unasked_are_told_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(homes, "LARGE", 1)
    said = []
    config = Config("wine", "sgd", members=3, iterations=2, device="cpu", threads=1)
    train(config, RunFolder(tmp_path / "auto"), warn=said.append)
    assert len(said) == 1 and "live in host memory" in said[0]
    for home in ("host", "device"):
        train(replace(config, members_live=home), RunFolder(tmp_path / home), warn=said.append)
    assert len(said) == 1
    ends = [RunFolder(tmp_path / home).best.read_bytes() for home in ("auto", "host", "device")]
    assert ends[0] == ends[1] == ends[2]


def test_places_that_a_method_has_twice_are_there_once(wine):
    generator = torch.Generator("cpu").manual_seed(0)
    z = torch.randn(4, wine.dim, device="cpu")
    for method, late in ((METHODS["sgd"](), False), (METHODS["swa"](start=1), True)):
        elsewhere = Population(method, "host", CPU)
        for number, (state, _) in enumerate(run(elsewhere, [wine] * 4, z, generator)):
            inner = state.base if late else state.inner
            one = state.position.data_ptr() == inner.position.data_ptr()
            # An average parts from what it is of when it begins, after one round.
            assert one == (not late or number < 1)
    apart = to_tensors(state)
    held = elsewhere.hold(from_tensors(state, {path: t.clone() for path, t in apart.items()}))
    assert all(torch.equal(t, apart[path]) for path, t in to_tensors(held).items())


def test_a_home_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="members_live must be one of"):
        Config("wine", members_live="cloud")
