"""DICOM and NIfTI among the images of rows: against pydicom, nibabel and formulas written out here."""
import base64
import gzip
import io
import json
import nibabel
import numpy as np
import os
import pickle
import pydicom
import pytest
import struct
import sys
import zlib
from functools import partial
from pathlib import Path
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, get_decoder
from support.rows import box_mask, rle, write_jsonl
from support.scans import (CT, MR, affine_of, bare_meta, dicom, enhanced_ct, every_orientation, item, nifti, read_nifti,
                           shipped)
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.errors import RowError
from swift_citrusv.files.errors import IMAGE_ERRORS, FileError
from swift_citrusv.files.images import open_image, open_label_map, to_rgb
from swift_citrusv.files.rules import FileRules, file_rules
from swift_citrusv.files.windowing import PRESETS, Window, apply_window, array_to_image
from swift_citrusv.settings import SettingError
from swift_citrusv.training.length_keys import row_key

RULES = FileRules()
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:pydicom')


def grey(reference: Any, rules: FileRules = RULES) -> np.ndarray:
    """A grey image as a row has it: uint8 [h, w]."""
    image = to_rgb(open_image(reference, rules))
    assert image.mode == 'RGB'
    pixels = np.array(image)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def colours(reference: Any) -> np.ndarray:
    return np.array(to_rgb(open_image(reference, RULES)))


def refused(reference: Any, rules: FileRules = RULES) -> FileError:
    """The error of opening and loading, which says what to do."""
    with pytest.raises(FileError) as error:
        to_rgb(open_image(reference, rules))
    assert error.value.remedy and 'Traceback' not in str(error.value)
    return error.value


def linear(values: np.ndarray, level: float, width: float) -> np.ndarray:
    """LINEAR_EXACT of the standard, value by value."""
    out = np.empty(values.shape, np.uint8)
    for place, value in np.ndenumerate(values.astype(float)):
        share = (value - (level - width / 2)) / width
        out[place] = round(255 * min(max(share, 0), 1))
    return out


def by_percentile(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values.astype(float), (.5, 99.5))
    return linear(values, (low + high) / 2, high - low)


def close(one: np.ndarray, other: np.ndarray, most: int = 0) -> bool:
    """Whether images are equal; where a value lies between two grey levels, either will do."""
    if one.shape != other.shape:
        return False
    off = np.abs(one.astype(int) - other.astype(int))
    return int(off.max()) <= max(most, 1) and (most > 0 or float((off > 0).mean()) < .02)


# ---- windows


