"""Charts of the report: the distributions of single cases, and the scores of groups."""
import math
import numpy as np
from collections.abc import Mapping, Sequence

from ..bootstrap import Score
from ..evaluate import Evaluation
from ..task import CorpusMeasure, Measure
from .charts import MAX_DOTS, bar_chart, forest_plot, has_few_values, histogram, make_axis
from .markup import collapsible, escaped, html_table, shortened
from .number_format import forest_legend, forest_row, measure_label, score_cell

# The chart and the table show only the largest groups of a column; scores.json has all.
MAX_CHARTED, MAX_LISTED = 30, 500
_MAX_HISTOGRAMS = 6

# ---- single cases


def distribution_charts(evaluation: Evaluation) -> str:
    """A distribution chart for each score that is defined for single cases."""
    columns: dict[str, list[Measure]] = {}
    for measure in evaluation.task.measures:
        if isinstance(measure, Measure) and measure.per_case is not None:
            columns.setdefault(measure.per_case, []).append(measure)
    drawn, empty = [], []
    for measures in columns.values():
        values = _case_values(measures[0], evaluation)
        name = ', '.join(measure.label for measure in measures)
        if values is None:
            empty.append(name)
        else:
            drawn.append(_distribution(measures[0], name, values[np.isfinite(values)], len(values)))
    if not drawn:
        return '<p>No score of this evaluation is defined for single cases.</p>'
    found = f'<div class="charts">{"".join(drawn[:_MAX_HISTOGRAMS])}</div>'
    if len(drawn) > _MAX_HISTOGRAMS:
        rest = ''.join(drawn[_MAX_HISTOGRAMS:])
        found += collapsible(f'{len(drawn) - _MAX_HISTOGRAMS} more', f'<div class="charts">{rest}</div>')
    return found + (f'<p>No case has a value of {escaped(", ".join(empty))}.</p>' if empty else '')


def _case_values(measure: Measure | CorpusMeasure, evaluation: Evaluation) -> np.ndarray | None:
    """float64 [number of cases], in percent if the measure is; None if no case has a finite value."""
    if not isinstance(measure, Measure) or measure.per_case is None:
        return None
    values = evaluation.table.columns.get(measure.per_case)
    if values is None or not np.isfinite(values).any():
        return None
    return values * (100 if measure.percent else 1)


def _distribution(measure: Measure, name: str, values: np.ndarray, num_cases: int) -> str:
    unit = ', in %' * measure.percent + ', lower is better' * (not measure.higher_is_better)
    axis = make_axis(values, f'{measure.label} of a case{unit}', measure.percent)
    if has_few_values(values):
        chart, caption = bar_chart(values, axis), ''
    else:
        digits = max(measure.digits - measure.percent, 0)
        low, median, high = (f'{value:,.{digits}f}' for value in np.percentile(values, [25, 50, 75]))
        chart = histogram(values, axis)
        caption = f'Dashed line: median, {median}. Middle half of the cases: {low} to {high}.'
    if len(values) < num_cases:
        caption += f' {num_cases - len(values):,} of {num_cases:,} cases have no value.'
    return f'<figure><h3>{escaped(name)}</h3>{chart}<figcaption>{caption}</figcaption></figure>'


# ---- groups


def group_charts(evaluation: Evaluation) -> str:
    """For each column of groups: a forest plot of the largest groups, and a collapsible table."""
    columns = [column for column, groups in evaluation.groups.items() if groups]
    if not columns:
        return '<p>The rows have no columns that define groups. Name some with <code>--by COLUMNS</code>.</p>'
    return ''.join(
        f'<h3>By <bdi>{escaped(column)}</bdi></h3>{_group_chart(evaluation, column)}{_group_table(evaluation, column)}'
        for column in columns)


def _group_chart(evaluation: Evaluation, column: str) -> str:
    groups = evaluation.groups[column]
    defined = [
        measure for measure in evaluation.task.measures
        if any(not math.isnan(scores[measure.name].value) for scores in groups.values())
    ]
    measure = (defined or evaluation.task.measures)[0]
    scores = {name: groups[name][measure.name] for name in _largest_first(groups)[:MAX_CHARTED]}
    values = {name: -score.value if measure.higher_is_better else score.value for name, score in scores.items()}
    # The best first, undefined scores last.
    names = sorted(scores, key=lambda name: (math.isnan(values[name]), np.nan_to_num(values[name]), name))
    cases = _cases_by_group(evaluation, column, names, measure)
    rows = [forest_row(measure, scores[name], name, f'n = {scores[name].count:,}', cases.get(name)) for name in names]
    unit = ' in %' * measure.percent + ', lower is better' * (not measure.higher_is_better)
    limits = [value for row in rows for value in (row.value, row.low, row.high)]
    axis = make_axis(np.concatenate([limits, *cases.values()]), f'{measure.label}{unit}', measure.percent)
    key = forest_legend([*scores.values()])
    if any(len(values) > MAX_DOTS for values in cases.values()):
        key += ' Grey: the cases; box: quartiles and median, thin line: middle 90 %.'
    if any(len(values) <= MAX_DOTS for values in cases.values()):
        key += f' Rings: single cases (groups of up to {MAX_DOTS}).'
    note = ''
    if len(groups) > len(names):
        note = f'<p>The {MAX_CHARTED} largest of {len(groups):,} groups; the table has the others.</p>'
    label = escaped(f'{measure.label} by {column}')
    return f'{note}<figure aria-label="{label}">{forest_plot(rows, axis)}<figcaption>{key}</figcaption></figure>'


def _group_table(evaluation: Evaluation, column: str) -> str:
    groups, measures = evaluation.groups[column], evaluation.task.measures
    cells = [[
        f'<bdi>{escaped(shortened(name, 200))}</bdi>', f'{_num_cases(groups[name]):,}',
        *(score_cell(measure, groups[name][measure.name]) for measure in measures)
    ] for name in sorted(_largest_first(groups)[:MAX_LISTED])]
    header = [escaped(column), 'cases', *(escaped(measure_label(measure)) for measure in measures)]
    scores = html_table(f'All scores by {column}', header, cells)
    if len(groups) > MAX_LISTED:
        scores += f'<p>The {MAX_LISTED} largest of {len(groups):,} groups; scores.json has the others.</p>'
    return collapsible(f'All scores by {column} (groups: {len(groups):,})', scores)


def _largest_first(groups: Mapping[str, Mapping[str, Score]]) -> list[str]:
    return sorted(groups, key=lambda name: (-_num_cases(groups[name]), name))


def _num_cases(scores: Mapping[str, Score]) -> int:
    return max((score.count for score in scores.values()), default=0)


def _cases_by_group(evaluation: Evaluation, column: str, names: Sequence[str],
                    measure: Measure | CorpusMeasure) -> dict[str, np.ndarray]:
    """The finite values of the cases by group; empty if there are few distinct values, such as right and wrong."""
    values = _case_values(measure, evaluation)
    if values is None or has_few_values(values[np.isfinite(values)]):
        return {}
    texts = np.array(evaluation.table.groups[column], dtype=object)
    found = {name: values[(texts == name) & np.isfinite(values)] for name in names}
    return {name: part for name, part in found.items() if len(part)}
