"""NIfTI slices against nibabel's canonical orientation, and broken files."""
import gzip
import nibabel
import numpy as np
import pytest
import struct
from pathlib import Path
from support.medical_images import by_percentile, close, colours, grey, linear, rejected
from support.scans import affine_of, every_orientation, nifti

from swift_citrusv.files.windowing import WINDOW_PRESETS


def brute_force(data: np.ndarray, affine: np.ndarray, plane: str) -> np.ndarray:
    """All slices of a plane [n, h, w], by nibabel's canonical orientation and the radiological convention."""
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
            assert f'has {len(expected)} {plane} slices' in str(rejected(f'{path}#plane={plane}&index={len(expected)}'))


def test_slices_have_the_radiological_orientation(tmp_path):
    """From the affine alone: a body that is bright on its right, in front, or towards its head."""
    indices = np.stack(np.meshgrid(*map(np.arange, (8, 9, 10)), indexing='ij'), axis=-1)
    for number, axes in enumerate(every_orientation()[::5]):
        affine = affine_of(axes, degrees=15)
        world = indices @ affine[:3, :3].T + affine[:3, 3]
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
    assert close(grey(f'{scaled}#index=2&window=bone'), linear(expected, *WINDOW_PRESETS['bone']))
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
    assert rejected(f'{tmp_path / "rgb.nii"}#window=40,400').kind == 'medical-file'


def test_axes_of_time_and_missing_axes(tmp_path):
    four = np.random.default_rng(2).integers(0, 900, (4, 5, 6, 3)).astype(np.int16)
    path = nifti(tmp_path / 'four.nii.gz', four)
    for volume in range(3):
        for plane in ('axial', 'coronal', 'sagittal'):
            shown = grey(f'{path}#plane={plane}&index=2&volume={volume}&window=450,907')
            assert close(shown, linear(brute_force(four[..., volume], np.eye(4), plane)[2], 450, 907))
    assert 'has 3 volumes' in str(rejected(f'{path}#index=2'))
    flat = nifti(tmp_path / 'flat.nii', four[:, :, 0, 0])
    assert close(grey(f'{flat}#window=450,907'), linear(four[::-1, ::-1, 0, 0].T, 450, 907))
    assert grey(nifti(tmp_path / 'one.nii', four[:, :, :1, :1])).shape == (5, 4)
    assert rejected(nifti(tmp_path / 'five.nii', np.zeros((3, 3, 3, 1, 2), np.int16))).kind == 'medical-file'


def test_broken_nifti_files(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = Path(nifti(tmp_path / 'a.nii', data)).read_bytes()

    def changed(offset: int, new: bytes) -> str:
        (tmp_path / 'b.nii').write_bytes(content[:offset] + new + content[offset + len(new):])
        return f'{tmp_path / "b.nii"}#index=1'

    (tmp_path / 'short.nii').write_bytes(content[:-1])
    assert 'is truncated' in str(rejected(f'{tmp_path / "short.nii"}#index=1'))
    (tmp_path / 'short.nii.gz').write_bytes(gzip.compress(content)[:-30])
    assert rejected(f'{tmp_path / "short.nii.gz"}#index=4').kind == 'medical-file'
    assert 'another file' in str(rejected(changed(344, b'ni1\0')))
    assert 'does not define the orientation' in str(rejected(changed(280, bytes(48))))
    assert 'does not define the orientation' in str(rejected(changed(280, struct.pack('<f', float('nan')))))
    assert rejected(changed(70, struct.pack('<h', 1792))).kind == 'medical-file'  # complex
    assert rejected(changed(70, struct.pack('<h', 12345))).kind == 'medical-file'
    assert rejected(changed(42, struct.pack('<h', 0))).kind == 'medical-file'
    assert rejected(changed(42, struct.pack('<h', -3))).kind == 'medical-file'


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
