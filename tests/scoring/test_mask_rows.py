"""Masks of references and predictions in all formats, and the errors of invalid ones."""
import itertools
import json
import numpy as np
import pytest
from PIL import Image
from support.image_kinds import orientation
from support.rows import rle
from support.scored_masks import BOXES, MASKS, ONES, SIZE, cases, flags_of, main_values, prediction, reference
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import PredictionError
from swift_citrusv.scoring.mask_rows import target_masks

# ---- references


def test_masks_of_earlier_turns_are_part_of_the_question():
    turns = ['Where is the bone?', '[SEG] bone.', 'And both vessels?', '[SEG] and [SEG].']
    messages = [{'role': ('user', 'assistant')[i % 2], 'content': text} for i, text in enumerate(turns)]
    row = reference(*MASKS[:3], messages=messages, structure=['bone', 'artery', 'vein'])
    found = cases(row, prediction(MASKS[1], MASKS[2]))
    assert [main_values(case) for case in found] == [ONES, ONES]
    assert [case.groups for case in found] == [{'structure': 'artery'}, {'structure': 'vein'}]
    # The same as a result line: the last turn is the model's.
    answered = [*messages[:3], {'role': 'assistant', 'content': 'I see none.'}]
    line = {**row, **prediction(MASKS[1]), 'messages': answered, 'label_masks': row['masks']}
    assert [case.values['dice'] for case in cases(line, line)] == [1., 0.]
    # A question alone: what follows the earlier answers.
    assert len(cases({**row, 'messages': messages[:3]}, None)) == 2
    for wrong in (messages + messages, [*messages[:3], {'role': 'assistant', 'content': 'I see none.'}]):
        with pytest.raises(RowError, match=r"ref.jsonl:7: 'masks' has 3 entries"):
            cases({**row, 'messages': wrong}, None)


def test_a_result_line_is_not_scored_against_itself():
    # `swift infer` moves targets to `label_masks`; a row without any has its answer alone.
    line = prediction(MASKS[0])
    case, = cases(line, line)
    assert flags_of(case) == ('extra_seg', )
    case, = cases({**line, 'label_masks': [rle(MASKS[0])]}, line)
    assert main_values(case) == ONES
    case, = cases({**line, 'label_masks': None}, line)
    assert flags_of(case) == ('extra_seg', )


def test_all_forms_of_a_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.zeros(SIZE, np.uint8)
    labels[MASKS[0] > 0] = 3
    Image.fromarray(labels).save('labels.png')
    Image.fromarray(MASKS[0] * 255).save('mask.png')
    Image.new('RGB', SIZE[::-1]).save('image.png')
    x0, y0, x1, y1 = BOXES[0]
    polygons = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    runs = np.diff(np.flatnonzero(np.diff(MASKS[0].ravel('F'), prepend=1 - MASKS[0][0, 0], append=2)))
    counts = {'size': list(SIZE), 'counts': [int(run) for run in runs]}
    forms: list[Any] = [rle(MASKS[0]), counts, polygons, {'path': 'labels.png', 'label': 3}, {'path': 'mask.png'}]
    in_messages = [{'role': 'user', 'content': [{'type': 'image', 'image': 'image.png'}]}]
    sized: list[dict[str, Any]] = [{'images': ['image.png']}, {'image': 'image.png'}, {'messages': in_messages},
                                   {'size': list(SIZE)}, {'size': [list(SIZE)]},
                                   {'height': SIZE[0], 'width': SIZE[1]},
                                   {'height': [SIZE[0]], 'width': [SIZE[1]]}]  # yapf: disable
    for form, columns in itertools.product(forms, sized):
        for masks in ([form], json.dumps([form])):
            target, = target_masks({'masks': masks, **columns}, 'row')
            np.testing.assert_array_equal(target.array, MASKS[0] > 0)
            assert target.array.dtype == bool
            case, = cases(reference(MASKS[0], **columns), {'masks': masks})
            assert main_values(case) == ONES
            case, = cases({'masks': masks, **columns}, prediction(MASKS[0]))
            assert main_values(case) == ONES
    # A file says its own size; polygons do not, but another mask of the same image does.
    assert len(target_masks({'masks': [forms[3]]}, 'row')) == 1
    assert len(target_masks({'masks': [forms[2], forms[0]]}, 'row')) == 2
    with pytest.raises(RowError, match='polygons need the size of image 0'):
        target_masks({'masks': [polygons]}, 'row')


