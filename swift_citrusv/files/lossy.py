"""Mask files whose compression changes pixel values, such as JPEG.

A lossy file of a mask has values of any size around the outlines: non-zero pixels outside of it, and darker ones
inside. Half of the brightness of the mask separates the two sides.
"""
import numpy as np
import struct
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from typing import NamedTuple

from .lazy import stored_image

# For images of DICOM files, which are decoded elsewhere.
LOSSY = 'citrusv_lossy'
_TIFF_COMPRESSIONS = {'jpeg': 'JPEG', 'tiff_jpeg': 'JPEG', 'webp': 'WebP', 'jpeg2000': 'JPEG 2000'}
_LOSSY_DICOM = ('1.2.840.10008.1.2.4.50', '1.2.840.10008.1.2.4.51', '1.2.840.10008.1.2.4.81')
# The least brightness of a mask, of 255: compression noise has this size (a 0/1 mask as JPEG keeps 7 % to 97 %).
_LEAST = 16
# Where a flat area shows that there are more levels than two, relative to the brightest, and the side of that area.
# Low values need a larger one: at a low quality, JPEG turns a block with a corner of the mask to a flat dark grey.
_GREY_RANGES = ((.06, .25, 9), (.25, .6, 5))
_LEAST_AREA = 32
# JPEG of a low quality lifts the background up to here.
_DARKEST = 12


class LossyFormat(NamedTuple):
    """A format with lossy compression: its name, and whether this file is lossy for certain."""
    name: str
    certain: bool


class Levels(NamedTuple):
    """The levels of a lossy mask: values above `threshold` are the mask; `problem` says why there is no such value."""
    threshold: float
    problem: str = ''


def lossy_format(image: Image.Image) -> LossyFormat | None:
    """The lossy format of a file that is open and not decoded yet; None if its values are those that were saved.

    A lossless WebP, JPEG 2000 or TIFF is told apart by its header. JPEG 2000 with the reversible transform may be cut
    short to a smaller file, which its header does not say.
    """
    image = stored_image(image)
    kind = image.format
    if kind in ('JPEG', 'MPO'):
        return LossyFormat('JPEG', True)
    if kind == 'WEBP':
        return LossyFormat('lossy WebP', True) if _webp_is_lossy(_content(image)) else None
    if kind == 'JPEG2000':
        return LossyFormat('JPEG 2000', _jpeg2000_is_irreversible(_content(image)))
    if kind == 'TIFF':
        name = _TIFF_COMPRESSIONS.get(str(image.info.get('compression')))
        return None if name is None else LossyFormat(f'TIFF with {name} compression', name == 'JPEG')
    if kind in ('AVIF', 'HEIF'):
        return LossyFormat(kind, False)
    if image.info.get(LOSSY):
        return LossyFormat('DICOM with lossy compression', True)
    return None


def dicom_is_lossy(syntax: str) -> bool:
    """Whether a DICOM transfer syntax changes values.

    The attribute LossyImageCompression does not tell: a label map inherits it from the image that it was drawn on.
    """
    return syntax in _LOSSY_DICOM


def two_levels(values: np.ndarray) -> Levels:
    """Finds the value between the two levels of a mask, 0 and a brighter one.

    Args:
        values: [h, w], non-negative. A single level is valid: all 0 is an empty mask, all bright a full one.

    Returns:
        Half of the median of the brighter half of the range; with a `problem` if the bright level is as small as
        compression noise, or if flat areas show another level between.
    """
    top = float(values.max())
    if not top:
        return Levels(0.)
    bright = float(np.median(values[values > top / 2]))
    if bright < _LEAST:
        return Levels(0., f'its brightest values are about {bright:g}, as small as the errors of its compression')
    for low, high, side in _GREY_RANGES:
        inside = (values > max(low * bright, _DARKEST)) & (values < high * bright)
        if np.count_nonzero(inside) < _LEAST_AREA:
            continue
        spread = maximum_filter(values, side).astype(np.float64) - minimum_filter(values, side)
        flat = inside & (spread <= .04 * bright)
        if np.count_nonzero(flat) >= _LEAST_AREA:
            return Levels(
                0., f'it has areas of the value {np.median(values[flat]):g} between 0 and {bright:g}, so it is '
                'not one mask but several levels')
    return Levels(bright / 2)


def _content(image: Image.Image) -> bytes:
    """The bytes of the file of an open image."""
    file = getattr(image, 'fp', None)
    if file is None:
        return b''
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return content


def _webp_is_lossy(content: bytes) -> bool:
    """Whether the first picture of a WebP file is of the lossy kind. Source: the WebP container specification."""
    offset = 12
    while offset + 8 <= len(content):
        name, size = struct.unpack_from('<4sI', content, offset)
        if name in (b'VP8 ', b'VP8L'):
            return bool(name == b'VP8 ')
        # An animation holds its pictures behind the 16 bytes of ANMF.
        offset += 24 if name == b'ANMF' else 8 + size + size % 2
    return False


def _jpeg2000_is_irreversible(content: bytes) -> bool:
    """Whether a JPEG 2000 file has the irreversible wavelet transform. Source: ISO/IEC 15444-1, A.6.1 (COD)."""
    offset = content.find(b'\xff\x4f\xff\x51') + 2
    while 2 <= offset <= len(content) - 14:
        marker, length = struct.unpack_from('>HH', content, offset)
        if marker == 0xff52:
            return content[offset + 13] == 0
        offset += 2 + length
    return False
