"""The cache of measured lengths: what is measured again, what is kept, damaged files, and its bounds."""
import logging
import numpy as np
import os
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pathlib import Path
from support.measured_rows import MeasureCalls, chunks_of, load, measure_cached
from support.row_names import bare
from support.rows import Maker
from swift.arguments import DataArguments

from swift_citrusv.errors import RowError
from swift_citrusv.training import length_cache, length_pass
from swift_citrusv.training.length_cache import CorruptCacheError, LengthCache, MeasuredRows, concatenated_ranges
from swift_citrusv.training.length_pass import LengthPreprocessor, measure_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_second_run_measures_nothing(own_rows, template, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, 'swift')
    calls = MeasureCalls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    first = measure_cached(template, dataset, tmp_path)
    assert len(calls.take()) == len(own_rows) and f'lengths of 0 rows from the cache, {len(own_rows)} ' in caplog.text
    assert measure_cached(template, dataset, tmp_path) == first
    assert not calls.take() and f'lengths of {len(own_rows)} rows from the cache, 0 measured' in caplog.text
    # In another file, in another order, with several processes.
    moved = load(tmp_path, own_rows[5:] + own_rows[:5], 'moved.jsonl').shuffle(seed=3)
    expected = chunks_of(measure_dataset(template, moved, strict=True))
    assert len(calls.take()) == len(own_rows)
    assert measure_cached(template, moved, tmp_path, num_proc=2) == expected and not calls.take()


def test_the_flag_and_its_default(own_rows, template, tmp_path, monkeypatch, caplog):
    """Lengths are kept with --load_from_cache_file true only; that is not the default, as the documentation says."""
    caplog.set_level(logging.INFO, 'swift')
    monkeypatch.setattr(length_pass, 'default_cache_dir', lambda: str(tmp_path / 'cache'))
    calls, dataset, number = MeasureCalls(monkeypatch), load(tmp_path, own_rows), len(own_rows)
    page = ' '.join((ROOT / 'docs' / 'packing.md').read_text(encoding='utf-8').split())
    default = DataArguments().load_from_cache_file
    assert default is False
    assert "With `--load_from_cache_file true` (ms-swift's default is false) lengths are cached" in page
    for flag, measured, told in (
        (default, number, f'measured {number} rows; --load_from_cache_file true would keep their lengths'),
        (default, number, f'measured {number} rows; --load_from_cache_file true would keep their lengths'),
        (True, number, f'lengths of 0 rows from the cache, {number} measured'),
        (True, 0, f'lengths of {number} rows from the cache, 0 measured'),
        (False, number, f'measured {number} rows; --load_from_cache_file true would keep their lengths'),
    ):
        caplog.clear()
        LengthPreprocessor(template)(dataset, strict=True, load_from_cache_file=flag)
        assert len(calls.take()) == measured and told in caplog.text, (flag, measured)


def test_an_edited_row_is_measured_again(own_rows, template, tmp_path, monkeypatch):
    calls = MeasureCalls(monkeypatch)
    measure_cached(template, load(tmp_path, own_rows), tmp_path)
    calls.take()
    own_rows[3]['messages'][1]['content'] += ' And nothing else.'
    own_rows[12]['messages'][0]['content'] = 'Another question?'
    edited = load(tmp_path, own_rows, 'edited.jsonl')
    chunks = measure_cached(template, edited, tmp_path)
    assert list(map(bare, calls.take())) == ['edited.jsonl:4', 'edited.jsonl:13']
    assert chunks == chunks_of(measure_dataset(template, edited, strict=True))


