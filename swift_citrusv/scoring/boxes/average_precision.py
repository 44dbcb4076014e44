"""COCO's average precision of cases that count more or less than once, as the bootstrap needs it.

pycocotools matches the boxes, once a row (`box_matching`); only what `COCOeval.accumulate` does with the matches is
done here, because it knows no weights.
"""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .box_matching import IOU_THRESHOLDS

_RECALLS = np.linspace(0, 1, 101)
# Of COCO: the boxes of a label on an image that count.
_MAX_BOXES = 100


@dataclass(frozen=True)
class _Label:
    """All boxes of a label, in the order of their scores, and then of the cases.

    Attributes:
        cases: int64, a case for each image that has such boxes.
        references: int64, how many reference boxes it has.
        matches: bool [number of thresholds, number of predicted boxes].
        starts, lengths, owners: int64 each, of the runs of boxes of one image with the same score: where it starts
            in `matches`, how long it is, and the case. A case that counts twice has each run twice.
    """
    cases: np.ndarray
    references: np.ndarray
    matches: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    owners: np.ndarray


class AveragePrecision:
    """The mean over the labels of the area below their precision-recall curves, at 101 recalls.

    A label without a reference box is left out, as COCO does; the score is NaN where all are. As in COCO, boxes of the
    same score stand in the order of the cases, and that of the answer.
    """

    def __init__(self) -> None:
        self._data: Sequence[Any] | None = None
        self._labels: list[_Label] = []

    def score(self, data: Sequence[Any], weights: np.ndarray, num_thresholds: int) -> float:
        """The mean of the average precision over the first of the `IOU_THRESHOLDS`.

        Args:
            data: `MatchedRow.records` of each case; None for one without boxes. What is found out about it is kept
                for the next call with the same object.
            weights: int64 [number of cases], how often each counts.
            num_thresholds: 1 for AP at 0.5, 10 for AP at 0.5 to 0.95.
        """
        if self._data is not data:
            self._labels, self._data = _labels_of(data), data
        values = [_area(label, np.asarray(weights), num_thresholds) for label in self._labels]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else float('nan')


def _labels_of(data: Sequence[Any]) -> list[_Label]:
    found: dict[str, list[tuple[int, int, list[float], list[int]]]] = {}
    for case, records in enumerate(data):
        for name, num_references, scores, matches in records or ():
            found.setdefault(name, []).append((case, num_references, scores[:_MAX_BOXES], matches[:_MAX_BOXES]))
    return [_label_of(records) for records in found.values()]


def _label_of(records: list[tuple[int, int, list[float], list[int]]]) -> _Label:
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
    return _Label(
        cases=cases,
        references=np.array([record[1] for record in records], np.int64),
        matches=(bits >> np.arange(len(IOU_THRESHOLDS))[:, None] & 1).astype(bool),
        starts=starts,
        lengths=np.diff(starts, append=len(scores)),
        owners=cases[images[starts]])


def _area(label: _Label, weights: np.ndarray, num_thresholds: int) -> float | None:
    num_references = int(weights[label.cases] @ label.references)
    if not num_references:
        return None
    repeats = weights[label.owners]
    starts, lengths = np.repeat(label.starts, repeats), np.repeat(label.lengths, repeats)
    # The boxes of each run, run after run.
    ends = np.cumsum(lengths)
    places = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
    if not len(places):
        return 0.
    right = np.cumsum(label.matches[:num_thresholds, places], axis=1).astype(np.float64)
    # With COCO's own arithmetic, so that the same recalls are reached.
    precision = right / (np.arange(1, len(places) + 1) - right + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.
    for reached, values in zip(right / num_references, precision):
        at = np.searchsorted(reached, _RECALLS, side='left')
        total += float(values[at[at < len(values)]].sum())
    return total / (len(_RECALLS) * num_thresholds)
