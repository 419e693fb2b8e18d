"""What the page for contributors shows is what runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
EXAMPLES = re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE.read_text("utf-8"), re.S | re.M)


@pytest.mark.parametrize("example", [code for _, code in EXAMPLES], ids=[t for t, _ in EXAMPLES])
def test_every_example_runs_as_printed(example, tmp_path):
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_shows_what_it_promises():
    assert len(EXAMPLES) >= 3


@pytest.mark.slow
def test_a_file_a_line_and_a_test_are_all_that_an_optimiser_takes(tmp_path):
    section = re.search(r"^## An optimiser\n(.*?)^## ", PAGE.read_text("utf-8"), re.S | re.M).group(
        1
    )
    source, line, test = re.findall(r"```python\n(.*?)```", section, re.S)
    for name in ("landscape", "cnognp", "analyses", "figures", "tests/tables"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    tests = "tests/cnognp/methods"
    (tmp_path / tests).mkdir(parents=True)
    for name in ("setup.cfg", "tests/conftest.py", f"{tests}/test_every_method.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    module, table = (tmp_path / "cnognp/methods" / name for name in ("lion.py", "registry.py"))
    without = [row for row in table.read_text("utf-8").splitlines(True) if row != line]
    assert module.read_text("utf-8") == source
    module.unlink()

    def done(*words):
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
            text=True,
        )  # fmt: skip

    table.write_text("".join(without), "utf-8")
    sam = (
        "cnognp",
        "train",
        "wine",
        "--method=sam",
        "--members=2",
        "--iterations=1",
        "--base=lion",
    )
    assert "got lion" in done(*sam).stderr
    head = "TABLE: Mapping[str, Named] = {\n"
    table.write_text("".join(without).replace(head, head + line), "utf-8")
    module.write_text(source, "utf-8")
    (tmp_path / tests / "test_lion.py").write_text(test, "utf-8")
    ran = done("pytest", "-q", "-k", "lion", tests)
    assert ran.returncode == 0 and int(re.search(r"(\d+) passed", ran.stdout).group(1)) > 20
    assert done(*sam).returncode == 0
