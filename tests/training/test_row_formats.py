"""Rows of every file format: the same rows as from JSONL, with and without streaming, and no bad row vanishes."""
import json
import pyarrow as pa
import pytest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pyarrow import parquet
from support.row_formats import FORMATS, write
from support.rows import Maker, write_jsonl
from typing import Any

from swift_citrusv.errors import RowError

TALK = [{'role': 'user', 'content': '<image>Segment.'}, {'role': 'assistant', 'content': 'It: [SEG].'}]


@pytest.fixture(scope='module', autouse=True)
def patched():
    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    from swift_citrusv.plugin.streaming import patch_reading
    register()
    patch_dataset_loading()
    patch_reading()


def load(paths: Any, **kwargs) -> list[dict[str, Any]]:
    from swift.dataset import load_dataset
    paths = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    return list(load_dataset(paths, **{'strict': True, **kwargs})[0])


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the template sees them: without their names, and without the columns that are None."""
    left = ({key: value for key, value in row.items() if value is not None and key not in ('citrusv_row', 'dataset')}
            for row in rows)  # yapf: disable
    return [{**row, **{key: json.loads(row[key]) for key in ('masks', 'mask_images') if key in row}} for row in left]


def same_kind(maker: Maker) -> list[dict[str, Any]]:
    """Rows whose columns Arrow can hold without text: masks are RLEs or files with a label."""
    rows = [row for row in maker.every_kind() if not row.get('videos')]
    rle = next(row['masks'][0] for row in rows if row.get('masks'))
    file = {'path': str(maker.folder / 'm.png'), 'label': 3}
    return [*rows, maker.row('<image>Segment.', '[SEG] and [SEG].', images=[maker.image()], masks=[rle, file])]


@pytest.mark.parametrize('name', FORMATS)
def test_same_rows_as_from_jsonl(name, tmp_path):
    maker = Maker(tmp_path / 'images')
    rows = same_kind(maker) if 'structs' in name else maker.every_kind()
    whole = plain(load(write_jsonl(tmp_path / 'a.jsonl', rows)))
    path = write(tmp_path / 'A', name, rows)
    for streaming in (False, True):
        read = load(path, streaming=streaming)
        assert plain(read) == whole, streaming
        assert [row['citrusv_row'] for row in read] == [f'A/{path.name}:{i + 1}' for i in range(len(rows))]
    assert len(load(f'{path}#5')) == len(load(f'{path}#5', streaming=True)) == 5


@pytest.mark.parametrize('name', FORMATS)
def test_a_bad_row_never_vanishes(name, tmp_path):
    """Neither a bad mask count nor what ms-swift's own preprocessor would drop without a word."""
    from swift_citrusv.training.stream_jsonl import reading_skips
    rows: list[dict[str, Any]] = [{'messages': TALK, 'images': ['a.png'], 'masks': None} for _ in range(6)]
    rle = {'size': [2, 3], 'counts': '05010'}
    rows[2] = {**rows[2], 'masks': [rle, rle]}
    rows[4] = {**rows[4], 'messages': [{'role': 'judge', 'content': 'x'}, {'role': 'assistant', 'content': 'y'}]}
    path = write(tmp_path / 'A', name, rows)
    for streaming in (False, True):
        with pytest.raises(RowError, match=f'^A/{path.name}:3: .*2 entries') as error:
            load(path, streaming=streaming)
        assert error.value.kind == 'mask-count'
        reading_skips.counts.clear()
        left = load(path, strict=False, streaming=streaming)
        assert [row['citrusv_row'] for row in left] == [f'A/{path.name}:{i}' for i in (1, 2, 4, 6)]
        if streaming:
            assert reading_skips.counts == {'mask-count': 1, 'preprocessor': 1}
    write(tmp_path / 'A', name, rows[:2] + rows[3:])
    for streaming in (False, True):
        with pytest.raises(RowError, match=f'^A/{path.name}:4: .*judge'):
            load(path, streaming=streaming)


