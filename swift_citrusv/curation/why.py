"""The history of a row, in words."""
import os
from typing import Any

from ..settings import SettingError
from .ledger import ledger_files
from .step import VERDICTS
from .summary_text import measured_words
from .verify import read_summary

_VERDICTS = {'kept': 'kept', 'changed': 'changed', 'review': 'put aside for review', 'merged': 'merged',
             'dropped': 'dropped'}  # yapf: disable
_COLUMNS = 'row_id, source, line, step, rule, verdict, measure, threshold, evidence_id, detail'
# Rows that are named if a name fits several.
_MOST = 5


def history(folder: str, name: str) -> list[str]:
    """The lines that tell what happened to a row.

    Args:
        folder: The output of a step or of a run.
        name: The id of the row, its first digits, or its place in the input: 'train.jsonl:12'.

    Raises:
        SettingError: There is no such row, or several fit.
    """
    summary = read_summary(folder)
    rules = summary['rules']
    texts = {f'{step}/{rule}': item['text'] for step, found in rules.items() for rule, item in found.items()
             } if 'steps' in summary else {f'/{rule}': item['text'] for rule, item in rules.items()}  # yapf: disable
    row_id = _find(folder, name)
    lines: list[str] = []
    found = _query(folder, f'SELECT {_COLUMNS}, filename FROM read_parquet(?, filename=true) WHERE row_id = ?', row_id)
    # Files of a run have the number of the step in front.
    found.sort(key=lambda item: (os.path.basename(item[-1]), VERDICTS.index(item[5])))
    for number, (_, source, line, step, rule, verdict, measure, threshold, evidence, detail, file) in enumerate(found):
        if number == 0:
            lines.append(f'{row_id}: {source}:{line}')
        part = os.path.basename(file).rpartition('-')[0]
        text = texts.get(f'{part}/{rule}', '')
        words = [f'{part or step}: {_VERDICTS[verdict]}']
        if rule:
            words.append(f'by {rule}' + (f' ({text})' if text else ''))
        if measure is not None:
            words.append(measured_words(measure, threshold))
        if detail:
            words.append(detail.rstrip('.'))
        if evidence:
            words.append(f'because of {_place(folder, evidence)}')
        lines.append('  ' + '; '.join(words))
    verdict = max((item[5] for item in found), key=VERDICTS.index)
    lines.append(f'  In the end: {_VERDICTS[verdict]}.')
    return lines


def _find(folder: str, name: str) -> str:
    source, _, line = name.rpartition(':')
    if source and line.isdecimal():
        query = 'SELECT DISTINCT row_id FROM read_parquet(?) WHERE (source = ? OR source LIKE ?) AND line = ?'
        found = _query(folder, query, source, f'%/{source}', int(line))
    else:
        found = _query(folder, 'SELECT DISTINCT row_id FROM read_parquet(?) WHERE starts_with(row_id, ?)', name)
    if not found:
        raise SettingError(f'{folder} has no row {name!r}. Give its row_id, its first digits, or FILE:LINE.')
    if len(found) > 1:
        shown = ', '.join(sorted(row_id for row_id, in found)[:_MOST])
        raise SettingError(f'{len(found)} rows fit {name!r}: {shown}{", ..." if len(found) > _MOST else ""}.')
    return str(found[0][0])


def _place(folder: str, evidence: str) -> str:
    """An id with its place in the input and what became of it, where it is a row."""
    query = 'SELECT source, line, verdict, filename FROM read_parquet(?, filename=true) WHERE row_id = ?'
    found = _query(folder, query, evidence)
    if not found:
        return evidence
    source, line, *_ = min(found, key=lambda item: os.path.basename(item[-1]))
    verdict = max((item[2] for item in found), key=VERDICTS.index)
    return f'{evidence} ({source}:{line}, {_VERDICTS[verdict]})'


def _query(folder: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    import duckdb
    files = ledger_files(folder)
    return duckdb.connect().execute(query, [files, *values]).fetchall() if files else []
