"""The linter judges what is ours, whatever folders runs and users make beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Modules that tests import by a name which a folder at the top may have as well.
NAMES = ("runs", "invariants", "objectives", "populations", "data")


def ruff(folder, *argv):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *argv]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_at_the_top_does_not_change_how_imports_are_sorted(tmp_path, name):
    pytest.importorskip("ruff", reason="the linter belongs to the extra named test")
    shutil.copy(ROOT / "ruff.toml", tmp_path)
    shutil.copytree(
        ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / name / "wine").mkdir(parents=True)
    (tmp_path / name / "notes.py").write_text("import os, sys\n")
    done = ruff(tmp_path, "tests")
    assert done.returncode == 0, done.stdout


def test_the_makefile_lints_the_folders_of_the_project_and_no_others():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("SOURCES"))
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"benchmarks", "tests"}
    named = set(line.partition(":=")[2].split())
    assert {"landscape", "cnognp", "analyses", "figures"} <= named <= ours
    assert "ruff check $(SOURCES)" in text and "ruff format --check $(SOURCES)" in text
