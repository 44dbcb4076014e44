"""Masks and their predictions, and their scores."""
import itertools
import numpy as np
from support.rows import box_mask, rle
from typing import Any

from swift_citrusv.scoring.cases import Case, Pair
from swift_citrusv.scoring.masks.segmentation import SegmentationTask

SIZE = (24, 32)
DIAGONAL = 40.
BOXES = [(2, 3, 12, 11), (10, 8, 30, 20), (0, 0, 5, 24), (20, 2, 31, 9)]
MASKS = [box_mask(SIZE, box) for box in BOXES]
ONES = {'dice': 1., 'iou': 1., 'precision': 1., 'recall': 1., 'nsd': 1., 'hd95': 0.}


def reference(*masks: np.ndarray, **columns: Any) -> dict[str, Any]:
    return {'masks': [rle(mask) for mask in masks], **columns}


def prediction(*masks: np.ndarray, images: tuple[Any, ...] = (), **columns: Any) -> dict[str, Any]:
    """A line of `swift infer`."""
    found = [{'rle': rle(mask), 'image_index': image, 'phrase': 'the cell'}
             for mask, image in itertools.zip_longest(masks, images, fillvalue=0)]  # yapf: disable
    return {'response': '[SEG]' * len(masks), 'masks': found, **columns}


def cases(row: dict[str, Any], line: dict[str, Any] | None, **options: Any) -> list[Case]:
    return SegmentationTask(**options).score(Pair('ref.jsonl:7', row, line))


def main_values(case: Case) -> dict[str, float]:
    return {name: case.values[name] for name in ONES}


def flags_of(case: Case) -> tuple[str, ...]:
    """Without the one that follows from the values."""
    assert ('hd95_diagonal' in case.flags) == (case.values['hd95'] == DIAGONAL)
    return tuple(flag for flag in case.flags if flag != 'hd95_diagonal')
