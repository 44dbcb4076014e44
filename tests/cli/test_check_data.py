"""`citrusv check-data`: every bad row by line, counts, output, and errors of the user."""
import numpy as np
import pytest
from collections import Counter
from pathlib import Path
from support.check_data import GOOD_COUNTS, bad_rows, check, good_rows, write_lines
from support.row_formats import FORMATS, write
from support.rows import Maker
from typing import Any

from swift_citrusv.cli.check_data import FailureLog, length_percentiles
from swift_citrusv.cli.check_rows import RowFailure
from swift_citrusv.cli.main import main
from swift_citrusv.training.jsonl_dataset import scan_rows


@pytest.fixture(scope='module')
def mixed(tmp_path_factory) -> tuple[Path, dict[int, str]]:
    """A file of good rows, bad rows and blank lines, and the line and kind of each bad row."""
    folder = tmp_path_factory.mktemp('mixed')
    maker = Maker(folder / 'images')
    good = maker.every_kind()
    lines: list[Any] = ['', '  ']
    bad = {}
    for i, (kind, row) in enumerate(bad_rows(maker)):
        lines += [good[i % len(good)], '', row]
        bad[len(lines)] = kind
    lines += good
    return write_lines(folder / 'mixed.jsonl', lines), bad


def shown(out: str, label: str) -> int:
    """The printed count with this label."""
    return next(int(line[26:].replace(',', '')) for line in out.splitlines() if line[:26].strip() == label)


def test_every_bad_row_is_named(mixed, tmp_path):
    file, bad = mixed
    status, report, out = check(tmp_path, file)
    assert status == 1
    assert {failure['line']: failure['kind'] for failure in report['failures']} == bad
    assert report['failing_rows'] == len(report['failures']) == len(bad)
    assert report['failures_by_kind'] == Counter(bad.values())
    listing = out.partition('Failing rows:\n')[2].splitlines()
    assert [line.split('  ')[:2] for line in listing] == [[f'{file.parent.name}/mixed.jsonl:{n}', f'[{kind}]']
                                                          for n, kind in bad.items()]
    for line, failure in zip(listing, report['failures']):
        # The row once, then the problem and the remedy.
        assert line.endswith(failure['message']) and line.count('mixed.jsonl') == 1
    counts = out.partition('Failing rows by kind')[2].partition('Failing rows:')[0]
    for kind, count in Counter(bad.values()).items():
        assert [str(count), kind] in [line.split() for line in counts.splitlines()]
    # Every line is good, bad or blank.
    num_rows = sum(bool(line.strip()) for line in file.read_bytes().splitlines())
    assert report['rows'] == num_rows == report['ordinary_rows'] + report['mask_rows'] + report['failing_rows']


def test_processes_change_nothing(mixed, tmp_path):
    file, _ = mixed
    alone = check(tmp_path, file)
    together = check(tmp_path, file, '--num-proc', 2)
    assert alone[2].splitlines() == together[2].splitlines()
    assert alone == together


def test_errors_equal_those_of_training(mixed, tmp_path, caplog):
    file, _ = mixed
    with caplog.at_level('WARNING'):
        scan = scan_rows([str(file)], strict=False)
    bad, = scan.bad
    _, report, _ = check(tmp_path, file)
    assert report['rows'] == scan.num_rows and {'messages', 'masks'} <= set(scan.columns)
    failures = {failure['line']: f'{failure["row"]}: {failure["message"]}' for failure in report['failures']}
    assert len(bad) > 12 and set(bad) < set(failures)
    skips = [record.getMessage().partition(' so far): ')[2] for record in caplog.records]
    assert [' '.join(skip.split()) for skip in skips if skip] == [failures[line] for line in bad]


@pytest.mark.parametrize('lines, num_rows', [([], 0), (['', ' '], 0), (['not json', 'nor this'], 2)])
def test_file_without_a_good_row_fails(lines, num_rows, tmp_path):
    status, report, out = check(tmp_path, write_lines(tmp_path / 'rows.jsonl', lines))
    assert status == 1
    assert report['rows'] == report['failing_rows'] == len(report['failures']) == num_rows
    assert ('has no rows' in out) == (num_rows == 0)
    assert 'All rows are good' not in out


def test_failure_log_keeps_any_text():
    failures = [RowFailure(i, f'a:{i}', 'kind', text) for i, text in enumerate(['\udcff', '{"\n', '细胞核', ''])]
    with FailureLog() as log:
        for failure in failures:
            log.add(failure)
        assert [RowFailure(**values) for values in log] == failures
        assert [RowFailure(**values) for values in log] == failures


def test_counts_and_json_agree_with_print(tmp_path):
    file = write_lines(tmp_path / 'good.jsonl', good_rows(Maker(tmp_path / 'images')))
    status, report, out = check(tmp_path, file)
    assert status == 0 and report['failures'] == [] and report['tokens'] is None
    assert {key: report[key] for key in GOOD_COUNTS} == GOOD_COUNTS
    labels = [
        'rows', 'ordinary', 'with masks', 'failing', 'rows with several images', 'images', 'distinct', 'videos',
        'masks', 'empty ("not present")', 'empty at target size', 'on an image not named', '[SEG] as text alone'
    ]
    assert [shown(out, label) for label in labels] == list(GOOD_COUNTS.values())
    assert 'All rows are good' in out


