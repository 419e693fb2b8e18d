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
EXAMPLES = {title: blocks for title, blocks in BLOCKS.items() if blocks}
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
    assert {"An optimiser", "A flatness measure", "A kind of measurement", "A study"} <= set(
        EXAMPLES
    )
