"""The mask loss obeys ms-swift's loss scales: a mask trains where its `[SEG]` is a target of the token loss."""
import itertools
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from support.closeness import assert_same_update
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from typing import Any

from swift_citrusv.constants import IGNORE_INDEX
from swift_citrusv.encoding.row_length import measure
from swift_citrusv.model.losses import mask_losses
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.rows.masks import resize_mask

# Masks of each of the three turns, and the image of each.
TURNS = ((0, ), (1, 1), (1, 2))


def three_turns(maker: Maker, *keys: dict[str, Any], last: str = '') -> dict[str, Any]:
    """Three turns with five masks on three images; `keys` are added to the assistant's messages."""
    size = {0: (84, 84), 1: (56, 112), 2: (112, 56)}
    images = [maker.image(*size[i]) for i in range(3)]
    row = maker.row(
        '<image>Segment the cell.',
        'The cell: [SEG].',
        '<image><image>Not [SEG]: the second.',
        'Bone [SEG] and vessels [SEG].',
        'Again the second, and the third.',
        f'{last}The cell [SEG], the nucleus [SEG].',
        images=images,
        masks=[maker.mask(*size[i]) for turn in TURNS for i in turn],
        mask_images=[i for turn in TURNS for i in turn])
    for message, extra in zip(row['messages'][1::2], keys):
        message.update(extra)
    return row


def trained(row: dict[str, Any], turns: list[int], template: Any) -> list[tuple[bytes, bytes, int]]:
    """What the masks of these turns must become: the pixels of the mask, those of its image, and which [SEG] it is."""
    found = []
    for number, (turn, image) in enumerate((t, i) for t, images in enumerate(TURNS) for i in images):
        if turn in turns:
            mask = resize_mask(coco.decode(row['masks'][number]), template.mask_side)
            picture = template._open_image(row['images'][image]).resize((template.input_side, ) * 2, 2)
            found.append((mask.tobytes(), np.asarray(picture).transpose(2, 0, 1).tobytes(), number))
    return found


def paired(encoded: dict[str, Any], ids: list[int], seg: int, offset: int = 0) -> list[tuple[bytes, bytes, int]]:
    """The same of an encoded row, or of its chunk that starts at `offset` of the row's `ids`."""
    if 'masks' not in encoded:
        return []
    numbers = {place: number for number, place in enumerate(i for i, token in enumerate(ids) if token == seg)}
    assert len(encoded['g_pixel_values']) == len(set(encoded['mask_image_index'].tolist())), 'an image nobody needs'
    return [
        (mask.numpy().tobytes(), encoded['g_pixel_values'][image].numpy().tobytes(), numbers[int(place) + offset])
        for mask, image, place in zip(encoded['masks'][:, 0], encoded['mask_image_index'], encoded['mask_token_index'])
    ]


# name -> (--loss_scale, keys of the three messages, turns whose masks train)
CASES: dict[str, tuple[str, tuple[dict[str, Any], ...], list[int]]] = {
    'nothing said': ('default', ({}, {}, {}), [0, 1, 2]),
    'last round': ('last_round', ({}, {}, {}), [2]),
    'last round and a pattern': ('last_round+ignore_empty_think', ({}, {}, {}), [2]),
    'a pattern alone': ('ignore_empty_think', ({}, {}, {}), [0, 1, 2]),
    'last round, and an earlier turn that asks for loss': ('last_round', ({'loss': True}, {}, {}), [0, 2]),
    'last round without loss': ('last_round', ({}, {}, {'loss': False}), []),
    'weight 0': ('default', ({'loss_scale': 0.}, {}, {'loss_scale': 0.}), [1]),
    'weights between 0 and 1, and above': ('default', ({'loss_scale': .25}, {'loss_scale': 3.}, {}), [0, 1, 2]),
    'loss true with weight 0': ('default', ({'loss': True, 'loss_scale': 0.}, {}, {}), [1, 2]),
    'every part of the prompt': ('all', ({}, {'loss': False}, {}), [0, 2]),
    'weights of an agent': ('react', ({}, {'loss': False}, {}), [0, 2]),
}  # yapf: disable
CASES |= {
    f'loss {kept}': ('default', tuple({'loss': keeps} for keeps in kept), [i for i in range(3) if kept[i]])
    for kept in itertools.product((False, True), repeat=3)
}  # yapf: disable


