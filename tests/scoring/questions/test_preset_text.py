"""Presets of text benchmarks: tiny files in their published formats."""
import json
import pytest
import zipfile
from pathlib import Path
from support.benchmark_files import (checked_rows, medmcqa_rows, png, prompt_of, write_csv, write_json, write_lines,
                                     write_parquet)
from typing import Any

from swift_citrusv.errors import RowError

PUBMEDQA = {str(pmid): {'QUESTION': f'Does {pmid}?', 'CONTEXTS': ['It may.', 'It does.'], 'LABELS': ['A', 'B'],
                        'final_decision': decision, 'LONG_ANSWER': 'Long.', 'YEAR': '2011'}
            for pmid, decision in ((21645374, 'yes'), (16418930, 'no'), (9488747, 'maybe'))}  # yapf: disable


def test_pubmedqa(tmp_path):
    path = write_json(tmp_path / 'data' / 'ori_pqal.json', PUBMEDQA)
    with pytest.raises(ValueError, match='test_ground_truth.json'):
        checked_rows('pubmedqa', str(path))
    assert [row['answer'] for row in checked_rows('pubmedqa', str(path), 'all')] == ['A', 'B', 'C']
    write_json(tmp_path / 'data' / 'test_ground_truth.json', {'21645374': 'yes', '9488747': 'maybe'})
    for source in (path, tmp_path / 'data', tmp_path):
        found = checked_rows('pubmedqa', str(source))
        assert [(row['id'], row['answer']) for row in found] == [('pubmedqa:21645374', 'A'), ('pubmedqa:9488747', 'C')]
    assert found[0]['options'] == ['yes', 'no', 'maybe']
    assert prompt_of(found[0]) == ('It may.\nIt does.\n\nDoes 21645374?\nA. yes\nB. no\nC. maybe\n'
                                   'Answer with the letter of the right option.')
    test_set = write_json(tmp_path / 'test_set.json', PUBMEDQA)
    assert len(checked_rows('pubmedqa', str(test_set))) == 3


def test_pubmedqa_parquet(tmp_path):
    path = write_parquet(tmp_path / 'pqa_labeled' / 'train-00000-of-00001.parquet', [{
        'pubid': 1,
        'question': 'Does it?',
        'context': {
            'contexts': ['Yes.'],
            'labels': ['X']
        },
        'final_decision': 'yes'
    }, {
        'pubid': 2,
        'question': 'Is it?',
        'context': {
            'contexts': ['No.'],
            'labels': ['X']
        },
        'final_decision': 'no'
    }])
    assert [row['id'] for row in checked_rows('pubmedqa', str(tmp_path), 'all')] == ['pubmedqa:1', 'pubmedqa:2']
    write_json(path.parent / 'test_ground_truth.json', {'2': 'no'})
    assert [row['context'] for row in checked_rows('pubmedqa', str(path))] == ['No.']
    nested = write_parquet(tmp_path / 'nested' / 'test-00000-of-00001.parquet', [{
        'id': 'x',
        'data': {
            'Question': 'Does it?',
            'Context': ['It does.'],
            'Correct Answer': 'yes',
            'Correct Option': 'A',
            'Options': {
                'A': 'yes',
                'B': 'no',
                'C': 'maybe'
            }
        }
    }])
    row, = checked_rows('pubmedqa', str(nested))
    assert (row['id'], row['answer'], row['context']) == ('pubmedqa:x', 'A', 'It does.')


@pytest.mark.parametrize('form, cops, answers', [
    ('json', (1, 4, 2), 'ADB'), ('parquet', (0, 3, 1), 'ADB'), ('json', (1, 2), 'AB'), ('parquet', (1, 2), 'BC'),
    ('json', (0, 3), 'AD'), ('parquet', (4, 1), 'DA'),
])  # yapf: disable
def test_medmcqa(tmp_path, form, cops, answers):
    """Where neither 0 nor 4 is in a file, its form decides, else the values do."""
    write = write_lines if form == 'json' else write_parquet
    write(tmp_path / ('dev.json' if form == 'json' else 'validation-00000-of-00001.parquet'), medmcqa_rows(*cops))
    found = checked_rows('medmcqa', str(tmp_path))
    assert ''.join(row['answer'] for row in found) == answers
    assert (found[0]['id'], found[0]['topic'], found[0]['options']) == ('medmcqa:q0', 'Anatomy', ['w', 'x', 'y', 'z'])


