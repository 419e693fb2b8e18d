"""The writer and reader of HDF5 files: what goes in comes out, or an error does."""

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landscape.files import DamagedFile, declarations, hdf5

ARRAYS = {
    "alpha": np.linspace(-1, 1, 7),
    "state/best": np.arange(12, dtype=np.float32).reshape(3, 4),
    "state/deep/mask": np.array([True, False, True]),
    "scalar": np.float64(0.1),
    "empty": np.zeros((0, 3), dtype=np.int16),
}
SMALL = {"g/x": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.float64(0.1)}
ATTRIBUTES = {"kind": "Surface", "names": ["û", "v"], "seed": 2**63, "nothing": None}

numbers = st.one_of(
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.boolean_dtypes(),
)
anything = hnp.arrays(numbers, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
words = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
names = st.lists(words.filter(lambda w: w not in {".", ".."}), min_size=1, max_size=3)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


def same(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    equal = np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
    return equal and ours.shape == theirs.shape and ours.dtype.newbyteorder("=") == theirs.dtype


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("digest", [False, True])
def test_what_is_written_is_read(tmp_path, compress, digest):
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, ATTRIBUTES, compress=compress, digest=digest)
    arrays, attributes = hdf5.read(path, digest=digest)
    assert attributes == ATTRIBUTES
    assert arrays.keys() == ARRAYS.keys()
    assert all(same(ARRAYS[name], arrays[name]) for name in ARRAYS)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(names, max_size=4, unique_by=lambda parts: parts[0]),
    data=st.data(),
    attributes=st.dictionaries(words, json_values, max_size=4),
    compress=st.booleans(),
)
def test_any_array_and_any_attribute_comes_back_equal(
    tmp_path_factory, parts, data, attributes, compress
):
    path = tmp_path_factory.mktemp("any") / "a.h5"
    arrays = {"/".join(part): data.draw(anything) for part in parts}
    hdf5.write(path, arrays, attributes, compress=compress)
    found, told = hdf5.read(path)
    assert found.keys() == arrays.keys()
    assert all(same(arrays[name], found[name]) for name in arrays)
    assert repr(told) == repr({name: told[name] for name in sorted(told)})
    assert json.dumps(told, sort_keys=True) == json.dumps(attributes, sort_keys=True)


