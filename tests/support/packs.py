"""Checks that packs hold each item once, within both budgets."""
import itertools
import numpy as np


def assert_valid(bins, lengths, capacity, images=None, image_capacity=0):
    assert sorted(itertools.chain(*bins)) == list(range(len(lengths)))
    for b in bins:
        assert b and b == sorted(b)
        assert sum(lengths[i] for i in b) <= capacity
        assert images is None or sum(images[i] for i in b) <= image_capacity


def assert_valid_arrays(packs, lengths, capacity, images, image_capacity):
    """`assert_valid` for many items."""
    np.testing.assert_array_equal(np.sort(packs.items), np.arange(len(lengths)))
    assert packs.ends[-1] == len(lengths) and packs.counts.min() >= 1
    inside = np.ones(len(lengths), dtype=bool)
    inside[packs.ends - packs.counts] = False  # the first item of a pack need not be above the one before
    assert (np.diff(packs.items)[inside[1:]] > 0).all()
    assert np.add.reduceat(lengths[packs.items], packs.ends - packs.counts).max() <= capacity
    assert np.add.reduceat(images[packs.items], packs.ends - packs.counts).max() <= image_capacity
