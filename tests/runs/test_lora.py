"""The LoRA recipe: projector, SAM2 and the embedding of [SEG] are in the adapter; merging keeps the masks."""
import json
import logging
import numpy as np
import os
import subprocess
import sys
import torch
from pathlib import Path
from peft import PeftModel
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft

from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.model.segmenter import Segmenter


def _batch(template, row):
    template.set_mode('train')
    return template.data_collator([template.encode(row, return_length=True)])


def _masks(model, template, row) -> np.ndarray:
    batch = _batch(template, row)
    keys = ('input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw', 'mm_token_type_ids', 'g_pixel_values',
            'mask_image_index', 'mask_token_index')
    with torch.no_grad():
        return model.eval()(**{key: batch[key] for key in keys if key in batch}).mask_logits.numpy()


def _load(monkeypatch, *arguments: str):
    """The model, with its adapter, and the template as `swift infer` makes them."""
    from swift.arguments import InferArguments
    from swift.pipelines.utils import prepare_model_template
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    from transformers import HfArgumentParser
    args = HfArgumentParser(InferArguments).parse_args_into_dataclasses(
        [*arguments, '--torch_dtype', 'float32', '--device_map', 'cpu'])[0]
    return prepare_model_template(args)


def test_adapter_and_merge(tiny_mllm, tmp_path, monkeypatch, caplog):
    maker = Maker(tmp_path / 'images')
    rows = maker.every_kind()
    dataset = write_jsonl(tmp_path / 'train.jsonl', rows)
    output = tmp_path / 'lora'
    watch = run_sft('--model', tiny_mllm, '--model_type', 'citrusv',
                    '--model_kwargs', '{"sam2": "tiny", "seg_lr": 1e-2}', '--dataset', dataset, '--output_dir',
                    str(output), '--tuner_type', 'lora', '--lora_rank', '4', '--learning_rate', '1e-2',
                    '--num_train_epochs', '2', '--packing', 'true', '--gradient_accumulation_steps', '1',
                    '--save_strategy', 'epoch')
    trained = {name for name in watch.before if not torch.equal(watch.before[name], watch.after[name])}
    for wanted in ('lora_A', 'lora_B', 'trainable_tokens', 'segmenter.modules_to_save',
                   'seg_projector.modules_to_save'):
        assert any(wanted in name for name in trained), wanted
    assert not any('original_module' in name or 'iou_prediction_head' in name for name in trained)

    adapter = str(output / 'last-checkpoint')
    caplog.set_level(logging.INFO)
    caplog.clear()
    logging.getLogger('swift').addHandler(caplog.handler)
    try:
        model, template = _load(monkeypatch, '--adapters', adapter)
    finally:
        logging.getLogger('swift').removeHandler(caplog.handler)
    assert f'Its weights come from {adapter}.' in caplog.text and 'random initialisation' not in caplog.text
    assert isinstance(model, PeftModel)
    loaded = dict(model.named_parameters())
    for name in trained:
        torch.testing.assert_close(loaded[name].float(), watch.after[name].float(), rtol=0, atol=0, msg=name)
    row = rows[2]
    with_adapter = _masks(model, template, row)

    merged = tmp_path / 'merged'
    subprocess.run([
        str(Path(sys.executable).parent / 'swift'), 'export', '--adapters', adapter, '--merge_lora', 'true',
        '--output_dir',
        str(merged), '--torch_dtype', 'float32', '--model_kwargs', '{"sam2": "tiny"}'
    ],
                   check=True,
                   env={
                       **os.environ, 'CUDA_VISIBLE_DEVICES': ''
                   },
                   stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    assert json.loads((merged / 'config.json').read_text())['architectures'] == ['CitrusVForConditionalGeneration']
    monkeypatch.delenv('CITRUSV_SAM2')
    whole, template = _load(monkeypatch, '--model', str(merged))
    assert not isinstance(whole, PeftModel) and isinstance(whole.segmenter, Segmenter)
    assert template.tokenizer.convert_tokens_to_ids(SEG_TOKEN) == whole.config.seg_token_id
    np.testing.assert_allclose(_masks(whole, template, row), with_adapter, rtol=1e-4, atol=1e-4)
    assert with_adapter.std() > 1e-3
