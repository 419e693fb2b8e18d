"""Top-5 eigenvalues to 1e-3 on a small network: products and true errors over 20 seeds.

The network is 13-64-64-3 with tanh on the 178 rows of Wine, trained by SGD to a loss of 0.03. The
truth is SciPy's eigsh on products in float64 at tolerance 1e-10.
"""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_wine
from timing import arguments, interleaved, report
from torch import nn
from torch.nn.functional import cross_entropy

from landscape.curvature import Hessian
from landscape.risk import EmpiricalRisk
from landscape.spectrum import top_eigenpairs

SEEDS, K, TOLERANCE = 20, 5, 1e-3


def workload(seed: int = 0) -> tuple[EmpiricalRisk, torch.Tensor]:
    """The trained network's risk and its point."""
    data = load_wine()
    inputs = (data.data - data.data.mean(0)) / data.data.std(0)
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(13, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)
        )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = torch.tensor(1.0)
    while float(loss.detach()) > 0.03:
        optimiser.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    return risk, risk.point()


def truth(risk: EmpiricalRisk, z: torch.Tensor) -> np.ndarray:
    """The five eigenvalues of largest magnitude, in float64."""
    hessian = Hessian(risk, z.double())
    operator = LinearOperator(
        (risk.dim, risk.dim),
        matvec=lambda u: (hessian @ torch.from_numpy(u.ravel().copy())).numpy(),
        dtype=np.float64,
    )
    values = eigsh(operator, K, which="LM", tol=1e-10, return_eigenvectors=False)
    return values[np.argsort(-np.abs(values))]


def main() -> None:
    """Counts products and errors, and times against eigsh on the same products."""
    options = arguments(__doc__)
    risk, z = workload()
    exact = truth(risk, z)
    products, errors, bounded = [], [], True
    for seed in range(SEEDS):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        found = top_eigenpairs(risk, z, K, tolerance=TOLERANCE, generator=generator)
        products.append(found.products)
        errors.append(float(np.abs(found.eigenvalues - exact).max() / abs(exact[0])))
        bounded &= bool((np.abs(found.eigenvalues - exact) <= found.bounds + 1e-9).all())
    seconds = interleaved({"ours": lambda: top_eigenpairs(risk, z, K)}, options.rounds)
    rows = {
        "products": {"median": float(np.median(products)), "most": max(products)},
        "largest error relative to the largest eigenvalue": max(errors),
        "every error within its bound": bounded,
        "seconds": seconds["ours"],
        "eigenvalues": exact.tolist(),
    }
    report(f"top-{K} eigenvalues to {TOLERANCE}, {SEEDS} seeds", rows, options)


if __name__ == "__main__":
    main()
