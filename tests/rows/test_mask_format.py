"""The form of a mask entry: the forms that are accepted, and the error of each kind of bad entry."""
import pytest
from support.contract_rows import POLYGON, RLE, ROW, check_error, make_row, turn
from support.raised import raised_by
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.contract import parse_row
from swift_citrusv.rows.mask_format import check_mask_entry
from swift_citrusv.rows.masks import decode_mask

ENTRIES: list[Any] = [
    {'size': [2, 3], 'counts': '06'}, {'size': (2, 3), 'counts': [0, 6]}, {'size': [2, 3], 'counts': [0, 0, 6, 0]},
    [[0, 0, 1, 0, 1, 1]], [[-5.5, 0, 1, 0, 1, 1, 0, 9], [3, 3, 4, 4, 5, 5]],
    {'path': 'm.png'}, {'path': 'm.png', 'label': 0}, {'path': 'm.png', 'label': 65535},
]  # yapf: disable

# name: (entry, kind, a part of the message)
BAD_ENTRIES: dict[str, tuple[Any, str, str]] = {
    'entry-none': (None, 'mask-form', 'None'),
    'entry-text': ('m.png', 'mask-form', "'m.png'"),
    'entry-number': (3, 'mask-form', '3'),
    'entry-empty-object': ({'path': None}, 'mask-form', '{}'),
    'entry-empty-list': ([], 'mask-form', '[]'),
    'entry-unknown-key': ({'file': 'm.png'}, 'mask-form', "{'file': 'm.png'}"),
    'entry-rle-and-path': ({**RLE, 'path': 'm.png'}, 'mask-form', "'path': 'm.png'"),
    'entry-rle-with-label': ({**RLE, 'label': 3}, 'mask-form', "'label': 3"),
    'entry-label-alone': ({'label': 3}, 'mask-form', "{'label': 3}"),
    'entry-counts-alone': ({'counts': [6]}, 'mask-form', "{'counts': [6]}"),
    'polygon-flat': ([0, 0, 2, 0, 2, 2], 'mask-polygon', 'polygon 0 is 0'),
    'polygon-odd': ([[0, 0, 2, 0, 2, 2, 1]], 'mask-polygon', '7 coordinates'),
    'polygon-two-points': ([[0, 0, 2, 2]], 'mask-polygon', '4 coordinates'),
    'polygon-empty': (POLYGON + [[]], 'mask-polygon', 'polygon 1 has 0 coordinates'),
    'polygon-of-text': ([[0, 0, 2, 0, 2, '7']], 'mask-polygon', "'7'"),
    'polygon-of-points': ([[[0, 0], [2, 0], [2, 2], [0, 2], [0, 1], [0, 0]]], 'mask-polygon', '[0, 0]'),
    'polygon-bool': ([[0, 0, 2, 0, 2, True]], 'mask-polygon', 'True'),
    'polygon-none': ([[0, 0, 2, 0, 2, None]], 'mask-polygon', 'None'),
    'polygon-nan': ([[0, 0, 2, 0, 2, float('nan')]], 'mask-polygon', 'nan'),
    'polygon-inf': ([[0, 0, 2, 0, 2, float('-inf')]], 'mask-polygon', '-inf'),
    'polygon-huge': ([[0, 0, 2, 0, 2, 10**400]], 'mask-polygon', '1000000'),
    'polygon-unprintable': ([[0, 0, 2, 0, 2, 10**5000]], 'mask-polygon', 'a huge int'),
    'rle-size-text': ({'size': '2x3', 'counts': [6]}, 'mask-rle', "'2x3'"),
    'rle-size-one': ({'size': [6], 'counts': [6]}, 'mask-rle', '[6]'),
    'rle-size-three': ({'size': [2, 3, 1], 'counts': [6]}, 'mask-rle', '[2, 3, 1]'),
    'rle-size-zero': ({'size': [0, 3], 'counts': [0]}, 'mask-rle', '[0, 3]'),
    'rle-size-negative': ({'size': [-2, -3], 'counts': [6]}, 'mask-rle', '[-2, -3]'),
    'rle-size-float': ({'size': [2., 3], 'counts': [6]}, 'mask-rle', '[2.0, 3]'),
    'rle-size-bool': ({'size': [True, 6], 'counts': [6]}, 'mask-rle', '[True, 6]'),
    'rle-counts-empty': ({'size': [2, 3], 'counts': []}, 'mask-rle', '[]'),
    'rle-counts-empty-text': ({'size': [2, 3], 'counts': ''}, 'mask-rle', "''"),
    'rle-counts-bytes': ({'size': [2, 3], 'counts': b'06'}, 'mask-rle', "b'06'"),
    'rle-counts-number': ({'size': [2, 3], 'counts': 6}, 'mask-rle', '6'),
    'rle-run-negative': ({'size': [2, 3], 'counts': [8, -2]}, 'mask-rle', '-2'),
    'rle-run-float': ({'size': [2, 3], 'counts': [4, 2.]}, 'mask-rle', '2.0'),
    'rle-run-bool': ({'size': [2, 3], 'counts': [5, True]}, 'mask-rle', 'True'),
    'rle-run-text': ({'size': [2, 3], 'counts': ['6']}, 'mask-rle', "'6'"),
    'rle-too-short': ({'size': [2, 3], 'counts': [1, 4]}, 'mask-rle', 'sum to 5'),
    'rle-too-long': ({'size': [2, 3], 'counts': [1, 10**30]}, 'mask-rle', 'sum to 1000000'),
    'path-empty': ({'path': ''}, 'mask-path', "''"),
    'path-number': ({'path': 3}, 'mask-path', '3'),
    'label-negative': ({'path': 'm.png', 'label': -1}, 'mask-label', '-1'),
    'label-too-large': ({'path': 'm.png', 'label': 65536}, 'mask-label', '65536'),
    'label-float': ({'path': 'm.png', 'label': 3.}, 'mask-label', '3.0'),
    'label-bool': ({'path': 'm.png', 'label': True}, 'mask-label', 'True'),
    'label-text': ({'path': 'm.png', 'label': 'liver'}, 'mask-label', "'liver'"),
}  # yapf: disable


def test_forms_of_an_entry():
    for entry in ENTRIES:
        assert check_mask_entry(entry, 'masks[0]', ROW) == entry
        row = make_row(messages=[turn('[SEG]')], masks=[entry])
        assert parse_row(row, row_id=ROW).masks == (entry, ), entry


@pytest.mark.parametrize('check', [
    lambda entry: parse_row(make_row(masks=[RLE, entry]), row_id=ROW),
    lambda entry: decode_mask(entry, size=(2, 3), row=ROW, position=1)
], ids=['parse_row', 'decode_mask'])  # yapf: disable
def test_bad_entries(check):
    """`parse_row` and `decode_mask` raise the same errors."""
    for name, (entry, kind, value) in BAD_ENTRIES.items():
        error = raised_by(RowError, check, entry)
        check_error(error, kind, value, name)
        assert 'masks[1]' in error.problem, name