@pytest.mark.parametrize('cops, said', [((0, 4), 'mixes two releases'), ((-1, -1), 'has no answers'),
                                        ((1, 7, 4), "'7'")])
def test_medmcqa_refuses(tmp_path, cops, said):
    path = write_lines(tmp_path / 'dev.json', medmcqa_rows(*cops))
    with pytest.raises(ValueError, match=said):
        checked_rows('medmcqa', str(path))


def test_medmcqa_zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / 'data.zip', 'w') as archive:
        for name in ('data/dev.json', 'data/train.json', '__MACOSX/data/._dev.json'):
            archive.writestr(name, json.dumps(medmcqa_rows(4)[0]) + '\n' if 'MACOSX' not in name else b'\0')
    assert [row['answer'] for row in checked_rows('medmcqa', str(tmp_path / 'data.zip'))] == ['D']


def test_medqa(tmp_path):
    row: dict[str, Any] = {'question': 'A 23-year-old woman?', 'answer': 'Nitrofurantoin', 'options': {
        'A': 'Ampicillin', 'B': 'Ceftriaxone', 'C': 'Doxycycline', 'D': 'Nitrofurantoin'}, 'meta_info': 'step2&3',
        'answer_idx': 'D', 'metamap_phrases': []}  # yapf: disable
    write_lines(tmp_path / 'questions' / 'US' / '4_options' / 'phrases_no_exclude_test.jsonl', [row, row])
    write_lines(tmp_path / 'questions' / 'US' / 'test.jsonl', [{**row, 'question': 'Not this.'}])
    found = checked_rows('medqa', str(tmp_path))
    assert [(row['id'], row['answer'], row['topic']) for row in found] == [
        ('medqa:1', 'D', 'step2&3'), ('medqa:2', 'D', 'step2&3')]  # yapf: disable
    bigbio = write_parquet(tmp_path / 'test-00000-of-00001.parquet', [
        {**{key: row[key] for key in ('question', 'meta_info')}, 'answer': ['Nitrofurantoin'],
         'options': [{'key': key, 'value': value} for key, value in row['options'].items()]}])  # yapf: disable
    assert checked_rows('medqa', str(bigbio))[0]['answer'] == 'D'
    nested = write_parquet(tmp_path / 'nested.parquet', [{
        'id': 'n',
        'data': {
            'Question': 'Which?',
            'Options': row['options'],
            'Correct Option': 'D',
            'Correct Answer': 'Nitrofurantoin'
        }
    }])
    assert checked_rows('medqa', str(nested))[0]['id'] == 'medqa:n'


def test_medxpertqa(tmp_path):
    row = {
        'id': 'Text-0',
        'question': 'Which step?\nAnswer Choices: (A) one (B) two',
        'options': {
            'A': 'one',
            'B': 'two'
        },
        'label': 'B',
        'medical_task': 'Treatment',
        'body_system': 'Nervous',
        'question_type': 'Reasoning'
    }
    write_lines(tmp_path / 'Text' / 'test.jsonl', [row])
    write_lines(tmp_path / 'MM' / 'test.jsonl', [{**row, 'id': 'MM-1', 'images': ['MM-1-a.jpeg', 'MM-1-b.jpeg']}])
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'MM-1-a.jpeg').write_bytes(png(1))
    text, = checked_rows('medxpertqa-text', str(tmp_path))
    assert prompt_of(text) == 'Which step?\nA. one\nB. two\nAnswer with the letter of the right option.'
    assert (text['question_type'], text['topic'], text['body_system']) == ('Reasoning', 'Treatment', 'Nervous')
    for source in (tmp_path, tmp_path / 'MM' / 'test.jsonl'):
        image, = checked_rows('medxpertqa-mm', str(source))
        assert Path(image['images'][0]).samefile(tmp_path / 'images' / 'MM-1-a.jpeg')
        assert image['images'][1].endswith('MM-1-b.jpeg') and prompt_of(image).startswith('<image><image>Which step?')


