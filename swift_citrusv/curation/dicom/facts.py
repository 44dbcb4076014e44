"""What is known of a slice: where it lies, whose it is, and how its values are spread."""
import hashlib
import json
import math
import numpy as np
import pyarrow as pa
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import RowError
from ...files.dicom import DicomFile, dicom_errors
from ...files.dicom_header import numbers
from ...files.errors import IMAGE_ERRORS, FileError
from ...files.medical import DICOM, NIFTI, medical_format
from ...files.nifti import NiftiFile
from ...files.rules import FileRules
from ...files.slices import PLANES, SliceOrientation
from ...volumes.frames import PHASE_KEYS, Frame, check_mosaic

# The shares of a slice's values at which `levels` are taken.
SHARES = (.01, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .99)
# What tells several images at one position apart: phases, echoes, b-values; not what tells any two files apart.
_PHASE_NAMES = tuple(name for name in PHASE_KEYS if name not in ('ImageType', 'InstanceNumber'))
# Why a file has no slice.
NO_IMAGE, OTHER, DAMAGED = 'no-image', 'other-file', 'damaged'
# From NIfTI's coordinates (to the right, the front, the head) to DICOM's.
_TO_LPS = np.array([-1., -1., 1.])
# Relative difference of two statements of one thing.
_RELATIVE = .01


class Slice(NamedTuple):
    """A slice of a DICOM or NIfTI file, or a file that has none.

    Attributes:
        source: The file.
        place: The frame or slice, counted from 0.
        reference: The fragment of the row that names it, e.g. 'frame=3'; '' for a file with one image.
        problem: '' or one of `NO_IMAGE`, `OTHER`, `DAMAGED`; then only `detail` says more.
        detail: The problem in words.
        kind: 'DICOM' or 'NIFTI'.
        series, study, patient, modality, description: Of the header; the series of a NIfTI file is the file.
        uid: SOPInstanceUID, with the frame.
        rows, columns: The size.
        pixels: How its pixels are stored, in words.
        position: [3], millimetres in DICOM's coordinates (to the left, the back, the head); () if unknown.
        directions: [6], of a row and of a column, unit vectors; () if unknown.
        spacing: [2], millimetres between rows, and between columns; () if unknown.
        between: SpacingBetweenSlices, or the thickness of a NIfTI voxel; NaN if unknown.
        thickness: SliceThickness; NaN if unknown.
        location: SliceLocation, along some axis of the scanner; NaN if unknown.
        number: InstanceNumber; NaN if unknown.
        tilt: GantryDetectorTilt in degrees; NaN if unknown.
        rescale: Slope and intercept; () if unknown.
        patient_position: PatientPosition, e.g. 'HFS', of an original axial image; else ''.
        frame_of_reference: Its UID.
        is_localizer: Whether it is a scout.
        is_volume: Whether slices of its kind lie side by side in space: CT, MR, PET, NIfTI.
        phase: JSON of what tells it from others at its position.
        levels: The values at `SHARES`, after rescaling; () for colours.
        is_blank: Whether all its pixels are equal.
        digest: Of its stored pixels.
        grid: What is wrong with the geometry of a NIfTI header, in words.
    """
    source: str
    place: int = 0
    reference: str = ''
    problem: str = ''
    detail: str = ''
    kind: str = ''
    series: str = ''
    study: str = ''
    patient: str = ''
    modality: str = ''
    description: str = ''
    uid: str = ''
    rows: int = 0
    columns: int = 0
    pixels: str = ''
    position: tuple[float, ...] = ()
    directions: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    between: float = math.nan
    thickness: float = math.nan
    location: float = math.nan
    number: float = math.nan
    tilt: float = math.nan
    rescale: tuple[float, ...] = ()
    patient_position: str = ''
    frame_of_reference: str = ''
    is_localizer: bool = False
    is_volume: bool = False
    phase: str = ''
    levels: tuple[float, ...] = ()
    is_blank: bool = False
    digest: bytes = b''
    grid: str = ''

    @property
    def name(self) -> str:
        """For people: the file, and the slice in it."""
        return f'{self.source}#{self.reference}' if self.reference else self.source


_LISTS = ('position', 'directions', 'spacing', 'rescale', 'levels')
_TYPES = {
    **dict.fromkeys(('place', 'rows', 'columns'), pa.int32()),
    **dict.fromkeys(('between', 'thickness', 'location', 'number', 'tilt'), pa.float64()),
    **dict.fromkeys(('is_localizer', 'is_volume', 'is_blank'), pa.bool_()),
    **dict.fromkeys(_LISTS, pa.list_(pa.float64())),
    'digest': pa.binary(),
}
SCHEMA = pa.schema([('row_id', pa.string()), ('shard', pa.int32()),
                    *((name, _TYPES.get(name, pa.string())) for name in Slice._fields)])


