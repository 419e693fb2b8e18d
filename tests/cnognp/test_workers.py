"""Units of work: the same bits from any number of workers, whatever becomes of them."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses import distribution
from cnognp.workers import ATTEMPTS, Failure, Pool, Unit, UnitError, results_of
from landscape.results import Lines, Result, load

CONFIG = distribution.Config(("himmelblau",), ("gd", "nim", "cnognp"), restarts=4, budget=40)


def result(number: float) -> Lines:
    same = {name: np.full(2, number) for name in ("mean", "low", "high")}
    return Lines(alpha=np.arange(2.0), loss=np.full((1, 2), number), **same, center=0.0)


def drawn(seed: int) -> Lines:
    """A number that a thread count, a process or a second time would change if it could."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return result(float(torch.randn(10_001, generator=generator, device="cpu").sum()))


def noted(given: tuple[str, int]) -> Lines:
    """Leaves a line for every time that it runs."""
    folder, seed = given
    with open(Path(folder) / f"{seed}.ran", "a") as file:
        file.write(f"{os.getpid()} {torch.get_num_threads()}\n")
    return drawn(seed)


def killed(given: tuple[str, int]) -> Lines:
    """Is killed when it runs for the first time, as by a lack of memory."""
    first = not (Path(given[0]) / f"{given[1]}.ran").exists()
    found = noted(given)
    if first and given[1] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return found


def refusing(seed: int) -> Lines:
    if seed == 1:
        raise ValueError("no such surface")
    return drawn(seed)


def missing(seed: int) -> Lines:
    raise KeyError("colour")


def fatal(seed: int) -> Lines:
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return drawn(seed)


def printing(seed: int) -> Lines:
    sys.stdout.write("what a library says\n")
    return drawn(seed)


def units(work, arguments) -> list[Unit]:
    return [Unit(f"unit {i}", work, argument) for i, argument in enumerate(arguments)]


def losses(found: list[Result]) -> list[bytes]:
    return [one.loss.tobytes() for one in found]


def times(folder: Path) -> list[int]:
    return [len(path.read_text().splitlines()) for path in sorted(folder.glob("*.ran"))]


@pytest.fixture(scope="module")
def pool():
    with Pool(2, 1) as made:
        yield made


def test_one_worker_and_two_give_the_same_bits_of_a_study(pool, tmp_path):
    parts = distribution.units(CONFIG)
    alone = results_of(parts, tmp_path / "alone", pool=Pool(1, 1))
    both = results_of(parts, tmp_path / "both", pool=pool)
    for one, other in zip(alone, both, strict=True):
        assert one.position.tobytes() == other.position.tobytes()
    first, second = (distribution.joined(CONFIG, found) for found in (alone, both))
    assert list(first) == list(second) == ["distribution", "himmelblau"]
    for name, entry in vars(first["distribution"]).items():
        if name != "provenance":
            np.testing.assert_array_equal(entry, getattr(second["distribution"], name))
    direct = distribution.study(CONFIG)
    assert np.array_equal(direct.counts, first["distribution"].counts)


def test_workers_stay_and_have_their_threads(pool, tmp_path):
    for round in range(2):
        folder = tmp_path / str(round)
        folder.mkdir()
        results_of(units(noted, [(str(folder), i) for i in range(4)]), pool=pool)
    said = [path.read_text().split() for path in sorted(tmp_path.glob("*/*.ran"))]
    assert {threads for _, threads in said} == {"1"}
    processes = {number for number, _ in said}
    assert len(processes) <= 2 and str(os.getpid()) not in processes


def test_a_unit_whose_worker_is_killed_is_run_again_with_the_same_bits(pool, tmp_path):
    found = results_of(units(killed, [(str(tmp_path), i) for i in range(3)]), pool=pool)
    assert losses(found) == losses([drawn(i) for i in range(3)])
    assert times(tmp_path) == [1, 2, 1]


def test_a_worker_that_is_killed_from_outside_while_it_is_idle_is_replaced(pool):
    results_of(units(drawn, [0, 1]), pool=pool)
    for worker in pool._free:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join()
    assert losses(results_of(units(drawn, [5, 6, 7]), pool=pool)) == losses(
        list(map(drawn, [5, 6, 7]))
    )