def test_arrays_of_many_chunks_come_back_equal(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {
        "rows": generator.random((3, 2**18 + 1), dtype=np.float32),
        "columns": generator.random((2**18 + 1, 3)),
        "strided": generator.random((700, 900))[::2, ::3].T,
    }
    hdf5.write(tmp_path / "a.h5", arrays, {}, digest=True)
    found, _ = hdf5.read(tmp_path / "a.h5", digest=True)
    assert all(np.array_equal(arrays[name], found[name]) for name in arrays)


@pytest.mark.parametrize("shape", [(1, 2**18 + 1), (5, 300_001), (2**20 + 1,), (2**17 + 1, 3)])
def test_chunks_have_at_most_a_mebibyte_and_the_last_one_is_nearly_full(tmp_path, shape):
    array = np.zeros(shape, dtype=np.float32)
    hdf5.write(tmp_path / "a.h5", {"x": array}, {})
    assert os.path.getsize(tmp_path / "a.h5") < 1.01 * array.nbytes + 10_000
    with h5py.File(tmp_path / "a.h5") as file:
        assert 2**19 <= np.prod(file["x"].chunks) * 4 <= 2**20
        assert file["x"].fletcher32


def test_equal_content_gives_equal_bytes_at_another_time_and_in_another_order(tmp_path):
    hdf5.write(tmp_path / "a.h5", ARRAYS, ATTRIBUTES)
    time.sleep(1.1)
    turned = dict(reversed(ARRAYS.items()))
    hdf5.write(tmp_path / "b.h5", turned, dict(reversed(ATTRIBUTES.items())))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_compression_is_left_out_where_it_would_look_like_a_bomb(tmp_path):
    hdf5.write(tmp_path / "a.h5", {"x": np.zeros(2**21)}, {}, compress=True)
    assert os.path.getsize(tmp_path / "a.h5") < 2**24 / 100
    hdf5.write(tmp_path / "b.h5", {"x": np.zeros(2**23 + 1)}, {}, compress=True)
    assert os.path.getsize(tmp_path / "b.h5") > 2**26
    for name, size in (("a.h5", 2**21), ("b.h5", 2**23 + 1)):
        assert same(hdf5.read(tmp_path / name)[0]["x"], np.zeros(size))


@pytest.mark.parametrize(
    ("arrays", "attributes", "error", "message"),
    [
        ({"x": np.array(["a"])}, {}, TypeError, "'x' must be bool"),
        ({"x": np.array([1j])}, {}, TypeError, "got complex128"),
        ({"x": np.array([None])}, {}, TypeError, "got object"),
        ({"x": np.zeros(1, np.longdouble)}, {}, TypeError, "'x' must be bool"),
        ({"": np.zeros(1)}, {}, ValueError, "got ''"),
        ({"a//b": np.zeros(1)}, {}, ValueError, "got 'a//b'"),
        ({"a/../b": np.zeros(1)}, {}, ValueError, "single slashes, got 'a/../b'"),
        ({"a/b/" * 4 + "c": np.zeros(1)}, {}, ValueError, "1 to 8 words"),
        ({"a": np.zeros(1), "a/b/c": np.zeros(1)}, {}, ValueError, r"\['a'\] cannot be both"),
        ({f"g{i}/x": np.zeros(0) for i in range(2049)}, {}, ValueError, "4096 arrays.*got 4098"),
        ({}, {f"a{i}": i for i in range(257)}, ValueError, "256 attributes, got 0 and 257"),
        ({}, {"long": "x" * 2**20}, ValueError, "1048576 bytes in all.*store the bulk"),
        ({}, {"": 1}, ValueError, "needs a name"),
        ({}, {"a": {1: 2}}, TypeError, "'a' needs text as the keys"),
        ({}, {"a": [np.zeros(2)]}, TypeError, "'a' must be .*got ndarray.*among the arrays"),
        ({}, {"a": b"x"}, TypeError, "got bytes"),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(tmp_path, arrays, attributes, error, message):
    with pytest.raises(error, match=message):
        hdf5.write(tmp_path / "a.h5", arrays, attributes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (pickle.dumps({"a": 1}), "not an HDF5 file, it begins with"),
        (b"hello", "not an HDF5 file"),
        (hdf5.SIGNATURE, "a.h5 cannot be read"),
        (hdf5.SIGNATURE + bytes(4096), "a.h5 cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        hdf5.read(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_behind_the_signature_is_refused(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("garbage") / "a.h5"
    path.write_bytes(hdf5.SIGNATURE + garbage)
    with pytest.raises(DamagedFile, match="cannot be read"):
        hdf5.read(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.h5"):
        hdf5.read(tmp_path / "a.h5")
    with pytest.raises(DamagedFile, match="not a regular file"):
        hdf5.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="not a regular file"):
        hdf5.read(tmp_path / "pipe")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    hdf5.write(path, SMALL, {"seed": 7})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match="cannot be read"):
            hdf5.read(path)


@pytest.mark.parametrize("compress", [False, True])
def test_no_flipped_byte_is_read_as_something_else_even_without_a_digest(tmp_path, compress):
    path = tmp_path / "a.h5"
    hdf5.write(path, SMALL, {"seed": 7}, compress=compress)
    content, expected = path.read_bytes(), hdf5.read(path)

    def flip_all():
        signal.alarm(120)
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place * 5 % 8
            path.write_bytes(flipped)
            try:
                arrays, attributes = hdf5.read(path)
            except DamagedFile:
                continue
            assert attributes == expected[1]
            assert arrays.keys() == expected[0].keys()
            assert all(same(expected[0][name], arrays[name]) for name in arrays)

    # In a child, because a flip could also hang HDF5 or crash it.
    assert status_of_child(flip_all) == 0


def status_of_child(action):
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
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_arrays_beyond_the_budget_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "a.h5"
    hdf5.write(path, {"x": np.zeros(1000), "y": np.zeros(500)}, {})
    assert len(hdf5.read(path, budget=12_000)[0]) == 2
    with pytest.raises(DamagedFile, match="declare 12000 bytes and the budget is 11999.*larger"):
        hdf5.read(path, budget=11_999)


def test_a_damaged_digest_is_found_before_hdf5_sees_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, ATTRIBUTES, digest=True)
    (tmp_path / "a.sha256").write_text("0" * 64)
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(DamagedFile, match="SHA-256"):
        hdf5.read(path, digest=True)


@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("room", [0, 1, 1000])
def test_a_disk_that_fills_up_is_a_clear_error_and_the_older_file_stays(
    tmp_path, monkeypatch, digest, room
):
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, ATTRIBUTES)
    older = path.read_bytes()
    write = Path.write_bytes

    def limited(self, data):
        write(self, bytes(data)[:room])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", limited)
    with pytest.raises(OSError, match=r"could not write .*a\.h5: No space.* try again") as full:
        hdf5.write(path, SMALL, {}, digest=digest)
    assert full.value.errno == errno.ENOSPC
    assert path.read_bytes() == older
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_a_limit_on_file_size_is_a_clear_error(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=r"could not write .*a\.h5: File too large"):
            hdf5.write(tmp_path / "a.h5", {"x": np.zeros(10**6)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import ctypes, os, resource, signal, sys
import numpy as np
from landscape.files import hdf5

x = np.zeros((8, 10**6))
def leak(error):
    "Keeps the error and its frames beyond the interpreter, as a bug elsewhere could do."
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


def test_what_is_streamed_has_the_bytes_of_what_is_not(tmp_path, monkeypatch):
    hdf5.write(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, digest=True)
    monkeypatch.setattr(hdf5, "STREAMED_BYTES", -1)
    hdf5.write(tmp_path / "b.h5", ARRAYS, ATTRIBUTES, digest=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert hdf5.read(tmp_path / "b.h5", digest=True)[1] == hdf5.read(tmp_path / "a.h5")[1]


def run_script(tmp_path, lines):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + lines], cwd=tmp_path, capture_output=True, text=True
    )


def test_a_process_that_met_a_full_disk_goes_on_and_ends_well(tmp_path):
    done = run_script(
        tmp_path,
        """
for streamed in (64 << 20, 0):
    hdf5.STREAMED_BYTES = streamed
    for size in (0, 1, 3000, 3 * 10**7):
        limit(size)
        try:
            hdf5.write("a.h5", {"x": x}, {})
        except OSError as error:
            leak(error)
            print("refused")
limit(resource.RLIM_INFINITY)
hdf5.write("b.h5", {"x": x}, {})
print(hdf5.read("b.h5")[0]["x"].shape, os.listdir())
""",
    )
    assert done.stdout == "refused\n" * 8 + "(8, 1000000) ['b.h5']\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_catches_ends_the_process_with_a_message_and_no_crash(tmp_path):
    done = run_script(tmp_path, "limit(10**6)\nhdf5.write('a.h5', {'x': x}, {})")
    assert done.returncode == 1
    assert "could not write a.h5: File too large" in done.stderr
    (tmp_path / "b.h5").write_bytes(hdf5.SIGNATURE + bytes(100))
    done = run_script(tmp_path, "hdf5.read('b.h5')")
    assert done.returncode == 1
    assert "DamagedFile: b.h5 cannot be read" in done.stderr
    done = run_script(
        tmp_path,
        """
try:
    hdf5.read("b.h5")
except ValueError as error:
    leak(error)
""",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_interrupts_at_any_time_leave_no_half_file_and_a_working_process(tmp_path):
    done = run_script(
        tmp_path,
        """
import threading, time
# Whoever started the tests may have had interrupts ignored, as a shell does in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
caught = 0
main = threading.main_thread().ident
for step in range(25):
    timer = threading.Timer(0.001 + step * 0.008, signal.pthread_kill, (main, signal.SIGINT))
    try:
        timer.start()
        hdf5.write("a.h5", {"x": x[:, :300_000]}, {}, digest=True)
        time.sleep(0.3)
    except KeyboardInterrupt:
        caught += 1
    assert set(os.listdir()) <= {"a.h5", "a.sha256"}, os.listdir()
hdf5.write("b.h5", {"x": x}, {})
print(caught, hdf5.read("b.h5")[0]["x"].shape)
""",
    )
    # Python itself drops an interrupt that comes while h5py frees an object, and says so.
    assert done.returncode == 0, done.stderr
    caught, shape = done.stdout.split(maxsplit=1)
    assert int(caught) > 5
    assert shape == "(8, 1000000)\n"


def test_a_lack_of_memory_is_an_error_before_hdf5_begins(tmp_path):
    done = run_script(
        tmp_path,
        """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, resource.RLIM_INFINITY))
try:
    hdf5.write("a.h5", {"x": x}, {})
except MemoryError:
    print("refused", os.listdir())
hdf5.write("b.h5", {"x": x[:, :1000]}, {})
print(hdf5.read("b.h5")[0]["x"].shape)
""",
    )
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc to see how much memory is used")
    assert (done.stdout, done.stderr) == ("refused []\n(8, 1000)\n", "")
    assert done.returncode == 0


def test_a_file_open_elsewhere_can_be_read(tmp_path):
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, ATTRIBUTES)
    with h5py.File(path, "r"):
        assert hdf5.read(path)[1] == ATTRIBUTES


def test_small_attributes_lie_under_a_checksum_in_the_header(tmp_path):
    hdf5.write(tmp_path / "a.h5", {}, {f"a{i}": "x" * 20_000 for i in range(50)})
    content = (tmp_path / "a.h5").read_bytes()
    place = content.rindex(b"xxxx")
    (tmp_path / "a.h5").write_bytes(content[:place] + b"y" + content[place + 1 :])
    with pytest.raises(DamagedFile, match="cannot be read"):
        hdf5.read(tmp_path / "a.h5")


@pytest.mark.slow
def test_the_writer_knows_the_limits_of_the_reader(tmp_path):
    arrays = {f"a{i}": np.zeros(0) for i in range(declarations.MEMBERS - 1)}
    arrays["g/x"] = arrays.pop("a0")
    attributes = {f"a{i}": i for i in range(declarations.ATTRIBUTES)}
    hdf5.write(tmp_path / "a.h5", arrays, attributes)
    found, told = hdf5.read(tmp_path / "a.h5")
    assert len(found) == len(arrays) == declarations.MEMBERS - 1
    assert told == attributes


def test_nothing_here_imports_torch():
    modules = "landscape.files, landscape.files.hdf5, landscape.results"
    code = f"import {modules}, cnognp.training.checkpoint, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
