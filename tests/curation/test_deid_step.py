"""The step on rows and on folders: names, pseudonyms, the law, the proof."""
import json
import numpy as np
import os
import pydicom
import pytest
from pathlib import Path
from PIL import Image
from support import deid, scans
from support.kills import kill_runs
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.data_files import read_json
from swift_citrusv.curation.deid.pseudonyms import Pseudonyms
from swift_citrusv.curation.deid.step import DeidStep
from swift_citrusv.curation.engine import Engine
from swift_citrusv.curation.run import run_steps
from swift_citrusv.curation.verify import problems
from swift_citrusv.files.images import open_image
from swift_citrusv.files.rules import FileRules


def _folder(top: Path) -> Path:
    """Rows about a CT, a radiograph and a mask, all with names."""
    data = top / 'data'
    data.mkdir()
    scans.dicom(data / 'JANE_ROE.dcm', PatientName='ROE^JANE', PatientID='4711', StudyInstanceUID='1.2.3.4')
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (70, 80), np.uint8)).save(
        data / 'xray.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0', comment=b'Jane Roe')
    Image.fromarray(np.eye(128, dtype=np.uint8) * 255).save(data / 'mask_roe.png')
    rows = [
        {'messages': [{'role': 'user', 'content': '<image>What does Roe have?'},
                      {'role': 'assistant', 'content': 'Jane Roe (MRN: 4711) has a nodule of 5 mm: [SEG].'}],
         'images': [f'{data}/JANE_ROE.dcm#window=lung'], 'masks': [{'path': f'{data}/mask_roe.png'}], 'patient': '4711',
         'study': '1.2.3.4', 'note': {'by': 'Dr. Emily Watson', 'score': 0.5, 'list': ['call 555-123-4567', 3]}},
        {'messages': [{'role': 'user', 'content': '<image>Findings?'}, {'role': 'assistant', 'content': 'Clear.'}],
         'images': [f'{data}/xray.jpg'], 'patient': 4711, 'series': 'S 1'},
        {'messages': [{'role': 'user', 'content': 'What is a rib?'}, {'role': 'assistant', 'content': 'A bone.'}]},
        {'messages': [{'role': 'user', 'content': 'Number 1234567890123?'}, {'role': 'assistant', 'content': 'Yes.'}]},
        {'messages': [{'role': 'user', 'content': '<image>a'}, {'role': 'assistant', 'content': 'b'}],
         'images': [f'{data}/missing.png']},
        {'messages': [{'role': 'user', 'content': '<video>a'}, {'role': 'assistant', 'content': 'b'}],
         'videos': [f'{data}/a.mp4']},
        {'messages': [{'role': 'user', 'content': '<image>a'}, {'role': 'assistant', 'content': 'b'}],
         'images': ['data:image/png;base64,AAAA']}]  # yapf: disable
    path = top / 'rows.jsonl'
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), encoding='utf-8')
    return path


def _run(inputs: list[Path], output: Path, workers: int = 1, **values: Any) -> dict[str, Any]:
    options = deid.options(**{'engines': (), **values})
    summary = run_steps([DeidStep(options)], [str(item) for item in inputs], str(output), Engine('local', workers),
                        shard_bytes=1024, quiet=True)  # yapf: disable
    assert summary is not None and problems(str(output), quiet=True) == []
    return summary


def _lines(output: Path, kind: str = 'rows') -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((output / kind).glob('*')) for line in path.open(encoding='utf-8')]


