"""Do two populations of points differ, where points of one trajectory are alike?

A trajectory is what was drawn; its points are not. Tests that pool all points take fifty for
independent that are of five trajectories, and reject what is true far more often than they say
(pseudo-replication). Permutations and t tests of the means of trajectories keep what they promise.
What is given as (..., n) holds values of n trajectories or points, for any number of studies.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import elementwise

from analyses.paired import differences
from analyses.power import orders

POOLED = ("Mann-Whitney, pooled", "t, pooled")
"""Tests as published: of all points, as if each were a trajectory."""
BASE = ("permutation of trajectories", "t of trajectory means")
LIBERAL = ("bootstrap of trajectories", "mixed model")
"""Of few trajectories these reject more than they promise."""
TESTS = (*POOLED, *BASE, *LIBERAL)

Numbers = np.ndarray | np.floating
"""One for each study, or that of one."""

_EXACT = 20_000
"""Orders that are gone through one by one; of more, `_DRAWN` are drawn."""
_DRAWN = 9_999
_BATCH = 20


class Interval(NamedTuple):
    """A number, the ends of its interval and the p value of its being 0."""

    value: Numbers
    low: Numbers
    high: Numbers
    p_value: Numbers


def pooled(one: np.ndarray, other: np.ndarray) -> tuple[Numbers, Numbers]:
    """The p values of Mann and Whitney's test and of Student's, all points taken as independent.

    Args:
        one: (..., points).
        other: (..., points).
    """
    same = np.ptp(np.concatenate([one, other], -1), -1) == 0
    with np.errstate(all="ignore"):
        rank = stats.mannwhitneyu(one, other, axis=-1).pvalue
    return _settled(rank, same), student(one, other, equal=True).p_value


def permutation(
    one: np.ndarray,
    other: np.ndarray,
    *,
    paired: bool = False,
    seed: int = 0,
    most: int = _EXACT,
) -> Numbers:
    """The p values of the difference of means, under all ways to share trajectories among the two.

    Of more than ``most`` ways so many are drawn, or 9,999 if that is less. For pairs these are the
    ways to swap within pairs.

    Args:
        one: (..., n), means of trajectories.
        other: (..., m), likewise; of the same trajectories in the same order where paired.
        paired: whether they are.
        seed: of the draws.
        most: ways that are gone through one by one.
    """
    ways = orders(one.shape[-1], other.shape[-1], paired)
    return stats.permutation_test(
        (one, other), _apart, permutation_type="samples" if paired else "independent",
        vectorized=True, n_resamples=np.inf if ways <= most else min(most, _DRAWN), axis=-1,
        batch=_BATCH if one.ndim > 1 else _DRAWN, rng=np.random.default_rng(seed),
    ).pvalue  # fmt: skip


def student(
    one: np.ndarray,
    other: np.ndarray,
    *,
    confidence: float = 0.95,
    equal: bool = False,
    margin: float = 0.0,
) -> Interval:
    """The difference of means with Student's t: Welch's, or that of equal variances.

    Where nothing varies in either, t is infinite, or 0 / 0 where the means agree: the p value is 0
    or 1.

    Args:
        one: (..., n).
        other: (..., m).
        confidence: of the interval.
        equal: take the variances for equal.
        margin: where positive, the p value is that of the difference lying beyond it: the larger of
            two one-sided tests (Schuirmann 1987).
    """
    apart = _apart(one, other, -1)
    still = (np.ptp(one, -1) == 0) & (np.ptp(other, -1) == 0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Of values that hardly vary.
        warnings.filterwarnings("ignore", "Precision loss occurred")
        found = stats.ttest_ind(one, other, axis=-1, equal_var=equal)
        ends = found.confidence_interval(confidence)
        p_value = found.pvalue
        if margin:
            below = stats.ttest_ind(
                one + margin, other, axis=-1, equal_var=equal, alternative="greater"
            )
            above = stats.ttest_ind(
                one - margin, other, axis=-1, equal_var=equal, alternative="less"
            )
            p_value = np.maximum(below.pvalue, above.pvalue)
    limit = np.abs(apart) >= margin if margin else apart == 0
    low, high, p_value = (
        np.where(still, limiting, known)
        for limiting, known in ((apart, ends.low), (apart, ends.high), (limit, p_value))
    )
    return Interval(apart, low, high, p_value)


def bootstrap(
    one: np.ndarray,
    other: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 1999,
    seed: int = 0,
) -> Interval:
    """The difference of means with percentiles over trajectories drawn anew; liberal for few.

    Studies share their draws.

    Args:
        one: (..., n), means of trajectories.
        other: (..., m).
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the draws.
    """
    source = np.random.default_rng(seed)
    drawn = []
    for each in (one, other):
        n = each.shape[-1]
        drawn.append(each @ source.multinomial(n, [1 / n] * n, resamples).T / n)
    apart = drawn[0] - drawn[1]
    low, high = np.quantile(apart, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    beyond = np.minimum((apart <= 0).sum(-1), (apart >= 0).sum(-1))
    p_value = np.minimum(1.0, 2 * (1 + beyond) / (1 + resamples))
    return Interval(_apart(one, other, -1), low, high, p_value)


def mixed(one: np.ndarray, other: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """The difference in a model with a random intercept of each trajectory, by REML; liberal.

    With equally many points of each trajectory REML has a closed form: the variance of a
    trajectory's mean is that between trajectories, or that of all points where points of one
    trajectory vary more than trajectories do. Intervals and p values are those of the normal
    distribution, as is usual, which is too narrow for few trajectories.

    Args:
        one: (..., trajectories, points).
        other: (..., trajectories, points), of as many points.
        confidence: of the interval.
    """
    count = np.array([one.shape[-2], other.shape[-2]])
    points, total = one.shape[-1], count.sum()
    within: Any = sum(each.var(-1).sum(-1) * points for each in (one, other))
    between: Any = sum(each.mean(-1).var(-1) * each.shape[-2] * points for each in (one, other))
    variance = between / (total - 2)
    if points > 1:
        together = (between + within) / (total * points - 2)
        variance = np.where(variance < within / (total * (points - 1)), together, variance)
    return _normal(_apart(one.mean(-1), other.mean(-1), -1),
                   np.sqrt(variance / points * (1 / count).sum()), confidence)  # fmt: skip


def mixed_unequal(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], *, confidence: float = 0.95
) -> Interval | None:
    """As `mixed` where trajectories differ in their points; None where REML does not converge.

    Raises:
        ModuleNotFoundError: if statsmodels, which fits it, is not installed.
    """
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a mixed model of unequal trajectories needs statsmodels, which is not installed "
            f"({error}): pip install 'cnognp[statistics]'"
        ) from None
    rows = [*one, *other]
    group = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    effect = np.column_stack([np.ones(len(group)), group < len(one)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = MixedLM(np.concatenate(rows), effect, groups=group).fit(reml=True)
        except (np.linalg.LinAlgError, ValueError):
            return None
    error = float(fit.bse[1])
    if not fit.converged or not math.isfinite(error):
        return None
    return _normal(np.asarray(fit.params[1]), np.asarray(error), confidence)


def cliff(one: np.ndarray, other: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Cliff's delta: how much more often one is above the other than below it.

    A12, the share in which it is above with ties counted half, is (1 + delta) / 2; the interval is
    Newcombe's fifth for that share (2006), which does not collapse where the two do not overlap.

    Args:
        one: (..., n), means of trajectories.
        other: (..., m).
        confidence: of the interval.
    """
    n, m = one.shape[-1], other.shape[-1]
    share = (1 + np.sign(one[..., :, None] - other[..., None, :]).mean((-2, -1))) / 2
    z, more = float(stats.norm.ppf((1 + confidence) / 2)), (n + m) / 2 - 1

    def beyond(true: Numbers, found: Numbers, side: Numbers) -> Numbers:
        spread = true * (1 - true) * (1 + more * ((1 - true) / (2 - true) + true / (1 + true)))
        return side * (true - found) - z * np.sqrt(spread / (n * m))

    ends = []
    inner = np.clip(share, 1e-9, 1 - 1e-9)
    for side, edge in ((-1.0, 0.0), (1.0, 1.0)):
        bracket = (np.minimum(inner, edge), np.maximum(inner, edge))
        root = elementwise.find_root(beyond, bracket, args=(share, np.full_like(share, side)))
        ends.append(np.where(share == edge, edge, root.x))
    low, high = (2 * end - 1 for end in ends)
    return Interval(2 * share - 1, low, high, np.full_like(share, np.nan))


