"""Parquet files from lines of values."""
import pyarrow as pa
import pyarrow.parquet as pq
from collections.abc import Iterable, Sequence
from typing import Any

from .data_files import whole_file


def table_of(lines: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """A table of lines, which have a value for each column."""
    columns = list(zip(*lines)) or [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema)], schema=schema)


def write_lines(path: str, lines: Iterable[Sequence[Any]], schema: pa.Schema) -> None:
    """Writes a small file in one go."""
    with whole_file(path) as part:
        pq.write_table(table_of(list(lines), schema), part)


class LineWriter:
    """Writes lines to a file, many at a time; the same lines give the same bytes.

    Args:
        path: The file.
        schema: Its columns.
        settings: Arguments of `pyarrow.parquet.ParquetWriter`.
    """
    # Lines that are held in memory.
    _GROUP = 1 << 16

    def __init__(self, path: str, schema: pa.Schema, **settings: Any) -> None:
        self._schema = schema
        self._lines: list[Sequence[Any]] = []
        self._file = pq.ParquetWriter(path, schema, **{'compression': 'zstd', **settings})

    def add(self, line: Sequence[Any]) -> None:
        """Adds a line."""
        self._lines.append(line)
        if len(self._lines) >= self._GROUP:
            self._flush()

    def write(self, table: pa.Table) -> None:
        """Adds a table."""
        self._file.write_table(table)

    def _flush(self) -> None:
        self._file.write_table(table_of(self._lines, self._schema))
        self._lines = []

    def close(self) -> None:
        """Writes the rest. A file without lines is a file too."""
        if self._lines:
            self._flush()
        self._file.close()
