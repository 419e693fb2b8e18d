"""What tests of populations promise, found in simulated studies, is what is known of them."""

import numpy as np
import pytest

from analyses.false_positives import Config, study
from analyses.inference import TESTS

HALF_WIDTH = 3.3 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.fixture(scope="module")
def found():
    return study(Config())


def rate(found, name):
    return found.rejected[TESTS.index(name)]


def test_pooled_tests_reject_what_is_true_and_those_of_trajectories_keep_their_level(found):
    for name in TESTS[:2]:
        assert abs(rate(found, name)[0] - 0.05) < HALF_WIDTH
        assert (rate(found, name)[1:] > 0.35).all() and rate(found, name)[2] > 0.5
    # 12 of 252 ways are at most 5 %.
    np.testing.assert_allclose(
        rate(found, "permutation of trajectories"), 12 / 252, atol=HALF_WIDTH
    )
    assert (rate(found, "t of trajectory means") < 0.05 + HALF_WIDTH).all()
    assert (rate(found, "bootstrap of trajectories") > 0.08).all()
    assert (rate(found, "mixed model")[1:] > 0.05 + HALF_WIDTH / 3).all()


def test_the_mixed_model_of_five_trajectories_takes_the_normal_distribution_for_students():
    """Points that are as good as their trajectory: |t| with 8 degrees of freedom beyond 1.96."""
    from scipy.stats import t

    found = study(Config(correlations=(1.0,), counts=(2,)))
    assert rate(found, "mixed model")[0] == pytest.approx(2 * t.sf(1.95996, 8), abs=0.021)


def test_intervals_of_trajectories_cover_and_pooled_ones_do_not(found):
    covered = dict(zip(found.intervals, found.covered, strict=True))
    assert (covered["difference: t of trajectory means"] > 0.95 - HALF_WIDTH).all()
    assert (covered["Cliff's delta"] > 0.94).all()
    assert covered["difference: t, pooled"][2] < 0.5
    assert (covered["difference: bootstrap of trajectories"] < 0.92).all()


def test_power_is_that_of_the_closed_form_and_three_trajectories_have_none(found):
    own = found.power[1]
    known = found.counts >= 7
    # Welch's test of very few trajectories has a little less than Student's.
    np.testing.assert_allclose(own[known], found.predicted[known], atol=0.045)
    assert (own < found.predicted + 0.035).all()
    assert found.power[0, 0] < 0.01 and found.least[0] == pytest.approx(0.1)


def test_equal_seeds_give_equal_studies_and_it_says_what_was_found(found):
    again = study(Config())
    np.testing.assert_array_equal(again.rejected, found.rejected)
    assert "keep their promise: permutation of trajectories, t of trajectory means." in (
        found.conclusion
    )
    assert "none of 7 or more comparisons" in found.conclusion
    assert found.provenance["seconds"] < 60


@pytest.mark.parametrize(("keywords", "message"), [
    ({"studies": 10}, "studies must be at least 100, got 10"),
    ({"trajectories": 1}, "trajectories must be at least 2"),
    ({"correlations": (1.5,)}, "correlations must lie from 0 to 1"),
    ({"counts": (1,)}, "counts must be at least 2"),
    ({"level": 0.7}, "level must lie between 0 and 0.5"),
])  # fmt: skip
def test_what_is_out_of_range_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        Config(**keywords)
