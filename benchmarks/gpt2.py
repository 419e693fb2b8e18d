"""Curvature of GPT-2 with 124 million parameters in float32 on a CPU, inside 12 GiB.

The network of `transformers` with random weights and tied embeddings, on 6 sequences of 128 tokens
whose frequencies fall as those of words do. The largest eigenvalue comes from two passes of Lanczos
that keep no basis, and again from one that keeps it; the density and the trace from a few probes.
Each in a fresh process, with what it took. ``--size small`` is a network of the same kind with
two layers of width 64, in seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from landscape.curvature import Hessian
from landscape.risk import ModelRisk
from landscape.spectrum import density, top_eigenpairs
from landscape.trace import trace

SEQUENCES, TOKENS, TOGETHER = 6, 128, 3
SIZES: dict[str, dict[str, int]] = {
    "small": {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 1000, "n_positions": 128},
    "gpt2": {},
}
# Most steps of Lanczos, and products of density and trace: one takes half a minute.
STEPS, DENSITY, PROBES = 11, 5, 2
# Bytes of the graph that may be kept: at 124 million parameters, that of all sequences.
GRAPH = 2**33
LIMIT_GIB = 12.0


def risk_of(size: str) -> ModelRisk:
    """The mean loss of the next token, over sequences in batches of three."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(attn_implementation="eager", use_cache=False, **SIZES[size])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    frequency = 1 / (torch.arange(config.vocab_size) + 10.0)
    words = torch.multinomial(frequency, SEQUENCES * TOKENS, replacement=True, generator=generator)
    sequences = words.reshape(SEQUENCES, TOKENS).split(TOGETHER)
    return ModelRisk(model, [{"input_ids": ids, "labels": ids} for ids in sequences], _loss)


def _loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    count = len(batch["labels"])
    return model(**batch).loss * count, count


def _eigenpairs(risk: ModelRisk, **options: Any) -> dict[str, Any]:
    found = top_eigenpairs(
        risk, risk.point(), 1, tolerance=1e-2, check=False, vectors=False,
        operator=partial(Hessian, memory=GRAPH), **options,
    )  # fmt: skip
    said = {key: found.provenance.get(key) for key in ("graph_cached", "basis", "judged")}
    return {"eigenvalue": found.eigenvalues[0], "bound": found.bounds[0], "status": found.status,
            "products": found.products, **said}  # fmt: skip


def _density(risk: ModelRisk) -> dict[str, Any]:
    found = density(
        risk, risk.point(), steps=DENSITY, probes=1, operator=partial(Hessian, memory=GRAPH)
    )
    middle = [0.1, 0.5, 0.9]
    return {
        "products": found.products, "status": found.status, "nodes": found.nodes[0].tolist(),
        "weights": found.weights[0].tolist(),
        "share of eigenvalues below 0": [
            float(torch.tensor(end).double()[int((found.eigenvalue < 0).sum())])
            for end in (found.distribution_low, found.distribution, found.distribution_high)
        ],
        "points": [found.eigenvalue[int(m * len(found.eigenvalue))] for m in middle],
    }  # fmt: skip


def _trace(risk: ModelRisk) -> dict[str, Any]:
    found = trace(
        risk, risk.point(), "hutchinson", probes=PROBES, operator=partial(Hessian, memory=GRAPH)
    )
    return {"products": found.products, "trace": found.estimate, "interval": [*found.interval],
            "standard error": found.standard_error, "status": found.status}  # fmt: skip


WORK: dict[str, Callable[[ModelRisk], dict[str, Any]]] = {
    "largest eigenvalue, two passes": partial(
        _eigenpairs, basis="recomputed", max_products=2 * STEPS
    ),
    "trace": _trace,
    "density": _density,
    "largest eigenvalue, basis kept": partial(_eigenpairs, max_products=STEPS + 1),
}


def measured(size: str, name: str) -> dict[str, Any]:
    """What one piece of work found in this process, which must be a fresh one, and its cost."""
    torch.set_num_threads(1)
    risk = risk_of(size)
    began, wall = time.process_time(), time.perf_counter()
    found = WORK[name](risk)
    return {
        "parameters": risk.dim, **found, "processor seconds": time.process_time() - began,
        "wall seconds": time.perf_counter() - wall,
        "peak, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def main() -> None:
    """One child process after another, each printed when it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", default="", help="part of the name of what is measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.size, options.child)))
        return
    for name in WORK:
        if options.only in name:
            command = [sys.executable, __file__, "--size", options.size, "--child", name]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            row = json.loads(said.splitlines()[-1])
            row[f"inside {LIMIT_GIB:.0f} GiB"] = row["peak, GiB"] < LIMIT_GIB
            print(json.dumps({"benchmark": f"{options.size}: {name}", **row}, indent=2), flush=True)


if __name__ == "__main__":
    main()
