"""The frames of a DICOM series: where they lie, their order, and several at the same position (phases)."""
import math
import numpy as np
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ..files.dicom import DicomFile, dicom_errors
from ..files.errors import FileError

# The rounding of DICOM's decimal strings, in millimetres.
MILLIMETRES = 2e-3
# What tells the images of one position apart, the most telling first; and those that differ from slice to slice too.
PHASE_KEYS = ('TemporalPositionIdentifier', 'TemporalPositionIndex', 'EchoTime', 'EffectiveEchoTime', 'EchoNumbers',
              'DiffusionBValue', 'FlipAngle', 'InversionTime', 'NominalPercentageOfCardiacPhase', 'ImageType',
              'AcquisitionNumber', 'TriggerTime', 'NominalCardiacTriggerDelayTime', 'AcquisitionTime', 'ContentTime',
              'InstanceNumber')  # yapf: disable
_TIMES = ('TriggerTime', 'NominalCardiacTriggerDelayTime', 'AcquisitionTime', 'ContentTime', 'InstanceNumber')
_APART = 'Put images that belong together into a separate folder.'


class PhasesError(FileError):
    """A series has several images at each position, and none is selected.

    Attributes:
        count: How many.
    """
    count = 0


class Frame(NamedTuple):
    """A frame of the series.

    Attributes:
        file: The file that contains it.
        number: Its number in the file, counted from 0.
        position: ImagePositionPatient [3], or None.
        directions: ImageOrientationPatient [6], of a row and a column, or None.
        spacing: PixelSpacing [2], or None.
    """
    file: DicomFile
    number: int
    position: np.ndarray | None
    directions: np.ndarray | None
    spacing: np.ndarray | None

    @classmethod
    def of(cls, file: DicomFile, number: int) -> 'Frame':
        """Reads where a frame lies."""

        def numbers(sequence: str, name: str, count: int) -> np.ndarray | None:
            value: Any = file.functional_group(sequence, number).get(name)
            if value is None or isinstance(value, str) or len(value) != count:
                return None
            array = np.array([float(part) for part in value])
            return array if np.isfinite(array).all() else None

        with dicom_errors():
            return cls(file, number, numbers('PlanePositionSequence', 'ImagePositionPatient', 3),
                       numbers('PlaneOrientationSequence', 'ImageOrientationPatient', 6),
                       numbers('PixelMeasuresSequence', 'PixelSpacing', 2))

    @property
    def height(self) -> float:
        """Its distance from the origin along its normal, in millimetres. Needs a position and directions."""
        assert self.position is not None and self.directions is not None
        return float(self.position @ np.cross(self.directions[:3], self.directions[3:]))

    def value(self, name: str) -> Any:
        """An element of its header or of its functional groups; None if there is none."""
        header = self.file.header
        if name == 'InstanceNumber' and self.file.num_frames > 1:
            return self.number
        groups = (header.get('PerFrameFunctionalGroupsSequence') or ())[self.number:self.number + 1]
        for sequence in (element for item in groups for element in item if element.VR == 'SQ'):
            if sequence.value and sequence.value[0].get(name) not in (None, ''):
                return sequence.value[0].get(name)
        return header.get(name)


def difference(frame: Frame, first: Frame) -> str | None:
    """In what a frame differs from another one so that they are no stack; None if they are one."""
    if frame.file.size != first.file.size:
        return 'size'
    if frame.file.colours != first.file.colours:
        return 'colours'
    for what, name, one, other in (('orientation', 'ImageOrientationPatient', frame.directions, first.directions),
                                   ('spacing', 'PixelSpacing', frame.spacing, first.spacing)):
        if (one is None) != (other is None):
            lacking = frame if one is None else first
            return f'{name}, which {_name(lacking)} lacks'
        if one is not None and other is not None and not np.allclose(one, other, rtol=1e-3, atol=1e-3):
            return what
    return None


def num_stacks(frames: Sequence[Frame]) -> int:
    """The number of groups of frames with the same orientation and spacing."""
    firsts: list[Frame] = []
    for frame in frames:
        if all(difference(frame, first) for first in firsts):
            firsts.append(frame)
    return len(firsts)


def missing_geometry(frames: Sequence[Frame]) -> str:
    """The attributes that frames lack, and which frame."""
    names = {'ImagePositionPatient': 'position', 'ImageOrientationPatient': 'directions', 'PixelSpacing': 'spacing'}
    lacking = {name: [frame for frame in frames if getattr(frame, field) is None] for name, field in names.items()}
    found = [name for name, missing in lacking.items() if missing]
    some = next((missing[0] for missing in lacking.values() if 0 < len(missing) < len(frames)), None)
    return ' and '.join(found) + (f' (such as {_name(some)})' if some is not None else '')


