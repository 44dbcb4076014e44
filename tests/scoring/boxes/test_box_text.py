"""Boxes in answers and rows: every form that models of this kind write, and what the coordinates mean."""
import json
import numpy as np
import pytest
import random
import time
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.scoring.boxes.box_rows import Coordinates, boxes_of_masks, has_boxes, reference_boxes
from swift_citrusv.scoring.boxes.box_text import Box, boxes_of_json, normalised_label, parse_boxes
from swift_citrusv.scoring.mask_rows import ImageMask

LIVER = Box((12, 30, 50, 60), 'liver')
PLAIN = Box((12, 30, 50, 60))
# text, boxes, number of pieces that cannot be read
TEXTS = [
    # the special tokens of Qwen2-VL, and what is left where they are skipped
    ('<|object_ref_start|>liver<|object_ref_end|><|box_start|>(12,30),(50,60)<|box_end|>', [LIVER], 0),
    ('<|box_start|>(12, 30), (50, 60)<|box_end|>', [PLAIN], 0),
    ('<|object_ref_start|>liver<|object_ref_end|><|box_start|>(12,30),(50,60)<|box_end|>'
     '<|box_start|>(1,2),(3,4)<|box_end|> and <|object_ref_start|>left kidney<|object_ref_end|>'
     '<|box_start|>[5, 6, 7, 8]<|box_end|>', [LIVER, Box((1, 2, 3, 4), 'liver'), Box((5, 6, 7, 8), 'left kidney')], 0),
    ('<|box_start|>(12,30),(50,60)', [PLAIN], 0),
    ('liver(12,30),(50,60)', [PLAIN], 0),
    ('<|box_start|>(12,30),(50<|box_end|>', [], 1),
    ('<|box_start|>the upper half<|box_end|>', [], 1),
    # JSON
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"}]', [LIVER], 0),
    ('```json\n[\n\t{"bbox_2d": [12, 30, 50, 60], "label": "liver"},\n\t{"bbox_2d": [1.5, 2, 3, 4.25]}\n]\n```',
     [LIVER, Box((1.5, 2, 3, 4.25))], 0),
    ('It is here: {"label": "liver", "bbox": [12, 30, 50, 60], "score": 0.25}.',
     [Box((12, 30, 50, 60), 'liver', 0.25)], 0),
    ('{"objects": [{"name": "liver", "box": [12, 30, 50, 60]}], "count": 1}', [LIVER], 0),
    ('{"liver": [12, 30, 50, 60], "spleen": [1, 2, 3, 4]}', [LIVER, Box((1, 2, 3, 4), 'spleen')], 0),
    ('{"label": "liver", "bboxes": [[12, 30, 50, 60], [1, 2, 3, 4]]}', [LIVER, Box((1, 2, 3, 4), 'liver')], 0),
    ('{"label": "liver", "bbox": [[12, 30], [50, 60]]}', [LIVER], 0),
    ('{"bbox_2d": []}', [], 0),
    ('[]', [], 0),
    ('{"bbox_2d": [12, 30, 50], "label": "liver"}', [], 1),
    ('{"bbox_2d": "nowhere", "label": "liver"}', [], 1),
    ('{"bbox_2d": [12, 30, NaN, 60]}', [], 1),
    ('{"bbox_2d": [12, 30, 1e999, 60]}', [], 1),
    ('{"bbox_2d": [12, true, 50, 60]}', [], 1),
    # JSON that is none
    ("{'bbox_2d': [12, 30, 50, 60], 'label': 'liver'}", [LIVER], 0),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"},]', [LIVER], 0),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"}, {"bbox_2d": [1, 2, 3', [LIVER], 1),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"}, {"bbox_2d"', [LIVER], 1),
    ('{"bbox_2d": [12, 30, 50, 60], "label": "liver", "score": 0.5', [Box((12, 30, 50, 60), 'liver', 0.5)], 0),
    # the paper's, as its text and as its appendix write it
    ('<bbox>{"Part": "liver", "bbox": [12, 30, 50, 60]}</bbox>', [LIVER], 0),
    ('<bbox>{"Part": "liver", "bbox": "[12, 30, 50, 60]"}</bbox>', [LIVER], 0),
    ('region ("Part": "liver", "bbox": "[12, 30, 50, 60]") to survey', [LIVER], 0),
    ('region <bbox>("Part": "liver", "bbox": "[12, 30, 50, 60]"</bbox>), I', [LIVER], 0),
    ('使用 `<bbox>["Part":"liver",\n"bbox": "[12, 30, 50, 60]"</bbox>` 评估', [LIVER], 0),
    ('<bbox>12, 30, 50, 60</bbox>', [PLAIN], 0),
    ('<bbox>right here</bbox>', [], 1),
    # plain
    ('[12, 30, 50, 60]', [PLAIN], 0),
    ('(12, 30, 50, 60)', [PLAIN], 0),
    ('[(12,30),(50,60)]', [PLAIN], 0),
    ('（12，30），（50，60）', [PLAIN], 0),
    ('[[12, 30, 50, 60], [1, 2, 3, 4]]', [PLAIN, Box((1, 2, 3, 4))], 0),
    ('at [12, 30, 50, 60] and [50, 60, 12, 30]', [PLAIN, Box((50, 60, 12, 30))], 0),
    ('[-3, -4.5, 50, 60]', [Box((-3, -4.5, 50, 60))], 0),
    # none
    ('There is no lesion.', [], 0),
    ('', [], 0),
    ('Levels 1, 2, 3, 4 (L1-L4) are normal [1, 2], see [7].', [], 0),
    ('{"finding": "none", "levels": [1, 2, 3]}', [], 0),
]  # yapf: disable


