"""Packing against a slow best-fit decreasing, the exact optimum, the library that ms-swift uses, and figure 13."""
import binpacking
import itertools
import numpy as np
import pytest
import random
import time
from fractions import Fraction
from hypothesis import given, settings
from hypothesis import strategies as st

from swift_citrusv.packing import lower_bound, pack_best_fit


def slow_best_fit(lengths, capacity, images=None, image_capacity=0):
    """The rule of the docstring, item by item, looking at every bin each time."""
    images = images or [0] * len(lengths)

    def placing_order(i):
        share = Fraction(lengths[i], capacity)
        if image_capacity:
            share = max(share, Fraction(images[i], image_capacity))
        return -share, -lengths[i], -images[i], i

    bins: list[list[int]] = []
    left: list[tuple[int, int]] = []
    for i in sorted(range(len(lengths)), key=placing_order):
        fitting = [(tokens, pictures, b) for b, (tokens, pictures) in enumerate(left)
                   if tokens >= lengths[i] and pictures >= images[i]]
        if fitting:
            b = min(fitting)[2]
        else:
            b = len(bins)
            bins.append([])
            left.append((capacity, image_capacity))
        bins[b].append(i)
        left[b] = (left[b][0] - lengths[i], left[b][1] - images[i])
    return [sorted(b) for b in bins]


def optimum(lengths, capacity, images=None, image_capacity=0):
    """The least number of bins, by trying every assignment (an item may open at most one new bin)."""
    images = images or [0] * len(lengths)
    best = len(lengths)

    def place(i, left):
        nonlocal best
        if len(left) >= best:
            return
        if i == len(lengths):
            best = len(left)
            return
        for b, (tokens, pictures) in enumerate(left):
            if tokens >= lengths[i] and pictures >= images[i]:
                place(i + 1, left[:b] + [(tokens - lengths[i], pictures - images[i])] + left[b + 1:])
        place(i + 1, left + [(capacity - lengths[i], image_capacity - images[i])])

    place(0, [])
    return best


def assert_valid(bins, lengths, capacity, images=None, image_capacity=0):
    assert sorted(itertools.chain(*bins)) == list(range(len(lengths)))
    for b in bins:
        assert b and b == sorted(b)
        assert sum(lengths[i] for i in b) <= capacity
        assert images is None or sum(images[i] for i in b) <= image_capacity


def log_normal_lengths(n, capacity, seed=0):
    lengths = np.random.default_rng(seed).lognormal(6.5, 1.0, n)
    return np.clip(lengths, 1, capacity).astype(np.int64)


def test_figure_13_of_the_paper():
    # Samples of 7, 4 and 3 tokens; the first was split into 5 + 2.
    assert pack_best_fit([5, 2, 4, 3], 5) == [[0], [2], [1, 3]]
    assert lower_bound([5, 2, 4, 3], 5) == 3  # 14 / 5, rounded up


def test_puts_an_item_into_the_fullest_bin_that_holds_it_not_the_emptiest():
    # 7 and 6 open bins with 3 and 4 left; 3 goes to the first, and only so does 4 fit the second.
    assert pack_best_fit([3, 7, 4, 6], 10) == [[0, 1], [2, 3]]


def test_second_budget_splits_what_tokens_alone_would_join():
    assert pack_best_fit([1, 1, 1, 1], 10) == [[0, 1, 2, 3]]
    assert pack_best_fit([1, 1, 1, 1], 10, images=[2, 2, 2, 2], image_capacity=4) == [[0, 1], [2, 3]]
    # The item with all the images goes first although it is short; the one without images joins it.
    assert pack_best_fit([6, 1, 5], 10, images=[0, 4, 1], image_capacity=4) == [[0, 1], [2]]


