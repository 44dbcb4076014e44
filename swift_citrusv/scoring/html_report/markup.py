"""Text and tables as HTML: what comes from files stays text, whatever it holds."""
import html
import re
from collections.abc import Sequence

# What HTML cannot hold: control characters, lone surrogates and the last two characters of a plane.
_UNSHOWABLE = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
# A text is folded from here on, to so many characters, and cut where it is longer still.
_MAX_OPEN, _START, _MAX_LINES, _MAX_SHOWN = 320, 180, 6, 3000


def escaped(text: str) -> str:
    """Text for an element or an attribute in double quotes; characters that HTML cannot hold as '\\x00', '\\ud800'."""
    lines = text.replace('\r\n', '\n').replace('\r', '\n')
    return html.escape(_UNSHOWABLE.sub(lambda found: ascii(found.group())[1:-1], lines))


def shortened(text: str, most: int) -> str:
    """One line of at most so many characters."""
    line = ' '.join(text[:4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else f'{line[:most - 1].rstrip()}…'


def folded(text: str) -> str:
    """A text as a block. A long one shows its beginning, and the rest on a click; of a huge one the end is cut off.

    Each block finds its own direction, so that Arabic stands as it should and turns nothing around it.
    """
    if len(text) <= _MAX_OPEN and text.count('\n') < _MAX_LINES:
        return f'<div class="text" dir="auto">{escaped(text)}</div>'
    start = '\n'.join(text[:_START].split('\n')[:_MAX_LINES])
    rest = len(text) - _MAX_SHOWN
    cut = f'<div class="dim">{rest:,} more characters are cut off here.</div>' if rest > 0 else ''
    return (f'<details class="long"><summary><span class="text start" dir="auto">{escaped(start)}…</span>'
            f'<span class="more">all {len(text):,} characters</span><span class="less">less</span></summary>'
            f'<div class="text" dir="auto">{escaped(text[:_MAX_SHOWN])}</div>{cut}</details>')


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = '') -> str:
    """A table in a box that scrolls sideways by itself.

    Args:
        caption: What it shows; text.
        header: Of the columns; HTML.
        rows: Cells; HTML. The first of each row is its header.
        kind: A class of the table: 'words' for cells of text, which stand to the left.
    """
    head = ''.join(f'<th scope="col">{cell}</th>' for cell in header)
    body = '\n'.join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
                     for first, *others in rows)  # yapf: disable
    # The caption stands outside of the box, or a narrow screen would cut it off.
    return (f'<p class="caption">{escaped(caption)}</p><div class="scroll" role="region" tabindex="0" '
            f'aria-label="{escaped(caption)}"><table class="{kind}" aria-label="{escaped(caption)}">\n'
            f'<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>')


def fold(summary: str, content: str) -> str:
    """HTML that a click on a text opens."""
    return f'<details class="fold"><summary>{escaped(summary)}</summary>{content}</details>'


def items(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names (text) and what they mean (HTML)."""
    return f'<dl>{"".join(f"<div><dt>{escaped(name)}</dt><dd>{content}</dd></div>" for name, content in pairs)}</dl>'
