"""Quantization: SAM2, projector and the rows of [SEG] keep their weights; methods that cannot do so are refused."""
import json
import pytest
import torch
import typing
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from support.tuned import batch_of, loaded, outputs, sft_arguments, tuned
from torch import nn
from transformers import AutoConfig, BitNetQuantConfig, EetqConfig, FineGrainedFP8Config
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from types import SimpleNamespace

from swift_citrusv.constants import SEGMENTATION_MODULES
from swift_citrusv.model.build import build_checkpoint
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.quantized import check_quantized
from swift_citrusv.plugin import quantization

# What must not change: SAM2, projector, embeddings and language head.
KEPT = (*SEGMENTATION_MODULES, 'lm_head', 'model.language_model.embed_tokens')
METHODS = {'bnb': (4, 8), 'quanto': (2, 4, 8, 'float8')}
PACKAGES = {'bnb': 'bitsandbytes', 'quanto': 'optimum.quanto'}


def flags_of(method: str, bits: int | str) -> list[str]:
    return ['--quant_method', method, '--quant_bits', str(bits)]


@pytest.fixture(scope='module')
def row(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp('quantization') / 'images').every_kind()[3]


@pytest.fixture(scope='module')
def dataset(row, tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp('quantization') / 'train.jsonl', [row] * 4)


@pytest.fixture(scope='module')
def plain(tiny_checkpoint):
    return loaded('--model', tiny_checkpoint)[0]


def empty_model(checkpoint: str) -> CitrusVForConditionalGeneration:
    """On the meta device, as quantizers get it."""
    with torch.device('meta'):
        return CitrusVForConditionalGeneration(AutoConfig.from_pretrained(checkpoint)).eval()


# ---- every method, without its package


def test_every_method_is_sorted(tiny_checkpoint, dataset, tmp_path, monkeypatch):
    """Each method of ms-swift, in each kind of command: accepted, or refused with those that are."""
    from swift.arguments import ExportArguments, InferArguments
    from swift.arguments.base_args.quant_args import QuantizeArguments

    # It asks for the method's package.
    monkeypatch.setattr(QuantizeArguments, 'get_quantization_config', lambda self: None)

    def make(kind: type, method: str) -> None:
        flags = {'quant_method': method, 'quant_bits': None if method == 'fp8' else 8}
        if kind is QuantizeArguments:
            sft_arguments(tiny_checkpoint, dataset, str(tmp_path / 'sft'), tuner_type='lora', **flags)
        else:
            kind(model=tiny_checkpoint, dataset=[dataset] if kind is ExportArguments else [], **flags)

    for kind, owner, works in (
        (QuantizeArguments, QuantizeArguments, quantization.TRAINS),
        (InferArguments, QuantizeArguments, quantization.LOADS),
        (ExportArguments, ExportArguments, quantization.EXPORTS),
    ):
        methods = typing.get_args(typing.get_type_hints(owner)['quant_method'])
        assert set(works) <= set(methods) and len(methods) >= 5
        for method in methods:
            if method in works:
                make(kind, method)
                continue
            with pytest.raises(ValueError) as raised:
                make(kind, method)
            assert f'--quant_method {method} cannot' in str(raised.value), (kind, method)
            assert str(raised.value).endswith(f'Use one of: {", ".join(works)}.'), (kind, method)
    adapter = SimpleNamespace(
        tuner_backend='peft', quant_method='bnb', quant_bits=4, quant_n_samples=1, adapters=['a'], merge_lora=False)
    with pytest.raises(ValueError, match='would write the adapter alone.*Add --merge_lora true'):
        quantization.check_loading(adapter)
    novel = SimpleNamespace(tuner_backend='peft', quant_method='novel', quant_bits=4)
    with pytest.raises(ValueError, match='novel cannot load a Citrus-V model: whether .* is not known. Use one of'):
        quantization.check_loading(novel)


