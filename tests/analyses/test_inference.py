"""Tests of populations: against closed forms, other code, and what they promise."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analyses import inference
from analyses.inference import evidence
from analyses.power import fewest, least, needed, power

# Ten points of each of five trajectories of two methods, alike within trajectories.
SOURCE = np.random.default_rng(4)
ONE, OTHER = (
    middle + SOURCE.normal(scale=0.1, size=(5, 1)) + SOURCE.normal(scale=0.03, size=(5, 10))
    for middle in (0.9, 0.8)
)
A, B = ONE.mean(-1), OTHER.mean(-1)


def test_the_exact_test_goes_through_all_252_ways():
    apart = []
    values = np.concatenate([A, B])
    for chosen in itertools.combinations(range(10), 5):
        mine = np.isin(np.arange(10), chosen)
        apart.append(values[mine].mean() - values[~mine].mean())
    found = abs(A.mean() - B.mean())
    expected = np.mean(np.abs(apart) >= found - 1e-12)
    assert inference.permutation(A, B) == pytest.approx(expected)
    signs = np.array(list(itertools.product((-1, 1), repeat=5)))
    swapped = np.abs((signs * (A - B)).mean(-1))
    expected = np.mean(swapped >= abs((A - B).mean()) - 1e-12)
    assert inference.permutation(A, B, paired=True) == pytest.approx(expected)


def test_no_data_of_five_against_five_have_a_smaller_p_value_than_2_of_252():
    apart = inference.permutation(np.arange(5.0), np.arange(5.0) + 10)
    assert apart == pytest.approx(2 / 252) == least(5, 5)
    paired = inference.permutation(
        np.arange(5.0), np.arange(5.0) + [10, 11, 12, 13, 14], paired=True
    )
    assert paired == pytest.approx(2 / 32) == least(5, 5, paired=True)
    assert 60 * least(5, 5) > 0.05 and fewest(0.05 / 60) == 7


def test_pooled_tests_are_those_of_scipy():
    one, other = ONE.ravel(), OTHER.ravel()
    rank, t = inference.pooled(one, other)
    assert rank == pytest.approx(stats.mannwhitneyu(one, other).pvalue)
    assert t == pytest.approx(stats.ttest_ind(one, other).pvalue)
    several = inference.pooled(np.stack([one, other]), np.stack([other, one]))
    np.testing.assert_allclose(several, [[rank, rank], [t, t]])


def test_t_of_means_and_equivalence_are_those_of_welch():
    found = inference.student(A, B, confidence=0.9)
    test = stats.ttest_ind(A, B, equal_var=False)
    ends = test.confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(test.pvalue)
    # The same to within the margin at 5 % is where the interval of 90 % ends at it.
    edge = max(abs(found.low), abs(found.high))
    assert inference.student(A, B, margin=edge).p_value == pytest.approx(0.05)


def test_power_is_that_of_the_literature():
    assert power(1.0, 5, 5) == pytest.approx(0.2863, abs=5e-5)
    assert needed(1.0) == pytest.approx(16.71, abs=5e-3)
    assert power(2.024, 5, 5) == pytest.approx(0.8, abs=5e-4)
    assert needed(0.3) == pytest.approx(175.3847, abs=5e-5)
    assert power(needed(0.3, paired=True) ** 0 * 0.3, needed(0.3, paired=True)) == pytest.approx(
        0.8
    )
    assert power(0.0, 5, 5) == pytest.approx(0.05) and power(80.0, 5, 5) == 1
    assert math.isnan(needed(0.0)) and math.isnan(power(1.0, 1, 1)) and needed(50.0) == 2


def test_power_far_out_is_that_of_drawn_tests():
    source, count = np.random.default_rng(0), 100_000
    drawn = (source.normal(size=count) + 4 * 2.5**0.5) / np.sqrt(source.chisquare(8, count) / 8)
    found = np.mean(np.abs(drawn) > stats.t.isf(0.05 / 120, 8))
    assert power(4.0, 5, 5, 0.05 / 60) == pytest.approx(found, abs=4 * (0.25 / count) ** 0.5)


def test_cliffs_delta_counts_pairs_and_its_interval_does_not_collapse():
    found = inference.cliff(A, B)
    signs = [np.sign(a - b) for a in A for b in B]
    assert found.value == pytest.approx(np.mean(signs))
    assert -1 <= found.low < found.value < found.high <= 1
    apart = inference.cliff(np.arange(5.0), np.arange(5.0) + 10)
    assert apart.value == apart.low == -1 and -1 < apart.high < 0
    mirrored = inference.cliff(np.arange(5.0) + 10, np.arange(5.0))
    assert (mirrored.low, mirrored.high) == pytest.approx((-apart.high, 1))


def test_the_closed_form_of_the_mixed_model_is_reml():
    pytest.importorskip("statsmodels")
    closed = inference.mixed(ONE, OTHER)
    fitted = inference.mixed_unequal(list(ONE), list(OTHER))
    assert fitted.value == pytest.approx(closed.value, rel=1e-6)
    assert fitted.high == pytest.approx(closed.high, rel=1e-3)


def test_trajectories_that_vary_less_than_their_points_are_taken_as_points():
    noise = np.random.default_rng(1).normal(size=(2, 5, 10))
    one, other = noise - noise.mean(-1, keepdims=True) + [[[0.0]], [[1.0]]]
    closed = inference.mixed(one, other, confidence=0.95)
    error = np.sqrt(stats.ttest_ind(one.ravel(), other.ravel())._standard_error ** 2)
    assert closed.high - closed.value == pytest.approx(stats.norm.ppf(0.975) * error)


def test_a_mixed_model_of_unequal_trajectories_needs_an_extra_or_is_left_out(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "statsmodels.regression.mixed_linear_model", None)
    unequal = [*ONE[:4], ONE[4][:7]]
    with pytest.raises(ModuleNotFoundError, match=r"cnognp\[statistics\]"):
        inference.mixed_unequal(unequal, list(OTHER))
    found = evidence(unequal, list(OTHER), margin=0.005)
    assert np.isnan(found.p_value[-1]) and np.isfinite(found.p_value[:-1]).all()


def test_ties_everywhere_are_no_difference_and_one_trajectory_says_nothing():
    still = [np.full(10, 0.9)] * 5
    found = evidence(still, still, margin=0.005)
    np.testing.assert_array_equal(found.p_value, 1)
    assert found.difference[:3] == (0, 0, 0) and found.delta.value == 0
    # 1 of the 252 ways to part ten into five and five.
    assert found.p_same == 1 / 252
    paired = evidence(still, still, margin=0.005, paired=True)
    np.testing.assert_array_equal(paired.p_value[:-1], 1)
    assert paired.p_same == 1 / 2**5
    far = evidence(still, [np.full(10, 0.8)] * 5, margin=0.005)
    assert far.p_same == 1
    alone = evidence([ONE[0]], list(OTHER), margin=0.005)
    assert np.isfinite(alone.p_value[:2]).all() and np.isnan(alone.p_value[2:]).all()
    assert np.isnan([alone.difference.low, alone.p_same, alone.spread]).all()


def test_evidence_puts_together_what_each_test_says():
    found = evidence(list(ONE), list(OTHER), margin=0.005, resamples=999)
    assert found.p_value[2] == inference.permutation(A, B)
    assert found.p_value[3] == inference.student(A, B).p_value
    assert found.p_value[5] == inference.mixed(ONE, OTHER).p_value
    pooled = math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / 2)
    assert found.spread == pytest.approx(pooled)
    paired = evidence(list(ONE), list(OTHER), margin=0.005, paired=True)
    assert paired.p_value[3] == pytest.approx(stats.ttest_rel(A, B).pvalue)
    assert paired.spread == pytest.approx((A - B).std(ddof=1))
