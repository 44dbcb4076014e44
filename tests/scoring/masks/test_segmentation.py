"""The task `segmentation`: its scores, and its rules for masks that are empty, missing, too many or misplaced."""
import argparse
import itertools
import json
import math
import numpy as np
import pickle
import pytest
import torch
from collections import Counter
from dataclasses import asdict
from monai.metrics import compute_dice
from PIL import Image
from pycocotools import mask as coco
from support.measures import scores_of
from support.rows import box_mask, rle
from support.scored_masks import DIAGONAL, MASKS, ONES, SIZE, cases, flags_of, main_values, prediction, reference
from torchmetrics.functional.classification import binary_jaccard_index, binary_precision, binary_recall
from typing import Any

from swift_citrusv.cli.eval import segmentation as cli
from swift_citrusv.errors import RowError
from swift_citrusv.model.overlap_metrics import dice_score, iou_score
from swift_citrusv.scoring.cases import Pair
from swift_citrusv.scoring.mask_rows import ImageMask
from swift_citrusv.scoring.masks.mask_matching import mask_ious, match_masks
from swift_citrusv.scoring.masks.segmentation import SegmentationTask, mask_values

EMPTY = np.zeros(SIZE, np.uint8)
ZEROS = dict.fromkeys(ONES, 0.) | {'hd95': DIAGONAL}

# ---- the values of a case

# prediction, target, dice, iou, precision, recall
BY_HAND = [
    ([1, 1, 1, 1], [1, 1, 1, 1], 1, 1, 1, 1),
    ([0, 0, 0, 0], [0, 0, 0, 0], 1, 1, 1, 1),
    ([0, 1, 0, 0], [0, 0, 0, 0], 0, 0, 0, 0),
    ([0, 0, 0, 0], [1, 1, 1, 1], 0, 0, 0, 0),
    ([1, 1, 0, 0], [0, 0, 1, 1], 0, 0, 0, 0),
    ([1, 1, 0, 0], [0, 1, 1, 0], 1 / 2, 1 / 3, 1 / 2, 1 / 2),
    ([1, 1, 1, 0], [0, 0, 1, 0], 1 / 2, 1 / 3, 1 / 3, 1),
    ([0, 0, 1, 0], [1, 1, 1, 0], 1 / 2, 1 / 3, 1, 1 / 3),
    ([1, 1, 1, 1], [0, 1, 1, 1], 6 / 7, 3 / 4, 3 / 4, 1),
]


@pytest.mark.parametrize('predicted, target, dice, iou, precision, recall', BY_HAND)
def test_values_by_hand(predicted, target, dice, iou, precision, recall):
    first, second = (np.array(mask, bool).reshape(2, 2) for mask in (predicted, target))
    found = mask_values(first, second, (1., 1.), 2.)
    assert found | {'dice': dice, 'iou': iou, 'precision': precision, 'recall': recall} == pytest.approx(found)
    assert (found['intersection'], found['union']) == ((first & second).sum(), (first | second).sum())


@pytest.mark.parametrize('seed', range(10))
def test_values_equal_other_libraries(seed):
    rng = np.random.default_rng(seed)
    predicted, target = rng.random((37, 23)) < rng.random(), rng.random((37, 23)) < rng.random()
    found = mask_values(predicted, target, (1., 1.), 2.)
    first, second = torch.from_numpy(predicted).int(), torch.from_numpy(target).int()
    assert found['dice'] == pytest.approx(float(compute_dice(first[None, None], second[None, None])))
    assert found['iou'] == pytest.approx(float(binary_jaccard_index(first, second)))
    assert found['precision'] == pytest.approx(float(binary_precision(first, second)))
    assert found['recall'] == pytest.approx(float(binary_recall(first, second)))
    # And our own of training.
    assert found['dice'] == dice_score(predicted, target) and found['iou'] == iou_score(predicted, target)
    rles = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in (predicted, target)]
    assert found['intersection'] == coco.area(coco.merge(rles, intersect=True))
    assert found['union'] == coco.area(coco.merge(rles))


