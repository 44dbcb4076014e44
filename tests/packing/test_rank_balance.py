"""The order of packs: balanced, random, and the same on every rank."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixture import CAPACITY, mixture
from support.raised import assert_raises

from swift_citrusv.packing.best_fit import best_fit
from swift_citrusv.packing.packs import pack_arrays
from swift_citrusv.packing.rank_balance import balanced_order, imbalance


def slow_imbalance(costs, world_size):
    waited = lasted = 0.
    for start in range(0, len(costs), world_size):
        step = [float(cost) for cost in costs[start:start + world_size]]
        for cost in step:
            waited += max(step) - cost
        lasted += max(step) * world_size
    return waited / lasted if lasted else 0.


def realistic_costs(num_packs, seed=0):
    """Costs of tokens, squared lengths and SAM2 images, in tokens, of packs like those of a stream."""
    rng = np.random.default_rng(seed)
    lengths, kinds = mixture(num_packs * 14, seed)
    group = np.argsort(kinds + rng.normal(0, 2, len(kinds)), kind='stable')  # packs of different kinds of rows
    lengths = lengths[group].reshape(num_packs, 14)
    images = rng.binomial(8, .25, num_packs)
    return rng.permutation(lengths.sum(1) + (lengths**2).sum(1) / 4000 + 1500 * images)


@pytest.mark.parametrize('world_size', [2, 8, 64])
def test_ranks_wait_far_less_than_in_a_plain_shuffle(world_size):
    costs = realistic_costs(6400)
    order = balanced_order(costs, world_size, seed=0)
    shuffled = imbalance(np.random.default_rng(0).permutation(costs), world_size)
    assert shuffled > 0.08
    assert imbalance(costs[order], world_size) < shuffled / 10
    # Fewer steps in a window balance less; a window of one step does not balance at all.
    some = imbalance(costs[balanced_order(costs, world_size, seed=0, window=8)], world_size)
    assert imbalance(costs[order], world_size) < some < shuffled / 2
    none = imbalance(costs[balanced_order(costs, world_size, seed=0, window=1)], world_size)
    assert none == pytest.approx(shuffled, rel=0.15)


def test_packs_of_the_packer_are_nearly_balanced_from_the_start():
    # Dealt packs have the same mix of rows, so even in a random order ranks wait less than with best fit alone.
    lengths, _ = mixture(20_000)
    row_costs = lengths + lengths**2 / 4000
    packs = pack_arrays(lengths, CAPACITY)
    order = np.argsort(-lengths, kind='stable')
    best_fit_costs = np.bincount(best_fit(lengths[order], np.zeros_like(order), CAPACITY, 0), row_costs[order])
    waits = [
        imbalance(np.random.default_rng(0).permutation(costs)[:1456], 8)
        for costs in (packs.sums(row_costs), best_fit_costs)
    ]
    assert waits[0] < waits[1] / 2
    costs = packs.sums(row_costs)[:1456]
    assert imbalance(costs[balanced_order(costs, 8, seed=0)], 8) < waits[0] / 10


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 12), st.integers(0, 2**63))
def test_every_pack_once_and_the_same_for_the_same_seed(world_size, num_steps, window, seed):
    costs = np.random.default_rng(0).lognormal(0, 1, world_size * num_steps)
    np.random.seed(1)
    order = balanced_order(costs, world_size, seed=seed, window=window)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(costs)))
    np.random.seed(2)
    np.testing.assert_array_equal(order, balanced_order(costs, world_size, seed=seed, window=window))


def test_one_window_has_neighbours_by_cost_in_each_step():
    # All in one window: the steps are the sorted costs in fours, in random order, on random ranks.
    costs = np.random.default_rng(0).permutation(64).astype(float)
    first, second = (costs[balanced_order(costs, 4, seed=seed, window=16)].reshape(16, 4) for seed in (0, 1))
    for steps in (first, second):
        assert {frozenset(step) for step in steps.tolist()} == {frozenset(range(i, i + 4)) for i in range(0, 64, 4)}
        assert (np.diff(steps[:, 0]) < 0).any() and (np.diff(steps[0]) < 0).any()
        # No rank always has the most costly pack, nor do the costs rise over the steps.
        assert len(set(steps.argmax(axis=1).tolist())) == 4
        assert abs(np.corrcoef(steps.mean(axis=1), np.arange(16))[0, 1]) < 0.7
    assert not (first == second).all()


def test_windows_do_not_sort_the_run():
    costs = realistic_costs(6400)
    order = balanced_order(costs, 8, seed=0)
    steps = costs[order].reshape(-1, 8).mean(axis=1)
    quarters = steps.reshape(4, -1).mean(axis=1)
    assert np.ptp(quarters) < 0.05 * costs.mean()
    # Which packs share a step changes with the seed.
    other = balanced_order(costs, 8, seed=1)
    together = [{frozenset(step) for step in o.reshape(-1, 8).tolist()} for o in (order, other)]
    assert not together[0] & together[1]


def test_window_of_one_is_a_plain_shuffle():
    costs = np.arange(800.)
    steps = balanced_order(costs, 8, seed=0, window=1).reshape(-1, 8)
    # A step of 8 draws from 800 spans far more than 8 neighbours.
    assert np.ptp(steps, axis=1).mean() == pytest.approx(800 * 7 / 9, rel=0.05)


def test_a_last_window_that_is_not_full_is_balanced_too():
    costs = np.random.default_rng(0).lognormal(0, 1, 8 * 70)
    order = balanced_order(costs, 8, seed=0, window=64)
    tail = costs[order][8 * 64:]
    shuffled = np.random.default_rng(1).permutation(tail)
    assert imbalance(tail, 8) < imbalance(shuffled, 8) / 1.5


def test_imbalance_by_hand_and_by_loop():
    assert imbalance(np.array([3, 1, 2, 2]), 2) == pytest.approx((3 - 2 + 0) / 5)
    assert imbalance(np.array([4., 0., 0., 0.]), 4) == 0.75
    assert imbalance(np.array([1, 2, 3]), 1) == 0
    assert imbalance(np.zeros(4), 2) == 0
    assert imbalance(np.zeros(0), 2) == 0
    costs = np.random.default_rng(0).random(60)
    for world_size in (1, 2, 3, 5, 60):
        assert imbalance(costs, world_size) == pytest.approx(slow_imbalance(costs, world_size))


# Costs, world_size, window, a pattern of the message.
ERRORS = [
    (np.ones(5), 2, 64, '5 packs cannot be shared by 2 ranks .* split_to_multiple'),
    (np.ones(4), 0, 64, 'world_size is 0'),
    (np.ones(4), 2, 0, 'window is 0'),
    (np.ones((2, 2)), 2, 64, r'shape \(2, 2\)'),
    (np.array([1, -2.]), 2, 64, 'Pack 1 has cost -2'),
    (np.array([np.nan, 1]), 2, 64, 'Pack 0 has cost nan'),
    (np.array([np.inf, 1]), 2, 64, 'Pack 0 has cost inf'),
]


def test_errors():
    for costs, world_size, window, pattern in ERRORS:
        assert_raises(ValueError, pattern, balanced_order, costs, world_size, seed=0, window=window)
        if window:
            assert_raises(ValueError, pattern, imbalance, costs, world_size)
