"""Streams of rows (`--streaming true`): files read in shards, columns without types, and rows split among readers.

`datasets` infers the types of a stream's columns from its first rows and casts all other rows to them. That fails on
masks of several formats, and silently drops keys that only later rows have. So every column is an `UntypedFeature`.
"""
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
from typing import Any

from ..constants import CHUNKS_COLUMN, ROW_COLUMN
from ..errors import RowError
from ..rows.columns import ColumnRules, check_columns, filled_columns
from ..rows.names import file_name
from ..rows.records import declared_columns, parse_record, read_records
from ..rows.shards import FileShards, read_shards, split_files
from ..rows.skips import SkipCounter
from .jsonl_dataset import TEXT_COLUMNS, text_columns

_MEDIA_COLUMNS = {'images': 'image', 'videos': 'video'}
# Rows at the start of a file that determine the file's columns.
_HEAD_ROWS = 1000
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
    # These rows are read again, and counted then.
    counts = reading_skips.counts.copy()
    head = next(dataset.iter(batch_size=5), None)
    reading_skips.counts = counts
    if head is None:
        raise ValueError('The stream has no row that can be used: see the warnings above, if any.')
    return dataset.map(features=hf_datasets.Features({name: UntypedFeature() for name in head}))


def _tag(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, 'dataset': name}


def add_dataset_name(dataset: hf_datasets.IterableDataset, name: str) -> hf_datasets.IterableDataset:
    """Adds ms-swift's column `dataset`, the name of the dataset; ms-swift's own function cannot be pickled."""
    return with_untyped_columns(dataset.map(functools.partial(_tag, name=name)))


# ---- files


def _read_head(path: str, strict: bool, rules: ColumnRules) -> list[str]:
    """The columns that a file declares, or those of its first rows."""
    name = file_name(path)
    columns: dict[str, None] = dict.fromkeys(rules.rename(dict.fromkeys(declared_columns(path)), name))
    num_rows, skips = 0, SkipCounter()
    for number, record in islice(read_records(path), _HEAD_ROWS):
        num_rows += 1
        try:
            columns.update(dict.fromkeys(parse_record(record, f'{name}:{number}', rules)))
        except RowError as e:
            # It is counted when it is read.
            if strict:
                raise
            skips.count(e)
    if not num_rows:
        raise RowError(name, 'the file has no row.', 'Give a file with rows.', 'empty')
    if skips.counts.total() == num_rows:
        raise skips.none_left(f'the first {num_rows} rows of {name}')
    return [*columns]


def _check_known(row: dict[str, Any], columns: frozenset[str], row_id: str) -> None:
    new = next((key for key, value in row.items() if key not in columns and value is not None), None)
    if new is not None:
        raise RowError(
            row_id, f'the row has the column {new!r}, which none of the first {_HEAD_ROWS} rows of the file has, and '
            'these determine the columns of a stream.', f'Write "{new}": null into the first row of the file.',
            'columns')


def _stamp(paths: Sequence[str]) -> tuple[tuple[int, int], ...]:
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths))


class RowExamples(ExamplesIterable):
    """The rows of some shards of files, as a source of a `datasets.IterableDataset`.

    `IterableDataset.from_generator` would take O(n^2) time to split a source of n shards.

    Args:
        files: The files and their names in messages.
        columns: The columns of the files; a value in another column makes a bad row.
        strict: Whether a bad row ends the run.
        rules: How the columns are read.
        stamp: Sizes and modification times of the files at the start of the run.
        shards: The parts of the files to read.
    """
    is_typed = True

    def __init__(self, files: tuple[tuple[str, str], ...], columns: tuple[str, ...], strict: bool, rules: ColumnRules,
                 stamp: tuple[tuple[int, int], ...], shards: FileShards) -> None:
        super().__init__(read_shards, {})
        self.files = files
        self.columns = columns
        self.strict = strict
        self.rules = rules
        self.stamp = stamp
        self.shards = shards

    @property
    def features(self) -> hf_datasets.Features:
        return hf_datasets.Features({name: UntypedFeature() for name in (*self.columns, ROW_COLUMN)})

    @property
    def num_shards(self) -> int:
        return len(self.shards.starts)

    def shuffle_data_sources(self, generator: np.random.Generator) -> 'RowExamples':
        return self._take(copy.deepcopy(generator).permutation(self.num_shards).tolist())

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> 'RowExamples':
        return self._take(self.split_shard_indices_by_worker(num_shards, index, contiguous))

    def reshard_data_sources(self) -> 'RowExamples':
        return self

    def _take(self, indices: Sequence[int]) -> 'RowExamples':
        return RowExamples(self.files, self.columns, self.strict, self.rules, self.stamp, self.shards.take(indices))

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        paths = [path for path, _ in self.files]
        if self.stamp != _stamp(paths):
            raise ValueError(f'{", ".join(paths)} changed since the run started. Start the run again, and leave the '
                             'data as it is.')
        known = frozenset((*self.columns, ROW_COLUMN, CHUNKS_COLUMN))
        for file, number, record in read_shards(paths, self.shards):
            row_id = f'{self.files[file][1]}:{number}'
            try:
                row = parse_record(record, row_id, self.rules)
                _check_known(row, known, row_id)
                if self.rules.layout == 'auto':
                    check_columns(filled_columns(row), known, row_id)
            except RowError as e:
                if self.strict:
                    raise
                reading_skips.add(e)
                continue
            row.update(text_columns(row))
            yield row_id, {**{key: row.get(key) for key in self.columns}, ROW_COLUMN: row_id}


def stream_rows(paths: Sequence[str], *, strict: bool,
                rules: ColumnRules = ColumnRules()) -> hf_datasets.IterableDataset:
    """Files of rows as a stream that can be split among ranks and DataLoader workers.

    Args:
        paths: The files, in any format of `rows.records`.
        strict: Whether the first bad row ends the run; otherwise it is skipped, and counted.
        rules: How the columns are read.

    Returns:
        The columns that the files declare or their first 1,000 rows have, `images` and `videos`, `masks` and
        `mask_images` as JSON text, and `ROW_COLUMN` with "A/file.jsonl:line". They are untyped, and the same in every
        row. A later row with a value in another column is a bad row, because ms-swift's preprocessors would drop the
        value.

    Raises:
        RowError: One of the first 1,000 rows of a file is bad, with `strict`, or all of them are. Later bad rows are
            found when they are read.
    """
    paths = [os.path.abspath(path) for path in paths]
    columns: dict[str, None] = dict.fromkeys(TEXT_COLUMNS)
    for path in paths:
        columns.update(dict.fromkeys(_read_head(path, strict, rules)))
    # Where there are both `image` and `images`, ms-swift would read only one of them.
    lower = {key.lower() for key in columns}
    columns.update({many: None for many, one in _MEDIA_COLUMNS.items() if not lower & {one, many}})
    rows = RowExamples(
        tuple((path, file_name(path)) for path in paths),
        tuple(key for key in columns if key not in (ROW_COLUMN, CHUNKS_COLUMN)), strict, rules, _stamp(paths),
        split_files(paths, quiet=not is_master()))
    return hf_datasets.IterableDataset(rows, info=hf_datasets.DatasetInfo(features=rows.features))


def stream_jsonl(path: str, *, strict: bool) -> hf_datasets.IterableDataset:
    """As `stream_rows`, for one file."""
    return stream_rows([path], strict=strict)


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
