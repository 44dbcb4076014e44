"""Reads JSONL files of rows, and checks each line."""
import json
from collections.abc import Iterator
from math import isfinite
from typing import Any

from ..constants import SEG_TOKEN
from ..errors import RowError
from .columns import ColumnRules, check_columns, filled_columns
from .contract import parse_row
from .layouts import standard_row
from .misnamed import USUAL_COLUMNS, check_misnamed

__all__ = ['check_columns', 'check_row', 'filled_columns', 'parse_line', 'read_lines']
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


def parse_line(line: str, row_id: str, rules: ColumnRules = ColumnRules()) -> dict[str, Any]:
    """Parses a line and checks the row contract; opens no file.

    Args:
        line: A line of `read_lines`.
        row_id: The row's name in error messages, e.g. 'A/train.jsonl:12'.
        rules: How the columns are read.

    Returns:
        The row in its own layout (see `layouts.standard_row`), with the user's names of columns.

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
    if rules.renames:
        row = rules.rename(row, row_id)
    check_row(row, row_id, rules, may_have_seg=SEG_TOKEN in line or '\\u' in line)
    return row


def check_row(row: dict[str, Any], row_id: str, rules: ColumnRules, *, may_have_seg: bool = True) -> None:
    """Checks a row of any layout against the row contract; opens no file.

    Raises:
        RowError: The row breaks the contract.
    """
    has_others = not row.keys() <= USUAL_COLUMNS
    for key in row if has_others else ():
        if key.lower() in ('masks', 'mask_images') and key != key.lower():
            raise RowError(row_id, f'the row has the column {key!r}, which is not read.', f"Write '{key.lower()}'.",
                           'columns')
    if rules.layout == 'own' or rules.layout == 'messages' and 'messages' not in row:
        return
    # ms-swift checks rows of its other layouts (query/response, ...), unless they have masks.
    has_contract = 'messages' in row or bool(row.get('masks'))
    may_be_misnamed = has_others and may_have_seg
    if has_contract or may_be_misnamed:
        standard = standard_row(row, row_id)
        if may_be_misnamed:
            check_misnamed(row, standard, row_id)
        if has_contract:
            parse_row(standard, row_id=row_id)


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
