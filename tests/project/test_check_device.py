"""The checks of devices on all that are here, and the run that needs no pytest, in small."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import objectives
import pytest
import torch
from populations import annotations_unchecked

from benchmarks.device import machine, record
from benchmarks.device.__main__ import Plan
from benchmarks.device.checks import CHECKS
from benchmarks.device.networks import gpt2, resnet18, resnet50
from benchmarks.device.record import Row

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ABOUT = {"device": "cpu", "card": "none"}
# What is not there on a machine on which nothing was installed for the project.
ABSENT = (
    "jsonargparse", "rich", "docstring_parser", "beartype", "pyhessian", "torchvision", "pytest",
    "shtab", "timm", "transformers", "hypothesis",
)  # fmt: skip
WITHOUT = f"""
import importlib.machinery, runpy, sys
finder = importlib.machinery.PathFinder
find = finder.find_spec
def found(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT} else find(name, path, target)
finder.find_spec = classmethod(found)
"""


@pytest.mark.device
@pytest.mark.parametrize("device", objectives.DEVICES)
@pytest.mark.parametrize("name", CHECKS)
def test_a_device_passes_the_check(name, device):
    with annotations_unchecked():
        assert CHECKS[name](torch.device(device))


def without(text, timeout=280):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + text],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_methods_tasks_and_measurements_need_nothing_that_is_for_the_command_line():
    done = without("""
import torch, landscape, cnognp.tasks, cnognp.run, cnognp.torch_optim, cnognp.training.session
import landscape.recorder, landscape.sharpness, landscape.slices, landscape.trace, analyses.restarts
from cnognp.methods import METHODS
from landscape.spectrum import top_eigenpairs
from landscape.networks import EmpiricalRisk
task = cnognp.tasks.load("wine")
risk = EmpiricalRisk(task.model, task.train, task.loss)
z = risk.point()[None]
for name in METHODS:
    method = METHODS[name]()
    method.step(risk, method.init(risk, z), torch.Generator().manual_seed(0))
assert top_eigenpairs(risk, z[0], 1).converged.all()
try:
    import rich
except ModuleNotFoundError:
    print("absent")
""")
    assert (done.stdout, done.stderr) == ("absent\n", "")


@pytest.mark.slow
def test_the_run_in_small_finds_every_row_without_what_is_optional(tmp_path):
    done = without(f"""
sys.argv = ["device", "--device", "cpu", "--bfloat16", "--out", {str(tmp_path)!r}]
runpy.run_module("benchmarks.device", run_name="__main__", alter_sys=True)
""")
    found = json.loads((tmp_path / "device-cpu.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [row.name for row in Plan(CPU, True, True).rows()]
    failed = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert (failed, done.stderr, done.returncode) == ({}, "", 0)
    # A machine that does much else may leave no time for some.
    assert {row["status"].split()[0] for row in rows.values()} <= {"ok", "over", "not"}
    table = (tmp_path / "device-cpu.md").read_text()
    assert all(f"| {name} | {row['status']}" in table for name, row in rows.items())


def test_neither_a_failure_nor_a_row_without_end_ends_a_run_and_all_is_on_disk(tmp_path, capsys):
    path, seen = tmp_path / "deeper" / "found.json", []

    def known():
        seen.append(len(json.loads(path.read_text())["rows"]))
        return {"rows": seen[-1]}

    def failing():
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    def endless():
        while True:
            try:
                time.sleep(10)
            except Exception:
                pass

    rows = [
        Row("first", 5, lambda: {"number": 1 / 3}), Row("second", 5, known),
        Row("third", 5, failing), Row("fourth", 0.05, endless), Row("fifth", 5, known),
    ]  # fmt: skip
    found = record.run(rows, ABOUT, path, budget=60)
    assert json.loads(path.read_text()) == found
    statuses = [row["status"] for row in found["rows"]]
    assert statuses == ["ok", "ok", "failed", "over its limit of 0 s", "ok"]
    assert (seen, found["rows"][4]["found"]) == ([1, 4], {"rows": 4})
    assert found["rows"][2]["error"] == "OutOfMemoryError: CUDA out of memory"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "first: ok; number 0.333" in lines[0]
    assert "| third | failed (OutOfMemoryError: CUDA out of memory) |" in record.table(found)


def test_nothing_begins_after_the_budget(tmp_path):
    rows = [Row("first", 5, lambda: {"slept": time.sleep(0.2)}), Row("second", 5, dict)]
    found = record.run(rows, ABOUT, tmp_path / "found.json", budget=0.1)
    assert [row["status"] for row in found["rows"]] == ["ok", "not started: the time is used up"]


def test_the_networks_have_the_parameters_of_the_published_ones():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in make().parameters()) for make in (resnet18, resnet50, gpt2)
        ]
    assert counts == [11_689_512, 25_557_032, 124_439_808]


def test_operations_are_counted_and_files_are_named_after_cards():
    a = torch.ones(3, 4, device="cpu")
    assert machine.flops(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert machine.file_name("NVIDIA H200 (80 GB)") == "nvidia-h200-80-gb"


def test_the_plan_for_an_accelerator_has_all_kinds_and_compiles_last():
    rows = Plan(torch.device("cuda:0"), False, True).rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    compiled = [k for k, name in enumerate(names) if name.endswith("compiled")]
    whole = names.index("plane of ResNet-20: all points")
    assert min(compiled) > names.index("GPT-2: top 5") and len(compiled) == 5
    assert whole > min(compiled)
    assert {"population of 2048: captured", "restarts: captured"} <= set(names)
    assert all(0 < row.limit <= 90 for row in rows)
