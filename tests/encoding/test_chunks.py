"""Chunks of over-long rows: figure 13, where cuts may fall, and that each token is learned once."""
import numpy as np
import pytest
import random
import torch
from functools import partial
from hypothesis import given
from hypothesis import strategies as st
from support.closeness import assert_same_update
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.constants import IGNORE_INDEX
from swift_citrusv.encoding.chunks import Chunk, carry_labels, cut
from swift_citrusv.model.losses import mask_losses
from swift_citrusv.model.segmenter import freeze_unused_parameters
from swift_citrusv.packing.packs import pack_best_fit
from swift_citrusv.rows.contract import parse_row


def test_figure_13():
    """Samples of 7, 4 and 3 tokens at 5: the first becomes 5 + 2, and three sequences hold all, one document cut."""
    stretches = [stretch for length in (7, 4, 3) for stretch in cut(length, 5)]
    lengths = [stop - start for start, stop in stretches]
    assert lengths == [5, 2, 4, 3]
    assert sorted(sorted(lengths[i] for i in pack) for pack in pack_best_fit(lengths, 5)) == [[2, 3], [4], [5]]


@given(st.integers(1, 60), st.integers(1, 20), st.lists(st.tuples(st.integers(0, 59), st.integers(1, 8)), max_size=6))
def test_cut_keeps_stretches_whole(length, limit, stretches):
    whole = [(start, start + size) for start, size in stretches if start + size <= length]
    # A slow statement of the same thing: tokens i and i + 1 are tied where a stretch holds both.
    tied = [any(start <= i and i + 2 <= stop for start, stop in whole) for i in range(length - 1)]
    longest = max(len(run) + 1 for run in ''.join('x' if t else ' ' for t in tied).split(' '))
    if longest > limit:
        with pytest.raises(ValueError, match='must stay together'):
            cut(length, limit, whole)
        return
    chunks = cut(length, limit, whole)
    assert [start for start, _ in chunks] == [0] + [stop for _, stop in chunks[:-1]] and chunks[-1][1] == length
    assert all(0 < stop - start <= limit for start, stop in chunks)
    assert not any(tied[start - 1] for start, _ in chunks[1:])
    # As long as it can be: the next token, with all that is tied to it, would not have fitted.
    for (start, stop), (_, _) in zip(chunks, chunks[1:]):
        end = stop + 1
        while end < length and tied[end - 1]:
            end += 1
        assert end - start > limit


def test_carried_labels():
    """Two cut rows in one pack: each last token gets its target, the pack's last one in place 0."""
    rows: list[dict[str, Any]] = [{
        'length': 3,
        'next_label': 13,
        'next_loss_scale': 1.
    }, {
        'length': 2
    }, {
        'length': 4,
        'next_label': 24,
        'next_loss_scale': .5
    }]
    packed = {
        'labels': [IGNORE_INDEX, 11, 12, IGNORE_INDEX, 31, IGNORE_INDEX, 21, 22, 23],
        'loss_scale': [0, 1, 1, 0, 1, 0, .5, .5, .5]
    }
    carry_labels(packed, rows)
    assert packed['labels'] == [24, 11, 12, 13, 31, IGNORE_INDEX, 21, 22, 23]
    assert packed['loss_scale'] == [.5, 1, 1, 1, 1, 0, .5, .5, .5]


# ---- rows of a data set


@pytest.fixture(scope='module')
def make_template(make_template):
    return partial(make_template, truncation_strategy='split')


def _words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return ' '.join(rng.choice(['cell', 'bone', 'vessel', 'nucleus', 'lung', 'of', 'the', 'and']) for _ in range(count))


def _long_rows(folder) -> list[dict]:
    """A long text, a long text with an image in the middle, and masks on two images of a long row."""
    maker = Maker(folder)
    return [
        maker.row('Tell me all.', _words(0, 120)),
        maker.row(f'{_words(1, 80)}<image>', _words(3, 80), images=[maker.image(112, 140)]),
        maker.row(
            '<image>Segment it.',
            f'It is [SEG]. {_words(4, 60)}',
            f'{_words(5, 30)}<image>And here?',
            f'Here [SEG] and [SEG]. {_words(6, 50)}',
            images=[maker.image(), maker.image(56, 112)],
            masks=[maker.mask(), maker.mask(56, 112), maker.mask(56, 112)],
            mask_images=[0, 1, 1]),
        maker.row('Short?', 'Yes.'),
    ]


@pytest.fixture(scope='module')
def long_rows(tmp_path_factory):
    return _long_rows(tmp_path_factory.mktemp('long'))


def chunks_of(template, whole: dict, row: dict) -> list[Chunk]:
    sample = parse_row(row, row_id='row')
    return template.chunks_of(whole, sample, template.seg_positions(sample, whole['input_ids']))


def _encoded_chunks(template, row) -> list[dict]:
    encoded = template.encode(row, return_length=True)
    return encoded if isinstance(encoded, list) else [encoded]


@pytest.mark.parametrize('index', range(3))
@pytest.mark.parametrize('max_length', [80, 100, 150])
def test_chunks_hold_the_row(index, max_length, long_rows, make_template):
    row = long_rows[index]
    whole = make_template(None).encode(row, return_length=True)
    template = make_template(max_length)
    encoded = _encoded_chunks(template, row)
    chunks = chunks_of(template, whole, row)
    assert len(chunks) > 1 and all(chunk.length <= max_length for chunk in chunks)
    labels = whole['labels']
    for chunk, tensors in zip(chunks, encoded, strict=True):
        assert tensors['input_ids'] == whole['input_ids'][chunk.start:chunk.stop]
        assert tensors['labels'] == [IGNORE_INDEX, *labels[chunk.start + 1:chunk.stop]]
    # Each label once, at its own token or carried over the cut; what is left out has none.
    learned = [label for tensors in encoded for label in tensors['labels'] + [tensors.get('next_label', IGNORE_INDEX)]]
    assert [label for label in learned if label != IGNORE_INDEX] == [label for label in labels if label != IGNORE_INDEX]
    for key in ('pixel_values', 'image_grid_thw', 'g_pixel_values', 'masks'):
        if key in whole:
            assert torch.equal(torch.cat([tensors[key] for tensors in encoded if key in tensors]), whole[key])


