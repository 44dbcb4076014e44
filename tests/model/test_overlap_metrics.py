"""The scores against vectors worked out by hand, MONAI, torchmetrics and a pixel loop."""
import itertools
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from torchmetrics.functional.classification import binary_jaccard_index

from swift_citrusv.model.overlap_metrics import (dice_from_statistics, dice_score, iou_from_statistics, iou_score,
                                                 mask_statistics)

# prediction, target, (intersection, predicted, target), Dice, IoU
BY_HAND = [
    ([0, 0, 0, 0], [0, 0, 0, 0], (0, 0, 0), 1, 1),  # both empty
    ([0, 1, 0, 0], [0, 0, 0, 0], (0, 1, 0), 0, 0),  # target empty
    ([0, 0, 0, 0], [1, 1, 1, 1], (0, 0, 4), 0, 0),  # prediction empty
    ([1, 1, 1, 1], [1, 1, 1, 1], (4, 4, 4), 1, 1),
    ([1, 1, 0, 0], [0, 0, 1, 1], (0, 2, 2), 0, 0),  # disjoint: 0 / 4
    ([1, 1, 0, 0], [0, 1, 1, 0], (1, 2, 2), 1 / 2, 1 / 3),  # 2 * 1 / (2 + 2), 1 / (2 + 2 - 1)
    ([1, 1, 1, 0], [0, 0, 1, 0], (1, 3, 1), 1 / 2, 1 / 3),  # 2 * 1 / (3 + 1), 1 / 3
    ([1, 1, 1, 1], [0, 1, 1, 1], (3, 4, 3), 6 / 7, 3 / 4),
]


def random_pair(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)


def test_by_hand():
    for pred, target, counts, dice, iou in BY_HAND:
        case = f'{pred} against {target}'
        masks, targets = torch.tensor(pred).view(1, 2, 2), torch.tensor(target).view(1, 2, 2)
        for prediction in (masks, masks.bool(), masks.to(torch.uint8), masks * 5.0 - 2.5, (masks * 5.0 - 2.5).half()):
            stats = mask_statistics(prediction, targets)
            assert stats.tolist() == [list(counts)], (case, prediction.dtype)
        assert dice_from_statistics(stats).tolist() == pytest.approx([dice]), case
        assert iou_from_statistics(stats).tolist() == pytest.approx([iou]), case
        for dtype in (bool, np.uint8, np.int64, np.float32):
            a, b = np.array(pred, dtype), np.array(target, dtype)
            dices = [dice_score(a, b), dice_score(b.reshape(2, 2), a.reshape(2, 2))]
            ious = [iou_score(a, b), iou_score(b.reshape(2, 2), a.reshape(2, 2))]
            assert dices[0] == dices[1] == pytest.approx(dice), (case, dtype)
            assert ious[0] == ious[1] == pytest.approx(iou), (case, dtype)


def test_the_masks_of_a_batch_keep_their_order():
    masks = torch.tensor([row[0] for row in BY_HAND]).view(-1, 2, 2)
    targets = torch.tensor([row[1] for row in BY_HAND]).view(-1, 2, 2)
    stats = mask_statistics(masks, targets)
    assert stats.shape == (len(BY_HAND), 3)
    assert dice_from_statistics(stats).tolist() == pytest.approx([row[3] for row in BY_HAND])
    assert iou_from_statistics(stats).tolist() == pytest.approx([row[4] for row in BY_HAND])


def test_agrees_with_monai_and_torchmetrics():
    for shape in ((3, 47, 47), (4, 31, 123), (2, 5, 6, 7)):
        logits, targets = random_pair(shape)
        stats = mask_statistics(logits, targets)
        masks = logits > 0
        expected_dice = compute_dice(masks[:, None].float(), targets[:, None].float()).flatten()
        expected_iou = torch.stack([binary_jaccard_index(m, t) for m, t in zip(masks, targets)])
        pairs = ((dice_from_statistics(stats), expected_dice), (iou_from_statistics(stats), expected_iou))
        for found, expected in pairs:
            torch.testing.assert_close(found.float(), expected, msg=lambda text, shape=shape: f'{shape}: {text}')
        for i, (mask, target) in enumerate(zip(masks.numpy(), targets.numpy())):
            assert dice_score(mask, target) == pytest.approx(expected_dice[i].item(), rel=1e-6), (shape, i)
            assert iou_score(mask, target) == pytest.approx(expected_iou[i].item(), rel=1e-6), (shape, i)


