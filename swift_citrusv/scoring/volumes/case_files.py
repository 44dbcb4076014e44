"""Pairs the files of two folders by their names, and writes them as rows."""
import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...files.medical import medical_format

# What names of label maps end in, beside the name of the case; nnU-Net's images end in a channel.
_ENDINGS = re.compile(
    r'(?:[_.-](?:seg|segmentation|mask|masks|label|labels|labelmap|pred|prediction|gt|ref|reference|'
    r'manual|auto|0000))+$', re.IGNORECASE)
_SUFFIXES = ('.nii.gz', '.nii', '.dcm')
# Of the table: columns that identify a case.
_ID_COLUMNS = ('id', 'case', 'case_id', 'name', 'subject', 'patient')


def case_files(path: str) -> dict[str, str]:
    """The label maps in a folder, by the name of their case.

    A case is a NIfTI file, a DICOM segmentation, or a folder with one binary NIfTI file for each label or with one
    DICOM segmentation. Hidden files, and other files such as legends, are ignored.

    Raises:
        ValueError: There is none, or two have the same name.
    """
    found: dict[str, str] = {}
    for entry in sorted(Path(path).iterdir()):
        if entry.name.startswith('.') or not (entry.is_dir() and _has_labels(entry) or _is_label_map(entry)):
            continue
        name = case_name(entry.name)
        if name in found:
            raise ValueError(f'{path} has two label maps of the case {name!r}: {os.path.basename(found[name])} and '
                             f'{entry.name}. Leave one of them there.')
        found[name] = str(entry)
    if not found:
        raise ValueError(f'{path} has no label map: give NIfTI files, DICOM segmentations, or a folder of binary NIfTI '
                         'files for each case.')
    return found


def case_name(file: str) -> str:
    """'case_7' of 'case_7_seg.nii.gz'."""
    stem = next((file[:-len(suffix)] for suffix in _SUFFIXES if file.lower().endswith(suffix)), file)
    return _ENDINGS.sub('', stem) or stem


def _is_label_map(path: Path) -> bool:
    return path.is_file() and (path.name.lower().endswith(_SUFFIXES) or medical_format(str(path)) is not None)


def _has_labels(folder: Path) -> bool:
    return any(_is_label_map(path) for path in folder.iterdir())


def read_table(path: str) -> dict[str, dict[str, str]]:
    """The columns of each case, by its name, from a CSV file with a column `id` (or `case`, `subject`, ...).

    Raises:
        ValueError: The file has no such column, or a case twice.
    """
    with open(path, encoding='utf-8-sig', newline='') as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name.casefold() in _ID_COLUMNS]
        if not columns:
            raise ValueError(f'{path} has the columns {", ".join(reader.fieldnames or ())}, and none of '
                             f'{", ".join(_ID_COLUMNS)}: name the cases in one of them.')
        first = min(columns, key=lambda name: _ID_COLUMNS.index(name.casefold()))
        found: dict[str, dict[str, str]] = {}
        for row in reader:
            name = case_name(row[first] or '')
            if name in found:
                raise ValueError(f'{path} has the case {name!r} twice.')
            found[name] = {key: value for key, value in row.items() if key and value and key != 'ref'}
    return found


def read_names(path: str) -> tuple[tuple[int, str], ...]:
    """The names of labels: CSV with the columns `label,name`, or JSON: {"1": "liver"}, {"liver": 1} (nnU-Net), or a
    legend of `citrusv volume`.

    Raises:
        ValueError: The file has none of these forms.
    """
    with open(path, encoding='utf-8-sig', newline='') as file:
        text = file.read()
    try:
        if path.lower().endswith('.json'):
            content = json.loads(text)
            entries = content.get('labels', content) if isinstance(content, Mapping) else content
            if isinstance(entries, Mapping):
                pairs = [(key, value) if str(key).lstrip('-').isdigit() else (value, key)
                         for key, value in entries.items()]  # yapf: disable
            else:
                pairs = [(entry['value'], entry['name']) for entry in entries]
        else:
            rows = [row for row in csv.reader(text.splitlines()) if row]
            head = [cell.strip().casefold() for cell in rows[0]]
            places = next(((head.index(value), head.index('name')) for value in ('label', 'value', 'id', 'number')
                           if value in head and 'name' in head), (0, 1))  # yapf: disable
            body = rows[1:] if not rows[0][places[0]].strip().lstrip('-').isdigit() else rows
            pairs = [(row[places[0]], row[places[1]]) for row in body]
        found = {int(value): str(name).strip() for value, name in pairs}
        if not found:
            raise ValueError(path)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ValueError(f'{path} does not name labels: give a CSV file with the columns label,name, or JSON such as '
                         '{"1": "liver"}.') from None
    return tuple(sorted((value, name) for value, name in found.items() if value))


def reference_rows(references: Mapping[str, str], table: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """A row for each reference, with the columns of its case; the case is its own patient where no column says else.

    Raises:
        ValueError: The table has no line for a case.
    """
    for name, path in references.items():
        if table and name not in table:
            raise ValueError(f'The table has no line for the case {name!r} ({os.path.basename(path)}).')
        yield {'patient': name, **table.get(name, {}), 'id': name, 'ref': path}


def write_lines(rows: Iterator[Mapping[str, str]] | list[dict[str, str]], path: str) -> None:
    with open(path, 'w', encoding='utf-8') as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
