"""Classifies answers as yes or no, in English and Chinese."""
import re

from .final_answer import last_boxed, strip_markup, text_after_cue
from .open_answers import answer_tokens
from .polarity import concluded_word, polarity

YES = frozenset('yes yeah yep true correct affirmative'.split())
NO = frozenset('no nope false incorrect'.split())
_YES_ZH = re.compile('是的|是$|是(?=[,。.;!\\s])|对的?(?=$|[,。.;!\\s])|正确|有(?!关|些|无|没有|可能|待|时)|存在|包含|可以|能够|属于')
_NO_ZH = re.compile('不是|没有(?!答案|足够|办法|把握)|否|不存在|不包含|不正确|错误?(?=$|[,。.;!的\\s])|不对|'
                    '无(?!法|从|关)|不可以|不能(?!确定|判断|肯定|排除)|不属于|不(?=$|[,。.;!\\s])|没(?=$|[,。.;!\\s])')
_YES_OR_NO = re.compile(r'(?:yes|true)\s*(?:/|or|and)\s*(?:no|false)\b|(?:no|false)\s+(?:or|and)\s+yes\b',
                        re.IGNORECASE)
_NO_WHAT = 'idea way answer comment information opinion doubt question'.split()


def yes_or_no(text: str, question: str = '') -> str | None:
    """What an answer to a yes-or-no question says.

    1. The first word, of what follows 'the answer is' or of the whole answer. 'True' and 'correct' mean yes, 'false'
       and 'incorrect' no. In Chinese '是', '有', '正确' and '存在' mean yes; '否', '没有', '无', '不是', '错误' and '不存在' mean no;
       '是否', '无法判断' and '不能确定' mean neither.
    2. The word with which an argument ends: '..., so yes'.
    3. A statement (`polarity`): 'Not seen', 'There is no pneumothorax'.

    Args:
        text: The answer without reasoning.
        question: The question, for statements; '' where it is not known.

    Returns:
        'yes', 'no', 'ambiguous' for 'yes or no', 'yes and no' and contradictions, or None for any other answer.
    """
    inside = last_boxed(text)
    text = strip_markup(inside if inside is not None else text)
    for part in filter(None, (text_after_cue(text), text)):
        if _YES_OR_NO.match(part):
            return 'ambiguous'
        found = _first_word(part)
        if found:
            return found
    word = concluded_word(text)
    return (_first_word(word) if word else None) or polarity(text, question)


def _first_word(part: str) -> str | None:
    words = answer_tokens(part)
    if words and words[0] in YES:
        return 'yes'
    if words and words[0] in NO and (len(words) == 1 or _is_alone(part)):
        return 'no'
    part = part.lstrip(' "\'“”(')
    # '是肺炎' means yes; '是否' and '是什么' are questions.
    if _YES_ZH.match(part) or re.match('是(?!否|不是|什么|哪)', part):
        return 'yes'
    if _NO_ZH.match(part):
        return 'no'
    return None


def _is_alone(part: str) -> bool:
    """Whether a 'no' at the start answers: before punctuation or a denial, not 'No idea', 'No. 3' or 'No doubt'."""
    rest = re.sub(r'^\W*\w+', '', part, count=1)
    return not re.match(rf'\s+(?:{"|".join(_NO_WHAT)})\b|\.?\s*\d', rest, re.IGNORECASE)


def is_yes_or_no(reference: str) -> bool:
    """Whether a reference is just yes or no, so that answers are compared by `yes_or_no`."""
    words = answer_tokens(reference)
    return (len(words) == 1 and (words[0] in YES or words[0] in NO)) or strip_markup(reference).rstrip('。.') in (
        '是', '否', '有', '没有', '无', '是的', '不是', '对', '错', '正确', '错误', '存在', '不存在', '不', '没')