def test_damaged_rows_of_tables(tmp_path):
    good = '"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]",\n'
    cases = {
        'more cells': (b'messages,masks\n' + (good + '\n').encode() + b'1,2,3\n' + good.encode(), 2, '3 cells'),
        'quote': (b'messages,masks\n' + good.encode() + b'"a" b,\n' + good.encode(), 2, 'not CSV'),
        'bytes': (b'messages,masks\n' + good.encode() + b'\xff\xe9,\n' + good.encode(), 2, 'not UTF-8'),
    }
    for name, (content, number, words) in cases.items():
        path = tmp_path / name / 'rows.csv'
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(RowError, match=f'^{name}/rows.csv:{number}: .*{words}'):
            load(path)
        assert [row['citrusv_row'] for row in load(path, strict=False)] == [f'{name}/rows.csv:{i}' for i in (1, 3)]
    # Where the rows behind a place cannot be found, `--strict false` does not help.
    lost = {
        'rows.csv': ('messages,masks\n' + good + '"open,\nx,\n', 'rows.csv:2: a quote .* never closes'),
        'list.json': (f'[{{"messages": {json.dumps(TALK)}}}, {{"messages": ]', 'list.json:2: the file is not JSON'),
        'comma.json': ('[{"query": "a", "response": "b"} {"query": "c"}]', 'comma.json:1: .*no comma'),
        'data.json': ('{"data": [\n{"messages": []}\n]}', 'data.json: .*not a list of rows'),
        'twice.csv': ('a,a\n1,2\n', "twice.csv: the header has the column 'a' 2 times"),
        'no.parquet': ('PAR', 'no.parquet cannot be read as Parquet'),
        'no.arrow': ('ARROW', 'no.arrow cannot be read as Arrow'),
        'semicolon.csv': ('messages;images\n1;2\n', 'semicolon.csv: no row is left: all 1 were skipped'),
        'deep.json': ('[' + '[' * 5000, 'deep.json:1: the file is not JSON'),
    }
    for name, (text, words) in lost.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=words):
            load(tmp_path / name, strict=False)
    with pytest.raises(RowError, match="semicolon.csv:1: .*no conversation in the columns .'messages;images'"):
        load(tmp_path / 'semicolon.csv')
    # An entry of a JSON list that is no row is only one bad row.
    (tmp_path / 'mixed.json').write_text(json.dumps([{'messages': TALK}, 7, {'messages': TALK}]))
    assert [row['citrusv_row'] for row in load(tmp_path / 'mixed.json', strict=False)] == [
        f'{tmp_path.name}/mixed.json:{i}' for i in (1, 3)]  # yapf: disable


def test_images_in_the_file_itself(tmp_path):
    """Parquet as `datasets` writes it, with bytes in the rows."""
    from swift_citrusv.files.images import open_image
    maker = Maker(tmp_path / 'images')
    files = [Path(maker.image()) for _ in range(5)]
    images: list[Any] = [[{'bytes': file.read_bytes(), 'path': None}] for file in files]
    images[3] = [{'bytes': None, 'path': str(files[3])}]
    rows = [{'messages': TALK, 'images': image, 'masks': '[[[1, 1, 40, 1, 40, 50]]]'} for image in images]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet', row_group_size=2)
    single = [{'query': '<image>?', 'response': 'A cell.', 'image': image[0], 'thumbnail': b'x'} for image in images]
    parquet.write_table(pa.Table.from_pylist(single), tmp_path / 'b.parquet')
    capital = [{('Image' if key == 'image' else key): value for key, value in row.items()} for row in single]
    parquet.write_table(pa.Table.from_pylist(capital), tmp_path / 'c.parquet')
    parquet.write_table(pa.Table.from_pylist([{**single[0], 'videos': [b'x']}]), tmp_path / 'd.parquet')
    with pytest.raises(RowError, match="d.parquet:1: 'videos' holds bytes"):
        load(tmp_path / 'd.parquet')
    for path in ('a.parquet', 'b.parquet', 'c.parquet'):
        for streaming in (False, True):
            read = load(tmp_path / path, streaming=streaming)
            assert [open_image(row['images'][0]).tobytes() for row in read] == [
                open_image(str(file)).tobytes() for file in files], path  # yapf: disable


