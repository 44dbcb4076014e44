"""Columns of the row contract under another name: refused beside `[SEG]`, and never for rows that are legal."""
import json
import pytest
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.columns import ColumnRules
from swift_citrusv.rows.jsonl import parse_line
from swift_citrusv.rows.misnamed import meant_column

MASKS = [{'size': [2, 3], 'counts': [1, 2, 3]}]


def row(answer: str = 'It: [SEG].', **columns: Any) -> dict[str, Any]:
    talk = [{'role': 'user', 'content': 'Segment it.'}, {'role': 'assistant', 'content': answer}]
    return {'messages': talk, 'images': ['a.png'], **columns}


def parse(content: dict[str, Any], **mapping: str) -> dict[str, Any]:
    return parse_line(json.dumps(content), 'A/rows.jsonl:3', ColumnRules.from_mapping(mapping))


def test_names_that_are_meant():
    meant = {
        'masks': ['mask', 'Mask', 'segmentation', 'segmentations', 'Segmentation', 'mask_path', 'mask_paths',
                  'mask_file', 'gt_mask', 'gt_masks', 'segmentation_masks', 'seg_mask', 'rle', 'rles', 'maks', 'msaks',
                  'massks', 'maskes', 'polygon', 'polygons', 'contours', 'seg', 'mask_rle', 'maskPath', 'mask-path',
                  'segmentation_map', 'pred_masks', 'msk'],
        'mask_images': ['mask_image', 'mask_imgaes', 'maskImages', 'mask_image_index', 'mask_idx', 'mask_indices'],
        'images': ['imgs', 'img', 'image_path', 'image_paths', 'img_path', 'picture', 'image_file', 'iamges', 'imagess',
                   'image_list', 'image_url'],
    }  # yapf: disable
    for column, keys in meant.items():
        assert {key: meant_column(key) for key in keys} == dict.fromkeys(keys, column)
    others = ['messages', 'masks', 'images', 'image', 'videos', 'mask_images', 'id', 'label', 'channel', 'objects',
              'query', 'response', 'system', 'dataset', 'source', 'task', 'tasks', 'image_id', 'mask_id',
              'segmentation_model', 'modality', 'split', 'patient', 'marks_total', 'solution', 'attention_mask',
              'label_masks', 'segment_id', 'message_id', 'margin', 'citrusv_row', 'image_size', 'state',
              'options']  # yapf: disable
    assert {key: meant_column(key) for key in others} == dict.fromkeys(others)


@pytest.mark.parametrize('key, value', [('mask', MASKS), ('segmentations', MASKS), ('mask_path', 'm.png'),
                                        ('mask_image', 'm.png'), ('Mask', 'm.png'), ('gt_mask', ['m.png'])])
def test_masks_under_another_name(key, value):
    with pytest.raises(RowError, match=f'^A/rows.jsonl:3: the row has .*{key!r}') as error:
        parse(row(**{key: value}))
    assert error.value.kind == 'columns'
    assert f'--columns \'{{"{key}": "masks"}}\'' in error.value.remedy and "Rename it to 'masks'" in error.value.remedy
    # Null in place of masks is what a table has for a missing cell.
    with pytest.raises(RowError, match=key):
        parse(row(**{key: value, 'masks': None}))


def test_other_layouts_too():
    chat = [{'from': 'human', 'value': '<image>?'}, {'from': 'gpt', 'value': '[SEG]'}]
    for layout in ({'conversations': chat, 'image': 'a.png'}, {'query': '?', 'response': '[SEG]', 'image': 'a.png'}):
        with pytest.raises(RowError, match="'mask'"):
            parse({**layout, 'mask': MASKS})


def test_images_and_mask_images_under_another_name():
    with pytest.raises(RowError, match="no 'images', but the column 'img'"):
        parse({**row(img='a.png'), 'images': []})
    two = {**row(), 'images': ['a.png', 'b.png'], 'masks': MASKS}
    with pytest.raises(RowError, match="no 'mask_images', but the column 'mask_image'"):
        parse({**two, 'mask_image': [1]})


def test_legal_rows():
    for legal in (
            row(),
            row(masks=MASKS, mask='m.png'),
            row(masks=[], mask='m.png'),
            row('No target.', mask=MASKS),
            row(mask=None, segmentation='', polygons=[], rle={}),
            row(mask_area=12.5, segmentation_model='nnU-Net', image_id='7'),
            row(masks=MASKS, mask_index=[0]),
    ):
        assert parse(legal) == legal


def test_a_mapping_of_columns():
    assert parse(row(segmentations=MASKS), segmentations='masks')['masks'] == MASKS
    assert parse(row(Segmentations=MASKS), SEGMENTATIONS='masks')['masks'] == MASKS
    assert parse(row(segmentations=MASKS, masks=None), segmentations='masks')['masks'] == MASKS
    pictured = {key: value for key, value in row(pics=['a.png'], found=MASKS).items() if key != 'images'}
    assert parse(pictured, pics='images', found='masks')['images'] == ['a.png']
    swapped = parse({**row(), 'masks': ['b.png'], 'images': MASKS}, masks='images', images='masks')
    assert (swapped['masks'], swapped['images']) == (MASKS, ['b.png'])
    with pytest.raises(RowError, match="'segmentations' and 'masks', and both become 'masks'"):
        parse(row(segmentations=MASKS, masks=MASKS), segmentations='masks')
    chained = ColumnRules.from_mapping({'a': 'b'}, {'b': 'masks', 'c': 'images'})
    assert dict(chained.renames) == {'a': 'masks', 'c': 'images'}
