"""Importing and measuring leaves the caller's filters of warnings as they were."""

import subprocess
import sys

import pytest
import runs

BEFORE = """
import warnings, torch
from torch import nn
warnings.simplefilter("ignore")
before = list(warnings.filters)
x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
model, loss = nn.Linear(4, 3), nn.functional.cross_entropy
"""
MADE = """
from landscape.networks.risk import EmpiricalRisk
risk = EmpiricalRisk(model, (x, y), loss)
z, g = risk.point(), torch.Generator().manual_seed(0)
"""
AFTER = "\nassert warnings.filters == before, warnings.filters[:3]\nprint('equal')"

MEASURED = {
    "spectrum": "from landscape.spectrum import *; top_eigenpairs(risk, z, 2)",
    "density": "from landscape.spectrum import *; density(risk, z, steps=5, probes=3)",
    "trace": "from landscape.trace import *; trace(risk, z, 'hutchinson', probes=5)",
    "sharpness": "from landscape.sharpness import *; panel(risk, z)",
    "line": "from landscape import directions, slices\n"
    "slices.line(risk, z, directions.random(risk.layout, z, g, count=1)[0])",
    "task": "from cnognp.tasks.problem import Problem; from cnognp.tasks import Task\n"
    "from cnognp.measuring import subjects as analysis; from pathlib import Path\n"
    "from cnognp.measuring.kinds import KINDS\n"
    "task = Task(model=model, loss=loss, train=(x, y))\n"
    "subject = analysis.of_weights(Problem(task, torch.device('cpu')), None)\n"
    "analysis.analyze(subject, Path('out'), [KINDS['gradient'](), KINDS['trace'](probes=5)])",
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_first_measurement_leaves_no_filter_of_warnings_behind(tmp_path, name):
    text = BEFORE + MADE + MEASURED[name] + AFTER
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=runs.ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("equal\n", "")
