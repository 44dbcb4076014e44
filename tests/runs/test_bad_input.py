"""Bad rows and settings end in an error that names the row (or the setting), the value and the remedy.

Every row takes the path of training, in strict mode: the JSONL is read, and the template encodes the row.
"""
import json
import numpy as np
import pytest
import torch
from pathlib import Path
from PIL import Image
from support.bad_rows import BAD_ROWS, GOOD_SIZE, make_row
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from swift.template import MaxLengthError
from unittest.mock import Mock

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.errors import RowError
from swift_citrusv.settings import SettingError


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(512)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    Maker(folder).image()
    good = (folder / 'image_0.png').rename(folder / 'good.png')
    (folder / 'truncated.png').write_bytes(good.read_bytes()[:-400])
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'page.png').write_text('<html>404 Not Found</html>')
    (folder / 'folder.png').mkdir()
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(folder / 'small_mask.png')
    Image.fromarray(np.full((*GOOD_SIZE, 3), 255, np.uint8)).save(folder / 'colour_mask.png')
    return folder


def _train(path: Path, template) -> None:
    from swift_citrusv.training.jsonl_dataset import load_jsonl
    dataset = load_jsonl(str(path), strict=True, cache_dir=str(path.parent / 'cache'))
    for row in dataset:
        template.encode({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize('name', BAD_ROWS)
def test_bad_row(name, template, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    bad, words = BAD_ROWS[name]
    line = json.dumps(bad) if isinstance(bad, dict) else bad
    path = tmp_path / 'train.jsonl'
    path.write_bytes(b'\n'.join([json.dumps(make_row()).encode(), line.encode() if isinstance(line, str) else line]))
    with pytest.raises((RowError, MaxLengthError)) as error:
        _train(path, template)
    message = str(error.value)
    assert message.startswith(f'{tmp_path.name}/train.jsonl:2: ')
    for word in words:
        assert word in message, message
    # It ends with a remedy.
    assert message.rstrip().endswith('.') and len(message) > len('train.jsonl:2') + 30


@pytest.mark.parametrize('name', ['image missing', 'two [SEG], one mask', 'row too long'])
def test_a_bad_row_is_tried_once(name, template, files, monkeypatch):
    from swift_citrusv.encoding import row_media as module
    monkeypatch.chdir(files)
    checked = Mock(side_effect=module.parse_row)
    monkeypatch.setattr(module, 'parse_row', checked)
    with pytest.raises((RowError, MaxLengthError), match='train.jsonl:7: '):
        template.encode({**BAD_ROWS[name][0], ROW_COLUMN: 'train.jsonl:7'})
    assert checked.call_count == 1


def test_other_errors_are_tried_as_ms_swift_does(template, files, monkeypatch):
    monkeypatch.chdir(files)
    calls = []

    def once_down(*args, **kwargs):
        calls.append(torch.is_inference_mode_enabled())
        if len(calls) < 3:
            raise ConnectionError('once more')
        return _mask_tensors(*args, **kwargs)

    _mask_tensors = template._mask_tensors
    monkeypatch.setattr(template, '_mask_tensors', once_down)
    assert 'masks' in template.encode(make_row(), return_length=True)
    assert calls == [True] * 3
    monkeypatch.setattr(template, '_mask_tensors', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(RowError, match='row .no number.: ZeroDivisionError') as error:
        template.encode(make_row())
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_fewer_tags_than_images(template, files, monkeypatch):
    monkeypatch.chdir(files)
    with_tag = template.encode(make_row())
    assert template.encode(make_row(question='Segment the cell.'))['input_ids'] == with_tag['input_ids']


def test_unknown_role_in_a_preprocessor(tmp_path):
    """ms-swift's own preprocessor refuses it, for a whole batch of rows at once."""
    from swift.dataset import load_dataset

    from swift_citrusv.plugin.datasets import patch_dataset_loading
    patch_dataset_loading()
    rows = [{
        'messages': [{
            'role': role,
            'content': 'x'
        }, {
            'role': 'assistant',
            'content': 'y'
        }]
    } for role in ('user', 'doctor')]
    with pytest.raises(RowError, match='train.jsonl:2'):
        load_dataset([write_jsonl(tmp_path / 'train.jsonl', rows)], strict=True, load_from_cache_file=False)


def test_seg_lost_to_truncation(template, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr(template, 'truncation_strategy', 'right')
    with pytest.raises(RowError, match=r'train.jsonl:7.* 0 of the 1 \[SEG\] are left after truncation') as error:
        template.encode({**make_row('word ' * 2000 + '[SEG].'), ROW_COLUMN: 'train.jsonl:7'})
    assert error.value.kind == 'truncation' and '--max_length' in str(error.value)


def test_run_skips_counts_and_trains(tiny_checkpoint, tmp_path, caplog):
    maker = Maker(tmp_path / 'images')
    rows = maker.every_kind()
    bad = [
        make_row('[SEG] and [SEG].'),
        make_row(images=['nowhere.png']), {
            **make_row(), 'images': [maker.image(40, 60)]
        }
    ]
    dataset = write_jsonl(tmp_path / 'train.jsonl', rows[:4] + bad + rows[4:])
    arguments = ('--model', tiny_checkpoint, '--model_type', 'citrusv', '--tuner_type', 'full', '--packing', 'true',
                 '--model_kwargs', '{"pack_images": 16}', '--gradient_accumulation_steps', '1', '--num_train_epochs',
                 '1', '--max_length', '2048')
    skipping = run_sft(*arguments, '--dataset', dataset, '--strict', 'false', '--output_dir', str(tmp_path / 'out'))
    text = caplog.text
    assert '1 of 15 rows were skipped (mask-count: 1)' in text and 'train.jsonl:5' in text
    assert '2 of 14 rows were skipped (image-unreadable: 1, mask-size: 1)' in text
    clean = run_sft(*arguments, '--dataset', write_jsonl(tmp_path / 'clean.jsonl', rows), '--output_dir',
                    str(tmp_path / 'clean'))
    assert skipping.logs[0]['num_masks'] == clean.logs[0]['num_masks'] == 11
    assert skipping.logs[0]['loss'] == pytest.approx(clean.logs[0]['loss'], rel=1e-6)
    with pytest.raises(ValueError, match='train.jsonl:5'):
        run_sft(*arguments, '--dataset', dataset, '--output_dir', str(tmp_path / 'strict'))


def _sft(checkpoint: str, tmp_path: Path, *arguments: str):
    dataset = write_jsonl(tmp_path / 'train.jsonl', Maker(tmp_path / 'images').every_kind())
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
                   str(tmp_path / 'out'), '--tuner_type', 'full', '--max_steps', '1', *arguments)


# name -> (arguments, words that the message must hold)
BAD_SETTINGS = {
    'seg_lr is a word': (['--model_kwargs', '{"seg_lr": "fast"}'], ['seg_lr', 'fast']),
    'seg_lr is negative': (['--model_kwargs', '{"seg_lr": -1}'], ['seg_lr', '-1']),
    'pack_images is 0': (['--model_kwargs', '{"pack_images": 0}', '--packing', 'true'], ['pack_images', '0']),
    'seg_lr without segmentation':
    (['--model_kwargs', '{"seg_lr": 1e-4}', '--freeze_parameters', 'segmenter',
      'seg_projector'], ['seg_lr', 'segmentation']),
    'vit_lr without ViT': (['--vit_lr', '1e-5', '--freeze_vit', 'true'], ['--vit_lr', 'ViT', '--freeze_vit false']),
    'nothing is trained':
    (['--freeze_llm', 'true', '--freeze_parameters', 'segmenter', 'seg_projector', 'model', 'lm_head'], ['trainable']),
    'a row longer than a pack': (['--packing', 'true', '--packing_length', '100'], ['100', '--packing_length']),
    'sequential packing': (['--packing', 'true', '--packing_strategy', 'sequential'], ['sequential']),
    'sequence parallel': (['--sequence_parallel_size', '2'], ['--sequence_parallel_size 2', '[SEG]']),
    'DFT loss': (['--enable_dft_loss', 'true'], ['--enable_dft_loss']),
    'attention that cannot pack': (['--packing', 'true', '--attn_impl', 'flex_attention'], ['flex_attention']),
}


@pytest.mark.parametrize('name', BAD_SETTINGS)
def test_bad_setting(name, tiny_checkpoint, tmp_path):
    arguments, words = BAD_SETTINGS[name]
    with pytest.raises(ValueError) as error:
        _sft(tiny_checkpoint, tmp_path, *arguments)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_plain_model_without_sam2(tiny_mllm, tmp_path, monkeypatch):
    monkeypatch.delenv('CITRUSV_SAM2', raising=False)
    with pytest.raises(SettingError, match='plain qwen2_5_vl directory.*"sam2"'):
        _sft(tiny_mllm, tmp_path)


def test_plain_model_with_unknown_sam2(tiny_mllm, tmp_path):
    with pytest.raises(ValueError, match="No SAM2 weights at 'sam3'"):
        _sft(tiny_mllm, tmp_path, '--model_kwargs', '{"sam2": "sam3"}')
