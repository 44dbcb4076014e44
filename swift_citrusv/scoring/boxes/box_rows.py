"""The boxes that rows of references have, and what coordinates mean: pixels, or parts of an image."""
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pycocotools import mask as coco_mask
from typing import Any, Literal

from ...errors import RowError
from ...rows.mask_format import is_int, shown
from ...rows.masks import encode_rle
from ..image_facts import image_size
from ..mask_rows import ImageMask, targets_of
from ..rows import answer_of, without_reasoning
from .box_text import Box, boxes_of_json, parse_boxes

Form = Literal['pixels', 'resized', 'norm1000', 'norm1']
FORMS: tuple[Form, ...] = ('pixels', 'resized', 'norm1000', 'norm1')
# Where the boxes of a reference may stand, in the order in which they win.
BOX_COLUMNS = ('bboxes', 'boxes', 'bbox', 'objects', 'masks', 'answer')
# Where the labels of 'bboxes', 'boxes' or 'bbox' may stand, beside the boxes themselves.
LABEL_COLUMNS = ('box_labels', 'structures', 'structure')
# Of Qwen2.5-VL: 14 pixels of a patch, two by two of which make a token.
_FACTOR = 28
_BOX_REMEDY = ('Write boxes as [[x1, y1, x2, y2], ...] in pixels of the image, the upper left corner first; an empty '
               'list says that there is nothing to find.')
_OBJECTS_REMEDY = ("Write 'objects' as ms-swift has it: {'ref': [...], 'bbox': [[x1, y1, x2, y2], ...], 'bbox_type': "
                   "'real' or 'norm1', 'image_id': [...]}.")  # yapf: disable


