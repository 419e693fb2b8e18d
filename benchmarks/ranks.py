"""Products with the Hessian of ResNet-20 by one rank and by two, under torchrun with gloo.

Random images, in 8 logical shards, one thread for each rank. Wall time says what two ranks give on
a machine that is free; where it is not, the processor time of the rank that works most does, which
is what the time would be if every rank had a core of its own, messages included but not the waiting
for them. The products are compared bit for bit.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import report
from torch.nn.functional import cross_entropy

from cnognp.tasks.networks import resnet20
from landscape.curvature import Hessian
from landscape.distributed import Distributed, shards, start
from landscape.risk import EmpiricalRisk

IMAGES, SHARDS, GOAL = 128, 8, 1.7


def measure(products: int, folder: str) -> None:
    """What one rank does; it leaves its seconds in the folder."""
    torch.set_num_threads(1)
    ranks = start()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = resnet20().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator)
    risk = EmpiricalRisk(model, (images, torch.arange(IMAGES) % 10), cross_entropy)
    shared = Distributed(shards(risk, SHARDS), ranks)
    began, wall, digest = time.process_time(), time.perf_counter(), hashlib.sha256()
    with shared:
        if shared.leads:
            hessian = Hessian(shared, risk.point())
            for _ in range(products):
                found = hessian @ torch.randn(risk.dim, generator=generator)
                digest.update(found.numpy().tobytes())
    said = {"processor": time.process_time() - began, "wall": time.perf_counter() - wall,
            "products": digest.hexdigest()}  # fmt: skip
    Path(folder, f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(said))
    ranks.close()


def ran(ranks: int, products: int) -> list[dict]:
    """What every rank says."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        command = [*torchrun, __file__, "--child", folder, "--products", str(products)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]


def main() -> None:
    """One and two ranks in turn, as often as there are rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", type=int, default=10)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.threads = 1
    if options.child:
        measure(options.products, options.child)
        return
    rounds = [(ran(1, options.products), ran(2, options.products)) for _ in range(options.rounds)]
    first = rounds[0][0][0]["products"]
    best = {
        kind: [min(max(rank[kind] for rank in pair[n]) for pair in rounds) for n in (0, 1)]
        for kind in ("processor", "wall")
    }
    speed = best["processor"][0] / best["processor"][1]
    report(
        f"{options.products} products of ResNet-20, {IMAGES} images, by ranks",
        {
            "seconds of the rank that works most, 1 and 2 ranks": best["processor"],
            "wall seconds, 1 and 2 ranks": best["wall"],
            "times faster, by processor time": speed,
            "times faster, by wall time": best["wall"][0] / best["wall"][1],
            "bit for bit": all(pair[n][0]["products"] == first for pair in rounds for n in (0, 1)),
            f"at least {GOAL} times faster": speed >= GOAL,
        },
        options,
    )


if __name__ == "__main__":
    main()
