"""`citrusv try`: what it refuses, and how an interrupted run goes on. Whole runs: `tests/runs/test_try.py`."""
import json
import pytest
from support.command_line import run_citrusv
from support.rows import write_jsonl
from support.try_rows import shape_rows

from swift_citrusv.tryout import run as tryout
from swift_citrusv.tryout.processes import RunError, SwiftProcesses


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / 'rows.jsonl', shape_rows(tmp_path, 8))


def test_bad_rows_are_listed(tmp_path, capsys):
    rows = shape_rows(tmp_path, 8)
    rows[3]['images'] = ['missing.png']
    rows[5]['masks'] = []
    rows[6]['masks'][0]['size'] = [1, 1]
    path = write_jsonl(tmp_path / 'rows.jsonl', rows)
    status, _, errors = run_citrusv(capsys, 'try', path, '--output', tmp_path / 'out')
    assert status == 1 and '2 of 16 rows' in errors
    assert 'rows.jsonl:4  [image-unreadable]' in errors and 'rows.jsonl:7  [' in errors
    assert not (tmp_path / 'out').exists()


def test_rows_that_cannot_be_learned_are_refused(tmp_path, capsys):
    rows = shape_rows(tmp_path, 8)
    for row in rows:
        row['messages'][0]['content'] = '<image>Segment it.'
        row['messages'][1]['content'] = 'Here: [SEG].'
    path = write_jsonl(tmp_path / 'rows.jsonl', rows)
    status, _, errors = run_citrusv(capsys, 'try', path, '--output', tmp_path / 'out')
    assert status == 2 and 'Nothing tells one structure from another' in errors and 'Name the structure' in errors
    status, _, errors = run_citrusv(capsys, 'try', path, '--val', path, '--output', tmp_path / 'out')
    assert status == 2 and 'Nothing tells one' in errors
    # The folder is free for the next try.
    assert not (tmp_path / 'out').exists()


def test_options_that_cannot_be(tmp_path, rows, capsys):
    for arguments, text in (
        (('--minutes', '0'), '--minutes is 0'),
        (('--minutes', 'nan'), '--minutes is nan'),
        (('--val', tmp_path / 'none.jsonl'), 'none.jsonl: no such file'),
        (('--output', rows), 'is a file'),
        (('--output', tmp_path), 'is not empty'),
    ):
        status, _, errors = run_citrusv(capsys, 'try', rows, *arguments)
        assert status == 2 and text in errors, (arguments, errors)
    assert json.loads((tmp_path / 'rows.jsonl').read_text().splitlines()[0])


def test_an_interrupted_run_goes_on(tmp_path, rows, capsys, monkeypatch):
    trained: list[str] = []
    stop: dict[str, type[BaseException]] = {'joint': KeyboardInterrupt}

    def train(processes, stage, model, output, num_ranks, verdict):
        trained.append(stage.name)
        if stage.name in stop:
            raise stop[stage.name]('the reason')
        return f'{stage.name} after {model}', {'seconds': 1.}

    monkeypatch.setattr(tryout, 'train', train)
    monkeypatch.setattr(SwiftProcesses, '__enter__', lambda self: self)
    monkeypatch.setattr(SwiftProcesses, 'build', lambda *args, **settings: 1.)
    output = tmp_path / 'out'
    command = ('try', rows, '--max_rows', '20', '--max_held_out', '9', '--output', output)
    status, printed, errors = run_citrusv(capsys, *command)
    assert status == 130 and '--resume' in errors and 'few to learn from' in printed
    assert trained == ['text', 'joint'] and output.exists()

    status, _, errors = run_citrusv(capsys, *command)
    assert status == 2 and 'Give --resume' in errors
    status, _, errors = run_citrusv(capsys, *command, '--minutes', '3', '--resume')
    assert status == 2 and 'started with another minutes' in errors

    stop.clear()
    stop['segmentation'] = RunError
    del trained[:]
    status, printed, errors = run_citrusv(capsys, *command, '--resume')
    assert status == 2 and 'the reason' in errors and 'text: done before' in printed
    assert trained == ['joint', 'segmentation']
    done = json.loads((output / 'try.json').read_text())['done']
    assert done['joint']['checkpoint'] == f'joint after text after {output / "start"}'

    (output / 'report.json').write_text('{}')
    status, _, errors = run_citrusv(capsys, *command, '--resume')
    assert status == 2 and 'holds a finished run' in errors
