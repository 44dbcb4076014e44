"""Volumes slice by slice, and masks on their way back: read again by nibabel, pydicom and highdicom."""
import highdicom
import json
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.image import get_volume_from_series
from pathlib import Path
from PIL import Image
from support.scans import (CT, ULTRASOUND_MULTI_FRAME, affine_of, dicom, enhanced_ct, every_orientation, nifti,
                           read_nifti, rotation, series, shipped)
from types import SimpleNamespace
from typing import Any

from swift_citrusv.cli import volume as _cli_volume
from swift_citrusv.cli.main import _parser, main
from swift_citrusv.files import slices as planes
from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.rules import FileRules, file_rules
from swift_citrusv.volumes.export import segment_labels
from swift_citrusv.volumes.segment import label_of, segment_volume
from swift_citrusv.volumes.slice_masks import save_masks
from swift_citrusv.volumes.volume import Volume, slices

PLANES = ('axial', 'coronal', 'sagittal')
LPS_TO_RAS = np.diag([-1., -1., 1., 1.])


def voxels(shape: tuple[int, int, int] = (5, 20, 24), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)


def bright(image: Image.Image, least: int = 128) -> np.ndarray:
    """A mask of the bright pixels."""
    return (np.array(image)[..., 0] >= least).astype(np.uint8)


# ---- NIfTI


@pytest.mark.parametrize('degrees', [0, 30])
def test_masks_go_back_to_their_voxels(degrees, tmp_path):
    """Bright pixels of shown slices are the bright voxels of the file, in every orientation and plane."""
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
        # Not nearly the affine, but the very bytes of both forms.
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
    volume.put_all(low, 'low')
    volume.put_all(high, '肝脏')
    legend = volume.save(tmp_path / 'out' / 'labels.nii.gz', {'prompt': 'Segment.'})
    saved = read_nifti(tmp_path / 'out' / 'labels.nii.gz')
    assert saved.shape == (8, 9, 10) and type(saved) is (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)
    # As they were put in: flipped twice, rows first.
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
    """Of a stream and of a plain file, with percentiles and with a window, in each plane."""
    paths = [
        nifti(tmp_path / f'scan{suffix}', voxels(), affine_of(np.eye(3)[[1, 2, 0]], degrees=20))
        for suffix in ('.nii', '.nii.gz')
    ]
    rules = file_rules()
    for path in paths:
        for plane in PLANES:
            for window in ('auto', 'bone', '900,1000'):
                for index, image in enumerate(slices(path, plane, window)):
                    row = open_image(f'{path}#plane={plane}&index={index}&window={window}', rules)
                    assert np.array_equal(np.array(image), np.array(to_rgb(row)))
    names = series(tmp_path / 'series', voxels())
    for own in (None, 'percentile', 'bone', '900,1000'):
        for name, image in zip(names, slices(tmp_path / 'series', window=own), strict=True):
            row = open_image(name + ('' if own is None else f'#window={own}'), rules)
            assert np.array_equal(np.array(image), np.array(to_rgb(row)))


def test_wrong_volumes_and_masks(tmp_path):
    path = nifti(tmp_path / 'scan.nii', voxels())
    volume = Volume(path)
    for mask in (np.zeros((24, 20), np.uint8), np.full((20, 5), 2, np.uint8), np.zeros((20, 5))):
        with pytest.raises(ValueError, match='Give uint8 {0, 1} of \\[20, 5\\]'):
            volume.put(0, mask)
    for index in (-1, 24):
        with pytest.raises(IndexError, match='24 slices'):
            volume.image(index)
    with pytest.raises(ValueError, match='give one for each'):
        volume.put_all(np.zeros((3, 20, 5), np.uint8))
    with pytest.raises(ValueError, match='ends in .nii.gz or .nii'):
        volume.save(tmp_path / 'mask.png')
    with pytest.raises(ValueError, match='no DICOM file.*ends in .nii.gz'):
        volume.save(tmp_path / 'mask.dcm')
    with pytest.raises(ValueError, match='scan.nii: .*no plane .*axial, coronal, sagittal'):
        Volume(path, 'oblique')
    with pytest.raises(ValueError, match="scan.nii: 'liver' is no window.*soft_tissue"):
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


# ---- DICOM series


@pytest.mark.parametrize('directions', [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1),
                                        (1, 0, 0, 0, 0, -1), 'oblique'])
