"""The length pass: lengths as ms-swift's own pass gives them, bad rows, processes, ranks, and what is kept on disk."""
import json
import logging
import multiprocessing
import numpy as np
import os
import pytest
import torch.distributed as dist
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pathlib import Path
from support.rows import Maker, write_jsonl
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.constants import CHUNKS_COLUMN, ROW_COLUMN
from swift_citrusv.encoding.row_length import MeasuringTemplate, measure
from swift_citrusv.errors import RowError
from swift_citrusv.training import length_cache
from swift_citrusv.training.length_cache import CorruptCacheError, LengthCache, MeasuredRows, concatenated_ranges
from swift_citrusv.training.length_keys import row_key, settings_text
from swift_citrusv.training.length_pass import chunks_arrays, measure_dataset


@pytest.fixture(scope='module')
def make_template(tiny_checkpoint):
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    register()
    patch_dataset_loading()

    def make(max_length: int | None = 2048, **kwargs):
        _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
        template = get_template(processor, max_length=max_length, **kwargs)
        template.set_mode('train')
        return template

    return make


@pytest.fixture(scope='module')
def template(make_template):
    return make_template()


def load(folder: Path, rows: list[dict], name: str = 'train.jsonl') -> Dataset:
    """The rows as training has them."""
    from swift.dataset import AutoPreprocessor

    from swift_citrusv.training.jsonl_dataset import load_jsonl
    path = write_jsonl(folder / name, rows)
    dataset = load_jsonl(path, strict=True, cache_dir=str(folder / 'arrow'))
    return AutoPreprocessor()(dataset, strict=True, load_from_cache_file=False)


@pytest.fixture(scope='module')
def every_kind(tmp_path_factory):
    """Rows that are not written to, in a data set."""
    folder = tmp_path_factory.mktemp('kinds')
    return load(folder, Maker(folder / 'images').every_kind())


def long_row(maker: Maker) -> dict:
    return maker.row('<image>Tell me all.', 'bone and vessel ' * 40, images=[maker.image()])


class Calls:
    """Counts the rows that are measured in this process."""

    def __init__(self, monkeypatch) -> None:
        self.rows: list[str] = []
        measure_row = MeasuringTemplate.measure

        def counted(measuring, row):
            self.rows.append(row[ROW_COLUMN])
            return measure_row(measuring, row)

        monkeypatch.setattr(MeasuringTemplate, 'measure', counted)

    def take(self) -> list[str]:
        rows, self.rows = self.rows, []
        return rows


def chunks_of(dataset: Dataset) -> list[list[int]]:
    return [row[CHUNKS_COLUMN] for row in dataset]


def slow_chunks(dataset: Dataset) -> list[tuple[int, ...]]:
    """(row, start, stop, vision tokens, segmentation images) of each chunk, row by row."""
    return [(i, *flat[at:at + 4]) for i, flat in enumerate(chunks_of(dataset)) for at in range(0, len(flat), 4)]


def fast_chunks(dataset: Dataset) -> list[tuple[int, ...]]:
    rows, chunks = chunks_arrays(dataset)
    assert rows.dtype == chunks.dtype == np.int64 and chunks.shape == (len(rows), 4)
    return [(row, *chunk) for row, chunk in zip(rows.tolist(), chunks.tolist())]


# ---- the columns


@pytest.mark.parametrize('num_proc', [1, 2, 5])
def test_as_ms_swift_measures(num_proc, template, every_kind):
    from swift.dataset import AddLengthPreprocessor
    stock = AddLengthPreprocessor(template=template)(every_kind, strict=True, load_from_cache_file=False)
    measured = measure_dataset(template, every_kind, num_proc=num_proc, strict=True, cache_dir=None)
    assert list(measured['lengths']) == list(
        stock['lengths']) and measured.features['lengths'] == stock.features['lengths']
    assert [row['messages'] for row in measured] == [row['messages'] for row in every_kind]
    assert set(measured.column_names) == {*every_kind.column_names, 'lengths', CHUNKS_COLUMN}
    assert fast_chunks(measured) == slow_chunks(measured)
    assert chunks_of(measured) == [[n for chunk in measure(template, row) for n in chunk] for row in every_kind]
    # Measured twice, the columns are made anew.
    again = measure_dataset(template, measured, num_proc=num_proc, strict=True, cache_dir=None)
    assert again.column_names == measured.column_names and chunks_of(again) == chunks_of(measured)


