"""`citrusv eval --model`: the answers are those of `swift infer`, and an interrupted run resumes without loss."""
import json
import os
import pytest
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from support.closeness import assert_same_mask
from support.rows import Maker, write_jsonl
from support.segment import assert_same_results
from typing import Any

from swift_citrusv.cli.eval import predict as predicting
from swift_citrusv.cli.eval.predict import predict
from swift_citrusv.cli.main import main
from swift_citrusv.settings import SettingError

FLAGS = '--torch_dtype float32 --device_map cpu --dataset_num_proc 1 --load_from_cache_file false'.split()
ASKED: Any = {'batch_size': 2, 'max_new_tokens': 12, 'extra': FLAGS}


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp('predicting') / 'images')
    found = [{'id': f'r{i}', **row} for i, row in enumerate(row for row in maker.every_kind() if 'videos' not in row)]
    return [*found, {'messages': [{'role': 'user', 'content': '<image>Segment it.'}], 'images': ['missing.png']}]


@pytest.fixture(scope='module')
def dataset(rows, tmp_path_factory):
    path = write_jsonl(tmp_path_factory.mktemp('predicting') / 'rows.jsonl', rows)
    # A blank line, and a line that is not a row.
    with open(path, 'a', encoding='utf-8') as file:
        file.write('\n{"messages": 5}\n')
    return path


@pytest.fixture(scope='module')
def whole(talkative_checkpoint, dataset, tmp_path_factory):
    """The answers of an uninterrupted run."""
    output = str(tmp_path_factory.mktemp('whole') / 'predictions.jsonl')
    return lines_of(predict(dataset, output, model=talkative_checkpoint, **ASKED))


def lines_of(path):
    """The lines, without the path of the dataset and of the log."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding='utf-8').splitlines()]
    for line in lines:
        line.pop('dataset', None)
        line['error'] = line.get('error', '').partition('; see')[0]
    return lines


def test_answers_are_those_of_swift_infer(whole, rows, talkative_checkpoint, dataset, tmp_path):
    from support.infer_run import swift_infer
    numbers = [*range(1, len(rows) + 1), len(rows) + 2]
    assert [line['citrusv_row'] for line in whole] == [f'{Path(dataset).parent.name}/rows.jsonl:{i}' for i in numbers]
    plain = swift_infer(talkative_checkpoint, tmp_path / 'plain.jsonl', '--val_dataset', dataset, '--strict', 'false',
                        '--max_new_tokens', '12', '--max_batch_size', '2')
    by_row = {line['citrusv_row']: line for line in plain}
    for line, row in zip(whole, rows):
        other = by_row[line['citrusv_row']]
        assert line['response'] == other['response']
        for mask, wanted in zip(line['masks'], other['masks'], strict=True):
            assert_same_mask(mask, wanted)
        assert line.get('id') == row.get('id')
    assert sum(len(line.get('masks', [])) for line in whole) > 3
    assert 'missing.png' in whole[-2]['error'] and "'messages'" in whole[-1]['error']


def running(word: str) -> list[str]:
    """The ids of processes with a word in their command line."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if word.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            # The process has ended.
            continue
    return found


KILLED = '''
import json, os, signal, sys
from swift_citrusv.cli.eval import predict as predicting
new_lines = predicting._new_lines

def killed(path, start):
    found = new_lines(path, start)
    if new_lines(path, 0)[0] >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

predicting._BATCHES_PER_WRITE, predicting._POLL_SECONDS = 1, 0.02
predicting._new_lines = killed
predicting.predict(*sys.argv[1:3], model=sys.argv[3], **json.loads(sys.argv[4]))
'''


