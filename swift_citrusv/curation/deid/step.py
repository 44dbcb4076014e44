"""The step `deid`."""
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...files.errors import IMAGE_ERRORS, FileError
from ...files.rules import FileRules
from ..data_files import read_json
from ..images import listed
from ..inputs import InputFile, Shard, find_files, hash_files
from ..inventory import has_rows, paths_of, take
from ..progress import Progress
from ..shard_task import shard_name
from ..step import Decision, Row, Ruling, Stage, Step, rules_recipe, small_shards
from .clean import FOLDER, FileCleaner, Options, listed_files
from .prove import ProveTask
from .pseudonyms import Pseudonyms
from .result import FileResult
from .text import Finding, TextCleaner

_FILE_RULES = {
    'header': 'elements of a DICOM header that were removed, emptied, replaced or moved',
    'pixel-text': 'text in pixels, blanked',
    'metadata': 'EXIF, comments and texts of an image or NIfTI file, removed',
    'copied': 'a file with nothing to take out, under a new name',
    'cannot-clean': 'a file that cannot be read, or not be cleaned for certain',
    'media': 'a film or sound, which is not cleaned',
    'other-file': 'no image',
    'read-again': 'text that an engine still reads in what was written',
}
_CODES = {'person': 'a patient, study or series by its column', TextCleaner.KNOWN: 'a name or number of its header'}
# Columns whose strings are no text of people.
_FIXED = frozenset(('row_id', 'role', 'images', 'image', 'masks'))
_MEDIA = ('videos', 'video', 'audios', 'audio')
_UID = re.compile(r'[0-9]+(?:\.[0-9]+)+')


