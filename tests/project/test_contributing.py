"""What the page for contributors shows is what runs."""

import re
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
