"""Matching of predicted to reference masks."""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass
from pycocotools import mask as coco
from typing import Literal

from ..mask_rows import ImageMask

MatchingRule = Literal['order', 'hungarian']


@dataclass(frozen=True, eq=False)
class MaskMatch:
    """A target and its predicted mask, scored as one case.

    Attributes:
        target: The reference mask; None for an extra predicted mask.
        predicted: The predicted mask; None if it is missing. It may be on another image than the target.
    """
    target: ImageMask | None
    predicted: ImageMask | None

    @property
    def on_wrong_image(self) -> bool:
        """Whether both exist, on different images."""
        return self.target is not None and self.predicted is not None and self.target.image != self.predicted.image

    @property
    def mask(self) -> ImageMask:
        """The target, or else the extra predicted mask."""
        found = self.target or self.predicted
        assert found is not None
        return found


def match_masks(targets: Sequence[ImageMask], predicted: Sequence[ImageMask], rule: MatchingRule) -> list[MaskMatch]:
    """Matches predicted to reference masks.

    Args:
        targets: The reference masks.
        predicted: The predicted masks.
        rule: 'order': by position. 'hungarian': on each image to maximise the sum of IoUs (two empty masks have IoU 1),
            then the rest by position.

    Returns:
        The targets in their order, then the extra predicted masks in theirs.
    """
    partners: dict[int, int] = _by_iou(targets, predicted) if rule == 'hungarian' else {}
    taken = set(partners.values())
    # The rest goes by position; if the answer has too few masks, the last targets have none.
    rest = [i for i in range(len(predicted)) if i not in taken]
    open_targets = [i for i in range(len(targets)) if i not in partners]
    partners.update(zip(open_targets, rest))
    matches = [MaskMatch(target, predicted[partners[i]] if i in partners else None) for i, target in enumerate(targets)]
    return matches + [MaskMatch(None, predicted[i]) for i in rest[len(open_targets):]]


def _by_iou(targets: Sequence[ImageMask], predicted: Sequence[ImageMask]) -> dict[int, int]:
    from scipy.optimize import linear_sum_assignment

    partners = {}
    for image in {mask.image for mask in targets}:
        rows = [i for i, mask in enumerate(targets) if mask.image == image]
        columns = [i for i, mask in enumerate(predicted) if mask.image == image]
        ious = mask_ious([targets[i].array for i in rows], [predicted[i].array for i in columns])
        for row, column in zip(*linear_sum_assignment(ious, maximize=True)):
            partners[rows[row]] = columns[column]
    return partners


def mask_ious(targets: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> np.ndarray:
    """The IoU of each target with each predicted mask (pycocotools).

    Args:
        targets, predicted: bool [h, w] each, all of one shape.

    Returns:
        float64 [number of targets, number of predicted masks]; 1 if both masks are empty.
    """
    if not targets or not predicted:
        return np.zeros((len(targets), len(predicted)))
    rles = [[coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks] for masks in (targets, predicted)]
    # pycocotools compares pixels only if the bounding boxes overlap.
    table = np.asarray(coco.iou(rles[0], rles[1], [0] * len(predicted)), np.float64)
    empty = [coco.area(part) == 0 for part in rles]
    table[np.ix_(*empty)] = 1
    return table
