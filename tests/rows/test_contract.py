"""The row contract: what is accepted, and which error each kind of bad row gets."""
import copy
import json
import pickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.contract import check_tags, count_seg_tokens, num_seg_images, parse_row
from swift_citrusv.rows.masks import decode_mask

ROW = 'train.jsonl:12'
RLE = {'size': [2, 3], 'counts': [1, 2, 3]}
POLYGON = [[0, 0, 2, 0, 2, 2]]
# Replaces a key of the good row by nothing at all.
GONE = object()


def make_row(**changes: Any) -> dict[str, Any]:
    """A good row with two masks on one image, with some keys replaced."""
    row = {
        'messages': [{'role': 'user', 'content': '<image>Segment both [SEG].'},
                     {'role': 'assistant', 'content': 'Left [SEG], right [SEG].'}],
        'images': ['a.png'],
        'masks': [copy.deepcopy(RLE), copy.deepcopy(POLYGON)],
    }  # yapf: disable
    row.update(changes)
    return {key: value for key, value in row.items() if value is not GONE}


def turn(content: Any, role: str = 'assistant') -> dict[str, Any]:
    return {'role': role, 'content': content}


def one_mask(entry: Any) -> dict[str, Any]:
    return make_row(messages=[turn('[SEG]')], masks=[entry])


def test_a_good_row():
    sample = parse_row(make_row(), row_id=ROW)
    assert sample.row == ROW
    assert sample.masks == (RLE, POLYGON)
    assert sample.mask_images == sample.mask_image_index == (0, 0)
    assert sample.seg_images == (0, )


def test_masks_point_into_the_images_that_have_one():
    row = make_row(images=list('abcde'), mask_images=[4, 1, 4, 3], masks=[RLE] * 4, messages=[turn('[SEG]' * 4)])
    sample = parse_row(row, row_id=ROW)
    assert sample.seg_images == (1, 3, 4)
    assert sample.mask_image_index == (2, 0, 2, 1)
    assert num_seg_images(row) == 3


@pytest.mark.parametrize('changes', [
    {'masks': GONE}, {'masks': None}, {'masks': []}, {'masks': '[]'}, {'masks': 'null'},
    {'masks': None, 'mask_images': None}, {'masks': [], 'mask_images': []},
    {'masks': None, 'images': ['a.png', 'b.png']}, {'masks': None, 'images': None},
    {'masks': None, 'messages': [turn('[SEG] as text only')]},
])  # yapf: disable
def test_ordinary_rows(changes):
    row = make_row(**changes)
    sample = parse_row(row, row_id=ROW)
    assert (sample.masks, sample.mask_images, sample.seg_images, sample.mask_image_index) == ((), (), (), ())
    assert num_seg_images(row) == 0


@pytest.mark.parametrize('images', [
    'a.png', ['a.png'], [{'bytes': None, 'path': 'a.png'}], {'bytes': b'', 'path': 'a.png'}, ('a.png', ),
])  # yapf: disable
def test_images_as_ms_swift_leaves_them(images):
    assert parse_row(make_row(images=images), row_id=ROW).seg_images == (0, )


def test_images_in_message_parts():
    parts = [
        {'type': 'image', 'image': 'a.png', 'text': None},
        {'type': 'image_url', 'image_url': {'url': 'b.png'}},
        {'type': 'text', 'text': 'Segment [SEG].', 'image': None},
        {'type': 'image', 'image': None},
    ]  # yapf: disable
    row = make_row(images=None, messages=[turn(parts, 'user'), turn('[SEG][SEG]')], mask_images=[1, 0])
    assert parse_row(row, row_id=ROW).seg_images == (0, 1)
    row = make_row(images=None, messages=[turn(parts[2:] + parts[:1], 'user'), turn('[SEG][SEG]')])
    assert parse_row(row, row_id=ROW).mask_images == (0, 0)
    # A part without a value stands for an entry of `images`; those alone count then.
    row = make_row(images=['a.png'], messages=[turn([{'type': 'image'}], 'user'), turn('[SEG][SEG]')])
    assert parse_row(row, row_id=ROW).mask_images == (0, 0)


