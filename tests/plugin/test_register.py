"""The plugin through the `swift` command: with the hook, as an external plugin, in workers; and for other models."""
import ast
import importlib
import inspect
import json
import os
import pytest
import re
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


HOOK_OFF = {'SWIFT_CITRUSV_DISABLE': '1'}
# name -> (arguments, environment, --strict in the end)
WAYS: dict[str, tuple[list[str], dict[str, str], bool]] = {
    'hook, explicit --strict false': (['--model_type', 'citrusv', '--strict', 'false'], {}, False),
    # A Citrus-V directory needs no --model_type.
    'hook, spawned workers, no --model_type':
    (['--dataloader_num_workers', '1', '--dataloader_multiprocessing_context', 'spawn'], {}, True),
    'hook and external plugin': (['--model_type', 'citrusv', '--external_plugins', PLUGIN], {}, True),
    'external plugin alone': (['--model_type', 'citrusv', '--external_plugins', PLUGIN], HOOK_OFF, True),
}


# How `--strict` is read: also `test_arguments.py`.
@pytest.mark.parametrize('way', [
    pytest.param(
        name, marks=pytest.mark.slow if name in ('hook, explicit --strict false', 'hook and external plugin') else ())
    for name in WAYS
])
def test_swift_sft(way, dataset, tiny_checkpoint, tmp_path):
    """Only the model or --model_type names Citrus-V; template, loss, optimizer, metric and callback follow."""
    arguments, environment, strict = WAYS[way]
    options = ('--tuner_type full --packing true --packing_length 400 --num_train_epochs 1 '
               '--gradient_accumulation_steps 2 --eval_strategy epoch').split()
    output = swift(
        'sft',
        *COMMON,
        '--model',
        tiny_checkpoint,
        '--dataset',
        dataset,
        '--val_dataset',
        dataset,
        '--output_dir',
        str(tmp_path / 'out'),
        *options,
        *arguments,
        cwd=tmp_path,
        **environment)
    args = json.loads((tmp_path / 'out' / 'args.json').read_text())
    names = ('model_type', 'template', 'loss_type', 'optimizer', 'eval_metric')
    assert [args[name] for name in names] == ['citrusv'] * len(names)
    assert args['callbacks'] == ['citrusv'] and args['strict'] is strict and args['attn_impl'] == 'torch_varlen'
    history = [json.loads(line) for line in (tmp_path / 'out' / 'logging.jsonl').read_text().splitlines()]
    evaluation = next(entry for entry in history if 'eval_loss' in entry)
    assert {'eval_loss_token', 'eval_loss_dice', 'eval_loss_bce', 'eval_dice', 'eval_iou',
            'eval_token_acc'} <= set(evaluation)
    assert evaluation['eval_num_masks'] == 11
    assert list((tmp_path / 'out' / 'images').glob('eval_step_*.png'))
    assert 'what this run trains' in output and 'training set: rows: 12, with masks: 7, masks: 11' in output
    # The log is short, each fact stands in it once, and what was left out is in a file.
    # (A progress bar is one line on a console.)
    assert len([line for line in output.splitlines() if line.strip() and not re.search(r'%\||/s\]|/it\]', line)]) < 150
    assert output.count('attention: ') == 1 and 'SegProjector' in (tmp_path / 'out' / 'structure.txt').read_text()
    for misleading in ('attn_impl: ', 'trust_remote_code', 'None of the inputs', '`torch_dtype` is deprecated'):
        assert misleading not in output, misleading


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
    code = ('import sys\nimport swift_citrusv.plugin.register\nassert "swift" not in sys.modules\n'
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


def test_every_deferred_name_is_there(monkeypatch):
    """A `Deferred` is resolved at its first use, so a wrong name would fail in the middle of somebody's run."""
    from swift_citrusv.plugin import register as module
    made = [module.DeferredModel._model]

    class Recorded(module.Deferred):

        def __init__(self, *names: str) -> None:
            super().__init__(*names)
            made.append(self)

    monkeypatch.setattr(module, 'Deferred', Recorded)
    importlib.import_module('swift.pipelines.app.app')
    module.register()
    for deferred in made:
        assert callable(deferred.resolve()), deferred
    # None was passed over: each call in the source was made, with its module.
    calls = [
        node for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'Deferred'
    ]
    expected = {tuple(ast.literal_eval(value) if isinstance(value, ast.Constant) else '*' for value in call.args)
                for call in calls}  # yapf: disable
    found = {(deferred._module, deferred._name) for deferred in made}
    assert len(calls) >= 10
    for name, attribute in expected:
        assert any(name == one and attribute in (other, '*') for one, other in found), (name, attribute)


def test_the_hook_watches_exactly_the_modules_with_an_action():
    from swift_citrusv._hook import WATCHED
    from swift_citrusv.plugin.register import _ACTIONS
    assert sorted(WATCHED) == sorted(_ACTIONS)


def test_the_registry_asks_for_the_versions_of_the_package():
    from configparser import ConfigParser
    from swift.model import MODEL_MAPPING

    from swift_citrusv.plugin.register import register
    register()
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    required = setup['options']['install_requires'].split()
    asked = MODEL_MAPPING['citrusv'].requires
    assert len(asked) == 3 and set(asked) <= set(required), (asked, required)