def test_masks_of_pycocotools_and_missing_fields(tmp_path):
    """Counts in bytes, and the None fields that Arrow adds to the structs of a column."""
    rows = [{'messages': [{**TALK[0], 'loss': None}, {**TALK[1], 'loss': True}], 'images': ['a.png'],
             'masks': [mask]} for mask in ({'size': [2, 3], 'counts': b'05010'}, {'path': 'm.png', 'label': 2},
                                           {'path': 'm.png'})]  # yapf: disable
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet')
    read = plain(load(tmp_path / 'a.parquet'))
    assert [row['masks'] for row in read] == [[{
        'size': [2, 3],
        'counts': '05010'
    }], [{
        'path': 'm.png',
        'label': 2
    }], [{
        'path': 'm.png'
    }]]
    assert read[0]['messages'] == [TALK[0], {**TALK[1], 'loss': True}]


def test_text_files(tmp_path):
    (tmp_path / 'a.txt').write_bytes('\ufeffOne.\r\n\n  12\nnull\n'.encode())
    for streaming in (False, True):
        rows = load(tmp_path / 'a.txt', streaming=streaming)
        assert [row['messages'] for row in rows] == [[{
            'role': 'assistant',
            'content': text
        }] for text in ('One.', '  12', 'null')]
        assert [row['citrusv_row'].split(':')[1] for row in rows] == ['1', '3', '4']


def test_masks_under_another_name_stop_a_run(tmp_path):
    rows = [{'messages': TALK, 'images': ['a.png'], 'mask': [{'path': 'm.png'}]}]
    paths = [write(tmp_path / 'A', name, rows) for name in ('json', 'csv', 'parquet')]
    paths.append(Path(write_jsonl(tmp_path / 'A' / 'rows.jsonl', rows)))
    for path in paths:
        for streaming in (False, True):
            with pytest.raises(RowError, match=f"^A/{path.name}:1: .* no 'masks', but the column 'mask'"):
                load(path, streaming=streaming)
            assert len(plain(load(path, streaming=streaming, columns={'mask': 'masks'}))[0]['masks']) == 1


def test_two_files_of_one_name(tmp_path):
    paths = [tmp_path / folder / 'train.jsonl' for folder in ('x/A', 'x/B', 'y/A')]
    for path in paths:
        path.parent.mkdir(parents=True)
        write_jsonl(path, [{'messages': TALK, 'images': ['a.png']}])
    for streaming in (False, True):
        names = [row['citrusv_row'] for row in load(paths, streaming=streaming)]
        assert names == ['A/train.jsonl:1', 'B/train.jsonl:1', 'y/A/train.jsonl:1']


def test_folders(tmp_path):
    """As `datasets` finds their files, with the rows of all of them read as one dataset."""
    folder = tmp_path / 'data'
    for name, count in (('train-00000.jsonl', 3), ('train-00001.jsonl', 2), ('test.jsonl', 1)):
        folder.mkdir(exist_ok=True)
        write_jsonl(folder / name, [{'messages': TALK, 'images': ['a.png']}] * count)
    names = [f'data/train-0000{i}.jsonl:{n}' for i, n in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2))]
    for streaming in (False, True):
        assert [row['citrusv_row'] for row in load(folder, streaming=streaming)] == names
    assert len(load(f'{folder}#2')) == 2
    write_jsonl(folder / 'train-00001.jsonl', [{
        'messages': TALK,
        'images': ['a.png']
    }, {
        'query': 'x',
        'response': 'y'
    }])
    for streaming in (False, True):
        with pytest.raises(RowError, match=r"^data/train-00001.jsonl:2: the row has no 'messages'"):
            load(folder, streaming=streaming)
        assert [row['citrusv_row'] for row in load(folder, strict=False, streaming=streaming)] == names[:4]


