"""The ms-swift template of Citrus-V: rows to tensors, and tensors to packs and batches.

It is Qwen2.5-VL's template with four more keys in what it encodes (shapes: README, 'What it does, exactly'):
`g_pixel_values`, `masks`, `mask_image_index` and `mask_token_index`.
"""
import json
import numpy as np
import torch
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from PIL import Image
from swift.template import MaxLengthError, StdTemplateInputs
from swift.template.templates.qwen import Qwen2_5VLTemplate
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from typing import Any, NamedTuple

from ..constants import IGNORE_INDEX, LEFT_OUT_KEY, NO_MASK, PIECE_KEY, ROW_COLUMN, ROWS_KEY, SEG_REQUEST_KEY, SEG_TOKEN
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import open_image, to_rgb
from ..model.seg_states import SegStates, StreamTee
from ..model.segmenter import image_size, mask_size
from ..rows.contract import Sample, check_tags, parse_row
from ..rows.masks import decode_mask, resize_mask
from .chunks import Medium, Piece, carry_labels, cut, media_stretches, take_piece
from .row_media import move_image_tags, open_media
from .seg_tensors import SEG_KEYS, pack_masks, pad_masks
from .skipped import part, without_targets

# Stands for [SEG] in the turns where it is plain text, until the text is tokenized: a private-use character on either
# side, which no text of a user holds.
_PLAIN_SEG = '\ue0f0SEG\ue0f1'
_NO_NUMBER = 'row (no number)'