class Evidence(NamedTuple):
    """What is known of the difference of two sets of trajectories; NaN where it is not known.

    ``p_value`` is by `TESTS`; ``p_same`` that of the difference lying beyond the margin; ``spread``
    the standard deviation between trajectories, and of differences where paired.
    """

    difference: Interval
    delta: Interval
    p_value: np.ndarray
    p_same: float
    spread: float


def evidence(
    one: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    *,
    margin: float,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 1999,
    seed: int = 0,
) -> Evidence:
    """What is known of the difference of two sets of trajectories.

    Args:
        one: the values of each trajectory, finite.
        other: likewise; of the same trajectories in the same order where paired.
        margin: differences below it count as none, positive.
        paired: whether they are.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of permutations where they are drawn.
    """
    if not (one and other):
        none = Interval(*[np.asarray(np.nan)] * 4)
        return Evidence(none, none, np.full(len(TESTS), np.nan), np.nan, np.nan)
    a, b = (np.array([row.mean() for row in rows]) for rows in (one, other))
    unknown = Interval(*map(np.asarray, (a.mean() - b.mean(), *[np.nan] * 3)))
    every = pooled(*(np.concatenate(rows) for rows in (one, other)))
    if min(len(a), len(b)) < 2:
        nothing = np.array([*every, *[np.nan] * 4], float)
        return Evidence(
            unknown, unknown._replace(value=_delta(a, b, paired)), nothing, np.nan, np.nan
        )
    exact = permutation(a, b, paired=paired, seed=seed)
    if paired:
        found = differences((a - b)[None], margin, confidence)
        apart = Interval(*(found[k][0] for k in range(4)))
        drawn = bootstrap(a - b, np.zeros(1), confidence=confidence, resamples=resamples, seed=seed)
        p_value = np.array([*every, exact, apart.p_value, drawn.p_value, np.nan])
        delta = unknown._replace(value=_delta(a, b, paired))
        spread = float((a - b).std(ddof=1))
        same = _same(float(found.p_same[0]), spread, orders(len(a), len(b), paired))
        return Evidence(apart, delta, p_value, same, spread)
    apart = student(a, b, confidence=confidence)
    drawn = bootstrap(a, b, confidence=confidence, resamples=resamples, seed=seed)
    model = _mixed(one, other, confidence)
    p_value = np.array([*every, exact, apart.p_value, drawn.p_value,
                        np.nan if model is None else model.p_value])  # fmt: skip
    freedom = len(a) + len(b) - 2
    spread = math.sqrt((a.var() * len(a) + b.var() * len(b)) / freedom)
    same = float(student(a, b, margin=margin).p_value)
    same = _same(same, spread, orders(len(a), len(b), paired))
    return Evidence(apart, cliff(a, b, confidence=confidence), p_value, same, spread)


