"""Matching of predicted to reference boxes of one row, by the COCOeval of pycocotools."""
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
    """The matched boxes of a row.

    Attributes:
        records: For each label on each image [label, number of reference boxes, scores, matches], JSON-serialisable:
            the scores of the predicted boxes in descending order, and for each box an integer whose bit t is set if it
            matches a reference box at `IOU_THRESHOLDS[t]`.
        hits: The number of predicted boxes that match a reference box at IoU 0.5.
        is_hit: Whether each predicted box is a hit, in the order of `predicted`.
        ious: float64 [number of reference boxes]: the IoU with the assigned predicted box, in the one-to-one assignment
            with the highest sum of IoUs (SciPy); 0 without one.
    """
    records: list[list[Any]]
    hits: int
    is_hit: list[bool]
    ious: np.ndarray


def match_boxes(references: Sequence[Box], predicted: Sequence[Box], label: Callable[[Box], str]) -> MatchedRow:
    """Matches the boxes of a row as COCO does.

    The predicted boxes of one label on one image are taken by descending score (1 by default), ties in the order of the
    answer. Each takes the unmatched reference box with the highest IoU, if that reaches the threshold. Coordinates are
    continuous: [0, 0, 1, 1] is one pixel.

    Args:
        references: Boxes of positive area, in the coordinates of `predicted`.
        predicted: Boxes; those without area match nothing.
        label: Returns the label of a box as it is compared.
    """
    labels = sorted({label(box) for box in (*references, *predicted)})
    if not labels:
        return MatchedRow([], 0, [], np.zeros(0))
    numbers = {name: number for number, name in enumerate(labels, 1)}
    truth, answer = _coco(references, numbers, label), _coco(predicted, numbers, label)
    # COCOeval prints its progress.
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


def box_ious(references: Sequence[Box], predicted: Sequence[Box]) -> np.ndarray:
    """The IoUs, float64 [number of references, number of predicted boxes]; 0 for a predicted box without area."""
    if not references or not predicted:
        return np.zeros((len(references), len(predicted)))
    return coco_mask.iou([box.xywh for box in references], [box.xywh for box in predicted], [0] * len(predicted))


def _coco(boxes: Sequence[Box], numbers: dict[str, int], label: Callable[[Box], str]) -> COCO:
    coco = COCO()
    coco.dataset = {
        'images': [{'id': image} for image in sorted({box.image for box in boxes})],
        'categories': [{'id': number} for number in numbers.values()],
        # From 1: to COCOeval, 0 means no match.
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
    table = box_ious(references, predicted)
    keys = [[(box.image, label(box)) for box in boxes] for boxes in (references, predicted)]
    table *= [[ours == theirs for theirs in keys[1]] for ours in keys[0]]
    rows, columns = linear_sum_assignment(table, maximize=True)
    best[rows] = table[rows, columns]
    return best