def test_seg_counts_in_assistant_turns_only():
    roles = ['system', 'user', 'assistant', 'tool', 'tool_call', 'tool_response', 'assistant']
    assert count_seg_tokens([turn('[SEG] and [SEG]', role) for role in roles]) == 4
    assert count_seg_tokens([turn([{'type': 'text', 'text': 'a [SEG]'}, {'type': 'text', 'text': '[SEG]'}])]) == 2
    halves: list[dict[str, Any]] = [{'type': 'text', 'text': '[SE'}, {'type': 'text', 'text': 'G]'}]
    assert count_seg_tokens([turn(halves)]) == 1
    assert count_seg_tokens([turn([halves[0], {'type': 'image', 'image': 'a.png'}, halves[1]])]) == 0
    assert count_seg_tokens([turn('[seg] [ SEG ] SEG [SEG]]')]) == 1
    assert count_seg_tokens([turn([5, 6]), turn({'token_ids': [5]})]) == 0
    assert count_seg_tokens([]) == 0


def test_arrow_padding_is_dropped():
    padded: dict[str, Any] = {'size': [2, 3], 'counts': '06', 'path': None, 'label': None}
    assert parse_row(one_mask(padded), row_id=ROW).masks == ({'size': [2, 3], 'counts': '06'}, )
    padded = {'size': None, 'counts': None, 'path': 'm.png', 'label': 0}
    assert parse_row(one_mask(padded), row_id=ROW).masks == ({'path': 'm.png', 'label': 0}, )


def test_masks_as_json_text():
    row = make_row()
    carried = make_row(masks=json.dumps(row['masks']))
    assert parse_row(carried, row_id=ROW) == parse_row(row, row_id=ROW)
    assert num_seg_images(carried) == num_seg_images(row) == 1


@pytest.mark.parametrize('entry', [
    {'size': [2, 3], 'counts': '06'}, {'size': (2, 3), 'counts': [0, 6]}, {'size': [2, 3], 'counts': [0, 0, 6, 0]},
    [[0, 0, 1, 0, 1, 1]], [[-5.5, 0, 1, 0, 1, 1, 0, 9], [3, 3, 4, 4, 5, 5]],
    {'path': 'm.png'}, {'path': 'm.png', 'label': 0}, {'path': 'm.png', 'label': 65535},
])  # yapf: disable
def test_forms_of_an_entry(entry):
    assert parse_row(one_mask(entry), row_id=ROW).masks == (entry, )


