"""An evaluation as text for the terminal."""
import math
import unicodedata
from collections.abc import Sequence

from .bootstrap import Score
from .evaluate import Evaluation
from .medians import Median
from .task import CorpusMeasure, Measure

# Limits of the table of groups: scores per group, groups per column, characters of a name.
_GROUP_MEASURES, _MAX_GROUPS, _NAME_LENGTH = 3, 40, 40


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The scores and the problems of the predictions, as lines for the terminal.

    Groups show only their first scores; scores.json and the report have all.
    """
    measures, sets = evaluation.task.measures, {'all': evaluation.scores}
    sets |= {f'mean over {column}': scores for column, scores in evaluation.macros.items()}
    medians = evaluation.medians
    # A mean over all cases, and where cases have scores of their own, the median beside it.
    cells = [['', 'n', 'all', *(['median (quartiles)'] if medians else []), *[*sets][1:]]]
    for measure in measures:
        name = measure.label if measure.higher_is_better else f'{measure.label}, lower is better'
        count = f'{evaluation.scores[measure.name].count:,}'
        values = [format_score(measure, scores.get(measure.name)) for scores in sets.values()]
        middle = [format_median(measure, medians.get(measure.name))] if medians else []
        cells.append([name, count, values[0], *middle, *values[1:]])
    lines = [_headline(evaluation), *align_columns(cells)]
    first = measures[:_GROUP_MEASURES]
    for column, found in evaluation.groups.items():
        cells = [[column, 'n', *(measure.label for measure in first)]]
        for name, scores in [*found.items()][:_MAX_GROUPS]:
            most = max((scores[measure.name].count for measure in first), default=0)
            shown = name if len(name) <= _NAME_LENGTH else f'{name[:_NAME_LENGTH - 3]}...'
            cells.append([shown, f'{most:,}', *(format_score(measure, scores[measure.name]) for measure in first)])
        lines += ['', *align_columns(cells)]
        if len(found) > _MAX_GROUPS:
            lines.append(f'... and {len(found) - _MAX_GROUPS:,} more, in scores.json')
    problems = problem_lines(evaluation)
    return [*lines, '', *problems] if problems else lines


def align_columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column is left-aligned, the others right-aligned."""
    widths = [max(map(_width, column)) for column in zip(*cells)]
    lines = []
    for first, *others in cells:
        padded = [first + ' ' * (widths[0] - _width(first))]
        padded += [' ' * (width - _width(cell)) + cell for cell, width in zip(others, widths[1:])]
        lines.append('  '.join(padded).rstrip())
    return lines


def _width(text: str) -> int:
    """The width in terminal columns: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in 'WF' else 1 for character in text)


def format_score(measure: Measure | CorpusMeasure, score: Score | None) -> str:
    """'93.21 [92.80, 93.60]', in percent if the measure is a percentage."""
    if score is None or math.isnan(score.value):
        return '-'
    scale = 100 if measure.percent else 1
    value, low, high = (f'{scale * x:.{measure.digits}f}' for x in (score.value, score.low, score.high))
    return value if math.isnan(score.low) else f'{value} [{low}, {high}]'


def format_median(measure: Measure | CorpusMeasure, median: Median | None) -> str:
    """'94.10 (90.20 to 96.00)', in percent if the measure is a percentage."""
    if median is None:
        return '-'
    scale = 100 if measure.percent else 1
    value, q1, q3 = (f'{scale * x:.{measure.digits}f}' for x in (median.value, median.q1, median.q3))
    return f'{value} ({q1} to {q3})'


def problem_lines(evaluation: Evaluation) -> list[str]:
    """The problems of the predictions, one line per kind; empty if there are none."""
    lines = []
    for kind, count in evaluation.problems.counts.items():
        if count:
            example = evaluation.problems.examples.get(kind, [''])[0]
            lines.append(f'{kind}: {count:,}, e.g. {example}')
    flags = ', '.join(f'{name} {count:,}' for name, count in evaluation.table.flag_counts().items())
    return lines + ([f'flagged cases: {flags}'] if flags else [])


def _headline(evaluation: Evaluation) -> str:
    interval = (f'; 95 % intervals in brackets, resampled by {evaluation.clusters}'
                if evaluation.settings.repeats else '')
    return (f'{evaluation.task.TITLE}: {len(evaluation.pairs):,} rows, {len(evaluation.table):,} cases, joined '
            f'{evaluation.pairs.how}{interval}.')
