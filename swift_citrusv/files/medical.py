"""DICOM and NIfTI among the images of rows and requests: which of their slices is meant, and how it is shown.

What stands behind a `#` in the name says so, in the form of a query:

    ct.dcm#window=bone              a DICOM image, by the window for bone
    cine.dcm#frame=3                the fourth frame of several
    scan.nii.gz#index=40            axial slice 40 of a volume
    scan.nii.gz#plane=coronal&index=12&window=40,400
    fmri.nii.gz#index=20&volume=5   of a series of volumes, the sixth

All numbers count from 0. A file of several slices needs `index`, of several frames `frame`, of several volumes
`volume`; nothing is chosen in silence. A file whose own name ends so is that file. `planes` says which way slices lie,
`windows` which windows there are.

A slice is opened by its header, and decoded when its pixels are asked for: as PIL does it with its own files.
"""
import numpy as np
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from PIL import Image
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from .errors import FileError
from .rules import FileRules
from .slices import PLANES, SliceOrientation
from .windowing import WINDOW_FORMS, Window, rgb_image, parse_window, array_to_image

DICOM, NIFTI = 'DICOM', 'NIFTI'
_KEYS = {DICOM: ('frame', 'window'), NIFTI: ('plane', 'index', 'volume', 'window')}
_EXAMPLES = {DICOM: 'ct.dcm#frame=3&window=bone', NIFTI: 'scan.nii.gz#plane=axial&index=40&window=lung'}
_DICOM_NAMES = ('.dcm', '.dicom')
_DICM_AT = 128
_NUMBER = re.compile('[0-9]{1,9}')


@dataclass(frozen=True)
class SliceSelection:
    """What a row's name asks for behind its `#`; None: nothing."""
    frame: int | None = None
    plane: str | None = None
    index: int | None = None
    volume: int | None = None
    window: str | Window | None = None

    @classmethod
    def parse(cls, fragment: str, kind: str) -> 'SliceSelection':
        """Reads a fragment.

        Args:
            fragment: Without its `#`; may be empty.
            kind: 'DICOM' or 'NIFTI'.

        Raises:
            FileError: A key that this kind of file does not have, or a value that is none (kind 'image-fragment').
        """
        values: dict[str, Any] = {}
        try:
            pairs = parse_qsl(fragment, keep_blank_values=True, strict_parsing=True) if fragment else []
        except ValueError as e:
            raise _wrong(fragment, kind, str(e)) from None
        for key, value in pairs:
            if key not in _KEYS[kind] or key in values:
                raise _wrong(fragment, kind, f'it has no {key!r}' if key not in values else f'{key!r} stands twice')
            if key in ('plane', 'window'):
                values[key] = value
            elif _NUMBER.fullmatch(value):
                values[key] = int(value)
            else:
                raise _wrong(fragment, kind, f'{key}={value!r} is no number, counted from 0')
        if values.get('plane', PLANES[0]) not in PLANES:
            raise _wrong(fragment, kind, f"plane={values['plane']!r} is none of {', '.join(PLANES)}")
        if 'window' in values:
            try:
                values['window'] = parse_window(values['window'])
            except ValueError as e:
                raise FileError(f"'#{fragment}': {e}", WINDOW_FORMS, 'image-window') from None
        return cls(**values)


def _wrong(fragment: str, kind: str, problem: str) -> FileError:
    return FileError(f"'#{fragment}' asks for what a {kind} file does not have: {problem}",
                     f'Its keys are {", ".join(_KEYS[kind])}, as in {_EXAMPLES[kind]!r}.', 'image-fragment')


class MedicalImage(Image.Image):
    """An image whose pixels are read when they are asked for.

    Args:
        size: (height, width).
        kind: 'DICOM' or 'NIFTI'.
        read: Gives uint8 [h, w] or [h, w, 3]; or, of mode 'I', int32 [h, w].
        mode: 'RGB' for images, 'I' for label maps.
    """
    # What unpickling makes has its pixels.
    _read: Callable[[], np.ndarray] | None = None

    def __init__(self, size: tuple[int, int], kind: str, read: Callable[[], np.ndarray], mode: str = 'RGB') -> None:
        super().__init__()
        self._mode, self._size = mode, (size[1], size[0])
        self.format = kind
        self._read = read

    def load(self) -> Any:
        if self._read is not None:
            values = self._read()
            self.im = (rgb_image(values) if self.mode == 'RGB' else Image.fromarray(values)).im
            self._read = None
        return super().load()


def medical_format(file: str | BytesIO) -> str | None:
    """'DICOM', 'NIFTI', or None for any other file, by its first bytes; a DICOM file without its preamble by its name.

    Args:
        file: A path, or the file's bytes.
    """
    if isinstance(file, BytesIO):
        file.seek(0)
        kind = _kind_of(file)
        file.seek(0)
        return kind
    with open(file, 'rb') as stream:
        kind = _kind_of(stream)
    return DICOM if kind is None and file.lower().endswith(_DICOM_NAMES) else kind


