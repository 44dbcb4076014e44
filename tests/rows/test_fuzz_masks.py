"""Masks of any shape: every form of one gives the same pixels, and the indices of a batch point where they should."""
import json
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from typing import Any

from swift_citrusv.constants import NO_MASK
from swift_citrusv.encoding.seg_tensors import SEG_KEYS, pack_masks, pad_masks, take_masks
from swift_citrusv.rows.masks import decode_mask, encode_rle, resize_mask

SIDES = st.integers(1, 20)
MASKS = st.tuples(SIDES,
                  SIDES).flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1), fill=st.just(0)))
COORDINATES = st.integers(-4, 24) | st.floats(-4, 24).map(lambda value: round(value, 2))
POLYGONS = st.lists(
    st.lists(COORDINATES, min_size=6, max_size=12).map(lambda p: p[:len(p) // 2 * 2]), min_size=1, max_size=40)


def decode(entry: Any, size: tuple[int, int]) -> np.ndarray:
    # Through JSON, as it comes from a file.
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


# ---- forms


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
def test_many_polygons_unite_as_pycocotools_unites_them(polygons, height, width):
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


# ---- indices


@st.composite
def encoded_rows(draw) -> list[dict[str, Any]]:
    """Rows with masks, images and places that all differ: images are 1, 2, ... and masks 101, 102, ..."""
    rows: list[dict[str, Any]] = []
    image = mask = 0
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, 12))
        num_masks = draw(st.integers(0, min(3, length)))
        row: dict[str, Any] = {'length': length}
        if num_masks:
            num_images = draw(st.integers(1, num_masks))
            index = [*range(num_images), *(draw(st.integers(0, num_images - 1)) for _ in range(num_masks - num_images))]
            places = sorted(draw(st.permutations(range(length)))[:num_masks])
            row |= {
                'g_pixel_values': torch.arange(image + 1, image + 1 + num_images).view(-1, 1, 1, 1).expand(-1, 3, 2, 2),
                'masks': torch.arange(mask + 101, mask + 101 + num_masks).view(-1, 1, 1, 1),
                'mask_image_index': torch.tensor(draw(st.permutations(index))),
                'mask_token_index': torch.tensor(places),
            }
            image, mask = image + num_images, mask + num_masks
        rows.append(row)
    return rows


Link = tuple[int, int, int]


def links(row: dict[str, Any], offset: int = 0) -> list[Link]:
    """(mask, its image, the place of its token) for each mask of a row or pack."""
    if 'masks' not in row:
        return []
    index = zip(row['masks'].flatten().tolist(), row['mask_image_index'].tolist(), row['mask_token_index'].tolist())
    return [(mask, int(row['g_pixel_values'][image, 0, 0, 0]), offset + place) for mask, image, place in index
            if place != NO_MASK]


@settings(max_examples=300, deadline=2000)
@given(encoded_rows())
def test_packs(rows):
    expected, offset = [], 0
    for row in rows:
        expected += links(row, offset)
        offset += row['length']
    packed = pack_masks(rows)
    assert links(packed) == expected
    assert len(packed.get('g_pixel_values', ())) == sum(len(row.get('g_pixel_values', ())) for row in rows)


@settings(max_examples=300, deadline=2000)
@given(encoded_rows())
def test_padded_batches(rows):
    batch = pad_masks(rows, 2, 1)
    assert {len(batch[key]) for key in SEG_KEYS} == {len(rows)}
    for i, row in enumerate(rows):
        assert links({key: batch[key][i] for key in SEG_KEYS}) == links(row)
        num_masks = len(row.get('masks', ()))
        for key in ('mask_image_index', 'mask_token_index'):
            assert (batch[key][i, num_masks:] == NO_MASK).all()
        assert not batch['masks'][i, num_masks:].any()


@settings(max_examples=300, deadline=2000)
@given(encoded_rows(), st.data())
def test_chunks_and_packs_of_chunks(rows, data):
    """Every mask of a row is in one of its chunks, with its image; a pack of all chunks is that of the rows."""
    expected, offset, chunks = [], 0, []
    for row in rows:
        expected += links(row, offset)
        offset += row['length']
        cuts = [0, *sorted(data.draw(st.sets(st.integers(1, row['length'])))), row['length']]
        for start, stop in zip(cuts, cuts[1:]):
            chunk = {**row, 'length': stop - start}
            if 'masks' in row:
                take_masks(chunk, start, stop)
            assert links(chunk, start) == [link for link in links(row) if start <= link[2] < stop]
            used = {image for _, image, _ in links(chunk)}
            assert {int(image[0, 0, 0]) for image in chunk.get('g_pixel_values', ())} == used
            chunks.append(chunk)
    assert links(pack_masks(chunks)) == expected
