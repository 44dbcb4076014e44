"""Volumes slice by slice, and their masks as NIfTI files, read again by nibabel."""
import json
import nibabel
import numpy as np
import pydicom
import pytest
from support.scans import affine_of, dicom, every_orientation, nifti, read_nifti, series
from support.volumes import PLANES, bright, put_all, voxels

from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.rules import FileRules, file_rules
from swift_citrusv.volumes.volume import Volume


@pytest.mark.parametrize('degrees', [0, 30])
def test_masks_go_back_to_their_voxels(degrees, tmp_path):
    """Bright pixels of the slices are the bright voxels of the file, in every orientation and plane."""
    for number, axes in enumerate(every_orientation()):
        data = voxels((5, 6, 7), number)
        path = nifti(tmp_path / f'scan.nii{".gz" * (number % 2)}', data, affine_of(axes, degrees=degrees))
        volume = Volume(path, PLANES[number % 3], '1000,1')
        for index, image in volume:
            volume.put(index, bright(image))
        volume.save(tmp_path / 'mask.nii.gz')
        source, saved = read_nifti(path), read_nifti(tmp_path / 'mask.nii.gz')
        assert np.array_equal(np.asanyarray(saved.dataobj), data >= 1000)
        assert saved.get_data_dtype() == np.uint8 and 0 < np.asanyarray(saved.dataobj).mean() < 1
        # The fields of both forms are equal, not only the affine.
        for name in ('sform_code', 'qform_code', 'srow_x', 'srow_y', 'srow_z', 'quatern_b', 'quatern_c', 'quatern_d',
                     'qoffset_x', 'pixdim', 'xyzt_units'):
            assert np.array_equal(source.header[name], saved.header[name]), name
        assert np.array_equal(source.affine, saved.affine)


@pytest.mark.parametrize('version', [1, 2])
def test_label_maps(version, tmp_path):
    data = voxels((8, 9, 10))
    path = nifti(tmp_path / 'scan.nii', np.stack([data, data + 1], axis=-1), affine_of(np.eye(3)), version=version)
    with open(path, 'r+b') as file:
        file.seek({1: 148, 2: 240}[version])
        file.write(b'Jane Doe')
    volume = Volume(path, 'coronal', '1000,1', volume=1)
    assert len(volume) == 9 and volume.size == (10, 8)
    low, high = np.zeros((9, 10, 8), np.uint8), np.zeros((9, 10, 8), bool)
    low[2:6], high[4:8, 3:] = 1, True
    put_all(volume, low, 'low')
    put_all(volume, high, '肝脏')
    legend = volume.save(tmp_path / 'out' / 'labels.nii.gz', {'prompt': 'Segment.'})
    saved = read_nifti(tmp_path / 'out' / 'labels.nii.gz')
    assert saved.shape == (8, 9, 10) and type(saved) is (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)
    # Back in the order of the slices: two axes flipped, rows first.
    back = np.asanyarray(saved.dataobj)[::-1, :, ::-1].transpose(1, 2, 0)
    assert np.array_equal(back, np.where(high, 2, low))
    overlap = int((high & (low > 0)).sum())
    assert legend['labels'] == [{
        'value': 1,
        'name': 'low',
        'voxels': int(low.sum()),
        'hidden': overlap
    }, {
        'value': 2,
        'name': '肝脏',
        'voxels': int(high.sum()),
        'hidden': 0
    }]
    assert json.loads((tmp_path / 'out' / 'labels.json').read_text(encoding='utf-8')) == legend
    assert legend['prompt'] == 'Segment.' and legend['plane'] == 'coronal' and overlap
    assert saved.header.get_intent()[0] == 'label' and b'Jane' not in bytes(saved.header['descrip'])
    assert [path.name for path in (tmp_path / 'out').iterdir() if 'part' in path.name] == []
    assert np.array_equal(volume.array('low'), np.flip(low.transpose(2, 0, 1), (0, 2)))


def test_slices_are_those_of_rows(tmp_path):
    """With and without compression, with percentiles and windows, in each plane."""
    paths = [
        nifti(tmp_path / f'scan{suffix}', voxels(), affine_of(np.eye(3)[[1, 2, 0]], degrees=20))
        for suffix in ('.nii', '.nii.gz')
    ]
    rules = file_rules()
    for path in paths:
        for plane in PLANES:
            for window in ('auto', 'bone', '900,1000'):
                for index, image in Volume(path, plane, window):
                    row = open_image(f'{path}#plane={plane}&index={index}&window={window}', rules)
                    assert np.array_equal(np.array(image), np.array(to_rgb(row)))
    names = series(tmp_path / 'series', voxels())
    for own in (None, 'percentile', 'bone', '900,1000'):
        for name, (_, image) in zip(names, Volume(tmp_path / 'series', window=own), strict=True):
            row = open_image(name + ('' if own is None else f'#window={own}'), rules)
            assert np.array_equal(np.array(image), np.array(to_rgb(row)))