@pytest.mark.parametrize('row, message', [
    ({'masks': 'nonsense'}, 'not JSON'),
    ({'masks': {'size': [1, 1]}}, 'not a list'),
    ({'masks': [{'size': [2, 2], 'counts': [1, 2]}]}, 'sum to 3'),
    ({'masks': [{'path': 'gone.png'}]}, "the mask 'gone.png' cannot be read"),
    ({'masks': [[[0, 0, 9, 0, 9, 9]]], 'images': ['gone.png']}, r"images\[0\]='gone.png' cannot be read"),
    ({'masks': [[[0, 0, 9, 0, 9, 9]]], 'size': [0, 5]}, r'the size of image 0 is \[0, 5\]'),
    (reference(MASKS[0], images=['a', 'b']), "2 images and 1 masks, but no 'mask_images'"),
    (reference(MASKS[0], images=['a'], mask_images=[1]), 'the index 1, but the row has 1 images'),
    (reference(MASKS[0], images=['a'], mask_images=[0, 0]), r'\[0, 0\] for 1 masks'),
    (reference(MASKS[0], np.ones((3, 3))), r'masks\[1\] has \[height, width\] \[3, 3\]'),
    (reference(MASKS[0], structure=['bone', 'vein']), 'for 1 masks'),
    (reference(MASKS[0], messages='nonsense'), "'messages' is 'nonsense'"),
])  # yapf: disable
def test_references_that_cannot_be_read_end_the_evaluation(row, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RowError, match=message):
        cases(row, None)


# ---- predictions


@pytest.mark.parametrize('line, message', [
    ({}, "neither 'masks' nor 'response'"),
    ({'response': 3}, 'not a string'),
    ({'response': 'It is [SEG] and [SEG].'}, r"has 2 \[SEG\] tokens, but there are no 'masks'"),
    ({'masks': 'nonsense'}, 'not JSON'),
    ({'masks': 3}, 'not a list'),
    ({'masks': [3]}, r'masks\[0\] is 3'),
    ({'masks': [{}]}, r'masks\[0\] is \{\}'),
    ({'masks': [{'rle': {'size': list(SIZE), 'counts': 'zz'}}]}, 'broken RLE'),
    ({'masks': [{'rle': {'size': list(SIZE), 'counts': '\x00' * 9}}]}, 'broken RLE'),
    ({'masks': [{'rle': {'size': list(SIZE), 'counts': 'P' * 500}}]}, 'broken RLE'),
    ({'masks': [{'rle': None}]}, r'masks\[0\] is None'),
    ({'masks': [{'size': list(SIZE), 'counts': [5, -5]}]}, 'the run length -5'),
    ({'masks': [[[1, 2, 3]]]}, 'has 3 coordinates'),
    ({'masks': [{'path': 'gone.png'}]}, 'cannot be read'),
    (prediction(np.ones((5, 6))), r'\[5, 6\].*\[24, 32\]'),
    ({'masks': [{'rle': {'size': [10**6, 10**6], 'counts': [10**12]}}]}, 'more pixels'),
    (prediction(MASKS[0], images=(1, )), 'the row has 1 images'),
    (prediction(MASKS[0], images=(-1, )), "'image_index' -1"),
    (prediction(MASKS[0], images=('0', )), "'image_index' '0'"),
    ({'masks': [rle(MASKS[0])], 'mask_images': [0, 0]}, 'for 1 masks'),
])  # yapf: disable
def test_predictions_that_cannot_be_read_are_malformed(line, message):
    row = reference(MASKS[0], images=['a.png'])
    with pytest.raises(PredictionError, match=message):
        cases(row, line)


def test_a_bare_mask_needs_its_image_where_there_are_several():
    row = reference(MASKS[0], images=['a.png', 'b.png'], mask_images=[1])
    bare = {'masks': [rle(MASKS[0])]}
    with pytest.raises(PredictionError, match="no 'image_index', and the row has 2 images"):
        cases(row, bare)
    for line in ({**bare, 'mask_images': [1]}, {'masks': [{**rle(MASKS[0]), 'image_index': 1}]}):
        case, = cases(row, line)
        assert main_values(case) == ONES


# ---- photos and lossy files


def test_masks_in_jpeg_and_of_turned_photos(tmp_path, monkeypatch):
    """A JPEG mask scores 1 against the true mask; reference and prediction lie on the upright image."""
    monkeypatch.chdir(tmp_path)
    upright = MASKS[1]
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save('photo.jpg', exif=orientation(6))
    Image.fromarray(upright * 255).save('mask.jpg')
    Image.fromarray(np.ascontiguousarray(np.rot90(upright)) * 255).save('turned.jpg', exif=orientation(6))
    for entry in ({'path': 'mask.jpg'}, {'path': 'turned.jpg'}, [[10, 8, 30, 8, 30, 20, 10, 20]]):
        case, = cases({'masks': [entry], 'images': ['photo.jpg']}, prediction(upright))
        assert main_values(case) == ONES, entry
    stored = np.ascontiguousarray(np.rot90(upright))
    Image.fromarray(stored).save('stored.png')
    with pytest.raises(RowError, match='EXIF orientation 6'):
        cases({'masks': [{'path': 'stored.png'}], 'images': ['photo.jpg']}, prediction(upright))
