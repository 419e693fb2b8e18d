"""What the page for contributors shows is what runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))
BLOCKS = {title: re.findall(r"```(\w*)\n(.*?)```", text, re.S) for title, text in SECTIONS.items()}
# Which is no program, but what an optimiser adds to the tree.
OPTIMISER = "An optimiser"
EXAMPLES = {title: blocks for title, blocks in BLOCKS.items() if blocks and title != OPTIMISER}
PACKAGES = ("landscape", "cnognp", "analyses", "figures")


def made(title, folder):
    """Writes the files that an example names and runs the rest of it, in a copy of the packages."""
    environment = dict(os.environ)
    named = [re.match(r"# (\S+\.py)\n", code) for _, code in EXAMPLES[title]]
    if any(named):
        environment["PYTHONPATH"] = str(folder)
        for name in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for (language, code), file in zip(EXAMPLES[title], named, strict=True):
        if file:
            assert not (folder / file.group(1)).exists()
            (folder / file.group(1)).write_text(code, encoding="utf-8")
            continue
        lines = (
            [["-c", code]] if language else [["-m", *line.split()] for line in code.splitlines()]
        )
        for line in lines:
            command = [sys.executable, "-W", "error", *line]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert not language or not done.stderr


@pytest.mark.parametrize(
    "title",
    [
        # Those of several blocks run several commands.
        pytest.param(title, marks=pytest.mark.slow if len(blocks) > 1 else ())
        for title, blocks in EXAMPLES.items()
    ],
)
def test_every_example_runs_as_printed(title, tmp_path):
    made(title, tmp_path)
    drawn = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/figures/*.png")}
    expected = {
        "A kind of measurement": {"run/figures/powers.png"},
        "A study": {"depth/figures/depth-gradients.png"},
    }
    assert expected.get(title, set()) <= drawn


def test_the_page_shows_what_it_promises():
    assert {OPTIMISER, "A flatness measure", "A kind of measurement", "A study"} <= set(BLOCKS)


@pytest.mark.slow
def test_a_file_a_line_and_a_test_are_all_that_an_optimiser_takes(tmp_path):
    source, line, test = (code for _, code in BLOCKS[OPTIMISER])
    for name in (*PACKAGES, "tests/tables"):
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
    sam = "cnognp train wine --method=sam --members=2 --iterations=1 --base=lion".split()
    assert "got lion" in done(*sam).stderr
    head = "TABLE: Mapping[str, Named] = {\n"
    table.write_text("".join(without).replace(head, head + line), "utf-8")
    module.write_text(source, "utf-8")
    (tmp_path / tests / "test_lion.py").write_text(test, "utf-8")
    ran = done("pytest", "-q", "-k", "lion", tests)
    assert ran.returncode == 0 and int(re.search(r"(\d+) passed", ran.stdout).group(1)) > 20
    assert done(*sam).returncode == 0
