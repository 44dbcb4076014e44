"""The task `detection`: rows worked out by hand, missing and unreadable answers, whole files, pictures."""
import argparse
import json
import numpy as np
import pickle
import pytest
from PIL import Image
from support.measures import scores_of

from swift_citrusv.cli.eval import detection as cli
from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.scoring.boxes.box_rows import CoordinateSystem
from swift_citrusv.scoring.boxes.detection import DetectionTask
from swift_citrusv.scoring.cases import Pair, PredictionError
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate

SQUARE = [0, 0, 10, 10]


def pair(reference, response=None, **prediction):
    if response is not None:
        prediction['response'] = response if isinstance(response, str) else json.dumps(response)
    return Pair('r:1', reference, prediction or None)


def case(reference, response=None, task=DetectionTask('pixels'), **prediction):
    return task.score(pair(reference, response, **prediction))[0]


@pytest.mark.parametrize('references, response, hits, predicted, actual, precision, iou, flags', [
    # one box, one answer: the share of questions that are answered right
    ([SQUARE], [SQUARE], 1, 1, 1, 1, 1, ()),
    ([SQUARE], [[0, 0, 10, 5]], 1, 1, 1, 1, .5, ()),
    ([SQUARE], [[0, 0, 10, 4.9]], 0, 1, 1, 0, .49, ()),
    ([SQUARE], [[5, 0, 15, 10]], 0, 1, 1, 0, 1 / 3, ()),
    ([SQUARE], [[10, 0, 20, 10]], 0, 1, 1, 0, 0, ()),
    # several
    ([SQUARE], [SQUARE, SQUARE], 1, 2, 1, .5, 1, ()),
    ([SQUARE, [20, 20, 30, 30]], [SQUARE], 1, 1, 2, 1, 1, ()),
    ([SQUARE, [20, 20, 30, 30]], [[20, 20, 30, 30], [40, 40, 50, 50], SQUARE], 2, 3, 2, 2 / 3, 2, ()),
    # the first box takes the best, and the second finds nothing in what is left; mean_iou has other pairs
    ([SQUARE, [0, 0, 10, 12]], [[0, 0, 10, 11], [0, 0, 10, 22]], 1, 2, 2, .5, 10 / 11 + 12 / 22, ()),
    # corners, and boxes without area
    ([SQUARE], [[10, 10, 0, 0]], 1, 1, 1, 1, 1, ('swapped_corners', )),
    ([SQUARE], [[5, 0, 5, 10]], 0, 1, 1, 0, 0, ('degenerate', )),
    # nothing
    ([], 'There is nothing.', 0, 0, 0, 1, 0, ('nothing_to_find', )),
    ([], [SQUARE], 0, 1, 0, 0, 0, ('nothing_to_find', )),
    ([SQUARE], 'There is nothing.', 0, 0, 1, 0, 0, ('no_box', )),
    ([SQUARE], '', 0, 0, 1, 0, 0, ('no_box', )),
    ([], None, 0, 0, 0, 0, 0, ('no_answer', 'nothing_to_find')),
    ([SQUARE], None, 0, 0, 1, 0, 0, ('no_answer', )),
    # broken
    ([SQUARE], '[{"bbox_2d": [0, 0, 10', 0, 0, 1, 0, 0, ('unparsable', )),
    ([], '[{"bbox_2d": [0, 0, 10', 0, 0, 0, 0, 0, ('unparsable', 'nothing_to_find')),
    ([SQUARE], '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [0,', 1, 1, 1, 1, 1, ('unparsable', )),
    # reasoning is no answer
    ([SQUARE], '<think>[0, 0, 10, 10]</think> nothing', 0, 0, 1, 0, 0, ('no_box', )),
    ([SQUARE], '<think>[7, 7, 9, 9]</think><answer>[0, 0, 10, 10]</answer>', 1, 1, 1, 1, 1, ()),
])  # yapf: disable
def test_rows(references, response, hits, predicted, actual, precision, iou, flags):
    found = case({'bboxes': references}, response)
    assert found.values == pytest.approx({
        'hits': hits, 'predicted': predicted, 'actual': actual, 'precision': precision, 'iou': iou})  # yapf: disable
    assert found.flags == flags


