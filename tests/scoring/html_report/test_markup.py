"""Texts as HTML: escaped, shortened, collapsed."""
from swift_citrusv.scoring.html_report.markup import escaped, shortened, text_block


def test_escaped():
    for text, expected in {
            'a<b>&"\'': 'a&lt;b&gt;&amp;&quot;&#x27;',
            '\ud800x\udfff': '\\ud800x\\udfff',
            'a\r\nb\rc\nd\te': 'a\nb\nc\nd\te',
            '\x00\x7f\x9f\ufffe': '\\x00\\x7f\\x9f\\ufffe',
            'é 肝 😀': 'é 肝 😀',
    }.items():
        assert escaped(text) == expected, ascii(text)


def test_long_texts_collapse():
    for text, collapses in (('word ' * 50, False), ('word ' * 80, True), ('\n' * 9, True), ('', False)):
        assert ('<details' in text_block(text)) == collapses, text
    found = text_block('x' * 1_000_000)
    assert len(found) < 5000 and 'all 1,000,000 characters' in found and '997,000 more characters are cut off' in found
    assert shortened('a  b\nc', 10) == 'a b c' and shortened('abcdef', 4) == 'abc…'
    assert len(shortened('é' * 10**6, 9)) == 9
