"""The result for one mask of an answer: the mask at the image's original size, and its place in the text."""
import numpy as np
import re
import torch
import torch.nn.functional as F
from dataclasses import dataclass
from pycocotools import mask as coco
from torch import Tensor
from typing import Any

from ..constants import SEG_TOKEN

_SENTENCE = re.compile(r'(?<=[.!?])\s+|[。！？；;\n]+')
_AROUND = ' \t,.:;!?，。：；！？、-()（）'


@dataclass(frozen=True)
class MaskResult:
    """A mask of an answer.

    Attributes:
        rle: Compressed COCO RLE, {'size': [h, w], 'counts': text}, at the image's original size.
        bbox: COCO box [x, y, width, height] in pixels; zeros for an empty mask.
        area: Number of pixels.
        score: Mean probability over the pixels of the mask, 0.5 to 1; 0 for an empty mask.
        iou_score: IoU predicted by SAM2.
        object_score: SAM2's probability that an object is present.
        scores_trained: Whether iou_score and object_score were trained with the masks. If not, they are those of the
            original SAM2, which was not trained on such prompts.
        phrase: The words that the `[SEG]` refers to: its sentence, or its part of the sentence.
        image_index: Index of the image in the conversation, from 0.
        image_rule: The rule that selected the image: see `rows.target_image`.
        offset: Position of `[SEG]` in the answer, in characters.
    """
    rle: dict[str, Any]
    bbox: list[float]
    area: int
    score: float
    iou_score: float
    object_score: float
    scores_trained: bool
    phrase: str
    image_index: int
    image_rule: str
    offset: int

    @property
    def array(self) -> np.ndarray:
        """The mask as an array, uint8 {0, 1} [h, w]."""
        return coco.decode(self.rle)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as a dict for JSON."""
        return dict(vars(self))


def at_full_size(logits: Tensor, height: int, width: int) -> tuple[np.ndarray, float]:
    """Upsamples mask logits to the size of the image, and thresholds them.

    Upsampling comes first: thresholding before it would leave jagged edges.

    Args:
        logits: float [m, m].
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The mask, uint8 {0, 1} [height, width], and its mean probability inside (0 for an empty mask).
    """
    large = F.interpolate(logits[None, None].float(), size=(height, width), mode='bilinear', align_corners=False)[0, 0]
    inside = large > 0
    area = int(inside.sum())
    score = float(torch.sigmoid(large[inside]).mean(dtype=torch.float64)) if area else 0.
    return inside.to(torch.uint8).cpu().numpy(), score


def box_of(rle: dict[str, Any]) -> list[float]:
    """Returns the COCO box [x, y, width, height] of an RLE, in pixels; zeros for an empty mask."""
    return [float(value) for value in coco.toBbox(rle)]


def phrase_of(text: str, offset: int) -> str:
    """Returns the words that a `[SEG]` refers to.

    These are the words of its sentence. In a sentence with several `[SEG]`, they are the words before it, or, if the
    sentence begins with `[SEG]`, the words after it.

    Args:
        text: The answer.
        offset: Position of this `[SEG]` in it, in characters.
    """
    start, end = 0, len(text)
    for match in _SENTENCE.finditer(text):
        if match.end() <= offset:
            start = match.end()
        elif match.start() >= offset + len(SEG_TOKEN):
            end = match.start()
            break
    sentence = text[start:end]
    parts = sentence.split(SEG_TOKEN)
    if len(parts) <= 2:
        words = ' '.join(parts)
    else:
        before = text[start:offset].count(SEG_TOKEN)
        words = parts[before] if parts[0].strip(_AROUND) else parts[before + 1]
    return ' '.join(words.split()).strip(_AROUND)
