"""The indices of masks in packs, padded batches and chunks refer to the right image and token."""
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typing import Any

from swift_citrusv.constants import NO_MASK
from swift_citrusv.encoding.seg_tensors import SEG_KEYS, pack_masks, pad_masks, take_masks


@st.composite
def encoded_rows(draw) -> list[dict[str, Any]]:
    """Rows with distinct masks, images and token positions: images are 1, 2, ... and masks 101, 102, ..."""
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
    """(mask, its image, the position of its token) for each mask of a row or pack."""
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
