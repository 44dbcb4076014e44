"""Reads frames of DICOM images with pydicom, and applies their modality and VOI transformations."""
import logging
import numpy as np
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from .dicom_header import numbers, object_kind, pixels_lack_vr, raw_text, with_syntax
from .dicom_size import DEFLATED, check_inflated_size, compressed_frame_size
from .errors import REPAIR_REMEDY, FileError, import_medical, reader_errors
from .lookup_table import LookupTable, is_big_endian, own_luts, palette_to_rgb, parse_item
from .lossy import dicom_is_lossy
from .rules import FileRules
from .windowing import AUTO, FUNCTIONS, PERCENTILE, WINDOW_PRESETS, Window, apply_window

_COMPRESSED = '1.2.840.10008.1.2.4.'
_JPEG_LS = f'{_COMPRESSED}8'
# Packages that decode compressed transfer syntaxes (by the start of their UID) beyond pydicom and PIL.
_DECODERS = {
    _JPEG_LS: 'pyjpegls',
    '1.2.840.10008.1.2.4.9': 'pylibjpeg pylibjpeg-openjpeg',
    '1.2.840.10008.1.2.4.20': 'pylibjpeg pylibjpeg-openjpeg',
    _COMPRESSED: 'python-gdcm',
}
_GREY, _PALETTE = ('MONOCHROME1', 'MONOCHROME2'), 'PALETTE COLOR'
_COLOURS = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')
_MISSING = 'Export the image again, or save it as PNG with a suitable window.'
_OTHER_WINDOW = "Set another window, e.g. '#window=percentile' or '#window=40,400' after the file name."

