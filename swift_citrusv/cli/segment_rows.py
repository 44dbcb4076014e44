"""The rows that `citrusv segment` asks about, the answers that it is given, and the file that it writes."""
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..constants import ROW_COLUMN
from ..errors import RowError
from ..inference.text_client import ServedText
from ..rows.contract import check_tags, parse_row
from ..rows.jsonl import parse_line, read_lines

# What ms-swift takes for the system prompt of a row.
_SYSTEM = ('system', 'system_prompt')


@dataclass(frozen=True)
class Question:
    """A row without the answer that it may have.

    Attributes:
        name: 'rows.jsonl:12'.
        row: Of the row contract; ends with the user's turn, has no masks.
        labels: The answer that the row has.
        targets: The row's masks and their images, as `label_masks` and `label_mask_images`, where it has them.
    """
    name: str
    row: dict[str, Any]
    labels: Any
    targets: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of what is asked."""
        return _digest(self.row['messages'], self.row)

    def line(self, **found: Any) -> dict[str, Any]:
        """The row of results, in the columns of `swift infer`, with what was found out."""
        messages = [*self.row['messages'], {'role': 'assistant', 'content': found['response']}]
        line = {**found, 'labels': self.labels, **self.targets, 'messages': messages}
        return {**line, **{key: value for key, value in self.row.items() if key not in line}}


def _digest(messages: list[Any], row: dict[str, Any]) -> str:
    asked = [messages, *(row.get(key) or None for key in ('images', 'videos', 'audios', 'objects', 'tools'))]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def read_questions(path: str) -> Iterator[Question | RowError]:
    """The rows of a file, in order; in the place of a bad one its error. No file of theirs is opened."""
    for number, line in read_lines(path):
        name = f'{os.path.basename(path)}:{number}'
        try:
            yield parse_question(line, name)
        except RowError as e:
            yield e


def parse_question(line: str, name: str) -> Question:
    """A line as a question.

    Raises:
        RowError: It breaks the row contract, or asks nothing.
    """
    row = parse_line(line, name)
    for one, many in (('image', 'images'), ('video', 'videos')):
        # As ms-swift does.
        if one in row and many not in row:
            row[many] = row.pop(one)
        if isinstance(row.get(many), str):
            row[many] = [row[many]]
    sample = parse_row(row, row_id=name)
    messages = list(row['messages'])
    num_images, num_videos = (len(row.get(key) or ()) for key in ('images', 'videos'))
    check_tags(messages, num_images=num_images, num_videos=num_videos, row_id=name)
    systems = [row.pop(key) for key in _SYSTEM if key in row]
    system = next((text for text in systems if text is not None), None)
    if system is not None and messages[0]['role'] != 'system':
        messages.insert(0, {'role': 'system', 'content': system})
    answer = messages.pop() if messages[-1]['role'] == 'assistant' else None
    if not messages or messages[-1]['role'] in ('assistant', 'system'):
        raise RowError(name, f'it asks nothing: its last turn is {messages[-1]["role"] if messages else "missing"!r}.',
                       'End it with the turn of the user, and at most one answer behind that.', 'messages')
    row.pop('masks', None)
    indices = row.pop('mask_images', None)
    targets: dict[str, Any] = {'label_masks': list(sample.masks)} if sample.masks else {}
    if targets and indices:
        targets['label_mask_images'] = list(sample.mask_images)
    return Question(name, {**row, 'messages': messages, ROW_COLUMN: name}, answer and answer['content'], targets)


# ---- answers from a file


def read_answers(path: str, names: list[str]) -> dict[str, ServedText]:
    """The answers of a file, by the names of their rows.

    Args:
        path: JSONL with the field `response`, and `token_ids` where they are known. By the field `citrusv_row` where
            lines have it, which `swift infer` and this command write; else in the order of the rows.
        names: Of all rows.

    Raises:
        RowError: A line has no answer, or belongs to no row, or two belong to one.
        ValueError: Without names, their number is not that of the rows.
    """
    answers: dict[str, ServedText] = {}
    unnamed = []
    known = set(names)
    for number, line in read_lines(path):
        where = f'{os.path.basename(path)}:{number}'
        row = _object(line, where)
        response, ids = row.get('response'), row.get('token_ids')
        if not isinstance(response, str):
            raise RowError(where, f"'response' is {str(response)[:80]!r}.", "Write the answer as a text, 'response'.",
                           'text')
        if ids is not None and not (isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)):
            raise RowError(where, f"'token_ids' is {str(ids)[:80]!r}.", 'Write a list of numbers, or leave it out.',
                           'text')
        said = ServedText(response, ids, None, row.get('finish_reason') or 'given')
        name = row.get(ROW_COLUMN)
        if name is None:
            unnamed.append(said)
        elif name not in known or name in answers:
            why = 'no row of the data has' if name not in known else 'another line has, too'
            raise RowError(where, f'its {ROW_COLUMN!r} is {name!r}, which {why}.', 'Bring one answer for each row.',
                           'text')
        else:
            answers[name] = said
    if not unnamed:
        return answers
    if answers or len(unnamed) != len(names):
        mixed = f', and {len(answers)} with it,' if answers else ''
        raise ValueError(f'{path} has {len(unnamed)} answers without {ROW_COLUMN!r}{mixed} for {len(names)} rows. '
                         'Bring one for each row in their order, or name the row of each.')
    return dict(zip(names, unnamed))


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise RowError(where, f'the line is not JSON ({e}): {line.strip()[:80]!r}.', 'Write one JSON object a line.',
                       'not-json') from e
    if not isinstance(row, dict):
        raise RowError(where, f'the line holds a {type(row).__name__}, not an object.', 'Write one JSON object a line.',
                       'not-json')
    return row


# ---- results


class ResultFile:
    """The results so far, to which more are added: a run that was broken off goes on.

    Args:
        path: JSONL; may be there. A last line that was cut short is taken out.

    Raises:
        RowError: A line is no result of this command.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, str] = {}
        whole = 0
        if path.exists():
            with open(path, 'rb') as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b'\n'):
                        break
                    whole += len(line)
                    if line.strip():
                        self._note(line, f'{path}:{number}')
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, 'ab')
        self._file.truncate(whole)

    def _note(self, line: bytes, where: str) -> None:
        remedy = 'Name another --output, or remove this one.'
        try:
            row = _object(line.decode(), where)
            name, messages = row[ROW_COLUMN], row['messages']
            self._done[name] = _digest(messages[:-1], row)
        except (ValueError, LookupError, TypeError) as e:
            raise RowError(where, f'the line is no result of this command ({type(e).__name__}).', remedy,
                           'output') from e

    def __len__(self) -> int:
        return len(self._done)

    def has(self, question: Question) -> bool:
        """Whether a question is answered.

        Raises:
            RowError: Its row has changed since.
        """
        digest = self._done.get(question.name)
        if digest is not None and digest != question.digest:
            raise RowError(question.name, f'{self.path} has an answer to another question under this name.',
                           'Name another --output: the data has changed.', 'output')
        return digest is not None

    def check_names(self, names: set[str]) -> None:
        """Raises a RowError where a result belongs to no row."""
        other = next((name for name in self._done if name not in names), None)
        if other is not None:
            raise RowError(other, f'{self.path} has its answer, but the data has no such row.',
                           'Name another --output: this one is of other data.', 'output')

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Adds results; they are in the file when this returns."""
        for line in lines:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b'\n')
        self._file.flush()

    def close(self) -> None:
        self._file.close()
