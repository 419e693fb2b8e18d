"""Programs on several ranks, as torchrun starts them: real processes, which talk by gloo."""

import json
import socket
import subprocess
import sys
from textwrap import dedent

from runs import ENVIRONMENT

# What every program begins with: a risk on uneven data, and the ranks.
BEGIN = """
import json, os, signal
import torch
from landscape.curvature import Hessian
from landscape.distributed import Distributed, shards, start
from landscape.objective import value, value_and_grad
from landscape.risk import EmpiricalRisk
from landscape.spectrum import density, top_eigenpairs
from landscape.trace import trace

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(9, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
for p in model.parameters():
    torch.nn.init.normal_(p, std=0.6, generator=generator)
x, y = torch.randn(41, 9, generator=generator), torch.arange(41) % 3
risk = EmpiricalRisk(model, (x, y), torch.nn.functional.cross_entropy)
z = risk.point()
"""


def together(program, count, timeout=280):
    """(exit code, what was printed) of every rank of a program, which begins with `BEGIN`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN + dedent(program)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [child.communicate(timeout=timeout) for child in children]
    return [(child.returncode, out, err) for child, (out, err) in zip(children, said, strict=True)]


def torchrun(argv, count, folder, timeout=240, **environment):
    """The finished process of a command under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*launcher, "-m", "cnognp", *map(str, argv)], cwd=folder, capture_output=True, text=True,
        env={**ENVIRONMENT, **environment}, timeout=timeout,
    )  # fmt: skip


def alone(program):
    """What the same program prints in this process, as JSON."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(compile(BEGIN + dedent(program), "program", "exec"), {"__name__": "program"})
    return json.loads(text.getvalue())