# name: (row, kind, what the message must hold)
BAD_ROWS = {
    'row-not-an-object': (['messages'], 'row', "['messages']"),
    'messages-missing': (make_row(messages=GONE), 'messages', 'None'),
    'messages-empty': (make_row(messages=[]), 'messages', '[]'),
    'messages-text': (make_row(messages='hello'), 'messages', "'hello'"),
    'message-text': (make_row(messages=['hello']), 'message', "messages[0] is 'hello'"),
    'message-without-role': (make_row(messages=[{'content': 'x'}]), 'message', 'the role None'),
    'message-with-empty-role': (make_row(messages=[turn('x', '')]), 'message', "the role ''"),
    'message-without-content': (make_row(messages=[turn('x'), {'role': 'user'}]), 'message', 'messages[1]'),
    'message-with-number': (make_row(messages=[turn(7.5)]), 'message', 'the content 7.5'),
    'masks-an-object': (make_row(masks={'a': 1}), 'masks', "{'a': 1}"),
    'masks-a-number': (make_row(masks=3), 'masks', '3'),
    'masks-broken-json': (make_row(masks='[{"size"'), 'masks', '[{"size"'),
    'masks-json-object': (make_row(masks='{"a": 1}'), 'masks', '{"a": 1}'),
    'masks-deep-json': (make_row(masks='[' * 100000), 'masks', '[[['),
    'more-masks-than-seg': (make_row(masks=[RLE] * 3), 'mask-count', '3 entries'),
    'fewer-masks-than-seg': (make_row(masks=[RLE]), 'mask-count', '2 times'),
    'seg-in-the-prompt-only': (make_row(messages=[turn('[SEG][SEG]', 'user')]), 'mask-count', '0 times'),
    'masks-without-images': (make_row(images=GONE), 'masks-without-image', '2 entries'),
    'masks-with-images-empty': (make_row(images=[]), 'masks-without-image', '2 entries'),
    'images-a-number': (make_row(images=4), 'images', '4'),
    'images-a-number-without-masks': (make_row(images=4, masks=None), 'images', '4'),
    'image-none': (make_row(images=['a.png', None]), 'image-unreadable', 'images[1] is None'),
    'image-a-number': (make_row(images=[5], masks=None), 'image-unreadable', 'images[0] is 5'),
    'image-a-list': (make_row(images=[['a.png']]), 'image-unreadable', "images[0] is ['a.png']"),
    'masks-on-video': (make_row(images=None, videos=['v.mp4']), 'masks-on-video', '2 entries'),
    'masks-on-video-part': (make_row(images=None, messages=[
        turn([{'type': 'video', 'video': 'v.mp4'}], 'user'), turn('[SEG][SEG]')]), 'masks-on-video', '2 entries'),
    'mask-images-missing': (make_row(images=['a', 'b', 'c']), 'mask-images-missing', '3 images'),
    'mask-images-empty': (make_row(images=['a', 'b'], mask_images=[]), 'mask-images-missing', '2 images'),
    'mask-images-a-number': (make_row(mask_images=0), 'mask-images', '0'),
    'mask-images-too-short': (make_row(mask_images=[0]), 'mask-images-length', '1 entries for 2 masks'),
    'mask-images-too-long': (make_row(mask_images=[0] * 3), 'mask-images-length', '3 entries for 2 masks'),
    'mask-images-negative': (make_row(mask_images=[0, -1]), 'mask-images-value', 'mask_images[1] is -1'),
    'mask-images-out-of-range': (make_row(mask_images=[1, 0]), 'mask-images-value', 'mask_images[0] is 1'),
    'mask-images-bool': (make_row(mask_images=[False, 0]), 'mask-images-value', 'False'),
    'mask-images-float': (make_row(mask_images=[0., 0]), 'mask-images-value', '0.0'),
    'mask-images-none': (make_row(mask_images=[None, 0]), 'mask-images-value', 'None'),
    'mask-images-without-masks': (make_row(masks=None, mask_images=[0]), 'mask-images-without-masks', '[0]'),
}  # yapf: disable