def test_giou_and_ciou_equal_lisa():
    rng = np.random.default_rng(0)
    rows = [[rng.random(SIZE) < rng.random() for _ in range(2)] for _ in range(8)]
    rows += [[EMPTY > 0, EMPTY > 0], [MASKS[0] > 0, EMPTY > 0], [EMPTY > 0, MASKS[0] > 0]]
    intersections = unions = ious = 0.
    for predicted, target in rows:
        intersection = union = 0
        for first, second in zip(predicted.ravel(), target.ravel()):
            intersection += bool(first and second)
            union += bool(first or second)
        intersections, unions = intersections + intersection, unions + union
        ious += 1. if union == 0 else intersection / (union + 1e-5)
    found = scores_of(SegmentationTask(),
                      [case for row in rows for case in cases(reference(row[1]), prediction(row[0]))])
    assert found['ciou'] == pytest.approx(intersections / unions)
    assert found['giou'] == found['iou'] == pytest.approx(ious / len(rows), abs=1e-6)


def test_perfect_and_shuffled():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 100, (60, 2))
    masks = [box_mask((120, 120), (x, y, x + 20, y + 20)) for x, y in places]
    rows = [reference(mask) for mask in masks] + [reference(np.zeros((120, 120)))]
    lines = [prediction(mask) for mask in masks] + [prediction(np.zeros((120, 120)))]
    found = scores_of(SegmentationTask(), [case for row, line in zip(rows, lines) for case in cases(row, line)])
    assert found == dict.fromkeys(found, 1.) | {'hd95': 0.}
    found = scores_of(SegmentationTask(),
                      [case for row, line in zip(rows, lines[1:] + lines[:1]) for case in cases(row, line)])
    # Squares of 20 x 20 at random places of 120 x 120: on the average they share some 3 % of their area.
    assert found['dice'] < 0.1 and found['ciou'] < 0.05 and found['hd95'] > 30


# ---- rules


@pytest.mark.parametrize('target, line, values, flags', [
    (MASKS[0], prediction(MASKS[0]), ONES, ()),
    (EMPTY, prediction(EMPTY), ONES, ('empty_target', 'empty_prediction')),
    (MASKS[0], prediction(EMPTY), ZEROS, ('empty_prediction', )),
    (EMPTY, prediction(MASKS[0]), ZEROS, ('empty_target', )),
    (MASKS[0], {'response': 'There is none.'}, ZEROS, ('missing_seg', )),
    (EMPTY, {'response': 'There is none.', 'masks': []}, ONES, ('missing_seg', 'empty_target')),
    (MASKS[0], None, ZEROS, ('no_answer', )),
    (EMPTY, None, ZEROS, ('no_answer', 'empty_target')),
    (EMPTY, {'error': 'out of memory', 'masks': []}, ZEROS, ('no_answer', 'empty_target')),
    (EMPTY, {'error': 'out of memory'}, ZEROS, ('no_answer', 'empty_target')),
])  # yapf: disable
def test_empty_missing_and_failed(target, line, values, flags):
    case, = cases(reference(target), line)
    assert main_values(case) == values
    assert flags_of(case) == flags
    drawn = line['masks'][0]['rle'] if line and line.get('masks') else rle(EMPTY)
    both = coco.area(coco.merge([rle(target), drawn]))
    assert case.values['union'] == both


def test_extra_masks():
    for extra in (MASKS[1], EMPTY):
        line = prediction(MASKS[0], extra, MASKS[2])
        first, second, third = cases(reference(MASKS[0]), line)
        assert main_values(first) == ONES and not flags_of(first)
        # Nobody asked for it: an empty one is no better.
        assert main_values(second) == ZEROS and flags_of(second) == ('extra_seg', )
        assert second.values['union'] == extra.sum()
        counted = cases(reference(MASKS[0]), line, extra='count')
        assert [flags_of(case) for case in counted] == [(), ('extra_seg', ), ('extra_seg', )]
        assert all(map(math.isnan, counted[1].values.values()))
        assert scores_of(SegmentationTask(), counted)['dice'] == 1. and scores_of(
            SegmentationTask(), [first, second, third])['dice'] == pytest.approx(1 / 3)
    # A row that asks for none.
    assert not cases({'messages': []}, prediction()) and not cases({'masks': None}, None)
    case, = cases({'messages': []}, prediction(MASKS[0]))
    assert main_values(case) == ZEROS


def test_a_mask_on_another_image_is_no_match():
    row = reference(MASKS[0], MASKS[1], images=['a.png', 'b.png'], mask_images=[0, 1])
    right = cases(row, prediction(MASKS[0], MASKS[1], images=(0, 1)))
    assert [main_values(case) for case in right] == [ONES, ONES]
    first, second = cases(row, prediction(MASKS[0], MASKS[1], images=(1, 1)))
    assert main_values(first) == ZEROS and flags_of(first) == ('wrong_image', )
    assert (first.values['intersection'], first.values['union']) == (0., 2 * MASKS[0].sum())
    assert main_values(second) == ONES
    # Even where it is empty, and so is the target.
    case, = cases(reference(EMPTY, images=['a.png', 'b.png'], mask_images=[0]), prediction(EMPTY, images=(1, )))
    assert main_values(case) == ZEROS


