"""The decreasing order against a sort by fractions; the exact search against all assignments."""
import itertools
import numpy as np
import pytest
import random
from fractions import Fraction

from swift_citrusv.packing.bin_packing import decreasing_order, exact_search


def slow_order(lengths, images, capacity, image_capacity):
    """The order that the docstring of `pack_best_fit` defines."""

    def key(i):
        share = Fraction(lengths[i], capacity)
        if image_capacity:
            share = max(share, Fraction(images[i], image_capacity))
        return -share, -lengths[i], -images[i], i

    return sorted(range(len(lengths)), key=key)


@pytest.mark.parametrize('scale', [1, 2**40])  # the second one takes the slow sort
def test_decreasing_order_equals_the_slow_reference(scale):
    rng = random.Random(1)
    for _ in range(300):
        capacity, image_capacity = rng.choice([1, 5, 12]), rng.choice([0, 1, 3, 6])
        n = rng.randint(1, 40)
        tokens = [rng.randint(0, capacity) * scale for _ in range(n)]
        images = [rng.randint(0, image_capacity) for _ in range(n)]
        order = decreasing_order(np.array(tokens), np.array(images), capacity * scale, image_capacity)
        assert order.tolist() == slow_order(tokens, images, capacity * scale, image_capacity)


def is_packing(bins, tokens, images, capacity, image_capacity, num_bins):
    room = [[capacity, image_capacity] for _ in range(num_bins)]
    for b, size, pictures in zip(bins, tokens, images):
        room[b][0] -= size
        room[b][1] -= pictures
    return all(left >= 0 for pair in room for left in pair)


def test_exact_search_equals_all_assignments():
    rng = random.Random(0)
    num_found = 0
    for _ in range(400):
        capacity, image_capacity, num_bins = rng.randint(1, 12), rng.randint(0, 4), rng.randint(0, 3)
        n = rng.randint(0, 6)
        tokens = [rng.randint(0, capacity) for _ in range(n)]
        images = [rng.randint(0, image_capacity) for _ in range(n)]
        sizes = tokens, images, capacity, image_capacity, num_bins
        exists = any(is_packing(bins, *sizes) for bins in itertools.product(range(num_bins), repeat=n))
        found = exact_search(*sizes, max_steps=10**6)
        assert (found is not None) == exists
        if found is not None:
            assert len(found) == n and all(0 <= b < num_bins for b in found) and is_packing(found, *sizes)
        num_found += exists
    assert 100 < num_found < 300


def test_exact_search_stops_after_max_steps():
    # 3 * 5 + 4 * 4 + 2 * 7 + ...: exactly three bins of 20, found only by backtracking.
    tokens, images = [9, 8, 7, 7, 6, 6, 5, 4, 4, 4], [0] * 10
    assert exact_search(tokens, images, 20, 0, 3, max_steps=10**6) is not None
    assert exact_search(tokens, images, 20, 0, 3, max_steps=9) is None  # ten items need at least ten steps
