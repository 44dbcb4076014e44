"""Every flag of ms-swift is sorted, and what is refused or warned of is so where arguments are read."""
import copy
import json
import os
import pytest
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from support import compatibility
from support.rows import Maker, write_jsonl
from support.swift_run import COMMON
from swift.arguments import DeployArguments, InferArguments, PretrainArguments, RLHFArguments, SftArguments
from swift.cli.main import parse_yaml_args
from swift.utils import get_logger, parse_args
from transformers import HfArgumentParser
from typing import Any
from unittest import mock

from swift_citrusv.plugin.arguments import _apply_defaults
from swift_citrusv.plugin.flags import inference_rules, rlhf_rules, rules, setting_rules, sorts, tuner_rules
from swift_citrusv.plugin.flags.check import check_flags
from swift_citrusv.plugin.flags.commands import rlhf_rules as all_of_rlhf
from swift_citrusv.plugin.flags.commands import training_rules
from swift_citrusv.plugin.flags.names import READ_BY_OTHERS
from swift_citrusv.plugin.flags.rule import REFUSED, WARNED, Rule
from swift_citrusv.plugin.flags.sorts import NO_MATTER, WORKS
from swift_citrusv.settings import SettingError, Settings, variable

ROOT = Path(__file__).resolve().parents[2]
TRAINING: list[Any] = [*sorts.SORTS.values(), tuner_rules.SORTS, *rules.RULES.values(), tuner_rules.RULES]
INFERENCE: list[Any] = [*inference_rules.SORTS.values(), *list(inference_rules.RULES.values())[:-1]]
RLHF: list[Any] = [*rlhf_rules.SORTS.values(), *rlhf_rules.RULES.values()]
INFERENCE_RULES = [
    rule for group in inference_rules.RULES.values() for rule in group
    if not isinstance(rule, setting_rules.SettingRule)
]
# Where the type of a flag does not tell a value.
VALUES = {
    'acc_strategy': 'seq', 'average_tokens_across_devices': 'false', 'device_groups': '{"a": 1}', 'device_map': 'auto',
    'eval_strategy': 'steps', 'fsdp_config': '{"a": 1}', 'generation_config': 'x', 'ignore_data_skip': 'true',
    'include_for_metrics': 'loss', 'logprobs': 'true', 'lora_ga_scale': 'x', 'metric_for_best_model': 'f1',
    'mrl_dims': '{"32": 1.0}', 'optim_args': 'a=1', 'optimizer': 'default', 'quant_bits': '4',
    'train_sampling_strategy': 'sequential', 'vllm_engine_kwargs': '{}', 'packing_strategy': 'sequential'
}  # yapf: disable
# The command line cannot give them.
ONLY_FROM_PYTHON = {'liger_kernel_config': {'rope': True}, 'parallelism_config': {'tp_size': 2}}
# A value of each setting that is not its default.
SETTINGS = {
    'pack_images': 4, 'pack_buffer': 10, 'eval_pictures': 3, 'mask_grad_scale': .5, 'sam2': 'tiny',
    'sam2_preset': 'tiny', 'token_weight': .5, 'dice_weight': .5, 'bce_weight': .5, 'overlay_dir': 'masks'
}  # yapf: disable


@pytest.fixture(scope='module', autouse=True)
def registered():
    from swift_citrusv.plugin.register import register
    register()


@pytest.fixture(scope='module')
def base(tiny_checkpoint, tmp_path_factory) -> list[str]:
    """The flags of a run that nothing refuses or warns of."""
    folder = tmp_path_factory.mktemp('flags')
    dataset = write_jsonl(folder / 'train.jsonl', [Maker(folder / 'images').row('Why?', 'Because.')])
    return [*COMMON, '--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
            str(folder / 'out')]  # yapf: disable


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """The warnings of rules."""
    found: list[str] = []
    monkeypatch.setattr(get_logger(), 'warning', lambda text: found.append(text)
                        if text.startswith(('--', 'The setting')) else None)
    return found


def names_of(groups: Iterable[Iterable[Any]]) -> set[str]:
    return {name for group in groups for entry in group for name in entry.flags.split()}


def value_of(cls: type, name: str) -> str:
    """A value of a flag, as text, that is not its default."""
    if name in VALUES:
        return VALUES[name]
    spec = next(spec for spec in fields(cls) if spec.name == name)
    choices = typing.get_args(spec.type)
    if isinstance(spec.default, bool) or spec.type is bool or bool in choices:
        return str(not spec.default).lower()
    if typing.get_origin(spec.type) is typing.Literal:
        return next(str(choice) for choice in choices if choice != spec.default)
    kinds = (spec.type, *choices)
    if int in kinds or float in kinds:
        default: Any = 0 if spec.default is MISSING else spec.default or 0
        return str(default + (1 if int in kinds else .25))
    return '1' if choices and int in typing.get_args(choices[0]) else 'x'


