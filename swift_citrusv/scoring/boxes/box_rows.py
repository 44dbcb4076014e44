"""The boxes of reference rows, and the coordinate systems of answers."""
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pycocotools import mask as coco_mask
from typing import Any, Literal

from ...errors import RowError
from ...rows.mask_format import is_integer, short_repr
from ...rows.masks import encode_rle
from ..mask_rows import ImageMask, target_masks
from ..row_images import image_size_of
from ..rows import answer_of, without_reasoning
from .box_text import Box, boxes_of_json, parse_boxes

CoordinateSystem = Literal['pixels', 'resized', 'norm1000', 'norm1']
COORDINATE_SYSTEMS: tuple[CoordinateSystem, ...] = ('pixels', 'resized', 'norm1000', 'norm1')
# Columns with reference boxes, by precedence.
BOX_COLUMNS = ('bboxes', 'boxes', 'bbox', 'objects', 'masks', 'answer')
# Columns with the labels of 'bboxes', 'boxes' or 'bbox', if the boxes have none themselves.
LABEL_COLUMNS = ('box_labels', 'structures', 'structure')
# Qwen2.5-VL merges 2 x 2 patches of 14 pixels to a token.
_FACTOR = 28
_BOX_REMEDY = ('Write boxes as [[x1, y1, x2, y2], ...] in pixels of the image, the upper left corner first, and an '
               'empty list if there is nothing to find.')
_OBJECTS_REMEDY = ("Write 'objects' as in ms-swift: {'ref': [...], 'bbox': [[x1, y1, x2, y2], ...], 'bbox_type': "
                   "'real' or 'norm1', 'image_id': [...]}.")  # yapf: disable


