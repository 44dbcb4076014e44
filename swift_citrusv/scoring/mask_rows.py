"""The masks of reference rows and of predictions, as arrays, each with the index of its image."""
import numpy as np
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import SEG_TOKEN
from ..errors import RowError
from ..rows.contract import count_seg_tokens, mask_list
from ..rows.mask_format import check_mask_entry, is_integer, short_repr
from ..rows.masks import decode_mask
from .cases import PredictionError
from .row_images import image_size_of, num_images
from .rows import response_of


@dataclass(frozen=True, eq=False)
class ImageMask:
    """A mask on an image.

    Attributes:
        array: bool [h, w] at the size of the image. May be empty.
        image: Index of the row's image, from 0.
        name: The structure of a target or the phrase of a prediction; '' for none.
    """
    array: np.ndarray
    image: int
    name: str = ''


# ---- references


def target_masks(reference: Mapping[str, Any], row: str) -> list[ImageMask]:
    """The target masks of a row.

    They are `label_masks` if the row has them (a result line of `swift infer`), or else `masks`, in the forms of the
    row contract. Masks of `[SEG]` tokens in earlier turns are part of the question, not targets.

    Args:
        reference: The row. Without `messages`, all of its masks are targets.
        row: The row's name.

    Raises:
        RowError: The row is invalid.
    """
    is_result = 'label_masks' in reference
    entries = mask_list(reference.get('label_masks' if is_result else 'masks'), row)
    if not is_result and any(isinstance(entry, Mapping) and 'rle' in entry for entry in entries):
        # A result line of a row without target masks: these are the predicted ones.
        return []
    if not entries:
        return []
    first = _first_target(reference, len(entries), is_result, row)
    images = _mask_images(reference.get('label_mask_images' if is_result else 'mask_images'), len(entries),
                          num_images(reference), row)  # yapf: disable
    names = _structures(reference, len(entries), first, row)
    checked = [check_mask_entry(entry, f'masks[{i}]', row) for i, entry in enumerate(entries)]
    sizes: dict[int, tuple[int, int]] = {}
    targets = []
    for i in range(first, len(entries)):
        if images[i] not in sizes:
            there = [entry for entry, image in zip(checked, images) if image == images[i]]
            sizes[images[i]] = image_size_of(reference, images[i], there, row)
        array = decode_mask(checked[i], size=sizes[images[i]], row=row, position=i)
        targets.append(ImageMask(array.view(bool), images[i], names[i]))
    return targets


def _first_target(reference: Mapping[str, Any], num_masks: int, is_result: bool, row: str) -> int:
    """The index of the first mask of the last answer."""
    messages = reference.get('messages')
    if not messages:
        return 0
    if not isinstance(messages, (list, tuple)) or not all(isinstance(m, Mapping) and 'role' in m for m in messages):
        raise RowError(row, f"'messages' is {short_repr(messages)}.",
                       "Write it as a list of {'role': ..., 'content': ...}.", 'messages')  # yapf: disable
    answered = messages[-1]['role'] == 'assistant'
    num_earlier = count_seg_tokens(messages[:-1])
    # In a result line, the last turn is the model's response.
    num_last = count_seg_tokens(messages[-1:]) if answered and not is_result else max(num_masks - num_earlier, 0)
    if num_masks != num_earlier + num_last:
        raise RowError(
            row, f"'masks' has {num_masks} entries, but the assistant turns have {num_earlier + num_last} "
            f'{SEG_TOKEN} tokens.', f'Give one mask for each {SEG_TOKEN} token of the assistant turns, in order.',
            'mask-count')
    return num_earlier


def _mask_images(mask_images: Any, num_masks: int, known: int | None, row: str) -> list[int]:
    remedy = "'mask_images' lists for each mask the index of its image in 'images', counted from 0."
    if not mask_images:
        if known is not None and known > 1:
            raise RowError(row, f"the row has {known} images and {num_masks} masks, but no 'mask_images'.",
                           f'Add it: {remedy}', 'mask-images-missing')  # yapf: disable
        return [0] * num_masks
    if not isinstance(mask_images, (list, tuple)) or len(mask_images) != num_masks:
        raise RowError(row, f"'mask_images' is {short_repr(mask_images)} for {num_masks} masks.", remedy,
                       'mask-images-length')  # yapf: disable
    for index in mask_images:
        if not is_integer(index) or index < 0 or known is not None and index >= known:
            raise RowError(row, f"'mask_images' has the index {short_repr(index)}, but the row has {known} images.",
                           remedy, 'mask-images-value')  # yapf: disable
    return [int(index) for index in mask_images]


