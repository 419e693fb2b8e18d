"""What a training has to beat: the best constant output, and the points that it started from."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from cnognp.homes import LARGE, blocks
from cnognp.tasks.problem import Problem
from cnognp.tasks.starts import Starts
from landscape.networks import RESIDENT_BYTES, Batch, EmpiricalRisk, tensors_of
from landscape.networks import batches as data_batches
from landscape.objective import value, value_and_grad

Pair = tuple[Tensor, Any]

_ITERATIONS = 60
# Of the loss where the search begins: steps that gain less say that the minimum is reached.
_GAIN = 1e-6
_WALL = 1e6
_SEEN = 512  # samples whose mean output is a start
# Outputs with more numbers than this are no predictions that one constant would stand for.
_LARGEST = 1_000_000
HARDLY = 0.01
"""A loss that is below that of a constant by less than this share of it is no better."""


class Constant(NamedTuple):
    """The output that is best if it is the same for all samples, and what it reaches in training.

    ``output`` has the shape of one sample's output, ``metrics`` are the task's.
    """

    output: Tensor
    loss: float
    metrics: Mapping[str, float]


class _Same(nn.Module):
    """Gives every sample one output, whatever comes in."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), *self.output.shape)


def constant(problem: Problem) -> Constant | None:
    """The best constant output on the training data; None where there is no such thing.

    The task's loss is minimised over one output for all samples by L-BFGS, from 0 and from the mean
    output of the model as it is given, so that nothing need be known of the loss. There is none
    where the model does not return a tensor with a row for each sample, the loss cannot take such
    an output or has no minimum over them, or the targets are more than fit in memory.

    Args:
        problem: gives model, loss and training data; it is not changed.
    """
    with torch.random.fork_rng(devices=[problem.device] if problem.device.type == "cuda" else []):
        # The model and the loss are a user's: whatever does not work with a constant output is
        # no reason to end a training with an error.
        try:
            return _best(problem)
        except Exception:
            return None


def judgement(problem: Problem, start: Starts, best: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished training is compared with, as JSON has it, and a remark if it is no better.

    ``constant_loss`` and ``constant_metrics`` are those of the best constant output, None and empty
    where there is none; ``start_loss`` is the lowest loss of the starts, None where none is finite.

    Args:
        problem: what was trained.
        start: where the members started.
        best: ``loss`` and ``metrics`` of the best point.
    """
    found = constant(problem)
    # A copy, so that statistics which are known at the best point are not given up for the starts'.
    began = begun(problem, start, partial(value, copy.copy(problem.evaluation))).double()
    began = began[began.isfinite()]
    lowest = float(began.min()) if len(began) else None
    return {
        "constant_loss": None if found is None else found.loss,
        "constant_metrics": {} if found is None else dict(found.metrics),
        "start_loss": lowest,
        "remark": remark(best, found, lowest),
    }


def begun(problem: Problem, start: Starts, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``judge`` says (n,) of the starts, of large ones a few at a time.

    Args:
        problem: has the device, and says how many are evaluated together.
        start: where the members started.
        judge: from points (m, p) on the device to numbers (m,).
    """
    whole = [slice(0, start.members)]
    few = whole if start.bytes < LARGE else blocks(problem.evaluation, start.members)
    return torch.cat([judge(start(block).to(problem.device)) for block in few])


def remark(
    best: Mapping[str, Any], found: Constant | None, start: float | None, tolerance: float = HARDLY
) -> str:
    """What a training has not reached, in words; empty where there is nothing to say.

    Args:
        best: ``loss`` and ``metrics`` of the best point, the latter by split and name.
        found: the best constant output.
        start: the lowest loss of the points that the members started from.
        tolerance: share of the constant's loss that a loss must be below it to be better.
    """
    said = []
    loss = best["loss"]
    if found is not None:
        if not loss < found.loss - tolerance * abs(found.loss):
            said.append(
                f"no better than a constant: one output for all samples has a training loss of "
                f"{found.loss:.6g}, the best member {loss:.6g}"
            )
        else:
            said += _no_better_metrics(best["metrics"].get("train", {}), found.metrics)
    if start is not None and not loss < start:
        said.append(f"no better than its start, where the loss was {start:.6g}")
    if not said:
        return ""
    return "; ".join(said) + ". Try more iterations, another step length lr, or another method"


def _no_better_metrics(own: Mapping[str, float], constant: Mapping[str, float]) -> list[str]:
    """Of metrics it is not known which way is up, but where all are equal nothing was learnt."""
    if not constant or any(abs(own[name] - constant[name]) > 1e-6 for name in constant):
        return []
    named = ", ".join(f"{name} {number:.6g}" for name, number in constant.items())
    return [f"its metrics on the training data are those of one output for all samples: {named}"]


def _best(problem: Problem) -> Constant | None:
    if problem.task.loss_of != "output":
        return None
    # A few say as well where a search may begin, where samples can be taken.
    first = data_batches.few(problem.training.data.first, _SEEN)
    output = _output(problem, first)
    if not _is_prediction(output, first.samples):
        return None
    batches = _without_inputs(problem)
    if batches is None:
        return None
    mean = output.mean(0)
    risk = EmpiricalRisk(_Same(mean), batches, problem.task.loss)
    starts = [z for z in (torch.zeros_like(mean), mean) if _height(risk, z.flatten()) < np.inf]
    ends = [_minimised(risk, start.flatten()) for start in starts]
    # One search that falls without end says that there is no best constant.
    if not ends or any(end is None for end in ends):
        return None
    loss, z = min((end for end in ends if end is not None), key=lambda end: end[0])
    known = dict(_metrics(problem, batches, z.view_as(mean)))
    return Constant(z.view_as(mean), loss, known)


def _metrics(problem: Problem, batches: list[Pair], output: Tensor) -> Iterator[tuple[str, float]]:
    """The metrics that a constant output has; some need outputs that differ."""
    for name, metric in problem.task.metrics.items():
        if hasattr(metric, "counts"):
            # No mean over batches, and nothing that one output for all samples is good at.
            continue
        try:
            number = float(value(EmpiricalRisk(_Same(output), batches, metric), output.flatten()))
        except (RuntimeError, ValueError):
            continue
        if np.isfinite(number):
            yield name, number


def _output(problem: Problem, batch: Batch) -> Any:
    risk: Any = problem.as_given
    with torch.no_grad():
        return risk.outputs(risk.point(), risk.prepared(batch, risk.point_dtype))


def _is_prediction(output: Any, samples: int) -> bool:
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim > 0
        and len(output) == samples
        and output[0].numel() <= _LARGEST
    )


