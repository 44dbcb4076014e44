"""Masks of any shape: every form of a mask entry gives the same pixels."""
import json
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from typing import Any

from swift_citrusv.rows.masks import decode_mask, encode_rle, resize_mask

SIDES = st.integers(1, 20)
MASKS = st.tuples(SIDES,
                  SIDES).flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1), fill=st.just(0)))
COORDINATES = st.integers(-4, 24) | st.floats(-4, 24).map(lambda value: round(value, 2))
POLYGONS = st.lists(
    st.lists(COORDINATES, min_size=6, max_size=12).map(lambda p: p[:len(p) // 2 * 2]), min_size=1, max_size=40)


def decode(entry: Any, size: tuple[int, int]) -> np.ndarray:
    # Through JSON, as from a file.
    return decode_mask(json.loads(json.dumps(entry)), size=size, row='train.jsonl:12', position=0)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Column by column, zeros first, counted one pixel at a time."""
    counts, value = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                counts.append(0)
                value = 1 - value
            counts[-1] += 1
    return counts


def boxes(mask: np.ndarray) -> list[list[int]]:
    """A polygon around each run of a line of the mask."""
    found = []
    for y, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]]).astype(int)))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist()):
            found.append([start, y, stop, y, stop, y + 1, start, y + 1])
    return found


@settings(max_examples=300, deadline=2000)
@given(MASKS)
def test_every_form_gives_the_same_pixels(mask):
    entry = encode_rle(mask)
    assert entry['counts'] == coco.encode(np.asfortranarray(mask))['counts'].decode()
    assert np.array_equal(coco.decode(entry), mask)
    size = mask.shape
    runs = {'size': list(size), 'counts': run_lengths(mask)}
    assert np.array_equal(decode(entry, size), mask) and np.array_equal(decode(runs, size), mask)
    if mask.any():
        outlined = decode(boxes(mask), size)
        assert np.array_equal(outlined, mask)
        assert encode_rle(outlined) == entry


@settings(max_examples=300, deadline=2000)
@given(POLYGONS, SIDES, SIDES)
def test_many_polygons_merge_as_one_by_one(polygons, height, width):
    inside = [
        polygon for polygon in polygons if 0 < max(polygon[::2]) and min(polygon[::2]) < width
        and 0 < max(polygon[1::2]) and min(polygon[1::2]) < height
    ]
    expected = np.zeros((height, width), np.uint8)
    for polygon in inside:
        expected |= coco.decode(coco.frPyObjects([[float(value) for value in polygon]], height, width))[..., 0]
    if expected.any():
        assert np.array_equal(decode(inside, (height, width)), expected)


@settings(max_examples=200, deadline=2000)
@given(MASKS, st.integers(1, 4))
def test_resize_up_and_back(mask, factor):
    large = resize_mask(mask, (mask.shape[0] * factor, mask.shape[1] * factor))
    assert np.array_equal(large, mask.repeat(factor, axis=0).repeat(factor, axis=1))
    assert np.array_equal(resize_mask(large, mask.shape), mask)
    assert np.array_equal(decode(encode_rle(large), large.shape), large)
