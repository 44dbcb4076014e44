"""JSON, YAML and other files that are whole or absent."""
import csv
import json
import os
import yaml
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from ..settings import SettingError

# What a step writes for its rows to name.
FILES = 'files'


@contextmanager
def whole_file(path: str, is_shared: bool = False) -> Iterator[str]:
    """The name under which to write a file, which gets its own name at the end.

    Args:
        path: The file.
        is_shared: Whether several workers may write it at a time, all of them the same.
    """
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    part = f'{path}.{uuid4().hex}.part' if is_shared else f'{path}.part'
    yield part
    os.replace(part, path)


def write_json(path: str, value: Any, is_shared: bool = False) -> None:
    """Writes a file in one go; `is_shared` as in `whole_file`."""
    with whole_file(path, is_shared) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write('\n')


def write_csv(path: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table in one go; all lines have the same columns."""
    with whole_file(path) as part, open(part, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else [])
        writer.writeheader()
        writer.writerows(lines)


def read_json(path: str) -> Any:
    """Reads a file.

    Raises:
        ValueError: It is damaged.
    """
    with open(path, encoding='utf-8') as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f'{path} is not JSON ({error}). Was it edited?') from error


def read_yaml(path: str) -> Any:
    """Reads a file that people edit.

    Raises:
        SettingError: It is not YAML.
    """
    with open(path, encoding='utf-8') as file:
        try:
            return yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise SettingError(f'{path} is not YAML: {" ".join(str(error).split())}') from error
