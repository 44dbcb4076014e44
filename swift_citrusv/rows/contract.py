"""The row contract of a segmentation dataset: the structure of a JSONL row.

A row pairs each `[SEG]` of its assistant turns with one entry of `masks`, and each entry with one image. `parse_row`
checks that pairing and the form of every entry; `masks.decode_mask` then turns an entry into pixels. The checks read
only the row itself, so a whole dataset can be validated without opening its image files.
"""
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NoReturn

from ..constants import SEG_TOKEN
from ..errors import RowError
from .mask_format import MASK_FORMS, check_mask_entry, is_coordinate, is_integer, short_repr

_MASK_IMAGES_REMEDY = ("'mask_images' lists for each mask the index of its image in 'images', counted from 0; with one "
                       'image it is optional.')
_IMAGES_REMEDY = "Write 'images' as a list of file names."
_BOXES_REMEDY = ("Write 'objects' as {'ref': [...], 'bbox': [[x1, y1, x2, y2], ...]}, a box with two or four numbers "
                 'in pixels.')
_MESSAGES_REMEDY = "Write 'messages' as a list of {'role': ..., 'content': ...}, one a turn."


@dataclass(frozen=True)
class Sample:
    """The checked masks of one row.

    Attributes:
        row: The row's name in error messages, e.g. 'train.jsonl:12'.
        masks: The mask entries, one for each `[SEG]` of the assistant turns, in order, without None-valued keys;
            () for a row without masks. `masks.decode_mask` reads them.
        mask_images: For each mask the index of its image in `row['images']`.
        seg_images: The distinct indices in `mask_images`, ascending: the images that SAM2 must encode.
    """
    row: str
    masks: tuple[Any, ...]
    mask_images: tuple[int, ...]
    seg_images: tuple[int, ...]

    @property
    def mask_image_index(self) -> tuple[int, ...]:
        """For each mask the position of its image within `seg_images`."""
        position = {image: i for i, image in enumerate(self.seg_images)}
        return tuple(position[image] for image in self.mask_images)


def count_seg_tokens(messages: Iterable[Mapping[str, Any]]) -> int:
    """Counts `[SEG]` in the assistant turns; in other turns (user, system, tool, tool_call) it is plain text.

    Args:
        messages: The turns, each with 'role' and 'content'; content is a string or a list of typed parts.
    """
    return sum(_text(message.get('content')).count(SEG_TOKEN) for message in messages if message['role'] == 'assistant')


def check_tags(messages: Iterable[Mapping[str, Any]], *, num_images: int, num_videos: int, row_id: str) -> None:
    """Rejects more `<image>` or `<video>` tags than the row has images or videos.

    ms-swift would train on the extra tags as plain text. Fewer tags are allowed: ms-swift inserts the missing ones at
    the start.

    Raises:
        RowError: Kind 'image-tags' or 'video-tags'.
    """
    # ms-swift converts the content of a tool turn to JSON if it is not a string.
    texts = [json.dumps(m['content']) if 'tool' in m['role'] else _text(m['content']) for m in messages]
    for medium, count in (('image', num_images), ('video', num_videos)):
        num_tags = sum(text.count(f'<{medium}>') for text in texts)
        if num_tags > count:
            raise RowError(row_id, f'the messages have <{medium}> {num_tags} times, but the row has {count} {medium}s.',
                           f"List each {medium} in '{medium}s', or remove the extra tags.", f'{medium}-tags')