@pytest.mark.parametrize('order', [[3, 0, 7], [5, 5, 2, 5], list(range(2, 9)), list(range(11, -1, -1)), [4]])
def test_selected_rows(order, template, every_kind):
    whole = measure_dataset(template, every_kind, strict=True)
    for selected in (every_kind.select(order), every_kind.shuffle(seed=1).select(order)):
        measured = measure_dataset(template, selected, strict=True)
        names = [row[ROW_COLUMN] for row in selected]
        expected = {row[ROW_COLUMN]: row[CHUNKS_COLUMN] for row in whole}
        assert [row[ROW_COLUMN] for row in measured] == names
        assert chunks_of(measured) == [expected[name] for name in names]
        assert fast_chunks(measured) == slow_chunks(measured)
        # Nor is a row written anew: the column that a new table would copy is the very same memory.
        assert buffers(measured) == buffers(every_kind)


def buffers(dataset: Dataset) -> set[int]:
    return {
        buffer.address
        for chunk in dataset.data.column('messages').chunks
        for buffer in chunk.flatten().buffers() if buffer
    }


def test_each_row_is_measured_once(template, every_kind, monkeypatch):
    calls = Calls(monkeypatch)
    measured = measure_dataset(template, every_kind.select([1, 1, 4, 1, 4]), strict=True)
    assert len(measured) == 5 and len(calls.take()) == 2


def test_fingerprints(template, every_kind, make_template):
    """Data sets that differ have other fingerprints, by which `datasets` names its caches; equal ones have the same."""
    short = make_template(50, truncation_strategy='split')
    prints = [
        measure_dataset(t, d, strict=True)._fingerprint
        for t, d in ((template, every_kind), (template, every_kind.select([2, 1])), (template, every_kind),
                     (short, every_kind.select(range(3))))
    ]
    assert prints[0] == prints[2] and len(set(prints)) == 3


def test_chunks_of_long_rows(make_template, tmp_path):
    maker = Maker(tmp_path / 'images')
    template = make_template(60, truncation_strategy='split')
    dataset = load(tmp_path, [maker.row('Hi.', 'Hello.'), long_row(maker), maker.row('Bone?', 'Yes.')])
    measured = measure_dataset(template, dataset, strict=True)
    lengths = list(measured['lengths'])
    assert [len(lengths[i]) for i in range(3)] == [1, len(lengths[1]), 1] and len(lengths[1]) > 2
    assert fast_chunks(measured) == slow_chunks(measured) and max(lengths[1]) <= 60
    assert fast_chunks(measured.select([1, 0, 1])) == slow_chunks(measured.select([1, 0, 1]))


def test_no_rows(template, every_kind):
    empty = measure_dataset(template, every_kind.select([]), strict=True)
    rows, chunks = chunks_arrays(empty)
    assert len(empty) == 0 and rows.shape == (0, ) and chunks.shape == (0, 4)


def test_rows_that_were_not_measured(template, every_kind):
    measured = measure_dataset(template, every_kind, strict=True)
    column: list[list[int] | None] = [row[CHUNKS_COLUMN] for row in measured]
    missing: list[int] | None
    for missing in (None, []):
        column[4] = missing
        spoilt = every_kind.add_column(CHUNKS_COLUMN, column)
        with pytest.raises(ValueError, match='Row 4 .* not measured'):
            chunks_arrays(spoilt)
        assert fast_chunks(spoilt.select([5, 6, 3])) == slow_chunks(spoilt.select([5, 6, 3]))


# ---- bad rows


@pytest.fixture
def mixed(tmp_path):
    """Good rows, one without its file, one that is too long, and two whose mask has another size than the image."""
    maker = Maker(tmp_path / 'images')
    bad = maker.row('<image>Segment.', '[SEG]', images=[maker.image()], masks=[maker.mask(40, 60)])
    rows = [
        maker.row('Hi.', 'Hello.'), bad,
        maker.row('<image>What?', 'A cell.', images=['nowhere.png']),
        maker.row('Bone?', 'Yes.'),
        long_row(maker), bad,
        maker.row('<image>What?', 'A cell.', images=[maker.image()])
    ]
    return load(tmp_path, rows)


