"""RLE against slow loops and pycocotools; any entry is decoded or gets a RowError."""
import json
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from support.decoded import ROW, decode, error_of, random_mask
from support.raised import assert_raises

from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import decode_mask, encode_rle

SHAPES = [(1, 1), (3, 47), (31, 123), (1, 64), (64, 1), (256, 200)]
MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def slow_counts(mask: np.ndarray) -> list[int]:
    """Run lengths, column by column, zeros first; a plain loop."""
    counts, value, run = [], 0, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(run)
                value, run = 1 - value, 0
            run += 1
    return counts + [run]


def slow_paint(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    pixel = 0
    for i, count in enumerate(counts):
        for _ in range(count):
            mask[pixel % size[0], pixel // size[0]] = i % 2
            pixel += 1
    return mask


def slow_compress(counts: list[int]) -> str:
    """COCO's string of run lengths, written after its published description and not after our reader."""
    text = ''
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            low, value = value % 32, value // 32
            done = (value == 0 and low < 16) or (value == -1 and low >= 16)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


def test_rle_against_loops():
    for shape in SHAPES:
        for mask in (random_mask(shape), np.zeros(shape, np.uint8), np.ones(shape, np.uint8)):
            counts, size = slow_counts(mask), list(shape)
            text = slow_compress(counts)
            case = (shape, int(mask.sum()))
            assert np.array_equal(decode({'size': size, 'counts': counts}, shape), mask), case
            assert np.array_equal(decode({'size': size, 'counts': text}, shape), mask), case
            assert encode_rle(mask) == {'size': size, 'counts': text}, case
            assert encode_rle(mask.astype(bool)) == encode_rle(mask), case


@given(MASKS)
def test_rle_round_trip(mask):
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert np.array_equal(decode(rle, mask.shape), mask)
    assert np.array_equal(decode({'size': list(mask.shape), 'counts': slow_counts(mask)}, mask.shape), mask)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=30).filter(any), st.integers(1, 7))
def test_rle_with_zero_runs(counts, height):
    # Valid, though no encoder writes them. Values rise and fall, so the differences change sign.
    counts = counts + [-sum(counts) % height]
    size = (height, sum(counts) // height)
    for form in (counts, slow_compress(counts)):
        assert np.array_equal(decode({'size': list(size), 'counts': form}, size), slow_paint(counts, size))


def test_rle_of_a_large_image():
    # Runs of up to five characters.
    mask = np.zeros((2000, 3000), np.uint8)
    mask[100:1900, 1:2990] = 1
    mask[:, 1500:2000] = 1
    assert np.array_equal(decode(encode_rle(mask), mask.shape), mask)


BAD_COUNTS = {
    'invalid-low': ('06/', "'/'"),
    'invalid-high': ('06p', "'p'"),
    'invalid-unicode': ('0６', "'６'"),
    'nul': ('06\x00', "'\\x00'"),
    'unterminated': ('06P', "'06P'"),
    'too-many-characters': ('06' + 'P' * 6 + '0', 'six characters'),
    'bomb-of-characters': ('o' * 10**6, 'six characters'),
    'negative': ('O7', '-1'),
    'negative-difference': ('0330L', '-1'),
    'too-few-pixels': ('05', 'sum to 5'),
    'too-many-pixels': ('0T61', 'sum to'),
    'overflow-in-c': ('0' + 'oooooO' + 'ooooo?' * 9, 'run length'),
    'wraps-at-32-bits': ('0' + 'ooooo?' * 3, 'sum to'),
}


def test_bad_compressed_counts():
    for name, (counts, value) in BAD_COUNTS.items():
        error = error_of({'size': [2, 3], 'counts': counts}, (2, 3))
        assert error.kind == 'mask-rle' and value in error.problem, (name, error.problem)
        assert 'pycocotools' in error.remedy, name


def test_rle_of_another_size():
    for size, counts in (([256, 256], [65536]), ([123, 31], [3813])):
        error = error_of({'size': size, 'counts': counts}, (31, 123))
        assert error.kind == 'mask-size' and '[31, 123]' in error.problem, (size, error.problem)


def test_rle_bomb():
    for size, counts, shown in (([10**9, 10**9], '0', str(10**9)), ([10**5000, 1], [10**5000], 'huge')):
        error = error_of({'size': size, 'counts': counts}, (31, 123))
        assert error.kind == 'too-many-pixels' and 'max_image_pixels=178956970' in error.problem, shown
        assert shown in error.problem


def test_an_image_too_large_for_rle():
    error = error_of({'size': [2**15, 2**14], 'counts': '0'}, (2**15, 2**14))
    assert error.kind == 'mask-size' and '32768' in error.problem and 'tiles' in error.remedy


@settings(max_examples=500, deadline=None)
@given(st.text('0123456OPQo/p', max_size=8) | st.text(max_size=8), st.integers(1, 3), st.integers(1, 3))
def test_any_counts_decode_exactly_or_raise(counts, height, width):
    try:
        mask = decode({'size': [height, width], 'counts': counts}, (height, width))
    except RowError as error:
        assert error.kind == 'mask-rle'
        return
    # pycocotools reads the accepted ones in the same way; for most others it returns uninitialised memory.
    assert np.array_equal(coco_mask.decode({'size': [height, width], 'counts': counts}), mask)


def test_encode_rle_rejects():
    masks = [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3, 1), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.full((2, 3), 2, np.uint8)
    ]
    for mask in masks:
        assert_raises(ValueError, 'give', encode_rle, mask)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=4)
    | st.integers(-2, 7) | st.sampled_from(['06', 'm.png', '.', 10**400]))
KEYS = st.sampled_from(['size', 'counts', 'path', 'label']) | st.text(max_size=3)
JUNK = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=10)
NUMBERS = st.integers(-3, 8) | st.floats(-5, 10) | st.floats()
JUNK_POLYGONS = st.lists(st.lists(NUMBERS, min_size=5, max_size=9), min_size=1, max_size=3)
JUNK_COUNTS = JUNK | st.text('0123456789OPo', max_size=8) | st.lists(st.integers(0, 4), max_size=5)
JUNK_RLES = st.fixed_dictionaries({'size': st.just([2, 3]) | JUNK, 'counts': JUNK_COUNTS})
JUNK_FILES = st.fixed_dictionaries({'path': JUNK}, optional={'label': JUNK})


@settings(max_examples=800, deadline=None)
@given(JUNK | JUNK_POLYGONS | JUNK_RLES | JUNK_FILES)
def test_any_entry_is_decoded_or_gets_a_row_error(entry):
    try:
        mask = decode_mask(entry, size=(2, 3), row=ROW, position=0)
    except RowError as error:
        assert ROW in str(error) and 'masks[0]' in error.problem and error.remedy
        return
    assert mask.shape == (2, 3) and mask.dtype == np.uint8 and mask.max() <= 1