@pytest.mark.parametrize('text, boxes, unreadable', TEXTS)
def test_forms(text, boxes, unreadable):
    found = parse_boxes(text)
    assert list(found.boxes) == boxes
    assert len(found.unreadable) == unreadable, found.unreadable


@pytest.mark.parametrize('text, boxes, unreadable', TEXTS)
def test_forms_among_other_text(text, boxes, unreadable):
    found = parse_boxes(f'Found (see below): {text}\n\nand also {{"bbox_2d": [1, 1, 2, 2], "label": "mass"}} there.')
    if text.endswith(('[1, 2, 3', '"bbox_2d"', '0.5')):
        return  # What follows goes on where the text was cut.
    if text.count('<|box_start|>(12,30),(50,60)') and not text.endswith('|>'):
        return
    assert list(found.boxes) == [*boxes, Box((1, 1, 2, 2), 'mass')]
    assert len(found.unreadable) == unreadable


def test_paper_appendix():
    """Step 1 of three of the answers of appendix A, brackets and all."""
    first = ('Step 1 – Soft tissues and bony thorax: I first use the global rib region ("Part": "rib", "bbox": "[70, '
             '23, 869, 1004]") to survey the chest wall. I then use ("Part": "right_rib", "bbox": "[75, 21, 400, '
             '999]") and ("Part": "left_rib", "bbox": "[555, 30, 892, 999]") to focus on both sides.')  # yapf: disable
    second = ('Using the global rib region <bbox>("Part": "rib", "bbox": "[20, 34, 899, 835]"</bbox>), I evaluated the '
              'chest wall. Then, with <bbox>("Part": "right_rib", "bbox": "[26, 37, 371, 837]"</bbox> and '
              '<bbox>("Part": "left_rib", "bbox": "[533, 47, 885, 837]"</bbox>), I focused')  # yapf: disable
    third = ('区域 `<bbox>["Part":"rib",\n"bbox": "[70, 23, 845, 996]"</bbox>` 扫描胸壁。随后分别使用 `<bbox>["Part":"right '
             'rib",\n"bbox": "[70, 23, 396, 996]"</bbox>` 和 `<bbox>["Part":"left rib",\n"bbox": "[527, 23, 845, '
             '996]"</bbox>` 聚焦两侧')  # yapf: disable
    for text, left in ((first, (555, 30, 892, 999)), (second, (533, 47, 885, 837)), (third, (527, 23, 845, 996))):
        found = parse_boxes(text)
        assert [normalised_label(box.label) for box in found.boxes] == ['rib', 'right rib', 'left rib']
        assert found.boxes[2].corners == left and not found.unreadable


@given(st.lists(st.tuples(*[st.integers(0, 2000)] * 4, st.sampled_from(['liver', 'left kidney', '肝', 'a-b_c'])),
                max_size=6), st.integers(0, 4))  # yapf: disable
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(boxes, form):
    """A slow writer of each form against the reader."""
    wanted = [Box((x1, y1, x2, y2), label) for x1, y1, x2, y2, label in boxes]
    parts = []
    for box in wanted:
        x1, y1, x2, y2 = (round(side) for side in box.corners)
        parts.append([
            f'<|object_ref_start|>{box.label}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>',
            json.dumps({'bbox_2d': [x1, y1, x2, y2], 'label': box.label}, ensure_ascii=False),
            f'<bbox>{{"Part": "{box.label}", "bbox": "[{x1}, {y1}, {x2}, {y2}]"}}</bbox>',
            f'("Part": "{box.label}", "bbox": "[{x1}, {y1}, {x2}, {y2}]")',
            f"{{'label': '{box.label}', 'bbox': [{x1}, {y1}, {x2}, {y2}]}}"][form])  # yapf: disable
    found = parse_boxes(', '.join(parts))
    assert list(found.boxes) == wanted and not found.unreadable


