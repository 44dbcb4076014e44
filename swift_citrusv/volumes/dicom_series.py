"""The frames of a DICOM series as one volume: found in a folder, put in order, and placed in the body."""
import math
import numpy as np
import os
from tqdm import tqdm
from typing import Any, NamedTuple

from ..files.dicom import DicomFile, dicom_errors
from ..files.errors import FileError
from ..files.medical import DICOM, medical_format
from ..files.rules import FileRules
from ..files.slices import SliceOrientation
from ..files.windowing import AUTO, Window, apply_window

# From DICOM's patient coordinates (to the left, the back and the head) to RAS+.
_LPS_TO_RAS = np.diag([-1., -1., 1., 1.])
# How far slices of one distance may differ in it: a hundredth, and what the decimal strings of DICOM round.
_RELATIVE, _MILLIMETRES = .01, 2e-3


class Frame(NamedTuple):
    """A frame of the series, and where it lies: position, directions of a row and a column [6], sizes of a pixel."""
    file: DicomFile
    number: int
    position: np.ndarray | None
    directions: np.ndarray | None
    spacing: np.ndarray | None


class DicomSeries:
    """A series of single frames in a folder, or a file of one or more frames.

    Args:
        path: The folder (its subfolders are not searched), or the file.
        rules: What may be opened.
        series: The SeriesInstanceUID, where the folder holds several.

    Attributes:
        shape: (columns, rows, slices) of the array, which has a frame as [column, row].
        frames: In the order of the slices: of a folder along the normal of the frames (for axial ones from the feet to
            the head), or, where they have no position, by InstanceNumber; of one file in its own order.
        affine: float [4, 4], from indices to RAS+ millimetres; None where the frames do not say where they lie
            (`placed` is False), or do not lie side by side at one distance. Then `no_affine` says why.
        skipped: Files of the folder that are no images of the series.

    Raises:
        FileError: There is no image, there are several series, or images that cannot be stacked.
    """

    def __init__(self, path: str, rules: FileRules, series: str | None = None) -> None:
        self.skipped = 0
        files = self._in_folder(path, rules, series) if os.path.isdir(path) else [DicomFile(path, rules, force=True)]
        self.files = files
        rows, columns = files[0].size
        self.shape = (columns, rows, sum(file.num_frames for file in files))
        if math.prod(self.shape) > rules.max_voxels:
            raise FileError(f'it has {math.prod(self.shape)} voxels, more than max_volume_voxels={rules.max_voxels}',
                            'Cut it into parts, or raise max_volume_voxels.', 'too-many-pixels')
        self.frames = [_frame(file, number) for file in files for number in range(file.num_frames)]
        first = self.frames[0]
        for frame in self.frames:
            if frame.file.size != first.file.size or frame.file.colours != first.file.colours or not (_same(
                    frame.directions, first.directions) and _same(frame.spacing, first.spacing)):
                raise FileError('its images differ in size, orientation or spacing', 'Put those that belong together '
                                'into a folder of their own.', 'medical-file')
        if len(files) > 1:
            self._sort()
        self.affine, self.no_affine = self._placed()
        self._values: np.ndarray | None = None

    # ---- what it shows

    def view(self, plane: str | None) -> SliceOrientation:
        """The view of a plane; without one, the frames as they are stored."""
        if plane is None:
            return SliceOrientation(self.shape)
        if self.affine is None:
            raise FileError(f'it has no plane {plane!r}: {self.no_affine}', 'Leave the plane out, to take its images '
                            'as they are.', 'medical-file')
        return SliceOrientation.of(self.affine, self.shape, plane)

    def image(self, view: SliceOrientation, index: int, window: str | Window | None, default: str | Window) -> np.ndarray:
        """A slice as it is shown: uint8 [h, w], or [h, w, 3] of colours.

        A frame has the window that it has as a file of its own; a slice across frames has that of the first of them, or
        percentiles of its own.
        """
        place = view.place(index)
        if view.axis == 2:
            file, number = self.frames[place][:2]
            return view.show(file.image(number, file.window(number, window, default)).swapaxes(0, 1))
        file, number = self.frames[0][:2]
        chosen = file.window(number, window, default)
        if file.colours or chosen == AUTO:
            raise FileError(
                'a slice across its images cannot be shown: ' +
                ('they have colours' if file.colours else 'they are windowed by a table'),
                'Leave the plane out, or name a window.', 'medical-file')
        grey = apply_window(np.moveaxis(self._loaded(), view.axis, 0)[place], chosen)
        return view.show(255 - grey if file.photometric == 'MONOCHROME1' else grey)

    def _loaded(self) -> np.ndarray:
        if self._values is None:
            self._values = np.empty(self.shape, np.float32, order='F')
            for place, (file, number, *_) in enumerate(tqdm(self.frames, 'Reading frames', leave=False, delay=1)):
                self._values[:, :, place] = file.values(file.pixels(number), number).T
        return self._values

    # ---- which files, in which order

    def _in_folder(self, path: str, rules: FileRules, series: str | None) -> list[DicomFile]:
        found: dict[str, list[DicomFile]] = {}
        names = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        names = [name for name in names if os.path.isfile(name) and os.path.getsize(name)]
        for name in tqdm(names, 'Reading headers', unit=' files', leave=False, delay=1):
            if medical_format(name) != DICOM:
                self.skipped += 1
                continue
            try:
                file = DicomFile(name, rules, force=True)
            except FileError as e:
                # A report, a plan or the folder's index.
                if e.kind == 'no-image':
                    self.skipped += 1
                    continue
                raise FileError(f'{os.path.basename(name)}: {e}', e.remedy, e.kind) from e
            found.setdefault(str(file.header.get('SeriesInstanceUID')), []).append(file)
        if not found:
            raise FileError('the folder holds no DICOM image (its subfolders are not searched)', 'Name the folder that '
                            'holds the images themselves.', 'medical-file')
        if series is None and len(found) > 1 or series is not None and series not in found:
            listed = '; '.join(f'{uid} ({len(files)} images, {files[0].header.get("SeriesDescription", "no name")})'
                               for uid, files in sorted(found.items()))
            raise FileError(f'the folder holds {len(found)} series: {listed}', 'Name one of them (series=..., or '
                            '--series on the command line).', 'medical-file')
        files = found[series] if series is not None else next(iter(found.values()))
        self.skipped += sum(map(len, found.values())) - len(files)
        if len(files) > 1 and any(file.num_frames > 1 for file in files):
            raise FileError('the series has several files of several frames', 'Name one file.', 'medical-file')
        return files

    def _sort(self) -> None:
        positions = [frame.position for frame in self.frames]
        if all(position is not None for position in positions) and self.frames[0].directions is not None:
            directions = self.frames[0].directions
            normal = np.cross(directions[:3], directions[3:])
            self.frames.sort(key=lambda frame: float(frame.position @ normal))
            heights = [float(frame.position @ normal) for frame in self.frames]
            same = [i for i in range(1, len(heights)) if heights[i] - heights[i - 1] < _MILLIMETRES]
            if same:
                raise FileError(
                    f'{len(same)} of its {len(heights)} images lie where another lies (at '
                    f'{heights[same[0]]:g} mm): phases, or copies', 'Put those of one phase into a folder '
                    'of their own.', 'medical-file')
        elif all(position is None for position in positions):
            with dicom_errors():
                self.frames.sort(key=lambda frame: int(frame.file.header.get('InstanceNumber') or 0))
        else:
            raise FileError('some of its images have a position, and some have none', 'Put those that belong together '
                            'into a folder of their own.', 'medical-file')
        self.files = [frame.file for frame in self.frames]

    def _placed(self) -> tuple[np.ndarray | None, str]:
        first = self.frames[0]
        directions, spacing = first.directions, first.spacing
        positions = np.array([frame.position for frame in self.frames if frame.position is not None])
        self.placed = directions is not None and spacing is not None and len(positions) == len(self.frames)
        if directions is None or spacing is None or not self.placed:
            return None, 'its images do not say where they lie (ImagePositionPatient, ImageOrientationPatient and ' \
                         'PixelSpacing)'
        if len(positions) > 1:
            step = (positions[-1] - positions[0]) / (len(positions) - 1)
            off = np.abs(np.diff(positions, axis=0) - step).max()
            if off > _RELATIVE * np.linalg.norm(step) + _MILLIMETRES:
                return None, f'the distances of its images differ by up to {off:g} mm'
            if np.linalg.norm(step) < _MILLIMETRES:
                return None, 'its images lie in one place'
        else:
            header = first.file.header
            with dicom_errors():
                thickness = float(header.get('SpacingBetweenSlices') or header.get('SliceThickness') or 1)
            step = np.cross(directions[:3], directions[3:]) * thickness
        affine = np.eye(4)
        # Along a row the column changes, by the distance of columns, which DICOM names second.
        affine[:3, 0] = directions[:3] * spacing[1]
        affine[:3, 1] = directions[3:] * spacing[0]
        affine[:3, 2], affine[:3, 3] = step, positions[0]
        return _LPS_TO_RAS @ affine, ''


def _frame(file: DicomFile, number: int) -> Frame:

    def numbers(sequence: str, name: str, count: int) -> np.ndarray | None:
        value: Any = file.item(sequence, number).get(name)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        array = np.array([float(part) for part in value])
        return array if np.isfinite(array).all() else None

    with dicom_errors():
        return Frame(file, number, numbers('PlanePositionSequence', 'ImagePositionPatient', 3),
                     numbers('PlaneOrientationSequence', 'ImageOrientationPatient', 6),
                     numbers('PixelMeasuresSequence', 'PixelSpacing', 2))


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3))
