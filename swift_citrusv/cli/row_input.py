"""The rows that a subcommand reads: a file in any format, or a folder of files."""
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .options import require_file

if TYPE_CHECKING:
    from ..rows.records import Record

# A place names a row of several files in one integer: the index of the file, then the number of the row.
_NUMBER_BITS = 40


def row_files(path: str, flag: str = '') -> list[str]:
    """The file itself, or the files that `swift sft --dataset FOLDER` reads.

    Raises:
        FileNotFoundError: There is no such file or folder; the message names the flag.
        ValueError: The folder has no files of rows.
    """
    if not os.path.isdir(path):
        require_file(path, flag)
        return [path]
    from ..training.folders import folder_files
    try:
        files = folder_files(path, 'default', 'train')
    except (ValueError, OSError) as error:
        raise ValueError(f'{flag} {path}: {error} Name a file.'.lstrip()) from error
    if not files:
        raise ValueError(f'{flag} {path}: the folder has no files of rows for training. Name a file.'.lstrip())
    return files


def placed_records(paths: Sequence[str]) -> 'Iterator[tuple[int, Record]]':
    """Yields (place, record) for the rows of all files; in the first file the place is the number of the row."""
    from ..rows.records import read_records
    for file, path in enumerate(paths):
        for number, record in read_records(path):
            yield file << _NUMBER_BITS | number, record


def split_place(place: int) -> tuple[int, int]:
    """The index of the file, and the number of the row."""
    return place >> _NUMBER_BITS, place & (1 << _NUMBER_BITS) - 1


def place_name(place: int, names: Sequence[str]) -> str:
    """The row's name, e.g. 'A/train.csv:3', from the names of the files."""
    file, number = split_place(place)
    return f'{names[file]}:{number}'


def named_files(paths: Sequence[str]) -> list[str]:
    """The names of files in messages."""
    from ..rows.names import file_name
    return [file_name(path) for path in paths]
