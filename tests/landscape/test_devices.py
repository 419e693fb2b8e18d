"""Nothing that is done in a loop waits for the device that it is done on."""

import os
import platform
import sys
from contextlib import suppress

import loops
import pytest
import torch
from populations import annotations_unchecked

from landscape.devices import free_memory, freed_memory_kept, sent


@pytest.fixture(scope="module")
def counted():
    """What every action waits for, on a device that has no numbers."""
    found = {}
    with pytest.MonkeyPatch.context() as patch, annotations_unchecked():
        loops.blindly(patch)
        with loops.watched() as waits:
            for name, action in loops.actions("meta").items():
                with suppress(loops.Waited):
                    action()
                    waits.clear()
                    action()
                found[name] = dict(+waits)
    return found


def test_steps_and_products_wait_for_no_device(counted):
    assert len(counted) > 35
    found = {n: what for n, what in counted.items() if what and not loops.waits(n)}
    assert not found


def test_those_that_wait_by_their_nature_do(counted):
    still = {name for name in counted if loops.waits(name) and not counted[name]}
    assert not still


def test_whatever_waits_is_seen():
    places = torch.zeros(3, dtype=torch.int64, device="meta")
    there, marks = torch.zeros(3, device="meta"), torch.zeros(3, dtype=torch.bool, device="meta")
    with loops.watched() as waits:
        assert float(there.sum()) == 0.0
        assert there[places[0]].shape == ()
        assert not bool(marks.any())
        torch.zeros(3, device="cpu").to("meta")
        there.copy_(torch.zeros(3, device="cpu"))
        torch.tensor([1.0, 2.0], device="meta")
        with pytest.raises(loops.Waited):
            marks.nonzero()
        with pytest.raises(loops.Waited):
            there[marks]
        torch.zeros(3, device="cpu").to("meta", non_blocking=True)
    assert waits == {"_local_scalar_dense": 3, "copy to the device": 2, "tensor of numbers": 1,
                     "nonzero": 1, "booleans as places": 1}  # fmt: skip


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_what_is_sent_has_its_numbers(dtype):
    numbers = torch.tensor([0.1, 1e300], dtype=torch.float64)
    found = sent(numbers, "cpu", dtype)
    assert torch.equal(found, numbers if dtype is None else numbers.float())
    assert (found is numbers) == (dtype is None)


def test_the_memory_of_this_machine_is_known_on_linux_and_less_than_all_there_is():
    free = free_memory(torch.device("cpu"))
    if sys.platform == "linux":
        assert 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free_memory(torch.device("meta")) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is changed there")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards(monkeypatch):
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [torch.ones(2**22, device="cpu") for _ in range(8)]
        held.clear()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    for name in [n for n in os.environ if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    pages = 2**27 // os.sysconf("SC_PAGE_SIZE")
    with freed_memory_kept():
        faults()
        faults()
        assert faults() < pages // 4
        kept = resident()
    assert resident() < kept - pages // 2


def test_memory_is_allocated_as_the_environment_says(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    monkeypatch.setattr("ctypes.CDLL", None)
    with freed_memory_kept():
        pass
