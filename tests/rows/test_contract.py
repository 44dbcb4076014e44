"""The row contract: rows that are accepted, and the error of each kind of bad row."""
import copy
import json
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract_rows import GONE, POLYGON, RLE, ROW, check_error, make_row, turn
from support.raised import raised_by
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.contract import check_tags, count_seg_tokens, parse_row


def one_mask(entry: Any) -> dict[str, Any]:
    return make_row(messages=[turn('[SEG]')], masks=[entry])


def test_a_valid_row():
    sample = parse_row(make_row(), row_id=ROW)
    assert sample.row == ROW
    assert sample.masks == (RLE, POLYGON)
    assert sample.mask_images == sample.mask_image_index == (0, 0)
    assert sample.seg_images == (0, )


def test_mask_image_index_counts_only_images_with_masks():
    row = make_row(images=list('abcde'), mask_images=[4, 1, 4, 3], masks=[RLE] * 4, messages=[turn('[SEG]' * 4)])
    sample = parse_row(row, row_id=ROW)
    assert sample.seg_images == (1, 3, 4)
    assert sample.mask_image_index == (2, 0, 2, 1)


ROWS_WITHOUT_MASKS: list[dict[str, Any]] = [
    {'masks': GONE}, {'masks': None}, {'masks': []}, {'masks': '[]'}, {'masks': 'null'},
    {'masks': None, 'mask_images': None}, {'masks': [], 'mask_images': []},
    {'masks': None, 'images': ['a.png', 'b.png']}, {'masks': None, 'images': None},
    {'masks': None, 'messages': [turn('[SEG] as text only')]},
]  # yapf: disable


def test_rows_without_masks():
    for changes in ROWS_WITHOUT_MASKS:
        sample = parse_row(make_row(**changes), row_id=ROW)
        found = sample.masks, sample.mask_images, sample.seg_images, sample.mask_image_index
        assert found == ((), (), (), ()), changes


def test_images_as_ms_swift_loads_them():
    forms: list[Any] = [
        'a.png', ['a.png'], [{'bytes': None, 'path': 'a.png'}], {'bytes': b'', 'path': 'a.png'}, ('a.png', ),
    ]  # yapf: disable
    for images in forms:
        assert parse_row(make_row(images=images), row_id=ROW).seg_images == (0, ), images


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
    # A part without a value refers to an entry of `images`, which alone counts then.
    row = make_row(images=['a.png'], messages=[turn([{'type': 'image'}], 'user'), turn('[SEG][SEG]')])
    assert parse_row(row, row_id=ROW).mask_images == (0, 0)


def test_seg_tokens_count_only_in_assistant_turns():
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


def test_masks_as_a_json_string():
    row = make_row()
    carried = make_row(masks=json.dumps(row['masks']))
    assert parse_row(carried, row_id=ROW) == parse_row(row, row_id=ROW)


# name: (row, kind, a part of the message)
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


def test_bad_rows():
    for name, (row, kind, value) in BAD_ROWS.items():
        check_error(raised_by(RowError, parse_row, row, row_id=ROW), kind, value, name)


def test_the_row_is_not_changed():
    row = make_row(masks=[{**RLE, 'path': None}, POLYGON])
    before = copy.deepcopy(row)
    parse_row(row, row_id=ROW)
    assert row == before


IMAGE_PART = {'type': 'image', 'image': 'a.png'}
URL_PART = {'type': 'image_url', 'image_url': {'url': 'a.png'}}

# Messages, and the numbers of <image> and <video> in them as ms-swift reads them.
TAGS: list[tuple[list[dict[str, Any]], int, int]] = [
    ([turn('no tag')], 0, 0),
    ([turn('<image>a<image>', 'user'), turn('<video>')], 2, 1),
    ([turn('<image>', 'system'), turn('<image>', 'user')], 2, 0),
    ([turn('< image> <img> <images> <Image>', 'user')], 0, 0),
    ([turn([IMAGE_PART, {'type': 'text', 'text': '<image>'}, URL_PART, {'type': 'image'}], 'user')], 4, 0),
    ([turn([{'type': 'video', 'video': 'v.mp4'}], 'user')], 0, 1),
    ([turn({'name': 'look', 'arguments': {'at': '<image>'}}, 'tool_call'), turn([IMAGE_PART], 'tool')], 1, 0),
    ([turn([5, 6])], 0, 0),
]  # yapf: disable


def test_no_more_tags_than_media():
    for messages, images, videos in TAGS:
        for spare in (0, 1, 5):
            check_tags(messages, num_images=images + spare, num_videos=videos + spare, row_id=ROW)
        for medium, num_images, num_videos in (('image', images - 1, videos), ('video', images, videos - 1)):
            count = num_images if medium == 'image' else num_videos
            if count >= 0:
                error = raised_by(
                    RowError, check_tags, messages, num_images=num_images, num_videos=num_videos, row_id=ROW)
                problem = f'<{medium}> {count + 1} times, but the row has {count} {medium}s'
                check_error(error, f'{medium}-tags', problem, messages)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(['[SEG]', 'assistant', 'text', 'a.png', '[]', '[[0,0,1,0,1,1]]', 10**400]))
KEYS = st.sampled_from(['role', 'content', 'type', 'text', 'image', 'size', 'counts', 'path', 'label'
                        ]) | st.text(max_size=3)
JUNK = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=12)
SEG_TURNS = st.integers(0, 3).map(lambda n: [turn('[SEG]' * n)])
# Half junk, half valid, so that not all rows fail the first check.
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
    assert list(sample.seg_images) == sorted(set(sample.mask_images))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_mask_image_index_against_a_search(mask_images):
    row = make_row(images=['a.png'] * 41, mask_images=mask_images, masks=[RLE] * len(mask_images),
                   messages=[turn('[SEG]' * len(mask_images))])  # yapf: disable
    sample = parse_row(row, row_id=ROW)
    assert list(sample.seg_images) == [image for image in range(41) if image in mask_images]
    assert sample.mask_image_index == tuple(sample.seg_images.index(image) for image in mask_images)
