"""A row before it is tokenized: its image tags, the row contract, and its open images and videos.

All functions take `swift.template.StdTemplateInputs`, the form in which ms-swift's templates see a row or a request.
"""
import json
import re
from collections.abc import Callable
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import checked_video
from ..files.rules import file_rules
from ..rows.contract import Sample, check_tags, parse_row

IMAGE_TAG = re.compile('<img>(.+?)</img>')
# Keys of `chat_template_kwargs` that qwen_vl_utils reads as the file itself, and as numbers of pixels.
_FILE_KEYS = ('image', 'image_url', 'video')
_PIXEL_KEYS = ('min_pixels', 'max_pixels', 'total_pixels', 'resized_height', 'resized_width')


def move_image_tags(inputs: Any) -> None:
    """Turns each `<img>a.png</img>` of a row without `images` into `<image>` and an entry of `images`, in place.

    ms-swift does the same, but leaves an `<image>` without an image where it finds no such file.
    """
    if inputs.images:
        return
    for message in inputs.messages:
        if isinstance(message['content'], str):
            inputs.images = [*inputs.images, *IMAGE_TAG.findall(message['content'])]
            message['content'] = IMAGE_TAG.sub('<image>', message['content'])


def check_inputs(inputs: Any, row_id: str, *, targets: bool, tags: bool = True) -> Sample:
    """Checks a row or a request against the row contract.

    Args:
        inputs: After `move_image_tags`.
        row_id: The row's name.
        targets: Whether its masks are training targets. The masks of a request are not read.
        tags: Whether to check the number of its `<image>` and `<video>` tags.

    Returns:
        The segmentation side of the row; for a request one without masks.

    Raises:
        RowError: It breaks the contract, or has more `<image>` or `<video>` tags than images or videos.
    """
    system = [{'role': 'system', 'content': inputs.system}] if inputs.system else []
    messages = system + inputs.messages
    sample = Sample(row_id, (), (), ())
    if targets:
        row = {'messages': messages, 'images': inputs.images, 'videos': inputs.videos}
        for key in ('masks', 'mask_images'):
            value = inputs.extra_kwargs.get(key)
            # They pass through Arrow as JSON text.
            row[key] = json.loads(value) if isinstance(value, str) else value
        sample = parse_row(row, row_id=row_id)
    if tags:
        check_tags(messages, num_images=len(inputs.images), num_videos=len(inputs.videos), row_id=row_id)
    return sample


def open_media(inputs: Any, row_id: str, open_one: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Opens the images of a row and checks its videos under `files.rules.FileRules`, in place.

    Args:
        inputs: After `check_inputs`.
        row_id: The row's name.
        open_one: Opens an image.

    Returns:
        The images at their own size. ms-swift replaces those in `inputs` by images scaled for the MLLM.

    Raises:
        RowError: A file cannot be read, or the rules refuse it.
    """
    inputs.images = _opened(inputs.images, 'image', row_id, open_one)
    inputs.videos = _opened(inputs.videos, 'video', row_id, checked_video)
    _check_media_settings(inputs.chat_template_kwargs, row_id)
    return tuple(inputs.images)


def _opened(references: list[Any], medium: str, row_id: str, open_one: Callable[[Any], Any]) -> list[Any]:
    opened = []
    for i, reference in enumerate(references):
        try:
            opened.append(open_one(reference))
        except IMAGE_ERRORS as e:
            raise unreadable_file(row_id, f'{medium}s[{i}]={file_repr(reference)}', e, f'{medium}-unreadable') from e
    return opened


def _check_media_settings(settings: dict[str, Any], row_id: str) -> None:
    """Refuses settings of a row that make qwen_vl_utils open another file, or enlarge an image beyond the limit."""
    most = file_rules().max_pixels
    for key, value in settings.items():
        if key in _FILE_KEYS:
            problem, remedy = 'would take the place of a file', f"List it in 'images' or 'videos' instead of {key!r}."
        elif key in _PIXEL_KEYS and isinstance(value, (int, float)) and not value <= most:
            problem, remedy = f'is more than max_image_pixels={most}', 'Lower it.'
        else:
            continue
        raise RowError(row_id, f"'chat_template_kwargs' has {key!r}: {file_repr(value)}, which {problem}.", remedy,
                       'media-settings')
