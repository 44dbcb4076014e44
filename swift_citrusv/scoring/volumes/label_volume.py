"""Reads the label maps of a scan: NIfTI, DICOM segmentations, and folders with a binary file for each label."""
import json
import numpy as np
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...files.errors import FileError, import_medical
from ...files.medical import DICOM, NIFTI, medical_format
from ...files.other_formats import other_format
from ...files.rules import file_rules
from .grids import LPS_TO_RAS

_NIFTI_NAMES = ('.nii', '.nii.gz')
_SEG_CLASSES = ('1.2.840.10008.5.1.4.1.1.66.4', '1.2.840.10008.5.1.4.1.1.66.7')


@dataclass(frozen=True)
class Label:
    """A label of a map.

    Attributes:
        value: Its number.
        name: Its name; '' where none is known.
    """
    value: int
    name: str = ''


class LabelVolume:
    """A label map with its place.

    Args:
        shape: The number of voxels along each axis.
        affine: float [4, 4], from indices to RAS+ millimetres.
        masks: By label, a function that returns its mask, bool [i, j, k]. Empty labels are left out.
    """

    def __init__(self, shape: tuple[int, ...], affine: np.ndarray, masks: Mapping[Label, Callable[[],
                                                                                                  np.ndarray]]) -> None:
        self.shape, self.affine = tuple(shape), np.asarray(affine, np.float64)
        self._masks = dict(masks)

    @property
    def labels(self) -> list[Label]:
        return list(self._masks)

    @property
    def is_named(self) -> bool:
        """Whether all labels have names."""
        return all(label.name for label in self._masks)

    def mask(self, label: Label) -> np.ndarray:
        """bool [i, j, k]."""
        return self._masks[label]()


def read_label_volume(path: str, names: Mapping[int, str] | None = None) -> LabelVolume:
    """Reads a label map.

    Args:
        path: A NIfTI file of whole numbers (three axes; with a fourth, one channel for each label); a DICOM
            segmentation; or a folder of binary NIfTI files, named by their labels.
        names: The names of labels by number; else those of the JSON legend that `citrusv volume` writes beside a NIfTI
            file, or of the segments of a DICOM segmentation.

    Raises:
        FileError: The file is none of these, or has too many voxels.
    """
    if os.path.isdir(path):
        return _read_folder(path, names)
    kind = medical_format(path)
    if kind == NIFTI:
        return _read_nifti(path, names)
    if kind == DICOM:
        return _read_segmentation(path, names)
    raise other_format(path) or FileError('it is neither NIfTI nor DICOM', 'Name a label map in NIfTI, or a DICOM '
                                          'segmentation.', 'file-format')


def label_key(name: str) -> str:
    """A name for comparison: without case, with blanks for '_' and '-'."""
    return ' '.join(unicodedata.normalize('NFKC', name).casefold().replace('_', ' ').replace('-', ' ').split())


# ---- NIfTI