def test_the_rule_of_transformers_leaves_the_segmentation_modules_out(tiny_checkpoint):
    """With ms-swift's list of modules to leave out, without one, and with an empty one."""
    model = empty_model(tiny_checkpoint)
    names = [name for name, _ in model.named_modules() if name.startswith(SEGMENTATION_MODULES)]
    assert len(names) > 100
    for skipped in (None, ['model.visual', 'model.visual.merger', 'lm_head'], []):
        patterns = HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules)
        for name in names:
            assert not should_convert_module(name, patterns), (skipped, name)
        assert should_convert_module('model.language_model.layers.0.mlp.up_proj', patterns)


def test_quantizers_that_need_no_package(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr('transformers.integrations.hub_kernels.get_kernel', lambda *args, **kwargs: None)
    for config in (FineGrainedFP8Config(modules_to_not_convert=['lm_head']), EetqConfig('int8'), BitNetQuantConfig()):
        # BitNet's method cannot quantize.
        for pre_quantized in (True, ) if isinstance(config, BitNetQuantConfig) else (False, True):
            model = empty_model(tiny_checkpoint)
            before = {name: type(module) for name, module in model.named_modules()}
            quantizer = AutoHfQuantizer.from_config(config, pre_quantized=pre_quantized)
            quantizer._process_model_before_weight_loading(model, device_map=None)
            changed = {name for name, module in model.named_modules() if type(module) is not before[name]}
            assert 'model.language_model.layers.0.mlp.up_proj' in changed, (config, pre_quantized)
            assert not [name for name in changed if name.startswith(KEPT)], (config, pre_quantized)


class Foreign(nn.Linear):
    """A layer of a quantizer."""
    __module__ = 'bitsandbytes.nn'


def test_a_checkpoint_quantized_elsewhere_is_refused(tiny_checkpoint):
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    check_quantized(model)
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method='novel'))
    check_quantized(model)

    def refused(part: str) -> None:
        with pytest.raises(ValueError, match=rf'novel has quantized {part}, so masks would be wrong.*quant_method bnb'):
            check_quantized(model)

    layer = model.seg_projector.fc1
    model.seg_projector.fc1 = Foreign(layer.in_features, layer.out_features)
    refused('seg_projector')
    model.seg_projector.fc1 = layer
    model.lm_head = Foreign(8, 8)
    refused(r'lm_head of \[SEG\]')
    model.lm_head = nn.Linear(8, 8)
    embedding = model.get_input_embeddings()
    embedding.weight = nn.Parameter(embedding.weight.to(torch.int8), requires_grad=False)
    refused(r'the embedding of \[SEG\]')
    embedding.weight = nn.Parameter(embedding.weight.float())
    check_quantized(model)


# ---- with the packages


@pytest.mark.parametrize('method',
                         [pytest.param(name, marks=pytest.mark.slow if name == 'quanto' else ()) for name in METHODS])
def test_masks_of_a_quantized_mllm(method, tiny_checkpoint, plain, row):
    """They are those of the unquantized head for the states of the quantized MLLM."""
    pytest.importorskip(PACKAGES[method])
    weights = {name: value for name, value in plain.state_dict().items() if name.startswith(KEPT)}
    for bits in METHODS[method]:
        model, template = loaded('--model', tiny_checkpoint, *flags_of(method, bits))
        found = model.state_dict()
        for name, value in weights.items():
            assert torch.equal(found[name], value), (bits, name)
        batch = batch_of(template, row)
        states = {key: value for key, value in batch.items() if not key.startswith(('g_pixel', 'mask'))}
        with torch.no_grad():
            hidden = model.model(**states)[0]
            expected = plain._predict_masks(hidden, batch['g_pixel_values'], None, batch['mask_image_index'],
                                            batch['mask_token_index']).logits
        masks, logits = outputs(model, batch)
        torch.testing.assert_close(masks, expected, rtol=0, atol=1e-6)
        # The MLLM is quantized.
        assert (logits - outputs(plain, batch)[1]).abs().max() > 1e-3, bits


