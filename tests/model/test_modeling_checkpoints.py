"""Checkpoint directories: saving, loading, dtypes, and the Auto classes."""
import json
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def _assert_equal(one, other) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name
    buffers = dict(other.named_buffers())
    for name, value in one.named_buffers():
        assert torch.equal(value, buffers[name]), name


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_save_and_load(loaded, dtype, tmp_path):
    loaded.save_pretrained(tmp_path / 'first')
    model = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'first', dtype=dtype)
    if dtype == torch.float32:
        _assert_equal(model, loaded)
    model.save_pretrained(tmp_path / 'second')
    again, info = CitrusVForConditionalGeneration.from_pretrained(
        tmp_path / 'second', dtype='auto', output_loading_info=True)
    assert not any(info.values())
    _assert_equal(again, model)
    assert again.segmenter.dtype == torch.float32 and again.lm_head.weight.dtype == dtype
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight
    assert type(again.config) is CitrusVConfig
    saved = json.loads((tmp_path / 'second' / 'config.json').read_text())
    assert saved['model_type'] == 'citrusv' and saved['sam2_preset'] == 'tiny'
    assert saved['seg_token_id'] == model.config.seg_token_id
    assert saved['architectures'] == ['CitrusVForConditionalGeneration']


def test_all_in_bfloat16_and_back(model, tmp_path):
    """As DeepSpeed's bf16 saves it; the segmentation parts come back as float32 of the same values."""
    model.bfloat16()
    model.save_pretrained(tmp_path)
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in again.segmenter.state_dict().values()} == {torch.float32}
    _assert_equal(again.bfloat16(), model)


def test_auto_classes(loaded, tiny_checkpoint):
    from swift_citrusv.plugin.register import register_transformers
    register_transformers()
    register_transformers()
    assert type(AutoConfig.from_pretrained(tiny_checkpoint)) is CitrusVConfig
    reference = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    for auto in (AutoModel, AutoModelForImageTextToText):
        model = auto.from_pretrained(tiny_checkpoint)
        assert type(model) is CitrusVForConditionalGeneration
        _assert_equal(model, reference)
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    assert type(AutoModelForImageTextToText.from_config(config)) is CitrusVForConditionalGeneration
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    assert type(processor).__name__ == 'Qwen2_5_VLProcessor'
    seg = processor.tokenizer.convert_tokens_to_ids('[SEG]')
    assert seg == config.seg_token_id
    assert AutoTokenizer.from_pretrained(tiny_checkpoint).convert_tokens_to_ids('[SEG]') == seg
