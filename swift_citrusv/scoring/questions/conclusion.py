"""Finds what an answer concludes that discusses several options."""
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

# What introduces a conclusion, in a sentence that names an option.
_CONCLUDES = re.compile(
    r'\b(?:most|more)\s+(?:likely|probable|consistent|compatible|plausible|appropriate|fitting|suggestive)|'
    r'\bbest\s+(?:answer\w*|explain\w*|explanation|fit\w*|option|choice|match\w*|supported|described|diagnosis)|'
    r'\b(?:diagnosis|answer|choice|culprit|cause|explanation|conclusion|verdict|pick|winner)\s*(?:here\s+)?'
    r'(?:is|was|would\s+be|must\s+be|should\s+be|remains|becomes|:)|'
    r'\b(?:therefore|thus|hence|so|consequently|accordingly|finally|overall|altogether|ultimately|conclude\w*|'
    r'conclusion|summary|verdict|diagnose\w*|favou?rs?|favou?red|leaves?|leaving|left\s+with|remains|opt\w*\s+for|'
    r'settle\w*\s+on|go(?:es|ing)?\s+(?:with|for|to)|pick|choose|select|vote\w*\s+for|lean\w*\s+towards?)\b|'
    r'\b(?:consistent|compatible|in\s+keeping|fits?|agrees?|matches)\s+(?:\w+\s+)?(?:with|for)?|'
    r'\bpoints?\s+(?:\w+\s+)?(?:to|towards?|at)\b|\b(?:confirms?|establish\w*|clinch\w*|typical|classic|hallmark)\b|'
    r'综上|综合|因此|所以|故|因而|由此|可见|总之|最终|最后|结论|最可能|可能性最大|最符合|符合|最支持|支持|提示|倾向|'
    r'应?考虑|诊断为|诊断是|应为|应是|应诊断|首先考虑|只剩|剩下|当属|选', re.IGNORECASE)
# An item of a list that is marked as the right one.
_AFFIRMS = re.compile(
    r'✓|✔|✅|☑|\b(?:correct|right|true|yes|best|answer|this\s+is\s+it)\b|\bmost\s+(?:likely|consistent|appropriate)|'
    r'\bfits\s+(?:best|perfectly|well|all)|正确|最可能|最符合|完全符合|就是|√|对$', re.IGNORECASE)
_REFUSES = re.compile(
    r'✗|✘|❌|☒|×|\b(?:not|no|incorrect|wrong|false|unlikely|less|but|however|without|never|lacks?)\b|'
    "n't\\b|不|错误|排除|无|缺乏", re.IGNORECASE)
# Sentences about what else there is.
_ASIDE = re.compile(
    r'\b(?:alternativ\w*|differential|unlike|whereas|while|although|though|if|second|next|initially|'
    r'at\s+first|first\s+thought|also\s+(?:possible|consider)|could\s+also|would\s+(?:cause|present|show|'
    r'have|be\s+expected|produce|need|require))\b|鉴别|虽然|尽管|如果|一般|通常|常见|起初|开始', re.IGNORECASE)
# After these, the rest of a sentence counts.
_CONTRAST = re.compile(
    r"\b(?:but|however|yet|actually|rather|instead|no,|wait,?|correction:?|on\s+reflection)(?=\s|,|$)|"
    '(?:但是?|然而|不过|而是|其实|实际上|更正|应该是|而应)', re.IGNORECASE)
_SENTENCE_END = re.compile(r'(?<![\s(][A-Za-z])(?<!^[A-Za-z])[.!?;](?=\s|$)|[。!?;\n]')


class _Sentence(NamedTuple):
    text: str
    # The option whose item of a list it begins; '' for none.
    item: str


