"""The model: pairing of masks, gradients, freezing, checkpoints, and that it stays a Qwen2.5-VL.

The reference for a batch is a slow loop: one row at a time without padding, one image and one prompt at a time.
"""
import copy
import json
import pytest
import subprocess
import sys
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from sam2.build_sam import build_sam2
from shutil import copytree
from support.weights import spread
from torch import Tensor
from transformers import (AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer,
                          Qwen2_5_VLForConditionalGeneration)
from typing import Any

from swift_citrusv.model.build import build_checkpoint
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration

SEGMENTATION = ('segmenter.', 'seg_projector.')


@pytest.fixture(scope='module')
def loaded(tiny_checkpoint) -> CitrusVForConditionalGeneration:
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    spread(model, 1)
    return model


@pytest.fixture
def model(loaded) -> CitrusVForConditionalGeneration:
    """A fresh copy with weights that let every input show in the result, in evaluation mode."""
    return copy.deepcopy(loaded).eval()


@pytest.fixture(scope='module')
def processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint)


def _picture(seed: int, size=(84, 84)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 3, 3), dtype=torch.uint8, generator=generator).numpy()
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _row(processor, text: str, num_images: int, mask_images: list[int], seed: int) -> dict[str, Any]:
    """One row, not padded; `mask_images` has an entry for each [SEG] of the text."""
    pictures = [_picture(100 * seed + i) for i in range(num_images)]
    prefix = '<|vision_start|><|image_pad|><|vision_end|>' * num_images
    inputs = processor(text=[prefix + text], images=pictures or None, return_tensors='pt')
    seg = processor.tokenizer.convert_tokens_to_ids('[SEG]')
    generator = torch.Generator().manual_seed(seed)
    places = (inputs['input_ids'][0] == seg).nonzero().flatten()
    assert len(places) == len(mask_images)
    return {
        'inputs': dict(inputs),
        'images': torch.randint(0, 256, (num_images, 3, 256, 256), dtype=torch.uint8, generator=generator),
        'masks': torch.randint(0, 2, (len(mask_images), 1, 64, 64), dtype=torch.uint8, generator=generator),
        'mask_images': torch.tensor(mask_images, dtype=torch.int64),
        'places': places,
    }


@pytest.fixture(scope='module')
def rows(processor) -> list[dict[str, Any]]:
    """Of every kind: one mask, three on two images out of order, none, two on one image, an image without mask."""
    return [
        _row(processor, 'The nuclei: [SEG].', 1, [0], seed=1),
        _row(processor, 'First [SEG], then the bone, [SEG], and the vessels [SEG].', 2, [1, 0, 1], seed=2),
        _row(processor, 'What imaging modality is this?', 0, [], seed=3),
        _row(processor, 'Cell [SEG] [SEG]', 1, [0, 0], seed=4),
        _row(processor, 'Only in the last one: [SEG]', 3, [2], seed=5),
    ]


def _stack(parts: list[Tensor], value: int) -> Tensor:
    longest = max(len(part) for part in parts)
    return torch.stack(
        [F.pad(part, (0, 0) * (part.ndim - 1) + (0, longest - len(part)), value=value) for part in parts])


def _batch(rows: list[dict[str, Any]], side: str = 'right') -> dict[str, Tensor]:
    """Pads rows as the row contract says."""
    longest = max(row['inputs']['input_ids'].shape[1] for row in rows)
    batch = {}
    for key in ('input_ids', 'attention_mask', 'mm_token_type_ids'):
        shifts = [longest - row['inputs'][key].shape[1] for row in rows]
        batch[key] = torch.cat([
            F.pad(row['inputs'][key], (shift, 0) if side == 'left' else (0, shift)) for row, shift in zip(rows, shifts)
        ])
    for key in ('pixel_values', 'image_grid_thw'):
        batch[key] = torch.cat([row['inputs'][key] for row in rows if key in row['inputs']])
    places = [row['places'] + (shift if side == 'left' else 0) for row, shift in zip(rows, shifts)]
    return batch | {
        # The empty places hold what would hurt, were they read.
        'g_pixel_values': _stack([row['images'] for row in rows], 255),
        'masks': _stack([row['masks'] for row in rows], 1),
        'mask_image_index': _stack([row['mask_images'] for row in rows], -1),
        'mask_token_index': _stack(places, -1),
    }


