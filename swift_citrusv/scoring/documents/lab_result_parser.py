"""Parses lab results from the tables or the JSON of an answer."""
import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .canonical import Field
from .cell_text import plain_cell
from .lab_results import JSON_FIELDS, TABLE_FIELDS, LabResult
from .other_tables import delimited_tables, key_value_table, latex_tables
from .tables import TextTable, parse_tables

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
# A degenerate answer may be full of brackets.
_MAX_ATTEMPTS, _MAX_DEPTH = 200, 20
_TRAILING_COMMA = re.compile(r',(?=\s*[\]}])')
_LOW, _HIGH = ('low', 'min', 'lower', '下限'), ('high', 'max', 'upper', '上限')
# Far more than any page has; matching takes cubic time.
_MAX_RESULTS = 500


class UnreadableAnswer(ValueError):
    """An answer without lab results: no table, no JSON, or one without the fields."""


def heading_field(heading: str) -> Field | None:
    """The field of a column heading or JSON key: 'Reference range', '参考值', '项目/名称', '结果 (Result)'."""
    text = plain_cell(heading).casefold()
    outside = re.sub(r'[\[(].*?[\])]', '', text)
    inside = re.findall(r'[\[(](.*?)[\])]', text)
    for part in (text, outside, *inside, *outside.split('/')):
        field = _HEADING.get(re.sub(r'[\s_\-.:*#]+', '', part))
        if field is not None:
            return field
    return None


def _check_count(results: list[LabResult]) -> list[LabResult]:
    if len(results) > _MAX_RESULTS:
        raise UnreadableAnswer(f'it has {len(results):,} lab results; at most {_MAX_RESULTS:,} are accepted')
    return results


# ---- tables


def lab_results_from_tables(text: str) -> tuple[list[LabResult], set[str]]:
    """The lab results of all tables of an answer.

    Columns are identified by English or Chinese headings, in any order; other columns are ignored. A table that repeats
    its headings side by side has several lab results per row. A further heading starts a new table. A table without a
    known heading has the columns of the previous table if it is as wide, or else the paper's columns if it has four.

    Markdown and HTML come first. An answer without such a table is read as LaTeX, then as comma-, tab- or
    semicolon-separated text, as JSON, and as lines 'key: value'.

    Returns:
        The lab results, and flags: 'html_table', 'latex_table', 'csv_table', 'json_table', 'key_value_text',
        'assumed_columns', 'ragged_table' (a row and its heading differ in length: missing cells are empty, extra cells
        are ignored).

    Raises:
        UnreadableAnswer: There is no table with a column of names, or there are more than 500 lab results.
    """
    found = _results_of_text(text, names=True)
    if found is None:
        values = (lab_results_from_value(candidate) for candidate in _json_candidates(text))
        results = next((value for value in values if value and any(result.entry_name for result in value)), None)
        if results is None:
            raise UnreadableAnswer(f'there is no table with a column of names in {text.strip()[:80]!r}')
        found = results, {'json_table'}
    return _check_count(found[0]), found[1]


def _results_of_text(text: str, names: bool) -> tuple[list[LabResult], set[str]] | None:
    """The lab results of tables in any notation but JSON, and flags; None if there is none.

    Args:
        text: The answer.
        names: Whether a table needs a column of names.
    """

    def is_heading(row: Sequence[str]) -> bool:
        return bool(heading_columns(row, names))

    for flag, tables in ((None, parse_tables(text)), ('latex_table', latex_tables(text)),
                         ('csv_table', delimited_tables(text, is_heading))):
        found = _results_of_tables(tables, names)
        if found is not None:
            return found[0], found[1] | ({flag} if flag else set())
    records = key_value_table(text, lambda key: heading_field(key) is not None,
                              lambda key: heading_field(key) == 'entry_name')
    needed = {'entry_name'} if names else {*JSON_FIELDS}
    results = []
    for record in records:
        cells = {str(heading_field(key)): value for key, value in record.items()}
        if len(cells) > 1 and cells.keys() & needed:
            results.append(LabResult(**cells))
    return (results, {'key_value_text'}) if results else None


