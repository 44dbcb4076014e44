"""The input of a step: files of rows, their names and hashes, and the shards into which they are split."""
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tqdm import tqdm

from ..rows.records import EXTENSIONS, Record, extension_of
from ..rows.shards import FileShards, read_byte_lines, read_shards, split_files
from ..settings import SettingError

COMPRESSED = '.jsonl.gz'
# Bytes of a shard of JSONL: some 30,000 rows.
SHARD_BYTES = 1 << 24
_BLOCK = 1 << 22


@dataclass(frozen=True)
class InputFile:
    """A file of rows.

    Attributes:
        path: Where it is.
        source: Its name in the ledger, which does not depend on the folder that the input lies in.
        sha256: Of its bytes.
        lines: The number of its lines; None for a format without lines.
    """
    path: str
    source: str
    sha256: str
    lines: int | None = None


@dataclass(frozen=True)
class Shard:
    """A part of an input file, or the output of a step before.

    Attributes:
        path, source: As in `InputFile`.
        start, stop: The range, as in `rows.shards.FileShards`.
        first_line: The number of its first row.
        is_optional: Whether the file may be missing, as the output of a step is if it has no row.
    """
    path: str
    source: str
    start: int = 0
    stop: int = 0
    first_line: int = 1
    is_optional: bool = False


def find_files(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """(path, source) of the files that the arguments name: files, folders of files, outputs of a step.

    Raises:
        SettingError: An argument names no file of rows, or a file twice.
    """
    found: list[tuple[str, str]] = []
    for name in inputs:
        if os.path.isfile(name):
            if not is_rows(name):
                raise SettingError(f'{name} has none of the extensions of rows: '
                                   f'{", ".join((*EXTENSIONS, COMPRESSED))}. Rename or convert it.')
            found.append((name, os.path.basename(name)))
            continue
        if not os.path.isdir(name):
            raise SettingError(f'{name}: there is no such file or folder.')
        # The output of a step has pictures, notes and rows for review beside the rows that go on.
        is_made = is_output(name)
        if not is_made and os.path.isdir(os.path.join(name, 'work')):
            raise SettingError(f'{name} is the output of an unfinished run. Repeat its command first.')
        top = os.path.join(name, 'rows') if is_made else name
        base = os.path.basename(os.path.abspath(name))
        inside = [file for file in files_below(top) if is_rows(file)]
        if not inside and not is_made:
            raise SettingError(f'{name} has no file with one of the extensions of rows: '
                               f'{", ".join((*EXTENSIONS, COMPRESSED))}.')
        found += [(os.path.join(top, file), f'{base}/{file}'.replace(os.sep, '/')) for file in inside]
    if len({os.path.realpath(path) for path, _ in found}) < len(found):
        raise SettingError('A file is named twice. Name each once.')
    return _distinct(found)


def files_below(folder: str) -> list[str]:
    """The files of a folder and of its subfolders, sorted, by their names below it."""
    return sorted(
        os.path.relpath(os.path.join(top, file), folder) for top, _, files in os.walk(folder) for file in files)


def is_output(folder: str) -> bool:
    """Whether a folder is the output of a step or a run: a folder of rows may have a summary.json of its own."""
    path = os.path.join(folder, 'summary.json')
    if not os.path.isfile(path):
        return False
    with open(path, encoding='utf-8', errors='replace') as file:
        try:
            content = json.load(file)
        except ValueError:
            return False
    return isinstance(content, dict) and {'in', 'run', 'files'} <= content.keys()


def is_rows(name: str) -> bool:
    """Whether a file is one of rows, by its name."""
    return name.endswith((*EXTENSIONS, COMPRESSED))


def _distinct(found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Puts folders before names that several files share."""
    names = [source for _, source in found]
    result = []
    for path, source in found:
        parts = os.path.abspath(path).split(os.sep)
        depth = source.count('/') + 1
        if names.count(source) > 1:
            rivals = [os.path.abspath(other).split(os.sep) for other, name in found if name == source]
            while sum(rival[-depth:] == parts[-depth:] for rival in rivals) > 1:
                depth += 1
            source = '/'.join(parts[-depth:])
        result.append((path, source))
    return result


def hash_files(found: Sequence[tuple[str, str]], quiet: bool = False) -> list[InputFile]:
    """Adds hashes and numbers of lines; shows a progress bar."""
    total = sum(os.path.getsize(path) for path, _ in found)
    files = []
    with tqdm(
            total=total, desc='Hashing the input', unit='B', unit_scale=True, disable=quiet or total < 1 << 27) as bar:
        for path, source in found:
            digest, lines = hashlib.sha256(), 0
            for block in _blocks(path):
                digest.update(block)
                lines += block.count(b'\n')
                bar.update(len(block))
            files.append(InputFile(path, source, digest.hexdigest(), lines if path.endswith('.jsonl') else None))
    return files


def sha256_of(path: str) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: str) -> Iterator[bytes]:
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            yield block


def split(files: Sequence[InputFile], shard_bytes: int = SHARD_BYTES, quiet: bool = False) -> list[Shard]:
    """Splits files into shards; they depend on the files and on `shard_bytes` only."""
    parts = split_files([file.path for file in files], quiet, shard_bytes)
    return [
        Shard(files[index].path, files[index].source, start, stop, first)
        for index, start, stop, first in zip(*parts)
    ]  # yapf: disable


def read_shard(shard: Shard) -> Iterator[tuple[int, bytes | Record]]:
    """Yields (number, line or record) for the rows of a shard; blank lines count, and are skipped."""
    if shard.is_optional and not os.path.exists(shard.path):
        return
    if shard.path.endswith(COMPRESSED):
        with gzip.open(shard.path, 'rb') as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    elif extension_of(shard.path) == '.jsonl':
        stop = shard.stop or os.path.getsize(shard.path)
        yield from read_byte_lines(shard.path, shard.start, stop, shard.first_line)
    else:
        parts = FileShards([0], [shard.start], [shard.stop], [shard.first_line])
        for _, number, record in read_shards([shard.path], parts):
            yield number, record
