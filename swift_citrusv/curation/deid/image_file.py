"""Cleans PNG, JPEG and other images, and NIfTI files."""
import gzip
import io
import numpy as np
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from PIL import Image, ImageOps
from typing import Any

from ...files.errors import IMAGE_ERRORS, FileError
from ...files.nifti import GZIP, HEADER_BYTES, header_size
from ..data_files import whole_file
from .pixels import blank_text, must_go, views_of
from .result import FileResult

_ORIENTATION = 0x112
# Chunks that say how to show the pixels. Source: PNG, third edition, section 11.
_PNG = b'\x89PNG\r\n\x1a\n'
_SHOWING = frozenset((b'IHDR', b'PLTE', b'IDAT', b'IEND', b'tRNS', b'gAMA', b'cHRM', b'sRGB', b'iCCP', b'cICP', b'sBIT',
                      b'pHYs', b'bKGD'))  # yapf: disable
# Markers of JPEG that carry other data: APP1 to APP13 and APP15, comments; APP0 is JFIF, APP14 Adobe's colours.
_JPEG_DATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
_ICC = b'ICC_PROFILE\0'
# Texts of a NIfTI header: offset and length in NIfTI-1 and NIfTI-2.
_NIFTI_TEXTS = {348: ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)), 540: ((240, 80), (320, 24), (508, 16))}
_NIFTI_OFFSET = {348: (108, 'f', 352), 540: (168, 'q', 544)}


def clean_image(path: str, output: str, is_allowed: Callable[[str], bool],
                engines: Sequence[str]) -> tuple[FileResult, str]:
    """Cleans an image of a format that PIL reads.

    Args:
        path: The file.
        output: Where to write it, without its extension.
        is_allowed: Whether a text may stay.
        engines: The OCR engines; without one, pixels stay as they are.

    Returns:
        What was done, and the extension. PNG and JPEG files without text keep their pixel data byte by byte; others
        become PNG, so that all pixels outside of blanked boxes stay as they were.

    Raises:
        FileError: It cannot be cleaned.
    """
    with open(path, 'rb') as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as image:
        kind = str(image.format)
        if getattr(image, 'n_frames', 1) > 1 and kind != 'MPO':
            raise FileError(f'it has {getattr(image, "n_frames", 1)} pictures', 'Save each as a file.', 'closed')
        orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
        upright = ImageOps.exif_transpose(image)
        upright.load()
    result = FileResult(kind)
    if upright.mode not in ('L', 'RGB', 'I;16', 'I', 'LA', 'RGBA'):
        upright = upright.convert('L' if upright.mode == '1' else 'RGBA' if 'transparency' in upright.info else 'RGB')
    pixels = np.asarray(upright)
    if engines:
        blanked = blank_text(pixels[None], _views, is_allowed, engines)
        result.boxes, result.places, result.by_others = blanked.count, blanked.boxes, blanked.by_others
        if result.boxes:
            # Its metadata goes with the file.
            result.metadata = _count_metadata(content, kind)
            _save_png(Image.fromarray(blanked.pixels[0], upright.mode), output)
            return result, '.png'
    if kind == 'PNG':
        cleaned, result.metadata = _png(content, orientation)
        extension = '.png'
    elif kind in ('JPEG', 'MPO'):
        cleaned, result.metadata = _jpeg(content, orientation)
        extension = '.jpg'
    else:
        result.metadata = 1
        _save_png(upright, output)
        return result, '.png'
    with whole_file(f'{output}{extension}', is_shared=True) as part, open(part, 'wb') as file:
        file.write(cleaned)
    return result, extension


def _views(values: np.ndarray) -> Sequence[np.ndarray]:
    if values.ndim == 3 and values.shape[2] in (2, 4):
        # Text may be seen on any ground.
        return views_of(np.repeat(values[..., :1], 3, 2) if values.shape[2] == 2 else values[..., :3])
    return views_of(values)


def _save_png(image: Image.Image, output: str) -> None:
    image.info.clear()
    with whole_file(f'{output}.png', is_shared=True) as part:
        image.save(part, 'PNG')


