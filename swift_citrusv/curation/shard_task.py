"""Applies a step to one shard: rows, ledger and rows for review, written in one go."""
import base64
import hashlib
import json
import orjson
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RowError
from ..rows.records import Record, parse_record
from ..rows.tables import Unreadable
from .images import images_of
from .inputs import Shard, read_shard
from .ledger import LedgerWriter
from .progress import Progress
from .step import GOING_ON, Decision, Row, Step, strongest

# Rules that every step has.
UNREADABLE = 'unreadable'
FOREIGN_ID = 'row-id'
COMMON_RULES = {
    UNREADABLE: 'the line is not a JSON object, or the cells of a table cannot be read',
    FOREIGN_ID: 'the column row_id holds something else than an id of ours',
}
# Examples of each rule that a shard keeps for the report.
_EXAMPLES = 5
_ROW_ID = re.compile(r'[0-9a-f]{20}')


def new_row_id(source: str, line: int, content: bytes) -> str:
    """The id of a row for life: 20 hexadecimal digits of source, line and content."""
    return hashlib.blake2b(f'{source}:{line}\n'.encode() + content, digest_size=10).hexdigest()


@dataclass(frozen=True)
class ShardTask:
    """Decides on the rows of each shard.

    Attributes:
        step: The step.
        shards: All shards of the input.
        folder: The work folder.
        recipe_hash: For the ledger.
    """
    step: Step
    shards: Sequence[Shard]
    folder: str
    recipe_hash: str

    def __call__(self, index: int) -> None:
        shard, judge = self.shards[index], self.step.judge(self.folder, index)
        name = shard_name(index)
        with _Outputs(self.folder, name) as out:
            ledger = LedgerWriter(out.path('ledger', '.parquet'), self.step.name, self.recipe_hash)
            counts: Counter[str] = Counter()
            kept = 0
            rules: dict[str, Counter[str]] = {}
            examples: dict[str, list[dict[str, Any]]] = {}
            progress = Progress(self.folder, 'rows', name)
            for line, content in read_shard(shard):
                row, decisions = parsed(content, shard.source, line)
                text = row.text
                if not decisions:
                    decisions, changed = judge(row)
                    text = changed if changed is not None else text
                    if self.step.shows_result:
                        # Not the line of an inventory, or what names a patient, but what the step made of it.
                        source, place = self.step.place(row)
                        row = Row(row.row_id, source, place, text, load_json(text)[0])
                progress.add()
                if not decisions:
                    # Most rows.
                    kept += 1
                    ledger.add(row.row_id, row.source, row.line)
                    out.write('rows', text)
                    continue
                verdict = strongest(decisions)
                counts[verdict] += 1
                for decision in decisions:
                    ledger.add(row.row_id, row.source, row.line, decision)
                    rules.setdefault(decision.rule, Counter())[decision.verdict] += 1
                    shown = examples.setdefault(decision.rule, [])
                    if len(shown) < _EXAMPLES:
                        shown.append(_example(row, decision))
                if verdict in GOING_ON:
                    out.write('rows', text)
                elif verdict == 'review':
                    out.write('review', _for_review(row, decisions))
            counts['kept'] += kept
            ledger.close()
            out.write('counts', orjson.dumps({
                'counts': counts, 'rules': rules, 'examples': examples}, option=orjson.OPT_SORT_KEYS))  # yapf: disable
            progress.end()


def shard_name(index: int) -> str:
    """The name of the files of a shard."""
    return f'{index:05d}'


class _Outputs:
    """The files of a shard, under other names until all are complete. A file without a line is not made."""
    _SUFFIXES = {'rows': '.jsonl', 'review': '.jsonl', 'counts': '.json'}

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = folder, name
        self._files: dict[str, Any] = {}
        self._final: dict[str, str] = {}

    def path(self, kind: str, suffix: str) -> str:
        """The temporary path of a file."""
        os.makedirs(os.path.join(self._folder, kind), exist_ok=True)
        final = os.path.join(self._folder, kind, f'{self._name}{suffix}')
        self._final[f'{final}.part'] = final
        return f'{final}.part'

    def write(self, kind: str, line: bytes) -> None:
        """Adds a line to a file."""
        if kind not in self._files:
            self._files[kind] = open(self.path(kind, self._SUFFIXES[kind]), 'wb')  # noqa: SIM115
        self._files[kind].write(line + b'\n')

    def __enter__(self) -> '_Outputs':
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            for path, final in self._final.items():
                os.replace(path, final)