def test_sums():
    cases = [case({'bboxes': [SQUARE]}, [SQUARE]), case({'bboxes': [SQUARE]}, [[50, 50, 60, 60], SQUARE]),
             case({'bboxes': [SQUARE, [20, 20, 30, 30]]}, 'none'), case({'bboxes': []}, 'none')]  # yapf: disable
    found = scores_of(DetectionTask('pixels'), cases)
    assert found['precision_at_0.5'] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert found['micro_precision_at_0.5'] == pytest.approx(2 / 3)
    assert found['recall_at_0.5'] == found['mean_iou'] == pytest.approx(2 / 4)
    assert found['f1_at_0.5'] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_labels():
    both = {'bboxes': [{'bbox': SQUARE, 'label': 'Left_Kidney'}, {'bbox': [20, 20, 30, 30], 'label': 'liver'}]}
    right = [{'bbox_2d': SQUARE, 'label': 'left kidney'}, {'bbox_2d': [20, 20, 30, 30], 'label': 'LIVER'}]
    assert case(both, right).values['hits'] == 2
    crossed = [{**right[0], 'label': 'liver'}, {**right[1], 'label': 'left kidney'}]
    assert case(both, crossed).values['hits'] == case(both, crossed).values['iou'] == 0
    assert case(both, crossed, DetectionTask('pixels', ignore_labels=True)).values['hits'] == 2
    # Without a label: right where the row asks for one thing only.
    assert case(both, [SQUARE]).values['hits'] == 0 and case(both, [SQUARE]).flags == ('other_label', 'unlabelled')
    one = {'bboxes': [SQUARE], 'structure': 'left kidney'}
    assert case(one, [SQUARE]).values['hits'] == 1
    assert case(one, [{'bbox_2d': SQUARE, 'label': 'liver'}]).values['hits'] == 0
    assert case({'bboxes': [SQUARE]}, [{'bbox_2d': SQUARE, 'label': 'liver'}]).values['hits'] == 1


def test_coordinates_of_the_answer():
    forms: dict[CoordinateSystem, list[float]] = {
        'pixels': [63, 42, 126, 84], 'norm1000': [100, 100, 200, 200], 'norm1': [.1, .1, .2, .2],
        'resized': [63 * 616 / 630, 42, 126 * 616 / 630, 84]}  # yapf: disable
    reference = {'bboxes': [[63, 42, 126, 84]], 'size': [420, 630]}
    for form, box in forms.items():
        found = case(reference, [box], DetectionTask(form))
        assert found.values['iou'] == pytest.approx(1, abs=1e-9), form
    # No size is needed where nothing is to be converted.
    assert case({'bboxes': [SQUARE]}, 'none', DetectionTask('norm1')).values['actual'] == 1
    with pytest.raises(RowError, match="'size'"):
        case({'bboxes': [SQUARE]}, [SQUARE], DetectionTask('norm1'))


def test_boxes_of_masks():
    arrays = np.zeros((3, 40, 60), np.uint8)
    arrays[0, 5:15, 10:30] = arrays[1, 5:16, 10:30] = 1
    masks = [encode_rle(array) for array in arrays]
    task = DetectionTask(boxes_from='masks')
    drawn = [{'rle': rle, 'score': score, 'image_index': 0, 'phrase': 'it'} for rle, score in zip(masks, (1, .75, .5))]
    found = case({'masks': masks[:1]}, 'Here: [SEG].', task, masks=[drawn[1], drawn[2]])
    assert found.values == pytest.approx({'hits': 1, 'predicted': 1, 'actual': 1, 'precision': 1, 'iou': 200 / 220})
    assert found.data == [['', 1, [0.75], [0b1111111111 if 200 / 220 >= .95 else 0b111111111]]]
    assert case({'masks': masks[2:]}, 'None.', task, masks=[drawn[2]]).values['precision'] == 1
    assert case({'masks': masks[:1]}, None, task).flags == ('no_answer', )
    assert case({'bboxes': [[10, 5, 30, 15]]}, 'Here.', task, masks=json.dumps(drawn[:1])).values['precision'] == 1
    with pytest.raises(PredictionError):
        case({'masks': masks[:1]}, 'Here: [SEG].', task)


def test_several_images():
    arrays = np.zeros((2, 20, 20), np.uint8)
    arrays[:, 5:15, 5:15] = 1
    masks = [encode_rle(array) for array in arrays]
    reference = {'masks': masks, 'mask_images': [0, 1], 'images': ['a.png', 'b.png']}
    drawn = [{'rle': rle, 'image_index': image} for rle, image in zip(masks, (1, 1))]
    assert case(reference, 'x', DetectionTask(boxes_from='masks'), masks=drawn).values['hits'] == 1
    with pytest.raises(RowError, match=r'images \[0, 1\]'):
        case(reference, [SQUARE])
    # A box on the second image alone.
    objects = {'bbox': [SQUARE], 'image_id': [1]}
    task = DetectionTask('norm1')
    assert case({'objects': objects, 'size': [[5, 5], [20, 20]]}, [[0, 0, .5, .5]], task).values['hits'] == 1


def test_malformed_and_failed_predictions():
    with pytest.raises(PredictionError, match='response'):
        case({'bboxes': [SQUARE]}, None, response_=1)
    assert case({'bboxes': [SQUARE]}, None, error='out of memory').flags == ('no_answer', )


