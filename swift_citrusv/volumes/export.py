"""Writes masks as NIfTI label maps and DICOM segmentations."""
import json
import numpy as np
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..files.errors import import_medical
from .seg_source import complete_sources, select_frames

NIFTI_SUFFIXES = ('.nii', '.nii.gz')
DICOM_SUFFIXES = ('.dcm', )
# NumPy's, for masks that no other file can hold.
ARCHIVE_SUFFIX = '.npz'
_MAKER, _MODEL = 'swift-citrusv', 'Citrus-V'
# Fields of the source's header that do not apply to its mask: descriptions, other files, value ranges.
_IMAGE_ONLY_FIELDS = ('descrip', 'aux_file', 'intent_name', 'intent_p1', 'intent_p2', 'intent_p3', 'db_name',
                      'data_type', 'cal_min', 'cal_max', 'glmin', 'glmax')
# Limits of DICOM's LO: length, and characters that are not allowed.
_LABEL_LENGTH = 64
_INVALID_CHARACTERS = re.compile(r'[\\\x00-\x1f\x7f]')


def mask_suffix(path: str | os.PathLike) -> str:
    """The suffix of a mask file: '.nii', '.nii.gz' or '.dcm'.

    Raises:
        ValueError: The name has none of them.
    """
    name = os.fspath(path).lower()
    for suffix in sorted((*NIFTI_SUFFIXES, *DICOM_SUFFIXES), key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise ValueError(f'{os.fspath(path)!r} is not the name of a mask file. Give a name that ends in .nii.gz or .nii (a '
                     'label map), or in .dcm (a DICOM segmentation).')


def label_type(num_labels: int) -> type[np.unsignedinteger]:
    """The smallest dtype of a label map with this number of labels."""
    return np.uint8 if num_labels < 256 else np.uint16


def count_labels(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """The number of voxels of each value of a label map, background first: int64 [num_labels + 1]."""
    counts = np.zeros(num_labels + 1, np.int64)
    # Slice by slice: bincount converts to 64-bit integers, eight times the size of a uint8 volume.
    for part in labels.T:
        counts += np.bincount(part.reshape(-1), minlength=num_labels + 1)
    return counts


def write_nifti(path: str | os.PathLike, labels: np.ndarray, affine: np.ndarray | None, like: Any = None) -> None:
    """Writes a label map.

    Args:
        path: Ends in .nii or .nii.gz.
        labels: Unsigned integers [i, j, k] (0 is background), or [i, j].
        affine: float [4, 4], from indices to RAS+ millimetres. None: unknown; the label map is then oriented like an
            axial slice, with pixels of a millimetre.
        like: The nibabel header of the source volume. If given, position and orientation are copied from it, and
            `affine` is not used.
    """
    nibabel = import_medical('nibabel')
    if like is None:
        code = 'aligned' if affine is None else 'scanner'
        # Columns run to the patient's left, rows to the back.
        affine = np.diag([-1., -1., 1., 1.]) if affine is None else affine
        image = nibabel.Nifti1Image(labels, affine)
        image.set_sform(affine, code=code)
        # A sheared affine (a tilted gantry) has no qform.
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
            image.set_qform(affine, code=code)
        image.header.set_xyzt_units('mm')
    else:
        header = like.copy()
        for name in set(_IMAGE_ONLY_FIELDS) & set(header.keys()):
            header[name] = np.zeros_like(header[name])
        header['vox_offset'] = 0
        header.set_data_shape(labels.shape)
        header.set_slope_inter(1, 0)
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        image = kind(labels, None, header)
    image.set_data_dtype(labels.dtype)
    image.header.set_intent('label')
    image.header['descrip'] = f'{_MAKER} {__version__}'.encode()
    with _replacing(path) as temporary:
        nibabel.save(image, temporary)


def write_dicom_seg(path: str | os.PathLike | IO[bytes],
                    masks: np.ndarray,
                    names: Sequence[str],
                    sources: Sequence[Any],
                    uid_prefix: str | None = None,
                    *,
                    frames: Sequence[int] | None = None,
                    slice_distance: float | None = None) -> list[str]:
    """Writes a DICOM segmentation (BINARY, algorithm type AUTOMATIC) that refers to its source images.

    Frames without a mask are omitted, as usual in DICOM. What the headers of the source lack is completed
    (`seg_source`).

    Args:
        path: Ends in .dcm; or a binary file.
        masks: A label map, unsigned integers [n, h, w] with 0 for background and i + 1 for `names[i]`; or, for
            structures that overlap, uint8 {0, 1} [n, h, w, len(names)].
        names: The labels of the segments, truncated to 64 characters.
        sources: The pydicom datasets of the n source images, or the one with n frames; pixels are not needed.
        uid_prefix: The root of the new UIDs; pydicom's by default.
        frames: Which frames of the one file `masks` belongs to, counted from 0; by default all.
        slice_distance: Millimetres between slices, for sources without SliceThickness.

    Returns:
        A sentence for each kind of completion.

    Raises:
        ValueError: The source does not support a segmentation.
    """
    hd, seg = import_medical('highdicom'), import_medical('highdicom.seg')
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid
    algorithm = hd.AlgorithmIdentificationSequence(_MODEL, codes.DCM.ArtificialIntelligence, __version__, source=_MAKER)
    # The SNOMED code of a phrase is unknown.
    structure = codes.SCT.AnatomicalStructure
    segments = [
        seg.SegmentDescription(number, label, structure, structure, seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm)
        for number, label in enumerate(segment_labels(names), 1)
    ]
    try:
        completed, notes = complete_sources(sources, slice_distance)
        if frames is not None:
            select_frames(completed[0], frames)
        segmentation = seg.Segmentation(
            source_images=completed,
            pixel_array=masks,
            segmentation_type=seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=generate_uid(uid_prefix),
            series_number=1000,
            sop_instance_uid=generate_uid(uid_prefix),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MODEL,
            software_versions=__version__,
            device_serial_number='0',
            series_description=f'{_MODEL} masks',
            content_label='MASKS',
            # UTF-8: a phrase may be Chinese, whatever the character set of the source.
            specific_character_set='ISO_IR 192')
        if frames is not None:
            _refer_to_frames(segmentation, frames)
        content = BytesIO()
        segmentation.save_as(content)
    except Exception as e:  # highdicom and pydicom raise many, by what they meet in a header.
        raise ValueError('The source does not support a DICOM segmentation: '
                         f'{_without_values(e)}. Write a .nii.gz instead.') from None
    if hasattr(path, 'write'):
        path.write(content.getvalue())
    else:
        with _replacing(path) as temporary:
            Path(temporary).write_bytes(content.getvalue())
    return notes


def _refer_to_frames(segmentation: Any, frames: Sequence[int]) -> None:
    """Turns references to the selected frames into references to the frames of the file."""
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get('DerivationImageSequence') or ():
            for source in derivation.get('SourceImageSequence') or ():
                source.ReferencedFrameNumber = frames[int(source.ReferencedFrameNumber) - 1] + 1


def _without_values(error: Exception) -> str:
    """What highdicom says, without values of the header, which may be the patient's."""
    text = ' '.join(str(error).split()).rstrip('.')
    return re.sub(r"'[^']*'", lambda match: match[0] if match[0][1:-1].isalpha() else "'...'", text)[:300]


def write_masks(path: str | os.PathLike, masks: Mapping[str, np.ndarray]) -> None:
    """Writes masks as a NumPy archive, an array uint8 {0, 1} [i, j, k] for each label: `mask_1`, ... and `labels`."""
    arrays = {f'mask_{number}': mask for number, mask in enumerate(masks.values(), 1)}
    with _replacing(path) as temporary:
        np.savez_compressed(temporary, labels=np.array(list(masks)), **arrays)  # type: ignore[arg-type]


def write_legend(path: str | os.PathLike, legend: Mapping[str, Any]) -> Path:
    """Writes the JSON legend of a mask file next to it, with the same name. Returns its path."""
    path = Path(path)
    suffix = ARCHIVE_SUFFIX if path.name.endswith(ARCHIVE_SUFFIX) else mask_suffix(path)
    legend_path = path.with_name(path.name[:-len(suffix)] + '.json')
    legend_path.write_text(json.dumps(legend, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')
    return legend_path


def segment_labels(names: Sequence[str]) -> list[str]:
    """Converts names to segment labels that DICOM allows: at most 64 characters, all different."""
    labels: list[str] = []
    for name in names:
        label = base = _INVALID_CHARACTERS.sub(' ', name).strip()[:_LABEL_LENGTH].strip() or 'mask'
        number = 2
        while label in labels:
            ending = f' ({number})'
            label = base[:_LABEL_LENGTH - len(ending)] + ending
            number += 1
        labels.append(label)
    return labels


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[str]:
    """A temporary file name that replaces `path` when the file is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same suffix, which determines nibabel's format.
    temporary = path.with_name(f'.part-{os.getpid()}-{path.name}')
    try:
        yield str(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