def _exif(orientation: int) -> bytes:
    """EXIF that says only how to turn the image."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif.tobytes()


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_PNG)
    while place + 12 <= len(content):
        length, = struct.unpack('>I', content[place:place + 4])
        kind = content[place + 4:place + 8]
        yield kind, content[place + 8:place + 8 + length]
        place += 12 + length
        if kind == b'IEND':
            return
    raise FileError('it ends too early', 'Repair or remove the file.', 'closed')


def _png(content: bytes, orientation: int) -> tuple[bytes, int]:
    parts, removed = [_PNG], 0
    for kind, data in _chunks(content):
        if kind not in _SHOWING:
            removed += 1
            continue
        if kind == b'iCCP':
            # The name of the profile is a text.
            data = b'icc' + data[data.index(b'\0'):]
        parts.append(_chunk(kind, data))
        if kind == b'IHDR' and orientation != 1:
            parts.append(_chunk(b'eXIf', _exif(orientation).removeprefix(b'Exif\0\0')))
    return b''.join(parts), removed


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _jpeg(content: bytes, orientation: int) -> tuple[bytes, int]:
    """The scan as it is, with the segments that show it. Source: ITU-T T.81, annex B."""
    parts, removed, place = [b'\xff\xd8'], 0, 2
    if orientation != 1:
        data = _exif(orientation)
        parts.append(b'\xff\xe1' + struct.pack('>H', len(data) + 2) + data)
    while True:
        if content[place:place + 1] != b'\xff':
            raise FileError('its segments are damaged', 'Repair or remove the file.', 'closed')
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xD9:
            return b''.join([*parts, b'\xff\xd9']), removed
        length, = struct.unpack('>H', content[place + 2:place + 4])
        segment = content[place:place + 2 + length]
        if marker in _JPEG_DATA and not (marker == 0xE2 and segment[4:].startswith(_ICC)):
            removed += 1
        else:
            parts.append(segment)
        place += 2 + length
        if marker == 0xDA:
            # The scan: up to the next marker that is neither stuffing nor a restart.
            end = place
            while True:
                end = content.index(b'\xff', end)
                if content[end + 1] == 0 or 0xD0 <= content[end + 1] <= 0xD7:
                    end += 2
                elif content[end + 1] == 0xFF:
                    end += 1
                else:
                    break
            parts.append(content[place:end])
            place = end


def _count_metadata(content: bytes, kind: str) -> int:
    try:
        return (_png if kind == 'PNG' else _jpeg)(content, 1)[1] if kind in ('PNG', 'JPEG', 'MPO') else 1
    except (*IMAGE_ERRORS, struct.error):
        return 1


def clean_nifti(path: str, output: str) -> FileResult:
    """Empties the texts of a NIfTI header, and removes its extensions, which may hold a DICOM header.

    The voxels stay byte by byte.

    Raises:
        FileError: It is no single NIfTI file.
    """
    with open(path, 'rb') as file:
        content = file.read()
    is_compressed = content.startswith(GZIP)
    data = gzip.decompress(content) if is_compressed else content
    size = header_size(data[:HEADER_BYTES])
    if size is None:
        raise FileError('it has no NIfTI header', 'Repair or remove the file.', 'medical-file')
    order = '<' if int.from_bytes(data[:4], 'little') == size else '>'
    place, form, first = _NIFTI_OFFSET[size]
    offset = int(struct.unpack_from(f'{order}{form}', data, place)[0])
    header = bytearray(data[:size])
    result = FileResult('NIFTI')
    for start, length in _NIFTI_TEXTS[size]:
        result.metadata += any(header[start:start + length])
        header[start:start + length] = bytes(length)
    result.metadata += offset > first
    struct.pack_into(f'{order}{form}', header, place, first)
    whole = bytes(header) + bytes(first - size) + data[offset:]
    with open(output, 'wb') as file:
        # Without the name and the time that gzip writes.
        file.write(gzip.compress(whole, 6, mtime=0) if is_compressed else whole)
    return result


def texts_left(path: str, is_allowed: Callable[[str], bool], read: Callable[[np.ndarray], Sequence[Any]]) -> list[str]:
    """The texts outside of the allowed ones that an engine reads in a cleaned image."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ('L', 'RGB', 'I;16', 'I', 'LA', 'RGBA'):
            upright = upright.convert('RGB')
        values = np.asarray(upright)
    return [text.text for view in _views(values) for text in read(view) if must_go(text, values.shape, is_allowed)]
