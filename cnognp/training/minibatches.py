"""How many samples a mini-batch has where nobody has said so, and whether there can be such."""

import inspect
import warnings
from dataclasses import replace
from typing import Any

import torch

from cnognp.methods import BATCH, METHODS
from cnognp.methods.descent import Epoch
from cnognp.tasks import memory
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config
from landscape.networks import batches as data_batches
from landscape.networks.compiled import NotCompiled
from landscape.objective import value_and_grad

_KEY = "batch_size"
# So many times the rounding of a network as it is may a compiled one be off.
_ROUNDED = 10


def settled(config: Config, problem: Problem) -> Config:
    """The configuration with the size of mini-batches that fits the data, where it has none.

    It is `BATCH`, or that of a loader which is too large to keep, or 0, steps on the whole data,
    where these do not fall into samples.
    """
    return with_size(config, fitting(problem)) if left_open(config) else config


def left_open(config: Config) -> bool:
    """Whether the method takes a size of mini-batches, and nobody has said which."""
    known = inspect.signature(METHODS[config.method]).parameters
    default = known[_KEY].default if _KEY in known else 0
    return default != 0 and config.method_options.get(_KEY) is None


def with_size(config: Config, size: int | None) -> Config:
    """The configuration with mini-batches of so many samples."""
    return replace(config, method_options={**config.method_options, _KEY: size})


def size_in(config: Config) -> int | None:
    """The samples in a mini-batch that the configuration asks for."""
    return config.method_options.get(_KEY)


def fitting(problem: Problem) -> int:
    """The samples that a mini-batch of the problem's training data should have; 0 for all of them.

    Data fall into samples if every tensor has a row for each, the batches can be joined, and the
    loss of a batch is the mean over its samples.
    """
    risk = problem.training
    if not risk.data.resident:
        return risk.data.batch_size or 0
    if risk.gate.coupled(risk):
        return 0
    try:
        risk.data.joined()
    except ValueError:
        return 0
    if not problem.normalised:
        return BATCH
    # BatchNorm cannot normalise the single sample that would be left for the last mini-batch.
    return next((size for size in range(BATCH, 1, -1) if risk.samples % size != 1), 0)


def epoch_of(method: Any) -> Epoch | None:
    """The epoch of mini-batches that a method moves by, itself or inside; None if there is none."""
    if method is None or isinstance(method, Epoch):
        return method
    inside = (epoch_of(getattr(method, name, None)) for name in ("local", "method", "base"))
    return next((epoch for epoch in inside if epoch is not None), None)


def steps(method: Any, problem: Problem) -> int:
    """How many mini-batches the method sees in an epoch of the problem; 1 without any."""
    epoch = epoch_of(method)
    return 1 if epoch is None else problem.training.steps(epoch.size)


def check_apart(config: Config, problem: Problem, method: Any) -> None:
    """Nothing, if steps and judgements are of one function, or the method can tell them apart.

    Raises:
        ValueError: if not, or if products with the Hessian were to be taken in another precision.
    """
    if config.precision != "float32" and config.record_curvature:
        raise ValueError(
            f"the curvature of training in {config.precision} is not recorded: products with the "
            "Hessian need float32. Leave out --record-curvature, or --precision"
        )
    if problem.trained_apart and epoch_of(method) is None:
        raise ValueError(
            f"{problem.trained_apart} is for steps on mini-batches, and {config.method} as it is "
            "here steps by what judges its members: give --method.batch_size, or leave it out"
        )


def check_compiled(method: Any, problem: Problem) -> None:
    """Nothing, if the compiled network has the loss and the gradient of the network as it is.

    On the first mini-batch, for which it is compiled here.

    Raises:
        NotCompiled: if not.
    """
    epoch, z = epoch_of(method), problem.training.point()
    assert epoch is not None  # `check_apart` has refused the others
    wide = z if problem.device.type == "mps" else z.double()
    found = []
    # Rounding alone may turn a gradient by far more than its own size: how far, float64 tells.
    for risk, point in ((problem.training, wide), (problem.training, z), (problem.stepped, z)):
        generator = torch.Generator(device="cpu").manual_seed(0)
        stream = risk.minibatches(epoch.size, generator, parts=epoch.parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(value_and_grad(next(stream), point))
    (_, exact), (loss, slope), (other, bent) = found
    size = exact.norm().clamp(min=torch.finfo(z.dtype).tiny)
    rounded, apart = (float((each - exact).norm() / size) for each in (slope, bent))
    near = torch.finfo(torch.bfloat16 if problem.training.autocast else z.dtype).eps ** 0.5
    same = abs(other - loss) <= near * (1 + abs(loss)) and apart <= near + _ROUNDED * rounded
    if loss.isfinite() and not same:
        raise NotCompiled(
            f"the compiled network is another one: its loss is {float(other):.6g} in the place of "
            f"{float(loss):.6g}, and its gradient is off by {apart:.2g} of its length, where "
            f"rounding makes {rounded:.2g}. Leave out --compile"
        )


def check(method: Any, problem: Problem) -> None:
    """Nothing, if the training data can be cut into the mini-batches of the method and their parts.

    Raises:
        ValueError: if not, or if one sample is left alone where BatchNorm needs several.
    """
    epoch, risk = epoch_of(method), problem.training
    if epoch is None:
        return
    generator = torch.Generator(device="cpu").manual_seed(0)
    next(risk.minibatches(epoch.size, generator, parts=epoch.parts))
    first, samples = risk.data.first, risk.samples
    if not (problem.normalised and risk.data.resident and data_batches.rowwise(first)):
        return
    sizes = {min(epoch.size, samples), samples % epoch.size} - {0}
    if 1 not in {size // min(epoch.parts, size) for size in sizes}:
        return
    try:
        memory.slope(risk, data_batches.spread(first, 1), risk.point())
    except ValueError as error:
        raise ValueError(
            f"of {samples} samples, batch_size {epoch.size} with accumulation {epoch.parts} leaves "
            f"one alone, which BatchNorm cannot normalise: {error}"
        ) from None