def test_a_series_lies_where_highdicom_says(directions, tmp_path):
    """The order of its frames and its affine."""
    if directions == 'oblique':
        directions = tuple(rotation(25)[:, :2].T.reshape(-1))
    data = voxels()
    names = series(tmp_path / 's', data, directions, SpacingBetweenSlices=2.5)
    (tmp_path / 's' / 'DICOMDIR').write_bytes(Path(shipped('rtstruct.dcm')).read_bytes())
    (tmp_path / 's' / 'notes.txt').write_text('Not an image.')
    volume = Volume(tmp_path / 's', window='0,1')
    assert len(volume) == 5 and volume.size == (20, 24)
    # Hounsfield units: stored values less 1,024.
    shown = np.stack([bright(image) for _, image in volume])
    assert np.array_equal(shown, data - 1024 >= 0)
    expected = get_volume_from_series([pydicom.dcmread(name) for name in names])
    source: Any = volume._source
    assert source.skipped == 2
    volume.put_all(shown)
    volume.save(tmp_path / 'mask.nii.gz')
    saved = read_nifti(tmp_path / 'mask.nii.gz')
    # highdicom has [slice, row, column], and may count slices the other way; so the places of the voxels are compared.
    values = np.asanyarray(saved.dataobj)
    assert values.any() and values.shape == (24, 20, 5)
    for place in np.argwhere(expected.array >= 0)[::7]:
        world = LPS_TO_RAS @ expected.affine @ [*place, 1]
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


