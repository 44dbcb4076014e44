"""Opens slices of DICOM and NIfTI files as images of rows and requests.

A fragment after a `#` in the name selects the slice and the window, in the form of a query:

    ct.dcm#window=bone              a DICOM image with the bone window
    cine.dcm#frame=3                the fourth frame of several
    scan.nii.gz#index=40            axial slice 40 of a volume
    scan.nii.gz#plane=coronal&index=12&window=40,400
    xray.png#window=2048,4096       a window of a 16-bit PNG or TIFF (see `deep`)
    fmri.nii.gz#index=20&volume=5   a slice of the sixth volume of several

All numbers count from 0. A file with several slices needs `index`, with several frames `frame`, with several volumes
`volume`; there is no default. A file whose name itself contains the fragment takes precedence. `slices` defines the
orientation of slices, `windowing` the windows.

Opening reads only the header; pixels are decoded when they are needed, as PIL does for its own formats.
"""
import numpy as np
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from PIL import Image
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from .errors import FileError
from .lazy import LazyImage
from .lossy import LOSSY
from .rules import FileRules
from .slices import PLANES, SliceOrientation
from .windowing import WINDOW_FORMS, Window, array_to_image, parse_window, rgb_image

# DEEP: other files with more than 8 bits a value, see `deep`.
DICOM, NIFTI, DEEP = 'DICOM', 'NIFTI', '16-bit'
# In `Image.info` of a slice: what it is a slice of, a DICOM series or a file; '' if that is unknown.
SERIES = 'citrusv_series'
# The same of the header of a DICOM file.
STUDY, PATIENT = 'citrusv_study', 'citrusv_patient'
_KEYS = {DICOM: ('frame', 'window'), NIFTI: ('plane', 'index', 'volume', 'window'), DEEP: ('window', )}
_EXAMPLES = {
    DICOM: 'ct.dcm#frame=3&window=bone',
    NIFTI: 'scan.nii.gz#plane=axial&index=40&window=lung',
    DEEP: 'xray.png#window=2048,4096'
}
_DICOM_NAMES = ('.dcm', '.dicom')
_DICM_AT = 128
_NUMBER = re.compile('[0-9]{1,9}')


@dataclass(frozen=True)
class SliceSelection:
    """The slice and window that the fragment of a name selects; None for a key that is not given."""
    frame: int | None = None
    plane: str | None = None
    index: int | None = None
    volume: int | None = None
    window: str | Window | None = None

    @classmethod
    def parse(cls, fragment: str, kind: str) -> 'SliceSelection':
        """Parses a fragment.

        Args:
            fragment: The fragment without `#`; may be empty.
            kind: 'DICOM', 'NIFTI' or '16-bit'.

        Raises:
            FileError: A key or value is not valid for this kind of file (kind 'image-fragment' or 'image-window').
        """
        values: dict[str, Any] = {}
        try:
            pairs = parse_qsl(fragment, keep_blank_values=True, strict_parsing=True) if fragment else []
        except ValueError as e:
            raise _fragment_error(fragment, kind, str(e)) from None
        for key, value in pairs:
            if key not in _KEYS[kind] or key in values:
                problem = f'{key!r} is not a key' if key not in values else f'{key!r} occurs twice'
                raise _fragment_error(fragment, kind, problem)
            if key in ('plane', 'window'):
                values[key] = value
            elif _NUMBER.fullmatch(value):
                values[key] = int(value)
            else:
                raise _fragment_error(fragment, kind, f'{key}={value!r} is not an integer >= 0')
        if values.get('plane', PLANES[0]) not in PLANES:
            raise _fragment_error(fragment, kind, f"plane={values['plane']!r} is not one of {', '.join(PLANES)}")
        if 'window' in values:
            try:
                values['window'] = parse_window(values['window'])
            except ValueError as e:
                raise FileError(f"'#{fragment}': {e}", WINDOW_FORMS, 'image-window') from None
        return cls(**values)


def _fragment_error(fragment: str, kind: str, problem: str) -> FileError:
    return FileError(f"'#{fragment}' is not valid for a {kind} file: {problem}",
                     f'The keys are {", ".join(_KEYS[kind])}, as in {_EXAMPLES[kind]!r}.', 'image-fragment')


class MedicalImage(LazyImage):
    """A slice of a DICOM or NIfTI file, read on first use.

    Args:
        size: (height, width).
        kind: 'DICOM' or 'NIFTI'.
        read: Returns uint8 [h, w] or [h, w, 3]; for mode 'I' int32 [h, w].
        mode: 'RGB' for images, 'I' for label maps.
    """

    def __init__(self, size: tuple[int, int], kind: str, read: Callable[[], np.ndarray], mode: str = 'RGB') -> None:
        to_image = rgb_image if mode == 'RGB' else Image.fromarray
        super().__init__((size[1], size[0]), mode, kind, lambda: to_image(read()))


def medical_format(file: str | BytesIO) -> str | None:
    """Detects 'DICOM' or 'NIFTI' by the first bytes, or DICOM without preamble by the file name; else None.

    Args:
        file: A path, or the content of a file.
    """
    if isinstance(file, BytesIO):
        file.seek(0)
        kind = _format_of(file)
        file.seek(0)
        return kind
    with open(file, 'rb') as stream:
        kind = _format_of(stream)
    return DICOM if kind is None and file.lower().endswith(_DICOM_NAMES) else kind


