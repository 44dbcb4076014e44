"""Cell text without markup: removes HTML, LaTeX and Markdown, and maps look-alike code points to one character."""
import html
import re
import unicodedata

_BREAK = re.compile(r'<br\s*/?>', re.IGNORECASE)
_RAISED = re.compile(r'<sup>\s*([^<>]*?)\s*</sup>', re.IGNORECASE)
# Only known tag names: '<5 and >3' is not a tag.
_TAG = re.compile(r'</?(?:b|i|u|s|em|strong|span|font|p|div|mark|small|code|sub|sup|center)(?:\s[^<>]*)?/?>',
                  re.IGNORECASE)  # yapf: disable
_LATEX_GROUP = re.compile(r'\\(?:text|mathrm|mathbf|mathit|textbf|operatorname)\s*\{([^{}]*)\}')
_LATEX_POWER = re.compile(r'\^\s*\{\s*([^{}]*?)\s*\}')
_LATEX = {
    'times': '×', 'cdot': '·', 'mu': 'μ', 'uparrow': '↑', 'downarrow': '↓', 'leq': '≤', 'geq': '≥', 'le': '≤',
    'ge': '≥', 'lt': '<', 'gt': '>', 'sim': '~', 'pm': '±', 'alpha': 'α', 'beta': 'β', 'gamma': 'γ', 'delta': 'δ',
    'lambda': 'λ', 'kappa': 'κ', 'circ': '°'
}  # yapf: disable
_LATEX_NAME = re.compile(r'\\(' + '|'.join(sorted(_LATEX, key=len, reverse=True)) + r')(?![A-Za-z])\s?')
_ESCAPED = re.compile(r'\\([!-/:-@\[-`{-~])')
_EMPHASIS = re.compile(r'^\s*(\*\*\*|\*\*|__|``|`)(.+)\1\s*$', re.DOTALL)
_SUPERSCRIPTS = '⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻'
_SUPERSCRIPT = re.compile(f'[{_SUPERSCRIPTS}]+')
_PLAIN_DIGITS = str.maketrans(_SUPERSCRIPTS, '0123456789+-')

_SIGNS = {
    '-': '‐‑‒–—―−﹣─━',
    '~': '〜∼˜～∽',
    '<=': '≤≦⩽',
    '>=': '≥≧⩾',
    '↑': '⬆⇧🔺▲🡅⭡',
    '↓': '⬇⇩🔻▼🡇⭣',
    '^': 'ˆ∧',
    '·': '⋅•∙・‧',
    '×': '✕✖╳⨯',
    '[': '【〔',
    ']': '】〕',
    ',': '、',
    '.': '。',
    ':': '∶',
    '"': '“”„«»',
    "'": '‘’‚′',
    '': '\0\u200b\u200c\u200d\u2060\ufeff\ufe0e\ufe0f\u00ad',
}
_SIGN = str.maketrans({variant: sign for sign, variants in _SIGNS.items() for variant in variants})


def plain_cell(text: str) -> str:
    """A cell or a short answer without markup, with one code point per character and single spaces.

    Removes HTML tags, Markdown escapes, and emphasis around the whole text; `<br>` becomes a space; `<sup>9</sup>`,
    `⁹` and `^{9}` become `^9`; common LaTeX symbols are converted. Full-width forms follow NFKC; dashes become '-',
    tildes '~', '≤' becomes '<='; Chinese brackets and punctuation become ASCII. Letters keep their case.
    """
    text = html.unescape(text)
    text = _RAISED.sub(r'^\1', _BREAK.sub(' ', text))
    text = _TAG.sub('', text)
    if '\\' in text or '$' in text:
        text = _LATEX_GROUP.sub(r'\1', text)
        text = _LATEX_NAME.sub(lambda match: _LATEX[match[1]], text)
        text = _ESCAPED.sub(r'\1', text).replace('$', '')
    text = _LATEX_POWER.sub(r'^\1', text)
    if match := _EMPHASIS.match(text):
        text = match[2]
    text = _SUPERSCRIPT.sub(lambda match: '^' + match[0].translate(_PLAIN_DIGITS), text)
    text = unicodedata.normalize('NFKC', text.translate(_SIGN)).translate(_SIGN)
    return ' '.join(text.split())
