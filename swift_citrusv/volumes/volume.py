"""Reads the slices of a volume as images, and collects and writes their masks.

    volume = Volume('scan.nii.gz', plane='coronal')
    for index, image in volume:
        volume.put(index, segment(image), 'liver')
    volume.save('liver.nii.gz')

Masks are mapped back to the voxels of the slice, so that the saved file has the shape, the order of axes and the affine
of the source.
"""
import numpy as np
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from PIL import Image
from typing import Any

from ..files.errors import FileError
from ..files.medical import DICOM, NIFTI, check_slice_size, medical_format, select_index
from ..files.nifti import NiftiFile
from ..files.other_formats import other_format
from ..files.rules import FileRules, file_rules
from ..files.slices import PLANES, SliceOrientation, shear_of
from ..files.windowing import WINDOW_FORMS, Window, parse_window, rgb_image
from .dicom_series import DicomSeries
from .export import (ARCHIVE_SUFFIX, NIFTI_SUFFIXES, count_labels, label_type, mask_suffix, write_dicom_seg,
                     write_legend, write_masks, write_nifti)
from .frames import Frame

# Degrees below which axes count as perpendicular: the rounding of DICOM's orientations and of float32 affines.
_SHEAR = .1


class Volume:
    """A NIfTI file, a folder with a DICOM series, or a DICOM file with one or more frames.

    A NIfTI file is read into memory as a whole, with its stored dtype. Masks take one bit for each voxel of their
    slices.

    Args:
        path: The file or folder.
        plane: 'axial', 'coronal' or 'sagittal' (see `files.slices`). Default: axial for NIfTI, the stored images for
            DICOM.
        window: One of `windowing.WINDOW_FORMS`; by default the setting `image_window`.
        volume: The volume of a NIfTI file with several, or the phase of a DICOM series with several images at each
            position, counted from 0.
        series: The SeriesInstanceUID, if a folder contains several series.
        rules: The limits on files; by default the rules of this run.

    Attributes:
        path, plane: The arguments.
        size: (height, width) of a slice.
        labels: The labels that have masks, in the order of their first mask.

    Raises:
        ValueError: The file cannot be read, or an argument does not fit it.
    """

    def __init__(self,
                 path: str | os.PathLike,
                 plane: str | None = None,
                 window: str | None = None,
                 *,
                 volume: int | None = None,
                 series: str | None = None,
                 rules: FileRules | None = None) -> None:
        self.path = os.fspath(path)
        self._rules = rules or file_rules()
        self._masks: dict[str, dict[int, np.ndarray]] = {}
        with self._file_errors():
            self._window = None if window is None else _parse(window)
            self._source: NiftiFile | DicomSeries
            kind = DICOM if os.path.isdir(self.path) else medical_format(self.path)
            other = other_format(self.path) if kind is None else None
            if other is not None:
                raise other
            if kind != NIFTI:
                self._source = DicomSeries(self.path, self._rules, series, volume)
                self._view = self._source.view(plane)
            else:
                self._source = NiftiFile(self.path, self._rules)
                plane = plane or PLANES[0]
                self._view = SliceOrientation.from_affine(self._source.affine, self._source.shape, plane)
                self._volume = select_index('volume', volume, self._source.num_volumes, NIFTI, 'volumes')
                self._source.load(self._volume)
            self.plane = plane
            check_slice_size(self._view.size, self._rules)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice."""
        return self._view.size

    @property
    def affine(self) -> np.ndarray | None:
        """float [4, 4], from indices of the source to RAS+ millimetres; None where it is unknown."""
        return self._source.affine

    @property
    def view(self) -> SliceOrientation:
        """The slices of the plane in the array of the source."""
        return self._view

    @property
    def has_colours(self) -> bool:
        """Whether the slices are colour images, which have no window."""
        return self._source.colours if isinstance(self._source, NiftiFile) else self._source.files[0].colours

    def frame(self, index: int) -> Frame:
        """The frame of a stored slice of a DICOM source."""
        assert isinstance(self._source, DicomSeries) and self.plane is None
        return self._source.frames[self._view.array_index(index)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that have masks."""
        return tuple(self._masks)

    def __len__(self) -> int:
        """The number of slices."""
        return len(self._view)

    def __iter__(self) -> Iterator[tuple[int, Image.Image]]:
        for index in range(len(self)):
            yield index, self.image(index)

    def image(self, index: int) -> Image.Image:
        """A slice as an RGB image, the same as in a row that names it.

        Raises:
            IndexError: The slice does not exist.
            ValueError: It cannot be decoded, or the window does not fit it.
        """
        self._check(index)
        with self._file_errors():
            if isinstance(self._source, NiftiFile):
                window = self._window or self._rules.default_window
                return rgb_image(self._source.image(self._view, index, self._volume, window))
            return rgb_image(self._source.image(self._view, index, self._window, self._rules.default_window))

    def put(self, index: int, mask: np.ndarray, label: str = 'mask') -> None:
        """Adds a mask of a slice; masks of the same slice and label are merged.

        Args:
            index: The slice.
            mask: uint8 or bool {0, 1} [h, w]. An empty mask is valid.
            label: The name of the structure.

        Raises:
            IndexError: The slice does not exist.
            ValueError: The mask has another size or other values.
        """
        self._check(index)
        if mask.shape != self.size or mask.dtype not in (np.uint8, bool) or mask.size and mask.max() > 1:
            raise ValueError(f'A mask of slice {index} is {mask.dtype} {list(mask.shape)} with values up to '
                             f'{mask.max() if mask.size else 0}. Give uint8 {{0, 1}} of {list(self.size)}.')
        packed = np.packbits(mask.astype(bool))
        slices = self._masks.setdefault(label, {})
        slices[index] = slices[index] | packed if index in slices else packed

    def array(self, label: str) -> np.ndarray:
        """The masks of a label as an array in the voxel order of the source, uint8 {0, 1} [i, j, k].

        Raises:
            KeyError: The label has no mask.
        """
        array = np.zeros(self._view.shape, np.uint8, order='F')
        for target, mask in self._slice_masks(array, label):
            target[...] = mask
        return array

    def label_map(self) -> np.ndarray:
        """All masks in one array in the voxel order of the source, unsigned [i, j, k]: 0, or the label's number from 1.

        Where masks overlap, the later label overwrites the earlier one.
        """
        labels = self.labels
        # The memory order of NIfTI and DICOM.
        array = np.zeros(self._view.shape, label_type(len(labels)), order='F')
        for number, label in enumerate(labels, 1):
            for target, mask in self._slice_masks(array, label):
                target[mask] = number
        return array

    def check_output(self, path: str | os.PathLike) -> bool:
        """Checks, before any inference, that `save` can write this file.

        A DICOM segmentation is made once, with a voxel in each slice.

        Returns:
            Whether it is a DICOM segmentation.

        Raises:
            ValueError: The source does not support this kind of file; the message names one that can be written.
        """
        source, as_dicom = self._source, mask_suffix(path) not in NIFTI_SUFFIXES
        if as_dicom and isinstance(source, NiftiFile):
            raise ValueError(f'{self.path} is not DICOM, so a DICOM segmentation cannot refer to it. Give a name that '
                             'ends in .nii.gz.')
        if as_dicom:
            problem = self._dicom_problem()
            if problem is not None:
                raise ValueError(f'{self.path}: {problem}')
        elif isinstance(source, DicomSeries) and source.placed and source.affine is None:
            # Slices have places that no affine describes: a NIfTI file would lose them.
            if self._dicom_problem() is None:
                raise ValueError(f'{self.path} has no affine for a NIfTI file: {source.no_affine}. Give a name that '
                                 'ends in .dcm.')
        return as_dicom

    def _dicom_problem(self) -> str | None:
        """Why no DICOM segmentation of the source can be written; None if it can."""
        columns, rows, slices = self._view.shape
        labels = np.zeros((slices, rows, columns), np.uint8)
        labels[:, rows // 2, columns // 2] = 1
        try:
            self._write_segmentation(BytesIO(), labels, ('mask', ))
        except ValueError as e:
            return str(e)
        return None

    def save(self, path: str | os.PathLike, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes the masks, and a JSON legend beside them.

        Args:
            path: .nii.gz or .nii: a label map with the affine, shape and orientation of the source (for a DICOM
                series, from its positions). .dcm: a DICOM segmentation of a DICOM source; its segments may overlap.
            notes: Further entries of the legend.

        Returns:
            The legend: {'labels': [{'value', 'name', 'voxels', 'hidden'}, ...], 'source', 'plane', 'file', ...}.
            'hidden' is the number of voxels that later labels overwrite in a label map. 'completed' lists what the
            headers of the source lacked, 'place' and 'sheared' what is special about its place. If no DICOM
            segmentation could be written, 'instead' has the reason, and 'file' is a label map, or for structures that
            overlap a NumPy archive (`export.write_masks`), beside `path`.

        Raises:
            ValueError: The source does not support this kind of file.
        """
        as_dicom = mask_suffix(path) not in NIFTI_SUFFIXES
        if not as_dicom or isinstance(self._source, NiftiFile):
            self.check_output(path)
        labels = self.label_map()
        written = count_labels(labels, len(self._masks))
        voxels = {name: sum(int(np.unpackbits(bits).sum()) for bits in self._masks[name].values())
                  for name in self.labels}  # yapf: disable
        hidden = {name: voxels[name] - int(written[number]) for number, name in enumerate(self.labels, 1)}
        legend: dict[str, Any] = {'labels': [], 'source': self.path, 'plane': self.plane, **(notes or {})}
        if as_dicom:
            path = self._write_dicom(path, labels, any(hidden.values()), legend)
        else:
            self._write_nifti(path, labels)
        is_map = os.fspath(path).endswith(NIFTI_SUFFIXES)
        if is_map:
            legend |= self._place_notes()
        legend['file'] = os.path.basename(path)
        legend['labels'] = [{
            'value': number,
            'name': name,
            'voxels': voxels[name],
            'hidden': hidden[name] if is_map else 0
        } for number, name in enumerate(self.labels, 1)]
        write_legend(path, legend)
        return legend

    def _place_notes(self) -> dict[str, str]:
        """What a reader of a label map must know of its place."""
        affine = self._source.affine
        if affine is None:
            assert isinstance(self._source, DicomSeries)
            return {'place': f'unknown, including its size in millimetres: {self._source.no_affine}'}
        degrees = shear_of(affine)
        if degrees <= _SHEAR:
            return {}
        return {
            'sheared':
            f'the axes of its voxels are {degrees:.1f} degrees off a right angle (such as a tilted gantry): '
            'only the sform holds this, so a viewer that reads the qform shows the masks at another place'
        }

    def _write_nifti(self, path: str | os.PathLike, labels: np.ndarray) -> None:
        source = self._source
        if isinstance(source, NiftiFile):
            write_nifti(path, labels.reshape(source.stored_shape), source.affine, source.header)
        else:
            write_nifti(path, labels, source.affine)

    def _write_dicom(self, path: str | os.PathLike, labels: np.ndarray, overlaps: bool,
                     legend: dict[str, Any]) -> str | os.PathLike:
        """Writes a DICOM segmentation; if that fails, the masks in another file. Returns the file."""
        # Without masks, write one empty segment.
        names = self.labels or ('mask', )
        masks = np.stack([self.array(name).T for name in names], axis=-1) if overlaps else labels.T
        try:
            completed = self._write_segmentation(path, np.ascontiguousarray(masks), names)
        except ValueError as e:
            legend['instead'] = str(e)
            stem = os.fspath(path)[:-len(mask_suffix(path))]
            if overlaps:
                write_masks(stem + ARCHIVE_SUFFIX, {name: self.array(name) for name in names})
                return stem + ARCHIVE_SUFFIX
            self._write_nifti(stem + NIFTI_SUFFIXES[1], labels)
            return stem + NIFTI_SUFFIXES[1]
        if completed:
            legend['completed'] = completed
        return path

    def _write_segmentation(self, path: Any, masks: np.ndarray, names: Sequence[str]) -> list[str]:
        source = self._source
        assert isinstance(source, DicomSeries)
        headers = [file.header for file in source.files]
        return write_dicom_seg(
            path, masks, names, headers, frames=source.selected, slice_distance=source.slice_distance)

    def _slice_masks(self, array: np.ndarray, label: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each mask of a label its slice as a view of `array`, and the mask as bool of the same shape."""
        if label not in self._masks:
            raise KeyError(f'There is no mask with the label {label!r}.')
        height, width = self.size
        slices = np.moveaxis(array, self._view.axis, 0)
        for index, packed in self._masks[label].items():
            mask = np.unpackbits(packed, count=height * width).reshape(height, width)
            yield slices[self._view.array_index(index)], self._view.from_image(mask).astype(bool)

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.path} has {len(self)} slices, counted from 0, and no slice {index}.')

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Converts a FileError to a ValueError that names the file and the remedy."""
        try:
            yield
        except FileError as e:
            raise ValueError(f'{self.path}: {e}. {e.remedy.rstrip(".")}.') from e


def _parse(window: str) -> str | Window:
    try:
        return parse_window(window)
    except ValueError as e:
        raise FileError(str(e), WINDOW_FORMS, 'image-window') from None
