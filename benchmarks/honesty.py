"""Whether eigenvalues and their bounds are what they say, on 200 random spectra and 20 networks.

Every spectrum has its own random eigenvectors. Reported for each family: bounds that do not hold
(single and joint), the share of runs in which every i-th value is the i-th eigenvalue to the
tolerance, with and without the second look, and the products.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from timing import arguments, report
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workloads import wine

from landscape.networks import EmpiricalRisk
from landscape.objective import Analytic, Objective
from landscape.spectrum import top_eigenpairs

SPECTRA, NETWORKS, K, TOLERANCE = 200, 20, 5, 1e-3

Draw = Callable[[np.random.Generator, int], np.ndarray]


def outliers(random: np.random.Generator, n: int) -> np.ndarray:
    """Up to twelve large ones over a narrow bulk around zero."""
    count = random.integers(3, 13)
    large = random.uniform(1, 50, count) * random.choice([1, 1, 1, -1], count)
    return np.r_[large, random.normal(0, 0.1, n - count)]


def power_law(random: np.random.Generator, n: int) -> np.ndarray:
    """Decaying like i to the power of -0.8 to -2, a tenth of them negative."""
    values = np.arange(1, n + 1.0) ** -random.uniform(0.8, 2) * random.uniform(0.9, 1.1, n)
    return values * random.choice([1] * 9 + [-1], n)


def uniform(random: np.random.Generator, n: int) -> np.ndarray:
    """Anywhere between -1 and 2."""
    return random.uniform(-1, 2, n)


def clustered(random: np.random.Generator, n: int) -> np.ndarray:
    """Groups that are a hundred times narrower than they are apart, over a bulk."""
    centres = np.repeat(random.uniform(1, 10, 4), 3)
    return np.r_[centres * (1 + 1e-2 * random.normal(size=12)), random.normal(0, 0.1, n - 12)]


def tied(random: np.random.Generator, n: int) -> np.ndarray:
    """Three large ones, each two to four times, over a bulk."""
    large = np.repeat(random.uniform(2, 10, 3), random.integers(2, 5, 3))
    return np.r_[large, random.normal(0, 0.1, n - len(large))]


def negative(random: np.random.Generator, n: int) -> np.ndarray:
    """Indefinite: outliers on both sides, the largest negative."""
    large = np.r_[-random.uniform(1, 20, 4), random.uniform(1, 18, 4)]
    return np.r_[large, random.normal(-0.1, 0.2, n - 8)]


FAMILIES: dict[str, Draw] = {
    "outliers": outliers,
    "power law": power_law,
    "uniform": uniform,
    "clustered": clustered,
    "tied": tied,
    "negative": negative,
}


def quadratic(values: np.ndarray, seed: int) -> Objective:
    """A function whose Hessian has these eigenvalues and random eigenvectors."""
    n = len(values)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    matrix = torch.as_tensor((basis * values) @ basis.T)
    matrix = (matrix + matrix.T) / 2
    return Analytic(lambda z: 0.5 * ((z @ matrix.to(z)) * z).sum(-1), n)


def spectra(count: int) -> Iterator[tuple[str, Objective, np.ndarray]]:
    """The families in turn, with lengths from 150 to 300."""
    names = list(FAMILIES)
    for number in range(count):
        name = names[number % len(names)]
        random = np.random.default_rng(number)
        values = FAMILIES[name](random, int(random.integers(150, 301)))
        yield name, quadratic(values, number), values


def networks(count: int) -> Iterator[tuple[str, Objective, np.ndarray]]:
    """Small perceptrons on Wine after some descent, with their dense Hessians in float64."""
    x, y = wine()
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            activation = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU)[seed % 4]
            model = nn.Sequential(nn.Linear(13, 8), activation(), nn.Linear(8, 8), activation(),
                                  nn.Linear(8, 3)).double()  # fmt: skip
        risk = EmpiricalRisk(model, (x.double(), y), cross_entropy)
        z = risk.point()
        for _ in range(50 * (seed % 5)):
            z = z - 0.2 * gradient(risk, z)
        risk = EmpiricalRisk(risk.network(z), (x.double(), y), cross_entropy)
        truth = torch.autograd.functional.hessian(next(risk.terms()), z)
        yield "networks", risk, np.linalg.eigvalsh(truth.numpy())


def gradient(risk: EmpiricalRisk, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(next(risk.terms())(leaf), leaf)[0]


def judge(objective: Objective, exact: np.ndarray, seed: int, check: bool) -> dict[str, float]:
    """What one run says, held against all eigenvalues."""
    own = getattr(objective, "point", None)
    z = torch.zeros(objective.dim, dtype=torch.float64) if own is None else own()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    found = top_eigenpairs(objective, z.float(), K, generator=generator, check=check)
    scale = np.abs(exact).max()
    right = exact[np.argsort(-np.abs(exact))][:K]
    away = np.abs(found.eigenvalues[:, None] - exact).min(1)
    descending, sorted_right = np.sort(np.abs(found.eigenvalues)), np.sort(np.abs(right))
    return {
        "outside": float((away > found.bounds + 1e-12 * scale).sum()),
        "outside jointly": float(not jointly(found.eigenvalues, exact, found.joint_bound)),
        "right": float(np.abs(descending - sorted_right).max() <= TOLERANCE * scale),
        "converged": float(found.converged.all()),
        "products": found.products,
        "check products": found.check_products,
        "hidden": found.provenance.get("hidden", 0),
    }


def jointly(values: np.ndarray, exact: np.ndarray, bound: float) -> bool:
    """Whether each value has an eigenvalue of its own within the bound, multiplicity counted."""
    free = sorted(exact)
    slack = bound + 1e-12 * np.abs(exact).max()
    for value in sorted(values):
        # In ascending order the lowest eigenvalue within reach leaves most to the others.
        near = next((e for e in free if abs(e - value) <= slack), None)
        if near is None:
            return False
        free.remove(near)
    return True


def main() -> None:
    """One line for each family."""
    options = arguments(__doc__)
    runs: dict[str, list[tuple[dict, dict]]] = {}
    for cases in (spectra(SPECTRA), networks(NETWORKS)):
        for seed, (name, objective, exact) in enumerate(cases):
            both = tuple(judge(objective, exact, seed, check) for check in (True, False))
            runs.setdefault(name, []).append(both)  # type: ignore[arg-type]
    rows = {name: summary(found) for name, found in runs.items()}
    report(f"honesty of top-{K} eigenvalues to {TOLERANCE}, float32 points", rows, options)


def summary(found: list[tuple[dict, dict]]) -> dict[str, object]:
    checked, plain = ([run[i] for run in found] for i in (0, 1))

    def column(name: str) -> np.ndarray:
        return np.array([run[name] for run in checked])

    return {
        "runs": len(found),
        "bounds that do not hold": int(column("outside").sum()),
        "joint bounds that do not hold": int(column("outside jointly").sum()),
        "i-th value is i-th eigenvalue, %": 100 * float(column("right").mean()),
        "the same without the check, %": 100 * float(np.mean([run["right"] for run in plain])),
        "converged, %": 100 * float(column("converged").mean()),
        "found by the check": int(column("hidden").sum()),
        "products, median and most": middle_and_most(column("products")),
        "check, median and most": middle_and_most(column("check products")),
    }


def middle_and_most(numbers: np.ndarray) -> list[float]:
    return [float(np.median(numbers)), float(numbers.max())]


if __name__ == "__main__":
    main()
