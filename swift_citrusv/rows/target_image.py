"""On which image of a conversation a `[SEG]` of an answer draws.

A row of training data says so (`mask_images`); an answer has only its words. They are read by this rule, the first that
applies:

1. 'answer': the nearest image that the answer names before the `[SEG]` ("In image 2 the cell: [SEG]"; numbers count the
   images of the conversation from 1; English and Chinese);
2. 'question': the image that the last question names, where it names exactly one;
3. 'only': the only image of the last question, or else of the conversation;
4. 'last': the last image before the answer.

So training rows with several images should let the answer, or the question, name the image; `citrusv check-data` counts
the masks that this rule would draw on another image than their row says.
"""
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..constants import IMAGE_PLACEHOLDER, SEG_TOKEN

_NOUN_EN = r'(?:image|picture|photo|img)'
_NOUN_ZH = r'(?:图像|图片|照片|影像|图)'
_ORDINALS = ('first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth')
_DIGITS_ZH = '一二三四五六七八九十'
_REFERENCE = re.compile(
    rf'\b{_NOUN_EN}\s*(?:no\.?|number|#)?\s*(?P<after>\d+)\b'
    rf'|\b(?P<before>\d+)(?:st|nd|rd|th)\s+{_NOUN_EN}\b'
    rf'|\b(?P<ordinal>{"|".join(_ORDINALS)})\s+{_NOUN_EN}\b'
    rf'|第\s*(?P<zh>\d+|[{_DIGITS_ZH}])\s*[张幅个]?\s*{_NOUN_ZH}'
    rf'|{_NOUN_ZH}\s*(?P<zh_after>\d+)', re.IGNORECASE)


class TargetImage(NamedTuple):
    """An image of the conversation (counted from 0), and the rule that chose it."""
    image: int
    rule: str


def named_images(text: str, num_images: int) -> list[int]:
    """The images that a text names, in order, counted from 0; numbers that no image has are passed over."""
    found = []
    for match in _REFERENCE.finditer(text):
        ordinal, chinese = match['ordinal'], match['zh']
        if ordinal:
            number = _ORDINALS.index(ordinal.lower()) + 1
        elif chinese and not chinese.isdecimal():
            number = _DIGITS_ZH.index(chinese) + 1
        else:
            number = int(match['after'] or match['before'] or chinese or match['zh_after'])
        if 1 <= number <= num_images:
            found.append(number - 1)
    return found


def infer_target_image(turns: Sequence[str], before: str, num_images: int) -> TargetImage | None:
    """The image that a `[SEG]` draws on.

    Args:
        turns: The texts of the turns before the answer, in order, with an `<image>` where an image stands.
        before: The answer up to the `[SEG]`.
        num_images: Images of the conversation.

    Returns:
        None where there is no image.
    """
    if num_images < 1:
        return None
    named = named_images(before, num_images)
    if named:
        return TargetImage(named[-1], 'answer')
    question = turns[-1] if turns else ''
    named = named_images(question, num_images)
    if len(set(named)) == 1:
        return TargetImage(named[0], 'question')
    # An image without a tag stands before everything.
    seen = min(max(sum(turn.count(IMAGE_PLACEHOLDER) for turn in turns), 1), num_images)
    rule = 'only' if question.count(IMAGE_PLACEHOLDER) == 1 or num_images == 1 else 'last'
    return TargetImage(seen - 1, rule)


def infer_target_images(messages: Iterable[Mapping[str, Any]], num_images: int) -> list[TargetImage | None]:
    """For each `[SEG]` of the assistant's turns of a row, in order, the image that its words lead to."""
    turns: list[str] = []
    choices = []
    for message in messages:
        text = _text(message.get('content'))
        if message.get('role') == 'assistant':
            parts = text.split(SEG_TOKEN)
            choices += [infer_target_image(turns, SEG_TOKEN.join(parts[:end]), num_images) for end in range(1, len(parts))]
        turns.append(text)
    return choices


def _text(content: Any) -> str:
    if not isinstance(content, (list, tuple)):
        return str(content or '')
    parts = [part for part in content if isinstance(part, Mapping)]
    return ''.join(part.get('text') or (IMAGE_PLACEHOLDER if str(part.get('type')).startswith('image') else '')
                   for part in parts)  # yapf: disable