def test_the_number_of_cases_does_not_depend_on_the_answer():
    row = reference(*MASKS[:3])
    for line in (None, {'response': 'None.'}, prediction(MASKS[0]), prediction(*MASKS[:3])):
        for rule in ('order', 'hungarian'):
            assert len(cases(row, line, match=rule)) == 3


# ---- matching


def test_a_missing_mask_shifts_the_rest_by_order_and_not_by_hungarian():
    row = reference(*MASKS)
    line = prediction(MASKS[3], MASKS[0], MASKS[1])
    assert [case.values['dice']
            for case in cases(row, line)][3] == 0. and scores_of(SegmentationTask(), cases(row, line))['dice'] < 0.5
    found = cases(row, line, match='hungarian')
    assert [case.values['dice'] for case in found] == [1., 1., 0., 1.]
    assert [flags_of(case) for case in found] == [(), (), ('missing_seg', ), ()]


def test_hungarian_matches_within_images_and_the_rest_by_order():
    row = reference(MASKS[0], MASKS[1], MASKS[2], images=['a', 'b'], mask_images=[0, 0, 1])
    line = prediction(MASKS[1], MASKS[0], MASKS[3], MASKS[2], images=(0, 1, 1, 1))
    found = cases(row, line, match='hungarian')
    # The second target has its mask, the third the best of image 1; of the rest the first is on another image.
    assert [case.values['dice'] for case in found] == [0., 1., 1., 0.]
    assert [flags_of(case) for case in found] == [('wrong_image', ), (), (), ('extra_seg', )]
    assert len(cases(row, line, match='order')) == 4


@pytest.mark.parametrize('seed', range(8))
def test_hungarian_has_the_highest_sum_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 2)
    masks = [[ImageMask(rng.random((6, 7)) < rng.choice([0, 0.2, 0.6]), 0) for _ in range(size)] for size in sizes]
    targets, predicted = masks
    table = mask_ious([mask.array for mask in targets], [mask.array for mask in predicted])
    for i, j in np.ndindex(table.shape):
        assert table[i, j] == pytest.approx(iou_score(targets[i].array, predicted[j].array))
    places = range(max(sizes))
    best = max(
        sum(table[i, j] for i, j in enumerate(order[:sizes[0]]) if j < sizes[1])
        for order in itertools.permutations(places))
    found = match_masks(targets, predicted, 'hungarian')
    total = sum(iou_score(item.predicted.array, item.target.array) for item in found if item.predicted and item.target)
    assert total == pytest.approx(best)
    assert [item.target for item in found[:sizes[0]]] == targets and len(found) == max(sizes)
    assert Counter(id(item.predicted) for item in found if item.predicted) == Counter(map(id, predicted))


# ---- distances in mm


def test_distances_in_mm():
    first, second = box_mask(SIZE, (2, 2, 8, 8)), box_mask(SIZE, (2, 5, 8, 11))
    two_images = reference(second, spacing=[[7, 7], [0.5, 9]], images=['a', 'b'], mask_images=[1])
    by_option: dict[str, Any] = {'spacing': (0.5, 9.)}
    rows = [(reference(second, spacing=[0.5, 9]), {}), (reference(second), by_option), (two_images, {})]
    for row, options in rows:
        image = row.get('mask_images', [0])[0]
        line = prediction(first, images=(image, ))
        case, = cases(row, line, unit='mm', tolerance=1.5, **options)
        # Three rows apart.
        assert (case.values['hd95'], case.values['nsd']) == (1.5, 1.)
        case, = cases(row, line, unit='mm', tolerance=1.4, **options)
        assert case.values['nsd'] < 1.
        case, = cases(row, None, unit='mm', **options)
        assert case.values['hd95'] == pytest.approx(math.hypot(24 * 0.5, 32 * 9))
    pixels, = cases(reference(second, spacing=[0.5, 9]), prediction(first))
    assert pixels.values['hd95'] == 3.
    for row in (reference(second), reference(second, spacing='1x1'), reference(second, spacing=[1, 0])):
        with pytest.raises(RowError, match="ref.jsonl:7: .*'spacing'"):
            cases(row, prediction(first), unit='mm')


