"""A row that cannot be used, and so leaves its batch: what stands in its place."""
from typing import Any

from ..constants import IGNORE_INDEX, LEFT_OUT_KEY

Encoded = dict[str, Any]


def left_out(error: Exception) -> Encoded:
    """What stands in the place of an encoded row that cannot be used."""
    return {LEFT_OUT_KEY: error}


def part(batch: list[Encoded | list[Encoded]]) -> tuple[list[Encoded], list[Exception]]:
    """The encoded rows of a batch of rows or packs, and the errors of those that are left out."""
    rows = [row for item in batch for row in (item if isinstance(item, list) else [item])]
    return ([row for row in rows
             if LEFT_OUT_KEY not in row], [row[LEFT_OUT_KEY] for row in rows if LEFT_OUT_KEY in row])


def without_targets(token: int) -> Encoded:
    """An encoded row of two tokens `token` with nothing to learn."""
    return {'input_ids': [token] * 2, 'labels': [IGNORE_INDEX] * 2, 'length': 2}
