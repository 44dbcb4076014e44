"""The law of `citrusv data`: nothing is lost, and the same input and recipe give the same bytes."""
import duckdb
import gzip
import json
import os
import pandas as pd
import pytest
import shutil
from pathlib import Path
from support.kills import content, kill_runs
from support.messy_rows import GOOD_ANSWER, row, write_images, write_rows
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation import run as run_module
from swift_citrusv.curation.engine import Engine, StageError
from swift_citrusv.curation.filter.rule_file import read_rules
from swift_citrusv.curation.filter.step import FilterStep
from swift_citrusv.curation.finish import output_files
from swift_citrusv.curation.inputs import find_files
from swift_citrusv.curation.run import run_steps
from swift_citrusv.curation.step import VERDICTS
from swift_citrusv.curation.verify import problems
from swift_citrusv.curation.why import history
from swift_citrusv.package_files import templates_dir
from swift_citrusv.settings import SettingError

SHARD = 4096


def filter_step(**values: Any) -> FilterStep:
    return FilterStep(read_rules(str(templates_dir() / 'filter_rules.yaml')).with_values(**values))


def run(inputs: list[Path], output: Path, workers: int = 1, executor: str = 'local', **more: Any) -> dict[str, Any]:
    steps = more.pop('steps', [filter_step()])
    settings = {'shard_bytes': SHARD, 'quiet': True, **more}
    summary = run_steps(steps, list(map(str, inputs)), str(output), Engine(executor, workers), **settings)
    assert summary is not None
    return summary


def query(text: str) -> list[tuple[Any, ...]]:
    return duckdb.connect().execute(text).fetchall()


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp('rows') / 'messy.jsonl'
    return path, write_rows(path, 400)


