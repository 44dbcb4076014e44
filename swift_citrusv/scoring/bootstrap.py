"""Confidence intervals and paired tests by resampling clusters of cases (all cases of a patient, of an image)."""
import numpy as np
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .task import CorpusMeasure, Measure, divide_or_nan

# Resampled counts in memory at a time.
_MAX_COUNTS = 2**22


@dataclass(frozen=True)
class Score:
    """A score with its confidence interval.

    Attributes:
        value: NaN if the score is undefined.
        low, high: 2.5 % and 97.5 % percentiles over the resamplings in which the score is defined; NaN with fewer than
            two clusters.
        count: Number of cases that have a value.
        clusters: Number of clusters of those cases.
    """
    value: float
    low: float
    high: float
    count: int
    clusters: int


def cluster_indices(clusters: Sequence[str]) -> np.ndarray:
    """int64 [n]: an index for each cluster name, from 0 in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], np.int64)


def cluster_sums(columns: Sequence[np.ndarray], clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """Sums and counts of columns for each cluster.

    Args:
        columns: float64 [number of cases] each; NaN is ignored.
        clusters: int64 [number of cases], the cluster of each case.
        num_clusters: Number of clusters.

    Returns:
        float64 [num_clusters, 2 * number of columns]: the sum of each column, followed by its number of values.
    """
    parts = []
    for column in columns:
        known = ~np.isnan(column)
        parts.append(np.bincount(clusters[known], column[known], num_clusters))
        parts.append(np.bincount(clusters[known], minlength=num_clusters).astype(np.float64))
    return np.stack(parts, axis=1) if parts else np.zeros((num_clusters, 0))


def resampled_counts(num_clusters: int, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """Resamples clusters with replacement.

    Yields:
        int64 [block, num_clusters]: how often each cluster was drawn; each row sums to num_clusters.
    """
    generator = np.random.default_rng(seed)
    size = max(1, _MAX_COUNTS // max(num_clusters, 1))
    for start in range(0, repeats, size):
        block = min(size, repeats - start)
        drawn = generator.integers(0, num_clusters, (block, num_clusters))
        drawn += np.arange(block)[:, None] * num_clusters
        yield np.bincount(drawn.ravel(), minlength=block * num_clusters).reshape(block, num_clusters)


def bootstrap_scores(measures: Sequence[Measure | CorpusMeasure],
                     columns: dict[str, np.ndarray],
                     data: Sequence[Any],
                     clusters: np.ndarray,
                     repeats: int = 1000,
                     seed: int = 0) -> dict[str, Score]:
    """Scores a set of cases, with percentile intervals of the cluster bootstrap.

    All measures share the same resamplings.

    Args:
        measures: The measures of the task.
        columns: float64 [number of cases] by column name.
        data: `Case.data` of each case, for `CorpusMeasure`s.
        clusters: int64 [number of cases], the cluster of each case.
        repeats: Number of resamplings; 0 for no intervals.
        seed: Random seed of the resamplings.

    Returns:
        The scores by measure name, in the order of `measures`.
    """
    # A subset of the cases resamples only its own clusters.
    present, numbers = np.unique(clusters, return_inverse=True)
    found = {}
    sums: list[tuple[Measure, np.ndarray]] = []
    weighted: list[CorpusMeasure] = []
    for measure in measures:
        if isinstance(measure, CorpusMeasure):
            weighted.append(measure)
            value = measure.score(data, np.ones(len(clusters), np.int64)) if len(clusters) else np.nan
            count, num_clusters = len(clusters), len(present)
        else:
            chosen = [columns.get(name, np.full(len(clusters), np.nan)) for name in measure.columns]
            table = cluster_sums(chosen, numbers, len(present))
            sums.append((measure, table))
            value = float(measure.formula(table.sum(axis=0)))
            known = ~np.isnan(chosen[0])
            count, num_clusters = int(known.sum()), len(np.unique(numbers[known]))
        found[measure.name] = Score(float(value), np.nan, np.nan, count, num_clusters)
    if repeats and len(present) > 1:
        for name, values in _resampled(sums, weighted, data, numbers, len(present), repeats, seed).items():
            if found[name].clusters > 1:
                low, high = percentile_interval(values)
                found[name] = replace(found[name], low=low, high=high)
    return found


def macro_scores(measures: Sequence[Measure | CorpusMeasure],
                 columns: dict[str, np.ndarray],
                 clusters: np.ndarray,
                 groups: np.ndarray,
                 repeats: int = 1000,
                 seed: int = 0) -> dict[str, Score]:
    """The unweighted mean of each score over groups, with its interval. Groups without a defined score are ignored.

    Args:
        measures: The measures of the task; a `CorpusMeasure` has no macro mean.
        columns: float64 [number of cases] by column name.
        clusters: int64 [number of cases], the cluster of each case.
        groups: int64 [number of cases], from 0; -1 for cases without a group.
        repeats, seed: As in `bootstrap_scores`.
    """
    grouped = groups >= 0
    present, numbers = np.unique(clusters[grouped], return_inverse=True)
    num_groups = int(groups.max(initial=-1)) + 1
    plain = [measure for measure in measures if isinstance(measure, Measure)]
    if not num_groups:
        return {}
    sums = []
    for measure in plain:
        chosen = [columns.get(name, np.full(len(clusters), np.nan))[grouped] for name in measure.columns]
        # One row for each pair of cluster and group.
        table = cluster_sums(chosen, numbers * num_groups + groups[grouped], len(present) * num_groups)
        sums.append(table.reshape(len(present), -1))

    def values_of(counts: np.ndarray) -> list[np.ndarray]:
        values = [measure.formula((counts @ table).reshape(len(counts), num_groups, -1))
                  for measure, table in zip(plain, sums)]  # yapf: disable
        return [mean_of_known(value) for value in values]

    values = [value[0] for value in values_of(np.ones((1, len(present)), np.int64))]
    ranges = [(np.nan, np.nan)] * len(plain)
    if repeats and len(present) > 1:
        blocks = [values_of(block) for block in resampled_counts(len(present), repeats, seed)]
        ranges = [percentile_interval(np.concatenate(parts)) for parts in zip(*blocks)]
    return {
        measure.name: Score(float(value), *limits, int(grouped.sum()), len(present))
        for measure, value, limits in zip(plain, values, ranges)
    }


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis, ignoring NaN."""
    return divide_or_nan(np.nansum(values, axis=-1), np.count_nonzero(~np.isnan(values), axis=-1))


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % percentiles, ignoring NaN; NaN if there is no value."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _resampled(sums: Sequence[tuple[Measure, np.ndarray]], weighted: Sequence[CorpusMeasure], data: Sequence[Any],
               numbers: np.ndarray, num_clusters: int, repeats: int, seed: int) -> dict[str, np.ndarray]:
    values: dict[str, list[np.ndarray]] = {measure.name: [] for measure in [m for m, _ in sums] + [*weighted]}
    for block in resampled_counts(num_clusters, repeats, seed):
        for measure, table in sums:
            values[measure.name].append(measure.formula(block @ table))
        for corpus in weighted:
            values[corpus.name].append(np.array([corpus.score(data, counts[numbers]) for counts in block]))
    return {name: np.concatenate(parts) for name, parts in values.items()}