def test_killed_run_resumes(whole, rows, talkative_checkpoint, dataset, tmp_path, monkeypatch):
    """A run is killed at its first answers. The next run answers the rest, as an uninterrupted run would."""
    output = tmp_path / 'eval' / 'predictions.jsonl'
    part = tmp_path / 'eval' / 'predictions.jsonl.work' / 'part.jsonl'
    output.parent.mkdir()
    # kill -9 runs no clean-up.
    done = subprocess.run(
        [sys.executable, '-c', KILLED, dataset,
         str(output), talkative_checkpoint,
         json.dumps(ASKED)], timeout=240)  # yapf: disable
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 30
    while running(str(part)):
        assert time.monotonic() < end, '`swift infer` still runs without the command'
        time.sleep(0.02)
    # A known number of answers, however many were written.
    known = 4
    part.write_bytes(b''.join(part.read_bytes().splitlines(keepends=True)[:known]))
    # And a truncated line.
    with part.open('ab') as file:
        file.write(b'{"response": "half')
    asked: list[int] = []
    run = predicting._run_program

    def noted(*args):
        asked.append(args[-1])
        run(*args)

    monkeypatch.setattr(predicting, '_run_program', noted)
    again = lines_of(predict(dataset, str(output), model=talkative_checkpoint, **ASKED))
    assert_same_results(again, whole)
    # The line that is not a row is not counted.
    assert asked == [len(rows) - known]
    predict(dataset, str(output), model=talkative_checkpoint, **ASKED)
    assert len(asked) == 1


# `tests/runs/test_infer.py` runs the ranks of `swift infer`.
@pytest.mark.slow
def test_two_ranks(whole, talkative_checkpoint, dataset, tmp_path):
    output = str(tmp_path / 'predictions.jsonl')
    assert_same_results(lines_of(predict(dataset, output, model=talkative_checkpoint, ranks=2, **ASKED)), whole)


def test_other_settings_or_rows_are_rejected(whole, talkative_checkpoint, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, '_run_program', lambda *args: None)
    output = tmp_path / 'predictions.jsonl'
    predict(dataset, str(output), model=talkative_checkpoint, **ASKED)
    for changed, message in (({
            'max_new_tokens': 13
    }, 'max_new_tokens was 12 and is 13 now'), ({
            'extra': []
    }, 'flags was'), ({
            'model': 'other'
    }, 'model was')):
        with pytest.raises(SettingError, match=f'{message}.*remove .*predictions.jsonl to start over'):
            predict(dataset, str(output), **{'model': talkative_checkpoint, **ASKED, **changed})
    with predicting._locked(Path(f'{output}.work') / 'lock', str(output)):
        with pytest.raises(SettingError, match='Another run is writing .*predictions.jsonl'):
            predict(dataset, str(output), model=talkative_checkpoint, **ASKED)
    other = tmp_path / 'rows.jsonl'
    shutil.copy(dataset, other)
    # A copy of the rows counts as the same data.
    predict(str(other), str(output), model=talkative_checkpoint, **ASKED)
    with other.open('a') as file:
        file.write('{}\n')
    with pytest.raises(SettingError, match='the rows have changed'):
        predict(str(other), str(output), model=talkative_checkpoint, **ASKED)
    (tmp_path / 'mine.jsonl').write_text('{}\n')
    with pytest.raises(SettingError, match='score it with --pred'):
        predict(dataset, str(tmp_path / 'mine.jsonl'), model=talkative_checkpoint, **ASKED)
    assert (tmp_path / 'mine.jsonl').read_text() == '{}\n'