def slice_of(values: Mapping[str, Any]) -> Slice:
    """A slice from a line of a table."""
    return Slice._make(tuple(values[name]) if name in _LISTS else values[name] for name in Slice._fields)


def times(values: Sequence[float] | np.ndarray) -> str:
    """Numbers for people: '1.4 x 2.5'."""
    return ' x '.join(f'{value:.4g}' for value in values)


class SliceReader:
    """Reads slices; keeps the last file open, since its slices follow each other.

    Args:
        paths: The paths of the files, by their sources.
        rules: The limits on files.
    """

    def __init__(self, paths: Mapping[str, str], rules: FileRules) -> None:
        self._paths, self._rules = paths, rules
        self._source = ''
        self._file: DicomFile | NiftiFile | None = None
        self._volume = -1

    def read(self, source: str, place: int, reference: str) -> Slice:
        """Reads a slice: header and pixels.

        Args:
            source: The file.
            place: The number of its slice.
            reference: Its fragment.
        """
        result = Slice(source, place, reference)
        try:
            file = self._opened(source)
            if file is None:
                return result._replace(problem=OTHER, detail='it is neither DICOM nor NIfTI')
            if isinstance(file, NiftiFile):
                return self._nifti(result, file)
            result = _dicom(result, file, place)
            return result._replace(**_pixels(file, place))
        except FileError as error:
            problem = NO_IMAGE if error.kind == 'no-image' else DAMAGED
            return result._replace(problem=problem, detail=str(error))
        except (*IMAGE_ERRORS, RowError) as error:
            return result._replace(problem=DAMAGED, detail=str(error) or type(error).__name__)

    def _opened(self, source: str) -> Any:
        if source != self._source:
            self._file, self._volume = None, -1
            path = self._paths[source]
            kind = medical_format(path)
            if kind == DICOM:
                self._file = DicomFile(path, self._rules, force=True)
            elif kind == NIFTI:
                self._file = NiftiFile(path, self._rules)
            self._source = source
        return self._file

    def _nifti(self, result: Slice, file: NiftiFile) -> Slice:
        fragment = dict(part.split('=') for part in result.reference.split('&'))
        index, volume = int(fragment.get('index', 0)), int(fragment.get('volume', 0))
        if volume != self._volume:
            file.load(volume)
            self._volume = volume
        view = SliceOrientation.from_affine(file.affine, file.shape, PLANES[0])
        values = view.to_image(file.values(view, index, volume))
        corner, along, down = _nifti_axes(file.affine, view, index)
        spacing = tuple(float(np.linalg.norm(axis)) for axis in (down, along))
        return result._replace(
            kind=NIFTI, series=result.source, description=result.source, uid=f'{result.source}#{result.reference}',
            rows=values.shape[0], columns=values.shape[1], pixels=str(file.header.get_data_dtype()),
            position=_floats(corner), directions=_floats(np.concatenate([_unit(along), _unit(down)])),
            spacing=spacing, is_volume=True, phase=json.dumps({'volume': volume}) if file.num_volumes > 1 else '',
            grid=_grid_problem(file), **_statistics(values, values))  # yapf: disable


