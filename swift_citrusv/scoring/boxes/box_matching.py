"""Which predicted box belongs to which reference box: pycocotools' COCOeval, on one row."""
import contextlib
import io
import math
import numpy as np
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typing import Any

from .box_text import Box

# COCO's: 0.5, 0.55, ... 0.95.
IOU_THRESHOLDS = COCOeval(iouType='bbox').params.iouThrs


@dataclass(frozen=True)
class MatchedRow:
    """The boxes of a row.

    Attributes:
        records: Of each label on each image [label, number of reference boxes, scores, matches], as JSON can hold it:
            the scores of the predicted boxes in descending order, and for each of them a number whose bit t says
            whether it has a reference box at `IOU_THRESHOLDS[t]`.
        hits: Predicted boxes that have a reference box at 0.5.
        is_hit: For each predicted box, in the order in which they were given, whether it is one of them.
        ious: float64 [number of reference boxes]: with the box that belongs to it where each box belongs to one other
            so that the sum is highest (SciPy); 0 where none does.
    """
    records: list[list[Any]]
    hits: int
    is_hit: list[bool]
    ious: np.ndarray


def match_boxes(references: Sequence[Box], predicted: Sequence[Box], label: Callable[[Box], str]) -> MatchedRow:
    """Matches the boxes of a row as COCO does.

    The boxes of one label on one image come in the order of their scores (those without have 1), and those with the
    same score in the order of the answer; each takes the reference box that is left with the highest IoU, where that
    is at least the threshold. The IoU is that of continuous coordinates, in which [0, 0, 1, 1] is one pixel.

    Args:
        references: Boxes of some area, in the same coordinates as `predicted`.
        predicted: They may have no area, and then match nothing.
        label: Of a box, as labels are compared.
    """
    labels = sorted({label(box) for box in (*references, *predicted)})
    if not labels:
        return MatchedRow([], 0, [], np.zeros(0))
    numbers = {name: number for number, name in enumerate(labels, 1)}
    truth, answer = _coco(references, numbers, label), _coco(predicted, numbers, label)
    # It prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        answer.createIndex()
        evaluation = COCOeval(truth, answer, 'bbox')
        evaluation.params.imgIds = sorted({box.image for box in (*references, *predicted)})
        evaluation.params.areaRng = [[0, math.inf]]
        evaluation.params.maxDets = [max(100, len(predicted))]
        evaluation.evaluate()
    records, is_hit = [], [False] * len(predicted)
    for found in evaluation.evalImgs:
        if found is None:
            continue
        matched = found['dtMatches'] > 0
        bits = (matched * 2**np.arange(len(matched))[:, None]).sum(axis=0)
        records.append([labels[int(found['category_id']) - 1], len(found['gtIds']),
                        [float(score) for score in found['dtScores']], [int(value) for value in bits]])  # yapf: disable
        for number, hit in zip(found['dtIds'], matched[0]):
            is_hit[number - 1] = bool(hit)
    return MatchedRow(records, sum(is_hit), is_hit, _best_ious(references, predicted, label))


def iou_table(references: Sequence[Box], predicted: Sequence[Box]) -> np.ndarray:
    """float64 [number of references, number of predicted boxes]: their IoUs; 0 for a predicted box of no area."""
    if not references or not predicted:
        return np.zeros((len(references), len(predicted)))
    return coco_mask.iou([box.xywh for box in references], [box.xywh for box in predicted], [0] * len(predicted))


def _coco(boxes: Sequence[Box], numbers: dict[str, int], label: Callable[[Box], str]) -> COCO:
    coco = COCO()
    coco.dataset = {
        'images': [{'id': image} for image in sorted({box.image for box in boxes})],
        'categories': [{'id': number} for number in numbers.values()],
        # Not from 0, which COCOeval takes for no match.
        'annotations': [
            {'id': i, 'image_id': box.image, 'category_id': numbers[label(box)], 'bbox': box.xywh,
             'area': box.xywh[2] * box.xywh[3], 'iscrowd': 0, 'score': 1. if box.score is None else box.score}
            for i, box in enumerate(boxes, 1)]
    }  # yapf: disable
    return coco


def _best_ious(references: Sequence[Box], predicted: Sequence[Box], label: Callable[[Box], str]) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    best = np.zeros(len(references))
    if not len(references) or not len(predicted):
        return best
    table = iou_table(references, predicted)
    keys = [[(box.image, label(box)) for box in boxes] for boxes in (references, predicted)]
    table *= [[ours == theirs for theirs in keys[1]] for ours in keys[0]]
    rows, columns = linear_sum_assignment(table, maximize=True)
    best[rows] = table[rows, columns]
    return best
