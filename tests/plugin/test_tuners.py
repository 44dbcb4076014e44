"""Tuner types: masks and the embedding of [SEG] train, are saved and come back; other types are refused by name."""
import json
import pytest
import torch
from pathlib import Path
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from support.tuned import batch_of, loaded, outputs, sft_arguments, tuned
from transformers import Qwen2_5_VLForConditionalGeneration
from typing import Any

from swift_citrusv.constants import SEGMENTATION_MODULES
from swift_citrusv.pipeline import CitrusVPipeline
from swift_citrusv.plugin import tuners

# Flags that LoRA works with.
LORA: dict[str, dict[str, Any]] = {
    'lora': {},
    'dora': {'use_dora': True},
    'pissa': {'init_weights': 'pissa'},
    'biases': {'lora_bias': 'all'},
    'names of layers that SAM2 has too': {'target_modules': ['q_proj', 'v_proj']},
    'vision tower': {'freeze_llm': True, 'freeze_vit': False, 'freeze_aligner': False},
    'embedding': {'modules_to_save': ['embed_tokens']},
    'all embeddings': {'modules_to_save': ['all-embedding']},
    'all norms': {'modules_to_save': ['all-norm']},
    'lora_llm': {'tuner_type': 'lora_llm'},
}  # yapf: disable


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp('tuners') / 'images').every_kind()


@pytest.fixture(scope='module')
def dataset(rows, tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp('tuners') / 'train.jsonl', rows)


