"""Checks the form of a mask entry, without opening a file or decoding pixels."""
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import RowError
from ..files.rules import file_rules

MASK_FORMS = ("Write an RLE {'size': [h, w], 'counts': ...}, a polygon list [[x1, y1, x2, y2, x3, y3], ...] or a file "
              "{'path': 'm.png', 'label': 3} (label optional).")
_SIZE_REMEDY = "Write 'size' as [height, width] of the image, two positive integers."
_COUNTS_REMEDY = ("Write 'counts' as a compressed string (.decode('ascii') if it is bytes), or as non-negative run "
                  'lengths, column by column and zeros first, that sum to height * width.')
POLYGON_REMEDY = 'Write each polygon as a flat list of numbers [x1, y1, x2, y2, x3, y3, ...] with three points or more.'
_PATH_REMEDY = "Give 'path' the name of an image file."
_LABEL_REMEDY = "Make 'label' an integer from 0 to 65535, or remove it to use all non-zero pixels."


def check_mask_entry(entry: Any, where: str, row_id: str) -> Any:
    """Checks the form of one entry and returns it without None-valued keys.

    Args:
        entry: A COCO RLE, a COCO polygon list, or a file with or without a label.
        where: The position of the entry in the row, for error messages ('masks[2]').
        row_id: The row's name, for error messages.

    Raises:
        RowError: The entry has none of these forms (kind 'mask-form'), a wrong value ('mask-rle', 'mask-polygon',
            'mask-path', 'mask-label'), or is an RLE with more pixels than max_image_pixels ('too-many-pixels').
    """
    if isinstance(entry, Mapping):
        # Arrow adds the keys of all objects of a column to each of them.
        entry = {key: value for key, value in entry.items() if value is not None}
        if entry.keys() == {'size', 'counts'}:
            _check_rle(entry, where, row_id)
            return entry
        if 'path' in entry and entry.keys() <= {'path', 'label'}:
            _check_file(entry, where, row_id)
            return entry
    elif isinstance(entry, (list, tuple)) and entry:
        _check_polygons(entry, where, row_id)
        return entry
    raise RowError(row_id, f'{where} is {short_repr(entry)}.', MASK_FORMS, 'mask-form')


def _check_rle(entry: Mapping[str, Any], where: str, row_id: str) -> None:
    size, counts = entry['size'], entry['counts']
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_integer(x) and x > 0 for x in size):
        raise RowError(row_id, f'{where} has the size {short_repr(size)}.', _SIZE_REMEDY, 'mask-rle')
    most = file_rules().max_pixels
    if size[0] * size[1] > most:
        raise RowError(row_id, f'{where} has the size {short_repr(size)}, more pixels than max_image_pixels={most}.',
                       'Cut image and mask into tiles; raise max_image_pixels only for trusted data.',
                       'too-many-pixels')
    if isinstance(counts, str) and counts:
        return
    if not isinstance(counts, (list, tuple)) or not counts:
        raise RowError(row_id, f'{where} has the counts {short_repr(counts)}.', _COUNTS_REMEDY, 'mask-rle')
    for i, count in enumerate(counts):
        if not is_integer(count) or count < 0:
            raise RowError(row_id, f'{where} has the run length {short_repr(count)} at counts[{i}].', _COUNTS_REMEDY,
                           'mask-rle')
    if sum(counts) != size[0] * size[1]:
        raise RowError(
            row_id, f'{where} has counts that sum to {short_repr(sum(counts))}, but its size {short_repr(size)} has '
            f'{short_repr(size[0] * size[1])} pixels.', _COUNTS_REMEDY, 'mask-rle')


def _check_polygons(polygons: Sequence[Any], where: str, row_id: str) -> None:
    for i, polygon in enumerate(polygons):
        if not isinstance(polygon, (list, tuple)):
            problem = f'is {short_repr(polygon)}'
        elif len(polygon) < 6 or len(polygon) % 2:
            problem = f'has {len(polygon)} coordinates'
        elif bad := [value for value in polygon if not is_coordinate(value)]:
            problem = f'has the coordinate {short_repr(bad[0])}'
        else:
            continue
        raise RowError(row_id, f'{where}: polygon {i} {problem}.', POLYGON_REMEDY, 'mask-polygon')


def _check_file(entry: Mapping[str, Any], where: str, row_id: str) -> None:
    if not isinstance(entry['path'], str) or not entry['path']:
        raise RowError(row_id, f'{where} has the path {short_repr(entry["path"])}.', _PATH_REMEDY, 'mask-path')
    if 'label' in entry and not (is_integer(entry['label']) and 0 <= entry['label'] <= 65535):
        raise RowError(row_id, f'{where} has the label {short_repr(entry["label"])}.', _LABEL_REMEDY, 'mask-label')


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; bool does not count."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_coordinate(value: Any) -> bool:
    """Whether a value is a coordinate in pixels: a number between -2^29 and 2^29; bool does not count."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # The comparison is false for NaN too. math.isfinite overflows on a huge integer.
    return is_number and bool(-2**29 < value < 2**29)


def short_repr(value: Any) -> str:
    """A repr of limited length for error messages: a mask entry may have a million characters."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print an integer of more than 4,300 digits.
        return f'a huge {type(value).__name__}'