def test_one_budget_equals_the_slow_reference():
    rng = random.Random(0)
    num_shared = 0
    for _ in range(400):
        capacity = rng.choice([1, 2, 7, 10, 31, 100])
        most = rng.randint(1, capacity)
        lengths = [rng.randint(0, most) for _ in range(rng.randint(0, 60))]
        if rng.random() < 0.3:  # many equal items, which move together
            lengths = [rng.choice(lengths[:3]) for _ in lengths]
        bins = pack_best_fit(lengths, capacity)
        assert bins == slow_best_fit(lengths, capacity)
        num_shared += sum(len(b) > 2 for b in bins)
    assert num_shared > 1000  # otherwise the comparison would hold for anything


def test_two_budgets_equal_the_slow_reference():
    rng = random.Random(1)
    num_bound_by_images = 0
    for _ in range(600):
        capacity, image_capacity = rng.choice([1, 5, 12, 40]), rng.choice([1, 2, 4, 8])
        n = rng.randint(0, 60)
        most = rng.choice([0, 1, capacity])
        lengths = [rng.randint(0, rng.choice([most, capacity])) for _ in range(n)]
        images = [rng.randint(0, rng.choice([1, image_capacity])) for _ in range(n)]
        bins = pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity)
        assert bins == slow_best_fit(lengths, capacity, images, image_capacity)
        num_bound_by_images += len(bins) > len(pack_best_fit(lengths, capacity))
    assert num_bound_by_images > 100


def test_a_larger_set_equals_the_slow_reference():
    lengths = log_normal_lengths(1500, 4096).tolist()
    images = np.random.default_rng(1).integers(0, 4, 1500).tolist()
    assert pack_best_fit(lengths, 4096) == slow_best_fit(lengths, 4096)
    assert pack_best_fit(lengths, 4096, images=images, image_capacity=8) == slow_best_fit(lengths, 4096, images, 8)


def test_near_the_exact_optimum():
    rng = random.Random(2)
    num_optimal = 0
    for _ in range(300):
        capacity = rng.randint(1, 20)
        lengths = [rng.randint(0, capacity) for _ in range(rng.randint(1, 8))]
        best = optimum(lengths, capacity)
        num_bins = len(pack_best_fit(lengths, capacity))
        assert lower_bound(lengths, capacity) <= best <= num_bins <= Fraction(11, 9) * best + 1
        num_optimal += num_bins == best
    assert num_optimal > 270


def test_near_the_exact_optimum_with_two_budgets():
    rng = random.Random(3)
    for _ in range(200):
        capacity, image_capacity = rng.randint(1, 12), rng.randint(1, 5)
        n = rng.randint(1, 7)
        lengths = [rng.randint(0, capacity) for _ in range(n)]
        images = [rng.randint(0, image_capacity) for _ in range(n)]
        best = optimum(lengths, capacity, images, image_capacity)
        num_bins = len(pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity))
        assert lower_bound(lengths, capacity, images, image_capacity) <= best <= num_bins <= best + 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_invariants(data):
    capacity = data.draw(st.integers(1, 50))
    image_capacity = data.draw(st.integers(0, 6))
    items = data.draw(st.lists(st.tuples(st.integers(0, capacity), st.integers(0, image_capacity)), max_size=60))
    lengths, images = [item[0] for item in items], [item[1] for item in items]

    one = pack_best_fit(lengths, capacity)
    assert_valid(one, lengths, capacity)
    assert len(one) >= lower_bound(lengths, capacity)

    two = pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity)
    assert_valid(two, lengths, capacity, images, image_capacity)
    assert len(two) >= lower_bound(lengths, capacity, images, image_capacity) >= lower_bound(lengths, capacity)
    arrays = np.array(lengths, dtype=np.int32), np.array(images, dtype=np.uint8)
    assert two == pack_best_fit(arrays[0], capacity, images=arrays[1], image_capacity=image_capacity)
    # A second budget that nothing touches changes nothing.
    assert one == pack_best_fit(lengths, capacity, images=[0] * len(items), image_capacity=image_capacity)


def test_no_more_bins_than_the_library_of_ms_swift():
    capacity = 8192
    lengths = log_normal_lengths(1000, capacity).tolist()
    theirs = binpacking.to_constant_volume(list(enumerate(lengths)), capacity, weight_pos=1)
    ours = pack_best_fit(lengths, capacity)
    assert_valid(ours, lengths, capacity)
    assert len(ours) <= len(theirs)
    assert len(ours) <= lower_bound(lengths, capacity) + 1


