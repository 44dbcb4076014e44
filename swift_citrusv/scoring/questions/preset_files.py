"""Reads published benchmark files: JSON, JSONL, CSV and Parquet, in a folder or zipped."""
import csv
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO, TextIOWrapper
from typing import IO, Any

from ...errors import RowError

_TABLES = ('.json', '.jsonl', '.csv', '.parquet')
_PICKLES = ('.pkl', '.pickle', '.pt', '.pth')
# Some explanations of MedMCQA and captions of PMC-VQA exceed Python's default limit.
_FIELD_LIMIT = 1 << 24
_PICTURES = {b'\x89PNG': 'png', b'\xff\xd8': 'jpg', b'GIF8': 'gif', b'BM': 'bmp', b'II*\0': 'tif', b'MM\0*': 'tif'}


@dataclass(frozen=True)
class Record:
    """A row of a benchmark file.

    Attributes:
        name: For error messages: 'dev.json:12', counted from 1.
        number: Its number in the file, from 1.
        key: Its key, if the file is an object of rows (PubMedQA); else ''.
        file: The path of its file relative to the folder or zip file, with '/'.
        values: The values by column.
    """
    name: str
    number: int
    key: str
    file: str
    values: dict[str, Any]


def read_records(path: str, patterns: Sequence[str]) -> Iterator[Record]:
    """Reads the rows of a benchmark, in the order of the file names.

    Args:
        path: A table of any name, or a folder or zip file with matching tables.
        patterns: Case-insensitive shell patterns; the first one with a match selects the files. A pattern without '/'
            is matched against the base name.

    Raises:
        ValueError: There is no file, none that matches, or only pickles.
    """
    if os.path.isdir(path):
        for name in _chosen(_tables_below(path), patterns, path):
            with open(os.path.join(path, name), 'rb') as file:
                yield from _records(file, name)
    elif zipfile.is_zipfile(path) and not path.lower().endswith('.parquet'):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith('__MACOSX/')]
            for name in _chosen(names, patterns, path):
                with archive.open(name) as file:
                    yield from _records(file, name)
    else:
        _check(path)
        with open(path, 'rb') as file:
            yield from _records(file, os.path.basename(path))


def _check(path: str) -> None:
    if path.lower().endswith(_PICKLES):
        raise ValueError(f'{path} is a pickle, which can execute code when it is loaded: use the Parquet or JSON files '
                         'of the dataset, or write the rows as JSONL.')  # yapf: disable
    if not os.path.isfile(path):
        raise ValueError(f'{path} is neither a file nor a folder: download the benchmark first and give its path.')
    if not path.lower().endswith(_TABLES):
        raise ValueError(f'{path} is not supported: give a {", ".join(_TABLES)} or zip file, or a folder.')


def _tables_below(folder: str) -> list[str]:
    found = []
    for place, _, names in os.walk(folder):
        below = os.path.relpath(place, folder)
        found += [name if below == '.' else f'{below.replace(os.sep, "/")}/{name}' for name in names]
    return found


def _chosen(names: Sequence[str], patterns: Sequence[str], path: str) -> list[str]:
    tables = sorted(name for name in names if name.lower().endswith(_TABLES))
    for pattern in patterns:
        fitting = [name for name in tables if _fits(name.lower(), pattern.lower())]
        if fitting:
            return fitting
    pickles = [name for name in names if name.lower().endswith(_PICKLES)]
    if pickles and not tables:
        _check(os.path.join(path, pickles[0]))
    shown = ', '.join(tables[:8]) + (', ...' if len(tables) > 8 else '') if tables else 'no tables'
    raise ValueError(
        f'{path} has no {" or ".join(patterns)}; it has {shown}. Give the file itself, or another --split.')


def _fits(name: str, pattern: str) -> bool:
    if '/' in pattern:
        return fnmatch(name, pattern) or fnmatch(name, f'*/{pattern}')
    return fnmatch(name.rpartition('/')[2], pattern)


