"""The frames of a DICOM series as one volume: finds, sorts and locates them."""
import math
import numpy as np
import os
from tqdm import tqdm

from ..files.dicom import DicomFile, dicom_errors
from ..files.errors import FileError
from ..files.medical import DICOM, medical_format
from ..files.rules import FileRules
from ..files.slices import SliceOrientation
from ..files.windowing import AUTO, Window, apply_window
from .frames import (MILLIMETRES, Frame, check_mosaic, difference, missing_geometry, no_phases, num_stacks,
                     select_phase, sort_frames)

# From DICOM's patient coordinates (LPS+) to RAS+.
_LPS_TO_RAS = np.diag([-1., -1., 1., 1.])
# Relative tolerance of the distance between slices.
_RELATIVE = .01


class DicomSeries:
    """A series of single-frame files in a folder, or one file with one or more frames.

    Args:
        path: The folder (without its subfolders), or the file.
        rules: The limits on files.
        series: The SeriesInstanceUID, if the folder contains several series.
        phase: Which image of each position, counted from 0, if every position has several (phases, echoes, b-values).

    Attributes:
        shape: (columns, rows, slices) of the array; a frame is [column, row].
        files: The files of the series, in the order of the slices.
        frames: The frames in the order of the slices. Those of a folder are sorted along their normal (axial ones from
            the feet to the head), or, without positions, by InstanceNumber; those of one file keep their order.
        selected: The frames' places among all frames of the one file; None if these are all.
        affine: float [4, 4], from indices to RAS+ millimetres; None if the frames have no positions, or are not
            equally spaced.
        no_affine: Why `affine` is None; else ''.
        placed: Whether all frames have a position, an orientation and a spacing.
        skipped: The number of files in the folder that are not images of the series.

    Raises:
        FileError: There is no image, there are several series, or the images cannot be stacked.
    """

    def __init__(self, path: str, rules: FileRules, series: str | None = None, phase: int | None = None) -> None:
        self.skipped = 0
        files = self._in_folder(path, rules, series) if os.path.isdir(path) else [DicomFile(path, rules, force=True)]
        for file in files:
            check_mosaic(file.header)
        rows, columns = files[0].size
        self.shape = (columns, rows, sum(file.num_frames for file in files))
        if math.prod(self.shape) > rules.max_voxels:
            raise FileError(f'it has {math.prod(self.shape)} voxels, more than max_volume_voxels={rules.max_voxels}',
                            'Cut it into parts, or raise max_volume_voxels.', 'too-many-pixels')
        frames = [Frame.of(file, number) for file in files for number in range(file.num_frames)]
        differing = next(filter(None, (difference(frame, frames[0]) for frame in frames)), None)
        if len(files) > 1 and differing:
            raise FileError(f'its images differ in {differing}', 'Put images that belong together into a separate '
                            'folder.', 'medical-file')
        if not differing:
            frames = select_phase(sort_frames(frames) if len(files) > 1 else frames, phase)
        elif phase is not None:
            raise no_phases(phase)
        self.frames = frames
        self.shape = (columns, rows, len(frames))
        self.files = [frame.file for frame in frames] if len(files) > 1 else files
        self.selected = None
        if len(files) == 1 and len(frames) < files[0].num_frames:
            self.selected = [frame.number for frame in frames]
        if not differing:
            self.affine, self.no_affine = self._compute_affine()
        else:
            self.placed = all(frame.position is not None for frame in frames)
            self.affine = None
            self.no_affine = f'its frames are {num_stacks(frames)} stacks, which differ in {differing}'
        self._values: np.ndarray | None = None

    @property
    def slice_distance(self) -> float | None:
        """The millimetres from slice to slice; None if they differ or are unknown."""
        return None if self.affine is None else float(np.linalg.norm(self.affine[:3, 2]))

    def view(self, plane: str | None) -> SliceOrientation:
        """The slices of a plane; for None, the stored frames."""
        if plane is None:
            return SliceOrientation(self.shape)
        if self.affine is None:
            raise FileError(f'it has no plane {plane!r}: {self.no_affine}',
                            'Remove the plane, to use its images as they '
                            'are stored.', 'medical-file')
        return SliceOrientation.from_affine(self.affine, self.shape, plane)

    def image(self, view: SliceOrientation, index: int, window: str | Window | None,
              default: str | Window) -> np.ndarray:
        """A slice as an 8-bit image: uint8 [h, w], or [h, w, 3] for colours.

        A frame is windowed like a single DICOM file; a slice across frames has the window of the first frame, or its
        own percentiles.
        """
        position = view.array_index(index)
        if view.axis == 2:
            file, number = self.frames[position][:2]
            return view.to_image(file.image(number, file.window(number, window, default)).swapaxes(0, 1))
        file, number = self.frames[0][:2]
        chosen = file.window(number, window, default)
        if file.colours or chosen == AUTO:
            raise FileError(
                'a slice across its images cannot be windowed: ' +
                ('they have colours' if file.colours else 'they have a VOI LUT'), 'Remove the plane, or set a window.',
                'medical-file')
        grey = apply_window(np.moveaxis(self._loaded(), view.axis, 0)[position], chosen)
        return view.to_image(255 - grey if file.photometric == 'MONOCHROME1' else grey)

    def _loaded(self) -> np.ndarray:
        if self._values is None:
            self._values = np.empty(self.shape, np.float32, order='F')
            for position, (file, number, *_) in enumerate(tqdm(self.frames, 'Reading frames', leave=False, delay=1)):
                self._values[:, :, position] = file.values(file.pixels(number), number).T
        return self._values

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
                # E.g. a report, a plan or a DICOMDIR.
                if e.kind == 'no-image':
                    self.skipped += 1
                    continue
                raise FileError(f'{os.path.basename(name)}: {e}', e.remedy, e.kind) from e
            found.setdefault(str(file.header.get('SeriesInstanceUID')), []).append(file)
        if not found:
            raise FileError('the folder contains no DICOM image (its subfolders are not searched)', 'Name the folder '
                            'that contains the images.', 'medical-file')
        if series is None and len(found) > 1 or series is not None and series not in found:
            listed = '; '.join(f'{uid} ({len(files)} images, {files[0].header.get("SeriesDescription", "no name")})'
                               for uid, files in sorted(found.items()))
            raise FileError(f'the folder contains {len(found)} series: {listed}', 'Select one of them (series=..., or '
                            '--series on the command line).', 'medical-file')
        files = found[series] if series is not None else next(iter(found.values()))
        self.skipped += sum(map(len, found.values())) - len(files)
        if len(files) > 1 and any(file.num_frames > 1 for file in files):
            raise FileError('the series has several multi-frame files', 'Name one of the files.', 'medical-file')
        return files

    def _compute_affine(self) -> tuple[np.ndarray | None, str]:
        first = self.frames[0]
        directions, spacing = first.directions, first.spacing
        positions = np.array([frame.position for frame in self.frames if frame.position is not None])
        self.placed = directions is not None and spacing is not None and len(positions) == len(self.frames)
        if directions is None or spacing is None or not self.placed:
            return None, f'its images lack {missing_geometry(self.frames)}'
        if len(positions) > 1:
            step = (positions[-1] - positions[0]) / (len(positions) - 1)
            off = np.abs(np.diff(positions, axis=0) - step).max()
            if off > _RELATIVE * np.linalg.norm(step) + MILLIMETRES:
                return None, f'the distances between its images differ by up to {off:.3g} mm'
            if np.linalg.norm(step) < MILLIMETRES:
                return None, 'all its images have the same position'
        else:
            header = first.file.header
            with dicom_errors():
                thickness = float(header.get('SpacingBetweenSlices') or header.get('SliceThickness') or 1)
            step = np.cross(directions[:3], directions[3:]) * thickness
        affine = np.eye(4)
        # Along a row the column index increases; PixelSpacing is (row spacing, column spacing).
        affine[:3, 0] = directions[:3] * spacing[1]
        affine[:3, 1] = directions[3:] * spacing[0]
        affine[:3, 2], affine[:3, 3] = step, positions[0]
        return _LPS_TO_RAS @ affine, ''
