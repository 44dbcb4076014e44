"""Boxes in the text of answers, in every supported format."""
import json
import numpy as np
import time
from hypothesis import given, settings
from hypothesis import strategies as st

from swift_citrusv.scoring.boxes.box_text import Box, boxes_of_json, normalised_label, parse_boxes

LIVER = Box((12, 30, 50, 60), 'liver')
PLAIN = Box((12, 30, 50, 60))
# text, boxes, number of unreadable parts
TEXTS = [
    # the special tokens of Qwen2-VL, with and without decoding them
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
    # invalid JSON
    ("{'bbox_2d': [12, 30, 50, 60], 'label': 'liver'}", [LIVER], 0),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"},]', [LIVER], 0),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"}, {"bbox_2d": [1, 2, 3', [LIVER], 1),
    ('[{"bbox_2d": [12, 30, 50, 60], "label": "liver"}, {"bbox_2d"', [LIVER], 1),
    ('{"bbox_2d": [12, 30, 50, 60], "label": "liver", "score": 0.5', [Box((12, 30, 50, 60), 'liver', 0.5)], 0),
    # the formats of the paper's text and appendix
    ('<bbox>{"Part": "liver", "bbox": [12, 30, 50, 60]}</bbox>', [LIVER], 0),
    ('<bbox>{"Part": "liver", "bbox": "[12, 30, 50, 60]"}</bbox>', [LIVER], 0),
    ('region ("Part": "liver", "bbox": "[12, 30, 50, 60]") to survey', [LIVER], 0),
    ('region <bbox>("Part": "liver", "bbox": "[12, 30, 50, 60]"</bbox>), I', [LIVER], 0),
    ('使用 `<bbox>["Part":"liver",\n"bbox": "[12, 30, 50, 60]"</bbox>` 评估', [LIVER], 0),
    ('<bbox>12, 30, 50, 60</bbox>', [PLAIN], 0),
    ('<bbox>right here</bbox>', [], 1),
    # lists of numbers
    ('[12, 30, 50, 60]', [PLAIN], 0),
    ('(12, 30, 50, 60)', [PLAIN], 0),
    ('[(12,30),(50,60)]', [PLAIN], 0),
    ('（12，30），（50，60）', [PLAIN], 0),
    ('[[12, 30, 50, 60], [1, 2, 3, 4]]', [PLAIN, Box((1, 2, 3, 4))], 0),
    ('at [12, 30, 50, 60] and [50, 60, 12, 30]', [PLAIN, Box((50, 60, 12, 30))], 0),
    ('[-3, -4.5, 50, 60]', [Box((-3, -4.5, 50, 60))], 0),
    # no boxes
    ('There is no lesion.', [], 0),
    ('', [], 0),
    ('Levels 1, 2, 3, 4 (L1-L4) are normal [1, 2], see [7].', [], 0),
    ('{"finding": "none", "levels": [1, 2, 3]}', [], 0),
]  # yapf: disable


def test_formats():
    for text, boxes, num_unreadable in TEXTS:
        found = parse_boxes(text)
        assert list(found.boxes) == boxes, text
        assert len(found.unreadable) == num_unreadable, (text, found.unreadable)


def test_formats_among_other_text():
    num_checked = 0
    for text, boxes, num_unreadable in TEXTS:
        if text.endswith(('[1, 2, 3', '"bbox_2d"', '0.5')):
            continue  # The text after a truncated object is taken as its continuation.
        if text.count('<|box_start|>(12,30),(50,60)') and not text.endswith('|>'):
            continue
        found = parse_boxes(
            f'Found (see below): {text}\n\nand also {{"bbox_2d": [1, 1, 2, 2], "label": "mass"}} there.')
        assert list(found.boxes) == [*boxes, Box((1, 1, 2, 2), 'mass')], text
        assert len(found.unreadable) == num_unreadable, text
        num_checked += 1
    assert num_checked >= len(TEXTS) - 5


def test_paper_appendix():
    """Step 1 of three answers in appendix A, with their unbalanced brackets."""
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
def test_written_boxes_are_parsed(boxes, form):
    """Random boxes in each format, from a simple writer."""
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
def test_boxes_of_random_texts_are_finite(text):
    for box in parse_boxes(text).boxes:
        assert np.isfinite(box.corners).all()


def test_long_degenerate_answers_are_fast():
    for piece in [
            '[', '{', '(', '{"a":', '[[1,', '<bbox>', '<|box_start|>', '<|object_ref_start|>', '{"bbox": [', '("bbox"',
            '"bbox', ' ', '{"bbox_2d": [1, 2, 3, 4]}, ', '(1,2),', "{'"
    ]:  # yapf: disable
        start = time.process_time()
        parse_boxes(piece * (40000 // len(piece)))
        assert time.process_time() - start < 5, piece


def test_normalised_labels():
    assert normalised_label(' Right_Lung ') == normalised_label('right  lung') == normalised_label('ＲＩＧＨＴ-lung')
    assert normalised_label('左肺') == '左肺' != normalised_label('右肺')


def test_corners():
    swapped = Box((50, 60, 12, 30))
    assert swapped.is_swapped and swapped.upright().corners == (12, 30, 50, 60) and swapped.xywh == [12, 30, 38, 30]
    assert Box((5, 5, 5, 9)).is_degenerate and not LIVER.is_degenerate and not LIVER.is_swapped
    assert LIVER.scaled(2, 0.5) == Box((24, 15, 100, 30), 'liver')


def test_boxes_of_json():
    assert boxes_of_json([{'Part': 'rib', 'bbox': [1, 2, 3, 4]}]).boxes == (Box((1, 2, 3, 4), 'rib'), )
