"""Charts of the report as HTML and inline SVG.

Unlike matplotlib's, they use percentages for positions and the fonts of the page. So a chart fits a phone and a printed
page without small type, follows light and dark mode, works with screen readers, and takes a few kB. Every mark has its
values as a title.
"""
import math
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import escaped

_BINS = 20
# CSS pixels.
_HISTOGRAM_HEIGHT = 150
# A forest plot row with more cases than this shows a box plot instead of dots.
MAX_DOTS = 20
_STEPS = (1, 2, 2.5, 5, 10)
_NAME_LENGTH = 48


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        low, high: The ends of the axis.
        ticks: Values with a grid line and a number.
        label: The label, with its unit.
    """
    low: float
    high: float
    ticks: tuple[float, ...]
    label: str

    def at(self, value: float) -> str:
        """The position of a value: '12.5%'."""
        share = (value - self.low) / (self.high - self.low)
        return f'{100 * min(max(share, 0.), 1.):.6g}%'

    def width(self, low: float, high: float) -> str:
        """The width of a range: '12.5%'."""
        return f'{100 * (min(high, self.high) - max(low, self.low)) / (self.high - self.low):.6g}%'


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot.

    Attributes:
        name: Name of the row.
        note: Small type after the name; may be empty.
        value: The score; NaN if it is undefined.
        low, high: The interval; NaN for none.
        text: The score as text, at the right.
        cases: Values of the single cases, without NaN; None to draw none.
    """
    name: str
    note: str
    value: float
    low: float
    high: float
    text: str
    cases: np.ndarray | None = None


