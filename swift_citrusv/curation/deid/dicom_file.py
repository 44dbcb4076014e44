"""Cleans a DICOM file: pixels, overlays, header."""
import numpy as np
from collections.abc import Callable, Sequence
from typing import Any

from ...files.dicom import dicom_errors
from ...files.dicom_header import object_kind, with_syntax
from ...files.errors import FileError
from ...files.lookup_table import palette_to_rgb
from .header import HeaderCleaner
from .pixels import Box, blank_text, must_go, outside_of, views_of
from .result import FileResult

_REMEDY = 'Leave the file out, or clean it by hand.'
# Objects whose content is neither pixels nor elements: documents, sound, raw data.
_CLOSED = ('1.2.840.10008.5.1.4.1.1.104.', '1.2.840.10008.5.1.4.1.1.9.4.', '1.2.840.10008.5.1.4.1.1.66',
           '1.2.840.10008.5.1.4.1.1.200.')  # yapf: disable
# (Registrations, fiducials, segmentations and surfaces share the root of raw data.)
_OPEN = ('1.2.840.10008.5.1.4.1.1.66.1', '1.2.840.10008.5.1.4.1.1.66.2', '1.2.840.10008.5.1.4.1.1.66.3',
         '1.2.840.10008.5.1.4.1.1.66.4')  # yapf: disable


class DicomCleaner:
    """Cleans DICOM files.

    Args:
        headers: For the header.
        is_allowed: Whether a text may stay in the pixels.
        engines: The OCR engines; without one, pixels stay as they are.
        blanks_outside: Whether all that lies outside the regions of an ultrasound image goes.
    """

    def __init__(self, headers: HeaderCleaner, is_allowed: Callable[[str], bool], engines: Sequence[str],
                 blanks_outside: bool = True) -> None:  # yapf: disable
        self._headers, self._is_allowed, self._engines = headers, is_allowed, engines
        self._blanks_outside = blanks_outside

    def clean(self, path: str, output: str, tick: Callable[[], None] = lambda: None) -> FileResult:
        """Cleans a file.

        Args:
            path: The file.
            output: Where to write it.
            tick: Called after each frame.

        Raises:
            FileError: It cannot be read, or not be cleaned for certain; nothing is written.
        """
        from pydicom import dcmread
        result = FileResult('DICOM')
        with dicom_errors():
            dataset = with_syntax(dcmread(path, force=True))
            uid = str(dataset.get('SOPClassUID') or '')
            if not uid and 'Rows' not in dataset:
                raise FileError(f'it {object_kind(dataset)}', _REMEDY, 'medical-file')
            if uid.startswith(_CLOSED) and uid not in _OPEN or 'EncapsulatedDocument' in dataset:
                raise FileError(f'it {object_kind(dataset)}, whose content cannot be cleaned', _REMEDY, 'closed')
            if 'PixelData' in dataset and 'Rows' in dataset:
                self._pixels(dataset, result, tick)
                dataset.BurnedInAnnotation = 'NO'
            header = self._headers.clean(dataset)
            result.actions, result.findings = dict(header.actions), list(header.findings)
            dataset.save_as(output, enforce_file_format=True)
        return result

    def _pixels(self, dataset: Any, result: FileResult, tick: Callable[[], None]) -> None:
        self._clear_embedded_overlays(dataset, result)
        if not self._engines or int(dataset.get('BitsAllocated') or 0) == 1:
            return
        photometric = str(dataset.get('PhotometricInterpretation'))
        pixels, photometric = self._decoded(dataset, photometric)
        frames = pixels if int(dataset.get('NumberOfFrames') or 1) > 1 else pixels[None]
        blanked = blank_text(frames, lambda frame: _views(frame, dataset, photometric), self._is_allowed, self._engines,
                             self._outside(dataset), tick)  # yapf: disable
        result.frames, result.boxes = len(frames), blanked.count
        result.places, result.by_others = blanked.boxes, blanked.by_others
        if blanked.pixels is not frames:
            self._store(dataset, blanked.pixels, photometric)

    @staticmethod
    def _decoded(dataset: Any, photometric: str) -> tuple[np.ndarray, str]:
        """All frames as they are stored, and their photometric interpretation; RGB for compressed colours."""
        from pydicom.pixels import pixel_array
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            return pixel_array(dataset), 'RGB' if photometric.startswith('YBR') else photometric
        # Chroma is spread over all pixels.
        return pixel_array(dataset, raw=True), 'YBR_FULL' if photometric == 'YBR_FULL_422' else photometric

    def _outside(self, dataset: Any) -> list[Box]:
        regions = dataset.get('SequenceOfUltrasoundRegions') or ()
        if not self._blanks_outside or not regions:
            return []
        names = ('RegionLocationMinX0', 'RegionLocationMinY0', 'RegionLocationMaxX1', 'RegionLocationMaxY1')
        boxes = []
        for region in regions:
            left, top, right, bottom = (int(region.get(name, -1)) for name in names)
            if 0 <= left <= right and 0 <= top <= bottom:
                boxes.append((left, top, right + 1, bottom + 1))
        return outside_of(boxes, int(dataset.Rows), int(dataset.Columns)) if boxes else []

    @staticmethod
    def _clear_embedded_overlays(dataset: Any, result: FileResult) -> None:
        """Clears the bits above the pixel values, in which overlays were stored before 2004."""
        places = [int(dataset[group, 0x0102].value or 0) for group in range(0x6000, 0x6020, 2)
                  if (group, 0x0102) in dataset and (group, 0x3000) not in dataset]  # yapf: disable
        stored, high = int(dataset.get('BitsStored') or 0), int(dataset.get('HighBit') or 0)
        if not any(place > high for place in places) or dataset.file_meta.TransferSyntaxUID.is_compressed:
            return
        order = '<' if dataset.file_meta.TransferSyntaxUID.is_little_endian else '>'
        values = np.frombuffer(dataset.PixelData, f'{order}u{int(dataset.BitsAllocated) // 8}')
        mask = ((1 << stored) - 1) << (high + 1 - stored)
        dataset.PixelData = (values & np.array(mask, values.dtype)).astype(values.dtype).tobytes()
        result.overlays = len(places)

    @staticmethod
    def _store(dataset: Any, frames: np.ndarray, photometric: str) -> None:
        from pydicom.uid import ExplicitVRLittleEndian
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if frames.ndim == 4:
                dataset.PlanarConfiguration = 0
        elif frames.ndim == 4 and int(dataset.get('PlanarConfiguration') or 0) == 1:
            frames = frames.transpose(0, 3, 1, 2)
        dataset.PhotometricInterpretation = photometric
        is_little = syntax.is_compressed or syntax.is_little_endian
        content = frames.astype(frames.dtype.newbyteorder('<' if is_little else '>')).tobytes()
        is_wide = int(dataset.BitsAllocated) > 8
        # Bytes to the end of an even length. Source: PS3.5, section 8.1.1.
        dataset.PixelData = content + b'\0' * (len(content) % 2)
        dataset['PixelData'].VR = 'OW' if is_wide or syntax.is_implicit_VR else 'OB'
        dataset['PixelData'].is_undefined_length = False
        for name in ('ExtendedOffsetTable', 'ExtendedOffsetTableLengths'):
            if name in dataset:
                delattr(dataset, name)