@pytest.mark.parametrize('num_proc', [1, 3])
def test_skipped_rows_are_counted(num_proc, mixed, make_template, caplog):
    caplog.set_level(logging.INFO, 'swift')
    template = make_template(60)
    measured = measure_dataset(template, mixed, num_proc=num_proc, strict=False)
    assert [row[ROW_COLUMN] for row in measured] == ['train.jsonl:1', 'train.jsonl:4', 'train.jsonl:7']
    assert fast_chunks(measured) == slow_chunks(measured)
    for line in (2, 3, 5, 6):
        assert f'train.jsonl:{line}: ' in caplog.text
    assert 'measuring: 4 of 7 rows were skipped (mask-size: 2, image-unreadable: 1, MaxLengthError: 1)' in caplog.text
    shuffled = measure_dataset(template, mixed.select([4, 3, 2, 0, 0]), num_proc=num_proc, strict=False)
    assert [row[ROW_COLUMN] for row in shuffled] == ['train.jsonl:4', 'train.jsonl:1', 'train.jsonl:1']


def test_not_every_skip_is_logged(mixed, make_template, caplog, monkeypatch):
    monkeypatch.setattr('swift_citrusv.rows.skips._MAX_LOGGED', 2)
    measure_dataset(make_template(60), mixed, strict=False)
    assert 'train.jsonl:3: ' in caplog.text and 'train.jsonl:5: ' not in caplog.text
    assert caplog.text.count('only counted from here on') == 1 and '4 of 7 rows were skipped' in caplog.text


@pytest.mark.parametrize('num_proc', [1, 2])
@pytest.mark.parametrize(('rows', 'error', 'match'), [(range(7), RowError, 'train.jsonl:2: '),
                                                      ([3, 4, 5], MaxLengthError, 'train.jsonl:5: ')])
def test_strict_runs_end_at_the_first(num_proc, rows, error, match, mixed, make_template):
    with pytest.raises(error, match=match):
        measure_dataset(make_template(60), mixed.select(rows), num_proc=num_proc, strict=True)


def test_all_rows_skipped(mixed, make_template):
    assert len(measure_dataset(make_template(60), mixed.select([1, 2]), strict=False)) == 0


# ---- the cache


@pytest.fixture
def own_rows(tmp_path):
    """Rows and files that a test may change."""
    maker = Maker(tmp_path / 'images')
    return maker.every_kind() + [maker.row(f'Question {i}?', 'Yes.') for i in range(20)]


def measure_cached(template, dataset, folder, **kwargs) -> list[list[int]]:
    return chunks_of(measure_dataset(template, dataset, strict=True, cache_dir=str(folder / 'cache'), **kwargs))


def test_second_start_measures_nothing(own_rows, template, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, 'swift')
    calls = Calls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    first = measure_cached(template, dataset, tmp_path)
    assert len(calls.take()) == len(own_rows) and f'lengths of 0 rows from the cache, {len(own_rows)} ' in caplog.text
    assert measure_cached(template, dataset, tmp_path) == first
    assert not calls.take() and f'lengths of {len(own_rows)} rows from the cache, 0 measured' in caplog.text
    # Neither its place in a file nor the processes that look it up make a row another.
    moved = load(tmp_path, own_rows[5:] + own_rows[:5], 'moved.jsonl').shuffle(seed=3)
    expected = chunks_of(measure_dataset(template, moved, strict=True))
    assert len(calls.take()) == len(own_rows)
    assert measure_cached(template, moved, tmp_path, num_proc=2) == expected and not calls.take()


