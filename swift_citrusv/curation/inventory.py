"""Folders of files as the input of a step: a line for each file, or for each slice."""
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from tqdm import tqdm
from typing import Any

from ..settings import SettingError
from .data_files import read_json, whole_file, write_json
from .inputs import InputFile, files_below, hash_files, is_output, is_rows, sha256_of

NAME = 'inventory.jsonl'
# Files are hashed by several threads: it is the disk that takes the time.
_THREADS = 8
# Extensions of files that are rows, wherever they lie.
_SURE_ROWS = ('.jsonl', '.jsonl.gz', '.parquet')


def find(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """(path, source) of all files below the folders, and of the files, that the arguments name.

    Args:
        inputs: Folders and files.

    Returns:
        Sorted by source: the file's name below the folder, which does not depend on where the folder lies.

    Raises:
        SettingError: An argument names nothing, or two files have one source.
    """
    found = []
    for name in inputs:
        if os.path.isfile(name):
            found.append((name, os.path.basename(name)))
            continue
        if not os.path.isdir(name):
            raise SettingError(f'{name}: there is no such file or folder.')
        base = os.path.basename(os.path.abspath(name))
        inside = files_below(name)
        if not inside:
            raise SettingError(f'{name} is an empty folder.')
        found += [(os.path.join(name, file), f'{base}/{file}'.replace(os.sep, '/')) for file in inside]
    found.sort(key=lambda item: item[1])
    twice = next((first for first, second in zip(found, found[1:]) if first[1] == second[1]), None)
    if twice is not None:
        raise SettingError(f'{twice[1]} is the name of two files: name the folder above both, or rename one.')
    return found


def take(inputs: Sequence[str], work: str, parts: Callable[[str], Sequence[dict[str, Any]]],
         quiet: bool) -> list[InputFile]:
    """Writes the inventory of files, which is then the input of a step.

    Args:
        inputs: Folders and files.
        work: The work folder of the step.
        parts: What the lines of a file say beside its source and hash; at least one line.
        quiet: Whether to show no progress bar.

    Returns:
        The one file of lines.
    """
    found = find(inputs)
    path = os.path.join(work, 'inventory', NAME)
    with ThreadPoolExecutor(_THREADS) as pool, whole_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        # Not all at once: a million results would wait in memory.
        lines = tqdm(_described(found, parts, pool), 'Reading the files', len(found), unit=' files', disable=quiet,
                     delay=1)  # yapf: disable
        for source, digest, descriptions in lines:
            for description in descriptions:
                file.write(json.dumps({'source': source, 'sha256': digest, **description}, ensure_ascii=False) + '\n')
    write_json(os.path.join(work, 'inventory', 'roots.json'), dict((source, path) for path, source in found))
    return hash_files([(path, NAME)], quiet)


def _described(found: Sequence[tuple[str, str]], parts: Callable[[str], Sequence[dict[str, Any]]],
               pool: ThreadPoolExecutor) -> Iterator[tuple[str, str, Sequence[dict[str, Any]]]]:
    step = _THREADS * 16
    for start in range(0, len(found), step):
        block = found[start:start + step]
        digests = pool.map(sha256_of, [path for path, _ in block])
        for (path, source), digest in zip(block, digests):
            yield source, digest, parts(path)


def paths_of(work: str) -> dict[str, str]:
    """The paths of the files of the inventory, by their sources."""
    paths: dict[str, str] = read_json(os.path.join(work, 'inventory', 'roots.json'))
    return paths


def has_rows(name: str) -> bool:
    """Whether an argument names rows: a file of rows, the output of a step, or a folder with nothing else.

    Raises:
        SettingError: It is a folder with rows and other files.
    """
    if os.path.isfile(name):
        return is_rows(name)
    if is_output(name):
        return True
    files = files_below(name)
    rows = [file for file in files if is_rows(file)]
    # Tables lie beside images too.
    sure = next((file for file in rows if file.endswith(_SURE_ROWS)), None)
    if sure is not None and len(rows) < len(files):
        raise SettingError(f'{name} has rows ({sure}) and other files. Name the file of rows, '
                           'or the folders of the other files.')  # yapf: disable
    return bool(rows) and len(rows) == len(files)
