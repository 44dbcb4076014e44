"""Finds the decompressed size of DICOM files before they are decompressed."""
import struct
import zlib
from typing import BinaryIO

from .errors import FileError

DEFLATED = '1.2.840.10008.1.2.1.99'
# The markers that begin a JPEG 2000 code stream.
_JPEG_2000 = b'\xff\x4f\xff\x51'


def check_inflated_size(stream: BinaryIO, max_pixels: int) -> None:
    """Limits the inflated size of a file with the deflated transfer syntax, which pydicom inflates as a whole.

    The stream is rewound.

    Args:
        stream: Any DICOM file; files with another transfer syntax pass.
        max_pixels: Eight bytes are allowed for each pixel.

    Raises:
        FileError: The file is larger (kind 'too-many-pixels').
    """
    from pydicom.filereader import read_dataset, read_preamble
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if str(meta.get('TransferSyntaxUID', '')) == DEFLATED:
        inflater, size, most = zlib.decompressobj(-zlib.MAX_WBITS), 0, 8 * max_pixels
        part = stream.read(1 << 16)
        while part and size <= most:
            size += len(inflater.decompress(part, 1 << 20))
            part = inflater.unconsumed_tail or stream.read(1 << 16)
        if size > most:
            raise FileError(f'it inflates to more than {most} bytes, 8 for each of max_image_pixels={max_pixels}',
                            'Raise max_image_pixels only for trusted files.', 'too-many-pixels')
    stream.seek(0)


def compressed_frame_size(code: bytes) -> tuple[int, int] | None:
    """(height, width) from the header of a JPEG, JPEG-LS or JPEG 2000 frame; None if it has none.

    Source: ISO 10918-1, B.2.2 (SOF); ISO 14495-1, C.2.2 (SOF55); ISO 15444-1, A.5.1.
    """
    start = code.find(_JPEG_2000)
    # JPEG 2000, as a bare code stream or in JP2 boxes.
    if start >= 0 and not code.startswith(b'\xff\xd8'):
        if len(code) < start + 24:
            return None
        right, bottom, left, top = struct.unpack_from('>4I', code, start + 8)
        return bottom - top, right - left
    position = 2
    while code.startswith(b'\xff\xd8') and position + 9 <= len(code) and code[position] == 0xff:
        marker = code[position + 1]
        if marker == 0xff:
            position += 1
            continue
        if marker == 0xf7 or 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
            height, width = struct.unpack_from('>2H', code, position + 5)
            return height, width
        position += 2 + int.from_bytes(code[position + 2:position + 4], 'big')
    return None