def test_a_hundred_thousand_items_take_about_a_second():
    lengths = np.random.default_rng(0).integers(1, 32769, 100_000)
    images = np.random.default_rng(1).integers(0, 4, 100_000)
    start = time.perf_counter()
    bins = pack_best_fit(lengths, 32768, images=images, image_capacity=8)
    assert time.perf_counter() - start < 10  # 0.3 s here; a quadratic loop takes minutes
    assert_valid(bins, lengths, 32768, images, 8)


@pytest.mark.parametrize('lengths, capacity, kwargs, bins, bound', [
    ([], 5, {}, [], 0),
    (np.zeros(0, dtype=np.int64), 5, {}, [], 0),
    ([], 5, dict(images=[], image_capacity=0), [], 0),
    ([0], 5, {}, [[0]], 1),
    ([0, 0, 0], 1, {}, [[0, 1, 2]], 1),
    ([0, 5, 0], 5, {}, [[0, 1, 2]], 1),
    ([1, 1, 0], 1, {}, [[0, 2], [1]], 2),
    ([0, 0, 0], 5, dict(images=[1, 2, 1], image_capacity=2), [[1], [0, 2]], 2),
    ([2, 3], 5, dict(images=[0, 0], image_capacity=0), [[0, 1]], 1),
    ([2, 3], 5, dict(image_capacity=0), [[0, 1]], 1),
    ([5], 5, {}, [[0]], 1),
])
def test_edges(lengths, capacity, kwargs, bins, bound):
    assert pack_best_fit(lengths, capacity, **kwargs) == bins
    assert lower_bound(lengths, capacity, **kwargs) == bound


def test_indices_are_plain_integers():
    (index, ), = pack_best_fit(np.array([3], dtype=np.uint16), 5)
    assert type(index) is int


@pytest.mark.parametrize('lengths, capacity, kwargs, message', [
    ([3, 6, 7], 5, {}, r'Item 1 has 6 tokens, more than the 5 .*raise --packing_length to at least 6'),
    ([3, 2**70], 5, {}, f'Item 1 has {2**70} tokens, more than the 5'),
    ([1, 1], 5, dict(images=[0, 9], image_capacity=8), 'Item 1 has 9 segmentation images, .*raise pack_images'),
    ([1], 5, dict(images=[1], image_capacity=0), 'Item 0 has 1 segmentation images, more than the 0'),
    ([1, -2], 5, {}, 'Item 1 has -2 tokens: give an integer >= 0'),
    ([1, 1], 5, dict(images=[-1, 0], image_capacity=8), 'Item 0 has -1 segmentation images'),
    ([1, 2.0], 5, {}, r'Item 1 has 2\.0 tokens: give an integer'),
    (np.array([1.0, 2.0]), 5, {}, 'Item 0 has .*1.0.* tokens: give an integer'),
    ([1, None], 5, {}, 'Item 1 has None tokens'),
    ([True, False], 5, {}, 'Item 0 has True tokens'),
    (['3'], 5, {}, "Item 0 has '3' tokens"),
    ([[1, 2]], 5, {}, r'shape \(1, 2\)'),
    ([1, 2], 5, dict(images=[1], image_capacity=8), '2 lengths but 1 image counts'),
    ([1], 5, dict(images=[1]), 'without image_capacity'),
    ([1], 0, {}, 'capacity of a pack is 0 tokens: set --packing_length'),
    ([1], 5.0, {}, 'capacity of a pack is 5.0'),
    ([1], 5, dict(image_capacity=-1), 'image capacity of a pack is -1: set pack_images'),
    ([1], 2**62, dict(images=[1], image_capacity=8), 'does not fit 64 bits'),
])
def test_errors_name_item_number_and_remedy(lengths, capacity, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pack_best_fit(lengths, capacity, **kwargs)
    with pytest.raises(ValueError, match=message):
        lower_bound(lengths, capacity, **kwargs)
