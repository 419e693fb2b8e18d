"""Members that live elsewhere move as if they had fitted on the device, bit for bit."""

from dataclasses import replace

import pytest
import torch

from cnognp import METHODS
from cnognp.methods import attraction
from cnognp.methods.descent import SGD, Epoch
from cnognp.methods.fitness import GradientNormPenalty
from cnognp.methods.noise import NiG
from cnognp.methods.swarm import Swarm, WaveletMutation
from cnognp.population import Population, home_of
from cnognp.run import run
from cnognp.state import to_arrays
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


def ended(method, objective, rounds=4, members=5):
    torch.manual_seed(0)
    z = torch.randn(members, objective.dim, device="cpu") * 0.3
    generator = torch.Generator("cpu").manual_seed(7)
    infos, state = [], None
    for after, info in run(method, [objective] * rounds, z, generator):
        state = after
        infos.append((info.loss.clone(), info.fitness.clone(), info.evaluations))
    return to_arrays(state), infos


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
    with pytest.raises(ValueError, match="must fit on the device together"):
        Population(SGD(), "host", CPU)
    scatters = Swarm(box=(-1.0, 1.0), mutation=WaveletMutation(1.0, 10))
    with pytest.raises(ValueError, match="set mutation to 0"):
        Population(scatters, "host", CPU)


def test_only_large_swarms_leave_the_device_by_themselves():
    small, large = 1 << 10, 1 << 30
    assert home_of("auto", Swarm(), small) == "device"
    assert home_of("auto", Swarm(), large) == "host"
    assert home_of("auto", SGD(), large) == "device"
    assert home_of("files", SGD(), small) == "files"


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


def test_a_home_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="members_live must be one of"):
        Config("wine", members_live="cloud")
