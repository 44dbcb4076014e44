"""Scores of open answers: normalised exact match, token F1 and token recall."""
import re
import unicodedata
from collections import Counter
from decimal import Decimal

_CJK = '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
_LETTER = rf'(?:(?![{_CJK}])[^\W\d_])'
# A number with its sign, a word with digits ('t2') and a final sign ('her2+'), a Chinese character, or a comparison or
# percent sign. A minus belongs to a number unless a number or word ends before it: '2-3' is a range, 'covid-19' a name.
_TOKEN = re.compile(rf'(?:(?<![\w.%)\]])-)?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+(?!\w))?|'
                    rf'{_LETTER}(?:{_LETTER}|\d)*(?:[+-](?!\w))?|[{_CJK}]|[<>]=?|%')
_THOUSANDS = re.compile(r'(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)')
_CHINESE_NUMBER = re.compile('[一二两三四五六七八九]?十[一二三四五六七八九]?|[零〇一二两三四五六七八九]')
_CHINESE_DIGITS = {'零': 0, '〇': 0, '一': 1, '二': 2, '两': 2, '三': 3, '四': 4, '五': 5, '六': 6, '七': 7, '八': 8,
                   '九': 9}  # yapf: disable
_NUMBER_WORDS = (
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen '
    'seventeen eighteen nineteen twenty').split()
_WORDS = {**{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}, 'percent': '%'}
# '1e-3' is 0.001; larger powers stay as they are written.
_MAX_POWER = 30
_ARTICLES = ('a', 'an', 'the')
_SIGNS = str.maketrans({'≤': '<=', '≥': '>=', '–': '-', '—': '-', '−': '-', '‐': '-', '‑': '-', '’': "'", '‘': "'"})
_MINUS = re.compile(r'\b(?:minus|negative)\s+(?=\.?\d)|(?:0下|负)\s*(?=\.?\d)')


def answer_tokens(text: str, articles: bool = False) -> list[str]:
    """The normalised words of an answer.

    As in SQuAD's evaluation (https://rajpurkar.github.io/SQuAD-explorer): lower case, without punctuation and articles.
    In addition, full-width forms are normalised (NFKC); each Chinese character is a word; numbers have one form
    ('1,000', '2.0', 'two' and '两' become '1000', '2', '2' and '2'; 'minus 2.5', '−2.5' and '负2.5' become '-2.5'; '1e-3'
    becomes '0.001'); other hyphens and slashes separate words; '%', '<', '>'
    and the final sign of a word ('HER2-') are kept, because they change the meaning; so is a final article ('vitamin
    A').

    Args:
        text: An answer.
        articles: Whether to keep articles.
    """
    text = unicodedata.normalize('NFKC', text).translate(_SIGNS).casefold()
    text = _THOUSANDS.sub(lambda match: match[0].replace(',', ''), text).replace("'", '')
    text = _MINUS.sub(' -', _CHINESE_NUMBER.sub(_western, text))
    words = [_WORDS.get(word, word) for word in _TOKEN.findall(text)]
    return [_number(word) for i, word in enumerate(words)
            if articles or word not in _ARTICLES or i == len(words) - 1]  # yapf: disable


def _western(match: re.Match[str]) -> str:
    tens, ten, ones = match[0].rpartition('十')
    number = _CHINESE_DIGITS[ones] if ones else 0
    return str(number + 10 * (_CHINESE_DIGITS[tens] if tens else 1) if ten else number)


def _number(word: str) -> str:
    digits = word.removeprefix('-')
    if not digits or not (digits[0].isdecimal() or digits[0] == '.'):
        return word
    base, exponent, power = digits.partition('e')
    if exponent and abs(int(power)) < _MAX_POWER:
        digits = f'{Decimal(base).scaleb(int(power)):f}'
    whole, _, rest = digits.partition('.')
    rest = rest.rstrip('0')
    number = (whole.lstrip('0') or '0') + ('.' + rest if rest else '')
    return f'-{number}' if word[0] == '-' and number != '0' else number


def same_words(answer: str, reference: str) -> bool:
    """Whether two answers have the same words, regardless of spaces ('x-ray', 'X ray', 'xray').

    Two texts without words must be identical.
    """
    first, second = answer_tokens(answer), answer_tokens(reference)
    if not first and not second:
        return answer.strip() == reference.strip()
    return _joined(first) == _joined(second)


def _joined(words: list[str]) -> str:
    # Keeps the space between numbers: '2, 3' is not '23'.
    return re.sub(r'(?<!\d) | (?!\d)', '', ' '.join(words))


def token_overlap(answer: str, reference: str) -> tuple[float, float]:
    """Token F1 and token recall, each in [0, 1].

    F1 is SQuAD's, on multisets of words. Recall is the share of the reference's words in the answer, LLaVA-Med's
    measure for open questions (https://arxiv.org/abs/2306.00890). Without words in either text, both scores are 1 if
    neither has any, else 0.
    """
    words, expected = answer_tokens(answer), answer_tokens(reference)
    if not words or not expected:
        return (float(words == expected), ) * 2
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected)), common / len(expected)