@pytest.mark.parametrize('options', [{'boxes_from': 'image'}, {'ref_boxes': 'x'}, {'coordinates': 'percent'}])
def test_invalid_options(options):
    with pytest.raises(ValueError, match='give one of'):
        DetectionTask(**options)


def test_options_of_the_command_line():
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert DetectionTask(**cli.options(parser.parse_args([]))) == DetectionTask()
    args = parser.parse_args('--coordinates norm1000 --max-pixels 401408 --boxes-from masks --ref-boxes objects '
                             '--ignore-labels'.split())  # yapf: disable
    task = DetectionTask(**cli.options(args))
    assert task == DetectionTask('norm1000', None, 401408, 'masks', 'objects', True)
    assert pickle.loads(pickle.dumps(task)) == task and json.dumps(task.rules)


@pytest.mark.parametrize('label, ignored, flags', [('liver', False, ()), ('Leber', False, ('other_label', )),
                                                   ('Leber', True, ())])  # yapf: disable
def test_right_place_with_another_label(label, ignored, flags):
    row = {'size': [100, 100], 'bboxes': [{'bbox': [10, 10, 50, 50], 'label': 'liver'}]}
    text = json.dumps([{'bbox_2d': [10, 10, 50, 50], 'label': label}])
    case, = DetectionTask(coordinates='pixels', ignore_labels=ignored).score(Pair('r', row, {'response': text}))
    assert case.flags == flags and case.values['hits'] == (not flags)
    far = json.dumps([{'bbox_2d': [60, 60, 90, 90], 'label': label}])
    assert DetectionTask(coordinates='pixels').score(Pair('r', row, {'response': far}))[0].flags == ()


# ---- whole files


def files(folder, responses, number=60, seed=3):
    """A reference file of one or two boxes a row, and a prediction file; `responses` makes the answers of the boxes."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 900, (number, 2, 2))
    boxes = np.concatenate([corners, corners + generator.integers(20, 80, corners.shape)], axis=2)
    rows = [{'id': i, 'bboxes': boxes[i, :1 + i % 2].tolist(), 'structure': 'abc'[i % 3], 'size': [1000, 1000],
             'images': [f'{i}.png']} for i in range(number)]  # yapf: disable
    answers = responses([row['bboxes'] for row in rows])
    for name, content in (('ref', rows), ('pred', [{'id': i, 'response': json.dumps(answer)}
                                                   for i, answer in enumerate(answers)])):  # yapf: disable
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in content))
    return str(folder / 'ref.jsonl'), str(folder / 'pred.jsonl')


def test_perfect_and_shuffled(tmp_path):

    def run(responses):
        reference, prediction = files(tmp_path, responses)
        return evaluate(DetectionTask('norm1000'), reference, prediction, EvaluationSettings(repeats=20))

    perfect = run(lambda boxes: boxes)
    assert {name: round(score.value, 9) for name, score in perfect.scores.items()} == dict.fromkeys(perfect.scores, 1)
    shuffled = run(lambda boxes: boxes[7:] + boxes[:7])
    assert all(score.value < 0.05 for score in shuffled.scores.values())
    half = run(lambda boxes: [boxes[0]] * 30 + boxes[30:])
    for score in half.scores.values():
        assert score.low < score.value < score.high and 0.3 < score.value < 0.7


def test_pictures(tmp_path):
    Image.new('L', (200, 100), 80).save(tmp_path / 'a.png')
    reference = {'bboxes': [[20, 20, 60, 60], [100, 40, 140, 80]], 'images': [str(tmp_path / 'a.png')],
                 'messages': [{'role': 'user', 'content': '<image>Find them.'}]}  # yapf: disable
    task = DetectionTask('pixels')
    shown = task.show(pair(reference, [[22, 20, 60, 58], [150, 10, 1e8, 90]]), 0)
    assert shown.picture is not None and shown.picture.size == (512, 256 + 20)
    lines = dict(shown.lines)
    assert lines['question'] == 'Find them.' and lines['reference boxes'].startswith('R1 [20, 20, 60, 60]; R2 ')
    assert lines['predicted boxes'].startswith('P1 [22, 20, 60, 58] IoU 0.90 with R1; P2 ')
    assert shown.title == 'r:1: 1 of 2 right, 2 to find'
    # Where the image, or the answer, is missing.
    shown = task.show(pair({**reference, 'images': ['none.png']}), 0)
    assert 'none.png' in dict(shown.lines)['picture'] and shown.picture is not None
    assert task.show(pair({'bboxes': []}, 'none'), 0).picture is not None
    # A huge box does not make a huge background.
    shown = task.show(pair({'bboxes': []}, [[0, 0, 1e8, 1e8]]), 0)
    assert shown.picture is not None and shown.picture.size == (512, 512 + 20)
    assert 'response' in dict(task.show(Pair('r:1', reference, {'response': 3}), 0).lines)['problem']
