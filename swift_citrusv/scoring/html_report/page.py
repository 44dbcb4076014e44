"""A page of sections: one self-contained HTML file without scripts."""
from collections.abc import Mapping
from importlib import resources

from .markup import escaped

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, head: str, sections: Mapping[str, str], footer: str) -> str:
    """The HTML of a page.

    Args:
        title: Plain text.
        head: HTML above the links to the sections.
        sections: HTML by plain titles.
        footer: HTML.
    """
    links = ''.join(f'<a href="#{_anchor(name)}">{escaped(name)}</a>' for name in sections)
    body = '\n'.join(f'<section id="{_anchor(name)}" aria-labelledby="{_anchor(name)}-title">'
                     f'<h2 id="{_anchor(name)}-title">{escaped(name)}</h2>\n{content}\n</section>'
                     for name, content in sections.items())  # yapf: disable
    header = f'<header>\n{head}\n<nav aria-label="Sections">{links}</nav>\n</header>'
    return html_document(title, f'{header}\n<main>\n{body}\n</main>\n<footer>{footer}</footer>')


def html_document(title: str, body: str) -> str:
    """The HTML of a page with the style of the reports, which loads nothing from elsewhere.

    Args:
        title: Plain text.
        body: HTML.
    """
    css = (resources.files(__package__) / 'report.css').read_text(encoding='utf-8')
    return f'''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
'''


def _anchor(name: str) -> str:
    return name.lower().replace(' ', '-')
