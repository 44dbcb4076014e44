"""Reads JSONL files of rows, and checks each line and its columns."""
import json
from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from typing import Any

from ..errors import RowError
from .contract import parse_row

# The columns that ms-swift reads the conversation from, by precedence.
_CHAT_COLUMNS = ('messages', 'conversations', 'conversation')
# Far more than a row needs, and far below the limits of the JSON and Arrow libraries.
_MAX_DEPTH = 100


def _integer(text: str) -> int:
    # `datasets` would convert it, or the whole object around it, to a string; and int() fails above 4,300 digits.
    if len(text) > 20 or not -2**63 <= int(text) < 2**64:
        raise ValueError(f'the integer {text[:30]}{"..." if len(text) > 30 else ""} has more than 64 bits')
    return int(text)


_DECODER = json.JSONDecoder(parse_int=_integer)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yields (number, line) for the lines that are not blank. Numbers count from 1 and include blank lines.

    Skips a byte order mark. Bytes that are not UTF-8 become surrogates, which `parse_line` rejects.
    """
    with open(path, encoding='utf-8-sig', errors='surrogateescape') as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def parse_line(line: str, row_id: str) -> dict[str, Any]:
    """Parses a line and checks the row contract; opens no file.

    Args:
        line: A line of `read_lines`.
        row_id: The row's name in error messages, e.g. 'train.jsonl:12'.

    Raises:
        RowError: The line is not a JSON object, or breaks the contract.
    """
    try:
        line.encode('utf-8')
        row = _DECODER.decode(line)
    except UnicodeEncodeError as error:
        shown = line.strip()[:80].encode('utf-8', 'backslashreplace').decode()
        raise RowError(row_id, f'the line is not UTF-8: {shown!r}.', 'Save the file as UTF-8.', 'not-json') from error
    except (ValueError, RecursionError) as error:
        # Python's own message about the depth varies with the caller.
        why = 'nested too deeply' if isinstance(error, RecursionError) else str(error)
        raise RowError(row_id, f'the line is not JSON ({why}): {line.strip()[:80]!r}.', 'Write one JSON object a line.',
                       'not-json') from error
    if not isinstance(row, dict):
        raise RowError(row_id, f'the line holds a {type(row).__name__}, not an object: {line.strip()[:80]!r}.',
                       'Write one JSON object a line.', 'not-json')
    if line.count('[') + line.count('{') > _MAX_DEPTH:
        _check_depth(row, line, row_id)
    if 'NaN' in line or 'Infinity' in line:
        # pandas writes NaN for a missing value; `datasets` makes null of it too.
        for key, value in row.items():
            if isinstance(value, float) and not isfinite(value) and key not in ('masks', 'mask_images'):
                row[key] = None
        _check_finite(row, row_id)
    if '\\ud' in line or '\\uD' in line:
        _check_characters(row, row_id)
    for key in row:
        if key.lower() in ('masks', 'mask_images') and key != key.lower():
            raise RowError(row_id, f'the row has the column {key!r}, which is not read.', f"Write '{key.lower()}'.",
                           'columns')
    # ms-swift checks rows of its other layouts (query/response, ...); they cannot have masks.
    if 'messages' in row or row.get('masks'):
        parse_row(row, row_id=row_id)
    return row


def _check_characters(row: Any, row_id: str) -> None:
    # JSON can escape half of a surrogate pair, which UTF-8 cannot encode.
    try:
        json.dumps(row, ensure_ascii=False).encode('utf-8')
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise RowError(row_id, f'the line has {half!r}, which is half of a surrogate pair.',
                       'Write both halves or none.', 'not-json') from error


def _check_finite(row: Any, row_id: str) -> None:
    # `datasets` would make null of these too. Boxes and polygons are checked elsewhere, with their own error kinds.
    for column in ('messages', 'tools', 'chat_template_kwargs'):
        try:
            json.dumps(row.get(column), allow_nan=False)
        except ValueError as error:
            raise RowError(row_id, f'{column!r} has a number that is NaN or infinite.', 'Remove it.',
                           'number') from error


def _check_depth(row: Any, line: str, row_id: str) -> None:
    level, depth = [row], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise RowError(row_id, f'the line is nested too deeply (more than {_MAX_DEPTH} levels): '
                           f'{line.strip()[:80]!r}.', 'Write a flat row.', 'not-json')
        level = [
            child for part in level for child in (part.values() if isinstance(part, dict) else part)
            if isinstance(child, (dict, list))
        ]


def filled_columns(row: Mapping[str, Any]) -> frozenset[str]:
    """The columns in which a row has a value, for `check_columns`."""
    return frozenset(key for key, value in row.items() if value)


def check_columns(filled: Collection[str], columns: Collection[str], row_id: str) -> None:
    """Rejects a row that ms-swift would silently drop or truncate because of other rows of the file.

    ms-swift reads a file by the columns of all its rows. If any row has `messages`, it drops the rows without. It
    renames `image` to `images` only if the file does not have both columns.

    Args:
        filled: The columns in which the row has a value.
        columns: The columns of the whole file.
        row_id: The row's name.

    Raises:
        RowError: The row would be dropped (kind 'messages'), or would lose its images ('images') or videos ('videos').
    """
    chat = next((name for name in _CHAT_COLUMNS if name in columns), None)
    if chat is not None and chat not in filled:
        raise RowError(row_id,
                       f"the row has no '{chat}', but other rows of the file have it: ms-swift would drop the row.",
                       f"Add '{chat}', or move the row to a separate file.", 'messages')
    for one, many in (('image', 'images'), ('video', 'videos')):
        if one in filled and many in columns:
            raise RowError(
                row_id, f"the row has '{one}', but the file also has the column '{many}', and ms-swift "
                'would read only that one.', f"Write '{many}' in every row of the file.", many)
