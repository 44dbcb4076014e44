"""Parses the tables of an answer that are neither Markdown nor HTML: LaTeX, delimited text, and lines 'key: value'."""
import csv
import re
from collections.abc import Callable, Sequence

from .tables import TextTable

_ENVIRONMENT = re.compile(
    r'\\begin\s*\{(?P<name>tabular[x*y]?|longtable|array|tabu|tblr)\}(?P<body>.*?)(?:\\end\s*\{(?P=name)\}|\Z)',
    re.DOTALL)
# The arguments of the environment: widths and columns, braces nested up to twice.
_ARGUMENTS = re.compile(r'\s*(?:\[[^\]]*\]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})')
_RULE = re.compile(r'\\(?:hline|toprule|midrule|bottomrule|endhead|endfirsthead|endfoot|endlastfoot|centering|'
                   r'(?:cline|cmidrule|addlinespace|specialrule|caption|label)\s*(?:\([^)]*\))?(?:\[[^\]]*\])?'
                   r'(?:\{[^{}]*\})*)(?![A-Za-z])')
_ROW_END = re.compile(r'(?<!\\)\\\\(?:\s*\[[^\]]*\])?|\\tabularnewline|\\cr\b')
_CELL_END = re.compile(r'(?<!\\)&')
_SPAN = re.compile(r'\\multicolumn\s*\{\s*(\d{1,2})\s*\}\s*\{[^{}]*\}\s*\{(.*)\}\s*', re.DOTALL)
_ROWS = re.compile(r'\\multirow\s*(?:\[[^\]]*\])?\{\s*-?(\d{1,3})\s*\}\s*(?:\[[^\]]*\])?\{[^{}]*\}\s*\{(.*)\}\s*',
                   re.DOTALL)
_SYMBOLS = {
    'times': '×', 'mu': 'μ', 'micro': 'μ', 'sim': '~', 'leq': '≤', 'le': '≤', 'geq': '≥', 'ge': '≥', 'uparrow': '↑',
    'downarrow': '↓', 'pm': '±', 'cdot': '·', 'textgreater': '>', 'textless': '<', 'gt': '>', 'lt': '<', 'alpha': 'α',
    'beta': 'β', 'gamma': 'γ', 'delta': 'δ', 'degree': '°', 'circ': '°', 'textminus': '-', 'textbar': '|',
    'textasciitilde': '~', 'quad': ' ', 'qquad': ' ', 'newline': ' ', 'textmu': 'μ', 'to': '→', 'ldots': '...',
    'dots': '...', 'percent': '%', 'textasciicircum': '^'
}  # yapf: disable
_STYLED = re.compile(
    r'\\(?:text(?:bf|it|rm|sf|tt|normal|color\s*\{[^{}]*\}|superscript|subscript)?|math(?:rm|bf|it|sf)|emph|'
    r'underline|makecell|thead|shortstack|mbox|operatorname|si|unit|num)\s*(?:\[[^\]]*\])?\{([^{}]*)\}')
_COMMAND = re.compile(r'\\([A-Za-z]+)\s?')
_ESCAPED = re.compile(r'\\([%&_#${}~^|])')
_FENCE = re.compile(r'^\s*(?:```|~~~)')
_DELIMITERS = (',', '\t', ';', '，')
_KEY_VALUE = re.compile(r'^\s*(?:[-*•]\s*)?(?:\d{1,3}[.)、]\s*)?(?P<key>[^:：]{1,40}?)\s*[:：]\s*(?P<value>.*)$')
# Heading row -> whether its columns are known.
IsHeading = Callable[[Sequence[str]], bool]


def latex_tables(text: str) -> list[TextTable]:
    """The tables of LaTeX environments (tabular, longtable, array and others), in their order."""
    found = []
    for match in _ENVIRONMENT.finditer(text):
        body = match['body']
        arguments = _ARGUMENTS.match(body)
        while arguments:
            body = body[arguments.end():]
            arguments = _ARGUMENTS.match(body)
        table = TextTable()
        hanging: dict[int, tuple[int, str]] = {}
        for line in _ROW_END.split(_RULE.sub(' ', body)):
            if line.strip():
                table.rows.append(_latex_row(line, hanging))
        table.rows = [row for row in table.rows if any(row)]
        if table.rows:
            found.append(table)
    return found


def _latex_row(line: str, hanging: dict[int, tuple[int, str]]) -> list[str]:
    """The cells of a row; `hanging` has, by column, how many more rows a cell of an earlier row spans, and its text."""
    row: list[str] = []
    for cell in _CELL_END.split(line):
        count = 1
        span = _SPAN.fullmatch(cell.strip())
        if span:
            count, cell = int(span[1]), span[2]
        rows = _ROWS.fullmatch(cell.strip())
        if rows:
            cell = rows[2]
        text = _plain_latex(cell)
        place = len(row)
        if rows and int(rows[1]) > 1:
            hanging[place] = (int(rows[1]) - 1, text)
        elif place in hanging:
            left, above = hanging.pop(place)
            text = text or above
            if left > 1:
                hanging[place] = (left - 1, above)
        row += [text, *[''] * (count - 1)]
    return row


def _plain_latex(cell: str) -> str:
    for _ in range(4):
        changed = _STYLED.sub(r'\1', cell)
        if changed == cell:
            break
        cell = changed
    cell = re.sub(r'\\[,;:! ]', ' ', cell.replace('$', '' if not re.search(r'\\\$', cell) else '$'))
    cell = _ESCAPED.sub(r'\1', _COMMAND.sub(lambda match: _SYMBOLS.get(match[1], ' '), cell))
    cell = re.sub(r'\^\{([^{}]*)\}', r'^\1', cell).replace('--', '-')
    return ' '.join(cell.replace('{', '').replace('}', '').replace('~', '~').split())


def delimited_tables(text: str, is_heading: IsHeading) -> list[TextTable]:
    """The tables of comma-, tab- or semicolon-separated text: each begins with a heading whose columns are known.

    Quoted cells may hold delimiters and line breaks. A table ends at a line without a delimiter.
    """
    lines = text.splitlines()
    found: list[TextTable] = []
    start = 0
    while start < len(lines):
        heading = next(
            (delimiter
             for delimiter in _DELIMITERS if delimiter in lines[start] and is_heading(_cells(lines[start], delimiter))),
            None)
        if heading is None:
            start += 1
            continue
        stop = start
        quoted = False
        while stop < len(lines) and (quoted or heading in lines[stop] or not lines[stop].strip()):
            if _FENCE.match(lines[stop]):
                break
            quoted ^= lines[stop].count('"') % 2 == 1
            stop += 1
        rows = csv.reader([f'{line}\n' for line in lines[start:stop]], delimiter=heading, skipinitialspace=True)
        table = TextTable([[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)])
        if len(table.rows) > 1:
            found.append(table)
        start = max(stop, start + 1)
    return found


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def key_value_table(text: str, is_key: Callable[[str], bool], first: Callable[[str], bool]) -> list[dict[str, str]]:
    """The records of lines 'key: value' (YAML, plain text).

    Args:
        text: The answer.
        is_key: Whether a key is known; other lines are ignored.
        first: Whether a key begins a record: one that names the entry.

    Returns:
        For each record its values by key.
    """
    records: list[dict[str, str]] = []
    for line in text.splitlines():
        match = _KEY_VALUE.match(line)
        if match is None or not is_key(match['key']):
            continue
        key, value = match['key'].strip(' *"\'`'), match['value'].strip().strip('*"\'`,')
        if not records or key in records[-1] or first(key) and any(first(other) for other in records[-1]):
            records.append({})
        records[-1][key] = value
    return records