@pytest.fixture(scope='module')
def done(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('done') / 'out'
    run([rows[0]], folder)
    return folder


def test_every_row_has_one_verdict_and_is_where_it_says(rows, done):
    path, count = rows
    summary = json.loads((done / 'summary.json').read_text())
    assert summary['in'] == count == sum(summary[verdict] for verdict in VERDICTS)
    assert min(summary[verdict] for verdict in ('kept', 'review', 'dropped')) > 20
    lines = [line for line in path.read_bytes().split(b'\n') if line.strip()]
    kept = [line for file in sorted((done / 'rows').iterdir()) for line in file.read_bytes().splitlines()]
    assert len(kept) == summary['kept']
    # Rows that go on are those of the input, in its order, byte for byte but for the id.
    rest = iter(lines)
    for line in kept:
        addition = f', "row_id": "{json.loads(line)["row_id"]}"}}'.encode()
        assert any(line == item.strip()[:-1].rstrip() + addition for item in rest), line
    ledger = pd.concat([pd.read_parquet(file) for file in sorted((done / 'ledger').iterdir())])
    assert ledger.row_id.nunique() == count and set(ledger.step) == {'filter'}
    by_rule = {rule: len(group) for rule, group in ledger[ledger.rule != ''].groupby('rule')}
    assert by_rule == {rule: sum(count for name, count in item.items() if name != 'text')
                       for rule, item in summary['rules'].items() if len(item) > 1}  # yapf: disable
    # The place in the input is that of the line.
    for item in ledger.sample(30, random_state=0).itertuples():
        assert item.source == 'messy.jsonl' and path.read_bytes().split(b'\n')[item.line - 1].strip()
    reviewed = [json.loads(line) for file in sorted((done / 'review').iterdir())
                for line in file.read_text(errors='surrogateescape').splitlines()]  # yapf: disable
    assert len(reviewed) == summary['review'] and all(item['why'] for item in reviewed)
    assert problems(str(done), quiet=True) == []


def test_workers_change_no_byte(rows, done, tmp_path):
    run([rows[0]], tmp_path / 'out', 4)
    assert content(tmp_path / 'out') == content(done)


@pytest.mark.slow
def test_ray_changes_no_byte(rows, tmp_path):
    import ray
    run([rows[0]], tmp_path / 'local', shard_bytes=4 * SHARD)
    run([rows[0]], tmp_path / 'ray', 2, 'ray', shard_bytes=4 * SHARD)
    # Its cluster is gone: ms-swift would send the runs of other tests to it.
    assert not ray.is_initialized()
    assert content(tmp_path / 'ray') == content(tmp_path / 'local') and len(content(tmp_path / 'ray')) > 7


def test_where_things_lie_changes_no_byte(rows, done, tmp_path, monkeypatch):
    shutil.copy(rows[0], tmp_path / 'messy.jsonl')
    monkeypatch.chdir(tmp_path)
    run([Path('messy.jsonl')], Path('here'))
    assert content(tmp_path / 'here') == content(done)


def test_where_images_lie_changes_no_byte(tmp_path, monkeypatch):
    outputs = []
    for name in ('a', 'b'):
        write_images(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        made = [row('What does this film show in the left lung?', GOOD_ANSWER, image)
                for image in ('ok.png', 'broken.png', 'gone.png', 'blank.png')]  # yapf: disable
        Path('rows.jsonl').write_text('\n'.join(map(json.dumps, made)))
        run([Path('rows.jsonl')], Path('out'))
        outputs.append(content(Path('out')))
    assert outputs[0] == outputs[1]


def _recipe(rows: Path, folder: Path) -> list[str]:
    recipe = folder / 'recipe.yaml'
    recipe.write_text('- filter: {no_images: true}\n- dedup: {no_images: true}\n')
    return ['data', 'run', str(recipe), str(rows)]


def test_killed_runs_give_the_same_bytes(rows, tmp_path):
    kill_runs(_recipe(rows[0], tmp_path), tmp_path / 'out', 3, 0)


@pytest.mark.slow
def test_runs_killed_at_twenty_points_give_the_same_bytes(rows, tmp_path):
    kill_runs(_recipe(rows[0], tmp_path), tmp_path / 'out', 20, 1)


def test_a_recipe(rows, tmp_path, capsys):
    path, count = rows
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('steps:\n  - filter\n  - filter: {min_tokens: 26}\n')
    assert main(['data', 'run', str(recipe), str(path), '--output', str(tmp_path / 'out')]) == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    first, second = (
        json.loads((tmp_path / 'out' / name / 'summary.json').read_text()) for name in ('01-filter', '02-filter'))
    assert summary['in'] == first['in'] == count and second['in'] == first['kept'] > second['kept'] > 0
    assert summary['kept'] == second['kept'] and summary['dropped'] == first['dropped'] + second['dropped']
    assert content(tmp_path / 'out' / 'rows') == content(tmp_path / 'out' / '02-filter' / 'rows')
    assert main(['data', 'verify', str(tmp_path / 'out')]) == 0
    # The history of a row that the second step has dropped.
    name = next(iter(sorted((tmp_path / 'out' / '02-filter' / 'ledger').iterdir())))
    (row_id, place), = query(f"SELECT row_id, line FROM '{name}' WHERE rule = 'short' ORDER BY line DESC LIMIT 1")
    (origin, ), = query(f"SELECT line FROM '{tmp_path}/out/01-filter/ledger/*.parquet' WHERE row_id = '{row_id}'")
    lines = history(str(tmp_path / 'out'), f'messy.jsonl:{origin}')
    assert lines == history(str(tmp_path / 'out'), row_id) == history(str(tmp_path / 'out'), row_id[:12])
    assert lines[0] == f'{row_id}: messy.jsonl:{origin}' and lines[1] == '  01-filter: kept'
    assert lines[2].startswith('  02-filter: dropped; by short (too few tokens); measured ')
    assert lines[-1] == '  In the end: dropped.' and place != origin
    # Repeated, it does nothing; with another recipe it is refused.
    assert main(['data', 'run', str(recipe), str(path), '--output', str(tmp_path / 'out')]) == 0
    recipe.write_text('- filter\n- filter: {min_tokens: 33}\n')
    assert main(['data', 'run', str(recipe), str(path), '--output', str(tmp_path / 'out')]) == 2
    assert 'belongs to a run with another step' in capsys.readouterr().err


def test_an_output_is_an_input(rows, done, tmp_path):
    summary = run([done], tmp_path / 'again')
    assert summary['in'] == summary['kept'] == json.loads((done / 'summary.json').read_text())['kept']
    # The ids stay.
    files = [content(folder / 'rows').values() for folder in (done, tmp_path / 'again')]
    assert b''.join(files[0]) == b''.join(files[1])


def tampered_rows(folder: Path) -> None:
    file = sorted((folder / 'rows').iterdir())[0]
    file.write_bytes(file.read_bytes().replace(b'lung', b'LUNG', 1))


def lost_row(folder: Path) -> None:
    """A row is lost, and whoever did it has mended the hash."""
    from swift_citrusv.curation.inputs import sha256_of
    file = sorted((folder / 'rows').iterdir())[0]
    file.write_bytes(b''.join(file.read_bytes().splitlines(keepends=True)[1:]))
    summary = json.loads((folder / 'summary.json').read_text())
    summary['files'][f'rows/{file.name}'] = sha256_of(str(file))
    (folder / 'summary.json').write_text(json.dumps(summary))


def other_count(folder: Path) -> None:
    summary = json.loads((folder / 'summary.json').read_text())
    summary['kept'] += 1
    (folder / 'summary.json').write_text(json.dumps(summary))


@pytest.mark.parametrize('change, problem', [
    (tampered_rows, 'rows/00000.jsonl has been changed'),
    (lost_row, 'rows/ lacks the row'),
    (other_count, 'have a verdict'),
    (lambda folder: sorted((folder / 'ledger').iterdir())[0].unlink(), 'ledger/00000.parquet is missing'),
    (lambda folder: (folder / 'rows' / 'more.jsonl').write_text('{}\n'), 'rows/more.jsonl does not belong'),
])
def test_verify_finds(done, tmp_path, capsys, change, problem):
    shutil.copytree(done, tmp_path / 'out')
    change(tmp_path / 'out')
    assert main(['data', 'verify', str(tmp_path / 'out')]) == 1
    assert problem in capsys.readouterr().err


def test_every_format(tmp_path):
    """The same rows as JSONL, gzip, JSON, CSV and Parquet."""
    made = [{'query': f'What does film {number} show in the left lung?', 'response': GOOD_ANSWER, 'id': f'{number}'}
            for number in range(30)]  # yapf: disable
    text = '\n'.join(map(json.dumps, made))
    (tmp_path / 'a.jsonl').write_text(text)
    with gzip.open(tmp_path / 'b.jsonl.gz', 'wt') as file:
        file.write(text)
    (tmp_path / 'c.json').write_text(json.dumps(made))
    pd.DataFrame(made).to_csv(tmp_path / 'd.csv', index=False)
    pd.DataFrame(made).to_parquet(tmp_path / 'e.parquet')
    summary = run([tmp_path], tmp_path / 'out')
    assert (summary['in'], summary['kept']) == (150, 150)
    found = [json.loads(line) for file in sorted((tmp_path / 'out' / 'rows').iterdir())
             for line in file.read_text().splitlines()]  # yapf: disable
    assert len({item.pop('row_id') for item in found}) == 150 and found == made * 5
    assert main(['data', 'verify', str(tmp_path / 'out')]) == 0


def test_rows_with_ids_of_others(tmp_path, capsys):
    lines = [row('What does the film show in the left lung?', GOOD_ANSWER, row_id=value)
             for value in (None, 5, 'mine', '0' * 20)]  # yapf: disable
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    summary = run([tmp_path / 'a.jsonl'], tmp_path / 'out')
    assert (summary['kept'], summary['review']) == (2, 2) and summary['rules']['row-id']['review'] == 2
    kept = [json.loads(line) for line in (tmp_path / 'out' / 'rows' / '00000.jsonl').read_text().splitlines()]
    assert kept[1]['row_id'] == '0' * 20 and len(kept[0]['row_id']) == 20
    # Two rows with one id: a row was copied.
    (tmp_path / 'b.jsonl').write_text('\n'.join(map(json.dumps, [lines[3], lines[3]])))
    with pytest.raises(StageError, match='b.jsonl:1 and b.jsonl:2 have the same row_id'):
        run([tmp_path / 'b.jsonl'], tmp_path / 'twice')


def test_no_rows(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n \n')
    summary = run([tmp_path / 'a.jsonl'], tmp_path / 'out')
    assert summary['in'] == 0 and problems(str(tmp_path / 'out'), quiet=True) == []


def test_a_folder_of_rows_with_a_summary_of_its_own(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'a.jsonl').write_text(json.dumps(row('What does the film show today?', GOOD_ANSWER)))
    (tmp_path / 'mine' / 'summary.json').write_text('[]')
    assert [source for _, source in find_files([str(tmp_path / 'mine')])] == ['mine/a.jsonl', 'mine/summary.json']
    # The output of a step of which no row was left is an output all the same.
    summary = run([tmp_path / 'mine' / 'a.jsonl'], tmp_path / 'none', steps=[filter_step(min_tokens=99)])
    assert summary['dropped'] == 1 and find_files([str(tmp_path / 'none')]) == []


def test_names_of_sources(tmp_path):
    for name in ('a/x/train.jsonl', 'b/x/train.jsonl', 'b/y/train.jsonl', 'b/other.jsonl'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{}')
    names = ('a/x/train.jsonl', 'b/x/train.jsonl', 'b/y/train.jsonl', 'b/other.jsonl')
    assert [source for _, source in find_files([str(tmp_path / name) for name in names])] == \
        ['a/x/train.jsonl', 'b/x/train.jsonl', 'y/train.jsonl', 'other.jsonl']
    assert [source for _, source in find_files([str(tmp_path / 'b')])] == \
        ['b/other.jsonl', 'b/x/train.jsonl', 'b/y/train.jsonl']
    with pytest.raises(SettingError, match='named twice'):
        find_files([str(tmp_path / 'b'), str(tmp_path / 'b/other.jsonl')])


@pytest.mark.parametrize('arguments, message', [
    (['data', 'filter', 'none.jsonl', '--output', 'out'], 'none.jsonl: there is no such file or folder.'),
    (['data', 'filter', 'notes.md', '--output', 'out'], 'notes.md has none of the extensions of rows'),
    (['data', 'filter', 'rows.jsonl', '--output', 'full'], 'full is not empty'),
    (['data', 'why', 'full', 'x'], 'full is not the output of `citrusv data`'),
    (['data', 'run', 'none.yaml', 'rows.jsonl', '--output', 'out'], 'none.yaml: No such file'),
    (['data', 'run', 'bad.yaml', 'rows.jsonl', '--output', 'out'], "bad.yaml: there is no step 'filtre'"),
    (['data', 'run', 'option.yaml', 'rows.jsonl', '--output', 'out'], 'unrecognized arguments: --min-tokns'),
    (['data', 'filter', 'rows.jsonl', '--output', 'out', '--executor', 'slurm'], 'slurm needs --executor-options'),
])
def test_clear_errors(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path('rows.jsonl').write_text('{}')
    Path('notes.md').write_text('x')
    Path('full').mkdir()
    Path('full/file').write_text('x')
    Path('bad.yaml').write_text('- filtre\n')
    Path('option.yaml').write_text('- filter: {min_tokns: 3}\n')
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


def test_a_failed_part_is_named(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(FilterStep, 'judge', lambda self, folder, shard: lambda row: 1 / 0)
    with pytest.raises(StageError, match='filter, part 0: division by zero .*Repeat the command to go on'):
        run([rows[0]], tmp_path / 'out')
    monkeypatch.undo()
    assert run([rows[0]], tmp_path / 'out')['in'] == rows[1]


@pytest.mark.parametrize('method', [None, 'fork', 'spawn'])
def test_the_process_stays_as_it_was(rows, tmp_path, monkeypatch, method):
    """Else `datasets`, which forks by way of `multiprocess`, would start its workers without the plugin's patches."""
    import multiprocess
    before = multiprocess.get_start_method(allow_none=True)
    try:
        multiprocess.set_start_method(method, force=True)
        environ, folder = dict(os.environ), os.getcwd()
        run([rows[0]], tmp_path / 'out', 2)
        assert multiprocess.get_start_method(allow_none=True) == method
        monkeypatch.setattr(FilterStep, 'judge', lambda self, folder, shard: lambda row: 1 / 0)
        with pytest.raises(StageError):
            run([rows[0]], tmp_path / 'failed')
        assert multiprocess.get_start_method(allow_none=True) == method
        assert (dict(os.environ), os.getcwd()) == (environ, folder)
    finally:
        multiprocess.set_start_method(before, force=True)


def test_slurm(rows, tmp_path, monkeypatch, capsys):
    """The jobs that it submits do the same: run here one after another by a stand-in for sbatch."""
    (tmp_path / 'bin').mkdir()
    submit = tmp_path / 'bin' / 'sbatch'
    # Keeps the scripts in order, and prints the id of a job.
    submit.write_text(f'#!/bin/bash\nn=$(ls {tmp_path}/jobs | wc -l)\necho "$@" > {tmp_path}/jobs/$n.args\n'
                      f'cp "${{@: -1}}" {tmp_path}/jobs/$n.sh\necho Submitted batch job $n\n')  # yapf: disable
    submit.chmod(0o755)
    (tmp_path / 'jobs').mkdir()
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    summary = run_module.run_steps([filter_step()], [str(rows[0])], str(tmp_path / 'out'), Engine(
        'slurm', 4, {'time': '01:00:00', 'partition': 'cpu'}), shard_bytes=SHARD, quiet=True)  # yapf: disable
    assert summary is None
    scripts = [path.read_text() for path in sorted((tmp_path / 'jobs').glob('*.sh'))]
    assert any('#SBATCH --partition=cpu' in script and '#SBATCH --array=0-' in script for script in scripts)
    arguments = [path.read_text() for path in sorted((tmp_path / 'jobs').glob('*.args'))]
    assert any('dependency=afterok:' in line for line in arguments)
    assert output_files(str(tmp_path / 'out')) == []
