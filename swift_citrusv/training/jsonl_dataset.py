"""Files of rows as datasets with row numbers; bad rows are named, or skipped and counted.

ms-swift infers column types from the first part of a file. So a file with masks of several formats fails in the middle,
with an error that does not name the row. `load_rows` reads the rows itself, in every format of `rows.records`.
"""
import datasets as hf_datasets
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from swift.dataset.preprocessor import RowPreprocessor
from swift.utils import get_logger, is_master
from tqdm import tqdm
from typing import Any

from .. import __version__
from ..constants import CHUNKS_COLUMN, ROW_COLUMN
from ..errors import RowError
from ..rows.cells import decode_cells
from ..rows.columns import ColumnRules, check_columns, filled_columns
from ..rows.names import file_name
from ..rows.records import parse_record, read_records
from ..rows.skips import SkipCounter

logger = get_logger()
# Stored as JSON text, because an Arrow column cannot hold an RLE, a polygon and a path.
TEXT_COLUMNS = ('masks', 'mask_images')
_EXTRA_COLUMNS = (*TEXT_COLUMNS, ROW_COLUMN, CHUNKS_COLUMN)
_IMAGE_COLUMNS = ('images', 'image', 'rejected_images', 'teacher_images')


def keep_columns() -> None:
    """Makes ms-swift's preprocessors keep the columns of the row contract."""
    RowPreprocessor.standard_keys += [key for key in _EXTRA_COLUMNS if key not in RowPreprocessor.standard_keys]


def text_columns(row: dict[str, Any]) -> dict[str, str | None]:
    """The `TEXT_COLUMNS` of a row as JSON text; None where they are empty or missing."""
    return {key: json.dumps(row[key], ensure_ascii=False) if row.get(key) else None for key in TEXT_COLUMNS}


@dataclass(frozen=True)
class Scan:
    """What a pass over the rows finds.

    Attributes:
        columns: The names of all columns.
        binary: The columns of images that are in the file itself.
        bad: For each file the numbers of the rows to skip.
        num_rows: The number of all rows.
    """
    columns: tuple[str, ...]
    binary: tuple[str, ...]
    bad: tuple[tuple[int, ...], ...]
    num_rows: int


def scan_rows(paths: Sequence[str], strict: bool, rules: ColumnRules = ColumnRules()) -> Scan:
    """Checks every row of some files, which ms-swift reads as one dataset.

    Args:
        paths: The files.
        strict: Whether the first bad row ends the run; otherwise bad rows are skipped and counted.
        rules: How the columns are read.

    Raises:
        RowError: A bad row, with `strict`; or files without any good row.
    """
    columns: dict[str, None] = {}
    binary: dict[str, None] = {}
    layouts: dict[tuple[int, frozenset[str]], array] = {}
    bad: list[set[int]] = [set() for _ in paths]
    num_rows, skips = 0, SkipCounter()

    def skip(file: int, number: int, error: RowError) -> None:
        if strict:
            raise error
        skips.add(error)
        bad[file].add(number)

    for file, path in enumerate(paths):
        name = file_name(path)
        for number, record in tqdm(read_records(path), desc=f'Checking {name}', unit=' rows', disable=not is_master()):
            num_rows += 1
            try:
                row = parse_record(record, f'{name}:{number}', rules)
                if not isinstance(record, str):
                    binary.update(dict.fromkeys(_binary_columns(row, f'{name}:{number}')))
            except RowError as e:
                skip(file, number, e)
                continue
            columns.update(dict.fromkeys(row))
            layouts.setdefault((file, filled_columns(row)), array('Q')).append(number)
    if rules.layout == 'auto':
        for file, number, error in _column_errors(layouts, columns, paths):
            skip(file, number, error)
    shown = file_name(paths[0]) if len(paths) == 1 else f'{file_name(paths[0])} and {len(paths) - 1} more files'
    skips.report(shown, num_rows)
    if not num_rows:
        raise RowError(shown, 'the file has no row.', 'Give a file with rows.', 'empty')
    if sum(map(len, bad)) == num_rows:
        raise skips.none_left(shown)
    return Scan(tuple(columns), tuple(binary), tuple(tuple(sorted(numbers)) for numbers in bad), num_rows)


def _column_errors(layouts: dict[tuple[int, frozenset[str]], array], columns: Collection[str],
                   paths: Sequence[str]) -> list[tuple[int, int, RowError]]:
    """The rows that `check_columns` refuses, in order. `layouts` maps a set of columns to its rows in a file."""
    errors = {}
    for (file, filled), numbers in layouts.items():
        for number in numbers:
            try:
                check_columns(filled, columns, f'{file_name(paths[file])}:{number}')
            except RowError as e:
                errors[file, number] = e
            else:
                break
    return [(*place, error) for place, error in sorted(errors.items())]


