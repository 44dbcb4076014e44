"""The ms-swift template of Citrus-V: rows to tensors, and tensors to packs and batches.

It extends the template of Qwen2.5-VL by four keys (shapes: docs/data.md): `g_pixel_values`, `masks`,
`mask_image_index` and `mask_token_index`.
"""
import torch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from PIL import Image
from swift.template import MaxLengthError, StdTemplateInputs
from swift.template.templates.qwen import Qwen2_5VLTemplate
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from typing import Any, NamedTuple

from ..constants import CHUNK_KEY, NO_MASK, ROW_COLUMN, ROWS_KEY, SEG_REQUEST_KEY, SEG_TOKEN, SKIPPED_KEY
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import open_image, to_rgb
from ..model.seg_states import RecordingStreamer, SegStates
from ..model.segmenter import preset_image_size, preset_mask_size
from ..rows.contract import Sample
from .chunks import Chunk, Medium, carry_labels, media_spans, split_row, take_chunk
from .row_media import check_inputs, move_image_tags, open_media
from .seg_tensors import SEG_KEYS, encode_masks, pack_masks, pad_masks, supervised_masks
from .skipped import row_without_targets, split_skipped
from .too_long import RowTokens, TooLong

# Replaces [SEG] where it is plain text, until the text is tokenized. The private-use characters on both sides do not
# occur in user text.
_PLAIN_SEG = '\ue0f0SEG\ue0f1'
_NO_NUMBER = 'row (no number)'


