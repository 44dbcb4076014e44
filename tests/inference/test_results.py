"""What an answer says of its masks: which image, which words, which pixels."""
import numpy as np
import pytest
import torch
from skimage.transform import resize

from swift_citrusv.inference.results import MaskResult, at_full_size, box_of, phrase_of
from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.rows.target_image import infer_target_image, named_images


@pytest.mark.parametrize('text, images', [
    ('In image 2 the cell', [1]),
    ('IMAGE #1 and Picture no. 3', [0, 2]),
    ('the second image, then the 1st photo', [1, 0]),
    ('images 2', []),
    ('image 4 and image 0', []),
    ('imagery 2', []),
    ('图2中的细胞', [1]),
    ('第二张图片和第3幅图像', [1, 2]),
    ('图像 1', [0]),
    ('第十张图', []),
    ('see slice 2', []),
    ('image 22', []),
])
def test_named_images(text, images):
    assert named_images(text, 3) == images


@pytest.mark.parametrize(
    'turns, before, num_images, expected',
    [
        (['<image>Segment the cell.'], 'The cell: ', 1, (0, 'only')),
        (['<image><image>Segment both.'], 'In image 1 the cell: [SEG], in image 2: ', 2, (1, 'answer')),
        (['<image><image>Segment both.'], 'In image 1 the cell: ', 2, (0, 'answer')),
        (['<image><image>Segment the cell in the first image.'], 'The cell: ', 2, (0, 'question')),
        (['<image><image>Compare image 1 with image 2.'], 'The cell: ', 2, (1, 'last')),
        (['<image>Segment the cell.', '[SEG]', '<image>And here?'], 'It is ', 2, (1, 'only')),
        (['<image>Segment the cell.', '[SEG]', '<image>And here?'], 'Again in image 1: ', 2, (0, 'answer')),
        (['<image><image>What is it?', 'A cell.', 'Segment it.'], '', 2, (1, 'last')),
        # A tag may be missing where ms-swift adds it.
        (['Segment the cell.'], '', 1, (0, 'only')),
        ([], '', 1, (0, 'only')),
        (['What is a cell?'], 'image 1: ', 0, None),
    ])
def test_choice_of_the_image(turns, before, num_images, expected):
    choice = infer_target_image(turns, before, num_images)
    assert (None if choice is None else tuple(choice)) == expected


@pytest.mark.parametrize('text, phrases', [
    ('The left atrium: [SEG].', ['The left atrium']),
    ('[SEG] lung.', ['lung']),
    ('[SEG]', ['']),
    ('I see two things. The cell is [SEG], and the vessel [SEG].', ['The cell is', 'and the vessel']),
    ('[SEG] cell, [SEG] vessel.', ['cell', 'vessel']),
    ('A mass of 3.5 cm: [SEG]. Nothing else.', ['A mass of 3.5 cm']),
    ('左心房：[SEG]。右心房：[SEG]。', ['左心房', '右心房']),
    ('First:\n[SEG]\nSecond (small) [SEG]!', ['', 'Second (small']),
    ('The nucleus [SEG] is dark.', ['The nucleus is dark']),
])
def test_phrases(text, phrases):
    offsets = [i for i in range(len(text)) if text.startswith('[SEG]', i)]
    assert [phrase_of(text, offset) for offset in offsets] == phrases


def test_logits_are_enlarged_before_the_threshold():
    """Against scikit-image's bilinear interpolation; and a threshold first would be another mask."""
    logits = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    mask, score = at_full_size(torch.from_numpy(logits), 100, 150)
    large = resize(logits, (100, 150), order=1, mode='edge', anti_aliasing=False)
    sure = np.abs(large) > 1e-5
    assert sure.mean() > 0.99 and (mask == (large > 0))[sure].all() and mask.dtype == np.uint8
    assert score == pytest.approx((1 / (1 + np.exp(-large[large > 0]))).mean(), abs=1e-4)
    steps = resize((logits > 0).astype(np.float32), (100, 150), order=1, mode='edge') > 0.5
    assert (steps != mask).mean() > 0.005


def test_empty_and_full_masks():
    for value, area, expected, box in ((-3., 0, 0., [0, 0, 0, 0]), (3., 63, 1 / (1 + np.exp(-3)), [0, 0, 9, 7])):
        mask, score = at_full_size(torch.full((4, 4), value), 7, 9)
        rle = encode_rle(mask)
        assert mask.shape == (7, 9) and mask.sum() == area and score == pytest.approx(expected)
        assert box_of(rle) == box
        result = MaskResult(rle, box_of(rle), area, score, 0., 0., False, '', 0, 'only', 0)
        assert (result.array == mask).all() and MaskResult(**result.to_dict()) == result


def test_box_is_that_of_the_pixels():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 5:21] = 1
    assert box_of(encode_rle(mask)) == [5, 3, 16, 6]
