"""Faulty rows in whole runs: strict runs stop and name the row, others skip and count it."""
import json
import numpy as np
import pytest
import re
from collections import Counter
from io import BytesIO
from pathlib import Path
from PIL import Image
from support.faults import Fault, Faults, mixed, one_colour_png, write_lines
from support.row_names import bare
from support.swift_run import Watch, run_sft
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import measure
from swift_citrusv.errors import RowError
from swift_citrusv.training.jsonl_dataset import scan_rows

MAX_LENGTH = 1024


@pytest.fixture(scope='module')
def maker(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp('faults') / 'files')


@pytest.fixture(scope='module')
def bad(maker) -> list[Fault]:
    return maker.bad()


@pytest.fixture(scope='module')
def unusual(maker) -> dict[str, dict[str, Any]]:
    return maker.unusual()


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(MAX_LENGTH)


def one_of_each(bad: list[Fault]) -> list[Fault]:
    """The first fault of each kind and place."""
    return list({(fault.kind, fault.found): fault for fault in reversed(bad)}.values())[::-1]


def one_of_each_kind(bad: list[Fault]) -> list[Fault]:
    """Of each kind the fault that is found last."""
    return list({fault.kind: fault for fault in bad}.values())


def found(bad: list[Fault], *places: str) -> list[Fault]:
    return [fault for fault in bad if fault.found in places]


# ---- good rows with unusual files