@pytest.mark.parametrize('function', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize(('level', 'width'), [(40, 400), (0, 1.5), (-600, 1500), (10, 2)])
@pytest.mark.filterwarnings('ignore:overflow')
def test_windows_are_those_of_pydicom(function, level, width):
    values = np.random.default_rng(0).uniform(-1500, 1500, (30, 40))
    asked = item(
        PhotometricInterpretation='MONOCHROME2',
        BitsStored=8,
        PixelRepresentation=0,
        WindowCenter=level,
        WindowWidth=width,
        VOILUTFunction=function)
    assert close(Window(level, width, function).apply(values), np.rint(apply_windowing(values, asked)))


def test_presets_and_arrays():
    values = np.arange(-1400, 1400, 3, dtype=np.int16).reshape(-1, 2)[:400].reshape(20, 40)
    for name, (level, width) in PRESETS.items():
        expected = linear(values, level, width)
        assert close(np.array(array_to_image(values, name))[..., 1], expected)
        assert close(np.array(array_to_image(values.astype(np.float32), f' {level},{width} '))[..., 2], expected)
    assert close(np.array(array_to_image(values))[..., 0], by_percentile(values), 1)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert close(np.array(array_to_image(ramp))[..., 0], ramp)
    assert close(np.array(array_to_image(np.stack([ramp, ramp.T, ramp], axis=-1)))[..., 1], ramp.T)
    # What is no number is black, and does not count.
    values = np.array([[np.nan, np.inf, -np.inf, 0, 1, 2]] * 2)
    assert apply_window(values).tolist() == [[0, 255, 0, 0, 128, 255]] * 2
    assert Window(1, 2).apply(values).tolist() == [[0, 255, 0, 0, 128, 255]] * 2
    assert not apply_window(np.full((3, 3), 7.)).any() and not apply_window(np.full((3, 3), np.nan)).any()
    # One bright voxel among many: percentiles alone would show nothing.
    spot = np.zeros((50, 50))
    spot[3, 4] = 9
    assert np.argwhere(apply_window(spot)).tolist() == [[3, 4]]
    for array, window in ((values[0], None), (np.zeros((3, 3, 4)), None), (np.zeros((3, 3), bool), None), (np.zeros(
        (3, 3, 3)), None), (np.zeros((3, 3, 3)), 'auto'), (values, 'liver'), (values, '40'), (values, '40,-1'),
                          (values, '40,0'), (values, 'nan,4'), (np.zeros((0, 3)), None)):
        with pytest.raises(ValueError, match='[Gg]ive'):
            array_to_image(array, window)


# ---- DICOM


def test_window_of_the_file_or_another(tmp_path):
    """CT_small has no window; MR_small has one."""
    hounsfield = pydicom.dcmread(shipped(CT)).pixel_array.astype(float) - 1024
    assert close(grey(shipped(CT)), by_percentile(hounsfield), 1)
    assert close(grey(f'{shipped(CT)}#window=lung'), linear(hounsfield, -600, 1500))
    assert close(grey(f'{shipped(CT)}#window=40,400'), linear(hounsfield, 40, 400))
    assert close(grey(shipped(CT), FileRules(window='soft_tissue')), linear(hounsfield, 50, 400))
    # What a row says goes before what the run says, and the file before percentiles.
    path = dicom(tmp_path / 'ct.dcm', WindowCenter=[300, 40], WindowWidth=[1500, 400])
    own = np.rint((apply_windowing(hounsfield, pydicom.dcmread(path)) + 32768 + 1024) / 65535 * 255)
    assert close(grey(path), own, 1) and close(grey(path), Window(300, 1500, 'LINEAR').apply(hounsfield))
    assert close(grey(f'{path}#frame=0&window=auto', FileRules(window='bone')), grey(path))
    assert close(grey(f'{path}#window=percentile'), grey(shipped(CT)))
    for function in ('LINEAR_EXACT', 'SIGMOID'):
        path = dicom(tmp_path / 'f.dcm', WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
        assert close(grey(path), Window(40, 400, function).apply(hounsfield))


def test_mr_by_pydicom_in_every_compression():
    data = pydicom.dcmread(shipped(MR))
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    expected = np.rint((values + 32768) / 65535 * 255)
    for name in ('', '_RLE', '_bigendian', '_expb', '_implicit', '_jp2klossless', '_jpeg_ls_lossless', '_padded'):
        assert close(grey(shipped(f'MR_small{name}.dcm')), expected), name
    with open(shipped(MR), 'rb') as file:
        content = file.read()
    embedded = f'data:application/dicom;base64,{base64.b64encode(content).decode()}'
    for reference in (content, {
            'bytes': content
    }, {
            'path': shipped(MR)
    }, embedded, base64.b64encode(content).decode(), data, f'file://{shipped(MR)}', io.BytesIO(content)):
        assert close(grey(reference), expected)
    assert close(grey(f'{embedded}#window=600,1600'), linear(data.pixel_array, 600, 1600))


def test_monochrome1_is_inverted(tmp_path):
    for tags in ({}, {'WindowCenter': 40, 'WindowWidth': 400}):
        plain = dicom(tmp_path / 'a.dcm', **tags)
        inverted = dicom(tmp_path / 'b.dcm', PhotometricInterpretation='MONOCHROME1', **tags)
        assert close(grey(inverted), 255 - grey(plain)) and grey(plain).std() > 30


def test_tables_of_values_and_of_grey(tmp_path):
    """A modality LUT and a VOI LUT, by pydicom and by hand."""
    modality = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType='US', LUTData=list(range(4096, 0, -1)))
    voi = item(LUTDescriptor=[2000, 1950, 12], LUTData=[2 * i for i in range(2000)])
    for element in (modality, voi):
        element['LUTData'].VR = 'US'
    path = dicom(
        tmp_path / 'lut.dcm',
        RescaleSlope=None,
        RescaleIntercept=None,
        ModalityLUTSequence=[modality],
        VOILUTSequence=[voi],
        WindowCenter=3000,
        WindowWidth=10)
    stored = pydicom.dcmread(shipped(CT)).pixel_array.astype(int)
    expected = np.rint(np.clip(4096 - stored - 1950, 0, 1999) * 2 / 4095 * 255)
    assert close(grey(path), expected) and len(np.unique(expected)) > 50
    assert close(grey(f'{path}#window=3000,2000'), linear(4096 - stored, 3000, 2000))


def test_padding_does_not_count(tmp_path):
    stored = pydicom.dcmread(shipped(CT)).pixel_array.copy()
    inside = np.hypot(*(np.indices(stored.shape) - 63.5)) < 60
    padded = np.where(inside, stored, -2000)
    path = dicom(tmp_path / 'a.dcm', pixels=padded, PixelPaddingValue=-2000)
    low, high = np.percentile(stored[inside], (.5, 99.5))
    assert close(grey(path)[inside], linear(stored, (low + high) / 2, high - low)[inside], 1)
    assert not grey(path)[~inside].any()


def test_frames(tmp_path):
    hounsfield = np.random.default_rng(1).integers(-400, 400, (3, 20, 30)) * 4
    path = enhanced_ct(tmp_path / 'multi.dcm', hounsfield, [(0, 200), (100, 2000), (-300, 900)], [1, 2, 4])
    for i, (level, width) in enumerate([(0, 200), (100, 2000), (-300, 900)]):
        assert close(grey(f'{path}#frame={i}'), Window(level, width, 'LINEAR').apply(hounsfield[i])), i
        assert close(grey(f'{path}#window=bone&frame={i}'), linear(hounsfield[i], *PRESETS['bone'])), i
    error = refused(path)
    assert error.kind == 'image-fragment' and 'has 3 frames' in str(error) and 'from 0 to 2' in error.remedy
    assert 'frame=3 is none of them' in str(refused(f'{path}#frame=3'))
    # Groups of old and new, compressed frame by frame.
    path = shipped('examples_ybr_color.dcm')
    for i in (0, 17, 29):
        assert close(colours(f'{path}#frame={i}'), pydicom.pixels.pixel_array(path, index=i))


def test_colours():
    for name in ('examples_rgb_color.dcm', 'SC_ybr_full_422_uncompressed.dcm', 'SC_rgb_jpeg_dcmtk.dcm',
                 'SC_rgb_gdcm_KY.dcm', 'examples_jpeg2k.dcm', 'SC_rgb_small_odd_big_endian.dcm'):
        assert close(colours(shipped(name)), pydicom.pixels.pixel_array(shipped(name))), name
    # One picture in 8, 16 and 32 bits.
    for bits in ('16bit', '32bit'):
        assert close(colours(shipped(f'SC_rgb_rle_{bits}.dcm')), colours(shipped('SC_rgb_rle.dcm')), 1)
    data = pydicom.dcmread(shipped('examples_palette.dcm'))
    assert close(colours(data.filename), apply_color_lut(data.pixel_array, data) >> 8)
    error = refused(f'{shipped("examples_palette.dcm")}#window=40,400')
    assert error.kind == 'image-window' and 'colour image' in str(error)
    # What the run has set passes colours over.
    assert np.array(to_rgb(open_image(data.filename, FileRules(window='lung')))).any()


def test_every_file_of_pydicom():
    """None of them brings anything down; those that hold an image which can be decoded are images."""
    folder = Path(shipped(CT)).parent
    no_image: set[str] = set()
    no_decoder: set[str] = set()
    broken: set[str] = set()
    several: set[str] = set()
    for path in sorted(folder.glob('*.dcm')):
        try:
            image = to_rgb(open_image(str(path), RULES))
            assert image.size[0] > 2
        except FileError as e:
            kinds = {'no-image': no_image, 'image-fragment': several}
            kinds.get(e.kind, no_decoder if 'pip install python-gdcm' in e.remedy else broken).add(path.name)
    assert len(no_image) == 16 and 'rtstruct.dcm' in no_image
    assert several == {
        'SC_rgb_rle_16bit_2frame.dcm', 'SC_rgb_rle_2frame.dcm', 'SC_rgb_rle_32bit_2frame.dcm', 'examples_ybr_color.dcm',
        'rtdose.dcm', 'rtdose_expb.dcm', 'rtdose_rle.dcm'
    }
    # The first is a JPEG 2000 that is cut off, the second has a wrong frame, of 3,722,445,056 columns.
    assert broken == {
        'GDCMJ2K_TextGBR.dcm', 'JPEG2000-embedded-sequence-delimiter.dcm', 'MR_truncated.dcm', 'badVR.dcm'
    }
    if not get_decoder('1.2.840.10008.1.2.4.70').is_available:
        assert no_decoder == {'JPEG-lossy.dcm', 'JPGExtended.dcm', 'SC_rgb_jpeg.dcm', 'SC_rgb_jpeg_gdcm.dcm'}


def test_what_a_dicom_file_may_lack(tmp_path):
    for name in ('Rows', 'Columns', 'SamplesPerPixel', 'PhotometricInterpretation', 'BitsAllocated', 'PixelData',
                 'PixelRepresentation', 'BitsStored'):
        error = refused(dicom(tmp_path / 'a.dcm', **{name: None}))
        assert error.kind in ('medical-file', 'no-image'), name
    assert close(grey(dicom(tmp_path / 'a.dcm', RescaleSlope=None, Modality=None)), grey(shipped(CT)), 1)
    for tags in ({
            'WindowWidth': 0,
            'WindowCenter': 1
    }, {
            'WindowWidth': 5,
            'WindowCenter': 1,
            'VOILUTFunction': 'CUBE'
    }):
        error = refused(dicom(tmp_path / 'a.dcm', **tags))
        assert error.kind == 'image-window' and 'window=percentile' in error.remedy
    assert close(grey(dicom(tmp_path / 'a.dcm', WindowWidth='', WindowCenter='')), grey(shipped(CT)))
    assert refused(dicom(tmp_path / 'a.dcm', PhotometricInterpretation='CMYK')).kind == 'medical-file'
    assert refused(f'{shipped(MR)}#window=brain').kind == 'image-window'
    assert 'MR' in str(refused(shipped(MR), FileRules(window='brain')))
    # Without the preamble the name decides.
    content = Path(shipped(CT)).read_bytes()
    for name in ('bare.dcm', 'bare.DICOM'):
        (tmp_path / name).write_bytes(content[132:])
        assert close(grey(str(tmp_path / name)), grey(shipped(CT)))
    (tmp_path / 'IM0001').write_bytes(content)
    assert close(grey(str(tmp_path / 'IM0001')), grey(shipped(CT)))
    (tmp_path / 'bare.dcm').write_text('No DICOM file.')
    assert refused(str(tmp_path / 'bare.dcm')).kind in ('medical-file', 'no-image')


# ---- NIfTI


def brute_force(data: np.ndarray, affine: np.ndarray, plane: str) -> np.ndarray:
    """All slices of a plane [n, h, w], by nibabel's canonical orientation and the convention in words."""
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, affine)).get_fdata()
    if plane == 'axial':
        return np.stack([canonical[::-1, ::-1, k].T for k in range(canonical.shape[2])])
    if plane == 'coronal':
        return np.stack([canonical[::-1, j, ::-1].T for j in range(canonical.shape[1])])
    return np.stack([canonical[i, ::-1, ::-1].T for i in range(canonical.shape[0])])