@dataclass(frozen=True)
class Coordinates:
    """What the coordinates of an answer count.

    Attributes:
        form: 'pixels' of the image itself; 'resized': pixels of the image as Qwen2.5-VL sees it, resized by
            qwen_vl_utils to sides that 28 divides, which is what that model was trained with and what ms-swift makes of
            `objects`; 'norm1000', 'norm1': parts of its width and height, times 1000 or 1.
        min_pixels, max_pixels: Of the resized image, as MIN_PIXELS and MAX_PIXELS of ms-swift, which cuts them to
            multiples of 28 * 28; None: qwen_vl_utils' own. What a row has in `chat_template_kwargs` goes before.
    """
    form: Form
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f'coordinates is {self.form!r}: give one of {", ".join(FORMS)}.')
        for name, value in (('min_pixels', self.min_pixels), ('max_pixels', self.max_pixels)):
            if value is not None and (not is_int(value) or value < _FACTOR**2):
                raise ValueError(f'{name} is {value!r}: give a number of pixels from {_FACTOR**2} (28 * 28).')
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f'min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}.')

    def scale(self, reference: Mapping[str, Any], image: int, row: str) -> tuple[float, float]:
        """What the coordinates have to be multiplied with to be pixels of the image: x and y.

        Args:
            reference: The row.
            image: Which of its images.
            row: Its name.

        Raises:
            RowError: The size of the image is needed and not known.
        """
        if self.form == 'pixels':
            return 1., 1.
        height, width = image_size(reference, image, (), row)
        if self.form == 'resized':
            resized = self._resized(height, width, reference.get('chat_template_kwargs'), row)
            return width / resized[1], height / resized[0]
        return (width / 1000, height / 1000) if self.form == 'norm1000' else (float(width), float(height))

    def _resized(self, height: int, width: int, settings: Any, row: str) -> tuple[int, int]:
        # Slow to import, and only needed here.
        from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, smart_resize

        settings = settings if isinstance(settings, Mapping) else {}
        least = (self.min_pixels // _FACTOR**2 if self.min_pixels else IMAGE_MIN_TOKEN_NUM) * _FACTOR**2
        most = (self.max_pixels // _FACTOR**2 if self.max_pixels else IMAGE_MAX_TOKEN_NUM) * _FACTOR**2
        try:
            # As `qwen_vl_utils.fetch_image` does.
            if settings.get('resized_height') and settings.get('resized_width'):
                return smart_resize(settings['resized_height'], settings['resized_width'], _FACTOR)
            return smart_resize(height, width, _FACTOR, settings.get('min_pixels') or least,
                                settings.get('max_pixels') or most)  # yapf: disable
        except (ValueError, TypeError, AssertionError) as e:
            raise RowError(row, f'an image of {width} x {height} pixels cannot be resized as for Qwen2.5-VL: {e}.',
                           'Give other --coordinates, --min-pixels or --max-pixels.',
                           'eval-size') from e  # yapf: disable


# ---- references


def reference_boxes(reference: Mapping[str, Any], row: str, column: str, coordinates: Coordinates) -> list[Box]:
    """The boxes that an answer to a row should have, in pixels of their images.

    Args:
        reference: The row. `bboxes`, `boxes` and `bbox` hold boxes [x1, y1, x2, y2] in pixels (one, or a list), or
            objects with a box and a label; `objects` is ms-swift's; of `masks` (or `label_masks`, in results of
            `swift infer`) the boxes around them count, and an empty mask has none; the answer is read as that of a
            model, without its reasoning.
        row: Its name.
        column: One of `BOX_COLUMNS`, or 'auto' for the first of them that the row has.
        coordinates: Of the answer; the columns are always in pixels.

    Returns:
        Upper left corner first; [] where there is nothing to find.

    Raises:
        RowError: There are none, they cannot be read, or one has no area.
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
        boxes = boxes_of_masks(targets_of(reference, row))
    else:
        boxes = _boxes_of_column(reference, column, row)
    for i, box in enumerate(boxes):
        if box.is_degenerate:
            raise RowError(row, f'box {i} of {column!r}, {list(box.corners)}, has no area: nothing can match it.',
                           'Give its true corners: in these coordinates the first pixel is [0, 0, 1, 1].',
                           'eval-boxes')  # yapf: disable
    return [box.upright() for box in boxes]


def image_of_text(references: Sequence[Box], row: str) -> int:
    """The image that the boxes in the text of an answer are on: that of the boxes of the reference, or else the first.

    Raises:
        RowError: The reference has boxes on several images.
    """
    images = sorted({box.image for box in references})
    if len(images) > 1:
        raise RowError(row, f'the row has boxes on the images {images}: the text of an answer does not say which one a '
                       'box is on.', 'Write a row for each image.', 'eval-boxes')  # yapf: disable
    return images[0] if images else 0


def boxes_of_answer(text: str, reference: Mapping[str, Any], row: str, coordinates: Coordinates) -> list[Box]:
    """The boxes of the answer of a reference, in pixels of the first image.

    Raises:
        RowError: One cannot be read.
    """
    parsed = parse_boxes(text)
    if parsed.unreadable:
        raise RowError(row, f'the right answer has {parsed.unreadable[0]!r}, which is no box.', _BOX_REMEDY,
                       'eval-boxes')  # yapf: disable
    scale = coordinates.scale(reference, 0, row) if parsed.boxes else (1., 1.)
    return [box.scaled(*scale) for box in parsed.boxes]


def boxes_of_masks(masks: Sequence[ImageMask]) -> list[Box]:
    """The boxes around masks (pycocotools), in pixels; an empty mask has none."""
    boxes = []
    for mask in masks:
        x, y, width, height = coco_mask.toBbox(encode_rle(mask.array)).tolist()
        if width and height:
            boxes.append(Box((x, y, x + width, y + height), mask.name, image=mask.image))
    return boxes


def has_boxes(reference: Mapping[str, Any], column: str) -> bool:
    """Whether a row has boxes, or an empty list of them, in a column of `BOX_COLUMNS`."""
    value = reference.get(column)
    if column == 'masks':
        # Masks with all that is beside them are the answer in a result of `swift infer`, and so is an empty list.
        return bool(reference.get('label_masks')) or bool(value) and not (isinstance(value, (list, tuple)) and any(
            isinstance(entry, Mapping) and 'rle' in entry for entry in value))  # yapf: disable
    if column == 'objects':
        # ms-swift gives all rows of a file the columns of any.
        return isinstance(value, Mapping) and value.get('bbox') is not None
    return value is not None


def _boxes_of_column(reference: Mapping[str, Any], column: str, row: str) -> list[Box]:
    value = reference[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise RowError(row, f'{column!r} is {shown(value)}, which is not JSON ({e}).', _BOX_REMEDY,
                           'eval-boxes') from e  # yapf: disable
    single = isinstance(value, Mapping) or isinstance(value, (list, tuple)) and any(map(_is_real, value))
    entries = [value] if single else value
    if not isinstance(entries, (list, tuple)):
        raise RowError(row, f'{column!r} is {shown(value)}.', _BOX_REMEDY, 'eval-boxes')
    boxes = []
    for i, entry in enumerate(entries):
        parsed = boxes_of_json(entry)
        if parsed.unreadable or len(parsed.boxes) != 1:
            raise RowError(row, f'{column}[{i}] is {shown(entry)}, not one box.', _BOX_REMEDY, 'eval-boxes')
        boxes.append(parsed.boxes[0])
    name = next((name for name in LABEL_COLUMNS if reference.get(name) is not None), None)
    return _labelled(boxes, reference[name], repr(name), row) if name is not None else boxes


def _boxes_of_objects(reference: Mapping[str, Any], row: str) -> list[Box]:
    objects = reference['objects']
    entries, images = objects['bbox'], objects.get('image_id') or []
    if not isinstance(entries, (list, tuple)) or not isinstance(images, (list, tuple)):
        raise RowError(row, f"'objects' is {shown(objects)}.", _OBJECTS_REMEDY, 'eval-boxes')
    boxes = []
    for i, entry in enumerate(entries):
        parsed = boxes_of_json(entry)
        # ms-swift: an image that is not named is the first.
        image = images[i] if i < len(images) else 0
        if len(parsed.boxes) != 1 or not is_int(image) or image < 0:
            raise RowError(row, f"'objects' has {shown(entry)} on image {shown(image)} at bbox[{i}], not one box.",
                           _OBJECTS_REMEDY, 'eval-boxes')  # yapf: disable
        box = replace(parsed.boxes[0], image=int(image))
        if objects.get('bbox_type') == 'norm1':
            box = box.scaled(*Coordinates('norm1').scale(reference, box.image, row))
        boxes.append(box)
    return _labelled(boxes, objects['ref'], "'ref' of 'objects'", row) if objects.get('ref') else boxes


def _labelled(boxes: list[Box], names: Any, where: str, row: str) -> list[Box]:
    """The boxes with a name each, or with one name for all."""
    if isinstance(names, str):
        names = [names]
    good = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if good and len(names) == 1:
        names = list(names) * len(boxes)
    if not good or len(names) != len(boxes):
        raise RowError(row, f'{where} is {shown(names)} for {len(boxes)} boxes.',
                       'Give each box its name, or all of them one, or none.', 'eval-boxes')  # yapf: disable
    return [replace(box, label=name) for box, name in zip(boxes, names)]


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