def test_a_mask_keeps_its_image(long_rows, make_template):
    template = make_template(100)
    chunks = _encoded_chunks(template, long_rows[2])
    with_masks = [chunk for chunk in chunks if 'masks' in chunk]
    assert len(with_masks) == 2
    assert [chunk['mask_image_index'].tolist() for chunk in with_masks] == [[0], [0, 0]]
    for chunk in with_masks:
        assert len(chunk['image_grid_thw']) == 1 and len(chunk['g_pixel_values']) == 1
        tokens = np.asarray(chunk['input_ids'])
        assert (tokens[chunk['mask_token_index'].numpy()] == template.seg_token_id).all()
        assert (tokens == template.image_token_id).sum() == chunk['image_grid_thw'].prod() // 4


def test_what_must_stay_together_may_be_too_long(tmp_path, make_template):
    maker = Maker(tmp_path)
    row = maker.row('<image>Segment it.', f'{_words(0, 100)} [SEG].', images=[maker.image()], masks=[maker.mask()])
    row['citrusv_row'] = 'train.jsonl:7'
    with pytest.raises(MaxLengthError, match=r'train.jsonl:7: \d+ tokens, .* cannot be cut .*at most 60'):
        make_template(60).encode(row, return_length=True)


def test_one_chunk_of_a_row(long_rows, make_template):
    template = make_template(100)
    for row in long_rows:
        whole = make_template(None).encode(row, return_length=True)
        chunks = chunks_of(template, whole, row)
        for chunk, encoded in zip(chunks, _encoded_chunks(template, row), strict=True):
            alone = template.encode_chunk(row, chunk)
            assert alone['input_ids'] == encoded['input_ids'] and alone['lengths'] == [chunk.length]
            assert len(alone.get('g_pixel_values', ())) == chunk.seg_images
            assert (np.asarray(alone['input_ids']) == template.image_token_id).sum() == chunk.vision_tokens


# ---- training

CHUNK_LAYOUTS = {
    'a chunk a pack': '--packing_length 100',
    'two or three a pack': '--packing_length 250',
    'one pack': '--packing_length 4096',
}


def _direct_gradients(checkpoint: str, make_template, rows: list[dict]) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients and token loss of one step on the chunks, each run alone, with the targets read off the uncut row."""
    from swift.model import get_model_processor
    model, _ = get_model_processor(checkpoint, model_type='citrusv', torch_dtype=torch.float32, device_map='cpu')
    model.train()
    freeze_unused_parameters(model)
    whole_template, template = make_template(None), make_template(100)
    tokens, dice, bce, num_tokens = [], [], [], 0
    for row in rows:
        whole = whole_template.encode(row, return_length=True)
        for chunk in chunks_of(template, whole, row):
            inputs = template.data_collator([template.encode_chunk(row, chunk)])
            inputs.pop('labels')
            inputs.pop('text_position_ids', None)
            outputs = model(**inputs, use_cache=False)
            targets = torch.tensor([*whole['labels'], IGNORE_INDEX][chunk.start + 1:chunk.stop + 1])
            tokens.append(torch.nn.functional.cross_entropy(outputs.logits[0], targets, reduction='sum'))
            num_tokens += int((targets != IGNORE_INDEX).sum())
            if chunk.seg_images:
                losses = mask_losses(outputs.mask_logits, outputs.mask_targets)
                dice.append(losses[0])
                bce.append(losses[1])
    assert num_tokens == sum(label != IGNORE_INDEX for row in rows
                             for label in whole_template.encode(row, return_length=True)['labels'])
    token_loss = sum(tokens) / num_tokens
    (token_loss + 2 * torch.cat(dice).mean() + torch.cat(bce).mean()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, float(token_loss)


@pytest.fixture(scope='module')
def direct(long_rows, tiny_checkpoint, make_template):
    return _direct_gradients(tiny_checkpoint, make_template, long_rows)


@pytest.mark.parametrize('name', CHUNK_LAYOUTS)
def test_chunks_train_alike_in_any_packs(name, direct, long_rows, tiny_checkpoint, tmp_path):
    gradients, token_loss = direct
    watch = run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset',
                    write_jsonl(tmp_path / 'train.jsonl', long_rows), '--output_dir', str(tmp_path), '--tuner_type',
                    'full', '--freeze_vit', 'false', '--freeze_aligner', 'false', '--num_train_epochs', '1',
                    '--max_length', '100', '--packing', 'true', '--truncation_strategy', 'split',
                    '--gradient_accumulation_steps', '64', *CHUNK_LAYOUTS[name].split())
    assert watch.num_steps == 1 and watch.logs[0]['num_masks'] == 3
    assert watch.logs[0]['loss_token'] == pytest.approx(token_loss, rel=1e-5)
    assert_same_update(watch.gradients, {key: gradients[key] for key in watch.gradients})


def test_split_needs_packing(long_rows, tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match='Add --packing true'):
        run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset',
                write_jsonl(tmp_path / 'train.jsonl', long_rows), '--output_dir', str(tmp_path),
                '--truncation_strategy', 'split')
