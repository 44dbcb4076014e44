"""Streams of JSONL: the same rows as without streaming, split into shards and among readers, each row once."""
import json
import pickle
import pytest
from pathlib import Path
from support.rows import Maker, write_jsonl

from swift_citrusv.errors import RowError


@pytest.fixture(scope='module', autouse=True)
def patched():
    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    from swift_citrusv.plugin.streaming import patch_reading
    register()
    patch_dataset_loading()
    patch_reading()


@pytest.fixture
def small_shards(monkeypatch):
    from swift_citrusv.rows import shards
    from swift_citrusv.training import stream_jsonl
    monkeypatch.setattr(shards, '_SHARD_BYTES', 100)
    monkeypatch.setattr(stream_jsonl, '_SHARDS_PER_READER', 12)


def load(paths: str | list[str], **kwargs):
    from swift.dataset import load_dataset
    return load_dataset(paths, **{'strict': True, **kwargs})[0]


def text_rows(count: int, first: int = 0) -> list[dict]:
    return [Maker.row(None, f'Row {first + i}?', f'Yes {i}.' + i % 5 * ' And so on.') for i in range(count)]


def ids(rows) -> list[str]:
    return [row['citrusv_row'] for row in rows]


# ---- lines and shards


def test_shards_have_the_lines_of_the_file(tmp_path, monkeypatch):
    from swift_citrusv.rows import shards as shards_module
    from swift_citrusv.rows.jsonl import read_lines
    path = tmp_path / 'lines.jsonl'
    for text in (
            'a\nb\nc\n',
            'a\nb\nc',
            '\n\na\n \nb\r\n\r\nc\n\n',
            '\ufeffa\n\nb\n',
            'x' * 500 + '\nb\n' + 'y' * 700 + '\n' + '\n' * 50 + 'z',
            'ä' * 300 + '\n' + '细胞' * 99 + '\nc\n',
            '',
            '\n',
    ):
        path.write_bytes(text.encode())
        expected = [(number, line.strip()) for number, line in read_lines(str(path))]
        for shard_bytes in (1, 7, 50, 1 << 14):
            monkeypatch.setattr(shards_module, '_SHARD_BYTES', shard_bytes)
            shards = shards_module.split_files([str(path)])
            lines = [(number, str(line).strip()) for _, number, line in shards_module.read_shards([str(path)], shards)]
            assert lines == expected, (text, shard_bytes)
            assert shards.starts == [0, *shards.stops[:-1]], (text, shard_bytes)
            assert shards.stops[-1] == len(text.encode()), (text, shard_bytes)


def test_size_of_shards(tmp_path, monkeypatch):
    from swift_citrusv.rows import shards as shards_module
    monkeypatch.setattr(shards_module, '_SHARD_BYTES', 1000)
    path = tmp_path / 'lines.jsonl'
    path.write_bytes(b'123456789 12345\n' * 4321)
    shards = shards_module.split_files([str(path)])
    sizes = [stop - start for start, stop in zip(shards.starts, shards.stops)]
    assert len(sizes) == 69 and min(sizes) > 950 and max(sizes) < 1050
    assert shards.first_lines == [start // 16 + 1 for start in shards.starts]


# ---- rows


def test_same_rows_as_without_streaming(tmp_path):
    """After ms-swift's preprocessing, with masks of every format and keys that only late rows have."""
    maker = Maker(tmp_path / 'images')
    rows = [*text_rows(20), *maker.every_kind()]
    rows.append(maker.row('<image>Segment it.', 'It: [SEG].', images=[maker.image()], masks=[[[1, 1, 40, 1, 40, 50]]]))
    rows[25]['messages'][1]['loss'] = True
    rows[26]['messages'].insert(0, {'role': 'system', 'content': '{"a": [1, 2]}'})
    path = write_jsonl(tmp_path / 'a.jsonl', rows)
    streamed, whole = list(load(path, streaming=True)), list(load(path))
    assert len(streamed) == len(whole) == len(rows)
    assert streamed == whole
    assert sum(row['masks'] is not None for row in streamed) == 8
    assert ids(streamed) == [f'{tmp_path.name}/a.jsonl:{i + 1}' for i in range(len(rows))]
    assert streamed[25]['messages'][1]['loss'] is True


def test_late_images_and_masks_are_read(tmp_path):
    """After more rows of text than determine the columns."""
    maker = Maker(tmp_path / 'images')
    path = write_jsonl(tmp_path / 'a.jsonl', [*text_rows(1100), *maker.every_kind()])
    rows, wanted = list(load(path, streaming=True))[1100:], list(load(path))[1100:]
    assert rows == wanted and sum(row['masks'] is not None for row in rows) == 7


def test_strings_are_not_parsed_as_json(tmp_path):
    path = write_jsonl(tmp_path / 'a.jsonl', [{'query': '12', 'response': 'null'}, {'query': '[1]', 'response': 'x'}])
    contents = [[message['content'] for message in row['messages']] for row in load(path, streaming=True)]
    assert contents == [['12', 'null'], ['[1]', 'x']]


def test_several_files_with_different_columns(tmp_path):
    maker = Maker(tmp_path / 'images')
    paths = [
        write_jsonl(tmp_path / 'text.jsonl', text_rows(6)),
        write_jsonl(tmp_path / 'masks.jsonl', maker.every_kind()),
        write_jsonl(tmp_path / 'query.jsonl', [{
            'query': f'<image>What {i}?',
            'response': 'A cell.',
            'images': [maker.image()]
        } for i in range(3)])
    ]
    rows = list(load(paths, streaming=True))
    assert len(rows) == 21 and sum(bool(row.get('masks')) for row in rows) == 7
    assert rows[-1]['images'][0]['path'].endswith('.png') and rows[-1]['messages'][0]['content'] == '<image>What 2?'
    mixed = list(load(paths, streaming=True, interleave_prob=[.3, .5, .2], stopping_strategy='all_exhausted'))
    assert {*ids(mixed)} == {*ids(rows)}
    shuffled = ids(load(paths, streaming=True, shuffle=True))
    assert sorted(shuffled) == sorted(ids(rows)) and shuffled != ids(rows)


BAD = {
    'not JSON':
    '{"messages": [',
    'mask-count':
    json.dumps({
        **Maker.row(None, '<image>Segment.', 'None.'), 'images': ['x.png'],
        'masks': [[[1, 1, 4, 1, 4, 5]]]
    }),
    'columns':
    json.dumps({
        **Maker.row(None, 'Where?', 'Here.'), 'channel': 'x'
    }),
    'messages':
    json.dumps({'query': 'What?'}),
    'preprocessor':
    json.dumps({'messages': [{
        'role': 'judge',
        'content': 'x'
    }]}),
}
WORDS = {
    'not JSON': 'not JSON',
    'mask-count': 'SEG',
    'columns': '"channel": null',
    'messages': "no 'messages'",
    'preprocessor': 'judge'
}


@pytest.mark.parametrize('kind', BAD)
@pytest.mark.parametrize('number', [3, 1203])
def test_bad_row_is_named(kind, number, tmp_path):
    lines = [json.dumps(row) for row in text_rows(1210)]
    lines[0] = json.dumps({**json.loads(lines[0]), 'query': None})
    lines[number - 1] = BAD[kind]
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(lines))
    if (kind, number) == ('columns', 3):
        # The first rows determine the columns.
        assert len(list(load(str(path), streaming=True))) == 1210
        return
    with pytest.raises(RowError, match=f'a.jsonl:{number}') as error:
        list(load(str(path), streaming=True))
    assert WORDS[kind] in str(error.value)


