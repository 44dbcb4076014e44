"""The log at the start: nothing that misleads, long listings in files, and everything with LOG_LEVEL=DEBUG."""
import copy
import logging
import pytest
import torch
from swift.arguments import SftArguments
from types import SimpleNamespace
from typing import Any

from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.plugin import quiet
from swift_citrusv.plugin.quiet import StartFilter, frozen_parts, shorten_arguments, without_messages
from swift_citrusv.plugin.register import register


@pytest.fixture(scope='module')
def model(tiny_checkpoint):
    register()
    return CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope='module')
def arguments(tiny_checkpoint, tmp_path_factory):
    register()
    folder = tmp_path_factory.mktemp('out')
    return SftArguments(
        model=tiny_checkpoint, model_type='citrusv', dataset=[tiny_checkpoint], output_dir=str(folder), use_cpu=True,
        check_model=False, add_version=False, learning_rate=3e-3, freeze_vit=False, packing=True, max_length=512,
        tuner_type='full')  # yapf: disable


def _record(message: Any) -> logging.LogRecord:
    return logging.LogRecord('swift', logging.INFO, __file__, 1, message, (), None)


def _filtered(start: StartFilter, message: str) -> str | None:
    record = _record(message)
    return record.msg if start.filter(record) else None


def test_the_arguments(arguments):
    dump = f'args: {arguments}'
    short = shorten_arguments(dump)
    assert len(dump.splitlines()) > 300 and len(short.splitlines()) < 25
    given = ('learning_rate=0.003', 'freeze_vit=False', 'packing=True', 'max_length=512', 'model_type=citrusv',
             'tuner_type=full', 'loss_type=citrusv', 'optimizer=citrusv', 'use_cpu=True')  # yapf: disable
    words = short.replace('\n ', '').split(', ')
    for wanted in given:
        assert wanted in ' '.join(words), wanted
    for default in ('warmup_steps=', 'lora_rank=', 'swanlab', 'seed=42', 'hub_token'):
        assert default not in short, default
    assert 'attn_impl=' in short and 'attn_impl=' not in shorten_arguments(dump, hidden=('attn_impl', ))
    assert 'args.json' in short


def test_what_the_filter_changes(arguments, model):
    start = StartFilter()
    start.model_file = '/out/model.txt'
    assert 'have their defaults' in (_filtered(start, f'args: {arguments}') or '')
    assert _filtered(start, f'model: {model}') == 'model: CitrusVForConditionalGeneration. Its modules: /out/model.txt'
    adapter = f'PeftModelForCausalLM(\n  (base_model): LoraModel(\n    (model): {model}\n  )\n)'
    assert _filtered(start, f'model: {adapter}') == 'model: PeftModelForCausalLM. Its modules: /out/model.txt'
    info = f"model_info: ModelInfo(model_type='citrusv', model_dir='x', config={model.config}, task_type='causal_lm')"
    assert _filtered(start, info) == ("model_info: ModelInfo(model_type='citrusv', model_dir='x', "
                                      "config=its config.json, task_type='causal_lm')")  # yapf: disable
    assert '\n' not in (_filtered(start, f'model.generation_config: {model.generation_config}') or '')
    # The attention is named once, by the line that knows the kernel; without that line, by ms-swift's.
    assert _filtered(start, 'attn_impl: sdpa') == 'attn_impl: sdpa'
    named = 'attention: sdpa, sample by sample (packing); vision tower: sdpa, window by window'
    assert _filtered(start, named) == named and _filtered(start, 'attn_impl: torch_varlen') is None