def _same(p_value: float, spread: float, count: int) -> float:
    """The p value of a difference beyond the margin, which ties everywhere do not make 0.

    Where nothing varies a t test takes for certain what an exact one gives 1 / ``count``.
    """
    return p_value if spread > 0 else max(p_value, 1 / count)


def _mixed(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], confidence: float
) -> Interval | None:
    """A mixed model; None where it is not known."""
    if len({len(row) for row in (*one, *other)}) == 1:
        return mixed(np.array(one), np.array(other), confidence=confidence)
    try:
        return mixed_unequal(one, other, confidence=confidence)
    except ModuleNotFoundError:
        return None


def _normal(apart: Numbers, error: Numbers, confidence: float) -> Interval:
    """An interval of the normal distribution; where nothing varies, as in `student`."""
    reach = stats.norm.ppf((1 + confidence) / 2) * error
    with np.errstate(all="ignore"):
        p_value = 2 * stats.norm.sf(np.abs(apart / error))
    p_value = np.where(error == 0, (apart == 0).astype(float), p_value)
    return Interval(apart, apart - reach, apart + reach, p_value)


def _delta(one: np.ndarray, other: np.ndarray, paired: bool) -> np.ndarray:
    apart = one - other if paired else np.subtract.outer(one, other)
    return np.asarray(np.sign(apart).mean())


def _apart(one: np.ndarray, other: np.ndarray, axis: int) -> Numbers:
    return one.mean(axis) - other.mean(axis)


def _settled(p_value: Numbers, same: Any) -> Numbers:
    """The p values, 1 where all values are one."""
    return np.where(same, 1.0, p_value)
