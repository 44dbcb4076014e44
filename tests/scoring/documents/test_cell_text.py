"""Cell text without markup."""
from swift_citrusv.scoring.documents.cell_text import plain_cell


def test_plain_cells():
    for text, plain in [
        ('a<br/>b', 'a b'), ('<b>5</b>', '5'), ('<5 and >3', '<5 and >3'), ('&lt;5', '<5'), (r'a\|b\_c', 'a|b_c'),
        ('**bold**', 'bold'), ('10*9/L', '10*9/L'), ('a\u200bb', 'ab'), ('Ⅱ', 'II'), ('Ca²⁺', 'Ca^2+'), ('⬆️', '↑'),
        ('《x》', '《x》'), ('≥5', '>=5'), ('\n a \t b', 'a b'), ('', ''), ('`5.2`', '5.2'),
    ]:  # yapf: disable
        assert plain_cell(text) == plain, text
