"""The output of `swift infer` for answers with masks: result rows, and lines on the console."""
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import open_image
from ..rows.contract import count_seg_tokens

# Columns of the row contract, and the columns of the result that keep the row's own values.
_TARGETS = {'masks': 'label_masks', 'mask_images': 'label_mask_images'}


def complete_row(row: dict[str, Any], message: Any) -> None:
    """Adds an answer's masks to its row, in place.

    `masks` then holds the predicted masks, and `overlays` their pictures if `overlay_dir` is set. The row's own targets
    move to `label_masks` and `label_mask_images`. Both stand in the order of their `[SEG]`s; `mask_turns` and
    `label_turns` say in which answer of the conversation (`turn_keys`).

    Args:
        row: A row of a data set, whose targets have come through Arrow as JSON text, or a question of a user.
        message: The message with `masks` and `overlays`; None if there is no answer.
    """
    for key, label in _TARGETS.items():
        if key in row:
            target = row.pop(key)
            row[label] = json.loads(target) if isinstance(target, str) else target
    row['masks'] = getattr(message, 'masks', None) or []
    row.update(turn_keys(row.get('messages') or (), row.get('label_masks'), row['masks']))
    overlays = getattr(message, 'overlays', None)
    if overlays is not None:
        row['overlays'] = overlays


def turn_keys(messages: Sequence[Mapping[str, Any]], label_masks: Sequence[Any] | None,
              masks: Sequence[Any]) -> dict[str, list[int]]:
    """Which answer of a conversation each mask belongs to, counted from 0.

    Predicted masks belong to the last answer. Targets may also belong to earlier answers, which are a part of the
    question.

    Args:
        messages: The turns before the answer.
        label_masks: The targets of the row, in the order of their `[SEG]`s; None for a row without targets.
        masks: The predicted masks.

    Returns:
        'mask_turns', and with targets 'label_turns': the number of the answer of each mask.
    """
    earlier = [message for message in messages if message.get('role') == 'assistant']
    keys = {'mask_turns': [len(earlier)] * len(masks)}
    if label_masks is not None:
        turns = [turn for turn, message in enumerate(earlier) for _ in range(count_seg_tokens([message]))]
        keys['label_turns'] = (turns + [len(earlier)] * len(label_masks))[:len(label_masks)]
    return keys


def note_error(row: dict[str, Any], error: Exception) -> None:
    """Adds an `error` and no masks to a row that failed, in place (`--strict false`)."""
    complete_row(row, None)
    row['error'] = str(error) if isinstance(error, RowError) else f'{type(error).__name__}: {error}'


def unusable_image(reference: str) -> str | None:
    """Returns the problem with an image that a user named, or None. Pixels are not decoded."""
    try:
        open_image(reference).close()
    except IMAGE_ERRORS as e:
        error = unreadable_file('The image', file_repr(reference), e, 'image-unreadable')
        return f'{error.problem} {error.remedy}'
    return None


def mask_lines(message: Any, images: Sequence[Any] | None) -> list[str]:
    """Returns a line for each mask of an answer; images and masks are numbered from 1, as in answers.

    Args:
        message: The message with `masks` and `overlays`.
        images: The images of the conversation, as the user named them.
    """
    paths = {overlay['image_index']: overlay['path'] for overlay in getattr(message, 'overlays', None) or []}
    lines = []
    for number, mask in enumerate(getattr(message, 'masks', None) or [], 1):
        index = mask['image_index']
        name = _name(images[index]) if images and index < len(images) else ''
        facts = f'{mask["area"]:,} px, score {mask["score"]:.2f}' if mask['area'] else 'empty: not in the image'
        path = f' -> {paths[index]}' if index in paths else ''
        lines.append(f'[MASK {number}] {mask["phrase"] or "(no phrase)"}: image {index + 1}{name}, {facts}{path}')
    return lines


def _name(image: Any) -> str:
    if isinstance(image, dict):
        image = image.get('path')
    # Long strings hold the file itself.
    return f' ({os.path.basename(image)})' if isinstance(image, str) and len(image) < 300 else ''
