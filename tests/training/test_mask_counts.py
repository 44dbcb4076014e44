"""Rows and masks are counted right before training, in every kind of dataset, without opening an image or a mask."""
import datasets as hf_datasets
import json
import numpy as np
import pytest
from contextlib import contextmanager
from pathlib import Path
from PIL import Image
from support.measured_rows import load
from support.rows import Maker, write_jsonl
from swift.dataset.utils import LazyLLMDataset
from types import SimpleNamespace

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.training import mask_counts
from swift_citrusv.training.length_pass import measure_dataset
from swift_citrusv.training.mask_counts import (MaskCounts, StreamedMasks, count_masks, count_rows, count_supervised,
                                                find_first_mask)
from swift_citrusv.training.packed_dataset import PackingDataset
from swift_citrusv.training.skipping import SkippingDataset
from swift_citrusv.training.stream_jsonl import reading_skips, stream_jsonl
from swift_citrusv.training.stream_packs import StreamEncode, StreamPackingDataset


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """Rows in random order: of every kind, and 100 with none to six masks."""
    maker = Maker(tmp_path_factory.mktemp('counts') / 'images')
    image, rng = maker.image(), np.random.default_rng(0)

    def polygons(number):
        answer = ' '.join(['[SEG]'] * number) or 'Nothing.'
        return maker.row('<image>Segment.', answer, images=[image], masks=[[[0, 0, 9, 0, 9, 9]]] * number)

    both = [*maker.every_kind(), *map(polygons, rng.integers(0, 7, 100).tolist())]
    return [both[i] for i in rng.permutation(len(both))]


@pytest.fixture(scope='module')
def dataset(rows, tmp_path_factory):
    return load(tmp_path_factory.mktemp('loaded'), rows)


@contextmanager
def no_image_opened():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, 'open', lambda *args, **kwargs: pytest.fail('an image was opened'))
        yield


def _expected(rows) -> MaskCounts:
    numbers = [len(row.get('masks') or ()) for row in rows]
    return MaskCounts(len(rows), sum(number > 0 for number in numbers), sum(numbers))


def _named(rows, dataset):
    """The rows of the file that a dataset consists of, by their names."""
    return [rows[int(name.rpartition(':')[2]) - 1] for name in dataset[ROW_COLUMN]]


def test_counts_are_those_of_the_file(rows, dataset):
    rng = np.random.default_rng(1)
    twice = hf_datasets.concatenate_datasets([dataset, dataset.select(range(20))])
    for name, part in {
            'as read': dataset,
            'shuffled': dataset.shuffle(seed=3),
            'a selection, some rows more than once': dataset.select(rng.integers(0, len(dataset), 300).tolist()),
            'joined': twice,
            'joined and shuffled': twice.shuffle(seed=4),
            'one row': dataset.select([5]),
            'empty': dataset.select([]),
            'filtered': dataset.filter(lambda row: len(row['messages']) > 2)
    }.items():
        assert count_rows(part) == _expected(_named(rows, part)), name
    assert count_rows(dataset).with_masks > 80 and count_rows(dataset).has_masks


def test_other_layouts_of_the_column():
    """Lists, as other readers store them; a column without a value; and no column."""
    masks = [[{'path': 'a.png'}], [], None, [{'path': 'b.png'}, {'path': 'c.png'}]]
    number = list(range(4))
    for name, column, counts in (
        ('lists', masks, (2, 3)),
        ('JSON text', [None if value is None else json.dumps(value) for value in masks], (2, 3)),
        ('JSON text with spaces for no mask', ['[       ]', '[]', 'null', ' [[[0,0,9,0,9,9]]] '], (1, 1)),
        ('no value', [None] * 4, (0, 0)),
    ):
        dataset = hf_datasets.Dataset.from_dict({'number': number, 'masks': column})
        assert count_rows(dataset) == MaskCounts(4, *counts), name
    assert count_rows(hf_datasets.Dataset.from_dict({'number': number})) == MaskCounts(4)


def test_the_masks_of_very_many_rows_are_estimated(rows, dataset, monkeypatch):
    monkeypatch.setattr(mask_counts, '_MAX_PARSED', 50)
    exact, estimate = _expected(rows), count_rows(dataset)
    assert (estimate.rows, estimate.with_masks) == (exact.rows, exact.with_masks)
    assert not estimate.is_exact and 0.8 < estimate.masks / exact.masks < 1.25
    assert 'about' in str(estimate) and 'about' not in str(exact)