def _load_nifti(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The values, whole numbers [i, j, k] or [i, j, k, channel], and the affine."""
    nibabel = import_medical('nibabel')
    image = nibabel.load(path)
    most = file_rules().max_voxels
    if int(np.prod(image.shape)) > most:
        raise FileError(f'it has {int(np.prod(image.shape))} voxels, more than max_volume_voxels={most}',
                        'Raise max_volume_voxels only for trusted files.', 'too-many-pixels')
    values = np.asanyarray(image.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (3, 4) or values.dtype.kind not in 'iufb':
        raise FileError(f'it has the shape {list(image.shape)} and values of type {values.dtype}', 'Give a label map '
                        'with three axes, or four with a channel for each label.', 'medical-file')
    if values.dtype.kind == 'f':
        whole = np.rint(values)
        if not np.isfinite(values).all() or not np.array_equal(whole, values):
            raise FileError('its values are not labels: some are not whole numbers',
                            'Name a label map, not an image or '
                            'probabilities.', 'medical-file')
        values = whole.astype(np.int64)
    return values, image.affine


def _read_nifti(path: str, names: Mapping[int, str] | None) -> LabelVolume:
    values, affine = _load_nifti(path)
    names = _legend(path) if names is None else names
    if values.ndim == 4:
        channels = {number + 1: values[..., number] != 0 for number in range(values.shape[-1])}
        masks = {Label(number, names.get(number, '')): partial(np.asarray, mask)
                 for number, mask in channels.items() if mask.any()}  # yapf: disable
        return LabelVolume(values.shape[:3], affine, masks)
    found = [int(value) for value in np.unique(values) if value]
    if found and found[0] < 0:
        raise FileError(f'its values are not labels: {found[0]} is below 0', 'Name a label map, not an image.',
                        'medical-file')
    return LabelVolume(values.shape, affine,
                       {Label(value, names.get(value, '')): partial(np.equal, values, value)
                        for value in found})


def _legend(path: str) -> dict[int, str]:
    """The names in the legend of `citrusv volume` beside a NIfTI file; {} without one."""
    stem = path[:-len(next((end for end in sorted(_NIFTI_NAMES, key=len, reverse=True) if path.endswith(end)), ''))]
    try:
        with open(f'{stem}.json', encoding='utf-8') as file:
            entries = json.load(file)['labels']
        return {int(entry['value']): str(entry['name']) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read_folder(path: str, names: Mapping[int, str] | None) -> LabelVolume:
    files = sorted(file for file in Path(path).iterdir() if file.name.endswith(_NIFTI_NAMES))
    if not files:
        segmentations = sorted(file for file in Path(path).iterdir() if file.is_file()
                               and medical_format(str(file)) == DICOM)  # yapf: disable
        if len(segmentations) == 1:
            return _read_segmentation(str(segmentations[0]), names)
        raise FileError(
            'the folder has no NIfTI file' + (f' and {len(segmentations)} DICOM files' if segmentations else ''),
            'Name a folder with a binary NIfTI file for each label, or one DICOM segmentation.', 'medical-file')
    masks: dict[Label, Callable[[], np.ndarray]] = {}
    shape: tuple[int, ...] | None = None
    affine = np.eye(4)
    for number, file in enumerate(files, 1):
        values, own = _load_nifti(str(file))
        if shape is not None and (values.shape != shape or not np.allclose(own, affine, atol=1e-3)):
            raise FileError(f'{file.name} has another shape or affine than {files[0].name}',
                            'Put label maps of one scan '
                            'into a folder.', 'medical-file')
        shape, affine = values.shape, own
        if values.any():
            masks[Label(number, file.name.partition('.')[0])] = partial(_unpacked, np.packbits(values != 0), shape)
    assert shape is not None
    return LabelVolume(shape, affine, masks)


def _unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


# ---- DICOM


def _read_segmentation(path: str, names: Mapping[int, str] | None) -> LabelVolume:
    from pydicom import dcmread
    header = dcmread(path, stop_before_pixels=True, force=True)
    if str(header.get('SOPClassUID')) not in _SEG_CLASSES:
        from ...files.dicom_header import object_kind
        raise FileError(f'it is no DICOM segmentation: it {object_kind(header)}',
                        'Name a DICOM segmentation or a NIfTI '
                        'label map.', 'medical-file')
    segread = import_medical('highdicom.seg').segread
    try:
        segmentation = segread(path)
        volume: Any = segmentation.get_volume(combine_segments=False, allow_missing_positions=True)
    except Exception as e:  # highdicom raises many, by what it meets in a file.
        raise FileError(f'its segments are no volume: {type(e).__name__}', 'Save it as a NIfTI label map.',
                        'medical-file') from None
    # [slice, row, column, segment], numbered from the same corner as the affine.
    array = np.asarray(volume.array)
    masks: dict[Label, Callable[[], np.ndarray]] = {}
    for place, number in enumerate(segmentation.segment_numbers):
        mask = array[..., place] >= .5
        if mask.any():
            name = str(segmentation.get_segment_description(number).segment_label)
            name = name if names is None else names.get(int(number), '')
            masks[Label(int(number), name)] = partial(np.asarray, mask)
    return LabelVolume(array.shape[:3], LPS_TO_RAS @ np.asarray(volume.affine), masks)
