"""Spectral density of workload A by 100 steps: seconds, against other codes where installed.

All run one probe, so that they take the same products. Equal accuracy: the largest node is the
largest eigenvalue, to 1e-3 of it. landscaper calls `torch.linalg.eig` and gives unsorted complex
numbers, so its real parts are taken.
"""

import importlib.util
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from timing import arguments, interleaved, report
from torch.nn.functional import cross_entropy
from workloads import a

from landscape.curvature import Hessian
from landscape.networks import EmpiricalRisk
from landscape.spectrum import density

STEPS = 100


def peers(risk: EmpiricalRisk, z: torch.Tensor) -> dict[str, Callable[[], float]]:
    """The largest node by every other code that is installed, each on a network of its own."""
    found: dict[str, Callable[[], float]] = {}
    data = [(inputs, target) for inputs, target in risk.batches]
    if importlib.util.find_spec("hessian_eigenthings"):
        from hessian_eigenthings.algorithms.spectral_density import spectral_density
        from hessian_eigenthings.loss_fns.standard import supervised_loss
        from hessian_eigenthings.operators.hessian import HessianOperator

        network = risk.network(z)
        loss = supervised_loss(cross_entropy)

        def eigenthings() -> float:
            operator = HessianOperator(network, data, loss)
            rule = spectral_density(operator, num_runs=1, lanczos_steps=STEPS)
            return float(rule.raw_eigenvalues.max())

        found["hessian-eigenthings"] = eigenthings
    if importlib.util.find_spec("landscaper"):
        from landscaper.hessian import PyHessian

        own = risk.network(z)

        def landscaper() -> float:
            with redirect_stdout(StringIO()):
                code = PyHessian(own, cross_entropy, data, "cpu", try_cache=True)
                nodes, _ = code.density(iter=STEPS, n_v=1)
            return float(np.real(nodes[0]).max())

        found["landscaper, cached"] = landscaper
    return found


def main() -> None:
    """Times one probe, and states what ten probes find."""
    options = arguments(__doc__ or "")
    risk, z = a()
    exact = float(torch.linalg.eigvalsh(Hessian(risk, z.double()).dense()).max())
    others = peers(risk, z)
    candidates: dict[str, Callable[[], float]] = {
        "ours": lambda: float(density(risk, z, steps=STEPS, probes=1).nodes.max()), **others
    }  # fmt: skip
    errors = {name: abs(run() - exact) / exact for name, run in candidates.items()}
    seconds = interleaved(candidates, options.rounds)
    ten = interleaved({"ten": lambda: density(risk, z, steps=STEPS, probes=10)}, options.rounds)
    rows = {
        "seconds": seconds,
        "times slower than ours": {name: seconds[name] / seconds["ours"] for name in others},
        "relative error of the largest node": errors,
        "seconds for ten probes": ten["ten"],
        "not installed": sorted({"hessian-eigenthings", "landscaper, cached"} - set(others)),
    }
    report(f"spectral density, {STEPS} steps, one probe", rows, options)


if __name__ == "__main__":
    main()
