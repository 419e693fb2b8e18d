"""Checkpoints: whole or not there, whatever is cut, killed, flipped or full."""

import ctypes
import errno
import io
import os
import random
import signal
import subprocess
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from cnognp.training import checkpoint
from cnognp.training.checkpoint import Checkpoint
from landscape.files import DamagedFile, hdf5, temporaries

SIZE = 3000


def made(iteration, size=SIZE):
    """A checkpoint whose every part follows from its iteration."""
    position = np.random.default_rng(iteration).random((2, size))
    arrays = {"state/position": position, "state/step": np.int64(iteration), "sum": position.sum(1)}
    return Checkpoint(iteration, arrays, {"seed": 7, "config": {"lr": 0.1}, "round": iteration})


def assert_consistent(found, size=SIZE):
    expected = made(found.iteration, size)
    assert found.meta == expected.meta
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert np.array_equal(found.arrays[name], array)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pair(iteration):
    return [f"{iteration:08d}.h5", f"{iteration:08d}.sha256"]


def damage(folder, iteration):
    path = folder / f"{iteration:08d}.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def forked(action):
    """The exit status of a child that runs ``action``; negative for a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have started threads
        child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_is_saved_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path / "checkpoints", made(100))
    assert path == tmp_path / "checkpoints" / "00000100.h5"
    assert names(path.parent) == pair(100)
    assert_consistent(checkpoint.load(path.parent, 100))


def test_equal_checkpoints_have_equal_bytes(tmp_path):
    one, two = (checkpoint.save(tmp_path / name, made(1)) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_the_newest_is_found_by_number_and_not_by_name(tmp_path):
    for iteration in (99_999_999, 5, 100_000_000):
        checkpoint.save(tmp_path, made(iteration))
    (tmp_path / "notes.h5").write_text("mine")
    (tmp_path / "7.h5").write_text("mine")
    assert checkpoint.steps(tmp_path) == [5, 99_999_999, 100_000_000]
    found, damaged = checkpoint.newest(tmp_path)
    assert (found.iteration, damaged) == (100_000_000, [])
    assert_consistent(found)


def test_no_checkpoint_is_none_and_no_error(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert checkpoint.newest(folder) == (None, [])
        assert checkpoint.steps(folder) == []
        assert checkpoint.clear_stale(folder) == []
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*00000003\.h5; there are \[\]"):
        checkpoint.load(tmp_path, 3)


def test_a_negative_iteration_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Checkpoint(-1, {}, {})


def test_a_whole_checkpoint_is_never_rewritten(tmp_path):
    path = checkpoint.save(tmp_path, made(3))
    before = path.stat()
    checkpoint.save(tmp_path, Checkpoint(3, {"other": np.zeros(2)}, {}))
    assert path.stat() == before
    assert_consistent(checkpoint.load(tmp_path, 3))


@pytest.mark.parametrize("harm", ["flip", "no digest", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_then_replaced(tmp_path, harm):
    for iteration in (1, 2, 3):
        checkpoint.save(tmp_path, made(iteration))
    paths = [damage(tmp_path, 3), tmp_path / "00000002.h5"]
    if harm == "flip":
        damage(tmp_path, 2)
    elif harm == "no digest":
        (tmp_path / "00000002.sha256").unlink()
    else:
        paths[1].write_bytes(b"")
    found, damaged = checkpoint.newest(tmp_path)
    assert (found.iteration, damaged) == (1, paths)
    assert_consistent(found)
    checkpoint.save(tmp_path, made(2))
    found, damaged = checkpoint.newest(tmp_path)
    assert (found.iteration, damaged) == (2, paths[:1])
    assert_consistent(found)


def test_where_none_is_whole_the_error_says_so(tmp_path):
    for iteration in (1, 2):
        checkpoint.save(tmp_path, made(iteration))
        damage(tmp_path, iteration)
    with pytest.raises(DamagedFile, match=r"none of its 2 checkpoints is whole \(its SHA-256"):
        checkpoint.newest(tmp_path)


def test_a_digest_that_fits_does_not_make_another_file_a_checkpoint(tmp_path):
    def assert_refused(attributes, message):
        hdf5.write(tmp_path / "00000001.h5", {}, attributes, digest=True)
        with pytest.raises(DamagedFile, match=message):
            checkpoint.load(tmp_path, 1)

    good = {"kind": "Checkpoint", "schema": 1, "iteration": 1, "meta": {}}
    assert_refused({}, "it is not a checkpoint")
    assert_refused({**good, "kind": "Line"}, "it is not a checkpoint")
    assert_refused({**good, "schema": 2}, "schema 2, this version knows up to 1: update")
    assert_refused({**good, "iteration": 2}, "it is of iteration 2")
    assert_refused({**good, "meta": 3}, "it has no description")


def test_a_renamed_checkpoint_does_not_pass_for_another_iteration(tmp_path):
    checkpoint.save(tmp_path, made(1))
    for old, new in zip(pair(1), pair(2), strict=True):
        (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(DamagedFile, match="it is of iteration 1"):
        checkpoint.load(tmp_path, 2)


def test_every_flipped_byte_is_found_before_hdf5_sees_the_file(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path, made(1, size=2))
    content = path.read_bytes()
    monkeypatch.setattr(h5py, "File", None)
    for place in range(len(content)):
        for bit in {0, place % 8}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(DamagedFile, match="SHA-256"):
                checkpoint.load(tmp_path, 1)


def test_every_truncation_and_extension_is_found_before_hdf5_sees_the_file(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path, made(1, size=2))
    content = path.read_bytes()
    monkeypatch.setattr(h5py, "File", None)
    for altered in [*(content[:length] for length in range(len(content))), content + b"\0"]:
        path.write_bytes(altered)
        with pytest.raises(DamagedFile, match="SHA-256"):
            checkpoint.load(tmp_path, 1)


def test_every_flipped_byte_of_the_digest_is_found_or_does_no_harm(tmp_path):
    checkpoint.save(tmp_path, made(1))
    path = tmp_path / "00000001.sha256"
    content = path.read_bytes()
    for place in range(64):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DamagedFile, match="SHA-256"):
            checkpoint.load(tmp_path, 1)
    for place in range(64, len(content)):
        path.write_bytes(content[:place] + b"?" + content[place + 1 :])
        try:
            assert_consistent(checkpoint.load(tmp_path, 1))
        except DamagedFile:
            assert place == 64  # the blank behind the digest


def train(folder, size):
    """Goes on from the newest checkpoint for ever."""
    checkpoint.clear_stale(folder)
    found, _ = checkpoint.newest(folder)
    iteration = 0 if found is None else found.iteration
    while True:
        iteration += 1
        checkpoint.save(folder, made(iteration, size))


def test_kills_at_random_times_leave_only_whole_checkpoints(tmp_path):
    size, chance, reached, halfway = 50_000, random.Random(0), 0, 0
    for _ in range(60):
        child = forked(lambda: train(tmp_path, size))
        while reached + 1 not in checkpoint.steps(tmp_path):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert status(child) == -signal.SIGKILL
        halfway += bool(temporaries(tmp_path))
        found, damaged = checkpoint.newest(tmp_path)
        assert damaged == []
        assert_consistent(found, size)
        assert found.iteration > reached
        reached = found.iteration
        if halfway >= 8:
            break
    assert halfway >= 4, "hardly any kill came while a file was being written"
    checkpoint.clear_stale(tmp_path)
    every = range(1, reached + 1)
    assert names(tmp_path) == sorted(name for iteration in every for name in pair(iteration))
    for iteration in every:
        assert_consistent(checkpoint.load(tmp_path, iteration), size)


class Steps:
    """Counts the steps of a write, and kills the process before one of them."""

    def __init__(self, deadly=None):
        self.count, self.deadly = 0, deadly

    def wrap(self, owner, name):
        original = getattr(owner, name)

        def step(*args, **options):
            self.count += 1
            if self.count == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return step

    def install(self, patch):
        write = Path.write_bytes

        def in_pieces(path, data):
            """As `Path.write_bytes`, with a step before each sixth of the bytes."""
            length = len(data) // 6 + 1
            write(path, b"")
            for start in range(0, len(data), length):
                with open(path, "ab") as file:
                    append(file, data[start : start + length])

        append = self.wrap(io.BufferedWriter, "write")
        patch.setattr(Path, "write_bytes", in_pieces)
        for owner, name in [(os, "fsync"), (os, "replace"), (os, "unlink"), (Path, "write_text")]:
            patch.setattr(owner, name, self.wrap(owner, name))


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_kill_at_any_step_of_a_write_leaves_a_whole_checkpoint(tmp_path, rewrite):
    def prepared(name):
        checkpoint.save(tmp_path / name, made(1))
        if rewrite:
            checkpoint.save(tmp_path / name, made(2))
            damage(tmp_path / name, 2)
        return tmp_path / name

    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        folder = prepared("whole")
        steps.install(patch)
        checkpoint.save(folder, made(2))
    assert steps.count > 10
    seen = set()
    for deadly in range(1, steps.count + 1):
        folder = prepared(str(deadly))

        def write(folder=folder, deadly=deadly):
            Steps(deadly).install(pytest.MonkeyPatch())
            checkpoint.save(folder, made(2))

        assert status(forked(write)) == -signal.SIGKILL
        found, damaged = checkpoint.newest(folder)
        assert_consistent(found)
        seen.add(found.iteration)
        assert len(damaged) == (rewrite and found.iteration == 1)
        checkpoint.clear_stale(folder)
        assert names(folder) == pair(1) + pair(2) * (rewrite or found.iteration == 2)
        checkpoint.save(folder, made(2))
        assert_consistent(checkpoint.load(folder, 2))
    assert seen == {1, 2}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_at_any_step_keeps_the_older_checkpoint(tmp_path, step):
    real = getattr(os, step)
    for good in range({"fsync": 4, "replace": 2}[step]):
        folder, calls = tmp_path / f"{good}", []

        def limited(*args, calls=calls, good=good):
            calls.append(args)
            if len(calls) > good:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        checkpoint.save(folder, made(1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, step, limited)
            with pytest.raises(OSError, match=r"could not write .*00000002\.h5: .*try again"):
                checkpoint.save(folder, made(2))
        assert temporaries(folder) == []
        found, damaged = checkpoint.newest(folder)
        assert_consistent(found)
        assert damaged == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    yield folder
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)


def test_a_full_disk_is_a_clear_error_keeps_older_checkpoints_and_can_be_recovered_from(
    small_disk,
):
    checkpoint.save(small_disk, made(1, 20_000))
    checkpoint.save(small_disk, made(2, 20_000))
    kept = pair(1) + pair(2)
    for _ in range(3):
        with pytest.raises(OSError, match=r"could not write .*00000003\.h5: No space left") as full:
            checkpoint.save(small_disk, made(3, 40_000))
        assert full.value.errno == errno.ENOSPC
        assert names(small_disk) == kept
    found, _ = checkpoint.newest(small_disk)
    assert found.iteration == 2
    assert_consistent(found, 20_000)
    for name in pair(1):
        (small_disk / name).unlink()
    checkpoint.save(small_disk, made(3, 30_000))
    assert_consistent(checkpoint.newest(small_disk)[0], 30_000)


def test_stale_files_are_cleared_and_others_are_left(tmp_path):
    checkpoint.save(tmp_path, made(1))
    stale = [tmp_path / ".00000002.h5.17-ab.tmp", tmp_path / "00000002.sha256"]
    for path in [*stale, tmp_path / "notes.sha256", tmp_path / ".hidden"]:
        path.write_text("x")
    assert sorted(checkpoint.clear_stale(tmp_path)) == sorted(stale)
    assert names(tmp_path) == sorted([*pair(1), "notes.sha256", ".hidden"])


def test_one_meta_that_json_cannot_say_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="'meta' must be text.*got ndarray"):
        checkpoint.save(tmp_path, Checkpoint(1, {}, {"loss": np.zeros(3)}))
    assert names(tmp_path) == []