@dataclass(frozen=True)
class RunCases:
    """The cases of one of two runs that are compared.

    Attributes:
        columns: float64 [number of cases] by column name.
        data: `Case.data` of each case, for `CorpusMeasure`s.
        clusters: int64 [number of cases], with the same indices in both runs. The numbers of cases may differ: an
            answer with an extra mask has an extra case.
    """
    columns: dict[str, np.ndarray]
    data: Sequence[Any]
    clusters: np.ndarray


@dataclass(frozen=True)
class Difference:
    """The difference between two runs on the same rows.

    Attributes:
        first, second: The scores of the two runs.
        low, high: 95 % interval of second - first; both runs use the same resamplings.
        p_value: Two-sided p-value of a paired permutation test: under the null hypothesis the two runs' answers to a
            cluster are exchangeable.
        clusters: Number of clusters.
    """
    first: float
    second: float
    low: float
    high: float
    p_value: float
    clusters: int


def paired_differences(measures: Sequence[Measure | CorpusMeasure],
                       first: RunCases,
                       second: RunCases,
                       num_clusters: int,
                       repeats: int = 1000,
                       seed: int = 0) -> dict[str, Difference]:
    """Compares two runs.

    Args:
        measures: The measures of the task.
        first, second: The cases of the two runs.
        num_clusters: Number of clusters, the same in both.
        repeats: Number of resamplings, and of permutations.
        seed: Random seed of both.

    Returns:
        The differences by measure name, in the order of `measures`.
    """
    found = {}
    for measure in measures:
        pair = _CorpusPair if isinstance(measure, CorpusMeasure) else _SumsPair
        both = pair(measure, first, second, num_clusters)  # type: ignore[arg-type]
        ones, zeros = np.ones((1, num_clusters), np.int64), np.zeros((1, num_clusters), bool)
        one, two = (float(value[0]) for value in both(ones, zeros))
        low = high = p_value = np.nan
        if repeats and num_clusters > 1 and not np.isnan([one, two]).any():
            drawn = _gaps(
                both(block, np.zeros_like(block, bool)) for block in resampled_counts(num_clusters, repeats, seed))
            low, high = percentile_interval(drawn)
            swapped = _gaps(both(np.ones_like(block, np.int64), block) for block in _swaps(num_clusters, repeats, seed))
            # The observed assignment counts as one permutation. The tolerance is for sums in another order.
            extreme = np.count_nonzero(np.abs(swapped) >= abs(two - one) - 1e-12)
            p_value = (extreme + 1) / (len(swapped) + 1)
        found[measure.name] = Difference(one, two, low, high, p_value, num_clusters)
    return found


