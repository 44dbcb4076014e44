"""Tables in the text of answers: cells, and comparison with markdown-it."""
import numpy as np
import pytest
from support.lab_reports import markdown

from swift_citrusv.scoring.documents.tables import parse_tables, split_markdown_row


def test_rows_of_markdown():
    assert split_markdown_row(r'| a \| b | c\\| |') == ['a | b', 'c\\\\', '']
    assert split_markdown_row('a | b | ') == ['a', 'b'] and split_markdown_row('| a | | |') == ['a', '', '']


def test_markdown_against_markdown_it():
    """On tables that follow the standard, markdown-it finds the same cells."""
    markdown_it = pytest.importorskip('markdown_it')
    reader = markdown_it.MarkdownIt('js-default')
    generator = np.random.default_rng(0)
    cells = ['5.2', r'a \| b', '白细胞', '', '<5', '10\\*9/L', '3.5 - 5.5', '↑', 'x y']
    checked = 0
    for _ in range(50):
        width = int(generator.integers(2, 6))
        rows = [[cells[i] for i in generator.integers(0, len(cells), width)] for _ in range(4)]
        # Rows without text are skipped by ours.
        rows = [['k', *row[1:]] for row in rows]
        text = 'Intro.\n\n' + markdown(rows[1:], rows[0]) + '\n\nEnd.'
        tokens = reader.parse(text)
        starts = [i for i, token in enumerate(tokens) if token.type in ('th_open', 'td_open')]
        expected = [tokens[i + 1].content for i in starts]
        found, = parse_tables(text)
        assert [cell for row in found.rows for cell in row] == expected and found.has_heading
        checked += len(expected)
    assert checked > 500
