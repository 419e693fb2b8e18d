"""Numbers beside the loss that can be measured at every point of a slice."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from landscape.objective import Objective, value_and_grad, widened
from landscape.spectrum import top_eigenpairs
from landscape.trace import trace as estimated

Metric = Objective | str


def gradient_norm(objective: Objective, z: Tensor) -> float:
    """The Euclidean norm of the gradient at ``z``."""
    _, gradient = value_and_grad(objective, z)
    return float(torch.linalg.vector_norm(widened(gradient)))


def lambda_max(objective: Objective, z: Tensor) -> float:
    """The largest eigenvalue of the Hessian at ``z``; NaN where Lanczos does not converge."""
    if not _differentiable(objective, z):
        return float("nan")
    found = top_eigenpairs(objective, z, 1, which="LA", vectors=False)
    return float(found.eigenvalues[0]) if bool(found.converged[0]) else float("nan")


def trace(objective: Objective, z: Tensor) -> float:
    """The trace of the Hessian at ``z`` by `landscape.trace`, with the same probes everywhere."""
    if not _differentiable(objective, z):
        return float("nan")
    return float(estimated(objective, z).estimate)


MEASURED: Mapping[str, Callable[[Any, Tensor], float]] = MappingProxyType({
    "gradient_norm": gradient_norm,
    "lambda_max": lambda_max,
    "trace": trace,
})


def _differentiable(objective: Objective, z: Tensor) -> bool:
    loss, gradient = value_and_grad(objective, z)
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())
