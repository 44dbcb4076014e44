"""Entries of lab reports as answers write them: in tables and in JSON."""
import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .canonical import Field
from .cell_text import plain_cell
from .lab_results import JSON_FIELDS, TABLE_FIELDS, Entry
from .tables import TextTable, tables_of

_HEADINGS: dict[Field, str] = {
    'entry_name': 'entry_name entry item item_name test test_name test_item name parameter analyte examination marker '
                  '项目 名称 项目名称 项目名 检验项目 检查项目 检测项目 化验项目 测定项目 试验项目 分析项目 检验项目名称 '
                  '检测项目名称 指标 指标名称 检测指标 检验指标 中文名称 中文名 项目中文名称',
    'result': 'result results test_result result_value value measured_value observed_value 结果 检验结果 检测结果 测定结果 '
              '检查结果 化验结果 测量结果 测试结果 结果值 数值 测定值 检测值 测量值 测试值 值',
    'reference': 'reference reference_range reference_interval reference_value reference_values ref ref_range '
                 'ref_interval ref_value normal_range normal_value range biological_reference_interval 参考范围 参考值 '
                 '参考区间 参考 参考值范围 正常范围 正常值 正常参考值 正常参考范围 生物参考区间 参考标准 正常值范围',
    'unit': 'unit units 单位 计量单位 结果单位 检测单位',
    'abnormality': 'abnormality abnormal abnormal_flag abnormality_label abnormality_flag is_abnormal flag flags '
                   'status label 提示 异常 异常标志 异常标识 异常提示 异常标记 异常情况 异常状态 标志 标识 标记 '
                   '状态 结果提示 判断 判定 是否异常 升降 箭头 高低 结果判断 结果判定 异常判断 异常类型',
}  # yapf: disable
_HEADING: dict[str, Field] = {
    word.replace('_', ''): field
    for field, words in _HEADINGS.items()
    for word in words.split()
}
_FENCED = re.compile(r'```[A-Za-z]*\s*(.*?)```', re.DOTALL)
_BRACKET = re.compile(r'[\[\]{}]')
_OPENING = re.compile(r'[\[{]')
# An answer that repeats itself to its end may be full of brackets.
_MAX_ATTEMPTS, _MAX_DEPTH = 200, 20
_TRAILING_COMMA = re.compile(r',(?=\s*[\]}])')
_LOW, _HIGH = ('low', 'min', 'lower', '下限'), ('high', 'max', 'upper', '上限')
# Far more than any page has; the assignment of entries grows with the cube.
_MAX_ENTRIES = 500


class UnreadableAnswer(ValueError):
    """An answer that has no entries where it should have: no table, no JSON, or one without the fields."""


def field_of(heading: str) -> Field | None:
    """The field that a heading or a key of JSON names: 'Reference range', '参考值', '项目/名称', '结果 (Result)'."""
    text = plain_cell(heading).casefold()
    outside = re.sub(r'[\[(].*?[\])]', '', text)
    inside = re.findall(r'[\[(](.*?)[\])]', text)
    for part in (text, outside, *inside, *outside.split('/')):
        field = _HEADING.get(re.sub(r'[\s_\-.:*#]+', '', part))
        if field is not None:
            return field
    return None


def _bounded(entries: list[Entry]) -> list[Entry]:
    if len(entries) > _MAX_ENTRIES:
        raise UnreadableAnswer(f'it has {len(entries):,} entries; no page has more than {_MAX_ENTRIES:,}')
    return entries


# ---- tables


def entries_of_tables(text: str) -> tuple[list[Entry], set[str]]:
    """The entries of all tables of an answer.

    Columns are known by their headings, English or Chinese, in any order; other columns are left out. A table that has
    the headings twice has two entries in a row. A further heading begins a new table; a table without a known heading
    has the columns of the one before it if it has as many, or else, if it has four, the paper's.

    Returns:
        The entries, and flags: 'html_table', 'assumed_columns', 'ragged_table' (a row has more or fewer cells than the
        heading: missing ones are empty, what is too much is left out).

    Raises:
        UnreadableAnswer: There is no table with a column of names, or more entries than 500.
    """
    entries: list[Entry] = []
    flags: set[str] = set()
    known: list[dict[Field, int]] | None = None
    width = 0
    readable = False
    for table in tables_of(text):
        first = True
        for row in table.rows:
            heading = columns_of(row)
            if heading:
                known, width, readable = heading, len(row), True
            elif first and not (known and len(row) == width):
                known, width = _assumed(table, row, known, width)
                if known is not None:
                    flags.add('assumed_columns')
                    readable = True
                if known is not None and not table.has_heading:
                    entries += _entries_of_row(row, known)
            elif known is not None and not (first and table.has_heading):
                if len(row) != width:
                    flags.add('ragged_table')
                entries += _entries_of_row(row, known)
            first = False
        if table.is_html and known is not None:
            flags.add('html_table')
    if not readable:
        raise UnreadableAnswer(f'there is no table with a column of names in {text.strip()[:80]!r}')
    return _bounded(entries), flags


def _assumed(table: TextTable, row: list[str], known: list[dict[Field, int]] | None,
             width: int) -> tuple[list[dict[Field, int]] | None, int]:
    """The columns of a table whose heading says nothing."""
    several = len(table.rows) > 1 or table.has_heading
    if len(row) == len(TABLE_FIELDS) and several:
        return [{field: place for place, field in enumerate(TABLE_FIELDS)}], len(row)
    return (known, width) if known is not None and not table.has_heading and several else (None, 0)


