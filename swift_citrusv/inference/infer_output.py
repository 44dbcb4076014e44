"""What `swift infer` writes and prints of an answer with masks."""
import json
import os
from collections.abc import Sequence
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import open_image

# The columns of the row contract, and where the result keeps what the row itself has there.
_TARGETS = {'masks': 'label_masks', 'mask_images': 'label_mask_images'}


def complete_row(row: dict[str, Any], message: Any) -> None:
    """Adds an answer's masks to the row that it answers, in place.

    `masks` are the predicted ones from here on, and `overlays` their pictures, where a folder is set for them. The
    row's own targets move to `label_masks` and `label_mask_images`.

    Args:
        row: A row of a data set, whose targets have come through Arrow as JSON text, or a question of a user.
        message: Has `masks` and `overlays`; None where there is no answer.
    """
    for key, label in _TARGETS.items():
        if key in row:
            target = row.pop(key)
            row[label] = json.loads(target) if isinstance(target, str) else target
    row['masks'] = getattr(message, 'masks', None) or []
    overlays = getattr(message, 'overlays', None)
    if overlays is not None:
        row['overlays'] = overlays


def note_error(row: dict[str, Any], error: Exception) -> None:
    """Gives a row that cannot be answered an `error`, and no masks, in place (`--strict false`)."""
    complete_row(row, None)
    row['error'] = str(error) if isinstance(error, RowError) else f'{type(error).__name__}: {error}'


def unusable_image(reference: str) -> str | None:
    """What is wrong with an image that a user names; None where nothing is. Its pixels are not decoded."""
    try:
        open_image(reference).close()
    except IMAGE_ERRORS as e:
        error = unreadable('The image', shown_name(reference), e, 'image-unreadable')
        return f'{error.problem} {error.remedy}'
    return None


def mask_lines(message: Any, images: Sequence[Any] | None) -> list[str]:
    """A line for each mask of an answer; images and masks are counted from 1, as in answers.

    Args:
        message: Has `masks` and `overlays`.
        images: Of the conversation, as the user gave them.
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
    # Not the text of a file itself.
    return f' ({os.path.basename(image)})' if isinstance(image, str) and len(image) < 300 else ''