def test_a_changed_file_is_measured_again(own_rows, template, tmp_path, monkeypatch):
    from PIL import Image
    calls = MeasureCalls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    before = measure_cached(template, dataset, tmp_path)
    calls.take()
    # An image of another size, a frame with another modification time, and a file with another access time only.
    changed, frame = own_rows[1]['images'][0], own_rows[10]['videos'][0][1]
    Image.new('RGB', (300, 200)).save(changed)
    os.utime(frame, ns=(1, 1))
    stat = os.stat(own_rows[2]['images'][0])
    os.utime(own_rows[2]['images'][0], ns=(1, stat.st_mtime_ns))
    after = measure_cached(template, dataset, tmp_path)
    assert list(map(bare, calls.take())) == ['train.jsonl:2', 'train.jsonl:11']
    assert [i for i in range(len(after)) if after[i] != before[i]] == [1]
    assert after[1][2] > before[1][2]
    os.unlink(changed)
    with pytest.raises(RowError, match='train.jsonl:2: .*cannot be read'):
        measure_cached(template, dataset, tmp_path)


def test_bad_rows_are_not_cached(mixed, make_template, tmp_path, monkeypatch):
    calls = MeasureCalls(monkeypatch)
    template = make_template(60)
    for expected in (7, 4, 4):
        measured = measure_dataset(template, mixed, strict=False, cache_dir=str(tmp_path / 'cache'))
        assert len(measured) == 3 and len(calls.take()) == expected


def test_rows_measured_before_an_error_are_cached(own_rows, template, tmp_path, monkeypatch):
    calls = MeasureCalls(monkeypatch)
    monkeypatch.setattr('swift_citrusv.training.length_pass._MAX_BATCH', 4)
    own_rows[9] = Maker(tmp_path / 'bad').row('<image>What?', 'It.', images=['nowhere.png'])
    dataset = load(tmp_path, own_rows)
    for expected in (10, 2):
        with pytest.raises(RowError, match='train.jsonl:10: '):
            measure_cached(template, dataset, tmp_path)
        assert len(calls.take()) == expected


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'other', 'longer'])
def test_a_damaged_cache_is_written_again(damage, own_rows, template, tmp_path, monkeypatch, caplog):
    calls = MeasureCalls(monkeypatch)
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
    assert 'cannot be cached' in caplog.text


def test_the_cache_is_bounded(own_rows, template, make_template, tmp_path, monkeypatch):
    monkeypatch.setattr(length_cache, 'MAX_ROWS', 15)
    monkeypatch.setattr(length_cache, 'MAX_FILES', 2)
    calls = MeasureCalls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    measure_cached(template, dataset.select(range(10)), tmp_path)
    # Four new rows fit beside ten old ones; beside nine new ones, six old ones fit.
    for rows, expected in ((range(10, 14), 4), (range(12, 23), 9), (range(12, 23), 0), (range(14), 8)):
        calls.take()
        measure_cached(template, dataset.select(rows), tmp_path)
        assert len(calls.take()) == expected, rows
    # All rows of a run larger than the bound are kept.
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
    """Rows with keys of which many share a half."""
    keys = np.unique(rng.integers(0, 6, (count, 2)).astype(np.uint64), axis=0)
    rng.shuffle(keys)
    counts = rng.integers(1, 4, len(keys)).astype(np.int32)
    return MeasuredRows(keys, counts, rng.integers(0, 1000, (int(counts.sum()), 4)).astype(np.int32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
def test_cache_against_a_dictionary(tmp_path_factory, seed, count, times):
    """After any number of writes, each row is found with its own chunks, or not at all."""
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
        indices = read.find(read.rows.keys)
        first = np.append(True, read.rows.keys[1:, 0] != read.rows.keys[:-1, 0])[:len(read.rows)]
        # Of several keys with the same first half, one is found.
        assert ((indices >= 0) == first).all()
        for key, index in zip(read.rows.keys.tolist(), indices.tolist()):
            assert index < 0 or read.chunks(index).tolist() == content[tuple(key)]


def test_cache_file_is_checked(tmp_path):
    (tmp_path / 'x.lengths').write_bytes(b'short')
    with pytest.raises(CorruptCacheError, match='x.lengths is truncated or changed'):
        LengthCache(str(tmp_path / 'x.lengths'))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_concatenated_ranges(ranges):
    starts, counts = (np.array([r[i] for r in ranges], np.int64) for i in (0, 1))
    expected = [i for start, count in ranges for i in range(start, start + count)]
    assert concatenated_ranges(starts, counts).tolist() == expected
