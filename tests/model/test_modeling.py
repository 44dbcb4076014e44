"""The forward pass: which mask belongs to which token, loss and logits; and generation as in Qwen2.5-VL.

The reference for a batch is a slow loop: one row at a time without padding, one image and one prompt at a time.
"""
import copy
import pytest
import torch
import torch.nn.functional as F
from support.model_rows import padded_batch, picture
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from typing import Any

from swift_citrusv.constants import SEGMENTATION_MODULES
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


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


@pytest.mark.parametrize('side', ['right', 'left'])
def test_a_padded_batch_equals_rows_alone(model, rows, side):
    with torch.no_grad():
        output = model(**padded_batch(rows, side))
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
        together = model(**padded_batch(rows))
        for k, row in enumerate(rows):
            if k == 2:  # no image and no mask at all
                continue
            alone = model(**padded_batch([row]))
            mine = together.mask_logits[together.mask_rows == k]
            torch.testing.assert_close(alone.mask_logits, mine, rtol=1e-3, atol=1e-3 * mine.std())
            length = row['inputs']['input_ids'].shape[1]
            torch.testing.assert_close(alone.logits[0], together.logits[k, :length], rtol=1e-3, atol=1e-3)


def test_the_order_is_that_of_the_index(model, rows):
    """The index, not the place in the text, says which mask is whose."""
    batch = padded_batch([rows[1]])
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
        model(**padded_batch(rows))
    needed = [rows[0]['images'][0], *rows[1]['images'], rows[3]['images'][0], rows[4]['images'][2]]
    assert len(encoded) == 1 and torch.equal(encoded[0], torch.stack(needed))


def test_no_targets_no_mask_targets(model, rows):
    batch = padded_batch(rows)
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
    batch = padded_batch(rows)
    del batch[missing]
    with pytest.raises(ValueError, match='g_pixel_values or mask_image_index'):
        model(**batch)


def test_multimask_output_is_the_configs(loaded):
    config = copy.deepcopy(loaded.config)
    config.multimask_output = True
    assert CitrusVForConditionalGeneration(config).segmenter.multimask_output
    assert not loaded.segmenter.multimask_output


def test_loss_of_a_batch(model, rows):
    batch = padded_batch(rows)
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
    batch = padded_batch(rows)
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
        output = model(**padded_batch(rows), use_cache=False)
        values = model(**padded_batch(rows), use_cache=False, return_dict=False)
    assert isinstance(values, tuple)
    torch.testing.assert_close(values[0], output.logits)


@pytest.mark.parametrize('use_cache', [False, True])
def test_generation_equals_that_of_qwen(model, processor, use_cache):
    plain = Qwen2_5_VLForConditionalGeneration(model.config).eval()
    plain.load_state_dict({
        name: value
        for name, value in model.state_dict().items() if not name.startswith(SEGMENTATION_MODULES)
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
        text=text, images=[picture(1), picture(2, (112, 56))], padding=True, padding_side='left', return_tensors='pt')
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
