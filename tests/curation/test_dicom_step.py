"""Broken series made from the chest CT, and clean ones."""
import csv
import json
import nibabel
import numpy as np
import pydicom
import pytest
import shutil
from collections.abc import Callable
from pathlib import Path
from PIL import Image
from pydicom.uid import generate_uid
from support import chest, scans
from support.kills import kill_runs
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.data_files import read_json
from swift_citrusv.curation.dicom.series import DOUBTS, RULES
from swift_citrusv.curation.dicom.step import DicomStep
from swift_citrusv.curation.engine import Engine
from swift_citrusv.curation.run import run_steps
from swift_citrusv.curation.verify import problems
from swift_citrusv.files.images import open_image


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    """The files of the CT, from the feet to the head, and their folder."""
    folder = tmp_path_factory.mktemp('ct') / 'ct'
    return folder, [Path(path).name for path in chest.write_series(folder, 4)]


def _run(folder: Path, output: Path, *options: str) -> dict:
    assert main(['data', 'dicom', str(folder), '--output', str(output), *options]) == 0
    assert problems(str(output), quiet=True) == []
    return read_json(str(output / 'summary.json'))


def _table(output: Path) -> list[dict[str, str]]:
    with open(output / 'series.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def _rows(output: Path) -> list[dict]:
    return [json.loads(line) for path in sorted((output / 'rows').glob('*')) for line in path.open(encoding='utf-8')]


def _found(summary: dict) -> set[str]:
    return {rule for rule, item in summary['rules'].items() if len(item) > 1}


def _edit(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def test_a_clean_series_gives_a_row_for_each_slice(clean, tmp_path):
    folder, names = clean
    summary = _run(folder, tmp_path / 'out', '--question', 'What is this?', '--window', 'lung')
    assert summary['in'] == summary['kept'] == 133
    rows = _rows(tmp_path / 'out')
    by_place = sorted(rows, key=lambda row: row['slice'])
    assert [row['images'] for row in by_place] == [[f'{folder / name}#window=lung'] for name in names]
    assert by_place[0]['messages'] == [{'role': 'user', 'content': '<image>What is this?'}]
    assert by_place[5]['spacing_mm'] == [2.8125, 2.8125, 2.5] and by_place[5]['position_mm'] == [-180, -180, 12.5]
    assert {row['slices'] for row in rows} == {133} and by_place[0]['modality'] == 'CT'
    assert open_image(by_place[66]['images'][0]).size == (128, 128)
    line, = _table(tmp_path / 'out')
    assert line['verdict'] == 'kept' and line['plane'] == 'axial' and line['axes'] == 'LPS'
    assert line['extent_mm'] == '360 x 360 x 332.5' and line['missing'] == '0'
    report = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    assert '360 x 360 x 332.5' in report and '<img src="data:' in report


def _swap_uid(folder: Path, names: list[str]) -> None:
    uid = pydicom.dcmread(folder / names[40]).SOPInstanceUID
    _edit(folder / names[41], lambda data: setattr(data, 'SOPInstanceUID', uid))


def _cut(folder: Path, names: list[str]) -> None:
    content = (folder / names[60]).read_bytes()
    (folder / names[60]).write_bytes(content[:-5000])


def _copy_pixels(folder: Path, names: list[str]) -> None:
    pixels = pydicom.dcmread(folder / names[60]).PixelData
    _edit(folder / names[70], lambda data: setattr(data, 'PixelData', pixels))


def _blank(data: pydicom.Dataset) -> None:
    data.PixelData = bytes(len(data.PixelData))


def _smaller(data: pydicom.Dataset) -> None:
    data.PixelData = np.ascontiguousarray(data.pixel_array[:64, :64]).tobytes()
    data.Rows = data.Columns = 64


def _at(place: int, change: Callable[[pydicom.Dataset], None]) -> Callable[[Path, list[str]], None]:
    return lambda folder, names: _edit(folder / names[place], change)


def _all(change: Callable[[int, pydicom.Dataset], None], start: int = 0) -> Callable[[Path, list[str]], None]:

    def edit(folder: Path, names: list[str]) -> None:
        for number, name in enumerate(names[start:], start=start):
            _edit(folder / name, lambda data, number=number: change(number, data))  # type: ignore[misc]

    return edit


def _set(**values: object) -> Callable[[pydicom.Dataset], None]:

    def change(data: pydicom.Dataset) -> None:
        for name, value in values.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return change


def _every(**values: object) -> Callable[[Path, list[str]], None]:
    return _all(lambda _, data: _set(**values)(data))


def _move(number: int, data: pydicom.Dataset) -> None:
    x, y, z = data.ImagePositionPatient
    # A gantry of 15 degrees.
    data.ImagePositionPatient = [x, y + round(2.5 * number * float(np.tan(np.deg2rad(15))), 6), z]


def _across(number: int, data: pydicom.Dataset) -> None:
    x, y, _ = data.ImagePositionPatient
    data.ImagePositionPatient = [x, round(-180 + 2.5 * number, 6), round(.1 * number, 6)]


def _remove(first: int, stop: int) -> Callable[[Path, list[str]], None]:

    def remove(folder: Path, names: list[str]) -> None:
        for name in names[first:stop]:
            (folder / name).unlink()

    return remove


BROKEN: dict[str, tuple[str, Callable[[Path, list[str]], None], int]] = {
    'one slice is missing': ('gap', _remove(60, 61), 132),
    'twelve are missing': ('gap', _remove(60, 72), 121),
    'a slice lies elsewhere': ('uneven-spacing', _at(60, _set(ImagePositionPatient=[-180, -180, 151])), 133),
    'two at one position': ('same-position', _at(60, _set(ImagePositionPatient=[-180, -180, 147.5])), 133),
    'a slice beside the others': ('orientation', _at(60, _set(ImagePositionPatient=[-150, -180, 150])), 133),
    'positions run to the back': ('orientation', _all(_across), 133),
    'directions of no length': ('orientation', _every(ImageOrientationPatient=[1, 0, 0, 0, 0, 0]), 133),
    'directions that are not at right angles':
    ('orientation', _every(ImageOrientationPatient=[1, 0, 0, .5, .866025, 0]), 133),
    'front and back exchanged': ('orientation', _every(ImageOrientationPatient=[1, 0, 0, 0, -1, 0]), 133),
    'left and right exchanged': ('orientation', _every(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]), 133),
    'the other position of the patient': ('orientation', _every(PatientPosition='FFP'), 133),
    'a slice of another direction': ('mixed-orientation', _at(60,
                                                              _set(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), 133),
    'a tilted gantry': ('tilt', _all(_move), 133),
    'no position': ('missing-geometry', _at(60, _set(ImagePositionPatient=None)), 133),
    'no spacing': ('missing-geometry', _every(PixelSpacing=None), 133),
    'pixels of other sizes': ('mixed-spacing', _at(60, _set(PixelSpacing=[1, 1])), 133),
    'a smaller slice': ('mixed-size', _at(60, _smaller), 133),
    'two patients': ('mixed-patient', _at(60, _set(PatientID='another')), 133),
    'two modalities': ('mixed-modality', _at(60, _set(Modality='MR')), 133),
    'two frames of reference': ('mixed-frame', _at(60, _set(FrameOfReferenceUID='1.2.3.5')), 133),
    'other pixels': ('mixed-pixels', _at(60, _set(BitsStored=12, HighBit=11)), 133),
    'another intercept': ('rescale-mismatch', _at(60, _set(RescaleIntercept=0)), 133),
    'another slope from there on': ('rescale-mismatch', _all(lambda _, data: _set(RescaleSlope=2)(data), 90), 133),
    'a slope of 2 everywhere': ('rescale-mismatch', _every(RescaleSlope=2), 133),
    'no intercept': ('rescale-mismatch', _every(RescaleIntercept=None, RescaleSlope=None), 133),
    'pixels of 10 mm': ('impossible-extent', _every(PixelSpacing=[10, 10]), 133),
    'pixels of 0.03 mm': ('impossible-extent', _every(PixelSpacing=[.03, .03]), 133),
    'slices of 30 mm':
    ('impossible-extent', _all(lambda number, data: _set(ImagePositionPatient=[-180, -180, 30 * number])(data)), 133),
    'a thicker slice': ('mixed-spacing', _at(60, _set(SliceThickness=5)), 133),
    'two positions of the patient': ('mixed-orientation', _at(60, _set(PatientPosition='FFS')), 133),
    'two studies': ('mixed-study', _at(60, _set(StudyInstanceUID='1.2.3')), 133),
    'exchanged numbers': ('order',
                          _all(lambda number, data: _set(InstanceNumber={
                              60: 71,
                              70: 61
                          }.get(number, number + 1))(data)), 133),
    'exchanged locations': ('spacing-mismatch',
                            _all(lambda number, data: _set(SliceLocation={
                                60: 70,
                                70: 60
                            }.get(number, number) * 2.5)(data)), 133),
    'another distance in the header': ('spacing-mismatch', _every(SpacingBetweenSlices=5), 133),
    'a blank slice': ('blank-slice', _at(60, _blank), 133),
    'pixels twice': ('repeated-pixels', _copy_pixels, 133),
    'a UID twice': ('uid-conflict', _swap_uid, 133),
}


@pytest.mark.parametrize('name', BROKEN)
def test_each_kind_of_broken_series_is_named(clean, tmp_path, name):
    rule, breaks, count = BROKEN[name]
    shutil.copytree(clean[0], tmp_path / 'ct')
    breaks(tmp_path / 'ct', clean[1])
    summary = _run(tmp_path / 'ct', tmp_path / 'out')
    expected = {rule} | ({'spacing-mismatch'} if name == 'slices of 30 mm' else set())
    assert _found(summary) == expected, _table(tmp_path / 'out')
    verdict = 'review' if rule in DOUBTS else 'dropped'
    assert summary['in'] == summary[verdict] == count
    assert _table(tmp_path / 'out')[0]['verdict'] == verdict


@pytest.mark.parametrize('sign', [1, -1])
def test_locations_may_count_in_either_direction(clean, tmp_path, sign):
    shutil.copytree(clean[0], tmp_path / 'ct')
    _all(lambda number, data: _set(SliceLocation=round(sign * 2.5 * number + 100, 1))(data))(tmp_path / 'ct', clean[1])
    assert _run(tmp_path / 'ct', tmp_path / 'out')['kept'] == 133


def test_single_files_are_left_out_and_the_series_stays(clean, tmp_path):
    folder = tmp_path / 'scans'
    shutil.copytree(clean[0], folder / 'ct')
    names = clean[1]
    shutil.copy(folder / 'ct' / names[3], folder / 'ct' / 'again')
    shutil.copytree(clean[0], folder / 'once more')
    (folder / 'notes.txt').write_text('nothing')
    (folder / 'empty').write_bytes(b'')
    uid = pydicom.dcmread(folder / 'ct' / names[0]).SeriesInstanceUID
    scans.dicom(folder / 'scout.dcm', ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER'], SOPInstanceUID=generate_uid(),
                SeriesInstanceUID=uid)  # yapf: disable
    _cut(folder / 'ct', names)
    # The last one: at the end, a gap cannot be seen.
    report = pydicom.dcmread(scans.shipped('test-SR.dcm'))
    report.save_as(folder / 'report.dcm')
    summary = _run(folder, tmp_path / 'out')
    # The slice that was cut stands whole in the other folder.
    assert summary['kept'] == 133 and summary['merged'] == 133
    assert _found(summary) == {'duplicate', 'other-file', 'damaged', 'localizer', 'no-image'}
    assert summary['in'] == 133 * 2 + 5 and summary['dropped'] == 5
    line = next(line for line in _table(tmp_path / 'out') if line['images'] == '268')
    assert line['verdict'] == 'kept' and line['duplicates'] == '133' and line['slices'] == '133'


def test_a_damaged_slice_leaves_a_gap(clean, tmp_path):
    shutil.copytree(clean[0], tmp_path / 'ct')
    _cut(tmp_path / 'ct', clean[1])
    summary = _run(tmp_path / 'ct', tmp_path / 'out', '--broken', 'review')
    assert _found(summary) == {'damaged', 'gap'} and summary['dropped'] == 1 and summary['review'] == 132
    line = json.loads(next((tmp_path / 'out' / 'review').glob('*')).open(encoding='utf-8').readline())
    assert line['why'][0]['rule'] == 'gap' and line['row']['images'] and line['source'].startswith('ct/IM')


def test_workers_and_places_change_nothing(clean, tmp_path):
    shutil.copytree(clean[0], tmp_path / 'b' / 'ct')
    outputs = []
    for name, folder, workers in (('one', clean[0], 1), ('two', clean[0], 3), ('three', tmp_path / 'b' / 'ct', 1)):
        # Several parts.
        run_steps([DicomStep()], [str(folder)],
                  str(tmp_path / name),
                  Engine('local', workers),
                  shard_bytes=4000,
                  quiet=True)
        outputs.append(tmp_path / name)
    assert len(list((outputs[0] / 'rows').glob('*'))) > 3
    first = {path.relative_to(outputs[0]): path.read_bytes() for path in outputs[0].rglob('*') if path.is_file()}
    second = {path.relative_to(outputs[1]): path.read_bytes() for path in outputs[1].rglob('*') if path.is_file()}
    assert first[Path('series.csv')] == second[Path('series.csv')]
    assert [row['row_id'] for row in _rows(outputs[0])] == [row['row_id'] for row in _rows(outputs[2])]
    assert first == second


def test_killed_runs_give_the_same_bytes(clean, tmp_path):
    kill_runs(['data', 'dicom', str(clean[0])], tmp_path / 'out', 3, 0)


@pytest.mark.slow
def test_runs_killed_at_twenty_points_give_the_same_bytes(clean, tmp_path):
    kill_runs(['data', 'dicom', str(clean[0])], tmp_path / 'out', 20, 1)


def _nifti(path: Path, affine: np.ndarray | None = None, step: int = 4) -> nibabel.Nifti1Image:
    image: Any = nibabel.load(chest.folder() / 'cxr.nii.gz')
    values = np.asarray(image.dataobj)[::step, ::step].clip(-1024).astype(np.int16)
    own = image.affine @ np.diag([step, step, 1, 1])
    result = nibabel.Nifti1Image(values, own if affine is None else affine)
    result.set_sform(own if affine is None else affine, 1)
    result.set_qform(own if affine is None else affine, 1)
    nibabel.save(result, path)
    return result


def test_nifti_files_are_checked_too(tmp_path):
    folder = tmp_path / 'nifti'
    folder.mkdir()
    good = _nifti(folder / 'good.nii.gz')
    values, affine = np.asarray(good.dataobj), good.affine
    _nifti(folder / 'huge.nii.gz', affine @ np.diag([10, 10, 1, 1]))
    unset = nibabel.Nifti1Image(values, affine)
    unset.set_sform(None, 0)
    unset.set_qform(None, 0)
    nibabel.save(unset, folder / 'unset.nii.gz')
    sheared = affine.copy()
    sheared[0, 1] = 1.5
    other = nibabel.Nifti1Image(values, sheared)
    other.set_sform(sheared, 1)
    other.set_qform(None, 0)
    nibabel.save(other, folder / 'sheared.nii.gz')
    torn = nibabel.Nifti1Image(values, affine)
    flipped = affine @ np.diag([-1, 1, 1, 1])
    torn.set_sform(affine, 1)
    torn.set_qform(flipped, 1)
    nibabel.save(torn, folder / 'torn.nii.gz')
    jump = values.copy()
    jump[:, :, 60:] += 1024
    nibabel.save(nibabel.Nifti1Image(jump, affine), folder / 'jump.nii.gz')
    blank = values.copy()
    blank[:, :, 50] = -1024
    nibabel.save(nibabel.Nifti1Image(blank, affine), folder / 'blank.nii.gz')
    (folder / 'cut.nii.gz').write_bytes((folder / 'good.nii.gz').read_bytes()[:200000])
    shutil.copy(chest.folder() / 'mask.nii.gz', folder / 'labels.nii.gz')
    _run(folder, tmp_path / 'out')
    found = {Path(line['series']).name: (line['verdict'], line['rules']) for line in _table(tmp_path / 'out')}
    assert found == {
        'good.nii.gz': ('kept', ''), 'labels.nii.gz': ('kept', ''), 'huge.nii.gz': ('dropped', 'impossible-extent'),
        'unset.nii.gz': ('dropped', 'orientation'), 'sheared.nii.gz': ('dropped', 'orientation'),
        'torn.nii.gz': ('dropped', 'orientation'), 'jump.nii.gz': ('dropped', 'rescale-mismatch'),
        'blank.nii.gz': ('dropped', 'blank-slice'), 'cut.nii.gz': ('dropped', 'damaged')}  # yapf: disable
    line = next(line for line in _table(tmp_path / 'out') if line['series'].endswith('good.nii.gz'))
    assert line['extent_mm'] == '360 x 360 x 332.5' and line['plane'] == 'axial' and line['axes'] == 'LPS'
    row = next(row for row in _rows(tmp_path / 'out') if row['images'][0].endswith('good.nii.gz#index=30'))
    # The first pixel of an axial slice lies at the patient's right and front.
    expected = affine @ [0, 0, 30, 1]
    assert row['position_mm'][2] == pytest.approx(expected[2])
    assert row['position_mm'][0] == pytest.approx(-max(expected[0], (affine @ [127, 0, 30, 1])[0]), abs=1e-3)


def test_phases_are_volumes_of_one_series(tmp_path):
    values, _ = chest.voxels(8)
    folder, uid = tmp_path / 'mr', generate_uid()
    for phase in range(2):
        voxels = values[:20] + 1024 + phase
        tags = {'SeriesInstanceUID': uid, 'EchoTime': 10 * (phase + 1), 'SpacingBetweenSlices': 2.5, 'Modality': 'MR'}
        scans.series(folder / str(phase), voxels, first=(-180, -180, 0), spacing=(5.6, 5.6), step=2.5, **tags)
    summary = _run(folder, tmp_path / 'out')
    line, = _table(tmp_path / 'out')
    assert summary['kept'] == 40 and line['volumes'] == '2' and line['slices'] == '20'


def test_frames_of_one_file_are_slices(tmp_path):
    values, _ = chest.voxels(8)
    (tmp_path / 'ct').mkdir()
    # 48 x .75 mm are too little for a body.
    frames = np.tile(values[40:48], (1, 2, 2)).astype(np.int16)
    scans.enhanced_ct(tmp_path / 'ct' / 'a.dcm', frames, [(40, 400)] * 8, [1.] * 8)
    summary = _run(tmp_path / 'ct', tmp_path / 'out')
    assert summary['kept'] == 8, _table(tmp_path / 'out')
    assert [row['images'][0].partition('#')[2] for row in _rows(tmp_path / 'out')] == [f'frame={n}' for n in range(8)]
    assert _rows(tmp_path / 'out')[3]['spacing_mm'] == [.5, .75, 3]


def test_radiographs_and_ultrasounds_need_no_position(tmp_path):
    folder = tmp_path / 'films'
    folder.mkdir()
    for name in ('examples_ybr_color.dcm', 'JPEG2000.dcm', 'MR_small.dcm', 'examples_palette.dcm'):
        shutil.copy(scans.shipped(name), folder)
    summary = _run(folder, tmp_path / 'out', '--min-extent', '10')
    assert summary['dropped'] == 0 and summary['kept'] == summary['in'] > 4, _table(tmp_path / 'out')


def test_the_step_stands_first_in_a_recipe(clean, tmp_path, capsys):
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('- dicom: {question: Describe the image., window: lung}\n- dedup\n')
    output = tmp_path / 'out'
    assert main(['data', 'run', str(recipe), str(clean[0]), '--output', str(output)]) == 0
    summary = read_json(str(output / 'summary.json'))
    assert summary['in'] == summary['kept'] == 133 and problems(str(output), quiet=True) == []
    name = Path(clean[1][0]).name
    capsys.readouterr()
    assert main(['data', 'why', str(output), f'ct/{name}:1']) == 0
    assert 'In the end: kept' in capsys.readouterr().out
    recipe.write_text('- dedup\n- dicom\n')
    assert main(['data', 'run', str(recipe), str(clean[0]), '--output', str(tmp_path / 'b')]) == 2
    assert 'must be the first one' in capsys.readouterr().err


def test_bad_options_are_refused(clean, tmp_path, capsys):
    for options, words in ((('--max-extent', '0'), '--max-extent is 0'), (('--min-extent', '2000'), 'not below'),
                           (('--window', 'nothing'), '--window')):
        assert main(['data', 'dicom', str(clean[0]), '--output', str(tmp_path / 'o'), *options]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / 'none').mkdir()
    assert main(['data', 'dicom', str(tmp_path / 'none'), '--output', str(tmp_path / 'o')]) == 2
    assert 'empty folder' in capsys.readouterr().err


def test_every_rule_is_tried():
    tried = {rule for rule, *_ in BROKEN.values()}
    assert tried | {'other-file', 'no-image', 'damaged', 'duplicate', 'localizer', 'few-slices'} == set(RULES)


def test_rows_about_broken_series_are_dropped(clean, tmp_path, capsys):
    """By the output of the step: rows of a sound series stay, whatever their window, and so do those without slices."""
    good, bad = tmp_path / 'scans' / 'good', tmp_path / 'scans' / 'bad'
    for folder in (good, bad):
        shutil.copytree(clean[0], folder)
    names, uid = clean[1], generate_uid()
    for name in names:
        _edit(bad / name, lambda data: setattr(data, 'SeriesInstanceUID', uid))
        _edit(bad / name, lambda data: setattr(data, 'SOPInstanceUID', generate_uid()))
        _edit(bad / name,
              lambda data: setattr(data, 'ImagePositionPatient', [0, 0, float(data.ImagePositionPatient[2])]))
    (bad / names[50]).unlink()
    assert main(['data', 'dicom', str(tmp_path / 'scans'), '--output', str(tmp_path / 'series')]) == 0
    image = tmp_path / 'a.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8)).save(image)
    rows = tmp_path / 'rows.jsonl'
    named = [f'{good}/{names[3]}#window=bone', f'{bad}/{names[3]}', str(image), f'{good}/{names[4]}']
    rows.write_text('\n'.join(json.dumps({
        'messages': [{'role': 'user', 'content': '<image>What is seen?'}, {'role': 'assistant', 'content': 'A lung.'}],
        'images': [name]}) for name in named))  # yapf: disable
    arguments = ['data', 'filter', str(rows), '--min-tokens', '1', '--series']
    assert main([*arguments, str(tmp_path / 'series'), '--output', str(tmp_path / 'out')]) == 0
    assert [row['images'][0] for row in _rows(tmp_path / 'out')] == [named[0], *named[2:]]
    assert read_json(str(tmp_path / 'out' / 'summary.json'))['rules']['unsound-series']['dropped'] == 1
    assert main([*arguments, str(tmp_path / 'out'), '--output', str(tmp_path / 'other')]) == 2
    assert 'is not the output of `citrusv data dicom`' in capsys.readouterr().err
