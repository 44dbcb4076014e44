"""Scores as the report writes and draws them: percentages where they are, with their intervals."""
import math
import numpy as np
from collections.abc import Sequence

from ..bootstrap import Score
from ..task import Corpus, Measure
from .charts import Row


def shown_name(measure: Measure | Corpus) -> str:
    """'dice (%)', 'hd95 ↓': with the unit, and an arrow where lower is better."""
    return f'{measure.name}{" (%)" * measure.percent}{" ↓" * (not measure.higher_is_better)}'


def shown_value(measure: Measure | Corpus, value: float) -> str:
    """'93.21'; a dash for NaN."""
    scaled = value * (100 if measure.percent else 1)
    return '–' if math.isnan(value) else f'{scaled:,.{measure.digits}f}'


def shown_range(measure: Measure | Corpus, score: Score) -> str:
    """'92.80 to 93.60'; empty where there is no interval."""
    return '' if math.isnan(score.low) else f'{shown_value(measure, score.low)} to {shown_value(measure, score.high)}'


def cell(measure: Measure | Corpus, score: Score | None) -> str:
    """The HTML of a cell: the value, and below it the interval."""
    if score is None or math.isnan(score.value):
        return '<span class="dim">–</span>'
    found = shown_range(measure, score)
    return f'{shown_value(measure, score.value)}{f"<br><span class=dim>{found}</span>" if found else ""}'


def forest_row(measure: Measure | Corpus, score: Score, name: str, note: str, cases: np.ndarray | None = None) -> Row:
    """The row of a forest plot; `cases` are scaled already."""
    scale = 100 if measure.percent else 1
    interval = shown_range(measure, score)
    figures = f'{shown_value(measure, score.value)}{f" [{interval}]" if interval else ""}'
    if math.isnan(score.value):
        figures = 'not defined'
    return Row(name, note, scale * score.value, scale * score.low, scale * score.high, figures, cases)


def key_of(scores: Sequence[Score]) -> str:
    """What the marks of a forest plot mean."""
    return 'Dot: score.' + ' Line: 95 % interval.' * any(not math.isnan(score.low) for score in scores)
