"""The charts of `citrusv pack-report`: row lengths, fill of packs, images per pack."""
import numpy as np
from collections.abc import Sequence
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from pathlib import Path
from typing import Any

from .pack_plan import ROW_KINDS, DatasetLengths, PackingPlan

# The Okabe-Ito palette, for readers with colour vision deficiency.
_KIND_COLOURS = ('#D55E00', '#56B4E9', '#7F7F7F')
_PLAN_COLOURS = ('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#F0E442')
_MAX_PLANS = len(_PLAN_COLOURS)


def draw_pack_report(measured: DatasetLengths, plans: Sequence[PackingPlan], report: dict[str, Any],
                     path: Path) -> None:
    """Draws the charts as a PNG file.

    Args:
        measured: The rows.
        plans: The plans to show; only the first five are drawn.
        report: The contents of the JSON file.
        path: The PNG file.
    """
    plans = plans[:_MAX_PLANS]
    figure = Figure(figsize=(15, 4.8), layout='constrained', dpi=120)
    FigureCanvasAgg(figure)
    lengths, fills, images = figure.subplots(1, 3, width_ratios=[1.6, 1, 1])
    figure.suptitle(f'{Path(report["file"]).name}: {report["rows"]:,} rows, {report["tokens"]:,} tokens')
    _draw_lengths(lengths, measured, plans)
    _draw_packs(fills, plans, [plan.fills for plan in plans], np.linspace(0, 1, 21))
    fills.legend(title='--packing_length', frameon=False, loc='upper left')
    fills.margins(y=0.1 + 0.1 * len(plans))  # Room for the legend.
    fills.set(title='Fill of the packs', xlabel='fraction of the packing length', ylabel='packs')
    fills.xaxis.set_major_formatter(PercentFormatter(1))
    most = max(plan.max_images for plan in plans)
    _draw_packs(images, plans, [plan.images for plan in plans], np.arange(-0.5, most + 1))
    images.set(title=f'Segmentation images per pack (at most {report["pack_images"]})', xlabel='segmentation images')
    images.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path)


def _draw_lengths(axes: Axes, measured: DatasetLengths, plans: Sequence[PackingPlan]) -> None:
    lengths, kinds = measured.lengths, measured.kinds
    shown = [(kind, colour, lengths[kinds == i]) for i, (kind, colour) in enumerate(zip(ROW_KINDS, _KIND_COLOURS))]
    shown = [item for item in shown if len(item[2])]
    # The power of two below the shortest row, so that the axis starts at a tick.
    start = 1 << (max(int(lengths.min()), 1).bit_length() - 1)
    axes.hist([values for _, _, values in shown],
              bins=np.geomspace(start,
                                max(int(lengths.max()), start) + 1, 41).tolist(),
              stacked=True,
              color=[colour for _, colour, _ in shown],
              label=[f'{kind} ({len(values):,})' for kind, _, values in shown],
              edgecolor='white',
              linewidth=0.3)
    for plan, colour in zip(plans, _PLAN_COLOURS):
        axes.axvline(plan.capacity, ymax=0.88, color=colour, linestyle='--')
        axes.text(
            plan.capacity,
            0.87,
            f'--packing_length {plan.capacity:,} ',
            color=colour,
            rotation=90,
            horizontalalignment='right',
            verticalalignment='top',
            transform=axes.get_xaxis_transform())
    # Lengths span orders of magnitude: captions of hundreds of tokens, reports of thousands.
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.set(title='Row lengths', xlabel='tokens per row', ylabel='rows')
    axes.margins(y=0.15)  # Room for the legend.
    axes.legend(frameon=False, ncols=len(shown), loc='upper left')
    _style_axes(axes)


def _draw_packs(axes: Axes, plans: Sequence[PackingPlan], values: Sequence[np.ndarray], edges: np.ndarray) -> None:
    """Draws a histogram with one set of bars per plan."""
    axes.hist(
        values,
        bins=edges.tolist(),
        color=_PLAN_COLOURS[:len(plans)],
        label=[f'{plan.capacity:,}: {plan.packs:,} packs, {plan.fill:.1%} full' for plan in plans])
    _style_axes(axes)


def _style_axes(axes: Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