def make_axis(values: Sequence[float] | np.ndarray, label: str, percent: bool) -> Axis:
    """An axis from 0 (or below) to the largest value, or to 100 for percentages.

    Args:
        values: Values that the axis must include; non-finite ones are ignored.
        label: The label of the axis.
        percent: Whether the values are percentages.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    # Rounding errors beyond 0 and 100 do not extend the axis.
    most = 100. if percent else 0.
    low, high = min(float(known.min(initial=0)), 0.), max(float(known.max(initial=most)), most)
    if percent and low > -1e-6 and high < 100 + 1e-6:
        return Axis(0, 100, (0, 20, 40, 60, 80, 100), label)
    ticks = nice_ticks(low, high)
    return Axis(ticks[0], ticks[-1], ticks, label)


def nice_ticks(low: float, high: float, whole: bool = False) -> tuple[float, ...]:
    """Round values, usually four to seven, from at or below `low` to at or above `high`.

    Args:
        low, high: The range to cover.
        whole: Whether to use whole numbers only.
    """
    if not high > low:
        high = low + 1
    unit = 10.**math.floor(math.log10((high - low) / 4))
    step = next(step * unit for step in _STEPS if (high - low) / (step * unit) <= 5)
    if whole:
        step = max(math.ceil(step), 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Rounds 0.30000000000000004 to 0.3.
    return tuple(float(f'{number * step:.12g}') for number in range(first, last + 1))


def forest_plot(rows: Sequence[ForestRow], axis: Axis) -> str:
    """A forest plot: one score with its interval per row, below its cases as dots or a box plot."""
    lines = ''.join(f'<line class="grid" x1="{axis.at(tick)}" x2="{axis.at(tick)}" y1="0" y2="100%"/>'
                    for tick in axis.ticks)  # yapf: disable
    drawn = []
    for row in rows:
        title = escaped(f'{row.name}: {row.text}')
        boxed = row.cases is not None
        note = f'<span class="dim">{escaped(row.note)}</span>' if row.note else ''
        marks = f'{_cases_svg(row.cases, axis)}{_interval_svg(row, axis, 9 if boxed else 0)}'
        drawn.append(
            f'<div class="row{" boxed" * boxed}"><div class="name" dir="auto" title="{escaped(row.name[:300])}">'
            f'<bdi>{escaped(_truncated(row.name))}</bdi> {note}</div><div class="track"><svg role="img">'
            f'<title>{title}</title>'
            f'{lines}<svg y="50%">{marks}</svg></svg></div>'
            f'<div class="figures">{escaped(row.text)}</div></div>')
    return (f'<div class="forest">{"".join(drawn)}<div class="row last"><div></div>{_axis_svg(axis)}<div></div></div>'
            '</div>')


def histogram(values: np.ndarray, axis: Axis) -> str:
    """A histogram of the values of cases, with their median.

    Args:
        values: float64 [n], n > 0, finite.
        axis: The axis of the values.
    """
    edges = np.linspace(axis.low, axis.high, _BINS + 1)
    counts = np.histogram(np.clip(values, axis.low, axis.high), edges)[0]
    ticks = nice_ticks(0, float(counts.max()), whole=True)
    top = ticks[-1]

    def height(count: float) -> float:
        return round(_HISTOGRAM_HEIGHT * (1 - count / top), 2)

    marks = ''.join(f'<text x="100%" y="{height(tick)}" dx="-8" dy="4" text-anchor="end">{tick:,.0f}</text>'
                    for tick in ticks)  # yapf: disable
    lines = ''.join(f'<line class="grid" x1="0" x2="100%" y1="{height(tick)}" y2="{height(tick)}"/>' for tick in ticks)
    bars = ''.join(
        f'<g><title>{low:,.6g} to {high:,.6g}: {count:,}</title><rect class="bar" x="{axis.at(low)}" '
        f'y="{height(count)}" width="{axis.width(low, high)}" height="{_HISTOGRAM_HEIGHT - height(count):.6g}"/></g>'
        for low, high, count in zip(edges, edges[1:], counts) if count)
    median = axis.at(float(np.median(values)))
    filled = '; '.join(f'{low:,.6g} to {high:,.6g}: {count:,}' for low, high, count in zip(edges, edges[1:], counts)
                       if count)  # yapf: disable
    return (f'<div class="histogram"><div class="unit dim">cases</div><svg class="marks" height="{_HISTOGRAM_HEIGHT}" '
            f'aria-hidden="true">{marks}</svg><svg class="plot" role="img" height="{_HISTOGRAM_HEIGHT}" '
            f'aria-label="{escaped(f"{axis.label}: {filled}")}">{lines}{bars}<line class="median" x1="{median}" '
            f'x2="{median}" y1="-6" y2="{_HISTOGRAM_HEIGHT}"/></svg><div></div>{_axis_svg(axis)}</div>')


def bar_chart(values: np.ndarray, axis: Axis) -> str:
    """As `histogram`, for few distinct values: one bar each."""
    found, counts = np.unique(values, return_counts=True)
    drawn = []
    for value, count in zip(found, counts):
        share = 100 * count / len(values)
        drawn.append(f'<div class="row"><div class="name">{value:,.4g}</div><div class="track"><svg role="img"><title>'
                     f'{escaped(axis.label)} {value:,.4g}: {count:,} cases</title><rect class="bar" x="0" y="20%" '
                     f'width="{share:.6g}%" height="60%"/></svg></div><div class="figures">{count:,} '
                     f'({share:.1f} %)</div></div>')
    return f'<div class="forest bars"><div class="unit dim">{escaped(axis.label)}</div>{"".join(drawn)}</div>'


def has_few_values(values: np.ndarray) -> bool:
    """Whether `bar_chart` suits these values better than `histogram`."""
    return len(np.unique(values)) <= 3


def _truncated(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f'{name[:_NAME_LENGTH - 1]}…'


def _interval_svg(row: ForestRow, axis: Axis, y: int) -> str:
    if not math.isfinite(row.value):
        return ''
    found = ''
    if math.isfinite(row.low) and math.isfinite(row.high):
        low, high = axis.at(row.low), axis.at(row.high)
        found = (f'<line class="interval" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
                 f'<line class="interval" x1="{low}" x2="{low}" y1="{y - 5}" y2="{y + 5}"/>'
                 f'<line class="interval" x1="{high}" x2="{high}" y1="{y - 5}" y2="{y + 5}"/>')
    return f'{found}<circle class="value" cx="{axis.at(row.value)}" cy="{y}" r="4.5"/>'


def _cases_svg(cases: np.ndarray | None, axis: Axis) -> str:
    if cases is None or not len(cases):
        return ''
    if len(cases) <= MAX_DOTS:
        return ''.join(f'<circle class="case" cx="{axis.at(float(value))}" cy="-9" r="3"/>' for value in np.sort(cases))
    least, low, median, high, most = (float(value) for value in np.percentile(cases, [5, 25, 50, 75, 95]))
    return (f'<line class="whisker" x1="{axis.at(least)}" x2="{axis.at(most)}" y1="-9" y2="-9"/>'
            f'<rect class="box" x="{axis.at(low)}" y="-15" width="{axis.width(low, high)}" height="12"/>'
            f'<line class="middle" x1="{axis.at(median)}" x2="{axis.at(median)}" y1="-16" y2="-2"/>')


def _axis_svg(axis: Axis) -> str:
    """The numbers and the label of an axis."""
    numbers = ''.join(f'<text x="{axis.at(tick)}" y="14" text-anchor="middle">{tick:,.10g}</text>'
                      for tick in axis.ticks)  # yapf: disable
    return (f'<svg class="below" height="38" aria-hidden="true">{numbers}<text class="label" x="50%" y="32" '
            f'text-anchor="middle">{escaped(axis.label)}</text></svg>')