def _slow_masks(model, rows) -> Tensor:
    """One row, one image and one prompt at a time; the projector written out."""
    drawn = []
    first, second = model.seg_projector.fc1, model.seg_projector.fc2
    for row in rows:
        hidden = model.model(**row['inputs']).last_hidden_state[0]
        for place, image in zip(row['places'], row['mask_images']):
            inner = (first.weight @ hidden[place] + first.bias).clamp(min=0)
            prompt = second.weight @ inner + second.bias
            features = model.segmenter.encode_images(row['images'][image:image + 1])
            drawn.append(model.segmenter.decode(features, torch.tensor([0]), prompt[None, None]).logits[0])
    return torch.stack(drawn)


# --- which mask is whose ---


@pytest.mark.parametrize('side', ['right', 'left'])
def test_a_padded_batch_equals_rows_alone(model, rows, side):
    with torch.no_grad():
        output = model(**_batch(rows, side))
        wanted = _slow_masks(model, rows)
    assert output.mask_logits.dtype == torch.float32
    torch.testing.assert_close(output.mask_logits, wanted, rtol=1e-3, atol=1e-3 * wanted.std())
    assert output.mask_rows.tolist() == [0, 1, 1, 1, 3, 3, 4]
    assert torch.equal(output.mask_targets, torch.cat([row['masks'][:, 0] for row in rows]))
    # No two masks are alike, so none could stand in for another.
    distances = (wanted[:, None] - wanted).abs().amax((-1, -2)) + torch.eye(7) * 1e9
    assert distances.min() > 0.05 * wanted.std()


def test_a_row_alone_equals_that_row_in_a_batch(model, rows):
    with torch.no_grad():
        together = model(**_batch(rows))
        for k, row in enumerate(rows):
            if k == 2:  # no image and no mask at all
                continue
            alone = model(**_batch([row]))
            mine = together.mask_logits[together.mask_rows == k]
            torch.testing.assert_close(alone.mask_logits, mine, rtol=1e-3, atol=1e-3 * mine.std())
            length = row['inputs']['input_ids'].shape[1]
            torch.testing.assert_close(alone.logits[0], together.logits[k, :length], rtol=1e-3, atol=1e-3)


def test_the_order_is_that_of_the_index(model, rows):
    """The index, not the place in the text, says which mask is whose."""
    batch = _batch([rows[1]])
    order = torch.tensor([2, 0, 1])
    shuffled = batch | {key: batch[key][:, order] for key in ('masks', 'mask_image_index', 'mask_token_index')}
    with torch.no_grad():
        plain, other = model(**batch), model(**shuffled)
    torch.testing.assert_close(other.mask_logits, plain.mask_logits[order], rtol=1e-4, atol=1e-3)
    assert torch.equal(other.mask_targets, plain.mask_targets[order])


def test_each_image_is_encoded_once_and_only_if_needed(model, rows, monkeypatch):
    encoded = []
    encode = model.segmenter.encode_images

    def spy(images):
        encoded.append(images)
        return encode(images)

    monkeypatch.setattr(model.segmenter, 'encode_images', spy)
    with torch.no_grad():
        model(**_batch(rows))
    needed = [rows[0]['images'][0], *rows[1]['images'], rows[3]['images'][0], rows[4]['images'][2]]
    assert len(encoded) == 1 and torch.equal(encoded[0], torch.stack(needed))


def test_no_targets_no_mask_targets(model, rows):
    batch = _batch(rows)
    del batch['masks']
    with torch.no_grad():
        output = model(**batch)
    assert output.mask_targets is None and len(output.mask_logits) == 7


def test_without_masks(model, rows):
    plain = rows[2]['inputs']
    with torch.no_grad():
        output = model(**plain)
        assert output.mask_logits is None and output.mask_targets is None and output.mask_rows is None
        asked = model(**plain, mask_token_index=torch.full((1, 2), -1), mask_image_index=torch.full((1, 2), -1))
        none = model(**plain, mask_token_index=torch.zeros(1, 0, dtype=torch.int64))
    for empty in (asked, none):
        assert empty.mask_logits.shape == empty.mask_targets.shape == (0, 64, 64) and empty.mask_rows.shape == (0, )
        torch.testing.assert_close(empty.logits, output.logits)