def _records(file: IO[bytes], name: str) -> Iterator[Record]:
    base = name.rpartition('/')[2]
    read = {'.csv': _csv, '.parquet': _parquet}.get(os.path.splitext(name.lower())[1], _json)
    try:
        for number, (key, values) in enumerate(read(file), 1):
            if not isinstance(values, dict):
                raise ValueError(f'row {number} is {str(values)[:60]!r}, not an object')
            yield Record(f'{base}:{number}', number, key, name, values)
    except (ValueError, csv.Error) as e:
        # Errors of json and Arrow are ValueErrors too; a RowError names its row already.
        raise e if str(e).startswith(f'{base}:') else ValueError(f'{name} cannot be read: {e}') from e


def _csv(file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        with TextIOWrapper(file, encoding='utf-8-sig', newline='') as text:
            for row in csv.DictReader(text, strict=True):
                yield '', {(name or '').strip(): value for name, value in row.items() if name is not None}
    finally:
        csv.field_size_limit(before)


def _parquet(file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as parquet

    # Seeking in a zip member is slow.
    source = file if file.seekable() and not isinstance(file, zipfile.ZipExtFile) else BytesIO(file.read())
    with parquet.ParquetFile(source) as table:
        for batch in table.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield '', row


def _json(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    text = file.read().decode('utf-8-sig')
    try:
        content = json.loads(text)
    except json.JSONDecodeError as e:
        # Some '.json' files are JSONL (MedMCQA).
        if not e.msg.startswith('Extra data'):
            raise
        content = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(content, list):
        yield from (('', row) for row in content)
    elif content and all(isinstance(value, dict) for value in content.values()):
        yield from _by_column(content) if 'question' in content else content.items()
    else:
        # A file with a single row.
        yield '', content


def _by_column(columns: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the default format of pandas' `to_json` (Medbullets): {column: {row: value}}."""
    for number in columns['question']:
        yield number, {name: values.get(number) for name, values in columns.items()}


class CompanionFiles:
    """The files beside the tables of a benchmark: images, and lists of the questions of a split.

    Args:
        path: The table, folder or zip file of the benchmark.
        folders: The names of the published image folders.
        images: The folder of the images; None: the published folders.
        image_output: The folder to which images in tables are written; None: they are not written.
    """

    def __init__(self,
                 path: str,
                 folders: Sequence[str],
                 images: str | None = None,
                 image_output: str | None = None) -> None:
        self.path = path
        self.image_output = image_output
        self.root = path if os.path.isdir(path) else os.path.dirname(path)
        self.images = images
        self.folders = folders

    def image_path(self, name: str, record: Record) -> str:
        """The path of the image of a row; if it does not exist, the path where it is expected."""
        own = os.path.join(self.root, os.path.dirname(record.file)) if os.path.isdir(self.path) else self.root
        folders = [self.images] if self.images is not None else [
            os.path.join(root, folder) for root in (own, self.root) for folder in (*self.folders, '')]  # yapf: disable
        paths = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
        return next((path for path in paths if os.path.isfile(path)), paths[0])

    def write_image(self, picture: Any, record: Record) -> list[str]:
        """Writes an image from a Parquet file, named by its hash, and returns its path; [] without an output folder.

        Raises:
            RowError: The value is not an image.
        """
        content = picture.get('bytes') if isinstance(picture, dict) else picture
        if isinstance(picture, dict) and not content and picture.get('path'):
            return [self.image_path(picture['path'], record)]
        if not isinstance(content, bytes):
            raise RowError(record.name, f"'image' is {str(picture)[:60]!r}, not the bytes of an image.",
                           'Use the published Parquet files.', 'preset-image')  # yapf: disable
        if self.image_output is None:
            return []
        ending = next((ending for start, ending in _PICTURES.items() if content.startswith(start)), 'img')
        path = os.path.join(self.image_output, f'{hashlib.sha256(content).hexdigest()[:20]}.{ending}')
        if not os.path.exists(path):
            os.makedirs(self.image_output, exist_ok=True)
            with open(f'{path}.part', 'wb') as file:
                file.write(content)
            os.replace(f'{path}.part', path)
        return [path]

    def read_json(self, name: str) -> Any:
        """The content of a JSON file beside the table; None if it does not exist."""
        if os.path.isfile(self.path) and zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                found = [member for member in archive.namelist() if member.rpartition('/')[2] == name]
                if found:
                    return json.loads(archive.read(found[0]))
        for place in (self.root, os.path.join(self.root, 'data')):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                with open(path, encoding='utf-8-sig') as file:
                    return json.load(file)
        return None
