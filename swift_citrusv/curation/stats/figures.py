"""The pictures: bars, rings, sizes."""
import matplotlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from typing import Any

# Fonts with Chinese characters, where the system has one.
_FONTS = ('DejaVu Sans', 'Noto Sans CJK SC', 'WenQuanYi Micro Hei', 'WenQuanYi Zen Hei', 'SimHei', 'Microsoft YaHei',
          'PingFang SC')  # yapf: disable
_COLOURS = ('#1f6f8b', '#e07a5f', '#81b29a', '#f2cc8f', '#6d597a', '#b56576', '#355070', '#99c1de', '#a3b18a',
            '#bc6c25', '#5f0f40', '#9a8c98', '#0f4c5c', '#d4a373', '#adb5bd')  # yapf: disable
_WIDTH, _ROW = 8., .3
# Bars of a picture.
_MOST = 25
# Parts of a ring below this share have no name beside it.
_NAMED = .02


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    matplotlib.rcParams['font.family'] = [name for name in _FONTS if name in installed]
    figure = Figure(figsize=(width, height), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    # The same bytes with every version.
    figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def bars(title: str, counts: Mapping[str, int], unit: str, *, keeps_order: bool = False) -> bytes:
    """Horizontal bars with numbers and shares.

    Args:
        title: Above the picture.
        counts: Numbers by name.
        unit: What is counted.
        keeps_order: Whether the names stay in order; else the largest comes first.

    Returns:
        A PNG file.
    """
    items = list(counts.items()) if keeps_order else sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = items[:_MOST], items[_MOST:]
    if rest:
        shown.append((f'{len(rest)} more', sum(count for _, count in rest)))
    total = sum(counts.values())
    figure, axes = _figure(_WIDTH, 1. + _ROW * max(len(shown), 2))
    names = [_short(name) for name, _ in shown]
    values = [count for _, count in shown]
    axes.barh(range(len(shown)), values, color=_COLOURS[0], height=.72)
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    for place, value in enumerate(values):
        axes.text(value, place, f' {value:,} ({100 * value / max(total, 1):.1f} %)', va='center', fontsize=8)
    axes.set_xlim(0, max([*values, 1]) * 1.28)
    axes.set_xlabel(unit)
    axes.set_title(title, loc='left', fontsize=12)
    axes.spines[['top', 'right']].set_visible(False)
    return _png(figure)


def ring(title: str, counts: Mapping[str, int], centre: str) -> bytes:
    """Shares of a whole.

    Args:
        title: Above the picture.
        counts: Numbers by name.
        centre: A few words for the middle.
    """
    items = sorted(((name, count) for name, count in counts.items() if count), key=lambda item: (-item[1], item[0]))
    if len(items) > len(_COLOURS):
        items = [*items[:len(_COLOURS) - 1], ('the rest', sum(count for _, count in items[len(_COLOURS) - 1:]))]
    total = sum(count for _, count in items)
    figure, axes = _figure(_WIDTH, 4.6)
    wedges, *_ = axes.pie([count for _, count in items], colors=_COLOURS[:len(items)], startangle=90,
                          counterclock=False, wedgeprops={'width': .42, 'edgecolor': 'white'})  # yapf: disable
    labels = [f'{_short(name)}  {count:,} ({100 * count / max(total, 1):.1f} %)' for name, count in items]
    axes.legend(wedges, labels, loc='center left', bbox_to_anchor=(1.02, .5), frameon=False, fontsize=9)
    axes.text(0, 0, centre, ha='center', va='center', fontsize=10)
    axes.set_title(title, loc='left', fontsize=12)
    return _png(figure)


def stacked(title: str, counts: Mapping[str, Mapping[str, int]], order: Sequence[str]) -> bytes:
    """A bar of shares for each set.

    Args:
        title: Above the picture.
        counts: Numbers by set and name.
        order: The names.
    """
    names = [name for name in order if any(found.get(name) for found in counts.values())]
    figure, axes = _figure(_WIDTH, 1.6 + .5 * len(counts) + .22 * (len(names) // 4 + 1))
    for place, found in enumerate(counts.values()):
        left, total = 0., max(sum(found.values()), 1)
        for number, name in enumerate(names):
            share = 100 * found.get(name, 0) / total
            axes.barh(place, share, left=left, color=_COLOURS[number % len(_COLOURS)], height=.7,
                      label=name if place == 0 else None)  # yapf: disable
            if share >= 100 * _NAMED * 2:
                axes.text(left + share / 2, place, f'{share:.0f}', ha='center', va='center', fontsize=8, color='white')
            left += share
    axes.set_yticks(range(len(counts)), [f'{_short(name)}\n{sum(found.values()):,}' for name, found in counts.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel('% of rows with images')
    axes.set_title(title, loc='left', fontsize=12)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(
        loc='upper center', bbox_to_anchor=(.5, -.35 / max(len(counts) * .5, 1)), ncol=4, frameon=False, fontsize=8)
    return _png(figure)


def columns(title: str, counts: Mapping[int, int], unit: str) -> bytes:
    """Columns over ranges of a number.

    Args:
        title: Above the picture.
        counts: Numbers by the lower edge of a range.
        unit: What the ranges measure.
    """
    edges = sorted(counts)
    figure, axes = _figure(_WIDTH, 3.2)
    axes.bar(range(len(edges)), [counts[edge] for edge in edges], width=.9, color=_COLOURS[0])
    step = max(1, len(edges) // 16)
    axes.set_xticks(range(0, len(edges), step), [f'{edge:,}' for edge in edges[::step]], fontsize=8)
    axes.set_xlabel(unit)
    axes.set_ylabel('rows')
    axes.set_title(title, loc='left', fontsize=12)
    axes.spines[['top', 'right']].set_visible(False)
    return _png(figure)


def sizes(title: str, counts: Mapping[tuple[int, int], int]) -> bytes:
    """Widths and heights of images; the area of a point grows with their number."""
    figure, axes = _figure(_WIDTH, 4.2)
    total = max(sum(counts.values()), 1)
    axes.scatter([width for width, _ in counts], [height for _, height in counts],
                 s=[20 + 600 * count / total for count in counts.values()],
                 color=_COLOURS[0],
                 alpha=.55)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('width (pixels)')
    axes.set_ylabel('height (pixels)')
    axes.set_title(title, loc='left', fontsize=12)
    axes.grid(alpha=.25)
    axes.spines[['top', 'right']].set_visible(False)
    return _png(figure)


def _short(name: str) -> str:
    return name if len(name) <= 40 else f'{name[:18]}…{name[-20:]}'