def test_rows_and_their_files(tmp_path):
    rows = _folder(tmp_path)
    summary = _run([rows], tmp_path / 'out', keep=('patient', ))
    assert (summary['in'], summary['changed'], summary['kept'], summary['review']) == (7, 2, 1, 4)
    first, second, third = _lines(tmp_path / 'out')
    names = Pseudonyms(deid.KEY)
    assert first['messages'][0]['content'] == '<image>What does [KNOWN-IDENTITY] have?'
    assert first['messages'][1]['content'] == '[KNOWN-IDENTITY] (MRN: [KNOWN-IDENTITY]) has a nodule of 5 mm: [SEG].'
    assert first['note'] == {'by': 'Dr. [NAME]', 'score': 0.5, 'list': ['call [PHONE]', 3]}
    assert first['patient'] == second['patient'] == names.patient('4711')
    assert first['study'] == names.uid('1.2.3.4') and second['series'].startswith('S')
    name, _, fragment = first['images'][0].partition('#')
    assert fragment == 'window=lung' and name.startswith(f'files/{first["patient"]}/')
    cleaned = pydicom.dcmread(tmp_path / 'out' / name)
    assert cleaned.PatientID == first['patient'] and cleaned.StudyInstanceUID == first['study']
    # As a trainer would open them.
    rules = FileRules(image_dir=str(tmp_path / 'out'))
    assert open_image(first['images'][0], rules).size == (128, 128)
    assert open_image(second['images'][0], rules).size == (80, 70)
    assert np.array_equal(np.asarray(open_image(first['masks'][0]['path'], rules)), np.eye(128, dtype=np.uint8) * 255)
    assert third == {**json.loads(rows.read_text(encoding='utf-8').split('\n')[2]), 'row_id': third['row_id']}
    # No name is left in any byte of the output.
    for path in (tmp_path / 'out').rglob('*'):
        if path.is_file() and path.suffix != '.parquet':
            content = path.read_bytes()
            assert not [word for word in (b'Roe', b'ROE', b'Watson', b'1.2.3.4', b'Emily') if word in content], path


def test_what_cannot_be_cleaned_is_for_a_person(tmp_path):
    rows = _folder(tmp_path)
    _run([rows], tmp_path / 'out')
    review = {line['line']: line for line in _lines(tmp_path / 'out', 'review')}
    assert sorted(review) == [4, 5, 6, 7]
    assert [review[line]['why'][0]['rule'] for line in sorted(review)] == [
        'unsure-number', 'cannot-clean', 'media', 'cannot-clean']  # yapf: disable
    assert 'no such file' in review[5]['why'][0]['detail'] and 'inside of the row' in review[7]['why'][0]['detail']
    # The number is not shown there either.
    assert '1234567890123' not in json.dumps(review[4])


def test_files_are_found_wherever_they_stand(tmp_path):
    """Inside of messages, and in columns that nobody has told us of."""
    _folder(tmp_path)
    data = tmp_path / 'data'
    ct = f'{data}/JANE_ROE.dcm'
    parts = [{'type': 'image', 'image': ct}, {'type': 'image_url', 'image_url': {'url': f'{data}/xray.jpg'}},
             {'type': 'text', 'text': 'What does Jane Roe have?'}]  # yapf: disable
    lines = [
        {'messages': [{'role': 'user', 'content': parts}, {'role': 'assistant', 'content': 'A nodule.'}]},
        {'messages': [{'role': 'user', 'content': '<image>A'}, {'role': 'assistant', 'content': 'B'}], 'images': [ct],
         'scan': ct, 'notes': {'from': f'{data}/xray.jpg'}},
        {'messages': [{'role': 'user', 'content': 'A'}, {'role': 'assistant', 'content': 'B'}], 'scan': 'ROE/JANE.dcm'},
        {'messages': [{'role': 'user', 'content': [{'type': 'video', 'video': 'a.mp4'}]},
                      {'role': 'assistant', 'content': 'B'}]}]  # yapf: disable
    rows = tmp_path / 'rows.jsonl'
    rows.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    summary = _run([rows], tmp_path / 'out')
    assert (summary['changed'], summary['review']) == (2, 2)
    first, second = _lines(tmp_path / 'out')
    image, address, text = first['messages'][0]['content']
    names = [image['image'], address['image_url']['url'], second['scan'], second['notes']['from'], second['images'][0]]
    assert image['type'] == 'image' and text['text'] == 'What does [KNOWN-IDENTITY] have?'
    assert all(name.startswith('files/') and (tmp_path / 'out' / name).is_file() for name in names)
    # A name of a file that is not there tells something, too.
    assert 'JANE' not in json.dumps(_lines(tmp_path / 'out', 'review'))


