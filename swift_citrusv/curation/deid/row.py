"""Cleans a row: its texts, its columns of persons, and the files that it names."""
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...files.errors import IMAGE_ERRORS, FileError
from ...files.rules import FileRules
from ..data_files import FILES
from ..images import listed
from ..step import Decision, Ruling
from .clean import FileCleaner
from .result import FileResult
from .text import Finding

# Keys whose strings are no text of people.
_FIXED = frozenset(('row_id', 'role', 'type'))
# Columns of files, and whether they are label maps.
_FILES = {'images': False, 'image': False, 'masks': True}
# Keys of films and sound, also inside of messages.
_MEDIA = ('videos', 'video', 'audios', 'audio', 'video_url', 'audio_url', 'input_audio')
# Keys of images inside of messages: {'type': 'image', 'image': ...}, {'type': 'image_url', 'image_url': {'url': ...}}.
_INSIDE = ('image', 'image_url', 'path')
_UID = re.compile(r'[0-9]+(?:\.[0-9]+)+')
# A name of a file, wherever it stands.
_FILE_NAME = re.compile(r'(?i)[^\n]{1,500}\.(?:dcm|dicom|ima|nii|nii\.gz|png|jpe?g|tiff?|bmp|webp|gif)(?:#\S*)?')


class RowCleaner:
    """Cleans rows.

    Args:
        cleaner: For texts and files.
        files: What rows may name.
        columns: Patient, study or series, by column.
    """

    def __init__(self, cleaner: FileCleaner, files: FileRules, columns: Mapping[str, str]) -> None:
        self._cleaner, self._rules, self._columns = cleaner, files, columns
        # Of the row at hand.
        self._decisions: list[Decision] = []
        self._findings: list[Finding] = []
        self._known: dict[str, None] = {}

    def clean_file(self, path: str, row_id: str) -> Ruling:
        """The row of a file of a folder."""
        self._start()
        name = self._file(path, False)
        row = {'messages': [{'role': 'user', 'content': '<image>'}], 'images': [name] if name else [], 'row_id': row_id}
        return Ruling([*self._decisions, *_found(self._findings)], _json(row))

    def clean_row(self, data: Mapping[str, Any]) -> Ruling:
        """A row in place of a row."""
        self._start()
        row = dict(data)
        # First the files: their headers tell whose names must not stand in the texts.
        for column, are_labels in _FILES.items():
            if row.get(column):
                entries = [self._entry(entry, are_labels) for entry in listed(row[column])]
                row[column] = entries if isinstance(row[column], list) else entries[0]
        persons = 0
        for column in row:
            if column in self._columns and row[column] not in (None, ''):
                row[column] = self._person(self._columns[column], row[column])
                persons += 1
            elif column not in _FILES:
                row[column] = self._value(row[column], column)
        if persons:
            self._decisions.append(Decision('person', 'changed', float(persons)))
        decisions = [*self._decisions, *_found(self._findings)]
        return Ruling(decisions, _json(row) if decisions else None)

    def _start(self) -> None:
        self._decisions, self._findings, self._known = [], [], {}

    def _value(self, value: Any, key: str) -> Any:
        """A value with all its texts cleaned, and all its files."""
        if key in _MEDIA and value not in (None, '', [], {}):
            self._decisions.append(Decision('media', 'review', detail=f'the key {key}'))
            return None
        if isinstance(value, str):
            if key in _FIXED:
                return value
            if key in _INSIDE or _FILE_NAME.fullmatch(value.strip()):
                return self._entry(value.strip(), False)
            text, found = self._cleaner.texts.clean(value, tuple(self._known))
            self._findings += found
            return text
        if isinstance(value, list):
            return [self._value(item, key) for item in value]
        if isinstance(value, dict):
            if key in _INSIDE and isinstance(value.get('url'), str):
                return {**value, 'url': self._entry(value['url'], False)}
            return {name: self._value(item, name) for name, item in value.items()}
        return value

    def _person(self, level: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._person(level, item) for item in value]
        text, pseudonyms = str(value), self._cleaner.pseudonyms
        if level == 'patient':
            return pseudonyms.patient(text)
        return pseudonyms.uid(text) if _UID.fullmatch(text) else pseudonyms.code(level, text)

    def _entry(self, entry: Any, are_labels: bool) -> Any:
        """A name of a file, or an object with a path or with bytes; RLE and polygons stay."""
        if isinstance(entry, dict) and isinstance(entry.get('path'), str) and entry['path']:
            cleaned = {**entry, 'path': self._entry(entry['path'], are_labels)}
            return {**cleaned, 'bytes': None} if 'bytes' in entry else cleaned
        if not isinstance(entry, str):
            if isinstance(entry, dict) and entry.get('bytes') or isinstance(entry, (bytes, bytearray)):
                self._refuse('it is inside of the row: write it to a file first')
                return None
            return entry
        if entry.startswith(('data:', 'http:', 'https:')) or len(entry) > 4096:
            self._refuse('it is an address or inside of the row: write it to a file first')
            return ''
        try:
            path, fragment = self._rules.resolve_image(entry)
        except (FileError, OSError, ValueError) as error:
            self._refuse(str(error))
            return ''
        self._known.update(dict.fromkeys(self._cleaner.identities(path)))
        name = self._file(path, are_labels)
        return f'{name}#{fragment}' if name and fragment else name

    def _file(self, path: str, are_labels: bool) -> str:
        """The new name of a file; '' if it was not cleaned."""
        try:
            result = self._cleaner.clean(path, are_labels)
        except FileError as error:
            if 'cannot identify image file' in str(error):
                self._decisions.append(Decision('other-file', 'dropped', detail='neither DICOM, NIfTI nor an image'))
            else:
                self._refuse(str(error))
            return ''
        except IMAGE_ERRORS as error:
            self._refuse(str(error) or type(error).__name__)
            return ''
        self._decisions += _file_decisions(result)
        self._findings += result.findings
        return f'{FILES}/{result.name}'.replace(os.sep, '/')

    def _refuse(self, problem: str) -> None:
        self._decisions.append(Decision('cannot-clean', 'review', detail=problem))


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
