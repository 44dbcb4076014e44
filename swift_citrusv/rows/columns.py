"""The names of columns: the user's own mapping (`--columns`), and what a file's columns do to its rows."""
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import RowError
from .layouts import CHAT_COLUMNS, column_plan, no_conversation


def is_filled(value: Any) -> bool:
    """Whether a cell has a value: not None, '', [] or {}. The number 0 and False are values."""
    return value is not None and not (isinstance(value, (str, bytes, list, tuple, Mapping)) and not value)


@dataclass(frozen=True)
class ColumnRules:
    """How the columns of a dataset are read.

    Attributes:
        renames: The user's mapping, as pairs (column, new name): `--columns`, or `columns` of a dataset info.
        layout: Which rows are checked before they are encoded. 'auto': all, in any layout that ms-swift finds by
            itself. 'messages': those with `messages` (`--disable_auto_column_mapping`). 'own': none, because a
            preprocessor of the user's converts them.
    """
    renames: tuple[tuple[str, str], ...] = ()
    layout: Literal['auto', 'messages', 'own'] = 'auto'

    @classmethod
    def from_mapping(cls,
                     *mappings: Mapping[str, str] | None,
                     layout: Literal['auto', 'messages', 'own'] = 'auto') -> 'ColumnRules':
        """Joins mappings that are applied one after another."""
        joined: dict[str, str] = {}
        for mapping in mappings:
            lower = {key.lower(): value for key, value in (mapping or {}).items()}
            joined = {key: lower.pop(value.lower(), value) for key, value in joined.items()}
            joined.update({key: value for key, value in lower.items() if key not in joined})
        return cls(tuple(sorted(joined.items())), layout)

    @cached_property
    def _new_names(self) -> dict[str, str]:
        return dict(self.renames)

    def rename(self, row: dict[str, Any], row_id: str) -> dict[str, Any]:
        """The row with the user's names; as in ms-swift, upper and lower case of the old name are the same.

        Raises:
            RowError: Two columns that have values would get one name (kind 'columns').
        """
        if not self.renames:
            return row
        renamed: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for key, value in row.items():
            name = self._new_names.get(key.lower(), key)
            if name in renamed and is_filled(renamed[name]):
                if is_filled(value):
                    raise RowError(row_id, f'the row has {sources[name]!r} and {key!r}, and both become {name!r}.',
                                   'Remove one of them, or change --columns.', 'columns')
                continue
            renamed[name], sources[name] = value, key
        return renamed


def parse_mapping(text: str) -> dict[str, str]:
    """The value of `--columns`: a JSON object from columns to new names.

    Raises:
        ValueError: It is something else.
    """
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f'--columns {text!r} is not JSON ({error}). Write \'{{"segmentations": "masks"}}\'.') from error
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise ValueError(f'--columns {text!r} is no object of names. Write \'{{"segmentations": "masks"}}\'.')
    return mapping


def filled_columns(row: Mapping[str, Any]) -> frozenset[str]:
    """The columns in which a row has a value, for `check_columns`."""
    return frozenset(key for key, value in row.items() if value)


def check_columns(filled: Collection[str], columns: Collection[str], row_id: str) -> None:
    """Rejects a row that ms-swift would silently drop or truncate because of other rows of the file.

    ms-swift reads a file by the columns of all its rows. If any row has `messages`, it drops the rows without. It
    renames `image` to `images`, or `answer` to `response`, only if no other column of the file means the same.

    Args:
        filled: The columns in which the row has a value.
        columns: The columns of the whole file.
        row_id: The row's name.

    Raises:
        RowError: The row would be dropped (kind 'messages'), or would lose its images ('images'), videos ('videos') or
            another column ('columns').
    """
    chat = next((name for name in CHAT_COLUMNS if name in columns), None)
    if chat is not None and chat not in filled:
        raise RowError(row_id,
                       f"the row has no '{chat}', but other rows of the file have it: ms-swift would drop the row.",
                       f"Add '{chat}', or move the row to a separate file.", 'messages')
    for one, many in (('image', 'images'), ('video', 'videos')):
        lost = next((key for key in filled if key.lower() == one), None)
        if lost is not None and any(key.lower() == many for key in columns):
            raise RowError(
                row_id, f"the row has '{lost}', but the file also has the column '{many}', and ms-swift "
                'would read only that one.', f"Write '{many}' in every row of the file.", many)
    if chat is None:
        _check_question_and_answer(filled, columns, row_id)


def _check_question_and_answer(filled: Collection[str], columns: Collection[str], row_id: str) -> None:
    plan = column_plan(tuple(columns))
    if plan.layout != 'response':
        return
    rivals = {name: [key for key in columns if key.lower() in usual] for name, usual in plan.usual_names.items()}
    if not any(rivals.values()) and 'history' not in columns:
        raise no_conversation(row_id, columns)
    for name, keys in rivals.items():
        lost = [key for key in keys if key in filled]
        if len(keys) > 1 and name not in columns and lost:
            raise RowError(
                row_id, f'the row has {lost[0]!r}, but the file has {len(keys)} columns that could be the {name} '
                f'({", ".join(map(repr, sorted(keys)))}), and ms-swift reads none of them.',
                f'Name one: --columns \'{{"{lost[0]}": "{name}"}}\'.', 'columns')
