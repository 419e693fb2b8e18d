"""How often do tests of populations reject what is true?

Question: where points of one trajectory are alike, how often does each test of
`analyses.inference` find a difference that is not there, do intervals cover, and what is the power?

Expected: tests that pool all points reject far more often than they promise, and the more so the
more alike points of a trajectory are; exact permutations and t tests of the means of trajectories
keep the level; a bootstrap of five trajectories and a mixed model with normal quantiles do not.

n: of 2,000 studies a share of 5 % is known to within 1 point.

Cost: a few seconds on one core.
"""

import time
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm

from analyses import inference
from analyses.inference import BASE, TESTS
from analyses.outcomes import wilson
from analyses.power import fewest, least, power
from landscape.results import provenance
from landscape.results.inference import Promises

INTERVALS = (
    "difference: t, pooled", "difference: t of trajectory means",
    "difference: bootstrap of trajectories", "difference: mixed model", "Cliff's delta",
)  # fmt: skip
NOTES = (
    "Points are normal: a share of their variance, the correlation, is that of their trajectory.",
    "With equally many trajectories the exact test has the largest level of its steps below the "
    "promised one: 12 of 252 ways, 4.76 %, at five against five.",
)


@dataclass(frozen=True)
class Config:
    """What is simulated.

    Args:
        studies: how many, at least 100.
        trajectories: of each of two methods, at least 2.
        points: of each trajectory, at least 2.
        correlations: of two points of one trajectory, from 0 to 1.
        counts: trajectories of each method for which power is found, at least 2.
        effect: difference of which it is the power, in standard deviations of trajectory means.
        level: of the tests, between 0 and 0.5.
        resamples: of the bootstrap.
        seed: of all draws.

    Raises:
        ValueError: if a number is out of range.
    """

    studies: int = 2000
    trajectories: int = 5
    points: int = 10
    correlations: tuple[float, ...] = (0.0, 0.5, 0.9)
    counts: tuple[int, ...] = (3, 4, 5, 6, 7, 10, 15, 20)
    effect: float = 1.0
    level: float = 0.05
    resamples: int = 999
    seed: int = 0

    def __post_init__(self):
        for name, bound in {"studies": 100, "trajectories": 2, "points": 2, "seed": 0}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if not all(0 <= each <= 1 for each in self.correlations):
            raise ValueError(f"correlations must lie from 0 to 1, got {self.correlations}")
        if not all(each >= 2 for each in self.counts):
            raise ValueError(f"counts must be at least 2, got {self.counts}")
        if not 0 < self.level < 0.5:
            raise ValueError(f"level must lie between 0 and 0.5, got {self.level}")


def study(config: Config) -> Promises:
    """The shares of false positives, of intervals that cover, and the power.

    Args:
        config: what is simulated.
    """
    began = time.perf_counter()
    rejected, covered = [], []
    for k, correlation in enumerate(config.correlations):
        source = np.random.default_rng([config.seed, k])
        one, other = (drawn(config, correlation, source) for _ in range(2))
        rejected.append([(p < config.level).sum() for p in p_values(config, one, other)])
        shift = config.effect * _spread(config, correlation)
        truth = 2 * norm.cdf(config.effect / 2**0.5) - 1
        found = intervals(config, one + shift, other)
        true = [shift] * (len(found) - 1) + [truth]
        covered.append([
            ((each.low <= t) & (t <= each.high)).mean() for each, t in zip(found, true, strict=True)
        ])  # fmt: skip
    counts = np.array(rejected).T
    low, high = (ends.reshape(counts.shape) for ends in wilson(counts.ravel(), config.studies))
    sizes = config.counts
    return Promises(
        tests=TESTS,
        correlation=np.array(config.correlations),
        rejected=counts / config.studies,
        low=low,
        high=high,
        intervals=INTERVALS,
        covered=np.array(covered).T,
        counts=np.array(sizes),
        powered=BASE,
        power=_powers(config),
        predicted=np.array([power(config.effect, n, n, config.level) for n in sizes]),
        least=np.array([least(n, n) for n in sizes]),
        trajectories=config.trajectories,
        points=config.points,
        studies=config.studies,
        effect=config.effect,
        level=config.level,
        notes=NOTES,
        conclusion=_conclusion(config, low, high),
        provenance=provenance(
            configuration=asdict(config), seconds=time.perf_counter() - began
        ),
    )  # fmt: skip


def drawn(config: Config, correlation: float, source: np.random.Generator) -> np.ndarray:
    """Points (studies, trajectories, points) of variance 1 and mean 0."""
    shape = (config.studies, config.trajectories, config.points)
    own = source.normal(size=(*shape[:2], 1))
    return correlation**0.5 * own + (1 - correlation) ** 0.5 * source.normal(size=shape)


def p_values(config: Config, one: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """The p values (studies,) of each of `TESTS`."""
    flat = [each.reshape(len(each), -1) for each in (one, other)]
    a, b = one.mean(-1), other.mean(-1)
    found = [
        *inference.pooled(*flat),
        inference.permutation(a, b, seed=config.seed),
        inference.student(a, b).p_value,
        inference.bootstrap(a, b, resamples=config.resamples, seed=config.seed).p_value,
        inference.mixed(one, other).p_value,
    ]
    return [np.asarray(each) for each in found]


def intervals(config: Config, one: np.ndarray, other: np.ndarray) -> list[inference.Interval]:
    """The intervals of each study, as named in `INTERVALS`."""
    flat = [each.reshape(len(each), -1) for each in (one, other)]
    a, b, sure = one.mean(-1), other.mean(-1), 1 - config.level
    return [
        inference.student(*flat, confidence=sure, equal=True),
        inference.student(a, b, confidence=sure),
        inference.bootstrap(
            a, b, confidence=sure, resamples=config.resamples, seed=config.seed
        ),
        inference.mixed(one, other, confidence=sure),
        inference.cliff(a, b, confidence=sure),
    ]  # fmt: skip


def _powers(config: Config) -> np.ndarray:
    """The power (test, count) of the tests of `BASE`; means of trajectories are all they see."""
    found = []
    for n in config.counts:
        source = np.random.default_rng([config.seed, 1000, n])
        one, other = source.normal(size=(2, config.studies, n))
        one = one + config.effect
        both = (
            inference.permutation(one, other, seed=config.seed, most=999),
            inference.student(one, other).p_value,
        )
        found.append([(np.asarray(p) < config.level).mean() for p in both])
    return np.array(found).T


def _spread(config: Config, correlation: float) -> float:
    """The standard deviation of the mean of a trajectory."""
    return float((correlation + (1 - correlation) / config.points) ** 0.5)


def _conclusion(config: Config, low: np.ndarray, high: np.ndarray) -> str:
    """Which tests reject more than they promise, by the intervals of their shares."""
    liberal = [name for name, ends in zip(TESTS, low, strict=True) if (ends > config.level).any()]
    rest = [name for name in TESTS if name not in liberal]
    size, n = f"{config.trajectories} against {config.trajectories}", config.trajectories
    return (
        f"With {size} trajectories these reject what is true more often than they promise: "
        f"{', '.join(liberal) or 'none'}. These keep their promise: {', '.join(rest) or 'none'}. "
        f"The least p value of the exact test is {least(n, n):.2g}, so that it can reject none of "
        f"{int(config.level / least(n, n)) + 1} or more comparisons after Holm's correction; for "
        f"60 comparisons it needs {fewest(config.level / 60)} trajectories of each."
    )
