"""Parses the boxes in the text of an answer.

All of these forms are accepted, in any number and mixture, anywhere in the text:

- `<|object_ref_start|>liver<|object_ref_end|><|box_start|>(12,30),(50,60)<|box_end|>`, the format of Qwen2-VL and
  ms-swift, with or without the special tokens;
- JSON, fenced or not: `[{"bbox_2d": [12, 30, 50, 60], "label": "liver", "score": 0.9}]`, the format of Qwen2.5-VL, and
  `{"liver": [12, 30, 50, 60]}`;
- `<bbox>{"Part": "liver", "bbox": "[12, 30, 50, 60]"}</bbox>`, the format of the paper (section 3.2.4), also with the
  brackets of its appendix A: `("Part": ...)`, `["Part": ...`;
- `[12, 30, 50, 60]`, `(12, 30, 50, 60)`, `[(12,30),(50,60)]`.

Truncated or invalid JSON is parsed object by object.
"""
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

# In lower case, by precedence.
BOX_KEYS = ('bbox_2d', 'bbox', 'box', 'bboxes', 'boxes')
LABEL_KEYS = ('label', 'part', 'name', 'category', 'class', 'ref')
SCORE_KEYS = ('score', 'confidence')

_NUMBER = r'[-+]?(?:\d+(?:\.\d*)?|\.\d+)'
_POINT = rf'\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)'
_PAIR = re.compile(rf'{_POINT}\s*,?\s*{_POINT}')
_TUPLE = re.compile(rf'\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)')
_BARE = re.compile(r'[\d\s.,()\[\]+-]*')
_NEXT = re.compile(
    r'<\|object_ref_start\|>(?P<ref>[^<]*)<\|object_ref_end\|>'
    r'|<\|box_start\|>(?P<special>[^<]*)'
    r'|<(?P<tag>bbox|box)>(?P<inside>[^<]*)'
    r'|[\[{(]', re.IGNORECASE)  # yapf: disable
# An object that is not valid JSON: the text from a bracket to the next one.
_KEYS = '|'.join(BOX_KEYS)
_LOOSE = re.compile(
    rf'[\[({{](?P<before>[^\[\](){{}}<>]*?)["\'](?:{_KEYS})["\'](?:\s*:\s*["\']?[\[(](?P<numbers>[^\[\](){{}}<>]*)'
    rf'(?P<closed>[\])])?(?P<after>[^\[\](){{}}<>]*))?', re.IGNORECASE)  # yapf: disable
_LABEL = re.compile(rf'["\'](?:{"|".join(LABEL_KEYS)})["\']\s*:\s*(?:"([^"]*)"|\'([^\']*)\')', re.IGNORECASE)
_SCORE = re.compile(rf'["\'](?:{"|".join(SCORE_KEYS)})["\']\s*:\s*({_NUMBER})', re.IGNORECASE)
# Full-width punctuation of Chinese text.
_FULL_WIDTH = str.maketrans('（），：［］｛｝', '(),:[]{}')
_DECODER = json.JSONDecoder()
_SHOWN = 80


@dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        corners: x1, y1, x2, y2, finite; y points down. The unit depends on the source; see `box_rows.Coordinates`.
        label: As written; '' without one.
        score: The confidence; None without one.
        image: The index of its image.
    """
    corners: tuple[float, float, float, float]
    label: str = ''
    score: float | None = None
    image: int = 0

    @property
    def is_swapped(self) -> bool:
        """Whether the second corner lies left of the first, or above it."""
        x1, y1, x2, y2 = self.corners
        return x2 < x1 or y2 < y1

    @property
    def is_degenerate(self) -> bool:
        """Whether the box has no area."""
        x1, y1, x2, y2 = self.corners
        return x1 == x2 or y1 == y2

    @property
    def xywh(self) -> list[float]:
        """[x, y, width, height] as in COCO."""
        x1, y1, x2, y2 = self.corners
        return [min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)]

    def upright(self) -> 'Box':
        """The same box, the upper left corner first."""
        x1, y1, x2, y2 = self.corners
        return replace(self, corners=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))

    def scaled(self, x: float, y: float) -> 'Box':
        """The box with its coordinates multiplied."""
        x1, y1, x2, y2 = self.corners
        return replace(self, corners=(x1 * x, y1 * y, x2 * x, y2 * y))


@dataclass(frozen=True)
class ParsedBoxes:
    """The boxes of a text.

    Attributes:
        boxes: In the order of the text.
        unreadable: Parts that start like a box but cannot be parsed, truncated to 80 characters.
    """
    boxes: tuple[Box, ...] = ()
    unreadable: tuple[str, ...] = ()


def parse_boxes(text: str) -> ParsedBoxes:
    """Parses all boxes of a text; see the module for the formats.

    Four numbers in brackets are always a box: remove the reasoning of an answer first (`rows.without_reasoning`).
    Corners keep their order.
    """
    boxes: list[Box] = []
    unreadable: list[str] = []
    for found in _scan(text.translate(_FULL_WIDTH)):
        if isinstance(found, Box):
            boxes.append(found)
        else:
            unreadable.append(' '.join(found.split())[:_SHOWN])
    return ParsedBoxes(tuple(boxes), tuple(unreadable))


def boxes_of_json(value: Any) -> ParsedBoxes:
    """Parses all boxes of a JSON value of an answer or of a column."""
    found = [*_walk(value)]
    return ParsedBoxes(tuple(item for item in found if isinstance(item, Box)),
                       tuple(item[:_SHOWN] for item in found if isinstance(item, str)))  # yapf: disable


def normalised_label(label: str) -> str:
    """A label in the form used for comparison: NFKC, case-folded, `_` and `-` as spaces, single spaces."""
    return ' '.join(unicodedata.normalize('NFKC', label).casefold().replace('_', ' ').replace('-', ' ').split())


def _scan(text: str) -> Iterator[Box | str]:
    """Boxes, and the text of unreadable ones."""
    place, label = 0, ''
    # Bounds failed JSON parsing: nested unclosed brackets would take quadratic time.
    budget = 10 * len(text) + 10_000
    while match := _NEXT.search(text, place):
        place = match.end()
        if match['ref'] is not None:
            label = match['ref'].strip()
        elif match['special'] is not None:
            corners = _four(match['special'])
            yield Box(corners, label) if corners else match[0]
        elif match['tag'] is not None:
            found = [*_scan(match['inside'])]
            corners = None if found else _four(match['inside'])
            yield from [Box(corners)] if corners else found or [match[0]]
        else:
            value, place, cost = _json_at(text, match.start()) if budget > 0 and match[0] != '(' else (None, 0, 0)
            budget -= cost
            if place:
                yield from _walk(value)
            else:
                found, place = _at_bracket(text, match.start())
                yield from found


def _json_at(text: str, start: int) -> tuple[Any, int, int]:
    """The JSON value at a bracket, its end (0 if it is invalid), and the number of characters parsed in vain."""
    try:
        return *_DECODER.raw_decode(text, start), 0
    except json.JSONDecodeError as e:
        return None, 0, e.pos - start
    except (ValueError, RecursionError):  # a huge integer; too many brackets
        return None, 0, 1000


def _at_bracket(text: str, start: int) -> tuple[list[Box | str], int]:
    """The boxes or unreadable text at a bracket that is not JSON, and the index to continue from."""
    for pattern in (_PAIR, _TUPLE):
        if match := pattern.match(text, start):
            corners = _finite(_floats(match.groups()))
            return [Box(corners) if corners else match[0]], match.end()
    match = _LOOSE.match(text, start)
    if match is None:
        return [], start + 1
    corners = _four(match['numbers']) if match['closed'] else None
    if corners is None:
        # Only past the opening: the boxes of a list are parsed one by one.
        return [match[0]], match.end()
    around = match['before'] + match['after']
    label, score = _LABEL.search(around), _SCORE.search(around)
    return [Box(corners, (label[1] or label[2] or '').strip() if label else '', float(score[1]) if score else None)
            ], match.end()  # yapf: disable


def _walk(value: Any) -> Iterator[Box | str]:
    """The boxes of a JSON value, and the text of unreadable ones."""
    if isinstance(value, (list, tuple)):
        corners = _finite(value)
        if corners:
            yield Box(corners)
            return
        for item in value:
            yield from _walk(item)
    elif isinstance(value, Mapping):
        keys = {key.lower(): key for key in value if isinstance(key, str)}
        key = next((keys[name] for name in BOX_KEYS if name in keys), None)
        if key is None and value and all(isinstance(item, list) and _finite(item) for item in value.values()):
            # {"liver": [12, 30, 50, 60]}
            yield from (Box(corners, str(name)) for name, item in value.items() if (corners := _finite(item)))
            return
        if key is not None:
            label = next((value[keys[name]] for name in LABEL_KEYS if isinstance(value.get(keys.get(name)), str)), '')
            score = next((value[keys[name]] for name in SCORE_KEYS if _is_number(value.get(keys.get(name)))), None)
            for item in _corners(value[key]):
                yield item if isinstance(item, str) else replace(
                    item, label=item.label or label.strip(), score=score if item.score is None else item.score)
        for name, item in value.items():
            if name != key and isinstance(item, (list, Mapping)):
                yield from _walk(item)


def _corners(value: Any) -> Iterator[Box | str]:
    """The boxes in the value of a box key: four numbers, their text, or a list of these."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, list) and len(item) == 2 for item in value):
        # [[x1, y1], [x2, y2]]
        value = [*value[0], *value[1]]
    corners = _four(value) if isinstance(value, str) else _finite(value)
    if corners:
        yield Box(corners)
    elif isinstance(value, list) and value and all(isinstance(item, (list, str, Mapping)) for item in value):
        for item in value:
            yield from _walk(item) if isinstance(item, Mapping) else _corners(item)
    elif value is not None and value != []:
        yield repr(value)


def _four(text: str) -> tuple[float, float, float, float] | None:
    """The four numbers of a text that otherwise has only brackets, spaces and commas; else None."""
    return _finite(_floats(re.findall(_NUMBER, text))) if _BARE.fullmatch(text) else None


def _floats(texts: Iterable[str]) -> list[float]:
    return [float(text) for text in texts]


def _finite(values: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(values, (list, tuple)) or len(values) != 4 or not all(map(_is_number, values)):
        return None
    x1, y1, x2, y2 = map(float, values)
    return x1, y1, x2, y2


def _is_number(value: Any) -> bool:
    # The comparison is false for NaN; an integer may be too large for float().
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
