"""Names of masks, from the words beside each `[SEG]`; and the text that tells the model which mask is meant."""
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..constants import IMAGE_PLACEHOLDER, SEG_TOKEN
from ..inference.results import phrase_of

# Words of requests and answers that name no structure: behind a name, and before it.
_PLAIN_BEHIND = frozenset(
    'a an the this that these those it its is are was be here there which what of in on at to for with from by and or '
    'me us you i we my your can could would will please kindly visible shown seen located found highlighted segmented '
    'outlined mask masks segmentation contour below above as follows result answer output image images picture photo '
    'scan scans slice section frame view'.split())
_PLAIN_BEFORE = _PLAIN_BEHIND | frozenset(
    'where where\'s sure okay ok yes shall let segment outline delineate delineated contour contours contoured mark '
    'marked show shows draw drawn find locate highlight identify trace label annotate give provide generate produce '
    'see look make do does '
    'border borders boundary boundaries edge edges pixel pixels region regions area areas part parts '
    'results respond following all every each belong belongs belonging'.split())
_PLAIN_ZH = re.compile('请问|请|帮我|在图中|图中的?|图像中?的?|影像中?的?|图片中?的?|这张|这一层的?|该|分割结果|分割|勾画出?|勾勒出?|'
                       '标出来?|标注出?|标记出?|圈出来?|描出|画出|找出|指出|显示|轮廓|边界|掩膜|掩码|区域是|'
                       '在哪里|在哪儿?|哪里是|是哪里|哪一?部分是|如下|如图|结果|好的|这是|这里是|把|将|是|的$|^的')
_CJK = re.compile(r'[\u3400-\u9fff]')
_EDGES = ' \t\r\n,.:;!?"\'`*_#<>()[]{}/|-–—，。：；！？、（）【】《》“”'
_NAME_COLUMNS = ('structures', 'structure')


class MaskText(NamedTuple):
    """The text around one `[SEG]` of a row.

    Attributes:
        phrase: The words of its sentence, as an answer of the model is labelled.
        question: The last question before it.
        given: All words that select the mask: the conversation up to it, and its sentence.
    """
    phrase: str
    question: str
    given: str


def text_of(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return ''.join(str(part.get('text') or '') for part in parts
                   if isinstance(part, Mapping) and part.get('type') == 'text')  # yapf: disable


def mask_texts(messages: Sequence[Mapping[str, Any]]) -> list[MaskText]:
    """The texts around each `[SEG]` of the assistant turns, in order."""
    found: list[MaskText] = []
    before, question = '', ''
    for message in messages:
        text = text_of(message.get('content')).replace(IMAGE_PLACEHOLDER, ' ')
        if message.get('role') == 'assistant':
            for match in re.finditer(re.escape(SEG_TOKEN), text):
                phrase = phrase_of(text, match.start())
                given = ' '.join(f'{before} {text[:match.start()]} {phrase}'.replace(SEG_TOKEN, ' ').split())
                found.append(MaskText(phrase, question, given))
        elif message.get('role') == 'user':
            question = text
        before += f' {text}'
    return found


def column_names(row: Mapping[str, Any], num_masks: int) -> list[str] | None:
    """The names that the row itself has for its masks (`structures` or `structure`); None for none."""
    value = next((row[key] for key in _NAME_COLUMNS if row.get(key)), None)
    if isinstance(value, str):
        return [value] * num_masks
    if isinstance(value, (list, tuple)) and len(value) == num_masks and all(isinstance(name, str) for name in value):
        return list(value)
    return None


def plain_name(text: str) -> str:
    """A text without the words of requests and answers: 'Where is the left atrium?' becomes 'left atrium'."""
    if _CJK.search(text):
        return _PLAIN_ZH.sub(' ', text.replace(SEG_TOKEN, ' ')).strip(_EDGES).replace(' ', '')
    words = [word.strip(_EDGES) for word in text.lower().replace(SEG_TOKEN.lower(), ' ').split()]
    words = [word for word in words if word]
    while words and words[0] in _PLAIN_BEFORE:
        del words[0]
    while words and words[-1] in _PLAIN_BEHIND:
        del words[-1]
    return ' '.join(words)


def name_masks(texts: Sequence[MaskText]) -> list[str]:
    """A name for each mask: what its sentence says, or else its question; '' where neither names anything.

    A sentence that is the same for every mask of the file ("Sure, it is [SEG].") names nothing while questions differ.
    """
    phrases = [plain_name(item.phrase) for item in texts]
    questions = [plain_name(item.question) for item in texts]
    counts = Counter(phrases)
    if len(counts) == 1 and len(set(questions)) > 1:
        phrases = [''] * len(texts)
    return [_without_common_words(phrase, counts) if phrase else question
            for phrase, question in zip(phrases, questions)]  # yapf: disable


def _without_common_words(phrase: str, counts: Counter[str]) -> str:
    """Drops leading words with which most of the other names begin as well ('found liver', 'found spleen')."""
    names = [name.split() for name in counts if name and not _CJK.search(name)]
    words = phrase.split()
    while len(words) > 1 and len(names) > 2 and not _CJK.search(phrase):
        if sum(name[:1] == words[:1] and len(name) > 1 for name in names) <= .8 * len(names):
            break
        names = [name[1:] for name in names if name[:1] == words[:1]]
        words = words[1:]
    return ' '.join(words)
