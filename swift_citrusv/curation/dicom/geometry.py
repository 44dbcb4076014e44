"""Where the slices of a series lie: axes, positions, distances."""
import numpy as np
from collections import Counter
from collections.abc import Sequence

from .facts import Slice
from .series import Limits, Series

# Millimetres by which decimal strings are rounded, and relative tolerance of distances and axes.
_ROUNDING, _RELATIVE = 2e-3, .02
AXES = 1e-2
# Millimetres by which SliceLocation is rounded.
_LOCATION = .5
# A distance of so many steps or more is a gap.
_GAP = 1.5
# Degrees between the normal of slices and the line of their positions: above the first it is a tilt, no gantry
# tilts by more than the second.
_TILT, _MAX_TILT = 1, 35
# The rows of an original axial image of a CT run to this side, and its columns to this one, x and y of LPS.
_AXIAL = {'S': (1, 1), 'P': (-1, -1)}


def check_geometry(series: Series, limits: Limits) -> None:
    slices, order = series.slices, series.order
    if len(order) < limits.min_slices:
        series.add('few-slices', f'{len(order)} slices', float(len(order)), float(limits.min_slices))
    grid = next((slices[number].grid for number in order if slices[number].grid), '')
    if grid:
        rule = 'spacing-mismatch' if 'pixdim' in grid else 'orientation'
        series.add(rule, grid)
    lacking = [(number, [
        name for name, value in (('ImagePositionPatient', slices[number].position), ('ImageOrientationPatient',
                                                                                     slices[number].directions),
                                 ('PixelSpacing', slices[number].spacing)) if not value
    ]) for number in order]
    lacking = [(number, names) for number, names in lacking if names]
    if lacking:
        number, names = lacking[0]
        series.add('missing-geometry', f'{slices[number].name} lacks {" and ".join(names)}', float(len(lacking)), 0)
        return
    if _has_bad_axes(series) or series.has('mixed-orientation'):
        return
    normal = _normal(slices[order[0]])
    heights = {number: float(np.dot(slices[number].position, normal)) for number in order}
    series.order = order = sorted(order, key=lambda number: (heights[number], number))
    groups = _groups(order, heights)
    if not _phases(series, groups, heights):
        return
    firsts = [group[0] for group in groups]
    if len(firsts) > 1 and _follow(series, firsts, normal):
        _distances(series, firsts, heights, limits)


def _has_bad_axes(series: Series) -> bool:
    for number in series.order:
        item = series.slices[number]
        row, column = np.array(item.directions[:3]), np.array(item.directions[3:])
        off = max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(float(row @ column)))
        if not off <= AXES:
            series.add('orientation', f'{item.name}: the directions of its rows and columns are no unit '
                       'vectors at right angles', float(off), AXES)
            return True
        sides = _AXIAL.get(item.patient_position[2:3]) if item.patient_position[:2] in ('HF', 'FF') else None
        if sides and abs(row[0]) > .9 and abs(column[1]) > .9 and (np.sign(row[0]), np.sign(column[1])) != sides:
            sides_of = ('left' if row[0] > 0 else 'right', 'back' if column[1] > 0 else 'front')
            series.add(
                'orientation', f'{item.name}: PatientPosition is {item.patient_position}, but the rows of an original '
                'axial image run to the {} and its columns to the {}'.format(*sides_of))
            return True
    return False


def _normal(item: Slice) -> np.ndarray:
    normal = np.cross(item.directions[:3], item.directions[3:])
    return normal / np.linalg.norm(normal)


def _groups(order: Sequence[int], heights: dict[int, float]) -> list[list[int]]:
    """The slices of each position, from the lowest."""
    groups: list[list[int]] = []
    for number in order:
        if groups and heights[number] - heights[groups[-1][-1]] <= _ROUNDING:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _phases(series: Series, groups: Sequence[Sequence[int]], heights: dict[int, float]) -> bool:
    """Whether each position has one slice, or the same number of phases."""
    counts = Counter(map(len, groups))
    if set(counts) == {1}:
        return True
    phases = [{series.slices[number].phase for number in group} for group in groups]
    if len(counts) == 1 and all(len(found) == len(group) and '{}' not in found for found, group in zip(phases, groups)):
        series.volumes = len(groups[0])
        series.order = [group[place] for place in range(series.volumes) for group in groups]
        return True
    usual = counts.most_common(1)[0][0]
    odd = next(group for group in groups if len(group) != usual or usual > 1)
    names = ' and '.join(series.slices[number].name for number in odd[:2])
    series.add('same-position', f'{len(odd)} at {heights[odd[0]]:.1f} mm: {names}', float(len(odd)), 1)
    return False


