"""Image files with an EXIF orientation, and the upright pixels by numpy."""
import io
import numpy as np
import struct
import zlib
from PIL import Image
from typing import Any

from .image_kinds import noise, orientation, oriented_tiff

# Upright from stored pixels [h, w, ...], as the EXIF standard defines the tag (row 0 and column 0 of the stored image
# are the top left, top right, bottom right, bottom left, left top, right top, right bottom, left bottom of the scene).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
FORMATS = ('JPEG', 'PNG', 'PNG behind the pixels', 'WEBP', 'TIFF', 'TIFF LZW', 'MPO', 'AVIF')
SUFFIXES = {'JPEG': 'jpg', 'WEBP': 'webp', 'TIFF': 'tif', 'MPO': 'jpg', 'AVIF': 'avif'}


def encoded(image: Image.Image, name: str, turn: int) -> bytes:
    """A file of one of `FORMATS`, whose stored pixels are those of `image`."""
    file = io.BytesIO()
    options: dict[str, Any] = {}
    if name.startswith('TIFF'):
        options = {'tiffinfo': oriented_tiff(turn)} | ({'compression': 'tiff_lzw'} if 'LZW' in name else {})
    elif name != 'PNG behind the pixels':
        options = {'exif': orientation(turn)}
    if name == 'MPO':
        options |= {'save_all': True, 'append_images': [noise(20, 30)]}
    elif name == 'WEBP':
        options |= {'lossless': True}
    image.save(file, name.split()[0], **options)
    content = file.getvalue()
    if name != 'PNG behind the pixels':
        return content
    data = b'eXIf' + orientation(turn).tobytes().removeprefix(b'Exif\0\0')
    chunk = struct.pack('>I', len(data) - 4) + data + struct.pack('>I', zlib.crc32(data))
    return content[:-12] + chunk + content[-12:]


def stored(content: bytes) -> np.ndarray:
    """The RGB pixels [h, w, 3] of a file of orientation 1."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert('RGB'))


def pixels(image: Any) -> np.ndarray:
    return np.array(image.convert('RGB'))


def one_chunk(content: bytes) -> bytes:
    """A PNG with its pixels in one IDAT, and 70 kB of text before its last chunks."""
    offset, chunks = 8, []
    while offset < len(content):
        size, name = struct.unpack_from('>I4s', content, offset)
        chunks.append((name, content[offset + 8:offset + 8 + size]))
        offset += size + 12
    data = b''.join(part for name, part in chunks if name == b'IDAT')
    first = next(i for i, (name, _) in enumerate(chunks) if name == b'IDAT')
    chunks = [*chunks[:first], (b'IDAT', data), (b'tEXt', b'Comment\0' + b'x' * 70_000),
              *(chunk for chunk in chunks[first:] if chunk[0] != b'IDAT')]  # yapf: disable
    return content[:8] + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks)