def test_what_the_trainer_gets(rows, dataset, template, tmp_path):
    """Packs, lazy datasets with and without skipped rows, plain rows."""
    expected = _expected(rows)
    measured = measure_dataset(template, dataset, strict=True)
    lazy = LazyLLMDataset(dataset, template.encode, strict=True)
    packed = PackingDataset(template, SimpleNamespace(dataset=measured), packing_length=2048)
    for name, given in {'packed': packed, 'lazy': lazy, 'skipping': SkippingDataset(dataset, template),
                        'rows': dataset}.items():  # yapf: disable
        with no_image_opened():
            assert count_masks(given) == expected, name
    assert str(count_masks(object())) == 'rows not counted' and count_masks(object()).has_masks is None


def test_streams(rows, template, tmp_path):
    first = next(i for i, row in enumerate(rows) if row.get('masks')) + 1
    text = [Maker(tmp_path / 'no').row(f'Is bone {i} hard?', 'Yes.') for i in range(7)]
    late = write_jsonl(tmp_path / 'late.jsonl', [*text, *rows])
    stream = stream_jsonl(late, strict=True)
    found = StreamedMasks(len(text) + first, f'{tmp_path.name}/late.jsonl:{len(text) + first}', False)
    for name, given in {
            'rows': stream,
            'packed': StreamPackingDataset(template, stream, packing_length=2048),
            'not packed': StreamEncode(template=template)(stream, strict=True, load_from_cache_file=False)
    }.items():
        with no_image_opened():
            assert count_masks(given) == found and found.has_masks, name
    # The stream is read from its beginning afterwards.
    assert next(iter(stream))[ROW_COLUMN] == f'{tmp_path.name}/late.jsonl:1'
    none = stream_jsonl(write_jsonl(tmp_path / 'none.jsonl', text), strict=True)
    assert find_first_mask(none) == StreamedMasks(len(text), None, True)
    assert find_first_mask(none).has_masks is False
    for limits in ({'max_rows': 2}, {'max_seconds': 0.}):
        assert find_first_mask(stream, **limits).has_masks is None, limits


def test_bad_rows_of_a_stream_are_counted_once(rows, tmp_path):
    bad = [{'messages': 'none'}, {'messages': []}]
    stream = stream_jsonl(write_jsonl(tmp_path / 'bad.jsonl', [rows[0], *bad, *rows]), strict=False)
    before = dict(reading_skips.counts)
    find_first_mask(stream, max_rows=100)
    assert dict(reading_skips.counts) == before


def test_rows_whose_masks_train(make_template, template, tmp_path):
    """By the loss of their turns; the images are not decoded."""
    maker = Maker(tmp_path / 'images')

    def row(*answers, **keys):
        turns = [text for answer in answers for text in ('<image>Segment.' if '[SEG]' in answer else 'Why?', answer)]
        number = sum('[SEG]' in answer for answer in answers)
        made = maker.row(
            *turns,
            images=[maker.image() for _ in range(number)],
            masks=[maker.mask()] * number,
            mask_images=[*range(number)])
        made['messages'][1].update(keys)
        return made

    rows = [row('[SEG]', 'So.'), row('[SEG]'), row('[SEG]', loss=False), row('No.'), row('[SEG]', '[SEG]', loss=False)]
    dataset = load(tmp_path, rows)
    last = make_template(loss_scale='last_round')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, 'convert', lambda *args, **kwargs: pytest.fail('an image was decoded'))
        assert count_supervised(dataset, template) == (3, 4)
        assert count_supervised(dataset, last) == (2, 4)
        assert count_supervised(dataset.select([3]), template) is None
        assert count_supervised(dataset.select([2, 3]), template) == (0, 1)
        assert count_supervised(dataset, template, limit=2) == (2, 2)
        # Unreadable rows are left to the run.
        Path(rows[0]['images'][0]).unlink()
        assert count_supervised(dataset, template) == (2, 3)
    assert count_supervised(stream_jsonl(write_jsonl(tmp_path / 'rows.jsonl', rows), strict=True), template) is None
