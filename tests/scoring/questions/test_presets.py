"""The presets of `citrusv eval qa`: tiny files in the published formats of each benchmark."""
import argparse
import csv
import io
import json
import pickle
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import re
import zipfile
from pathlib import Path
from PIL import Image
from typing import Any

from swift_citrusv.cli.eval import qa as _cli_eval_qa
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import Pair
from swift_citrusv.scoring.questions.presets import QA_PRESETS, preset_rows
from swift_citrusv.scoring.questions.qa import QATask, read_question
from swift_citrusv.settings import SettingError


def _json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    return path


def _jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in content), encoding='utf-8')
    return path


def _csv(path: Path, header: list[str], *lines: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *lines])
    return path


def _parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(content), path)
    return path


def _png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new('L', (4, 4), shade).save(file, 'PNG')
    return file.getvalue()


def _read(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """The rows; each is a question that the task scores as right when its own answer is given."""
    found = list(preset_rows(*args, **kwargs))
    for row in found:
        question = read_question(row, row['id'])
        assert question.kind == row['kind']
        case, = QATask().score(Pair(row['id'], row, {'response': f'The answer is {row["answer"]}.'}))
        assert case.values['correct'] == 1 and case.groups['dataset'] == row['dataset']
        assert [message['role'] for message in row['messages']] == ['user']
        assert row['messages'][0]['content'].count('<image>') == len(row.get('images', []))
    return found


def _prompt(row: dict[str, Any]) -> str:
    return row['messages'][0]['content']


# ---- text


PUBMEDQA = {str(pmid): {'QUESTION': f'Does {pmid}?', 'CONTEXTS': ['It may.', 'It does.'], 'LABELS': ['A', 'B'],
                        'final_decision': decision, 'LONG_ANSWER': 'Long.', 'YEAR': '2011'}
            for pmid, decision in ((21645374, 'yes'), (16418930, 'no'), (9488747, 'maybe'))}  # yapf: disable


def test_pubmedqa(tmp_path):
    path = _json(tmp_path / 'data' / 'ori_pqal.json', PUBMEDQA)
    with pytest.raises(ValueError, match='test_ground_truth.json'):
        _read('pubmedqa', str(path))
    assert [row['answer'] for row in _read('pubmedqa', str(path), 'all')] == ['A', 'B', 'C']
    _json(tmp_path / 'data' / 'test_ground_truth.json', {'21645374': 'yes', '9488747': 'maybe'})
    for source in (path, tmp_path / 'data', tmp_path):
        found = _read('pubmedqa', str(source))
        assert [(row['id'], row['answer']) for row in found] == [('pubmedqa:21645374', 'A'), ('pubmedqa:9488747', 'C')]
    assert found[0]['options'] == ['yes', 'no', 'maybe']
    assert _prompt(found[0]) == ('It may.\nIt does.\n\nDoes 21645374?\nA. yes\nB. no\nC. maybe\n'
                                 'Answer with the letter of the right option.')
    test_set = _json(tmp_path / 'test_set.json', PUBMEDQA)
    assert len(_read('pubmedqa', str(test_set))) == 3


def test_pubmedqa_parquet(tmp_path):
    path = _parquet(tmp_path / 'pqa_labeled' / 'train-00000-of-00001.parquet', [{
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
    assert [row['id'] for row in _read('pubmedqa', str(tmp_path), 'all')] == ['pubmedqa:1', 'pubmedqa:2']
    _json(path.parent / 'test_ground_truth.json', {'2': 'no'})
    assert [row['context'] for row in _read('pubmedqa', str(path))] == ['No.']
    nested = _parquet(tmp_path / 'nested' / 'test-00000-of-00001.parquet', [{
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
    row, = _read('pubmedqa', str(nested))
    assert (row['id'], row['answer'], row['context']) == ('pubmedqa:x', 'A', 'It does.')


def _medmcqa(*cops: int) -> list[dict[str, Any]]:
    return [{'id': f'q{i}', 'question': 'Which?', 'opa': 'w', 'opb': 'x', 'opc': 'y', 'opd': 'z', 'cop': cop,
             'choice_type': 'single', 'exp': None, 'subject_name': 'Anatomy', 'topic_name': None}
            for i, cop in enumerate(cops)]  # yapf: disable


@pytest.mark.parametrize('form, cops, answers', [
    ('json', (1, 4, 2), 'ADB'), ('parquet', (0, 3, 1), 'ADB'), ('json', (1, 2), 'AB'), ('parquet', (1, 2), 'BC'),
    ('json', (0, 3), 'AD'), ('parquet', (4, 1), 'DA'),
])  # yapf: disable
def test_medmcqa(tmp_path, form, cops, answers):
    """Where neither 0 nor 4 is in a file, its form decides, else the values do."""
    write = _jsonl if form == 'json' else _parquet
    write(tmp_path / ('dev.json' if form == 'json' else 'validation-00000-of-00001.parquet'), _medmcqa(*cops))
    found = _read('medmcqa', str(tmp_path))
    assert ''.join(row['answer'] for row in found) == answers
    assert (found[0]['id'], found[0]['topic'], found[0]['options']) == ('medmcqa:q0', 'Anatomy', ['w', 'x', 'y', 'z'])


@pytest.mark.parametrize('cops, said', [((0, 4), 'mixes two releases'), ((-1, -1), 'has no answers'), ((1, 7, 4), "'7'")])
def test_medmcqa_refuses(tmp_path, cops, said):
    path = _jsonl(tmp_path / 'dev.json', _medmcqa(*cops))
    with pytest.raises(ValueError, match=said):
        _read('medmcqa', str(path))


def test_medmcqa_zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / 'data.zip', 'w') as archive:
        for name in ('data/dev.json', 'data/train.json', '__MACOSX/data/._dev.json'):
            archive.writestr(name, json.dumps(_medmcqa(4)[0]) + '\n' if 'MACOSX' not in name else b'\0')
    assert [row['answer'] for row in _read('medmcqa', str(tmp_path / 'data.zip'))] == ['D']


def test_medqa(tmp_path):
    row: dict[str, Any] = {'question': 'A 23-year-old woman?', 'answer': 'Nitrofurantoin', 'options': {
        'A': 'Ampicillin', 'B': 'Ceftriaxone', 'C': 'Doxycycline', 'D': 'Nitrofurantoin'}, 'meta_info': 'step2&3',
        'answer_idx': 'D', 'metamap_phrases': []}  # yapf: disable
    _jsonl(tmp_path / 'questions' / 'US' / '4_options' / 'phrases_no_exclude_test.jsonl', [row, row])
    _jsonl(tmp_path / 'questions' / 'US' / 'test.jsonl', [{**row, 'question': 'Not this.'}])
    found = _read('medqa', str(tmp_path))
    assert [(row['id'], row['answer'], row['topic']) for row in found] == [
        ('medqa:1', 'D', 'step2&3'), ('medqa:2', 'D', 'step2&3')]  # yapf: disable
    bigbio = _parquet(tmp_path / 'test-00000-of-00001.parquet', [
        {**{key: row[key] for key in ('question', 'meta_info')}, 'answer': ['Nitrofurantoin'],
         'options': [{'key': key, 'value': value} for key, value in row['options'].items()]}])  # yapf: disable
    assert _read('medqa', str(bigbio))[0]['answer'] == 'D'
    nested = _parquet(tmp_path / 'nested.parquet', [{
        'id': 'n',
        'data': {
            'Question': 'Which?',
            'Options': row['options'],
            'Correct Option': 'D',
            'Correct Answer': 'Nitrofurantoin'
        }
    }])
    assert _read('medqa', str(nested))[0]['id'] == 'medqa:n'


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
    _jsonl(tmp_path / 'Text' / 'test.jsonl', [row])
    _jsonl(tmp_path / 'MM' / 'test.jsonl', [{**row, 'id': 'MM-1', 'images': ['MM-1-a.jpeg', 'MM-1-b.jpeg']}])
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'MM-1-a.jpeg').write_bytes(_png(1))
    text, = _read('medxpertqa-text', str(tmp_path))
    assert _prompt(text) == 'Which step?\nA. one\nB. two\nAnswer with the letter of the right option.'
    assert (text['question_type'], text['topic'], text['body_system']) == ('Reasoning', 'Treatment', 'Nervous')
    for source in (tmp_path, tmp_path / 'MM' / 'test.jsonl'):
        image, = _read('medxpertqa-mm', str(source))
        assert Path(image['images'][0]).samefile(tmp_path / 'images' / 'MM-1-a.jpeg')
        assert image['images'][1].endswith('MM-1-b.jpeg') and _prompt(image).startswith('<image><image>Which step?')


def test_cmmlu(tmp_path):
    header = ['', 'Question', 'A', 'B', 'C', 'D', 'Answer']
    for subject in ('anatomy', 'virology', 'agronomy'):
        _csv(tmp_path / 'test' / f'{subject}.csv', header, [0, '壁胸膜的分部不包括', '肋胸膜', '肺胸膜', '膈胸膜', '胸膜顶', 'B'])
        _csv(tmp_path / 'dev' / f'{subject}.csv', header, [0, '?', 'w', 'x', 'y', 'z', 'A'])
    with zipfile.ZipFile(tmp_path / 'cmmlu_v1_0_1.zip', 'w') as archive:
        for path in sorted(tmp_path.glob('*/*.csv')):
            archive.write(path, path.relative_to(tmp_path).as_posix())
    for source in (tmp_path, tmp_path / 'cmmlu_v1_0_1.zip'):
        found = _read('cmmlu', str(source))
        assert [(row['id'], row['topic'], row['answer']) for row in found] == [
            ('cmmlu:anatomy-1', 'anatomy', 'B'), ('cmmlu:virology-1', 'virology', 'B')]  # yapf: disable
        assert _prompt(found[0]).endswith('D. 胸膜顶\n请直接给出正确选项的字母。')
    with pytest.raises(ValueError, match='no question of the split'):
        _read('cmmlu', str(tmp_path / 'test' / 'agronomy.csv'))


def test_medbullets(tmp_path):
    header = ['link', 'question', 'opa', 'opb', 'opc', 'opd', 'ope', 'answer_idx', 'answer', 'explanation']
    _csv(tmp_path / 'medbullets_op5.csv', header, ['x', 'Which?', 'v', 'w', 'x', 'y', 'z', 'E', 'z', 'a\nb'])
    _csv(tmp_path / 'medbullets_op4.csv', [*header[:6], *header[7:], '', ''],
         ['x', 'Which?', 'v', 'w', 'x', 'y', 'C', 'x', '', '', ''])  # yapf: disable
    five, = _read('medbullets', str(tmp_path))
    four, = _read('medbullets', str(tmp_path), 'op4')
    assert (five['answer'], len(five['options']), four['answer'], len(four['options'])) == ('E', 5, 'C', 4)
    with pytest.raises(RowError, match='--split op4'):
        _read('medbullets', str(tmp_path / 'medbullets_op4.csv'))
    columns = {name: {'0': value} for name, value in zip(header, ['x', 'Which?', *'vwxyz', 'E', 'z', ''])}
    by_column, = _read('medbullets', str(_json(tmp_path / 'medbullets_op5.json', columns)))
    assert by_column == five
    row = {'question': 'Which?', 'options': dict(zip('ABCDE', [*'vwxy', None])), 'answer': 'C'}
    assert _read('medbullets', str(_parquet(tmp_path / 'op4_test-0.parquet', [row])), 'op4')[0]['options'] == [*'vwxy']


def test_supergpqa(tmp_path):
    row = {'uuid': 'u1', 'question': 'Which?', 'options': ['v', 'w', 'x'], 'answer': 'x', 'answer_letter': 'C',
           'discipline': 'Medicine', 'field': 'Clinical Medicine', 'subfield': 'Surgery', 'difficulty': 'hard',
           'is_calculation': False}  # yapf: disable
    path = _jsonl(tmp_path / 'SuperGPQA-all.jsonl', [{**row, 'discipline': 'Law', 'uuid': 'u0'}, row])
    found, = _read('supergpqa', str(path))
    assert (found['id'], found['answer'], found['topic'], found['difficulty']) == (
        'supergpqa:u1', 'C', 'Clinical Medicine', 'hard')  # yapf: disable


# ---- images


def test_vqa_rad(tmp_path):
    row = {'qid': '1', 'phrase_type': 'freeform', 'image_name': 'synpic54610.jpg', 'image_organ': 'HEAD',
           'question': 'Are regions of the brain infarcted?', 'question_type': 'PRES', 'answer': 'Yes',
           'answer_type': 'CLOSED', 'question_rephrase': 'NULL'}  # yapf: disable
    path = _json(tmp_path / 'VQA_RAD Dataset Public.json', [
        row, {**row, 'qid': 2, 'phrase_type': 'test_freeform', 'answer_type': 'CLOSED '},
        {**row, 'qid': 3, 'phrase_type': 'test_para', 'answer': 4, 'answer_type': 'OPEN'},
        {**row, 'qid': 3, 'phrase_type': 'test_para', 'answer': 'CT', 'answer_type': 'CLOSED'}])  # yapf: disable
    (tmp_path / 'VQA_RAD Image Folder').mkdir()
    (tmp_path / 'VQA_RAD Image Folder' / 'synpic54610.jpg').write_bytes(_png(1))
    found = _read('vqa-rad', str(path))
    assert [(row['id'], row['kind'], row['answer']) for row in found] == [
        ('vqa-rad:2', 'closed', 'Yes'), ('vqa-rad:3', 'open', '4'), ('vqa-rad:3#2', 'closed', 'CT')]  # yapf: disable
    assert found[0]['images'] == [str(tmp_path / 'VQA_RAD Image Folder' / 'synpic54610.jpg')]
    assert _prompt(found[0]) == '<image>Are regions of the brain infarcted?\nAnswer with yes or no.'
    assert [_prompt(row).endswith('a single word or a short phrase.') for row in found] == [False, True, True]
    assert [row['id'] for row in _read('vqa-rad', str(tmp_path), 'train')] == ['vqa-rad:1']


def test_slake(tmp_path):
    row = {
        'img_id': 102,
        'img_name': 'xmlab102/source.jpg',
        'question': 'What modality?',
        'answer': 'MRI',
        'q_lang': 'en',
        'location': 'Abdomen',
        'modality': 'MRI',
        'answer_type': 'OPEN',
        'base_type': 'vqa',
        'content_type': 'Modality',
        'triple': ['vhead', '_', '_'],
        'qid': 11934
    }
    _json(tmp_path / 'test.json', [row, {**row, 'question': '图中有肝脏吗？', 'answer': '有', 'q_lang': 'zh', 'qid': 11935,
                                         'answer_type': 'CLOSED'}])  # yapf: disable
    english, chinese = _read('slake', str(tmp_path), images='/data/slake')
    assert english['images'] == ['/data/slake/xmlab102/source.jpg'] and english['modality'] == 'MRI'
    assert (chinese['kind'], chinese['language'], chinese['id']) == ('closed', 'zh', 'slake:11935')
    assert _prompt(chinese) == '<image>图中有肝脏吗？\n请用一个词回答。'


def test_path_vqa(tmp_path):
    content = [{
        'image': {
            'bytes': _png(shade),
            'path': None
        },
        'question': 'is it?',
        'answer': answer
    } for shade, answer in ((1, 'yes'), (1, 'in the canals of hering'), (2, 'no'))]
    _parquet(tmp_path / 'data' / 'test-00000-of-00003-e9adadb4799f44d3.parquet', content)
    found = _read('path-vqa', str(tmp_path), image_output=str(tmp_path / 'out'))
    assert [row['kind'] for row in found] == ['closed', 'open', 'closed']
    first, second, third = (row['images'][0] for row in found)
    assert first == second != third and Image.open(third).getpixel((0, 0)) == 2
    assert len(list((tmp_path / 'out').iterdir())) == 2
    assert all(row['images'] == [] for row in _read('path-vqa', str(tmp_path)))
    (tmp_path / 'test_vqa.pkl').write_bytes(pickle.dumps([{'image': 'test_0001', 'question': 'x', 'answer': 'y'}]))
    with pytest.raises(ValueError, match='is a pickle'):
        _read('path-vqa', str(tmp_path / 'test_vqa.pkl'))
    (tmp_path / 'pickles').mkdir()
    (tmp_path / 'test_vqa.pkl').rename(tmp_path / 'pickles' / 'test_vqa.pkl')
    with pytest.raises(ValueError, match='is a pickle'):
        _read('path-vqa', str(tmp_path / 'pickles'))


def test_pmc_vqa(tmp_path):
    _csv(tmp_path / 'test.csv', ['Figure_path', 'Question', 'Answer', *(f'Choice {x}' for x in 'ABCD'), 'Answer_label'],
         ['PMC1_F1.jpg', 'Which pattern?', 'Focal', 'A:Diffuse', ' B:Focal', ' C: None', 'D:Other', 'B'])
    _csv(tmp_path / 'test_2.csv', ['index', 'Figure_path', 'Caption', 'Question', *(f'Choice {x}' for x in 'ABCD'),
                                   'Answer', 'split'],
         [0, 'PMC2_F1_1.jpg', 'c', 'Which?', ' A: w', ' B: x', ' C: y', ' D: z ', 'D', 'test'])  # yapf: disable
    _csv(tmp_path / 'named.csv', ['Figure_path', 'Question', 'Anwser', *(f'Choice {x}' for x in 'ABCD')],
         ['PMC3_F1.jpg', 'Which?', ' C:y', ' A:w', ' B:x', ' C:y', ' D:z'])  # yapf: disable
    new, = _read('pmc-vqa', str(tmp_path))
    old, = _read('pmc-vqa', str(tmp_path), 'test')
    named, = _read('pmc-vqa', str(tmp_path / 'named.csv'))
    assert (new['answer'], new['options']) == ('D', [*'wxyz'])
    assert (old['answer'], old['options']) == ('B', ['Diffuse', 'Focal', 'None', 'Other'])
    assert named['answer'] == 'C' and new['images'] == [str(tmp_path / 'images' / 'PMC2_F1_1.jpg')]


# ---- what cannot be read


@pytest.mark.parametrize('preset, split, name, content, said', [
    ('medqb', None, 'a.jsonl', '', "no preset 'medqb'"),
    ('medqa', 'tset', 'a.jsonl', '{}', "no split 'tset': give one of test, dev"),
    ('medqa', None, 'none.jsonl', None, 'neither a file nor a folder'),
    ('medqa', None, 'a.txt', '{}', 'is not supported: give a .json'),
    ('medqa', None, 'a.jsonl', '{"question": "x"', 'a.jsonl cannot be read'),
    ('medqa', None, 'a.jsonl', '[1]', 'row 1 is'),
    ('medqa', None, 'a.json', '[]', 'has no rows'),
    ('medqa', None, 'a.jsonl', '{"question": "x", "options": "y"}', 'a.jsonl:1: the options are'),
    ('medqa', None, 'a.jsonl', '{"question": "x", "options": ["y", "z"], "answer": "w"}', "the answer 'w' is not one of"),
    ('slake', None, 'a.json', '[{"question": "x"}]', "a.json:1: the row has no 'img_name'; it has question"),
    ('supergpqa', None, 'a.jsonl', '{"discipline": "Law"}', "the discipline 'Medicine'"),
    ('pmc-vqa', None, 'a.parquet', 'PAR1', 'a.parquet cannot be read'),
    ('vqa-rad', None, 'a.json', '[{"question": "x", "answer": "y", "image": 3}]', 'not the bytes of an image'),
])  # yapf: disable
def test_errors(tmp_path, preset, split, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        _read(preset, str(tmp_path / name), split)


def test_a_folder_without_the_split(tmp_path):
    _json(tmp_path / 'train.json', [])
    with pytest.raises(ValueError, match='has no test.json; it has train.json'):
        _read('slake', str(tmp_path))


# ---- the command line


def _args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--ref')
    _cli_eval_qa.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line_knows_all_presets():
    assert _cli_eval_qa.PRESET_NAMES == tuple(QA_PRESETS)
    assert all(preset.source.startswith('https://') and set(preset.counts) <= set(preset.files)
               for preset in QA_PRESETS.values())  # yapf: disable


def test_prepare(tmp_path, capsys):
    medmcqa = _jsonl(tmp_path / 'dev.json', _medmcqa(1, 4))
    slake = _json(tmp_path / 'test.json', [{'img_name': 'a.jpg', 'question': 'x', 'answer': 'y', 'q_lang': 'en'}])
    args = _args('--preset', f'medmcqa={medmcqa}', '--preset', f'slake={slake}')
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(tmp_path / 'out' / 'questions.jsonl')
    ids = [json.loads(line)['id'] for line in Path(args.ref).read_text(encoding='utf-8').splitlines()]
    assert ids == ['medmcqa:q0', 'medmcqa:q1', 'slake:1']
    assert capsys.readouterr().out.splitlines() == [
        'medmcqa, dev: 2 questions; the published split has 4,183',
        'slake, test: 1 questions; the published split has 2,094',
    ]
    assert QATask(**_cli_eval_qa.options(args)).preset == 'medmcqa, slake'
    args = _args('--preset', 'medmcqa', '--ref', str(medmcqa))
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(tmp_path / 'out' / 'questions.jsonl')
    args = _args('--ref', str(medmcqa))
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(medmcqa)


@pytest.mark.parametrize('words, said', [
    (('--preset', 'medqa'), 'Give the file of medqa'), (('--split', 'dev'), 'need a benchmark'),
    (('--preset', 'medqa', '--preset', 'slake=x', '--ref', 'y'), 'Give the file of medqa'),
    (('--preset', 'medqa=x', '--ref', 'y'), 'remove --ref y'),
])  # yapf: disable
def test_options_that_do_not_fit(tmp_path, words, said):
    with pytest.raises(SettingError, match=said):
        _cli_eval_qa.prepare(_args(*words), str(tmp_path))
    with pytest.raises(SystemExit):
        _args('--preset', 'medqb')
