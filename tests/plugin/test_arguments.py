"""Arguments of a Citrus-V run: `--strict`, refused flags, and the attention of packs."""
import json
import os
import pytest
import subprocess
import sys
import torch
from pathlib import Path
from support.rows import Maker, write_jsonl
from support.swift_run import COMMON
from types import SimpleNamespace

from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.model import attention
from swift_citrusv.plugin import arguments
from swift_citrusv.plugin.register import register_transformers

# Parses as `swift sft` does, once for each case; prints what `--strict` became.
PARSE = '''
import json, sys
common, external, cases = json.loads(sys.argv[1])
from swift.arguments import DataArguments, SftArguments
from swift.utils import parse_args
found = []
for flags in cases:
    sys.argv[1:] = [*common, *flags]
    if external:
        # As at the start of a process: the plugin is imported by ms-swift, after the flags are parsed.
        DataArguments.__dataclass_fields__['strict'].default = False
        sys.argv += ['--external_plugins', external]
    elif flags == ['register']:
        from swift_citrusv.plugin.register import register
        register()
        register()
        continue
    found.append(parse_args(SftArguments)[0].strict)
print(json.dumps(found))
'''


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('strict')
    return write_jsonl(folder / 'train.jsonl', [Maker(folder / 'images').row('Why?', 'Because.')])


def parsed(cases: list[list[str]], dataset: str, output: Path, external: Path | None = None) -> list[bool]:
    """What `--strict` is for each list of flags, in one process; ['register'] only registers the plugin once more."""
    common = [*COMMON, '--dataset', dataset, '--output_dir', str(output)]
    environment = {**os.environ, 'SWIFT_CITRUSV_DISABLE': '1' if external else '0'}
    task = json.dumps([common, str(external or ''), cases])
    done = subprocess.run([sys.executable, '-c', PARSE, task],
                          capture_output=True,
                          text=True,
                          env=environment,
                          cwd=output,
                          timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_strict_with_the_hook(tiny_checkpoint, tiny_mllm, dataset, tmp_path):
    """The hook comes before the flags are parsed, so an explicit `--strict false` differs from no flag at all."""
    ours = ['--model', tiny_checkpoint, '--model_type', 'citrusv']
    no, yes = ['--strict', 'false'], ['--strict', 'true']
    # The type may also come from the checkpoint.
    from_checkpoint = ['--model', tiny_checkpoint]
    plain = ['--model', tiny_mllm, '--model_type', 'qwen2_5_vl', '--template', 'qwen2_5_vl']
    expected = [
        (ours, True),
        ([*ours, *no], False),
        ([*ours, *yes], True),
        (from_checkpoint, True),
        ([*from_checkpoint, *no], False),
        # ms-swift's own default for other models.
        (plain, False),
        ([*plain, *yes], True),
        # After the hook, `register()` changes nothing.
        (['register'], None),
        (ours, True),
        ([*ours, *no], False),
        (plain, False),
    ]
    found = parsed([flags for flags, _ in expected], dataset, tmp_path)
    assert found == [strict for _, strict in expected if strict is not None]


def test_strict_as_an_external_plugin_alone(tiny_checkpoint, dataset, tmp_path):
    """The plugin comes after the flags are parsed, and looks for `--strict` in sys.argv."""
    plugin = tmp_path / 'plugin.py'
    plugin.write_text('from swift_citrusv.plugin.register import register\nregister()\n')
    ours = ['--model', tiny_checkpoint, '--model_type', 'citrusv']
    cases = [ours, [*ours, '--strict', 'false'], [*ours, '--strict', 'true']]
    assert parsed(cases, dataset, tmp_path, plugin) == [True, False, True]


# Makes arguments from Python code and from a command line, and compares all fields of the two.
COMPARE = '''
import json, sys
model, dataset, output, cases = json.loads(sys.argv[1])
sys.argv[1:] = []
import swift.arguments
if cases.pop(0):
    from swift_citrusv.plugin.register import register
    register()
from dataclasses import dataclass, fields
from swift.arguments import DataArguments, InferArguments, RLHFArguments, SftArguments
from swift.utils import parse_args

@dataclass
class OwnArguments(SftArguments):
    """A user's."""
    more: int = 1

found = []
common = {'model': model, 'model_type': 'citrusv', 'torch_dtype': 'float32'}
training = {'dataset': [dataset], 'output_dir': output, 'use_cpu': True, 'fp16': False, 'bf16': False,
            'add_version': False, 'report_to': ['none']}
for cls in (SftArguments, OwnArguments, InferArguments):
    own = common if cls is InferArguments else common | training
    for strict in cases:
        given = own if strict is None else own | {'strict': strict}
        flags = [text for name, value in given.items()
                 for text in (f'--{name}', *map(str, value if isinstance(value, list) else [value]))]
        python, parsed = cls(**given), parse_args(cls, flags)[0]
        # Transformers' parser reads these two as lists of choices.
        differing = [spec.name for spec in fields(cls) if spec.name not in ('debug', 'include_num_input_tokens_seen')
                     and str(getattr(python, spec.name)) != str(getattr(parsed, spec.name))]
        found.append([cls.__name__, strict, python.strict, differing])
# Another model keeps ms-swift's default.
found.append(['other', None, DataArguments(dataset=[dataset]).strict, []])
print(json.dumps(found))
'''


@pytest.mark.parametrize('hook', [True, False])
def test_the_same_defaults_from_python(hook, tiny_checkpoint, dataset, tmp_path):
    """With the import hook, and with `register()` after ms-swift was imported."""
    task = json.dumps([tiny_checkpoint, dataset, str(tmp_path / 'out'), [not hook, None, True, False]])
    environment = {**os.environ, 'SWIFT_CITRUSV_DISABLE': '0' if hook else '1'}
    done = subprocess.run([sys.executable, '-c', COMPARE, task],
                          capture_output=True,
                          text=True,
                          env=environment,
                          cwd=tmp_path,
                          timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected: list[list] = [[name, strict, strict is not False, []]
                            for name in ('SftArguments', 'OwnArguments', 'InferArguments')
                            for strict in (None, True, False)]
    assert found == [*expected, ['other', None, False, []]]


def test_choice_of_attention_from_the_arguments(tiny_checkpoint, monkeypatch):
    register_transformers()
    messages: list[str] = []
    monkeypatch.setattr('swift.utils.get_logger', lambda: SimpleNamespace(info=messages.append))
    for capability, use_cpu, bf16, expected in (
        ((8, 0), False, True, 'torch varlen'),
        ((8, 0), False, False, 'sdpa, sample by sample'),
        ((8, 0), True, True, 'sdpa, sample by sample'),
        (None, False, True, 'sdpa, sample by sample'),
    ):
        monkeypatch.setattr(attention, 'cuda_capability', lambda capability=capability: capability)
        args = SimpleNamespace(
            attn_impl=None,
            packing=True,
            use_cpu=use_cpu,
            bf16=bf16,
            fp16=False,
            torch_dtype=torch.float32,
            model_dir=tiny_checkpoint)
        arguments._choose_attention(args)
        case = capability, use_cpu, bf16
        assert args.attn_impl == TORCH_VARLEN, case
        assert messages.pop().split(' (packing')[0] == f'attention: {expected}' and not messages, case