def columns_of(row: Sequence[str]) -> list[dict[Field, int]]:
    """The columns that a heading names, once for each time that it names all of them; empty if it is no heading.

    A heading names a column of names and one more at least.
    """
    groups: list[dict[Field, int]] = []
    seen: Counter[Field] = Counter()
    for place, cell in enumerate(row):
        field = field_of(cell)
        if field is None:
            continue
        group = seen[field]
        seen[field] += 1
        # '项目' and '中文名称' side by side are one group: only what begins with a name again is another.
        while len(groups) <= group:
            groups.append({})
        groups[group][field] = place
    groups = [group for group in groups if len(group) > 1 and 'entry_name' in group]
    return groups


def _entries_of_row(row: Sequence[str], groups: Sequence[Mapping[Field, int]]) -> Iterator[Entry]:
    for group in groups:
        cells = {str(field): row[place] for field, place in group.items() if place < len(row)}
        entry = Entry(**cells)
        if any(entry.has(field) for field in TABLE_FIELDS):
            yield entry


# ---- JSON


def entries_of_json(text: str) -> list[Entry]:
    """The entries of an answer in JSON, fenced or not, with prose around it.

    An object with the fields is one entry, a list of such objects several; an object of objects has the names as its
    keys; an object around one of these is looked through. Keys are known as headings are. Single quotes, Python's
    literals and trailing commas are read.

    Raises:
        UnreadableAnswer: There is no such JSON, or more entries than 500.
    """
    for candidate in _json_candidates(text):
        entries = entries_of_value(candidate)
        if entries is not None:
            return _bounded(entries)
    raise UnreadableAnswer(f'there is no JSON with a result, a reference or an abnormality in {text.strip()[:80]!r}')


def entries_of_value(value: Any) -> list[Entry] | None:
    """The entries of a JSON value; None where it has none of the fields."""
    if isinstance(value, list):
        # An answer may well be that there is no such entry.
        found = [entries_of_value(item) if isinstance(item, (dict, list)) else None for item in value]
        known = [entries for entries in found if entries is not None]
        return [entry for entries in known for entry in entries] if len(known) == len(found) else None
    if not isinstance(value, dict):
        return None
    if not value:
        return []
    cells = {field: item for key, item in value.items() if (field := field_of(str(key))) is not None
             and not _is_nested(item)}  # yapf: disable
    if cells.keys() & {*JSON_FIELDS}:
        return [Entry(**{str(field): _text(item) for field, item in cells.items()})]
    entries: list[Entry] = []
    nested = {key: item for key, item in value.items() if isinstance(item, (dict, list))}
    for key, item in nested.items():
        inner = entries_of_value(item)
        if inner is None:
            return None
        if isinstance(item, dict) and len(inner) == 1 and not inner[0].entry_name and field_of(str(key)) is None:
            inner = [Entry(**{**inner[0].__dict__, 'entry_name': str(key)})]
        entries += inner
    return entries if nested else None


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return not {str(key).casefold() for key in value} <= {*_LOW, *_HIGH}
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)


def _text(value: Any) -> str:
    """A value of JSON as a cell; the limits of a range, as a list or by their names, as 'low~high'."""
    if isinstance(value, dict):
        sides = {str(key).casefold(): item for key, item in value.items()}
        limits = [next((sides[key] for key in keys if key in sides), '') for keys in (_LOW, _HIGH)]
        return '~'.join(_text(limit) for limit in limits)
    if isinstance(value, list):
        return ('~' if len(value) == 2 else ',').join(_text(item) for item in value)
    if isinstance(value, bool):
        return 'true' if value else 'false'
    return '' if value is None else str(value)


def _json_candidates(text: str) -> Iterator[Any]:
    """Values that can be read, first those in fences, then the longest that begins at each bracket."""
    sources = [*_FENCED.findall(text), text]
    # With their digits as they stand: '5.20' is not 5.2 to someone who reads what was wrong.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)
    for source in sources:
        place, last = 0, max(source.rfind(']'), source.rfind('}'))
        for _ in range(_MAX_ATTEMPTS):
            match = _OPENING.search(source, place, last + 1)
            if match is None:
                break
            place = match.start()
            try:
                value, end = decoder.raw_decode(source, place)
            except (ValueError, RecursionError):
                value, end = _lenient(source, place)
            if value is not None:
                yield value
            place = max(end, place + 1)


def _lenient(source: str, start: int) -> tuple[Any, int]:
    """What begins at a bracket, with trailing commas or as Python writes it; (None, start) where it is neither."""
    end, depth = _closing(source, start)
    if depth > _MAX_DEPTH:
        return None, start
    part = _TRAILING_COMMA.sub('', source[start:end])
    try:
        return json.loads(part, parse_float=str, parse_int=str, strict=False), end
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(part), end
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None, start


def _closing(source: str, start: int) -> tuple[int, int]:
    """The place behind the bracket that closes the one at `start`, and how deep brackets are nested up to there."""
    depth = deepest = 0
    for match in _BRACKET.finditer(source, start):
        depth += 1 if match[0] in '[{' else -1
        deepest = max(deepest, depth)
        if not depth or deepest > _MAX_DEPTH:
            return match.end(), deepest
    return len(source), deepest