def parse_row(row: Mapping[str, Any], *, row_id: str) -> Sample:
    """Checks a row's structure. No file is opened, and a compressed RLE is not decoded.

    `masks` is a list, or a JSON string of that list (which carries mixed forms through Arrow). None and [] make a row
    without masks, whose assistant turns may still have `[SEG]` (text supervision only). `mask_images` is optional with
    one image. Images are those of `images`, or, if that is empty, the image parts of the messages.

    Args:
        row: One row, from JSON or from ms-swift's dataset loading.
        row_id: The row's name in error messages, e.g. 'train.jsonl:12'.

    Raises:
        RowError: The row breaks the contract; `kind` names the problem.
    """
    if not isinstance(row, Mapping):
        raise RowError(row_id, f'the row is {short_repr(row)}.', 'Write one JSON object a line.', 'row')
    messages = _checked_messages(row.get('messages'), row_id)
    for key in ('system', 'system_prompt'):
        if not isinstance(row.get(key), (str, type(None))):
            raise RowError(row_id, f'{key!r} is {short_repr(row[key])}.', f'Write {key!r} as a string.', 'message')
    settings = row.get('chat_template_kwargs')
    if not isinstance(settings, (Mapping, type(None))):
        raise RowError(row_id, f"'chat_template_kwargs' is {short_repr(settings)}.", 'Write an object, or remove it.',
                       'media-settings')
    _check_images(row.get('images'), row_id)
    _check_objects(row.get('objects'), row_id)
    entries = mask_list(row.get('masks'), row_id)
    mask_images = row.get('mask_images')
    if mask_images is not None and not isinstance(mask_images, (list, tuple)):
        raise RowError(row_id, f"'mask_images' is {short_repr(mask_images)}.", _MASK_IMAGES_REMEDY, 'mask-images')
    if not entries:
        if mask_images:
            raise RowError(row_id, f"'mask_images' is {short_repr(mask_images)}, but the row has no masks.",
                           "Add 'masks', or remove 'mask_images'.", 'mask-images-without-masks')
        return Sample(row_id, (), (), ())
    num_seg_tokens = count_seg_tokens(messages)
    if len(entries) != num_seg_tokens:
        raise RowError(
            row_id, f"'masks' has {len(entries)} entries, but the assistant turns have {SEG_TOKEN} {num_seg_tokens} "
            'times.', f'Give one mask for each {SEG_TOKEN} of the assistant turns, in order.', 'mask-count')
    num_images = _num_media(row, messages, 'image')
    if not num_images:
        _raise_no_image(row, messages, len(entries), row_id)
    indices = _checked_mask_images(mask_images, len(entries), num_images, row_id)
    masks = tuple(check_mask_entry(entry, f'masks[{i}]', row_id) for i, entry in enumerate(entries))
    return Sample(row_id, masks, indices, tuple(sorted(set(indices))))


def mask_list(masks: Any, row_id: str) -> Sequence[Any]:
    """The entries of the column `masks`: a list, a string with the JSON of a list, or None for no masks.

    Raises:
        RowError: The value has another form (kind 'masks').
    """
    decoded = masks
    if isinstance(masks, str):
        try:
            decoded = json.loads(masks)
        except (ValueError, RecursionError) as error:
            raise RowError(row_id, f"'masks' is the string {short_repr(masks)}, which is not JSON ({error}).",
                           "Write 'masks' as a list, or as the JSON text of a list.", 'masks') from error
    if decoded is None:
        return ()
    if not isinstance(decoded, (list, tuple)):
        raise RowError(row_id, f"'masks' is {short_repr(masks)}, not a list.", f'Give a list of entries. {MASK_FORMS}',
                       'masks')
    return decoded