@dataclass(frozen=True)
class Coordinates:
    """The coordinate system of the boxes in answers.

    Attributes:
        system: 'pixels': pixels of the image. 'resized': pixels of the model input, which qwen_vl_utils resizes to
            multiples of 28; Qwen2.5-VL is trained with these, and ms-swift converts `objects` to them. 'norm1000',
            'norm1': fractions of width and height, times 1000 or 1.
        min_pixels, max_pixels: Limits of the resized image, as MIN_PIXELS and MAX_PIXELS of ms-swift, rounded down to
            multiples of 28 * 28; None: the defaults of qwen_vl_utils. The row's `chat_template_kwargs` take precedence.
    """
    system: CoordinateSystem
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.system not in COORDINATE_SYSTEMS:
            raise ValueError(f'coordinates is {self.system!r}: give one of {", ".join(COORDINATE_SYSTEMS)}.')
        for name, value in (('min_pixels', self.min_pixels), ('max_pixels', self.max_pixels)):
            if value is not None and (not is_integer(value) or value < _FACTOR**2):
                raise ValueError(f'{name} is {value!r}: give a number of pixels from {_FACTOR**2} (28 * 28).')
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f'min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}.')

    def scale_to_pixels(self, reference: Mapping[str, Any], image: int, row: str) -> tuple[float, float]:
        """The factors (x, y) from these coordinates to pixels of the image.

        Args:
            reference: The row.
            image: The index of the image.
            row: The name of the row.

        Raises:
            RowError: The size of the image is required and unknown.
        """
        if self.system == 'pixels':
            return 1., 1.
        height, width = image_size_of(reference, image, (), row)
        if self.system == 'resized':
            resized = self._resized(height, width, reference.get('chat_template_kwargs'), row)
            return width / resized[1], height / resized[0]
        return (width / 1000, height / 1000) if self.system == 'norm1000' else (float(width), float(height))

    def _resized(self, height: int, width: int, settings: Any, row: str) -> tuple[int, int]:
        # Slow to import.
        from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, smart_resize

        settings = settings if isinstance(settings, Mapping) else {}
        least = (self.min_pixels // _FACTOR**2 if self.min_pixels else IMAGE_MIN_TOKEN_NUM) * _FACTOR**2
        most = (self.max_pixels // _FACTOR**2 if self.max_pixels else IMAGE_MAX_TOKEN_NUM) * _FACTOR**2
        try:
            # As in `qwen_vl_utils.fetch_image`.
            if settings.get('resized_height') and settings.get('resized_width'):
                return smart_resize(settings['resized_height'], settings['resized_width'], _FACTOR)
            return smart_resize(height, width, _FACTOR, settings.get('min_pixels') or least,
                                settings.get('max_pixels') or most)  # yapf: disable
        except (ValueError, TypeError, AssertionError) as e:
            raise RowError(row, f'an image of {width} x {height} pixels cannot be resized for Qwen2.5-VL: {e}.',
                           'Give other --coordinates, --min-pixels or --max-pixels.',
                           'eval-size') from e  # yapf: disable


# ---- references


def reference_boxes(reference: Mapping[str, Any], row: str, column: str, coordinates: Coordinates) -> list[Box]:
    """The reference boxes of a row, in pixels of their images.

    Args:
        reference: The row. `bboxes`, `boxes` and `bbox` hold one box [x1, y1, x2, y2] or a list of boxes in pixels, or
            objects with a box and a label; `objects` is in the format of ms-swift; `masks` (or the `label_masks` of
            `swift infer` results) yield their bounding boxes, none for an empty mask; the answer is parsed like a
            model's, without reasoning.
        row: The name of the row.
        column: One of `BOX_COLUMNS`, or 'auto' for the first one in the row.
        coordinates: The coordinates of the answer; the other columns are always in pixels.

    Returns:
        Boxes with the upper left corner first; [] if there is nothing to find.

    Raises:
        RowError: The row has no boxes, they are invalid, or one has no area.
    """
    if column == 'auto':
        column = next((name for name in BOX_COLUMNS[:-1] if has_boxes(reference, name)), 'answer')
    elif column not in ('answer', 'masks') and not has_boxes(reference, column):
        raise RowError(row, f'the row has no {column!r}.', _BOX_REMEDY, 'eval-boxes')
    if column == 'answer':
        boxes = boxes_of_answer(without_reasoning(answer_of(reference, row)), reference, row, coordinates)
    elif column == 'objects':
        boxes = _boxes_of_objects(reference, row)
    elif column == 'masks':
        boxes = boxes_of_masks(target_masks(reference, row))
    else:
        boxes = _boxes_of_column(reference, column, row)
    for i, box in enumerate(boxes):
        if box.is_degenerate:
            raise RowError(row, f'box {i} of {column!r}, {list(box.corners)}, has no area: nothing can match it.',
                           'Correct its corners: the first pixel is [0, 0, 1, 1].',
                           'eval-boxes')  # yapf: disable
    return [box.upright() for box in boxes]


def single_image(references: Sequence[Box], row: str) -> int:
    """The index of the image that the boxes in the text of an answer refer to: that of the reference boxes, or else 0.

    Raises:
        RowError: The reference has boxes on several images.
    """
    images = sorted({box.image for box in references})
    if len(images) > 1:
        raise RowError(row, f'the row has boxes on the images {images}, but the text of an answer does not name the '
                       'image of a box.', 'Write one row per image.', 'eval-boxes')  # yapf: disable
    return images[0] if images else 0


def boxes_of_answer(text: str, reference: Mapping[str, Any], row: str, coordinates: Coordinates) -> list[Box]:
    """The boxes in the answer of a reference, in pixels of the first image.

    Raises:
        RowError: A box cannot be parsed.
    """
    parsed = parse_boxes(text)
    if parsed.unreadable:
        raise RowError(row, f'the reference answer has {parsed.unreadable[0]!r}, which is not a box.', _BOX_REMEDY,
                       'eval-boxes')  # yapf: disable
    scale = coordinates.scale_to_pixels(reference, 0, row) if parsed.boxes else (1., 1.)
    return [box.scaled(*scale) for box in parsed.boxes]


def boxes_of_masks(masks: Sequence[ImageMask]) -> list[Box]:
    """The bounding boxes of masks (pycocotools), in pixels; none for an empty mask."""
    boxes = []
    for mask in masks:
        x, y, width, height = coco_mask.toBbox(encode_rle(mask.array)).tolist()
        if width and height:
            boxes.append(Box((x, y, x + width, y + height), mask.name, image=mask.image))
    return boxes


def has_boxes(reference: Mapping[str, Any], column: str) -> bool:
    """Whether a row has boxes, or an empty list of boxes, in a column of `BOX_COLUMNS`."""
    value = reference.get(column)
    if column == 'masks':
        # In a result of `swift infer`, objects with an 'rle' are the answer, and so is an empty list.
        return bool(reference.get('label_masks')) or bool(value) and not (isinstance(value, (list, tuple)) and any(
            isinstance(entry, Mapping) and 'rle' in entry for entry in value))  # yapf: disable
    if column == 'objects':
        # ms-swift fills missing columns with empty values.
        return isinstance(value, Mapping) and value.get('bbox') is not None
    return value is not None


def _boxes_of_column(reference: Mapping[str, Any], column: str, row: str) -> list[Box]:
    value = reference[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise RowError(row, f'{column!r} is {short_repr(value)}, which is not JSON ({e}).', _BOX_REMEDY,
                           'eval-boxes') from e  # yapf: disable
    single = isinstance(value, Mapping) or isinstance(value, (list, tuple)) and any(map(_is_real, value))
    entries = [value] if single else value
    if not isinstance(entries, (list, tuple)):
        raise RowError(row, f'{column!r} is {short_repr(value)}.', _BOX_REMEDY, 'eval-boxes')
    boxes = []
    for i, entry in enumerate(entries):
        parsed = boxes_of_json(entry)
        if parsed.unreadable or len(parsed.boxes) != 1:
            raise RowError(row, f'{column}[{i}] is {short_repr(entry)}, not one box.', _BOX_REMEDY, 'eval-boxes')
        boxes.append(parsed.boxes[0])
    name = next((name for name in LABEL_COLUMNS if reference.get(name) is not None), None)
    return _labelled(boxes, reference[name], repr(name), row) if name is not None else boxes


def _boxes_of_objects(reference: Mapping[str, Any], row: str) -> list[Box]:
    objects = reference['objects']
    entries, images = objects['bbox'], objects.get('image_id') or []
    if not isinstance(entries, (list, tuple)) or not isinstance(images, (list, tuple)):
        raise RowError(row, f"'objects' is {short_repr(objects)}.", _OBJECTS_REMEDY, 'eval-boxes')
    boxes = []
    for i, entry in enumerate(entries):
        parsed = boxes_of_json(entry)
        # As in ms-swift, the default is the first image.
        image = images[i] if i < len(images) else 0
        if len(parsed.boxes) != 1 or not is_integer(image) or image < 0:
            raise RowError(
                row, f"'objects' has {short_repr(entry)} on image {short_repr(image)} at bbox[{i}], not one box.",
                _OBJECTS_REMEDY, 'eval-boxes')
        box = replace(parsed.boxes[0], image=int(image))
        if objects.get('bbox_type') == 'norm1':
            box = box.scaled(*Coordinates('norm1').scale_to_pixels(reference, box.image, row))
        boxes.append(box)
    return _labelled(boxes, objects['ref'], "'ref' of 'objects'", row) if objects.get('ref') else boxes


def _labelled(boxes: list[Box], names: Any, where: str, row: str) -> list[Box]:
    """The boxes with one label each, or with a common one."""
    if isinstance(names, str):
        names = [names]
    good = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if good and len(names) == 1:
        names = list(names) * len(boxes)
    if not good or len(names) != len(boxes):
        raise RowError(row, f'{where} is {short_repr(names)} for {len(boxes)} boxes.',
                       'Give one label per box, one for all, or none.', 'eval-boxes')  # yapf: disable
    return [replace(box, label=name) for box, name in zip(boxes, names)]


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
