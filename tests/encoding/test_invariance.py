"""The gradient of an optimizer step does not depend on how its rows are packed, batched or accumulated.

Guards every index of the data path: a mask paired with another row's [SEG], image or target would show here as a
different gradient, and nowhere else until the masks of a finished training are bad.
"""
import pytest
import torch
from support.closeness import assert_same_update, differences
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft

from swift_citrusv.encoding import template

# name -> arguments; all of them make one optimizer step of the same twelve rows
LAYOUTS = {
    'batch 1, 12 steps': '--per_device_train_batch_size 1 --gradient_accumulation_steps 12',
    'padded batch 4, 3 steps': '--per_device_train_batch_size 4 --gradient_accumulation_steps 3',
    'padded batch 12, 1 step': '--per_device_train_batch_size 12 --gradient_accumulation_steps 1',
    'padded batch 4, left': '--per_device_train_batch_size 4 --gradient_accumulation_steps 3 --padding_side left',
    'padding free, batch 4': '--padding_free true --per_device_train_batch_size 4 --gradient_accumulation_steps 3',
    'one pack': '--packing true --packing_length 2048 --gradient_accumulation_steps 1',
    'two packs': '--packing true --packing_length 700 --gradient_accumulation_steps 2',
    'four packs': '--packing true --packing_length 360 --gradient_accumulation_steps 4',
}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('every_kind')
    return write_jsonl(folder / 'train.jsonl', Maker(folder / 'images').every_kind())


def _run(layout: str, dataset: str, checkpoint: str, output: str):
    # All twelve rows in the one step that is looked at.
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir', output,
                   '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false', '--learning_rate',
                   '1e-4', '--num_train_epochs', '1', '--model_kwargs', '{"pack_images": 16}', *layout.split())


@pytest.fixture(scope='module')
def reference(dataset, tiny_checkpoint, tmp_path_factory):
    watch = _run(LAYOUTS['batch 1, 12 steps'], dataset, tiny_checkpoint, str(tmp_path_factory.mktemp('out')))
    assert watch.logs[0]['num_masks'] == 11
    return watch


@pytest.mark.parametrize('name', [name for name in LAYOUTS if name != 'batch 1, 12 steps'])
def test_same_gradient(name, dataset, tiny_checkpoint, reference, tmp_path):
    watch = _run(LAYOUTS[name], dataset, tiny_checkpoint, str(tmp_path))
    assert watch.logs[0]['num_masks'] == 11 and watch.num_steps == 1
    for key in ('loss_token', 'loss_dice', 'loss_bce'):
        assert watch.logs[0][key] == pytest.approx(reference.logs[0][key], rel=1e-5)
    assert_same_update(watch.gradients, reference.gradients)
    assert any(not torch.equal(watch.after[key], watch.before[key]) for key in watch.after)


def _shuffled(function, key: str):
    """The same function with one of its results rolled by one along the axis of the masks."""

    def broken(*args, **kwargs):
        result = function(*args, **kwargs)
        if key in result and result[key].numel():
            axis = 1 if function.__name__ == 'pad_masks' else 0
            real = result['mask_token_index'] >= 0
            if axis == 0:
                result[key] = result[key].roll(1, dims=0)
            else:
                rows = [values[known].roll(1, dims=0) for values, known in zip(result[key], real)]
                for values, known, row in zip(result[key], real, rows):
                    values[known] = row
        return result

    return broken


@pytest.mark.parametrize('key', ['mask_token_index', 'mask_image_index', 'masks'])
@pytest.mark.parametrize('name, function', [('one pack', 'pack_masks'), ('padded batch 12, 1 step', 'pad_masks')])
def test_shuffled_index_is_seen(name, function, key, dataset, tiny_checkpoint, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(template, function, _shuffled(getattr(template, function), key))
    watch = _run(LAYOUTS[name], dataset, tiny_checkpoint, str(tmp_path))
    assert differences(watch.gradients, reference.gradients)[0].relative > 1e-4
