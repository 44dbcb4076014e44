"""Packs of a stream: every row once per pass, on any number of ranks and workers; bounded memory; exact resume."""
import multiprocessing
import operator
import pytest
import re
import threading
import torch
from collections import Counter
from functools import partial
from itertools import chain
from PIL import ImageFile
from support.rows import Maker, write_jsonl

from swift_citrusv.constants import IGNORE_INDEX
from swift_citrusv.errors import RowError


@pytest.fixture(scope='module')
def template(make_template):
    from swift_citrusv.plugin.streaming import patch_reading
    patch_reading()
    return make_template(512)


@pytest.fixture(scope='module')
def path(tmp_path_factory) -> str:
    """60 rows of text with their numbers, one in six with an image and a mask."""
    folder = tmp_path_factory.mktemp('stream')
    maker = Maker(folder / 'images')
    rows = []
    for i in range(60):
        if i % 6 == 2:
            rows.append(maker.row(f'<image>Row {i}?', 'The cell: [SEG].', images=[maker.image()], masks=[maker.mask()]))
        else:
            rows.append(maker.row(f'Row {i}?', 'Yes.' + i % 7 * ' And more of the same.'))
    return write_jsonl(folder / 'train.jsonl', rows)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    from swift_citrusv.training import stream_jsonl
    monkeypatch.setattr('swift_citrusv.rows.shards._SHARD_BYTES', 100)
    monkeypatch.setattr(stream_jsonl, '_SHARDS_PER_READER', 12)
    monkeypatch.setenv('CITRUSV_PACK_BUFFER', '10')
    monkeypatch.setenv('CITRUSV_PACK_IMAGES', '2')


@pytest.fixture
def packs(template, path):
    """Makes a stream of packs."""
    from swift.dataset import load_dataset

    from swift_citrusv.training.stream_packs import StreamPackingDataset

    def make(path: str = path, shuffle: bool = True, strict: bool = True, **kwargs):
        stream, _ = load_dataset(path, streaming=True, strict=strict, shuffle=shuffle, shuffle_buffer_size=20)
        return StreamPackingDataset(template, stream, strict=strict, packing_length=200, **kwargs)

    return make


def numbers(template, batch) -> list[int]:
    """The rows of a batch by the numbers in their text; none where it has no supervision."""
    if (batch['labels'] == IGNORE_INDEX).all():
        assert not batch['masks'].numel() and not batch['g_pixel_values'].numel()
        return []
    return [int(number) for number in re.findall(r'Row (\d+)', template.tokenizer.decode(batch['input_ids'][0]))]


