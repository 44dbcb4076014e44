"""Scores and intervals as text, table cells and forest plot rows of the report."""
import math
import numpy as np
from collections.abc import Sequence

from ..bootstrap import Score
from ..medians import Median
from ..task import CorpusMeasure, Measure
from .charts import ForestRow


def measure_label(measure: Measure | CorpusMeasure) -> str:
    """'dice (%)', 'hd95 (mm) ↓': the name with its unit, and an arrow if lower is better."""
    return f'{measure.label}{" (%)" * measure.percent}{" ↓" * (not measure.higher_is_better)}'


def format_value(measure: Measure | CorpusMeasure, value: float) -> str:
    """'93.21'; a dash for NaN."""
    scaled = value * (100 if measure.percent else 1)
    return '–' if math.isnan(value) else f'{scaled:,.{measure.digits}f}'


def format_interval(measure: Measure | CorpusMeasure, score: Score) -> str:
    """'92.80 to 93.60'; empty without an interval."""
    return '' if math.isnan(score.low) else f'{format_value(measure, score.low)} to {format_value(measure, score.high)}'


def median_cells(measure: Measure | CorpusMeasure, median: Median | None) -> list[str]:
    """The table cells of a median and its quartiles."""
    if median is None:
        return ['–', '–']
    return [
        format_value(measure, median.value), f'{format_value(measure, median.q1)} to '
        f'{format_value(measure, median.q3)}'
    ]


def score_cell(measure: Measure | CorpusMeasure, score: Score | None) -> str:
    """The HTML of a table cell: the value, with the interval below it."""
    if score is None or math.isnan(score.value):
        return '<span class="dim">–</span>'
    found = format_interval(measure, score)
    return f'{format_value(measure, score.value)}{f"<br><span class=dim>{found}</span>" if found else ""}'


def forest_row(measure: Measure | CorpusMeasure,
               score: Score,
               name: str,
               note: str,
               cases: np.ndarray | None = None) -> ForestRow:
    """A row of a forest plot; `cases` are in percent if the measure is."""
    scale = 100 if measure.percent else 1
    interval = format_interval(measure, score)
    figures = f'{format_value(measure, score.value)}{f" [{interval}]" if interval else ""}'
    if math.isnan(score.value):
        figures = 'not defined'
    return ForestRow(name, note, scale * score.value, scale * score.low, scale * score.high, figures, cases)


def forest_legend(scores: Sequence[Score]) -> str:
    """The legend of a forest plot."""
    return 'Dot: score.' + ' Line: 95 % interval.' * any(not math.isnan(score.low) for score in scores)