@pytest.mark.parametrize('missing', ['g_pixel_values', 'mask_image_index'])
def test_masks_asked_for_without_images(model, rows, missing):
    batch = _batch(rows)
    del batch[missing]
    with pytest.raises(ValueError, match='g_pixel_values or mask_image_index'):
        model(**batch)


def test_multimask_output_is_the_configs(loaded):
    config = copy.deepcopy(loaded.config)
    config.multimask_output = True
    assert CitrusVForConditionalGeneration(config).segmenter.multimask_output
    assert not loaded.segmenter.multimask_output


# --- loss and logits ---


def test_loss_of_a_batch(model, rows):
    batch = _batch(rows)
    labels = batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)
    labels[:, :3] = -100
    with torch.no_grad():
        output = model(**batch, labels=labels)
    tokens = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    x, g = output.mask_logits, output.mask_targets.float()
    p = x.sigmoid()
    dice = 1 - 2 * (p * g).sum((1, 2)) / (p.sum((1, 2)) + g.sum((1, 2)))
    bce = -(g * F.logsigmoid(x) + (1 - g) * F.logsigmoid(-x)).mean((1, 2))
    torch.testing.assert_close(output.loss, tokens + 2 * dice.mean() + bce.mean(), rtol=1e-3, atol=1e-4)


def test_logits_to_keep(model, rows):
    batch = _batch(rows)
    with torch.no_grad():
        everything = model(**batch).logits
        last = model(**batch, logits_to_keep=3).logits
        columns = torch.zeros(everything.shape[1], dtype=torch.bool)
        columns[[1, 4, 5]] = True
        some = model(**batch, logits_to_keep=columns).logits
        positions = torch.rand(everything.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.3
        scattered = model(**batch, logits_to_keep=positions)
    torch.testing.assert_close(last, everything[:, -3:])
    torch.testing.assert_close(some, everything[:, [1, 4, 5]])
    wanted = [everything[row, place] for row, place in positions.nonzero().tolist()]
    torch.testing.assert_close(scattered.logits, torch.stack(wanted)[None])
    # Masks come from the hidden states, whatever the language head is spared.
    assert len(scattered.mask_logits) == 7


def test_labels_need_all_logits(model, rows):
    with pytest.raises(ValueError, match='logits_to_keep'):
        model(**rows[0]['inputs'], labels=rows[0]['inputs']['input_ids'], logits_to_keep=1)


def test_output_as_a_tuple(model, rows):
    with torch.no_grad():
        output = model(**_batch(rows), use_cache=False)
        values = model(**_batch(rows), use_cache=False, return_dict=False)
    assert isinstance(values, tuple)
    torch.testing.assert_close(values[0], output.logits)


# --- gradients ---


def _mask_loss(output) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.mask_logits, output.mask_targets.float())


