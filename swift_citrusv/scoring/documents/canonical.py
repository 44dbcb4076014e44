"""Canonical forms of lab report cells in Chinese and English: different notations of one value compare equal.

The paper canonicalises all predictions before comparison (section 5.1.1) without giving its rules; these are ours. They
do not unify synonyms or convert units: the judge handles those.
"""
import re
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from .abnormality import canonical_abnormality, known_label, split_flag
from .cell_text import plain_cell
from .units import canonical_unit, fold_case

Field = Literal['entry_name', 'result', 'reference', 'unit', 'abnormality']

_NUMBER = r'\d+(?:\.\d+)?'
_CHAIN = re.compile(r'\d+(?:\.\d+){2,}')
_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_INTERVAL = re.compile(rf'^[\[(]\s*(-?{_NUMBER})\s*[,;]\s*(-?{_NUMBER})\s*[\])]')
# Not before '/': there the power belongs to the unit.
_SCIENTIFIC = re.compile(rf'({_NUMBER})(?:[eE]|\s*[x×X*·]\s*10\s*(?:\^|\*\*?)\s*)([+-]?\d{{1,2}})(?![\d.]|\s*/)')
_ANY_NUMBER = re.compile(r'(?<![\d.])(?:\d+\.\d+|\.\d+)(?![\d]|\.\d)')
_PERCENT_RANGE = re.compile(rf'({_NUMBER})\s*%\s*(-{{1,3}}|~{{1,3}}|至|到|to)\s*(?={_NUMBER}\s*%)')
_RANGE = re.compile(rf'(?<![\d.^-])(-?{_NUMBER})\s*(-{{1,3}}|~{{1,3}}|至|到|to)\s*(-?{_NUMBER})(?!\.?\d|\s*-\s*\d)')
_DATE = re.compile(r'(?<!\d)(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})(?!\d)\s*日?')
_COMPARISONS = [(re.compile(rf'(?:{words})\s*(?=-?[\d.])', re.IGNORECASE), sign) for sign, words in (
    ('<=', r'小于等于|小于或等于|不大于|不超过|不高于|less than or equal to|at most|up to|=<'),
    ('>=', r'大于等于|大于或等于|不小于|不低于|不少于|greater than or equal to|at least|=>'),
    ('<', r'小于|低于|少于|less than|below|under'),
    ('>', r'大于|高于|多于|超过|greater than|more than|above|over'))]  # yapf: disable
_SPACE_AFTER_SIGN = re.compile(r'([<>]=?)\s+')
_WRAPPED = re.compile(r'[\[(]([^\[\]()]*)[\])]')
_SPACE = re.compile(r'(?<!\d)\s+|\s+(?!\d)')
_MEASURED = re.compile(rf'((?:[<>]=?)?-?{_NUMBER}(?:\.\.-?{_NUMBER})?)\s*([^\d\s.-].*|10\s*[\^*].*)')
_PLUSES = re.compile(r'\(?(?:(\+{2,4})|([1-4])\+|\+([1-4]))\)?')
_WORDS = {
    'negative': ('阴性', '阴', 'negative', 'neg', '(-)', '-', '阴性(-)', '-阴性', 'negative(-)', '阴性-', '(-)阴性'),
    'positive': ('阳性', '阳', 'positive', 'pos', '(+)', '+', '阳性(+)', 'positive(+)', '阳性+', '(+)阳性', '+阳性'),
    'weakly positive': ('弱阳性', 'weaklypositive', 'weakpositive', '弱阳'),
    '+-': ('±', '+-', '-+', '+/-', '-/+', '(±)', '(+-)', '(+/-)'),
    'not detected': ('未检出', '未检测到', 'notdetected', '未检到'),
    'normal': ('正常', 'normal'),
}  # yapf: disable
_WORD = {variant: word for word, variants in _WORDS.items() for variant in variants}
_EMPTY = {'', '--', '---', '/', '//', '\\', 'n/a', 'null', 'nan'}
_EMPTY_CELLS = {
    # 'Na' is sodium; 'none' and '无' are results of urinary casts.
    'entry_name': {'', '-', '--', '---', '/'},
    'result': _EMPTY,
    'reference': _EMPTY | {'-', '~', 'na', 'none'},
    'unit': _EMPTY | {'-', '~', 'na', 'none', '无', '无单位'},
    'abnormality': {'', '/', 'n/a', 'null'},
}  # yapf: disable
# Longer texts are not values; their numbers keep their notation. (A degenerate answer that repeats one digit would also
# take minutes.)
_MAX_VALUE = 400
# In a result '-' means negative, a long dash an empty cell.
_LONG_DASHES = re.compile('[—–―─━]+')
_NAME_MARKS = re.compile(r'^[\s*★☆△●○◆#^↑↓]+|[\s*★☆△●◆↑↓]+$')
_ORDINAL = re.compile(r'^\(?\d{1,3}[.,)]\s*(?=[^\d\s])')
_NAME_NOISE = re.compile(r'[\s\-_·\'"^,.:;]+')
# Except the power of ten of a unit.
_STARTS_WITH_VALUE = re.compile(r'(?!10\s*[\^*])[<>-]?[\d.]')
_ANSWER_CUE = re.compile(r'^(?:(?:final\s+)?answer|答案|答|回答|结果)\s*(?:is\b|是|为)?\s*:\s*', re.IGNORECASE)


