"""Blanks text in pixels."""
import numpy as np
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .ocr import Text, reader

Box = tuple[int, int, int, int]
# Pixels around a text that are blanked with it, as a share of its height.
_MARGIN = .15
# A single letter that is larger than this share of the image, and than these pixels, is a shape. So is a short word of
# letters this high that is read unsurely: ribs and hearts are taken for '600' or 'SC'.
_LETTER_SHARE, _LETTER = .08, 24
_WORD_SHARE, _WORD_LENGTH, _WORD_SURE = .15, 4, .9
# Readings of one image: what is beside a text may be read only when the text is gone.
_ROUNDS = 4
# Pixels around a box whose commonest value fills it.
_RING = 3


@dataclass(frozen=True)
class Blanked:
    """What was blanked.

    Attributes:
        pixels: The pixels, in a new array if anything was blanked.
        boxes: For each frame the boxes, [x0, y0, x1, y1], x1 and y1 excluded.
        by_others: How many places the first engine alone would have missed.
    """
    pixels: np.ndarray
    boxes: list[list[Box]]
    by_others: int

    @property
    def count(self) -> int:
        """How many boxes, those of a place in several frames once."""
        return len({box for boxes in self.boxes for box in boxes})


def blank_text(pixels: np.ndarray,
               to_views: Callable[[np.ndarray], Sequence[np.ndarray]],
               is_allowed: Callable[[str], bool],
               engines: Sequence[str],
               outside: Sequence[Box] = (),
               tick: Callable[[], None] = lambda: None) -> Blanked:
    """Blanks all text that may not stay, in every frame.

    Args:
        pixels: [n, h, w] or [n, h, w, c], of any type.
        to_views: Makes uint8 [h, w, 3] images of a frame for the reader; several where one shows not all.
        is_allowed: Whether a text may stay.
        engines: The OCR engines; what any of them reads goes.
        outside: Boxes that are blanked in every frame, whatever they hold.
        tick: Called after each frame.
    """
    result = pixels
    # Most texts stand still: where one was in a frame, it is blanked in the next ones before they are read.
    standing: list[Box] = list(outside)
    boxes: list[list[Box]] = []
    by_others = 0
    before: np.ndarray | None = None
    for number in range(len(pixels)):
        frame, own = pixels[number].copy(), []
        for box in standing:
            _fill(frame, pixels[number], box)
            own.append(box)
        if before is None or not np.array_equal(frame, before):
            for _ in range(_ROUNDS):
                new: list[Box] = []
                # Each reads what those before it have left.
                for engine in engines:
                    read = reader(engine).read
                    found = [_grown(text, frame.shape) for view in to_views(frame) for text in read(view)
                             if must_go(text, frame.shape, is_allowed)]  # yapf: disable
                    for box in found:
                        _fill(frame, pixels[number], box)
                    by_others += len(found) if engine != engines[0] else 0
                    new += found
                own += new
                standing += new
                if not new:
                    break
        before = frame
        boxes.append(list(dict.fromkeys(own)))
        if own:
            if result is pixels:
                result = pixels.copy()
            result[number] = frame
        tick()
    return Blanked(result, boxes, by_others)


def must_go(text: Text, shape: Sequence[int], is_allowed: Callable[[str], bool]) -> bool:
    """Whether a text is blanked: not if it may stay, and not if it is a shape that looks like large letters.

    Args:
        text: The text.
        shape: The size of the image, (height, width, ...).
        is_allowed: Whether a text may stay.
    """
    if is_allowed(text.text):
        return False
    x0, y0, x1, y1 = text.box
    side, letters = min(shape[:2]), sum(map(str.isalnum, text.text))
    is_large = max(x1 - x0, y1 - y0) > max(_LETTER_SHARE * side, _LETTER)
    is_high = min(x1 - x0, y1 - y0) > max(_WORD_SHARE * side, _LETTER)
    return not (letters <= 1 and is_large or letters <= _WORD_LENGTH and is_high and text.score < _WORD_SURE)


def _grown(text: Text, shape: Sequence[int]) -> Box:
    x0, y0, x1, y1 = text.box
    margin = max(2, round(_MARGIN * min(y1 - y0, x1 - x0)))
    return max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, shape[1]), min(y1 + margin, shape[0])


def _fill(frame: np.ndarray, original: np.ndarray, box: Box) -> None:
    """Fills a box with the commonest value around it."""
    x0, y0, x1, y1 = box
    top, left = max(y0 - _RING, 0), max(x0 - _RING, 0)
    around = original[top:y1 + _RING, left:x1 + _RING]
    is_ring = np.ones(around.shape[:2], bool)
    is_ring[y0 - top:y1 - top, x0 - left:x1 - left] = False
    ring = around[is_ring]
    if not len(ring):
        ring = around.reshape(-1, *around.shape[2:])
    values, counts = np.unique(ring, axis=0, return_counts=True)
    frame[y0:y1, x0:x1] = values[np.argmax(counts)]


def outside_of(regions: Sequence[Box], height: int, width: int) -> list[Box]:
    """Boxes that cover all that lies in none of the regions.

    Args:
        regions: [x0, y0, x1, y1], x1 and y1 excluded.
        height, width: The size of the frame.
    """
    rows = sorted({0, height, *(min(max(y, 0), height) for region in regions for y in (region[1], region[3]))})
    result: list[Box] = []
    for top, bottom in zip(rows, rows[1:]):
        inside = sorted((max(region[0], 0), min(region[2], width)) for region in regions
                        if region[1] <= top and region[3] >= bottom)  # yapf: disable
        end = 0
        for start, stop in (*inside, (width, width)):
            if start > end:
                result.append((end, top, start, bottom))
            end = max(end, stop)
    return result


def views_of(values: np.ndarray) -> list[np.ndarray]:
    """uint8 [h, w, 3] images of grey values: their whole range, and without the extremes where that hides the rest."""
    if values.ndim == 3:
        return [np.ascontiguousarray(values[..., :3]).astype(np.uint8)]
    low, high = float(values.min()), float(values.max())
    ranges = [(low, high)]
    if values.dtype != np.uint8:
        inner = [float(value) for value in np.percentile(values, (1, 99))]
        if inner[1] > inner[0] and (inner[1] - inner[0]) < .8 * (high - low):
            ranges.append((inner[0], inner[1]))
    views = []
    for start, stop in ranges:
        scaled = np.clip((values.astype(np.float32) - start) / max(stop - start, 1e-6), 0, 1) * 255
        views.append(np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, axis=2))
    return views
