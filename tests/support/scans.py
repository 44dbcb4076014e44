"""Small DICOM and NIfTI files of every sort for tests, made from those that pydicom ships, or from nothing."""
import nibabel
import numpy as np
import pydicom
from pathlib import Path
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from typing import Any

CT, MR = 'CT_small.dcm', 'MR_small.dcm'
ENHANCED_CT = '1.2.840.10008.5.1.4.1.1.2.1'
ULTRASOUND_MULTI_FRAME = '1.2.840.10008.5.1.4.1.1.3.1'


def shipped(name: str) -> str:
    """The path of a file that is a part of pydicom."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    return path


def dicom(path: Path, source: str = CT, pixels: np.ndarray | None = None, **tags: Any) -> str:
    """A shipped file with other tags (None: without the tag), and other pixels of its type."""
    data = pydicom.dcmread(shipped(source))
    if pixels is not None:
        data.PixelData = np.ascontiguousarray(pixels).astype(data.pixel_array.dtype).tobytes()
        data.Rows, data.Columns = pixels.shape[-2:]
        if pixels.ndim == 3:
            data.NumberOfFrames = len(pixels)
    for name, value in tags.items():
        if value is not None:
            setattr(data, name, value)
        elif name in data:
            delattr(data, name)
    data.save_as(path)
    return str(path)


def item(**tags: Any) -> Dataset:
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def sequence(**tags: Any) -> Sequence:
    return Sequence([item(**tags)])


def enhanced_ct(path: Path, hounsfield: np.ndarray, windows: list[tuple[float, float]], slopes: list[float]) -> str:
    """An enhanced multi-frame CT whose frames have slopes, windows and positions of their own.

    Args:
        hounsfield: [n, h, w], multiples of the slopes.
    """
    data = pydicom.dcmread(shipped(CT))
    for name in ('RescaleSlope', 'RescaleIntercept', 'ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing',
                 'SliceThickness', 'WindowCenter', 'WindowWidth'):
        if name in data:
            delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID(ENHANCED_CT)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.NumberOfFrames, data.Rows, data.Columns = hounsfield.shape
    data.ImageType = ['ORIGINAL', 'PRIMARY', 'VOLUME', 'NONE']
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = (hounsfield / np.array(slopes)[:, None, None]).astype('<i2').tobytes()
    data.SharedFunctionalGroupsSequence = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=sequence(PixelSpacing=[.5, .75], SliceThickness=2))
    data.PerFrameFunctionalGroupsSequence = Sequence([
        item(
            PlanePositionSequence=sequence(ImagePositionPatient=[-10, -20, 3. * i]),
            PixelValueTransformationSequence=sequence(RescaleSlope=slope, RescaleIntercept=0, RescaleType='HU'),
            FrameVOILUTSequence=sequence(WindowCenter=window[0], WindowWidth=window[1]),
            FrameContentSequence=sequence(StackID='1', InStackPositionNumber=i + 1, DimensionIndexValues=[1, i + 1]))
        for i, (window, slope) in enumerate(zip(windows, slopes))
    ])
    data.save_as(path)
    return str(path)


def series(folder: Path,
           voxels: np.ndarray,
           directions: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
           first: tuple[float, float, float] = (-30, -40, 50),
           spacing: tuple[float, float] = (.5, .75),
           step: float = 2.5,
           **tags: Any) -> list[str]:
    """A CT series of single frames, whose file names say nothing of their order.

    Args:
        voxels: int16 [n, h, w] of stored values, in the order along the normal.
        directions: ImageOrientationPatient.
        first: ImagePositionPatient of the first frame.
        spacing: Distance of rows, and of columns.
        step: Distance of frames.

    Returns:
        The files in the order of `voxels`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(directions[:3], directions[3:])
    paths, uid, place = [], generate_uid(), np.random.default_rng(len(voxels)).permutation(len(voxels))
    for i, frame in enumerate(voxels):
        position = [round(float(value), 6) for value in np.array(first) + i * step * normal]
        paths.append(
            dicom(
                folder / f'IM{place[i]:04}',
                pixels=frame,
                **{
                    'SOPInstanceUID': generate_uid(),
                    'SeriesInstanceUID': uid,
                    'FrameOfReferenceUID': '1.2.3.4',
                    'InstanceNumber': int(place[i]) + 1,
                    'ImageOrientationPatient': [round(float(value), 6) for value in directions],
                    'ImagePositionPatient': position,
                    'PixelSpacing': list(spacing),
                    'SliceThickness': step,
                    **tags
                }))
    return paths


def every_orientation() -> list[np.ndarray]:
    """The 48 ways in which three axes can lie along those of the body, as float [3, 3] of unit columns."""
    from itertools import permutations, product
    return [
        np.eye(3)[list(order)] * np.array(signs) for order in permutations(range(3))
        for signs in product((1., -1.), repeat=3)
    ]


def rotation(degrees: float, axis: tuple[float, float, float] = (1, 2, 3)) -> np.ndarray:
    """A rotation float [3, 3]: Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(axes: np.ndarray, zooms: tuple[float, ...] = (.8, 1.2, 3.), degrees: float = 0.) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ axes @ np.diag(zooms)
    affine[:3, 3] = (12.5, -31., 7.25)
    return affine


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None, version: int = 1, **fields: Any) -> str:
    """A NIfTI file; `fields` are set in its header."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(values, np.eye(4) if affine is None else affine, dtype=values.dtype)
    if affine is not None:
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return str(path)


def read_nifti(path: str | Path) -> Any:
    """By nibabel, whose type of what it loads has no affine."""
    return nibabel.load(path)


def bare_meta(syntax: str = ExplicitVRLittleEndian) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    return meta
