"""HTML elements of the report. Everything from files is escaped."""
import html
import re
from collections.abc import Sequence

# Not allowed in HTML: control characters, lone surrogates and noncharacters.
_INVALID = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
# A text longer than these collapses to a preview; a text over `_MAX_CHARACTERS` is truncated.
_MAX_OPEN, _MAX_OPEN_LINES, _PREVIEW, _MAX_CHARACTERS = 320, 6, 180, 3000


def escaped(text: str) -> str:
    """Escapes text for an element or a double-quoted attribute; invalid characters become '\\x00', '\\ud800'."""
    lines = text.replace('\r\n', '\n').replace('\r', '\n')
    return html.escape(_INVALID.sub(lambda found: ascii(found.group())[1:-1], lines))


def shortened(text: str, most: int) -> str:
    """The text as one line of at most `most` characters."""
    line = ' '.join(text[:4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else f'{line[:most - 1].rstrip()}…'


def text_block(text: str) -> str:
    """A text as a block. A long text shows a preview and expands on a click; a very long one is truncated.

    Each block has its own direction, so that Arabic is laid out from right to left and does not affect its neighbours.
    """
    if len(text) <= _MAX_OPEN and text.count('\n') < _MAX_OPEN_LINES:
        return f'<div class="text" dir="auto">{escaped(text)}</div>'
    start = '\n'.join(text[:_PREVIEW].split('\n')[:_MAX_OPEN_LINES])
    rest = len(text) - _MAX_CHARACTERS
    cut = f'<div class="dim">{rest:,} more characters are cut off.</div>' if rest > 0 else ''
    return (f'<details class="long"><summary><span class="text start" dir="auto">{escaped(start)}…</span>'
            f'<span class="more">all {len(text):,} characters</span><span class="less">less</span></summary>'
            f'<div class="text" dir="auto">{escaped(text[:_MAX_CHARACTERS])}</div>{cut}</details>')


def html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = '') -> str:
    """A table in a box with its own horizontal scrolling.

    Args:
        caption: Plain text.
        header: HTML of the column headers.
        rows: HTML of the cells. The first cell of each row is its header.
        kind: CSS class of the table: 'words' left-aligns the last column.
    """
    head = ''.join(f'<th scope="col">{cell}</th>' for cell in header)
    body = '\n'.join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
                     for first, *others in rows)  # yapf: disable
    # Outside the scrolling box, so that a narrow screen does not cut off the caption.
    return (f'<p class="caption">{escaped(caption)}</p><div class="scroll" role="region" tabindex="0" '
            f'aria-label="{escaped(caption)}"><table class="{kind}" aria-label="{escaped(caption)}">\n'
            f'<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>')


def collapsible(summary: str, content: str) -> str:
    """HTML that expands on a click on `summary` (plain text)."""
    return f'<details class="fold"><summary>{escaped(summary)}</summary>{content}</details>'


def definition_list(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of terms (plain text) and their descriptions (HTML)."""
    return f'<dl>{"".join(f"<div><dt>{escaped(name)}</dt><dd>{content}</dd></div>" for name, content in pairs)}</dl>'
