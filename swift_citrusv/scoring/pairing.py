"""Joins the lines of a prediction file with the rows of a reference file, and counts what does not match.

Only the byte offsets of the lines are in memory.
"""
import json
import os
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..constants import ROW_COLUMN
from ..errors import RowError
from ..rows.cells import decode_cells, inline_images
from ..rows.layouts import CHAT_COLUMNS, standard_row
from ..rows.names import RowNames, file_name
from ..rows.records import EXTENSIONS, Unreadable, extension_of, read_records
from .cases import Pair

# Columns that identify a row, in order of precedence.
ID_COLUMNS = ('id', 'row_id', 'question_id', ROW_COLUMN)
_MAX_EXAMPLES = 10
# Marks a damaged row in the temporary copy of a file.
_UNREADABLE = 'citrusv_unreadable'


class _Copy(NamedTuple):
    name: str


@dataclass
class PredictionProblems:
    """Problems of a prediction file: counts, and the first examples.

    Attributes:
        counts: 'missing' (rows without a prediction), 'doubled' (further predictions for a row; the first counts),
            'unknown' (predictions that belong to no row), 'malformed' (lines and predictions that are invalid),
            'reordered' (the fewest lines to move to restore the order of the rows), 'failed' (rows for which the
            prediction run reported an error).
        examples: Up to ten messages for each kind.
    """
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(('missing', 'doubled', 'unknown', 'malformed', 'reordered', 'failed'), 0))
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, message: str) -> None:
        """Counts a problem."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(message)


class JsonlLines:
    """Random access to the non-blank lines of a JSONL file, or to the rows of a file in another format.

    Args:
        path: The file. If it is not JSONL, its rows are written to a temporary file, with `messages` in place of
            `conversations`.
        name: Its name in messages.
    """

    def __init__(self, path: str, name: str | None = None) -> None:
        self.path = path
        self.name = name or os.path.basename(path)
        self.offsets, self.numbers = array('q'), array('q')
        # Opened lazily: file handles cannot be pickled.
        self._file: Any = None
        self._copy: Any = None
        if extension_of(path) in EXTENSIONS and extension_of(path) != '.jsonl':
            self._copy = self._write_copy()
            return
        with open(path, 'rb') as file:
            offset = 3 if file.read(3) == b'\xef\xbb\xbf' else 0
            file.seek(offset)
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.offsets.append(offset)
                    self.numbers.append(number)
                offset += len(line)

    def _write_copy(self) -> Any:
        copy = tempfile.NamedTemporaryFile('wb', suffix='.jsonl')
        for number, record in read_records(self.path):
            self.offsets.append(copy.tell())
            self.numbers.append(number)
            if isinstance(record, Unreadable):
                record = json.dumps({_UNREADABLE: record})
            elif not isinstance(record, str):
                record = json.dumps(inline_images(decode_cells(record)), default=str)
            copy.write(record.replace('\n', ' ').encode('utf-8', 'surrogateescape') + b'\n')
        copy.flush()
        return copy

    def __len__(self) -> int:
        return len(self.offsets)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process reads the temporary file by its name; its owner removes it.
        copy = None if self._copy is None else _Copy(self._copy.name)
        return {**self.__dict__, '_file': None, '_copy': copy}

    def row_id(self, index: int) -> str:
        """'test.jsonl:12'."""
        return f'{self.name}:{self.numbers[index]}'

    def read(self, index: int) -> dict[str, Any]:
        """Parses a line.

        Raises:
            RowError: The line is not a JSON object.
        """
        if self._file is None:
            self._file = open(self.path if self._copy is None else self._copy.name, 'rb')
        self._file.seek(self.offsets[index])
        line = self._file.readline()
        try:
            row = json.loads(line.decode('utf-8'))
        except (ValueError, RecursionError) as e:
            shown = line.strip()[:80].decode('utf-8', 'backslashreplace')
            raise RowError(
                self.row_id(index), f'the line is not JSON ({e}): {shown!r}.', 'Write one JSON object per line.',
                'not-json') from e
        if not isinstance(row, dict):
            raise RowError(
                self.row_id(index), f'the line holds a {type(row).__name__}, not an object.',
                'Write one JSON object per line.', 'not-json')
        if _UNREADABLE in row:
            raise RowError(self.row_id(index), *row[_UNREADABLE])
        # The layout with `query` and `response` is scored by the names of its columns.
        if 'messages' not in row and any(column in row for column in CHAT_COLUMNS):
            row = dict(standard_row(row, self.row_id(index)))
        return row

    def close(self) -> None:
        """Closes the file; `read` reopens it."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Pairs:
    """The rows of a reference file, each with its prediction.

    Rows are joined by an identifying column (`id_column`, or else the first of `ID_COLUMNS` that all rows of both files
    have), or by the reference line that a `swift infer` result names (`citrusv_row`). Without either, the files are
    joined line by line, and must have the same number of lines.

    Args:
        references: A JSONL file; None: the lines of the prediction file contain the references, as `swift infer`
            writes them.
        predictions: A JSONL file.
        id_column: The column that identifies rows.

    Attributes:
        problems: Problems of the prediction file. `pair` adds none.
        how: How the rows were joined, for display.

    Raises:
        RowError: A row of the reference file is invalid, or shares its identifier with another row.
        ValueError: The rows cannot be joined.
    """

    def __init__(self, references: str | None, predictions: str, id_column: str | None = None) -> None:
        files = [predictions] if references is None else [predictions, references]
        names = [os.path.basename(path) for path in files]
        if len(names) > len(set(names)):
            names = [file_name(path) for path in files]
        self.predictions = JsonlLines(predictions, names[0])
        self.references = JsonlLines(references, names[-1]) if references is not None else self.predictions
        self.problems = PredictionProblems()
        # For each row the index of its prediction line, -1 for none.
        self.lines = array('q', [-1]) * len(self.references)
        if not len(self.references):
            raise ValueError(f'{self.references.path} has no rows: give a file with at least one.')
        self.how = ''
        if references is None:
            self._join_self()
        else:
            self._join(id_column)

    def __len__(self) -> int:
        return len(self.references)

    def pair(self, index: int) -> Pair:
        """The row `index`, from 0.

        Raises:
            RowError: The reference row is invalid.
        """
        prediction = self.predictions.read(self.lines[index]) if self.lines[index] >= 0 else None
        if prediction is not None and _failed(prediction):
            prediction = None
        return Pair(self.references.row_id(index), self.references.read(index), prediction)

    def close(self) -> None:
        """Closes both files."""
        self.references.close()
        self.predictions.close()

    # ---- joining

    def _join_self(self) -> None:
        self.how = 'to the reference in each line'
        for i in range(len(self)):
            # An invalid line ends the evaluation here: its reference is lost with it.
            self._note_failure(self.references.read(i), i)
            self.lines[i] = i

    def _join(self, id_column: str | None) -> None:
        rows = self._named_rows(id_column)
        names = RowNames(rows.get(ROW_COLUMN, ()))
        column = None
        order = array('q')
        for line in range(len(self.predictions)):
            where = self.predictions.row_id(line)
            try:
                prediction = self.predictions.read(line)
            except RowError as e:
                self.problems.add('malformed', str(e))
                continue
            if column is None:
                column = next((name for name in rows if name in prediction), None)
                if column is None:
                    if id_column is not None:
                        raise ValueError(f'{where}: the prediction has no {id_column!r}, the column of --id.')
                    self._join_in_order()
                    return
            name = prediction.get(column)
            key = names.find(str(name)) if column == ROW_COLUMN else str(name)
            row = rows[column].get(str(key), -1)
            if name is None:
                self.problems.add('malformed', f'{where}: it has no {column!r}.')
            elif row < 0:
                self.problems.add('unknown', f'{where}: no row of {self.references.name} has the {column!r} {name!r}.')
            elif self.lines[row] >= 0:
                first = self.predictions.row_id(self.lines[row])
                self.problems.add('doubled',
                                  f'{where}: {first} already answers {self.references.row_id(row)}, and counts.')
            else:
                self.lines[row] = line
                order.append(row)
                self._note_failure(prediction, line)
        self.how = f'by {column!r}' if column else 'there is no prediction'
        if not len(order) and self.problems.counts['unknown']:
            raise ValueError(f'No prediction belongs to a row: {self.problems.examples["unknown"][0]} Name the column '
                             'that identifies rows in both files (--id COLUMN).')
        self._note_order(order)
        self._note_missing()

    def _named_rows(self, id_column: str | None) -> dict[str, dict[str, int]]:
        """For each column that identifies all rows: the row index by value."""
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
                        f'{self.references.row_id(other)} has.', 'Give each row a unique value.', 'eval-id')
                rows[column][str(name)] = i
        return rows

    def _join_in_order(self) -> None:
        if len(self.predictions) != len(self):
            raise ValueError(
                f'{self.predictions.path} has {len(self.predictions)} lines and {self.references.path} has '
                f'{len(self)}, and no column identifies the rows: write one of {", ".join(ID_COLUMNS)} into both, or '
                'name the column (--id COLUMN).')
        self.how = 'line by line'
        self.problems = PredictionProblems()
        for i in range(len(self)):
            try:
                self._note_failure(self.predictions.read(i), i)
            except RowError as e:
                self.problems.add('malformed', str(e))
            else:
                self.lines[i] = i
        self._note_missing()

    def _note_failure(self, prediction: Mapping[str, Any], line: int) -> None:
        if _failed(prediction):
            self.problems.add('failed', f'{self.predictions.row_id(line)}: {str(prediction["error"])[:200]}')

    def _note_missing(self) -> None:
        for row, line in enumerate(self.lines):
            if line < 0:
                self.problems.add('missing', f'{self.references.row_id(row)} has no prediction.')

    def _note_order(self, order: array) -> None:
        moved = len(order) - _longest_increasing(order)
        if moved:
            self.problems.counts['reordered'] = moved
            self.problems.examples['reordered'] = [f'{moved} of {len(order)} lines are not in the order of the rows.']


def _failed(prediction: Mapping[str, Any]) -> bool:
    return bool(prediction.get('error')) and not prediction.get('response')


def _longest_increasing(values: Sequence[int]) -> int:
    """The length of the longest increasing subsequence."""
    ends: list[int] = []
    for value in values:
        position = bisect_left(ends, value)
        ends[position:position + 1] = [value]
    return len(ends)
