"""Units of work: the same bits from any number of workers, whatever becomes of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

from analyses import distribution
from cnognp.workers import Pool, Unit, UnitError, in_order, outcomes, put, results_of, taken
from cnognp.workers.engines import devices_of, engine
from cnognp.workers.messages import LARGE
from cnognp.workers.pool import ATTEMPTS
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


def units(work, arguments) -> list[Unit]:
    return [Unit(f"unit {i}", work, argument) for i, argument in enumerate(arguments)]


def losses(found: list[Result]) -> list[bytes]:
    return [one.loss.tobytes() for one in found]


def times(folder: Path) -> list[int]:
    return [len(path.read_text().splitlines()) for path in sorted(folder.glob("*.ran"))]


def processes(pool) -> list[int]:
    """Those that are there."""
    return [hand._worker.process.pid for hand in pool._hands if hand._worker is not None]


def gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def pool():
    with Pool(2, 1) as made:
        yield made


def test_one_worker_and_two_give_the_same_bits_of_a_study(pool, tmp_path):
    parts = distribution.units(CONFIG)
    alone = results_of(parts, tmp_path / "alone")
    both = results_of(parts, tmp_path / "both", executor=pool)
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
        results_of(units(noted, [(str(folder), i) for i in range(4)]), executor=pool)
    said = [path.read_text().split() for path in sorted(tmp_path.glob("*/*.ran"))]
    assert {threads for _, threads in said} == {"1"}
    processes = {number for number, _ in said}
    assert len(processes) <= 2 and str(os.getpid()) not in processes


def test_a_unit_whose_worker_is_killed_is_run_again_with_the_same_bits(pool, tmp_path):
    found = results_of(units(killed, [(str(tmp_path), i) for i in range(3)]), executor=pool)
    assert losses(found) == losses([drawn(i) for i in range(3)])
    assert times(tmp_path) == [1, 2, 1]


def test_a_worker_that_is_killed_from_outside_while_it_is_idle_is_replaced(pool):
    results_of(units(drawn, [0, 1]), executor=pool)
    for number in processes(pool):
        os.kill(number, signal.SIGKILL)
    assert losses(results_of(units(drawn, [5, 6, 7]), executor=pool)) == losses(
        list(map(drawn, [5, 6, 7]))
    )


def test_a_unit_that_kills_every_worker_is_an_error_with_its_name(pool, tmp_path):
    said = f"1 of 3 units failed.*unit 1: WorkerDied: its worker died {ATTEMPTS} times, .* -9"
    with pytest.raises(UnitError, match=said):
        results_of(units(fatal, [0, 1, 2]), tmp_path, executor=pool)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unit-0.h5", "unit-2.h5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_unit_and_the_others_are_kept(pool, tmp_path, workers):
    chosen = pool if workers == 2 else None
    with pytest.raises(UnitError, match="unit 1: ValueError: no such surface") as raised:
        results_of(units(refusing, [0, 1, 2]), tmp_path, executor=chosen)
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


def test_what_a_unit_prints_in_a_worker_stays_off_the_standard_output(tmp_path):
    (tmp_path / "said.py").write_text(
        "def work(n):\n    print('what a library says')\n    return n\n"
    )
    script = (
        "import said; from cnognp.workers import Pool, in_order\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool: print(list(in_order(said.work, [(1,), (2,)], pool)))\n"
    )
    (tmp_path / "start.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "start.py"],
        env=runs.ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[1, 2]\n" and "what a library says" in done.stderr, done.stderr


def test_what_nobody_waits_for_any_more_does_not_come_to_the_next_call(pool):
    found = outcomes(time.sleep, [(0,), (60,), (60,)], pool)
    assert next(found) == (0, None)
    found.close()
    assert losses(results_of(units(drawn, [3, 4]), executor=pool)) == losses([drawn(3), drawn(4)])
    in_turn = in_order(time.sleep, [(0,), (60,), (60,)], pool)
    assert next(in_turn) is None
    in_turn.close()
    assert list(in_order(abs, [(-1,), (-2,)], pool)) == [1, 2]


def test_a_call_is_cancelled_while_it_runs_and_before(pool):
    running = [pool.submit(time.sleep, 60) for _ in range(2)]
    while not all(call.running() for call in running):
        time.sleep(0.01)
    waiting = pool.submit(time.sleep, 60)
    assert waiting.cancel() and all(call.cancel() for call in running)
    for call in (*running, waiting):
        with pytest.raises(CancelledError):
            call.result(timeout=30)


def test_a_pool_that_is_left_by_an_error_leaves_no_process():
    made = Pool(2)
    started = time.monotonic()
    with pytest.raises(TimeoutError), made:
        list(in_order(abs, [(-1,), (-2,)], made))
        there = processes(made)
        signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        next(in_order(time.sleep, [(60,), (60,)], made))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert there and all(gone(number) for number in there) and time.monotonic() - started < 30
    with pytest.raises(RuntimeError, match="shut down"):
        made.submit(abs, 1)


def _late(*_):
    raise TimeoutError


def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = (
        "import os, time; from cnognp.workers import Pool, in_order\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 60).result()\n"
    )
    (tmp_path / "start.py").write_text(script)
    started = subprocess.Popen(
        [sys.executable, tmp_path / "start.py"], env=runs.ENVIRONMENT, stdout=subprocess.PIPE
    )
    number = int(started.stdout.readline())
    started.kill()
    started.communicate()
    until = time.monotonic() + 20
    while not gone(number) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(number)


def test_arguments_that_cannot_be_are_refused(tmp_path):
    for given in ({"workers": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            Pool(**given)
    with pytest.raises(ValueError, match="names that differ"):
        results_of([Unit("a b", drawn, 0), Unit("a-b", drawn, 1)], tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": 2, "threads": -1}, "threads must be at least 0, got -1"),
        ({"name": "dask"}, "engine must be pool, ray or ray://HOST:PORT, got 'dask'"),
        ({"name": "pool://here"}, "engine must be pool, ray"),
        ({"name": "ray://"}, "engine must be pool, ray"),
    ],
)
def test_engines_that_there_are_not_are_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)), engine(**given):
        pass


def test_one_worker_is_this_process_with_its_threads():
    before = torch.get_num_threads()
    with engine(workers=1, threads=3) as executor:
        assert executor is None and torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_ray_that_is_not_installed_or_does_not_fit_is_told_in_a_line(monkeypatch):
    from cnognp.workers import cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray", "ray://10.0.0.1:10001"):
        with pytest.raises(cluster.ClusterError, match=r"pip install 'cnognp\[ray\]'"):
            with engine(name):
                pass
    assert cluster._advice("", "no GCS") == (
        "no cluster of Ray can be used on this machine (no GCS): is one running?"
    )


def total(array) -> tuple[float, int]:
    return float(taken(array).sum()), os.getpid()


def doubled(array, twice) -> tuple[np.ndarray, bool]:
    return 2 * array, array is twice


def written(array) -> float:
    array += 1
    return float(array.sum())


def test_large_arrays_go_by_shared_memory_and_come_back_whole(pool):
    large = np.arange(LARGE, dtype=np.float64).reshape(2, -1)
    for array in (large, large[:, ::2], np.arange(3), np.zeros((0, 4)), np.float32(large)):
        found, same = pool.submit(doubled, array, array).result()
        assert same and found.dtype == array.dtype and found.tobytes() == (2 * array).tobytes()
    before = large.copy()
    assert pool.submit(written, large).result() == (before + 1).sum()
    assert large.tobytes() == before.tobytes()


def test_an_array_is_put_once_and_copied_for_no_call(pool):
    large = np.ones(4 * LARGE)
    lent = put(pool, large)
    open_before = len(os.listdir("/proc/self/fd"))
    found = list(in_order(total, [(lent,)] * 20, pool))
    assert {value for value, _ in found} == {large.sum()}
    assert len(os.listdir("/proc/self/fd")) <= open_before + 1
    del lent
    assert len(os.listdir("/proc/self/fd")) <= open_before
    small = np.arange(3.0)
    assert [v for v, _ in in_order(total, [(put(pool, small),)], pool)] == [3.0]
    assert put(None, small) is small


def test_what_cannot_be_sent_is_an_error_and_harms_nobody(pool):
    with pytest.raises(Exception, match="pickle"):
        pool.submit(lambda: 1).result()
    with pytest.raises(Exception, match="pickle"):
        pool.submit(threading.Lock).result()
    with pytest.raises(ValueError, match="no such surface") as raised:
        pool.submit(refusing, 1).result()
    assert "in a worker" in str(raised.value.__cause__) and "refusing" in str(
        raised.value.__cause__
    )
    assert pool.submit(abs, -1).result() == 1


def test_results_come_in_order_and_calls_are_asked_for_as_they_are_needed(pool):
    asked = []

    def calls():
        for number in range(40):
            asked.append(number)
            yield (number,)

    found = in_order(abs, calls(), pool)
    assert next(found) == 0 and len(asked) == pool.ahead
    assert list(found) == list(range(1, 40))


def test_workers_that_are_killed_as_they_start_cost_no_call():
    def killer():
        killed = 0
        while killed < 2 and not over.is_set():
            for hand in made._hands:
                worker, call = hand._worker, hand._call
                if worker is not None and worker.process.pid and call and not call.worker:
                    worker.kill()
                    killed += 1
                    time.sleep(0.2)
            time.sleep(0.01)

    over = threading.Event()
    with Pool(1) as made:
        call = made.submit(drawn, 4)
        thread = threading.Thread(target=killer)
        thread.start()
        assert losses([call.result()]) == losses([drawn(4)])
        over.set()
        thread.join()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_executor_of_the_users_own_gives_the_same_bits(kind):
    own = (
        ThreadPoolExecutor(2) if kind == "threads"
        else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    )  # fmt: skip
    with own as executor:
        found = results_of(units(drawn, range(5)), executor=executor)
        with pytest.raises(UnitError, match="unit 1: ValueError: no such surface"):
            results_of(units(refusing, [0, 1, 2]), executor=executor)
    assert losses(found) == losses(list(map(drawn, range(5))))


def visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "none")


def test_every_worker_has_a_device_of_its_own():
    with Pool(2, devices=("3", "5")) as made:
        calls = [made.submit(slowly, visible) for _ in range(8)]
        assert {call.result() for call in calls} == {"3", "5"}
    with pytest.raises(ValueError, match=r"3 workers and 2 devices \(3, 5\): take at most 2"):
        Pool(3, devices=("3", "5"))


def slowly(work):
    time.sleep(0.3)
    return work()


def test_devices_are_those_that_are_visible():
    assert devices_of("cuda", {"CUDA_VISIBLE_DEVICES": "4, 7"}) == ("4", "7")
    assert devices_of("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,7"}) == ("7",)
    assert devices_of("cuda", {"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_what_many_units_say_is_said_once():
    with pytest.raises(UnitError) as raised:
        results_of(
            [Unit(f"unit {i}", refusing, 1) for i in range(5)] + [Unit("other", missing, 1)]
        )  # fmt: skip
    assert str(raised.value) == (
        "6 of 6 units failed: unit 0, unit 1 and 3 more: ValueError: no such surface; other: "
        "KeyError: 'colour'"
    )