def _structures(reference: Mapping[str, Any], num_masks: int, first: int, row: str) -> list[str]:
    """A name for each mask, including those of earlier turns."""
    key = 'structures' if reference.get('structures') is not None else 'structure'
    value = reference.get(key)
    if value is None or isinstance(value, str):
        return [value or ''] * num_masks
    if isinstance(value, (list, tuple)) and all(isinstance(name, (str, type(None))) for name in value):
        names = [name or '' for name in value]
        if len(names) == num_masks:
            return names
        if len(names) == num_masks - first:
            return [''] * first + names
    raise RowError(row, f'{key!r} is {short_repr(value)} for {num_masks} masks.',
                   'Write a name for each mask, or one for all; or rename the column.', 'eval-structure')


# ---- predictions


def predicted_masks(prediction: Mapping[str, Any] | None, reference: Mapping[str, Any], targets: Sequence[ImageMask],
                    row: str) -> list[ImageMask] | None:
    """The masks of a prediction.

    Args:
        prediction: `masks` has masks as `swift infer` writes them ({'rle': ..., 'image_index': ..., 'phrase': ...}),
            or in the forms of the row contract, with `image_index` in each or the column `mask_images`. It may be
            missing if `response` has no `[SEG]` token.
        reference: The row.
        targets: The target masks of the row, which give the sizes of their images.
        row: The row's name.

    Returns:
        [] for an answer without masks; None for no answer: no prediction, or one with only an `error`.

    Raises:
        PredictionError: The prediction is invalid, or the size of a mask is not that of its image.
    """
    if prediction is None:
        return None
    if prediction.get('masks') is None:
        if prediction.get('response') is None and not prediction.get('error'):
            raise PredictionError("it has neither 'masks' nor 'response'")
        response = response_of(prediction)
        if response is not None and SEG_TOKEN in response:
            raise PredictionError(
                f"the response has {response.count(SEG_TOKEN)} {SEG_TOKEN} tokens, but there are no 'masks'")
        return None if response is None else []
    try:
        entries = mask_list(prediction['masks'], row)
    except RowError as e:
        raise PredictionError(e.problem.rstrip('.')) from e
    if not entries and prediction.get('error') and not prediction.get('response'):
        return None
    sizes = {target.image: target.array.shape for target in targets}
    masks = []
    for i, entry in enumerate(entries):
        image = _image_index(entry, prediction.get('mask_images'), i, len(entries), num_images(reference))
        name = str(entry.get('phrase') or '') if isinstance(entry, Mapping) else ''
        try:
            checked = check_mask_entry(_mask_entry(entry), f'masks[{i}]', row)
            if image not in sizes:
                sizes[image] = image_size_of(reference, image, [checked], row)
            array = decode_mask(checked, size=sizes[image], row=row, position=i)
        except RowError as e:
            raise PredictionError(e.problem.rstrip('.')) from e
        masks.append(ImageMask(array.view(bool), image, name))
    return masks


def _mask_entry(entry: Any) -> Any:
    """A predicted entry without `image_index` and `phrase`."""
    if not isinstance(entry, Mapping):
        return entry
    if 'rle' in entry:
        return entry['rle']
    known = {key: entry[key] for key in ('size', 'counts', 'path', 'label') if key in entry}
    return known or entry


def _image_index(entry: Any, mask_images: Any, position: int, num_masks: int, known: int | None) -> int:
    index = entry.get('image_index') if isinstance(entry, Mapping) else None
    where = f"masks[{position}] has the 'image_index'"
    if index is None and mask_images:
        if not isinstance(mask_images, (list, tuple)) or len(mask_images) != num_masks:
            raise PredictionError(f"'mask_images' is {short_repr(mask_images)} for {num_masks} masks")
        index, where = mask_images[position], f'mask_images[{position}] is'
    if index is None:
        if known is not None and known > 1:
            raise PredictionError(f"masks[{position}] has no 'image_index', and the row has {known} images")
        return 0
    if not is_integer(index) or index < 0 or known is not None and index >= known:
        raise PredictionError(f'{where} {short_repr(index)}, but the row has {known or "no"} images, counted from 0')
    return int(index)
