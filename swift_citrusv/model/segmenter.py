"""The image path of SAM2 as one module: image encoder, prompt encoder, mask decoder, from the `sam2` package.

The networks are `sam2`'s own; this module builds them for a preset and batches them over images and masks. Parameters
have the names of `sam2`'s checkpoints (without the memory modules of the video path).

Source: Ravi et al. 2024 (SAM 2); Citrus-V section 4.1, 'Segmentation Model for Pixel-Level Delineation'.
"""
import torch
import torch.utils.checkpoint
import yaml
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib import resources
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import Tensor, nn
from typing import Any, NamedTuple

from ..constants import PIXEL_MEAN, PIXEL_STD

BACKBONE_STRIDE = 16
MASK_STRIDE = 4
_SIZES = ('t', 's', 'b+', 'l')
_PACKAGE_CONFIGS = {
    f'{family}_hiera_{size}': f'configs/{family}/{family}_hiera_{size}.yaml'
    for family in ('sam2', 'sam2.1')
    for size in _SIZES
}
PRESETS = (*_PACKAGE_CONFIGS, 'tiny')

# 0.7 M parameters for tests, demos and laptops, in the schema of sam2's own YAML files.
_TINY: dict[str, Any] = {
    'image_encoder': {
        'scalp': 1,
        'trunk': {
            'embed_dim': 16,
            'num_heads': 1,
            'stages': [1, 2, 3, 2],
            'global_att_blocks': [4],
            'window_spec': [8, 4, 14, 7],
            'window_pos_embed_bkg_spatial_size': [7, 7],
        },
        'neck': {
            'd_model': 64,
            'backbone_channel_list': [128, 64, 32, 16],
            'fpn_top_down_levels': [2, 3],
            'fpn_interp_model': 'nearest',
        },
    },
    'image_size': 256,
    'use_high_res_features_in_sam': True,
    'iou_prediction_use_sigmoid': True,
    'pred_obj_scores': True,
    'pred_obj_scores_mlp': True,
    'mlp_dim': 256,
}


@lru_cache
def preset_config(preset: str) -> Mapping[str, Any]:
    """The sizes of a preset's network, in the schema of sam2's YAML files.

    Args:
        preset: One of `PRESETS`.

    Raises:
        ValueError: The preset is unknown.
    """
    if preset == 'tiny':
        return _TINY
    if preset not in _PACKAGE_CONFIGS:
        raise ValueError(f'Unknown SAM2 preset {preset!r}. Use one of: {", ".join(PRESETS)}.')
    text = (resources.files('sam2') / _PACKAGE_CONFIGS[preset]).read_text(encoding='utf-8')
    return yaml.safe_load(text)['model']


def preset_image_size(preset: str) -> int:
    """Side in pixels of the square input image of the preset's encoder."""
    return preset_config(preset)['image_size']


def preset_mask_size(preset: str) -> int:
    """Side in pixels of the preset's square mask logits."""
    return preset_image_size(preset) // MASK_STRIDE


def _present(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names if name in config}


def _build_image_encoder(config: Mapping[str, Any]) -> ImageEncoder:
    trunk, neck = config['trunk'], config['neck']
    # warmup_cache would fill a cache on the first CUDA device, whatever device the model is for.
    position = PositionEmbeddingSine(num_pos_feats=neck['d_model'], normalize=True, warmup_cache=False)
    return ImageEncoder(
        trunk=Hiera(**{
            k: v
            for k, v in trunk.items() if k != '_target_'
        }),
        neck=FpnNeck(
            position_encoding=position,
            **_present(neck, 'd_model', 'backbone_channel_list', 'fpn_top_down_levels', 'fpn_interp_model')),
        scalp=config['scalp'])


class MaskPrediction(NamedTuple):
    """M masks and SAM2's own opinion of them, which no loss of ours trains.

    logits: float32 [M, m, m].
    iou_scores: The predicted IoU of each mask with its object, float32 [M].
    object_logits: Whether there is an object at all: above 0 for yes, float32 [M].
    """
    logits: Tensor
    iou_scores: Tensor
    object_logits: Tensor