# name: (entry, kind, what the message must hold)
BAD_ENTRIES = {
    'entry-none': (None, 'mask-form', 'None'),
    'entry-text': ('m.png', 'mask-form', "'m.png'"),
    'entry-number': (3, 'mask-form', '3'),
    'entry-empty-object': ({
        'path': None
    }, 'mask-form', '{}'),
    'entry-empty-list': ([], 'mask-form', '[]'),
    'entry-unknown-key': ({
        'file': 'm.png'
    }, 'mask-form', "{'file': 'm.png'}"),
    'entry-rle-and-path': ({
        **RLE, 'path': 'm.png'
    }, 'mask-form', "'path': 'm.png'"),
    'entry-rle-with-label': ({
        **RLE, 'label': 3
    }, 'mask-form', "'label': 3"),
    'entry-label-alone': ({
        'label': 3
    }, 'mask-form', "{'label': 3}"),
    'entry-counts-alone': ({
        'counts': [6]
    }, 'mask-form', "{'counts': [6]}"),
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
    'rle-size-text': ({
        'size': '2x3',
        'counts': [6]
    }, 'mask-rle', "'2x3'"),
    'rle-size-one': ({
        'size': [6],
        'counts': [6]
    }, 'mask-rle', '[6]'),
    'rle-size-three': ({
        'size': [2, 3, 1],
        'counts': [6]
    }, 'mask-rle', '[2, 3, 1]'),
    'rle-size-zero': ({
        'size': [0, 3],
        'counts': [0]
    }, 'mask-rle', '[0, 3]'),
    'rle-size-negative': ({
        'size': [-2, -3],
        'counts': [6]
    }, 'mask-rle', '[-2, -3]'),
    'rle-size-float': ({
        'size': [2., 3],
        'counts': [6]
    }, 'mask-rle', '[2.0, 3]'),
    'rle-size-bool': ({
        'size': [True, 6],
        'counts': [6]
    }, 'mask-rle', '[True, 6]'),
    'rle-counts-empty': ({
        'size': [2, 3],
        'counts': []
    }, 'mask-rle', '[]'),
    'rle-counts-empty-text': ({
        'size': [2, 3],
        'counts': ''
    }, 'mask-rle', "''"),
    'rle-counts-bytes': ({
        'size': [2, 3],
        'counts': b'06'
    }, 'mask-rle', "b'06'"),
    'rle-counts-number': ({
        'size': [2, 3],
        'counts': 6
    }, 'mask-rle', '6'),
    'rle-run-negative': ({
        'size': [2, 3],
        'counts': [8, -2]
    }, 'mask-rle', '-2'),
    'rle-run-float': ({
        'size': [2, 3],
        'counts': [4, 2.]
    }, 'mask-rle', '2.0'),
    'rle-run-bool': ({
        'size': [2, 3],
        'counts': [5, True]
    }, 'mask-rle', 'True'),
    'rle-run-text': ({
        'size': [2, 3],
        'counts': ['6']
    }, 'mask-rle', "'6'"),
    'rle-too-short': ({
        'size': [2, 3],
        'counts': [1, 4]
    }, 'mask-rle', 'sum to 5'),
    'rle-too-long': ({
        'size': [2, 3],
        'counts': [1, 10**30]
    }, 'mask-rle', 'sum to 1000000'),
    'path-empty': ({
        'path': ''
    }, 'mask-path', "''"),
    'path-number': ({
        'path': 3
    }, 'mask-path', '3'),
    'label-negative': ({
        'path': 'm.png',
        'label': -1
    }, 'mask-label', '-1'),
    'label-too-large': ({
        'path': 'm.png',
        'label': 65536
    }, 'mask-label', '65536'),
    'label-float': ({
        'path': 'm.png',
        'label': 3.
    }, 'mask-label', '3.0'),
    'label-bool': ({
        'path': 'm.png',
        'label': True
    }, 'mask-label', 'True'),
    'label-text': ({
        'path': 'm.png',
        'label': 'liver'
    }, 'mask-label', "'liver'"),
}


