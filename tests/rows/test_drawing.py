"""Pictures of masks, pixel by pixel."""
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from swift_citrusv.rows.drawing import captioned, colour, mask_grid, overlay, tile


def _grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def _box(shape: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[y, x] = 1
    return mask


def test_colours_are_matplotlibs():
    assert colour(0) == (31, 119, 180)  # #1f77b4
    assert colour(1) == (255, 127, 14)  # #ff7f0e
    assert colour(10) == colour(0)
    assert len({colour(i) for i in range(10)}) == 10 == colormaps['tab10'].N


def test_overlay_tints_the_inside_and_draws_the_outline():
    image = _grey(9, 11)
    before = image.copy()
    drawn = overlay(image, [_box((9, 11), slice(2, 7), slice(3, 8))])
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape and np.array_equal(image, before)
    for y in range(9):
        for x in range(11):
            if not (2 <= y < 7 and 3 <= x < 8):
                expected = (100, 100, 100)
            elif y in (2, 6) or x in (3, 7):
                expected = (31, 119, 180)
            else:
                expected = (72, 108, 132)  # 0.6 * 100 + 0.4 * colour
            assert tuple(drawn[y, x]) == expected, (y, x)


@pytest.mark.parametrize('opacity, expected', [(0., 100), (1., 31)])
def test_opacity(opacity, expected):
    assert overlay(_grey(7, 7), [_box((7, 7), slice(1, 6), slice(1, 6))], opacity)[3, 3, 0] == expected


def test_the_border_of_the_image_is_no_outline():
    drawn = overlay(_grey(5, 5), [np.ones((5, 5), bool)])
    assert (drawn == (72, 108, 132)).all()


def test_each_mask_has_its_colour_and_the_last_lies_on_top():
    masks = [_box((9, 9), slice(0, 6), slice(0, 6)), _box((9, 9), slice(3, 9), slice(3, 9))]
    drawn = overlay(_grey(9, 9), masks)
    assert tuple(drawn[3, 5]) == colour(1) and tuple(drawn[5, 0]) == colour(0) and tuple(drawn[8, 0]) == (100, ) * 3


@pytest.mark.parametrize('masks', [[], [np.zeros((4, 6), np.uint8)], [np.zeros((4, 6), bool)] * 2])
def test_nothing_to_draw(masks):
    assert np.array_equal(overlay(_grey(4, 6), masks), _grey(4, 6))


def test_255_is_foreground_too():
    mask = _box((5, 5), slice(1, 4), slice(1, 4))
    assert np.array_equal(overlay(_grey(5, 5), [mask * 255]), overlay(_grey(5, 5), [mask > 0]))


def test_captioned():
    picture = captioned(_grey(20, 80), 'image')
    assert picture.size == (80, 34)
    pixels = np.asarray(picture)
    assert (pixels[14:] == 100).all() and pixels[:14].min() < 100 and pixels[0].min() == 255


@pytest.mark.parametrize('num, columns, size', [(1, 3, (38, 8)), (3, 3, (38, 8)), (4, 3, (38, 20)), (6, 2, (24, 32))])
def test_tile(num, columns, size):
    colours = [colour(i) for i in range(num)]
    canvas = tile([Image.new('RGB', (10, 8), c) for c in colours], columns)
    assert canvas.size == size
    pixels = np.asarray(canvas)
    for i, expected in enumerate(colours):
        y, x = i // columns * 12, i % columns * 14
        assert (pixels[y:y + 8, x:x + 10] == expected).all()
    assert pixels[:, 10:14].min() == 255  # the gap


def _example(empty: bool = False):
    image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    target = torch.zeros(16, 16, dtype=torch.uint8)
    logits = torch.full((16, 16), -5.)
    if not empty:
        target[4:8, 4:12] = 1
        logits[4:8, 4:8] = 5.
    return image, target, logits


def test_mask_grid():
    grid = np.asarray(mask_grid([_example(), _example(empty=True)], side=64))
    assert grid.shape == (2 * (64 + 14) + 4, 3 * 64 + 2 * 4, 3)
    image, target, prediction = (grid[14:78, x:x + 64] for x in (0, 68, 136))
    assert (image == 100).all()
    assert (target[16:32, 16:48] != 100).all() and (target[34:] == 100).all() and (target[:, 50:] == 100).all()
    assert tuple(target[16, 16]) == colour(0) and tuple(target[24, 24]) == (72, 108, 132)
    # Logits are resized before they are cut: the edge stays where it was, but for corners.
    assert (prediction[17:31, 17:31] != 100).all() and (prediction[:, 33:] == 100).all()
    second = grid[82 + 14:]
    assert all((second[:, x:x + 64] == 100).all() for x in (0, 68, 136))


def test_mask_grid_resizes_the_image():
    image = torch.zeros(3, 128, 128, dtype=torch.uint8)
    image[:, :, 64:] = 200
    grid = np.asarray(mask_grid([(image, torch.zeros(16, 16, dtype=torch.uint8), torch.full((16, 16), -1.))], side=32))
    assert (grid[14:46, :15] == 0).all() and (grid[14:46, 17:32] == 200).all()
