"""Segmentations of sources whose headers lack what DICOM requires, or break its rules."""
import highdicom
import json
import numpy as np
import pydicom
import pytest
from pathlib import Path
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from support.scans import enhanced_ct, item, read_nifti, rotation, sequence, series
from support.volumes import put_all, voxels
from typing import Any

from swift_citrusv.volumes import volume as volume_module
from swift_citrusv.volumes.seg_source import complete_sources
from swift_citrusv.volumes.volume import Volume

sitk = pytest.importorskip('SimpleITK')

# Without these, nobody knows where a voxel lies, or there is no image.
GEOMETRY = {'ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing', 'Rows', 'Columns', 'SamplesPerPixel',
            'PhotometricInterpretation', 'BitsAllocated', 'PixelRepresentation', 'PixelData', 'BitsStored',
            'HighBit'}  # yapf: disable
OBLIQUE = tuple(rotation(25)[:, :2].T.reshape(-1))
# Values as careless software writes them, some with what nobody may read.
ODD = {
    'StudyTime': ['11:27:24', '***', '99', 'noon'],
    'StudyDate': ['***', '2004.01.19', '20040231', '19/01/04'],
    'PatientBirthDate': ['***', '1/2/99', '1999-02-01', 'ERIKA'],
    'PatientSex': ['X', '***', 'female', 'm'],
    'PatientAge': ['9', 'nine'],
    'PatientWeight': ['abc', '1,5'],
    'PatientID': ['x' * 100],
    'AccessionNumber': ['y' * 40],
    'StudyID': ['z' * 40],
    'StudyInstanceUID': ['abc', '', '1.02.3'],
    'SeriesInstanceUID': ['abc', ''],
    'SOPInstanceUID': ['abc', ''],
    'FrameOfReferenceUID': ['', 'abc'],
    'SOPClassUID': ['', '1.2.3'],
    'SliceThickness': ['', '0', 'thick'],
    'SpacingBetweenSlices': ['', '0', '5', '-2.5', 'x'],
    'Modality': ['', '??'],
    'ImageType': [''],
    'InstanceNumber': ['', 'one'],
    'ReferringPhysicianName': ['x' * 90],
}


def changed(source: pydicom.Dataset, name: str, text: str | None) -> pydicom.Dataset:
    """A copy of a header without an element, or with this text in it, valid or not."""
    data = pydicom.Dataset()
    data.update(source)
    data.file_meta = source.file_meta
    if text is None:
        if name in data:
            del data[name]
        return data
    tag, raw = Tag(name), text.encode()
    data[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(raw), raw, 0, False, True)
    return data