def example(cls: type, rule: Rule, name: str) -> list[str]:
    """The flags that make a rule apply to one of its flags."""
    text = rule.example or '--{}'
    flags = text.format(name).split()
    return flags if text.partition('{}')[2] else [*flags, value_of(cls, name)]


def test_every_flag_is_sorted():
    for commands, groups in (((SftArguments, PretrainArguments), TRAINING), ((InferArguments, DeployArguments),
                                                                             INFERENCE)):
        known = {spec.name for cls in commands for spec in fields(cls)}
        assert names_of(groups) == known, (known - names_of(groups), names_of(groups) - known)
    # The own flags of `swift rlhf`, and those that are sorted otherwise than in `swift sft`.
    own = {spec.name for spec in fields(RLHFArguments)} - {spec.name for spec in fields(SftArguments)}
    different = names_of([rlhf_rules.RULES[rlhf_rules.DIFFERENT]])
    assert names_of(RLHF) == own | different, (own - names_of(RLHF), names_of(RLHF) - own - different)
    assert different < names_of(TRAINING)
    for sorted_groups in (sorts.SORTS, rlhf_rules.SORTS, inference_rules.SORTS):
        listed = [name for group in sorted_groups.values() for entry in group for name in entry.flags.split()]
        assert len(listed) == len(set(listed)), sorted(name for name in listed if listed.count(name) > 1)


def test_every_reason_is_a_sentence():
    for entry in (entry for group in [*TRAINING, *RLHF, *INFERENCE] for entry in group):
        assert entry.reason.endswith('.'), entry
        if isinstance(entry, Rule):
            assert entry.remedy[0].isupper() and entry.remedy.endswith('.') and entry.outcome not in {WORKS, NO_MATTER}


def problem_of(cls: type, rule: Rule, name: str, base: list[str], untouched: Any, parser: Any,
               warnings: list[str]) -> str | None:
    """What is wrong with the way in which a rule stops or warns of one of its flags; None if nothing is."""
    flags = example(cls, rule, name)
    if rule.outcome == REFUSED and name not in ONLY_FROM_PYTHON:
        try:
            # ms-swift writes --model_kwargs into the environment.
            with mock.patch.dict(os.environ):
                parse_args(cls, [*base, *flags])
        except ValueError as e:
            if f'--{name} ' not in str(e):
                return f'{flags} raises {e!r}'
        else:
            return f'{flags} is not refused'
    # The rule alone, without reading the model again.
    args = copy.copy(untouched)
    given: dict[str, Any] = {name: ONLY_FROM_PYTHON.get(name)}
    if name not in ONLY_FROM_PYTHON:
        raw = vars(parser.parse_args([*base, *flags]))
        given = {flag[2:]: raw[flag[2:]] for flag in flags if flag.startswith('--')}
    vars(args).update({'optimizer': None, **given})
    if cls is SftArguments:
        _apply_defaults(args, given)
    warnings.clear()
    try:
        settings = {variable(key): str(value) for key, value in json.loads(given.get('model_kwargs', '{}')).items()}
        with mock.patch.dict(os.environ, settings):
            check_flags(args, given, [rule])
        texts, outcome = warnings, WARNED
    except ValueError as e:
        texts, outcome = [str(e)], REFUSED
    right = len(texts) == 1 and f'--{name} ' in texts[0] and rule.remedy in texts[0] and outcome == rule.outcome
    return None if right else f'{flags}: {outcome} {texts}'


def test_each_rule_of_training(base, warnings, monkeypatch):
    """A refused flag ends `swift sft` where it reads its arguments; a warned one is named in a warning."""
    parser = HfArgumentParser([SftArguments])
    untouched = parse_args(SftArguments, base)[0]
    assert not warnings
    problems = []
    for rule in [*(rule for group in rules.RULES.values() for rule in group), *tuner_rules.RULES]:
        for name in rule.names():
            run = base
            with monkeypatch.context() as patch:
                # Some rules depend on the machine.
                if name == 'device_map':
                    patch.setattr('swift.utils.is_mp', lambda: True)
                    run = [*base, '--use_cpu', 'false']
                    patch.setattr(untouched, 'use_cpu', False)
                if name == 'average_tokens_across_devices':
                    patch.setattr('swift.arguments.base_args.base_args.get_dist_setting', lambda: (0, 0, 2, 1))
                    patch.setattr(untouched, 'global_world_size', 2)
                problems.append(problem_of(SftArguments, rule, name, run, untouched, parser, warnings))
    assert not any(problems), '\n'.join(filter(None, problems))