@pytest.fixture(scope='module')
def untied_mllm(tiny_mllm, tmp_path_factory):
    """`tiny_mllm` with an lm_head of its own, as Qwen2.5-VL 7B has one."""
    import shutil
    folder = tmp_path_factory.mktemp('tuners') / 'untied'
    shutil.copytree(tiny_mllm, folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
    model.save_pretrained(folder)
    return str(folder)


def save(model, args, folder: Path) -> str:
    """As the trainer saves an adapter."""
    from swift.tuner_plugin import tuners_map
    args.save_args(str(folder))
    if args.tuner_type in tuners_map:
        tuners_map[args.tuner_type].save_pretrained(model, str(folder))
    else:
        model.save_pretrained(str(folder), selected_adapters=['default'])
    return str(folder)


def seg_rows(model, seg: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding of [SEG], and its logit for a state of ones."""
    with torch.no_grad():
        embedding = model.get_input_embeddings()(torch.tensor([[seg]]))[0, 0]
        return embedding, model.get_output_embeddings()(torch.ones_like(embedding)[None, None])[0, 0, seg]


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_lora_trains_saves_and_loads(tied, tiny_mllm, untied_mllm, rows, dataset, tmp_path, monkeypatch):
    """From a plain Qwen2.5-VL: the new head is random, and another one at each loading unless it is saved."""
    mllm = tiny_mllm if tied else untied_mllm
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    for name, flags in LORA.items() if tied else [(name, LORA[name]) for name in ('lora', 'embedding', 'lora_llm')]:
        args = sft_arguments(mllm, dataset, str(tmp_path / 'out'), **{'tuner_type': 'lora', **flags})
        start, _ = args.get_model_processor()
        seg, before = start.config.seg_token_id, seg_rows(start, start.config.seg_token_id)
        model = tuned(args)
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        for part in SEGMENTATION_MODULES:
            assert any(f'{part}.modules_to_save' in key for key in trained), (name, part)
        # SAM2 trains whole, without LoRA inside, and never the parts that no loss reaches.
        assert not any('original_module' in key or 'iou_prediction_head' in key for key in trained), name
        assert not any('lora_' in key for key, _ in model.get_base_model().segmenter.named_parameters()), name
        for moved, unmoved in zip(seg_rows(model, seg), before, strict=True):
            assert (moved - unmoved).abs().max() > 1e-3, name

        again, template = loaded('--adapters', save(model, args, tmp_path / name))
        batch = batch_of(template, rows[3])
        expected = outputs(model, batch)
        assert expected[0].std() > 1e-3
        for found, value in zip(outputs(again, batch), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-6, msg=f'{name}, tied={tied}')


@pytest.mark.parametrize('name', ['embedding', 'lora_llm', 'pissa'])
def test_merging_keeps_text_and_masks(name, tiny_mllm, rows, dataset, tmp_path, monkeypatch):
    from swift.pipelines import export_main
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    args = sft_arguments(tiny_mllm, dataset, str(tmp_path / 'out'), **{'tuner_type': 'lora', **LORA[name]})
    model = tuned(args)
    adapter = save(model, args, tmp_path / 'adapter')
    merged = tmp_path / 'merged'
    export_main(['--adapters', adapter, '--merge_lora', 'true', '--output_dir', str(merged), '--torch_dtype', 'float32',
                 '--device_map', 'cpu'])  # yapf: disable
    whole, template = loaded('--model', str(merged))
    assert not any(isinstance(module, ModulesToSaveWrapper) for module in whole.modules())
    batch = batch_of(template, rows[3])
    for found, value in zip(outputs(whole, batch), outputs(model, batch), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


def test_lora_llm_in_a_run_and_in_the_engine(tiny_mllm, dataset, rows, tmp_path, monkeypatch):
    """A run saves through ms-swift's trainer; the engine loads an adapter itself, with the vision tower."""
    output = tmp_path / 'out'
    watch = run_sft('--model', tiny_mllm, '--model_type', 'citrusv', '--model_kwargs', '{"sam2": "tiny"}', '--dataset',
                    dataset, '--output_dir', str(output), '--tuner_type', 'lora_llm', '--learning_rate', '1e-2',
                    '--gradient_accumulation_steps', '2', '--save_strategy', 'steps', '--save_steps', '2',
                    stop_after=2)  # yapf: disable
    trained = {key for key in watch.before if not torch.equal(watch.before[key], watch.after[key])}
    for part in ('lora_B', 'trainable_tokens', 'model.visual', *(f'{part}.modules_to_save'
                                                                 for part in SEGMENTATION_MODULES)):
        assert any(part in key for key in trained), part
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    adapter = str(output / 'checkpoint-2')
    model, template = loaded('--adapters', adapter)
    found = dict(model.named_parameters())
    for key in trained:
        assert torch.equal(found[key], watch.after[key]), key
    engine = CitrusVPipeline(tiny_mllm, adapters=[adapter], device='cpu', dtype=torch.float32).engine
    batch = batch_of(template, rows[3])
    for one, other in zip(outputs(engine.model, batch), outputs(model, batch), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match='lora_llm, which replaces the vision tower'):
        engine._add_adapter(adapter, 'second')


def test_every_type_is_sorted():
    """A type that a later ms-swift adds is refused until it is in one of the two."""
    from swift.arguments.base_args.base_args import get_supported_tuners
    assert set(tuners.WORKS) | tuners.REFUSED.keys() == get_supported_tuners()
    assert not set(tuners.WORKS) & tuners.REFUSED.keys()


def test_refused_types(tiny_checkpoint, dataset, tmp_path, monkeypatch):
    from swift.tuner_plugin import tuners_map
    monkeypatch.setitem(tuners_map, 'novel', tuners_map['dummy'])
    for name in [*tuners.REFUSED, 'novel']:
        with pytest.raises(ValueError, match=f'--tuner_type {name} cannot train .* Use --tuner_type lora, lora_llm'):
            sft_arguments(tiny_checkpoint, dataset, str(tmp_path), tuner_type=name)


# Flags without an effect, or with a wrong one: (flags, what the message says).
REFUSED_FLAGS = (
    ({'freeze_parameters': ['segmenter', 'visual']}, '--freeze_parameters segmenter visual has no effect'),
    ({'freeze_parameters_ratio': 0.5}, '--freeze_parameters_ratio 0.5 has no effect'),
    ({'freeze_parameters_regex': '.*'}, '--freeze_parameters_regex .* has no effect'),
    ({'trainable_parameters': ['lm_head']}, '--trainable_parameters lm_head has no effect'),
    ({'trainable_parameters_regex': '.*'}, '--trainable_parameters_regex .* has no effect'),
    ({'freeze_llm': True}, 'leave nothing for LoRA to adapt'),
    ({'freeze_llm': True, 'target_modules': ['q_proj']}, '--freeze_llm True has no effect'),
    ({'init_weights': 'pissa_niter_4'}, '--init_weights pissa_niter_4 cannot be used'),
    ({'init_weights': 'loftq'}, 'it needs a preparation'),
    ({'init_weights': 'lora-ga'}, 'it needs a preparation'),
    ({'init_weights': 'eva'}, 'Use true, false, gaussian, pissa'),
    ({'target_parameters': ['q_proj.weight']}, '--target_parameters q_proj.weight would also match layers of SAM2'),
    ({'use_swift_lora': True}, '--use_swift_lora true'),
    ({'tuner_backend': 'unsloth'}, 'Use --tuner_backend peft'),
    ({'tuner_type': 'lora_llm', 'use_dora': True}, '--use_dora True has no effect with --tuner_type lora_llm'),
    ({'tuner_type': 'lora_llm', 'target_modules': ['q_proj']}, '--target_modules q_proj has no effect'),
    ({'tuner_type': 'lora_llm', 'quant_method': 'quanto', 'quant_bits': 8}, 'which quanto quantizes'),
    ({'tuner_type': 'full', 'quant_method': 'bnb', 'quant_bits': 4}, '--tuner_type full cannot train weights'),
)  # yapf: disable


def test_refused_flags(tiny_checkpoint, dataset, tmp_path):
    for flags, message in REFUSED_FLAGS:
        with pytest.raises(ValueError) as raised:
            sft_arguments(tiny_checkpoint, dataset, str(tmp_path), **{'tuner_type': 'lora', **flags})
        assert message in str(raised.value), flags


def test_lora_on_an_embedding_is_refused(tiny_checkpoint, dataset, tmp_path):
    """A list of names, ms-swift's word for all embeddings, and a pattern."""
    for flags in ({'target_modules': ['q_proj', 'embed_tokens']}, {'target_modules': ['all-linear', 'all-embedding']},
                  {'target_regex': r'.*\.(q_proj|embed_tokens)'}):  # yapf: disable
        args = sft_arguments(tiny_checkpoint, dataset, str(tmp_path), tuner_type='lora', **flags)
        with pytest.raises(ValueError, match=r'embed_tokens, of which the row of \[SEG\]'):
            tuned(args)


def test_an_adapter_without_segmentation_is_refused(tiny_mllm, tiny_checkpoint, dataset, tmp_path, monkeypatch):
    """LoRA of a plain Qwen2.5-VL: masks would not train, and a new head would be lost."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm)
    get_peft_model(model, LoraConfig(target_modules=['q_proj'])).save_pretrained(tmp_path)
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    for base in (tiny_mllm, tiny_checkpoint):
        args = sft_arguments(base, dataset, str(tmp_path / 'out'), tuner_type='lora', adapters=[str(tmp_path)])
        with pytest.raises(ValueError, match='has no seg_projector and no segmenter.*swift export --adapters'):
            tuned(args)


def test_the_template_of_a_model_that_ms_swift_trained(tiny_mllm, dataset, tmp_path, monkeypatch):
    """Its args.json has the template of Qwen2.5-VL, which knows no masks."""
    import shutil
    folder = tmp_path / 'trained'
    shutil.copytree(tiny_mllm, folder)
    (folder / 'args.json').write_text(json.dumps({'template': 'qwen2_5_vl', 'model_type': 'qwen2_5_vl'}))
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    assert sft_arguments(str(folder), dataset, str(tmp_path / 'out'), tuner_type='lora').template == 'citrusv'
    pipe = CitrusVPipeline(str(folder), device='cpu', dtype=torch.float32)
    assert pipe.engine.template.template_meta.template_type == 'citrusv'
