"""DICOM's lookup tables: modality and VOI LUTs and colour palettes.

Source: DICOM PS3.3, C.7.6.3.1.5, C.7.6.3.1.6, C.11.1.1 and C.11.2.1.1.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import REPAIR_REMEDY, FileError

_BIG_ENDIAN = '1.2.840.10008.1.2.2'


@dataclass(frozen=True)
class LookupTable:
    """A table of grey values.

    Attributes:
        first: The input that the first entry belongs to; smaller inputs have it too, larger ones than those of the
            table the last one.
        entries: int64 [n].
        bits: The bits of an entry; its range is 0 to 2 ** bits - 1.
    """
    first: int
    entries: np.ndarray
    bits: int

    @classmethod
    def parse(cls, descriptor: Any, data: Any, *, signed: bool, big_endian: bool) -> 'LookupTable':
        """Reads a table from two elements of a header.

        Args:
            descriptor: The number of entries (0 for 65,536), the first input, and the bits of an entry.
            data: Bytes, or a list of 16-bit words. Entries of 8 bits may take a word each, or half of one.
            signed: Whether inputs may be negative. (Some writers store the first input as unsigned.)
            big_endian: The order of the bytes in the file.

        Raises:
            FileError: The table has fewer entries than it says, or the descriptor is not one.
        """
        try:
            count, first, bits = (int(value) for value in descriptor)
        except (TypeError, ValueError):
            raise _broken('a lookup table without a valid descriptor') from None
        # Writers with signed descriptors store the number of entries as a negative value.
        count = count % 65536 or 65536
        first = first - 65536 if signed and first > 32767 else first
        entries = _entries(data, count, big_endian)
        if len(entries) < count:
            raise _broken(f'a lookup table of {count} entries, but data of fewer')
        entries = entries[:count].astype(np.int64)
        # At least as many as the entries need: 0 and too small numbers occur.
        return cls(first, entries, max(bits if 8 <= bits <= 16 else 8, int(entries.max()).bit_length()))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The entries of integer inputs, int64 of the same shape."""
        places = np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]

    def to_uint8(self, values: np.ndarray) -> np.ndarray:
        """The entries of integer inputs as 8-bit grey values, rounded."""
        scaled = self.entries * 255 / (2**self.bits - 1)
        return LookupTable(self.first, np.rint(scaled).astype(np.int64), 8).apply(values).astype(np.uint8)


def _entries(data: Any, count: int, big_endian: bool) -> np.ndarray:
    """As many entries as the data has for a table of `count`."""
    if not isinstance(data, bytes):
        words = np.asarray([data] if isinstance(data, int) else list(data), np.int64) & 0xffff
        if len(words) >= count:
            return words
        # Two entries a word, the first in the low byte.
        return words.astype('<u2').view(np.uint8)
    words = np.frombuffer(data[:len(data) // 2 * 2], '>u2' if big_endian else '<u2')
    if len(words) >= count:
        return words
    halves = words.astype('<u2').view(np.uint8)
    # An odd last byte.
    return np.append(halves, np.frombuffer(data[len(halves):], np.uint8))


def is_big_endian(header: Any) -> bool:
    """Whether the words of a header's binary values have the high byte first."""
    encoding = getattr(header, 'original_encoding', (None, None))[1]
    if encoding is not None:
        return not encoding
    return str(getattr(header, 'file_meta', {}).get('TransferSyntaxUID', '')) == _BIG_ENDIAN


def parse_item(item: Any, *, signed: bool, big_endian: bool) -> LookupTable:
    """The table of an item of ModalityLUTSequence or VOILUTSequence.

    Raises:
        FileError: As `LookupTable.parse`.
    """
    return LookupTable.parse(item.get('LUTDescriptor'), item.get('LUTData', b''), signed=signed, big_endian=big_endian)


def palette_to_rgb(pixels: np.ndarray, header: Any) -> np.ndarray:
    """Applies the palette of a header to stored indices.

    Args:
        pixels: Integers [h, w].
        header: The pydicom `Dataset`.

    Returns:
        uint8 [h, w, 3]. Of 16-bit entries the high byte is taken, as PIL does.

    Raises:
        FileError: The palette is broken.
    """
    if 'RedPaletteColorLookupTableData' not in header:
        return _segmented(pixels, header)
    signed, big_endian = bool(header.get('PixelRepresentation')), is_big_endian(header)
    tables = [
        LookupTable.parse(
            header.get(f'{colour}PaletteColorLookupTableDescriptor'),
            header.get(f'{colour}PaletteColorLookupTableData', b''),
            signed=signed,
            big_endian=big_endian) for colour in ('Red', 'Green', 'Blue')
    ]
    bits = max(table.bits for table in tables)
    return np.stack([table.apply(pixels) >> bits - 8 for table in tables], axis=-1).astype(np.uint8)


def _segmented(pixels: np.ndarray, header: Any) -> np.ndarray:
    """A palette in segments, which pydicom expands."""
    from pydicom.pixels import apply_color_lut
    rgb = apply_color_lut(pixels, header)[..., :3]
    return (rgb >> 8 if rgb.dtype.itemsize > 1 else rgb).astype(np.uint8)


def own_luts(item: Any, sequence: str) -> Sequence[Any]:
    """The items of a LUT sequence that have data."""
    return [entry for entry in item.get(sequence) or () if entry.get('LUTDescriptor') and 'LUTData' in entry]


def _broken(problem: str) -> FileError:
    return FileError(f'it has {problem}', REPAIR_REMEDY, 'medical-file')