def _views(frame: np.ndarray, dataset: Any, photometric: str) -> Sequence[np.ndarray]:
    from pydicom.pixels import convert_color_space
    if photometric == 'PALETTE COLOR':
        return views_of(_eight_bits(palette_to_rgb(frame, dataset)))
    if photometric.startswith('YBR'):
        return views_of(convert_color_space(frame, photometric, 'RGB'))
    return views_of(_eight_bits(frame) if frame.ndim == 3 else frame)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return (values >> 8).astype(np.uint8) if values.dtype.itemsize > 1 else values


def texts_left(path: str, is_allowed: Callable[[str], bool], read: Callable[[np.ndarray], Sequence[Any]]) -> list[str]:
    """The texts outside of the allowed ones that an engine reads in a cleaned file, of every frame."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array
    found = []
    with dicom_errors():
        dataset = dcmread(path, force=True)
        if 'PixelData' not in dataset or int(dataset.get('BitsAllocated') or 0) == 1:
            return []
        photometric = str(dataset.get('PhotometricInterpretation'))
        pixels = pixel_array(dataset)
        photometric = 'RGB' if photometric.startswith('YBR') else photometric
        frames = pixels if int(dataset.get('NumberOfFrames') or 1) > 1 else pixels[None]
        before: np.ndarray | None = None
        for frame in frames:
            if before is None or not np.array_equal(before, frame):
                found += [text.text for view in _views(frame, dataset, photometric) for text in read(view)
                          if must_go(text, frame.shape, is_allowed)]  # yapf: disable
            before = frame
    return found
