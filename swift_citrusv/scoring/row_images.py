"""The images of a row: their names, sizes and pixel spacing, and thumbnails for the report."""
import math
from collections.abc import Mapping, Sequence
from PIL import Image
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import open_image, open_label_map, to_rgb
from ..files.orientation import ImageSize
from ..rows.mask_format import is_integer, short_repr

_SIZE_REMEDY = "Write 'size' as [height, width], or as a list of them, one for each of 'images'."
_SPACING_REMEDY = ("Write 'spacing' as [mm between rows, mm between columns], or as a list of them, one for each of "
                   "'images'; or give --spacing, or --unit pixel.")  # yapf: disable


def images_of(reference: Mapping[str, Any]) -> list[Any]:
    """The images of a row: the column `images` or `image`, or else the image parts of its messages."""
    images = reference.get('images') or reference.get('image')
    if images:
        return list(images) if isinstance(images, (list, tuple)) else [images]
    contents = [turn.get('content') for turn in reference.get('messages') or () if isinstance(turn, Mapping)]
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
    return [part.get('image') or part.get('image_url') for part in parts
            if isinstance(part, Mapping) and part.get('type') in ('image', 'image_url')]  # yapf: disable


def num_images(reference: Mapping[str, Any]) -> int | None:
    """The number of images of a row; None if it names none."""
    return len(images_of(reference)) or None


def spacing_of(reference: Mapping[str, Any], image: int, default: tuple[float, float] | None,
               row: str) -> tuple[float, float]:
    """The pixel spacing of an image in mm, between rows and between columns: the column `spacing`, or else `default`.

    Raises:
        RowError: There is no spacing, or it is not a pair of positive numbers.
    """
    value = _for_image(reference.get('spacing'), image)
    if value is None:
        value = default
    if value is None:
        raise RowError(row, "the row has no 'spacing', and --unit is mm.", _SPACING_REMEDY, 'eval-spacing')
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(_is_length(x) for x in value):
        raise RowError(row, f"'spacing' is {short_repr(value)}.", _SPACING_REMEDY, 'eval-spacing')
    return float(value[0]), float(value[1])


def image_size_of(reference: Mapping[str, Any], image: int, entries: Sequence[Any], row: str) -> tuple[int, int]:
    """Height and width of an image in pixels.

    Taken from the first of: an RLE on the image; the row's `size`, or `height` and `width`; the header of the image
    file; a mask file on the image.

    Args:
        reference: The row.
        image: Index of the image, from 0.
        entries: Checked mask entries on the image.
        row: The row's name.

    Raises:
        RowError: The size is invalid, or nothing gives it.
    """
    known = [entry['size'] for entry in entries if isinstance(entry, Mapping) and 'size' in entry]
    if known:
        return known[0][0], known[0][1]
    size: Any = _for_image(reference.get('size'), image)
    if size is None:
        sides = reference.get('height'), reference.get('width')
        size = None if None in sides else [_for_image(side, image, scalar=True) for side in sides]
    if size is not None:
        if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_integer(x) and x > 0 for x in size):
            raise RowError(row, f'the size of image {image} is {short_repr(size)}.', _SIZE_REMEDY, 'eval-size')
        return int(size[0]), int(size[1])
    images = images_of(reference)
    files = [entry['path'] for entry in entries if isinstance(entry, Mapping)]
    if image < len(images):
        what, kind = f'images[{image}]={file_repr(images[image])}', 'image-unreadable'
    elif files:
        what, kind = f'the mask {file_repr(files[0])}', 'mask-file'
    else:
        raise RowError(row, f'polygons need the size of image {image}, and the row does not have it.', _SIZE_REMEDY,
                       'eval-size')  # yapf: disable
    try:
        with open_image(images[image]) if image < len(images) else open_label_map(files[0]) as picture:
            return ImageSize.of(picture)
    except IMAGE_ERRORS as e:
        raise unreadable_file(row, what, e, kind, f'Repair it. {_SIZE_REMEDY}') from e


def _for_image(value: Any, image: int, scalar: bool = False) -> Any:
    """The value of an image, from a list with one value per image or from a value for all images."""
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if not scalar and not isinstance(value[0], (list, tuple)):
        return value
    return value[image] if image < len(value) else None


def _is_length(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


# ---- Images for the report, where an unreadable file is a note, not an error.


def open_rgb(source: Any) -> tuple[Image.Image | None, str]:
    """Opens an image.

    Args:
        source: A file name, or another form of image that a row may have; None: the row has no image.

    Returns:
        The RGB image and ''; or None and the reason.
    """
    if source is None:
        return None, 'the row has no image'
    try:
        with open_image(source) as image:
            return to_rgb(image), ''
    except IMAGE_ERRORS as e:
        return None, f'{file_repr(source)} cannot be read: {e}'


def first_thumbnail(reference: Mapping[str, Any], width: int, height: int) -> tuple[Image.Image | None, str]:
    """The first image of a row, for the report.

    Args:
        reference: The row.
        width, height: The image is shrunk to fit these, in pixels, and never enlarged.

    Returns:
        The RGB image, None if there is none or it cannot be read; and a note on it, '' for none.
    """
    images = images_of(reference)
    if not images:
        return None, ''
    picture, problem = open_rgb(images[0])
    if picture is None:
        return None, problem
    picture.thumbnail((width, height))
    return picture, '' if len(images) == 1 else f'the first of {len(images)}'