@lru_cache(maxsize=65536)
def canonical_cell(text: str, field: Field) -> str:
    """The canonical form of a cell; '' if it is empty ('', '/', '--', 'N/A'; '-' except in a result or an abnormality).

    All fields: `plain_cell`, spaces matter only between digits, and case is ignored (except as in `fold_case`).

    - entry_name: ignores hyphens, dots, commas, quotes, marks of mutual recognition ('*', '★') and ordinals ('1.');
      brackets and their content are kept.
    - result, reference: numbers by value ('5.0', '5.00', '.5', '1,000', '5.2×10^3'); ranges as 'low..high' for any
      dash, tilde, '至' or 'to'; '≤', '<=' and '不大于' are equal; brackets around the whole are ignored; '阴性', '(-)' and
      'neg' are equal, as are '阳性', '(+)' and 'pos', and '++' and '2+'. The flag of a result is dropped. A unit after a
      number is in the form of `canonical_unit`.
    - unit: `canonical_unit`.
    - abnormality: `canonical_abnormality`.
    """
    if field == 'result' and _LONG_DASHES.fullmatch(text.strip()):
        return ''
    text = plain_cell(text)
    if text.casefold() in _EMPTY_CELLS[field]:
        return ''
    if field == 'entry_name':
        return canonical_name(text)
    if field == 'unit':
        return canonical_unit(text)
    if field == 'abnormality':
        return canonical_abnormality(text)
    return _canonical_value(split_flag(text)[0] if field == 'result' else text)


def canonical_name(text: str) -> str:
    """The canonical name of a test; see `canonical_cell`.

    Args:
        text: Output of `plain_cell`.
    """
    text = _NAME_MARKS.sub('', text.replace('ß', 'β'))
    text = _ORDINAL.sub('', text).casefold()
    return _NAME_NOISE.sub('', text.replace('[', '(').replace(']', ')'))


def name_parts(text: str) -> set[str]:
    """The parts of a name that may stand for it: the whole, the text outside brackets, and the text in each bracket.

    Args:
        text: Output of `canonical_name`.
    """
    parts = {text, re.sub(r'\([^()]*\)', '', text), *re.findall(r'\(([^()]*)\)', text)}
    # A single character, as in 'lipoprotein(a)', is not a name.
    return {part for part in parts if len(part) > 1 or part == text}


def same_cell(field: Field, first: str, second: str, first_unit: str = '', second_unit: str = '') -> bool:
    """Whether two cells of a field have the same meaning.

    Args:
        field: The field of both cells.
        first, second: The cells as written. Flags of results differ only if one is high and the other low.
        first_unit, second_unit: Canonical units of the same lab results: a result or reference may repeat its unit.
    """
    if field in ('result', 'reference'):
        one = _without_unit(canonical_cell(first, field), first_unit)
        two = _without_unit(canonical_cell(second, field), second_unit)
    else:
        one, two = canonical_cell(first, field), canonical_cell(second, field)
    return one == two and not (field == 'result' and _flags_contradict(first, second))