# Their messages about invalid values contain the values, which may be patient data.
warnings.filterwarnings('ignore', module=r'(pydicom|highdicom)\.')
for _name in ('pydicom', 'highdicom'):
    # (They set the level of their loggers themselves.)
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class DicomFile:
    """A DICOM image whose header is read and checked on construction.

    Args:
        source: A path, the content of a file, or a pydicom `Dataset`.
        rules: `max_pixels` limits the size of a frame.
        force: Whether to accept a file without the preamble "DICM".

    Attributes:
        source: The argument.
        header: The pydicom `Dataset`, without pixels unless the source is a `Dataset` with pixels.
        num_frames: The number of frames.
        size: (height, width) of a frame.
        colours: Whether the frames are colour images.

    Raises:
        FileError: The file is not DICOM, has no image, or has more pixels than the rules allow.
    """

    def __init__(self, source: Any, rules: FileRules, force: bool = False) -> None:
        import_medical('pydicom')
        self.source = source
        self._max_pixels = rules.max_pixels
        with dicom_errors():
            self.header = self._read_header(force)
            if 'Rows' not in self.header:
                raise FileError(f'it contains no image: it {object_kind(self.header)}',
                                'Name a DICOM file with an image.', 'no-image')
            # Absent or empty: one.
            self.num_frames = self._integer('NumberOfFrames', 1)
            rows, columns, samples = (self._integer(name) for name in ('Rows', 'Columns', 'SamplesPerPixel'))
            photometric = str(self._required('PhotometricInterpretation'))
        if rows < 1 or columns < 1 or self.num_frames < 1:
            raise FileError(f'it has {rows} rows, {columns} columns and {self.num_frames} frames', REPAIR_REMEDY,
                            'medical-file')
        if rows * columns > rules.max_pixels:
            raise FileError(f'it has {columns} x {rows} pixels, more than max_image_pixels={rules.max_pixels}',
                            'Cut it into tiles or shrink it; raise max_image_pixels only for trusted files.',
                            'too-many-pixels')
        known = (*_GREY, _PALETTE) if samples == 1 else _COLOURS if samples == 3 else ()
        if photometric not in known:
            raise FileError(f'it has {samples} samples a pixel and the photometric interpretation {photometric!r}',
                            'Save it as MONOCHROME2 or RGB.', 'medical-file')
        self.photometric = photometric
        self.colours = photometric not in _GREY
        self.size = (rows, columns)

    def pixels(self, frame: int) -> np.ndarray:
        """The stored values of a frame, [h, w]; RGB [h, w, 3] for a colour image.

        Raises:
            FileError: The frame cannot be decoded: the file is damaged, or its compression needs another package.
        """
        from pydicom import dcmread
        with self._decoding(), self._stream() as source:
            lacks_vr = self._check_compressed_frame(source, frame)
            if source is not self.header and (lacks_vr or self._syntax in ('', DEFLATED)):
                # pydicom cannot read a single frame of these.
                source = with_syntax(dcmread(source, force=True))
            pixels = self._decode(source, frame)
            if self.photometric == _PALETTE:
                pixels = palette_to_rgb(pixels, self.header)
        if pixels.shape[:2] != self.size:
            raise FileError(f'its pixels have the shape {list(pixels.shape)}, but its header has {list(self.size)}',
                            REPAIR_REMEDY, 'medical-file')
        return pixels

    def _decode(self, source: Any, frame: int) -> np.ndarray:
        from pydicom.pixels import pixel_array
        try:
            return pixel_array(source, index=frame)
        except AttributeError as e:
            if 'no pixel data' in str(e):
                raise FileError('it contains no image: its header describes one, but it has no pixel data',
                                'Name a DICOM file with an image.', 'no-image') from e
            raise
        except ValueError as e:
            if 'cannot reshape' in str(e) or 'number of bytes of pixel data is less' in str(e):
                raise FileError(f'its pixel data is truncated ({e})', REPAIR_REMEDY, 'medical-file') from e
            raise

    def values(self, pixels: np.ndarray, frame: int) -> np.ndarray:
        """Applies the modality LUT or rescale to stored grey values [h, w] (CT: Hounsfield units)."""
        with dicom_errors():
            tables = own_luts(self.header, 'ModalityLUTSequence')
            if tables:
                return self._table(tables[0], pixels).apply(pixels)
            item = self.functional_group('PixelValueTransformationSequence', frame)
            slope, intercept = item.get('RescaleSlope'), item.get('RescaleIntercept')
            if slope is None or intercept is None:
                return pixels
            return pixels.astype(np.float64) * float(slope) + float(intercept)

    def window(self, frame: int, window: str | Window | None, default: str | Window) -> str | Window:
        """The window of a frame; reads only the header.

        Args:
            frame: Counted from 0.
            window: The window that the row sets (`windowing.WINDOW_FORMS`), or None.
            default: The window of the run; ignored for colour images.

        Returns:
            A `Window`, a preset or 'percentile'; 'auto' for a colour image or a VOI LUT.

        Raises:
            FileError: The window cannot be used on this image.
        """
        if self.colours:
            if window is None:
                return AUTO
            raise FileError(f'it is a colour image ({self.photometric}), which cannot be windowed', "Remove 'window'.",
                            'image-window')
        window = default if window is None else window
        with dicom_errors():
            modality = self.header.get('Modality')
        if isinstance(window, str) and window in WINDOW_PRESETS and modality not in (None, '', 'CT'):
            raise FileError(f"the window '{window}' is for CT (Hounsfield units), but its modality is {modality}",
                            _OTHER_WINDOW, 'image-window')
        if window != AUTO:
            return window
        with dicom_errors():
            has_lut = own_luts(self.functional_group('FrameVOILUTSequence', frame), 'VOILUTSequence')
        return AUTO if has_lut else self.own_window(frame) or PERCENTILE

    def image(self, frame: int, window: str | Window) -> np.ndarray:
        """A frame as an 8-bit image; MONOCHROME1 is inverted.

        Args:
            frame: Counted from 0.
            window: A result of `self.window`.

        Returns:
            uint8 [h, w], or [h, w, 3] for a colour image, which is not windowed.

        Raises:
            FileError: As `pixels`.
        """
        pixels = self.pixels(frame)
        if self.colours:
            return self._to_uint8(pixels)
        values = self.values(pixels, frame)
        if window == AUTO:
            grey = self._apply_voi_lut(values, self.functional_group('FrameVOILUTSequence', frame))
        else:
            grey = apply_window(values, window, self._not_padding(pixels))
        return 255 - grey if self.photometric == 'MONOCHROME1' else grey

    def own_window(self, frame: int) -> Window | None:
        """The first window in the header that is one; None if there is none.

        A width of 0, a width under 1 of a LINEAR window, and what is no number are common in public files, and stand
        for a window that nobody has set.
        """
        with dicom_errors():
            item = self.functional_group('FrameVOILUTSequence', frame)
        levels, widths = (numbers(item, name) for name in ('WindowCenter', 'WindowWidth'))
        function = str(item.get('VOILUTFunction') or FUNCTIONS[0]).strip().upper()
        for level, width in zip(levels, widths):
            try:
                return Window(level, width, function if function in FUNCTIONS else FUNCTIONS[0])
            except ValueError:
                continue
        return None

    def _apply_voi_lut(self, values: np.ndarray, item: Any) -> np.ndarray:
        values = np.rint(values).astype(np.int64)
        with dicom_errors():
            return self._table(own_luts(item, 'VOILUTSequence')[0], values).to_uint8(values)

    def _table(self, item: Any, inputs: np.ndarray) -> LookupTable:
        signed = bool(self.header.get('PixelRepresentation')) or inputs.min() < 0
        return parse_item(item, signed=signed, big_endian=is_big_endian(self.header))

    def _not_padding(self, pixels: np.ndarray) -> np.ndarray | None:
        """Excludes padding pixels, e.g. the corners around a round field of view: bool [h, w]; None without padding."""
        padding = self.header.get('PixelPaddingValue')
        if padding is None:
            return None
        with dicom_errors():
            limit = self.header.get('PixelPaddingRangeLimit')
            low, high = sorted((int(padding), int(padding if limit is None else limit)))
            return (pixels < low) | (pixels > high)

    def _to_uint8(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype.kind != 'u':
            raise FileError(f'its colours are {pixels.dtype}', 'Save it as 8-bit RGB.', 'medical-file')
        bits = 8 if self.photometric == _PALETTE else int(self.header.BitsStored)
        # The high byte, as in `images.to_rgb`.
        return (pixels >> bits - 8 if bits > 8 else pixels).astype(np.uint8)

    def _integer(self, name: str, default: int | None = None) -> int:
        """An element that is a whole number; the default where it is absent or empty."""
        values = numbers(self.header, name)
        if not values and default is not None:
            return default
        value = values[0] if values else self._required(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise FileError(f'its {name} is {raw_text(self.header, name)!r}, which is no whole number', REPAIR_REMEDY,
                        'medical-file')

    def _required(self, name: str) -> Any:
        value = self.header.get(name)
        if value is None:
            raise FileError(f'its header has no {name}', _MISSING, 'medical-file')
        return value

    def functional_group(self, sequence: str, frame: int) -> Any:
        """The item of a functional group sequence for a frame: per-frame, else shared, else the header itself."""
        with dicom_errors():
            own = self.header.get('PerFrameFunctionalGroupsSequence') or ()
            shared = self.header.get('SharedFunctionalGroupsSequence') or ()
            for groups in (own[frame:frame + 1], shared[:1]):
                found = groups[0].get(sequence) if groups else None
                if found:
                    return found[0]
        return self.header

    def _read_header(self, force: bool) -> Any:
        from pydicom import Dataset, dcmread
        if isinstance(self.source, Dataset):
            return self.source
        with self._stream() as stream:
            check_inflated_size(stream, self._max_pixels)
            return dcmread(stream, stop_before_pixels=True, force=force)

    @property
    def lossy(self) -> bool:
        """Whether its compression changes values."""
        return dicom_is_lossy(self._syntax)

    @property
    def _syntax(self) -> str:
        return str(getattr(self.header, 'file_meta', {}).get('TransferSyntaxUID', ''))

    @contextmanager
    def _stream(self) -> Iterator[Any]:
        """The source for pydicom: a stream at its start, or the dataset."""
        if isinstance(self.source, str):
            with open(self.source, 'rb') as file:
                yield file
        else:
            if isinstance(self.source, BytesIO):
                self.source.seek(0)
            yield self.source

    def _check_compressed_frame(self, source: Any, frame: int) -> bool:
        """Checks the size in the compressed frame, by which decoders allocate memory, against the header.

        Returns:
            Whether the element of the pixel data begins without a VR, in a stream.
        """
        from pydicom import Dataset
        from pydicom.encaps import get_frame
        lacks_vr = False
        if not self._syntax.startswith(_COMPRESSED):
            return lacks_vr
        offsets = None
        if 'ExtendedOffsetTable' in self.header:
            offsets = (self.header.ExtendedOffsetTable, self.header.ExtendedOffsetTableLengths)
        if isinstance(source, Dataset):
            code = get_frame(source.PixelData, frame, number_of_frames=self.num_frames, extended_offsets=offsets)
        else:
            # Skips tag, VR and length of the pixel data.
            lacks_vr = pixels_lack_vr(source)
            source.seek(8 if lacks_vr else 12, 1)
            code = get_frame(source, frame, number_of_frames=self.num_frames, extended_offsets=offsets)
            source.seek(0)
        # Without an end marker, the decoder would read beyond the stream, for seconds.
        if self._syntax.startswith(_JPEG_LS) and b'\xff\xd9' not in code[-4:]:
            raise FileError(f'its frame {frame} is truncated', REPAIR_REMEDY, 'medical-file')
        size = compressed_frame_size(code)
        if size != self.size:
            claim = 'has no known size' if size is None else f'has [height, width] {list(size)}'
            raise FileError(
                f'its frame {frame} {claim} in its compressed data ({self._syntax}), but '
                f'{list(self.size)} in its header', REPAIR_REMEDY, 'medical-file')
        return lacks_vr

    def _decoding(self) -> Any:
        package = next((name for start, name in _DECODERS.items() if self._syntax.startswith(start)), None)
        if package is None:
            return dicom_errors()
        return dicom_errors(f'If the file is complete, a decoder is missing: pip install {package}; or save it '
                            'uncompressed.')


def dicom_errors(remedy: str = REPAIR_REMEDY) -> Any:
    """Converts what pydicom raises on a broken file to a FileError (`errors.reader_errors`)."""
    from pydicom.errors import BytesLengthException, InvalidDicomError
    return reader_errors('DICOM', BytesLengthException, InvalidDicomError, remedy=remedy)