def positions(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where the voxels of a mask lie, sorted: float [n, 3]."""
    points = (affine @ np.c_[np.argwhere(array), np.ones(int((array > 0).sum()))].T).T[:, :3]
    return points[np.lexsort(np.round(points, 2).T)]


def by_simpleitk(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return positions(sitk.GetArrayFromImage(image).T > 0, affine)


def by_highdicom(path: Path) -> np.ndarray:
    found = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return positions(found.array > 0, found.affine)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """An oblique series, its headers, a mask in all slices, and where the mask lies by SimpleITK's reading of it."""
    folder = tmp_path_factory.mktemp('source') / 's'
    names = series(folder, voxels(), OBLIQUE)
    mask = np.zeros((5, 20, 24), np.uint8)
    mask[:, 3:9, 4:12] = 1
    mask[2, 10:14, 2:5] = 1
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    # SimpleITK's order of slices is that of their normal, as ours.
    return folder, [pydicom.dcmread(name, stop_before_pixels=True) for name in names], mask, positions(mask.T, affine)


def problem_of(folder: Path, headers: list[Any], mask: np.ndarray, expected: np.ndarray, path: Path) -> str | None:
    """What is wrong with the segmentation of a series with these headers; None if nothing is."""
    volume = Volume(folder)
    by_place = {str(header.ImagePositionPatient): header for header in headers}
    source: Any = volume._source
    for file in source.files:
        file.header = by_place[str(file.header.ImagePositionPatient)]
    before = [header.to_json() for header in headers] if all(map(is_readable, headers)) else None
    if not volume.check_output(path):
        return 'not taken for a DICOM segmentation'
    put_all(volume, mask, 'a')
    legend = volume.save(path)
    if 'instead' in legend:
        return legend['instead']
    for name, found in (('SimpleITK', by_simpleitk(path)), ('highdicom', by_highdicom(path))):
        if found.shape != expected.shape or np.abs(found - expected).max() > 1e-3:
            return f'{name} reads it at another place'
    if before is not None and before != [header.to_json() for header in headers]:
        return 'the headers of the source were changed'
    written = pydicom.dcmread(path)
    for element in written:
        if element.VR in ('DA', 'TM', 'UI', 'CS') and element.value:
            for value in element.value if element.VM > 1 else [element.value]:
                pydicom.valuerep.validate_value(element.VR, str(value), pydicom.config.RAISE)
    return None


def is_readable(header: Any) -> bool:
    try:
        header.to_json()
    except Exception:
        return False
    return True


def test_without_any_attribute(source, tmp_path):
    """Each attribute of the headers is left out in turn, in all images and in one."""
    folder, headers, mask, expected = source
    names = [element.keyword for element in headers[0] if element.keyword and element.keyword not in GEOMETRY]
    assert len(names) > 60 and 'FrameOfReferenceUID' in names
    problems = {}
    for name in names:
        for which in (headers, headers[1:2]) if name in ODD else (headers, ):
            given = [changed(header, name, None) if header in which else header for header in headers]
            problems[name, len(which)] = problem_of(folder, given, mask, expected, tmp_path / 'a.dcm')
    assert not any(problems.values()), {name: problem for name, problem in problems.items() if problem}
    bare = headers
    for name in names:
        bare = [changed(header, name, None) for header in bare]
    assert problem_of(folder, bare, mask, expected, tmp_path / 'bare.dcm') is None


def test_with_odd_values(source, tmp_path):
    folder, headers, mask, expected = source
    problems = {}
    for name, texts in ODD.items():
        for text in texts:
            given = [changed(header, name, text) for header in headers]
            problems[name, text] = problem_of(folder, given, mask, expected, tmp_path / 'a.dcm')
            legend = json.loads((tmp_path / 'a.json').read_text(encoding='utf-8'))
            if len(text) > 3 and text in json.dumps(legend.get('completed', [])):
                problems[name, text] = 'the legend repeats the value'
    assert not any(problems.values()), {case: problem for case, problem in problems.items() if problem}


def test_what_is_completed(source):
    _, headers, _, _ = source

    def completed(name, text):
        data, notes = complete_sources([changed(header, name, text) for header in headers], 2.5)
        return [header.get(name) for header in data], ' '.join(notes)

    assert completed('StudyTime', '11:27:24')[0] == ['112724'] * 5
    assert completed('StudyDate', '2004.01.19')[0] == ['20040119'] * 5
    for name, text, words in (('StudyTime', '***', 'StudyTime was not valid and is empty'),
                              ('PatientAge', 'nine', 'PatientAge was not valid and is left out'),
                              ('PatientSex', 'X', 'PatientSex was not M, F or O'),
                              ('PatientName', None, 'PatientName was missing and is empty'),
                              ('SliceThickness', None, 'SliceThickness was missing, and is the distance'),
                              ('SpacingBetweenSlices', '5', 'SpacingBetweenSlices contradicted the positions')):
        assert words in completed(name, text)[1], name
    # Always the same UIDs, other ones for another series.
    for name in ('StudyInstanceUID', 'FrameOfReferenceUID', 'SeriesInstanceUID'):
        one, notes = completed(name, None)
        assert len(set(one)) == 1 and one == completed(name, None)[0] and f'{name} was missing' in notes
        other = [
            changed(changed(header, 'SeriesInstanceUID', '1.2.3'), 'SOPInstanceUID', '1.2.4') for header in headers
        ]
        assert complete_sources([changed(header, name, None) for header in other])[0][0].get(name) != one[0]
    uids, notes = completed('SOPInstanceUID', '1.2.3')
    assert len(set(uids)) == 5 and 'not unique' in notes
    assert not complete_sources(headers, 2.5)[1] or 'SpacingBetweenSlices' in complete_sources(headers, 2.5)[1][0]


def test_spacing_and_orientation_in_each_frame(tmp_path):
    """Legal in enhanced images."""
    data = np.random.default_rng(0).integers(-200, 200, (4, 16, 18)) * 4
    path = enhanced_ct(tmp_path / 'a.dcm', data, [(0, 200)] * 4, [1] * 4)
    enhanced = pydicom.dcmread(path)
    shared = enhanced.SharedFunctionalGroupsSequence[0]
    for frame in enhanced.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence = sequence(PixelSpacing=[.5, .75], SliceThickness=2)
        frame.PlaneOrientationSequence = sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for name in ('PixelMeasuresSequence', 'PlaneOrientationSequence'):
        delattr(shared, name)
    if not len(shared):
        del enhanced.SharedFunctionalGroupsSequence
    enhanced.save_as(path)
    volume = Volume(path)
    put_all(volume, data > 0)
    legend = volume.save(tmp_path / 'seg.dcm')
    assert any('PixelMeasuresSequence stands in each frame' in note for note in legend['completed'])
    expected = positions((data > 0).transpose(2, 1, 0), np.array([[.75, 0, 0, -10], [0, .5, 0, -20], [0, 0, 3, 0],
                                                                  [0, 0, 0, 1]]))  # yapf: disable
    for found in (by_simpleitk(tmp_path / 'seg.dcm'), by_highdicom(tmp_path / 'seg.dcm')):
        assert np.allclose(found, expected, atol=1e-3)


def test_two_stacks_in_one_file(tmp_path):
    """What one message advises, the next command does."""
    data = np.random.default_rng(0).integers(-200, 200, (4, 16, 18)) * 4
    path = enhanced_ct(tmp_path / 'a.dcm', data, [(0, 200)] * 4, [1] * 4)
    enhanced = pydicom.dcmread(path)
    shared = enhanced.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    for number, frame in enumerate(enhanced.PerFrameFunctionalGroupsSequence):
        directions = [1, 0, 0, 0, 1, 0] if number < 2 else [0, 1, 0, 0, 0, -1]
        frame.PlaneOrientationSequence = sequence(ImageOrientationPatient=directions)
    enhanced.save_as(path)
    with pytest.raises(ValueError, match='2 stacks, which differ in orientation'):
        Volume(path, 'axial')
    written = 0
    for name in ('mask.dcm', 'mask.nii.gz'):
        volume = Volume(path)
        put_all(volume, data > 0)
        try:
            volume.check_output(tmp_path / name)
        except ValueError as e:
            other = '.nii.gz' if name.endswith('.dcm') else '.dcm'
            assert other in str(e)
            continue
        legend = volume.save(tmp_path / name)
        assert 'instead' not in legend and (tmp_path / name).exists()
        written += 1
    assert written


def test_masks_are_never_lost(source, tmp_path, monkeypatch):
    """A failure that nobody foresaw: a label map, or for structures that overlap an archive, beside the name."""
    folder, _, mask, _ = source
    real = volume_module.write_dicom_seg

    def fails(path, *args, **kwargs):
        if isinstance(path, Path):
            raise ValueError('Unforeseen. Write a .nii.gz instead.')
        return real(path, *args, **kwargs)

    monkeypatch.setattr(volume_module, 'write_dicom_seg', fails)
    volume = Volume(folder)
    put_all(volume, mask, 'a')
    assert volume.check_output(tmp_path / 'seg.dcm')
    legend = volume.save(tmp_path / 'seg.dcm')
    assert legend['instead'].startswith('Unforeseen') and legend['file'] == 'seg.nii.gz'
    assert np.array_equal(np.asanyarray(read_nifti(tmp_path / 'seg.nii.gz').dataobj).T, mask)
    put_all(volume, 1 - mask[:, ::-1], '肝')
    legend = volume.save(tmp_path / 'seg.dcm')
    assert legend['file'] == 'seg.npz' and not (tmp_path / 'seg.dcm').exists()
    with np.load(tmp_path / 'seg.npz') as saved:
        assert saved['labels'].tolist() == ['a', '肝']
        assert np.array_equal(saved['mask_1'].T, mask) and np.array_equal(saved['mask_2'].T, 1 - mask[:, ::-1])
    assert json.loads((tmp_path / 'seg.json').read_text(encoding='utf-8')) == legend


def test_no_value_of_a_header_in_an_error(source):
    """highdicom's messages may hold values."""
    _, headers, mask, _ = source
    given = [changed(header, 'ImageOrientationPatient', None) for header in headers]
    with pytest.raises(ValueError) as error:
        volume_module.write_dicom_seg(Path('never.dcm'), mask, ['a'], given)
    assert str(error.value).startswith('The source does not support a DICOM segmentation: ')
    assert item(PatientName='x') is not None