# ---- options, pictures


def test_options():
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert SegmentationTask(**cli.options(parser.parse_args([]))) == SegmentationTask()
    args = parser.parse_args('--match hungarian --extra count --tolerance 3 --unit mm --spacing 0.5,0.7'.split())
    task = SegmentationTask(**cli.options(args))
    assert task == SegmentationTask('hungarian', 'count', 3., 'mm', (0.5, 0.7))
    assert SegmentationTask(**json.loads(json.dumps(asdict(task)))) == task == pickle.loads(pickle.dumps(task))
    assert '3 of the other' in task.rules['nsd'] and '(0.5, 0.7)' in task.rules['hd95']
    assert [measure.name for measure in task.measures][0] == 'dice'
    for wrong in ({'match': 'best'}, {'extra': 'x'}, {'unit': 'cm'}, {'tolerance': -1.}, {'tolerance': math.nan},
                  {'spacing': (1., 1.)}, {'unit': 'mm', 'spacing': (1., 0.)}):  # yapf: disable
        with pytest.raises(ValueError, match=f'{next(reversed(wrong))} is'):
            SegmentationTask(**wrong)
    with pytest.raises(SystemExit):
        parser.parse_args(['--spacing', '0.5'])


def test_show(tmp_path):
    path = tmp_path / 'image.png'
    Image.new('RGB', SIZE[::-1], (10, 20, 30)).save(path)
    target, predicted = box_mask(SIZE, (0, 0, 16, 12)), box_mask(SIZE, (8, 0, 24, 12))
    row = reference(target, images=[str(path)], structure='bone',
                    messages=[{'role': 'user', 'content': '<image>Where?'}])  # yapf: disable
    line = prediction(predicted)
    shown = SegmentationTask().show(Pair('ref.jsonl:7', row, line), 0)
    assert shown.title == 'bone: Dice 0.500'
    lines = dict(shown.lines)
    assert lines['question'] == 'Where?' and lines['answer'] == '[SEG]' and lines['phrase'] == 'the cell'
    assert 'dice 0.500' in lines['scores'] and 'picture' not in lines
    assert shown.picture is not None and shown.picture.size == (2 * 384 + 4, 288 + 20)
    pixels = np.asarray(shown.picture).astype(int)[:288]
    plain, drawn = pixels[:, :384], pixels[:, 388:]
    assert (plain == (10, 20, 30)).all()
    # A pixel is twelve here: within the missed part, the common one, the false one, and outside.
    colours = [tuple(drawn[70, 12 * x]) for x in (4, 12, 20, 28)]
    assert colours[3] == (10, 20, 30) and len(set(colours)) == 4
    missed, both, false = np.array(colours[:3])
    assert missed[2] > missed[0] and both[1] > both[0] and false[0] > false[2]


def test_show_without_an_image_or_an_answer(tmp_path):
    task = SegmentationTask()
    shown = task.show(Pair('ref.jsonl:7', reference(MASKS[0], images=['gone.png']), None), 0)
    assert shown.picture is not None and 'no such file' in dict(shown.lines)['picture']
    assert dict(shown.lines)['remarks'] == 'no_answer, hd95_diagonal'
    shown = task.show(Pair('ref.jsonl:7', reference(MASKS[0]), {'masks': 3, 'response': 'x'}), 0)
    assert 'not a list' in dict(shown.lines)['problem'] and dict(shown.lines)['answer'] == 'x'
    shown = task.show(Pair('ref.jsonl:7', reference(), prediction(MASKS[1])), 0)
    assert dict(shown.lines)['target'] == 'none: an extra mask'
    row = reference(MASKS[0], images=['a', 'b'], mask_images=[0])
    shown = task.show(Pair('ref.jsonl:7', row, prediction(MASKS[0], images=(1, ))), 0)
    assert dict(shown.lines)['drawn on'] == 'image 2, not image 1'
    counted = SegmentationTask(extra='count').show(Pair('ref.jsonl:7', reference(), prediction(MASKS[1])), 0)
    assert counted.title == 'the cell: not scored'


def test_single_pixels_of_large_images_are_visible():
    mask = np.zeros((2000, 2000), np.uint8)
    mask[1000, 700] = 1
    shown = SegmentationTask().show(Pair('row', reference(mask), {'response': 'None.'}), 0)
    assert shown.picture is not None
    drawn = np.asarray(shown.picture)[:384, 388:]
    assert (drawn != (96, 96, 96)).any(axis=-1).sum() >= 1
