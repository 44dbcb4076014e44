"""COCO's average precision for weighted cases, as the bootstrap needs it.

pycocotools matches the boxes, once per row (`box_matching`). Only `COCOeval.accumulate` is replaced: it does not
support weights.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .box_matching import IOU_THRESHOLDS

_RECALLS = np.linspace(0, 1, 101)
# COCO's limit for the boxes of one label in one image.
_MAX_BOXES = 100


@dataclass(frozen=True)
class _LabelBoxes:
    """All boxes of a label, by descending score, then in the order of the cases.

    Attributes:
        cases: int64 [number of images with such boxes], the case of each.
        references: int64 [number of images with such boxes], the reference boxes of each.
        matches: bool [number of thresholds, number of predicted boxes].
        starts, lengths, owners: int64 [number of runs]: start in `matches`, length and case of each run of boxes of one
            image with the same score. The weight of a case repeats its runs.
    """
    cases: np.ndarray
    references: np.ndarray
    matches: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    owners: np.ndarray


class AveragePrecision:
    """The mean over the labels of the area under the precision-recall curve, at 101 recalls.

    As in COCO, labels without a reference box are ignored (NaN if there is no other), and boxes of equal score keep the
    order of the cases and of the answer.
    """

    def __init__(self) -> None:
        self._data: Sequence[Any] | None = None
        self._labels: list[_LabelBoxes] = []

    def score(self, data: Sequence[Any], weights: np.ndarray, num_thresholds: int) -> float:
        """The mean average precision over the first `num_thresholds` of `IOU_THRESHOLDS`, in [0, 1] or NaN.

        Args:
            data: `MatchedRow.records` of each case; None for a case without boxes. Its sorted form is cached for the
                next call with the same object.
            weights: int64 [number of cases].
            num_thresholds: 1 for AP at 0.5, 10 for AP at 0.5 to 0.95.
        """
        if self._data is not data:
            self._labels, self._data = _boxes_by_label(data), data
        values = [_average_precision(label, np.asarray(weights), num_thresholds) for label in self._labels]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else float('nan')


def _boxes_by_label(data: Sequence[Any]) -> list[_LabelBoxes]:
    found: dict[str, list[tuple[int, int, list[float], list[int]]]] = {}
    for case, records in enumerate(data):
        for name, num_references, scores, matches in records or ():
            found.setdefault(name, []).append((case, num_references, scores[:_MAX_BOXES], matches[:_MAX_BOXES]))
    return [_label_boxes(records) for records in found.values()]


def _label_boxes(records: list[tuple[int, int, list[float], list[int]]]) -> _LabelBoxes:
    counts = [len(scores) for _, _, scores, _ in records]
    scores = np.array([score for record in records for score in record[2]], np.float64)
    bits = np.array([value for record in records for value in record[3]], np.int64)
    images = np.repeat(np.arange(len(records)), counts)
    order = np.argsort(-scores, kind='stable')
    scores, bits, images = scores[order], bits[order], images[order]
    is_start = np.ones(len(scores), bool)
    is_start[1:] = (scores[1:] != scores[:-1]) | (images[1:] != images[:-1])
    starts = np.flatnonzero(is_start)
    cases = np.array([record[0] for record in records], np.int64)
    return _LabelBoxes(
        cases=cases,
        references=np.array([record[1] for record in records], np.int64),
        matches=(bits >> np.arange(len(IOU_THRESHOLDS))[:, None] & 1).astype(bool),
        starts=starts,
        lengths=np.diff(starts, append=len(scores)),
        owners=cases[images[starts]])


def _average_precision(label: _LabelBoxes, weights: np.ndarray, num_thresholds: int) -> float | None:
    num_references = int(weights[label.cases] @ label.references)
    if not num_references:
        return None
    repeats = weights[label.owners]
    starts, lengths = np.repeat(label.starts, repeats), np.repeat(label.lengths, repeats)
    # The indices of all boxes, run by run.
    ends = np.cumsum(lengths)
    places = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
    if not len(places):
        return 0.
    right = np.cumsum(label.matches[:num_thresholds, places], axis=1).astype(np.float64)
    # COCO's own arithmetic, to reach the same recalls.
    precision = right / (np.arange(1, len(places) + 1) - right + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.
    for reached, values in zip(right / num_references, precision):
        at = np.searchsorted(reached, _RECALLS, side='left')
        total += float(values[at[at < len(values)]].sum())
    return total / (len(_RECALLS) * num_thresholds)
