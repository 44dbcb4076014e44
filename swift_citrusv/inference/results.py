"""What an answer says about each of its masks: the mask at the image's own size, and where it belongs in the text."""
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
        rle: COCO's compressed RLE, {'size': [h, w], 'counts': text}, at the image's own size.
        bbox: COCO's box [x, y, width, height] in pixels; zeros where the mask is empty.
        area: Pixels.
        score: Mean of the probability over the pixels of the mask, 0.5 to 1; 0 where it is empty.
        iou_score: SAM2's prediction of its IoU.
        object_score: SAM2's probability that there is an object.
        scores_trained: Whether iou_score and object_score were trained with the masks; else they are SAM2's own, for
            prompts that it never saw.
        phrase: The words that the `[SEG]` stands for: of its sentence, or of its part of it.
        image_index: The image of the conversation, counted from 0.
        image_rule: Why this one: see `image_choice`.
        offset: Where `[SEG]` begins in the answer, in characters.
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
        """The mask, uint8 {0, 1} [h, w]."""
        return coco.decode(self.rle)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def at_full_size(logits: Tensor, height: int, width: int) -> tuple[np.ndarray, float]:
    """A mask at its image's size, and its score.

    The logits are enlarged before the threshold: a mask that is cut first and then enlarged has steps.

    Args:
        logits: float [m, m].
        height, width: Of the image.

    Returns:
        uint8 {0, 1} [height, width]; the mean probability inside (0 for an empty mask).
    """
    large = F.interpolate(logits[None, None].float(), size=(height, width), mode='bilinear', align_corners=False)[0, 0]
    inside = large > 0
    area = int(inside.sum())
    score = float(torch.sigmoid(large[inside]).mean(dtype=torch.float64)) if area else 0.
    return inside.to(torch.uint8).cpu().numpy(), score


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of a mask uint8 {0, 1} [h, w], with text for counts, as JSON needs it."""
    rle = coco.encode(np.asfortranarray(mask))
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode('ascii')}


def box_of(rle: dict[str, Any]) -> list[float]:
    """COCO's box [x, y, width, height] of an RLE."""
    return [float(value) for value in coco.toBbox(rle)]


def phrase_of(text: str, offset: int) -> str:
    """The words that a `[SEG]` stands for.

    That is its sentence. In a sentence of several, it is the words up to it, or, where the sentence begins with
    `[SEG]`, the words behind it.

    Args:
        text: The answer.
        offset: Where this `[SEG]` begins in it.
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
