"""The ms-swift template of Citrus-V: rows to tensors, and tensors to packs and batches.

It is Qwen2.5-VL's template with four more keys in what it encodes (shapes: README, 'What it does, exactly'):
`g_pixel_values`, `masks`, `mask_image_index` and `mask_token_index`.
"""
import json
import numpy as np
import torch
from PIL import Image
from swift.template import MaxLengthError, StdTemplateInputs
from swift.template.templates.qwen import Qwen2_5VLTemplate
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from typing import Any

from .constants import NO_MASK, ROW_COLUMN, SEG_TOKEN
from .errors import ROW_ERRORS, RowError
from .images import IMAGE_ERRORS
from .masks import decode_mask, resize_mask
from .samples import Sample, check_tags, parse_row
from .segmenter import image_size, mask_size

# Stands for [SEG] in the turns where it is plain text, until the text is tokenized: a private-use character on either
# side, which no text of a user holds.
_PLAIN_SEG = '\ue0f0SEG\ue0f1'
_NO_NUMBER = 'row (no number)'
_SEG_KEYS = ('g_pixel_values', 'masks', 'mask_image_index', 'mask_token_index')


def _empty(num_rows: int, input_side: int, mask_side: int) -> dict[str, Tensor]:
    return {
        'g_pixel_values': torch.zeros((num_rows, 0, 3, input_side, input_side), dtype=torch.uint8),
        'masks': torch.zeros((num_rows, 0, 1, mask_side, mask_side), dtype=torch.uint8),
        'mask_image_index': torch.zeros((num_rows, 0), dtype=torch.int64),
        'mask_token_index': torch.zeros((num_rows, 0), dtype=torch.int64),
    }


def pad_masks(rows: list[dict[str, Any]], input_side: int, mask_side: int) -> dict[str, Tensor]:
    """Batches the segmentation tensors of `rows`; a row without them has no image and no mask.

    Args:
        rows: Encoded rows with all or none of `g_pixel_values` [n, 3, S, S], `masks` [k, 1, m, m],
            `mask_image_index` [k] and `mask_token_index` [k].
        input_side: S.
        mask_side: m.

    Returns:
        The same keys with [B, N, 3, S, S], [B, M, 1, m, m], [B, M] and [B, M], where N and M are the largest n and k
        (0 in a batch without masks). The tails are zeros, and `NO_MASK` in the two indices.
    """
    if not any('masks' in row for row in rows):
        return _empty(len(rows), input_side, mask_side)
    empty = {key: value[0] for key, value in _empty(1, input_side, mask_side).items()}
    batch = {}
    for key in _SEG_KEYS:
        values = [row.get(key, empty[key]) for row in rows]
        fill = NO_MASK if key.endswith('_index') else 0
        batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
    return batch


