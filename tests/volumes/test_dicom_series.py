"""DICOM series: the order and the position of their frames, against highdicom and a NIfTI file of the same voxels."""
import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.image import get_volume_from_series
from pathlib import Path
from support.scans import nifti, read_nifti, rotation, series, shipped
from support.volumes import PLANES, bright, put_all, voxels
from typing import Any

from swift_citrusv.volumes.volume import Volume

LPS_TO_RAS = np.diag([-1., -1., 1., 1.])


@pytest.mark.parametrize('directions', [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1),
                                        (1, 0, 0, 0, 0, -1), 'oblique'])
def test_position_of_a_series_equals_highdicoms(directions, tmp_path):
    """The order of the frames, and the affine."""
    if directions == 'oblique':
        directions = tuple(rotation(25)[:, :2].T.reshape(-1))
    data = voxels()
    names = series(tmp_path / 's', data, directions, SpacingBetweenSlices=2.5)
    (tmp_path / 's' / 'DICOMDIR').write_bytes(Path(shipped('rtstruct.dcm')).read_bytes())
    (tmp_path / 's' / 'notes.txt').write_text('Not an image.')
    volume = Volume(tmp_path / 's', window='0,1')
    assert len(volume) == 5 and volume.size == (20, 24)
    # Hounsfield units: stored values minus 1,024.
    shown = np.stack([bright(image) for _, image in volume])
    assert np.array_equal(shown, data - 1024 >= 0)
    expected = get_volume_from_series([pydicom.dcmread(name) for name in names])
    source: Any = volume._source
    assert source.skipped == 2
    put_all(volume, shown)
    volume.save(tmp_path / 'mask.nii.gz')
    saved = read_nifti(tmp_path / 'mask.nii.gz')
    # highdicom has [slice, row, column], and may number slices the other way: compare the positions of voxels.
    values = np.asanyarray(saved.dataobj)
    assert values.any() and values.shape == (24, 20, 5)
    for voxel in np.argwhere(expected.array >= 0)[::7]:
        world = LPS_TO_RAS @ expected.affine @ [*voxel, 1]
        index = np.linalg.inv(saved.affine) @ world
        assert np.allclose(index, np.rint(index), atol=1e-3) and values[tuple(np.rint(index[:3]).astype(int))] == 1
    assert int((expected.array >= 0).sum()) == int(values.sum())
    assert np.allclose(saved.get_qform(), saved.affine, atol=1e-4)


def test_planes_of_a_series_are_those_of_its_nifti_file(tmp_path):
    data = voxels((6, 20, 24))
    series(tmp_path / 's', data, tuple(rotation(20)[:, :2].T.reshape(-1)), WindowCenter=300, WindowWidth=900)
    stored = Volume(tmp_path / 's')
    affine = stored._source.affine
    assert affine is not None
    path = nifti(tmp_path / 'scan.nii.gz', (data.transpose(2, 1, 0).astype(np.float32) - 1024), affine)
    for plane in PLANES:
        volume, expected = Volume(tmp_path / 's', plane), Volume(path, plane, '299.5,899')
        assert len(volume) == len(expected) and volume.size == expected.size
        for index, image in volume:
            assert np.abs(np.array(image).astype(int) - np.array(expected.image(index))).max() <= 1
            volume.put(index, bright(image))
        volume.save(tmp_path / f'{plane}.nii.gz')
        mask = np.asanyarray(read_nifti(tmp_path / f'{plane}.nii.gz').dataobj)
        assert np.array_equal(mask, ((data.transpose(2, 1, 0) - 1024 - 299.5) / 899 + .5) * 255 >= 127.5)


def test_folders_that_are_not_a_volume(tmp_path):
    data = voxels()
    first = series(tmp_path / 'two', data)
    series(tmp_path / 'other', data[:3], SeriesDescription='Arterial phase')
    for path in (tmp_path / 'other').iterdir():
        path.rename(tmp_path / 'two' / f'other_{path.name}')
    with pytest.raises(ValueError, match='2 series: .*3 images, Arterial phase.*--series'):
        Volume(tmp_path / 'two')
    uid = pydicom.dcmread(first[0]).SeriesInstanceUID
    assert len(Volume(tmp_path / 'two', series=uid)) == 5
    with pytest.raises(ValueError, match='2 series'):
        Volume(tmp_path / 'two', series='1.2.3')
    names = series(tmp_path / 'twice', data)
    (tmp_path / 'twice' / 'copy').write_bytes(Path(names[0]).read_bytes())
    with pytest.raises(ValueError, match='1 of its 6 images have the same position as another'):
        Volume(tmp_path / 'twice')
    names = series(tmp_path / 'mixed', data)
    pydicom.dcmwrite(names[2], with_tags(names[2], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    with pytest.raises(ValueError, match='differ in size, orientation or spacing'):
        Volume(tmp_path / 'mixed')
    # With a gap, the images can be read and segmented, but have no affine.
    names = series(tmp_path / 'gap', data)
    Path(names[2]).unlink()
    volume = Volume(tmp_path / 'gap')
    put_all(volume, np.ones((4, 20, 24), np.uint8))
    with pytest.raises(ValueError, match='distances between its images differ by up to .* mm.*ends in .dcm'):
        volume.save(tmp_path / 'mask.nii.gz')
    with pytest.raises(ValueError, match='distances between its images differ'):
        Volume(tmp_path / 'gap', 'axial')
    volume.save(tmp_path / 'mask.dcm')
    assert highdicom.seg.segread(tmp_path / 'mask.dcm').NumberOfFrames == 4
    # Without positions, images are sorted by InstanceNumber.
    series(tmp_path / 'nowhere', data, ImagePositionPatient=None, InstanceNumber=None)
    for number, path in enumerate(sorted((tmp_path / 'nowhere').iterdir())):
        pydicom.dcmwrite(path, with_tags(path, InstanceNumber=99 - number))
    source: Any = Volume(tmp_path / 'nowhere')._source
    numbers = [frame.file.header.InstanceNumber for frame in source.frames]
    assert numbers == sorted(numbers)


def with_tags(path: Any, **tags: Any) -> pydicom.Dataset:
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    return data
