"""`citrusv eval volume` on files: names, grids, formats, faults, and scores worked out by hand."""
import json
import nibabel
import numpy as np
import pytest
from pathlib import Path
from support.scans import nifti, series
from support.volumes import put_all

from swift_citrusv.cli.main import main
from swift_citrusv.scoring.volumes.case_files import case_name, read_names
from swift_citrusv.scoring.volumes.grids import GridMap
from swift_citrusv.scoring.volumes.label_volume import read_label_volume
from swift_citrusv.volumes.volume import Volume

AFFINE = np.diag([-.8, -.9, 2.5, 1.])
AFFINE[:3, 3] = 60, 40, -20


def labels(seed: int, shape=(16, 14, 6)) -> np.ndarray:
    """A label map with 1 and 2, and 3 in odd cases."""
    rng = np.random.default_rng(seed)
    values = np.zeros(shape, np.uint8)
    for value in (1, 2) + (3, ) * (seed % 2):
        start = [int(rng.integers(0, size - 4)) for size in shape[:2]]
        values[start[0]:start[0] + 5, start[1]:start[1] + 4, 1:4] = value
    return values


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def run(folder: Path, *options: str, code: int = 0) -> dict:
    output = folder / 'out'
    arguments = ['eval', 'volume', '--pred', str(folder / 'pred'), '--ref', str(folder / 'ref'), '--output',
                 str(output), '--repeats', '50', *options]  # yapf: disable
    assert main(arguments) == code
    return json.loads((output / 'scores.json').read_text(encoding='utf-8')) if not code else {}


@pytest.fixture
def cases(tmp_path):
    """Five cases, predictions shifted by a voxel, in folders with other endings of names."""
    truth, drawn = {}, {}
    for kind in ('ref', 'pred'):
        (tmp_path / kind).mkdir()
    for number in range(5):
        truth[number] = labels(number)
        drawn[number] = np.roll(truth[number], 1, axis=0)
        nifti(tmp_path / 'ref' / f'case_{number}_seg.nii.gz', truth[number], AFFINE)
        nifti(tmp_path / 'pred' / f'case_{number}.nii', drawn[number].astype(np.float32), AFFINE)
    return tmp_path, truth, drawn


def by_case(scores: dict, column: str) -> dict:
    found: dict = {}
    cases = scores['per_case']
    for own, value in zip(cases['id'], cases['columns'][column]):
        found.setdefault(own, []).append(value)
    return found


def test_folders_by_label_and_patient(cases, capsys):
    folder, truth, drawn = cases
    (folder / 'labels.csv').write_text('label,name\n1,Liver\n2,Left kidney\n3,Tumour\n')
    table = ['id,patient,scanner', *(f'case_{n},p{n // 2},{"AB"[n % 2]}' for n in range(5))]
    (folder / 'cases.csv').write_text('\n'.join(table))
    scores = run(folder, '--labels', str(folder / 'labels.csv'), '--table', str(folder / 'cases.csv'), '--by',
                 'scanner')
    expected = {f'case_{n}': [dice(truth[n] == value, drawn[n] == value) for value in (1, 2, 3)
                              if (truth[n] == value).any()]
                for n in range(5)}  # yapf: disable
    found = by_case(scores, 'dice')
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name
    assert set(scores['groups']['label']) == {'Liver', 'Left kidney', 'Tumour'}
    assert set(scores['groups']['scanner']) == {'A', 'B'} and scores['interval']['drawn_together'] == 'patient'
    assert scores['interval']['clusters'] == 3
    liver = [dice(truth[n] == 1, drawn[n] == 1) for n in range(5)]
    assert scores['groups']['label']['Liver']['dice']['value'] == pytest.approx(np.mean(liver))
    assert scores['measures']['hd95']['label'] == 'hd95 (mm)' and scores['measures']['nsd']['label'] == 'nsd (2 mm)'
    # A shift by a voxel of 0.8 mm.
    assert max(value for values in by_case(scores, 'hd95').values() for value in values) == pytest.approx(.8)
    out = capsys.readouterr().out
    assert 'hd95 (mm), lower is better' in out and 'Left kidney' in out and 'volume_error (mL)' in out
    page = (folder / 'out' / 'report.html').read_text(encoding='utf-8')
    assert page.count('<article') >= 6 and 'case_1 (references.jsonl' in page and 'data:image' in page
    only = run(folder, '--only', 'liver', '--labels', str(folder / 'labels.csv'))
    assert set(only['groups']['label']) == {'Liver'} and only['cases'] == 5


