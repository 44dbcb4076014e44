"""The slices of a DICOM or NIfTI file, by the fragments that name them."""
from ..errors import RowError
from ..files.dicom import dicom_errors
from ..files.errors import IMAGE_ERRORS
from ..files.medical import DICOM, NIFTI, medical_format
from ..files.nifti import NiftiFile
from ..files.rules import FileRules
from ..files.slices import PLANES, SliceOrientation


def slice_fragments(path: str, rules: FileRules) -> list[str]:
    """The fragments of the frames or axial slices of a file: 'frame=3', 'index=40&volume=1'.

    Args:
        path: The file.
        rules: The limits on files.

    Returns:
        `['']` for a file of one image, and for one whose slices cannot be counted: what is wrong shows when it is read.
    """
    try:
        kind = medical_format(path)
        if kind == DICOM:
            from pydicom import dcmread
            with dicom_errors():
                header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=['NumberOfFrames'])
                count = int(header.get('NumberOfFrames') or 1)
            return [f'frame={number}' for number in range(count)] if count > 1 else ['']
        if kind == NIFTI:
            file = NiftiFile(path, rules)
            depth = len(SliceOrientation.from_affine(file.affine, file.shape, PLANES[0]))
            volumes = [f'&volume={number}' for number in range(file.num_volumes)] if file.num_volumes > 1 else ['']
            return [f'index={index}{volume}' for volume in volumes for index in range(depth)] or ['']
    except (*IMAGE_ERRORS, RowError):
        pass
    return ['']