@given(st.text(alphabet='[]{}()<>|"\':,0123456789 .-_eabdinbox\n，（', max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(text):
    for box in parse_boxes(text).boxes:
        assert np.isfinite(box.corners).all()


@pytest.mark.parametrize('piece', [
    '[', '{', '(', '{"a":', '[[1,', '<bbox>', '<|box_start|>', '<|object_ref_start|>', '{"bbox": [', '("bbox"', '"bbox',
    ' ', '{"bbox_2d": [1, 2, 3, 4]}, ', '(1,2),', "{'"
])  # yapf: disable
def test_long_answers_take_no_time(piece):
    start = time.monotonic()
    parse_boxes(piece * (40000 // len(piece)))
    assert time.monotonic() - start < 5


def test_labels_are_compared():
    assert normalised_label(' Right_Lung ') == normalised_label('right  lung') == normalised_label('ＲＩＧＨＴ-lung')
    assert normalised_label('左肺') == '左肺' != normalised_label('右肺')


def test_corners():
    swapped = Box((50, 60, 12, 30))
    assert swapped.is_swapped and swapped.upright().corners == (12, 30, 50, 60) and swapped.xywh == [12, 30, 38, 30]
    assert Box((5, 5, 5, 9)).is_degenerate and not LIVER.is_degenerate and not LIVER.is_swapped
    assert LIVER.scaled(2, 0.5) == Box((24, 15, 100, 30), 'liver')


# ---- coordinates


def row(height=420, width=630, **columns):
    return {'size': [height, width], **columns}


def test_parts_of_an_image():
    assert Coordinates('pixels').scale_to_pixels({}, 0, 'r') == (1, 1)
    assert Coordinates('norm1').scale_to_pixels(row(), 0, 'r') == (630, 420)
    assert Coordinates('norm1000').scale_to_pixels(row(), 0, 'r') == (0.63, 0.42)


@pytest.mark.parametrize('size', [(420, 630), (100, 57), (10, 900), (1024, 1024), (3000, 4000), (28, 28), (13, 13)])
@pytest.mark.parametrize('least, most', [(None, None), (None, 401408), (200704, 401408)])
def test_resized_as_qwen_vl_utils_does(size, least, most):
    from qwen_vl_utils import fetch_image
    limits = {key: value for key, value in (('min_pixels', least), ('max_pixels', most)) if value}
    seen = fetch_image({'image': Image.new('RGB', size[::-1]), **limits})
    x, y = Coordinates('resized', least, most).scale_to_pixels(row(*size), 0, 'r')
    assert (seen.width * x, seen.height * y) == pytest.approx(size[::-1])
    # What a row says goes before, as in ms-swift.
    ours = Coordinates('resized').scale_to_pixels(row(*size, chat_template_kwargs=limits), 0, 'r')
    assert ours == pytest.approx((x, y))


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
def test_coordinates_that_are_none(options):
    with pytest.raises(ValueError, match='coordinates|pixels'):
        Coordinates(*options)


# ---- references

PIXELS = Coordinates('pixels')


def read(column='auto', coordinates=PIXELS, **columns):
    return reference_boxes(columns, 'r', column, coordinates)


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
    half = Coordinates('norm1000')
    assert read(messages=[{'role': 'assistant', 'content': text}], coordinates=half, size=[500, 500]) == [LIVER]
    assert read(answer='There is none.') == []


def test_masks():
    random.seed(0)
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
    # Of a result of `swift infer` without targets, the masks are the answer.
    assert read(masks=[{'rle': masks[0]}], answer='[1, 2, 3, 4]') == [Box((1, 2, 3, 4))]
    assert read(masks=[], answer='[1, 2, 3, 4]') == [Box((1, 2, 3, 4))] and read('masks', masks=[]) == []


@pytest.mark.parametrize('columns', [
    {}, {'bboxes': [[1, 2, 3]]}, {'bboxes': 'none'}, {'bboxes': 7}, {'bboxes': [[1, 2, 3, float('nan')]]},
    {'bboxes': [[5, 5, 5, 9]]}, {'bboxes': [[[1, 2, 3, 4], [1, 2, 3, 4]]]}, {'bbox': [1, 2, 3]},
    {'bboxes': [[1, 2, 3, 4]], 'structures': ['a', 'b']}, {'objects': {'bbox': [[1, 2]]}}, {'objects': {'bbox': 5}},
    {'objects': {'bbox': [[1, 2, 3, 4]], 'ref': ['a', 'b']}}, {'objects': {'bbox': [[1, 2, 3, 4]], 'image_id': [-1]}},
    {'answer': '{"bbox_2d": [1, 2'}, {'objects': {'bbox': [[.1, .1, .2, .2]], 'bbox_type': 'norm1'}},
])  # yapf: disable
def test_references_that_cannot_be_read(columns):
    with pytest.raises(RowError, match='^r: .*'):
        read(**columns)


def test_a_column_that_is_not_there():
    with pytest.raises(RowError, match="no 'bboxes'"):
        read('bboxes', boxes=[[1, 2, 3, 4]])
    assert boxes_of_json([{'Part': 'rib', 'bbox': [1, 2, 3, 4]}]).boxes == (Box((1, 2, 3, 4), 'rib'), )
