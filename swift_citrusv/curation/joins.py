"""Joins over whole tables with DuckDB, within a limit of memory."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What DuckDB holds in memory; the rest lies on the disk.
_MEMORY = '1GB'


@contextmanager
def connected(folder: str) -> Iterator[Any]:
    """A connection of DuckDB that spills to `folder`, a new folder that is removed at the end."""
    import duckdb
    os.makedirs(folder, exist_ok=True)
    connection = duckdb.connect()
    try:
        connection.execute(f"SET memory_limit='{_MEMORY}'")
        connection.execute('SET temp_directory=?', [folder])
        connection.execute('SET threads=2')
        connection.execute('SET preserve_insertion_order=false')
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


def rows_of(result: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a result, a few at a time."""
    while batch := result.fetchmany(10000):
        yield from batch


def quoted(*parts: str) -> str:
    """A path inside single quotes of SQL."""
    return os.path.join(*parts).replace("'", "''")