def test_an_edited_row_is_measured_anew(own_rows, template, tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    measure_cached(template, load(tmp_path, own_rows), tmp_path)
    calls.take()
    own_rows[3]['messages'][1]['content'] += ' And nothing else.'
    own_rows[12]['messages'][0]['content'] = 'Another question?'
    edited = load(tmp_path, own_rows, 'edited.jsonl')
    chunks = measure_cached(template, edited, tmp_path)
    assert calls.take() == ['edited.jsonl:4', 'edited.jsonl:13']
    assert chunks == chunks_of(measure_dataset(template, edited, strict=True))


def test_a_changed_file_is_measured_anew(own_rows, template, tmp_path, monkeypatch):
    from PIL import Image
    calls = Calls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    before = measure_cached(template, dataset, tmp_path)
    calls.take()
    # An image of another size, a frame with another time, and files that cannot be told from before.
    changed, frame = own_rows[1]['images'][0], own_rows[10]['videos'][0][1]
    Image.new('RGB', (300, 200)).save(changed)
    os.utime(frame, ns=(1, 1))
    stat = os.stat(own_rows[2]['images'][0])
    os.utime(own_rows[2]['images'][0], ns=(1, stat.st_mtime_ns))
    after = measure_cached(template, dataset, tmp_path)
    assert calls.take() == ['train.jsonl:2', 'train.jsonl:11']
    assert [i for i in range(len(after)) if after[i] != before[i]] == [1]
    assert after[1][2] > before[1][2]
    os.unlink(changed)
    with pytest.raises(RowError, match='train.jsonl:2: .*cannot be read'):
        measure_cached(template, dataset, tmp_path)


def test_other_settings_are_other_lengths(own_rows, template, make_template, tmp_path, monkeypatch):
    from qwen_vl_utils import vision_process
    calls = Calls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    expected = measure_cached(template, dataset, tmp_path)
    calls.take()
    tokens = make_template()
    tokens.tokenizer.add_tokens(['Question'])
    padded = make_template()
    padded.template_meta.system_prefix = ['Look: ', *padded.template_meta.system_prefix]
    changed = {
        'max_pixels': make_template(max_pixels=3000),
        'max_length': make_template(1000),
        'strategy': make_template(truncation_strategy='right'),
        'system': make_template(default_system='You are short.'),
        'tokenizer': tokens,
        'prefix': padded,
    }
    for name, other in changed.items():
        measured = measure_cached(other, dataset, tmp_path)
        assert len(calls.take()) == len(own_rows), name
        assert (measured != expected) == (name not in ('max_length', 'strategy')), name
    monkeypatch.setattr(length_cache, 'MAX_FILES', 100)
    monkeypatch.setattr(vision_process, 'IMAGE_MIN_TOKEN_NUM', 30)
    measure_cached(template, dataset, tmp_path)
    assert len(calls.take()) == len(own_rows)
    monkeypatch.undo()
    calls = Calls(monkeypatch)
    # What has no part in a length is not asked about.
    packed = make_template(padding_free=True)
    packed.packing = True
    assert measure_cached(packed, dataset, tmp_path) == expected and not calls.take()


def test_settings_stay_as_rows_pass(every_kind, make_template):
    template = make_template()
    before = settings_text(template)
    template.encode(every_kind[2])
    template.print_inputs(template.encode(every_kind[8]))
    template.data_collator([template.encode(every_kind[3], return_length=True)])
    assert settings_text(template) == before


def test_bad_rows_are_not_kept(mixed, make_template, tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    template = make_template(60)
    for expected in (7, 4, 4):
        measured = measure_dataset(template, mixed, strict=False, cache_dir=str(tmp_path / 'cache'))
        assert len(measured) == 3 and len(calls.take()) == expected


def test_what_was_measured_before_an_error_is_kept(own_rows, template, tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    monkeypatch.setattr('swift_citrusv.training.length_pass._MAX_BATCH', 4)
    own_rows[9] = Maker(tmp_path / 'bad').row('<image>What?', 'It.', images=['nowhere.png'])
    dataset = load(tmp_path, own_rows)
    for expected in (10, 2):
        with pytest.raises(RowError, match='train.jsonl:10: '):
            measure_cached(template, dataset, tmp_path)
        assert len(calls.take()) == expected


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'other', 'longer'])
def test_a_damaged_cache_is_made_anew(damage, own_rows, template, tmp_path, monkeypatch, caplog):
    calls = Calls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    first = measure_cached(template, dataset, tmp_path)
    calls.take()
    [path] = (tmp_path / 'cache').iterdir()
    content = path.read_bytes()
    for place in (0, 20, 40, len(content) // 2, len(content) - 3) if damage == 'flip' else (0, ):
        damaged = {
            'flip': content[:place] + bytes([content[place] ^ 4]) + content[place + 1:],
            'cut': content[:-100],
            'empty': b'',
            'other': b'<html>Not Found</html>' * 20,
            'longer': content + b'x'
        }[damage]
        path.write_bytes(damaged)
        assert measure_cached(template, dataset, tmp_path) == first
        assert len(calls.take()) == len(own_rows) and 'measured again' in caplog.text
        assert path.read_bytes() == content
    assert measure_cached(template, dataset, tmp_path) == first and not calls.take()


def test_a_folder_that_cannot_be_written(every_kind, template, tmp_path, caplog):
    (tmp_path / 'cache').write_text('a file')
    assert len(measure_cached(template, every_kind, tmp_path)) == 12
    assert 'cannot be kept' in caplog.text


def test_the_cache_is_bounded(own_rows, template, make_template, tmp_path, monkeypatch):
    monkeypatch.setattr(length_cache, 'MAX_ROWS', 15)
    monkeypatch.setattr(length_cache, 'MAX_FILES', 2)
    calls = Calls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    measure_cached(template, dataset.select(range(10)), tmp_path)
    # The ten of before fill it up beside four new ones; then nine new ones leave room for six of them.
    for rows, expected in ((range(10, 14), 4), (range(12, 23), 9), (range(12, 23), 0), (range(14), 8)):
        calls.take()
        measure_cached(template, dataset.select(rows), tmp_path)
        assert len(calls.take()) == expected, rows
    # A run larger than the bound is kept whole.
    measure_cached(template, dataset, tmp_path)
    calls.take()
    measure_cached(template, dataset, tmp_path)
    assert not calls.take()
    [path] = (tmp_path / 'cache').iterdir()
    os.utime(path, (1, 1))
    (tmp_path / 'cache' / 'killed.lengths.7.tmp').write_bytes(b'half')
    os.utime(tmp_path / 'cache' / 'killed.lengths.7.tmp', (2, 2))
    (tmp_path / 'cache' / 'of_the_user.txt').write_text('kept')
    for max_length in (900, 901):
        measure_cached(make_template(max_length), dataset, tmp_path)
    left = sorted(path.name for path in (tmp_path / 'cache').iterdir())
    assert len(left) == 3 and path.name not in left and 'of_the_user.txt' in left and 'killed.lengths.7.tmp' not in left


def random_rows(rng: np.random.Generator, count: int) -> MeasuredRows:
    """Keys of few distinct halves, so that many share one."""
    keys = np.unique(rng.integers(0, 6, (count, 2)).astype(np.uint64), axis=0)
    rng.shuffle(keys)
    counts = rng.integers(1, 4, len(keys)).astype(np.int32)
    return MeasuredRows(keys, counts, rng.integers(0, 1000, (int(counts.sum()), 4)).astype(np.int32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
def test_cache_against_a_dictionary(tmp_path_factory, seed, count, times):
    """After any number of writes each row is found with its chunks, or not found, but never with another's."""
    rng = np.random.default_rng(seed)
    path = str(tmp_path_factory.mktemp('cache') / 'x.lengths')
    content: dict[tuple[int, int], list] = {}
    for _ in range(times):
        rows = random_rows(rng, count)
        ends = np.cumsum(rows.counts)
        new = {}
        for key, stop, number in zip(rows.keys.tolist(), ends.tolist(), rows.counts.tolist()):
            new[tuple(key)] = rows.chunks[stop - number:stop].tolist()
        cache = LengthCache(path)
        found = cache.find(rows.keys) >= 0
        for key, is_found in zip(new, found):
            assert not is_found or key in content
        cache.add(rows.take(~found))
        for key, is_found in zip(new, found):
            if not is_found:
                content.setdefault(key, new[key])
        read = LengthCache(path)
        assert len(read.rows) == len(content)
        places = read.find(read.rows.keys)
        first = np.append(True, read.rows.keys[1:, 0] != read.rows.keys[:-1, 0])[:len(read.rows)]
        # Of several that share the first half of the key, one is found.
        assert ((places >= 0) == first).all()
        for key, place in zip(read.rows.keys.tolist(), places.tolist()):
            assert place < 0 or read.chunks(place).tolist() == content[tuple(key)]


def test_cache_file_is_checked(tmp_path):
    (tmp_path / 'x.lengths').write_bytes(b'short')
    with pytest.raises(CorruptCacheError, match='x.lengths is truncated or changed'):
        LengthCache(str(tmp_path / 'x.lengths'))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_spread(ranges):
    starts, counts = (np.array([r[i] for r in ranges], np.int64) for i in (0, 1))
    assert concatenated_ranges(starts,
                               counts).tolist() == [i for start, count in ranges for i in range(start, start + count)]


# ---- keys


def test_keys_tell_rows_apart(tmp_path):
    files = [str(tmp_path / f'{i}.png') for i in range(6)]
    for file in files:
        Path(file).write_bytes(b'x')
    turn = {'role': 'assistant', 'content': 'Yes.'}
    parts = [{'type': 'image', 'image': files[1]}, {'type': 'image_url', 'image_url': {'url': files[2]}}]
    row: dict[str, Any] = {
        'messages': [{'role': 'user', 'content': parts}, {'role': 'user', 'content': f'<img>{files[3]}</img>'}, turn],
        'images': [{'bytes': None, 'path': files[0]}, {'bytes': b'abc', 'path': None}],
        'videos': [[files[4], 'http://nowhere/x.png'], 'no\0file.mp4'],
        'masks': json.dumps([{'path': files[5]}]),
        'tools': [{'a': 1, 'b': 2}],
        'label': None,
        ROW_COLUMN: 'train.jsonl:3'
    }  # yapf: disable
    key = row_key(row)
    assert len(key) == 16
    for same in ({ROW_COLUMN: 'other.jsonl:9'}, {'lengths': [3]}, {CHUNKS_COLUMN: [0, 3, 0, 0]}):
        assert row_key({**row, **same}) == key
    others: list[dict[str, Any]] = [
        {'label': 1}, {'new': None}, {'tools': [{'b': 2, 'a': 1}]}, {'masks': None}, {'masks': 'not "path" JSON'},
        {'images': row['images'][:1]}, {'images': [row['images'][0], {'bytes': b'abd', 'path': None}]},
        {'messages': [turn]}, {'messages': None}, {'messages': 'text'}, {'messages': [5]}, {'videos': [[5]]},
        {'label': '\ud800'}, {'label': float('nan')}, {'label': np.arange(3)}
    ]  # yapf: disable
    keys = [key] + [row_key({**row, **other}) for other in others]
    for file in files:
        os.utime(file, ns=(5, 5))
        keys.append(row_key(row))
    Path(files[0]).write_bytes(b'xy')
    os.utime(files[0], ns=(5, 5))
    keys.append(row_key(row))
    Path(files[0]).unlink()
    keys.append(row_key(row))
    assert len(set(keys)) == len(keys) == 1 + len(others) + len(files) + 2


def test_keys_follow_root_image_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('ROOT_IMAGE_DIR', str(tmp_path))
    row = {'messages': [], 'images': [{'bytes': None, 'path': 'sub/x.png'}]}
    keys = {row_key(row)}
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'x.png').write_bytes(b'x')
    keys.add(row_key(row))
    os.utime(tmp_path / 'sub' / 'x.png', ns=(5, 5))
    keys.add(row_key(row))
    assert len(keys) == 3


# ---- ranks


def _rank(rank: int, folder: Path, template, dataset, queue) -> None:
    os.environ.update({'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2'})
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    calls = Calls(pytest.MonkeyPatch())
    measured = measure_dataset(template, dataset, strict=False)
    try:
        measure_dataset(template, dataset, strict=True)
        error = ''
    except RowError as e:
        error = str(e)
    queue.put((rank, len(calls.take()), chunks_of(measured), error))
    dist.destroy_process_group()


def test_rank_0_measures_for_all(mixed, make_template, tmp_path):
    """The other rank gets the result, and the error, without measuring a row."""
    template = make_template(60)
    fork = multiprocessing.get_context('fork')
    queue = fork.Queue()
    ranks = [fork.Process(target=_rank, args=(i, tmp_path, template, mixed, queue), daemon=True) for i in range(2)]
    for rank in ranks:
        rank.start()
    results = {rank: rest for rank, *rest in (queue.get(timeout=120) for _ in ranks)}
    for rank in ranks:
        rank.join(timeout=60)
    assert results[0][0] > 0 and results[1][0] == 0
    assert results[0][1:] == results[1][1:] and len(results[0][1]) == 3 and 'train.jsonl:2: ' in results[0][2]
