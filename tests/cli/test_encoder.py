"""`citrusv check-data --model`: the verdict and the lengths of training."""
import json
import numpy as np
import os
import pytest
from dataclasses import dataclass
from pathlib import Path
from support.check_data import GOOD_COUNTS, bad_rows, check, good_rows, write_lines
from support.rows import Maker
from typing import Any

from swift_citrusv.rows.jsonl import read_lines


def ms_swift_rows(maker: Maker) -> list[tuple[str, Any]]:
    """Rows that keep the row contract, but that ms-swift rejects, with the kind of the error."""
    row = maker.row
    return [
        ('preprocessor', {
            'messages': [{
                'role': 'someone',
                'content': 'Hello?'
            }, {
                'role': 'assistant',
                'content': 'Yes.'
            }]
        }),
        ('MaxLengthError', row('Count.', 'one two ' * 600)),
        # In a file whose other rows have 'messages' and 'images', ms-swift drops the one row and the other's image.
        ('messages', {
            'query': 'Hello?',
            'response': 'Hello.'
        }),
        ('images', row('What is it?', 'A cell.', image=maker.image())),
        ('video-unreadable', row('<video>What moves?', 'The cell.', videos=['none.mp4'])),
    ]


def trained_on(line: str, folder: Path, template: Any) -> bool:
    """Whether a training run accepts the row: loads a file with it by ms-swift, then encodes it by the template."""
    from swift.dataset import load_dataset
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]
    other = json.dumps({'messages': turns, 'images': []})
    file = folder / 'one.jsonl'
    # With a good row, so that the file has all columns.
    file.write_bytes(f'{line.strip()}\n{other}\n'.encode('utf-8', 'surrogateescape'))
    try:
        dataset, _ = load_dataset([str(file)], strict=True, load_from_cache_file=False, shuffle=False)
        return len(dataset) == 2 and bool(template.encode(dataset[0], return_length=True))
    except (ValueError, AssertionError, AttributeError, KeyError, TypeError, RecursionError):
        return False


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MODELSCOPE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))


@dataclass
class Checked:
    """A file of good rows before bad ones, and the result of checking it."""
    file: Path
    bad_rows: list[tuple[str, Any]]
    arguments: list[str]
    result: tuple[int, dict[str, Any], str]


@pytest.fixture(scope='module')
def checked(tiny_checkpoint, tmp_path_factory) -> Checked:
    folder = tmp_path_factory.mktemp('checked')
    maker = Maker(folder / 'images')
    wrong = [*bad_rows(maker), *ms_swift_rows(maker)]
    file = write_lines(folder / 'rows.jsonl', [*maker.every_kind(), *(row for _, row in wrong)])
    arguments = ['--model', tiny_checkpoint, '--max-length', '1000']
    return Checked(file, wrong, arguments, check(folder, file, *arguments))


def training_template(model: str, max_length: int) -> Any:
    """The template of a training run, and ms-swift's dataset loading with our patches."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register_model, register_template
    register_model()
    register_template()
    patch_dataset_loading()
    _, processor = get_model_processor(model, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=max_length)
    template.set_mode('train')
    return template


def test_verdict_equals_that_of_training(checked, tiny_checkpoint, tmp_path, fresh_cache):
    status, report, _ = checked.result
    failures = {failure['line']: failure['kind'] for failure in report['failures']}
    assert status == 1
    assert failures == {13 + i: kind for i, (kind, _) in enumerate(checked.bad_rows)}
    template = training_template(tiny_checkpoint, 1000)
    good = {number: trained_on(line, tmp_path, template) for number, line in read_lines(str(checked.file))}
    assert good == {number: number not in failures for number in good}


# `test_check_data.py` checks in two processes without a model.
@pytest.mark.slow
def test_two_processes_with_a_model(checked, tmp_path):
    assert check(tmp_path, checked.file, *checked.arguments, '--num-proc', 2) == checked.result


def test_lengths_equal_those_of_training(tiny_checkpoint, tmp_path, fresh_cache):
    from swift.dataset import load_dataset
    rows = [*good_rows(Maker(tmp_path / 'images')), Maker(tmp_path).row('Count.', 'one ' * 3000)]
    file = write_lines(tmp_path / 'rows.jsonl', rows)
    status, report, out = check(tmp_path, file, '--model', tiny_checkpoint, '--max-length', 8192)
    assert status == 0 and report['max_length'] == 8192
    # As without a model. The one-pixel mask is also lost in the smaller targets of the tiny preset.
    assert {key: report[key] for key in GOOD_COUNTS} == {**GOOD_COUNTS, 'rows': 16, 'ordinary_rows': 7}
    template = training_template(tiny_checkpoint, 8192)
    dataset, _ = load_dataset([str(file)], strict=True, load_from_cache_file=False, shuffle=False)
    lengths = [template.encode(row, return_length=True)['lengths'][0] for row in dataset]
    tokens = report['tokens']
    ranks = {'min': 0, 'p50': 50, 'p90': 90, 'p99': 99, 'max': 100}
    assert tokens == {name: np.percentile(lengths, q, method='inverted_cdf') for name, q in ranks.items()}
    assert ', '.join(f'{name} {value:,}' for name, value in tokens.items()) in out
    # A row that is too long still counts with its full length.
    status, shorter, _ = check(tmp_path, file, '--model', tiny_checkpoint, '--max-length', tokens['max'] - 1)
    assert status == 1 and shorter['tokens'] == tokens
    assert [(f['line'], f['kind']) for f in shorter['failures']] == [(14, 'MaxLengthError')]
    message = shorter['failures'][0]['message']
    assert str(tokens['max']) in message and '--max_length' in message


def test_plain_mllm_without_sam2(tiny_mllm, tmp_path, monkeypatch):
    monkeypatch.delenv('CITRUSV_SAM2', raising=False)
    maker = Maker(tmp_path / 'images')
    rows = maker.every_kind()
    file = write_lines(tmp_path / 'rows.jsonl', rows)
    status, report, out = check(tmp_path, file, '--model', tiny_mllm)
    assert (status, report['rows'], report['mask_rows']) == (0, len(rows), 7)
    assert 'The setting sam2 is not given: masks are checked for sam2.1_hiera_l.' in out
    assert 'CITRUSV_SAM2' not in os.environ
