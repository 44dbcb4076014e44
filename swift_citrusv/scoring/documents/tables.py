"""Parses the Markdown and HTML tables of an answer."""
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_PIPE = re.compile(r'(?<!\\)((?:\\\\)*)\|')
_DELIMITER = re.compile(r'\s*:?-+:?\s*')
_FENCE = re.compile(r'^\s*(?:```|~~~)')
_HTML_TABLE = re.compile(r'<table\b.*?(?:</table\s*>|\Z)', re.IGNORECASE | re.DOTALL)
# More than any page needs; a bound on memory.
_MAX_SPAN = 100


@dataclass
class TextTable:
    """A parsed table.

    Attributes:
        rows: The cells of each row, without delimiter rows; rows may differ in length.
        has_heading: Whether the first row is a heading: a delimiter row follows it, or it has `<th>` cells.
        is_html: Whether the table was HTML.
    """
    rows: list[list[str]] = field(default_factory=list)
    has_heading: bool = False
    is_html: bool = False


def parse_tables(text: str) -> list[TextTable]:
    """The tables of an answer in their order; text around them is ignored.

    A Markdown table is a run of lines with an unescaped '|'. Fences, blank lines inside, missing delimiter rows and
    missing outer pipes are accepted. A delimiter row after the second row of a run makes the row above it the heading
    of a new table. HTML tables are parsed too, with row and column spans.
    """
    found = []
    end = 0
    for match in _HTML_TABLE.finditer(text):
        found += _markdown_tables(text[end:match.start()]) + _html_tables(match[0])
        end = match.end()
    return found + _markdown_tables(text[end:])


def split_markdown_row(line: str) -> list[str]:
    r"""The cells of a line of a Markdown table; `\|` is a literal '|' inside a cell."""
    line = line.replace('\0', '').strip()
    cells = _PIPE.sub('\\1\0', line).split('\0')
    if len(cells) > 1 and not cells[0].strip():
        cells = cells[1:]
    if len(cells) > 1 and not cells[-1].strip() and line.endswith('|'):
        cells = cells[:-1]
    return [cell.replace('\\|', '|').strip() for cell in cells]


def _markdown_tables(text: str) -> list[TextTable]:
    tables: list[TextTable] = []
    table: TextTable | None = None
    for line in text.splitlines():
        # The '>' of a block quote is not part of the table.
        line = re.sub(r'^\s*>\s?(?=.*\|)', '', line)
        if not line.strip() or _FENCE.match(line):
            continue
        if not _PIPE.search(line):
            table = None
            continue
        cells = split_markdown_row(line)
        if table is None:
            table = TextTable()
            tables.append(table)
        if _is_delimiter(cells, table):
            if len(table.rows) == 1:
                table.has_heading = True
            elif table.rows:
                table = TextTable([table.rows.pop()], has_heading=True)
                tables.append(table)
        elif any(cells):
            table.rows.append(cells)
    return [table for table in tables if table.rows]


def _is_delimiter(cells: list[str], table: TextTable) -> bool:
    if not all(_DELIMITER.fullmatch(cell) for cell in cells):
        return False
    # A row of single dashes further down holds results: empty or negative ones.
    return any(len(cell.strip(': ')) > 1 for cell in cells) or (len(table.rows) == 1 and not table.has_heading)


class _HtmlTables(HTMLParser):
    """Collects the cells of all tables; a nested table is a table of its own."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[TextTable] = []
        self._open: list[tuple[TextTable, dict[int, tuple[int, str]]]] = []
        self._cell: list[str] | None = None
        self._spans = (1, 1)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == 'table':
            self._end_cell()
            self._open.append((TextTable(is_html=True), {}))
            self.tables.append(self._open[-1][0])
        elif tag == 'tr' and self._open:
            self._end_row()
            self._open[-1][0].rows.append([])
        elif tag in ('td', 'th') and self._open:
            self._end_cell()
            table = self._open[-1][0]
            if not table.rows:
                table.rows.append([])
            if tag == 'th' and len(table.rows) == 1:
                table.has_heading = True
            self._cell = []
            spans = dict(attrs)
            self._spans = _span(spans.get('rowspan')), _span(spans.get('colspan'))
        elif self._cell is not None:
            self._cell.append(' ' if tag == 'br' else '^' if tag == 'sup' else '')

    def handle_endtag(self, tag: str) -> None:
        if tag in ('td', 'th'):
            self._end_cell()
        elif tag in ('tr', 'table'):
            self._end_row()
            if tag == 'table' and self._open:
                self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def close(self) -> None:
        super().close()
        self._end_row()

    def _end_row(self) -> None:
        self._end_cell()
        if self._open and self._open[-1][0].rows:
            table, spanning = self._open[-1]
            self._fill(table.rows[-1], spanning)

    def _end_cell(self) -> None:
        if self._cell is None:
            return
        text = ' '.join(''.join(self._cell).split())
        self._cell = None
        table, spanning = self._open[-1]
        row = table.rows[-1]
        self._fill(row, spanning)
        rows, columns = self._spans
        if rows > 1:
            for column in range(len(row), len(row) + columns):
                spanning[column] = (rows - 1, text if column == len(row) else '')
        # A cell that spans several columns fills the first of them.
        row += [text, *[''] * (columns - 1)]

    def _fill(self, row: list[str], spanning: dict[int, tuple[int, str]]) -> None:
        """Adds the cells of earlier rows that span this row."""
        while len(row) in spanning:
            rows, text = spanning.pop(len(row))
            if rows > 1:
                spanning[len(row)] = (rows - 1, text)
            row.append(text)


def _span(value: str | None) -> int:
    return min(max(int(value), 1), _MAX_SPAN) if value and value.isdecimal() else 1


def _html_tables(text: str) -> list[TextTable]:
    parser = _HtmlTables()
    parser.feed(text)
    parser.close()
    tables = []
    for table in parser.tables:
        table.rows = [row for row in table.rows if any(row)]
        if table.rows:
            tables.append(table)
    return tables