def test_each_rule_of_rlhf(base, warnings):
    parser = HfArgumentParser([RLHFArguments])
    untouched = parse_args(RLHFArguments, [*base, '--rlhf_type', 'dpo'])[0]
    assert not warnings
    problems = [
        problem_of(RLHFArguments, rule, name, base, untouched, parser, warnings) for group in rlhf_rules.RULES.values()
        for rule in group for name in rule.names()
    ]
    assert not any(problems), '\n'.join(filter(None, problems))
    # What the type reads passes, and ms-swift's own defaults for it are not taken for given flags.
    for flags in ('--rlhf_type simpo --simpo_gamma 2 --cpo_alpha 0', '--rlhf_type rm --center_rewards_coefficient 0.01',
                  '--rlhf_type grpo --reward_funcs format --num_generations 2 --response_prefix x '
                  '--per_device_train_batch_size 2', '--rlhf_type gkd',
                  '--rlhf_type dpo --rpo_alpha 1 --label_smoothing 0.1', '--rlhf_type kto --desirable_weight 2'):
        args = parse_args(RLHFArguments, [*base, *flags.split()])[0]
        assert not warnings, (flags, warnings)
        assert args.rlhf_type in flags or args.loss_type == 'simpo'
    # The rules about model, tuners and processes are those of `swift sft`.
    shared = set(all_of_rlhf()) & set(training_rules())
    assert {'use_swift_lora', 'sequence_parallel_size', 'freeze_llm', 'deepspeed_autotp_size'} <= names_of([shared])
    with pytest.raises(ValueError, match='--use_swift_lora true'):
        parse_args(RLHFArguments, [*base, '--rlhf_type', 'dpo', '--use_swift_lora', 'true'])


def test_each_rule_of_inference(base, warnings):
    run = ['--model', base[base.index('--model') + 1], '--model_type', 'citrusv', '--torch_dtype', 'float32']
    parser = HfArgumentParser([InferArguments])
    untouched = parse_args(InferArguments, run)[0]
    assert not warnings
    problems = [
        problem_of(InferArguments, rule, name, run, untouched, parser, warnings) for rule in INFERENCE_RULES
        for name in rule.names()
    ]
    assert not any(problems), '\n'.join(filter(None, problems))


def test_each_setting_without_effect(base, warnings):
    parser = HfArgumentParser([SftArguments])
    untouched = parse_args(SftArguments, base)[0]
    setting_rule_list = [rule for group in setting_rules.SETTING_RULES.values() for rule in group]
    assert {name for rule in setting_rule_list for name in rule.names()} == set(SETTINGS)
    for rule in setting_rule_list:
        for name in rule.names():
            args = copy.copy(untouched)
            raw = vars(parser.parse_args([*base, *rule.example.split()]))
            vars(args).update({flag[2:]: raw[flag[2:]] for flag in rule.example.split() if flag.startswith('--')})
            with mock.patch.dict(os.environ, {variable(name): str(SETTINGS[name])}):
                check_flags(args, {}, training_rules())
            own = [text for text in warnings if text.startswith(f'The setting {name}={SETTINGS[name]}')]
            assert len(own) == 1 and rule.remedy in own[0] and variable(name) in own[0], (name, warnings)
            warnings.clear()
    # Where they have one, nothing is said; a default says nothing either.
    args = copy.copy(untouched)
    args.packing = args.streaming = args._val_dataset_exists = True
    active = {'pack_images': 4, 'pack_buffer': 10, 'eval_pictures': 3, 'mask_grad_scale': .5, 'dice_weight': .5}
    with mock.patch.dict(os.environ, {variable(name): str(value) for name, value in active.items()}):
        check_flags(args, {}, training_rules())
    with mock.patch.dict(os.environ, {variable('pack_images'): str(Settings().pack_images)}):
        check_flags(untouched, {}, training_rules())
    assert not warnings


def test_settings_of_training_in_an_inference(base, warnings):
    run = ['--model', base[base.index('--model') + 1], '--torch_dtype', 'float32', '--model_kwargs']
    with mock.patch.dict(os.environ):
        parse_args(InferArguments, [*run, '{"seg_lr": 1e-4}'])
    assert len(warnings) == 1 and warnings[0].startswith('The setting seg_lr=0.0001'), warnings
    with mock.patch.dict(os.environ, {variable('seg_lr'): '1e-4'}):
        parse_args(InferArguments, [*run, '{"overlay_dir": null}'])
    assert len(warnings) == 1
    with mock.patch.dict(os.environ):
        parse_args(InferArguments, [*run, '{"sam2": "tiny"}'])
    assert len(warnings) == 2 and warnings[1].startswith('The setting sam2=tiny'), warnings


