"""Reasoning and the order of citations."""
import itertools
import numpy as np
import pytest
from scipy.stats import kendalltau

from swift_citrusv.scoring.boxes.reasoning import order_correlation, reasoning_text


def test_reasoning_text():
    assert reasoning_text('<think>a</think><answer>b</answer>') == 'a' == reasoning_text('a</think><answer>b</answer>')
    assert reasoning_text('a<answer>b</answer>') == 'a' == reasoning_text('x <think>a')


def test_kendalls_tau():
    """All orders of four names, by counting pairs."""
    names = 'abcd'
    for given in itertools.permutations(names):
        signs = [1 if given.index(one) < given.index(two) else -1 for one, two in itertools.combinations(names, 2)]
        assert order_correlation(names, given) == pytest.approx(sum(signs) / len(signs))
    assert order_correlation('abcdef', 'xdby') == -1 and order_correlation('abc', 'xcyaz') == -1
    assert np.isnan(order_correlation('abc', 'c')) and np.isnan(order_correlation('', ''))
    generator = np.random.default_rng(0)
    for _ in range(20):
        places = generator.permutation(9)
        wanted = kendalltau(np.arange(9), np.argsort(places)).statistic
        assert order_correlation([str(i) for i in range(9)], [str(i) for i in places]) == pytest.approx(wanted)
