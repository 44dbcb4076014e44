"""What a row says about its images: which, how large, how far apart their pixels."""
import math
from collections.abc import Mapping, Sequence
from PIL import Image
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import open_image, open_label_map, to_rgb
from ..rows.mask_format import is_int, shown

_SIZE_REMEDY = "Write 'size' as [height, width], or as a list of them, one for each of 'images'."
_SPACING_REMEDY = ("Write 'spacing' as [mm from row to row, mm from column to column], or as a list of them, one for "
                   "each of 'images'; or give --spacing, or --unit pixel.")  # yapf: disable


def images_of(reference: Mapping[str, Any]) -> list[Any]:
    """The images of a row: `images`, `image`, or else the image parts of its messages."""
    images = reference.get('images') or reference.get('image')
    if images:
        return list(images) if isinstance(images, (list, tuple)) else [images]
    contents = [turn.get('content') for turn in reference.get('messages') or () if isinstance(turn, Mapping)]
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
    return [part.get('image') or part.get('image_url') for part in parts
            if isinstance(part, Mapping) and part.get('type') in ('image', 'image_url')]  # yapf: disable


def num_images(reference: Mapping[str, Any]) -> int | None:
    """How many images a row has; None where it does not say."""
    return len(images_of(reference)) or None


def spacing_of(reference: Mapping[str, Any], image: int, default: tuple[float, float] | None,
               row: str) -> tuple[float, float]:
    """From row to row and from column to column of an image, in mm: the column `spacing`, or else the default.

    Raises:
        RowError: There is neither, or it is no such thing.
    """
    value = _for_image(reference.get('spacing'), image)
    if value is None:
        value = default
    if value is None:
        raise RowError(row, "the row has no 'spacing', and --unit is mm.", _SPACING_REMEDY, 'eval-spacing')
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(_is_length(x) for x in value):
        raise RowError(row, f"'spacing' is {shown(value)}.", _SPACING_REMEDY, 'eval-spacing')
    return float(value[0]), float(value[1])


def image_size(reference: Mapping[str, Any], image: int, entries: Sequence[Any], row: str) -> tuple[int, int]:
    """Height and width of an image in pixels.

    By an RLE on it, which has its size; or else by the row's `size`, or `height` and `width`; or else by the image
    file, of which only the header is read; or else by a file of a mask on it.

    Args:
        reference: The row.
        image: Which image, counted from 0.
        entries: Of masks on it, checked.
        row: Its name.

    Raises:
        RowError: Nothing says it.
    """
    known = [entry['size'] for entry in entries if isinstance(entry, Mapping) and 'size' in entry]
    if known:
        return known[0][0], known[0][1]
    size: Any = _for_image(reference.get('size'), image)
    if size is None:
        sides = reference.get('height'), reference.get('width')
        size = None if None in sides else [_for_image(side, image, scalar=True) for side in sides]
    if size is not None:
        if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_int(x) and x > 0 for x in size):
            raise RowError(row, f'the size of image {image} is {shown(size)}.', _SIZE_REMEDY, 'eval-size')
        return int(size[0]), int(size[1])
    images = images_of(reference)
    files = [entry['path'] for entry in entries if isinstance(entry, Mapping)]
    if image < len(images):
        what, kind = f'images[{image}]={shown_name(images[image])}', 'image-unreadable'
    elif files:
        what, kind = f'the mask {shown_name(files[0])}', 'mask-file'
    else:
        raise RowError(row, f'polygons need the size of image {image}, and the row does not say it.', _SIZE_REMEDY,
                       'eval-size')  # yapf: disable
    try:
        with open_image(images[image]) if image < len(images) else open_label_map(files[0]) as picture:
            return picture.height, picture.width
    except IMAGE_ERRORS as e:
        raise unreadable(row, what, e, kind, f'Repair it. {_SIZE_REMEDY}') from e


def _for_image(value: Any, image: int, scalar: bool = False) -> Any:
    """Of a value for each image the one of an image; a value for all images as it is."""
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if not scalar and not isinstance(value[0], (list, tuple)):
        return value
    return value[image] if image < len(value) else None


def _is_length(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


# ---- Images of rows for the report: a file that cannot be read is a remark there, and no error.


def opened(source: Any) -> tuple[Image.Image | None, str]:
    """Opens an image.

    Args:
        source: A name, or what else a row has for an image; None: the row names none.

    Returns:
        RGB; or None, and why.
    """
    if source is None:
        return None, 'the row names no image'
    try:
        with open_image(source) as image:
            return to_rgb(image), ''
    except IMAGE_ERRORS as e:
        return None, f'{shown_name(source)} cannot be read: {e}'


def first_picture(reference: Mapping[str, Any], width: int, height: int) -> tuple[Image.Image | None, str]:
    """The first image of a row.

    Args:
        reference: The row.
        width, height: It is made to fit these, in pixels, and never enlarged.

    Returns:
        RGB, None where there is nothing to see; and what is to be said of it, '' where nothing is.
    """
    images = images_of(reference)
    if not images:
        return None, ''
    picture, problem = opened(images[0])
    if picture is None:
        return None, problem
    picture.thumbnail((width, height))
    return picture, '' if len(images) == 1 else f'the first of {len(images)}'