def test_another_checkpoint_under_the_same_name(dataset, tmp_path, monkeypatch):
    """E.g. `last-checkpoint` after more training, or a retrained adapter."""
    monkeypatch.setattr(predicting, '_run_program', lambda *args: None)
    for name in ('checkpoint-1', 'checkpoint-2', 'adapter'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_text(name)
    link, output = tmp_path / 'last-checkpoint', str(tmp_path / 'predictions.jsonl')
    asked = {**ASKED, 'extra': [*FLAGS, '--adapters', str(tmp_path / 'adapter')]}
    link.symlink_to('checkpoint-1')
    predict(dataset, output, model=str(link), **asked)
    predict(dataset, output, model=str(tmp_path / 'checkpoint-1'), **asked)
    link.unlink()
    link.symlink_to('checkpoint-2')
    with pytest.raises(SettingError, match='model was .*checkpoint-1 and is .*checkpoint-2 now'):
        predict(dataset, output, model=str(link), **asked)
    for name in ('checkpoint-1', 'adapter'):
        file = tmp_path / name / 'model.safetensors'
        before = file.stat()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(SettingError, match='the files of the model have changed'):
            predict(dataset, output, model=str(tmp_path / 'checkpoint-1'), **asked)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    predict(dataset, output, model=str(tmp_path / 'checkpoint-1'), **asked)


def test_progress_counts_complete_lines_once(tmp_path):
    path = tmp_path / 'part.jsonl'
    assert predicting._new_lines(path, 0) == (0, 0)
    path.write_bytes(b'{"a": 1}\n{"b"')
    assert predicting._new_lines(path, 0) == (1, 13)
    with path.open('ab') as file:
        file.write(b': 2}\n')
    assert predicting._new_lines(path, 13) == (1, 18)
    assert predicting._new_lines(path, 18) == (0, 18)


def test_failing_program_and_bad_arguments(dataset, tmp_path):
    with pytest.raises(RuntimeError, match='(?s)nowhere.*swift infer failed with status 1.*log.txt'):
        predict(dataset, str(tmp_path / 'predictions.jsonl'), model=str(tmp_path / 'nowhere'), **ASKED)
    with pytest.raises(FileNotFoundError, match='none.jsonl'):
        predict(str(tmp_path / 'none.jsonl'), str(tmp_path / 'p.jsonl'), model='x')
    with pytest.raises(SettingError, match='--ranks is 2'):
        predict(dataset, str(tmp_path / 'p.jsonl'), model='x', engine='server', server='http://x', ranks=2)
    halves: list[Any] = [{'engine': 'server'}, {'server': 'http://x'}]
    for half in halves:
        with pytest.raises(SettingError, match='give both or none'):
            predict(dataset, str(tmp_path / 'p.jsonl'), model='x', **half)


@pytest.mark.timeout(600)
def test_from_the_command_line(rows, talkative_checkpoint, tmp_path, capsys):
    """`citrusv eval --model` with and without a text server: the same answers and scores."""
    from support.serving import deployed
    dataset = write_jsonl(tmp_path / 'rows.jsonl', [row for row in rows if row.get('masks')])
    scores = []
    with deployed(talkative_checkpoint) as server:
        for name, words, flags in (('model', [], FLAGS), ('server', ['--text-from', server.url],
                                                          '--device cpu --dtype float32'.split())):
            status = main([
                'eval', 'segmentation', '--model', talkative_checkpoint, '--data', dataset, '--output',
                str(tmp_path / name), '--max-new-tokens', '12', '--repeats', '10', '--infer-args', ' '.join(flags),
                *words
            ])  # yapf: disable
            assert status == 0, capsys.readouterr()
            found = json.loads((tmp_path / name / 'scores.json').read_text())
            assert found['joined'] == "by 'id'" and not found['found']['failed']
            scores.append((found['scores'], found['flags']))
            assert (tmp_path / name / 'report.html').is_file()
    assert scores[0] == scores[1]


@pytest.mark.parametrize('name', ['json', 'csv', 'parquet of structs'])
def test_rows_of_other_formats(name, tmp_path, monkeypatch):
    """Written as JSONL for the program, and named as in their file."""
    from support.row_formats import write

    from swift_citrusv.rows.records import named_records, parse_record
    maker = Maker(tmp_path / 'images')
    rows = [{'id': f'r{i}', **row} for i, row in enumerate(row for row in maker.every_kind() if 'videos' not in row)]
    rows[3] = {**rows[3], 'masks': rows[3]['masks'][:1]}
    asked: list[list[str]] = []

    def program(command, environment, part, log, total):
        """Answers two rows, as a program that was killed would."""
        data = command[command.index('--val_dataset') + 1]
        found = [(row_id, parse_record(record, row_id)) for row_id, _, record in named_records(data)]
        asked.append([row['messages'][0]['content'] for _, row in found])
        assert len(found) == total
        write_jsonl(part, [{'response': row['id'], 'citrusv_row': row_id} for row_id, row in found[:2]])
        if len(asked) == 1:
            raise RuntimeError('killed')

    monkeypatch.setattr(predicting, '_run_program', program)
    path, output = write(tmp_path / 'A', name, rows), str(tmp_path / 'out.jsonl')
    with pytest.raises(RuntimeError, match='killed'):
        predict(str(path), output, model='a/b', **ASKED)
    lines = lines_of(predict(str(path), output, model='a/b', **ASKED))
    assert [line['citrusv_row'] for line in lines] == [f'A/{path.name}:{i + 1}' for i in range(len(rows))]
    assert [line['id'] for line in lines] == [row['id'] for row in rows]
    assert [line.get('response') for line in lines[:3]] == ['r0', 'r1', 'r2'] and 'mask' in lines[3]['error']
    questions = [row['messages'][0]['content'] for i, row in enumerate(rows) if i != 3]
    assert asked == [questions, questions[2:]]
