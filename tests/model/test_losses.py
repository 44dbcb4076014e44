"""The losses against MONAI, torch's probability-space BCE, slow loops and values worked out by hand."""
import math
import pytest
import re
import torch
import torch.nn.functional as F
from functools import partial
from monai.losses import DiceLoss

from swift_citrusv.constants import IGNORE_INDEX
from swift_citrusv.model.losses import DICE_EPS, LossWeights, bce_loss, combine, dice_loss, mask_losses, token_loss

SHAPES = [(1, 1, 1), (3, 47, 47), (2, 31, 123), (5, 64, 64)]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def random_masks(shape, dtype, seed=0):
    """Logits and targets; the first masks are empty, full and of one pixel, as far as M goes."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    targets = (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)
    if shape[0] > 2:
        targets[0], targets[1], targets[2] = 0, 1, 0
        targets[2, 5, 7] = 1
    return logits, targets


def value_and_gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    # Unequal factors, so that a mix-up between masks shows.
    value.mul(torch.arange(1, len(value) + 1, dtype=value.dtype)).sum().backward()
    return value.detach(), logits.grad


def assert_same(loss, reference, logits, dtype):
    """Values and gradients of both, on `logits` and on their float64 copy."""
    value, gradient = value_and_gradient(loss, logits)
    expected, expected_gradient = value_and_gradient(reference, logits.double())
    assert value.dtype == dtype
    for found, wanted in ((value, expected), (gradient, expected_gradient)):
        torch.testing.assert_close(
            found.double(),
            wanted,
            rtol=TOLERANCE[dtype],
            atol=TOLERANCE[dtype],
            msg=lambda text: f'logits {tuple(logits.shape)}: {text}')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('eps', [DICE_EPS, 1.0])
def test_dice_agrees_with_monai(eps, dtype):
    monai = DiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=eps, reduction='none')
    for shape in SHAPES:
        logits, targets = random_masks(shape, dtype)
        assert_same(
            partial(dice_loss, targets=targets, eps=eps),
            lambda x, targets=targets: monai(x[:, None], targets[:, None].double()).flatten(),
            logits,
            dtype)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bce_agrees_with_the_formula_on_probabilities(dtype):

    def formula(logits, targets):
        return F.binary_cross_entropy(logits.sigmoid(), targets.double(), reduction='none').mean((1, 2))

    for shape in SHAPES:
        logits, targets = random_masks(shape, dtype)
        assert_same(partial(bce_loss, targets=targets), partial(formula, targets=targets), logits, dtype)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_token_loss_agrees_with_minus_log_probability(dtype):

    def formula(logits, labels):
        return torch.stack([-row.softmax(0)[label].log() for row, label in zip(logits, labels)])

    for num_tokens, vocabulary in ((1, 3), (47, 31), (31, 123)):
        generator = torch.Generator().manual_seed(0)
        logits = (3 * torch.randn(num_tokens, vocabulary, generator=generator, dtype=torch.float64)).to(dtype)
        labels = torch.randint(vocabulary, (num_tokens, ), generator=generator)
        assert_same(partial(token_loss, labels=labels), partial(formula, labels=labels), logits, dtype)


def test_mask_losses_are_the_two_losses_in_one_pass():
    logits, targets = random_masks((5, 31, 40), torch.float32)
    dice, bce = mask_losses(logits, targets)
    assert torch.equal(dice, dice_loss(logits, targets))
    assert torch.equal(bce, bce_loss(logits, targets))
    assert torch.equal(mask_losses(logits, targets, 1.0)[0], dice_loss(logits, targets, 1.0))


def test_the_dtype_of_the_targets_does_not_matter():
    logits, targets = random_masks((4, 9, 11), torch.float32)
    expected = mask_losses(logits, targets)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64):
        for ours, theirs in zip(mask_losses(logits, targets.to(dtype)), expected):
            assert ours.dtype == torch.float32, dtype
            assert torch.equal(ours, theirs), dtype


def test_values_worked_out_by_hand():
    # p = 1/2 1/2     g = 1 0    sum p g = 1/2 + 3/4 = 5/4
    #     3/4 1/4         1 0    sum p = 2, sum g = 2
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), -math.log(3)]]], dtype=torch.float64)
    targets = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.uint8)
    # Dice with eps = 1: 1 - 2 * (5/4) / (2 + 2 + 1) = 1 - 1/2; with eps = 6: 1 - (5/2) / 10
    assert dice_loss(logits, targets, eps=1.0).item() == pytest.approx(1 / 2, abs=1e-12)
    assert dice_loss(logits, targets, eps=6.0).item() == pytest.approx(3 / 4, abs=1e-12)
    # BCE: -(1/4) (log 1/2 + log 1/2 + log 3/4 + log 3/4) = -(1/2) log(3/8)
    assert bce_loss(logits, targets).item() == pytest.approx(-0.5 * math.log(3 / 8), abs=1e-12)
    # Tokens: logits log 1, log 2, log 5 are probabilities 1/8, 2/8, 5/8.
    rows = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log().expand(2, 3)
    assert token_loss(rows, torch.tensor([2, 1])).tolist() == pytest.approx([math.log(8 / 5), math.log(4)], abs=1e-12)


def test_an_empty_target_has_dice_loss_one_and_only_bce_has_a_gradient():
    for logits in (torch.zeros(1, 8, 8), torch.full((1, 8, 8), -200.0), torch.full((1, 8, 8), 50.0)):
        value, gradient = value_and_gradient(lambda x: dice_loss(x, torch.zeros(1, 8, 8)), logits)
        assert value.item() == 1 and not gradient.any()
    value, gradient = value_and_gradient(lambda x: bce_loss(x, torch.zeros(1, 8, 8)), torch.zeros(1, 8, 8))
    assert value.item() == pytest.approx(math.log(2))  # -log(1 - 1/2) at every pixel
    assert (gradient > 0).all()


def test_a_perfect_mask_reaches_zero_even_with_one_pixel():
    for area in (1, 5, 64):
        targets = torch.zeros(64, dtype=torch.uint8)
        targets[:area] = 1
        targets = targets.view(1, 8, 8)
        logits = targets * 200.0 - 100
        dice, bce = mask_losses(logits, targets)
        assert dice.item() == pytest.approx(0, abs=1e-6), area
        assert bce.item() == pytest.approx(0, abs=1e-6), area
        # As the comment on DICE_EPS says for eps = 1: 1 - 2 A / (2 A + 1).
        assert dice_loss(logits, targets, eps=1.0).item() == pytest.approx(1 / (2 * area + 1), abs=1e-6), area


def test_a_collapsed_prediction_of_one_pixel_keeps_its_gradient():
    targets = torch.zeros(1, 8, 8)
    targets[0, 3, 3] = 1
    logits = torch.full((1, 8, 8), -20.0)  # p = 2e-9 everywhere
    p = 1 / (1 + math.exp(20))
    for eps in (DICE_EPS, 1.0):
        # d(-2 p / (sum p + 1 + eps)) / d logit is -2 p / (1 + eps) up to terms of p^2.
        gradient = value_and_gradient(lambda x: dice_loss(x, targets, eps), logits)[1]
        assert gradient[0, 3, 3].item() == pytest.approx(-2 * p / (1 + eps), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    targets = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    for sign in (1, -1):
        logits = torch.tensor([[1e4, 1e4], [-1e4, -1e4]]).mul(sign).to(dtype).repeat(3, 1, 1)
        for loss in (dice_loss, bce_loss):
            value, gradient = value_and_gradient(lambda x: loss(x, targets), logits)
            assert value.dtype == torch.float32 and gradient.dtype == dtype
            assert value.isfinite().all() and gradient.isfinite().all()
        # Half of the pixels are wrong in each mask, at 1e4 each.
        wrong = float(logits.abs().max()) / 2
        assert value.tolist() == pytest.approx([wrong] * 3)

    logits = torch.tensor([[1e4, -1e4, 0.0]]).to(dtype).repeat(2, 1)
    value, gradient = value_and_gradient(lambda x: token_loss(x, torch.tensor([0, 1])), logits)
    assert value.tolist() == pytest.approx([0, 2 * logits[0, 0].item()])
    assert value.dtype == torch.float32 and gradient.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_before_any_computation(dtype):
    logits, targets = random_masks((3, 256, 256), dtype)
    for ours, expected in zip(mask_losses(logits, targets), mask_losses(logits.double(), targets)):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


def test_ignored_labels_cost_nothing_and_get_no_gradient():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    value, gradient = value_and_gradient(lambda x: token_loss(x, torch.tensor([2, IGNORE_INDEX, 4])), logits)
    assert value[1] == 0 and not gradient[1].any()
    assert value[0] > 0 and gradient[0].any() and value[2] > 0 and gradient[2].any()


def test_no_masks_and_no_tokens_stay_in_the_graph():
    weight = torch.ones(1, requires_grad=True)
    dice, bce = mask_losses(torch.zeros(0, 16, 16) * weight, torch.zeros(0, 16, 16, dtype=torch.uint8))
    tokens = token_loss(torch.zeros(0, 7) * weight, torch.zeros(0, dtype=torch.int64))
    assert dice.shape == bce.shape == tokens.shape == (0, )
    combine(tokens.sum(), dice.sum(), bce.sum(), 0, 0, LossWeights()).backward()
    assert weight.grad.tolist() == [0]


def test_gradcheck():
    logits, targets = random_masks((3, 6, 9), torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, targets), logits)
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, targets, 1.0), logits)
    rows = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: token_loss(x, torch.tensor([0, 4, IGNORE_INDEX, 2])), rows)


@pytest.mark.parametrize('loss', [dice_loss, bce_loss, mask_losses])
def test_shapes_that_would_broadcast_are_refused(loss):
    masks = torch.zeros(2, 4, 4)
    for shape in ((2, 1, 4, 4), (1, 4, 4), (2, 4, 5), (4, 4)):
        others = torch.zeros(shape)
        for logits, targets in ((masks, others), (others, masks)):
            message = (f'Mask logits have shape {tuple(logits.shape)} and targets {tuple(targets.shape)}. Give both as '
                       '[num_masks, height, width].')
            with pytest.raises(ValueError, match=re.escape(message)):
                loss(logits, targets)


def test_combine_by_hand():
    sums = (torch.tensor(12.0), torch.tensor(3.0), torch.tensor(5.0))
    cases = [
        # 1 * 12 / 4 + (2 * 3 + 1 * 5) / 2 = 3 + 5.5
        (4, 2, LossWeights(), 8.5),
        # 0.5 * 12 / 4 + (3 * 3 + 0 * 5) / 2 = 1.5 + 4.5
        (4, 2, LossWeights(token=0.5, dice=3, bce=0), 6),
        # Without masks or tokens, their term is zero.
        (4, 0, LossWeights(), 3),
        (0, 2, LossWeights(), 5.5),
        (0, 0, LossWeights(), 0),
    ]
    kinds: list = [int, float, torch.tensor, lambda count: torch.tensor(float(count))]
    for kind in kinds:
        for num_tokens, num_masks, weights, expected in cases:
            found = combine(*sums, kind(num_tokens), kind(num_masks), weights).item()
            assert found == expected, (kind, num_tokens, num_masks, weights)


def test_counts_below_one_are_not_clamped():
    # One mask on two ranks whose gradients DDP averages: each passes 1 / 2.
    sums = (torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1.0))
    assert combine(*sums, 1, 0.5, LossWeights()).item() == 6
    assert combine(*sums, 1, torch.tensor(0.5), LossWeights()).item() == 6


@pytest.mark.parametrize('kind', [int, torch.tensor])
def test_a_count_of_zero_has_zero_gradient_not_nan(kind):
    zero = torch.zeros(())
    sums = (zero.clone().requires_grad_(), zero.clone().requires_grad_(), zero.clone().requires_grad_())
    combine(*sums, kind(0), kind(0), LossWeights()).backward()
    assert [x.grad for x in sums] == [0, 0, 0]


def test_micro_batches_add_up_to_the_loss_of_the_step():
    generator = torch.Generator().manual_seed(0)
    masks, targets = random_masks((7, 12, 13), torch.float64)
    rows = torch.randn(23, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(11, (23, ), generator=generator)

    def gradient(mask_cuts, token_cuts):
        x, y = rows.clone().requires_grad_(), masks.clone().requires_grad_()
        total = 0.0
        for (a, b), (c, d) in zip(zip(token_cuts, token_cuts[1:]), zip(mask_cuts, mask_cuts[1:])):
            dice, bce = mask_losses(y[c:d], targets[c:d])
            share = combine(token_loss(x[a:b], labels[a:b]).sum(), dice.sum(), bce.sum(), 23, 7, LossWeights())
            share.backward()
            total += share.item()
        return total, x.grad, y.grad

    whole = gradient([0, 7], [0, 23])
    dice, bce = mask_losses(masks, targets)
    assert whole[0] == pytest.approx((token_loss(rows, labels).mean() + 2 * dice.mean() + bce.mean()).item())
    for split in (gradient([0, 1, 7], [0, 20, 23]), gradient([0, 0, 3, 7], [0, 9, 9, 23])):
        for ours, expected in zip(split, whole):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_weights_default_to_the_paper_and_must_be_finite():
    assert LossWeights() == LossWeights(1, 2, 1)
    for name, value in (('token', -1.0), ('dice', math.nan), ('bce', math.inf)):
        with pytest.raises(ValueError, match=f'weight of the {name} loss is {value}'):
            LossWeights(**{name: value})