@dataclass(frozen=True)
class DeidStep(Step):
    """Takes identities out of rows and of the files that they name, or out of all files of folders.

    Attributes:
        options: How.
        columns: The columns of patient, study and series.
        num_planted: How many invented identities of each kind the proof plants; 0 without a proof.
        files: What rows may name.
    """
    name: ClassVar[str] = 'deid'
    shows_result: ClassVar[bool] = True
    writes_files: ClassVar[bool] = True
    options: Options
    columns: tuple[tuple[str, str], ...] = (('patient', 'patient'), ('study', 'study'), ('series', 'series'))
    num_planted: int = 0
    files: FileRules = FileRules()

    def rules(self) -> Mapping[str, str]:
        return {**_FILE_RULES, **_CODES, **{rule.name: rule.text for rule in self.options.rules.texts}}

    def recipe(self) -> dict[str, Any]:
        options = self.options
        return {
            'rules_sha256': options.rules.sha256, 'key': Pseudonyms(options.key).key_id(), 'keep': sorted(options.keep),
            'dates': 'moved' if options.moves_dates else 'removed', 'engines': list(options.engines),
            'blank_outside_regions': options.blanks_outside, 'prove': options.proves, 'planted': self.num_planted,
            'columns': dict(self.columns), 'files': rules_recipe(self.files)}  # yapf: disable

    def input_files(self, inputs: Sequence[str], folder: str, quiet: bool) -> list[InputFile]:
        if all(has_rows(name) for name in inputs):
            return hash_files(find_files(inputs), quiet)
        return take(inputs, folder, lambda path: [{'place': 0}], quiet)

    def shard_bytes(self, total: int, most: int) -> int:
        return small_shards(total, most)

    def place(self, row: Row) -> tuple[str, int]:
        return (row.data['source'], 1) if _is_file(row) else (row.source, row.line)

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        if not self.num_planted:
            return ()
        return [Stage('deid-prove', ProveTask(self.options, self.num_planted, folder), 1, folder, None, 'planted')]

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        progress = Progress(folder, 'frames', shard_name(shard))
        cleaner = FileCleaner(self.options, folder, progress.add)
        paths = paths_of(folder) if os.path.exists(os.path.join(folder, 'inventory')) else {}
        return _RowCleaner(self, cleaner, paths).decide

    def documents(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        path = os.path.join(folder, 'proof.json')
        return {'proof.json': read_json(path)} if os.path.exists(path) else {}

    def sections(self, folder: str, summary: Mapping[str, Any]) -> Mapping[str, str]:
        from .prove import html_of
        path = os.path.join(folder, 'proof.json')
        return {'Proof': html_of(read_json(path))} if os.path.exists(path) else {}


def _is_file(row: Row) -> bool:
    """Whether a row is a line of an inventory."""
    return row.source == 'inventory.jsonl' and row.data.keys() == {'source', 'sha256', 'place', 'row_id'}


class _RowCleaner:

    def __init__(self, step: DeidStep, cleaner: FileCleaner, paths: Mapping[str, str]) -> None:
        self._step, self._cleaner, self._paths = step, cleaner, paths
        self._columns = {column: level for level, column in step.columns}
        # Of the row at hand.
        self._findings: list[Finding] = []

    def decide(self, row: Row) -> Ruling:
        decisions: list[Decision] = []
        self._findings = []
        if _is_file(row) and self._paths:
            name = self._file(self._paths[row.data['source']], False, decisions)
            message = {'role': 'user', 'content': '<image>'}
            data: dict[str, Any] = {'messages': [message], 'images': [name] if name else [],
                                    'row_id': row.row_id}  # yapf: disable
            return Ruling([*decisions, *_found(self._findings)], _json(data))
        data = dict(row.data)
        decisions += [Decision('media', 'review', detail=f'the column {name}') for name in listed_files(data, _MEDIA)]
        known: dict[str, None] = {}
        for column, are_labels in (('images', False), ('image', False), ('masks', True)):
            if data.get(column):
                is_list = isinstance(data[column], list)
                entries = [self._entry(entry, are_labels, decisions, known) for entry in listed(data[column])]
                data[column] = entries if is_list else entries[0]
        persons = 0
        for column in data:
            if column in self._columns and data[column] not in (None, ''):
                data[column] = self._person(self._columns[column], data[column])
                persons += 1
            elif column not in _FIXED and column not in _MEDIA:
                data[column] = self._texts(data[column], tuple(known))
        if persons:
            decisions.append(Decision('person', 'changed', float(persons)))
        decisions += _found(self._findings)
        return Ruling(decisions, _json(data) if decisions else None)

    def _texts(self, value: Any, known: Sequence[str], key: str = '') -> Any:
        """A value of a row with all its texts cleaned."""
        if isinstance(value, str) and key not in _FIXED:
            text, found = self._cleaner.texts.clean(value, known)
            self._findings += found
            return text
        if isinstance(value, list):
            return [self._texts(item, known, key) for item in value]
        if isinstance(value, dict):
            return {name: self._texts(item, known, name) for name, item in value.items()}
        return value

    def _person(self, level: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._person(level, item) for item in value]
        text, pseudonyms = str(value), self._cleaner.pseudonyms
        if level == 'patient':
            return pseudonyms.patient(text)
        return pseudonyms.uid(text) if _UID.fullmatch(text) else pseudonyms.code(level, text)

    def _entry(self, entry: Any, are_labels: bool, decisions: list[Decision], known: dict[str, None]) -> Any:
        """An entry of the images or masks: a name, or an object with a path or with bytes; RLE stays."""
        if isinstance(entry, dict) and isinstance(entry.get('path'), str) and entry['path']:
            return {
                **entry, 'path': self._entry(entry['path'], are_labels, decisions, known),
                **({
                    'bytes': None
                } if 'bytes' in entry else {})
            }
        if not isinstance(entry, str):
            if isinstance(entry, dict) and entry.get('bytes') or isinstance(entry, (bytes, bytearray)):
                decisions.append(_unclean('it is inside of the row: write it to a file first'))
            return entry
        if entry.startswith(('data:', 'http:', 'https:')) or len(entry) > 4096:
            decisions.append(_unclean('it is an address or inside of the row: write it to a file first'))
            return ''
        path, fragment = self._split(entry, decisions)
        if path is None:
            return ''
        known.update(dict.fromkeys(self._cleaner.identities(path)))
        name = self._file(path, are_labels, decisions)
        return f'{name}#{fragment}' if name and fragment else name

    def _split(self, entry: str, decisions: list[Decision]) -> tuple[str | None, str]:
        """The path of a name, and the fragment after it."""
        name, _, fragment = entry.partition('#')
        for candidate, rest in ((entry, ''), (name, fragment)):
            try:
                return self._step.files.resolve(candidate), rest
            except (FileError, OSError, ValueError) as error:
                problem = str(error)
        decisions.append(_unclean(problem))
        return None, ''

    def _file(self, path: str, are_labels: bool, decisions: list[Decision]) -> str:
        """The new name of a file, '' if it was not cleaned; adds what was done."""
        try:
            result = self._cleaner.clean(path, are_labels)
        except FileError as error:
            if 'cannot identify image file' in str(error):
                decisions.append(Decision('other-file', 'dropped', detail='neither DICOM, NIfTI nor an image'))
            else:
                decisions.append(_unclean(str(error)))
            return ''
        except IMAGE_ERRORS as error:
            decisions.append(_unclean(str(error) or type(error).__name__))
            return ''
        decisions += _file_decisions(result)
        self._findings += result.findings
        return f'{FOLDER}/{result.name}'.replace(os.sep, '/')


def _unclean(problem: str) -> Decision:
    return Decision('cannot-clean', 'review', detail=problem)


def _file_decisions(result: FileResult) -> list[Decision]:
    decisions = []
    if result.actions:
        words = ', '.join(f'{name} {count}' for name, count in sorted(result.actions.items()) if count)
        decisions.append(Decision('header', 'changed', float(sum(result.actions.values())), detail=words))
    if result.boxes or result.overlays:
        more = f', {result.overlays} overlays in the pixels' if result.overlays else ''
        more += f', {result.by_others} of them by the second engine only' if result.by_others else ''
        decisions.append(
            Decision('pixel-text', 'changed', float(result.boxes), detail=f'in {result.frames} frames{more}'))
    if result.metadata:
        decisions.append(Decision('metadata', 'changed', float(result.metadata)))
    if result.left:
        decisions.append(Decision('read-again', 'review', float(result.left), 0))
    return decisions or [Decision('copied', 'changed')]


def _found(findings: Sequence[Finding]) -> list[Decision]:
    counts = Counter((item.rule, item.is_sure) for item in findings)
    return [Decision(rule, 'changed' if is_sure else 'review', float(count))
            for (rule, is_sure), count in sorted(counts.items())]  # yapf: disable


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode('utf-8', 'surrogatepass')