def test_volumes_and_masks_that_cannot_be_used(tmp_path):
    path = nifti(tmp_path / 'scan.nii', voxels())
    volume = Volume(path)
    for mask in (np.zeros((24, 20), np.uint8), np.full((20, 5), 2, np.uint8), np.zeros((20, 5))):
        with pytest.raises(ValueError, match='Give uint8 {0, 1} of \\[20, 5\\]'):
            volume.put(0, mask)
    for index in (-1, 24):
        with pytest.raises(IndexError, match='24 slices'):
            volume.image(index)
    with pytest.raises(ValueError, match='ends in .nii.gz or .nii'):
        volume.save(tmp_path / 'mask.png')
    with pytest.raises(ValueError, match='is not DICOM.*ends in .nii.gz'):
        volume.save(tmp_path / 'mask.dcm')
    with pytest.raises(ValueError, match='scan.nii: .*no plane .*axial, coronal, sagittal'):
        Volume(path, 'oblique')
    with pytest.raises(ValueError, match="scan.nii: 'liver' is not a window.*soft_tissue"):
        Volume(path, window='liver')
    with pytest.raises(ValueError, match='more than max_volume_voxels=2399.*Cut it'):
        Volume(path, rules=FileRules(max_voxels=2399))
    with pytest.raises(ValueError, match='2000000000000 voxels, more than max_volume_voxels'):
        Volume(dicom(tmp_path / 'a.dcm', pixels=np.zeros((40, 25)), NumberOfFrames=2_000_000_000))
    with pytest.raises(FileNotFoundError):
        Volume(tmp_path / 'missing.nii')
    (tmp_path / 'text').mkdir()
    (tmp_path / 'text' / 'a.txt').write_text('Nothing.')
    with pytest.raises(ValueError, match='no DICOM image.*subfolders'):
        Volume(tmp_path / 'text')


def test_one_slice_of_a_volume(tmp_path):
    data = voxels()
    scan = nifti(tmp_path / 'scan.nii.gz', data, affine_of(np.eye(3)[[2, 0, 1]]))
    mask = bright(to_rgb(open_image(f'{scan}#plane=coronal&index=3&window=1000,1')))
    volume = Volume(scan, 'coronal')
    volume.put(3, mask, 'Liver')
    legend = volume.save(tmp_path / 'mask.nii')
    saved = np.asanyarray(read_nifti(tmp_path / 'mask.nii').dataobj)
    # The first axis of the file is the coronal one.
    assert np.array_equal(saved[3], data[3] >= 1000) and saved.sum() == saved[3].sum() > 0
    assert legend['labels'][0]['voxels'] == int(mask.sum())


def test_a_sheared_affine_is_named(tmp_path):
    """A tilted gantry, in NIfTI and in DICOM: the sform holds it, the legend says so."""
    data = voxels((4, 20, 24))
    affine = np.diag([.8, .8, 3., 1.])
    affine[1, 2] = 3 * np.tan(np.deg2rad(15))
    path = nifti(tmp_path / 'a.nii.gz', data.transpose(2, 1, 0))
    image = nibabel.Nifti1Image(data.transpose(2, 1, 0), affine)
    image.set_sform(affine, 1)
    nibabel.save(image, path)
    names = series(tmp_path / 's', data)
    for number, name in enumerate(names):
        header = pydicom.dcmread(name)
        header.ImagePositionPatient = [-30, -40 + number * 2.5 * np.tan(np.deg2rad(15)), 50 + 2.5 * number]
        header.save_as(name)
    for source in (path, tmp_path / 's'):
        volume = Volume(source)
        for index, picture in volume:
            volume.put(index, bright(picture))
        legend = volume.save(tmp_path / 'mask.nii.gz')
        assert '15.0 degrees off a right angle' in legend['sheared'] and 'sform' in legend['sheared']
        expected = volume._source.affine
        assert expected is not None
        assert np.allclose(read_nifti(tmp_path / 'mask.nii.gz').get_sform(), expected, atol=1e-4)
    straight = Volume(nifti(tmp_path / 'b.nii.gz', data, affine_of(np.eye(3), degrees=31)))
    assert 'sheared' not in straight.save(tmp_path / 'mask.nii.gz')