class _Final(BaseException):
    """Carries an error about a row past the decorator of ms-swift's `encode`, which retries on any other error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class SegRequest(NamedTuple):
    """The images of an inference request at their original size, and the texts of its turns."""
    images: tuple[Image.Image, ...]
    turns: tuple[str, ...]


class CitrusVTemplate(Qwen2_5VLTemplate):
    """Encodes, packs and collates rows of the row contract.

    Attributes:
        trains_masks: Whether the masks of training rows are targets. `swift rlhf` turns it off; rows are then encoded
            as those of ms-swift's Qwen2.5-VL.
    """
    trains_masks = True

    def init_processor(self, processor) -> None:
        if processor is None or self._processor_inited:
            return
        # ms-swift stores these on the class: the ids of the first tokenizer that was loaded, or constants.
        self.placeholder_tokens = ['<|image_pad|>', '<|video_pad|>']
        super().init_processor(processor)
        convert = self.tokenizer.convert_tokens_to_ids
        self.image_token_id, self.video_token_id = convert('<|image_pad|>'), convert('<|video_pad|>')
        self.seg_token_id = convert(SEG_TOKEN)
        if self.seg_token_id is None or self.tokenizer.convert_ids_to_tokens(self.seg_token_id) != SEG_TOKEN:
            raise ValueError(f'The tokenizer has no {SEG_TOKEN}. Load the model with --model_type citrusv, or build a '
                             'checkpoint with `citrusv build`.')
        self.input_side = preset_image_size(self.config.sam2_preset)
        self.mask_side = preset_mask_size(self.config.sam2_preset)
        # The ids of "[SEG]" as plain text.
        self._plain_seg_ids = self._tokenize(SEG_TOKEN[:2]) + self._tokenize(SEG_TOKEN[2:])

    # ---- text: [SEG] is a token in assistant turns, and plain text elsewhere

    def _swift_prepare_inputs(self, inputs: StdTemplateInputs):
        # Must come first: ms-swift merges tool calls into the assistant's turn.
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
        """Encodes a row or a request; bad rows are not retried, and in training every error names the row.

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
        """Encodes one row or one request: tags, contract, media, tensors, masks, chunks, each once and in this order.

        A request stops at its tensors: it has no target masks, and is never split.
        """
        row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
        training = self.mode == 'train'
        try:
            move_image_tags(inputs)
            # GRPO encodes the texts of its log without their images.
            named = self.trains_masks or ROW_COLUMN in inputs.extra_kwargs
            sample = check_inputs(inputs, row_id, targets=training and self.trains_masks, tags=named)
            images = open_media(inputs, row_id, self._open_image)
            encoded = self._tensors(inputs)
            if not training:
                return encoded
            encoded[ROW_COLUMN] = row_id
            positions = self.seg_positions(sample, encoded['input_ids'])
            if encoded.get('labels') is not None:
                sample, positions = supervised_masks(sample, positions, encoded['labels'])
            if self.task_type == 'causal_lm':
                positions = self._fit(inputs, encoded, images, sample, positions)
            if sample.masks:
                encoded.update(self._mask_tensors(sample, positions, images))
            return self._cut(inputs, encoded, sample, positions)
        except MaxLengthError as e:
            raise _Final(MaxLengthError(f'{row_id}: {e}') if training else e) from e
        except ROW_ERRORS as e:
            if training and not isinstance(e, RowError):
                # Possibly temporary, such as a server that does not answer: ms-swift retries.
                raise
            raise _Final(e) from e

    # ---- media: all files are opened here, under `files.rules.FileRules`; ms-swift opens none itself

    def _open_image(self, image: Any) -> Image.Image:
        return to_rgb(open_image(image))

    def _load_image(self, image: Any, load_images: bool) -> Image.Image:
        # `open_media` has already opened it.
        return image

    def replace_tag(self, media_type: str, index: int, inputs: StdTemplateInputs) -> list[Any]:
        if media_type != 'video' or index >= len(inputs.videos):
            return super().replace_tag(media_type, index, inputs)
        reference = inputs.videos[index]
        try:
            return self._fetch_video(index, inputs)
        except IMAGE_ERRORS as e:
            row_id = inputs.extra_kwargs.get(ROW_COLUMN) or _NO_NUMBER
            raise unreadable_file(row_id, f'videos[{index}]={file_repr(reference)}', e, 'video-unreadable') from e

    def _fetch_video(self, index: int, inputs: StdTemplateInputs) -> list[Any]:
        return super().replace_tag('video', index, inputs)

    # ---- tensors

    def _tensors(self, inputs: StdTemplateInputs) -> dict[str, Any]:
        """The tokens, labels and MLLM pixels of a row whose media are open, encoded by ms-swift.

        Rows of a training on text are not truncated yet: see `_fit`.
        """
        if self.mode != 'train' or self.task_type != 'causal_lm':
            return super()._encode_truncated(inputs)
        self._preprocess_inputs(inputs)
        encoded = self._encode(inputs)
        encoded['length'] = len(encoded['input_ids'])
        return encoded

    def _fit(self, inputs: StdTemplateInputs, encoded: dict[str, Any], images: Sequence[Image.Image], sample: Sample,
             positions: list[int]) -> list[int]:
        """Truncates a row that is longer than `--max_length`, in place (`_cut` splits one); returns the `positions`.

        ms-swift's own method does not say what helps, and would split a row without its images.

        Raises:
            MaxLengthError: The row is too long, and may not be truncated.
            RowError: Truncation removes the `[SEG]` of a mask.
        """
        ids = encoded['input_ids']
        if self.max_length is None or len(ids) <= self.max_length:
            return positions
        row = RowTokens(
            len(ids), self.seg_token_id in ids, self._media(ids), [image.size for image in images],
            inputs.chat_template_kwargs)
        too_long = TooLong(row, self.max_length, self.truncation_strategy, sample, positions)
        too_long.check()
        if self.truncation_strategy == 'split':
            return positions
        ids, labels = self._truncate(ids, encoded['labels'], encoded, self.truncation_strategy)
        encoded.update(input_ids=ids, labels=labels, length=len(ids))
        return too_long.positions_left(ids, labels, self.seg_token_id)

    def _preprocess_inputs(self, inputs: StdTemplateInputs) -> None:
        # At their original size: ms-swift scales them for the MLLM.
        images = tuple(inputs.images)
        super()._preprocess_inputs(inputs)
        if self.mode != 'train':
            # Here the turns have all their image tags, and no chat formatting yet.
            turns = tuple(str(message['content'] or '') for message in inputs.messages)
            inputs.extra_kwargs[SEG_REQUEST_KEY] = SegRequest(images, turns)

    # ---- masks

    def seg_positions(self, sample: Sample, input_ids: list[int]) -> list[int]:
        """The position of each mask's `[SEG]` among the tokens; [] for a row without masks.

        Raises:
            RowError: ms-swift removed a `[SEG]`.
        """
        if not sample.masks:
            return []
        positions = [i for i, token in enumerate(input_ids) if token == self.seg_token_id]
        if len(positions) != len(sample.masks):
            raise RowError(
                sample.row, f'{len(positions)} of the {len(sample.masks)} {SEG_TOKEN} are left in its '
                f'{len(input_ids)} tokens.', f'Raise --max_length, or write each {SEG_TOKEN} where ms-swift keeps it: '
                'not into a thought of an earlier turn.', 'truncation')
        return positions

    def _mask_tensors(self, sample: Sample, positions: list[int], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return encode_masks(sample, positions, images, input_side=self.input_side, mask_side=self.mask_side)

    # ---- chunks of overlong rows (--truncation_strategy split)

    def _cut(self, inputs: StdTemplateInputs, encoded: dict[str, Any], sample: Sample, positions: list[int]) -> Any:
        """Returns the encoded row; with `--truncation_strategy split` its chunk, or the list of its chunks."""
        if self.truncation_strategy != 'split':
            return encoded
        chunk = inputs.extra_kwargs.get(CHUNK_KEY)
        chunks = self.chunks_of(encoded, sample, positions) if chunk is None else [Chunk(*chunk)]
        media = self._media(encoded['input_ids'])
        taken = [take_chunk(encoded, chunk, media) for chunk in chunks]
        return taken if len(taken) > 1 else taken[0]

    def chunks_of(self, encoded: dict[str, Any], sample: Sample, positions: list[int]) -> list[Chunk]:
        """Returns the chunks of an encoded row: one, unless `--truncation_strategy split` splits it (`split_row`).

        Args:
            encoded: `input_ids` and `labels` of the row, with expanded placeholders, not truncated.
            sample: The segmentation side of the row.
            positions: The result of `seg_positions`.

        Raises:
            MaxLengthError: A part that must not be split is longer than `--max_length`.
        """
        max_length = self.max_length if self.truncation_strategy == 'split' else None
        media = self._media(encoded['input_ids'])
        return split_row(encoded['labels'], media, sample, positions, max_length)

    def _media(self, input_ids: list[int]) -> list[Medium]:
        return media_spans(input_ids, self.image_token_id, self.video_token_id)

    def encode_chunk(self, row: dict[str, Any], chunk: Chunk) -> dict[str, Any]:
        """Encodes one chunk of a row; otherwise the same as `encode` with `return_length=True`.

        Raises:
            RowError, MaxLengthError: See `encode`.
        """
        return self.encode({**row, CHUNK_KEY: tuple(chunk)}, return_length=True)

    # ---- pack and collate

    def _get_get_rope_index(self):
        if self.model is None:
            # A spawned DataLoader worker has no model; the method needs only the configuration.
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
        # ms-swift's method adds these keys for an empty batch.
        return {**{k: v for k, v in packed.items() if k not in SEG_KEYS}, **segmentation}

    def data_collator(self, batch: list[Any], *, padding_to: int | None = None) -> dict[str, Any]:
        rows, errors = split_skipped(batch)
        if not errors:
            return super().data_collator(batch, padding_to=padding_to)
        if not rows:
            rows = [row_without_targets(self.tokenizer.eos_token_id)]
        return {**super().data_collator(rows, padding_to=padding_to), SKIPPED_KEY: errors}

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        result = super()._data_collator_mm_data(batch)
        if self.mode == 'train' and self.trains_masks:
            result.update(pad_masks(batch, self.input_side, self.mask_side))
        return result

    def _data_collator(self, batch: list[dict[str, Any]], *, padding_to: int | None = None) -> dict[str, Any]:
        lengths = [len(row['input_ids']) for row in batch]
        names = [row.get(ROW_COLUMN, _NO_NUMBER) for row in batch]
        result = super()._data_collator(batch, padding_to=padding_to)
        if self.mode != 'train':
            return result
        if self.trains_masks:
            # The trainer removes them again: `plugin.trainer.patch_nonfinite`.
            result[ROWS_KEY] = names
        if self.padding_free:
            # With four rows of positions, text first, Transformers builds the block-diagonal mask for sdpa too.
            result['position_ids'] = torch.cat([result['text_position_ids'][None], result['position_ids']])
        elif self.padding_side == 'left' and self.trains_masks:
            index = result['mask_token_index']
            shift = result['input_ids'].shape[1] - torch.tensor(lengths)[:, None]
            result['mask_token_index'] = torch.where(index == NO_MASK, index, index + shift)
        return result

    # ---- generate

    def generate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Generates as ms-swift does; an optional `seg_states` records the `[SEG]` states and the generated ids."""
        states: SegStates | None = kwargs.get('seg_states')
        if states is None:
            return super().generate(model, *args, **kwargs)
        streamer = kwargs.get('streamer')
        if streamer is not None:
            kwargs['streamer'] = RecordingStreamer(streamer, states)
        adapters = kwargs.get('adapter_names')
        if adapters is not None:
            # ms-swift passes one name; PEFT needs one per row.
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
        # ms-swift's forward hook drops all other keys.
        return {**result, **{key: inputs[key] for key in (*SEG_KEYS, 'use_cache') if key in inputs}}

    def compute_sft_loss(self, model, inputs: dict[str, Any], num_items_in_batch: int | None = None, trainer=None):
        num_masks = inputs.pop('num_masks_in_step', None)
        if 'labels' in inputs:
            # Another --loss_type, or none: the model computes its own loss.
            return super().compute_sft_loss(model, inputs, num_items_in_batch=num_items_in_batch, trainer=trainer)
        # With a cache, Transformers ignores the boundaries in a pack.
        outputs = model(**inputs, use_cache=False)
        observe = getattr(getattr(trainer, 'compute_loss_func', None), 'observe', None)
        if observe is not None:
            observe(inputs, num_masks)
        return outputs


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seeds sampling with `seed`, and restores the random number generators afterwards."""
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
