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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from PIL import Image
from typing import Any

from ..files.errors import FileError
from ..files.medical import NIFTI, check_slice_size, medical_format, select_index
from ..files.nifti import NiftiFile
from ..files.rules import FileRules, file_rules
from ..files.slices import PLANES, SliceOrientation
from ..files.windowing import WINDOW_FORMS, Window, parse_window, rgb_image
from .dicom_series import DicomSeries
from .export import NIFTI_SUFFIXES, count_labels, label_type, mask_suffix, write_dicom_seg, write_legend, write_nifti


class Volume:
    """A NIfTI file, a folder with a DICOM series, or a DICOM file with one or more frames.

    A NIfTI file is read into memory as a whole, with its stored dtype. Masks take one bit for each voxel of their
    slices.

    Args:
        path: The file or folder.
        plane: 'axial', 'coronal' or 'sagittal' (see `files.slices`). Default: axial for NIfTI, the stored images for
            DICOM.
        window: One of `windowing.WINDOW_FORMS`; by default the setting `image_window`.
        volume: The volume of a NIfTI file with several, counted from 0.
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
            if os.path.isdir(self.path) or medical_format(self.path) != NIFTI:
                if volume is not None:
                    raise FileError(f'it is not a NIfTI file, so it has no volume {volume}', 'Remove the volume.',
                                    'image-fragment')
                self._source = DicomSeries(self.path, self._rules, series)
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

        Returns:
            Whether it is a DICOM segmentation.

        Raises:
            ValueError: The source does not support this kind of file.
        """
        source, as_dicom = self._source, mask_suffix(path) not in NIFTI_SUFFIXES
        if as_dicom and isinstance(source, NiftiFile):
            raise ValueError(f'{self.path} is not DICOM, so a DICOM segmentation cannot refer to it. Give a name that '
                             'ends in .nii.gz.')
        if not as_dicom and isinstance(source, DicomSeries) and source.placed and source.affine is None:
            raise ValueError(f'{self.path} has no affine for a NIfTI file: {source.no_affine}. Give a name that ends '
                             'in .dcm.')
        return as_dicom

    def save(self, path: str | os.PathLike, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes the masks, and a JSON legend beside them.

        Args:
            path: .nii.gz or .nii: a label map with the affine, shape and orientation of the source (for a DICOM
                series, from its positions). .dcm: a DICOM segmentation of a DICOM source; its segments may overlap.
            notes: Further entries of the legend.

        Returns:
            The legend: {'labels': [{'value', 'name', 'voxels', 'hidden'}, ...], 'source', 'plane', ...}. 'hidden' is
            the number of voxels that later labels overwrite in a label map.

        Raises:
            ValueError: The source does not support this kind of file.
        """
        as_dicom = self.check_output(path)
        labels = self.label_map()
        written = count_labels(labels, len(self._masks))
        legend: dict[str, Any] = {'labels': [], 'source': self.path, 'plane': self.plane, **(notes or {})}
        if isinstance(self._source, DicomSeries) and self._source.affine is None and not as_dicom:
            legend['place'] = f'unknown, including its size in millimetres: {self._source.no_affine}'
        overlaps = False
        for number, label in enumerate(self.labels, 1):
            voxels = sum(int(np.unpackbits(packed).sum()) for packed in self._masks[label].values())
            hidden = voxels - int(written[number])
            overlaps = overlaps or hidden > 0
            legend['labels'].append({
                'value': number,
                'name': label,
                'voxels': voxels,
                'hidden': 0 if as_dicom else hidden
            })
        with self._file_errors():
            if as_dicom:
                self._write_dicom(path, labels, overlaps)
            else:
                self._write_nifti(path, labels)
        write_legend(path, legend)
        return legend

    def _write_nifti(self, path: str | os.PathLike, labels: np.ndarray) -> None:
        source = self._source
        if isinstance(source, NiftiFile):
            write_nifti(path, labels.reshape(source.stored_shape), source.affine, source.header)
        else:
            write_nifti(path, labels, source.affine)

    def _write_dicom(self, path: str | os.PathLike, labels: np.ndarray, overlaps: bool) -> None:
        assert isinstance(self._source, DicomSeries)
        # Without masks, write one empty segment.
        names = self.labels or ('mask', )
        if overlaps:
            masks = np.stack([self.array(name).T for name in names], axis=-1)
        else:
            masks = labels.T
        write_dicom_seg(path, np.ascontiguousarray(masks), names, [file.header for file in self._source.files])

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