def test_which_masks_train(make_template, tmp_path):
    """Each mask keeps its image and its own [SEG], whatever is left out before it; chunks and lengths agree."""
    maker, num_cut = Maker(tmp_path / 'images'), 0
    for name, (loss_scale, keys, turns) in CASES.items():
        row = three_turns(maker, *keys)
        template = make_template(loss_scale=loss_scale)
        encoded = template.encode(row, return_length=True)
        ids, seg = encoded['input_ids'], template.seg_token_id
        expected = trained(row, turns, template)
        assert paired(encoded, ids, seg) == expected, name
        supervised = [label == seg for label in encoded['labels']]
        assert sum(supervised) == len(expected), name
        assert measure(template, row)[0].seg_images == len(encoded.get('g_pixel_values', ())), name
        split = make_template(110, loss_scale=loss_scale, truncation_strategy='split')
        chunks = measure(split, row)
        num_cut += len(chunks) > 1
        found: list[tuple[bytes, bytes, int]] = []
        for chunk in chunks:
            part = split.encode_chunk(row, chunk)
            assert len(part.get('g_pixel_values', ())) == chunk.seg_images, name
            found += paired(part, ids, seg, chunk.start)
        assert found == expected, name
    assert num_cut > 5


def test_part_of_an_answer(make_template, tmp_path):
    """A loss scale that gives one part of an answer no weight: the `[SEG]` of that part does not train."""
    from swift.loss_scale import ConfigLossScale, loss_scale_map

    class Scale(ConfigLossScale):

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.loss_scale_map = {'<think>.*?</think>': [0.], r'nucleus \[SEG\]': [.5]}

    loss_scale_map['tests'] = Scale
    try:
        template = make_template(loss_scale='tests')
        row = three_turns(Maker(tmp_path / 'images'), last='<think>Perhaps.</think>')
        row['messages'][3]['content'] = '<think>Bone [SEG].</think> Vessels [SEG].'
        encoded = template.encode(row, return_length=True)
    finally:
        del loss_scale_map['tests']
    numbers = [number for _, _, number in paired(encoded, encoded['input_ids'], template.seg_token_id)]
    assert numbers == [0, 2, 3, 4]
    weights = [encoded['loss_scale'][i] for i in encoded['mask_token_index'].tolist()]
    assert weights == [1., 1., 1., .5]


def test_mask_without_loss_is_not_read(make_template, tmp_path):
    """It may even be unreadable; `citrusv check-data` still finds it."""
    row = three_turns(Maker(tmp_path / 'images'), {'loss': False})
    row['masks'][0] = {'path': str(tmp_path / 'nowhere.png')}
    template = make_template()
    assert len(template.encode(row)['masks']) == 4 and measure(template, row)[0].seg_images == 2


def test_gradient(make_template, tiny_checkpoint, tmp_path):
    """That of the masks equals a loss over the masks of the other turns, put together by hand."""
    maker = Maker(tmp_path / 'images')
    row = three_turns(maker)
    template = make_template()
    whole = template.data_collator([template.encode(row, return_length=True)])
    row['messages'][3]['loss'] = False
    batch = template.data_collator([template.encode(row, return_length=True)])
    gradients = []
    for inputs, numbers in ((batch, [0, 1, 2]), (whole, [0, 3, 4])):
        model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
        sent = {key: value for key, value in inputs.items() if key not in ('labels', 'citrusv_rows')}
        outputs = model(**sent, use_cache=False)
        dice, bce = mask_losses(outputs.mask_logits, outputs.mask_targets)
        assert len(dice) == (3 if inputs is batch else 5)
        (2 * dice[numbers].sum() + bce[numbers].sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert_same_update(*gradients)
    assert (batch['labels'] != IGNORE_INDEX).sum() < (whole['labels'] != IGNORE_INDEX).sum()


@pytest.mark.parametrize('layout', [
    '--per_device_train_batch_size 2 --gradient_accumulation_steps 2',
    '--packing true --packing_length 400 --truncation_strategy split --max_length 110 --gradient_accumulation_steps 2'
])
def test_whole_run(layout, tiny_checkpoint, tmp_path):
    """`swift sft --loss_scale last_round`: `num_masks` counts the supervised masks, in training and evaluation."""
    maker = Maker(tmp_path / 'images')
    rows = [
        three_turns(maker),
        three_turns(maker, {'loss': True}),
        three_turns(maker, {}, {}, {'loss': False}),
        maker.row('What is bone?', 'A tissue.')
    ]
    data = write_jsonl(tmp_path / 'train.jsonl', rows)
    watch = run_sft('--model', tiny_checkpoint,
                    '--model_type', 'citrusv', '--dataset', data, '--val_dataset', data, '--output_dir',
                    str(tmp_path / 'out'), '--tuner_type', 'full', '--num_train_epochs', '1', '--loss_scale',
                    'last_round', '--eval_strategy', 'epoch', *layout.split())
    logs = {key: value for log in watch.logs for key, value in log.items()}
    assert sum(log.get('num_masks', 0) for log in watch.logs) == 5 and logs['eval_num_masks'] == 5