def same_short_answer(first: str, second: str) -> bool:
    """Whether two short answers of any field are equal: the exact match of simple questions.

    They match as a result (numbers, ranges, units, flags), a date ('2024年3月5日', '2024-03-05'), the name of a test, or
    an abnormality label ('偏高', '↑'). A leading 'Answer:' and a final full stop are ignored.
    """
    one, two = (_ANSWER_CUE.sub('', plain_cell(text)).strip(' "\';,').rstrip('.') for text in (first, second))
    if one == two:
        return True
    if not one or not two:
        return False
    labels = [known_label(text.casefold()) for text in (one, two)]
    if labels[0] is not None and labels[0] == labels[1]:
        return True
    values = [_canonical_value(split_flag(_DATE.sub(_iso_date, text))[0]) for text in (one, two)]
    if values[0] and values[0] == values[1]:
        return not _flags_contradict(one, two)
    if not any(_STARTS_WITH_VALUE.match(text) for text in (one, two)) and canonical_unit(one) == canonical_unit(two):
        return True
    # Names ignore case and characters that matter in numbers.
    if any(re.match(r'[<>-]?[\d.]', text) or 'M' in fold_case(text) for text in (one, two)):
        return False
    names = [canonical_name(text) for text in (one, two)]
    return bool(names[0]) and names[0] == names[1]


def _without_unit(value: str, unit: str) -> str:
    return value.removesuffix(f' {unit}') if unit else value


def _flags_contradict(first: str, second: str) -> bool:
    flags = {split_flag(plain_cell(text))[1] for text in (first, second)}
    return flags == {'high', 'low'}


def _canonical_value(text: str) -> str:
    """The canonical form of a result, a reference or a short answer (output of `plain_cell`)."""
    text = text.strip(' ;,:').rstrip('.')
    if len(text) > _MAX_VALUE:
        return _SPACE.sub('', fold_case(text))
    bare = fold_case(''.join(text.split()))
    if bare in _WORD:
        return _WORD[bare]
    if match := _WRAPPED.fullmatch(text):
        inner = match[1].strip()
        if not _INTERVAL.match(text):
            text = inner
    pluses = _PLUSES.fullmatch(''.join(text.split()))
    if pluses:
        return f'{len(pluses[1]) if pluses[1] else pluses[2] or pluses[3]}+'
    text = _ranges(_comparisons(_numbers(text)))
    if match := _MEASURED.fullmatch(text):
        unit = canonical_unit(match[2])
        return f'{match[1]} {unit}' if unit else match[1]
    return _SPACE.sub('', fold_case(text.replace('μ', 'u').replace('×', 'x')))


def _numbers(text: str) -> str:
    text = _INTERVAL.sub(r'\1~\2', text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(',', ''), text)
    text = _SCIENTIFIC.sub(lambda match: _plain_number(Decimal(match[1]).scaleb(int(match[2]))), text)
    if _CHAIN.search(text):
        return text
    return _ANY_NUMBER.sub(lambda match: _plain_number(Decimal(match[0])), text)


def _plain_number(number: Decimal) -> str:
    text = format(number, 'f')
    return text.rstrip('0').rstrip('.') if '.' in text else text


def _comparisons(text: str) -> str:
    for pattern, sign in _COMPARISONS:
        text = pattern.sub(sign, text)
    return _SPACE_AFTER_SIGN.sub(r'\1', text)


def _ranges(text: str) -> str:
    return _RANGE.sub(_range, _PERCENT_RANGE.sub(r'\1\2', text))


def _range(match: re.Match[str]) -> str:
    low, dash, high = match[1], match[2], match[3]
    # After a negative number the second of two dashes is a sign if the range then rises.
    if dash == '--' and low.startswith('-') and Decimal(f'-{high}') > Decimal(low):
        high = f'-{high}'
    return f'{low}..{high}'


def _iso_date(match: re.Match[str]) -> str:
    return f'{match[1]}-{int(match[2]):02d}-{int(match[3]):02d}'