def _results_of_tables(tables: Sequence[TextTable], names: bool) -> tuple[list[LabResult], set[str]] | None:
    results: list[LabResult] = []
    flags: set[str] = set()
    known: list[dict[Field, int]] | None = None
    width = 0
    readable = False
    for table in tables:
        first = True
        for row in table.rows:
            heading = heading_columns(row, names)
            if heading:
                known, width, readable = heading, len(row), True
            elif first and not (known and len(row) == width):
                known, width = _assumed_columns(table, row, known, width)
                if known is not None:
                    flags.add('assumed_columns')
                    readable = True
                if known is not None and not table.has_heading:
                    results += _results_of_row(row, known)
            elif known is not None and not (first and table.has_heading):
                if len(row) != width:
                    flags.add('ragged_table')
                results += _results_of_row(row, known)
            first = False
        if table.is_html and known is not None:
            flags.add('html_table')
    return (results, flags) if readable else None


def _assumed_columns(table: TextTable, row: list[str], known: list[dict[Field, int]] | None,
                     width: int) -> tuple[list[dict[Field, int]] | None, int]:
    """The columns of a table without a known heading, and its width; (None, 0) if unknown."""
    several = len(table.rows) > 1 or table.has_heading
    if len(row) == len(TABLE_FIELDS) and several:
        return [{field: place for place, field in enumerate(TABLE_FIELDS)}], len(row)
    return (known, width) if known is not None and not table.has_heading and several else (None, 0)


def heading_columns(row: Sequence[str], names: bool = True) -> list[dict[Field, int]]:
    """The columns of a heading row, one mapping for each time the headings are repeated; empty if it is not a heading.

    A heading has at least two fields, with `names` one of them a column of names.
    """
    groups: list[dict[Field, int]] = []
    seen: Counter[Field] = Counter()
    for place, cell in enumerate(row):
        field = heading_field(cell)
        if field is None:
            continue
        group = seen[field]
        seen[field] += 1
        # '项目' and '中文名称' side by side are one group: a new group starts with another name column.
        while len(groups) <= group:
            groups.append({})
        groups[group][field] = place
    return [group for group in groups if len(group) > 1 and ('entry_name' in group or not names)]


def _results_of_row(row: Sequence[str], groups: Sequence[Mapping[Field, int]]) -> Iterator[LabResult]:
    for group in groups:
        cells = {str(field): row[place] for field, place in group.items() if place < len(row)}
        result = LabResult(**cells)
        if any(result.has(field) for field in TABLE_FIELDS):
            yield result


# ---- JSON


def lab_results_from_json(text: str) -> list[LabResult]:
    """The lab results of an answer in JSON, fenced or not, with prose around it.

    An object with the fields is one lab result, a list of such objects several; an object of objects has the names as
    keys; enclosing objects are searched. An object of equally long lists has a list for each column, and a list of
    lists begins with its headings. Keys are identified like headings. Single quotes, Python literals and trailing
    commas are accepted. An answer without JSON may be a table in any notation of `lab_results_from_tables`.

    Raises:
        UnreadableAnswer: There is no such JSON, or there are more than 500 lab results.
    """
    for candidate in _json_candidates(text):
        results = lab_results_from_value(candidate)
        if results is not None:
            return _check_count(results)
    found = _results_of_text(text, names=False)
    if found is not None:
        return _check_count(found[0])
    raise UnreadableAnswer(f'there is no JSON with a result, a reference or an abnormality in {text.strip()[:80]!r}')