class Ranks:
    """Loaders of several ranks, each in a thread of this process."""

    def __init__(self, make, world_size: int) -> None:
        from swift_citrusv.training.stream_dataloader import PackedStreamLoader
        self.world_size = world_size
        self.flags = [False] * world_size
        self.barrier = threading.Barrier(world_size, timeout=60)
        ranks = self

        class Rank(PackedStreamLoader):
            world_size = property(lambda self: ranks.world_size)
            rank = property(lambda self: self.my_rank)

            def _any_rank(self, has_more):
                ranks.flags[self.rank] = has_more
                ranks.barrier.wait()
                any_rank = any(ranks.flags)
                ranks.barrier.wait()
                return any_rank

            def _report(self, index, counts):
                self.counts = [*getattr(self, 'counts', []), counts]

        self.loaders = []
        for rank in range(world_size):
            loader = make(Rank)
            loader.my_rank = rank
            self.loaders.append(loader)

    def passes(self, count: int, skip: int = 0) -> list[list[list[dict]]]:
        """The batches of each pass for each rank, read as Transformers' Trainer reads them."""
        results: list = [None] * self.world_size

        def run(rank: int) -> None:
            loader = self.loaders[rank]
            loader.skip_batches = skip
            try:
                results[rank] = []
                for epoch in range(count):
                    loader.set_epoch(epoch)
                    results[rank].append(list(loader))
            except BaseException as e:
                results[rank] = e
                self.barrier.abort()

        threads = [threading.Thread(target=run, args=(rank, )) for rank in range(self.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
                raise result
        return results


@pytest.fixture
def ranks(packs, template):

    def make(world_size: int = 1, num_workers: int = 0, dataset=None, batch_size: int = 1, **kwargs) -> Ranks:
        from swift_citrusv.training.stream_packs import StreamWorkerDataset
        dataset = packs() if dataset is None else dataset
        source = StreamWorkerDataset(dataset, partial(template.data_collator, padding_to=None), batch_size)
        return Ranks(lambda cls: cls(source, num_workers=num_workers, **kwargs), world_size)

    return make


@pytest.mark.parametrize('world_size, num_workers, multiple', [(1, 0, 1), (1, 3, 1), (2, 0, 1), (3, 0, 4), (5, 0, 2)])
def test_every_row_once_per_pass(world_size, num_workers, multiple, ranks, template):
    group = ranks(world_size, num_workers, multiple=multiple)
    result = group.passes(2)
    orders = []
    for index in range(2):
        seen = [[numbers(template, batch) for batch in rank[index]] for rank in result]
        assert sorted(sum(sum(seen, []), [])) == list(range(60))
        lengths = {len(batches) for batches in seen}
        assert len(lengths) == 1 and lengths.pop() % multiple == 0
        # No batch is without supervision on all ranks, except those that fill up the last step.
        real = [any(step) for step in zip(*seen)]
        assert all(real[:len(real) - multiple + 1])
        orders.append(seen)
    assert orders[0] != orders[1]
    counts = [loader.counts for loader in group.loaders]
    assert [sum(of_rank[index].num_rows for of_rank in counts) for index in range(2)] == [60, 60]


def test_budgets_and_batches_of_several_packs(packs, ranks, template):
    for pack in packs():
        assert sum(row['length'] for row in pack) <= 200
        assert sum(len(row.get('g_pixel_values', ())) for row in pack) <= 2
    singles = [numbers(template, batch) for batch in ranks().passes(1)[0][0]]
    pairs = [numbers(template, batch) for batch in ranks(batch_size=2).passes(1)[0][0]]
    assert pairs == [sum(singles[i:i + 2], []) for i in range(0, len(singles), 2)]


@pytest.mark.parametrize('world_size, num_workers', [(1, 0), (1, 3), (3, 0)])
def test_resumed_run_continues_exactly(world_size, num_workers, ranks, template):
    """From the first pass, its end, and a later one; the batches that follow are equal bit by bit."""
    whole = ranks(world_size, num_workers, multiple=2).passes(3)
    per_pass = len(whole[0][0])
    in_later_pass, in_last_pass = per_pass + 3, per_pass + len(whole[0][1]) + 2
    # How many passes are read after the skipped batches: the rest of one, and where it is two, the whole next one.
    cases = ((in_later_pass, 2), (in_last_pass, 1))
    for skip, num_passes in cases if num_workers else ((2, 1), (per_pass - 1, 2), (per_pass, 1), *cases):
        resumed = ranks(world_size, num_workers, multiple=2).passes(num_passes, skip=skip)
        for before, after in zip(whole, resumed):
            wanted, found = list(chain(*before))[skip:], list(chain(*after))
            assert found
            for batch, other in zip(wanted, found):
                assert batch.keys() == other.keys()
                for key, value in batch.items():
                    same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
                    assert same(other[key], value), key


def test_skipping_decodes_no_pixel(ranks, monkeypatch):
    num_loads: Counter[str] = Counter()
    load = ImageFile.ImageFile.load

    def counted(self):
        num_loads['all'] += 1
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, 'load', counted)
    batches = ranks().passes(1)[0][0]
    whole = num_loads['all']
    assert whole >= 10
    num_loads.clear()
    assert len(ranks().passes(1, skip=len(batches) - 1)[0][0]) == 1
    assert num_loads['all'] < whole / 2


def test_at_most_one_pack_of_pixels(packs, template, monkeypatch):
    """The look-ahead buffer holds no encoded row."""
    num_encoded, ahead = 0, []
    encode_chunk = type(template).encode_chunk

    def counted(self, row, chunk):
        nonlocal num_encoded
        num_encoded += 1
        return encode_chunk(self, row, chunk)

    monkeypatch.setattr(type(template), 'encode_chunk', counted)
    num_given = 0
    for pack in packs():
        num_given += len(pack)
        ahead.append(num_encoded - num_given)
    assert num_given == 60 and set(ahead) == {0}


def test_rank_without_rows_and_rank_with_few(packs, ranks, template, tmp_path):
    maker = Maker(tmp_path / 'images')
    rows = [maker.row(f'Row {i}?', 'Yes.' + 9 * ' And more of the same.') for i in range(3)]
    dataset = packs(write_jsonl(tmp_path / 'few.jsonl', rows), shuffle=False)
    seen = [[numbers(template, batch) for batch in rank[0]] for rank in ranks(5, dataset=dataset, multiple=2).passes(1)]
    assert seen == [[[0], []], [[1], []], [[2], []], [[], []], [[], []]]


def test_reading_the_first_pack_consumes_nothing(packs, ranks, template):
    dataset = packs()
    first = next(iter(dataset))
    assert next(iter(dataset))[0]['input_ids'] == first[0]['input_ids']
    assert not multiprocessing.active_children()
    seen = [numbers(template, batch) for batch in ranks(dataset=dataset).passes(1)[0][0]]
    assert sorted(sum(seen, [])) == list(range(60))


# ---- bad rows


def _with_bad_rows(tmp_path) -> str:
    """Rows 0 to 19; row 3 is too long, 7 has a broken mask, 8 a broken image, 11 no file."""
    maker = Maker(tmp_path / 'images')
    image, mask = maker.image(), maker.mask()
    rows = [maker.row(f'Row {i}?', 'Yes.') for i in range(20)]
    rows[3] = maker.row('Row 3?', 400 * 'Yes.')
    rows[7] = maker.row('<image>Row 7?', 'Cell: [SEG].', images=[image], masks=[{**mask, 'counts': 'nY3i0k1'}])
    broken = tmp_path / 'images' / 'broken.png'
    broken.write_bytes(open(image, 'rb').read()[:-400])
    rows[8] = maker.row('<image>Row 8?', 'Cell: [SEG].', images=[str(broken)], masks=[mask])
    rows[11] = maker.row('<image>Row 11?', 'Cell.', images=['nowhere.png'])
    return write_jsonl(tmp_path / 'bad.jsonl', rows)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_not_strict_bad_rows_are_skipped_and_counted(num_workers, packs, ranks, template, tmp_path):
    dataset = packs(_with_bad_rows(tmp_path), strict=False)
    group = ranks(1, num_workers, dataset=dataset)
    for batches in group.passes(2)[0]:
        assert sorted(sum((numbers(template, batch) for batch in batches), [])) == sorted({*range(20)} - {3, 7, 8, 11})
    for counts in group.loaders[0].counts:
        assert counts.num_rows == 20 and counts.skipped.total() == 4
        assert counts.skipped['MaxLengthError'] == 1 and counts.skipped['image-unreadable'] == 2


@pytest.mark.parametrize('number, word', [(4, 'Use --max_length'), (8, 'masks'), (9, 'broken.png'),
                                          (12, 'nowhere.png')])
def test_strict_bad_row_is_named(number, word, packs, tmp_path):
    path = _with_bad_rows(tmp_path)
    lines = open(path).read().splitlines()
    lines = [line if i in (0, number - 1) else '' for i, line in enumerate(lines)]
    open(path, 'w').write('\n'.join(lines))
    with pytest.raises(ValueError, match=rf'bad.jsonl:{number}: .*{word}'):
        list(packs(path))


def test_pack_of_bad_rows_keeps_its_place(packs, ranks, template, tmp_path):
    """Otherwise a resumed run, which does not encode what it skips, would continue elsewhere."""
    maker = Maker(tmp_path / 'images')
    rows = [maker.row(f'Row {i}?', 'Yes.' + 9 * ' And more of the same.') for i in range(4)]
    broken = tmp_path / 'images' / 'broken.png'
    broken.write_bytes(open(maker.image(), 'rb').read()[:-400])
    rows[1] = maker.row('<image>Row 1?', 'Yes.' + 9 * ' And more of the same.', images=[str(broken)])
    dataset = packs(write_jsonl(tmp_path / 'a.jsonl', rows), shuffle=False, strict=False)
    seen = [numbers(template, batch) for batch in ranks(dataset=dataset).passes(1)[0][0]]
    assert sorted(seen) == [[], [0], [2], [3]]
    for skip in range(4):
        resumed = ranks(dataset=dataset).passes(1, skip=skip)[0][0]
        assert [numbers(template, batch) for batch in resumed] == seen[skip:]


def test_rows_over_a_budget_are_named(template, packs, tmp_path, monkeypatch):
    maker = Maker(tmp_path / 'images')
    long = write_jsonl(tmp_path / 'long.jsonl', [maker.row('Row 0?', 60 * 'Yes and more.')])
    with pytest.raises(RowError, match=r'long.jsonl:1: its \d+ tokens do not fit into a pack of 200'):
        list(packs(long))
    row = maker.every_kind()[4]
    monkeypatch.setenv('CITRUSV_PACK_IMAGES', '1')
    with pytest.raises(RowError, match='images.jsonl:1: its 2 segmentation images .* pack of 1. Raise pack_images'):
        list(packs(write_jsonl(tmp_path / 'images.jsonl', [row])))
    with pytest.raises(ValueError, match='packing_strategy sequential'):
        packs(packing_strategy='sequential')


def test_no_usable_row(packs, ranks, tmp_path):
    path = write_jsonl(tmp_path / 'a.jsonl', [Maker.row(None, 'Row 0?', 400 * 'Yes.')])
    with pytest.raises(ValueError, match='no row that can be used'):
        ranks(dataset=packs(path, strict=False)).passes(1)


def test_spawned_worker(packs, ranks, template):
    """All that a worker needs can be pickled, and it applies the patches itself."""
    batches = ranks(1, 1, multiprocessing_context='spawn').passes(1)[0][0]
    assert sorted(sum((numbers(template, batch) for batch in batches), [])) == list(range(60))