def test_missing_extra_and_broken(cases):
    """Nothing is dropped: each is counted, and scored as the rules say."""
    folder, truth, drawn = cases
    (folder / 'pred' / 'case_0.nii').unlink()
    nifti(folder / 'pred' / 'case_9.nii.gz', labels(9), AFFINE)
    (folder / 'pred' / 'case_1.nii').write_bytes(b'broken')
    nifti(folder / 'pred' / 'case_2.nii', drawn[2], np.diag([1., 1., 1., 1.]))
    more = drawn[3].copy()
    more[more == 2] = 0
    more[0, 0, 0] = 7
    nifti(folder / 'pred' / 'case_3.nii', more, AFFINE)
    scores = run(folder)
    assert {kind: count for kind, count in scores['found'].items() if count} == {
        'missing': 1, 'unknown': 1, 'malformed': 2}  # yapf: disable
    problems = ' '.join(scores['examples']['malformed'])
    assert 'case_1.nii' in problems and 'its voxels are not those of the reference' in problems
    assert scores['flags']['no_answer'] == 2 + 3 + 2 and scores['flags']['missing_label'] == 1
    assert scores['flags']['extra_label'] == 1 and scores['flags']['hd95_diagonal'] == 9
    found = by_case(scores, 'dice')
    assert found['case_0'] == [0, 0] and sorted(found['case_3'])[:2] == [0, 0] and len(found['case_3']) == 4
    diagonal = np.linalg.norm(np.array([.8, .9, 2.5]) * truth[0].shape)
    assert by_case(scores, 'hd95')['case_0'] == pytest.approx([diagonal] * 2)
    resampled = run(folder, '--resample')
    assert resampled['found']['malformed'] == 1


def test_the_same_voxels_in_another_order(cases):
    """Axes in another order and direction, as other programs write them."""
    folder, truth, drawn = cases
    plain = run(folder)
    for number in range(5):
        path = folder / 'pred' / f'case_{number}.nii'
        image = nibabel.Nifti1Image(drawn[number], AFFINE)
        turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
        assert turned.shape != image.shape
        nibabel.save(turned, path)
    for column in ('dice', 'hd95', 'nsd', 'volume_difference'):
        one, two = by_case(run(folder), column), by_case(plain, column)
        assert all(one[name] == pytest.approx(two[name]) for name in two), column


def test_what_citrusv_volume_writes(tmp_path):
    """A label map with its legend, and a DICOM segmentation of part of the slices, against each other."""
    voxels = np.zeros((6, 20, 24), np.int16)
    series(tmp_path / 's', voxels)
    masks = {'liver': np.zeros(voxels.shape, np.uint8), 'Left-kidney': np.zeros(voxels.shape, np.uint8)}
    masks['liver'][2:5, 3:9, 4:12] = 1
    masks['Left-kidney'][1:3, 12:16, 2:7] = 1
    for kind, suffix in (('ref', '.nii.gz'), ('pred', '.dcm')):
        volume = Volume(tmp_path / 's')
        for name, mask in masks.items():
            drawn = mask if kind == 'ref' or name == 'liver' else np.roll(mask, 1, axis=2)
            put_all(volume, drawn, name if kind == 'ref' else name.upper().replace('-', '_'))
        (tmp_path / kind).mkdir()
        volume.save(tmp_path / kind / f'patient{suffix}')
    scores = run(tmp_path)
    assert set(scores['groups']['label']) == {'liver', 'Left-kidney'} and scores['cases'] == 2
    assert scores['groups']['label']['liver']['dice']['value'] == 1
    kidney = masks['Left-kidney'] > 0
    assert scores['groups']['label']['Left-kidney']['dice']['value'] == pytest.approx(
        dice(kidney, np.roll(kidney, 1, axis=2)))
    # Two files are one case.
    assert main([
        'eval', 'volume', '--pred',
        str(tmp_path / 'pred' / 'patient.dcm'), '--ref',
        str(tmp_path / 'ref' / 'patient.nii.gz'), '--output',
        str(tmp_path / 'two'), '--no-report'
    ]) == 0


def test_a_file_for_each_label_and_channels(tmp_path):
    """As TotalSegmentator writes them, against one map; and a fourth axis with a channel for each label."""
    truth = labels(1)
    names = {1: 'liver', 2: 'kidney_left', 3: 'tumour'}
    for value, name in names.items():
        (tmp_path / 'ref' / 'a').mkdir(parents=True, exist_ok=True)
        nifti(tmp_path / 'ref' / 'a' / f'{name}.nii.gz', (truth == value).astype(np.uint8), AFFINE)
    (tmp_path / 'pred').mkdir()
    nifti(tmp_path / 'pred' / 'a.nii.gz', truth, AFFINE)
    (tmp_path / 'pred' / 'a.json').write_text(
        json.dumps({'labels': [{
            'value': value,
            'name': name
        } for value, name in names.items()]}))
    scores = run(tmp_path)
    assert scores['cases'] == 3 and scores['scores']['dice']['value'] == 1
    nifti(tmp_path / 'c.nii.gz', np.stack([truth == value for value in (1, 2, 3)], -1).astype(np.uint8), AFFINE)
    volume = read_label_volume(str(tmp_path / 'c.nii.gz'))
    assert [label.value for label in volume.labels] == [1, 2, 3]
    assert all(np.array_equal(volume.mask(label), truth == label.value) for label in volume.labels)