def check_error(error: RowError, kind: str, value: str) -> None:
    """The message must hold the row, the value and a remedy, and survive the way out of a DataLoader worker."""
    assert error.kind == kind
    assert error.row == ROW and str(error).startswith(f'{ROW}: ')
    assert value in error.problem and error.problem.endswith('.')
    assert len(error.remedy) > 15 and error.remedy.endswith('.') and str(error).endswith(error.remedy)
    assert len(str(error)) < 700
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(('row', 'kind', 'value'), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows(row, kind, value):
    with pytest.raises(RowError) as caught:
        parse_row(row, row_id=ROW)
    check_error(caught.value, kind, value)


@pytest.mark.parametrize(('entry', 'kind', 'value'), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_bad_entries(entry, kind, value):
    row = make_row(masks=[RLE, entry])
    with pytest.raises(RowError) as caught:
        parse_row(row, row_id=ROW)
    check_error(caught.value, kind, value)
    assert 'masks[1]' in caught.value.problem


@pytest.mark.parametrize(('entry', 'kind', 'value'), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_decode_mask_gives_the_same_verdict(entry, kind, value):
    with pytest.raises(RowError) as caught:
        decode_mask(entry, size=(2, 3), row=ROW, position=1)
    check_error(caught.value, kind, value)
    assert 'masks[1]' in caught.value.problem


def test_the_row_is_left_as_it_was():
    row = make_row(masks=[{**RLE, 'path': None}, POLYGON])
    before = copy.deepcopy(row)
    parse_row(row, row_id=ROW)
    assert row == before


IMAGE_PART = {'type': 'image', 'image': 'a.png'}
URL_PART = {'type': 'image_url', 'image_url': {'url': 'a.png'}}


# messages, and the numbers of <image> and <video> in them as ms-swift reads them
@pytest.mark.parametrize(('messages', 'images', 'videos'), [
    ([turn('no tag')], 0, 0),
    ([turn('<image>a<image>', 'user'), turn('<video>')], 2, 1),
    ([turn('<image>', 'system'), turn('<image>', 'user')], 2, 0),
    ([turn('< image> <img> <images> <Image>', 'user')], 0, 0),
    ([turn([IMAGE_PART, {'type': 'text', 'text': '<image>'}, URL_PART, {'type': 'image'}], 'user')], 4, 0),
    ([turn([{'type': 'video', 'video': 'v.mp4'}], 'user')], 0, 1),
    ([turn({'name': 'look', 'arguments': {'at': '<image>'}}, 'tool_call'), turn([IMAGE_PART], 'tool')], 1, 0),
    ([turn([5, 6])], 0, 0),
])  # yapf: disable
def test_no_more_tags_than_media(messages, images, videos):
    for spare in (0, 1, 5):
        check_tags(messages, num_images=images + spare, num_videos=videos + spare, row_id=ROW)
    for medium, num_images, num_videos in (('image', images - 1, videos), ('video', images, videos - 1)):
        count = num_images if medium == 'image' else num_videos
        if count < 0:
            continue
        with pytest.raises(RowError) as caught:
            check_tags(messages, num_images=num_images, num_videos=num_videos, row_id=ROW)
        check_error(caught.value, f'{medium}-tags', f'<{medium}> {count + 1} times, but the row has {count} {medium}s')


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(['[SEG]', 'assistant', 'text', 'a.png', '[]', '[[0,0,1,0,1,1]]', 10**400]))
KEYS = st.sampled_from(['role', 'content', 'type', 'text', 'image', 'size', 'counts', 'path', 'label'
                        ]) | st.text(max_size=3)
JUNK = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=12)
SEG_TURNS = st.integers(0, 3).map(lambda n: [turn('[SEG]' * n)])
# Half junk, half good, so that the junk is not always stopped at the first check.
JUNK_ROWS = JUNK | st.fixed_dictionaries(
    {'messages': SEG_TURNS | JUNK}, optional={
        'images': st.just(['a.png']) | st.just(['a.png', 'b.png']) | JUNK,
        'masks': st.lists(st.sampled_from([RLE, POLYGON, {'path': 'm.png', 'label': 3}]) | JUNK, max_size=3) | JUNK,
        'mask_images': st.lists(st.integers(-1, 2), max_size=3) | JUNK,
        'videos': JUNK,
    })  # yapf: disable


@settings(max_examples=600, deadline=None)
@given(JUNK_ROWS)
def test_any_row_is_accepted_or_gets_a_row_error(row):
    try:
        sample = parse_row(row, row_id=ROW)
    except RowError as error:
        check_error(error, error.kind, '')
        return
    assert len(sample.masks) == len(sample.mask_images) == len(sample.mask_image_index)
    assert [sample.seg_images[i] for i in sample.mask_image_index] == list(sample.mask_images)
    assert num_seg_images(row) == len(sample.seg_images)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_mask_image_index_against_a_search(mask_images):
    row = make_row(images=['a.png'] * 41, mask_images=mask_images, masks=[RLE] * len(mask_images),
                   messages=[turn('[SEG]' * len(mask_images))])  # yapf: disable
    sample = parse_row(row, row_id=ROW)
    assert list(sample.seg_images) == [image for image in range(41) if image in mask_images]
    assert sample.mask_image_index == tuple(sample.seg_images.index(image) for image in mask_images)
    assert num_seg_images(row) == len(sample.seg_images)
