"""How flat it is where a training ended, and whether that goes with what the network is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.flatness import Config, Measured, compared
from cnognp.tasks.problem import Problem
from landscape import directions
from landscape.networks import Risk
from landscape.results import Flatness
from landscape.results.finetuning import Ending
from landscape.sharpness import Options, panel
from landscape.slices import plane, span

MEASURES = ("lambda-max", "trace", "gradient-norm", "average")


def judged(problem: Problem, z: Tensor, images: int) -> Risk:
    """The loss of the first training images in evaluation mode, as one batch.

    BatchNorm statistics are those of all training images at the point.

    Args:
        problem: whose training split is a pair of tensors.
        z: (p,), the point.
        images: how many; all where there are no more.
    """
    risk = problem.at(z)
    whole = risk.data.joined()
    count = -(-whole.samples // min(images, whole.samples))
    return risk.measuring(risk.loss, risk.data.like(risk.data.pieces(whole, count)[:1]))


def flatness(risk: Risk, z: Tensor, options: Options, points: int = 0) -> dict[str, Any]:
    """The fields of an `Ending` that say how flat it is there.

    Args:
        risk: what is measured.
        z: (p,), the point.
        options: radii and budgets of `MEASURES`.
        points: along each side of a plane of filter-normalised random directions, the same two for
            every point of a network, from -1 to 1; no plane where 0.
    """
    found = panel(risk, z, options=options, only=MEASURES)
    columns = ("measures", "units", "value", "low", "high")
    fields: dict[str, Any] = {name: getattr(found, name) for name in columns}
    if points:
        source = torch.Generator(device="cpu").manual_seed(0)
        ends = span(-1.0, 1.0, points)
        u, v = directions.random(risk.layout, z, source)
        fields["plane"] = plane(risk, z, u, v, alpha=ends, beta=ends).loss
    return fields


def correlations(
    chosen: Mapping[str, Sequence[Ending]], options: Options, confidence: float
) -> Flatness:
    """How each measure goes with the test accuracy over all runs of a network.

    The runs of one seed have images and order in common: seeds are drawn in the bootstrap. What
    ended with numbers that are not finite is left out.

    Args:
        chosen: the runs of each method.
        options: that were measured with.
        confidence: of the intervals.
    """
    every = [each for runs in chosen.values() for each in runs]
    ends = [each for each in every if np.isfinite(each.score).all()]
    seeds = sorted({each.seed for each in ends})
    place = {name: k for k, name in enumerate(chosen)}
    count = len(ends)
    return compared(
        Measured(
            points=tuple(f"{each.method} seed {each.seed}" for each in ends),
            panels=tuple(ends),
            train=np.array([each["train accuracy"] for each in ends]),
            test=np.array([each["test accuracy"] for each in ends]),
            group=np.array([place[each.method] for each in ends]),
            run=np.array([seeds.index(each.seed) for each in ends]),
            runs=tuple(f"seed {seed}" for seed in seeds),
            coupled=np.zeros(count, dtype=bool),
            # Points are not kept.
            distance=np.where(np.eye(count, dtype=bool), 0.0, np.nan),
            lost=len(every) - count,
        ),
        Config(criterion="accuracy", options=options, confidence=confidence),
    )