def test_a_unit_that_kills_every_worker_is_an_error_with_its_name(pool, tmp_path):
    with pytest.raises(
        UnitError, match=f"1 of 3 units failed.*unit 1: its worker died {ATTEMPTS} times"
    ):
        results_of(units(fatal, [0, 1, 2]), tmp_path, pool=pool)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unit-0.h5", "unit-2.h5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_unit_and_the_others_are_kept(pool, tmp_path, workers):
    chosen = pool if workers == 2 else Pool()
    with pytest.raises(UnitError, match="unit 1: ValueError: no such surface") as raised:
        results_of(units(refusing, [0, 1, 2]), tmp_path, pool=chosen)
    assert raised.value.__cause__ is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unit-0.h5", "unit-2.h5"]


def test_the_error_of_the_only_unit_is_raised_as_it_is(tmp_path):
    with pytest.raises(ValueError, match="^no such surface$"):
        results_of(units(refusing, [1]), tmp_path)


def test_what_is_finished_is_not_run_again(tmp_path):
    given = units(noted, [(str(tmp_path), i) for i in range(3)])
    first = results_of(given, tmp_path / "units")
    (tmp_path / "units" / "unit-1.h5").unlink()
    (tmp_path / "units" / ".unit-0.h5.1-a.tmp").write_bytes(b"half")
    told: list[str] = []
    again = results_of(given, tmp_path / "units", resume=True, progress=told.append)
    assert losses(again) == losses(first) and times(tmp_path) == [1, 2, 1]
    assert sorted(told) == ["unit 0", "unit 1", "unit 2"]
    assert len(list((tmp_path / "units").iterdir())) == 3
    results_of(given, tmp_path / "units")
    assert times(tmp_path) == [2, 3, 2]


def test_files_of_another_argument_and_damaged_ones_are_not_taken(tmp_path):
    results_of(units(drawn, [0, 1]), tmp_path)
    (tmp_path / "unit-0.h5").write_bytes(b"no result")
    found = results_of(units(drawn, [0, 2]), tmp_path, resume=True)
    assert losses(found) == losses([drawn(0), drawn(2)])
    assert load(tmp_path / "unit-1.h5").provenance["unit"] == "2"


def test_what_a_unit_prints_in_a_worker_stays_off_the_standard_output(capfd):
    with Pool(2) as made:
        results_of(units(printing, [0, 1]), pool=made)
    out, err = capfd.readouterr()
    assert out == "" and "what a library says" in err


def test_what_nobody_waits_for_any_more_does_not_come_to_the_next_call(pool):
    outcomes = pool.outcomes(time.sleep, [(0,), (60,), (60,)])
    assert next(outcomes) == (0, None)
    outcomes.close()
    assert losses(results_of(units(drawn, [3, 4]), pool=pool)) == losses([drawn(3), drawn(4)])


def test_a_pool_that_is_closed_leaves_no_process():
    made = Pool(2)
    started = time.monotonic()
    outcomes = made.outcomes(time.sleep, [(60,), (60,)])
    with pytest.raises(TimeoutError), made:
        signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        next(outcomes)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert not made._free and not made._busy and time.monotonic() - started < 30


def _late(*_):
    raise TimeoutError


def test_arguments_that_cannot_be_are_refused(tmp_path):
    for given in ({"workers": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            Pool(**given)
    with pytest.raises(ValueError, match="names that differ"):
        results_of([Unit("a b", drawn, 0), Unit("a-b", drawn, 1)], tmp_path)
    assert not Failure("said").where


def test_what_many_units_say_is_said_once():
    with pytest.raises(UnitError) as raised:
        results_of(
            [Unit(f"unit {i}", refusing, 1) for i in range(5)] + [Unit("other", missing, 1)]
        )  # fmt: skip
    assert str(raised.value) == (
        "6 of 6 units failed: unit 0, unit 1 and 3 more: ValueError: no such surface; other: "
        "KeyError: 'colour'"
    )