def _follow(series: Series, firsts: Sequence[int], normal: np.ndarray) -> bool:
    """Whether the positions follow the normal, or a line that is tilted as gantries are."""
    positions = np.array([series.slices[number].position for number in firsts])
    line = positions[-1] - positions[0]
    angle = float(np.degrees(np.arccos(min(1., abs(float(line @ normal)) / np.linalg.norm(line)))))
    # Single slices that lie beside the line: by more than the largest tilt between neighbours.
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    beside = np.linalg.norm(steps - along[:, None] * normal, axis=1)
    odd = np.flatnonzero(np.abs(beside - np.median(beside)) > np.maximum(along, _ROUNDING) * .2 + _ROUNDING)
    if angle > _MAX_TILT:
        series.add('orientation', f'the slices follow each other at {angle:.0f} degrees to their normal', angle,
                   _MAX_TILT)
    elif len(odd):
        name = series.slices[firsts[int(odd[0]) + 1]].name
        series.add('orientation', f'{name} lies {beside[odd[0]]:.3g} mm beside the slice before it',
                   float(beside[odd[0]]), float(along[odd[0]] * .2))
    elif angle > _TILT:
        tilt = series.slices[firsts[0]].tilt
        said = '' if np.isnan(tilt) else f'; GantryDetectorTilt is {tilt:g}'
        series.add('tilt', f'{angle:.1f} degrees{said}', angle, _TILT)
    return angle <= _MAX_TILT


def _distances(series: Series, firsts: Sequence[int], heights: dict[int, float], limits: Limits) -> None:
    steps = np.diff([heights[number] for number in firsts])
    series.step = step = float(np.median(steps))
    # Where half the slices or more are missing, the median is no step.
    fine = float(steps.min())
    tolerance = _RELATIVE * step + _ROUNDING
    off = np.abs(steps - step) > tolerance
    wide = np.flatnonzero(off & (steps >= _GAP * step))
    if len(wide):
        series.gaps = int(sum(round(steps[place] / step) - 1 for place in wide))
        place = int(wide[np.argmax(steps[wide])])
        series.add(
            'gap', f'about {series.gaps} missing; {steps[place]:.3g} mm from {series.slices[firsts[place]].name} to '
            f'{series.slices[firsts[place + 1]].name}, elsewhere {step:.3g}', float(steps[place]), _GAP * step)
    narrow = np.flatnonzero(off & (steps < _GAP * step))
    if len(narrow):
        place = int(narrow[np.argmax(np.abs(steps[narrow] - step))])
        series.add(
            'uneven-spacing', f'{len(narrow)} of {len(steps)} distances; {steps[place]:.4g} mm from '
            f'{series.slices[firsts[place]].name} to {series.slices[firsts[place + 1]].name}, elsewhere {step:.4g}',
            float(abs(steps[place] - step)), tolerance)
    said = series.slices[firsts[0]].between
    if not np.isnan(said) and abs(abs(said) - fine) > .05 * fine + _ROUNDING and not len(narrow):
        series.add('spacing-mismatch', f'SpacingBetweenSlices is {said:g} mm, the positions are '
                   f'{fine:.4g} mm apart', float(abs(said)), fine)
    _locations(series, firsts, heights, tolerance)
    _order(series, firsts)
    length = heights[firsts[-1]] - heights[firsts[0]]
    if step > limits.max_voxel or length > limits.max_length:
        measure, limit = (step, limits.max_voxel) if step > limits.max_voxel else (length, limits.max_length)
        series.add('impossible-extent', f'{len(firsts)} slices, {step:.4g} mm apart, over '
                   f'{length:.5g} mm', float(measure), float(limit))


def _locations(series: Series, firsts: Sequence[int], heights: dict[int, float], tolerance: float) -> None:
    """Whether SliceLocation, which may count in either direction, goes on as the positions do."""
    places = np.array([series.slices[number].location for number in firsts])
    # One value for all of them is left from a template.
    if np.isnan(places).any() or not np.ptp(places) or series.has('spacing-mismatch'):
        return
    along = np.array([heights[number] for number in firsts])
    off = np.minimum(*(np.abs(np.diff(sign * places) - np.diff(along)).max() for sign in (1, -1)))
    # Scanners round it.
    if off > tolerance + _LOCATION:
        series.add('spacing-mismatch', f'SliceLocation goes on by up to {off:.3g} mm more or less than the positions',
                   float(off), tolerance + _LOCATION)  # yapf: disable


def _order(series: Series, firsts: Sequence[int]) -> None:
    """Whether InstanceNumber rises or falls with the positions."""
    steps = np.diff([series.slices[number].number for number in firsts])
    if series.volumes > 1 or np.isnan(steps).any() or (steps > 0).all() or (steps < 0).all():
        return
    against = np.flatnonzero(steps <= 0 if (steps > 0).sum() * 2 >= len(steps) else steps >= 0)
    before, after = (series.slices[firsts[int(against[0]) + place]] for place in (0, 1))
    series.add('order', f'{len(against)} of {len(steps)} steps, the first from {before.name} ({before.number:g}) to '
               f'{after.name} ({after.number:g})', len(against) / len(steps), 0)  # yapf: disable