def _gradients(model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_scale_reaches_the_mllm_and_nothing_else(model, rows):
    batch = _batch(rows)
    model.train()
    _mask_loss(model(**batch)).backward()
    full = _gradients(model)
    model.zero_grad()
    model.mask_grad_scale = 1e-3
    _mask_loss(model(**batch)).backward()
    scaled = _gradients(model)
    assert scaled.keys() == full.keys()
    for part in ('model.visual.', 'model.language_model.', *SEGMENTATION):
        factor = 1. if part in SEGMENTATION else 1e-3
        names = [name for name in full if name.startswith(part)]
        largest = max(full[name].abs().max() for name in names)
        assert largest > 0
        for name in names:
            torch.testing.assert_close(scaled[name], factor * full[name], rtol=1e-4, atol=1e-6 * factor * largest)


def test_the_scale_leaves_the_token_loss_alone(model, rows):
    inputs = rows[0]['inputs']
    gradients = []
    for scale in (1., 1e-3):
        model.mask_grad_scale = scale
        model.zero_grad()
        model(**inputs, labels=inputs['input_ids']).loss.backward()
        gradients.append(_gradients(model))
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('asked', [False, True])
def test_a_batch_without_masks_gives_a_zero_gradient(model, rows, dtype, asked):
    model.to(dtype).train()
    inputs = dict(rows[2]['inputs'])
    if asked:
        inputs |= {'mask_token_index': torch.full((1, 1), -1), 'mask_image_index': torch.full((1, 1), -1)}
    # Weights so large that a sum over a tensor would overflow in float16.
    with torch.no_grad():
        model.segmenter.image_encoder.trunk.blocks[0].mlp.layers[0].weight.fill_(6e4)
    output = model(**inputs, labels=inputs['input_ids'])
    output.loss.backward()
    assert output.loss.isfinite()
    for name, parameter in model.named_parameters():
        if name.startswith(SEGMENTATION):
            assert (parameter.grad is not None) is parameter.requires_grad, name
            assert parameter.grad is None or not parameter.grad.any(), name
    assert model.lm_head.weight.grad.isfinite().all() and model.lm_head.weight.grad.any()


def test_with_masks_everything_trainable_has_a_gradient(model, rows):
    model.train()
    model(**_batch(rows), labels=_batch(rows)['input_ids']).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_segmentation_training_there_is_nothing_to_touch(model, rows):
    model.train()
    model.segmenter.requires_grad_(False)
    model.seg_projector.requires_grad_(False)
    inputs = rows[2]['inputs']
    model(**inputs, labels=inputs['input_ids']).loss.backward()
    assert not any(name.startswith(SEGMENTATION) for name in _gradients(model))


@pytest.mark.parametrize('checkpointing', [False, True])
def test_a_frozen_mllm_builds_no_graph(model, rows, checkpointing):
    """Stage 4. `enable_input_require_grads` is what ms-swift does with gradient checkpointing."""
    model.train()
    model.model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable()
        assert model.segmenter.gradient_checkpointing
    hidden = []
    model.model.register_forward_hook(lambda module, inputs, output: hidden.append(output[0].requires_grad))
    inside = []
    layers = [*model.model.language_model.layers, *model.model.visual.blocks]
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: inside.append(
            (output[0] if isinstance(output, tuple) else output).grad_fn))
    batch = _batch(rows)
    model(**batch, labels=batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)).loss.backward()
    assert hidden == [False] and len(inside) == len(layers) and set(inside) == {None}
    gradients = _gradients(model)
    assert gradients and all(name.startswith(SEGMENTATION) for name in gradients)
    assert gradients['seg_projector.fc1.weight'].any()
    # And without masks, the zero gradient still arrives.
    model.zero_grad()
    inputs = rows[2]['inputs']
    model(**inputs, labels=inputs['input_ids']).loss.backward()
    assert _gradients(model).keys() == gradients.keys()


def test_gradient_checkpointing_changes_nothing(model, rows):
    batch = _batch(rows)
    labels = batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)
    model.train()
    model(**batch, labels=labels).loss.backward()
    wanted = _gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch, labels=labels).loss.backward()
    found = _gradients(model)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * value.abs().max() + 1e-7)


def test_requires_grad_of_the_whole_model(model):
    assert model.requires_grad_(False) is model
    assert not any(p.requires_grad for p in model.parameters())
    assert model.requires_grad_(True) is model
    for name, parameter in model.named_parameters():
        expected = not name.startswith('segmenter.') or model.segmenter.uses_parameter(name.removeprefix('segmenter.'))
        assert parameter.requires_grad is expected, name


def test_what_is_trainable_after_loading(loaded):
    frozen = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {
        f'segmenter.{name}'
        for name, _ in loaded.segmenter.named_parameters() if not loaded.segmenter.uses_parameter(name)
    }


def test_mixed_precision(model, rows):
    """As it is trained: the MLLM in bfloat16, the segmentation parts in float32."""
    batch = _batch(rows)
    with torch.no_grad():
        wanted = model(**batch).mask_logits
    model.model.bfloat16()
    model.lm_head.bfloat16()
    model.train()
    output = model(**batch, labels=batch['input_ids'])
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16 and output.mask_logits.dtype == output.loss.dtype == torch.float32
    assert all(value.isfinite().all() for value in _gradients(model).values())
    assert (output.mask_logits - wanted).abs().mean() < 0.3 * wanted.std()


