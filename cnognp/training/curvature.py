"""Curvature along a training run: which loss is recorded, and where its method is stable."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from cnognp.method import Method
from cnognp.methods.adaptive import Adam, AdamW
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.schedule import Scheduled, slowed
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config, RunFolder
from cnognp.training.minibatches import epoch_of
from landscape import results
from landscape.randomness import derived_seed
from landscape.recorder import CurvatureRecorder
from landscape.recorder.stability import Stability, adam, descent

# Its curvature is recorded: it starts at the model as given.
MEMBER = 0


def recorder_of(config: Config, problem: Problem, method: Method) -> CurvatureRecorder | None:
    """The recorder that a configuration asks for; None where it asks for none.

    The loss is that of training on the whole data, or the one that is judged where training is
    random. A method of mini-batches has their sharpness recorded too.
    """
    if not config.record_curvature:
        return None
    random = bool(problem.training.stochastic_modules())
    return CurvatureRecorder(
        problem.evaluation if random else problem.training,
        every=config.record_curvature,
        minibatch=0 if (epoch := epoch_of(method)) is None else epoch.size,
        generator=torch.Generator(device="cpu").manual_seed(derived_seed(config.seed, "curvature")),
        label=f"member {MEMBER} of {config.method} on {config.task}",
    )


def stability_of(method: Any, state: Any, steps: int = 1) -> Stability | None:
    """What curvature the member's next step bears; None where no threshold is known.

    Args:
        method: gradient descent, SGD, Adam or AdamW, in epochs or with a schedule or without.
        state: the method's state; None before the first round.
        steps: mini-batches in an epoch.
    """
    if isinstance(method, Scheduled):
        factor = method.factor(0 if state is None else int(state.round), steps)
        return stability_of(slowed(method.method, factor), _inner(state))
    if isinstance(method, Epoch):
        return stability_of(method.method, _inner(state))
    if isinstance(method, GradientDescent):
        return descent(method.lr)
    decoupled = isinstance(method, AdamW) or getattr(method, "decoupled", False)
    if isinstance(method, SGD):
        return descent(
            method.lr, method.momentum, nesterov=method.nesterov,
            weight_decay=method.weight_decay, decoupled=decoupled,
        )  # fmt: skip
    if isinstance(method, Adam) and state is not None and int(state.round):
        return adam(
            method.lr, method.betas, method.eps, state.square[MEMBER], int(state.round),
            weight_decay=method.weight_decay, decoupled=decoupled,
        )  # fmt: skip
    return None


def save_recording(
    recorder: CurvatureRecorder | None, folder: RunFolder, config: Config, identity: Mapping
) -> None:
    """Writes what was recorded so far to ``analysis/curvature.h5``; nothing without a recorder.

    Raises:
        OSError: if the disk refuses.
    """
    if recorder is None:
        return
    found = recorder.result()
    origin = {**found.provenance, "run": config.to_yaml(), **identity}
    folder.analysis.mkdir(exist_ok=True)
    results.save(replace(found, provenance=origin), folder.analysis / "curvature.h5")


def _inner(state: Any) -> Any:
    return None if state is None else state.inner
