"""Resizing of masks against PIL, torch and a loop in fractions."""
import numpy as np
import pytest
import torch
from fractions import Fraction
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.decoded import random_mask
from support.raised import assert_raises

from swift_citrusv.rows.masks import resize_mask

SHAPES = [(1, 1), (3, 47), (31, 123), (1, 64), (64, 1), (256, 200)]
MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


@pytest.mark.parametrize('size', [256, (31, 123), (47, 3), (1, 1), (5, 512)])
def test_resize_against_pil_and_torch(size):
    for shape in SHAPES:
        mask = random_mask(shape)
        resized = resize_mask(mask, size)
        height, width = (size, size) if isinstance(size, int) else size
        assert resized.dtype == np.uint8 and resized.shape == (height, width) and resized.flags.c_contiguous
        pil = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        tensor = torch.from_numpy(mask)[None, None]
        exact = torch.nn.functional.interpolate(tensor, size=(height, width), mode='nearest-exact')[0, 0].numpy()
        # Floats round a centre between two pixels either way.
        clear = np.ix_(*([i for i in range(new) if (2 * i + 1) * old % (2 * new) or old % (2 * new) == 0]
                         for old, new in zip(shape, (height, width))))
        assert clear[0].size * clear[1].size >= 0.4 * height * width
        assert np.array_equal(resized[clear], pil[clear]), shape
        assert np.array_equal(resized[clear], exact[clear]), shape


@given(MASKS, st.integers(1, 40), st.integers(1, 40))
def test_resize_against_a_loop(mask, height, width):

    def source(i: int, old: int, new: int) -> int:
        centre = Fraction(2 * i + 1, 2) * Fraction(old, new)
        return next(pixel for pixel in range(old) if pixel <= centre < pixel + 1)

    rows = [source(y, mask.shape[0], height) for y in range(height)]
    columns = [source(x, mask.shape[1], width) for x in range(width)]
    assert resize_mask(mask, (height, width)).tolist() == [[mask[y, x] for x in columns] for y in rows]


def test_resize_keeps_areas_and_does_not_dilate():
    # A bilinear resize with a threshold of > 0 would grow a structure by a ring of pixels.
    mask = np.zeros((512, 512), np.uint8)
    mask[100:300, 60:200] = 1
    small = resize_mask(mask, 256)
    assert small.sum() == 100 * 70 and np.array_equal(resize_mask(small, 512), mask)


def test_resize_to_the_same_size_is_a_copy():
    mask = random_mask((31, 123))
    resized = resize_mask(mask, (31, 123))
    assert np.array_equal(resized, mask) and not np.shares_memory(resized, mask)


def test_resize_rejects():
    cases: list[tuple[np.ndarray, int | tuple[int, int]]] = [(np.zeros((2, 3), np.int64), 4),
                                                             (np.zeros((1, 2, 3), np.uint8), 4),
                                                             (np.zeros((0, 3), np.uint8), 4),
                                                             (np.zeros((2, 3), np.uint8), 0),
                                                             (np.zeros((2, 3), np.uint8), (4, -1))]
    for mask, size in cases:
        assert_raises(ValueError, 'give', resize_mask, mask, size)