def _binary_columns(row: Mapping[str, Any], row_id: str) -> list[str]:
    """The columns of images that are bytes."""
    found = [key for key, value in row.items() if _holds_bytes(value)]
    for key in found:
        if key.lower() not in _IMAGE_COLUMNS and key.lower() in (*RowPreprocessor.standard_keys, 'video', 'audio'):
            raise RowError(row_id, f'{key!r} holds bytes.', 'Only images may be in the file itself: write the names of '
                           'files.', 'columns')
    return [key for key in found if key.lower() in _IMAGE_COLUMNS]


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_bytes, value))
    return isinstance(value, bytes) or isinstance(value, Mapping) and isinstance(value.get('bytes'), bytes)


def _image_list(value: Any) -> list[dict[str, Any]] | None:
    """Images as ms-swift stores them: [{'bytes': ..., 'path': ...}]."""
    if value is None:
        return None
    images = []
    for image in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(image, Mapping):
            image = {'bytes': image} if isinstance(image, bytes) else {'path': image}
        images.append({'bytes': image.get('bytes'), 'path': image.get('path') or image.get('url')})
    return images


def _generate(files: tuple[tuple[str, str], ...], columns: tuple[str, ...], binary: tuple[str, ...],
              bad: tuple[tuple[int, ...], ...], rules: tuple[Any, ...], stamp: tuple[Any,
                                                                                     ...]) -> Iterator[dict[str, Any]]:
    del stamp  # sizes and modification times of the files: part of the cache key
    column_rules = ColumnRules(*rules)
    for (path, name), numbers in zip(files, bad):
        skipped = set(numbers)
        for number, record in read_records(path):
            if number in skipped:
                continue
            row_id = f'{name}:{number}'
            if isinstance(record, str):
                row = column_rules.rename(json.loads(record), row_id)
            else:
                row = decode_cells(column_rules.rename(record, row_id))  # type: ignore[arg-type]
            stored = {key: _stored(row.get(key), key in binary) for key in columns}
            yield {**stored, **text_columns(row), ROW_COLUMN: row_id}


def _stored(value: Any, is_binary: bool) -> Any:
    if is_binary:
        return _image_list(value)
    # A column of `datasets.Json` would parse a string that is valid JSON ('true', '12'). ms-swift reads bytes in
    # columns of images only.
    return json.dumps(value) if isinstance(value, str) else None if _holds_bytes(value) else value


def _stamp(paths: Sequence[str]) -> tuple[tuple[int, int], ...]:
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths))


def _scan_once(paths: Sequence[str], strict: bool, cache_dir: str, rules: ColumnRules) -> Scan:
    """As `scan_rows`, but files without bad rows are not scanned again until they change."""
    key = repr((__version__, paths, _stamp(paths), rules.renames, rules.layout))
    record = os.path.join(cache_dir, 'citrusv_scans', f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.json')
    try:
        with open(record, encoding='utf-8') as file:
            found = json.load(file)
        return Scan(tuple(found['columns']), tuple(found['binary']), ((), ) * len(paths), found['rows'])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as e:
        logger.warning(f'{record} cannot be read ({e}); {paths[0]} is checked again.')
    scan = scan_rows(paths, strict, rules)
    if not any(scan.bad) and is_master():
        os.makedirs(os.path.dirname(record), exist_ok=True)
        with tempfile.NamedTemporaryFile('w', dir=os.path.dirname(record), delete=False, encoding='utf-8') as new:
            json.dump({'paths': paths, 'rows': scan.num_rows, 'columns': scan.columns, 'binary': scan.binary}, new)
        os.replace(new.name, record)
    return scan


def load_rows(paths: Sequence[str], *, strict: bool, cache_dir: str,
              rules: ColumnRules = ColumnRules()) -> hf_datasets.Dataset:
    """Reads files of rows, in any format of `rows.records`.

    Args:
        paths: The files.
        strict: See `scan_rows`.
        cache_dir: Where `datasets` keeps its Arrow files.
        rules: How the columns are read.

    Returns:
        The columns of the files, `masks` and `mask_images` as JSON text, and `ROW_COLUMN` with "A/file.jsonl:line".
    """
    paths = [os.path.abspath(path) for path in paths]
    scan = _scan_once(paths, strict, cache_dir, rules)
    columns = [key for key in scan.columns if key not in _EXTRA_COLUMNS]
    text = hf_datasets.Value('string')
    images = hf_datasets.List({'bytes': hf_datasets.Value('binary'), 'path': text})
    features = {key: images if key in scan.binary else hf_datasets.Json() for key in columns}
    features.update(dict.fromkeys((*TEXT_COLUMNS, ROW_COLUMN), text))
    return hf_datasets.Dataset.from_generator(
        _generate,
        features=hf_datasets.Features(features),
        cache_dir=cache_dir,
        gen_kwargs={
            # `datasets` treats a list as shards.
            'files': tuple((path, file_name(path)) for path in paths),
            'columns': tuple(columns),
            'binary': scan.binary,
            'bad': scan.bad,
            'rules': (rules.renames, rules.layout),
            'stamp': (__version__, _stamp(paths)),
        })


def load_jsonl(path: str, *, strict: bool, cache_dir: str) -> hf_datasets.Dataset:
    """As `load_rows`, for one file."""
    return load_rows([path], strict=strict, cache_dir=cache_dir)


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
