"""Runs whose members are moved by workers: the same bits from any number, whatever kills them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import crews
import numpy as np
import pytest
import runs
import torch

from cnognp import METHODS, workers
from cnognp.homes import apart
from cnognp.training import crew
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import INTERRUPTED, train

SMALL = Config("wine", members=5, iterations=4, checkpoint_every=2, threads=1, together=2)
RUNS = {
    "cnognp": {"method_options": {"batch_size": 0}},
    "cnognp, epochs": {"method_options": {"batch_size": 48, "fitness_from": "epoch"}},
    "noise": {"method": "nim"},
    "sgd": {"method": "sgd", "method_options": {"momentum": 0.9, "batch_size": 48}},
    "pso": {"method": "pso"},
}
# Those whose members learn nothing from each other.
ALONE = [name for name, m in METHODS.items() if apart(m()) and not hasattr(m(), "leader")]


@pytest.fixture
def trained(tmp_path):
    """A function that trains with an executor, and gives the folder and what was said."""

    def run(config, executor, name, **more):
        said = []
        folder = tmp_path / name
        train(config, RunFolder(folder), executor=executor, warn=said.append, **more)
        return folder, said

    return run


def after(rounds):
    """Leaves after so many rounds."""
    left = iter([False] * (rounds - 1) + [True] * 9)
    return lambda: next(left)


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RUNS)
def test_any_number_of_workers_gives_the_same_run(trained, name, workers):
    config = replace(SMALL, **RUNS[name], members=17 if workers == 8 else 5)
    alone, _ = trained(config, None, "alone")
    shared, said = trained(config, crews.pool(workers), "shared")
    runs.assert_same_run(shared, alone)
    assert said == []


@pytest.mark.parametrize("function", ["dropout", "conv", "loader"])
def test_tasks_of_a_file_are_made_once_by_every_worker(trained, tmp_path, monkeypatch, function):
    runs.task_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = replace(
        SMALL, task=f"own.py:{function}", members=3, together=1, method_options={"batch_size": 16}
    )
    alone, _ = trained(config, None, "alone")
    runs.assert_same_run(trained(config, crews.pool(2), "shared")[0], alone)


def test_members_together_are_those_that_are_evaluated_together(trained):
    """Where nobody says how many, workers find the bits of a run that knows nothing of them."""
    config = replace(SMALL, together=0, **RUNS["cnognp"])
    alone, _ = trained(config, None, "alone")
    shared, said = trained(config, crews.pool(2), "shared")
    runs.assert_same_run(shared, alone)
    (line,) = said
    assert line.startswith("all 5 members are evaluated together, so that one worker moves them")


def test_a_run_goes_on_with_another_number_of_workers(trained):
    config = replace(SMALL, iterations=6, **RUNS["cnognp, epochs"])
    alone, _ = trained(config, None, "alone")
    for first, second in ((None, crews.pool(2)), (crews.pool(2), None)):
        name = f"cut {first is None}"
        folder, _ = trained(config, first, name, leave=after(3))
        assert runs.final(folder).meta["status"] == INTERRUPTED
        trained(config, second, name, resume=True)
        runs.assert_same_run(folder, alone)


@pytest.mark.parametrize("name", ["sgd", "nim", pytest.param("all", marks=pytest.mark.slow)])
def test_several_rounds_in_one_unit_give_the_same_run(trained, monkeypatch, name):
    asked = []
    monkeypatch.setattr(crew, "_next", lambda *told: asked.append(told) or 3)
    for method in ALONE if name == "all" else [name]:
        config = replace(SMALL, method=method, iterations=9)
        alone, _ = trained(config, None, f"{method} alone")
        with ThreadPoolExecutor(2) as threads:
            shared, _ = trained(config, threads, method)
            runs.assert_same_run(shared, alone)
            # Nine rounds: one, and then three and three, and those that are left.
            assert [rounds for rounds, _, _ in asked] == [1, 3, 3, 2]
            cut, _ = trained(config, threads, f"{method} cut", leave=after(3))
            assert runs.final(cut).iteration == 3
        trained(config, None, f"{method} cut", resume=True)
        runs.assert_same_run(cut, alone)
        asked.clear()


def test_members_that_follow_each_other_meet_after_every_round(trained, monkeypatch):
    monkeypatch.setattr(crew, "_next", lambda *told: 3)
    sent = []
    monkeypatch.setattr(crew, "in_order", lambda *a: sent.append(a) or workers.in_order(*a))
    with ThreadPoolExecutor(2) as threads:
        trained(SMALL, threads, "swarm")
    # The starts, and four rounds.
    assert len(sent) == 1 + 4


def test_rounds_of_a_unit_take_a_second_and_have_room():
    assert crew._next(1, 0.01, 1000) == 8 and crew._next(64, 0.64, 1000) == 100
    assert crew._next(10, 5.0, 1000) == 2 and crew._next(1, 60.0, 1000) == 1
    assert crew._next(8, 0.1, 2**24) == 4 and crew._next(8, 0.1, 2**40) == 1


def test_a_run_that_has_begun_alone_keeps_its_threads(trained):
    config = replace(SMALL, threads=2, **RUNS["sgd"])
    folder, _ = trained(config, None, "run", leave=after(2))
    trained(replace(config, threads=0), crews.pool(2), "run", resume=True)
    assert RunFolder(folder).config().threads == 2
    fresh, _ = trained(replace(config, threads=0), crews.pool(2), "fresh")
    assert RunFolder(fresh).config().threads == 1


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_workers_that_are_killed_change_nothing(trained, kills):
    few = replace(SMALL, **RUNS["cnognp, epochs"])
    config = replace(few, iterations=40, members=8) if kills == 3 else replace(
        few, iterations=10 * kills, members=8, checkpoint_every=500
    )  # fmt: skip
    alone, _ = trained(config, None, "alone")
    pool = crews.pool(2)
    with crews.killing(pool, kills) as killed:
        shared, _ = trained(config, pool, "shared")
    assert len(killed) == kills
    runs.assert_same_run(shared, alone)


@pytest.mark.parametrize("lr", [1e18, 30.0])
def test_a_diverging_run_ends_where_it_does_alone(trained, monkeypatch, lr):
    monkeypatch.setattr(crew, "_next", lambda *told: 4)
    config = replace(SMALL, method="sgd", iterations=9, method_options={"lr": lr, "batch_size": 48})
    alone, _ = trained(config, None, "alone")
    shared, _ = trained(config, crews.pool(2), "shared")
    assert runs.final(alone).meta["status"] == "diverged"
    runs.assert_same_run(shared, alone)
    # Cut, and not cut, too.
    whole, _ = trained(replace(config, together=0), None, "whole")
    assert runs.final(whole).iteration == runs.final(alone).iteration


def test_an_executor_of_the_users_own_moves_members(trained):
    config = replace(SMALL, **RUNS["cnognp, epochs"])
    alone, _ = trained(config, None, "alone")
    with ThreadPoolExecutor(3) as threads:
        runs.assert_same_run(trained(config, threads, "threads")[0], alone)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"members_live": "files"}, "workers cannot share them: leave out --workers"),
        (
            {"method_options": {"box": (-1.0, 1.0), "mutation": 0.1, "batch_size": 0}},
            "members that scatter must fit together: set mutation to 0",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_line(trained, tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        trained(replace(SMALL, **more), crews.pool(2), "none")
    assert not (tmp_path / "none").exists()


def test_the_error_of_a_worker_is_told_as_it_is(trained, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        runs.TASKS + "\nimport os\n"
        "def once():\n"
        "    if os.path.exists('made'): raise RuntimeError('no second time')\n"
        "    open('made', 'w').close()\n"
        "    return plain()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="no second time"):
        trained(replace(SMALL, task="own.py:once"), crews.pool(2), "run")


def test_states_travel_with_what_their_tensors_share():
    position = torch.arange(6.0).reshape(3, 2)
    sent = crew._tensors(crew._arrays((position, (position, position[:2], None), 3.0)))
    assert sent[0] is sent[1][0] and sent[2] == 3.0 and sent[1][2] is None
    assert torch.equal(sent[1][1], position[:2])
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    assert torch.equal(crew._tensors((frozen,))[0].add_(1), torch.arange(3.0).double() + 1)
