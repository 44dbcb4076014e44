"""The watchdog of the tests on several ranks, and the faults that it must detect."""
import pytest
from support.distributed.comparison import assert_same_run
from support.distributed.launcher import RankError
from support.distributed.mixtures import one_kind_each
from support.engines import ENGINES, TRAIN_ALL
from support.rows import Maker


@pytest.fixture(scope='module')
def unequal(tmp_path_factory):
    return one_kind_each(Maker(tmp_path_factory.mktemp('images')), ('text', 'masks'), 2)


def test_hang_shows_every_stack(run_rows, unequal):
    with pytest.raises(RankError) as error:
        run_rows(unequal, 2, *TRAIN_ALL, sabotage='endless_rank', silence=15)
    first, second = str(error.value).split('---- rank 1 ----')
    assert 'no output from any rank for 15 s, and 2 of 2 hang' in first
    assert '_draw_for_ever' in first and 'backward' in second


@pytest.mark.parametrize('engine', ['ddp', 'zero3'])
def test_missing_zero_masks_are_seen(engine, run_rows, unequal):
    with pytest.raises(RankError) as error:
        run_rows(unequal, 2, *TRAIN_ALL, *ENGINES[engine], sabotage='no_zero_masks', silence=15)
    assert str(error.value).count('File ') > 10


def test_zero2_needs_more_than_zero_gradients(run_rows, unequal):
    """It adds gradients in the order in which they arrive; a rank with another order would give a wrong sum."""
    reference = run_rows(unequal, 1, *TRAIN_ALL)
    ended = run_rows(unequal, 2, *TRAIN_ALL, *ENGINES['zero2'], sabotage='zero_gradients_alone')
    with pytest.raises(AssertionError, match='grad_norm of step 0'):
        assert_same_run(ended, reference)
