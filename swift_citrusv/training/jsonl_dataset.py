"""JSONL files as datasets of rows with row numbers; bad rows are named, or skipped and counted.

ms-swift infers column types from the first part of a file. So a file with masks of several formats fails in the middle,
with an error that does not name the row. `load_jsonl` reads the lines itself.
"""
import datasets as hf_datasets
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Collection, Iterator
from swift.dataset.preprocessor import RowPreprocessor
from swift.utils import get_logger, is_master
from tqdm import tqdm
from typing import Any

from .. import __version__
from ..constants import CHUNKS_COLUMN, ROW_COLUMN
from ..errors import RowError
from ..rows.jsonl import check_columns, filled_columns, parse_line, read_lines
from ..rows.skips import SkipCounter

logger = get_logger()
# Stored as JSON text, because an Arrow column cannot hold an RLE, a polygon and a path.
TEXT_COLUMNS = ('masks', 'mask_images')
_EXTRA_COLUMNS = (*TEXT_COLUMNS, ROW_COLUMN, CHUNKS_COLUMN)


def keep_columns() -> None:
    """Makes ms-swift's preprocessors keep the columns of the row contract."""
    RowPreprocessor.standard_keys += [key for key in _EXTRA_COLUMNS if key not in RowPreprocessor.standard_keys]


def text_columns(row: dict[str, Any]) -> dict[str, str | None]:
    """The `TEXT_COLUMNS` of a row as JSON text; None where they are empty or missing."""
    return {key: json.dumps(row[key], ensure_ascii=False) if row.get(key) else None for key in TEXT_COLUMNS}


def scan_jsonl(path: str, strict: bool) -> tuple[list[str], list[int], int]:
    """Checks every line.

    Args:
        path: The JSONL file.
        strict: Whether the first bad row ends the run; otherwise bad rows are skipped and counted.

    Returns:
        The names of all columns, the numbers of the skipped lines, and the number of rows.

    Raises:
        RowError: A bad row, with `strict`; or a file without any good row.
    """
    name = os.path.basename(path)
    columns: dict[str, None] = {}
    layouts: dict[frozenset[str], array] = {}
    bad: list[int] = []
    num_rows, skips = 0, SkipCounter()

    def skip(number: int, error: RowError) -> None:
        if strict:
            raise error
        skips.add(error)
        bad.append(number)

    for number, line in tqdm(read_lines(path), desc=f'Checking {name}', unit=' rows', disable=not is_master()):
        num_rows += 1
        try:
            row = parse_line(line, f'{name}:{number}')
        except RowError as e:
            skip(number, e)
            continue
        columns.update(dict.fromkeys(row))
        layouts.setdefault(filled_columns(row), array('Q')).append(number)
    for number, error in _column_errors(layouts, columns, name):
        skip(number, error)
    skips.report(path, num_rows)
    if bad and len(bad) == num_rows:
        raise skips.none_left(name)
    if not num_rows:
        raise RowError(name, 'the file has no row.', 'Write one JSON object a line.', 'empty')
    return list(columns), bad, num_rows


def _column_errors(layouts: dict[frozenset[str], array], columns: Collection[str],
                   name: str) -> list[tuple[int, RowError]]:
    """The rows that `check_columns` refuses, in order. `layouts` maps a set of columns to the lines of its rows."""
    errors = {}
    for filled, numbers in layouts.items():
        for number in numbers:
            try:
                check_columns(filled, columns, f'{name}:{number}')
            except RowError as e:
                errors[number] = e
            else:
                break
    return sorted(errors.items())


def _generate(path: str, columns: tuple[str, ...], bad: tuple[int, ...], stamp: tuple[int,
                                                                                      int]) -> Iterator[dict[str, Any]]:
    del stamp  # size and modification time of the file: part of the cache key
    skipped = set(bad)
    for number, line in read_lines(path):
        if number in skipped:
            continue
        # A column of `datasets.Json` would parse a string that is valid JSON ('true', '12').
        row = {
            key: json.dumps(value) if isinstance(value, str) and key not in TEXT_COLUMNS else value
            for key, value in json.loads(line).items()
        }
        row[ROW_COLUMN] = f'{os.path.basename(path)}:{number}'
        row.update(text_columns(row))
        yield {key: row.get(key) for key in (*columns, *TEXT_COLUMNS, ROW_COLUMN)}


def _scan_once(path: str, strict: bool, cache_dir: str) -> tuple[list[str], list[int]]:
    """As `scan_jsonl`, but a file without bad rows is not scanned again until it changes."""
    stat = os.stat(path)
    key = repr((__version__, os.path.abspath(path), stat.st_size, stat.st_mtime_ns))
    record = os.path.join(cache_dir, 'citrusv_scans', f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.json')
    try:
        with open(record, encoding='utf-8') as file:
            return json.load(file)['columns'], []
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as e:
        logger.warning(f'{record} cannot be read ({e}); {path} is checked again.')
    columns, bad, num_rows = scan_jsonl(path, strict)
    if not bad and is_master():
        os.makedirs(os.path.dirname(record), exist_ok=True)
        with tempfile.NamedTemporaryFile('w', dir=os.path.dirname(record), delete=False, encoding='utf-8') as new:
            json.dump({'path': os.path.abspath(path), 'rows': num_rows, 'columns': columns}, new)
        os.replace(new.name, record)
    return columns, bad


def load_jsonl(path: str, *, strict: bool, cache_dir: str) -> hf_datasets.Dataset:
    """Reads a JSONL file of rows.

    Args:
        path: The file.
        strict: See `scan_jsonl`.
        cache_dir: Where `datasets` keeps its Arrow files.

    Returns:
        The columns of the file, `masks` and `mask_images` as JSON text, and `ROW_COLUMN` with "file.jsonl:line".
    """
    columns, bad = _scan_once(path, strict, cache_dir)
    columns = [key for key in columns if key not in _EXTRA_COLUMNS]
    stat = os.stat(path)
    text = hf_datasets.Value('string')
    features = {key: hf_datasets.Json() for key in columns}
    features.update(dict.fromkeys((*TEXT_COLUMNS, ROW_COLUMN), text))
    return hf_datasets.Dataset.from_generator(
        _generate,
        features=hf_datasets.Features(features),
        cache_dir=cache_dir,
        gen_kwargs={
            'path': os.path.abspath(path),
            # `datasets` treats a list as shards.
            'columns': tuple(columns),
            'bad': tuple(bad),
            'stamp': (stat.st_size, stat.st_mtime_ns),
        })


def dropped_row_error(row_id: str) -> RowError:
    """The error for a row that ms-swift's preprocessors have dropped."""
    return RowError(row_id, "ms-swift's preprocessor drops it.", "Compare the row with ms-swift's data format.",
                    'preprocessor')


def check_dropped_rows(before: hf_datasets.Dataset, after: hf_datasets.Dataset, *, strict: bool) -> None:
    """Finds the rows that ms-swift's preprocessors have silently dropped.

    Args:
        before: The rows as they were read, with `ROW_COLUMN`.
        after: The output of the preprocessors.
        strict: Whether a dropped row ends the run; otherwise all are logged and counted.

    Raises:
        RowError: The first dropped row, with `strict`.
    """
    if len(before) == len(after):
        return
    kept = set(after[ROW_COLUMN]) if len(after) else set()
    skips = SkipCounter()
    for row_id in before[ROW_COLUMN]:
        if row_id not in kept:
            error = dropped_row_error(row_id)
            if strict:
                raise error
            skips.add(error)
    skips.report("ms-swift's preprocessor", len(before))
    if not len(after):
        raise skips.none_left('dataset')
