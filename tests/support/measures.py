"""The scores of a task, computed independently of the evaluation engine."""
import numpy as np
from collections.abc import Mapping, Sequence
from typing import Any

from swift_citrusv.scoring.cases import Case
from swift_citrusv.scoring.task import CorpusMeasure


def scores_of(task: Any, cases: Sequence[Case]) -> dict[str, float]:
    """All measures of a task over some cases."""
    columns = {name: [case.values.get(name, np.nan) for case in cases] for case in cases for name in case.values}
    return scores_of_columns(task, columns, len(cases), [case.data for case in cases])


def scores_of_columns(task: Any, columns: Mapping[str, Any], num_cases: int, data: Any = None) -> dict[str, float]:
    """All measures of a task from the columns of its cases; a missing column is NaN."""
    scores = {}
    for measure in task.measures:
        if isinstance(measure, CorpusMeasure):
            scores[measure.name] = measure.score(data, np.ones(num_cases, np.int64))
            continue
        sums = []
        for name in measure.columns:
            values = np.asarray(columns.get(name, np.full(num_cases, np.nan)), float)
            sums += [np.nansum(values), np.count_nonzero(~np.isnan(values))]
        scores[measure.name] = float(measure.formula(np.array(sums, float)))
    return scores
