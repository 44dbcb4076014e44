"""The masks of one image as a file: in the place in the body that the image has."""
import numpy as np
import os
from collections.abc import Mapping
from typing import Any

from ..files.errors import FileError
from ..files.medical import NIFTI, SliceSelection, medical_format
from ..files.rules import file_rules
from .export import NIFTI_SUFFIXES, count_labels, label_type, mask_suffix, write_legend, write_nifti
from .volume import Volume


def save_masks(reference: str, masks: Mapping[str, np.ndarray], path: str | os.PathLike) -> dict[str, Any]:
    """Writes the masks of one image.

    Args:
        reference: The image as a row names it, e.g. 'scan.nii.gz#index=40': the masks take their place in the volume,
            whose other slices stay empty. A file that is neither DICOM nor NIfTI has no place in a body; its masks
            become a NIfTI file of one axial slice with pixels of a millimetre.
        masks: For each label uint8 or bool {0, 1} [h, w].
        path: As in `Volume.save`.

    Returns:
        The legend, as `Volume.save` gives it.

    Raises:
        ValueError: As in `Volume`.
    """
    rules = file_rules()
    name, fragment = rules.image_path(reference)
    kind = medical_format(name)
    if kind is None:
        return _save_plain(name, masks, path)
    try:
        selection = SliceSelection.parse(fragment, kind)
    except FileError as e:
        raise ValueError(f'{reference}: {e}. {e.remedy.rstrip(".")}.') from e
    volume = Volume(name, selection.plane, volume=selection.volume, rules=rules)
    index = selection.index if kind == NIFTI else selection.frame
    if index is None and len(volume) > 1:
        raise ValueError(f'{reference} has {len(volume)} slices: say which of them the masks are of.')
    for label, mask in masks.items():
        volume.put(index or 0, mask, label)
    return volume.save(path)


def _save_plain(name: str, masks: Mapping[str, np.ndarray], path: str | os.PathLike) -> dict[str, Any]:
    if mask_suffix(path) not in NIFTI_SUFFIXES:
        raise ValueError(f'{name} is no DICOM file, to which a DICOM segmentation could refer. Give a name that ends '
                         'in .nii.gz.')
    shape = next(iter(masks.values())).shape if masks else (1, 1)
    labels = np.zeros(shape, label_type(len(masks)))
    for number, mask in enumerate(masks.values(), 1):
        if mask.shape != shape or mask.dtype not in (np.uint8, bool) or mask.size and mask.max() > 1:
            raise ValueError(f'A mask is {mask.dtype} {list(mask.shape)}. Give uint8 {{0, 1}} of {list(shape)}.')
        labels[mask > 0] = number
    counts = count_labels(labels, len(masks))
    write_nifti(path, labels.T[..., None], None)
    entries = [{
        'value': number,
        'name': label,
        'voxels': int(mask.sum()),
        'hidden': int(mask.sum()) - int(counts[number])
    } for number, (label, mask) in enumerate(masks.items(), 1)]
    legend = {'labels': entries, 'source': name, 'plane': None}
    write_legend(path, legend)
    return legend