def test_counts_agree_with_a_pixel_loop():
    logits, targets = random_pair((3, 7, 11))
    for threshold in (-0.5, 0.0, 0.7):
        expected = [[0, 0, 0] for _ in range(3)]
        for i, y, x in itertools.product(range(3), range(7), range(11)):
            predicted, wanted = logits[i, y, x].item() > threshold, targets[i, y, x].item() == 1
            expected[i] = [a + b for a, b in zip(expected[i], (predicted and wanted, predicted, wanted))]
        assert mask_statistics(logits, targets, threshold).tolist() == expected, threshold


def test_the_threshold_itself_is_background():
    assert mask_statistics(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).tolist() == [[0, 0, 4]]
    probabilities = torch.tensor([[[0.5, 0.6]]])
    assert mask_statistics(probabilities, torch.ones(1, 1, 2), threshold=0.5).tolist() == [[1, 1, 2]]


def test_non_zero_is_foreground_in_targets_and_integer_arrays():
    target = torch.tensor([[[0, 255, 3]]], dtype=torch.uint8)
    assert mask_statistics(torch.tensor([[[0, 1, 1]]]), target).tolist() == [[2, 2, 2]]
    assert dice_score(np.array([0, 1, 1]), target[0, 0].numpy()) == 1


def test_no_masks():
    stats = mask_statistics(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))
    assert stats.shape == (0, 3)
    assert dice_from_statistics(stats).shape == iou_from_statistics(stats).shape == (0, )


def test_counts_of_tiles_add_up_to_those_of_the_whole():
    logits, targets = random_pair((2, 16, 20))
    tiles = [mask_statistics(logits[..., a:a + 5], targets[..., a:a + 5]) for a in range(0, 20, 5)]
    assert torch.equal(sum(tiles), mask_statistics(logits, targets))


def test_counts_are_exact_beyond_float32():
    whole = torch.ones(1, 4097, 4097, dtype=torch.bool)  # 4097^2 is odd and above 2^24
    assert mask_statistics(whole, whole)[0, 0].item() == 4097**2


def test_integer_statistics_are_accepted():
    stats = torch.tensor([[1, 2, 2], [0, 0, 0]])
    assert dice_from_statistics(stats).tolist() == [0.5, 1]
    assert iou_from_statistics(stats).tolist() == pytest.approx([1 / 3, 1])


def test_arrays_of_any_number_of_axes():
    volume = np.zeros((4, 5, 6), dtype=np.uint8)
    volume[1:3, 1:3, 1:3] = 1
    shifted = np.roll(volume, 1, axis=2)
    # 8 voxels each, 4 in common: 2 * 4 / 16 and 4 / 12.
    assert dice_score(volume, shifted) == pytest.approx(1 / 2)
    assert iou_score(volume, shifted) == pytest.approx(1 / 3)
    assert dice_score(np.zeros((0, 5)), np.zeros((0, 5))) == 1
    assert isinstance(dice_score(volume, volume), float) and isinstance(iou_score(volume, volume), float)


@pytest.mark.parametrize('score', [dice_score, iou_score])
def test_arrays_that_cannot_be_scored(score):
    with pytest.raises(ValueError, match=r'prediction has shape \(1, 4\) and the target \(4,\)'):
        score(np.zeros((1, 4), bool), np.zeros(4, bool))
    with pytest.raises(ValueError, match='prediction .float64. is not a binary mask. Apply a threshold'):
        score(np.array([0.2, 0.9]), np.array([0, 1]))
    with pytest.raises(ValueError, match='target .float64. is not a binary mask'):
        score(np.array([0, 1]), np.array([0, np.nan]))


def test_tensors_that_cannot_be_scored():
    with pytest.raises(ValueError, match=r'shape \(2, 4, 4\) and targets \(2, 1, 4, 4\)'):
        mask_statistics(torch.zeros(2, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r'shape \(\)'):
        mask_statistics(torch.zeros(()), torch.zeros(()))
    with pytest.raises(ValueError, match=r'shape \(4, 2\). Give \[num_masks, 3\]'):
        dice_from_statistics(torch.zeros(4, 2))