def sort_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Frames of several files in the order of the slices: along the normal, or without geometry by InstanceNumber.

    Raises:
        FileError: Only some have a position.
    """
    lacking = [frame for frame in frames if frame.position is None]
    if lacking and len(lacking) < len(frames):
        raise FileError(
            f'{len(lacking)} of its {len(frames)} images have no ImagePositionPatient, such as '
            f'{_name(lacking[0])}', _APART, 'medical-file')

    def number(frame: Frame) -> int:
        with dicom_errors():
            return int(frame.file.header.get('InstanceNumber') or 0)

    if lacking or frames[0].directions is None:
        return sorted(frames, key=number)
    return sorted(frames, key=lambda frame: (frame.height, number(frame)))


def select_phase(frames: list[Frame], phase: int | None) -> list[Frame]:
    """The frames of one phase, if every position has several.

    Args:
        frames: Of one stack; those of several files sorted by `sort_frames`.
        phase: Which one, counted from 0; None for a series that has only one.

    Raises:
        FileError: There are several and none is selected, or the other way round; or images lie at the same position
            without being phases.
    """
    one_file = frames[0].file.num_frames > 1
    if any(frame.position is None or frame.directions is None for frame in frames):
        if phase is not None:
            raise no_phases(phase)
        return frames
    positions = _by_position(frames)
    counts = {len(group) for group in positions}
    if counts == {1} or one_file and (len(counts) > 1 or len(positions) == 1 and phase is None):
        # (The frames of a cine loop are a stack of their own.)
        if phase is not None:
            raise no_phases(phase)
        return frames
    if len(counts) > 1 or _copies(positions[0]):
        same = [group for group in positions if len(group) > 1]
        what = 'copies' if _copies(same[0]) else 'phases of which some are missing, or copies'
        raise FileError(
            f'{sum(len(group) - 1 for group in same)} of its {len(frames)} images have the same position as another '
            f'(at {same[0][0].height:g} mm): {what}', 'Put the images of one phase into a separate folder.',
            'medical-file')
    count = len(positions[0])
    key, values = _telling(positions)
    if phase is None or not 0 <= phase < count:
        shown = f' ({", ".join(values)})' if values else ''
        problem = '' if phase is None else f', and no image {phase}'
        error = PhasesError(
            f'it has {count} images at each of its {len(positions)} positions, which differ in {key}{shown}{problem}',
            f'Select one of 0 to {count - 1} (volume=..., or --time on the command line), by {key}.', 'image-fragment')
        error.count = count
        raise error
    return [sorted(group, key=_sort_key(key))[phase] for group in positions]


def no_phases(phase: int) -> FileError:
    return FileError(f'it has one image at each position, so there is no volume {phase}', 'Remove the volume (--time).',
                     'image-fragment')


def check_mosaic(header: Any) -> None:
    """Refuses an image that is a mosaic of slices, as Siemens stores functional and diffusion MR.

    Raises:
        FileError: It is one.
    """
    kind = header.get('ImageType')
    if kind and 'MOSAIC' in (kind if isinstance(kind, (list, tuple)) or hasattr(kind, 'append') else [kind]):
        try:
            # NumberOfImagesInMosaic.
            number = str(header.private_block(0x0019, 'SIEMENS MR HEADER')[0x0a].value)
        except (KeyError, ValueError):
            number = ''
        count = f' of {number} slices' if number.isdigit() else ''
        raise FileError(
            f'it is a Siemens mosaic{count} in one image', 'Convert the series to NIfTI with dcm2niix '
            '(https://github.com/rordenlab/dcm2niix), and name that file.', 'medical-file')


def _by_position(frames: Sequence[Frame]) -> list[list[Frame]]:
    heights = sorted(frames, key=lambda frame: frame.height)
    group, last = 0, -math.inf
    numbers = []
    for frame in heights:
        group += frame.height - last > MILLIMETRES
        last = frame.height
        numbers.append(group)
    return [[frame for _, frame in part] for _, part in groupby(zip(numbers, heights), key=lambda pair: pair[0])]


def _copies(group: Sequence[Frame]) -> bool:
    uids = [(frame.file.header.get('SOPInstanceUID'), frame.number) for frame in group]
    return len(group) > 1 and len(set(uids)) < len(uids)


def _telling(positions: Sequence[Sequence[Frame]]) -> tuple[str, list[str]]:
    """The element that tells the images of a position apart, and its values where all positions have the same."""
    for name in PHASE_KEYS:
        found = [[_text(frame.value(name)) for frame in group] for group in positions]
        if any('' in texts or len(set(texts)) < len(texts) for texts in found):
            continue
        if name in _TIMES:
            return name, []
        if all(set(texts) == set(found[0]) for texts in found):
            return name, [_text(frame.value(name)) for frame in sorted(positions[0], key=_sort_key(name))]
    return 'InstanceNumber', []


def _text(value: Any) -> str:
    if value is None:
        return ''
    return '/'.join(map(str, value)) if hasattr(value, 'append') else str(value)


def _sort_key(name: str) -> Callable[[Frame], tuple[float, str]]:

    def key(frame: Frame) -> tuple[float, str]:
        text = _text(frame.value(name))
        try:
            return float(text), ''
        except ValueError:
            return math.inf, text

    return key


def _name(frame: Frame) -> str:
    source = frame.file.source
    name = os.path.basename(source) if isinstance(source, str) else 'an image'
    return name if frame.file.num_frames == 1 else f'frame {frame.number} of {name}'
