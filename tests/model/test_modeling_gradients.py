"""Gradients: which parameters get one, its scale, frozen parts, checkpointing, and mixed precision."""
import pytest
import torch
import torch.nn.functional as F
from support.closeness import assert_same_update
from support.model_rows import padded_batch
from torch import Tensor

SEGMENTATION = ('segmenter.', 'seg_projector.')


def _mask_loss(output) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.mask_logits, output.mask_targets.float())


def _gradients(model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_scale_reaches_the_mllm_and_nothing_else(model, rows):
    batch = padded_batch(rows)
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
        expected = {name: factor * value for name, value in full.items() if name.startswith(part)}
        assert_same_update({name: scaled[name] for name in expected}, expected)


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
    model(**padded_batch(rows), labels=padded_batch(rows)['input_ids']).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_frozen_segmentation_gets_no_gradient(model, rows):
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
    batch = padded_batch(rows)
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
    batch = padded_batch(rows)
    labels = batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)
    model.train()
    model(**batch, labels=labels).loss.backward()
    wanted = _gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch, labels=labels).loss.backward()
    found = _gradients(model)
    assert_same_update(found, wanted)


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
    batch = padded_batch(rows)
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