# (quanto compiles its kernels, for a minute.)
@pytest.mark.parametrize('method', ['bnb', pytest.param('quanto', marks=pytest.mark.slow)])
def test_qlora_trains_and_loads(method, tiny_mllm, dataset, row, tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES[method])
    for tuner in ('lora', 'lora_llm') if method == 'bnb' else ('lora', ):
        output = tmp_path / tuner
        watch = run_sft('--model', tiny_mllm, '--model_type', 'citrusv', '--model_kwargs', '{"sam2": "tiny"}',
                        '--dataset', dataset, '--output_dir', str(output), '--tuner_type', tuner, '--learning_rate',
                        '1e-2', '--gradient_accumulation_steps', '1', '--save_strategy', 'steps', '--save_steps', '2',
                        *flags_of(method, 4), stop_after=2)  # yapf: disable
        trained = {key for key in watch.before if not torch.equal(watch.before[key], watch.after[key])}
        for part in ('lora_B', 'trainable_tokens', 'seg_projector.modules_to_save', 'segmenter.modules_to_save'):
            assert any(part in key for key in trained), (tuner, part)
        assert not any('base_layer' in key for key in trained)
        monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
        # ms-swift reads method and bits from args.json.
        model, template = loaded('--adapters', str(output / 'checkpoint-2'))
        found = dict(model.named_parameters())
        for key in trained:
            assert torch.equal(found[key], watch.after[key]), key
        assert model.get_base_model().hf_quantizer is not None
        assert outputs(model, batch_of(template, row))[0].std() > 1e-3
        monkeypatch.delenv('CITRUSV_SAM2')


def test_an_exported_model_has_its_own_sam2(tiny_checkpoint, plain, row, tmp_path):
    pytest.importorskip(PACKAGES['bnb'])
    from safetensors.torch import load_file
    from swift.pipelines import export_main
    for bits in METHODS['bnb']:
        folder = tmp_path / str(bits)
        export_main(['--model', tiny_checkpoint, *flags_of('bnb', bits), '--output_dir', str(folder), '--torch_dtype',
                     'float32', '--device_map', 'cpu'])  # yapf: disable
        assert json.loads((folder / 'config.json').read_text())['quantization_config']['quant_method'] == 'bitsandbytes'
        saved = load_file(folder / 'model.safetensors')
        assert saved['model.language_model.layers.0.mlp.up_proj.weight'].dtype in (torch.uint8, torch.int8)
        for name, value in plain.state_dict().items():
            if name.startswith(SEGMENTATION_MODULES):
                assert torch.equal(saved[name], value), name
        again, template = loaded('--model', str(folder))
        direct, _ = loaded('--model', tiny_checkpoint, *flags_of('bnb', bits))
        batch = batch_of(template, row)
        for found, value in zip(outputs(again, batch), outputs(direct, batch), strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-6)


def test_a_quantized_qwen_gets_a_head(tiny_mllm, dataset, row, tmp_path, monkeypatch):
    """As a base of `citrusv build`, and as --model of QLoRA."""
    pytest.importorskip(PACKAGES['bnb'])
    from swift.pipelines import export_main
    mllm = tmp_path / 'mllm'
    export_main(['--model', tiny_mllm, '--model_type', 'qwen2_5_vl', '--template', 'qwen2_5_vl', *flags_of('bnb', 4),
                 '--output_dir', str(mllm), '--torch_dtype', 'float32', '--device_map', 'cpu'])  # yapf: disable
    built = build_checkpoint(str(mllm), 'tiny', str(tmp_path / 'built'))
    again, template = loaded('--model', str(tmp_path / 'built'))
    assert built.is_quantized and again.is_quantized
    for name, value in built.state_dict().items():
        if name.startswith(KEPT):
            assert torch.equal(again.state_dict()[name], value), name
    assert outputs(again, batch_of(template, row))[0].std() > 1e-3
    with pytest.raises(ValueError, match='--tuner_type full cannot train weights that are quantized .bnb.'):
        sft_arguments(str(tmp_path / 'built'), dataset, str(tmp_path / 'out'), tuner_type='full')
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    model = tuned(sft_arguments(str(mllm), dataset, str(tmp_path / 'out'), tuner_type='lora'))
    assert any('segmenter.modules_to_save' in name and parameter.requires_grad
               for name, parameter in model.named_parameters())
