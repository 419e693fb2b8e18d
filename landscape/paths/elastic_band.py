"""A band of pivots between two points that relaxes across itself and gets more where it lacks."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.curves import chain
from landscape.paths.finder import Finder, Found, Told, find, require
from landscape.paths.ground import Ground
from landscape.paths.pivots import between, distances, spread, tangents
from landscape.paths.profile import Profile
from landscape.paths.steps import Adaptive, Momentum
from landscape.results import Path

# Points between two pivots at which the loss is seen before pivots are inserted.
_BETWEEN = 9


@dataclass(frozen=True)
class ElasticBand(Finder):
    r"""AutoNEB: pivots move down the part of the gradient that is across the band.

    Tangents point to the higher neighbour. Pivots are spread evenly after every step (a spring of
    infinite strength), or pulled together by springs along the band. After each cycle of steps
    pivots are inserted where the loss between two of them, at nine points, is higher than their
    straight interpolation by more than a share of the whole range. In the last cycle the highest
    pivot climbs: it moves up along the band and down across it, to the saddle.

    The published settings for networks on CIFAR-10 are ``pivots=3, insert=2, excess=0.1,
    batch_size=512, momentum=0.9, climbing=False``, with 4 cycles
    of 1000 steps and 2 of 2000 at ``lr=0.1``, then 4 of 1000 each at 0.01 and 0.001. The defaults
    insert more and take shorter cycles. Where ``lr`` is not given, steps follow from the gradients,
    pivot by pivot (`landscape.paths.steps.Adaptive`), which fits any units and needs the full
    batch.

    Args:
        pivots: at first, between the ends, at least 1.
        cycles: of relaxation, at least 1, with insertion between them.
        steps: of each cycle.
        insert: pivots inserted after a cycle, at most.
        excess: share of the range of losses by which the loss between two pivots must be higher for
            one to be inserted.
        spring: strength of the springs; infinite where it is not given.
        climbing: whether the highest pivot climbs in the last cycle.
        lr: step length; from the gradients where it is not given.
        momentum: of the steps where ``lr`` is given, from 0 to below 1.
        batch_size: samples of a mini-batch, drawn anew for each step; the whole data where 0.
        seed: of the mini-batches.

    The band of the cycle with the lowest dense maximum is kept.

    Raises:
        ValueError: if a setting is out of range.

    Reference: Draxler, Veschgini, Salmhofer & Hamprecht (2018), Essentially no barriers in neural
    network energy landscape; tangents and climbing as in Henkelman & Jonsson (2000).
    """

    name: ClassVar[str] = "elastic-band"

    pivots: int = 7
    cycles: int = 5
    steps: int = 30
    insert: int = 4
    excess: float = 0.02
    spring: float | None = None
    climbing: bool = True
    lr: float | None = None
    momentum: float = 0.9
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("pivots", "cycles", "steps"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("insert", "excess", "batch_size"):
            require(getattr(self, name) >= 0, name, "not negative", getattr(self, name))
        require(self.spring is None or self.spring >= 0, "spring", "not negative", self.spring)
        require(self.lr is None or self.lr > 0, "lr", "positive", self.lr)
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        adaptive = self.lr is None and self.batch_size
        require(not adaptive, "lr", "given with mini-batches, for instance 0.1", self.lr)

    def search(self, ground: Ground, line: Profile, told: Told) -> Found:
        """The lowest band of all cycles."""
        band = between(ground.a, ground.b, self.pivots)
        stream = ground.stream(self.batch_size, self.seed)
        best = _Best(float("inf"), band, 0)
        for cycle in range(self.cycles):
            step: Any = Adaptive() if self.lr is None else Momentum(self.momentum)
            last = self.climbing and cycle == self.cycles - 1
            for k in range(self.steps):
                band = self._moved(ground, band, step, next(stream), climbing=last)
                told(cycle * self.steps + k + 1, self.cycles * self.steps)
            dense = _dense(ground, band)
            if (height := _height(ground, band, dense)) < best.height:
                best = _Best(height, band, cycle + 1)
            band = _inserted(ground, band, dense, self.insert, self.excess)
        count = len(best.band) - 2
        status = f"{self.cycles} cycles, {count} pivots after cycle {best.cycle}, the lowest"
        return Found(chain(best.band), status)

    def _moved(
        self, ground: Ground, band: Tensor, step: Any, objective: Any, *, climbing: bool
    ) -> Tensor:
        """The band after a step."""
        inner = band[1:-1]
        values, grads = ground.slopes(inner, objective)
        ends = ground.losses.to(values)
        losses = torch.cat([ends[:1], values, ends[1:]])
        along = tangents(band, losses)
        slope = (grads * along).sum(-1, keepdim=True)
        across = grads - slope * along
        top = int(values.argmax()) if climbing else None
        if top is not None:
            across[top] -= slope[top] * along[top]
        if self.spring is not None:
            gaps = torch.linalg.vector_norm(band.diff(dim=0), dim=-1)
            pull = self.spring * (gaps[1:] - gaps[:-1]).unsqueeze(-1) * along
            if top is not None:
                pull[top] = 0.0
            across -= pull
        if self.lr is None:
            spacing = distances(band)[-1] / (len(band) - 1)
            moved = step.step(inner, across, 0.2 * float(spacing))
        else:
            moved = step.step(inner, across, self.lr)
        band = torch.cat([band[:1], moved, band[-1:]])
        if self.spring is None:
            band = spread(band, None if top is None else top + 1)
        return band


class _Best(NamedTuple):
    """The lowest height so far, its band, and the cycle after which that was."""

    height: float
    band: Tensor
    cycle: int


def _dense(ground: Ground, band: Float[Tensor, "k p"]) -> Float[np.ndarray, "gaps m"]:
    """The loss at each pivot but the last and at the points behind it; not finite is infinite."""
    rows = []
    parts = torch.arange(_BETWEEN + 1, dtype=band.dtype, device=band.device) / (_BETWEEN + 1)
    for one, other in zip(band[:-1], band[1:], strict=True):
        values = ground.values(torch.lerp(one, other, parts.unsqueeze(-1)))
        rows.append(values.double().cpu().numpy())
    return np.nan_to_num(np.stack(rows), nan=np.inf, neginf=np.inf)


def _height(ground: Ground, band: Tensor, dense: np.ndarray) -> float:
    """The largest dense loss, refined once: bands of few pivots would else look lower."""
    top = int(dense.argmax())
    places = (top + np.linspace(-1.0, 1.0, 10)[1:-1]) / (_BETWEEN + 1)
    places = places.clip(0.0, len(band) - 1.0)
    low = np.minimum(places.astype(int), len(band) - 2)
    part = torch.as_tensor(places - low, dtype=band.dtype, device=band.device).unsqueeze(-1)
    index = torch.as_tensor(low, device=band.device)
    values = ground.values(torch.lerp(band[index], band[index + 1], part)).double().cpu().numpy()
    return float(max(dense.max(), np.nan_to_num(values, nan=np.inf).max()))


def _inserted(ground: Ground, band: Tensor, dense: np.ndarray, most: int, excess: float) -> Tensor:
    """The band with pivots where the loss is too high between two of them, the worst first."""
    ends = np.append(dense[:, 0], float(ground.losses[1]))
    parts = np.arange(_BETWEEN + 1) / (_BETWEEN + 1)
    straight = (1 - parts) * ends[:-1, None] + parts * ends[1:, None]
    finite = dense[np.isfinite(dense)]
    allowed = excess * (np.ptp(finite) if len(finite) else 0.0)
    over = np.nan_to_num(dense - straight, nan=np.inf)
    worst = over.argmax(axis=1)
    order = np.argsort(-over.max(axis=1), kind="stable")[:most]
    chosen = sorted(int(k) for k in order if over[k, worst[k]] > allowed)
    for place in reversed(chosen):
        t = float(parts[worst[place]])
        new = torch.lerp(band[place], band[place + 1], t).unsqueeze(0)
        band = torch.cat([band[: place + 1], new, band[place + 1 :]])
    return band


def elastic_band(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **settings: Any
) -> Path:
    """The path that `ElasticBand` finds from the straight line between a and b.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        settings: fields of `ElasticBand` and of `landscape.paths.Options`.

    Returns:
        as `landscape.paths.fourier`.

    Raises:
        ValueError: as `landscape.paths.linear`, or if a setting is out of range.
        RuntimeError: if the objective is random.
    """
    return find(ElasticBand, objective, a, b, settings)
