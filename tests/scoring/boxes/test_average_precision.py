"""Average precision against pycocotools, with and without weights."""
import contextlib
import io
import json
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.random_boxes import random_rows

from swift_citrusv.scoring.boxes.average_precision import AveragePrecision
from swift_citrusv.scoring.boxes.box_matching import match_boxes
from swift_citrusv.scoring.boxes.box_text import Box


def by_pycocotools(rows, thresholds=slice(None)):
    """Mean AP of rows, each an image: COCO's own evaluation, from files."""
    labels = sorted({box.label for row in rows for boxes in row for box in boxes})

    def annotations(side):
        return [{'id': 0, 'image_id': image, 'category_id': labels.index(box.label), 'bbox': box.xywh, 'iscrowd': 0,
                 'area': box.xywh[2] * box.xywh[3], 'score': 1 if box.score is None else box.score}
                for image, row in enumerate(rows) for box in row[side]]  # yapf: disable

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            'images': [{'id': image} for image in range(len(rows))],
            'categories': [{'id': i} for i in range(len(labels))],
            'annotations': [{**one, 'id': i} for i, one in enumerate(annotations(0), 1)]
        }  # yapf: disable
        truth.createIndex()
        truth.dataset['info'] = {}
        evaluation = COCOeval(truth, truth.loadRes(annotations(1)), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    # [threshold, recall, label, all areas, 100 boxes]
    precision = evaluation.eval['precision'][thresholds, :, :, 0, -1]
    return precision[precision > -1].mean()


def records_of(rows):
    return [match_boxes(wanted, drawn, lambda box: box.label).records for wanted, drawn in rows]


@pytest.mark.parametrize('scored', [True, False])
@pytest.mark.parametrize('seed', range(4))
def test_average_precision_is_that_of_pycocotools(scored, seed):
    rows = random_rows(40, scored=scored, seed=seed)
    data, area = records_of(rows), AveragePrecision()
    ones = np.ones(len(rows), np.int64)
    assert area.score(data, ones, 10) == pytest.approx(by_pycocotools(rows), abs=1e-12)
    assert area.score(data, ones, 1) == pytest.approx(by_pycocotools(rows, slice(1)), abs=1e-12)


@pytest.mark.parametrize('scored', [True, False])
@pytest.mark.parametrize('seed', range(4))
def test_weights_are_rows_repeated(scored, seed):
    rows = random_rows(25, scored=scored, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(rows))
    repeated = [row for row, weight in zip(rows, weights) for _ in range(weight)]
    area = AveragePrecision()
    assert area.score(records_of(rows), weights, 10) == pytest.approx(by_pycocotools(repeated), abs=1e-12)
    # JSON holds all of it.
    assert area.score(json.loads(json.dumps(records_of(rows))), weights, 1) == pytest.approx(
        by_pycocotools(repeated, slice(1)), abs=1e-12)


def test_average_precision_of_little():
    area = AveragePrecision()
    a, b = Box((0, 0, 10, 10), 'a'), Box((0, 0, 10, 10), 'b')
    one = np.ones(1, np.int64)
    assert np.isnan(area.score([], one[:0], 10)) and np.isnan(area.score([None], one, 10))
    assert area.score(records_of([([a], [a])]), one, 10) == pytest.approx(1)
    assert area.score(records_of([([a], [])]), one, 10) == 0 and np.isnan(area.score(records_of([([], [a])]), one, 10))
    # The label that no row has is left out, as COCO does.
    assert area.score(records_of([([a], [a, b])]), one, 10) == pytest.approx(1)
    assert area.score(records_of([([a], [b])]), one, 10) == 0
    assert np.isnan(area.score(records_of([([a], [a])]), 0 * one, 10))


def test_only_a_hundred_boxes_of_a_label():
    wanted = Box((0, 0, 10, 10))
    others = [Box((50 + i, 50, 60 + i, 60), score=.9) for i in range(100)]
    rows = [([wanted], [*others, Box((0, 0, 10, 10), score=.5)])]
    matched = match_boxes(*rows[0], lambda box: '')
    assert matched.hits == 1 and AveragePrecision().score(records_of(rows), np.ones(1, np.int64), 1) == 0
    assert by_pycocotools(rows) == 0