def _kind_of(stream: BinaryIO | BytesIO) -> str | None:
    from .nifti import GZIP, HEADER_BYTES, header_size
    start = stream.read(HEADER_BYTES)
    if start[_DICM_AT:_DICM_AT + 4] == b'DICM':
        return DICOM
    if start.startswith(GZIP):
        import zlib
        stream.seek(0)
        try:
            # Names and comments may stand before the data.
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(stream.read(1 << 16), HEADER_BYTES)
        except zlib.error:
            return None
    return NIFTI if header_size(start) else None


def open_medical(source: Any, kind: str, rules: FileRules, fragment: str = '', labels: bool = False) -> MedicalImage:
    """Opens a slice by the header of its file.

    Args:
        source: A path, a file's bytes, or pydicom's `Dataset`.
        kind: As `medical_format` says.
        rules: What may be opened, and the window of this run.
        fragment: What stands behind the `#`.
        labels: A label map, for masks: the values themselves instead of an image, int32.

    Raises:
        FileError: The file, or what is asked of it, cannot be had; where only pixels tell, it is raised on loading.
    """
    selection = SliceSelection.parse(fragment, kind)
    return (_open_dicom if kind == DICOM else _open_nifti)(source, rules, selection, labels)


def _open_dicom(source: Any, rules: FileRules, selection: SliceSelection, labels: bool) -> MedicalImage:
    from .dicom import DicomFile
    file = DicomFile(source, rules, force=isinstance(source, str))
    frame = select_index('frame', selection.frame, file.num_frames, DICOM, 'frames')
    if labels:
        if file.colours:
            raise FileError('it has colours, and no labels', 'Name a grey image of labels.', 'medical-file')
        return MedicalImage(file.size, DICOM, lambda: _as_labels(file.pixels(frame)), 'I')
    window = file.window(frame, selection.window, rules.default_window)
    return MedicalImage(file.size, DICOM, partial(file.image, frame, window))


def _open_nifti(source: Any, rules: FileRules, selection: SliceSelection, labels: bool) -> MedicalImage:
    from .nifti import NiftiFile
    file = NiftiFile(source, rules)
    plane = selection.plane or PLANES[0]
    view = SliceOrientation.of(file.affine, file.shape, plane)
    volume = select_index('volume', selection.volume, file.num_volumes, NIFTI, 'volumes')
    index = select_index('index', selection.index, len(view), NIFTI, f'{plane} slices')
    check_slice_size(view.size, rules)
    if file.colours and (labels or selection.window is not None):
        raise FileError('it has colours, and no ' + ('labels' if labels else 'window'),
                        "Leave 'window' out." if not labels else 'Name a volume of labels.', 'medical-file')
    if labels:
        return MedicalImage(view.size, NIFTI, lambda: _as_labels(view.show(file.values(view, index, volume))), 'I')
    window = selection.window or rules.default_window
    return MedicalImage(view.size, NIFTI, partial(file.image, view, index, volume, window))


def check_slice_size(size: tuple[int, int], rules: FileRules) -> None:
    """Raises a FileError where a slice (height, width) is larger than the rules allow."""
    if size[0] * size[1] > rules.max_pixels:
        raise FileError(f'its slices have {size[1]} x {size[0]} pixels, more than max_image_pixels={rules.max_pixels}',
                        'Cut it into parts; raise max_image_pixels only for files that you trust.', 'too-many-pixels')


def select_index(key: str, value: int | None, count: int, kind: str, what: str) -> int:
    """Which of several frames, slices or volumes is meant: `value`, or the only one.

    Raises:
        FileError: There is no such one, or there are several and nobody has said which.
    """
    if value is None and count == 1:
        return 0
    if value is None or value >= count:
        problem = f'the name does not say which, as {key}=N' if value is None else f'{key}={value} is none of them'
        raise FileError(f'it has {count} {what}, and {problem}',
                        f"Name one from 0 to {count - 1}, as in {_EXAMPLES[kind]!r}.", 'image-fragment')
    return value


def _as_labels(values: np.ndarray) -> np.ndarray:
    labels = np.rint(values).astype(np.int32) if np.isfinite(values).all() and np.abs(values).max() < 2**31 else None
    if labels is None or not np.array_equal(labels, values):
        raise FileError('its values are no labels: some are no integers', 'Name a label map, not an image.',
                        'medical-file')
    return labels


def open_object(reference: Any, rules: FileRules) -> Image.Image | None:
    """An image from a Python object: an array (`windows.array_to_image`), or pydicom's `Dataset`; None from any other."""
    if isinstance(reference, np.ndarray):
        return array_to_image(reference)
    # Who has no pydicom has no such object.
    if type(reference).__module__.partition('.')[0] == 'pydicom':
        return open_medical(reference, DICOM, rules)
    return None
