"""Parts of the pages that `citrusv data` writes."""
from collections.abc import Mapping, Sequence

from .. import __version__
from ..files.errors import IMAGE_ERRORS
from ..files.images import open_image, to_rgb
from ..files.rules import FileRules
from ..scoring.html_report.markup import escaped, html_table
from ..scoring.html_report.page import html_page
from ..scoring.html_report.report_cases import image_data_url
from .data_files import whole_file
from .step import VERDICTS


def write_page(path: str, title: str, head: str, sections: Mapping[str, str]) -> None:
    """Writes a page; `head` and the sections, by plain titles, are HTML."""
    page = html_page(title, head, sections, f'swift-citrusv {escaped(__version__)}')
    with whole_file(path) as part, open(part, 'w', encoding='utf-8', newline='\n') as file:
        file.write(page)


def page_head(title: str, tiles: Sequence[tuple[str, str, str]]) -> str:
    """A title and tiles of a name, a value and a note, as plain text."""
    cells = [
        f'<dt>{name}</dt><dd><strong>{value}</strong><span>{escaped(note)}</span></dd>' for name, value, note in tiles
    ]
    content = ''.join(f'<div class="tile">{cell}</div>' for cell in cells)
    return f'<h1>{escaped(title)}</h1>\n<dl class="tiles">{content}</dl>'


def steps_table(steps: Mapping[str, Mapping[str, int]]) -> str:
    """The rows of each step by verdict; the names are HTML."""
    columns = ('in', *VERDICTS)
    rows = [[name, *(f'{counts[column]:,}' for column in columns)] for name, counts in steps.items()]
    return html_table('Rows by step', ['step', *columns], rows)


def small_picture(reference: str, side: int, rules: FileRules | None = None) -> str:
    """An image of at most `side` pixels; '' if it cannot be opened."""
    try:
        image = to_rgb(open_image(reference, rules))
        image.thumbnail((side, side))
        return f'<img src="{image_data_url(image)}" alt="" width="{image.width}" height="{image.height}">'
    except IMAGE_ERRORS:
        return ''
