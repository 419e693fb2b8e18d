"""The same numbers by an independent code, to be put side by side with ours."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.risk import EmpiricalRisk


def pyhessian_eigenvalues(
    risk: EmpiricalRisk,
    z: Float[Tensor, " p"],
    k: int,
    *,
    tolerance: float = 1e-5,
    iterations: int = 300,
    seed: int = 0,
) -> np.ndarray:
    """The k eigenvalues of largest magnitude by PyHessian's power iteration, (k,).

    PyHessian stops when two Rayleigh quotients in a row are close, and says nothing of the error;
    at its own tolerance of 1e-3 it was seen to be several percent off. It works on a copy of the
    network in evaluation mode, in float32, so that nothing of the caller's changes.

    Args:
        risk: with frozen statistics and a loss that is a mean.
        z: (p,), the point.
        k: how many.
        tolerance: of successive quotients.
        iterations: most products for each eigenvalue.
        seed: of its starting vectors.

    Raises:
        ValueError: if the risk normalises by batch statistics, or a parameter takes no part in the
            loss, which PyHessian cannot handle.
    """
    from pyhessian import hessian

    if risk.normalisation == "batch":
        raise ValueError("PyHessian puts BatchNorm into evaluation mode: use frozen statistics")
    network = risk.network(z.float())
    loader = [(inputs, target) for inputs, target in risk.batches]
    data = {"data": loader[0]} if len(loader) == 1 else {"dataloader": loader}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
        # It keeps the graph of the gradient inside .grad of a copy that is thrown away.
        warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
        torch.default_generator.manual_seed(seed)
        try:
            code = hessian(network, risk.loss, cuda=z.is_cuda, **data)
            values, _ = code.eigenvalues(maxIter=iterations, tol=tolerance, top_n=k)
        except (AssertionError, TypeError) as error:
            raise ValueError(
                f"PyHessian cannot take this model: {error}. Does every parameter take part in "
                "the loss, and is the loss a mean?"
            ) from error
    network.zero_grad(set_to_none=True)
    return np.array(values)
