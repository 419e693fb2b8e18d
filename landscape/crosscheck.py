"""The same numbers by an independent code, to be put side by side with ours."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature import arithmetic
from landscape.networks import EmpiricalRisk
from landscape.networks import batches as data_batches
from landscape.results import Crosscheck, provenance
from landscape.spectrum import top_eigenpairs
from landscape.trace import trace

# PyHessian's own 1e-3 was seen to leave eigenvalues several percent off.
_TOLERANCE = 1e-5


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
    network in evaluation mode, in the type of the point, so that nothing of the caller's changes;
    16 bits are taken in float32.

    Args:
        risk: with frozen statistics and a loss that is a mean.
        z: (p,), the point.
        k: how many.
        tolerance: of successive quotients.
        iterations: most products for each eigenvalue.
        seed: of its starting vectors.

    Raises:
        ValueError: if ``k`` is out of range, the risk normalises by batch statistics, or the loss
            has no second derivative in a parameter that it uses, which PyHessian cannot handle.
    """
    if not 1 <= k <= risk.dim:
        raise ValueError(f"k must be from 1 to the number of parameters {risk.dim}, got {k}")
    values, _ = _asked(
        risk, z, seed, lambda code: code.eigenvalues(maxIter=iterations, tol=tolerance, top_n=k)
    )
    return np.array(values)


def pyhessian_trace(
    risk: EmpiricalRisk, z: Float[Tensor, " p"], *, probes: int = 100, seed: int = 0
) -> tuple[float, float]:
    """PyHessian's estimate of the trace, and the standard error of its samples.

    PyHessian's own rule stops when the running mean moves by less than a tolerance, which happens
    by luck, and always after 2 probes where the trace is negative. Here it is switched off, and all
    probes are taken. The standard error is ours, from PyHessian's samples.

    Args:
        risk: with frozen statistics and a loss that is a mean.
        z: (p,), the point.
        probes: how many random probes, at least 2.
        seed: of its probes.

    Raises:
        ValueError: as in `pyhessian_eigenvalues`, or if ``probes`` is under 2.
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    # No change of the mean is below minus infinity, so that it never stops early.
    samples = np.array(
        _asked(risk, z, seed, lambda code: code.trace(maxIter=probes, tol=float("-inf")))
    )
    return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))


def _asked(risk: EmpiricalRisk, z: Tensor, seed: int, question: Callable[[Any], Any]) -> Any:
    """What PyHessian answers about a copy of the network in evaluation mode.

    Raises:
        ValueError: if it cannot take the model.
    """
    from pyhessian import hessian

    if risk.normalisation == "batch":
        raise ValueError("PyHessian puts BatchNorm into evaluation mode: use frozen statistics")
    z, _ = arithmetic(z)
    network = risk.network(z).to(z.dtype)
    loader = [data_batches.cast(batch, z.dtype)[:2] for batch in risk.data]
    data = {"data": loader[0]} if len(loader) == 1 else {"dataloader": loader}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
        # It keeps the graph of the gradient inside .grad of a copy that is thrown away.
        warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
        torch.default_generator.manual_seed(seed)
        if z.is_cuda:
            torch.cuda.default_generators[z.device.index].manual_seed(seed)
        try:
            # The fused kernels of attention have no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                _freeze_unused(network, risk.loss, loader)
                code = hessian(network, risk.loss, cuda=z.is_cuda, **data)
                answer = question(code)
        except (AssertionError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"PyHessian cannot take this model: {error}. Does it take a batch as one tensor, "
                "has the loss a second derivative in every parameter, and is it a mean?"
            ) from error
    network.zero_grad(set_to_none=True)
    return answer


def _freeze_unused(network: torch.nn.Module, loss: Callable[..., Any], batches: list[Any]) -> None:
    """Freezes the parameters that take no part in the loss: their rows of the Hessian are zero.

    PyHessian fails where it meets one.
    """
    inputs, target = batches[0]
    parameters = [w for w in network.parameters() if w.requires_grad]
    if not isinstance(inputs, Tensor):
        return
    slopes = torch.autograd.grad(loss(network(inputs), target), parameters, allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.requires_grad_(slope is not None)


def crosscheck(
    risk: EmpiricalRisk,
    z: Float[Tensor, " p"],
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    probes: int = 100,
    seed: int = 0,
) -> Crosscheck:
    r"""The k largest eigenvalues by magnitude and the trace, by this code and by PyHessian.

    Differences are in units of the error. Of an eigenvalue that is our proven bound, or the
    tolerance at which PyHessian stops where that is larger; of the trace it is
    :math:`\sqrt{s^2 + s'^2}` from the standard errors of both, each with probes of its own.

    Args:
        risk: with frozen statistics and a loss that is a mean.
        z: (p,), the point.
        k: how many eigenvalues.
        tolerance: of ours, relative to the largest.
        probes: of each trace, at least 2.
        seed: of all starting vectors and probes.

    Raises:
        ValueError: as in `pyhessian_eigenvalues`, or if a number is out of range.
        RuntimeError: if the risk is random.
    """
    theirs = pyhessian_eigenvalues(risk, z, k, tolerance=_TOLERANCE, seed=seed)
    mean, spread = pyhessian_trace(risk, z, probes=probes, seed=seed)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    found = top_eigenpairs(risk, z, k, tolerance=tolerance, generator=generator, vectors=False)
    whole = trace(risk, z, probes=probes, generator=generator)
    theirs = theirs[np.argsort(-np.abs(theirs), kind="stable")]
    unit = np.maximum(found.bounds, _TOLERANCE * np.abs(theirs).max())
    both = float(np.hypot(whole.standard_error, spread)) or np.finfo(np.float64).tiny
    difference = np.append((theirs - found.eigenvalues) / unit, (mean - whole.estimate) / both)
    return Crosscheck(
        quantities=(*(f"eigenvalue {i + 1}" for i in range(k)), "trace"),
        ours=np.append(found.eigenvalues, whole.estimate),
        error=np.append(found.bounds, whole.standard_error),
        theirs=np.append(theirs, mean),
        their_error=np.append(np.full(k, np.nan), spread),
        difference_in_errors=difference,
        code="PyHessian",
        code_tolerance=_TOLERANCE,
        status=f"eigenvalues {found.status}; trace {whole.status}",
        statistics=risk.normalisation,
        provenance=provenance(seed=seed, probes=probes),
    )
