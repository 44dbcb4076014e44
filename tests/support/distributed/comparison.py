"""Compares a run of several ranks with one of a single rank."""
import pytest
from support.closeness import assert_same_update, differences
from support.distributed.launcher import Ended

LOGGED = ('loss', 'loss_token', 'loss_dice', 'loss_bce', 'num_masks', 'grad_norm')


def assert_same_run(ended: Ended, reference: Ended, rel: float = 1e-5) -> None:
    """The same logs, relative to their size, and the same weights, relative to the largest change of their part."""
    assert len(set(ended.digests)) == 1, 'the ranks end with different weights'
    assert len(ended.steps) == len(reference.steps) > 0
    for step, (log, expected) in enumerate(zip(ended.steps, reference.steps)):
        assert log.keys() == expected.keys()
        for key in LOGGED:
            # A step without masks has no mask loss.
            if key in expected:
                assert log[key] == pytest.approx(expected[key], rel=rel), f'{key} of step {step}'
    assert all(one.scale > 1e-4 for one in differences(ended.weights, reference.weights, reference.start))
    assert_same_update(ended.weights, reference.weights, reference.start, rel)
