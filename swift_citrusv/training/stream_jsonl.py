"""Streams of rows (`--streaming true`): JSONL read in shards, columns without types, and rows split among readers.

`datasets` infers the types of a stream's columns from its first rows and casts all other rows to them. That fails on
masks of several formats, and silently drops keys that only later rows have. So every column is an `UntypedFeature`.
"""
import codecs
import copy
import datasets as hf_datasets
import functools
import numpy as np
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datasets.iterable_dataset import (BufferShuffledExamplesIterable, ExamplesIterable, SkipExamplesIterable,
                                       TakeExamplesIterable)
from itertools import islice
from swift.utils import is_master
from tqdm import tqdm
from typing import Any, NamedTuple

from ..constants import CHUNKS_COLUMN, ROW_COLUMN
from ..errors import RowError
from ..rows.jsonl import check_columns, filled_columns, parse_line
from ..rows.skips import SkipCounter
from .jsonl_dataset import TEXT_COLUMNS, text_columns

_MEDIA_COLUMNS = {'images': 'image', 'videos': 'video'}
# Rows at the start of a file that determine the file's columns.
_HEAD_ROWS = 1000
# Bytes of a shard.
_SHARD_BYTES = 1 << 21
_BLOCK = 1 << 23
# Readers get whole shards where each gets at least this many, so that one more or less makes little difference.
_SHARDS_PER_READER = 32

# Rows that the readers of this process have skipped.
reading_skips = SkipCounter()


@dataclass
class UntypedFeature(hf_datasets.Json):
    """A column whose values `datasets` neither casts nor turns into JSON text and back."""

    def encode_example(self, example_data: Any) -> Any:
        return example_data

    def decode_example(self, example_data: Any, token_per_repo_id: Any = None) -> Any:
        return example_data


def with_untyped_columns(dataset: hf_datasets.IterableDataset) -> hf_datasets.IterableDataset:
    """The same stream with every column declared `UntypedFeature`, so that `datasets` does not infer types.

    Raises:
        ValueError: The stream is empty.
    """
    head = next(dataset.iter(batch_size=5), None)
    if head is None:
        raise ValueError('The stream has no row that can be used: see the warnings above, if any.')
    return dataset.map(features=hf_datasets.Features({name: UntypedFeature() for name in head}))


def _tag(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, 'dataset': name}


def add_dataset_name(dataset: hf_datasets.IterableDataset, name: str) -> hf_datasets.IterableDataset:
    """Adds ms-swift's column `dataset`, the name of the dataset; ms-swift's own function cannot be pickled."""
    return with_untyped_columns(dataset.map(functools.partial(_tag, name=name)))


# ---- JSONL


class FileShards(NamedTuple):
    """Byte ranges `[start, stop)` of a file, each of whole lines, and the number of its first line (from 1)."""
    starts: list[int]
    stops: list[int]
    first_lines: list[int]

    def take(self, indices: Sequence[int]) -> 'FileShards':
        return FileShards(*([values[i] for i in indices] for values in self))