@pytest.mark.parametrize('degrees', [0, 25])
def test_slices_of_every_orientation(degrees, tmp_path):
    rng = np.random.default_rng(0)
    for number, axes in enumerate(every_orientation()):
        data = rng.integers(-500, 500, (5, 6, 7)).astype(np.int16)
        affine = affine_of(axes, degrees=degrees)
        suffix = ('.nii', '.nii.gz')[number % 2]
        path = nifti(tmp_path / f'{number}{suffix}', data, affine, version=1 + number % 3 // 2)
        for plane in ('axial', 'coronal', 'sagittal'):
            expected = brute_force(data, affine, plane)
            for index in (0, 2, len(expected) - 1):
                shown = grey(f'{path}#plane={plane}&index={index}&window=0,1021')
                assert close(shown, linear(expected[index], 0, 1021)), (axes, plane, index)
            assert f'has {len(expected)} {plane} slices' in str(refused(f'{path}#plane={plane}&index={len(expected)}'))


def test_slices_lie_as_radiologists_look_at_them(tmp_path):
    """From the affine alone: a body that is bright on its right, in front, or towards its head."""
    places = np.stack(np.meshgrid(*map(np.arange, (8, 9, 10)), indexing='ij'), axis=-1)
    for number, axes in enumerate(every_orientation()[::5]):
        affine = affine_of(axes, degrees=15)
        world = places @ affine[:3, :3].T + affine[:3, 3]
        right, front, head = np.moveaxis(world - world.reshape(-1, 3).mean(axis=0), -1, 0)

        def halves(values: np.ndarray, plane: str) -> tuple[float, float]:
            """How much brighter the left half is than the right one, and the upper than the lower."""
            path = nifti(tmp_path / f'{number}.nii', values.astype(np.float32), affine)
            shown = grey(f'{path}#plane={plane}&index=4&window=0,20').astype(float)
            height, width = (side // 2 for side in shown.shape)
            return (shown[:, :width].mean() - shown[:, -width:].mean(), shown[:height].mean() - shown[-height:].mean())

        assert halves(right, 'axial')[0] > 25 and halves(front, 'axial')[1] > 25
        assert halves(right, 'coronal')[0] > 25 and halves(head, 'coronal')[1] > 25
        assert halves(front, 'sagittal')[0] > 25 and halves(head, 'sagittal')[1] > 25


def test_values_of_a_nifti_file(tmp_path):
    rng = np.random.default_rng(3)
    stored = rng.integers(0, 4000, (4, 5, 6)).astype(np.int16)
    scaled = nifti(tmp_path / 'scaled.nii', stored, affine_of(np.eye(3)))
    with open(scaled, 'r+b') as file:  # scl_slope and scl_inter
        file.seek(112)
        file.write(struct.pack('<2f', .5, -1000))
    expected = brute_force(stored * .5 - 1000, affine_of(np.eye(3)), 'axial')[2]
    assert close(grey(f'{scaled}#index=2&window=bone'), linear(expected, *PRESETS['bone']))
    assert close(grey(f'{scaled}#index=2'), by_percentile(expected), 1)
    own = nifti(tmp_path / 'own.nii', stored, affine_of(np.eye(3)), cal_min=1000, cal_max=3000)
    expected = brute_force(stored, affine_of(np.eye(3)), 'axial')
    assert close(grey(f'{own}#index=2'), linear(expected[2], 2000, 2000))
    assert close(grey(f'{own}#index=2&window=percentile'), by_percentile(expected[2]), 1)
    for dtype in (np.uint8, np.int32, np.float32, np.float64, np.uint16):
        path = nifti(tmp_path / 'a.nii.gz', (stored % 250).astype(dtype), affine_of(np.eye(3)))
        assert close(grey(f'{path}#index=3&window=100,200'), linear(expected[3] % 250, 100, 200))
    big_endian = nibabel.Nifti1Image(stored, affine_of(np.eye(3))).header.as_byteswapped('>')
    nibabel.save(nibabel.Nifti1Image(stored, affine_of(np.eye(3)), big_endian), tmp_path / 'big.nii')
    assert close(grey(f'{tmp_path / "big.nii"}#index=1&window=2000,4000'), linear(expected[1], 2000, 4000))
    picture = np.zeros((4, 5, 1), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    picture['R'], picture['B'] = rng.integers(0, 255, (2, 4, 5, 1))
    nibabel.save(nibabel.Nifti1Image(picture, np.diag([-1., -1., 1., 1.])), tmp_path / 'rgb.nii')
    assert close(colours(str(tmp_path / 'rgb.nii'))[..., 2], picture['B'][..., 0].T)
    assert refused(f'{tmp_path / "rgb.nii"}#window=40,400').kind == 'medical-file'


def test_axes_of_time_and_missing_axes(tmp_path):
    four = np.random.default_rng(2).integers(0, 900, (4, 5, 6, 3)).astype(np.int16)
    path = nifti(tmp_path / 'four.nii.gz', four)
    for volume in range(3):
        for plane in ('axial', 'coronal', 'sagittal'):
            shown = grey(f'{path}#plane={plane}&index=2&volume={volume}&window=450,907')
            assert close(shown, linear(brute_force(four[..., volume], np.eye(4), plane)[2], 450, 907))
    assert 'has 3 volumes' in str(refused(f'{path}#index=2'))
    flat = nifti(tmp_path / 'flat.nii', four[:, :, 0, 0])
    assert close(grey(f'{flat}#window=450,907'), linear(four[::-1, ::-1, 0, 0].T, 450, 907))
    assert grey(nifti(tmp_path / 'one.nii', four[:, :, :1, :1])).shape == (5, 4)
    assert refused(nifti(tmp_path / 'five.nii', np.zeros((3, 3, 3, 1, 2), np.int16))).kind == 'medical-file'


def test_broken_nifti_files(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = Path(nifti(tmp_path / 'a.nii', data)).read_bytes()

    def changed(place: int, new: bytes) -> str:
        (tmp_path / 'b.nii').write_bytes(content[:place] + new + content[place + len(new):])
        return f'{tmp_path / "b.nii"}#index=1'

    (tmp_path / 'short.nii').write_bytes(content[:-1])
    assert 'cut short' in str(refused(f'{tmp_path / "short.nii"}#index=1'))
    (tmp_path / 'short.nii.gz').write_bytes(gzip.compress(content)[:-30])
    assert refused(f'{tmp_path / "short.nii.gz"}#index=4').kind == 'medical-file'
    assert 'another file' in str(refused(changed(344, b'ni1\0')))
    assert 'lies in the body' in str(refused(changed(280, bytes(48))))
    assert 'lies in the body' in str(refused(changed(280, struct.pack('<f', float('nan')))))
    assert refused(changed(70, struct.pack('<h', 1792))).kind == 'medical-file'  # complex
    assert refused(changed(70, struct.pack('<h', 12345))).kind == 'medical-file'
    assert refused(changed(42, struct.pack('<h', 0))).kind == 'medical-file'
    assert refused(changed(42, struct.pack('<h', -3))).kind == 'medical-file'


# ---- bombs


def test_a_header_that_claims_too_much(tmp_path):
    small = FileRules(max_pixels=1000, max_voxels=5000)
    for kind, reference in (('too-many-pixels', shipped(CT)),
                            ('too-many-pixels', nifti(tmp_path / 'a.nii', np.zeros(
                                (18, 18, 18), np.int8))), ('too-many-pixels',
                                                           nifti(tmp_path / 'b.nii', np.zeros((60, 60, 1), np.int8)))):
        error = refused(reference, small)
        assert error.kind == kind and 'Cut' in error.remedy, reference
    # 30,000 cubed voxels in a few bytes, and data that begin far behind the end.
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int8), np.eye(4)).header
    header['dim'][1:4] = 30_000
    block = bytearray(header.binaryblock) + bytes(4)
    block[344:348] = b'n+1\0'
    (tmp_path / 'c.nii.gz').write_bytes(gzip.compress(bytes(block)))
    assert 'claims 27000000000000 voxels' in str(refused(f'{tmp_path / "c.nii.gz"}#index=1'))
    header['dim'][1:4], header['vox_offset'] = 4, 1e12
    block = bytearray(header.binaryblock) + bytes(4)
    block[344:348] = b'n+1\0'
    (tmp_path / 'd.nii.gz').write_bytes(gzip.compress(bytes(block)))
    assert refused(f'{tmp_path / "d.nii.gz"}#index=1').kind == 'too-many-pixels'


def test_only_the_slice_is_decompressed(tmp_path, monkeypatch):
    data = np.zeros((64, 64, 400), np.uint8)
    data[..., 3] = 200
    path = nifti(tmp_path / 'a.nii.gz', data)
    read: list[int] = []
    plain = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        content = plain(self, size)
        read.append(self.tell())
        return content

    monkeypatch.setattr(gzip.GzipFile, 'read', counted)
    assert (grey(f'{path}#index=3&window=100,200') == 255).all()
    assert max(read) == 352 + 4 * 64 * 64


def test_a_frame_that_is_larger_than_its_header_says(tmp_path):
    """Decoders would make room for 20,000 x 20,000 pixels."""
    for syntax, name, size_at in (('1.2.840.10008.1.2.4.80', 'MR_small_jpeg_ls_lossless.dcm', b'\xff\xf7'),
                                  ('1.2.840.10008.1.2.4.90', 'MR_small_jp2klossless.dcm', b'\xff\x51')):
        data = pydicom.dcmread(shipped(name))
        code = bytearray(pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1))
        place = code.index(size_at)
        if size_at == b'\xff\xf7':
            code[place + 5:place + 9] = struct.pack('>2H', 20_000, 20_000)
        else:
            code[place + 6:place + 14] = struct.pack('>2I', 20_000, 20_000)
        data.PixelData = encapsulate([bytes(code)])
        data['PixelData'].VR = 'OB'
        data.save_as(tmp_path / 'a.dcm')
        assert '[20000, 20000] where it is compressed' in str(refused(str(tmp_path / 'a.dcm')))


def test_a_frame_that_is_cut_short(tmp_path):
    data = pydicom.dcmread(shipped('MR_small_jpeg_ls_lossless.dcm'))
    code = pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([code[:4000]])
    data['PixelData'].VR = 'OB'
    data.save_as(tmp_path / 'a.dcm')
    assert 'frame 0 is cut short' in str(refused(str(tmp_path / 'a.dcm')))


def test_a_deflated_bomb(tmp_path):
    path = shipped('image_dfl.dcm')
    assert colours(path).any()
    content = Path(path).read_bytes()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = content[:content.index(b'1.2.840.10008.1.2.1.99') + 22 + 200]
    start = 132 + 12 + int.from_bytes(content[140:144], 'little')
    bomb = content[:start] + deflater.compress(bytes(40_000_000)) + deflater.flush()
    assert len(bomb) < 60_000
    (tmp_path / 'a.dcm').write_bytes(bomb)
    error = refused(str(tmp_path / 'a.dcm'), FileRules(max_pixels=1_000_000))
    assert error.kind == 'too-many-pixels' and 'inflates to more than 8000000 bytes' in str(error)


def test_fuzzed_files_are_errors_or_images(tmp_path):
    """Bytes changed, cut off and doubled: nothing but our errors and images within the rules comes out."""
    rng = np.random.default_rng(0)
    rules = FileRules(max_pixels=200_000, max_voxels=200_000)
    data = rng.integers(0, 900, (6, 7, 8)).astype(np.int16)
    sources = [(path, Path(path).read_bytes(), fragment)
               for path, fragment in ((shipped(CT), ''), (shipped('MR_small_RLE.dcm'), '#frame=0&window=40,400'),
                                      (shipped('MR_small_jp2klossless.dcm'),
                                       ''), (shipped('SC_rgb_jpeg_dcmtk.dcm'), ''), (nifti(tmp_path / 'a.nii', data),
                                                                                     '#plane=coronal&index=2'),
                                      (nifti(tmp_path / 'b.nii.gz', data), '#index=2'))]
    outcomes = {'image': 0, 'error': 0}
    for number in range(360):
        path, content, fragment = sources[number % len(sources)]
        broken = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            # Most of what counts stands at the start.
            place = int(rng.integers(0, min(len(broken), (len(broken), 700)[number % 2])))
            broken[place:place + 2] = rng.bytes(2)
        if number % 5 == 0:
            broken = broken[:rng.integers(1, len(broken))]
        fuzzed = tmp_path / f'fuzzed{Path(path).suffix}'
        fuzzed.write_bytes(broken)
        try:
            image = to_rgb(open_image(f'{fuzzed}{fragment}', rules))
            assert image.width * image.height <= rules.max_pixels
            outcomes['image'] += 1
        except IMAGE_ERRORS as e:
            assert not isinstance(e, AssertionError), e
            outcomes['error'] += 1
    assert min(outcomes.values()) > 50, outcomes


# ---- names


def test_names(tmp_path, monkeypatch):
    scan = nifti(tmp_path / 'scan.nii.gz', np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    monkeypatch.chdir(tmp_path)
    assert close(grey('scan.nii.gz#index=2'), grey(f'{scan}#plane=axial&index=2'))
    for wrong in ('index=x', 'index=-1', 'index=1&index=2', 'frame=1', 'plane=side&index=1', 'index',
                  'index=1&window=z', 'index=1&window=', 'index=99999999999', '&&'):
        error = refused(f'scan.nii.gz#{wrong}')
        assert error.kind in ('image-fragment', 'image-window'), wrong
    # A file of that very name goes before.
    Image.new('RGB', (9, 8)).save('b.png')
    os.rename('b.png', 'scan.nii.gz#index=2')
    assert open_image('scan.nii.gz#index=2', RULES).size == (9, 8)
    Image.new('RGB', (9, 8)).save('a#index=1.png')
    assert open_image('a#index=1.png', RULES).size == (9, 8)
    assert refused('a#index=1.png#index=2').kind == 'image-fragment'
    with pytest.raises(FileNotFoundError):
        open_image('missing.nii.gz#index=2', RULES)
    # The root holds for the file, whatever stands behind it.
    (tmp_path / 'root').mkdir()
    rules = FileRules(data_root=str(tmp_path / 'root'))
    assert refused('../scan.nii.gz#index=3', rules).kind == 'outside-root'
    os.rename(scan, tmp_path / 'root' / 'scan.nii.gz')
    assert open_image('scan.nii.gz#index=3', rules).size == (3, 4)


def test_settings(tmp_path, monkeypatch):
    monkeypatch.setenv('IMAGE_WINDOW', 'lung')
    assert close(grey(shipped(CT), file_rules()), grey(f'{shipped(CT)}#window=lung'))
    monkeypatch.setenv('IMAGE_WINDOW', '1,2,3')
    with pytest.raises(SettingError, match="image_window='1,2,3'.*soft_tissue"):
        file_rules()
    monkeypatch.setenv('IMAGE_WINDOW', '40,400')
    monkeypatch.setenv('MAX_VOLUME_VOXELS', '59')
    path = nifti(tmp_path / 'a.nii', np.zeros((3, 4, 5), np.int16))
    assert refused(f'{path}#index=1', file_rules()).kind == 'too-many-pixels'


def test_without_the_packages(tmp_path, monkeypatch):
    path = nifti(tmp_path / 'a.nii', np.zeros((3, 4, 5), np.int16))
    for name, reference in (('pydicom', shipped(CT)), ('nibabel', f'{path}#index=1')):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            error = refused(reference)
            assert error.kind == 'medical-extra' and name in str(error)
            assert "pip install 'swift-citrusv[medical]'" in error.remedy


def test_what_is_open_travels(tmp_path):
    """Between processes, and to code that knows only PIL."""
    image = open_image(f'{shipped(CT)}#window=bone', RULES)
    assert image.size == (128, 128) and image.format == 'DICOM'
    expected = grey(f'{shipped(CT)}#window=bone')
    other = pickle.loads(pickle.dumps(open_image(f'{shipped(CT)}#window=bone', RULES)))
    assert close(np.array(other)[..., 0], expected) and close(np.array(image.copy())[..., 0], expected)
    shrunk = open_image(f'{shipped(CT)}#window=bone', RULES).resize((64, 64))
    assert close(np.array(shrunk), np.array(image.resize((64, 64))))
    # What could not be read the first time cannot be read the second time either.
    broken = open_image(shipped('MR_truncated.dcm'), RULES)
    for _ in range(2):
        with pytest.raises(FileError):
            broken.load()


def test_python_objects():
    data = pydicom.dcmread(shipped(CT))
    assert close(grey(data), grey(shipped(CT)))
    values = data.pixel_array.astype(float) - 1024
    assert close(grey(values), grey(shipped(CT)), 1)
    assert refused(Dataset()).kind == 'no-image'
    built = item(Rows=2, Columns=3, SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', BitsAllocated=8)
    built.update(item(BitsStored=8, HighBit=7, PixelRepresentation=0, WindowCenter=100, WindowWidth=200))
    built.PixelData, built.file_meta = bytes(range(0, 240, 40)), bare_meta()
    assert close(grey(built), Window(100, 200, 'LINEAR').apply(np.arange(0, 240, 40).reshape(2, 3)))
    with pytest.raises(TypeError, match='not a file name'):
        open_image(object(), RULES)


# ---- rows


@pytest.fixture(scope='module')
def template(tiny_checkpoint):
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.register import register
    register()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=4096)
    template.set_mode('train')
    return template


@pytest.fixture
def rows(tmp_path) -> list[dict[str, Any]]:
    """Rows with slices of a volume whose label map is a volume too."""
    rng = np.random.default_rng(0)
    affine = affine_of(np.eye(3)[[2, 0, 1]], degrees=10)
    scan = nifti(tmp_path / 'scan.nii.gz', rng.integers(-900, 900, (60, 70, 90)).astype(np.int16), affine)
    labels = (rng.random((60, 70, 90)) * 4).astype(np.uint8)
    label_map = nifti(tmp_path / 'labels.nii.gz', labels, affine)
    ct, mask = dicom(tmp_path / 'ct.dcm'), rle(box_mask((128, 128), (20, 30, 90, 100)))

    def row(question: str, answer: str, **columns: Any) -> dict[str, Any]:
        return {
            'messages': [{
                'role': 'user',
                'content': question
            }, {
                'role': 'assistant',
                'content': answer
            }],
            **columns
        }

    return [
        row('<image>Segment the bone.', 'Bone: [SEG].', images=[f'{ct}#window=bone'], masks=[mask]),
        row('<image>What?',
            'Bone: [SEG].',
            images=[f'{scan}#plane=coronal&index=11'],
            masks=[{
                'path': f'{label_map}#plane=coronal&index=11',
                'label': 3
            }]),
        row('<image><image>What?',
            'A: [SEG]. B: [SEG].',
            images=[{
                'path': f'{scan}#plane=sagittal&index=20&window=lung'
            }, {
                'path': ct
            }],
            masks=[{
                'path': f'{label_map}#plane=sagittal&index=20'
            }, mask],
            mask_images=[0, 1]),
        row('<video>What moves?', 'Nothing.', videos=[[f'{scan}#index={i}' for i in (3, 4)]]),
    ]


def test_rows_from_headers_and_from_pixels(rows, template, monkeypatch):
    """The length pass decodes nothing and counts what training counts; the masks lie on the pixels that they label."""
    from swift_citrusv.encoding.row_length import measure
    from swift_citrusv.rows.masks import decode_mask, resize_mask
    numbered = [{**row, ROW_COLUMN: f'train.jsonl:{i}'} for i, row in enumerate(rows, 1)]
    encoded = [template.encode(dict(row), return_length=True) for row in numbered]
    folder = os.path.dirname(rows[0]['images'][0])
    canonical = nibabel.as_closest_canonical(read_nifti(os.path.join(folder, 'labels.nii.gz'))).get_fdata()
    mask = decode_mask(rows[1]['masks'][0], size=canonical.shape[2::-2], row='', position=0)
    assert close(mask, canonical[::-1, 11, ::-1].T == 3) and 0 < mask.mean() < 1
    assert close(encoded[1]['masks'][0, 0].numpy(), resize_mask(mask, encoded[1]['masks'].shape[-1]))
    side = encoded[1]['g_pixel_values'].shape[-1]
    shown = to_rgb(open_image(rows[1]['images'][0], RULES)).resize((side, side), Image.Resampling.BILINEAR)
    assert close(encoded[1]['g_pixel_values'][0].permute(1, 2, 0).numpy(), np.array(shown))
    for name in ('swift_citrusv.files.nifti.NiftiFile.values', 'swift_citrusv.files.dicom.DicomFile.pixels'):
        monkeypatch.setattr(name, lambda *args: pytest.fail('pixels were read'))
    for row, whole in zip(numbered, encoded):
        assert [piece.length for piece in measure(template, dict(row))] == [len(whole['input_ids'])]


def test_errors_name_the_row(rows, template, tmp_path, capsys):
    from swift_citrusv.encoding.row_length import measure
    scan = rows[1]['images'][0].partition('#')[0]
    broken = [
        ({
            **rows[1], 'images': [scan]
        }, 'image-fragment', 'has 70 axial slices|has 60 axial slices|has 90 axial slices'),
        ({
            **rows[1], 'images': [f'{scan}#plane=axial&index=11']
        }, 'mask-size', 'height, width'),
        ({
            **rows[0], 'images': [f'{shipped(MR)}#window=lung']
        }, 'image-window', 'modality is MR'),
        ({
            **rows[0], 'images': [f'{shipped("rtstruct.dcm")}']
        }, 'no-image', 'holds no image'),
    ]
    for row, kind, message in broken:
        row = {**row, ROW_COLUMN: 'train.jsonl:7'}
        for function in (template.encode, partial(measure, template)):
            with pytest.raises(RowError, match=f'train.jsonl:7: .*(?:{message})') as error:
                function(dict(row))
            assert error.value.kind == kind and error.value.remedy
    path = write_jsonl(tmp_path / 'rows.jsonl', rows + [row for row, _, _ in broken])
    assert main(['check-data', path, '--json', str(tmp_path / 'report.json')]) == 1
    kinds = [failure['kind'] for failure in json.loads((tmp_path / 'report.json').read_text())['failures']]
    assert kinds == [kind for _, kind, _ in broken]
    assert main(['check-data', write_jsonl(tmp_path / 'good.jsonl', rows), '--pictures', str(tmp_path / 'out')]) == 0
    assert list((tmp_path / 'out').glob('*.png'))
    capsys.readouterr()


def test_label_maps_keep_their_values(tmp_path):
    labels = np.random.default_rng(0).integers(0, 300, (4, 5, 6))
    for dtype in (np.int16, np.float32, np.int64):
        path = nifti(tmp_path / 'a.nii', labels.astype(dtype))
        with open_label_map(f'{path}#index=2') as image:
            assert image.mode == 'I' and close(np.asarray(image), labels[::-1, ::-1, 2].T)
    seg = pydicom.dcmread(shipped('liver_1frame.dcm')).pixel_array
    assert close(np.asarray(open_label_map(shipped('liver_1frame.dcm'))), seg) and seg.any()
    for reference in (f'{nifti(tmp_path / "b.nii", labels / 7)}#index=1', shipped('examples_rgb_color.dcm')):
        with pytest.raises(FileError, match='labels'):
            np.asarray(open_label_map(reference))


def test_kept_lengths_follow_the_file(rows, tmp_path):
    """A slice is named behind a '#'; its file counts."""
    row = rows[1]
    before = row_key(row)
    assert row_key(dict(row)) == before
    os.utime(row['images'][0].partition('#')[0], ns=(1, 1))
    changed = row_key(row)
    os.utime(row['masks'][0]['path'].partition('#')[0], ns=(1, 1))
    assert len({before, changed, row_key(row)}) == 3
    assert row_key({**row, 'images': [row['images'][0] + '&window=lung']}) not in (before, changed)
