"""Curves with a few control points, trained on the loss at points that are drawn along them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.paths.curves import Curve
from landscape.paths.finder import Finder, Found, Told, require
from landscape.paths.ground import Ground
from landscape.paths.pivots import between
from landscape.paths.profile import Profile
from landscape.paths.steps import Adam, Momentum
from landscape.randomness import derived_seed

# Points drawn for a step on the full batch.
_DRAWS = 20


@dataclass(frozen=True)
class Drawn(Finder):
    r"""What `Bezier` and `Polygon` share: the mean loss over t is minimised by drawing t.

    Minimised is :math:`\mathbb{E}_{t \sim U(0, 1)}[f(w(t)) + \frac{\delta}{2} \|w(t)\|^2]` by the
    inner control points, which start evenly on the line. Points on the full batch are drawn in
    strata, and with each t comes 1 - t.

    The published settings are those of SGD: ``draws=1, momentum=0.9`` and a rate of training, with
    mini-batches. Its rate is constant for half of the steps and then falls in a straight line to
    1 % of it at nine tenths. Where ``lr`` is not given, Adam takes steps of 1 % of the root mean
    square difference of the ends' coordinates, by the same schedule, which fits any units.

    Args:
        bends: inner control points, at least 1.
        steps: at least 1.
        draws: points along the curve for each step; 20 on the full batch and 1 on mini-batches
            where it is not given.
        lr: step length of SGD; Adam's own where it is not given.
        momentum: of SGD, from 0 to below 1.
        weight_decay: delta, not negative.
        batch_size: samples of a mini-batch, drawn anew for each step; the whole data where 0.
        seed: of t and of the mini-batches.

    The last iterate is kept.

    Raises:
        ValueError: if a setting is out of range.

    Reference: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson (2018), Loss surfaces, mode
    connectivity, and fast ensembling of DNNs.
    """

    bends: int = 1
    steps: int = 200
    draws: int | None = None
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("bends", "steps"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.draws is None or self.draws >= 1, "draws", "at least 1", self.draws)
        require(self.lr is None or self.lr > 0, "lr", "positive", self.lr)
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        for name in ("weight_decay", "batch_size"):
            require(getattr(self, name) >= 0, name, "not negative", getattr(self, name))

    @abstractmethod
    def weights(self, t: np.ndarray) -> np.ndarray:
        """The weights (n, bends + 2) of the control points, ends included, at t (n,)."""

    @abstractmethod
    def curve(self, control: Tensor) -> Curve:
        """The curve with these control points (bends + 2, p)."""

    def search(self, ground: Ground, line: Profile, told: Told) -> Found:
        """The curve after the last step."""
        control = between(ground.a, ground.b, self.bends)
        stream = ground.stream(self.batch_size, self.seed)
        draws = self.draws or (1 if self.batch_size else _DRAWS)
        source = np.random.default_rng(derived_seed(self.seed, "points of a curve"))
        adam, sgd = Adam(0.01 * ground.scale), Momentum(self.momentum)
        for k in range(self.steps):
            c = torch.as_tensor(self.weights(drawn(source, draws)), dtype=control.dtype)
            c = c.to(control.device)
            rows = c @ control
            _, grads = ground.slopes(rows, next(stream))
            if self.weight_decay:
                grads = grads + self.weight_decay * rows
            slope = c[:, 1:-1].T @ grads / draws
            share = scheduled(k / self.steps)
            inner = control[1:-1]
            if self.lr is None:
                inner = inner + share * (adam.step(inner, slope) - inner)
            else:
                inner = sgd.step(inner, slope, self.lr * share)
            control = torch.cat([control[:1], inner, control[-1:]])
            told(k + 1, self.steps)
        how = f"{self.steps} steps of {'Adam' if self.lr is None else 'SGD'}"
        if not bool(control.isfinite().all()):
            return Found(self.curve(between(ground.a, ground.b, self.bends)), f"{how} diverged")
        return Found(self.curve(control), how)


def drawn(source: Any, count: int) -> np.ndarray:
    """So many t from 0 to 1, in strata, and 1 - t with each t but for the last of an odd number."""
    half = count // 2
    low = (np.arange(half) + source.random(half)) / (2 * half) if half else np.empty(0)
    return np.concatenate([low, 1 - low, source.random(count % 2)])


def scheduled(done: float) -> float:
    """The share of the rate when a share of the steps is done."""
    if done <= 0.5:
        return 1.0
    return max(0.01, 1.0 - (done - 0.5) / 0.4 * 0.99)
