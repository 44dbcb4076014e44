"""The images and videos of a row on their way to ms-swift, which opens nothing by a name that the row gives."""
import re
from collections.abc import Callable
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import checked_video
from ..files.rules import file_rules

IMAGE_TAG = re.compile('<img>(.+?)</img>')
# Keys of `chat_template_kwargs` that qwen_vl_utils takes for the file itself, and for numbers of pixels.
_FILE_KEYS = ('image', 'image_url', 'video')
_PIXEL_KEYS = ('min_pixels', 'max_pixels', 'total_pixels', 'resized_height', 'resized_width')


def move_image_tags(inputs: Any) -> None:
    """Turns each `<img>a.png</img>` of a row without `images` into `<image>` and an entry of `images`; in place.

    ms-swift does so too, but looks for the files itself, and leaves an `<image>` without an image where it finds none.

    Args:
        inputs: `swift.template.StdTemplateInputs`.
    """
    if inputs.images:
        return
    for message in inputs.messages:
        if isinstance(message['content'], str):
            inputs.images = [*inputs.images, *IMAGE_TAG.findall(message['content'])]
            message['content'] = IMAGE_TAG.sub('<image>', message['content'])


def open_media(inputs: Any, row_id: str, load_image: Callable[[Any], Any]) -> None:
    """Opens the images of a row and finds its videos, under the rules of `images.FileRules`; in place.

    To do it again changes nothing.

    Args:
        inputs: `swift.template.StdTemplateInputs`.
        row_id: The row's name.
        load_image: Opens an image.

    Raises:
        RowError: A file cannot be read, or must not be.
    """
    inputs.images = _opened(inputs.images, 'image', row_id, load_image)
    inputs.videos = _opened(inputs.videos, 'video', row_id, checked_video)
    _check_settings(inputs.chat_template_kwargs, row_id)


def _opened(references: list[Any], medium: str, row_id: str, open_one: Callable[[Any], Any]) -> list[Any]:
    opened = []
    for i, reference in enumerate(references):
        try:
            opened.append(open_one(reference))
        except IMAGE_ERRORS as e:
            raise unreadable(row_id, f'{medium}s[{i}]={shown_name(reference)}', e, f'{medium}-unreadable') from e
    return opened


def _check_settings(settings: dict[str, Any], row_id: str) -> None:
    """Refuses settings of a row by which qwen_vl_utils would open another file, or blow an image up."""
    most = file_rules().max_pixels
    for key, value in settings.items():
        if key in _FILE_KEYS:
            problem, remedy = 'would take the place of a file', f"List it in 'images' or 'videos' instead of {key!r}."
        elif key in _PIXEL_KEYS and isinstance(value, (int, float)) and not value <= most:
            problem, remedy = f'is more than max_image_pixels={most}', 'Lower it.'
        else:
            continue
        raise RowError(row_id, f"'chat_template_kwargs' has {key!r}: {shown_name(value)}, which {problem}.", remedy,
                       'media-settings')