def concluded(text: str, letters: str, named: Callable[[str], str]) -> tuple[str, bool] | None:
    """What an answer concludes.

    An item of a list ('B. Asthma: ...') is no choice. What follows the last item decides: the last sentence that names
    an option, and in it what follows 'but'. Without one, the item that is marked as right; then a conclusion before the
    list. In an answer without a list, only a sentence that says that it concludes counts.

    Args:
        text: The answer without markup and without denied options.
        letters: The letters of the options.
        named: The letters of the options that a part of a text names.

    Returns:
        The letters, several where the conclusion names several, and whether the answer is a list of options; None if
        there is no conclusion and no list. '' with a list whose conclusion is missing.
    """
    sentences = list(_sentences(text, letters))
    items = [i for i, sentence in enumerate(sentences) if sentence.item]
    is_list = len({sentences[i].item for i in items}) > 1
    if not is_list:
        mentioned = ''.join(named(sentence.text) + sentence.item for sentence in sentences)
        if len(set(mentioned)) < 2:
            return None
    last = -1
    if is_list:
        seen: set[str] = set()
        for i in items:
            if sentences[i].item in seen:
                # An item that comes again is the choice, unless the whole list does.
                again = {sentences[j].item for j in items if j >= i}
                if len(again) == 1:
                    return again.pop(), True
                break
            seen.add(sentences[i].item)
        last = items[-1]
    for sentence in reversed(sentences[last + 1:]):
        concludes = _CONCLUDES.search(sentence.text)
        if sentence.item or _ASIDE.search(sentence.text) and not (concludes and _CONTRAST.search(sentence.text)):
            continue
        if not is_list and not concludes:
            continue
        found = _last_named(sentence.text, named)
        if found:
            return found, is_list
    if not is_list:
        return None
    marked = {
        sentence.item
        for sentence in sentences
        if sentence.item and _AFFIRMS.search(sentence.text) and not _REFUSES.search(sentence.text)
    }
    if len(marked) == 1:
        return marked.pop(), True
    for sentence in sentences[:items[0]]:
        if _CONCLUDES.search(sentence.text) and not _ASIDE.search(sentence.text):
            found = _last_named(sentence.text, named)
            if found:
                return found, True
    return '', True


def _last_named(sentence: str, named: Callable[[str], str]) -> str:
    clauses = _CONTRAST.split(sentence)
    return next(filter(None, map(named, reversed(clauses))), '')


def list_items(text: str, letters: str) -> list[tuple[int, int, str]]:
    """The letters that begin an item of a list, at the start of a line, a sentence or a cell: start, end and letter."""
    items: list[tuple[int, int, str]] = []
    for match in _marker(letters).finditer(text):
        # Small letters are words; 'E.' in 'D. E. coli' belongs to a name.
        if match['letter'].isupper() and not (items and items[-1][1] == match.start()):
            items.append((match.start(), match.end(), match['letter']))
    return items


@functools.lru_cache(64)
def _marker(letters: str) -> re.Pattern[str]:
    return re.compile(
        rf'(?:(?<=^)|(?<=\n)|(?<=[.!?;。])(?=\s)|(?<=[。!?;])|(?<=\|))\s*(?:[-•*|]\s*)?'
        rf'(?:(?:option|choice)\s+|选项\s*)?[(\[]?(?P<letter>[{letters}])'
        r'(?:[)\]]\s*[.:、-]?|\s*[.:、|)]|\s+[-–—])(?=\s*[^\s.,;!?)])', re.IGNORECASE)


def _sentences(text: str, letters: str) -> list[_Sentence]:
    found: list[_Sentence] = []
    start, item = 0, ''
    for begin, end, letter in list_items(text, letters):
        found += _split(text[start:begin], item)
        start, item = end, letter
    return found + _split(text[start:], item)


def _split(text: str, item: str) -> list[_Sentence]:
    """The sentences of a part; the first belongs to its item."""
    parts = [part.strip() for part in _SENTENCE_END.split(text)]
    parts = [part for part in parts if part]
    if not parts:
        return [_Sentence('', item)] if item else []
    return [_Sentence(part, item if not i else '') for i, part in enumerate(parts)]