def lab_results_from_value(value: Any) -> list[LabResult] | None:
    """The lab results of a JSON value; None if it has none of the fields."""
    columns = _columns_of(value)
    if columns is not None:
        return columns
    if isinstance(value, list):
        # An empty list is a valid answer: there is no such result.
        found = [lab_results_from_value(item) if isinstance(item, (dict, list)) else None for item in value]
        known = [results for results in found if results is not None]
        return [result for results in known for result in results] if len(known) == len(found) else None
    if not isinstance(value, dict):
        return None
    if not value:
        return []
    cells = {field: item for key, item in value.items() if (field := heading_field(str(key))) is not None
             and not _is_nested(item)}  # yapf: disable
    if cells.keys() & {*JSON_FIELDS}:
        return [LabResult(**{str(field): _cell_text(item) for field, item in cells.items()})]
    results: list[LabResult] = []
    nested = {key: item for key, item in value.items() if isinstance(item, (dict, list))}
    for key, item in nested.items():
        inner = lab_results_from_value(item)
        if inner is None:
            return None
        if isinstance(item, dict) and len(inner) == 1 and not inner[0].entry_name and heading_field(str(key)) is None:
            inner = [LabResult(**{**inner[0].__dict__, 'entry_name': str(key)})]
        results += inner
    return results if nested else None


def _columns_of(value: Any) -> list[LabResult] | None:
    """The lab results of a table in JSON: lists by column, {'columns': [...], 'rows': [[...], ...]}, a list of rows."""
    if isinstance(value, dict):
        lists = {str(key): item for key, item in value.items() if isinstance(item, list)}
        by_name = {key.casefold(): item for key, item in lists.items()}
        head = next((by_name[key] for key in ('columns', 'header', 'headers', 'heading') if key in by_name), None)
        rows = next((by_name[key] for key in ('rows', 'data', 'values', 'body') if key in by_name), None)
        if head is not None and rows is not None:
            return _columns_of([head, *rows])
        fields = {heading_field(key): item for key, item in lists.items()}
        fields.pop(None, None)
        lengths = {len(item) for item in fields.values()}
        if len(fields) < 2 or len(lengths) != 1 or any(_is_nested(item) for item in fields.values()):
            return None
        # A range as two numbers is no column.
        if len(fields) < len(value) and lengths == {2}:
            return None
        names = [str(field) for field in fields]
        return [LabResult(**dict(zip(names, map(_cell_text, cells)))) for cells in zip(*fields.values())]
    if isinstance(value, list) and len(value) > 1 and all(isinstance(row, list) for row in value):
        table = TextTable([[_cell_text(cell) for cell in row] for row in value])
        found = _results_of_tables([table], names=False) if heading_columns(table.rows[0], names=False) else None
        return None if found is None else found[0]
    return None


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return not {str(key).casefold() for key in value} <= {*_LOW, *_HIGH}
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)


def _cell_text(value: Any) -> str:
    """A JSON value as cell text; a range as a list or as named limits becomes 'low~high'."""
    if isinstance(value, dict):
        sides = {str(key).casefold(): item for key, item in value.items()}
        limits = [next((sides[key] for key in keys if key in sides), '') for keys in (_LOW, _HIGH)]
        return '~'.join(_cell_text(limit) for limit in limits)
    if isinstance(value, list):
        return ('~' if len(value) == 2 else ',').join(_cell_text(item) for item in value)
    if isinstance(value, bool):
        return 'true' if value else 'false'
    return '' if value is None else str(value)


def _json_candidates(text: str) -> Iterator[Any]:
    """JSON values that can be parsed: first those in fences, then the longest one that starts at each bracket."""
    sources = [*_FENCED.findall(text), text]
    # Numbers stay strings: the report of what is wrong shows '5.20' as written.
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
                value, end = _relaxed_json(source, place)
            if value is not None:
                yield value
            place = max(end, place + 1)


def _relaxed_json(source: str, start: int) -> tuple[Any, int]:
    """The value at a bracket as JSON with trailing commas or as a Python literal, and its end; else (None, start)."""
    end, depth = _closing_bracket(source, start)
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


def _closing_bracket(source: str, start: int) -> tuple[int, int]:
    """The end of the bracket that closes the one at `start`, and the deepest nesting inside."""
    depth = deepest = 0
    for match in _BRACKET.finditer(source, start):
        depth += 1 if match[0] in '[{' else -1
        deepest = max(deepest, depth)
        if not depth or deepest > _MAX_DEPTH:
            return match.end(), deepest
    return len(source), deepest