def test_workers_change_no_byte(tmp_path):
    rows = _folder(tmp_path)
    for name, workers in (('one', 1), ('three', 3)):
        _run([rows], tmp_path / name, workers)
    first, second = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob('*')
                      if path.is_file()} for name in ('one', 'three'))  # yapf: disable
    assert first == second and len(first) > 6


def test_workers_share_files(tmp_path):
    """Rows of all parts name the same images, which several workers clean at a time."""
    rows = _folder(tmp_path)
    first = rows.read_text(encoding='utf-8').split('\n')[:2]
    rows.write_text('\n'.join(first * 60), encoding='utf-8')
    summary = _run([rows], tmp_path / 'out', 4)
    assert summary['in'] == summary['changed'] == 120
    assert len([path for path in (tmp_path / 'out' / 'files').rglob('*') if path.is_file()]) == 3


def _scans(top: Path) -> list[str]:
    folder = top / 'scans'
    folder.mkdir()
    for number in range(40):
        scans.dicom(folder / f'{number}.dcm', PatientID=f'{number // 10}', SOPInstanceUID=f'1.2.{number}')
    return ['data', 'deid', str(folder), '--no-pixels', '--key', str(top / 'key')]


def test_killed_runs_give_the_same_bytes(tmp_path):
    kill_runs(_scans(tmp_path), tmp_path / 'out', 3, 0)


@pytest.mark.slow
def test_runs_killed_at_twenty_points_give_the_same_bytes(tmp_path):
    kill_runs(_scans(tmp_path), tmp_path / 'out', 20, 1)


def test_another_key_gives_other_names(tmp_path):
    rows = _folder(tmp_path)
    _run([rows], tmp_path / 'a')
    options = deid.options(engines=())
    other = DeidStep(type(options)(deid.RULES, b'another key of the tests', engines=()))
    run_steps([other], [str(rows)], str(tmp_path / 'b'), quiet=True)
    one, two = (_lines(tmp_path / name)[0] for name in ('a', 'b'))
    assert one['patient'] != two['patient'] and one['images'] != two['images'] and one['study'] != two['study']


def test_folders_of_files(tmp_path):
    _folder(tmp_path)
    folder = tmp_path / 'data'
    (folder / 'notes.txt').write_text('Jane Roe')
    pydicom.dcmread(scans.shipped('test-SR.dcm')).save_as(folder / 'report.dcm')
    summary = _run([folder], tmp_path / 'out')
    assert summary['in'] == 5 and summary['changed'] == 4 and summary['dropped'] == 1
    assert summary['rules']['other-file']['dropped'] == 1
    assert all((tmp_path / 'out' / row['images'][0]).is_file() for row in _lines(tmp_path / 'out'))


def test_a_later_step_finds_the_files(tmp_path, monkeypatch):
    rows = _folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('- deid: {no-pixels: true}\n- filter: {min-tokens: 1, min-pixels: 100}\n- dedup\n')
    assert main(['data', 'run', str(recipe), str(rows), '--output', 'out']) == 0
    summary = read_json('out/summary.json')
    # No image is missing to the filter.
    assert not [rule for rule, item in summary['rules']['02-filter'].items() if len(item) > 1]
    assert problems('out', quiet=True) == []
    assert all(os.path.exists(os.path.join('out', name.partition('#')[0])) for row in _lines(Path('out'))
               for name in row.get('images', ()))  # yapf: disable


