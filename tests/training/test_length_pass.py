"""The length pass: lengths equal to those of ms-swift, selected rows, bad rows, processes and ranks."""
import datasets as hf_datasets
import logging
import multiprocessing
import numpy as np
import os
import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from pathlib import Path
from support.measured_rows import MeasureCalls, chunks_of, load
from support.row_names import bare
from support.rows import Maker
from swift.template import MaxLengthError

from swift_citrusv.constants import CHUNKS_COLUMN, ROW_COLUMN
from swift_citrusv.encoding.row_length import measure
from swift_citrusv.errors import RowError
from swift_citrusv.training import length_workers
from swift_citrusv.training.length_pass import chunks_arrays, measure_dataset


def long_row(maker: Maker) -> dict:
    return maker.row('<image>Tell me all.', 'bone and vessel ' * 40, images=[maker.image()])


def chunks_by_row(dataset: Dataset) -> list[tuple[int, ...]]:
    """(row, start, stop, vision tokens, segmentation images) of each chunk, row by row."""
    return [(i, *flat[at:at + 4]) for i, flat in enumerate(chunks_of(dataset)) for at in range(0, len(flat), 4)]


def chunks_by_array(dataset: Dataset) -> list[tuple[int, ...]]:
    rows, chunks = chunks_arrays(dataset)
    assert rows.dtype == chunks.dtype == np.int64 and chunks.shape == (len(rows), 4)
    return [(row, *chunk) for row, chunk in zip(rows.tolist(), chunks.tolist())]


# ---- the columns


@pytest.fixture
def workers(monkeypatch):
    """Processes measure all rows but those of the first batch, as they would many rows."""
    monkeypatch.setattr(length_workers, '_LOOK_AFTER', 0.)
    monkeypatch.setattr(length_workers, '_WORTH_WORKERS', 0.)


@pytest.fixture
def two_threads():
    """OpenMP has a pool of threads, which a fork of this process would wait for, for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1000, 1000).exp()
    yield
    torch.set_num_threads(before)


def stock_lengths(template, dataset: Dataset) -> list[list[int]]:
    """Those of ms-swift's own preprocessor, row by row: its `datasets.map` would fork."""
    from swift.dataset import AddLengthPreprocessor
    stock = AddLengthPreprocessor(template=template)
    return [stock.preprocess(row)['lengths'] for row in dataset]


def test_lengths_equal_those_of_ms_swift(template, every_kind):
    expected = stock_lengths(template, every_kind)
    measured = measure_dataset(template, every_kind, strict=True, cache_dir=None)
    assert list(measured['lengths']) == expected and measured.features['lengths'] == hf_datasets.List(
        hf_datasets.Value('int64'))
    assert [row['messages'] for row in measured] == [row['messages'] for row in every_kind]
    assert set(measured.column_names) == {*every_kind.column_names, 'lengths', CHUNKS_COLUMN}
    assert chunks_by_array(measured) == chunks_by_row(measured)
    assert chunks_of(measured) == [[n for chunk in measure(template, row) for n in chunk] for row in every_kind]
    # Measuring again replaces the columns.
    again = measure_dataset(template, measured, strict=True, cache_dir=None)
    assert again.column_names == measured.column_names and chunks_of(again) == chunks_of(measured)


def test_processes(workers, two_threads, mixed, make_template, caplog, monkeypatch):
    """Those of ms-swift's settings of this process, with its threads, and without running the main module again."""
    from qwen_vl_utils import vision_process
    caplog.set_level(logging.INFO, 'swift')
    monkeypatch.setattr(vision_process, 'IMAGE_MIN_TOKEN_NUM', 20)
    template = make_template(60)
    alone = measure_dataset(template, mixed, strict=False)
    caplog.clear()
    measured = measure_dataset(template, mixed, num_proc=2, strict=False)
    assert chunks_of(measured) == chunks_of(alone) and len(measured) == 3
    assert [row[ROW_COLUMN] for row in measured] == [row[ROW_COLUMN] for row in alone]
    assert 'measuring: 4 of 7 rows were skipped (mask-size: 2, image-unreadable: 1, MaxLengthError: 1)' in caplog.text
    assert 'goes on alone' not in caplog.text


def test_what_processes_cannot_import(workers, every_kind, make_template, caplog):
    template = make_template()
    template.of_a_script = lambda: None
    measured = measure_dataset(template, every_kind, num_proc=2, strict=True)
    assert chunks_of(measured) == chunks_of(measure_dataset(template, every_kind, strict=True))
    assert 'goes on alone' in caplog.text


def test_few_rows_need_no_processes(every_kind, template, monkeypatch):
    monkeypatch.setattr(length_workers, '_batches_of_workers', None)
    assert len(measure_dataset(template, every_kind, num_proc=8, strict=True)) == len(every_kind)


