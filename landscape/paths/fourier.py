"""A path as the straight line with a few sines on top, found by descent of their amplitudes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.curves import sines
from landscape.paths.finder import Finder, Found, Told, find, require
from landscape.paths.ground import Ground
from landscape.paths.profile import Profile
from landscape.paths.steps import Adam
from landscape.results import Path

Power = Literal["1", "2", "maximum"]
Optimiser = Literal["adam", "lbfgs"]
_TINY = 1e-30


@dataclass(frozen=True)
class Fourier(Finder):
    r"""FourierPathFinder: the line plus sines, whose amplitudes are found by descent.

    :math:`w(t) = (1-t) a + t b + \sum_n b_n \sin(n \pi t)` on a uniform grid :math:`t_m`, with
    :math:`b_n = 0` at first, so that the ends are fixed. What is minimised is
    :math:`\sum_m f(w(t_m))^p + \lambda \sum_m \|w(t_{m+1}) - w(t_m)\|^2` with p = 1 (equation 4 of
    the paper) or p = 2 (what its published heights belong to), or a smooth maximum
    :math:`\beta^{-1} \log \sum_m e^{\beta f}` in the place of the sum.

    Defaults are chosen for low heights, whatever the units of the loss and of the parameters. Those
    of the paper for networks are ``power="1"``, ``grid=51``, ``penalty=1e-4``, ``lr=1e-3``.

    Args:
        sines: how many, from 1 to two fewer than ``grid``: those beyond cannot be told apart.
        grid: points at which the loss is summed, the ends among them.
        penalty: lambda, the weight of the squared steps, which keep the points apart. Where it is
            not given, the squared steps of the line weigh 1 % of the range of losses on it, for
            each loss that is summed.
        power: 1, 2, or maximum.
        beta: how sharp the smooth maximum is; 100 over the range of losses on the line
            where it is not given.
        optimiser: adam, or lbfgs (with a strong Wolfe line search, on the full batch alone).
        lr: how far Adam moves an amplitude in its first step; 1 % of the root mean square
            difference of the ends' coordinates where it is not given. L-BFGS has its line search.
        steps: of the optimiser.
        batch_size: samples of a mini-batch, drawn anew for each step; the whole data where 0.
        seed: of the mini-batches.

    The iterate with the least sum is kept; with mini-batches, whose sums cannot be compared, the
    last.

    Raises:
        ValueError: if a setting is out of range.

    Reference: Yu & Morozov (2026), Neural network optimization strategies and the topography of the
    loss landscape, section 4.
    """

    name: ClassVar[str] = "fourier"

    sines: int = 10
    grid: int = 50
    penalty: float | None = None
    power: Power = "maximum"
    beta: float | None = None
    optimiser: Optimiser = "adam"
    lr: float | None = None
    steps: int = 100
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self):
        require(self.grid >= 3, "grid", "at least 3 points", self.grid)
        most = self.grid - 2
        require(1 <= self.sines <= most, "sines", f"1 to {most} (grid - 2)", self.sines)
        for name in ("penalty", "beta", "lr"):
            given = getattr(self, name)
            require(given is None or given >= 0, name, "not negative", given)
        require(self.power in get_args(Power), "power", "1, 2 or maximum", self.power)
        require(self.optimiser in get_args(Optimiser), "optimiser", "adam or lbfgs", self.optimiser)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.batch_size >= 0, "batch_size", "not negative", self.batch_size)
        whole = self.optimiser == "adam" or not self.batch_size
        require(whole, "batch_size", "0 for lbfgs, which needs the full batch", self.batch_size)

    def search(self, ground: Ground, line: Profile, told: Told) -> Found:
        """The path of the best amplitudes."""
        descent = _Descent(self, ground, line)
        amplitudes = torch.zeros(self.sines, len(ground.a), dtype=ground.a.dtype).to(ground.a)
        if self.optimiser == "lbfgs":
            self._quasi_newton(descent, amplitudes, told)
        else:
            adam = Adam(0.01 * ground.scale if self.lr is None else self.lr)
            stream = ground.stream(self.batch_size, self.seed)
            for k, objective in zip(range(self.steps), stream, strict=False):
                _, slope = descent(amplitudes, objective)
                amplitudes = adam.step(amplitudes, slope)
                told(k + 1, self.steps)
        best = amplitudes if self.batch_size else descent.best.amplitudes
        steps = f"{self.steps} steps of {self.optimiser}"
        kept = "the last iterate" if self.batch_size else f"the best is iterate {descent.best.step}"
        return Found(sines(ground.a, ground.b, best), f"{steps}, {kept}")

    def _quasi_newton(self, descent: "_Descent", amplitudes: Tensor, told: Told) -> None:
        leaf = amplitudes.requires_grad_()
        lbfgs = torch.optim.LBFGS(
            [leaf], lr=1.0, max_iter=self.steps, max_eval=2 * self.steps, history_size=10,
            tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            total, leaf.grad = descent(leaf.detach(), descent.ground.objective)
            told(min(descent.count, self.steps), self.steps)
            return total

        lbfgs.step(closure)


class _Best(NamedTuple):
    """The least sum so far, its amplitudes, and which iterate that was."""

    total: float
    amplitudes: Tensor
    step: int


class _Descent:
    """What is minimised, and its gradient, as a function of the amplitudes.

    Points exist only while they are evaluated: their gradients are summed up as they come.
    """

    def __init__(self, finder: Fourier, ground: Ground, line: Profile):
        self.ground, self._finder, self.count = ground, finder, 0
        t = np.linspace(0.0, 1.0, finder.grid)
        waves = np.sin(np.pi * np.outer(t, np.arange(1, finder.sines + 1)))
        waves[[0, -1]] = 0.0
        steps = np.diff(waves, axis=0)
        self._t, self._waves = (torch.as_tensor(array).to(ground.a) for array in (t, waves))
        extent = max(float(np.ptp(line.loss[np.isfinite(line.loss)])), _TINY)
        self._beta = 100.0 / extent if finder.beta is None else finder.beta
        penalty = finder.penalty
        if penalty is None:
            summed = 1 if finder.power == "maximum" else finder.grid
            squares = float((ground.b - ground.a).square().sum()) / (finder.grid - 1)
            penalty = 0.01 * extent * summed / max(squares, _TINY)
        # The line's own steps are equal, and cancel out in the product with the sines' steps.
        self._stiffness = torch.as_tensor(2 * penalty * steps.T @ steps).to(ground.a)
        self.best = _Best(float("inf"), ground.a.new_zeros(finder.sines, len(ground.a)), 0)

    def __call__(
        self, amplitudes: Float[Tensor, "n p"], objective: Any
    ) -> tuple[Tensor, Float[Tensor, "n p"]]:
        """The sum and its gradient; the best is noted."""
        pull = self._stiffness @ amplitudes
        total, slope = self._summed(amplitudes, objective)
        total = total + (pull * amplitudes).sum() / 2
        if float(total) < self.best.total:
            self.best = _Best(float(total), amplitudes.clone(), self.count)
        self.count += 1
        return total, slope + pull

    def _summed(self, amplitudes: Tensor, objective: Any) -> tuple[Tensor, Tensor]:
        """The sum over the inner points of the grid, or its smooth maximum, and the gradient."""
        a, b, last = self.ground.a, self.ground.b, self._finder.grid - 1
        if last - 1 > 2 * len(amplitudes) and (own := self.ground.spanned(objective)) is not None:
            return self._within(own, amplitudes)
        sums = _Sums(amplitudes, self._finder.power, self._beta)
        for start in range(1, last, self.ground.chunk):
            stop = min(start + self.ground.chunk, last)
            waves = self._waves[start:stop]
            rows = torch.addmm(torch.lerp(a, b, self._t[start:stop, None]), waves, amplitudes)
            sums.add(waves, *self.ground.slopes(rows, objective))
        return sums.total(), sums.slope()

    def _within(self, own: Any, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """The same, all points at once, in the span of the ends and the amplitudes.

        A loss that is not finite gives no gradient.
        """
        t, waves = self._t[1:-1, None], self._waves[1:-1]
        basis = torch.cat([self.ground.a[None], self.ground.b[None], amplitudes])
        coefficients = torch.cat([1 - t, t, waves], 1)
        power, beta = self._finder.power, self._beta

        def weigh(values: Tensor) -> Tensor:
            if power == "1":
                return torch.ones_like(values)
            return 2 * values if power == "2" else torch.softmax(beta * values, 0)

        values, slope = own(basis, coefficients, weigh)
        if power == "maximum":
            total = torch.logsumexp(beta * values, 0) / beta
        else:
            total = (values**2 if power == "2" else values).sum()
        if not bool(values.isfinite().all()):
            return torch.full_like(total, torch.inf), torch.zeros_like(amplitudes)
        return total, slope[2:]


class _Sums:
    """The sum of powers of losses, or their smooth maximum, and its gradient, as they come.

    A loss that is not finite makes the sum infinite, and no part of the gradient.
    """

    def __init__(self, amplitudes: Tensor, power: Power, beta: float):
        self._power, self._beta = power, beta
        self._sum, self._slope = amplitudes.new_zeros(()), torch.zeros_like(amplitudes)
        self._top = amplitudes.new_full((), -torch.inf)
        self._lost = False

    def add(self, waves: Tensor, values: Tensor, grads: Tensor) -> None:
        """Takes in losses (n,) and their gradients (n, p) at points with these sines (n, k)."""
        sound = values.isfinite()
        if not bool(sound.all()):
            self._lost = True
            waves, values, grads = waves[sound], values[sound], grads[sound]
        if not len(values):
            return
        if self._power == "maximum":
            higher = torch.maximum(self._top, values.max())
            weights = torch.exp(self._beta * (values - higher))
            scale = torch.exp(self._beta * (self._top - higher))
            self._sum, self._top = self._sum * scale + weights.sum(), higher
            self._slope *= scale
        else:
            square = self._power == "2"
            weights = 2 * values if square else torch.ones_like(values)
            self._sum = self._sum + (values**2 if square else values).sum()
        self._slope.addmm_((waves * weights.unsqueeze(-1)).T, grads)

    def total(self) -> Tensor:
        """What is minimised."""
        if self._lost:
            return torch.full_like(self._sum, torch.inf)
        if self._power == "maximum":
            return self._top + self._sum.log() / self._beta
        return self._sum

    def slope(self) -> Tensor:
        """Its gradient by the amplitudes."""
        if self._power == "maximum" and bool(self._sum > 0):
            return self._slope / self._sum
        return self._slope


def fourier(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **settings: Any
) -> Path:
    """The path that `Fourier` finds from the straight line between a and b.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        settings: fields of `Fourier` and of `landscape.paths.Options`.

    Returns:
        as `landscape.paths.linear`; never higher than the line, which is the result where no lower
        path was found.

    Raises:
        ValueError: as `landscape.paths.linear`, or if a setting is out of range.
        RuntimeError: if the objective is random.
    """
    return find(Fourier, objective, a, b, settings)