def test_unknown_settings(base, tiny_mllm, tmp_path):
    """A name that nothing reads ends the run, with the nearest one that is read."""
    run = [*base, '--model_kwargs']
    for keys, words in (
        ('{"seg_lrr": 1e-4}', ["'seg_lrr'", "Did you mean 'seg_lr'?"]),
        ('{"SEG_LRR": 1e-4, "seg_lr": 1e-4}', ["'SEG_LRR'", "Did you mean 'seg_lr'?"]),
        ('{"max_pixel": 4096}', ["'max_pixel'", "Did you mean 'max_pixels'?"]),
        ('{"overlay": "x"}', ["'overlay'", "Did you mean 'overlay_dir'?"]),
        ('{"zzzz": 1, "qqqq": 2}', ["'zzzz'", "'qqqq'", 'belongs into the environment']),
    ):
        with mock.patch.dict(os.environ), pytest.raises(SettingError) as error:
            parse_args(SftArguments, [*run, keys])
        assert all(word in str(error.value) for word in words), (keys, error.value)
    known = {'MAX_PIXELS': 4096, 'fps': 2.0, 'FPS_MAX_FRAMES': 8, 'video_max_pixels': 4096, 'seg_lr': 1e-4,
             'QWENVL_BBOX_FORMAT': 'new', 'sam2': None}  # yapf: disable
    with mock.patch.dict(os.environ):
        parse_args(SftArguments, [*run, json.dumps(known)])
        # Other models keep ms-swift's behaviour.
        os.environ['CITRUSV_SEG_LRR'] = '1'
        plain = ['--model', tiny_mllm, '--model_type', 'qwen2_5_vl', '--template', 'qwen2_5_vl']
        parse_args(InferArguments, [*plain, '--model_kwargs', '{"anything": 1}'])
        with pytest.raises(SettingError, match="variable CITRUSV_SEG_LRR .*'CITRUSV_SEG_LR'"):
            parse_args(SftArguments, base)
    for name, entries, meant in (('stage.yaml', 'ENV:\n  SEG_LRR: 1e-4\n',
                                  'CITRUSV_SEG_LR'), ('stage.yaml', 'ENV:\n  SEG_LR: 1e-4\n', 'CITRUSV_SEG_LR'),
                                 ('stage.json', '{"ENV": {"MASK_GRAD_SCAL": 1}}', 'CITRUSV_MASK_GRAD_SCALE')):
        path = tmp_path / name
        path.write_text(entries, encoding='utf-8')
        with mock.patch.dict(os.environ, {'SWIFT_CONFIG_FILE': str(path)}):
            with pytest.raises(SettingError, match=f'{name}: ENV .*Did you mean {meant}?'):
                parse_args(SftArguments, base)
    (tmp_path / 'stage.yaml').write_text('ENV:\n  NCCL_DEBUG: INFO\n  MAX_PIXELS: 4096\n  CITRUSV_SEG_LR: 1\n')
    with mock.patch.dict(os.environ, {'SWIFT_CONFIG_FILE': str(tmp_path / 'stage.yaml')}):
        parse_args(SftArguments, base)


def test_the_page_has_the_tables():
    found = compatibility.sections(compatibility.PAGE.read_text(encoding='utf-8'))
    for name, text in compatibility.expected().items():
        assert found[name] == text, f'docs/compatibility.md: run python -m support.compatibility in tests/ for {name}'


def test_names_that_others_read():
    """They are read where this package says: in the sources of ms-swift and qwen-vl-utils, in either case."""
    import qwen_vl_utils
    import swift
    folders = [Path(module.__file__).parent for module in (qwen_vl_utils, swift)]
    places = ('*.py', 'utils/*.py', 'template/*.py', 'template/templates/qwen.py', 'model/models/qwen.py',
              'dataset/preprocessor/*.py')
    text = ''.join(path.read_text(encoding='utf-8') for folder in folders for place in places
                   for path in folder.glob(place))  # yapf: disable
    for name in READ_BY_OTHERS:
        assert any(f'{quote}{form}{quote}' in text for form in (name, name.upper()) for quote in '\'"'), name


def test_stage_files_pass(base, warnings):
    for path in sorted((ROOT / 'templates').glob('stage*.yaml')):
        with mock.patch.dict(os.environ):
            argv = [str(path)]
            parse_yaml_args(argv)
            parse_args(SftArguments, [*argv, *base, '--max_length', '512'])
        assert not warnings, path


def test_greater_is_better(base):
    """A run keeps the checkpoint with the smallest distance, unless it says otherwise."""
    run = [*base, '--eval_metric', 'citrusv_seg', '--metric_for_best_model']
    for flags, better in ((['hd95'], False), (['eval_hd95'], False), (['dice'], True), (['loss'], False),
                          (['hd95', '--greater_is_better', 'true'], True)):
        args = parse_args(SftArguments, [*run, *flags, '--val_dataset', base[base.index('--dataset') + 1]])[0]
        assert args.greater_is_better is better and args.training_args.greater_is_better is better, flags
