"""JSONL: line numbers, lines that are not rows, and rows that ms-swift would drop because of other rows' columns."""
import json
import pytest
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.jsonl import parse_line, read_lines
from swift_citrusv.training.jsonl_dataset import load_jsonl, scan_rows

TALK = {'messages': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]}
QUERY = {'query': 'a', 'response': 'b'}


def test_lines_have_their_numbers(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\xe7\xbb\x86"}\n\xff\n{"c": "\xe2\x80\xa8"}')
    lines = dict(read_lines(str(path)))
    assert list(lines) == [1, 4, 5, 6]
    # The byte order mark is skipped, and a Unicode line separator inside a string does not separate rows.
    rows = {number: parse_line(lines[number], 'row') for number in (1, 4, 6)}
    assert rows == {1: {'a': 1}, 4: {'b': '细'}, 6: {'c': '\u2028'}}
    with pytest.raises(RowError, match=r"^rows.jsonl:5: the line is not UTF-8: '.*udcff'. ") as error:
        parse_line(lines[5], 'rows.jsonl:5')
    assert error.value.kind == 'not-json'


def test_byte_order_mark_in_training(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(TALK).encode())
    (row, ) = load_jsonl(str(path), strict=True, cache_dir=str(tmp_path))
    assert row['messages'] == TALK['messages'] and '\ufeffmessages' not in row


# Rows, the rejected lines, and the kinds of their errors.
MIXED: dict[str, tuple[list[dict[str, Any]], list[int], list[str]]] = {
    'alike': ([TALK, TALK], [], []),
    'no messages at all': ([QUERY, QUERY], [], []),
    'messages come late': ([QUERY, TALK, QUERY, TALK], [1, 3], ['messages', 'messages']),
    'conversations': ([QUERY, {
        'conversations': [{
            'from': 'human',
            'value': 'a'
        }]
    }], [1], ['messages']),
    'conversations beside messages': ([TALK, {
        'conversations': [{
            'from': 'human',
            'value': 'a'
        }]
    }], [2], ['messages']),
    'image alone': ([{
        **TALK, 'image': 'a.png'
    }, TALK], [], []),
    'images come late': ([{
        **TALK, 'image': 'a.png'
    }, {
        **TALK, 'image': None
    }, {
        **TALK, 'images': []
    }, {
        **TALK, 'image': 'b.png'
    }], [1, 4], ['images', 'images']),
    'image beside images': ([{
        **TALK, 'image': 'a.png',
        'images': ['b.png']
    }, TALK], [1], ['images']),
    'video beside videos': ([{
        **TALK, 'videos': ['a.mp4']
    }, {
        **TALK, 'video': 'b.mp4'
    }], [2], ['videos']),
}


@pytest.mark.parametrize('name', MIXED)
def test_columns_that_ms_swift_would_lose(name, tmp_path, monkeypatch):
    from swift_citrusv.training import jsonl_dataset as datasets
    rows, lines, kinds = MIXED[name]
    path = tmp_path / 'rows.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    skipped: list[Any] = []
    monkeypatch.setattr(datasets.SkipCounter, 'add', lambda _, error: skipped.append(error))
    scan = scan_rows([str(path)], strict=False)
    assert (scan.bad, scan.num_rows) == ((tuple(lines), ), len(rows))
    assert [(error.row, error.kind) for error in skipped] == [(f'{tmp_path.name}/rows.jsonl:{n}', k)
                                                              for n, k in zip(lines, kinds)]
    if not lines:
        scan_rows([str(path)], strict=True)
        return
    with pytest.raises(RowError, match=f'/rows.jsonl:{lines[0]}: .*file') as error:
        scan_rows([str(path)], strict=True)
    assert error.value.kind == kinds[0] and error.value.remedy.endswith('.')


def test_a_good_file_is_checked_once_until_it_changes(tmp_path, monkeypatch):
    from swift_citrusv.training import jsonl_dataset as datasets
    path = tmp_path / 'train.jsonl'
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    path.write_text(2 * row)
    scans: list[Any] = []
    scan = datasets.scan_rows

    def counted(*args):
        scans.append(args)
        return scan(*args)

    monkeypatch.setattr(datasets, 'scan_rows', counted)
    for _ in range(2):
        assert len(load_jsonl(str(path), strict=True, cache_dir=str(tmp_path / 'cache'))) == 2
    assert len(scans) == 1
    path.write_text(3 * row)
    assert len(load_jsonl(str(path), strict=True, cache_dir=str(tmp_path / 'cache'))) == 3
    assert len(scans) == 2
    # A damaged cache entry is ignored.
    for note in (tmp_path / 'cache' / 'citrusv_scans').iterdir():
        note.write_text('{')
    assert len(load_jsonl(str(path), strict=True, cache_dir=str(tmp_path / 'cache'))) == 3
    # A file with a bad row is checked each time, so that each run reports it.
    path.write_text(2 * row + 'no row\n')
    for _ in range(2):
        assert len(load_jsonl(str(path), strict=False, cache_dir=str(tmp_path / 'cache'))) == 2
    assert len(scans) == 5


def test_strings_are_not_taken_for_json(tmp_path):
    rows = [{'query': '12', 'response': 'null'}, {'query': '[1]', 'response': '"x'}, {'query': 'true', 'response': ''}]
    path = tmp_path / 'train.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    dataset = load_jsonl(str(path), strict=True, cache_dir=str(tmp_path))
    assert [{key: row[key] for key in ('query', 'response')} for row in dataset] == rows