def test_what_passes_unchanged(arguments, monkeypatch):
    start = StartFilter()
    others = ('args: SftArguments(\nmodel_type=qwen2_5_vl,\nseed=42,\n)', 'model: Qwen2ForCausalLM(\n  (lm_head)\n)',
              "model_info: ModelInfo(model_type='qwen2_5_vl', config=Qwen {\n}\n)", 'attn_impl: None', 'Setting x: 3',
              'train_dataset: Dataset({\n    num_rows: 3\n})', 'args: InferArguments(\nmodel_type=citrusv,\n)')
    for message in others:
        assert _filtered(start, message) == message, message
    record = _record({'loss': 1.})
    assert start.filter(record) and record.msg == {'loss': 1.}
    # With LOG_LEVEL=DEBUG.
    logger = logging.getLogger('swift')
    monkeypatch.setattr(logger, 'level', logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    try:
        assert _filtered(start, f'args: {arguments}') == f'args: {arguments}'
    finally:
        monkeypatch.undo()
        logger.manager._clear_cache()  # type: ignore[attr-defined]


def test_the_filter_is_installed_once():
    register()
    register()
    assert logging.getLogger('swift').filters.count(quiet._FILTER) == 1


def test_messages_are_left_out_inside_only(caplog):
    logger = logging.getLogger('swift.quiet_test')
    caplog.set_level(logging.INFO)
    logger.propagate = True
    logger.addHandler(caplog.handler)
    try:
        with without_messages('swift.quiet_test', 'Loading'):
            logger.info('Loading model from x')
            logger.info('Other')
        logger.info('Loading outside')
    finally:
        logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == ['Other', 'Loading outside']


def test_no_false_warnings_when_a_model_is_read(tiny_checkpoint, tiny_mllm, caplog):
    """No code of a checkpoint runs (`test_safe_loading`), so ms-swift's warning is shown for other models only."""
    from swift.model import model_meta
    caplog.set_level(logging.INFO)
    register()
    logger = logging.getLogger('swift')
    logger.addHandler(caplog.handler)
    try:
        for model_dir, model_type, warns in ((tiny_checkpoint, 'citrusv', False), (tiny_checkpoint, None, False),
                                             (tiny_mllm, 'citrusv', False), (tiny_mllm, 'qwen2_5_vl', True)):
            caplog.clear()
            model_meta._get_model_info(model_dir, model_type, None)
            assert ('trust_remote_code=True' in caplog.text) is warns, (model_dir, model_type)
    finally:
        logger.removeHandler(caplog.handler)


def test_frozen_parts(model):
    """Checkpointing is turned off exactly where torch would warn, in every combination of frozen parts."""
    model = copy.deepcopy(model)
    mllm = model.model
    for trained, frozen in (
        ((mllm, ), []),
        ((mllm.language_model, ), [mllm.visual]),
        ((mllm.visual, ), []),
        ((mllm.visual.merger, ), []),
        ((), [mllm.visual, mllm.language_model]),
    ):
        mllm.requires_grad_(False)
        for part in trained:
            part.requires_grad_(True)
        assert frozen_parts(model) == frozen, [type(part).__name__ for part in trained]


def test_the_patch_changes_frozen_parts_only(model):
    from swift.trainers.mixin import SwiftMixin
    model = copy.deepcopy(model)
    model.model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    meta = SimpleNamespace(
        is_multimodal=True,
        model_arch=SimpleNamespace(language_model=['model.language_model'], vision_tower=['model.visual']))
    model.model_meta = meta
    args = SimpleNamespace(
        gradient_checkpointing=True, vit_gradient_checkpointing=True, gradient_checkpointing_kwargs=None)
    for template_type, in_vision in (('citrusv', False), ('qwen2_5_vl', True)):
        template = SimpleNamespace(template_meta=SimpleNamespace(template_type=template_type))
        SwiftMixin._prepare_gradient_checkpointing(SimpleNamespace(args=args, template=template), model)
        args.gradient_checkpointing = True
        for part, on in ((model.model.visual, in_vision), (model.model.language_model, True), (model.segmenter, True)):
            assert getattr(part, 'gradient_checkpointing') is on, (template_type, type(part).__name__)
    assert torch.is_grad_enabled()
