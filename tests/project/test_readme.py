"""What the README says is what happens."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = ("landscape", "cnognp", "analyses", "figures", "tests", "benchmarks")


def run(command: list[str], folder: Path, **extra: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **extra}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout that shares its virtual environment."""
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("make has not made the virtual environment of this checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "ruff.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_the_two_commands_are_those_of_continuous_integration():
    commands = re.search(r"## Two commands.*?```\n(.*?)```", README, re.S).group(1).split("\n")
    assert commands[:2] == ["make demo", "make test"]
    assert "make test-all" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_make_test_runs_linter_types_import_rules_and_tests(checkout):
    planned = run(["make", "-n", "test"], checkout).stdout
    for step in ("ruff format --check", "ruff check", "mypy", "lint-imports", "pytest"):
        assert step in planned


@pytest.mark.slow
def test_make_demo_trains_measures_and_draws(checkout):
    # The environment counts as installed: it is shared, and must not be made to point here.
    command = ["make", "-o", ".venv/.installed", "demo"]
    done = run(command, checkout, PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stderr
    wine = {path.name for path in (checkout / "runs/wine/figures").glob("*.png")}
    assert {"history.png", "line.png", "plane-contour.png", "spectrum.png"} <= wine
    maps = {path.name for path in (checkout / "runs/demo/figures").glob("*-map.png")}
    assert maps == {f"{f}-gd-map.png" for f in ("himmelblau", "three-hump-camel", "six-hump-camel")}


def test_the_python_example_runs_as_printed(tmp_path):
    *_, example = re.findall(r"```python\n(.*?)```", README, re.S)
    done = run([sys.executable, "-c", example], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "(51, 51)" in done.stdout


def test_the_task_of_the_readme_can_be_trained(tmp_path):
    task, *_ = re.findall(r"```python\n(.*?)```", README, re.S)
    (tmp_path / "my_task.py").write_text(task)
    command = [sys.executable, "-m", "cnognp", "train", "my_task.py:make_task", "--iterations", "3"]
    done = run([*command, "--members", "2", "--out", "run"], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_every_picture_in_the_readme_is_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file()