def _checked_messages(messages: Any, row_id: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise RowError(row_id, f"'messages' is {short_repr(messages)}.", _MESSAGES_REMEDY, 'messages')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            problem = f'is {short_repr(message)}'
        elif not isinstance(message.get('role'), str) or not message['role']:
            problem = f'has the role {short_repr(message.get("role"))}'
        # ms-swift accepts an object as the content of a tool turn.
        elif not isinstance(message.get('content'), (str, list, tuple, Mapping)):
            problem = f'has the content {short_repr(message.get("content"))}'
        else:
            continue
        raise RowError(row_id, f'messages[{i}] {problem}.', _MESSAGES_REMEDY, 'message')
    return messages


def _parts(content: Any) -> list[Mapping[str, Any]]:
    """The typed parts of a content; none for a string, token ids, or the object of a tool turn."""
    if not isinstance(content, (list, tuple)):
        return []
    return [part for part in content if isinstance(part, Mapping)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    # As ms-swift joins the parts, so that `<image>`, and a `[SEG]` across two parts, count in the same way.
    parts = [(str(part.get('type')).removesuffix('_url'), part) for part in _parts(content)]
    return ''.join(str(part.get('text')) if kind == 'text' else f'<{kind}>' for kind, part in parts)


def _has_media(part: Mapping[str, Any], medium: str) -> bool:
    # A part without a value only marks the position of an entry of `images`, as `<image>` does in a string.
    kind = part.get('type')
    return kind in (medium, f'{medium}_url') and bool(part.get(kind))


def _check_images(images: Any, row_id: str) -> None:
    if images is not None and not isinstance(images, (str, Mapping, list, tuple)):
        raise RowError(row_id, f"'images' is {short_repr(images)}.", _IMAGES_REMEDY, 'images')
    images = images if isinstance(images, (list, tuple)) else []
    for i, image in enumerate(images):
        # ms-swift checks other types, e.g. bytes and open images.
        if image is None or isinstance(image, (Real, list, tuple)):
            raise RowError(row_id, f'images[{i}] is {short_repr(image)}.', _IMAGES_REMEDY, 'image-unreadable')
        # ms-swift checks only the first entry of a list.
        if isinstance(image, (str, Mapping)) and isinstance(image, str) != isinstance(images[0], str):
            raise RowError(row_id, f'images[{i}] is {short_repr(image)}, but images[0] is {short_repr(images[0])}.',
                           'Write all entries as file names, or all as objects.', 'images')


def _check_objects(objects: Any, row_id: str) -> None:
    """Rejects boxes that are not finite numbers: Arrow would turn NaN into None and a huge integer into a string."""
    if objects is None:
        return
    boxes = objects.get('bbox') if isinstance(objects, Mapping) else None
    if not isinstance(boxes, (list, tuple)):
        raise RowError(row_id, f"'objects' is {short_repr(objects)}.", _BOXES_REMEDY, 'objects')
    for key, wanted in (('ref', str), ('image_id', Integral)):
        values = objects.get(key)
        if values is not None and not (isinstance(values,
                                                  (list, tuple)) and all(isinstance(v, wanted) for v in values)):
            raise RowError(row_id, f"'objects' has {key!r}: {short_repr(values)}.", _BOXES_REMEDY, 'objects')
    for i, box in enumerate(boxes):
        if not isinstance(box, (list, tuple)) or len(box) not in (2, 4) or not all(is_coordinate(x) for x in box):
            raise RowError(row_id, f"'objects' has the box {short_repr(box)} at bbox[{i}].", _BOXES_REMEDY, 'objects')


def _num_media(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], medium: str) -> int:
    media = row.get(f'{medium}s')
    if media:
        return len(media) if isinstance(media, (list, tuple)) else 1
    return sum(_has_media(part, medium) for message in messages for part in _parts(message['content']))


def _raise_no_image(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], num_masks: int,
                    row_id: str) -> NoReturn:
    if _num_media(row, messages, 'video'):
        raise RowError(row_id, f"'masks' has {num_masks} entries, but the row has only videos.",
                       "Masks belong to images: list the frames in 'images', or remove 'masks'.", 'masks-on-video')
    raise RowError(row_id, f"'masks' has {num_masks} entries, but the row has no image.",
                   "List the masks' images in 'images', or remove 'masks'.", 'masks-without-image')


def _checked_mask_images(mask_images: Sequence[Any] | None, num_masks: int, num_images: int,
                         row_id: str) -> tuple[int, ...]:
    if not mask_images:
        if num_images > 1:
            raise RowError(row_id, f"the row has {num_images} images and {num_masks} masks, but no 'mask_images'.",
                           f'Add it: {_MASK_IMAGES_REMEDY}', 'mask-images-missing')
        return (0, ) * num_masks
    if len(mask_images) != num_masks:
        raise RowError(row_id, f"'mask_images' has {len(mask_images)} entries for {num_masks} masks.",
                       _MASK_IMAGES_REMEDY, 'mask-images-length')
    for i, image in enumerate(mask_images):
        if not is_integer(image) or not 0 <= image < num_images:
            raise RowError(row_id, f'mask_images[{i}] is {short_repr(image)}, but the row has {num_images} images.',
                           _MASK_IMAGES_REMEDY, 'mask-images-value')
    return tuple(int(image) for image in mask_images)
