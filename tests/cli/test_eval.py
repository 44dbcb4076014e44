"""`citrusv eval` and `citrusv compare` on the command line."""
import csv
import json
import pytest
from support.rows import write_jsonl

from swift_citrusv.cli.main import main


@pytest.fixture
def files(tmp_path):
    rows = [{'id': i, 'question': 'Is it?', 'answer': ('yes', 'no')[i % 2], 'organ': 'liver'} for i in range(8)]
    good = [{'id': i, 'response': ('Yes.', 'No.')[i % 2]} for i in range(8)]
    bad = [{'id': i, 'response': 'Yes.'} for i in range(7)]
    return [write_jsonl(tmp_path / name, content)
            for name, content in (('rows.jsonl', rows), ('good.jsonl', good), ('bad.jsonl', bad))]  # yapf: disable


def test_eval_and_compare(files, tmp_path, capsys):
    rows, *runs = files
    for path in runs:
        folder = tmp_path / path[-10:-6].strip('/')
        assert main(['eval', 'qa', '--pred', path, '--ref', rows, '--output', str(folder)]) == 0
        said = capsys.readouterr().out
        assert "8 rows, 8 cases, joined by 'id'" in said and str(folder / 'report.html') in said
        assert ('missing: 1' in said) == path.endswith('bad.jsonl')
        assert (folder / 'report.html').stat().st_size > 1000
    one, two = (json.loads((tmp_path / name / 'scores.json').read_text()) for name in ('good', 'bad'))
    assert one['scores']['accuracy']['value'] == 1 and two['scores']['accuracy']['value'] == 0.5
    assert one['groups']['organ']['liver']['accuracy']['count'] == 8
    output = tmp_path / 'compared.json'
    assert main([
        'compare',
        str(tmp_path / 'good' / 'scores.json'),
        str(tmp_path / 'bad' / 'scores.json'), '--repeats', '200', '--output',
        str(output)
    ]) == 0
    assert 'accuracy' in capsys.readouterr().out
    assert json.loads(output.read_text())['accuracy']['second'] == 0.5


@pytest.mark.parametrize('words, message', [
    ([], 'Give --pred FILE with predictions, or --model DIR'),
    (['--pred', 'good.jsonl', '--model', 'x'], 'Give --pred FILE with predictions, or --model DIR'),
    (['--model', 'x'], 'Give --data FILE'),
    (['--pred', 'none.jsonl', '--ref', 'rows.jsonl'], 'none.jsonl: No such file'),
    (['--pred', 'good.jsonl', '--ref', 'rows.jsonl', '--by', 'sex'], "rows.jsonl:1 has no column 'sex'"),
    (['--pred', 'good.jsonl', '--ref', 'rows.jsonl', '--repeats', '-1'], '--repeats is -1'),
    (['--pred', 'good.jsonl', '--ref', 'rows.jsonl', '--workers', '0'], '--workers is 0'),
    (['--pred', 'good.jsonl', '--ref', 'good.jsonl'], 'good.jsonl:1: the row has no answer'),
])
def test_command_line_errors(words, message, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['eval', 'qa', *words]) == 2
    assert message in capsys.readouterr().err


def test_benchmark_without_predictions_writes_its_questions(tmp_path, capsys):
    with open(tmp_path / 'medbullets_op5.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['idx', 'question', 'opa', 'opb', 'opc', 'opd', 'ope', 'answer_idx', 'answer', 'explanation'])
        writer.writerow([0, 'Which?', 'one', 'two', 'three', 'four', 'five', 'B', 'two', ''])
    words = ['eval', 'qa', '--preset', f'medbullets={tmp_path}', '--output', str(tmp_path / 'out')]
    assert main(words) == 0
    assert 'questions.jsonl: let a model answer these rows' in capsys.readouterr().out
    row = json.loads((tmp_path / 'out' / 'questions.jsonl').read_text())
    predictions = write_jsonl(tmp_path / 'pred.jsonl', [{'id': row['id'], 'response': 'The answer is B.'}])
    assert main([*words, '--pred', predictions, '--no-report']) == 0
    assert json.loads((tmp_path / 'out' / 'scores.json').read_text())['scores']['accuracy']['value'] == 1
