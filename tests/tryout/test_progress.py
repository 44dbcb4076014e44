"""The line of progress follows the log, and the verdict comes once."""
import json

from swift_citrusv.tryout import progress as module
from swift_citrusv.tryout.progress import Progress
from swift_citrusv.tryout.run import _judge


def log(path, values, start=0):
    with path.open('a', encoding='utf-8') as file:
        for index, value in enumerate(values, start + 1):
            entry = {'loss_token': value, 'loss_dice': value, 'global_step/max_steps': f'{index}/10'}
            file.write(json.dumps(entry | {'elapsed_time': '9s'}) + '\n')


def test_it_reads_whole_lines_as_they_come(tmp_path, capsys):
    path = tmp_path / 'logging.jsonl'
    with Progress('joint', path) as progress:
        progress.update()
        log(path, [2., 1.5])
        with path.open('a', encoding='utf-8') as file:
            file.write('{"loss_token": 1.0, "global_')
        progress.update()
        assert len(progress.entries) == 2
        with path.open('a', encoding='utf-8') as file:
            file.write('step/max_steps": "10/10"}\n{"train_runtime": 3}\n')
    assert [entry['loss_token'] for entry in progress.entries] == [2., 1.5, 1.]
    assert '10/10 steps' in capsys.readouterr().err


def test_the_verdict(tmp_path, monkeypatch):
    told: list[str] = []
    verdicts: list[str] = []
    for number, (stage, values, warns) in enumerate((
        ('text', [6., 5.9, 6.1, 6., 5.9, 6.], True),
        ('text', [6., 5., 3., 2., 1., .5], False),
        ('joint', [.7, .71, .7, .69, .7, .71], True),
        ('joint', [.7, .6, .6, .5, .4, .4], False),
        ('segmentation', [.3] * 6, False),
        ('text', [6., 6.], False),  # too few steps to judge
    )):
        path = tmp_path / f'{number}.jsonl'
        log(path, values)
        verdicts.clear()
        with Progress(stage, path, lambda progress: _judge(progress, verdicts, told.append)) as progress:
            progress.update()
            assert not verdicts, 'before its time'
        assert bool(verdicts) == warns, (stage, values)
    # After a minute, while the stage goes on.
    monkeypatch.setattr(module, 'VERDICT_SECONDS', -1.)
    path = tmp_path / 'minute.jsonl'
    log(path, [6.] * 6)
    calls: list[int] = []
    with Progress('text', path, lambda progress: calls.append(len(progress.entries))) as progress:
        progress.update()
        assert calls == [6]
        log(path, [6.], start=6)
    assert calls == [6]
