"""Estimates the training cost of packs in FLOPs, to balance ranks and for `citrusv pack-report`."""
import dataclasses
import math
import numpy as np
import torch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typing import NamedTuple

from ..model.modeling import CitrusVForConditionalGeneration
from ..model.segmenter import Segmenter
from ..packing.packs import Packs

# The backward pass of attention has five matrix products, the forward pass two: it recomputes the scores, then computes
# the gradients of probabilities, values, queries and keys (Dao et al. 2022, FlashAttention, algorithm 4).
_ATTENTION_BACKWARD = 2.5
# The gradients of activations and of weights each cost as much as the forward pass.
_SAM2_TRAINING = 3


@dataclass(frozen=True)
class Workload:
    """The sizes that determine the cost of each pack; int64 `[packs]` each.

    Attributes:
        tokens: Tokens of the language model.
        squared_lengths: The sum of the squared lengths of its chunks, since a chunk attends only to itself.
        vision_tokens: Image and video placeholders among the tokens; the vision tower processes `merge_size ** 2`
            patches for each.
        seg_images: Images that SAM2 encodes.
    """
    tokens: np.ndarray
    squared_lengths: np.ndarray
    vision_tokens: np.ndarray
    seg_images: np.ndarray

    @classmethod
    def of_chunks(cls, chunks: np.ndarray) -> 'Workload':
        """Each chunk as a pack of its own.

        Args:
            chunks: `chunks.Chunk` as integers `[p, 4]`: start, stop, vision tokens, segmentation images.
        """
        start, stop, vision_tokens, seg_images = chunks.astype(np.int64).reshape(-1, 4).T
        length = stop - start
        return cls(length, length**2, vision_tokens, seg_images)

    def packed(self, packs: Packs) -> 'Workload':
        """The sums over the packs' items, `[len(packs)]`."""
        fields = dataclasses.fields(self)
        return Workload(*(packs.sums(getattr(self, field.name)) for field in fields))


