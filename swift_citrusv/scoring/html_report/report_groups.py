"""Charts of the report: how the single cases are distributed, and how groups of them score."""
import math
import numpy as np
from collections.abc import Mapping, Sequence

from ..bootstrap import Score
from ..evaluate import Evaluation
from ..task import Corpus, Measure
from .charts import MAX_DOTS, axis_of, bars, few, forest, histogram
from .markup import escaped, fold, shortened, table
from .number_format import cell, forest_row, key_of, shown_name

# Of the groups of a column the chart shows so many and the table so many, the largest; scores.json has all.
MAX_CHARTED, MAX_LISTED = 30, 500
_MAX_HISTOGRAMS = 6

# ---- single cases


def distributions(evaluation: Evaluation) -> str:
    """A chart of each column that says how good a single case is."""
    columns: dict[str, list[Measure]] = {}
    for measure in evaluation.task.measures:
        if isinstance(measure, Measure) and measure.per_case is not None:
            columns.setdefault(measure.per_case, []).append(measure)
    drawn, empty = [], []
    for measures in columns.values():
        values = _cases(measures[0], evaluation)
        name = ', '.join(measure.name for measure in measures)
        if values is None:
            empty.append(name)
        else:
            drawn.append(_distribution(measures[0], name, values[np.isfinite(values)], len(values)))
    if not drawn:
        return '<p>No score of this evaluation says how good a single case is.</p>'
    found = f'<div class="charts">{"".join(drawn[:_MAX_HISTOGRAMS])}</div>'
    if len(drawn) > _MAX_HISTOGRAMS:
        rest = ''.join(drawn[_MAX_HISTOGRAMS:])
        found += fold(f'{len(drawn) - _MAX_HISTOGRAMS} more', f'<div class="charts">{rest}</div>')
    return found + (f'<p>No case has a value of {escaped(", ".join(empty))}.</p>' if empty else '')


def _cases(measure: Measure | Corpus, evaluation: Evaluation) -> np.ndarray | None:
    """float64 [number of cases], in percent where the measure is; None where no case has a finite value."""
    if not isinstance(measure, Measure) or measure.per_case is None:
        return None
    values = evaluation.table.columns.get(measure.per_case)
    if values is None or not np.isfinite(values).any():
        return None
    return values * (100 if measure.percent else 1)


def _distribution(measure: Measure, name: str, values: np.ndarray, num_cases: int) -> str:
    unit = ', in %' * measure.percent + ', lower is better' * (not measure.higher_is_better)
    axis = axis_of(values, f'{measure.name} of a case{unit}', measure.percent)
    if few(values):
        chart, said = bars(values, axis), ''
    else:
        digits = max(measure.digits - measure.percent, 0)
        low, median, high = (f'{value:,.{digits}f}' for value in np.percentile(values, [25, 50, 75]))
        chart = histogram(values, axis)
        said = f'Dashed line: the median, {median}. The middle half of the cases: {low} to {high}.'
    if len(values) < num_cases:
        said += f' {num_cases - len(values):,} of {num_cases:,} cases have no value.'
    return f'<figure><h3>{escaped(name)}</h3>{chart}<figcaption>{said}</figcaption></figure>'


# ---- groups


def group_charts(evaluation: Evaluation) -> str:
    """For each column that makes groups a forest plot of its largest ones, and a folded table of all."""
    found = [
        f'<h3>By <bdi>{escaped(column)}</bdi></h3>{_chart(evaluation, column)}{_listed(evaluation, column)}'
        for column, groups in evaluation.groups.items() if groups
    ]
    return ''.join(found) or '<p>The rows have no columns that make groups. <code>--by COLUMNS</code> names some.</p>'


def _chart(evaluation: Evaluation, column: str) -> str:
    groups = evaluation.groups[column]
    defined = [
        measure for measure in evaluation.task.measures
        if any(not math.isnan(scores[measure.name].value) for scores in groups.values())
    ]
    measure = (defined or evaluation.task.measures)[0]
    scores = {name: groups[name][measure.name] for name in _largest(groups)[:MAX_CHARTED]}
    values = {name: -score.value if measure.higher_is_better else score.value for name, score in scores.items()}
    # The best first; what is not defined last.
    names = sorted(scores, key=lambda name: (math.isnan(values[name]), np.nan_to_num(values[name]), name))
    cases = _cases_by_group(evaluation, column, names, measure)
    rows = [forest_row(measure, scores[name], name, f'n = {scores[name].count:,}', cases.get(name)) for name in names]
    unit = ' in %' * measure.percent + ', lower is better' * (not measure.higher_is_better)
    limits = [value for row in rows for value in (row.value, row.low, row.high)]
    axis = axis_of(np.concatenate([limits, *cases.values()]), f'{measure.name}{unit}', measure.percent)
    key = key_of([*scores.values()])
    if any(len(values) > MAX_DOTS for values in cases.values()):
        key += ' Grey: the cases; box and bar are quartiles and median, the thin line holds the middle 90 %.'
    if any(len(values) <= MAX_DOTS for values in cases.values()):
        key += f' Rings: single cases (of groups of up to {MAX_DOTS}).'
    note = ''
    if len(groups) > len(names):
        note = f'<p>The {MAX_CHARTED} largest of {len(groups):,} groups; the table has the others.</p>'
    label = escaped(f'{measure.name} by {column}')
    return f'{note}<figure aria-label="{label}">{forest(rows, axis)}<figcaption>{key}</figcaption></figure>'


def _listed(evaluation: Evaluation, column: str) -> str:
    groups, measures = evaluation.groups[column], evaluation.task.measures
    cells = [[
        f'<bdi>{escaped(shortened(name, 200))}</bdi>', f'{_count(groups[name]):,}',
        *(cell(measure, groups[name][measure.name]) for measure in measures)
    ] for name in sorted(_largest(groups)[:MAX_LISTED])]
    header = [escaped(column), 'cases', *(escaped(shown_name(measure)) for measure in measures)]
    scores = table(f'All scores by {column}', header, cells)
    if len(groups) > MAX_LISTED:
        scores += f'<p>The {MAX_LISTED} largest of {len(groups):,} groups; scores.json has the others.</p>'
    return fold(f'All scores by {column} (groups: {len(groups):,})', scores)


def _largest(groups: Mapping[str, Mapping[str, Score]]) -> list[str]:
    return sorted(groups, key=lambda name: (-_count(groups[name]), name))


def _count(scores: Mapping[str, Score]) -> int:
    return max((score.count for score in scores.values()), default=0)


def _cases_by_group(evaluation: Evaluation, column: str, names: Sequence[str],
                    measure: Measure | Corpus) -> dict[str, np.ndarray]:
    """Finite values of the cases of groups; nothing where the values are a few only, as right and wrong are."""
    values = _cases(measure, evaluation)
    if values is None or few(values[np.isfinite(values)]):
        return {}
    texts = np.array(evaluation.table.groups[column], dtype=object)
    found = {name: values[(texts == name) & np.isfinite(values)] for name in names}
    return {name: part for name, part in found.items() if len(part)}
