"""The values of a series: blank and repeated slices, Hounsfield units."""
import numpy as np
from collections.abc import Sequence
from itertools import pairwise

from .series import Series

# Values of neighbours: the largest change of scale and offset where the headers agree, and where they differ.
_SCALES, _OFFSETS = (.3, .1), (150, 60)
# The levels of two neighbours follow one line, or they are not compared.
_CORRELATION = .9
# Of the levels of a slice so many differ, or it may be that of a label map.
_RICH = 8
# HU: a NIfTI file with a slice whose darkest hundredth is darker than this is a CT.
_AIR = -500
# HU: above the first lies what is neither air nor lung; its median is below the second in any part of a body.
_TISSUE_FROM, _TISSUE_TO = -300, 400


def check_values(series: Series) -> None:
    order = [number for number in series.order if series.slices[number].levels]
    levels = {number: np.array(series.slices[number].levels) for number in order}
    blank = [number for number in order if series.slices[number].is_blank]
    inside = [number for number in order if not series.slices[number].is_blank]
    if blank and len(inside) > 1:
        first, last = order.index(inside[0]), order.index(inside[-1])
        between = [number for number in blank if first < order.index(number) < last]
        # Padding at the ends is no fault.
        if between:
            series.add('blank-slice', f'{len(between)} between others: '
                       f'{series.slices[between[0]].name}', float(len(between)), 0)
    elif blank and not inside:
        series.add('blank-slice', 'all of them', float(len(blank)), 0)
    _repetitions(series, inside)
    modality = series.slices[series.order[0]].modality
    if not inside:
        return
    if modality == 'CT' or not modality and min(levels[number][0] for number in inside) < _AIR:
        _neighbours(series, inside, levels)
    if modality == 'CT' and not series.has('rescale-mismatch'):
        _hounsfield(series, np.concatenate([levels[number] for number in inside]))


def _hounsfield(series: Series, levels: np.ndarray) -> None:
    """Whether soft tissue has its Hounsfield units."""
    tissue = levels[levels > _TISSUE_FROM]
    if levels.min() >= 0:
        # Fat and air have less.
        words, measure, limit = 'no value is below 0 HU', float(levels.min()), 0
    elif not len(tissue):
        words, measure, limit = f'no value is above {levels.max():.0f} HU', float(levels.max()), _TISSUE_FROM
    else:
        words, measure, limit = 'half of what is no air lies above {:.0f} HU', float(np.median(tissue)), _TISSUE_TO
        if measure <= limit:
            return
    series.add('rescale-mismatch', f'{words.format(measure)}: slope or intercept are wrong', measure, limit)


def _repetitions(series: Series, numbers: Sequence[int]) -> None:
    seen: dict[bytes, int] = {}
    found = []
    for number in numbers:
        item = series.slices[number]
        first = seen.setdefault(item.digest, number)
        # Slices of label maps, which have few values, may be equal.
        if first != number and series.slices[first].phase == item.phase and len(set(item.levels)) >= _RICH:
            found.append((first, number))
    if found:
        first, number = found[0]
        series.add('repeated-pixels', f'{len(found)} slices: {series.slices[first].name} and '
                   f'{series.slices[number].name}', float(len(found)), 0)


def _neighbours(series: Series, numbers: Sequence[int], levels: dict[int, np.ndarray]) -> None:
    """Whether the values of each slice go on from those of the one before: a line through both levels."""
    pairs = [(before, number) for before, number in pairwise(numbers)
             if series.volumes == 1 or series.slices[before].phase == series.slices[number].phase]
    lines = [_line(levels[before], levels[number]) for before, number in pairs]
    usual = [
        float(np.median(values)) for values in zip(*((abs(np.log(scale)), abs(offset)) for scale, offset, _ in lines))
    ]
    for (before, number), (scale, offset, correlation) in zip(pairs, lines):
        one, other = series.slices[before].rescale, series.slices[number].rescale
        # Thick slices differ more.
        scales, offsets = (max(limits[one != other], 4 * value) for limits, value in zip((_SCALES, _OFFSETS), usual))
        if correlation >= _CORRELATION and (abs(np.log(scale)) > scales or abs(offset) > offsets):
            said = f'; slope and intercept are {_pair(other)}, before {_pair(one)}' if one != other else ''
            series.add(
                'rescale-mismatch',
                f'{series.slices[number].name}: its values are {scale:.2f} times those of the slice '
                f'before it {offset:+.0f}{said}', float(offset), float(offsets))
            return


def _line(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Scale, offset and correlation of the second levels by the first ones."""
    x, y = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    if not spread:
        return 1, 0, 0
    scale = float(np.sqrt((y @ y) / (x @ x)))
    return scale, float(second.mean() - scale * first.mean()), float(x @ y) / spread


def _pair(rescale: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in rescale) or 'unknown'
