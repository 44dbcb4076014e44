"""`citrusv pack-report`, compared with the full encoding of every row and with slow loops."""
import json
import numpy as np
import pytest
import shutil
from collections import Counter
from pathlib import Path
from PIL import Image
from support.row_names import bare
from support.rows import Maker, write_jsonl
from typing import Any

from swift_citrusv.cli.encoder import TrainingEncoder, checking_environment
from swift_citrusv.cli.main import main
from swift_citrusv.cli.pack_plan import PackingPlan, batch_table, cost_model, suggest_packing_length
from swift_citrusv.cli.pack_report import shown_capacities
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.packing.packs import lower_bound, pack_best_fit


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('MODELSCOPE_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> list[dict[str, Any]]:
    maker = Maker(tmp_path_factory.mktemp('report'))
    kinds = maker.every_kind()
    report = ' '.join(f'word {i},' for i in range(120))
    return [*kinds, *maker.every_kind(), maker.row('Write a report.', report), *maker.every_kind()]


@pytest.fixture(scope='module')
def dataset(rows, tmp_path_factory) -> str:
    return write_jsonl(tmp_path_factory.mktemp('report') / 'train.jsonl', rows)


@pytest.fixture(scope='module')
def lengths(rows, tiny_checkpoint) -> list[int]:
    """By full encoding, with pixels and masks decoded."""
    with checking_environment():
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        encoder = TrainingEncoder(tiny_checkpoint, None, columns)
        encoder.template.max_length = None
        return [encoder.encode(row, f'row {i}', Counter())[1] for i, row in enumerate(rows)]


def report_of(folder: Path, *arguments: str) -> dict[str, Any]:
    assert main(['pack-report', *arguments, '--output', str(folder), '--traceback']) == 0
    return json.loads((folder / 'pack_report.json').read_text(encoding='utf-8'))


def batched(values: list[int], size: int) -> list[list[int]]:
    return [values[i:i + size] for i in range(0, len(values), size)]


def seg_images(row: dict[str, Any]) -> int:
    return len(set(row.get('mask_images', [0] * bool(row.get('masks')))))


def test_report_equals_a_slow_computation(rows, dataset, lengths, tiny_checkpoint, tmp_path, capsys):
    report = report_of(tmp_path / 'out', dataset, '--model', tiny_checkpoint, '--capacity', '1024', '--pack_images',
                       '5', '--world_size', '2', '--grad_accum', '2', '--padded_batch', '4')
    kinds = [
        'with masks' if row.get('masks') else 'with images' if row.get('images') or row.get('videos') else 'text only'
        for row in rows
    ]
    for kind in report['kinds']:
        own = [length for length, name in zip(lengths, kinds) if name == kind['kind']]
        assert (kind['rows'], kind['tokens'], kind['longest']) == (len(own), sum(own), max(own))
    assert (report['rows'], report['tokens'], report['longest']) == (len(rows), sum(lengths), max(lengths))
    assert report['skipped_rows'] == 0
    assert [plan['capacity'] for plan in report['plans']] == [512, 1024, 2048, 4096]
    images = [seg_images(row) for row in rows]
    for plan in report['plans']:
        capacity = plan['capacity']
        assert max(lengths) > 512
        kept = [i for i, length in enumerate(lengths) if length <= capacity]
        own_lengths, own_images = [lengths[i] for i in kept], [images[i] for i in kept]
        packs = pack_best_fit(own_lengths, capacity, images=own_images, image_capacity=5)
        assert plan['packs'] == len(packs)
        assert plan['lower_bound'] == lower_bound(own_lengths, capacity, own_images, 5)
        assert plan['fill'] == pytest.approx(sum(own_lengths) / len(packs) / capacity)
        assert plan['rows_too_long'] == len(rows) - len(kept)
        assert plan['max_images'] == max(sum(own_images[i] for i in pack) for pack in packs)
        assert plan['mean_images'] == pytest.approx(sum(own_images) / len(packs))
        # Two ranks, two packs per rank and step; with an odd number of packs one is split.
        assert plan['steps'] == -(-len(packs) // 4)
        assert 0 <= plan['wait_balanced'] <= 1 and 0 <= plan['wait_random'] <= 1
        padded = sum(len(batch) * max(batch) for batch in batched(own_lengths, 4))
        assert [way['tokens'] for way in plan['batches']] == [sum(own_lengths), padded, sum(own_lengths)]
    assert list(map(bare, report['plans'][0]['first_rows_too_long'])) == ['train.jsonl:25']
    text = capsys.readouterr().out
    assert f'  {report["plans"][1]["packs"]:,} packs, ' in text
    assert ' of 5\n' in text
    assert 'Suggestion: --packing_length' in text
    with Image.open(tmp_path / 'out' / 'pack_report.png') as picture:
        assert picture.width > 1000 and len(set(picture.convert('L').resize((64, 32)).tobytes())) > 5


def test_rows_longer_than_a_pack(rows, dataset, lengths, tiny_checkpoint, tmp_path, capsys):
    arguments = dataset, '--model', tiny_checkpoint, '--capacity', '64', '512'
    report = report_of(tmp_path / 'raise', *arguments)
    assert [plan['capacity'] for plan in report['plans']] == [64, 512]
    assert [plan['rows_too_long'] for plan in report['plans']] == [sum(n > c for n in lengths) for c in (64, 512)]
    assert f'1 rows are longer and in no pack: {Path(dataset).parent.name}/train.jsonl:25 (' in capsys.readouterr().out
    assert report['suggestion']['packing_length'] == 1 << (max(lengths) - 1).bit_length()
    cut = report_of(tmp_path / 'split', *arguments, '--truncation_strategy', 'split')
    # The report is only text, which can be split anywhere; only tokens without a target are dropped.
    assert cut['plans'][1]['rows_too_long'] == 0
    assert sum(lengths) - 30 < cut['plans'][1]['tokens'] <= sum(lengths)
    assert cut['plans'][1]['pieces'] == len(rows) + -(-max(lengths) // 512) - 1
    # An image with its mask that is longer than 64 tokens cannot be split; these rows are listed.
    assert 0 < cut['plans'][0]['rows_too_long'] < report['plans'][0]['rows_too_long']
    assert 'cannot be split' in capsys.readouterr().out


def test_weights_are_not_read(dataset, tiny_checkpoint, tiny_mllm, tmp_path, capsys):
    """A directory without its weights, and a plain Qwen2.5-VL."""
    model_dir = shutil.copytree(tiny_checkpoint, tmp_path / 'model', ignore=shutil.ignore_patterns('*.safetensors*'))
    for folder in (str(model_dir), tiny_mllm):
        assert main(['pack-report', dataset, '--model', folder, '--capacity', '1024', '--num-proc', '1']) == 0
    assert 'packs, ' in capsys.readouterr().out


def test_bad_rows(rows, tiny_checkpoint, tmp_path, capsys):
    broken = [*rows[:4], {**rows[1], 'images': ['missing.png']}, {**rows[2], 'masks': []}, *rows[4:6]]
    broken[5]['masks'] = [*rows[2]['masks'], *rows[2]['masks']]
    dataset = write_jsonl(tmp_path / 'train.jsonl', broken)
    arguments = ['pack-report', dataset, '--model', tiny_checkpoint, '--capacity', '1024']
    assert main(arguments) == 2
    assert 'train.jsonl:6: ' in capsys.readouterr().err
    assert main([*arguments, '--strict', 'false']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('2 rows cannot be used and were left out; `citrusv check-data ') for line in lines)
    assert any(line.split()[:2] == ['all', '6'] for line in lines)


def test_row_with_too_many_images(dataset, tiny_checkpoint, capsys):
    assert main(['pack-report', dataset, '--model', tiny_checkpoint, '--capacity', '1024', '--pack-images', '1']) == 2
    error = capsys.readouterr().err
    assert 'train.jsonl:5 has 2 segmentation images, more than the 1 of a pack, and 2 more rows' in error
    assert 'raise --pack-images (in training, pack_images of --model_kwargs) to 2.' in error


@pytest.mark.parametrize('arguments, message', [
    (['missing.jsonl', '--model', '.', '--capacity', '8'], 'missing.jsonl: no such file'),
    ([__file__, '--model', '.', '--capacity', '8'], 'holds no config.json'),
])
def test_missing_inputs(arguments, message, capsys):
    assert main(['pack-report', *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['--capacity', '0'], ['--capacity', '8', '--strict', 'maybe'], []])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit):
        main(['pack-report', __file__, '--model', '.', *arguments])
    assert 'usage: citrusv pack-report' in capsys.readouterr().err


def test_capacities():
    assert shown_capacities([8192]) == [4096, 8192, 16384, 32768]
    assert shown_capacities([12288]) == [6144, 8192, 12288, 16384, 24576, 32768, 49152]
    assert shown_capacities([300, 100, 300]) == [100, 300]
    assert shown_capacities([1]) == [1, 2, 4]


@pytest.mark.parametrize('count', [0, 1, 7, 8, 9, 50])
def test_batch_table_equals_a_slow_loop(count):
    lengths = np.random.default_rng(count).integers(1, 100, count)
    padded = batched(lengths.tolist(), 8)
    table = batch_table(lengths, 8, 3)
    assert [way['forward_passes'] for way in table] == [count, len(padded), 3]
    assert [way['tokens'] for way in table] == [lengths.sum(), sum(max(b) * len(b) for b in padded), lengths.sum()]
    assert [way['padding'] for way in table] == [0, sum(max(b) * len(b) - sum(b) for b in padded), 0]


def plan(capacity: int, fill: float, **values: Any) -> PackingPlan:
    empty: dict[str, Any] = dict.fromkeys(PackingPlan.__dataclass_fields__)
    defaults = {'rows_too_long': [], 'steps': 10, 'images_limit': False, 'packs': 10, 'lower_bound': 9}
    return PackingPlan(**{**empty, **defaults, 'capacity': capacity, 'fill': fill, **values})


def test_suggestions():
    long = plan(4096, 1., rows_too_long=[3])
    # The smallest full capacity that holds every row.
    assert suggest_packing_length([long, plan(8192, 0.97), plan(16384, 0.992), plan(32768, 0.999)], 5000)[0] == 16384
    # Else the fullest, with the reason that limits it.
    assert suggest_packing_length([long, plan(8192, 0.97), plan(16384, 0.98)], 5000)[0] == 16384
    assert suggest_packing_length(
        [long, plan(8192, 0.9, images_limit=True), plan(16384, 0.5)],
        5000) == (8192, 'the fullest of these that hold every row (90.0%). The image budget limits it: raise '
                  'pack_images if memory allows.')
    assert 'No packing can be fuller' in suggest_packing_length([plan(8192, 0.5, packs=1, lower_bound=1)], 500)[1]
    # Else the next power of two that holds the longest row.
    assert suggest_packing_length([long], 8192)[0] == 8192
    assert suggest_packing_length([long], 8193)[0] == 16384
    assert 'too few rows for so many ranks' in suggest_packing_length([plan(8192, 0.5, steps=None)], 500)[1]


def test_costs_of_the_stages(tiny_checkpoint):
    """Frozen parts of a stage cost less than in stage 3, where all parts are trained."""
    costs = {stage: cost_model(CitrusVConfig.from_pretrained(tiny_checkpoint), stage) for stage in (1, 2, 3, 4)}
    assert costs[2].token == costs[3].token > costs[1].token > costs[4].token
    assert costs[1].vision_token == costs[2].vision_token == costs[3].vision_token > costs[4].vision_token
    assert costs[1].seg_image == costs[2].seg_image < costs[3].seg_image == costs[4].seg_image
    assert costs[4].squared_length < costs[1].squared_length == costs[3].squared_length
