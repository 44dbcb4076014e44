"""Abnormality of lab results: label cells ('偏高', 'H', 'normal') and flags beside a value ('5.2 ↑')."""
import re

from .cell_text import plain_cell

_DIRECTION_WORDS = {
    'high': ('↑+|偏高|升高|增高|过高|增加|增多|上升|高|highly|high|elevated|increased|raised|above|>'),
    'low': ('↓+|偏低|降低|减低|过低|减少|下降|低|low|decreased|reduced|below|<'),
    'normal': '未见明显异常|无明显异常|未见异常|没有异常|无异常|不异常|正常|not abnormal|no abnormality|unremarkable|'
              'within (?:the )?(?:normal |reference )?(?:limits|range|interval)|normal',
    'abnormal': '异常|abnormality|abnormally|abnormal',
}  # yapf: disable
# These count only if they are the whole label.
_WHOLE_LABELS = {
    'h': 'high', 'hh': 'high', 'l': 'low', 'll': 'low', 'n': 'normal', '-': 'normal', '--': 'normal', '否': 'normal',
    'no': 'normal', 'false': 'normal', '无': 'normal', 'none': 'normal', '是': 'abnormal', 'yes': 'abnormal',
    'true': 'abnormal', 'a': 'abnormal', '*': 'abnormal', '+': 'abnormal', 'wnl': 'normal'
}  # yapf: disable
_WORD = re.compile('|'.join(f'(?P<{name}>{words})' for name, words in
                            sorted(_DIRECTION_WORDS.items(), key=lambda item: item[0] != 'normal')))  # yapf: disable
# Words that may accompany a direction without changing it.
_FILLER = re.compile(
    r'参考范围|参考区间|参考值|正常范围|正常值|范围|结果|数值|水平|明显|显著|轻度|中度|重度|略微|稍|略|于|在|内|值|的|为|是|上限|'
    r'下限|slightly|mildly|moderately|markedly|significantly|critically|result|value|level|reference|range|interval|'
    r'limits?|upper|lower|than|the|of|is|in|\b(?:hh?|ll?|n)\b|[\W_]')

_NUMBER_BEFORE = r'(?<=[\d%)+.])\s*'
_WORDS = r'(?i:偏高|偏低|升高|降低|增高|减低|高|低|high|low)'
# Capitals only: '24h' means hours.
_LETTERS = r'(?:HH|LL|H|L)'
_FLAG_AFTER = re.compile(rf'(?:\s*[\[(]\s*(?:[↑↓]+|{_WORDS}|{_LETTERS})\s*[\])]|\s*[↑↓]+|{_NUMBER_BEFORE}(?:{_WORDS}|'
                         rf'{_LETTERS}|\*))\s*$')  # yapf: disable
_FLAG_BEFORE = re.compile(rf'^\s*(?:[↑↓]+\s*|(?:{_WORDS}|{_LETTERS}\s|\*)\s*(?=[<>\d.-]))')


def canonical_abnormality(text: str) -> str:
    """'high', 'low', 'normal', 'abnormal', or else the label itself in lower case; '' for an empty label.

    '高', '偏高', '↑', 'H', 'high', '异常(升高)' and 'above the reference range' are high; low is analogous. '-', 'N', '否'
    and 'no' are normal; '异常', '*', '是' and 'yes' are abnormal without a direction. A label with further content
    ('不高', '偏高或正常') is kept.
    """
    text = plain_cell(text).casefold()
    whole = _WHOLE_LABELS.get(text.strip('()[] .'), None) if text else ''
    return whole if whole is not None else known_label(text) or ''.join(text.split())


def known_label(text: str) -> str | None:
    """Like `canonical_abnormality`, but None for ambiguous labels such as '-', 'H' and 'yes', and for any other text.

    Args:
        text: Output of `plain_cell`, in lower case.
    """
    found = {str(match.lastgroup) for match in _WORD.finditer(text)}
    if not found or _FILLER.sub('', _WORD.sub(' ', text)):
        return None
    directions = found - {'abnormal'} if len(found) > 1 else found
    if len(directions) > 1:
        # 'above normal', '高于正常值': the direction counts; 'high or low' has none.
        directions -= {'normal'}
    return directions.pop() if len(directions) == 1 else None


def split_flag(text: str) -> tuple[str, str]:
    """Splits a result into its value and its flag: 'high', 'low', 'abnormal' or ''.

    Flags are arrows at either end, and H, L, HH, LL, 高, 低, high, low and '*' beside a number, bare or in brackets:
    '5.2 ↑', '5.2(H)', '↑5.2', '5.2 偏高'. The L of '5.2 mmol/L' is not a flag. A lone flag has an empty value.

    Args:
        text: Output of `plain_cell`.
    """
    found: list[str] = []
    for pattern in (_FLAG_AFTER, _FLAG_BEFORE):
        while match := pattern.search(text):
            found.append(match[0].strip(' []()'))
            text = text[:match.start()] + text[match.end():]
    kinds = {canonical_abnormality(flag) for flag in found}
    directions = kinds - {'abnormal'} or kinds
    return text.strip(), directions.pop() if len(directions) == 1 else ''
