"""Rows that fail during training leave their batch: dataset and batches, two ranks, and ms-swift's own dataset."""
import json
import pytest
from support.closeness import assert_same_update
from support.distributed.launcher import Launcher
from support.distributed.precision import PRECISIONS
from support.faults import Fault, Faults, write_lines

from swift_citrusv.constants import IGNORE_INDEX, SKIPPED_KEY
from swift_citrusv.encoding.skipped import split_skipped
from swift_citrusv.errors import RowError
from swift_citrusv.training.skipping import SkippingDataset


@pytest.fixture(scope='module')
def maker(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp('faults') / 'files')


@pytest.fixture(scope='module')
def fault(maker) -> Fault:
    return next(fault for fault in maker.bad() if fault.name == 'JPEG cut short')


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(1024)


def test_dataset_and_batches(fault, maker, template):
    rows = [*maker.good(2), fault.row]
    dataset = SkippingDataset(rows, template)
    first, second, third = (dataset[i] for i in range(len(dataset)))
    error = third[SKIPPED_KEY]
    assert isinstance(error, RowError) and error.kind == 'image-unreadable'
    batch = template.data_collator([first, third, second])
    assert batch[SKIPPED_KEY] == [error] and len(batch['input_ids']) == 2
    whole = template.data_collator([dataset[0], dataset[1]])
    assert SKIPPED_KEY not in whole and (batch['labels'] == whole['labels']).all()
    empty = template.data_collator([third])
    assert empty[SKIPPED_KEY] == [error]
    assert (empty['labels'] == IGNORE_INDEX).all() and empty['masks'].shape[:2] == (1, 0)


def test_split_skipped():
    row, error, other = {'input_ids': [1]}, ValueError('a'), ValueError('b')
    assert split_skipped([]) == ([], [])
    assert split_skipped([row, [row, {SKIPPED_KEY: error}], {SKIPPED_KEY: other}]) == ([row, row], [error, other])


def test_ms_swift_trains_on_another_row_twice(fault, maker, template):
    """Why its dataset is replaced."""
    from swift.dataset.utils import LazyLLMDataset
    rows = [*maker.good(2), fault.row]
    stock = LazyLLMDataset(rows, template.encode, strict=False, random_state=0)
    good = [stock[i]['input_ids'] for i in range(2)]
    assert stock[2]['input_ids'] in good


@pytest.fixture(scope='module')
def launcher(tmp_path_factory):
    return Launcher(tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_rank_that_has_bad_rows_alone(precision, fault, maker, launcher, tiny_checkpoint, tmp_path):
    """No rank waits for it, and the other trains as if it were alone; the last step has no good row on any rank."""
    good = maker.good(5)[2:]
    lines = {
        'bad.jsonl': [row for pair in zip(good, [fault.row] * 3) for row in pair] + [fault.row] * 2,
        'clean.jsonl': good
    }
    arguments = ('--model', tiny_checkpoint, '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner',
                 'false', '--optim', 'sgd', '--weight_decay', '0', '--learning_rate', '0.01',
                 '--gradient_accumulation_steps', '1')
    ended = []
    for name, world_size in (('bad.jsonl', 2), ('clean.jsonl', 1)):
        file = write_lines(tmp_path / name, [json.dumps(row).encode() for row in lines[name]])
        strict = str(name == 'clean.jsonl').lower()
        ended.append(
            launcher.run(
                world_size, [*arguments, '--dataset', file, '--strict', strict],
                sabotage=PRECISIONS[precision].sabotage))
    two, one = ended
    assert two.digests[0] == two.digests[1]
    losses, expected = ([log['loss'] for log in end.logs[0] if 'loss' in log] for end in (two, one))
    assert losses == pytest.approx([*expected, 0.], rel=PRECISIONS[precision].rel) and len(expected) == 3
    # In float32 the last bit of a weight may decide from the second step on which of two nearly equal values SAM2's max
    # pooling takes. The gradient of its position embedding moves from one position to another then: by 2e-5 at most.
    assert_same_update(two.weights, one.weights, one.start, {'float32': 1e-4, 'float64': 1e-12}[precision])
    assert 'epoch 1: 5 rows were skipped (image-unreadable: 5)' in two.text
    # One of the five was on rank 0.
    assert two.text.count('skipped on rank 1: bad.jsonl:') == 4
