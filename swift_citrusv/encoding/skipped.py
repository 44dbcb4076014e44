"""Rows that cannot be encoded: the placeholder that replaces them until their batch is collated."""
from typing import Any

from ..constants import IGNORE_INDEX, SKIPPED_KEY

Encoded = dict[str, Any]


def skipped_row(error: Exception) -> Encoded:
    """Returns the placeholder of a row that cannot be encoded."""
    return {SKIPPED_KEY: error}


def split_skipped(batch: list[Encoded | list[Encoded]]) -> tuple[list[Encoded], list[Exception]]:
    """Splits a batch of rows or packs into its encoded rows and the errors of its skipped rows."""
    rows = [row for item in batch for row in (item if isinstance(item, list) else [item])]
    return ([row for row in rows if SKIPPED_KEY not in row], [row[SKIPPED_KEY] for row in rows if SKIPPED_KEY in row])


def row_without_targets(token: int) -> Encoded:
    """Returns an encoded row of two tokens `token` without supervision."""
    return {'input_ids': [token] * 2, 'labels': [IGNORE_INDEX] * 2, 'length': 2}
