"""Citrus-V as a Transformers model: Qwen2.5-VL, a segmentation projector and SAM2's image path.

Source: Citrus-V section 4.1 and figure 10. Legend for shapes: B rows of the batch, T tokens, D hidden size, V
vocabulary size, N images and M masks per row (padded), K masks of the whole batch, n images to encode, S and m the
sides in pixels of SAM2's input and mask, C the width of SAM2's prompts.
"""
import torch
from contextlib import nullcontext
from dataclasses import dataclass
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.integrations import deepspeed_config
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLCausalLMOutputWithPast
from transformers.utils import can_return_tuple
from typing import Any, NamedTuple

from ..constants import IGNORE_INDEX
from .attention import batch_vision_windows, register_varlen_attention
from .config import CitrusVConfig
from .losses import LossWeights, combine, mask_losses, token_loss
from .quantized import check_quantized
from .seg_states import SegStates
from .segmenter import Segmenter, freeze_unused_parameters


@dataclass
class CitrusVOutput(Qwen2_5_VLCausalLMOutputWithPast):
    """Qwen2.5-VL's output, and the K masks of the batch in the order of their `[SEG]` tokens.

    mask_logits: float32 [K, m, m].
    mask_targets: uint8 [K, m, m]; None without targets.
    mask_rows: The row of the batch that each mask belongs to, int64 [K].
    """
    mask_logits: Tensor | None = None
    mask_targets: Tensor | None = None
    mask_rows: Tensor | None = None


class BatchMasks(NamedTuple):
    """The masks of a batch: logits [K, m, m], targets [K, m, m] and rows [K], as in `CitrusVOutput`."""
    logits: Tensor | None = None
    targets: Tensor | None = None
    rows: Tensor | None = None


class SegProjector(nn.Module):
    """The two-layer MLP that turns the hidden state of `[SEG]` into a SAM2 prompt (section 4.1).

    Args:
        input_size: D.
        hidden_size: Width between the layers.
        output_size: C.
        residual: Whether to add a linear skip connection. The paper has none, but some published checkpoints do.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, residual: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, output_size)
        self.skip = nn.Linear(input_size, output_size) if residual else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[K, D] -> [K, C], in the dtype of the projector's parameters."""
        hidden_states = hidden_states.to(self.fc1.weight.dtype)
        prompts = self.fc2(torch.relu(self.fc1(hidden_states)))
        return prompts if self.skip is None else prompts + self.skip(hidden_states)


class CitrusVForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """A Qwen2.5-VL that predicts a mask for each `[SEG]` token.

    LoRA, generation, ZeRO and `save_pretrained` work as for Qwen2.5-VL.
    """
    config_class = CitrusVConfig
    config: CitrusVConfig
    # At stage 4's learning rate an update is below bfloat16's resolution, and float32 is cheap for 0.2 B parameters.
    _keep_in_fp32_modules_strict = {'segmenter', 'seg_projector'}
    # Transformers' quantizers read this one: they leave these modules as they are.
    _keep_in_fp32_modules = _keep_in_fp32_modules_strict
    _no_split_modules = [*Qwen2_5_VLForConditionalGeneration._no_split_modules, 'Segmenter']

    def __init__(self, config: CitrusVConfig) -> None:
        super().__init__(config)
        batch_vision_windows(self.model.visual)
        self.segmenter = Segmenter(config.sam2_preset, config.multimask_output, config.padding_points)
        width = config.text_config.hidden_size
        self.seg_projector = SegProjector(width, config.seg_projector_hidden_size or width, self.segmenter.prompt_dim,
                                          config.residual_projector)
        # Like the segmenter. _keep_in_fp32_modules_strict applies only to weights in the checkpoint, not to a new head.
        self.seg_projector.float()
        # For stage 3: the factor on the gradient of the mask loss where it enters the MLLM (section 4.2).
        self.mask_grad_scale = 1.0
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, which makes every parameter trainable; unused parameters of SAM2 are frozen again.

        Raises:
            ValueError: The segmentation modules or the embeddings are quantised.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        # With output_loading_info=True it is a pair.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_quantized(model)
        freeze_unused_parameters(model)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Called for modules without weights in the checkpoint, children first. Transformers' rule (normal, 0.02) does
        # not fit SAM2, which is initialised as in the `sam2` package.
        projector = getattr(self, 'seg_projector', None)  # None while the base class is built.
        if isinstance(module, Segmenter):
            if module.no_mem_embed.is_meta:
                return
            with torch.device('cpu'):
                fresh = Segmenter(module.preset, module.multimask_output).state_dict()
            for name, value in module.state_dict(keep_vars=True).items():
                init.copy_(value, fresh[name].to(value.device, value.dtype))
        elif projector is not None and module in (projector.fc1, projector.fc2, projector.skip):
            # By layer: in custom code, Transformers skips modules without direct parameters.
            init.kaiming_uniform_(module.weight, a=5**0.5)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, with the parameter names of this class.

        Transformers would write Qwen2.5-VL's older names. Its Trainer resumes from the files without renaming, so the
        MLLM would keep its initial weights, with only a warning.
        """
        kwargs.setdefault('save_original_format', False)
        return super().save_pretrained(*args, **kwargs)

    def requires_grad_(self, requires_grad: bool = True) -> 'CitrusVForConditionalGeneration':
        """As `nn.Module.requires_grad_`, but unused parameters of SAM2 stay frozen (`Segmenter.uses_parameter`)."""
        super().requires_grad_(requires_grad)
        self.segmenter.requires_grad_(requires_grad)
        return self

    @can_return_tuple
    def forward(self,
                input_ids: Tensor | None = None,
                attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None,
                past_key_values: Any = None,
                inputs_embeds: Tensor | None = None,
                *,
                use_cache: bool | None = None,
                pixel_values: Tensor | None = None,
                pixel_values_videos: Tensor | None = None,
                image_grid_thw: Tensor | None = None,
                video_grid_thw: Tensor | None = None,
                mm_token_type_ids: Tensor | None = None,
                second_per_grid_ts: Any = None,
                mm_encoder_outputs: Any = None,
                labels: Tensor | None = None,
                logits_to_keep: int | Tensor = 0,
                g_pixel_values: Tensor | None = None,
                masks: Tensor | None = None,
                mask_image_index: Tensor | None = None,
                mask_token_index: Tensor | None = None,
                seg_states: SegStates | None = None,
                **kwargs: Any) -> CitrusVOutput:
        """Runs the MLLM, its language head, and SAM2 if masks are requested.

        Args:
            input_ids: int64 [B, T]; this and the inputs down to `mm_encoder_outputs` are those of Qwen2.5-VL.
                (Named one by one because Transformers and ms-swift look for them in the signature. Without the last,
                `generate` would mix up image patches when it samples several sequences from one prompt.)
            labels: int64 [B, T]; adds `loss` to the output (equation 4, normalised over this batch). The trainer passes
                none and normalises over the whole optimizer step instead.
            logits_to_keep: The positions at which the language head runs: an int (the last ones; 0 is all), a mask
                bool [T], or a mask bool [B, T], which gives logits [1, number of true positions, V] in row-major order.
            g_pixel_values: uint8 RGB, or normalised floats, [B, N, 3, S, S].
            masks: Target masks, uint8 {0, 1}, [B, M, 1, m, m].
            mask_image_index: The image of each mask among the N of its row; -1 marks padding. int64 [B, M].
            mask_token_index: The position of each mask's `[SEG]` in its row; -1 marks padding. int64 [B, M].
            seg_states: Collects the hidden states at the `[SEG]` tokens that `generate` emits.

        Raises:
            ValueError: Masks are requested without images, or `labels` without the logits of all positions.
        """
        if mm_encoder_outputs is not None:
            kwargs['mm_encoder_outputs'] = mm_encoder_outputs
        frozen = not any(parameter.requires_grad for parameter in self.model.parameters())
        # Gradient checkpointing makes the embeddings require a gradient, which a frozen MLLM (stage 4) does not need.
        with torch.no_grad() if frozen else nullcontext():
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                pixel_values=pixel_values,
                pixel_values_videos=pixel_values_videos,
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                mm_token_type_ids=mm_token_type_ids,
                second_per_grid_ts=second_per_grid_ts,
                **kwargs)
        hidden = outputs[0]
        if seg_states is not None:
            seg_states.record(hidden)
        kept = self._keep(hidden, logits_to_keep)
        predicted = BatchMasks()
        if mask_token_index is not None and bool((mask_token_index >= 0).any()):
            predicted = self._predict_masks(hidden, g_pixel_values, masks, mask_image_index, mask_token_index)
        elif mask_token_index is not None or self.training:
            run_sam2 = self._must_run_sam2()
            predicted = self._empty_masks(hidden, run_sam2)
            if not run_sam2:
                kept = kept + self._zero_term().to(kept.dtype)
        logits = self.lm_head(kept)
        loss = None if labels is None else self._batch_loss(logits, predicted, labels, logits_to_keep)
        # The order matters: Transformers and ms-swift use the first output after the loss as the logits.
        return CitrusVOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            rope_deltas=outputs.rope_deltas,
            mask_logits=predicted.logits,
            mask_targets=predicted.targets,
            mask_rows=predicted.rows)

    # ---- generation

    def prepare_inputs_for_generation(self,
                                      input_ids: Tensor,
                                      *args: Any,
                                      seg_states: SegStates | None = None,
                                      **kwargs: Any) -> dict[str, Any]:
        """As in Transformers; gives `seg_states` the ids of the step."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if seg_states is not None:
            seg_states.begin_step(input_ids)
            inputs['seg_states'] = seg_states
        return inputs

    def compute_last_hidden_state(self,
                                  input_ids: Tensor,
                                  attention_mask: Tensor,
                                  mm_token_type_ids: Tensor | None = None,
                                  image_grid_thw: Tensor | None = None,
                                  video_grid_thw: Tensor | None = None,
                                  second_per_grid_ts: Any = None,
                                  **vision: Any) -> Tensor:
        """Runs the MLLM once over whole conversations.

        Computes the positions itself: Qwen2.5-VL stores those of its last call in the model, where a generation in
        another thread uses them.

        Args:
            input_ids: int64 [B, T], padded on any side; the others as in `forward`.

        Returns:
            The hidden states of the last layer, [B, T, D].
        """
        text = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        positions = text[None].expand(3, -1, -1)
        if image_grid_thw is not None or video_grid_thw is not None:
            positions, _ = self.model.get_rope_index(
                input_ids,
                mm_token_type_ids=mm_token_type_ids,
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                second_per_grid_ts=second_per_grid_ts,
                attention_mask=attention_mask)
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.cat([text[None], positions.to(text.device)]),
            mm_token_type_ids=mm_token_type_ids,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            use_cache=False,
            **vision)[0]

    # ---- forward, in parts

    @staticmethod
    def _keep(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
        if isinstance(logits_to_keep, int):
            return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        # With --device_map the labels may be on another device.
        logits_to_keep = logits_to_keep.to(hidden.device)
        if logits_to_keep.ndim == 2:
            return hidden[logits_to_keep][None]
        return hidden[:, logits_to_keep]

    def _zero_term(self) -> Tensor:
        """Zero, with a zero gradient for every trainable segmentation parameter, so that DDP does not wait for them.

        One element of each parameter is enough; a sum over all elements could overflow to inf, and inf * 0 is NaN.
        """
        trainable = [p for m in (self.segmenter, self.seg_projector) for p in m.parameters() if p.requires_grad]
        parts = [p.flatten()[:1].sum() * 0. for p in trainable]
        return torch.stack([part.float() for part in parts]).sum() if parts else torch.zeros((), device=self.device)

    def _is_sharded(self) -> bool:
        """Whether ZeRO-3 or FSDP2 shards the segmenter over the ranks, and gathers it for each forward pass."""
        return any(hasattr(p, 'ds_id') or isinstance(p, DTensor) for p in self.segmenter.parameters())

    def _must_run_sam2(self) -> bool:
        """Whether a rank without masks has to run SAM2, because other ranks may.

        ZeRO-3 and FSDP2 gather its weights, which takes all ranks. ZeRO-2 fills its buckets in the order in which
        gradients arrive, and sums the buckets of all ranks: with another order on one rank, it would silently add up
        gradients of different parameters.
        """
        if self._is_sharded():
            return True
        if not torch.is_grad_enabled() or deepspeed_config() is None:
            return False
        trained = any(p.requires_grad for m in (self.segmenter, self.seg_projector) for p in m.parameters())
        return trained and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1

    def _empty_masks(self, hidden: Tensor, run_sam2: bool) -> BatchMasks:
        """No masks. With `run_sam2`, predicts a mask on a black image and drops it, so that all gradients are zero."""
        side = self.segmenter.mask_size
        logits = hidden.new_zeros((0, side, side), dtype=torch.float32)
        if run_sam2:
            image = hidden.new_zeros((1, 3, self.segmenter.image_size, self.segmenter.image_size), dtype=torch.uint8)
            logits = self._segment(image, hidden.new_zeros(1, dtype=torch.int64), hidden[:1, 0])[:0]
        targets = hidden.new_zeros((0, side, side), dtype=torch.uint8)
        return BatchMasks(logits, targets, hidden.new_zeros(0, dtype=torch.int64))

    def _segment(self, images: Tensor, image_index: Tensor, seg_hidden: Tensor) -> Tensor:
        """Mask logits [K, m, m] on images [n, 3, S, S], from hidden states [K, D] and image indices [K]."""
        prompts = self.seg_projector(seg_hidden)[:, None]
        if torch.is_grad_enabled() and not prompts.requires_grad:
            # If only SAM2 trains: ZeRO-3 considers a module's backward pass finished when its inputs have gradients.
            prompts.requires_grad_()
        return self.segmenter(images, image_index, prompts)

    def _predict_masks(self, hidden: Tensor, images: Tensor | None, masks: Tensor | None,
                       mask_image_index: Tensor | None, mask_token_index: Tensor) -> BatchMasks:
        if images is None or mask_image_index is None:
            raise ValueError('mask_token_index requests masks, but g_pixel_values or mask_image_index is missing. Pass '
                             'both.')
        real = mask_token_index >= 0
        rows = real.nonzero()[:, 0]
        seg_hidden = hidden[rows, mask_token_index[real]]
        if seg_hidden.requires_grad and self.mask_grad_scale != 1.0:
            # Here, not at the masks: Adam ignores the scale of a parameter's gradient, so what matters is the share of
            # the mask loss in the gradient of the MLLM. The segmentation modules keep their full gradient.
            scale = self.mask_grad_scale
            seg_hidden.register_hook(lambda grad: grad * scale)
        # Each image once, however many masks it has, and only images with masks.
        flat, image_index = torch.unique(rows * images.shape[1] + mask_image_index[real], return_inverse=True)
        logits = self._segment(images.flatten(0, 1)[flat], image_index, seg_hidden)
        return BatchMasks(logits, None if masks is None else masks[real][:, 0], rows)

    @staticmethod
    def _batch_loss(logits: Tensor, predicted: BatchMasks, labels: Tensor, logits_to_keep: int | Tensor) -> Tensor:
        if not isinstance(logits_to_keep, int) or logits_to_keep:
            raise ValueError('labels need the logits of all positions. Leave logits_to_keep at 0.')
        targets = labels[:, 1:].flatten()
        tokens = token_loss(logits[:, :-1].flatten(0, 1), targets)
        dice = bce = tokens.new_zeros(0)
        if predicted.logits is not None and predicted.targets is not None:
            dice, bce = mask_losses(predicted.logits, predicted.targets)
        return combine(tokens.sum(), dice.sum(), bce.sum(), (targets != IGNORE_INDEX).sum(), len(dice), LossWeights())


# Transformers renames the keys of Qwen2.5-VL's files by class name. Without this, from_pretrained would find no weights
# of the language model in them and use random ones.
if get_checkpoint_conversion_mapping('CitrusVForConditionalGeneration') is None:
    register_checkpoint_conversion_mapping('CitrusVForConditionalGeneration',
                                           get_checkpoint_conversion_mapping('Qwen2_5_VLForConditionalGeneration'))
# Before a configuration can use it.
register_varlen_attention()
