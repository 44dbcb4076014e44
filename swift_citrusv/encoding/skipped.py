"""A row that cannot be used, and so leaves its batch: what stands in its place."""
from typing import Any

from ..constants import IGNORE_INDEX, SKIPPED_KEY

Encoded = dict[str, Any]


def skipped_row(error: Exception) -> Encoded:
    """What stands in the place of an encoded row that cannot be used."""
    return {SKIPPED_KEY: error}


def split_skipped(batch: list[Encoded | list[Encoded]]) -> tuple[list[Encoded], list[Exception]]:
    """The encoded rows of a batch of rows or packs, and the errors of those that are left out."""
    rows = [row for item in batch for row in (item if isinstance(item, list) else [item])]
    return ([row for row in rows
             if SKIPPED_KEY not in row], [row[SKIPPED_KEY] for row in rows if SKIPPED_KEY in row])


def row_without_targets(token: int) -> Encoded:
    """An encoded row of two tokens `token` with nothing to learn."""
    return {'input_ids': [token] * 2, 'labels': [IGNORE_INDEX] * 2, 'length': 2}