def expected_pixels() -> dict[str, np.ndarray]:
    """RGB uint8 of some unusual files, worked out without PIL's conversions."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (84, 84, 3), dtype=np.uint8)
    deep = np.linspace(0, 65535, 84 * 84).astype(np.uint16).reshape(84, 84)
    high = np.repeat((deep // 256).astype(np.uint8)[..., None], 3, axis=-1)
    return {'16 bits': high, '16 bits, TIFF': high, 'colour with alpha': colours, 'animated WebP': colours,
            'several pages': colours}  # yapf: disable


def test_unusual_files_are_read_right(unusual, template):
    opened = {}
    for name, row in unusual.items():
        if row.get('images'):
            opened[name] = np.array(template._open_image(row['images'][0]))
            assert opened[name].dtype == np.uint8 and opened[name].ndim == 3 and opened[name].shape[-1] == 3
    for name, pixels in expected_pixels().items():
        # WebP is lossy here.
        close = np.abs(opened[name].astype(int) - pixels).mean()
        assert close < (60 if name == 'animated WebP' else 1e-9), name
    grey = opened['grey with alpha']
    assert (grey[..., 0] == grey[..., 1]).all() and grey.std() > 20
    # Not clipped, not black: their values spread over the range.
    for name in ('CMYK', 'palette', 'palette with transparency', 'animated GIF', 'one bit'):
        assert 90 < opened[name].mean() < 160 and opened[name].std() > 40, name
    with Image.open(unusual['palette']['images'][0]) as image:
        table = np.array(image.getpalette()).reshape(-1, 3)
        assert (opened['palette'] == table[np.array(image)]).all()


def test_frames_of_16_bits_are_not_white(unusual, template):
    encoded = template.encode(unusual['frames of a video'])
    frames = encoded['pixel_values_videos']
    assert frames.std(dim=-1).mean() > .05 and frames.max() > frames.min() + 1


# ---- each fault


def test_every_fault_is_found_where_it_shows(bad, template, tmp_path):
    for fault in bad:
        name = 'rows.jsonl:1'
        if fault.found == 'line' and not fault.needs_model:
            line = fault.row if isinstance(fault.row, bytes) else json.dumps(fault.row).encode()
            with pytest.raises(RowError) as error:
                scan_rows([write_lines(tmp_path / 'rows.jsonl', [line])], strict=True)
        elif fault.found != 'line':
            assert isinstance(fault.row, dict)
            row = {**fault.row, ROW_COLUMN: name}
            with pytest.raises((RowError, MaxLengthError)) as error:
                template.encode(row)
            if fault.found == 'pixels':
                assert measure(template, row), fault.name
            else:
                with pytest.raises((RowError, MaxLengthError)) as measured:
                    measure(template, row)
                assert str(measured.value) == str(error.value)
        else:
            continue
        assert getattr(error.value, 'kind', type(error.value).__name__) == fault.kind, fault.name
        named, _, rest = str(error.value).partition(': ')
        assert bare(named) == name and rest.rstrip().endswith('.'), fault.name


def test_a_bomb_is_not_decoded(tmp_path, template, maker, monkeypatch):
    content = one_colour_png(20_000, 20_000)
    assert len(content) < 300_000 and Image.open(BytesIO(one_colour_png(30, 20))).convert('RGB').getpixel(
        (29, 19)) == (40, 80, 120)
    monkeypatch.setattr(Image.core, 'zip_decoder', None)
    row = maker.plain(maker.file('again.png', content))
    with pytest.raises(RowError, match='20000 x 20000 pixels, more than max_image_pixels=178956970'):
        template.encode(row)
    monkeypatch.setenv('CITRUSV_MAX_IMAGE_PIXELS', '500000000')
    with pytest.raises(RowError, match='zip_decoder|NoneType'):
        template.encode(row)


# ---- check-data and training


def test_check_data_and_training_agree(bad, maker, unusual, tiny_checkpoint, tmp_path, capsys):
    """A strict run trains on the rows that pass the check. For rejected ones see `test_skipping_runs`, and above."""
    good = [*maker.good(12), *unusual.values()]
    lines, faults = mixed(good, bad)
    file = write_lines(tmp_path / 'train.jsonl', lines)
    report = tmp_path / 'report.json'
    for arguments in ([], ['--model', tiny_checkpoint, '--max-length', str(MAX_LENGTH)]):
        assert main(['check-data', file, '--json', str(report), *arguments]) == 1
        kinds = {failure['line']: failure['kind'] for failure in json.loads(report.read_text())['failures']}
        assert kinds == {line: fault.kind for line, fault in faults.items() if arguments or not fault.needs_model}
    passed = [line for number, line in enumerate(lines, start=1) if number not in faults]
    clean = write_lines(tmp_path / 'clean.jsonl', passed)
    assert main(['check-data', clean, '--model', tiny_checkpoint]) == 0
    capsys.readouterr()
    for packing in ('true', 'false'):
        watch = sft(tiny_checkpoint, tmp_path, clean, '--packing', packing)
        assert all(np.isfinite(loss) for loss in losses(watch))


# ---- whole runs


def sft(checkpoint: str, tmp_path: Path, dataset: str, *arguments: str) -> Watch:
    # Plain gradient descent: a step without targets changes nothing.
    return run_sft('--model', checkpoint,
                   '--model_type', 'citrusv', '--tuner_type', 'full', '--dataset', dataset, '--output_dir',
                   str(tmp_path / 'out'), '--num_train_epochs', '1', '--per_device_train_batch_size', '1',
                   '--gradient_accumulation_steps', '1', '--learning_rate', '1e-3', '--optim', 'sgd', '--weight_decay',
                   '0', '--max_length', str(MAX_LENGTH), *arguments)


def losses(watch: Watch) -> list[float]:
    return [log['loss'] for log in watch.logs if 'loss' in log]


def counted(text: str) -> list[Counter]:
    """The counts by kind of each report in a log."""
    reports = re.findall(r'rows were skipped \((.*?)\)\.', text)
    return [Counter({kind: int(n) for kind, n in (item.split(': ') for item in text.split(', '))}) for text in reports]


def kinds(bad: list[Fault]) -> Counter:
    return Counter(fault.kind for fault in bad)


def test_skipping_runs(bad, maker, unusual, tiny_checkpoint, tmp_path, caplog):
    """A row in three is bad; step by step, the losses are those of the good rows alone."""
    bad = one_of_each_kind(bad)
    assert {fault.found for fault in bad} == {'line', 'header', 'pixels'}
    good = [*unusual.values(), *maker.good(max(2 * len(bad) - len(unusual), 6))]
    lines, faults = mixed(good, bad)
    dataset = write_lines(tmp_path / 'train.jsonl', lines)
    clean = write_lines(tmp_path / 'clean.jsonl', [json.dumps(row).encode() for row in good])
    skipping = losses(sft(tiny_checkpoint, tmp_path, dataset, '--strict', 'false'))
    assert Counter(sum(counted(caplog.text), Counter())) == kinds(bad)
    skipped = set(re.findall(r'skipped \(\d+ so far\): [^:]*/train.jsonl:(\d+): ', caplog.text))
    assert skipped == {str(line) for line in faults}
    # A batch of one bad row becomes a step without targets.
    empty = [faults[line].found if line in faults else None for line in range(1, len(lines) + 1)]
    empty = [place for place in empty if place != 'line']
    assert [loss for loss, place in zip(skipping, empty, strict=True)
            if place] == [0.] * len(found(bad, 'header', 'pixels'))
    expected = losses(sft(tiny_checkpoint, tmp_path, clean))
    assert [loss for loss, place in zip(skipping, empty) if not place] == pytest.approx(expected, rel=1e-6)
    # The last rows have masks or none, as they come.
    assert len(expected) == len(good) and min(expected[-10:]) < min(expected[:10])


def test_skipping_packs(bad, maker, tiny_checkpoint, tmp_path, caplog):
    """Rows found by the length pass are in no pack; those found later are removed from theirs."""
    bad = one_of_each(bad)
    good = maker.good(12)
    lines, _ = mixed(good, bad)
    arguments = ('--packing', 'true', '--num_train_epochs', '3', '--dataloader_num_workers', '1', '--packing_length',
                 '16384', '--model_kwargs', '{"pack_images": 100}')
    dataset = write_lines(tmp_path / 'train.jsonl', lines)
    skipping = losses(sft(tiny_checkpoint, tmp_path, dataset, '--strict', 'false', *arguments))
    reports = counted(caplog.text)
    late = kinds(found(bad, 'pixels'))
    assert Counter(sum(reports, Counter())) == kinds(bad) + late + late and reports[-3:] == [late] * 3
    assert 'epoch 3: ' in caplog.text
    clean = write_lines(tmp_path / 'clean.jsonl', [json.dumps(row).encode() for row in good])
    expected = losses(sft(tiny_checkpoint, tmp_path, clean, *arguments))
    assert len(expected) == 3 and skipping == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('places, packing', [(('line', 'header', 'pixels'), 'false'), (('header', 'pixels'), 'false'),
                                             (('pixels', ), 'true')])
def test_strict_runs_stop_at_the_first(places, packing, bad, maker, tiny_checkpoint, tmp_path):
    bad = one_of_each(found(bad, *places))
    lines, faults = mixed(maker.good(4), bad)
    dataset = write_lines(tmp_path / 'train.jsonl', lines)
    with pytest.raises((RowError, MaxLengthError)) as error:
        sft(tiny_checkpoint, tmp_path, dataset, '--packing', packing)
    row, _, _ = str(error.value).partition(': ')
    if packing == 'true':
        # The first of a pack, which has another order.
        assert bare(row) in {f'train.jsonl:{line}' for line in faults}
    else:
        assert bare(row) == f'train.jsonl:{min(faults)}'


def test_skipping_evaluation(bad, maker, tiny_checkpoint, tmp_path, caplog):
    """Each batch has the same weight, so bad rows are removed before the first step."""
    bad = found(one_of_each(bad), 'header', 'pixels')
    good = maker.good(6)
    lines, _ = mixed(good, bad)
    train = write_lines(tmp_path / 'train.jsonl', [json.dumps(good[0]).encode()])
    evaluations = []
    for name, rows, strict in (('val.jsonl', lines, 'false'), ('clean.jsonl', mixed(good, [])[0], 'true')):
        watch = sft(tiny_checkpoint, tmp_path, train, '--val_dataset', write_lines(tmp_path / name, rows), '--strict',
                    strict, '--eval_strategy', 'steps', '--eval_steps', '1', '--per_device_eval_batch_size', '1',
                    '--freeze_parameters', 'seg_projector', 'segmenter')
        evaluations.append(next(log for log in watch.logs if 'eval_loss' in log))
    assert evaluations[0]['eval_loss'] == pytest.approx(evaluations[1]['eval_loss'], rel=1e-6)
    assert counted(caplog.text) == [kinds(bad)]
