"""Checks a series: copies, mixtures, physical size; then geometry and values."""
import numpy as np
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from math import isnan

from .facts import Slice, times
from .geometry import AXES, check_geometry
from .series import Limits, Series
from .values import check_values


def check(slices: Sequence[Slice], limits: Limits = Limits()) -> Series:
    """Checks a series.

    Args:
        slices: Those with one series UID, or of one NIfTI file, sorted by their names.
        limits: What sizes are possible.
    """
    series = Series(slices)
    for number, item in enumerate(slices):
        if item.problem:
            series.add(item.problem, item.detail, slices=(number, ))
    rest = [number for number, item in enumerate(slices) if not item.problem]
    rest = _without_copies(series, rest)
    scouts = [number for number in rest if slices[number].is_localizer]
    if len(scouts) < len(rest):
        # A series of scouts alone is what it says.
        for number in scouts:
            series.add('localizer', 'its ImageType says so', slices=(number, ))
        rest = [number for number in rest if number not in set(scouts)]
    series.order = rest
    if not rest:
        return series
    is_volume = any(slices[number].is_volume for number in rest)
    _mixtures(series, is_volume)
    _extents_in_plane(series, limits, is_volume)
    if is_volume:
        check_geometry(series, limits)
        check_values(series)
    return series


def _without_copies(series: Series, numbers: Sequence[int]) -> list[int]:
    """Leaves copies out: the same pixels at the same place, or under the same UID."""
    slices, stay, conflicts = series.slices, [], []
    by_uid: dict[str, int] = {}
    by_place: dict[Hashable, int] = {}
    for number in numbers:
        item = slices[number]
        # (Phases may have equal pixels: what tells them apart is a part of the place.)
        place = (item.digest, item.position, item.directions, item.phase) if item.position else None
        first = by_uid.get(item.uid)
        if first is None and place is not None:
            first = by_place.get(place)
        if first is None:
            by_uid[item.uid] = number
            if place is not None:
                by_place[place] = number
            stay.append(number)
        elif slices[first].digest == item.digest:
            series.duplicates += 1
            series.add('duplicate', f'the same as {slices[first].name}', slices=(number, ), evidence=first)
        else:
            conflicts.append((first, number))
            stay.append(number)
    if conflicts:
        first, number = conflicts[0]
        detail = f'{len(conflicts)} times: {slices[first].name} and {slices[number].name}'
        series.add('uid-conflict', detail, float(len(conflicts)), 0)
    return stay


def _mixtures(series: Series, is_volume: bool) -> None:
    kinds: list[tuple[str, Callable[[Slice], Hashable], str]] = [
        ('mixed-patient', lambda item: item.patient, 'patients'),
        ('mixed-study', lambda item: item.study, 'studies'),
        ('mixed-modality', lambda item: item.modality, 'modalities'),
    ]
    if is_volume:
        kinds += [
            ('mixed-size', lambda item: f'{item.columns} x {item.rows}', 'sizes'),
            ('mixed-pixels', lambda item: item.pixels, 'kinds of pixels'),
            ('mixed-frame', lambda item: item.frame_of_reference, 'frames of reference'),
            ('mixed-orientation', lambda item: item.patient_position, 'positions of the patient'),
            ('mixed-spacing', lambda item: '' if isnan(item.thickness) else f'{item.thickness:g}', 'thicknesses'),
        ]
    for rule, value, what in kinds:
        found = Counter(value(series.slices[number]) for number in series.order)
        if rule in ('mixed-orientation', 'mixed-spacing'):
            # Only some say it.
            del found['']
        if len(found) > 1:
            shown = ', '.join(f'{name or "none"} ({count})' for name, count in found.most_common(3))
            # Names of patients are no words for a report.
            detail = f'{len(found)} {what}' + ('' if rule in ('mixed-patient', 'mixed-study',
                                                              'mixed-frame') else f': {shown}')
            series.add(rule, detail, float(len(found)), 1)
    if is_volume:
        _differing(series, 'mixed-orientation', 'directions', 'not parallel to', AXES, 0)
        _differing(series, 'mixed-spacing', 'spacing', 'with other distances of pixels than', 1e-4, 1e-3)


def _differing(series: Series, rule: str, name: str, words: str, absolute: float, relative: float) -> None:
    """Compares a vector of all slices with that of most of them."""
    values = [(number, np.array(getattr(series.slices[number], name))) for number in series.order
              if getattr(series.slices[number], name)]
    if not values:
        return
    common = Counter(tuple(np.round(value, 3)) for _, value in values).most_common(1)[0][0]
    reference = next(value for _, value in values if tuple(np.round(value, 3)) == common)
    first = next(number for number, value in values if value is reference)
    others = [(number, float(np.abs(value - reference).max())) for number, value in values
              if not np.allclose(value, reference, relative, absolute)]
    if others:
        number, measure = others[0]
        series.add(
            rule,
            f'{len(others)} of {len(values)}: {series.slices[number].name} is {words} {series.slices[first].name}',
            measure, absolute)


def _extents_in_plane(series: Series, limits: Limits, is_volume: bool) -> None:
    longest = limits.max_extent if is_volume else limits.max_length
    for number in series.order:
        item = series.slices[number]
        if not item.spacing:
            continue
        sides = np.array(item.spacing) * (item.rows, item.columns)
        pixel, slice_size = f'its pixels measure {times(item.spacing)} mm', f'it measures {times(sides.tolist())} mm'
        if not np.isfinite(sides).all() or min(item.spacing) <= 0:
            words, measure, limit = pixel, min(item.spacing), 0.
        elif max(item.spacing) > limits.max_voxel:
            words, measure, limit = pixel, max(item.spacing), limits.max_voxel
        elif sides.max() > longest:
            words, measure, limit = slice_size, sides.max(), longest
        elif is_volume and sides.max() < limits.min_extent:
            words, measure, limit = slice_size, sides.max(), limits.min_extent
        else:
            continue
        series.add('impossible-extent', f'{item.name}: {words}', float(measure), limit)
        return
