"""Two ranks with rows of any two kinds: they never deadlock, and the result is that of one rank."""
import functools
import pytest
from support.distributed.comparison import assert_same_run
from support.distributed.launcher import Ended
from support.distributed.mixtures import KINDS, all_pairs
from support.distributed.precision import PRECISIONS
from support.engines import CHECKPOINTING, ENGINES, FSDP2_CHECKPOINTED, TRAIN_ALL
from support.rows import Maker

# For what is slow on a CPU: a step of ZeRO-3 or FSDP2 takes ten times as long as one of DDP.
FEW_KINDS = ('image', 'masks', 'silent')


@pytest.fixture(scope='module')
def references(run_rows, tmp_path_factory):
    """kinds -> rows with all their pairs, and the run of one rank."""

    @functools.cache
    def reference(kinds: tuple[str, ...]) -> tuple[list, Ended]:
        rows = all_pairs(Maker(tmp_path_factory.mktemp('images')), kinds)
        return rows, run_rows(rows, 1, *TRAIN_ALL, *CHECKPOINTING['plain'])

    return reference


@pytest.mark.parametrize(
    'checkpointing',
    [pytest.param(name, marks=pytest.mark.slow if name == 'checkpointed' else ()) for name in CHECKPOINTING])
@pytest.mark.parametrize('engine', ENGINES)
def test_every_kind_of_row_beside_every_other(engine, checkpointing, run_rows, references):
    arguments = [*ENGINES[engine], *CHECKPOINTING[checkpointing]]
    if engine == 'fsdp2' and checkpointing == 'checkpointed':
        arguments = FSDP2_CHECKPOINTED
    kinds = KINDS if engine in ('ddp', 'zero2') and checkpointing == 'plain' else FEW_KINDS
    rows, reference = references(kinds)
    assert len(reference.steps) == len(kinds)**2
    # At the last step no rank has a target.
    assert reference.steps[-1]['loss'] == 0
    assert_same_run(run_rows(rows, 2, *TRAIN_ALL, *arguments), reference)


def test_two_ranks_in_float64(run_rows, tmp_path):
    """The differences that float32 leaves are rounding."""
    rows = all_pairs(Maker(tmp_path / 'images'), FEW_KINDS)
    precision = PRECISIONS['float64']
    one, two = (run_rows(rows, num_ranks, *TRAIN_ALL, sabotage=precision.sabotage) for num_ranks in (1, 2))
    assert_same_run(two, one, precision.rel)
