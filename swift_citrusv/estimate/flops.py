"""What a pack costs to train on, estimated in FLOPs: for balancing ranks, and for `citrusv pack-report`."""
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

# The backward pass of attention has five products where the forward pass has two: the scores are computed anew, then
# come the gradients of probabilities, values, queries and keys (Dao et al. 2022, FlashAttention, algorithm 4).
_ATTENTION_BACKWARD = 2.5
# The gradients of activations and of weights each cost as much as the forward pass.
_SAM2_TRAINING = 3


@dataclass(frozen=True)
class Workload:
    """What decides the cost of each pack; int64 `[packs]` each.

    Attributes:
        tokens: Tokens of the language model.
        squared_lengths: The sum of the squared lengths of its pieces, since a piece attends to itself alone.
        vision_tokens: Image and video placeholders among the tokens; the vision tower sees `merge_size ** 2` patches
            for each.
        seg_images: Images that SAM2 encodes.
    """
    tokens: np.ndarray
    squared_lengths: np.ndarray
    vision_tokens: np.ndarray
    seg_images: np.ndarray

    @classmethod
    def of_pieces(cls, pieces: np.ndarray) -> 'Workload':
        """Each piece as a pack of its own.

        Args:
            pieces: `pieces.Piece` as integers `[p, 4]`: start, stop, vision tokens, segmentation images.
        """
        start, stop, vision_tokens, seg_images = pieces.astype(np.int64).reshape(-1, 4).T
        length = stop - start
        return cls(length, length**2, vision_tokens, seg_images)

    def packed(self, packs: Packs) -> 'Workload':
        """The sums over the packs' items, `[len(packs)]`."""
        fields = dataclasses.fields(self)
        return Workload(*(packs.sums(getattr(self, field.name)) for field in fields))


@dataclass(frozen=True)
class CostModel:
    """FLOPs of one training step on a pack, a multiplication and an addition counted as two.

    Counted is what grows with the work: the linear layers, the attention, SAM2's image encoder. A linear layer costs
    its forward pass once, once more for the gradient of its input where something below it is trained, and once more
    for the gradient of its weights where they are; so the stages of the paper differ. What gradient checkpointing
    computes twice is counted twice.

    Left out, as a share of Qwen2.5-VL-7B with SAM2.1 large:

    - the language head, which runs at supervised positions only: 8 % of a token's forward pass at each of those;
    - in the vision tower, what its blocks with full attention do beyond a window, because lengths do not tell how the
      vision tokens are spread over images: 7 % of the tower's work for an image of one megapixel and 2 % of all, but
      half of the tower's at 13 megapixels, the most that the processor allows;
    - SAM2's mask decoder and the projector: 0.2 % of an image's encoding for each mask;
    - norms, activations, position embeddings, losses and the optimizer.

    These are counts, not seconds: kernels reach different speeds, and attention with a dense mask (`--attn_impl sdpa`
    or `eager`) also computes what lies between the pieces of a pack.

    Attributes:
        token: For each token of the language model.
        squared_length: For each unit of squared length, one half of the pairs being masked (causal attention).
        vision_token: For each vision token, in the vision tower and the aligner.
        seg_image: For each segmentation image.
    """
    token: float
    squared_length: float
    vision_token: float
    seg_image: float

    @classmethod
    def from_model(cls, model: nn.Module) -> 'CostModel':
        """Reads the sizes of a model, and what is trained and checkpointed, as they are now.

        Args:
            model: A `CitrusVForConditionalGeneration`, maybe within PEFT's or DDP's wrappers, on any device (`meta`
                too).

        Raises:
            TypeError: There is none in `model`.
        """
        inner = next((module for module in model.modules() if isinstance(module, CitrusVForConditionalGeneration)),
                     None)
        if inner is None:
            raise TypeError(f'{type(model).__name__} holds no {CitrusVForConditionalGeneration.__name__}.')
        text, vision, visual = inner.config.text_config, inner.config.vision_config, inner.model.visual
        window = (vision.window_size // vision.patch_size)**2
        # In the order of the forward pass, because a layer's input needs a gradient if anything before it is trained.
        stem = _passes([visual.patch_embed], False)
        blocks = _passes(visual.blocks, stem.trained)
        aligner = _passes([visual.merger], blocks.trained)
        embedding = _passes([inner.get_input_embeddings()], aligner.trained)
        layers = _passes(inner.model.language_model.layers, embedding.trained)
        # A product of n x d and d x n is 2 * n**2 * d, and attention has two of them. The causal mask leaves a half.
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
    """Leaves out what PEFT's modules_to_save keeps beside the copy that it trains."""
    return (module for name, module in named_modules if 'original_module' not in name.split('.'))


class _Passes(NamedTuple):
    """Work on some layers: FLOPs of their linear parts at one position, and how often their attention runs forward
    (the backward pass counted as so many), summed over the layers; and whether anything up to their end is trained."""
    linear: float
    attention: float
    trained: bool


def _passes(layers: Iterable[nn.Module], trained: bool) -> _Passes:
    """What a step does on layers in the order of the forward pass; `trained`: whether anything before them is."""
    linear = attention = 0.
    for layer in layers:
        forward = backward = 0.
        for module in _kept(layer.named_modules()):
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                flops = 2. * _num_weights(module)
                forward += flops
                backward += flops * (trained + module.weight.requires_grad)
            trained = trained or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        # Checkpointed activations are computed a second time, if there is a backward pass at all.
        num_forward = 1 + (trained and getattr(layer, 'gradient_checkpointing', False))
        linear += num_forward * forward + backward
        attention += num_forward + trained * _ATTENTION_BACKWARD
    return _Passes(linear, attention, trained)


def _num_weights(module: nn.Linear | nn.Conv3d) -> int:
    # Not weight.numel(): ZeRO-3 and quantization leave it another shape.
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.in_channels * module.out_channels * math.prod(module.kernel_size)


def _sam2_flops(modules: Iterable[nn.Module]) -> float:
    """FLOPs of a step for each image of the segmenter among `modules`."""
    segmenter = next(module for module in modules if isinstance(module, Segmenter))
    forward = sam2_forward_flops(segmenter.preset)
    if not any(parameter.requires_grad for parameter in segmenter.image_encoder.parameters()):
        return forward
    return forward * (_SAM2_TRAINING + segmenter.gradient_checkpointing)


@lru_cache
def sam2_forward_flops(preset: str) -> int:
    """FLOPs of SAM2's image encoder for one image, counted on a model without weights.

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
