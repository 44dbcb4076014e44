"""Reads frames of DICOM images with pydicom, and applies their modality and VOI transformations."""
import numpy as np
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from .dicom_size import DEFLATED, check_inflated_size, compressed_frame_size
from .errors import REPAIR_REMEDY, FileError, import_medical, reader_errors
from .lossy import dicom_is_lossy
from .rules import FileRules
from .windowing import AUTO, PERCENTILE, WINDOW_PRESETS, Window, apply_window

_JPEG_LS = '1.2.840.10008.1.2.4.8'
# Packages that decode compressed transfer syntaxes (by the start of their UID) beyond pydicom and PIL.
_DECODERS = {
    _JPEG_LS: 'pyjpegls',
    '1.2.840.10008.1.2.4.9': 'pylibjpeg pylibjpeg-openjpeg',
    '1.2.840.10008.1.2.4.20': 'pylibjpeg pylibjpeg-openjpeg',
    '1.2.840.10008.1.2.4.': 'python-gdcm',
}
_GREY, _PALETTE = ('MONOCHROME1', 'MONOCHROME2'), 'PALETTE COLOR'
_COLOURS = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')
_MISSING = 'Export the image again, or save it as PNG with a suitable window.'
_OTHER_WINDOW = "Set another window, e.g. '#window=percentile' or '#window=40,400' after the file name."

# pydicom's warnings about invalid values contain the values, which may be patient data.
warnings.filterwarnings('ignore', module=r'pydicom\.')


class DicomFile:
    """A DICOM image whose header is read and checked on construction.

    Args:
        source: A path, the content of a file, or a pydicom `Dataset`.
        rules: `max_pixels` limits the size of a frame.
        force: Whether to accept a file without the preamble "DICM".

    Attributes:
        header: The pydicom `Dataset`, without pixels unless the source is a `Dataset` with pixels.
        num_frames: The number of frames.
        size: (height, width) of a frame.
        colours: Whether the frames are colour images.

    Raises:
        FileError: The file is not DICOM, has no image, or has more pixels than the rules allow.
    """

    def __init__(self, source: Any, rules: FileRules, force: bool = False) -> None:
        import_medical('pydicom')
        self._source = source
        self._max_pixels = rules.max_pixels
        with dicom_errors():
            self.header = self._read_header(force)
            frames = self.header.get('NumberOfFrames')
            # Absent or empty: one.
            self.num_frames = 1 if frames is None else int(frames)
            if 'Rows' not in self.header:
                raise FileError('it contains no image (no Rows)', 'Name a DICOM file with an image.', 'no-image')
            rows, columns, samples = (int(self._required(name)) for name in ('Rows', 'Columns', 'SamplesPerPixel'))
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
        from pydicom.pixels import apply_color_lut, pixel_array
        with self._decoding(), self._stream() as source:
            self._check_compressed_size(source, frame)
            if self._syntax == DEFLATED and source is not self.header:
                # pydicom cannot read a single frame of this syntax.
                source = dcmread(source)
            pixels = pixel_array(source, index=frame)
            if self.photometric == _PALETTE:
                pixels = apply_color_lut(pixels, self.header)[..., :3]
        if pixels.shape[:2] != self.size:
            raise FileError(f'its pixels have the shape {list(pixels.shape)}, but its header has {list(self.size)}',
                            REPAIR_REMEDY, 'medical-file')
        return pixels

    def values(self, pixels: np.ndarray, frame: int) -> np.ndarray:
        """Applies the modality LUT or rescale to stored grey values [h, w] (CT: Hounsfield units)."""
        from pydicom.pixels import apply_modality_lut
        with dicom_errors():
            if self.header.get('ModalityLUTSequence'):
                return apply_modality_lut(pixels, self.header)
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
            has_lut = self.functional_group('FrameVOILUTSequence', frame).get('VOILUTSequence')
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
        """The (first) window in the header, or None.

        Raises:
            FileError: The window is invalid, e.g. of width 0.
        """
        with dicom_errors():
            item = self.functional_group('FrameVOILUTSequence', frame)
            level, width = _first(item.get('WindowCenter')), _first(item.get('WindowWidth'))
            function = str(item.get('VOILUTFunction') or 'LINEAR')
        if level is None or width is None:
            return None
        try:
            return Window(float(level), float(width), function)
        except (TypeError, ValueError) as e:
            raise FileError(f'its header has {e}', _OTHER_WINDOW, 'image-window') from e

    def _apply_voi_lut(self, values: np.ndarray, item: Any) -> np.ndarray:
        from pydicom.pixels import apply_voi
        with dicom_errors():
            bits = int(item.VOILUTSequence[0].LUTDescriptor[2])
            grey = apply_voi(np.rint(values).astype(np.int64), item)
        return np.rint(grey.astype(np.float64) * 255 / (2**bits - 1)).clip(0, 255).astype(np.uint8)

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
        # The bits of the palette entries, not of the indices.
        bits = 8 * pixels.itemsize if self.photometric == _PALETTE else int(self.header.BitsStored)
        # The high byte, as in `images.to_rgb`.
        return (pixels >> bits - 8 if bits > 8 else pixels).astype(np.uint8)

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
        if isinstance(self._source, Dataset):
            return self._source
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
        if isinstance(self._source, str):
            with open(self._source, 'rb') as file:
                yield file
        else:
            if isinstance(self._source, BytesIO):
                self._source.seek(0)
            yield self._source

    def _check_compressed_size(self, source: Any, frame: int) -> None:
        """Checks the size in the compressed frame, by which decoders allocate memory, against the header."""
        from pydicom import Dataset
        from pydicom.encaps import get_frame
        if not self._syntax.startswith('1.2.840.10008.1.2.4.'):
            return
        offsets = None
        if 'ExtendedOffsetTable' in self.header:
            offsets = (self.header.ExtendedOffsetTable, self.header.ExtendedOffsetTableLengths)
        if isinstance(source, Dataset):
            code = get_frame(source.PixelData, frame, number_of_frames=self.num_frames, extended_offsets=offsets)
        else:
            from pydicom import dcmread
            dcmread(source, stop_before_pixels=True, force=True)
            # Skips tag, VR and length of the pixel data.
            source.seek(12, 1)
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


def _first(value: Any) -> Any:
    """The first of several values; None if there is none."""
    from pydicom.multival import MultiValue
    if isinstance(value, MultiValue):
        return value[0] if len(value) else None
    return value
