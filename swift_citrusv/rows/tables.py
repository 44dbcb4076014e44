"""Reads the rows of tables: CSV, Parquet and Arrow."""
import csv
import datetime
import decimal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import RowError

# Rows that are decoded together; with images in the rows, their bytes are in memory too.
_BATCH_ROWS = 64
_CSV_REMEDY = 'Put cells with commas, quotes or line breaks into double quotes, and double the quotes within.'


class Unreadable(NamedTuple):
    """A row that its file holds in a damaged form: what is wrong, the remedy, and the kind of a `RowError`."""
    problem: str
    remedy: str
    kind: str


# ---- CSV


def csv_header(path: str, name: str) -> tuple[str, ...]:
    """The columns of a CSV file.

    Raises:
        RowError: Two columns have one name.
    """
    with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
        return tuple(_header(csv.reader(file), name))


def _header(reader: Any, name: str) -> list[str]:
    # The default is 128 KiB; an RLE can be longer.
    csv.field_size_limit(sys.maxsize)
    # As in pandas, which writes a table's index under no name.
    header = [column.strip() or f'Unnamed: {i}' for i, column in enumerate(next(reader, []))]
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise RowError(name, f'the header has the column {twice!r} {header.count(twice)} times.',
                       'Give each column a name of its own.', 'csv')
    return header


def read_csv(path: str, name: str) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
    """Yields (number, cells) for each row below the header; blank lines are skipped. All cells are text.

    Args:
        path: A file in UTF-8, with commas between the cells.
        name: Its name in messages.

    Raises:
        RowError: The header has a column twice, or a quote never closes.
    """
    with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
        reader = csv.reader(file, strict=True)
        header = _header(reader, name)
        number = 0
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                number += 1
                if 'unexpected end' in str(error):
                    raise RowError(f'{name}:{number}', f'a quote that opens in this row (line {start} of the file) '
                                   'never closes.', _CSV_REMEDY, 'csv') from error
                yield number, Unreadable(f'the row (line {start} of the file) is not CSV ({error}).', _CSV_REMEDY,
                                         'csv')
                continue
            if cells is None:
                return
            if not cells:
                continue
            number += 1
            yield number, _csv_row(header, cells, start)


def _csv_row(header: list[str], cells: list[str], line: int) -> dict[str, Any] | Unreadable:
    if len(cells) > len(header):
        return Unreadable(f'the row (line {line} of the file) has {len(cells)} cells, but the header {len(header)}.',
                          _CSV_REMEDY, 'csv')
    try:
        for cell in cells:
            cell.encode('utf-8')
    except UnicodeEncodeError as error:
        shown = error.object[:80].encode('utf-8', 'backslashreplace').decode()
        return Unreadable(f'a cell is not UTF-8: {shown!r}.', 'Save the file as UTF-8.', 'csv')
    return {**dict.fromkeys(header), **dict(zip(header, cells))}


# ---- Parquet and Arrow


def schema_columns(path: str) -> tuple[str, ...]:
    """The columns of a Parquet or Arrow file."""
    if path.endswith('.parquet'):
        with _opened_parquet(path) as file:
            return tuple(file.schema_arrow.names)
    with open(path, 'rb') as source:
        return tuple(_arrow_reader(source, path).schema.names)


def _opened_parquet(path: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet
    try:
        return parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f'{path} cannot be read as Parquet ({error}).') from error


def parquet_groups(path: str) -> list[int]:
    """The number of rows of each row group."""
    with _opened_parquet(path) as file:
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def read_parquet(path: str,
                 start: int = 0,
                 stop: int | None = None,
                 first: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number, cells) for the rows of some row groups, without loading the file.

    Args:
        path: The file.
        start: The first row group.
        stop: The row group after the last one; by default all.
        first: The number of the first row.

    Raises:
        ValueError: The file is not Parquet, or is damaged.
    """
    import pyarrow as pa
    number = first
    with _opened_parquet(path) as file:
        groups = list(range(file.num_row_groups))[start:stop]
        try:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups) if groups else ():
                for row in _batch_rows(batch):
                    yield number, row
                    number += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f'{path} is damaged at row {number} ({error}).') from error


def read_arrow(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_parquet`, for all rows of an Arrow file or stream, such as `datasets` writes."""
    import pyarrow as pa
    number = 1
    with open(path, 'rb') as source:
        reader = _arrow_reader(source, path)
        batches = (reader.get_batch(i)
                   for i in range(reader.num_record_batches)) if hasattr(reader, 'num_record_batches') else reader
        try:
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for row in _batch_rows(batch.slice(start, _BATCH_ROWS)):
                        yield number, row
                        number += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f'{path} is damaged at row {number} ({error}).') from error


def _arrow_reader(source: Any, path: str) -> Any:
    import pyarrow as pa
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid as error:
        raise ValueError(f'{path} cannot be read as Arrow ({error}).') from error


def _batch_rows(batch: Any) -> list[dict[str, Any]]:
    odd = [field.name for field in batch.schema if not _is_json_type(field.type)]
    rows = batch.to_pylist()
    for row in rows if odd else ():
        for name in odd:
            row[name] = _plain(row[name])
    return rows


def _is_json_type(kind: Any) -> bool:
    """Whether all values of a type are None, numbers, text, lists, objects, or bytes."""
    from pyarrow import types
    if types.is_struct(kind):
        return all(_is_json_type(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json_type(kind.value_type)
    return not (types.is_temporal(kind) or types.is_decimal(kind) or types.is_map(kind) or types.is_dictionary(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return str(value)
    return float(value) if isinstance(value, decimal.Decimal) else value