def test_cmmlu(tmp_path):
    header = ['', 'Question', 'A', 'B', 'C', 'D', 'Answer']
    for subject in ('anatomy', 'virology', 'agronomy'):
        write_csv(tmp_path / 'test' / f'{subject}.csv', header, [0, '壁胸膜的分部不包括', '肋胸膜', '肺胸膜', '膈胸膜', '胸膜顶', 'B'])
        write_csv(tmp_path / 'dev' / f'{subject}.csv', header, [0, '?', 'w', 'x', 'y', 'z', 'A'])
    with zipfile.ZipFile(tmp_path / 'cmmlu_v1_0_1.zip', 'w') as archive:
        for path in sorted(tmp_path.glob('*/*.csv')):
            archive.write(path, path.relative_to(tmp_path).as_posix())
    for source in (tmp_path, tmp_path / 'cmmlu_v1_0_1.zip'):
        found = checked_rows('cmmlu', str(source))
        assert [(row['id'], row['topic'], row['answer']) for row in found] == [
            ('cmmlu:anatomy-1', 'anatomy', 'B'), ('cmmlu:virology-1', 'virology', 'B')]  # yapf: disable
        assert prompt_of(found[0]).endswith('D. 胸膜顶\n请直接给出正确选项的字母。')
    with pytest.raises(ValueError, match='no question of the split'):
        checked_rows('cmmlu', str(tmp_path / 'test' / 'agronomy.csv'))


def test_medbullets(tmp_path):
    header = ['link', 'question', 'opa', 'opb', 'opc', 'opd', 'ope', 'answer_idx', 'answer', 'explanation']
    write_csv(tmp_path / 'medbullets_op5.csv', header, ['x', 'Which?', 'v', 'w', 'x', 'y', 'z', 'E', 'z', 'a\nb'])
    write_csv(tmp_path / 'medbullets_op4.csv', [*header[:6], *header[7:], '', ''],
              ['x', 'Which?', 'v', 'w', 'x', 'y', 'C', 'x', '', '', ''])  # yapf: disable
    five, = checked_rows('medbullets', str(tmp_path))
    four, = checked_rows('medbullets', str(tmp_path), 'op4')
    assert (five['answer'], len(five['options']), four['answer'], len(four['options'])) == ('E', 5, 'C', 4)
    with pytest.raises(RowError, match='--split op4'):
        checked_rows('medbullets', str(tmp_path / 'medbullets_op4.csv'))
    columns = {name: {'0': value} for name, value in zip(header, ['x', 'Which?', *'vwxyz', 'E', 'z', ''])}
    by_column, = checked_rows('medbullets', str(write_json(tmp_path / 'medbullets_op5.json', columns)))
    assert by_column == five
    row = {'question': 'Which?', 'options': dict(zip('ABCDE', [*'vwxy', None])), 'answer': 'C'}
    assert checked_rows('medbullets', str(write_parquet(tmp_path / 'op4_test-0.parquet', [row])),
                        'op4')[0]['options'] == [*'vwxy']


def test_supergpqa(tmp_path):
    row = {'uuid': 'u1', 'question': 'Which?', 'options': ['v', 'w', 'x'], 'answer': 'x', 'answer_letter': 'C',
           'discipline': 'Medicine', 'field': 'Clinical Medicine', 'subfield': 'Surgery', 'difficulty': 'hard',
           'is_calculation': False}  # yapf: disable
    path = write_lines(tmp_path / 'SuperGPQA-all.jsonl', [{**row, 'discipline': 'Law', 'uuid': 'u0'}, row])
    found, = checked_rows('supergpqa', str(path))
    assert (found['id'], found['answer'], found['topic'], found['difficulty']) == (
        'supergpqa:u1', 'C', 'Clinical Medicine', 'hard')  # yapf: disable