def test_selected_rows(template, every_kind):
    whole = measure_dataset(template, every_kind, strict=True)
    expected = {row[ROW_COLUMN]: row[CHUNKS_COLUMN] for row in whole}
    for order in ([3, 0, 7], [5, 5, 2, 5], list(range(2, 9)), list(range(11, -1, -1)), [4]):
        for selected in (every_kind.select(order), every_kind.shuffle(seed=1).select(order)):
            measured = measure_dataset(template, selected, strict=True)
            names = [row[ROW_COLUMN] for row in selected]
            assert [row[ROW_COLUMN] for row in measured] == names, order
            assert chunks_of(measured) == [expected[name] for name in names], order
            assert chunks_by_array(measured) == chunks_by_row(measured), order
            # No row is copied: the column uses the same memory.
            assert buffers(measured) == buffers(every_kind), order


def buffers(dataset: Dataset) -> set[int]:
    return {
        buffer.address
        for chunk in dataset.data.column('messages').chunks
        for buffer in chunk.flatten().buffers() if buffer
    }


def test_each_row_is_measured_once(template, every_kind, monkeypatch):
    calls = MeasureCalls(monkeypatch)
    measured = measure_dataset(template, every_kind.select([1, 1, 4, 1, 4]), strict=True)
    assert len(measured) == 5 and len(calls.take()) == 2


def test_fingerprints(template, every_kind, make_template):
    """`datasets` names its caches by them, so they must differ exactly where the datasets differ."""
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
    assert chunks_by_array(measured) == chunks_by_row(measured) and max(lengths[1]) <= 60
    assert chunks_by_array(measured.select([1, 0, 1])) == chunks_by_row(measured.select([1, 0, 1]))


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
        incomplete = every_kind.add_column(CHUNKS_COLUMN, column)
        with pytest.raises(ValueError, match='Row 4 .* not measured'):
            chunks_arrays(incomplete)
        assert chunks_by_array(incomplete.select([5, 6, 3])) == chunks_by_row(incomplete.select([5, 6, 3]))


# ---- bad rows


def test_skipped_rows_are_counted(mixed, make_template, caplog):
    caplog.set_level(logging.INFO, 'swift')
    template = make_template(60)
    measured = measure_dataset(template, mixed, strict=False)
    assert [bare(row[ROW_COLUMN]) for row in measured] == ['train.jsonl:1', 'train.jsonl:4', 'train.jsonl:7']
    assert chunks_by_array(measured) == chunks_by_row(measured)
    for line in (2, 3, 5, 6):
        assert f'train.jsonl:{line}: ' in caplog.text
    assert 'measuring: 4 of 7 rows were skipped (mask-size: 2, image-unreadable: 1, MaxLengthError: 1)' in caplog.text
    shuffled = measure_dataset(template, mixed.select([4, 3, 2, 0, 0]), strict=False)
    assert [bare(row[ROW_COLUMN]) for row in shuffled] == ['train.jsonl:4', 'train.jsonl:1', 'train.jsonl:1']


def test_only_the_first_skips_are_logged(mixed, make_template, caplog, monkeypatch):
    monkeypatch.setattr('swift_citrusv.rows.skips._MAX_LOGGED', 2)
    measure_dataset(make_template(60), mixed, strict=False)
    assert 'train.jsonl:3: ' in caplog.text and 'train.jsonl:5: ' not in caplog.text
    assert caplog.text.count('further skipped rows are only counted') == 1 and '4 of 7 rows were skipped' in caplog.text


@pytest.mark.parametrize(('rows', 'error', 'match'), [(range(7), RowError, 'train.jsonl:2: '),
                                                      ([3, 4, 5], MaxLengthError, 'train.jsonl:5: ')])
def test_strict_run_ends_at_the_first_bad_row(rows, error, match, mixed, make_template):
    with pytest.raises(error, match=match):
        measure_dataset(make_template(60), mixed.select(rows), strict=True)


def test_all_rows_skipped(mixed, make_template):
    with pytest.raises(RowError, match=r'all 2 were skipped .*\(mask-size: 1, image-unreadable: 1\)') as error:
        measure_dataset(make_template(60), mixed.select([1, 2]), strict=False)
    assert 'train.jsonl:2: ' in str(error.value) and 'train.jsonl:3: ' in str(error.value)


# ---- ranks


def _rank(rank: int, folder: Path, template, dataset, queue) -> None:
    os.environ.update({'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2'})
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    calls = MeasureCalls(pytest.MonkeyPatch())
    measured = measure_dataset(template, dataset, strict=False)
    try:
        measure_dataset(template, dataset, strict=True)
        error = ''
    except RowError as e:
        error = str(e)
    queue.put((rank, len(calls.take()), chunks_of(measured), error))
    dist.destroy_process_group()


def test_rank_0_measures_for_all(mixed, make_template, tmp_path):
    """The other rank gets the result, or the error, without measuring a row."""
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
