"""Splits files of rows into shards, which the readers of a stream share.

A shard is a byte range of a JSONL file, a row group of a Parquet file, or a whole file of another format.
"""
import codecs
import os
from collections.abc import Iterator, Sequence
from tqdm import tqdm
from typing import NamedTuple

from .names import file_name
from .records import Record, extension_of, read_records
from .tables import parquet_groups, read_parquet

# Bytes of a shard.
_SHARD_BYTES = 1 << 21
_BLOCK = 1 << 23


class FileShards(NamedTuple):
    """Ranges `[start, stop)` of files, and the number of the first line or row of each (from 1).

    Attributes:
        files: The index of the file.
        starts: The first byte (JSONL, at the start of a line) or row group (Parquet); 0 for other formats.
        stops: The byte or row group behind the last one; 1 for other formats.
        first_lines: The number of the first line or row.
    """
    files: list[int]
    starts: list[int]
    stops: list[int]
    first_lines: list[int]

    def take(self, indices: Sequence[int]) -> 'FileShards':
        return FileShards(*([values[i] for i in indices] for values in self))


def split_files(paths: Sequence[str], quiet: bool = False, shard_bytes: int | None = None) -> FileShards:
    """Splits files into shards, JSONL into shards of about `shard_bytes` (2 MiB) after a pass that counts its lines.

    The shards depend on the files only, so a resumed run gets the same ones.
    """
    shards = FileShards([], [], [], [])
    for file, path in enumerate(paths):
        if extension_of(path) == '.jsonl':
            parts = _split_lines(path, quiet, shard_bytes or _SHARD_BYTES)
        elif extension_of(path) == '.parquet':
            parts, row = [], 1
            for group, num_rows in enumerate(parquet_groups(path)):
                parts.append((group, group + 1, row))
                row += num_rows
        else:
            parts = [(0, 1, 1)]
        for start, stop, first in parts:
            for values, value in zip(shards, (file, start, stop, first)):
                values.append(value)
    return shards


def _split_lines(path: str, quiet: bool, shard_bytes: int) -> list[tuple[int, int, int]]:
    size = os.path.getsize(path)
    num_shards = max(size // shard_bytes, 1)
    parts = []
    start = number = 0
    with open(path, 'rb') as file, tqdm(
            total=size, desc=f'Counting lines of {file_name(path)}', unit='B', unit_scale=True, disable=quiet) as bar:
        for i in range(1, num_shards + 1):
            stop = size
            if i < num_shards:
                # From the byte before, so that a boundary at the start of a line stays where it is.
                file.seek(max(size * i // num_shards, start, 1) - 1)
                file.readline()
                stop = file.tell()
            file.seek(start)
            parts.append((start, stop, number + 1))
            for at in range(start, stop, _BLOCK):
                number += file.read(min(_BLOCK, stop - at)).count(b'\n')
            bar.update(stop - start)
            start = stop
    return parts


def read_shards(paths: Sequence[str], shards: FileShards) -> Iterator[tuple[int, int, Record]]:
    """As `rows.records.read_records`, for some shards: yields (index of the file, number, record)."""
    for file, start, stop, first in zip(*shards):
        path = paths[file]
        if extension_of(path) == '.jsonl':
            records: Iterator[tuple[int, Record]] = _read_range(path, start, stop, first)
        elif extension_of(path) == '.parquet':
            records = read_parquet(path, start, stop, first)
        else:
            records = read_records(path)
        for number, record in records:
            yield file, number, record


def _read_range(path: str, start: int, stop: int, number: int) -> Iterator[tuple[int, str]]:
    for line_number, line in read_byte_lines(path, start, stop, number):
        yield line_number, line.decode('utf-8', 'surrogateescape')


def read_byte_lines(path: str, start: int, stop: int, number: int) -> Iterator[tuple[int, bytes]]:
    """Yields (number, line) for the lines of a range of a file that are not blank, without a byte order mark.

    Args:
        path: A JSONL file.
        start, stop: The range in bytes, from the start of a line to the end of one.
        number: The number of its first line.
    """
    with open(path, 'rb') as file:
        file.seek(start)
        for line in file:
            if start >= stop:
                return
            size = len(line)
            if start == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line
            start += size
            number += 1
