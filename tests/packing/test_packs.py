"""Packing against the exact optimum, lower bounds, what ms-swift makes of the same rows, and figure 13."""
import itertools
import numpy as np
import pytest
import random
import subprocess
import sys
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixture import CAPACITY, image_sets, mixture, swift_packs
from typing import Any

from swift_citrusv.packing.packs import Packs, lower_bound, pack_arrays, pack_best_fit, split_to_multiple


def optimum(lengths, capacity, images, image_capacity):
    """The least number of bins, by trying every assignment (an item may open at most one new bin)."""
    # Large ones first, and equal bins once: the same optimum sooner.
    items = sorted(zip(lengths, images), reverse=True)
    best = len(items)

    def place(i, left):
        nonlocal best
        if len(left) >= best:
            return
        if i == len(items):
            best = len(left)
            return
        tokens, pictures = items[i]
        for b, room in enumerate(left):
            if room[0] >= tokens and room[1] >= pictures and room not in left[:b]:
                place(i + 1, left[:b] + [(room[0] - tokens, room[1] - pictures)] + left[b + 1:])
        place(i + 1, left + [(capacity - tokens, image_capacity - pictures)])

    place(0, [])
    return best


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


def test_near_the_exact_optimum_of_2000_small_sets():
    rng = random.Random(2)
    num_optimal = num_bound = 0
    for index in range(2000):
        capacity = rng.choice([5, 12, 20, 100, 1000])
        image_capacity = rng.choice([1, 2, 3, 5, 8]) if index % 2 else 0
        least = rng.choice([0, 1, capacity // 5])
        most = rng.choice([capacity, capacity * 2 // 3, capacity // 2])
        n = rng.randint(1, 9)
        lengths = [rng.randint(least, most) for _ in range(n)]
        images = [rng.randint(0, rng.choice([1, image_capacity])) if image_capacity else 0 for _ in range(n)]
        bins = pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity)
        assert_valid(bins, lengths, capacity, images, image_capacity)
        best = optimum(lengths, capacity, images, image_capacity)
        bound = lower_bound(lengths, capacity, images, image_capacity)
        assert bound <= best <= len(bins) <= best + 1
        num_optimal += len(bins) == best
        num_bound += bound == best
    # The search sees to that; 95 % is what is asked for.
    assert num_optimal == 2000
    # Sets on which a packing at the bound exists do not show what the search is for.
    assert num_bound < 0.98 * 2000


@pytest.mark.parametrize(('lengths', 'images', 'capacity', 'image_capacity'), [
    ([747, 333, 417, 178, 328, 358], [1, 0, 0, 8, 3, 4], 1000, 8),
    ([3, 7, 8, 6, 4, 3, 1, 4], [1, 0, 0, 0, 0, 0, 0, 2], 12, 2),
    ([50, 27, 44, 27, 57, 39, 36, 56, 28, 8, 21], [1, 1, 6, 0, 14, 0, 2, 1, 0, 0, 1], 100, 16),
])
def test_optimum_that_only_the_search_finds(lengths, images, capacity, image_capacity):
    bins = pack_best_fit(lengths, capacity, images=images, image_capacity=image_capacity)
    assert_valid(bins, lengths, capacity, images, image_capacity)
    assert len(bins) == optimum(lengths, capacity, images, image_capacity)


def varied_sizes(rng, index):
    """Sizes of a bin's share, 0 to 1, of a shape that changes with `index`."""
    n = int(rng.choice([10, 30, 100, 300, 1000, 2200], p=[.2, .25, .3, .15, .06, .04]))
    shapes = [
        lambda: rng.random(n), lambda: rng.lognormal(-3, 1, n), lambda: rng.uniform(.2, .55, n),
        lambda: rng.uniform(.3, .37, n), lambda: rng.choice([.03, .07, .2, .6], n) * rng.uniform(.8, 1.2, n),
        lambda: np.full(n, rng.uniform(.05, .6)), lambda: rng.exponential(.1, n), lambda: rng.uniform(.1, .3, n)
    ]
    return shapes[index % len(shapes)]()


def test_never_more_packs_than_ms_swift_on_200_varied_sets():
    rng = np.random.default_rng(0)
    fewer = {False: 0, True: 0}
    for index in range(200):
        two = index // 8 % 2 == 1
        capacity = int(rng.choice([100, 1000, 4096, 12288, 32768]))
        lengths = np.clip(varied_sizes(rng, index) * capacity, 1, capacity).astype(int).tolist()
        budget: dict[str, Any] = {}
        if two:
            image_capacity = int(rng.choice([2, 4, 8, 16]))
            images = rng.integers(0, rng.integers(1, image_capacity + 1), len(lengths), endpoint=True)
            images = np.where(rng.random(len(lengths)) < rng.random(), images, 0).tolist()
            budget = dict(images=images, image_capacity=image_capacity)
        theirs = swift_packs(lengths, capacity, **budget)
        assert sorted(itertools.chain(*theirs)) == list(range(len(lengths)))
        ours = pack_best_fit(lengths, capacity, **budget)
        assert_valid(ours, lengths, capacity, **budget)
        assert len(ours) <= len(theirs), f'set {index}'
        fewer[two] += len(ours) < len(theirs)
    assert fewer[False] > 20 and fewer[True] > 50  # the sets are not all too easy to tell


def test_mixture_of_50000_rows_is_within_a_twentieth_of_a_percent_of_the_bound():
    lengths, _ = mixture(50_000)
    bound = lower_bound(lengths, CAPACITY)
    assert bound == -(-lengths.sum() // CAPACITY)
    packs = pack_arrays(lengths, CAPACITY)
    assert_valid_arrays(packs, lengths, CAPACITY, np.zeros_like(lengths), 0)
    assert len(packs) <= 1.0005 * bound

    which_binds = set()
    for name, (images, image_capacity) in image_sets(lengths).items():
        packs = pack_arrays(lengths, CAPACITY, images=images, image_capacity=image_capacity)
        assert_valid_arrays(packs, lengths, CAPACITY, images, image_capacity)
        by_tokens, by_images = lengths.sum() / CAPACITY, images.sum() / image_capacity
        assert len(packs) <= 1.0005 * np.ceil(max(by_tokens, by_images)), name
        binds = 'T' * bool(by_tokens > .96 * by_images) + 'I' * bool(by_images > .96 * by_tokens)
        assert binds == name[:2].strip(), name
        which_binds.add(binds)
    assert which_binds == {'T', 'I', 'TI'}


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
    # A second budget that nothing touches changes nothing.
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


def test_large_sets_are_dealt_in_parts():
    # Two parts of 65,536 and a bit, and sizes beyond 32 bits, which take the slow way to sort and to count.
    lengths, _ = mixture(140_000)
    images, image_capacity = image_sets(lengths)['TI 1-4 on a quarter of the rows, 5 a pack']
    for scale in (1, 2**20):
        packs = pack_arrays(lengths * scale, CAPACITY * scale, images=images, image_capacity=image_capacity)
        assert_valid_arrays(packs, lengths * scale, CAPACITY * scale, images, image_capacity)
        assert len(packs) <= 1.0005 * lower_bound(lengths, CAPACITY, images, image_capacity)


def test_items_too_large_or_too_many_to_deal():
    # No two fit, three of a kind, and a million of nothing in one bin.
    assert len(pack_arrays(np.full(5000, 60), 100)) == 5000
    assert len(pack_arrays(np.full(4999, 33), 100)) == 1667
    assert len(pack_arrays(np.zeros(1_000_000, dtype=np.int64), 100)) == 1
    assert len(pack_arrays(np.ones(1_000_000, dtype=np.int64), 1_000_000)) == 1
    assert len(pack_arrays(np.ones(1_000_000, dtype=np.int64), 400_000)) == 3


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


def test_memory_of_a_million_rows():
    code = '''
import numpy as np, resource
from support.mixture import CAPACITY, image_sets, mixture
from swift_citrusv.packing import pack_arrays
pack_arrays(mixture(5000)[0], CAPACITY)
lengths, _ = mixture(1_000_000)
images, image_capacity = image_sets(lengths)['T  1-4 on a quarter of the rows, 8 a pack']
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
packs = pack_arrays(lengths, CAPACITY, images=images, image_capacity=image_capacity)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(packs), (after - before) * 1024)
'''
    path = [entry for entry in sys.path if entry.endswith('tests')][0]
    run = subprocess.run([sys.executable, '-c', code], cwd=path, capture_output=True, text=True, check=True)
    num_packs, num_bytes = map(int, run.stdout.split())
    assert num_packs > 70_000
    # 15.4 million rows within 4 GiB are 279 bytes a row. About 75 here.
    assert num_bytes < 150 * 1_000_000


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
    with pytest.raises(ValueError, match='10 items in 3 packs cannot be shared by 11 ranks, which takes 11 packs'):
        split_to_multiple(packs, 11)
    with pytest.raises(ValueError, match='multiple of 0'):
        split_to_multiple(packs, 0)
    # Four items that fill a pack each cannot be six.
    with pytest.raises(ValueError, match='4 items in 4 packs cannot be shared by 3 ranks, which takes 6 packs'):
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


@pytest.mark.parametrize(
    ('lengths', 'bound'),
    [
        ([6, 6, 6], 3),  # 18 / 10 is 2, but no two share a bin
        ([7, 7, 4, 4, 4], 4),  # 26 / 10 is 3, but what the 7s leave holds no 4
        ([6, 6, 4, 4, 4], 3),
        ([5, 5, 5, 5], 2),  # half a bin is not above half
        ([9, 9, 2, 2, 2, 2, 2], 3),
        ([10, 10, 0], 2),
    ])
def test_lower_bound_by_hand(lengths, bound):
    assert lower_bound(lengths, 10) == bound
    assert lower_bound([0] * len(lengths), 1, images=lengths, image_capacity=10) == bound
    assert len(pack_best_fit(lengths, 10)) == bound


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
    ([1, 1, 1, 1], 2**62, {}, 'does not fit 64 bits for 4 items'),
])
def test_errors_name_item_number_and_remedy(lengths, capacity, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pack_best_fit(lengths, capacity, **kwargs)
    with pytest.raises(ValueError, match=message):
        lower_bound(lengths, capacity, **kwargs)
