"""Rows of every file format that ms-swift reads: JSONL, JSON, CSV, Parquet, Arrow and text, each with its number.

A record is what a file has for one row: the text of a JSON object, the cells of a table, or `Unreadable`.
"""
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import RowError
from .cells import decode_cells
from .columns import ColumnRules
from .json_file import read_json
from .jsonl import check_row, parse_line, read_lines
from .names import file_name
from .tables import Unreadable, csv_header, read_arrow, read_csv, read_parquet, schema_columns

Record = str | dict[str, Any] | Unreadable
# The extensions that ms-swift reads, except those of `datasets` that hold no text rows.
EXTENSIONS = ('.jsonl', '.json', '.csv', '.parquet', '.arrow', '.txt')


class NamedRecord(NamedTuple):
    """A record, the name of its row, and its number in the file, from 1."""
    row_id: str
    number: int
    record: Record


def extension_of(path: str) -> str:
    """'.jsonl' for 'train.jsonl'."""
    return os.path.splitext(path)[1]


def is_row_file(path: str) -> bool:
    """Whether `read_records` knows the format of a file."""
    return extension_of(path) in EXTENSIONS


def read_records(path: str) -> Iterator[tuple[int, Record]]:
    """Yields (number, record) for each row of a file, which is JSONL if its extension is none of `EXTENSIONS`.

    Numbers count from 1: lines in JSONL and text (blank lines count, and are skipped), entries in a JSON list, rows
    below the header in CSV, rows in Parquet and Arrow.

    Raises:
        RowError: The file is damaged so that the rows behind a place cannot be found.
        ValueError: A file of a binary format has another format than its name says.
    """
    kind = extension_of(path)
    if kind == '.json':
        return read_json(path, file_name(path))
    if kind == '.csv':
        return read_csv(path, file_name(path))
    if kind == '.parquet':
        return read_parquet(path)
    if kind == '.arrow':
        return read_arrow(path)
    if kind == '.txt':
        return ((number, _text_record(line)) for number, line in read_lines(path))
    return read_lines(path)


def named_records(path: str) -> Iterator[NamedRecord]:
    """As `read_records`, with the names of the rows, e.g. 'A/train.csv:3'."""
    name = file_name(path)
    return (NamedRecord(f'{name}:{number}', number, record) for number, record in read_records(path))


def _text_record(line: str) -> Record:
    text = line.rstrip('\r\n')
    try:
        text.encode('utf-8')
    except UnicodeEncodeError:
        shown = text[:80].encode('utf-8', 'backslashreplace').decode()
        return Unreadable(f'the line is not UTF-8: {shown!r}.', 'Save the file as UTF-8.', 'not-text')
    return {'text': text}


def declared_columns(path: str) -> tuple[str, ...]:
    """The columns that a file names itself: those of a CSV header or a Parquet or Arrow schema; () for others."""
    kind = extension_of(path)
    if kind == '.csv':
        return csv_header(path, file_name(path))
    if kind in ('.parquet', '.arrow'):
        return schema_columns(path)
    return ('text', ) if kind == '.txt' else ()


def parse_record(record: Record, row_id: str, rules: ColumnRules = ColumnRules()) -> dict[str, Any]:
    """As `jsonl.parse_line`, for a record of any format.

    Raises:
        RowError: The record is damaged, or the row breaks the contract.
    """
    if isinstance(record, str):
        return parse_line(record, row_id, rules)
    if isinstance(record, Unreadable):
        raise RowError(row_id, *record)
    row = decode_cells(rules.rename(record, row_id))
    check_row(row, row_id, rules)
    return row