def test_limit(tmp_path):
    maker = Maker(tmp_path / 'images')
    file = write_lines(tmp_path / 'rows.jsonl', [maker.every_kind()[0], '', maker.every_kind()[2], 'not json'])
    status, report, out = check(tmp_path, file, '--limit', 2)
    assert (status, report['rows'], report['mask_rows']) == (0, 2, 1)
    assert 'Only the first 2 rows' in out


@pytest.mark.parametrize('lengths', [[7], [3, 9], [5, 1, 4, 1, 5, 9, 2, 6], list(range(1, 1001)), [2] * 99 + [50]])
def test_length_percentiles(lengths):
    expected = {
        name: int(np.percentile(lengths, q, method='inverted_cdf'))
        for name, q in [('min', 0), ('p50', 50), ('p90', 90), ('p99', 99), ('max', 100)]
    }
    assert length_percentiles(Counter(lengths)) == expected
    assert length_percentiles(Counter()) is None


@pytest.mark.parametrize('arguments, message', [
    (['{tmp}/none.jsonl'], '{tmp}/none.jsonl: no such file'),
    (['{tmp}/nothing'], '{tmp}/nothing: '),
    (['{tmp}/rows.jsonl', '--max-length', '8'], '--max-length 8 needs --model'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/none'], '--model {tmp}/none holds no config.json'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/llama'], 'holds a llama'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/broken'], 'config.json is not JSON'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/no_tokenizer'], '--model {tmp}/no_tokenizer cannot be loaded'),
    (['{tmp}/rows.jsonl', '--json', '{tmp}/rows.jsonl/report.json'], 'rows.jsonl: '),
])
def test_command_line_errors(arguments, message, tmp_path, tiny_checkpoint, capsys):
    write_lines(tmp_path / 'rows.jsonl', [Maker(tmp_path).row('Hello?', 'Hello.')])
    (tmp_path / 'nothing').mkdir()
    config = Path(tiny_checkpoint, 'config.json').read_text()
    for name, text in (('llama', '{"model_type": "llama"}'), ('broken', '{'), ('no_tokenizer', config)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'config.json').write_text(text)
    status = main(['check-data', *(word.replace('{tmp}', str(tmp_path)) for word in arguments)])
    captured = capsys.readouterr()
    assert status == 2
    last = captured.err.splitlines()[-1]
    assert last.startswith('citrusv: error: ') and message.replace('{tmp}', str(tmp_path)) in last


@pytest.mark.parametrize('name', FORMATS)
def test_every_format(name, tmp_path):
    """The report of a file of any format is that of JSONL, and so is that of a folder."""
    maker = Maker(tmp_path / 'images')
    rows = [row for row in maker.every_kind() if not ('structs' in name and row.get('videos'))]
    rows[1] = {**rows[1], 'images': ['none.png']}
    rows[2] = {**rows[2], 'masks': 2 * rows[2]['masks']}
    status, wanted, _ = check(tmp_path, write_lines(tmp_path / 'rows.jsonl', rows))
    path = write(tmp_path / 'A', name, rows)
    assert status == 1 and wanted['failing_rows'] == 2
    for file in (path, path.parent):
        found, report, out = check(tmp_path, file, '--pictures', tmp_path / 'pictures')
        assert found == 1 and [failure['row']
                               for failure in report['failures']] == [f'A/{path.name}:{i}' for i in (2, 3)]
        same = {key: value for key, value in wanted.items() if key not in ('file', 'failures')}
        assert {key: report[key] for key in same} == same
        assert len(report['pictures']) == report['mask_rows'] + 1


def test_folder_of_several_files(tmp_path):
    maker = Maker(tmp_path / 'images')
    for i in range(2):
        (tmp_path / 'data').mkdir(exist_ok=True)
        write_lines(tmp_path / 'data' / f'train-{i}.jsonl', [*maker.every_kind(), 'no row'])
    _, report, _ = check(tmp_path, tmp_path / 'data', '--pictures', tmp_path / 'pictures', '--num-proc', 2)
    assert [failure['row'] for failure in report['failures']] == ['data/train-0.jsonl:13', 'data/train-1.jsonl:13']
    names = [Path(path).name for path in report['pictures']]
    assert report['rows'] == 26 and names[0] == 'row_3.png' and names[-2] == 'row_2-10.png'


def test_columns_of_the_command_line(tmp_path, capsys):
    maker = Maker(tmp_path / 'images')
    rows = [{('found' if key == 'masks' else key): value for key, value in row.items()} for row in maker.every_kind()]
    file = write_lines(tmp_path / 'rows.jsonl', rows)
    assert check(tmp_path, file, '--columns', '{"found": "masks"}')[1]['mask_rows'] == 7
    file = write_lines(tmp_path / 'rows.jsonl', [{**row, 'mask': row.pop('found', None)} for row in rows])
    status, report, _ = check(tmp_path, file)
    assert status == 1 and report['failures_by_kind'] == {'columns': 7}
    assert '--columns \'{"mask": "masks"}\'' in report['failures'][0]['message']
    for bad in ('masks', '["masks"]', '{"a": 1}'):
        assert main(['check-data', str(file), '--columns', bad]) == 2
        assert f'--columns {bad!r} is no' in capsys.readouterr().err