def _dicom(result: Slice, file: DicomFile, place: int) -> Slice:
    header = file.header
    check_mosaic(header)
    frame = Frame.of(file, place)
    with dicom_errors():
        item = file.functional_group('PixelValueTransformationSequence', place)
        measures = file.functional_group('PixelMeasuresSequence', place)
        rescale = [value for name in ('RescaleSlope', 'RescaleIntercept') for value in numbers(item, name)[:1]]
        kinds = [str(kind).upper() for kind in _listed(header.get('ImageType'))]
        modality = str(header.get('Modality') or '')
        spacing = frame.spacing if frame.spacing is not None else np.array(numbers(header, 'ImagerPixelSpacing')[:2])
        phase = {name: str(value) for name in _PHASE_NAMES if (value := frame.value(name)) not in (None, '')}
        is_volume = modality in ('CT', 'MR', 'PT') and not _is_capture(header)
        return result._replace(
            kind='DICOM', series=str(header.get('SeriesInstanceUID') or ''),
            study=str(header.get('StudyInstanceUID') or ''), patient=str(header.get('PatientID') or ''),
            modality=modality, description=str(header.get('SeriesDescription') or ''),
            uid=f'{header.get("SOPInstanceUID") or result.source}#{place}', rows=file.size[0], columns=file.size[1],
            pixels=', '.join([file.photometric, *(f'{name} {header.get(name)}' for name in (
                'BitsStored', 'PixelRepresentation'))]),
            position=_floats(frame.position), directions=_floats(frame.directions), spacing=_floats(spacing),
            between=_first(numbers(measures, 'SpacingBetweenSlices')),
            thickness=_first(numbers(measures, 'SliceThickness')),
            number=_first(numbers(header, 'InstanceNumber')) if file.num_frames == 1 else math.nan,
            location=_first(numbers(header, 'SliceLocation')) if file.num_frames == 1 else math.nan,
            tilt=_first(numbers(header, 'GantryDetectorTilt')), rescale=tuple(rescale) if len(rescale) == 2 else (),
            patient_position=(str(header.get('PatientPosition') or '')
                              if {'ORIGINAL', 'AXIAL'} <= set(kinds) and modality == 'CT' else ''),
            frame_of_reference=str(header.get('FrameOfReferenceUID') or ''),
            is_localizer=bool({'LOCALIZER', 'SCOUT'} & set(kinds)), is_volume=is_volume,
            phase=json.dumps(phase, sort_keys=True))  # yapf: disable


def _pixels(file: DicomFile, place: int) -> dict[str, Any]:
    pixels = file.pixels(place)
    return _statistics(pixels, pixels if file.colours else file.values(pixels, place))


def _is_capture(header: Any) -> bool:
    """Whether it is a copy of a screen, whose modality is that of the images it shows."""
    return str(header.get('SOPClassUID') or '').startswith('1.2.840.10008.5.1.4.1.1.7')


def _statistics(stored: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    digest = hashlib.blake2b(np.ascontiguousarray(stored).tobytes(), digest_size=16).digest()
    is_blank = bool((stored == stored[:1, :1]).all())
    if values.ndim > 2:
        return {'levels': (), 'digest': digest, 'is_blank': is_blank}
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise FileError('none of its values is a number', 'Repair or remove the file.', 'medical-file')
    return {'levels': _floats(np.quantile(finite, SHARES, method='nearest')), 'digest': digest, 'is_blank': is_blank}


def _nifti_axes(affine: np.ndarray, view: SliceOrientation, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The centre of the first pixel, the step to the next column and to the next row, in LPS millimetres."""
    voxel = np.ones(4)
    voxel[view.axis] = view.array_index(index)
    steps = []
    for axis, is_flipped in ((view.columns, view.columns_flipped), (view.rows, view.rows_flipped)):
        voxel[axis] = view.shape[axis] - 1 if is_flipped else 0
        steps.append(affine[:3, axis] * (-1 if is_flipped else 1))
    return _TO_LPS * (affine @ voxel)[:3], _TO_LPS * steps[0], _TO_LPS * steps[1]


def _grid_problem(file: NiftiFile) -> str:
    """What contradicts itself in the geometry of a NIfTI header; '' if nothing does."""
    header = file.header
    if not file.is_oriented:
        return 'neither its sform nor its qform is set: left and right are unknown'
    if not np.isfinite(file.affine).all() or abs(np.linalg.det(file.affine[:3, :3])) < 1e-9:
        return 'its affine has no inverse'
    sizes = np.array(header['pixdim'][1:4], float)
    norms = np.linalg.norm(file.affine[:3, :3], axis=0)
    if np.any(np.abs(norms - sizes) > _RELATIVE * norms + 1e-3):
        return (f'its voxels measure {times(sizes)} mm by pixdim, but {times(norms)} mm by its '
                f'{"sform" if header["sform_code"] else "qform"}')
    axes = file.affine[:3, :3] / norms
    if np.abs(axes.T @ axes - np.eye(3)).max() > _RELATIVE:
        return 'the axes of its affine are not at right angles'
    if header['sform_code'] == header['qform_code'] and header['sform_code']:
        off = np.abs(header.get_sform() - header.get_qform()).max()
        if off > _RELATIVE * norms.max() + .1:
            return f'its sform and its qform, of one kind, differ by up to {off:.3g}'
    return ''


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def _floats(values: Any) -> tuple[float, ...]:
    return () if values is None else tuple(float(value) for value in values)


def _first(values: list[float]) -> float:
    return values[0] if values else math.nan


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if hasattr(value, 'append') else [value]
