"""Rows that fail during training leave their batch: dataset and batches, two ranks, and ms-swift's own dataset."""
import json
import pytest
import re
from support.closeness import assert_same_update
from support.distributed.launcher import Launcher
from support.distributed.precision import PRECISIONS
from support.faults import Fault, Faults, write_lines
from support.swift_run import run_sft

from swift_citrusv.constants import IGNORE_INDEX, SKIPPED_KEY
from swift_citrusv.encoding.skipped import split_skipped
from swift_citrusv.errors import RowError
from swift_citrusv.rows.skips import every_skip
from swift_citrusv.training.jsonl_dataset import scan_rows
from swift_citrusv.training.skipping import SkippingDataset, check_usable
from swift_citrusv.training.stream_jsonl import stream_jsonl


@pytest.fixture(scope='module')
def maker(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp('faults') / 'files')


@pytest.fixture(scope='module')
def faults(maker) -> dict[str, Fault]:
    return {fault.name: fault for fault in maker.bad()}


@pytest.fixture(scope='module')
def fault(faults) -> Fault:
    return faults['JPEG cut short']


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
    assert len(re.findall(r'skipped on rank 1: \S*bad\.jsonl:', two.text)) == 4


# flags -> how the rows are read
READERS = {
    'row by row': '',
    'with workers': '--dataloader_num_workers 2',
    'lengths first': '--lazy_tokenize false',
    'packs': '--packing true --gradient_accumulation_steps 1',
    'stream': '--streaming true --max_steps 2',
    'stream of packs': '--streaming true --max_steps 2 --packing true --gradient_accumulation_steps 1',
}


@pytest.mark.parametrize('reader', READERS)
def test_no_row_is_left(reader, maker, faults, tiny_checkpoint, tmp_path):
    """The run stops before the first step, in training and evaluation: how many, why, and what to do."""
    good = write_lines(tmp_path / 'good.jsonl', [json.dumps(row).encode() for row in maker.good(2)])
    rows = [faults[name].row for name in ('JPEG cut short', 'PNG cut short', 'missing image')]
    bad = write_lines(tmp_path / 'bad.jsonl', [json.dumps(row).encode() for row in rows])
    # Only decoding the pixels shows a file that is cut short.
    num_bad = 2 if reader in ('lengths first', 'packs') else 3
    for what, files in (('training', [bad]), ('evaluation', [good, '--val_dataset', bad, '--eval_strategy', 'epoch'])):
        with pytest.raises(RowError, match=f'all {num_bad} were skipped under --strict false') as error:
            run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--output_dir', str(tmp_path / 'out'),
                    '--num_train_epochs', '1', '--strict', 'false', *READERS[reader].split(), '--dataset', *files)
        text = str(error.value)
        assert text.startswith((f'{what} dataset: ', 'dataset: ')) and text.count('bad.jsonl:') == num_bad, text
        assert 'citrusv check-data' in text


def test_no_line_is_left(tmp_path):
    bad = write_lines(tmp_path / 'bad.jsonl', [b'{', b'[]'] * 3)
    for read in (lambda: scan_rows([bad], strict=False), lambda: stream_jsonl(bad, strict=False)):
        with pytest.raises(RowError, match=r'bad.jsonl: no row is left: all 6 .*not-json') as error:
            read()
        assert str(error.value).count('bad.jsonl:') == 4
    empty = write_lines(tmp_path / 'empty.jsonl', [])
    for read in (lambda: scan_rows([empty], strict=True), lambda: stream_jsonl(empty, strict=False)):
        with pytest.raises(RowError, match='empty.jsonl: the file has no row'):
            read()


def test_a_good_row_behind_bad_ones(fault, maker, template):
    """It is found, and nothing is logged or counted twice."""
    with every_skip() as skips:
        check_usable(SkippingDataset([fault.row] * 3 + maker.good(1), template), 'training dataset')
    assert not skips.counts