def split_file(path: str) -> FileShards:
    """Splits a file of lines into shards of about 2 MiB, after a pass over it to count its lines.

    The shards depend on the file only, so a resumed run gets the same ones.
    """
    size = os.path.getsize(path)
    num_shards = max(size // _SHARD_BYTES, 1)
    starts, stops, first_lines = [], [], []
    start = number = 0
    with open(path, 'rb') as file, tqdm(
            total=size,
            desc=f'Counting lines of {os.path.basename(path)}',
            unit='B',
            unit_scale=True,
            disable=not is_master()) as bar:
        for i in range(1, num_shards + 1):
            stop = size
            if i < num_shards:
                # From the byte before, so that a boundary at the start of a line stays where it is.
                file.seek(max(size * i // num_shards, start, 1) - 1)
                file.readline()
                stop = file.tell()
            file.seek(start)
            starts.append(start)
            stops.append(stop)
            first_lines.append(number + 1)
            for at in range(start, stop, _BLOCK):
                number += file.read(min(_BLOCK, stop - at)).count(b'\n')
            bar.update(stop - start)
            start = stop
    return FileShards(starts, stops, first_lines)


def _lines(path: str, shards: FileShards) -> Iterator[tuple[int, str]]:
    """As `rows.jsonl.read_lines`, for some shards."""
    with open(path, 'rb') as file:
        for start, stop, number in zip(*shards):
            file.seek(start)
            while start < stop:
                line = file.readline()
                if start == 0:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line.decode('utf-8', 'surrogateescape')
                start = file.tell()
                number += 1


def _read_head(path: str, strict: bool) -> list[str]:
    """The columns of the first rows of a file, and those that every stream has."""
    name = os.path.basename(path)
    columns: dict[str, None] = dict.fromkeys(TEXT_COLUMNS)
    num_rows, skips = 0, SkipCounter()
    for number, line in islice(_lines(path, FileShards([0], [os.path.getsize(path)], [1])), _HEAD_ROWS):
        num_rows += 1
        try:
            columns.update(dict.fromkeys(parse_line(line, f'{name}:{number}')))
        except RowError as e:
            # It is counted when it is read.
            if strict:
                raise
            skips.count(e)
    if not num_rows:
        raise RowError(name, 'the file has no row.', 'Write one JSON object a line.', 'empty')
    if skips.counts.total() == num_rows:
        raise skips.none_left(f'the first {num_rows} rows of {name}')
    # Where there are both `image` and `images`, ms-swift would read only one of them.
    columns.update({many: None for many, one in _MEDIA_COLUMNS.items() if one not in columns})
    return [key for key in columns if key not in (ROW_COLUMN, CHUNKS_COLUMN)]


def _check_known(row: dict[str, Any], columns: frozenset[str], row_id: str) -> None:
    new = next((key for key, value in row.items() if key not in columns and value is not None), None)
    if new is not None:
        raise RowError(
            row_id, f'the row has the column {new!r}, which none of the first {_HEAD_ROWS} rows of the file has, and '
            'these determine the columns of a stream.', f'Write "{new}": null into the first row of the file.',
            'columns')


class JsonlExamples(ExamplesIterable):
    """The rows of some shards of a JSONL file, as a source of a `datasets.IterableDataset`.

    `IterableDataset.from_generator` would take O(n^2) time to split a source of n shards.

    Args:
        path: The file.
        columns: The columns of the file; a value in another column makes a bad row.
        strict: Whether a bad row ends the run.
        stamp: Size and modification time of the file at the start of the run.
        shards: The part of the file to read.
    """
    is_typed = True

    def __init__(self, path: str, columns: tuple[str, ...], strict: bool, stamp: tuple[int, int],
                 shards: FileShards) -> None:
        super().__init__(_lines, {})
        self.path = path
        self.columns = columns
        self.strict = strict
        self.stamp = stamp
        self.shards = shards

    @property
    def features(self) -> hf_datasets.Features:
        return hf_datasets.Features({name: UntypedFeature() for name in (*self.columns, ROW_COLUMN)})

    @property
    def num_shards(self) -> int:
        return len(self.shards.starts)

    def shuffle_data_sources(self, generator: np.random.Generator) -> 'JsonlExamples':
        return self._take(copy.deepcopy(generator).permutation(self.num_shards).tolist())

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> 'JsonlExamples':
        return self._take(self.split_shard_indices_by_worker(num_shards, index, contiguous))

    def reshard_data_sources(self) -> 'JsonlExamples':
        return self

    def _take(self, indices: Sequence[int]) -> 'JsonlExamples':
        return JsonlExamples(self.path, self.columns, self.strict, self.stamp, self.shards.take(indices))

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        stat = os.stat(self.path)
        if self.stamp != (stat.st_size, stat.st_mtime_ns):
            raise ValueError(
                f'{self.path} has changed since the run started. Start the run again, and leave the file as it is.')
        name, known = os.path.basename(self.path), frozenset((*self.columns, ROW_COLUMN, CHUNKS_COLUMN))
        for number, line in _lines(self.path, self.shards):
            row_id = f'{name}:{number}'
            try:
                row = parse_line(line, row_id)
                _check_known(row, known, row_id)
                check_columns(filled_columns(row), known, row_id)
            except RowError as e:
                if self.strict:
                    raise
                reading_skips.add(e)
                continue
            row.update(text_columns(row))
            yield row_id, {**{key: row.get(key) for key in self.columns}, ROW_COLUMN: row_id}


def stream_jsonl(path: str, *, strict: bool) -> hf_datasets.IterableDataset:
    """A JSONL file as a stream of rows that can be split among ranks and DataLoader workers.

    Args:
        path: The file.
        strict: Whether the first bad row ends the run; otherwise it is skipped, and counted.

    Returns:
        The columns of the first 1,000 rows, `images` and `videos`, `masks` and `mask_images` as JSON text, and
        `ROW_COLUMN` with "file.jsonl:line". They are untyped, and the same in every row. A later row with a value in
        another column is a bad row, because ms-swift's preprocessors would drop the value.

    Raises:
        RowError: One of the first 1,000 rows is bad, with `strict`, or all of them are. Later bad rows are found when
            they are read.
    """
    path = os.path.abspath(path)
    columns = _read_head(path, strict)
    stat = os.stat(path)
    lines = JsonlExamples(path, tuple(columns), strict, (stat.st_size, stat.st_mtime_ns), split_file(path))
    return hf_datasets.IterableDataset(lines, info=hf_datasets.DatasetInfo(features=lines.features))


# ---- splitting among readers


def _chain(examples: Any) -> Iterator[Any]:
    """The nested iterables of a stream."""
    yield examples
    inner = [examples.ex_iterable] if hasattr(examples, 'ex_iterable') else getattr(examples, 'ex_iterables', [])
    for other in inner:
        yield from _chain(other)


def is_shuffled(dataset: hf_datasets.IterableDataset) -> bool:
    """Whether the stream has a shuffle buffer (`--dataset_shuffle true`)."""
    return any(isinstance(part, BufferShuffledExamplesIterable) for part in _chain(dataset._ex_iterable))


def every_reader_reads_all(dataset: hf_datasets.IterableDataset, num_slots: int) -> bool:
    """Whether each of `num_slots` readers has to read the whole stream to find its rows."""
    # `#1000` behind the name of a dataset counts rows of the whole stream.
    limited = any(
        isinstance(part, (TakeExamplesIterable, SkipExamplesIterable)) for part in _chain(dataset._ex_iterable))
    return num_slots > 1 and (limited or dataset.num_shards < _SHARDS_PER_READER * num_slots)


def rows_of_reader(dataset: hf_datasets.IterableDataset, slot: int, num_slots: int,
                   pass_index: int) -> Iterator[dict[str, Any]]:
    """The rows of one reader; all readers together get each row once.

    Where there are enough shards, each reader gets some of them. Where there are few, or where `#1000` behind the
    dataset's name limits the number of rows, each reader reads all rows and takes every `num_slots`-th.

    Args:
        dataset: The stream; it is not changed.
        slot: The reader, from 0.
        num_slots: Number of readers: ranks times DataLoader workers.
        pass_index: The pass over the data, from 0. In each pass, a shuffled stream has another order and another split.
    """
    shuffled, by_row = is_shuffled(dataset), every_reader_reads_all(dataset, num_slots)
    # `shard(1, 0)` makes a copy: `datasets` keeps a reader's position in the stream itself, so two readers of one
    # stream would move each other.
    index = (slot + (pass_index if shuffled else 0)) % num_slots
    part = dataset.shard(1, 0) if by_row else dataset.shard(num_slots, index, contiguous=False)
    part.set_epoch(pass_index if shuffled else 0)
    # Not `iter(part)`, which would split the rows once more inside a DataLoader worker.
    rows: Iterator[dict[str, Any]] = ({
        key: values[i]
        for key, values in batch.items()
    } for batch in part.iter(batch_size=16) for i in range(len(next(iter(batch.values())))))
    return islice(rows, slot, None, num_slots) if by_row else rows
