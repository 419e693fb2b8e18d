"""Measurements in pieces: the same bits whoever does them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import crews
import numpy as np
import pytest
import runs
import torch

from cnognp.measuring import subjects
from cnognp.measuring.kinds import KINDS
from cnognp.measuring.spread import Source, Spread
from cnognp.training.config import RunFolder
from cnognp.workers import threaded
from landscape.results import load
from landscape.slices import sweep
from landscape.spectrum import quadrature
from landscape.trace import hutchinson

SMALL = {
    "plane": KINDS["plane"](grid=(5, 4), metrics=("gradient_norm", "validation_loss")),
    "plane, adaptive": KINDS["plane"](grid=9, adaptive=True, direction="pca"),
    "plane, errors": KINDS["plane"](grid=(3, 4), standard_errors=True, statistics="reestimated"),
    "line": KINDS["line"](points=9, precision="bfloat16"),
    "band": KINDS["line"](points=9, seeds=2),
    "trace": KINDS["trace"](trace_method="hutchinson", probes=30),
    "trace, gauss-newton": KINDS["trace"](
        trace_method="hutchinson", probes=30, operator="gauss-newton", where=("0.*",)
    ),
    "density": KINDS["density"](density_steps=12, density_probes=5),
}


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs.task_file(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from cnognp.cli.main import main

        assert main(runs.train("run", task="own.py:dataset", members=4, iterations=2)) == 0
    return folder


@pytest.fixture(autouse=True)
def small_blocks(forked, monkeypatch):
    """Such that there are several; workers take what they are given."""
    monkeypatch.chdir(forked)
    monkeypatch.setattr(hutchinson, "_BLOCK", 7)
    monkeypatch.setattr(quadrature, "_BLOCK_BYTES", 1)
    before = sweep.Sweep.__init__

    def cut(self, objective, origin, directions, axes, options, total):
        before(self, objective, origin, directions, axes, replace(options, chunk=3), total)

    monkeypatch.setattr(sweep.Sweep, "__init__", cut)
    with threaded(1):
        yield


def subject(member="best", **more):
    return subjects.of_run(RunFolder(Path("run")), member, "last", "cpu", False, **more)


def measured(kinds, executor, folder, member="best", shards=None, **more):
    there = subject(member, **more)
    spread = None if executor is None else Spread(executor, there.source, 1, shards)
    return dict(subjects.measured(there, folder, kinds, spread=spread))


def same(found, expected):
    """Equal arrays, and the files too."""
    assert list(found) == list(expected)
    for name, result in expected.items():
        for field, entry in vars(result).items():
            if field != "provenance":
                np.testing.assert_array_equal(getattr(found[name], field), entry, err_msg=field)


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_any_number_of_workers_finds_the_same_numbers(tmp_path, monkeypatch, name, workers):
    expected = measured([SMALL[name]], None, tmp_path / "alone")
    counted = []
    monkeypatch.setattr(Spread, "_each", counting(Spread._each, counted))
    found = measured([SMALL[name]], crews.pool(workers), tmp_path / "shared")
    same(found, expected)
    assert sum(counted) > 1
    (result,) = found.values()
    assert result.provenance["threads"] == 1


def counting(each, counted):
    def count(self, work, calls):
        for found in each(self, work, calls):
            counted.append(1)
            yield found

    return count


def test_panels_and_members_are_a_piece_each(tmp_path):
    kinds = [
        KINDS["spectrum"](k=2), KINDS["trace"](), KINDS["gradient"](),
        KINDS["sharpness"](measures=("lambda-max", "trace")), KINDS["finite-scale"](probes=4),
    ]  # fmt: skip
    expected = measured(kinds, None, tmp_path / "alone", "all")
    same(measured(kinds, crews.pool(2), tmp_path / "shared", "all"), expected)
    assert load(tmp_path / "shared" / "spectrum-member001.h5").provenance["member"] == "all"


def test_sums_in_shards_are_those_of_one_process(tmp_path):
    from cnognp.measuring.sharing import Sharing
    from landscape.distributed import Ranks

    kinds = [SMALL["trace"], KINDS["spectrum"](k=2), KINDS["gradient"]()]
    there = subject()
    sharing = Sharing(Ranks(), 5)
    expected = dict(subjects.measured(there, tmp_path / "alone", kinds, sharing=sharing))
    spread = Spread(crews.pool(2), there.source, 1, 5)
    found = dict(
        subjects.measured(there, tmp_path / "shared", kinds, sharing=sharing, spread=spread)
    )
    same(found, expected)


def test_a_plane_goes_on_after_a_kill_of_the_command_with_other_workers(tmp_path):
    kind = SMALL["plane"]
    expected = measured([kind], None, tmp_path / "alone")

    class Killed(BaseException):
        pass

    def told(name, done, total):
        if 6 <= done < total:
            raise Killed

    there = subject()
    spread = Spread(crews.pool(2), there.source, 1)
    with pytest.raises(Killed):
        dict(subjects.measured(there, tmp_path / "cut", [kind], told, spread=spread))
    assert (tmp_path / "cut" / "plane.part").exists()
    same(measured([kind], None, tmp_path / "cut"), expected)
    (found,) = measured([kind], None, tmp_path / "cut").values()
    assert found.provenance["blocks found in the file"] == 0


def test_a_plane_survives_workers_that_are_killed(tmp_path):
    kind = replace(SMALL["plane"], grid=(30, 30), metrics=("gradient_norm",))
    expected = measured([kind], None, tmp_path / "alone")
    pool = crews.pool(2)
    with crews.killing(pool, 2) as killed:
        same(measured([kind], pool, tmp_path / "shared"), expected)
    assert len(killed) == 2


def test_a_point_of_a_file_of_weights_is_measured_by_an_executor_of_the_users_own(tmp_path):
    from cnognp.tasks.problem import Problem, task_of

    file = "run/best.safetensors"
    source = Source(task="own.py:dataset", weights=file, device="cpu", evaluate=True)
    problem = Problem(task_of("own.py:dataset", 0, {}), torch.device("cpu"))
    problem.task.model.eval()
    there = replace(subjects.of_weights(problem, RunFolder(Path("run")).best), source=source)
    expected = dict(subjects.measured(there, tmp_path / "alone", [SMALL["trace"], SMALL["plane"]]))
    with ThreadPoolExecutor(2) as threads:
        spread = Spread(threads, source, 1)
        found = dict(
            subjects.measured(
                there, tmp_path / "shared", [SMALL["trace"], SMALL["plane"]], spread=spread
            )
        )
    same(found, expected)
