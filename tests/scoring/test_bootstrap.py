"""Intervals and tests: against SciPy, against loops, and their error rates."""
import numpy as np
import pytest
from scipy import stats
from support.scored import weighted_median
from typing import Any

from swift_citrusv.scoring.bootstrap import (RunCases, bootstrap_scores, cluster_indices, cluster_sums, macro_scores,
                                             mean_of_known, paired_differences, resampled_counts)
from swift_citrusv.scoring.task import CorpusMeasure, f1, mean, ratio

MEASURES = (mean('a'), ratio('r', 'a', 'b'), f1('f', 'a', 'b', 'b'), CorpusMeasure('m', weighted_median))


def cases(number, seed=0, holes=True):
    generator = np.random.default_rng(seed)
    columns = {'a': generator.random(number), 'b': generator.random(number) + 0.5}
    if holes:
        columns['a'][generator.random(number) < 0.2] = np.nan
    return columns, [int(value) for value in generator.integers(0, 100, number)]


def test_values_are_those_of_numpy():
    columns, data = cases(50)
    found = bootstrap_scores(MEASURES, columns, data, np.arange(50) // 5, repeats=0)
    assert found['a'].value == pytest.approx(np.nanmean(columns['a']))
    assert found['r'].value == pytest.approx(np.nansum(columns['a']) / columns['b'].sum())
    assert found['f'].value == pytest.approx(np.nansum(columns['a']) / columns['b'].sum())
    assert found['m'].value == sorted(data)[25]
    assert found['a'].count == np.count_nonzero(~np.isnan(columns['a'])) and found['r'].clusters == 10
    assert np.isnan(found['a'].low)


def test_every_draw_against_a_loop():
    """The same resamplings, cases repeated one by one."""
    columns, data = cases(30, 1)
    clusters = cluster_indices([str(i // 3) for i in range(30)])
    found = bootstrap_scores(MEASURES, columns, data, clusters, repeats=60, seed=5)
    values: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}
    for block in resampled_counts(10, 60, 5):
        for counts in block:
            chosen = [i for i in range(30) for _ in range(counts[i // 3])]
            a, b = columns['a'][chosen], columns['b'][chosen]
            values['a'].append(np.nanmean(a))
            values['r'].append(np.nansum(a) / np.nansum(b))
            values['f'].append(2 * np.nansum(a) / (2 * np.nansum(b)))
            drawn = sorted(data[i] for i in chosen)
            values['m'].append(drawn[len(drawn) // 2])
    for name, drawn in values.items():
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))


def test_resampled_counts_are_multinomial_and_in_blocks(monkeypatch):
    whole = np.concatenate([*resampled_counts(7, 500, 3)])
    assert whole.shape == (500, 7) and (whole.sum(axis=1) == 7).all()
    assert abs(whole.mean() - 1) < 1e-9 and abs(whole.var() - 6 / 7) < 0.05
    monkeypatch.setattr('swift_citrusv.scoring.bootstrap._MAX_COUNTS', 70)
    assert [len(block) for block in resampled_counts(7, 25, 3)] == [10, 10, 5]


def test_interval_is_that_of_scipy():
    """Percentile intervals of a mean of single cases."""
    values = np.random.default_rng(2).gamma(2, size=200)
    found = bootstrap_scores((mean('a'), ), {'a': values}, [], np.arange(200), repeats=5000)['a']
    there = stats.bootstrap((values, ), np.mean, n_resamples=5000, method='percentile', rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((there.low, there.high), rel=0.02)


def test_clusters_are_resampled_as_a_unit():
    """Ten copies of a case give the interval of one."""
    values = np.random.default_rng(3).random(40)
    single = bootstrap_scores((mean('a'), ), {'a': values}, [], np.arange(40), 400)['a']
    copies = bootstrap_scores((mean('a'), ), {'a': values.repeat(10)}, [], np.arange(40).repeat(10), 400)['a']
    wrong = bootstrap_scores((mean('a'), ), {'a': values.repeat(10)}, [], np.arange(400), 400)['a']
    assert (copies.value, copies.low, copies.high) == pytest.approx((single.value, single.low, single.high))
    assert copies.clusters == 40 and copies.count == 400
    assert wrong.high - wrong.low < 0.5 * (single.high - single.low)


def test_intervals_have_their_coverage():
    """Over 200 samples, about 95 % of the intervals contain the true mean."""
    generator = np.random.default_rng(4)
    held = 0
    for i in range(200):
        found = bootstrap_scores((mean('a'), ), {'a': generator.normal(1, 1, 60)}, [], np.arange(60), 300, i)['a']
        held += found.low <= 1 <= found.high
    assert 180 <= held <= 198


def test_too_little_for_an_interval():
    for values, clusters in (([np.nan] * 4, [0, 1, 2, 3]), ([0.5], [0]), ([0.5] * 4, [0] * 4), ([], [])):
        column = np.array(values, np.float64)
        found = bootstrap_scores((mean('a'), ), {'a': column}, [], np.array(clusters, np.int64), 50)['a']
        assert np.isnan(found.low) and np.isnan(found.high), (values, clusters)
        assert found.value == 0.5 if 0.5 in values else np.isnan(found.value), (values, clusters)


def test_a_column_that_no_case_has():
    found = bootstrap_scores((mean('other'), ), {}, [], np.arange(4), 10)['other']
    assert np.isnan(found.value) and found.count == 0


def test_sums_by_cluster():
    column = np.array([1, np.nan, 3, 4.])
    np.testing.assert_array_equal(cluster_sums([column], np.array([0, 0, 2, 2]), 3), [[1, 1], [0, 0], [7, 2]])


def test_macro_means():
    """Against numpy means of groups, and each resampling against a loop."""
    columns, _ = cases(60, 6)
    groups = np.random.default_rng(0).integers(-1, 3, 60)
    clusters = np.arange(60) // 2
    found = macro_scores((mean('a'), ratio('r', 'a', 'b')), columns, clusters, groups, 40, 9)
    assert found['a'].value == pytest.approx(np.mean([np.nanmean(columns['a'][groups == g]) for g in range(3)]))
    assert found['a'].count == np.count_nonzero(groups >= 0)
    present = np.unique(clusters[groups >= 0])
    values = []
    for block in resampled_counts(len(present), 40, 9):
        for counts in block:
            weights = np.zeros(30, int)
            weights[present] = counts
            means = []
            for g in range(3):
                chosen = [i for i in range(60) if groups[i] == g for _ in range(weights[i // 2])]
                means.append(np.nanmean(columns['a'][chosen]) if chosen else np.nan)
            values.append(np.nanmean(means))
    assert (found['a'].low, found['a'].high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert macro_scores((mean('a'), ), columns, clusters, np.full(60, -1)) == {}
    np.testing.assert_array_equal(mean_of_known(np.array([[1, np.nan, 3], [np.nan] * 3])), [2, np.nan])


# ---- two runs


def run_of(columns: dict, data: list, clusters: Any) -> RunCases:
    return RunCases(columns, data, np.asarray(clusters))


def test_differences_against_a_loop():
    one, two = cases(24, 7), cases(24, 8)
    clusters = np.arange(24) // 2
    found = paired_differences(MEASURES, run_of(one[0], one[1], clusters), run_of(two[0], two[1], clusters), 12, 50, 2)
    gap = found['a']
    assert (gap.first, gap.second) == pytest.approx((np.nanmean(one[0]['a']), np.nanmean(two[0]['a'])))
    drawn = []
    for block in resampled_counts(12, 50, 2):
        for counts in block:
            chosen = [i for i in range(24) for _ in range(counts[i // 2])]
            drawn.append(np.nanmean(two[0]['a'][chosen]) - np.nanmean(one[0]['a'][chosen]))
    assert (gap.low, gap.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert found['m'].first == sorted(one[1])[12] and 0 < found['m'].p_value <= 1


def test_p_value_is_that_of_scipy():
    """A paired permutation test of means."""
    generator = np.random.default_rng(9)
    for shift in (0, 0.2, 0.5):
        one = generator.normal(0, 1, 30)
        two = one + generator.normal(shift, 0.5, 30)
        gap = paired_differences((mean('a'), ), run_of({'a': one}, [], np.arange(30)),
                                 run_of({'a': two}, [], np.arange(30)), 30, 4000)['a']
        there = stats.permutation_test((two, one), lambda x, y: np.mean(x) - np.mean(y), permutation_type='samples',
                                       n_resamples=4000, rng=0)  # yapf: disable
        assert gap.p_value == pytest.approx(there.pvalue, abs=0.025)


def test_false_positive_rate():
    generator = np.random.default_rng(10)
    low = 0
    for i in range(200):
        one, two = generator.normal(size=(2, 20))
        gap = paired_differences((mean('a'), ), run_of({'a': one}, [], np.arange(20)),
                                 run_of({'a': two}, [], np.arange(20)), 20, 200, i)['a']
        low += gap.p_value < 0.05
    assert low <= 20


def test_equal_runs():
    columns, data = cases(20, 1)
    run = RunCases(columns, data, np.arange(20))
    for gap in paired_differences(MEASURES, run, run, 20, 100).values():
        assert gap.first == gap.second and (gap.low, gap.high, gap.p_value) == (0, 0, 1)


def test_runs_with_different_numbers_of_cases():
    """An extra mask in one answer."""
    one, two = {'a': np.array([1., 1., 0.])}, {'a': np.array([1., 1., 0., 0.])}
    gap = paired_differences((mean('a'), ), run_of(one, [], [0, 1, 2]), run_of(two, [], [0, 1, 2, 2]), 3, 50)['a']
    assert (gap.first, gap.second) == pytest.approx((2 / 3, 1 / 2))
