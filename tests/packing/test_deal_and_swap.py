"""Deal-and-swap: the sums of the bins, the rejected items, and bounds that best fit misses."""
import numpy as np
import pytest
from support.mixture import CAPACITY, image_sets, mixture

from swift_citrusv.packing.best_fit import best_fit
from swift_citrusv.packing.bin_packing import decreasing_order, l2_bound
from swift_citrusv.packing.deal_and_swap import _Table, can_deal_and_swap, deal_and_swap


def sorted_mixture(num_rows: int, name: str | None = None) -> tuple[np.ndarray, np.ndarray, int, int]:
    tokens, _ = mixture(num_rows)
    images, image_capacity = image_sets(tokens)[name] if name else (np.zeros_like(tokens), 0)
    order = decreasing_order(tokens, images, CAPACITY, image_capacity)
    return tokens[order], images[order], CAPACITY, image_capacity


def check(result, tokens, images, capacity, image_capacity, num_bins):
    """Checks the sums by a loop over the items. Returns the number of rejected items."""
    bins, tokens_left, images_left = result
    assert len(bins) == len(tokens) and len(tokens_left) == len(images_left) == num_bins
    room = [[capacity, image_capacity] for _ in range(num_bins)]
    num_rejected = 0
    for b, size, pictures in zip(bins.tolist(), tokens.tolist(), images.tolist()):
        if b == -1:
            num_rejected += 1
        else:
            assert 0 <= b < num_bins
            room[b][0] -= size
            room[b][1] -= pictures
    assert min(map(min, room)) >= 0
    assert room == np.stack([tokens_left, images_left], axis=1).tolist()
    return num_rejected


@pytest.mark.parametrize('name', ['I  1 on each row, 8 a pack', 'TI 0-4, 28 a pack', 'I  0-4, 16 a pack'])
def test_reaches_the_bound_where_best_fit_does_not(name):
    sizes = sorted_mixture(20_000, name)
    bound = l2_bound(*sizes)
    assert best_fit(*sizes).max() + 1 > 1.05 * bound
    assert check(deal_and_swap(*sizes, bound + 1), *sizes, bound + 1) == 0


def test_fills_bins_to_the_last_token():
    # 5,600 rows of 898 tokens on average; each of the 400 bins has three to four spare tokens.
    tokens, images, *_ = sorted_mixture(400 * 14)
    capacity = -(-int(tokens.sum()) // 400) + 3
    result = deal_and_swap(tokens, images, capacity, 0, 400)
    assert check(result, tokens, images, capacity, 0, 400) == 0


def test_dealing_alone_is_nearly_even():
    # Swaps would hide a poor deal.
    tokens, images, capacity, image_capacity = sorted_mixture(20_000, 'I  0-4, 16 a pack')
    num_bins = l2_bound(tokens, images, capacity, image_capacity)
    table = _Table(tokens, images, capacity, image_capacity, num_bins)
    table.deal_rounds()
    assert table.bin_images.sum() == images.sum() and np.ptp(table.bin_images) <= 2
    no_images = np.zeros_like(images)
    num_bins = l2_bound(tokens, no_images, capacity, 0)
    table = _Table(tokens, no_images, capacity, 0, num_bins)
    table.deal_rounds()
    # With fourteen random rows in each bin, the standard deviation would be 823 * 14**0.5.
    assert table.bin_tokens.std() < tokens.std() / 2


def test_every_bin_gets_the_same_mix():
    sizes = sorted_mixture(20_000, 'T  1-4 on a quarter of the rows, 8 a pack')
    num_bins = l2_bound(*sizes) + 1
    bins = deal_and_swap(*sizes, num_bins)[0]
    others = best_fit(*sizes)  # fills bins with items of equal size
    # Of all items, and of the largest, the middle and the smallest third.
    for part in (slice(None), slice(0, 6667), slice(6667, 13333), slice(13333, None)):
        assert np.bincount(bins[part], minlength=num_bins).std() < 1
        assert np.bincount(others[part], minlength=num_bins).std() > 3


@pytest.mark.parametrize('spare', [0, 1])
def test_rejects_no_more_than_necessary(spare):
    # A bin of 10 holds one item of 6, whatever is swapped.
    tokens = np.array([6] * 6 + [1] * 6)
    result = deal_and_swap(tokens, np.zeros_like(tokens), 10, 0, 3 + spare)
    assert check(result, tokens, np.zeros_like(tokens), 10, 0, 3 + spare) == 3 - spare
    assert (np.sort(tokens[result[0] < 0]) == 6).all()


def test_sums_of_64_bits_give_what_those_of_32_bits_give():
    tokens, images, _, image_capacity = sorted_mixture(4000, 'I  0-4, 16 a pack')
    capacity = 16 * 768
    num_bins = l2_bound(tokens, images, capacity, image_capacity)
    small = deal_and_swap(tokens, images, capacity, image_capacity, num_bins)
    large = deal_and_swap(tokens * 2**24, images, capacity * 2**24, image_capacity, num_bins)
    np.testing.assert_array_equal(small[0], large[0])


# num_items, num_bins, capacity, image_capacity, result.
CAN_DEAL = [
    (10, 2, 100, 8, True),
    (10, 1, 100, 8, False),
    (10, 10, 100, 8, True),
    (10, 11, 100, 8, False),
    (1024, 2, 100, 8, True),
    (1025, 2, 100, 8, False),
    (10, 5, 2**55, 0, True),
    (10, 5, 2**60, 0, False),
    (10, 5, 2**55, 2**6, False),
]


def test_can_deal_and_swap():
    for *arguments, expected in CAN_DEAL:
        assert can_deal_and_swap(*arguments) is expected, arguments
