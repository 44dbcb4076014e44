"""DICOM series: the order and the position of their frames, against highdicom and a NIfTI file of the same voxels."""
import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.image import get_volume_from_series
from pathlib import Path
from pydicom.uid import generate_uid
from support.scans import enhanced_ct, nifti, read_nifti, rotation, sequence, series, shipped
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
    with pytest.raises(ValueError, match='differ in orientation'):
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


def test_the_reason_names_what_is_missing(tmp_path):
    data = voxels()
    series(tmp_path / 'none', data, ImageOrientationPatient=None)
    volume = Volume(tmp_path / 'none')
    assert len(volume) == 5
    with pytest.raises(ValueError, match="no plane 'axial': its images lack ImageOrientationPatient[.] "):
        Volume(tmp_path / 'none', 'axial')
    for name, words in (('ImageOrientationPatient', 'differ in ImageOrientationPatient, which {} lacks'),
                        ('PixelSpacing', 'differ in PixelSpacing, which {} lacks'),
                        ('ImagePositionPatient', '1 of its 5 images have no ImagePositionPatient, such as {}')):
        names = series(tmp_path / name, data)
        changed = pydicom.dcmread(names[3])
        delattr(changed, name)
        changed.save_as(names[3])
        with pytest.raises(ValueError, match=words.format(Path(names[3]).name)):
            Volume(tmp_path / name)


@pytest.mark.parametrize('name, values', [
    ('EchoTime', [4.6, 9.2]),
    ('TemporalPositionIdentifier', [1, 2, 3]),
    ('DiffusionBValue', [0., 1000.]),
    ('ImageType', [['ORIGINAL', 'PRIMARY', 'M'], ['ORIGINAL', 'PRIMARY', 'P']]),
    ('AcquisitionTime', ['120000', '120130']),
])
def test_phases_of_a_series(name, values, tmp_path):
    """Each has its own images, in the order of what tells them apart."""
    phases = [voxels(seed=number) for number in range(len(values))]
    uid = generate_uid()
    # Mixed in the folder, the last phase with the lowest instance numbers.
    for number, (data, value) in enumerate(zip(phases, values)):
        tags = {name: value, 'SeriesInstanceUID': uid}
        for path in series(tmp_path / f'p{number}', data, **tags):
            target = tmp_path / 's' / f'{len(values) - number}_{Path(path).name}'
            target.parent.mkdir(exist_ok=True)
            Path(path).rename(target)
    with pytest.raises(ValueError, match=f'{len(values)} images at each of its 5 positions, which differ in {name}'):
        Volume(tmp_path / 's')
    with pytest.raises(ValueError, match=f'no image {len(values)}.*--time'):
        Volume(tmp_path / 's', volume=len(values))
    for number, data in enumerate(phases):
        volume = Volume(tmp_path / 's', window='0,1', volume=number)
        shown = np.stack([bright(image) for _, image in volume])
        assert np.array_equal(shown, data - 1024 >= 0), number
        put_all(volume, shown)
        volume.save(tmp_path / 'mask.dcm')
        seg = pydicom.dcmread(tmp_path / 'mask.dcm')
        assert int(seg.pixel_array.sum()) == int(shown.sum())
    series(tmp_path / 'one', phases[0])
    with pytest.raises(ValueError, match='one image at each position, so there is no volume 0'):
        Volume(tmp_path / 'one', volume=0)


def test_phases_of_one_file(tmp_path):
    """An enhanced file with three slices in two echoes, stored slice by slice."""
    data = np.random.default_rng(0).integers(-200, 200, (6, 16, 18)) * 4
    path = enhanced_ct(tmp_path / 'a.dcm', data, [(0, 1)] * 6, [1] * 6)
    changed = pydicom.dcmread(path)
    for number, frame in enumerate(changed.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-10, -20, 3. * (number // 2)]
        frame.MREchoSequence = sequence(EffectiveEchoTime=[9.2, 4.6][number % 2])
    changed.save_as(path)
    with pytest.raises(ValueError, match=r'2 images at each of its 3 positions, .*EffectiveEchoTime \(4.6, 9.2\)'):
        Volume(path)
    for phase in (0, 1):
        volume = Volume(path, window='0,1', volume=phase)
        mine = data[1 - phase::2]
        shown = np.stack([bright(image) for _, image in volume])
        assert np.array_equal(shown, mine >= 0)
        put_all(volume, shown)
        volume.save(tmp_path / 'mask.dcm')
        seg = highdicom.seg.segread(tmp_path / 'mask.dcm')
        pixels = seg.get_pixels_by_source_frame(changed.SOPInstanceUID, [1, 2, 3, 4, 5, 6],
                                                assert_missing_frames_are_empty=True)[..., 0]  # yapf: disable
        assert np.array_equal(pixels[1 - phase::2], shown) and not pixels[phase::2].any()
        volume.save(tmp_path / 'mask.nii.gz')
        assert np.array_equal(np.asanyarray(read_nifti(tmp_path / 'mask.nii.gz').dataobj).T, shown)


def test_copies_and_gaps_in_phases(tmp_path):
    names = series(tmp_path / 's', voxels(), EchoTime=1)
    uid = pydicom.dcmread(names[0]).SeriesInstanceUID
    others = series(tmp_path / 'other', voxels(seed=1), EchoTime=2, SeriesInstanceUID=uid)
    for path in others[:4]:
        Path(path).rename(tmp_path / 's' / f'other_{Path(path).name}')
    with pytest.raises(ValueError, match='4 of its 9 images have the same position .*phases of which some are missing'):
        Volume(tmp_path / 's')
    series(tmp_path / 'twice', voxels())
    for path in list((tmp_path / 'twice').iterdir()):
        (tmp_path / 'twice' / f'{path.name}_copy').write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match='5 of its 10 images have the same position .*: copies'):
        Volume(tmp_path / 'twice')


def test_a_mosaic_is_refused(tmp_path):
    names = series(tmp_path / 's', voxels((1, 32, 32)), ImageType=['ORIGINAL', 'PRIMARY', 'M', 'ND', 'MOSAIC'])
    changed = pydicom.dcmread(names[0])
    changed.private_block(0x0019, 'SIEMENS MR HEADER', create=True).add_new(0x0a, 'US', 4)
    changed.save_as(names[0])
    for path in (tmp_path / 's', names[0]):
        with pytest.raises(ValueError, match='a Siemens mosaic of 4 slices in one image. .*dcm2niix'):
            Volume(path)


def with_tags(path: Any, **tags: Any) -> pydicom.Dataset:
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    return data
