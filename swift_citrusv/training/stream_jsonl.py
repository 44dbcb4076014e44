"""Rows of a stream (`--streaming true`): JSONL read in shards, columns that no guess of types touches, and shares.

`datasets` guesses the types of a stream's columns from its first rows and casts all others to them. That fails on masks
of several forms, and drops keys that come later, without a word. Here every column is `Untyped` instead.
"""
import codecs
import copy
import datasets as hf_datasets
import functools
import json
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

from ..constants import PIECES_COLUMN, ROW_COLUMN
from ..errors import RowError
from ..rows.jsonl import check_columns, filled_columns, parse_line
from ..rows.skips import Skips

# Columns that every stream has, the first two as JSON text, as in data sets that are not streamed.
_TEXT_COLUMNS = ('masks', 'mask_images')
_MEDIA_COLUMNS = {'images': 'image', 'videos': 'video'}
# The rows that tell the columns of a file.
_HEAD_ROWS = 1000
# Bytes of a shard.
_SHARD_BYTES = 1 << 21
_BLOCK = 1 << 23
# Readers read whole shards where each has at least so many that one more or less is not felt.
_SHARDS_PER_READER = 32

# The rows that the readers of this process have skipped in the current pass.
reading_skips = Skips()


@dataclass
class Untyped(hf_datasets.Json):
    """A column whose values pass through `datasets` as they are: neither cast, nor turned into JSON text and back."""

    def encode_example(self, example_data: Any) -> Any:
        return example_data

    def decode_example(self, example_data: Any, token_per_repo_id: Any = None) -> Any:
        return example_data


def untyped(dataset: hf_datasets.IterableDataset) -> hf_datasets.IterableDataset:
    """The same stream with columns that are declared `Untyped`, so that nobody has to guess their types.

    Raises:
        ValueError: The stream is empty.
    """
    head = next(dataset.iter(batch_size=5), None)
    if head is None:
        raise ValueError('The stream has no row that can be used: see the warnings above, if any.')
    return dataset.map(features=hf_datasets.Features({name: Untyped() for name in head}))


def _tag(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, 'dataset': name}


def tagged(dataset: hf_datasets.IterableDataset, name: str) -> hf_datasets.IterableDataset:
    """Adds ms-swift's column `dataset`, the name of the data set; its own function cannot go to a spawned worker."""
    return untyped(dataset.map(functools.partial(_tag, name=name)))


# ---- JSONL


class Shards(NamedTuple):
    """Byte ranges `[start, stop)` of a file, each of whole lines, and the number of each one's first line."""
    starts: list[int]
    stops: list[int]
    first_lines: list[int]

    def take(self, indices: Sequence[int]) -> 'Shards':
        return Shards(*([values[i] for i in indices] for values in self))