# --- checkpoints ---


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


def _graft_config(tiny_mllm) -> CitrusVConfig:
    values = json.loads(open(f'{tiny_mllm}/config.json', encoding='utf-8').read())
    values = {key: value for key, value in values.items() if key not in {'model_type', 'architectures', 'dtype'}}
    return CitrusVConfig(**values, sam2_preset='tiny')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_grafting_on_a_plain_directory(tiny_mllm, dtype):
    config = _graft_config(tiny_mllm)
    torch.manual_seed(0)
    model, info = CitrusVForConditionalGeneration.from_pretrained(
        tiny_mllm, config=config, dtype=dtype, output_loading_info=True)
    assert all(name.startswith(SEGMENTATION) for name in info['missing_keys']) and not info['unexpected_keys']
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm, dtype=dtype).state_dict()
    own = model.state_dict()
    for name, value in plain.items():
        assert torch.equal(own[name], value), name
    # SAM2 as its package starts it, statistics of sam2's own model (the names are the same), in float32.
    torch.manual_seed(0)
    reference = build_sam2('configs/sam2.1/sam2.1_hiera_t.yaml', device='cpu').state_dict()
    segmenter = model.segmenter.state_dict()
    assert {value.dtype for value in segmenter.values()} == {torch.float32}
    for name, value in segmenter.items():
        assert value.isfinite().all(), name
        wanted = reference.get(name)
        if wanted is None:
            assert name.startswith('image_encoder.trunk.blocks.')  # other depths
        elif wanted.numel() > 1 and wanted.std() == 0:
            assert torch.equal(value, wanted.flatten()[0].expand_as(value)), f'{name} starts as a constant'
        elif value.numel() > 1000:
            # torch's layers start uniformly in +-fan_in**-0.5; embeddings and the positions with std 1.
            scale = (wanted[0].numel() / value[0].numel())**0.5 if 'embed' not in name and 'gauss' not in name else 1
            if 'patch_embed' in name:
                scale = 1
            ratio = value.std() / wanted.std() / scale
            assert 0.8 < ratio < 1.25, f'{name}: {ratio}'
    assert segmenter['sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix'].std() > 0.5
    assert segmenter['image_encoder.trunk.blocks.0.norm1.weight'].eq(1).all()
    assert not segmenter['image_encoder.trunk.pos_embed'].any()
    bound = config.text_config.hidden_size**-0.5
    weight = own['seg_projector.fc1.weight']
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert own['seg_projector.fc1.weight'].dtype == torch.float32
    assert not own['seg_projector.fc1.bias'].any() and not own['seg_projector.fc2.bias'].any()


def test_two_grafts_differ_and_one_seed_repeats(tiny_mllm):
    config = _graft_config(tiny_mllm)

    def graft(seed):
        torch.manual_seed(seed)
        return CitrusVForConditionalGeneration.from_pretrained(tiny_mllm, config=config).segmenter.state_dict()

    one, same, other = graft(0), graft(0), graft(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one['no_mem_embed'], other['no_mem_embed'])


def test_a_model_from_a_config_starts_like_sam2(loaded):
    model = CitrusVForConditionalGeneration(loaded.config)
    assert not model.segmenter.image_encoder.trunk.pos_embed.any()
    qkv = model.segmenter.image_encoder.trunk.blocks[7].attn.qkv.weight
    assert qkv.abs().max() <= 128**-0.5 and qkv.std().item() == pytest.approx((128 * 3)**-0.5, rel=0.05)


