"""Medians and quartiles of scores of single cases, with intervals of the cluster bootstrap.

Beside a mean they show what it hides: two cases with the largest possible distance move a mean, and not a median.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .bootstrap import percentile_interval, resampled_counts
from .task import CorpusMeasure, Measure

# Weights in memory at a time.
_MAX_WEIGHTS = 2**22


@dataclass(frozen=True)
class Median:
    """The median of a score over cases.

    Attributes:
        value: The median; of an even number of cases the mean of the two in the middle.
        low, high: 2.5 % and 97.5 % percentiles over resamplings of the clusters; NaN with fewer than two clusters.
        q1, q3: The quartiles (NumPy's linear interpolation).
        count: Number of cases that have a value.
    """
    value: float
    low: float
    high: float
    q1: float
    q3: float
    count: int


def medians_of(measures: Sequence[Measure | CorpusMeasure],
               columns: dict[str, np.ndarray],
               clusters: np.ndarray,
               repeats: int = 1000,
               seed: int = 0) -> dict[str, Median]:
    """The medians of the measures that single cases have.

    Scores with at most two values (right and wrong) have none: their mean says all. All measures share the resamplings
    of `bootstrap_scores`.

    Args:
        measures: The measures of the task.
        columns: float64 [number of cases] by column name; NaN for none.
        clusters: int64 [number of cases], the cluster of each case.
        repeats, seed: As in `bootstrap_scores`.

    Returns:
        By measure name, in the order of `measures`.
    """
    found = {}
    for measure in measures:
        if not isinstance(measure, Measure) or measure.per_case not in columns:
            continue
        values = columns[measure.per_case]
        known = ~np.isnan(values)
        if len(np.unique(values[known])) > 2:
            found[measure.name] = median_of(values[known], clusters[known], repeats, seed)
    return found


def median_of(values: np.ndarray, clusters: np.ndarray, repeats: int = 1000, seed: int = 0) -> Median:
    """The median of values, with its interval.

    Args:
        values: float64 [n], n > 0, without NaN.
        clusters: int64 [n], the cluster of each value.
        repeats, seed: As in `bootstrap_scores`.
    """
    order = np.argsort(values, kind='stable')
    ordered = values[order]
    present, numbers = np.unique(clusters[order], return_inverse=True)
    q1, middle, q3 = (float(value) for value in np.percentile(ordered, [25, 50, 75]))
    low = high = np.nan
    if repeats and len(present) > 1:
        drawn: list[np.ndarray] = []
        step = max(1, _MAX_WEIGHTS // len(ordered))
        for counts in resampled_counts(len(present), repeats, seed):
            drawn += [_weighted_medians(ordered, counts[start:start + step][:, numbers])
                      for start in range(0, len(counts), step)]  # yapf: disable
        low, high = percentile_interval(np.concatenate(drawn))
    return Median(middle, low, high, q1, q3, len(ordered))


def _weighted_medians(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The medians of ascending values [n] that occur as often as `weights` [repeats, n] say; NaN for no value."""
    ends = weights.cumsum(axis=1)
    totals = ends[:, -1]
    places = [(ends <= (totals - 1 + shift)[:, None] // 2).sum(axis=1) for shift in (0, 1)]
    lower, upper = (ordered[np.minimum(place, len(ordered) - 1)] for place in places)
    return np.where(totals > 0, (lower + upper) / 2, np.nan)