def _without_inputs(problem: Problem) -> list[Pair] | None:
    """What the loss gets beside the output, batch by batch; None if it does not fit in memory."""
    kept: list[Pair] = []
    size = 0
    data = problem.training.data
    for batch in data:
        if not data.resident:
            size += sum(t.numel() * t.element_size() for t in tensors_of(batch.target))
        if size > RESIDENT_BYTES:
            return None
        kept.append((torch.zeros(batch.samples, 1, device=problem.device), batch.target))
    return kept


def _minimised(risk: EmpiricalRisk, start: Tensor) -> tuple[float, Tensor] | None:
    """The least loss and where it is; None where the search does not come to rest.

    A loss without a minimum, such as that of log-probabilities which a constant need not keep to,
    falls on and on: neither a small slope nor a search that gives up is a sign of an end there.
    """
    origin = start.double().cpu().numpy()
    scale = abs(float(value(risk, start))) or 1.0

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.as_tensor(x).to(start)
        if not _height(risk, z) < np.inf:
            # Outside of where the loss is defined: a wall that a line search comes back from.
            return _WALL, np.zeros_like(x)
        loss, grad = value_and_grad(risk, z)
        return float(loss) / scale, grad.double().cpu().numpy() / scale

    options = {"maxiter": _ITERATIONS, "ftol": _GAIN / 10, "gtol": 0.0}
    result = minimize(function, origin, jac=True, method="L-BFGS-B", options=options)
    beyond = _height(risk, torch.as_tensor(2 * result.x - origin).to(start)) / scale
    if not result.fun < _WALL or result.nit >= _ITERATIONS or beyond < result.fun - 1e3 * _GAIN:
        return None
    z = torch.as_tensor(result.x).to(start)
    return float(value(risk, z)), z


def _height(risk: EmpiricalRisk, z: Tensor) -> float:
    """The loss; infinite where it is not a number, or refuses the output."""
    try:
        loss = float(value(risk, z))
    except (RuntimeError, ValueError):
        return np.inf
    return np.inf if np.isnan(loss) else loss