def _format_of(stream: BinaryIO | BytesIO) -> str | None:
    from .nifti import GZIP, HEADER_BYTES, header_size
    start = stream.read(HEADER_BYTES)
    if start[_DICM_AT:_DICM_AT + 4] == b'DICM':
        return DICOM
    if start.startswith(GZIP):
        import zlib
        stream.seek(0)
        try:
            # A gzip header may contain a name and a comment before the data.
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(stream.read(1 << 16), HEADER_BYTES)
        except zlib.error:
            return None
    return NIFTI if header_size(start) else None


def open_medical(source: Any, kind: str, rules: FileRules, fragment: str = '', labels: bool = False) -> MedicalImage:
    """Opens a slice; reads only the header of its file.

    Args:
        source: A path, the content of a file, or a pydicom `Dataset`.
        kind: 'DICOM' or 'NIFTI', from `medical_format`.
        rules: The limits and the default window.
        fragment: The part of the name after `#`.
        labels: Whether to return a label map for masks, with int32 values, instead of an image.

    Raises:
        FileError: The file or the fragment is invalid. Errors in the pixel data are raised on loading.
    """
    selection = SliceSelection.parse(fragment, kind)
    return (_open_dicom if kind == DICOM else _open_nifti)(source, rules, selection, labels)


def _open_dicom(source: Any, rules: FileRules, selection: SliceSelection, labels: bool) -> MedicalImage:
    from .dicom import DicomFile
    file = DicomFile(source, rules, force=isinstance(source, str))
    frame = select_index('frame', selection.frame, file.num_frames, DICOM, 'frames')
    if labels:
        if file.colours:
            raise FileError('it has colours, not labels', 'Name a grey label map.', 'medical-file')
        label_map = MedicalImage(file.size, DICOM, lambda: _as_labels(file.pixels(frame)), 'I')
        label_map.info[LOSSY] = file.lossy
        return label_map
    window = file.window(frame, selection.window, rules.default_window)
    image = MedicalImage(file.size, DICOM, partial(file.image, frame, window))
    # A file of several frames is a series, too.
    image.info[SERIES] = str(file.header.get('SeriesInstanceUID') or file.header.get('SOPInstanceUID') or '')
    image.info[STUDY] = str(file.header.get('StudyInstanceUID') or '')
    image.info[PATIENT] = str(file.header.get('PatientID') or '')
    return image


def _open_nifti(source: Any, rules: FileRules, selection: SliceSelection, labels: bool) -> MedicalImage:
    from .nifti import NiftiFile
    file = NiftiFile(source, rules)
    plane = selection.plane or PLANES[0]
    view = SliceOrientation.from_affine(file.affine, file.shape, plane)
    volume = select_index('volume', selection.volume, file.num_volumes, NIFTI, 'volumes')
    index = select_index('index', selection.index, len(view), NIFTI, f'{plane} slices')
    check_slice_size(view.size, rules)
    if file.colours and (labels or selection.window is not None):
        raise FileError('it has colours, ' + ('not labels' if labels else 'which cannot be windowed'),
                        'Name a grey label map.' if labels else "Remove 'window'.", 'medical-file')
    if labels:
        return MedicalImage(view.size, NIFTI, lambda: _as_labels(view.to_image(file.values(view, index, volume))), 'I')
    window = selection.window or rules.default_window
    image = MedicalImage(view.size, NIFTI, partial(file.image, view, index, volume, window))
    image.info[SERIES] = os.path.realpath(source) if isinstance(source, str) else ''
    return image


def check_slice_size(size: tuple[int, int], rules: FileRules) -> None:
    """Raises a FileError if a slice (height, width) has more pixels than the rules allow."""
    if size[0] * size[1] > rules.max_pixels:
        raise FileError(f'its slices have {size[1]} x {size[0]} pixels, more than max_image_pixels={rules.max_pixels}',
                        'Cut it into parts; raise max_image_pixels only for trusted files.', 'too-many-pixels')


def select_index(key: str, value: int | None, count: int, kind: str, what: str) -> int:
    """The index of a frame, slice or volume: `value`, or 0 if there is only one.

    Args:
        key: The key of the fragment, e.g. 'index'.
        value: Its value, or None.
        count: The number of frames, slices or volumes.
        kind: 'DICOM' or 'NIFTI'.
        what: What is counted, for the error message.

    Raises:
        FileError: `value` is out of range, or missing although there are several.
    """
    if value is None and count == 1:
        return 0
    if value is None or value >= count:
        problem = f'the name selects none with {key}=N' if value is None else f'{key}={value} does not exist'
        raise FileError(f'it has {count} {what}, and {problem}',
                        f"Give one from 0 to {count - 1}, as in {_EXAMPLES[kind]!r}.", 'image-fragment')
    return value


def _as_labels(values: np.ndarray) -> np.ndarray:
    labels = np.rint(values).astype(np.int32) if np.isfinite(values).all() and np.abs(values).max() < 2**31 else None
    if labels is None or not np.array_equal(labels, values):
        raise FileError('its values are not labels: some are not integers', 'Name a label map, not an image.',
                        'medical-file')
    return labels


def open_object(reference: Any, rules: FileRules) -> Image.Image | None:
    """An image from an array (`windowing.array_to_image`) or a pydicom `Dataset`; None for other objects."""
    if isinstance(reference, np.ndarray):
        return array_to_image(reference)
    # Without importing pydicom, which is optional.
    if type(reference).__module__.partition('.')[0] == 'pydicom':
        return open_medical(reference, DICOM, rules)
    return None
