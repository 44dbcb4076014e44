"""The marks of charts are at the positions of their values."""
import math
import numpy as np
import pytest
import re

from swift_citrusv.scoring.html_report.charts import ForestRow, bar_chart, forest_plot, histogram, make_axis, nice_ticks


def test_ticks():
    for limits in ((0, 1), (0, .3), (-.2, .7), (0, 97.3), (0, 1e6), (3, 3), (0, 0), (-1e-5, 2e-5), (0, 271.5),
                   (1e3, 1.001e3)):  # yapf: disable
        low, high = limits
        ticks = nice_ticks(low, high)
        steps = np.diff(ticks)
        assert ticks[0] <= low + 1e-9 and ticks[-1] >= high * (1 - 1e-9) and 3 <= len(ticks) <= 8, limits
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6, err_msg=str(limits))
        mantissa = steps[0] / 10**math.floor(math.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - step) for step in (1, 2, 2.5, 5)) < 1e-6, limits
        assert all(tick == int(tick) for tick in nice_ticks(low, high, whole=True)), limits


def test_axis():
    axis = make_axis([math.nan, 3, math.inf, 100 + 1e-12], 'x', True)
    assert (axis.low, axis.high) == (0, 100) and axis.at(25) == '25%' and axis.at(math.inf) == '100%'
    assert make_axis([], 'x', False).high == 1 and make_axis([-40, 20], 'x', True).low == -50
    assert make_axis([-40, 20], 'x', True).at(-50) == '0%' and axis.width(25, 1000) == '75%'


def test_bars_of_a_histogram_are_the_counts():
    values = np.random.default_rng(0).uniform(0, 100, 200).round(1)
    values[:3] = 0, 100, 50
    found = {}
    axis = make_axis(values, 'x', True)
    html = histogram(values, axis)
    for low, high, count, x, height in re.findall(
            r'<title>([\d.]+) to ([\d.]+): (\d+)</title><rect class="bar" x="([\d.]+)%" y="[\d.]+" width="5%" '
            r'height="([\d.]+)"', html):
        assert float(x) == pytest.approx(float(low)) and float(high) == float(low) + 5
        found[float(low)] = int(count)
        # No bar is higher than the chart.
        assert 0 < float(height) <= 150
    slow: dict[float, int] = {}
    for value in values:
        start = min(5. * int(value // 5), 95.)
        slow[start] = slow.get(start, 0) + 1
    assert found == slow and sum(found.values()) == 200
    median, = re.findall(r'class="median" x1="([\d.]+)%"', html)
    assert float(median) == pytest.approx(np.median(values), abs=1e-3)
    few = bar_chart(np.array([0, 100, 100, 100.]), axis)
    assert '1 (25.0 %)' in few and '3 (75.0 %)' in few and 'width="75%"' in few


def test_marks_of_a_forest_plot():
    axis = make_axis([0], 'x', True)
    cases = np.arange(101.)
    rows = [
        ForestRow('a', 'n = 101', 50, 40, 60, '50', cases),
        ForestRow('b', '', math.nan, math.nan, math.nan, '–'),
        ForestRow('c', '', 10, math.nan, math.nan, '10', np.array([1., 2.]))
    ]
    html = forest_plot(rows, axis)
    assert [float(x) for x in re.findall(r'class="value" cx="([\d.]+)%"', html)] == [50, 10]
    assert re.findall(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', html)[0] == ('40', '60')
    assert re.findall(r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%"', html) == [('5', '95')]
    assert re.findall(r'class="box" x="([\d.]+)%" y="-15" width="([\d.]+)%"', html) == [('25', '50')]
    assert re.findall(r'class="case" cx="([\d.]+)%"', html) == ['1', '2']
