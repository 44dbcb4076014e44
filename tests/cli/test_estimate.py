"""`citrusv estimate`: its table, its JSON, and arguments that cannot be used."""
import json
import pytest
import shutil
import torch
from functools import partial
from pathlib import Path

from swift_citrusv.cli.estimate import _fits
from swift_citrusv.cli.main import main
from swift_citrusv.estimate.dry_run import Load
from swift_citrusv.estimate.memory import Setup, estimate
from swift_citrusv.estimate.stage import freeze_as_stage
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(['estimate', *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_table(tiny_checkpoint, capsys):
    status, out, _ = run(capsys, '--model', tiny_checkpoint, '--stage', 3, '--packing_length', 512, '--pack_images', 2,
                         '--world', 8)
    assert status == 0
    # In MiB, since the tiny model would show zeros in GiB.
    assert 'no ZeRO    ZeRO-2    ZeRO-3' in out and 'MiB on each GPU of 8' in out
    for name in ('parameters', 'gradients', 'optimizer (AdamW)', 'activations of the MLLM', 'activations of SAM2',
                 'peak', 'fits a GPU of 80 GB'):
        assert any(line.startswith(name) and len(line.split()) >= 4 for line in out.splitlines()), name


@pytest.mark.parametrize('peak, fits', [(65.0, 'yes'), (66.7, 'yes'), (66.9, 'tight'), (76.7, 'tight'), (76.9, 'no')])
def test_what_fits_80_gigabytes(peak, fits):
    """Two of 78.8 GiB are reserved: 76.8 GiB remain, or 66.8 with a margin of 15 %."""
    assert _fits(int(peak * 2**30), 80) == fits


def test_a_configuration_alone(tiny_mllm, tmp_path, capsys):
    shutil.copy(Path(tiny_mllm) / 'config.json', tmp_path)
    status, out, _ = run(capsys, '--model', tmp_path, '--sam2', 'sam2.1_hiera_l', '--stage', 2, '--packing_length',
                         4096, '--gpu_gb', 1, 1000, '--zero', 0, '--attn_impl', 'sdpa', '--gradient_checkpointing',
                         'false')
    lines = {' '.join(line.split()) for line in out.splitlines()}
    assert status == 0 and {'GiB on each GPU of 1 no ZeRO', 'fits a GPU of 1 GB no', 'fits a GPU of 1000 GB yes'
                            } <= lines
    assert 'use --gradient_checkpointing true.' in out


def test_json_is_the_estimate(tiny_checkpoint, capsys):
    status, out, _ = run(capsys, '--model', tiny_checkpoint, '--stage', 4, '--packing-length', 512, '--pack-images', 3,
                         '--masks', 5, '--zero', 2, '--world', 2, '--dtype', 'fp32', '--json', '--batch', 2)
    report = json.loads(out)
    assert status == 0 and [one['zero'] for one in report['estimates']] == [2]
    assert report['forward_pass'] == {
        'tokens': 1024,
        'vision_tokens': 512,
        'supervised_tokens': 512,
        'images': 6,
        'masks': 10
    }
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    freeze_as_stage(model, 4)
    load = Load(**report['forward_pass'])
    # ms-swift's default is 16 rows a step: 2 a forward pass, on 2 GPUs.
    setup = Setup(world_size=2, dtype=torch.float32, grad_accum=4)
    assert report['setup']['grad_accum'] == 4
    one = estimate(model.config, partial(freeze_as_stage, stage=4), load, setup, 2)
    shown = report['estimates'][0]
    assert shown['peak'] == one.peak and shown['optimizer'] == one.optimizer and shown['peak_at'] == one.peak_at


def test_a_plain_qwen_with_a_preset(tiny_mllm, tiny_checkpoint, capsys):
    common = ['--stage', 2, '--packing_length', 256, '--json']
    _, plain, _ = run(capsys, '--model', tiny_mllm, '--sam2', 'tiny', *common)
    _, built, _ = run(capsys, '--model', tiny_checkpoint, *common)
    first, second = (json.loads(text) for text in (plain, built))
    assert first['estimates'] == second['estimates']
    # No masks in the data of stages 1 and 2.
    assert first['forward_pass']['images'] == 0


@pytest.mark.parametrize('arguments, words', [
    (['--packing_length', '1'], ['--packing_length 1', 'give 2 or more']),
    (['--packing_length', '100', '--vision_tokens', '200'], ['200 vision tokens', 'raise --packing_length']),
    (['--packing_length', '100', '--vision_tokens', '-1'], ['--vision_tokens -1', 'give 0 or more']),
    (['--packing_length', '100', '--pack_images', '4', '--masks', '2'], ['2 masks on 4 images']),
    (['--packing_length', '100', '--pack_images', '0', '--masks', '2'], ['2 masks on 0 images']),
    (['--packing_length', '100', '--world', '0'], ['--world 0', 'give 1 or more']),
    (['--packing_length', '100', '--batch', '0'], ['--batch 0']),
    (['--packing_length', '100', '--seg_chunk', '0'], ['--seg_chunk 0']),
    (['--packing_length', '100', '--gpu_gb', '24', '0'], ['--gpu_gb 0']),
    (['--packing_length', '100', '--sam2', 'tiny'], ['has its own SAM2']),
])  # yapf: disable
def test_arguments_that_cannot_be_used(arguments, words, tiny_checkpoint, capsys):
    status, _, err = run(capsys, '--model', tiny_checkpoint, '--stage', 3, *arguments)
    assert status == 2 and all(word in err for word in words), err


def test_models_that_cannot_be_used(tiny_mllm, tmp_path, capsys):
    for arguments, word in (
        (['--model', tmp_path], 'holds no config.json'),
        (['--model', tiny_mllm], '--sam2 sam2.1_hiera_l'),
        (['--model', tiny_mllm, '--sam2', 'huge'], "Unknown SAM2 preset 'huge'"),
    ):
        status, _, err = run(capsys, *arguments, '--stage', 3, '--packing_length', 64)
        assert status == 2 and word in err, err
