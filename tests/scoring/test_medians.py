"""Medians of cases against NumPy on resamplings written out case by case."""
import numpy as np
import pytest

from swift_citrusv.scoring.bootstrap import resampled_counts
from swift_citrusv.scoring.medians import median_of, medians_of
from swift_citrusv.scoring.task import mean, ratio


@pytest.mark.parametrize('number, clusters', [(7, 7), (8, 8), (30, 9), (200, 4), (3, 1)])
def test_the_interval_is_that_of_resampled_cases(number, clusters):
    rng = np.random.default_rng(number)
    values, groups = np.round(rng.random(number), 1), rng.integers(0, clusters, number)
    present, numbers = np.unique(groups, return_inverse=True)
    found = median_of(values, groups, repeats=200, seed=3)
    assert found.value == np.median(values) and found.count == number
    assert (found.q1, found.q3) == tuple(np.percentile(values, [25, 75]))
    if len(present) < 2:
        assert np.isnan(found.low) and np.isnan(found.high)
        return
    drawn = [np.median(np.repeat(values, counts[numbers])) for block in resampled_counts(len(present), 200, 3)
             for counts in block]  # yapf: disable
    assert len(drawn) == 200
    assert (found.low, found.high) == tuple(np.percentile(drawn, [2.5, 97.5]))


def test_which_scores_have_one():
    columns = {'dice': np.array([.5, .7, np.nan, .9]), 'right': np.array([0., 1., 1., 0.]), 'up': np.ones(4)}
    measures = (mean('dice'), mean('right'), ratio('both', 'dice', 'up'), mean('absent'))
    found = medians_of(measures, columns, np.arange(4), repeats=0)
    assert list(found) == ['dice'] and found['dice'].value == .7 and found['dice'].count == 3


def test_two_penalties_do_not_move_it():
    values = np.r_[np.full(18, 2.), 400., 400.] + np.arange(20) / 100
    found = median_of(values, np.arange(20))
    assert values.mean() > 40 and found.value < 3 and found.high < 3