@contextmanager
def registered(*infos: dict[str, Any]) -> Iterator[None]:
    """Registers datasets as `--custom_dataset_info` does."""
    from swift.dataset import dataset_syntax, register_dataset_info
    from swift.dataset.register import DATASET_MAPPING
    known = dict(DATASET_MAPPING)
    register_dataset_info(json.dumps(infos))
    try:
        yield
    finally:
        DATASET_MAPPING.clear()
        DATASET_MAPPING.update(known)
        dataset_syntax._dataset_meta_mapping = None


def test_columns_of_the_command_line_and_of_a_dataset_info(tmp_path):
    masks = [{'size': [2, 3], 'counts': '05010'}]
    rows = [{'chat': TALK, 'pic': 'a.png', 'segmentations': masks, 'which': [0]}, {'chat': TALK[:1], 'masks': None}]
    mapping = {'Segmentations': 'masks', 'chat': 'messages', 'pic': 'images', 'which': 'mask_images'}
    expected = [{'messages': TALK, 'images': [{'bytes': None, 'path': 'a.png'}], 'masks': masks, 'mask_images': [0]},
                {'messages': TALK[:1]}]  # yapf: disable
    paths = [write(tmp_path / 'A', name, rows) for name in ('csv', 'json', 'parquet')]
    paths.append(Path(write_jsonl(tmp_path / 'A' / 'rows.jsonl', rows)))
    for path in paths:
        for streaming in (False, True):
            assert plain(load(path, columns=mapping, streaming=streaming)) == expected, (path, streaming)
            with registered({'dataset_path': str(path), 'dataset_name': 'mine', 'columns': mapping}):
                assert plain(load('mine', streaming=streaming)) == expected, (path, streaming)
    with pytest.raises(RowError, match=r'^A/rows.csv:1: .*no conversation'):
        load(paths[0])


def test_roles_of_a_dataset_info(tmp_path):
    """A preprocessor of the user's converts the rows; they are checked when they are encoded."""
    path = write_jsonl(tmp_path / 'a.jsonl', [{
        'messages': [{'who': 'patient', 'said': '<image>?'}, {'who': 'doctor', 'said': '[SEG]'}], 'images': ['a.png'],
        'masks': [{'size': [2, 3], 'counts': '05010'}]
    }])  # yapf: disable
    roles = {'role_key': 'who', 'content_key': 'said', 'user_role': 'patient', 'assistant_role': 'doctor'}
    with registered({'dataset_path': path, 'messages': roles}):
        for streaming in (False, True):
            row, = plain(load(path, streaming=streaming))
            assert [turn['role'] for turn in row['messages']] == ['user', 'assistant'] and len(row['masks']) == 1


def test_readers_share_row_groups(tmp_path, monkeypatch):
    from swift.dataset import load_dataset

    from swift_citrusv.training import stream_jsonl
    monkeypatch.setattr(stream_jsonl, '_SHARDS_PER_READER', 2)
    rows = [{'query': f'{i}?', 'response': 'Yes.'} for i in range(23)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet', row_group_size=2)
    stream = load_dataset([str(tmp_path / 'a.parquet')], strict=True, streaming=True)[0]
    assert stream.num_shards == 12
    for num_readers in (1, 3, 5, 9):
        parts = [[row['citrusv_row'] for row in stream_jsonl.rows_of_reader(stream, slot, num_readers, 0)]
                 for slot in range(num_readers)]
        assert sorted(sum(parts, [])) == sorted(f'{tmp_path.name}/a.parquet:{i + 1}' for i in range(23)), num_readers
