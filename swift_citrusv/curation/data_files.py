"""JSON, YAML and other files that are whole or absent."""
import csv
import json
import os
import yaml
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..settings import SettingError


@contextmanager
def whole_file(path: str) -> Iterator[str]:
    """The name under which to write a file, which gets its own name at the end."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    yield f'{path}.part'
    os.replace(f'{path}.part', path)


def write_json(path: str, value: Any) -> None:
    """Writes a file in one go."""
    with whole_file(path) as part, open(part, 'w', encoding='utf-8') as file:
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
