"""Packs as a dataset: every row once, within the budgets; bad rows named or skipped; ranks with nearly equal work."""
import numpy as np
import pytest
from collections import Counter
from support.row_names import bare
from support.rows import Maker, write_jsonl
from types import SimpleNamespace
from unittest.mock import Mock

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.skipped import split_skipped
from swift_citrusv.errors import RowError
from swift_citrusv.training import packed_dataset
from swift_citrusv.training.packed_dataset import BalancedSampler, PackingDataset


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(1024)


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp('packed') / 'images')
    return maker.every_kind() + maker.every_kind()


@pytest.fixture
def measured(rows, template, tmp_path):
    """Makes what ms-swift passes to the packing: rows with their lengths, wrapped."""

    def make(rows=rows):
        from swift.dataset import AutoPreprocessor

        from swift_citrusv.training.jsonl_dataset import load_jsonl
        from swift_citrusv.training.length_pass import LengthPreprocessor
        dataset = load_jsonl(
            write_jsonl(tmp_path / 'train.jsonl', rows), strict=True, cache_dir=str(tmp_path / 'cache'))
        dataset = AutoPreprocessor()(dataset, strict=True, load_from_cache_file=False)
        return SimpleNamespace(dataset=LengthPreprocessor(template)(dataset, strict=True, load_from_cache_file=False))

    return make


def _row_ids(packs: PackingDataset) -> list[list[str]]:
    return [[packs.rows[int(packs.row_of_chunk[i])][ROW_COLUMN] for i in pack] for pack in packs.packs]


def test_every_row_once_within_both_budgets(measured, template, monkeypatch):
    monkeypatch.setenv('CITRUSV_PACK_IMAGES', '4')
    packs = PackingDataset(template, measured(), packing_length=400)
    assert Counter(map(bare, sum(_row_ids(packs), []))) == Counter(f'train.jsonl:{i}' for i in range(1, 25))
    for i in range(len(packs)):
        pack = packs[i]
        tokens = sum(len(row['input_ids']) for row in pack)
        assert tokens <= 400 and tokens == packs.packed_length[i] == packs.workload.tokens[i]
        assert sum(len(row.get('g_pixel_values', ())) for row in pack) == packs.workload.seg_images[i] <= 4
        assert sum(len(row['input_ids'])**2 for row in pack) == packs.workload.squared_lengths[i]
        vision = (template.image_token_id, template.video_token_id)
        assert sum(token in vision for row in pack for token in row['input_ids']) == packs.workload.vision_tokens[i]


@pytest.mark.parametrize('world_size', [2, 5, 24])
def test_all_ranks_get_the_same_number_and_nothing_is_dropped(world_size, measured, template, monkeypatch):
    monkeypatch.setattr(packed_dataset, 'get_dist_setting', lambda: (0, 0, world_size, world_size))
    packs = PackingDataset(template, measured(), packing_length=1024)
    assert len(packs) % world_size == 0
    assert len(sum(_row_ids(packs), [])) == 24


def test_fewer_rows_than_ranks(measured, template, monkeypatch):
    monkeypatch.setattr(packed_dataset, 'get_dist_setting', lambda: (0, 0, 32, 32))
    with pytest.raises(ValueError, match='24.*32'):
        PackingDataset(template, measured(), packing_length=1024)


def test_too_few_rows_to_split(rows, measured, template, monkeypatch, caplog):
    monkeypatch.setattr(packed_dataset, 'get_dist_setting', lambda: (0, 0, 3, 3))
    packs = PackingDataset(template, measured([rows[6]] * 4), packing_length=400)
    assert len(packs) == 4 and 'leaves out 1 of them, others each time' in caplog.text


def test_a_row_that_breaks_after_it_was_measured(rows, measured, template):
    """A truncated JPEG is found only when it is decoded, in the middle of the training."""
    rows = [dict(row) for row in rows[:4]]
    dataset = measured(rows)
    broken = rows[2]['images'][0]
    with open(broken, 'rb') as file:
        whole = file.read()
    try:
        with open(broken, 'wb') as file:
            file.write(whole[:len(whole) // 2])
        strict = PackingDataset(template, dataset, packing_length=1024, strict=True)
        assert len(strict) == 1
        with pytest.raises(RowError, match=r'train.jsonl:3: images\[0\].*cannot be read'):
            strict[0]
        skipping = PackingDataset(template, dataset, packing_length=1024, strict=False)
        kept, errors = split_skipped([skipping[0]])
        assert len(kept) == 3 and [getattr(error, 'kind', None) for error in errors] == ['image-unreadable']
        assert 'train.jsonl:3' in str(errors[0])
    finally:
        with open(broken, 'wb') as file:
            file.write(whole)


def test_a_pack_of_bad_rows_is_empty(rows, measured, template, monkeypatch):
    """No other pack replaces it: its rows would be trained on twice."""
    packs = PackingDataset(template, measured(rows[:12]), packing_length=400, strict=False)
    error = RowError('train.jsonl:3', 'bad.', 'Repair it.')
    monkeypatch.setattr(template, 'encode_chunk', Mock(side_effect=error))
    assert split_skipped([packs[1]]) == ([], [error] * len(packs.packs[1]))


def test_a_dataset_that_was_not_measured(measured, template):
    dataset = measured()
    with pytest.raises(ValueError, match='cached dataset again'):
        PackingDataset(
            template, SimpleNamespace(dataset=dataset.dataset.remove_columns('citrusv_chunks')), packing_length=1024)


# ---- the order of the packs


def _sampler(rank: int, world_size: int, costs: np.ndarray, **kwargs) -> BalancedSampler:
    """The sampler of one rank, without a process group."""
    arguments = {'batch_size': 1, 'shuffle': True, 'drop_last': False, 'data_seed': 5, **kwargs}
    cls = type('Rank', (BalancedSampler, ), {'rank': rank, 'world_size': world_size})
    return cls(len(costs), costs=costs, **arguments)


def test_ranks_share_the_packs_and_the_work():
    costs = np.random.default_rng(0).gamma(3, 1, 512)
    samplers = [_sampler(rank, 4, costs) for rank in range(4)]
    orders = [[index for (index, ) in sampler] for sampler in samplers]
    assert sorted(sum(orders, [])) == list(range(512)) and len(samplers[0]) == len(orders[0]) == 128
    steps = costs[np.array(orders)]  # [rank, step]
    waiting = 1 - steps.mean() / steps.max(axis=0).mean()
    assert waiting < .03
    samplers[0].set_epoch(1)
    assert orders[0] != [index for (index, ) in samplers[0]]
    assert 'ranks wait' in samplers[0].report()


def test_one_rank_or_no_shuffle_keeps_the_order_of_ms_swift():
    from swift.dataloader import BatchSamplerShard
    costs = np.arange(10.)
    plain = BatchSamplerShard(10, batch_size=2, shuffle=True, drop_last=False, data_seed=5)
    assert list(_sampler(0, 1, costs, batch_size=2)) == list(plain)
    assert list(_sampler(1, 2, costs, shuffle=False)) == [[1], [3], [5], [7], [9]]


@pytest.mark.parametrize('drop_last, num_batches', [(True, 2), (False, 3)])
def test_batches_of_several_packs(drop_last, num_batches):
    sampler = _sampler(0, 2, np.ones(10), batch_size=2, drop_last=drop_last)
    assert len(list(sampler)) == len(sampler) == num_batches
