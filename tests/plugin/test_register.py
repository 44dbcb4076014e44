"""The plugin through the `swift` command: bare, as an external plugin, in workers; and not at all for other models."""
import json
import os
import pytest
import subprocess
import sys
from pathlib import Path
from support.rows import Maker, write_jsonl
from support.swift_run import COMMON

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = str(ROOT / 'examples' / 'citrusv_plugin.py')


def swift(*arguments: str, cwd: Path, **environment: str) -> str:
    """Runs `swift` as a user does; returns what it printed."""
    command = [str(Path(sys.executable).parent / 'swift'), *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={
            **os.environ,
            **environment
        },
        capture_output=True,
        text=True,
        errors='replace',
        timeout=280)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


def _losses(output_dir: Path) -> list[float]:
    lines = (output_dir / 'logging.jsonl').read_text().splitlines()
    return [entry['loss'] for entry in map(json.loads, lines) if 'loss' in entry]


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('registration')
    return write_jsonl(folder / 'train.jsonl', Maker(folder / 'images').every_kind())


# name -> (arguments, environment)
WAYS = {
    'installed hook': ([], {}),
    'installed hook, spawned workers':
    (['--dataloader_num_workers', '1', '--dataloader_multiprocessing_context', 'spawn'], {}),
    'installed hook and external plugin': (['--external_plugins', PLUGIN], {}),
    'external plugin alone': (['--external_plugins', PLUGIN], {
        'SWIFT_CITRUSV_DISABLE': '1'
    }),
}


@pytest.mark.parametrize('way', WAYS)
def test_bare_swift_sft(way, dataset, tiny_checkpoint, tmp_path):
    """No flag but --model_type names Citrus-V; template, loss, optimizer, metric and callback follow."""
    arguments, environment = WAYS[way]
    output = swift(
        'sft',
        *COMMON,
        '--model',
        tiny_checkpoint,
        '--model_type',
        'citrusv',
        '--dataset',
        dataset,
        '--val_dataset',
        dataset,
        '--output_dir',
        str(tmp_path / 'out'),
        '--tuner_type',
        'full',
        '--packing',
        'true',
        '--packing_length',
        '400',
        '--num_train_epochs',
        '1',
        '--gradient_accumulation_steps',
        '2',
        '--eval_strategy',
        'epoch',
        *arguments,
        cwd=tmp_path,
        **environment)
    args = json.loads((tmp_path / 'out' / 'args.json').read_text())
    assert (args['template'], args['loss_type'], args['optimizer'], args['eval_metric']) == ('citrusv', ) * 4
    assert args['callbacks'] == ['citrusv'] and args['strict'] is True and args['attn_impl'] == 'torch_varlen'
    history = [json.loads(line) for line in (tmp_path / 'out' / 'logging.jsonl').read_text().splitlines()]
    evaluation = next(entry for entry in history if 'eval_loss' in entry)
    assert {'eval_loss_token', 'eval_loss_dice', 'eval_loss_bce', 'eval_dice', 'eval_iou',
            'eval_token_acc'} <= set(evaluation)
    assert evaluation['eval_num_masks'] == 11
    assert list((tmp_path / 'out' / 'images').glob('eval_step_*.png'))
    assert 'what this run trains' in output


def test_the_checkpoint_says_what_it_is(tiny_checkpoint, dataset, tmp_path):
    """A Citrus-V directory needs no --model_type."""
    swift(
        'sft',
        *COMMON,
        '--model',
        tiny_checkpoint,
        '--dataset',
        dataset,
        '--output_dir',
        str(tmp_path / 'out'),
        '--tuner_type',
        'full',
        '--max_steps',
        '1',
        cwd=tmp_path)
    assert json.loads((tmp_path / 'out' / 'args.json').read_text())['model_type'] == 'citrusv'


def test_other_models_are_untouched(tiny_mllm, tmp_path):
    """The same losses to the last bit with the plugin and without, and ms-swift's own defaults."""
    maker = Maker(tmp_path / 'images')
    rows = [maker.row(f'What is number {i}?', f'It is {i}, a number.') for i in range(16)]
    dataset = write_jsonl(tmp_path / 'train.jsonl', rows)
    losses, settings = [], []
    for name, disabled in (('with', '0'), ('without', '1')):
        output = tmp_path / name
        swift(
            'sft',
            *COMMON,
            '--model',
            tiny_mllm,
            '--model_type',
            'qwen2_5_vl',
            '--template',
            'qwen2_5_vl',
            '--dataset',
            dataset,
            '--output_dir',
            str(output),
            '--tuner_type',
            'full',
            '--max_steps',
            '8',
            '--learning_rate',
            '1e-3',
            cwd=tmp_path,
            SWIFT_CITRUSV_DISABLE=disabled)
        losses.append(_losses(output))
        args = json.loads((output / 'args.json').read_text())
        settings.append(
            {key: args[key]
             for key in ('strict', 'loss_type', 'optimizer', 'eval_metric', 'callbacks', 'template')})
    assert len(losses[0]) == 8 and losses[0] == losses[1]
    assert settings[0] == settings[1]


def test_auto_classes_after_importing_register(tiny_checkpoint):
    """In a process of its own, since this one has registered long ago."""
    code = ('import sys\nimport swift_citrusv.register\nassert "swift" not in sys.modules\n'
            'from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor\n'
            f'path = {tiny_checkpoint!r}\nprint(type(AutoConfig.from_pretrained(path)).__name__,'
            ' type(AutoModelForImageTextToText.from_pretrained(path)).__name__,'
            ' AutoProcessor.from_pretrained(path).tokenizer.tokenize("[SEG]"))')
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True,
                          env={
                              **os.environ, 'SWIFT_CITRUSV_DISABLE': '1'
                          })
    assert done.stdout.split() == ['CitrusVConfig', 'CitrusVForConditionalGeneration', "['[SEG]']"], done.stderr[-2000:]
