"""Input and output files of `citrusv segment`: rows to answer, given answers, and results."""
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..constants import ROW_COLUMN
from ..errors import RowError
from ..inference.infer_output import turn_keys
from ..inference.text_client import ServedText
from ..rows.cells import inline_images
from ..rows.contract import check_tags, parse_row
from ..rows.jsonl import read_lines
from ..rows.layouts import standard_row
from ..rows.names import RowNames, file_name
from ..rows.records import Record, named_records, parse_record
from .row_input import row_files

# Columns that ms-swift reads as the system prompt.
_SYSTEM_COLUMNS = ('system', 'system_prompt')


@dataclass(frozen=True)
class RowRequest:
    """A row to answer. Its own answer, if any, is kept as the label.

    Attributes:
        name: The row's name, e.g. 'A/rows.jsonl:12'.
        row: A row of the row contract that ends with a user turn and has no masks.
        labels: The answer in the row, or None.
        targets: The row's masks and their images, as `label_masks` and `label_mask_images`, if it has them.
    """
    name: str
    row: dict[str, Any]
    labels: Any
    targets: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the messages and media, to notice a changed row."""
        return _request_digest(self.row['messages'], self.row)

    def line(self, **found: Any) -> dict[str, Any]:
        """Returns the result line with the given columns, in the format of `swift infer`."""
        messages = [*self.row['messages'], {'role': 'assistant', 'content': found['response']}]
        turns = turn_keys(self.row['messages'], self.targets.get('label_masks'), found.get('masks', ()))
        line = {**found, 'labels': self.labels, **self.targets, **turns, 'messages': messages}
        return {**line, **{key: value for key, value in self.row.items() if key not in line}}


def _request_digest(messages: list[Any], row: dict[str, Any]) -> str:
    asked = [messages, *(row.get(key) or None for key in ('images', 'videos', 'audios', 'objects', 'tools'))]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def read_requests(path: str) -> Iterator[RowRequest | RowError]:
    """Yields the rows of a file or folder in order, or the error of a bad row. Opens no media files."""
    for file in row_files(path):
        for name, _, record in named_records(file):
            try:
                yield parse_request(record, name)
            except RowError as e:
                yield e


def parse_request(record: Record, name: str) -> RowRequest:
    """Parses a record as a row to answer.

    Raises:
        RowError: The line breaks the row contract, or has no question.
    """
    row = dict(standard_row(parse_record(record, name), name))
    for medium in ('images', 'videos'):
        if isinstance(row.get(medium), (str, Mapping)):
            row[medium] = [row[medium]]
    sample = parse_row(row, row_id=name)
    messages = list(row['messages'])
    num_images, num_videos = (len(row.get(key) or ()) for key in ('images', 'videos'))
    check_tags(messages, num_images=num_images, num_videos=num_videos, row_id=name)
    systems = [row.pop(key) for key in _SYSTEM_COLUMNS if key in row]
    system = next((text for text in systems if text is not None), None)
    if system is not None and messages[0]['role'] != 'system':
        messages.insert(0, {'role': 'system', 'content': system})
    answer = messages.pop() if messages[-1]['role'] == 'assistant' else None
    if not messages or messages[-1]['role'] in ('assistant', 'system'):
        raise RowError(name,
                       f'it has no question: its last turn is {messages[-1]["role"] if messages else "missing"!r}.',
                       'End it with a user turn, followed by at most one answer.', 'messages')
    row.pop('masks', None)
    indices = row.pop('mask_images', None)
    targets: dict[str, Any] = {'label_masks': list(sample.masks)} if sample.masks else {}
    if targets and indices:
        targets['label_mask_images'] = list(sample.mask_images)
    row = inline_images({**row, 'messages': messages, ROW_COLUMN: name})
    return RowRequest(name, row, answer and answer['content'], targets)


# ---- answers from a file


def read_texts(path: str, names: list[str]) -> dict[str, ServedText]:
    """Reads the answers of a file, by row name.

    Args:
        path: JSONL with the field `response` and optionally `token_ids`. Lines are matched to rows by the field
            `citrusv_row`, which `swift infer` and this command write, or else by their order.
        names: The names of all rows.

    Raises:
        RowError: A line has no answer or matches no row, or two lines match one row.
        ValueError: The lines have no row names, and there are not as many as rows.
    """
    answers: dict[str, ServedText] = {}
    unnamed = []
    known = RowNames(names)
    for number, line in read_lines(path):
        where = f'{file_name(path)}:{number}'
        row = _parse_object(line, where)
        response, ids = row.get('response'), row.get('token_ids')
        if not isinstance(response, str):
            raise RowError(where, f"'response' is {str(response)[:80]!r}.",
                           "Write the answer as a string in 'response'.", 'text')
        if ids is not None and not (isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)):
            raise RowError(where, f"'token_ids' is {str(ids)[:80]!r}.", 'Write a list of token ids, or leave it out.',
                           'text')
        text = ServedText(response, ids, None, row.get('finish_reason') or 'given')
        name = row.get(ROW_COLUMN)
        if name is None:
            unnamed.append(text)
            continue
        found = known.find(str(name))
        if found is None or found in answers:
            why = 'no row of the data has' if found is None else 'another line also has'
            raise RowError(where, f'its {ROW_COLUMN!r} is {name!r}, which {why}.', 'Give one answer per row.', 'text')
        answers[found] = text
    if not unnamed:
        return answers
    if answers or len(unnamed) != len(names):
        mixed = f', and {len(answers)} with it,' if answers else ''
        raise ValueError(f'{path} has {len(unnamed)} answers without {ROW_COLUMN!r}{mixed} for {len(names)} rows. '
                         f'Give one answer per row in row order, or add {ROW_COLUMN!r} to each.')
    return dict(zip(names, unnamed))


def _parse_object(line: str, where: str) -> dict[str, Any]:
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
    """The results of this and earlier runs: an interrupted run resumes.

    Args:
        path: JSONL; may exist. A truncated last line is removed.

    Raises:
        RowError: A line is not a result of this command.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[str, str] = {}
        complete_bytes = 0
        if path.exists():
            with open(path, 'rb') as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b'\n'):
                        break
                    complete_bytes += len(line)
                    if line.strip():
                        self._add_line(line, f'{path}:{number}')
        self._names = RowNames(self._digests)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, 'ab')
        self._file.truncate(complete_bytes)

    def _add_line(self, line: bytes, where: str) -> None:
        remedy = 'Give another --output, or remove this one.'
        try:
            row = _parse_object(line.decode(), where)
            name, messages = row[ROW_COLUMN], row['messages']
            self._digests[name] = _request_digest(messages[:-1], row)
        except (ValueError, LookupError, TypeError) as e:
            raise RowError(where, f'the line is not a result of this command ({type(e).__name__}).', remedy,
                           'output') from e

    def __len__(self) -> int:
        return len(self._digests)

    def has(self, request: RowRequest) -> bool:
        """Whether a row is answered already.

        Raises:
            RowError: The row has changed since then.
        """
        name = self._names.find(request.name)
        digest = None if name is None else self._digests.get(name)
        if digest is not None and digest != request.digest:
            raise RowError(request.name, f'{self.path} has an answer to another question under this row name.',
                           'The data has changed: give another --output.', 'output')
        return digest is not None

    def check_names(self, names: set[str]) -> None:
        """Raises a RowError if a result matches no row."""
        known = RowNames(names)
        other = next((name for name in self._digests if known.find(name) is None), None)
        if other is not None:
            raise RowError(other, f'{self.path} has an answer to it, but the data has no such row.',
                           'The output is of other data: give another --output.', 'output')

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Appends results and flushes them to the file."""
        for line in lines:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b'\n')
        self._file.flush()

    def close(self) -> None:
        self._file.close()
