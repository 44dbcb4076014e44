"""A real training step and its memory, to compare `citrusv estimate` with."""
import gc
import torch
from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from typing import Any

from swift_citrusv.constants import IGNORE_INDEX
from swift_citrusv.estimate.dry_run import Load
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.losses import LossWeights, combine, mask_losses, token_loss
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


@dataclass(frozen=True)
class Measured:
    """Bytes.

    standing: Parameters, AdamW's moments, the batch and SAM2's position embeddings, which it makes once.
    peak: The most beside them during a step.
    """
    standing: int
    peak: int


def scaled_config(preset: str = 'tiny', **text: Any) -> CitrusVConfig:
    """The tiny model of the tests, widened until a step takes hundreds of MiB: 20 million parameters."""
    return CitrusVConfig(
        sam2_preset=preset,
        text_config={
            'vocab_size': 4096,
            'hidden_size': 512,
            'intermediate_size': 1408,
            'num_hidden_layers': 4,
            'num_attention_heads': 8,
            'num_key_value_heads': 2,
            'max_position_embeddings': 4096,
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 10000.0,
                'mrope_section': [8, 12, 12],
            },
            'bos_token_id': 0,
            'eos_token_id': 1,
            **text,
        },
        vision_config={
            'depth': 4,
            'hidden_size': 256,
            'intermediate_size': 512,
            'num_heads': 4,
            'out_hidden_size': text.get('hidden_size', 512),
            'fullatt_block_indexes': [1, 3],
            'window_size': 112,
        },
        image_token_id=4000,
        video_token_id=4001,
        vision_start_token_id=4002,
        vision_end_token_id=4003,
        tie_word_embeddings=False)


def batch_of(model: CitrusVForConditionalGeneration, load: Load) -> tuple[dict[str, Tensor], Tensor]:
    """A pack of two samples that has exactly this load: the inputs of `forward`, and the targets of the kept logits."""
    config, tokens = model.config, load.tokens
    merge, vision = config.vision_config.spatial_merge_size, config.vision_config
    ids = torch.randint(0, 100, (1, tokens))
    ids[0, :load.vision_tokens] = config.image_token_id
    keep = torch.zeros(tokens, dtype=torch.bool)
    keep[tokens - load.supervised_tokens - 1:] = True
    halves = torch.cat([torch.arange(tokens // 2), torch.arange(tokens - tokens // 2)])
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    side, m = model.segmenter.image_size, model.segmenter.mask_size
    batch = {
        'input_ids': ids,
        'position_ids': halves.view(1, 1, -1).expand(4, 1, -1).contiguous(),
        'logits_to_keep': keep,
        'g_pixel_values': torch.randint(0, 255, (1, load.images, 3, side, side), dtype=torch.uint8),
        'masks': torch.randint(0, 2, (1, load.masks, 1, m, m), dtype=torch.uint8),
        'mask_image_index': (torch.arange(load.masks) % max(load.images, 1))[None],
        'mask_token_index': (tokens - 1 - torch.arange(load.masks))[None],
    }
    if load.vision_tokens:
        batch['pixel_values'] = torch.randn(load.vision_tokens * merge**2, patch)
        batch['image_grid_thw'] = torch.tensor([[1, merge, merge * load.vision_tokens]])
    return batch, torch.randint(0, 100, (load.supervised_tokens + 1, ))


def load_of(inputs: dict[str, Any], config: CitrusVConfig) -> Load:
    """The load of a batch of the trainer."""
    ids = inputs['input_ids']
    placeholders = (ids == config.image_token_id) | (ids == config.video_token_id)
    images, masks = (inputs[key].shape[1] if key in inputs else 0 for key in ('g_pixel_values', 'masks'))
    return Load(
        tokens=ids.numel(),
        vision_tokens=int(placeholders.sum()),
        supervised_tokens=int((inputs['labels'] != IGNORE_INDEX).sum()),
        images=images,
        masks=masks)


def loss_of(model: nn.Module, batch: dict[str, Tensor], targets: Tensor, autocast: torch.dtype | None) -> Tensor:
    """As Transformers' Trainer and `CitrusVLoss` make it."""
    with torch.autocast(targets.device.type, dtype=autocast, enabled=autocast is not None):
        outputs = model(**batch, use_cache=False)
    if autocast is not None:
        # As accelerate does with what a model hands out.
        outputs.logits = outputs.logits.float()
    tokens = token_loss(outputs.logits.flatten(0, 1), targets)
    dice, bce = mask_losses(outputs.mask_logits, outputs.mask_targets)
    return combine(tokens.sum(), dice.sum(), bce.sum(), len(tokens), len(dice), LossWeights())


def step(model: nn.Module, batch: dict[str, Tensor], targets: Tensor, optimizer: torch.optim.Optimizer,
         autocast: torch.dtype | None) -> None:
    """An optimizer step of one forward pass."""
    loss_of(model, batch, targets, autocast).backward()
    optimizer.step()
    optimizer.zero_grad()


def position_bytes(model: nn.Module) -> int:
    """Of SAM2's position embeddings. What it keeps is a view of those of a whole chunk, which stay with it."""
    kept = [value for module in model.modules() for value in getattr(module, 'cache', {}).values()]
    return sum(value.untyped_storage().nbytes() for value in kept)


def allocated(profiler: profile) -> tuple[int, int]:
    """The most, and what is left at the end, of the bytes that were allocated while `profiler` ran."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak, live


def measure(config: CitrusVConfig,
            freeze: Callable[[nn.Module], None],
            load: Load,
            *,
            dtype: torch.dtype,
            checkpointing: bool,
            device: str = 'cpu',
            attn_impl: str = 'sdpa',
            seg_chunk: int = 4) -> Measured:
    """The second step of a real run without ZeRO: by then AdamW has its moments.

    On the CPU every allocation comes from PyTorch's profiler, which PyTorch's allocators report to; on CUDA it is
    `torch.cuda.max_memory_allocated`.
    """
    torch.manual_seed(0)
    model = CitrusVForConditionalGeneration._from_config(config, attn_implementation=attn_impl)
    # As `from_pretrained` leaves it: SAM2 and the projector in float32.
    model.model.to(dtype)
    model.lm_head.to(dtype)
    freeze(model)
    model.to(device).train()
    model.segmenter.chunk = seg_chunk
    if checkpointing:
        # As ms-swift does.
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
        if any(parameter.requires_grad for parameter in model.model.visual.parameters()):
            model.model.visual.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batch, targets = batch_of(model, load)
    batch, targets = {key: value.to(device) for key, value in batch.items()}, targets.to(device)
    autocast = None if dtype == torch.float32 else dtype
    step(model, batch, targets, optimizer, autocast)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*model.parameters(), *moments, *batch.values(), targets]
    standing = sum(tensor.nbytes for tensor in tensors) + position_bytes(model)
    gc.collect()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, batch, targets, optimizer, autocast)
        return Measured(standing, torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(model, batch, targets, optimizer, autocast)
    peak, left = allocated(profiler)
    assert peak > 0 and left == 0, 'a step must give back what it takes'
    return Measured(standing, peak)