def test_keys_of_the_hubs_files(tiny_mllm, loaded, tmp_path):
    """Qwen2.5-VL's files on the hub have keys 'visual.*', 'model.layers.*' and 'lm_head.weight'."""
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm).state_dict()
    hub = {}
    for name, value in reference.items():
        if name.startswith('model.visual.'):
            name = name.removeprefix('model.')
        elif name.startswith('model.language_model.'):
            name = 'model.' + name.removeprefix('model.language_model.')
        hub[name] = value.clone()
    assert {name.split('.')[0] for name in hub} == {'visual', 'model', 'lm_head'}
    assert {'model.layers.0.self_attn.q_proj.weight', 'model.embed_tokens.weight',
            'visual.merger.mlp.0.weight'} <= set(hub)
    folder = tmp_path / 'hub'
    copytree(tiny_mllm, folder)
    save_file(hub, folder / 'model.safetensors', metadata={'format': 'pt'})
    model, info = CitrusVForConditionalGeneration.from_pretrained(
        folder, config=_graft_config(tiny_mllm), output_loading_info=True)
    assert not info['unexpected_keys'] and all(name.startswith(SEGMENTATION) for name in info['missing_keys'])
    own = model.state_dict()
    for name, value in reference.items():
        assert torch.equal(own[name], value), name
    # And with the keys as Transformers names them now.
    save_file({
        name: value.clone()
        for name, value in reference.items()
    },
              folder / 'model.safetensors',
              metadata={'format': 'pt'})
    model = CitrusVForConditionalGeneration.from_pretrained(folder, config=_graft_config(tiny_mllm))
    own = model.state_dict()
    for name, value in reference.items():
        assert torch.equal(own[name], value), name


def test_the_language_model_is_loaded_by_modeling_alone(tiny_mllm):
    """In a process without ms-swift and `register`: it went on with a random language model once."""
    code = """if True:
        import json, sys
        from swift_citrusv.modeling import CitrusVConfig, CitrusVForConditionalGeneration
        values = json.load(open(sys.argv[1] + '/config.json'))
        config = CitrusVConfig(text_config=values['text_config'], vision_config=values['vision_config'],
                               tie_word_embeddings=True, sam2_preset='tiny')
        _, info = CitrusVForConditionalGeneration.from_pretrained(sys.argv[1], config=config, output_loading_info=True)
        assert not {'swift', 'swift_citrusv.plugin.register'} & sys.modules.keys()
        assert not info['unexpected_keys']
        assert all(name.startswith(('segmenter.', 'seg_projector.')) for name in info['missing_keys'])
        """
    subprocess.run([sys.executable, '-c', code, tiny_mllm], check=True)


def test_a_file_without_a_part_of_the_language_model_is_refused(tiny_mllm, tmp_path):
    folder = tmp_path / 'broken'
    copytree(tiny_mllm, folder)
    state = load_file(folder / 'model.safetensors')
    name = next(name for name in state if name.endswith('layers.1.mlp.down_proj.weight'))
    del state[name]
    save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match='layers.1.mlp.down_proj.weight'):
        build_checkpoint(str(folder), 'tiny', str(tmp_path / 'built'))
    assert not (tmp_path / 'built').exists()


# --- it stays a Qwen2.5-VL ---


@pytest.mark.parametrize('use_cache', [False, True])
def test_generation_equals_that_of_qwen(model, processor, use_cache):
    plain = Qwen2_5_VLForConditionalGeneration(model.config).eval()
    plain.load_state_dict({
        name: value
        for name, value in model.state_dict().items() if not name.startswith(SEGMENTATION)
    })
    assert type(plain) is Qwen2_5_VLForConditionalGeneration
    messages = [[{
        'role': 'user',
        'content': [{
            'type': 'image'
        }, {
            'type': 'text',
            'text': text
        }]
    }] for text in ('Segment the nuclei.', '这是什么？')]
    text = [processor.apply_chat_template(message, add_generation_prompt=True) for message in messages]
    inputs = processor(
        text=text, images=[_picture(1), _picture(2, (112, 56))], padding=True, padding_side='left', return_tensors='pt')
    settings: dict[str, Any] = {'max_new_tokens': 8, 'use_cache': use_cache, 'eos_token_id': None}
    # Hot sampling: random weights repeat the last token for ever.
    settings |= {'do_sample': True, 'temperature': 20., 'top_k': 0}
    torch.manual_seed(0)
    ours = model.generate(**inputs, **settings)
    torch.manual_seed(0)
    theirs = plain.generate(**inputs, **settings)
    assert torch.equal(ours, theirs) and ours.shape[1] == inputs['input_ids'].shape[1] + 8
    assert len(ours[:, -8:].unique()) > 3
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