class _Final(BaseException):
    """Carries an error about a row past the decorator of ms-swift's `encode`, which tries three times on any other."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class SegRequest(NamedTuple):
    """Of a request that is to be answered: its images at their own size, and the texts of its turns."""
    images: tuple[Image.Image, ...]
    turns: tuple[str, ...]


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
        """As ms-swift's, but with one attempt, and in training every error about a row names the row.

        Raises:
            RowError: The row breaks the row contract, or ms-swift cannot encode it.
            MaxLengthError: It is too long.
        """
        try:
            return super().encode(inputs, return_template_inputs, return_length)
        except _Final as e:
            final = e.error
        except ROW_ERRORS as e:
            if self.mode != 'train':
                raise
            row_id = (inputs.get(ROW_COLUMN) if isinstance(inputs, dict) else None) or _NO_NUMBER
            raise RowError(row_id, f'{type(e).__name__}: {e}.', 'Look at the row with `citrusv check-data`.',
                           'encode') from e
        raise final

    def _encode_truncated(self, inputs: StdTemplateInputs):
        if self.mode != 'train':
            return self._encode_request(inputs)
        row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
        try:
            return self._encode_row(inputs, row_id)
        except RowError as e:
            raise _Final(e) from e
        except MaxLengthError as e:
            error = MaxLengthError(f'{row_id}: {e} Raise --max_length, cut rows with --truncation_strategy right, or '
                                   'drop them with --strict false.')
            raise _Final(error) from e

    def _encode_request(self, inputs: StdTemplateInputs):
        try:
            move_image_tags(inputs)
            row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
            check_tags(inputs.messages, num_images=len(inputs.images), num_videos=len(inputs.videos), row_id=row_id)
            return super()._encode_truncated(inputs)
        except ROW_ERRORS as e:
            # A second attempt would decode its images again, and end in the same way.
            raise _Final(e) from e

    def _encode_row(self, inputs: StdTemplateInputs, row_id: str):
        move_image_tags(inputs)
        row = _contract_row(inputs)
        sample = parse_row(row, row_id=row_id)
        check_tags(row['messages'], num_images=len(inputs.images), num_videos=len(inputs.videos), row_id=row_id)
        # Opened here, before ms-swift scales them for the MLLM.
        self._open_media(inputs)
        originals = {i: inputs.images[i] for i in sample.seg_images}
        if self.truncation_strategy == 'split':
            self._preprocess_inputs(inputs)
            encoded = self._encode(inputs)
            encoded['length'] = len(encoded['input_ids'])
        else:
            encoded = super()._encode_truncated(inputs)
        encoded[ROW_COLUMN] = row_id
        if sample.masks:
            encoded.update(self._encode_masks(sample, encoded['input_ids'], originals))
        if self.truncation_strategy != 'split':
            return encoded
        piece = inputs.extra_kwargs.get(PIECE_KEY)
        pieces = self.pieces_of(encoded, sample) if piece is None else [Piece(*piece)]
        media = self._media(encoded['input_ids'])
        taken = [take_piece(encoded, piece, media) for piece in pieces]
        return taken if len(taken) > 1 else taken[0]

    # ---- pieces of rows that are too long (--truncation_strategy split)

    def pieces_of(self, encoded: dict[str, Any], sample: Sample) -> list[Piece]:
        """The pieces of an encoded row: one, unless `--truncation_strategy split` has to cut it.

        A cut never falls inside an image or a video, nor between a mask's image and its `[SEG]`. A piece of a cut row
        that has neither a target nor a mask is left out: it would add nothing to any gradient.

        Args:
            encoded: `input_ids` and `labels` of the row, placeholders expanded, not truncated where it may be cut.
            sample: The segmentation side of the row.

        Raises:
            MaxLengthError: What must stay together is longer than `--max_length`.
        """
        input_ids, labels = encoded['input_ids'], encoded['labels']
        media = self._media(input_ids)
        num_vision = sum(medium.num_tokens for medium in media)
        if self.truncation_strategy != 'split' or self.max_length is None or len(input_ids) <= self.max_length:
            return [Piece(0, len(input_ids), num_vision, len(sample.seg_images))]
        positions = self._seg_positions(sample, input_ids)
        images = [medium for medium in media if medium.is_image]
        # In an assistant's turn before its image, a [SEG] would be the left end.
        tied = [(min(images[image].start, position), max(images[image].stop, position + 1))
                for image, position in zip(sample.mask_images, positions)]
        whole = [(medium.start, medium.stop) for medium in media] + tied
        try:
            stretches = cut(len(input_ids), self.max_length, whole)
        except ValueError as e:
            raise MaxLengthError(f'{len(input_ids)} tokens cannot be cut into pieces of at most {self.max_length} '
                                 f'(an image stays whole, and a mask with its image): {e}.') from e
        pieces = []
        for start, stop in stretches:
            drawn = {image for image, position in zip(sample.mask_images, positions) if start <= position < stop}
            # The target of a token is the label one place on.
            if drawn or any(label != IGNORE_INDEX for label in labels[start + 1:stop + 1]):
                vision = sum(medium.num_tokens for medium in media if start <= medium.start < stop)
                pieces.append(Piece(start, stop, vision, len(drawn)))
        return pieces or [Piece(0, stretches[0][1], 0, 0)]

    def _media(self, input_ids: list[int]) -> list[Medium]:
        return media_stretches(input_ids, self.image_token_id, self.video_token_id)

    def encode_piece(self, row: dict[str, Any], piece: Piece) -> dict[str, Any]:
        """Encodes one piece of a row, as `encode` does with `return_length=True`.

        Raises:
            RowError, MaxLengthError: As in `encode`.
        """
        return self.encode({**row, PIECE_KEY: tuple(piece)}, return_length=True)

    # ---- files: whatever ms-swift opens, it opens through these, and so under `images.FileRules`

    def _preprocess_inputs(self, inputs: StdTemplateInputs) -> None:
        self._open_media(inputs)
        # Before ms-swift scales them for the MLLM.
        images = tuple(inputs.images)
        super()._preprocess_inputs(inputs)
        if self.mode != 'train':
            turns = tuple(str(message['content'] or '') for message in inputs.messages)
            inputs.extra_kwargs[SEG_REQUEST_KEY] = SegRequest(images, turns)

    def _open_media(self, inputs: StdTemplateInputs) -> None:
        move_image_tags(inputs)
        row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
        open_media(inputs, row_id, partial(self._load_image, load_images=True))

    def _load_image(self, image: Any, load_images: bool) -> Image.Image:
        return to_rgb(open_image(image))

    def replace_tag(self, media_type: str, index: int, inputs: StdTemplateInputs) -> list[Any]:
        if media_type != 'video' or index >= len(inputs.videos):
            return super().replace_tag(media_type, index, inputs)
        reference = inputs.videos[index]
        try:
            return self._fetch_video(index, inputs)
        except IMAGE_ERRORS as e:
            row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
            raise unreadable(row_id, f'videos[{index}]={shown_name(reference)}', e, 'video-unreadable') from e

    def _fetch_video(self, index: int, inputs: StdTemplateInputs) -> list[Any]:
        return super().replace_tag('video', index, inputs)

    def _seg_positions(self, sample: Sample, input_ids: list[int]) -> list[int]:
        """The place of each mask's `[SEG]`; a RowError where truncation took one."""
        if not sample.masks:
            return []
        positions = [i for i, token in enumerate(input_ids) if token == self.seg_token_id]
        if len(positions) != len(sample.masks):
            raise RowError(
                sample.row, f'{len(positions)} of the {len(sample.masks)} {SEG_TOKEN} are left after truncation to '
                f'{len(input_ids)} tokens.', 'Raise --max_length, or shorten the row.', 'truncation')
        return positions

    def _encode_masks(self, sample: Sample, input_ids: list[int], images: dict[int, Image.Image]) -> dict[str, Tensor]:
        positions = self._seg_positions(sample, input_ids)
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
        packed = super().packing_row([{k: v for k, v in r.items() if k not in SEG_KEYS} for r in row])
        carry_labels(packed, row)
        # ms-swift's method has added the keys of an empty batch.
        return {**{k: v for k, v in packed.items() if k not in SEG_KEYS}, **segmentation}

    def data_collator(self, batch: list[Any], *, padding_to: int | None = None) -> dict[str, Any]:
        rows, errors = part(batch)
        if not errors:
            return super().data_collator(batch, padding_to=padding_to)
        if not rows:
            rows = [without_targets(self.tokenizer.eos_token_id)]
        return {**super().data_collator(rows, padding_to=padding_to), LEFT_OUT_KEY: errors}

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        result = super()._data_collator_mm_data(batch)
        if self.mode == 'train':
            result.update(pad_masks(batch, self.input_side, self.mask_side))
        return result

    def _data_collator(self, batch: list[dict[str, Any]], *, padding_to: int | None = None) -> dict[str, Any]:
        lengths = [len(row['input_ids']) for row in batch]
        names = [row.get(ROW_COLUMN, _NO_NUMBER) for row in batch]
        result = super()._data_collator(batch, padding_to=padding_to)
        if self.mode != 'train':
            return result
        # For the trainer, which takes them out again: `patches.patch_nonfinite`.
        result[ROWS_KEY] = names
        if self.padding_free:
            # Four rows of positions, text first, let Transformers build the block-diagonal mask for sdpa too.
            result['position_ids'] = torch.cat([result['text_position_ids'][None], result['position_ids']])
        elif self.padding_side == 'left':
            index = result['mask_token_index']
            shift = result['input_ids'].shape[1] - torch.tensor(lengths)[:, None]
            result['mask_token_index'] = torch.where(index == NO_MASK, index, index + shift)
        return result

    # ---- generate

    def generate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """As ms-swift's; `seg_states`, where it is given, follows the generation and learns its result."""
        states: SegStates | None = kwargs.get('seg_states')
        if states is None:
            return super().generate(model, *args, **kwargs)
        streamer = kwargs.get('streamer')
        if streamer is not None:
            kwargs['streamer'] = StreamTee(streamer, states)
        adapters = kwargs.get('adapter_names')
        if adapters is not None:
            # ms-swift gives one name; PEFT wants one for each row.
            config = kwargs['generation_config']
            rows = states.num_prompts * max(config.num_beams, config.num_return_sequences)
            kwargs['adapter_names'] = adapters[:1] * rows
        output = None
        with states.watch(streamer), _seeded(states.seed, model.device):
            output = super().generate(model, *args, **kwargs)
            states.sequences = output['sequences'][:, states.prompt_length:]
        return output

    # ---- forward

    def _post_encode(self, model, inputs: dict[str, Any]) -> dict[str, Any]:
        result = super()._post_encode(model, inputs)
        # ms-swift's forward hook drops every key that is not named here.
        return {**result, **{key: inputs[key] for key in (*SEG_KEYS, 'use_cache') if key in inputs}}

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


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws as `seed` says, and leaves the generators of random numbers as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        yield


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return content.replace(SEG_TOKEN, _PLAIN_SEG)
    if isinstance(content, list):
        return [_plain(part) for part in content]
    return content
