"""Packs of small sets by hand (figure 13), invariants of packing and splitting, bounds and errors."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixture import CAPACITY, image_sets, mixture
from support.packs import assert_valid, assert_valid_arrays
from support.raised import assert_raises
from typing import Any

from swift_citrusv.packing.packs import Packs, lower_bound, pack_arrays, pack_best_fit, split_to_multiple


def test_figure_13_of_the_paper():
    # Samples of 7, 4 and 3 tokens; the first was split into 5 + 2.
    assert pack_best_fit([5, 2, 4, 3], 5) == [[0], [2], [1, 3]]
    assert lower_bound([5, 2, 4, 3], 5) == 3  # 14 / 5, rounded up


def test_puts_an_item_into_the_fullest_bin_that_holds_it_not_the_emptiest():
    # 7 and 6 open bins with 3 and 4 left; 3 goes to the first, so that 4 still fits the second.
    assert pack_best_fit([3, 7, 4, 6], 10) == [[0, 1], [2, 3]]


def test_second_budget_splits_what_tokens_alone_would_join():
    assert pack_best_fit([1, 1, 1, 1], 10) == [[0, 1, 2, 3]]
    assert pack_best_fit([1, 1, 1, 1], 10, images=[2, 2, 2, 2], image_capacity=4) == [[0, 1], [2, 3]]
    # The item with all the images goes first although it is short; the one without images joins it.
    assert pack_best_fit([6, 1, 5], 10, images=[0, 4, 1], image_capacity=4) == [[0, 1], [2]]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_invariants(data):
    capacity = data.draw(st.integers(1, 50))
    image_capacity = data.draw(st.integers(0, 6))
    items = data.draw(st.lists(st.tuples(st.integers(0, capacity), st.integers(0, image_capacity)), max_size=60))
    lengths, images = [item[0] for item in items], [item[1] for item in items]

    one = pack_best_fit(lengths, capacity)
    assert_valid(one, lengths, capacity)
    assert len(one) >= lower_bound(lengths, capacity) >= -(-sum(lengths) // capacity)

    two = pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity)
    assert_valid(two, lengths, capacity, images, image_capacity)
    assert len(two) >= lower_bound(lengths, capacity, images, image_capacity) >= lower_bound(lengths, capacity)
    arrays = np.array(lengths, dtype=np.int32), np.array(images, dtype=np.uint8)
    packs = pack_arrays(arrays[0], capacity, images=arrays[1], image_capacity=image_capacity)
    assert two == [pack.tolist() for pack in packs]
    # A second budget that no item uses changes nothing.
    assert one == pack_best_fit(lengths, capacity, images=[0] * len(items), image_capacity=image_capacity)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([7, 100, 4096]), st.integers(0, 9))
def test_invariants_of_larger_sets(seed, n, capacity, image_capacity):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, rng.integers(1, capacity, endpoint=True), n, endpoint=True)
    images = np.minimum(rng.poisson(rng.choice([.1, 1, 4]), n), image_capacity)
    packs = pack_arrays(lengths, capacity, images=images, image_capacity=image_capacity)
    assert_valid_arrays(packs, lengths, capacity, images, image_capacity)
    assert len(packs) >= lower_bound(lengths, capacity, images, image_capacity)


def test_does_not_depend_on_or_change_global_state():
    lengths, _ = mixture(3000)
    images, image_capacity = image_sets(lengths)['TI 1-4 on a quarter of the rows, 5 a pack']
    results = []
    for seed in (0, 1):
        np.random.seed(seed)
        results.append(pack_best_fit(lengths, CAPACITY, images=images, image_capacity=image_capacity))
        drawn = np.random.random()
        np.random.seed(seed)
        assert drawn == np.random.random()
    assert results[0] == results[1]


def test_packs_are_a_sequence_of_arrays():
    packs = Packs(np.array([1, 4, 0, 2, 3, 5]), np.array([2, 3, 6]))
    assert len(packs) == 3
    assert [pack.tolist() for pack in packs] == [[1, 4], [0], [2, 3, 5]]
    assert [packs[index].tolist() for index in (0, 1, 2, -1, -3)] == [[1, 4], [0], [2, 3, 5], [2, 3, 5], [1, 4]]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f'Pack {index} of 3'):
            packs[index]
    assert packs.counts.tolist() == [2, 1, 3]
    assert packs.sums(np.array([1, 2, 4, 8, 16, 32])).tolist() == [18, 1, 44]
    assert packs.sums(np.array([.5, 0, 0, 0, .25, 0])).tolist() == [.25, .5, 0]
    with pytest.raises(ValueError, match=r'6 items, but the values have shape \(5,\)'):
        packs.sums(np.ones(5))


def test_no_packs():
    packs = pack_arrays([], 5)
    assert len(packs) == 0 and list(packs) == [] and packs.items.dtype == packs.ends.dtype == np.int64
    assert packs.sums(np.zeros(0)).tolist() == []
    assert split_to_multiple(packs, 4) is packs


def as_lists(packs):
    return [pack.tolist() for pack in packs]


def test_split_to_multiple():
    packs = Packs(np.arange(10), np.array([2, 7, 10]))
    assert split_to_multiple(packs, 1) is packs
    assert split_to_multiple(packs, 3) is packs
    # The pack of 5 is split first, then the first one of 3 (what is left of it), and so on.
    assert as_lists(split_to_multiple(packs, 2)) == [[0, 1], [2, 4, 6], [7, 8, 9], [3, 5]]
    assert as_lists(split_to_multiple(packs, 5)) == [[0, 1], [2, 6], [7, 8, 9], [3, 5], [4]]
    assert all(len(pack) == 1 for pack in split_to_multiple(packs, 10))
    with pytest.raises(ValueError, match='10 items in 3 packs cannot be shared by 11 ranks, which needs 11 packs'):
        split_to_multiple(packs, 11)
    with pytest.raises(ValueError, match='multiple of 0'):
        split_to_multiple(packs, 0)
    # Four items that fill a pack each cannot be six.
    with pytest.raises(ValueError, match='4 items in 4 packs cannot be shared by 3 ranks, which needs 6 packs'):
        split_to_multiple(pack_arrays([5, 5, 5, 5], 5), 3)


def test_split_by_weight():
    packs = Packs(np.arange(5), np.array([5]))
    weights = np.array([10, 3, 3, 2, 2])
    one, two = split_to_multiple(packs, 2, weights)
    assert (one.tolist(), two.tolist()) == ([0], [1, 2, 3, 4])
    # Weights of zero do not leave a half without items.
    one, two = split_to_multiple(packs, 2, np.array([7, 0, 0, 0, 0]))
    assert len(one) and len(two)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 12), st.booleans())
def test_split_invariants(lengths, multiple, by_weight):
    packs = pack_arrays(lengths, 30)
    needed = -(-len(packs) // multiple) * multiple
    weights = np.array(lengths) if by_weight else None
    if needed > len(lengths):
        with pytest.raises(ValueError, match=f'{len(lengths)} items in {len(packs)} packs .* {needed} packs'):
            split_to_multiple(packs, multiple, weights)
        return
    split = split_to_multiple(packs, multiple, weights)
    assert len(split) == needed
    assert_valid(as_lists(split), lengths, 30)
    # Every part comes from one pack, in place or behind.
    home = {item: index for index, pack in enumerate(packs) for item in pack.tolist()}
    for index, pack in enumerate(split):
        homes = {home[item] for item in pack.tolist()}
        assert homes == {index} if index < len(packs) else len(homes) == 1
    assert as_lists(split) == as_lists(split_to_multiple(packs, multiple, weights))


# Lengths, and the bound for a capacity of 10.
BOUNDS = [
    ([6, 6, 6], 3),  # 18 / 10 is 2, but no two share a bin
    ([7, 7, 4, 4, 4], 4),  # 26 / 10 is 3, but the space left by a 7 holds no 4
    ([6, 6, 4, 4, 4], 3),
    ([5, 5, 5, 5], 2),  # half a bin is not above half
    ([9, 9, 2, 2, 2, 2, 2], 3),
    ([10, 10, 0], 2),
]


def test_lower_bound_by_hand():
    for lengths, bound in BOUNDS:
        assert lower_bound(lengths, 10) == bound, lengths
        assert lower_bound([0] * len(lengths), 1, images=lengths, image_capacity=10) == bound, lengths
        assert len(pack_best_fit(lengths, 10)) == bound, lengths


# Lengths, capacity, further arguments, bins, bound.
EDGES: list[tuple[Any, int, dict[str, Any], list[list[int]], int]] = [
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
]


def test_edges():
    for lengths, capacity, kwargs, bins, bound in EDGES:
        assert pack_best_fit(lengths, capacity, **kwargs) == bins, (lengths, capacity, kwargs)
        assert lower_bound(lengths, capacity, **kwargs) == bound, (lengths, capacity, kwargs)


def test_indices_are_plain_integers():
    (index, ), = pack_best_fit(np.array([3], dtype=np.uint16), 5)
    assert type(index) is int


# Lengths, capacity, further arguments, a pattern of the message.
ERRORS: list[tuple[Any, Any, dict[str, Any], str]] = [
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
    ([1, 1, 1, 1], 2**62, {}, 'does not fit 64 bits for 4 items'),
]


def test_errors_name_item_number_and_remedy():
    for lengths, capacity, kwargs, pattern in ERRORS:
        for function in (pack_best_fit, lower_bound):
            assert_raises(ValueError, pattern, function, lengths, capacity, **kwargs)
