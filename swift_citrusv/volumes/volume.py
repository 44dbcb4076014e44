"""A volume slice by slice: its images on the way in, their masks on the way out.

    volume = Volume('scan.nii.gz', plane='coronal')
    for index, image in volume:
        volume.put(index, segment(image), 'liver')
    volume.save('liver.nii.gz')

A mask goes back to the voxels that its pixels came from, so that what is saved has the shape, the order of axes and the
affine of the source.
"""
import numpy as np
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from PIL import Image
from typing import Any

from ..files.errors import FileError
from ..files.medical import NIFTI, check_slice_size, select_index, medical_format
from ..files.nifti import NiftiFile
from ..files.rules import FileRules, file_rules
from ..files.slices import PLANES, SliceOrientation
from ..files.windowing import WINDOW_FORMS, Window, rgb_image, parse_window
from .dicom_series import DicomSeries
from .export import NIFTI_SUFFIXES, count_labels, label_type, mask_suffix, write_dicom_seg, write_legend, write_nifti


class Volume:
    """A NIfTI file, a folder with a DICOM series, or one DICOM file of one or more frames.

    All voxels of a NIfTI file are read at once, and stay in memory as they are stored; masks take a bit for each voxel
    of their slices.

    Args:
        path: The file or folder.
        plane: 'axial', 'coronal' or 'sagittal' (see `planes`). Default: axial for NIfTI, for DICOM the images as they
            are stored.
        window: As `windows.WINDOW_FORMS`; by default the setting `image_window`.
        volume: Which volume of several (NIfTI), counted from 0.
        series: The SeriesInstanceUID, where a folder holds several series.
        rules: What may be opened; by default the rules of this run.

    Attributes:
        path, plane: As given.
        size: (height, width) of a slice.
        labels: The labels that have masks, in the order in which they came.

    Raises:
        ValueError: The volume, or what is asked of it, cannot be had.
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
        with self._told():
            self._window = None if window is None else _parsed(window)
            self._source: NiftiFile | DicomSeries
            if os.path.isdir(self.path) or medical_format(self.path) != NIFTI:
                if volume is not None:
                    raise FileError(f'it is no NIfTI file, and has no volume {volume}', 'Leave the volume out.',
                                    'image-fragment')
                self._source = DicomSeries(self.path, self._rules, series)
                self._view = self._source.view(plane)
            else:
                self._source = NiftiFile(self.path, self._rules)
                plane = plane or PLANES[0]
                self._view = SliceOrientation.of(self._source.affine, self._source.shape, plane)
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
        """Those that have masks."""
        return tuple(self._masks)

    def __len__(self) -> int:
        """The number of slices."""
        return len(self._view)

    def __iter__(self) -> Iterator[tuple[int, Image.Image]]:
        for index in range(len(self)):
            yield index, self.image(index)

    def image(self, index: int) -> Image.Image:
        """A slice, as a row that names it has it: RGB.

        Raises:
            IndexError: There is no such slice.
            ValueError: It cannot be decoded, or the window does not fit it.
        """
        self._check(index)
        with self._told():
            if isinstance(self._source, NiftiFile):
                window = self._window or self._rules.default_window
                return rgb_image(self._source.image(self._view, index, self._volume, window))
            return rgb_image(self._source.image(self._view, index, self._window, self._rules.default_window))

    # ---- masks

    def put(self, index: int, mask: np.ndarray, label: str = 'mask') -> None:
        """Adds a mask of a slice; with what is there of the same label it is united.

        Args:
            index: The slice.
            mask: uint8 or bool {0, 1} [h, w]. It may be empty.
            label: The structure.

        Raises:
            IndexError: There is no such slice.
            ValueError: The mask has another size or other values.
        """
        self._check(index)
        if mask.shape != self.size or mask.dtype not in (np.uint8, bool) or mask.size and mask.max() > 1:
            raise ValueError(f'A mask of slice {index} is {mask.dtype} {list(mask.shape)} with values up to '
                             f'{mask.max() if mask.size else 0}. Give uint8 {{0, 1}} of {list(self.size)}.')
        packed = np.packbits(mask.astype(bool))
        slices = self._masks.setdefault(label, {})
        slices[index] = slices[index] | packed if index in slices else packed

    def put_all(self, masks: np.ndarray, label: str = 'mask') -> None:
        """`put` for all slices: uint8 or bool {0, 1} [slices, h, w]."""
        if len(masks) != len(self):
            raise ValueError(f'{len(masks)} masks for {len(self)} slices: give one for each.')
        for index, mask in enumerate(masks):
            self.put(index, mask, label)

    def array(self, label: str) -> np.ndarray:
        """The masks of a label in the order of the source's own voxels, uint8 {0, 1} [i, j, k]."""
        array = np.zeros(self._view.shape, np.uint8, order='F')
        for target, mask in self._placed(array, label):
            target[...] = mask
        return array

    def label_map(self) -> np.ndarray:
        """All masks in one array of the source's own voxels [i, j, k]: 0, or the place of a label in `labels`, from 1.

        Where masks overlap, the later label wins.
        """
        labels = self.labels
        # The order in which NIfTI and DICOM write it.
        array = np.zeros(self._view.shape, label_type(len(labels)), order='F')
        for number, label in enumerate(labels, 1):
            for target, mask in self._placed(array, label):
                target[mask] = number
        return array

    def check_output(self, path: str | os.PathLike) -> bool:
        """Whether a file of that name is a DICOM segmentation.

        Raises:
            ValueError: The source cannot have such a file; said here, before a model is asked about every slice.
        """
        source, as_dicom = self._source, mask_suffix(path) not in NIFTI_SUFFIXES
        if as_dicom and isinstance(source, NiftiFile):
            raise ValueError(f'{self.path} is no DICOM file, to which a DICOM segmentation could refer. Give a name '
                             'that ends in .nii.gz.')
        if not as_dicom and isinstance(source, DicomSeries) and source.placed and source.affine is None:
            raise ValueError(f'{self.path} has no place in the body for a NIfTI file: {source.no_affine}. Give a name '
                             'that ends in .dcm.')
        return as_dicom

    def save(self, path: str | os.PathLike, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes the masks, and a JSON legend beside them.

        Args:
            path: .nii.gz or .nii: a label map with the affine, shape and orientation of the source (of a DICOM series,
                those that follow from its positions). .dcm: a DICOM segmentation of a DICOM source, whose segments may
                overlap.
            notes: What the legend shall say besides.

        Returns:
            The legend: {'labels': [{'value', 'name', 'voxels', 'hidden'}, ...], 'source', 'plane', ...}. 'hidden' are
            voxels that a later label has in a label map.

        Raises:
            ValueError: The source cannot have such a file.
        """
        as_dicom = self.check_output(path)
        labels = self.label_map()
        written = count_labels(labels, len(self._masks))
        legend: dict[str, Any] = {'labels': [], 'source': self.path, 'plane': self.plane, **(notes or {})}
        if isinstance(self._source, DicomSeries) and self._source.affine is None and not as_dicom:
            legend['place'] = f'unknown, millimetres too: {self._source.no_affine}'
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
        with self._told():
            if as_dicom:
                self._write_dicom(path, labels, overlaps)
            else:
                self._write_nifti(path, labels)
        write_legend(path, legend)
        return legend

    # ---- the parts of it

    def _write_nifti(self, path: str | os.PathLike, labels: np.ndarray) -> None:
        source = self._source
        if isinstance(source, NiftiFile):
            write_nifti(path, labels.reshape(source.stored_shape), source.affine, source.header)
        else:
            write_nifti(path, labels, source.affine)

    def _write_dicom(self, path: str | os.PathLike, labels: np.ndarray, overlaps: bool) -> None:
        assert isinstance(self._source, DicomSeries)
        # Where nothing was found, a segmentation without a voxel says so.
        names = self.labels or ('mask', )
        if overlaps:
            masks = np.stack([self.array(name).T for name in names], axis=-1)
        else:
            masks = labels.T
        write_dicom_seg(path, np.ascontiguousarray(masks), names, [file.header for file in self._source.files])

    def _placed(self, array: np.ndarray, label: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each mask of a label its slice in `array` (a view of it), and the mask as bool of the same shape."""
        if label not in self._masks:
            raise KeyError(f'There is no mask of the label {label!r}.')
        height, width = self.size
        slices = np.moveaxis(array, self._view.axis, 0)
        for index, packed in self._masks[label].items():
            mask = np.unpackbits(packed, count=height * width).reshape(height, width)
            yield slices[self._view.place(index)], self._view.back(mask).astype(bool)

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f'{self.path} has {len(self)} slices, counted from 0, and no slice {index}.')

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with a file, as an error that says all by itself."""
        try:
            yield
        except FileError as e:
            raise ValueError(f'{self.path}: {e}. {e.remedy.rstrip(".")}.') from e


def slices(path: str | os.PathLike, plane: str | None = None, window: str | None = None) -> Iterator[Image.Image]:
    """The slices of a volume in order, as RGB images; the arguments are those of `Volume`."""
    for _, image in Volume(path, plane, window):
        yield image


def _parsed(window: str) -> str | Window:
    try:
        return parse_window(window)
    except ValueError as e:
        raise FileError(str(e), WINDOW_FORMS, 'image-window') from None