class Segmenter(nn.Module):
    """SAM2's image path.

    Legend: n images, M masks, S = `image_size`, m = `mask_size` = S / 4, C = `prompt_dim`.

    Args:
        preset: One of `PRESETS`.
        multimask_output: Whether `decode` returns the best of the three multimask outputs by predicted IoU instead of
            the single-mask output. No loss trains that IoU score here, so this is for checkpoints trained that way.
        padding_points: Number of SAM2's "not a point" embeddings that `decode` inserts before the prompts of a mask;
            for checkpoints trained that way.
    """

    def __init__(self, preset: str, multimask_output: bool = False, padding_points: int = 0) -> None:
        super().__init__()
        config = preset_config(preset)
        self.preset = preset
        self.multimask_output = multimask_output
        self.padding_points = padding_points
        self.image_size = config['image_size']
        self.mask_size = self.image_size // MASK_STRIDE
        self.prompt_dim = config['image_encoder']['neck']['d_model']
        self.chunk = 4
        # Transformers' gradient_checkpointing_enable() sets this attribute on every module that has it.
        self.gradient_checkpointing = False
        # Hiera's constructor calls .item(), which fails under from_pretrained's meta-device context.
        target = torch.get_default_device()
        with torch.device('cpu'):
            self._build(config)
        # float32, whatever default dtype Transformers has set: bfloat16 would round SAM2's weights.
        self.to(target, torch.float32)
        self.requires_grad_(True)

    def _build(self, config: Mapping[str, Any]) -> None:
        dim, side = self.prompt_dim, self.image_size // BACKBONE_STRIDE
        self.image_encoder = _build_image_encoder(config['image_encoder'])
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16)
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=config.get('mlp_dim', 2048), num_heads=8),
            transformer_dim=dim,
            iou_head_depth=3,
            iou_head_hidden_dim=min(dim, 256),
            use_high_res_features=config['use_high_res_features_in_sam'],
            **_present(config, 'iou_prediction_use_sigmoid', 'pred_obj_scores', 'pred_obj_scores_mlp'))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)

    def uses_parameter(self, name: str) -> bool:
        """Whether the parameter `name` gets a gradient from a mask loss.

        A [SEG] prompt uses neither SAM2's point and box prompts nor its mask prompt ("not a point" only as padding),
        and no loss trains the IoU and object scores or the mask heads that are not the output. If these were trainable,
        weight decay would shrink them.
        """
        heads = (0, ) if self.multimask_output else (1, 2, 3)
        unused = [
            'sam_prompt_encoder.point_embeddings.', 'sam_prompt_encoder.mask_downscaling.',
            'sam_mask_decoder.iou_prediction_head.', 'sam_mask_decoder.pred_obj_score_head.',
            *(f'sam_mask_decoder.output_hypernetworks_mlps.{i}.' for i in heads)
        ]
        if not self.padding_points:
            unused.append('sam_prompt_encoder.not_a_point_embed.')
        return not name.startswith(tuple(unused))

    def requires_grad_(self, requires_grad: bool = True) -> 'Segmenter':
        """As `nn.Module.requires_grad_`, but unused parameters stay frozen (see `uses_parameter`)."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and self.uses_parameter(name))
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.no_mem_embed.dtype

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises uint8 RGB [n, 3, S, S]; floats are expected to be normalised already."""
        if images.dtype != torch.uint8:
            return images.to(self.dtype)
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
        return ((images.float() / 255 - mean) / std).to(self.dtype)

    def _run(self, function, *args):
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # ms-swift replaces torch.utils.checkpoint.checkpoint with one that forces use_reentrant=True, which gives
            # no gradient here, since the images require none; it keeps the original as `_old_checkpoint`.
            checkpoint = getattr(torch.utils.checkpoint, '_old_checkpoint', torch.utils.checkpoint.checkpoint)
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _encode_chunk(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = self.image_encoder(self.normalize(images))['backbone_fpn']
        # The neck upsamples in float32; the layers after it expect the parameters' dtype.
        stride4, stride8, stride16 = (level.to(self.dtype) for level in levels)
        # SAM2 adds the "no memory" embedding to the coarsest level of every still image.
        stride16 = stride16 + self.no_mem_embed.view(1, -1, 1, 1)
        decoder = self.sam_mask_decoder
        return decoder.conv_s0(stride4), decoder.conv_s1(stride8), stride16

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes images, `chunk` at a time, with activation checkpointing if it is enabled.

        Args:
            images: uint8 RGB, or normalised floats, [n, 3, S, S]; n >= 1.

        Returns:
            Features at strides 4, 8 and 16: [n, C/8, S/4, S/4], [n, C/4, S/8, S/8], [n, C, S/16, S/16].
        """
        parts = [self._run(self._encode_chunk, part) for part in images.split(self.chunk)]
        stride4, stride8, stride16 = (torch.cat(level) for level in zip(*parts))
        return stride4, stride8, stride16

    def decode(self, features: Sequence[Tensor], image_index: Tensor, prompts: Tensor) -> MaskPrediction:
        """Predicts one mask for each of M prompts.

        Args:
            features: The result of `encode_images` for n images.
            image_index: The image of each mask, int64 [M], values 0 to n - 1.
            prompts: Sparse prompt embeddings [M, P, C].
        """
        parts = [
            self._run(self._decode_chunk, *(level[index] for level in features), prompt)
            for index, prompt in zip(image_index.split(4 * self.chunk), prompts.split(4 * self.chunk))
        ]
        return MaskPrediction(*(torch.cat(values) for values in zip(*parts)))

    def _dense_position(self, dtype: torch.dtype) -> Tensor:
        """SAM2's dense positional encoding [1, C, S/16, S/16]; SAM2's own method fails for a model in bfloat16."""
        layer, side = self.sam_prompt_encoder.pe_layer, self.image_size // BACKBONE_STRIDE
        matrix = layer.positional_encoding_gaussian_matrix.float()
        centre = (torch.arange(side, device=matrix.device, dtype=torch.float32) + 0.5) / side * 2 - 1
        kind = matrix.device.type
        # The meta device has no autocast to disable.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            y, x = torch.meshgrid(centre, centre, indexing='ij')
            phase = 2 * torch.pi * (torch.stack([x, y], dim=-1) @ matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1).permute(2, 0, 1)[None].to(dtype)

    def _decode_chunk(self, stride4: Tensor, stride8: Tensor, stride16: Tensor, prompts: Tensor) -> tuple[Tensor, ...]:
        encoder = self.sam_prompt_encoder
        dense = encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(stride16)
        if self.padding_points:
            padding = encoder.not_a_point_embed.weight.expand(len(prompts), self.padding_points, -1)
            prompts = torch.cat([padding.to(prompts.dtype), prompts], dim=1)
        masks, ious, _, objects = self.sam_mask_decoder(
            image_embeddings=stride16,
            image_pe=self._dense_position(stride16.dtype),
            sparse_prompt_embeddings=prompts.to(stride16.dtype),
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask_output,
            repeat_image=False,
            high_res_features=[stride4, stride8])
        best = ious.argmax(dim=1) if self.multimask_output else ious.new_zeros(len(ious), dtype=torch.int64)
        row = torch.arange(len(best), device=best.device)
        return masks[row, best].float(), ious[row, best].float(), objects[:, 0].float()

    def forward(self,
                images: Tensor,
                image_index: Tensor,
                prompts: Tensor,
                scores: bool = False) -> Tensor | MaskPrediction:
        """`encode_images` then `decode`: mask logits, float32 [M, m, m], or all of a `MaskPrediction`."""
        prediction = self.decode(self.encode_images(images), image_index, prompts)
        return prediction if scores else prediction.logits


def freeze_unused_parameters(model: nn.Module) -> None:
    """Freezes the parameters that get no gradient from a mask loss, in every `Segmenter` within `model`."""
    for module in model.modules():
        if isinstance(module, Segmenter):
            for name, parameter in module.named_parameters():
                if not module.uses_parameter(name):
                    parameter.requires_grad_(False)
