"""Reads a .json file of rows: a list of objects, an object of columns, one object, or JSON Lines under that name."""
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..errors import RowError
from .jsonl import read_lines
from .layouts import CHAT_COLUMNS
from .mask_format import short_repr

# Only finds where an object ends; `jsonl.parse_line` decodes it again, with its checks.
_SCANNER = json.JSONDecoder(parse_int=str)
_SPACE = re.compile(r'[ \t\n\r]*')
_REMEDY = 'Repair it there: the rows behind that place cannot be found. Or write JSONL, one object a line.'


def read_json(path: str, name: str) -> Iterator[tuple[int, str]]:
    """Yields (number, text of the object) for each row.

    Args:
        path: The file. It is read whole; for large data write JSONL.
        name: Its name in messages.

    Raises:
        RowError: It is not JSON behind some row, or holds something other than rows.
    """
    if _has_lines(path):
        yield from read_lines(path)
        return
    with open(path, encoding='utf-8-sig', errors='surrogateescape') as file:
        text = file.read()
    position = _skip_space(text, 0)
    if text[position:position + 1] == '[':
        yield from _list_entries(text, position + 1, name)
    elif position < len(text):
        yield from enumerate(_object_rows(text, name), start=1)


def _has_lines(path: str) -> bool:
    """Whether each line is an object, as in JSONL."""
    first = [line.strip() for _, line in islice(read_lines(path), 2)]
    if not first or not first[0].startswith('{'):
        return False
    # A damaged first line of JSONL ends anyhow, but not where an object goes on in the next line.
    goes_on = first[0].endswith(('{', '[', ',', ':'))
    return first[0].endswith('}') or len(first) > 1 and first[1].startswith('{') and not goes_on


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _list_entries(text: str, position: int, name: str) -> Iterator[tuple[int, str]]:
    position, number = _skip_space(text, position), 0
    if text[position:position + 1] == ']':
        return
    while True:
        number += 1
        try:
            value, end = _SCANNER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _damaged(text, position, f'{name}:{number}', error) from error
        entry = text[position:end]
        # As in ms-swift, a list of strings is a list of texts.
        yield number, json.dumps({'text': value}) if isinstance(value, str) else entry
        position = _skip_space(text, end)
        mark = text[position:position + 1]
        if mark == ']':
            break
        if mark != ',':
            raise _damaged(text, position, f'{name}:{number}',
                           f'no comma behind it, but {text[position:position + 20]!r}')
        position = _skip_space(text, position + 1)
    if text[position + 1:].strip():
        raise _damaged(text, position, f'{name}:{number}', 'text behind the end of the list')


def _damaged(text: str, position: int, row_id: str, why: Any) -> RowError:
    shown = text[position:position + 80].encode('utf-8', 'backslashreplace').decode()
    why = 'nested too deeply' if isinstance(why, RecursionError) else why
    return RowError(row_id, f'the file is not JSON at this row ({why}): {shown!r}.', _REMEDY, 'not-json')


def _object_rows(text: str, name: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(text, 0, name, error) from error
    columns = list(value.values()) if isinstance(value, dict) else []
    chat = next((value[key] for key in CHAT_COLUMNS if columns and key in value), None)
    is_table = columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)
    if not columns or len(columns) == 1 and is_table and chat is None and isinstance(columns[0][0], dict):
        raise RowError(name, f'the file holds {short_repr(value)}, not a list of rows.',
                       'Write a list of objects, [{"messages": ...}, ...].', 'not-json')
    if is_table and not (chat and isinstance(chat[0], dict)):
        for cells in zip(*columns):
            yield json.dumps(dict(zip(value, cells)))
    else:
        yield text
