"""Infers the image that a `[SEG]` of an answer refers to.

A training row specifies it (`mask_images`); an answer has only text. The first rule that applies decides:

1. 'answer': the last image that the answer names before the `[SEG]` ("In image 2 the cell: [SEG]"; images of the
   conversation count from 1; English and Chinese);
2. 'question': the image that the last question names, if it names exactly one;
3. 'only': the only image of the last question, or else of the conversation;
4. 'last': the last image before the answer.

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
_DIGITS_ZH = '一二三四五六七八九十'
_REFERENCE = re.compile(
    rf'\b{_NOUN_EN}\s*(?:no\.?|number|#)?\s*(?P<after>\d+)\b'
    rf'|\b(?P<before>\d+)(?:st|nd|rd|th)\s+{_NOUN_EN}\b'
    rf'|\b(?P<ordinal>{"|".join(_ORDINALS)})\s+{_NOUN_EN}\b'
    rf'|第\s*(?P<zh>\d+|[{_DIGITS_ZH}])\s*[张幅个]?\s*{_NOUN_ZH}'
    rf'|{_NOUN_ZH}\s*(?P<zh_after>\d+)', re.IGNORECASE)


class TargetImage(NamedTuple):
    """An image of the conversation (counted from 0), and the rule that chose it (see the module docstring)."""
    image: int
    rule: str


def named_images(text: str, num_images: int) -> list[int]:
    """The images that a text names, in order, counted from 0; numbers above `num_images` are ignored."""
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
    named = named_images(before, num_images)
    if named:
        return TargetImage(named[-1], 'answer')
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