def test_folders_that_are_no_volume(tmp_path):
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
    with pytest.raises(ValueError, match='1 of its 6 images lie where another lies'):
        Volume(tmp_path / 'twice')
    names = series(tmp_path / 'mixed', data)
    pydicom.dcmwrite(names[2], _with(names[2], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    with pytest.raises(ValueError, match='differ in size, orientation or spacing'):
        Volume(tmp_path / 'mixed')
    # A gap: the images can be shown and have a segmentation, but no affine.
    names = series(tmp_path / 'gap', data)
    Path(names[2]).unlink()
    volume = Volume(tmp_path / 'gap')
    volume.put_all(np.ones((4, 20, 24), np.uint8))
    with pytest.raises(ValueError, match='distances of its images differ by up to .* mm.*ends in .dcm'):
        volume.save(tmp_path / 'mask.nii.gz')
    with pytest.raises(ValueError, match='distances of its images differ'):
        Volume(tmp_path / 'gap', 'axial')
    volume.save(tmp_path / 'mask.dcm')
    assert highdicom.seg.segread(tmp_path / 'mask.dcm').NumberOfFrames == 4
    # Without positions the numbers of the images decide.
    series(tmp_path / 'nowhere', data, ImagePositionPatient=None, InstanceNumber=None)
    for number, path in enumerate(sorted((tmp_path / 'nowhere').iterdir())):
        pydicom.dcmwrite(path, _with(path, InstanceNumber=99 - number))
    source: Any = Volume(tmp_path / 'nowhere')._source
    numbers = [frame.file.header.InstanceNumber for frame in source.frames]
    assert numbers == sorted(numbers)


def _with(path: Any, **tags: Any) -> pydicom.Dataset:
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    return data


# ---- DICOM segmentations


def test_a_segmentation_of_a_series(tmp_path):
    data = voxels()
    names = series(tmp_path / 's', data)
    volume = Volume(tmp_path / 's')
    masks = {'Liver': data > 1500, '肿瘤': data < 300, 'x' * 80: (data > 900) & (data < 1000)}
    masks['肿瘤'][1:3] = False
    for label, mask in masks.items():
        volume.put_all(mask, label)
    legend = volume.save(tmp_path / 'seg.dcm')
    sources = [pydicom.dcmread(name) for name in names]
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    assert seg.segmentation_type.value == 'BINARY' and seg.number_of_segments == 3
    labels = [seg.get_segment_description(number).segment_label for number in (1, 2, 3)]
    assert labels == ['Liver', '肿瘤', 'x' * 64]
    for number in (1, 2, 3):
        description = seg.get_segment_description(number)
        assert description.algorithm_type.value == 'AUTOMATIC'
        algorithm = description.algorithm_identification
        assert algorithm is not None and algorithm.name == 'Citrus-V'
    pixels = seg.get_pixels_by_source_instance([source.SOPInstanceUID for source in sources])
    for number, mask in enumerate(masks.values()):
        assert np.array_equal(pixels[..., number], mask)
    # The same by pydicom alone: each frame says its segment, its place and its source.
    plain = pydicom.dcmread(tmp_path / 'seg.dcm')
    assert plain.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert plain.PatientID == sources[0].PatientID and plain.StudyInstanceUID == sources[0].StudyInstanceUID
    assert plain.SeriesInstanceUID != sources[0].SeriesInstanceUID and plain.Modality == 'SEG'
    places = {source.SOPInstanceUID: i for i, source in enumerate(sources)}
    frames = plain.pixel_array
    # Two slices have no tumour.
    assert len(frames) == 13
    for frame, groups in zip(frames, plain.PerFrameFunctionalGroupsSequence, strict=True):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.array_equal(frame, list(masks.values())[segment - 1][places[source]])
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == list(
            sources[places[source]].ImagePositionPatient)
    assert [entry['name'] for entry in legend['labels']] == list(masks) and legend['labels'][1]['hidden'] == 0
    # Structures that overlap keep all of their voxels.
    volume.put_all(data > 1000, 'More')
    legend = volume.save(tmp_path / 'seg.dcm')
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    pixels = seg.get_pixels_by_source_instance([source.SOPInstanceUID for source in sources])
    assert np.array_equal(pixels[..., 0], data > 1500) and np.array_equal(pixels[..., 3], data > 1000)
    assert not any(entry['hidden'] for entry in legend['labels'])


def test_segmentations_of_other_sources(tmp_path):
    """An enhanced multi-frame image, old multi-frame images without a place, one frame, planes across the frames."""
    data = np.random.default_rng(0).integers(-200, 200, (4, 16, 18)) * 4
    enhanced = enhanced_ct(tmp_path / 'enhanced.dcm', data, [(0, 200)] * 4, [1, 2, 4, 1])
    cine = dicom(
        tmp_path / 'cine.dcm',
        pixels=data + 1024,
        Modality='US',
        SOPClassUID=ULTRASOUND_MULTI_FRAME,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        FrameOfReferenceUID=None,
        PatientName=None,
        AccessionNumber=None)
    for path, plane in ((enhanced, None), (enhanced, 'sagittal')):
        volume = Volume(path, plane, '40,1')
        for index, image in volume:
            volume.put(index, bright(image), 'Bone')
        volume.save(tmp_path / 'seg.dcm')
        seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
        uid = pydicom.dcmread(path).SOPInstanceUID
        pixels = seg.get_pixels_by_source_frame(uid, [1, 2, 3, 4], assert_missing_frames_are_empty=True)
        assert np.array_equal(pixels[..., 0], data >= 40), (path, plane)
    # Without a place in the body there is no segmentation of several frames, but a label map that says so.
    volume = Volume(cine, window='0,1')
    for index, image in volume:
        volume.put(index, bright(image))
    with pytest.raises(ValueError, match='no Frame of Reference UID.*nii.gz instead'):
        volume.save(tmp_path / 'seg.dcm')
    assert 'do not say where they lie' in volume.save(tmp_path / 'cine.nii.gz')['place']
    saved = read_nifti(tmp_path / 'cine.nii.gz')
    assert np.array_equal(np.asanyarray(saved.dataobj).T, data >= 0) and 'place' not in Volume(enhanced).save(
        tmp_path / 'none.nii')
    with pytest.raises(ValueError, match='do not say where they lie'):
        Volume(cine, 'axial')
    volume = Volume(shipped(CT))
    volume.put(0, bright(volume.image(0)))
    volume.save(tmp_path / 'one.dcm')
    frame = pydicom.dcmread(tmp_path / 'one.dcm').pixel_array
    assert np.array_equal(frame, bright(volume.image(0))) and 0 < frame.mean() < 1
    # Nothing found is a finding.
    Volume(enhanced).save(tmp_path / 'none.dcm')
    assert not pydicom.dcmread(tmp_path / 'none.dcm').pixel_array.any()
    # What highdicom refuses is said in its words.
    with pytest.raises(ValueError, match='cannot have a DICOM segmentation: .*nii.gz instead'):
        Volume(dicom(tmp_path / 'a.dcm', StudyInstanceUID=None)).save(tmp_path / 'seg.dcm')


def test_names_of_segments():
    assert segment_labels(['a', 'a', ' a\\b\n', '', 'x' * 70,
                           'x' * 71]) == ['a', 'a (2)', 'a b', 'mask', 'x' * 64, 'x' * 60 + ' (2)']


# ---- one image


def test_masks_of_one_image(tmp_path):
    rng = np.random.default_rng(0)
    data = voxels()
    scan = nifti(tmp_path / 'scan.nii.gz', data, affine_of(np.eye(3)[[2, 0, 1]]))
    reference = f'{scan}#plane=coronal&index=3&window=1000,1'
    mask = bright(to_rgb(open_image(reference)))
    legend = save_masks(reference, {'Liver': mask}, tmp_path / 'mask.nii')
    saved = np.asanyarray(read_nifti(tmp_path / 'mask.nii').dataobj)
    # The first axis of the file lies along the second of the body.
    assert np.array_equal(saved[3], data[3] >= 1000) and saved.sum() == saved[3].sum() > 0
    assert legend['labels'][0]['voxels'] == int(mask.sum())
    with pytest.raises(ValueError, match='slices: say which'):
        save_masks(scan, {'Liver': mask}, tmp_path / 'mask.nii')
    save_masks(shipped(CT), {'Left': np.eye(128, dtype=bool)}, tmp_path / 'ct.dcm')
    assert np.array_equal(pydicom.dcmread(tmp_path / 'ct.dcm').pixel_array, np.eye(128))
    # A photograph: opened as a volume again, it lies as it did.
    Image.new('RGB', (9, 7)).save(tmp_path / 'photo.png')
    one, two = (rng.random((7, 9)) > .5).astype(np.uint8), np.eye(7, 9, dtype=np.uint8)
    legend = save_masks(str(tmp_path / 'photo.png'), {'one': one, 'two': two}, tmp_path / 'photo.nii.gz')
    assert legend['labels'][0]['hidden'] == int((one & two).sum())
    image = Volume(tmp_path / 'photo.nii.gz', window='1,2').image(0)
    assert np.array_equal(np.array(image)[..., 0], np.where(two, 255, one * 128))
    with pytest.raises(ValueError, match='no DICOM file'):
        save_masks(str(tmp_path / 'photo.png'), {'one': one}, tmp_path / 'photo.dcm')


# ---- a model on every slice


def fake(calls: list[int] | None = None) -> Any:
    """Finds what is bright and what is dark, and words it differently from slice to slice."""

    def segment(requests: list[tuple[Image.Image, str]]) -> list[Any]:
        if calls is not None:
            calls.append(len(requests))
        answers = []
        for image, prompt in requests:
            assert prompt == 'Segment.'
            pixels = np.array(image)[..., 0]
            masks = [
                SimpleNamespace(
                    array=bright(image), phrase=('The liver', 'liver', ' a  Liver')[pixels[0, 0] % 3], score=.9),
                SimpleNamespace(array=(pixels < 20).astype(np.uint8), phrase='背景', score=.8)
            ]
            answers.append(SimpleNamespace(text=f'{pixels[0, 0]}', masks=masks[:1 + int(pixels[0, 1]) % 2]))
        return answers

    return segment


def test_every_slice_is_asked_once(tmp_path):
    data = voxels()
    path = nifti(tmp_path / 'scan.nii', data, affine_of(np.eye(3)))
    calls: list[int] = []
    volume = Volume(path, 'coronal')
    records = segment_volume(volume, fake(calls), 'Segment.', batch_size=8)
    assert calls == [8, 8, 4] and [record['index'] for record in records] == list(range(20))
    alone = Volume(path, 'coronal')
    assert segment_volume(alone, fake(), 'Segment.', batch_size=1) == records
    assert set(volume.labels) == {'liver', '背景'}
    for label in volume.labels:
        assert np.array_equal(volume.array(label), alone.array(label))
    for index, image in volume:
        assert records[index]['text'] == str(np.array(image)[0, 0, 0])
        shown = volume._view.show(volume.array('liver')[:, index])
        assert np.array_equal(shown, bright(image)) and records[index]['masks'][0]['area'] == int(shown.sum())
    one = Volume(path, 'coronal')
    segment_volume(one, fake(), 'Segment.', indices=range(3, 5), label='Any')
    assert one.labels == ('Any', ) and sorted(one._masks['Any']) == [3, 4]
    with pytest.raises(ValueError, match='5 slices were asked about, and 0 answers came'):
        segment_volume(Volume(path, 'sagittal'), lambda requests: [], 'Segment.')
    with pytest.raises(ValueError, match='give 1 or more'):
        segment_volume(volume, fake(), 'Segment.', batch_size=0)
    assert label_of('The  Left Atrium') == 'left atrium' and label_of('') == 'mask' and label_of('左心房') == '左心房'


def test_the_command(tmp_path, capsys):
    assert _cli_volume.PLANES == planes.PLANES
    series(tmp_path / 's', voxels())

    def run(*options: str) -> int:
        arguments = ['volume', '--model', 'm', '--volume', str(tmp_path / 's'), '--prompt', 'Segment.', *options]
        return _cli_volume.run(_parser().parse_args(arguments), fake())

    assert run('--output', str(tmp_path / 'seg.dcm'), '--batch-size', '2') == 0
    seg = highdicom.seg.segread(tmp_path / 'seg.dcm')
    assert seg.number_of_segments == 2
    legend = json.loads((tmp_path / 'seg.json').read_text(encoding='utf-8'))
    assert legend['prompt'] == 'Segment.' and len(legend['slices']) == 5 and legend['model'] == 'm'
    output = capsys.readouterr()
    assert '5 of 5 slices of 20 x 24 pixels asked, 5 with masks' in output.out and 'slices/s' in output.err
    assert run('--output', str(tmp_path / 'm.nii.gz'), '--plane', 'sagittal', '--slices', '4:9', '--window',
               'bone') == 0
    assert '5 of 24 slices of 5 x 20 pixels asked' in capsys.readouterr().out
    saved = np.asanyarray(read_nifti(tmp_path / 'm.nii.gz').dataobj)
    # Sagittal slices are counted from the patient's left, which is where columns go.
    assert sorted(set(np.argwhere(saved)[:, 0])) == [15, 16, 17, 18, 19]
    for wrong in ('5:4', '0:25', 'a:b', '3'):
        with pytest.raises(ValueError, match='give A:B'):
            run('--output', 'm.nii.gz', '--plane', 'sagittal', '--slices', wrong)
    # Said before any model is loaded.
    for output_name, message in (('m.png', 'ends in .nii.gz'), ('m.dcm', 'no DICOM file')):
        path = nifti(tmp_path / 'a.nii', voxels())
        assert main(['volume', '--model', 'none', '--volume', path, '--prompt', 'x', '--output', output_name]) == 2
        assert message in capsys.readouterr().err
    assert main(['volume', '--model', 'm', '--volume', 'none.nii', '--prompt', 'x', '--output', 'a.nii']) == 2
    assert 'none.nii: No such file' in capsys.readouterr().err


def test_the_command_with_a_model(talkative_checkpoint, tmp_path, capsys):
    """Masks of the file are those that the model gives for each slice by itself."""
    from swift_citrusv.pipeline import CitrusVPipeline
    path = nifti(tmp_path / 'scan.nii.gz', voxels((60, 56, 3)), affine_of(np.eye(3)[[1, 0, 2]]))
    prompt, output = 'Segment the cell.', tmp_path / 'mask.nii.gz'
    assert main([
        'volume', '--model', talkative_checkpoint, '--volume', path, '--prompt', prompt, '--output',
        str(output), '--device', 'cpu', '--dtype', 'float32', '--batch-size', '2', '--label', 'cell',
        '--max-new-tokens', '24'
    ]) == 0
    capsys.readouterr()
    saved = np.asanyarray(read_nifti(output).dataobj)
    pipe = CitrusVPipeline(talkative_checkpoint, device='cpu')
    expected = np.zeros(saved.shape, bool)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(expected.astype(np.uint8), read_nifti(path).affine))
    assert canonical.shape == (56, 60, 3)
    for index in range(3):
        answer = pipe(f'{path}#index={index}', prompt, max_tokens=24)
        for mask in answer.masks:
            # Shown slices are [y, x] from front to back and right to left; the file has [y, x] of its own.
            expected[:, :, index] |= mask.array[::-1, ::-1] > 0
    assert expected.any() and np.array_equal(saved, expected)
