"""Best fit against a slow reference that checks every bin for every item."""
import numpy as np
import pytest
import random

from swift_citrusv.packing.best_fit import best_fit
from swift_citrusv.packing.bin_packing import decreasing_order


def slow_best_fit(items, capacity, image_capacity, left):
    """The bin of each item; `left` is the free space of the open bins, and is changed."""
    bins = []
    for tokens, images in items:
        fitting = [(room, pictures, b) for b, (room, pictures) in enumerate(left)
                   if room >= tokens and pictures >= images]
        if fitting:
            b = min(fitting)[2]
        else:
            b = len(left)
            left.append((capacity, image_capacity))
        bins.append(b)
        left[b] = (left[b][0] - tokens, left[b][1] - images)
    return bins


def run(items, capacity, image_capacity, left=()):
    tokens, images = np.array(items, dtype=np.int64).reshape(-1, 2).T
    rooms = np.array(left, dtype=np.int64).reshape(-1, 2).T if left else (None, None)
    return best_fit(tokens, images, capacity, image_capacity, *rooms).tolist()


@pytest.mark.parametrize('with_open_bins', [False, True])
@pytest.mark.parametrize('with_images', [False, True])
def test_equals_the_slow_reference(with_images, with_open_bins):
    rng = random.Random(0)
    num_shared = num_reused = 0
    for _ in range(400):
        capacity, image_capacity = rng.choice([1, 2, 7, 12, 31, 100]), rng.choice([1, 2, 4, 8]) * with_images
        most = rng.randint(1, capacity)
        n = rng.randint(0, 60)
        items = [(rng.randint(0, most), rng.randint(0, rng.choice([min(1, image_capacity), image_capacity])))
                 for _ in range(n)]
        if items and rng.random() < 0.3:  # many equal items, which are placed together
            items = [rng.choice(items[:3]) for _ in items]
        if rng.random() < 0.8:  # best fit accepts any order
            items.sort(reverse=True)
        left = [(rng.randint(0, capacity), rng.randint(0, image_capacity))
                for _ in range(rng.randint(0, 12) * with_open_bins)]
        num_open = len(left)
        bins = run(items, capacity, image_capacity, left)
        assert bins == slow_best_fit(items, capacity, image_capacity, left)
        num_shared += sum(bins.count(b) > 2 for b in set(bins))
        num_reused += len({b for b in bins if b < num_open})
    # Otherwise the comparison would be trivial.
    assert num_shared > 500
    assert (num_reused > 500) == with_open_bins


def test_a_larger_set_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    tokens = np.clip(rng.lognormal(6.5, 1.0, 1500), 1, 4096).astype(int)
    images = rng.integers(0, 4, 1500)
    order = decreasing_order(tokens, images, 4096, 8)
    items = list(zip(tokens[order].tolist(), images[order].tolist()))
    assert run(items, 4096, 8) == slow_best_fit(items, 4096, 8, [])