def test_lists_of_files(cases):
    folder, _, _ = cases
    for kind, column in (('ref', 'ref'), ('pred', 'pred')):
        lines = [json.dumps({'id': case_name(path.name), column: str(path), 'site': 'x'})
                 for path in sorted((folder / kind).iterdir())]  # yapf: disable
        (folder / f'{kind}.jsonl').write_text('\n'.join(lines))
    files = ['--pred', str(folder / 'pred.jsonl'), '--ref', str(folder / 'ref.jsonl'), '--by', 'site']
    assert main(['eval', 'volume', *files, '--output', str(folder / 'lists'), '--no-report', '--workers', '1']) == 0
    lists = json.loads((folder / 'lists' / 'scores.json').read_text(encoding='utf-8'))
    assert lists['scores']['dice'] == pytest.approx(run(folder)['scores']['dice'], nan_ok=True)


def test_what_cannot_be_scored(cases, capsys):
    folder, _, _ = cases

    def error(*options: str) -> str:
        assert main(['eval', 'volume', *options, '--output', str(folder / 'x')]) == 2
        return capsys.readouterr().err

    ref, pred = str(folder / 'ref'), str(folder / 'pred')
    assert 'Give --pred and --ref' in error('--pred', pred)
    assert 'No such file' in error('--pred', str(folder / 'none'), '--ref', ref)
    assert 'Give two folders, or two label maps' in error('--pred', pred, '--ref',
                                                          str(folder / 'ref' / 'case_0_seg.nii.gz'))
    assert 'draw the masks with `citrusv volume`' in error('--model', 'x', '--ref', ref)
    (folder / 'empty').mkdir()
    assert 'has no label map' in error('--pred', pred, '--ref', str(folder / 'empty'))
    nifti(folder / 'ref' / 'case_0.nii', labels(0), AFFINE)
    assert "two label maps of the case 'case_0'" in error('--pred', pred, '--ref', ref)
    (folder / 'ref' / 'case_0.nii').unlink()
    (folder / 'cases.csv').write_text('id,patient\ncase_0,a\n')
    assert "no line for the case 'case_1'" in error('--pred', pred, '--ref', ref, '--table', str(folder / 'cases.csv'))
    nifti(folder / 'ref' / 'case_0_seg.nii.gz', np.full((16, 14, 6), .5, np.float32), AFFINE)
    assert 'not whole numbers' in error('--pred', pred, '--ref', ref)


def test_names():
    for file, name in (('a_seg.nii.gz', 'a'), ('case_07_0000.nii.gz', 'case_07'), ('b-label.nii', 'b'), ('c.dcm', 'c'),
                       ('x_y_pred.nii.gz', 'x_y'), ('patient.1.nii.gz', 'patient.1'), ('seg.nii.gz', 'seg')):
        assert case_name(file) == name, file


def test_files_of_names(tmp_path):
    expected = ((1, 'liver'), (2, 'left kidney'))
    for name, text in (('a.csv', 'label,name\n1,liver\n2,left kidney\n'), ('b.csv', '1,liver\n2,left kidney\n'),
                       ('c.csv', 'name,label\nliver,1\nleft kidney,2\n'), ('d.json',
                                                                           '{"1": "liver", "2": "left kidney"}'),
                       ('e.json', '{"labels": {"background": 0, "liver": 1, "left kidney": 2}}'),
                       ('f.json', '{"labels": [{"value": 1, "name": "liver"}, {"value": 2, "name": "left kidney"}]}')):
        (tmp_path / name).write_text(text)
        assert read_names(str(tmp_path / name)) == expected, name
    for name, text in (('g.csv', 'liver\n'), ('h.json', '[1]'), ('i.json', '{"a": "b"}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match='does not name labels'):
            read_names(str(tmp_path / name))


def test_grids():
    mask = np.random.default_rng(0).random((4, 5, 6)) < .5
    part = AFFINE.copy()
    part[:3, 3] = (AFFINE @ [2, 3, 1, 1])[:3]
    whole = GridMap(mask.shape, part, (10, 11, 9), AFFINE)(mask)
    assert np.array_equal(whole[2:6, 3:8, 1:7], mask) and whole.sum() == mask.sum()
    with pytest.raises(OSError, match='lie outside the reference'):
        GridMap(mask.shape, part, (4, 5, 6), AFFINE)(mask)
    half = AFFINE.copy()
    half[:3, 3] += .4
    with pytest.raises(OSError, match=r'voxels of 0.8 x 0.9 x 2.5 mm from \(60.4, 40.4, -19.6\)'):
        GridMap(mask.shape, half, mask.shape, AFFINE)
    assert GridMap(mask.shape, half, mask.shape, AFFINE, resample=True)(mask).any()