def test_files_go_from_output_to_output(tmp_path, monkeypatch):
    """One command after another: each output has what its rows name."""
    rows = _folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(['data', 'deid', str(rows), '--output', 'one', '--no-pixels']) == 0
    assert main(['data', 'filter', 'one', '--output', 'two', '--min-tokens', '1', '--min-pixels', '100']) == 0
    assert main(['data', 'dedup', 'two', '--output', 'three']) == 0
    assert read_json('two/summary.json')['dropped'] == 0 and problems('three', quiet=True) == []
    names = [name.partition('#')[0] for row in _lines(Path('three')) for name in row.get('images', ())]
    assert len(names) == 2 and all(Path('three', name).is_file() for name in names)
    assert main(['data', 'stats', 'three', '--output', 'stats']) == 0
    assert 'not opened' not in read_json('stats/stats.json')['counts']['image sizes']


def test_rows_beside_files_are_not_lost(tmp_path, capsys):
    _folder(tmp_path)
    assert main(['data', 'deid', str(tmp_path), '--output', str(tmp_path / 'o'), '--key', str(tmp_path / 'k'),
                 '--no-pixels']) == 2  # yapf: disable
    assert 'rows.jsonl' in capsys.readouterr().err


def test_a_key_is_written_once(tmp_path, capsys):
    rows = _folder(tmp_path)
    key = tmp_path / 'secret.key'
    for name in ('a', 'b'):
        assert main(['data', 'deid',
                     str(rows), '--output',
                     str(tmp_path / name), '--key',
                     str(key), '--no-pixels']) == 0
    assert capsys.readouterr().out.count('Wrote a new key') == 1 and key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / 'a' / 'summary.json').read_bytes() == (tmp_path / 'b' / 'summary.json').read_bytes()
    assert key.read_text().strip() not in (tmp_path / 'a' / 'summary.json').read_text()
    key.write_text('short')
    assert main(['data', 'deid', str(rows), '--output', str(tmp_path / 'c'), '--key', str(key), '--no-pixels']) == 2
    assert 'too few for a key' in capsys.readouterr().err


def test_the_proof(tmp_path, capsys):
    deid.require_engines()
    rows = _folder(tmp_path)
    content = [line for line in rows.read_text(encoding='utf-8').split('\n')][:2]
    rows.write_text('\n'.join(content), encoding='utf-8')
    arguments = ['data', 'deid', str(rows), '--output', str(tmp_path / 'out'), '--key', str(tmp_path / 'k')]
    assert main([*arguments, '--prove', '2']) == 0
    assert 'Proof: 0 of ' in capsys.readouterr().out
    proof = read_json(str(tmp_path / 'out' / 'proof.json'))
    assert set(proof['planted']) >= {'text, phone', 'header, name', 'pixels, read by rapidocr_onnxruntime'}
    assert sum(proof['planted'].values()) > 80 and not any(proof['survived'].values())
    assert 'What survived' in (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')


def test_the_proof_finds_what_survives(tmp_path, monkeypatch, capsys):
    """Rules that know no phone numbers, by an edited file."""
    deid.require_engines()
    from swift_citrusv.package_files import templates_dir
    text = (templates_dir() / 'deid_rules.yaml').read_text(encoding='utf-8')
    start, stop = text.index('  phone:'), text.index('  record-number:')
    rules = tmp_path / 'rules.yaml'
    rules.write_text(text[:start] + text[stop:], encoding='utf-8')
    rows = _folder(tmp_path)
    assert main(['data', 'deid', str(rows), '--output', str(tmp_path / 'out'), '--key', str(tmp_path / 'k'), '--rules',
                 str(rules), '--prove', '1']) == 1  # yapf: disable
    proof = read_json(str(tmp_path / 'out' / 'proof.json'))
    assert proof['survived']['text, phone'] >= 1 and proof['survivors'][0]['kind'] == 'text, phone'


@pytest.mark.parametrize('options, words', [(['--key', ''], 'key'), (['--keep', 'nothing'], 'invalid choice')])
def test_bad_options_are_refused(tmp_path, options, words, capsys):
    rows = _folder(tmp_path)
    try:
        status = main(['data', 'deid', str(rows), '--output', str(tmp_path / 'o'), '--no-pixels', *options])
    except SystemExit as error:
        status = int(str(error))
    assert status == 2 and words in capsys.readouterr().err