def test_not_strict_bad_rows_are_counted(tmp_path):
    from swift_citrusv.training.stream_jsonl import reading_skips
    lines = [json.dumps(row) for row in text_rows(1210)]
    lines[0] = json.dumps({**json.loads(lines[0]), 'query': None})
    for i, line in enumerate(BAD.values()):
        lines[1100 + i] = line
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(lines))
    stream = load(str(path), streaming=True, strict=False)
    reading_skips.counts.clear()
    assert len(list(stream)) == 1205
    assert reading_skips.counts == {'not-json': 1, 'mask-count': 1, 'columns': 1, 'messages': 1, 'preprocessor': 1}


def test_files_that_cannot_be_used(tmp_path):
    empty = tmp_path / 'empty.jsonl'
    empty.write_text('\n\n')
    with pytest.raises(RowError, match='the file has no row'):
        load(str(empty), streaming=True)
    bad = tmp_path / 'bad.jsonl'
    bad.write_text('nothing\n' * 3)
    with pytest.raises(RowError, match='the first 3 rows of .*bad.jsonl: no row is left'):
        load(str(bad), streaming=True, strict=False)
    changed = Path(write_jsonl(tmp_path / 'changed.jsonl', text_rows(3)))
    stream = load(str(changed), streaming=True)
    changed.write_text(changed.read_text() + '\n')
    with pytest.raises(ValueError, match='changed since the run started'):
        list(stream)


# ---- splitting among readers


@pytest.mark.parametrize('shuffle', [False, True])
def test_readers_get_each_row_once(shuffle, tmp_path, small_shards):
    from swift_citrusv.training.stream_jsonl import every_reader_reads_all, rows_of_reader
    paths = [write_jsonl(tmp_path / f'{name}.jsonl', text_rows(count)) for name, count in (('a', 61), ('b', 9))]
    stream = load(paths, streaming=True, shuffle=shuffle)
    assert stream.num_shards == 84
    everything = sorted(ids(stream))
    for num_slots in (1, 2, 3, 5, 8):
        assert every_reader_reads_all(stream, num_slots) == (num_slots == 8), num_slots
        orders = []
        for pass_index in (0, 1, 0):
            parts = [ids(rows_of_reader(stream, slot, num_slots, pass_index)) for slot in range(num_slots)]
            assert sorted(sum(parts, [])) == everything, (num_slots, pass_index)
            orders.append(parts)
        assert orders[0] == orders[2] and (orders[0] != orders[1]) == shuffle, num_slots


def test_two_readers_do_not_disturb_each_other(tmp_path, small_shards):
    from swift_citrusv.training.stream_jsonl import rows_of_reader
    stream = load(write_jsonl(tmp_path / 'a.jsonl', text_rows(40)), streaming=True, shuffle=True)
    first = rows_of_reader(stream, 0, 1, 0)
    mixed = []
    for i, row in enumerate(first):
        mixed.append(row)
        if i % 7 == 0:
            next(rows_of_reader(stream, 0, 1, 0))
    assert ids(mixed) == ids(rows_of_reader(stream, 0, 1, 0))


def test_limited_number_of_rows(tmp_path, small_shards):
    from swift_citrusv.training.stream_jsonl import rows_of_reader
    stream = load(write_jsonl(tmp_path / 'a.jsonl', text_rows(40)) + '#10', streaming=True)
    parts = [ids(rows_of_reader(stream, slot, 4, 0)) for slot in range(4)]
    names = sorted(sum(parts, []), key=lambda name: int(name.split(':')[1]))
    assert names == [f'{tmp_path.name}/a.jsonl:{i + 1}' for i in range(10)]


def test_a_stream_can_be_pickled(tmp_path):
    stream = load(write_jsonl(tmp_path / 'a.jsonl', text_rows(4)), streaming=True, shuffle=True)
    assert list(pickle.loads(pickle.dumps(stream))) == list(stream)
