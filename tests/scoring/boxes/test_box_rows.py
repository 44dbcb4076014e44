"""Reference boxes of rows, and the coordinate systems of answers."""
import itertools
import json
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.scoring.boxes.box_rows import Coordinates, boxes_of_masks, has_boxes, reference_boxes
from swift_citrusv.scoring.boxes.box_text import Box
from swift_citrusv.scoring.mask_rows import ImageMask

LIVER = Box((12, 30, 50, 60), 'liver')
PLAIN = Box((12, 30, 50, 60))
PIXELS = Coordinates('pixels')


def row(height=420, width=630, **columns):
    return {'size': [height, width], **columns}


def read(column='auto', coordinates=PIXELS, **columns):
    return reference_boxes(columns, 'r', column, coordinates)


def test_scales_of_coordinates():
    assert Coordinates('pixels').scale_to_pixels({}, 0, 'r') == (1, 1)
    assert Coordinates('norm1').scale_to_pixels(row(), 0, 'r') == (630, 420)
    assert Coordinates('norm1000').scale_to_pixels(row(), 0, 'r') == (0.63, 0.42)


def test_resized_equals_qwen_vl_utils():
    from qwen_vl_utils import fetch_image
    sizes = [(420, 630), (100, 57), (10, 900), (1024, 1024), (3000, 4000), (28, 28), (13, 13)]
    for size, (least, most) in itertools.product(sizes, [(None, None), (None, 401408), (200704, 401408)]):
        limits = {key: value for key, value in (('min_pixels', least), ('max_pixels', most)) if value}
        seen = fetch_image({'image': Image.new('RGB', size[::-1]), **limits})
        x, y = Coordinates('resized', least, most).scale_to_pixels(row(*size), 0, 'r')
        assert (seen.width * x, seen.height * y) == pytest.approx(size[::-1]), (size, limits)
        # The settings of a row take precedence, as in ms-swift.
        ours = Coordinates('resized').scale_to_pixels(row(*size, chat_template_kwargs=limits), 0, 'r')
        assert ours == pytest.approx((x, y)), (size, limits)


def test_resized_sides_of_a_row():
    from qwen_vl_utils import fetch_image
    sides = {'resized_height': 200, 'resized_width': 300}
    seen = fetch_image({'image': Image.new('RGB', (630, 420)), **sides})
    x, y = Coordinates('resized').scale_to_pixels(row(chat_template_kwargs=sides), 0, 'r')
    assert (seen.width * x, seen.height * y) == pytest.approx((630, 420))


def test_size_of_the_file(tmp_path):
    Image.new('L', (50, 20)).save(tmp_path / 'a.png')
    assert Coordinates('norm1').scale_to_pixels({'images': [str(tmp_path / 'a.png')]}, 0, 'r') == (50, 20)
    with pytest.raises(RowError, match='none.png'):
        Coordinates('norm1').scale_to_pixels({'images': [str(tmp_path / 'none.png')]}, 0, 'r')
    with pytest.raises(RowError, match="'size'"):
        Coordinates('norm1').scale_to_pixels({}, 0, 'r')
    with pytest.raises(RowError, match='630000 x 28'):
        Coordinates('resized').scale_to_pixels(row(28, 630000), 0, 'r')


@pytest.mark.parametrize('options', [('percent', ), ('resized', 5), ('resized', 9000, 8000), ('resized', 1.5)])
def test_invalid_coordinates(options):
    with pytest.raises(ValueError, match='coordinates|pixels'):
        Coordinates(*options)


# ---- references


def test_columns():
    boxes = [[12, 30, 50, 60], [1, 2, 3, 4]]
    assert read(bboxes=boxes) == read(boxes=boxes) == read(bbox=boxes) == [PLAIN, Box((1, 2, 3, 4))]
    assert read(bbox=boxes[0]) == read(bboxes=json.dumps(boxes[:1])) == [PLAIN]
    assert read(bboxes=[{'bbox': boxes[0], 'label': 'liver'}]) == read(bbox={'bbox_2d': boxes[0], 'label': 'liver'})
    assert read(bboxes=boxes[:1], structures=['liver']) == read(bbox=boxes[0], structure='liver') == [LIVER]
    assert read(bboxes=boxes, structure='liver') == [LIVER, Box((1, 2, 3, 4), 'liver')]
    assert read(bboxes=[], answer='[1, 2, 3, 4]') == []
    assert read(bboxes=None, answer='[1, 2, 3, 4]') == [Box((1, 2, 3, 4))]
    # As ms-swift does with its own.
    assert read(bbox=[50, 60, 12, 30]) == [PLAIN]