def parsed(content: bytes | Record, source: str, line: int) -> tuple[Row, Sequence[Decision]]:
    """A row with its id, and what is wrong with it as a row of JSON: then its data are {}."""
    if isinstance(content, dict):
        content = _as_json(content)
    if isinstance(content, Unreadable):
        text = str(content).encode('utf-8', 'surrogateescape')
        return (Row(new_row_id(source, line, text), source, line, text, {}),
                [Decision(UNREADABLE, 'review', detail=f'{content.problem} {content.remedy}')])  # yapf: disable
    text = content.encode('utf-8', 'surrogateescape') if isinstance(content, str) else content
    text = text.strip()
    data, is_strict = load_json(text)
    if not isinstance(data, dict):
        return (Row(new_row_id(source, line, text), source, line, text, {}),
                [Decision(UNREADABLE, 'review', detail=_problem(text))])  # yapf: disable
    row_id = data.get('row_id')
    if row_id is None:
        row_id = new_row_id(source, line, text)
        addition = f'"row_id": "{row_id}"}}'.encode()
        if 'row_id' in data:
            # null: the trainers read the last of two keys.
            data.pop('row_id')
            text = json.dumps(data, ensure_ascii=False).encode('utf-8', 'surrogatepass')
        text = text[:-1].rstrip() + (b', ' if data else b'') + addition
        data['row_id'] = row_id
        return Row(row_id, source, line, text, data, is_strict), ()
    if not isinstance(row_id, str) or not _ROW_ID.fullmatch(row_id):
        return (Row(new_row_id(source, line, text), source, line, text, data),
                [Decision(FOREIGN_ID, 'review', detail=f'row_id is {str(row_id)[:40]!r}. Rename the column.')])
    return Row(row_id, source, line, text, data, is_strict), ()


def load_json(text: bytes) -> tuple[Any, bool]:
    """The value of a line, None if it is not JSON, and whether it is JSON by the standard."""
    try:
        return orjson.loads(text), True
    except orjson.JSONDecodeError:
        # orjson is stricter than the readers of the trainers.
        try:
            return json.loads(text), False
        except (ValueError, RecursionError):
            return None, False


def _problem(text: bytes) -> str:
    try:
        parse_record(text.decode('utf-8', 'surrogateescape'), 'the row')
    except RowError as error:
        return f'{error.problem} {error.remedy}'
    return 'the line is not a JSON object.'


def _as_json(record: dict[str, Any]) -> bytes:
    """The JSON of a record of a table; embedded files become data URLs."""
    return json.dumps(record, ensure_ascii=False, default=_embedded).encode('utf-8', 'surrogatepass')


def _embedded(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return f'data:application/octet-stream;base64,{base64.b64encode(value).decode()}'
    return str(value)


def _for_review(row: Row, decisions: Sequence[Decision]) -> bytes:
    """A line for a person: where the row stands, why it is here, and the row itself."""
    return json.dumps({
        'row_id': row.row_id, 'source': row.source, 'line': row.line,
        'why': [{'rule': decision.rule, 'detail': decision.detail, 'measure': decision.measure,
                 'threshold': decision.threshold, 'evidence_id': decision.evidence_id}
                for decision in decisions if decision.verdict == 'review'],
        'row': row.data or row.text.decode('utf-8', 'backslashreplace')},
        ensure_ascii=False).encode('utf-8', 'backslashreplace')  # yapf: disable


def _example(row: Row, decision: Decision) -> dict[str, Any]:
    images = [image for image in images_of(row.data) if isinstance(image, str) and len(image) < 1000]
    return {
        'row_id': row.row_id, 'source': row.source, 'line': row.line, **decision._asdict(),
        'text': row.text[:4000].decode('utf-8', 'replace'), 'images': images[:1]}  # yapf: disable