def cut_file(path: str) -> Shards:
    """Cuts a file of lines into shards of about 2 MiB.

    They depend on the file only, so that a resumed run meets the same ones. The file is read once, to count its lines.
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
                # From the byte before, so that a border which is the start of a line stays where it is.
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
    return Shards(starts, stops, first_lines)


def _lines(path: str, shards: Shards) -> Iterator[tuple[int, str]]:
    """As `jsonl.read_lines`, for the lines of some shards."""
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
    """The columns of a file as its first rows tell them, and those that every stream has."""
    name = os.path.basename(path)
    columns: dict[str, None] = dict.fromkeys(_TEXT_COLUMNS)
    num_rows = num_bad = 0
    for number, line in islice(_lines(path, Shards([0], [os.path.getsize(path)], [1])), _HEAD_ROWS):
        num_rows += 1
        try:
            columns.update(dict.fromkeys(parse_line(line, f'{name}:{number}')))
        except RowError:
            # A reader will count it.
            if strict:
                raise
            num_bad += 1
    if num_bad == num_rows:
        raise RowError(name, f'none of its first {num_rows} rows can be used.',
                       'Look at them with `citrusv check-data`.', 'empty')
    # Of both an `image` and an `images`, ms-swift would read the one only.
    columns.update({many: None for many, one in _MEDIA_COLUMNS.items() if one not in columns})
    return [key for key in columns if key not in (ROW_COLUMN, PIECES_COLUMN)]


def _check_known(row: dict[str, Any], columns: frozenset[str], row_id: str) -> None:
    new = next((key for key, value in row.items() if key not in columns and value is not None), None)
    if new is not None:
        raise RowError(
            row_id, f'the row has the column {new!r}, which none of the first {_HEAD_ROWS} rows of the file has: the '
            'columns of a stream are fixed at its start.', f'Write "{new}": null into the first row of the file.',
            'columns')


class JsonLines(ExamplesIterable):
    """The rows of some shards of a JSONL file: a source of `datasets`, as `IterableDataset.from_generator` makes one.

    Its own class, because `datasets` splits a source of `n` shards in a time that grows as the square of `n`.

    Args:
        path: The file.
        columns: The columns of the file; a row with a value in another one is a bad row.
        strict: Whether a bad row ends the run.
        stamp: Size and time of the file at the start of the run.
        shards: Which part of the file to read.
    """
    is_typed = True

    def __init__(self, path: str, columns: tuple[str, ...], strict: bool, stamp: tuple[int, int],
                 shards: Shards) -> None:
        super().__init__(_lines, {})
        self.path = path
        self.columns = columns
        self.strict = strict
        self.stamp = stamp
        self.shards = shards

    @property
    def features(self) -> hf_datasets.Features:
        return hf_datasets.Features({name: Untyped() for name in (*self.columns, ROW_COLUMN)})

    @property
    def num_shards(self) -> int:
        return len(self.shards.starts)

    def shuffle_data_sources(self, generator: np.random.Generator) -> 'JsonLines':
        return self._take(copy.deepcopy(generator).permutation(self.num_shards).tolist())

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> 'JsonLines':
        return self._take(self.split_shard_indices_by_worker(num_shards, index, contiguous))

    def reshard_data_sources(self) -> 'JsonLines':
        return self

    def _take(self, indices: Sequence[int]) -> 'JsonLines':
        return JsonLines(self.path, self.columns, self.strict, self.stamp, self.shards.take(indices))

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        stat = os.stat(self.path)
        if self.stamp != (stat.st_size, stat.st_mtime_ns):
            raise ValueError(f'{self.path} has changed since the run started. Leave it alone, and start the run again.')
        name, known = os.path.basename(self.path), frozenset((*self.columns, ROW_COLUMN, PIECES_COLUMN))
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
            row.update(
                {key: json.dumps(row[key], ensure_ascii=False) if row.get(key) else None
                 for key in _TEXT_COLUMNS})
            yield row_id, {**{key: row.get(key) for key in self.columns}, ROW_COLUMN: row_id}


def stream_jsonl(path: str, *, strict: bool) -> hf_datasets.IterableDataset:
    """A JSONL file as a stream of rows that ranks and DataLoader workers can share.

    Args:
        path: The file.
        strict: Whether the first bad row ends the run; otherwise it is skipped, and counted.

    Returns:
        The columns of the first 1,000 rows, `images` and `videos`, `masks` and `mask_images` as JSON text, and
        `ROW_COLUMN` with "file.jsonl:line". They are `Untyped`, and the same in every row. A later row with a value in
        another column is a bad row: a preprocessor of ms-swift would not see it.

    Raises:
        RowError: A bad row among the first 1,000, with `strict`, or no good one at all. Later ones are found when they
            are read.
    """
    path = os.path.abspath(path)
    columns = _read_head(path, strict)
    stat = os.stat(path)
    lines = JsonLines(path, tuple(columns), strict, (stat.st_size, stat.st_mtime_ns), cut_file(path))
    return hf_datasets.IterableDataset(lines, info=hf_datasets.DatasetInfo(features=lines.features))


# ---- shares


def _chain(examples: Any) -> Iterator[Any]:
    """The iterables of `datasets` that a stream is made of."""
    yield examples
    inner = [examples.ex_iterable] if hasattr(examples, 'ex_iterable') else getattr(examples, 'ex_iterables', [])
    for other in inner:
        yield from _chain(other)


def is_shuffled(dataset: hf_datasets.IterableDataset) -> bool:
    """Whether the stream has a shuffle buffer (`--dataset_shuffle true`)."""
    return any(isinstance(part, BufferShuffledExamplesIterable) for part in _chain(dataset._ex_iterable))


def reads_all(dataset: hf_datasets.IterableDataset, num_slots: int) -> bool:
    """Whether each of `num_slots` readers has to read the whole stream to find its share."""
    # A number of rows is one of the whole stream.
    limited = any(
        isinstance(part, (TakeExamplesIterable, SkipExamplesIterable)) for part in _chain(dataset._ex_iterable))
    return num_slots > 1 and (limited or dataset.num_shards < _SHARDS_PER_READER * num_slots)


def share(dataset: hf_datasets.IterableDataset, slot: int, num_slots: int, pass_index: int) -> Iterator[dict[str, Any]]:
    """The rows of one reader among many; together the readers have each row once.

    Of a large stream each reader reads its own shards. Of a stream with few shards, and where `#1000` behind its name
    asks for a number of rows, each reads all and takes one row in `num_slots`.

    Args:
        dataset: The stream; it is not changed.
        slot: The reader, from 0.
        num_slots: Number of readers: ranks times DataLoader workers.
        pass_index: The pass over the data, from 0; a shuffled stream has another order, and other shares, in each.
    """
    shuffled, by_row = is_shuffled(dataset), reads_all(dataset, num_slots)
    # One shard of one is a copy: `datasets` keeps the place of a reader in the stream's own parts, where two readers
    # would trip over each other.
    index = (slot + (pass_index if shuffled else 0)) % num_slots
    part = dataset.shard(1, 0) if by_row else dataset.shard(num_slots, index, contiguous=False)
    part.set_epoch(pass_index if shuffled else 0)
    # Not `iter(part)`, which would share the rows once more inside a DataLoader worker.
    rows: Iterator[dict[str, Any]] = ({
        key: values[i]
        for key, values in batch.items()
    } for batch in part.iter(batch_size=16) for i in range(len(next(iter(batch.values())))))
    return islice(rows, slot, None, num_slots) if by_row else rows