def pack_masks(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Joins the segmentation tensors of `rows` into those of one pack: indices shift by what stands before.

    Args:
        rows: As in `pad_masks`, with the token counts under `length`.

    Returns:
        The four keys without a batch axis; {} where no row has masks.
    """
    joined: dict[str, list[Tensor]] = {key: [] for key in _SEG_KEYS}
    num_tokens = num_images = 0
    for row in rows:
        if 'masks' in row:
            joined['g_pixel_values'].append(row['g_pixel_values'])
            joined['masks'].append(row['masks'])
            joined['mask_image_index'].append(row['mask_image_index'] + num_images)
            joined['mask_token_index'].append(row['mask_token_index'] + num_tokens)
            num_images += len(row['g_pixel_values'])
        num_tokens += row['length']
    return {key: torch.cat(values) for key, values in joined.items() if values}


class _Final(BaseException):
    """Carries an error about a row past the decorator of ms-swift's `encode`, which tries three times on any other."""

    def __init__(self, error: ValueError) -> None:
        super().__init__(error)
        self.error = error


class CitrusVTemplate(Qwen2_5VLTemplate):
    """Encodes, packs and collates rows of the row contract."""

    def init_processor(self, processor) -> None:
        if processor is None or self._processor_inited:
            return
        # ms-swift keeps these on the class: ids of the first tokenizer that came by, and constants of the real one.
        self.placeholder_tokens = ['<|image_pad|>', '<|video_pad|>']
        super().init_processor(processor)
        convert = self.tokenizer.convert_tokens_to_ids
        self.image_token_id, self.video_token_id = convert('<|image_pad|>'), convert('<|video_pad|>')
        self.seg_token_id = convert(SEG_TOKEN)
        if self.seg_token_id is None or self.tokenizer.convert_ids_to_tokens(self.seg_token_id) != SEG_TOKEN:
            raise ValueError(f'The tokenizer has no {SEG_TOKEN}. Load the model with --model_type citrusv, or build a '
                             'checkpoint with `citrusv build`.')
        self.input_side = image_size(self.config.sam2_preset)
        self.mask_side = mask_size(self.config.sam2_preset)
        # "[", "SEG" and "]" as a text that is not the token.
        self._plain_seg_ids = self._tokenize(SEG_TOKEN[:2]) + self._tokenize(SEG_TOKEN[2:])

    # ---- text: [SEG] is a token in assistant turns, and plain text elsewhere

    def _swift_prepare_inputs(self, inputs: StdTemplateInputs):
        # Before, because ms-swift folds tool calls into the assistant's turn.
        for message in inputs.messages:
            if message['role'] != 'assistant':
                message['content'] = _plain(message['content'])
        super()._swift_prepare_inputs(inputs)
        inputs.system = _plain(inputs.system)

    def _get_system(self, inputs: StdTemplateInputs) -> str | None:
        return _plain(super()._get_system(inputs))

    def _tokenize(self, context, **kwargs):
        if not isinstance(context, str) or _PLAIN_SEG not in context:
            return super()._tokenize(context, **kwargs)
        first, *rest = (super(CitrusVTemplate, self)._tokenize(part, **kwargs) for part in context.split(_PLAIN_SEG))
        return first + [token for part in rest for token in self._plain_seg_ids + part]

    # ---- encode

    def encode(self, inputs: Any, return_template_inputs: bool = False, return_length: bool = False):
        """As ms-swift's, but in training every error about a row names the row.

        Raises:
            RowError: The row breaks the row contract, or ms-swift cannot encode it.
            MaxLengthError: It is too long.
        """
        if self.mode != 'train':
            return super().encode(inputs, return_template_inputs, return_length)
        try:
            return super().encode(inputs, return_template_inputs, return_length)
        except _Final as e:
            final = e.error
        except ROW_ERRORS as e:
            row_id = (inputs.get(ROW_COLUMN) if isinstance(inputs, dict) else None) or _NO_NUMBER
            raise RowError(row_id, f'{type(e).__name__}: {e}.', 'Look at the row with `citrusv check-data`.',
                           'encode') from e
        raise final

    def _encode_truncated(self, inputs: StdTemplateInputs):
        if self.mode != 'train':
            return super()._encode_truncated(inputs)
        row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
        try:
            return self._encode_row(inputs, row_id)
        except RowError as e:
            raise _Final(e) from e
        except MaxLengthError as e:
            error = MaxLengthError(f'{row_id}: {e} Raise --max_length, cut rows with --truncation_strategy right, or '
                                   'drop them with --strict false.')
            raise _Final(error) from e

    def _encode_row(self, inputs: StdTemplateInputs, row_id: str):
        row = _contract_row(inputs)
        sample = parse_row(row, row_id=row_id)
        check_tags(row['messages'], num_images=len(inputs.images), num_videos=len(inputs.videos), row_id=row_id)
        # Opened here, before ms-swift scales them for the MLLM.
        inputs.images = [self._open(image, row_id, i) for i, image in enumerate(inputs.images)]
        originals = {i: inputs.images[i] for i in sample.seg_images}
        encoded = super()._encode_truncated(inputs)
        if sample.masks:
            if isinstance(encoded, list):
                raise RowError(
                    row_id, 'the row has masks and does not fit into --max_length; --truncation_strategy '
                    'split cannot cut such a row.', 'Raise --max_length.', 'truncation')
            encoded.update(self._encode_masks(sample, encoded['input_ids'], originals))
        return encoded

    def _open(self, image: Any, row_id: str, index: int) -> Image.Image:
        try:
            loaded = self._load_image(image, True)
            loaded.load()
        except IMAGE_ERRORS as e:
            name = image.get('path') if isinstance(image, dict) else image
            raise RowError(row_id, f'images[{index}]={name!r} cannot be read: {e}.', 'Repair or remove the file.',
                           'image-unreadable') from e
        return loaded

    def _encode_masks(self, sample: Sample, input_ids: list[int], images: dict[int, Image.Image]) -> dict[str, Tensor]:
        positions = [i for i, token in enumerate(input_ids) if token == self.seg_token_id]
        if len(positions) != len(sample.masks):
            raise RowError(
                sample.row, f'{len(positions)} of the {len(sample.masks)} {SEG_TOKEN} are left after truncation to '
                f'{len(input_ids)} tokens.', 'Raise --max_length, or shorten the row.', 'truncation')
        masks = []
        for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
            size = (images[image].height, images[image].width)
            mask = decode_mask(entry, size=size, row=sample.row, position=position)
            masks.append(torch.from_numpy(resize_mask(mask, self.mask_side)))
        # PIL's BILINEAR antialiases when it shrinks.
        side = (self.input_side, self.input_side)
        pixels = [np.array(images[i].resize(side, Image.Resampling.BILINEAR)) for i in sample.seg_images]
        return {
            'g_pixel_values': torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            'masks': torch.stack(masks)[:, None],
            'mask_image_index': torch.tensor(sample.mask_image_index),
            'mask_token_index': torch.tensor(positions),
        }

    # ---- pack and collate

    def _get_get_rope_index(self):
        if self.model is None:
            # In a spawned DataLoader worker: the method needs the configuration only, and no SAM2 beside it.
            if not hasattr(self, '_rope_model'):
                with torch.device('meta'):
                    self._rope_model = Qwen2_5_VLModel(self.config)
            return self._rope_model.get_rope_index
        return super()._get_get_rope_index()

    def __getstate__(self):
        state = super().__getstate__()
        state.pop('_rope_model', None)
        return state

    def packing_row(self, row: list[dict[str, Any]]) -> dict[str, Any]:
        segmentation = pack_masks(row)
        packed = super().packing_row([{k: v for k, v in r.items() if k not in _SEG_KEYS} for r in row])
        # ms-swift's method has added the keys of an empty batch.
        return {**{k: v for k, v in packed.items() if k not in _SEG_KEYS}, **segmentation}

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        result = super()._data_collator_mm_data(batch)
        if self.mode == 'train':
            result.update(pad_masks(batch, self.input_side, self.mask_side))
        return result

    def _data_collator(self, batch: list[dict[str, Any]], *, padding_to: int | None = None) -> dict[str, Any]:
        lengths = [len(row['input_ids']) for row in batch]
        result = super()._data_collator(batch, padding_to=padding_to)
        if self.mode != 'train':
            return result
        if self.padding_free:
            # Four rows of positions, text first, let Transformers build the block-diagonal mask for sdpa too.
            result['position_ids'] = torch.cat([result['text_position_ids'][None], result['position_ids']])
        elif self.padding_side == 'left':
            index = result['mask_token_index']
            shift = result['input_ids'].shape[1] - torch.tensor(lengths)[:, None]
            result['mask_token_index'] = torch.where(index == NO_MASK, index, index + shift)
        return result

    # ---- forward

    def _post_encode(self, model, inputs: dict[str, Any]) -> dict[str, Any]:
        result = super()._post_encode(model, inputs)
        # ms-swift's forward hook drops every key that is not named here.
        return {**result, **{key: inputs[key] for key in (*_SEG_KEYS, 'use_cache') if key in inputs}}

    def compute_sft_loss(self, model, inputs: dict[str, Any], num_items_in_batch: int | None = None, trainer=None):
        num_masks = inputs.pop('num_masks_in_step', None)
        if 'labels' in inputs:
            # Another --loss_type, or none: the model's own loss.
            return super().compute_sft_loss(model, inputs, num_items_in_batch=num_items_in_batch, trainer=trainer)
        # A cache would make Transformers ignore the packs' borders.
        outputs = model(**inputs, use_cache=False)
        observe = getattr(getattr(trainer, 'compute_loss_func', None), 'observe', None)
        if observe is not None:
            observe(inputs, num_masks)
        return outputs


def _contract_row(inputs: StdTemplateInputs) -> dict[str, Any]:
    """The row as the row contract has it; `masks` and `mask_images` come through Arrow as JSON text."""
    system = [{'role': 'system', 'content': inputs.system}] if inputs.system else []
    row = {'messages': system + inputs.messages, 'images': inputs.images, 'videos': inputs.videos}
    for key in ('masks', 'mask_images'):
        value = inputs.extra_kwargs.get(key)
        row[key] = json.loads(value) if isinstance(value, str) else value
    return row


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return content.replace(SEG_TOKEN, _PLAIN_SEG)
    if isinstance(content, list):
        return [_plain(part) for part in content]
    return content
