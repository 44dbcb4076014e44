"""Turns images upright by their EXIF orientation.

Cameras store pixels as the sensor lies, with a tag that says how to turn them; browsers, viewers and annotation tools
show the turned image. Here that upright image is the image: its size counts, masks and boxes lie on it, and both the
MLLM and SAM2 see it. PIL turns only TIFF files by itself.
"""
import os
import struct
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from typing import IO

from .errors import IMAGE_ERRORS
from .lazy import LazyImage, image_name
from .notices import warn_once

# By orientation, as PIL's `ImageOps.exif_transpose`.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
# Keys of `info` that hold metadata with an orientation.
_METADATA = ('exif', 'xmp', 'XML:com.adobe.xmp', 'Raw profile type exif')
# The key of `info` that holds the orientation by which an image was turned.
TURNED_BY = 'citrusv_orientation'
_PNG_SIGNATURE, _TAIL = 8, 1 << 16
_PNG_METADATA = (b'eXIf', b'XML:com.adobe.xmp', b'Raw profile type exif')


class ImageSize(tuple[int, int]):
    """(height, width) of an image; `orientation` is the EXIF orientation that it was turned by, 1 for none."""
    orientation: int

    def __new__(cls, size: tuple[int, int], orientation: int = 1) -> 'ImageSize':
        new = super().__new__(cls, size)
        new.orientation = orientation
        return new

    def __getnewargs__(self) -> tuple[tuple[int, int], int]:
        return (self[0], self[1]), self.orientation

    @classmethod
    def of(cls, image: Image.Image) -> 'ImageSize':
        return cls((image.height, image.width), int(image.info.get(TURNED_BY, 1)))

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) of the pixels in the file."""
        height, width = self
        return (width, height) if self.orientation in _SWAPS_SIDES else (height, width)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation by which an image must be turned, 1 (upright) to 8.

    As PIL does, a missing tag is looked for in XMP. Metadata that cannot be read count as none, as in browsers.
    """
    if isinstance(image, LazyImage):
        return 1
    try:
        if isinstance(image, PngImageFile):
            # Its own `getexif` decodes every image without EXIF before the pixels. A copy has no file.
            file = getattr(image, 'fp', None)
            if file is not None and _has_late_metadata(file):
                image.load()
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except (*IMAGE_ERRORS, struct.error):
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def upright(image: Image.Image, owned: bool = True) -> Image.Image:
    """Turns an image by its EXIF orientation when its pixels are read; the size is right at once.

    Args:
        image: An open image. It is not changed.
        owned: Whether closing the result closes `image`.

    Returns:
        The image itself if it is upright, else an image without the metadata, so that nothing turns it again.
    """
    orientation = orientation_of(image)
    if orientation == 1:
        return image
    warn_once(
        'orientation',
        f'{image_name(image)} has the EXIF orientation {orientation}. Such images are turned upright, as viewers and '
        'browsers show them; their masks and boxes must lie on the upright image.')
    tags = getattr(image, 'tag_v2', {}) if image.format == 'TIFF' else {}
    # PIL turns a TIFF itself, when it decodes it; whether the size before is the turned one depends on its version.
    width, height = (tags[_WIDTH_TAG], tags[_HEIGHT_TAG]) if _WIDTH_TAG in tags and _HEIGHT_TAG in tags else image.size
    size = (height, width) if orientation in _SWAPS_SIDES else (width, height)

    def read() -> Image.Image:
        image.load()
        return image if image.format == 'TIFF' else image.transpose(_TURNS[orientation])

    turned = LazyImage(size, image.mode, image.format, read, image, owned)
    turned.info = {key: value for key, value in image.info.items() if key not in _METADATA}
    turned.info[TURNED_BY] = orientation
    return turned


def _has_late_metadata(file: IO[bytes]) -> bool:
    """Whether a PNG may have an orientation behind its pixels. The position in the file stays."""
    position = file.tell()
    try:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        tail = file.read(_TAIL)
        if b'IDAT' not in tail and length > _TAIL:
            tail = _behind_pixels(file, length)
        tail = tail[max(0, tail.rfind(b'IDAT')):]
        return any(name in tail for name in _PNG_METADATA)
    finally:
        file.seek(position)


def _behind_pixels(file: IO[bytes], length: int) -> bytes:
    """The chunks of a PNG behind its last IDAT."""
    offset = end = _PNG_SIGNATURE
    while offset + 8 <= length:
        file.seek(offset)
        size, name = struct.unpack('>I4s', file.read(8))
        offset += size + 12
        if name == b'IDAT':
            end = offset
    file.seek(end)
    return file.read(length - end) if end < length else b''
