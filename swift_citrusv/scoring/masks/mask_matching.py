"""Which mask of an answer belongs to which mask of the reference."""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass
from pycocotools import mask as coco
from typing import Literal

from ..mask_rows import ImageMask

Rule = Literal['order', 'hungarian']


@dataclass(frozen=True, eq=False)
class Match:
    """What is scored as one.

    Attributes:
        target: Of the reference; None: the predicted mask is one too many.
        predicted: Of the answer; None: the answer has none for it. It may lie on another image than the target.
    """
    target: ImageMask | None
    predicted: ImageMask | None

    @property
    def on_wrong_image(self) -> bool:
        """Whether both are there, on different images."""
        return self.target is not None and self.predicted is not None and self.target.image != self.predicted.image

    @property
    def mask(self) -> ImageMask:
        """The target, or else the mask that has none."""
        found = self.target or self.predicted
        assert found is not None
        return found


def match(targets: Sequence[ImageMask], predicted: Sequence[ImageMask], rule: Rule) -> list[Match]:
    """Matches masks.

    Args:
        targets: Of the reference.
        predicted: Of the answer.
        rule: 'order': the first to the first. 'hungarian': on each image so that the IoUs have the highest sum (two
            empty masks have IoU 1); what is left over on different images then goes by order.

    Returns:
        The targets in their order, then the predicted masks that are left over in theirs.
    """
    partners: dict[int, int] = _by_iou(targets, predicted) if rule == 'hungarian' else {}
    taken = set(partners.values())
    # By order: everything that has no partner yet. An answer with a mask too few leaves the last targets without.
    rest = [i for i in range(len(predicted)) if i not in taken]
    open_targets = [i for i in range(len(targets)) if i not in partners]
    partners.update(zip(open_targets, rest))
    matches = [Match(target, predicted[partners[i]] if i in partners else None) for i, target in enumerate(targets)]
    return matches + [Match(None, predicted[i]) for i in rest[len(open_targets):]]


def _by_iou(targets: Sequence[ImageMask], predicted: Sequence[ImageMask]) -> dict[int, int]:
    from scipy.optimize import linear_sum_assignment

    partners = {}
    for image in {mask.image for mask in targets}:
        rows = [i for i, mask in enumerate(targets) if mask.image == image]
        columns = [i for i, mask in enumerate(predicted) if mask.image == image]
        ious = iou_table([targets[i].array for i in rows], [predicted[i].array for i in columns])
        for row, column in zip(*linear_sum_assignment(ious, maximize=True)):
            partners[rows[row]] = columns[column]
    return partners


def iou_table(targets: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> np.ndarray:
    """The IoU of each target with each predicted mask, through pycocotools.

    Args:
        targets, predicted: bool [h, w] each, all of one shape.

    Returns:
        float64 [number of targets, number of predicted masks]; 1 where both are empty.
    """
    if not targets or not predicted:
        return np.zeros((len(targets), len(predicted)))
    rles = [[coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks] for masks in (targets, predicted)]
    # pycocotools gives columns for the second argument, and looks at pixels only where the boxes meet.
    table = np.asarray(coco.iou(rles[0], rles[1], [0] * len(predicted)), np.float64)
    empty = [coco.area(part) == 0 for part in rles]
    table[np.ix_(*empty)] = 1
    return table