def test_objects_of_ms_swift():
    objects = {'ref': ['liver'], 'bbox': [[12, 30, 50, 60]], 'bbox_type': 'real', 'image_id': [1]}
    assert read(objects=objects) == [Box((12, 30, 50, 60), 'liver', image=1)]
    assert read(objects={'bbox': [[12, 30, 50, 60]], 'ref': [], 'bbox_type': None, 'image_id': None}) == [PLAIN]
    parts = {'ref': ['liver'], 'bbox': [[.1, .2, .5, .6], [0, 0, 1, 1]], 'bbox_type': 'norm1'}
    assert read(objects=parts, size=[100, 200]) == [Box((20, 20, 100, 60), 'liver'), Box((0, 0, 200, 100), 'liver')]
    # A row of text in a file of boxes.
    assert not has_boxes({'objects': {'ref': None, 'bbox': None}}, 'objects')


def test_answers():
    text = '<think>[1, 2, 3, 4]</think>[{"bbox_2d": [24, 60, 100, 120], "label": "liver"}]'
    permille = Coordinates('norm1000')
    assert read(messages=[{'role': 'assistant', 'content': text}], coordinates=permille, size=[500, 500]) == [LIVER]
    assert read(answer='There is none.') == []


def test_masks():
    arrays = [np.zeros((20, 30), np.uint8) for _ in range(4)]
    arrays[0][4:9, 7:11] = 1
    arrays[1][0, 29] = arrays[1][19, 0] = 1
    arrays[2][:] = 1
    masks = [encode_rle(array) for array in arrays]
    found = boxes_of_masks([ImageMask(array > 0, 0) for array in arrays])
    assert [box.corners for box in found] == [(7, 4, 11, 9), (0, 0, 30, 20), (0, 0, 30, 20)]
    for box, rle in zip(found, masks):
        assert box.xywh == coco_mask.toBbox(rle).tolist()
    assert read(masks=masks, size=[20, 30]) == found == read(label_masks=masks, masks=[], size=[20, 30])
    # In a result of `swift infer` without targets, the masks are the answer.
    assert read(masks=[{'rle': masks[0]}], answer='[1, 2, 3, 4]') == [Box((1, 2, 3, 4))]
    assert read(masks=[], answer='[1, 2, 3, 4]') == [Box((1, 2, 3, 4))] and read('masks', masks=[]) == []


@pytest.mark.parametrize('columns', [
    {}, {'bboxes': [[1, 2, 3]]}, {'bboxes': 'none'}, {'bboxes': 7}, {'bboxes': [[1, 2, 3, float('nan')]]},
    {'bboxes': [[5, 5, 5, 9]]}, {'bboxes': [[[1, 2, 3, 4], [1, 2, 3, 4]]]}, {'bbox': [1, 2, 3]},
    {'bboxes': [[1, 2, 3, 4]], 'structures': ['a', 'b']}, {'objects': {'bbox': [[1, 2]]}}, {'objects': {'bbox': 5}},
    {'objects': {'bbox': [[1, 2, 3, 4]], 'ref': ['a', 'b']}}, {'objects': {'bbox': [[1, 2, 3, 4]], 'image_id': [-1]}},
    {'answer': '{"bbox_2d": [1, 2'}, {'objects': {'bbox': [[.1, .1, .2, .2]], 'bbox_type': 'norm1'}},
])  # yapf: disable
def test_invalid_references(columns):
    with pytest.raises(RowError, match='^r: .*'):
        read(**columns)


def test_a_missing_column():
    with pytest.raises(RowError, match="no 'bboxes'"):
        read('bboxes', boxes=[[1, 2, 3, 4]])
