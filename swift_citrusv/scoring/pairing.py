"""Joins the lines of a prediction file with the rows of a reference file; whatever does not fit is counted.

Only the places of the lines are held in memory.
"""
import json
import os
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..constants import ROW_COLUMN
from ..errors import RowError
from .cases import Pair

# Columns that name a row, in the order in which they win.
ID_COLUMNS = ('id', 'row_id', 'question_id', ROW_COLUMN)
_EXAMPLES = 10


@dataclass
class Found:
    """What is wrong with a prediction file: how often, and the first examples.

    Attributes:
        counts: 'missing' (rows without a prediction), 'doubled' (further predictions for a row that has one; the first
            counts), 'unknown' (predictions for no row), 'malformed' (lines and predictions that cannot be read),
            'reordered' (the fewest lines that would have to move to be in the order of the rows), 'failed' (rows that
            the run itself could not answer).
        examples: By the same names, up to ten messages each.
    """
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(('missing', 'doubled', 'unknown', 'malformed', 'reordered', 'failed'), 0))
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, message: str) -> None:
        """Counts one."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(message)


class Lines:
    """The lines of a JSONL file, read where they stand.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.offsets, self.numbers = array('q'), array('q')
        with open(path, 'rb') as file:
            offset = 3 if file.read(3) == b'\xef\xbb\xbf' else 0
            file.seek(offset)
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.offsets.append(offset)
                    self.numbers.append(number)
                offset += len(line)
        # Not open while the object travels to another process.
        self._file: Any = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_file': None}

    def row_id(self, index: int) -> str:
        """'test.jsonl:12'."""
        return f'{self.name}:{self.numbers[index]}'

    def read(self, index: int) -> dict[str, Any]:
        """A line as a row.

        Raises:
            RowError: It is not a JSON object.
        """
        if self._file is None:
            self._file = open(self.path, 'rb')
        self._file.seek(self.offsets[index])
        line = self._file.readline()
        try:
            row = json.loads(line.decode('utf-8'))
        except (ValueError, RecursionError) as e:
            shown = line.strip()[:80].decode('utf-8', 'backslashreplace')
            raise RowError(
                self.row_id(index), f'the line is not JSON ({e}): {shown!r}.', 'Write one JSON object a line.',
                'not-json') from e
        if not isinstance(row, dict):
            raise RowError(
                self.row_id(index), f'the line holds a {type(row).__name__}, not an object.',
                'Write one JSON object a line.', 'not-json')
        return row

    def close(self) -> None:
        """Closes the file; `read` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Pairs:
    """The rows of a reference file, each with its prediction.

    Rows are joined by a column that names them (`id_column`, or else the first of `ID_COLUMNS` that both files have in
    every row), or by the line of the reference file that a result of `swift infer` on it names (`citrusv_row`). Without
    either the files are joined line by line, and must have as many.

    Args:
        references: A JSONL file; None: the prediction file has the references in it, as `swift infer` writes them.
        predictions: A JSONL file.
        id_column: What names rows.

    Attributes:
        found: What is wrong with the predictions. `pair` adds nothing to it.
        how: How the rows were joined, in words.

    Raises:
        RowError: A row of the reference file cannot be read, or has a name that another row has.
        ValueError: The rows cannot be joined.
    """

    def __init__(self, references: str | None, predictions: str, id_column: str | None = None) -> None:
        self.predictions = Lines(predictions)
        self.references = Lines(references) if references is not None else self.predictions
        self.found = Found()
        # The line of the prediction for each row, -1 where there is none.
        self.places = array('q', [-1]) * len(self.references)
        if not len(self.references):
            raise ValueError(f'{self.references.path} has no rows: there is nothing to score.')
        self.how = ''
        if references is None:
            self._join_own()
        else:
            self._join(id_column)

    def __len__(self) -> int:
        return len(self.references)

    def pair(self, index: int) -> Pair:
        """The row `index`, counted from 0.

        Raises:
            RowError: The reference cannot be read.
        """
        prediction = self.predictions.read(self.places[index]) if self.places[index] >= 0 else None
        if prediction is not None and _failed(prediction):
            prediction = None
        return Pair(self.references.row_id(index), self.references.read(index), prediction)

    def close(self) -> None:
        """Closes both files."""
        self.references.close()
        self.predictions.close()

    # ---- joining

    def _join_own(self) -> None:
        self.how = 'to the reference in each line'
        for i in range(len(self)):
            # Without its reference there is no row that a broken line could be counted against.
            self._note_failure(self.references.read(i), i)
            self.places[i] = i

    def _join(self, id_column: str | None) -> None:
        rows = self._named_rows(id_column)
        column = None
        order = array('q')
        for place in range(len(self.predictions)):
            where = self.predictions.row_id(place)
            try:
                prediction = self.predictions.read(place)
            except RowError as e:
                self.found.add('malformed', str(e))
                continue
            if column is None:
                column = next((name for name in rows if name in prediction), None)
                if column is None:
                    if id_column is not None:
                        raise ValueError(f'{where}: the prediction has no {id_column!r}, which --id names.')
                    self._join_in_order()
                    return
            name = prediction.get(column)
            row = rows[column].get(str(name), -1)
            if name is None:
                self.found.add('malformed', f'{where}: it has no {column!r}.')
            elif row < 0:
                self.found.add('unknown', f'{where}: no row of {self.references.name} has the {column!r} {name!r}.')
            elif self.places[row] >= 0:
                first = self.predictions.row_id(self.places[row])
                self.found.add('doubled', f'{where}: {first} answers {self.references.row_id(row)} too, and counts.')
            else:
                self.places[row] = place
                order.append(row)
                self._note_failure(prediction, place)
        self.how = f'by {column!r}' if column else 'there is no prediction'
        if not len(order) and self.found.counts['unknown']:
            raise ValueError(f'No prediction belongs to a row: {self.found.examples["unknown"][0]} Name the column '
                             'that tells rows apart in both files (--id COLUMN).')
        self._note_order(order)
        self._note_missing()

    def _named_rows(self, id_column: str | None) -> dict[str, dict[str, int]]:
        """For each column that names all rows: the row of each name."""
        columns = (id_column, ) if id_column is not None else ID_COLUMNS
        rows: dict[str, dict[str, int]] = {column: {} for column in columns}
        for i in range(len(self)):
            reference = self.references.read(i)
            for column in [*rows]:
                own = self.references.row_id(i) if column == ROW_COLUMN else None
                name = reference.get(column, own)
                if name is None and id_column is None:
                    del rows[column]
                    continue
                if name is None or str(name) in rows[column]:
                    other = rows[column].get(str(name))
                    raise RowError(
                        self.references.row_id(i),
                        f'the row has no {column!r}.' if other is None else f'the row has the {column!r} {name!r}, as '
                        f'{self.references.row_id(other)} has.', 'Give each row a name of its own.', 'eval-id')
                rows[column][str(name)] = i
        return rows

    def _join_in_order(self) -> None:
        if len(self.predictions) != len(self):
            raise ValueError(
                f'{self.predictions.path} has {len(self.predictions)} lines and {self.references.path} has '
                f'{len(self)}, and no column tells which belongs to which: write one of {", ".join(ID_COLUMNS)} into '
                'both, or name the column (--id COLUMN).')
        self.how = 'line by line'
        self.found = Found()
        for i in range(len(self)):
            try:
                self._note_failure(self.predictions.read(i), i)
            except RowError as e:
                self.found.add('malformed', str(e))
            else:
                self.places[i] = i
        self._note_missing()

    def _note_failure(self, prediction: Mapping[str, Any], place: int) -> None:
        if _failed(prediction):
            self.found.add('failed', f'{self.predictions.row_id(place)}: {str(prediction["error"])[:200]}')

    def _note_missing(self) -> None:
        for row, place in enumerate(self.places):
            if place < 0:
                self.found.add('missing', f'{self.references.row_id(row)} has no prediction.')

    def _note_order(self, order: array) -> None:
        moved = len(order) - _longest_rise(order)
        if moved:
            self.found.counts['reordered'] = moved
            self.found.examples['reordered'] = [f'{moved} of {len(order)} lines stand elsewhere than their rows.']


def _failed(prediction: Mapping[str, Any]) -> bool:
    return bool(prediction.get('error')) and not prediction.get('response')


def _longest_rise(values: Sequence[int]) -> int:
    """The length of the longest increasing subsequence."""
    ends: list[int] = []
    for value in values:
        place = bisect_left(ends, value)
        ends[place:place + 1] = [value]
    return len(ends)