def _gaps(values: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    gaps = np.concatenate([second - first for first, second in values])
    return gaps[~np.isnan(gaps)]


def _swaps(num_clusters: int, repeats: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    size = max(1, _MAX_COUNTS // max(num_clusters, 1))
    for start in range(0, repeats, size):
        yield generator.integers(0, 2, (min(size, repeats - start), num_clusters), np.int8).astype(bool)


class _SumsPair:
    """Scores of two resampled runs, with some clusters swapped between them, computed from sums."""

    def __init__(self, measure: Measure, first: RunCases, second: RunCases, num_clusters: int) -> None:
        self.formula = measure.formula
        self.sums = []
        for run in (first, second):
            columns = [run.columns.get(name, np.full(len(run.clusters), np.nan)) for name in measure.columns]
            self.sums.append(cluster_sums(columns, run.clusters, num_clusters))

    def __call__(self, counts: np.ndarray, swapped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, two = self.sums
        here, there = np.where(swapped, 0, counts), np.where(swapped, counts, 0)
        return self.formula(here @ one + there @ two), self.formula(there @ one + here @ two)


class _CorpusPair:
    """As `_SumsPair`, for a `CorpusMeasure`."""

    def __init__(self, measure: CorpusMeasure, first: RunCases, second: RunCases, num_clusters: int) -> None:
        self.measure = measure
        self.data = [*first.data, *second.data]
        self.clusters = np.concatenate([first.clusters, second.clusters])
        self.is_second = np.arange(len(self.clusters)) >= len(first.clusters)

    def __call__(self, counts: np.ndarray, swapped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values: tuple[list[float], list[float]] = ([], [])
        for count, swap in zip(counts, swapped):
            own = self.is_second ^ swap[self.clusters]
            for side in (0, 1):
                # Always the same list object, so that a measure can cache what it derives from it.
                weights = np.where(own == bool(side), count[self.clusters], 0)
                values[side].append(self.measure.score(self.data, weights))
        return np.array(values[0]), np.array(values[1])
