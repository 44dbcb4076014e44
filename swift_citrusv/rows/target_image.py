"""Infers the image that a `[SEG]` of an answer refers to.

A training row specifies it (`mask_images`); an answer has only text. The first rule that applies decides:

1. 'answer': the last image that the answer names before the `[SEG]` ("In image 2 the cell: [SEG]"; images of the
   conversation count from 1; English and Chinese), unless it names several at once ("images 1 and 2");
2. 'question': the image that the last question names, if it names exactly one;
3. 'only': the only image of the last question, or else of the conversation;
4. 'last': the last image before the answer.

A number that counts or measures names no image: "In the right image 2 nodules", "image 2 cm below", "图像2处结节". So
write a comma, a colon or a word such as "the" or "shows" after the number of an image.

So in training rows with several images, the answer or the question should name the image. `citrusv check-data` counts
the masks for which these rules choose another image than `mask_images`.
"""
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..constants import IMAGE_PLACEHOLDER, SEG_TOKEN

_NOUN_EN = r'(?:image|picture|photo|img)'
_NOUN_ZH = r'(?:图像|图片|照片|影像|图)'
_ORDINALS = ('first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth')
_CARDINALS = ('one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
_DIGITS_ZH = '一二三四五六七八九十'
# Between the numbers of a list: "images 1, 2 and 3", "image 2-3", "图1、2".
_RANGE = r'\s*(?:[-–~～至到]|\bto\b|\bthrough\b)\s*'
_JOIN = rf'(?:{_RANGE}|\s*(?:,|，|、|&|和|与|及|或|\band\b|\bor\b)\s*(?:and\s+|or\s+)?)'
_NUMBERS = rf'\d+(?:{_JOIN}(?:#\s*)?\d+)*'
_REFERENCE = re.compile(
    rf'\b{_NOUN_EN}s\s*(?P<several>{_NUMBERS})'
    rf'|\b{_NOUN_EN}\s*(?:no\.?|number|#)?\s*(?P<after>{_NUMBERS})'
    rf'|\b{_NOUN_EN}\s+(?P<word>{"|".join(_CARDINALS)})\b'
    rf'|\b(?P<before>\d+)(?:st|nd|rd|th)\s+{_NOUN_EN}\b'
    rf'|\b(?P<ordinal>{"|".join(_ORDINALS)})\s+{_NOUN_EN}\b'
    rf'|第\s*(?P<zh>\d+|[{_DIGITS_ZH}])\s*[张幅个]?\s*{_NOUN_ZH}'
    rf'|{_NOUN_ZH}\s*(?P<zh_after>{_NUMBERS})'
    # Without 第 it may be another word: 图像一般, 图像三维.
    rf'|{_NOUN_ZH}\s*(?P<zh_word>[{_DIGITS_ZH}])(?=\s*(?:[中里内上的是为，。：；、,.:;)）]|显示|所示|可见|$))',
    re.IGNORECASE)
# Words after the number of an image that are no noun and no unit. Any other word makes the number a count.
_VERBS = set("""
    appear appeared appears are aren't belongs can can't cannot captures comes confirm confirmed confirms contain
    contained containing contains corresponds could covers demonstrate demonstrated demonstrates demonstrating depict
    depicted depicting depicts describes did didn't differs display displayed displaying displays do does doesn't
    exhibit exhibited exhibits focuses gave give gives had has hasn't have highlight highlighted highlighting
    highlights illustrate illustrated illustrates include included includes including indicate indicated indicates
    indicating is isn't lack lacked lacks look looked looks may measured measures might must portrays present
    presented presents provide provided provides remains represent represented represents resembles reveal revealed
    revealing reveals see seem seemed seems sees shall shares should show showed showing shows suggest suggested
    suggests visualises visualizes was wasn't were will would
    """.split())
_FUNCTION_WORDS = set("""
    about above across after against along among around as at before behind below beneath beside between beyond by
    despite during except for from in inside into like near of off on onto opposite out outside over since through to
    toward towards under unlike until up upon versus vs via with within without
    and but or nor so yet if because although though while whereas when where which that who whose than then
    the a an this these those it its they their there he she his her we our you your i my each every both all any some
    no not another one two three four five six seven eight nine ten
    seen shown taken given found please again alone first here instead now only respectively too well however
    """.split())
# The word behind them decides, as behind an adverb in -ly: "image 2 left of the heart", "image 2 left lung".
_ADVERBS = {'also', 'still', 'not', 'now', 'again', 'only', 'however', 'then', 'even', 'never', 'both', 'left', 'right'}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# Measure words and units behind a number.
_COUNTERS_ZH = re.compile('|'.join([
    # One character, unless it begins another word ("图2组织", "图2支气管", "图2位于").
    '[个個枚颗粒张幅种倍层段岁月天年级秒件名度圈滴百千万亿]',
    '处(?!于|理|在)',
    '例(?!如)',
    '片(?!状)',
    '块(?!状)',
    '条(?!件|纹|状)',
    '根(?!据|部)',
    '只(?![显有见能是可])',
    '类(?!似)',
    '次(?!级)',
    '点(?!状)',
    '周(?!围|边)',
    '期(?!间)',
    '组(?!织|成)',
    '位(?!于|置)',
    '支(?!气|架|持)',
    '排(?!列|除)',
    '团(?!块|状)',
    '束(?!状)',
    '人(?!体|工)',
    '节(?!段|律)',
    '余(?=[个处枚例])',
    '[平立]方',
    '[毫厘微分纳]米',
    '米',
    '[毫微千]?克',
    '[毫微]?升(?!高)',
    '公[分斤里]',
    '小时',
    '分(?:钟|之)',
    '英寸'
]))
_CJK = re.compile(r'[\u4e00-\u9fff]')
# Signs that continue a number: decimals, ranges, sizes and ratios.
_CONTINUES = re.compile(r'[.,/:]\d|[-–][^\W_]|\s*[%‰°×+℃]|\s*[*x]\s*\d|\w', re.IGNORECASE)


class TargetImage(NamedTuple):
    """An image of the conversation (counted from 0), and the rule that chose it (see the module docstring)."""
    image: int
    rule: str


def named_images(text: str, num_images: int) -> list[int]:
    """The images that a text names, in order, counted from 0; numbers above `num_images` are ignored.

    A number that a noun or a unit follows is a count or a length, not the number of an image ("In the right image 2
    nodules", "image 2 cm below"). Any word after the number counts as such unless it is a verb, a preposition or the
    like; in Chinese, only a measure word or a unit does.
    """
    return [image for mention in _mentions(text, num_images) for image in mention]


def _mentions(text: str, num_images: int) -> list[list[int]]:
    """The images of each mention of one or several ("images 1 and 2")."""
    found = []
    for match in _REFERENCE.finditer(text):
        ordinal, chinese = match['ordinal'], match['zh'] or match['zh_word']
        listed = match['several'] or match['after'] or match['zh_after']
        if ordinal:
            numbers = [_ORDINALS.index(ordinal.lower()) + 1]
        elif match['word']:
            word = match['word'].lower()
            # "In the image one can see": a pronoun.
            numbers = [_CARDINALS.index(word) + 1] if _is_reference(text, match.end(), verbs=word != 'one') else []
        elif chinese and not chinese.isdecimal():
            numbers = [_DIGITS_ZH.index(chinese) + 1]
        elif listed:
            numbers = _listed_numbers(text, match.end() - len(listed), listed, bool(match['several']))
        else:
            numbers = [int(match['before'] or chinese)]
        images = [number - 1 for number in numbers if 1 <= number <= num_images]
        if images:
            found.append(images)
    return found


def _listed_numbers(text: str, start: int, listed: str, plural: bool) -> list[int]:
    """The image numbers of a list such as '1, 2 and 3' or '2-3' at `start`; [] if they are counts."""
    parts = list(re.finditer(r'\d+', listed))
    if len(parts) == 1 and plural:
        # "images 2": of two images, or both.
        return []
    if not _is_reference(text, start + parts[-1].end()):
        # "In image 2, 3 nodules" names image 2. "2 and 3 nodules", "2-3 cm" and "2,5 cm" name none.
        comma = len(parts) > 1 and re.fullmatch(r'(?:,\s+|，\s*)', listed[parts[-2].end():parts[-1].start()])
        return _listed_numbers(text, start, listed[:parts[-2].end()], plural) if comma else []
    numbers = [int(parts[0][0])]
    for left, right in zip(parts, parts[1:]):
        between, number = listed[left.end():right.start()], int(right[0])
        if re.fullmatch(_RANGE, between, re.IGNORECASE):
            # Bounded: the text may have any number.
            numbers += range(numbers[-1] + 1, min(number, numbers[-1] + 1000))
        elif between == ',' and not plural:
            # A decimal comma, or a list: unknown.
            return []
        numbers.append(number)
    return numbers


def _is_reference(text: str, end: int, verbs: bool = True) -> bool:
    """Whether the number of an image that ends at `end` is its name, by what follows.

    Args:
        verbs: Whether a verb may follow.
    """
    if _CONTINUES.match(text, end) and not _CJK.match(text, end):
        return False
    rest = text[end:end + 200]
    # A line ends a phrase.
    rest = rest.lstrip(' \t\u3000')
    if _CJK.match(rest):
        return _COUNTERS_ZH.match(rest) is None
    while match := _WORD.match(rest):
        word = match[0].lower().replace('’', "'")
        if word in _VERBS:
            return verbs
        if word not in _ADVERBS and not (word.endswith('ly') and len(word) > 4):
            return word in _FUNCTION_WORDS
        # "2 clearly visible nodules", but "image 2 clearly shows": the next word tells.
        rest = rest[match.end():].lstrip(' \t')
    return True


def infer_target_image(turns: Sequence[str], before: str, num_images: int) -> TargetImage | None:
    """Infers the image that a `[SEG]` refers to.

    Args:
        turns: The texts of the turns before the answer, in order, with `<image>` placeholders.
        before: The answer up to the `[SEG]`.
        num_images: Number of images in the conversation.

    Returns:
        None if there is no image.
    """
    if num_images < 1:
        return None
    mentions = _mentions(before, num_images)
    # "In images 1 and 2 the cell: [SEG]" does not tell which.
    if mentions and len(set(mentions[-1])) == 1:
        return TargetImage(mentions[-1][0], 'answer')
    question = turns[-1] if turns else ''
    named = named_images(question, num_images)
    if len(set(named)) == 1:
        return TargetImage(named[0], 'question')
    # ms-swift puts images without a placeholder at the start.
    last = min(max(sum(turn.count(IMAGE_PLACEHOLDER) for turn in turns), 1), num_images)
    rule = 'only' if question.count(IMAGE_PLACEHOLDER) == 1 or num_images == 1 else 'last'
    return TargetImage(last - 1, rule)


def infer_target_images(messages: Iterable[Mapping[str, Any]], num_images: int) -> list[TargetImage | None]:
    """`infer_target_image` for each `[SEG]` of the assistant turns of a row, in order."""
    turns: list[str] = []
    targets = []
    for message in messages:
        text = _text(message.get('content'))
        if message.get('role') == 'assistant':
            parts = text.split(SEG_TOKEN)
            targets += [
                infer_target_image(turns, SEG_TOKEN.join(parts[:end]), num_images) for end in range(1, len(parts))
            ]
        turns.append(text)
    return targets


def _text(content: Any) -> str:
    if not isinstance(content, (list, tuple)):
        return str(content or '')
    parts = [part for part in content if isinstance(part, Mapping)]
    return ''.join(part.get('text') or (IMAGE_PLACEHOLDER if str(part.get('type')).startswith('image') else '')
                   for part in parts)  # yapf: disable