@dataclass(frozen=True)
class CostModel:
    """FLOPs of one training step on a pack; a multiplication and an addition count as two.

    Counts the linear layers, the attention and SAM2's image encoder. A linear layer costs its forward pass once, once
    more for the gradient of its input if anything before it is trained, and once more for the gradient of its weights
    if they are trained; so the stages of the paper differ. Gradient checkpointing counts the second forward pass.

    Not counted, with its share for Qwen2.5-VL-7B with SAM2.1 large:

    - the language head, which runs at supervised positions only: 8 % of a token's forward pass at each of them;
    - the full-attention blocks of the vision tower beyond a window, since lengths do not tell how the vision tokens
      are divided among images: 7 % of the tower and 2 % of the total for an image of one megapixel, but half of the
      tower at 13 megapixels, the processor's maximum;
    - SAM2's mask decoder and the projector: 0.2 % of an image's encoding for each mask;
    - norms, activations, position embeddings, losses and the optimizer.

    These are counts, not seconds: kernels reach different speeds, and attention with a dense mask (`--attn_impl sdpa`
    or `eager`) also computes the pairs across chunks of a pack.

    Attributes:
        token: FLOPs for each token of the language model.
        squared_length: FLOPs for each unit of squared length; half of the pairs are masked (causal attention).
        vision_token: FLOPs for each vision token, in the vision tower and the aligner.
        seg_image: FLOPs for each segmentation image.
    """
    token: float
    squared_length: float
    vision_token: float
    seg_image: float

    @classmethod
    def from_model(cls, model: nn.Module) -> 'CostModel':
        """Derives the costs from the sizes of a model, its frozen parameters and its gradient checkpointing.

        Args:
            model: A `CitrusVForConditionalGeneration`, possibly wrapped by PEFT or DDP, on any device (also `meta`).

        Raises:
            TypeError: `model` contains no `CitrusVForConditionalGeneration`.
        """
        inner = next((module for module in model.modules() if isinstance(module, CitrusVForConditionalGeneration)),
                     None)
        if inner is None:
            raise TypeError(f'{type(model).__name__} contains no {CitrusVForConditionalGeneration.__name__}.')
        text, vision, visual = inner.config.text_config, inner.config.vision_config, inner.model.visual
        window = (vision.window_size // vision.patch_size)**2
        # In the order of the forward pass, because a layer's input needs a gradient if anything before it is trained.
        stem = _passes([visual.patch_embed], False)
        blocks = _passes(visual.blocks, stem.trained)
        aligner = _passes([visual.merger], blocks.trained)
        embedding = _passes([inner.get_input_embeddings()], aligner.trained)
        layers = _passes(inner.model.language_model.layers, embedding.trained)
        # A product of n x d and d x n takes 2 * n**2 * d, and attention has two. The causal mask leaves half of it.
        head_width = getattr(text, 'head_dim', None) or text.hidden_size // text.num_attention_heads
        pair = 2 * text.num_attention_heads * head_width
        patch = stem.linear + blocks.linear + 4 * window * vision.hidden_size * blocks.attention
        return cls(
            token=layers.linear,
            squared_length=pair * layers.attention,
            vision_token=vision.spatial_merge_size**2 * patch + aligner.linear,
            seg_image=_sam2_flops(_kept(inner.named_modules())))

    def cost(self, workload: Workload) -> np.ndarray:
        """The FLOPs of each pack, float64 `[packs]`."""
        return (self.token * workload.tokens + self.squared_length * workload.squared_lengths
                + self.vision_token * workload.vision_tokens + self.seg_image * workload.seg_images).astype(np.float64)


def _kept(named_modules: Iterable[tuple[str, nn.Module]]) -> Iterator[nn.Module]:
    """The modules without the frozen originals that PEFT keeps for modules_to_save."""
    return (module for name, module in named_modules if 'original_module' not in name.split('.'))


class _Passes(NamedTuple):
    """The work of consecutive layers.

    Attributes:
        linear: FLOPs of their linear parts at one position, forward and backward.
        attention: Attention passes of all layers, in units of a forward pass.
        trained: Whether these layers or anything before them is trained.
    """
    linear: float
    attention: float
    trained: bool


def _passes(layers: Iterable[nn.Module], trained: bool) -> _Passes:
    """The work of a step on layers in forward order; `trained`: whether anything before them is trained."""
    linear = attention = 0.
    for layer in layers:
        forward = backward = 0.
        for module in _kept(layer.named_modules()):
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                flops = 2. * _num_weights(module)
                forward += flops
                backward += flops * (trained + module.weight.requires_grad)
            trained = trained or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        # Checkpointed activations are recomputed if there is a backward pass.
        num_forward = 1 + (trained and getattr(layer, 'gradient_checkpointing', False))
        linear += num_forward * forward + backward
        attention += num_forward + trained * _ATTENTION_BACKWARD
    return _Passes(linear, attention, trained)


def _num_weights(module: nn.Linear | nn.Conv3d) -> int:
    # Not weight.numel(): ZeRO-3 and quantization change the shape.
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.in_channels * module.out_channels * math.prod(module.kernel_size)


def _sam2_flops(modules: Iterable[nn.Module]) -> float:
    """FLOPs of a training step for each image, of the segmenter among `modules`."""
    segmenter = next(module for module in modules if isinstance(module, Segmenter))
    forward = sam2_forward_flops(segmenter.preset)
    if not any(parameter.requires_grad for parameter in segmenter.image_encoder.parameters()):
        return forward
    return forward * (_SAM2_TRAINING + segmenter.gradient_checkpointing)


@lru_cache
def sam2_forward_flops(preset: str) -> int:
    """FLOPs of SAM2's image encoder for one image, counted on the `meta` device.

    Args:
        preset: One of `segmenter.PRESETS`.

    Raises:
        ValueError: An unknown preset.
    """
    with torch.device('meta'), torch.no_grad():
        segmenter = Segmenter(preset)
        side = segmenter.image_size
        with FlopCounterMode(display=False) as counter:
            segmenter.encode_images(torch.empty((1, 3, side, side)))
    return counter.get_total_flops()
