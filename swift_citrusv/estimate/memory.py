"""How much memory a training step takes on each GPU, without weights, data or a GPU.

    peak = P + O + A X + max(most of the forward and backward pass with G and C, G + optimizer step)

in bytes, for N parameters of b bytes each, n of them trained, on W ranks. What stands still:

| term | no ZeRO | ZeRO-2 | ZeRO-3 |
| --- | --- | --- | --- |
| P, parameters | b N (SAM2, projector: 4 bytes) | b N | b N / W |
| G, gradients | b n | b n / W; A > 1: twice in the step | b n / W |
| O, AdamW | two moments: 2 b n | float32 copy, moments: 12 n / W | 12 n / W |
| C, communication | DDP's buckets: G (W > 1) | backward, a bucket: 2e8 b | gathered (W > 1): see below |
| optimizer step | C (fused AdamW) | (b + 4) n / W | (b + 4) min(n / W, 1e9) |

The optimizer step of ZeRO makes a flat copy of the gradient, and where b is not 4 another in float32. Before that it
takes the norm of one gradient after another in float64: 8 bytes for each number of the largest, where that is more.

ZeRO-3 gathers the parameters of each part of the step for the time that it runs, and keeps them if the backward pass
comes back to them, but no more than 1e9; where all of a part is frozen, those of one module at a time. A rank without
masks draws one on a black image, where others wait for that (under ZeRO-3, and ZeRO-2 where SAM2 is trained).

X is one batch as the data loader hands it over: pixels of the MLLM in float32, SAM2's in uint8, ids and masks; all
batches of an optimizer step are on the device at once: A is --gradient_accumulation_steps.

What moves is counted by `dry_run`, part by part in the order of the step, forward and backward: vision tower, language
model, SAM2, head and losses. With T tokens of width D, V vision tokens (4 V patches of width E) and s supervised tokens
over a vocabulary of Z, what matters there is

- with gradient checkpointing, the input of each layer, b T D a layer and 4 b V E a block of the vision tower, and the
  largest layer's working set, foremost the inner width of its MLP; without, the working sets of all layers;
- with `--attn_impl sdpa`, the mask of a pack: T^2 bytes, and b T^2 more in each layer at work. The varlen kernels
  (torch_varlen, flash_attention_2) take the borders of the samples instead, and no mask;
- the logits: at supervised positions only, but in float32, three times at the peak of the backward pass: 12 s Z;
- SAM2: with gradient checkpointing the image's features at strides 4, 8 and 16 for each mask, and the working set of
  the encoder on `seg_chunk` images, or of the decoder on four times as many masks; without, the activations of all;
- the gradients: without ZeRO they grow to G as the backward pass proceeds; with A > 1 they are there from the start.

Left out: fragmentation of the allocator and the CUDA context (together often 1 to 2 GiB on a GPU), the workspaces of
kernels, offloading, the buffers of NCCL, and what an evaluation or a checkpoint takes.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 3) for the terms of P, G and O; DeepSpeed 0.19
(`runtime/zero`) and the configurations that ship with ms-swift 4.6 (`zero2`, `zero3`) for C; Chen et al. 2016 (arXiv
1604.06174) for checkpointing. `tests/bench/bench_estimate.py` holds the sums against measured peaks.
"""
import torch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from torch import nn
from transformers import PretrainedConfig

from ..constants import SEGMENTATION_MODULES
from ..model.attention import choose_attention, head_sizes
from ..model.modeling import CitrusVForConditionalGeneration
from .dry_run import DryRun, Load, Phase

ZERO_STAGES = (0, 2, 3)
# Numbers in ZeRO-2's bucket for gradients, and the most that ZeRO-3 keeps gathered: ms-swift's zero2.json, zero3.json.
_BUCKET = 200_000_000
_MAX_LIVE = 1_000_000_000
# ZeRO-3 takes the step in groups of this size.
_SUB_GROUP = 1_000_000_000
_STEP = 'optimizer step'


@dataclass(frozen=True)
class Setup:
    """How a run is set up.

    Attributes:
        world_size: Ranks.
        dtype: `--torch_dtype`.
        checkpointing: `--gradient_checkpointing`.
        attn_impl: `--attn_impl`; None for what is chosen on a GPU of compute capability 8.0 or more without flash-attn.
        grad_accum: `--gradient_accumulation_steps`.
        seg_chunk: The setting of that name.

    Raises:
        ValueError: A number below 1.
    """
    world_size: int = 1
    dtype: torch.dtype = torch.bfloat16
    checkpointing: bool = True
    attn_impl: str | None = None
    grad_accum: int = 1
    seg_chunk: int = 4

    def __post_init__(self) -> None:
        for name in ('world_size', 'grad_accum', 'seg_chunk'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}: give 1 or more.')


@dataclass(frozen=True)
class Estimate:
    """The memory of each rank, in bytes; see the head of this module for the terms.

    Attributes:
        zero: 0 (one GPU, or DDP), 2 or 3.
        parameters, gradients, optimizer, communication: P, G, O, and the most of C.
        batches: A X.
        optimizer_step: What the optimizer's step takes beside them.
        phases: What the parts of the step keep and take.
        moments: All that is taken, by the name of the moment, e.g. 'language model, backward'.
        num_parameters, num_trained: N, n.
    """
    zero: int
    parameters: int
    gradients: int
    optimizer: int
    communication: int
    batches: int
    optimizer_step: int
    phases: tuple[Phase, ...]
    moments: dict[str, int]
    num_parameters: int
    num_trained: int

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    @property
    def peak_at(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=self.moments.__getitem__)

    def activations(self, *names: str) -> int:
        """The most that activations take while one of these parts of the step runs, those that others keep included."""
        return max(max(phase.forward, phase.backward - phase.gradients) for phase in self.phases if phase.name in names)

    @property
    def mllm(self) -> int:
        """The most that activations take while the MLLM runs, its head and the losses included."""
        return self.activations('vision tower', 'language model', 'head and losses')

    @property
    def sam2(self) -> int:
        """The most that SAM2's own activations take."""
        before = sum(phase.kept for phase in self.phases[:2])
        return self.activations('SAM2') - before


def estimate(config: PretrainedConfig, freeze: Callable[[nn.Module], None], load: Load, setup: Setup,
             zero: int) -> Estimate:
    """Works out the memory of a run.

    Args:
        config: A `CitrusVConfig`.
        freeze: Freezes what the run does not train.
        load: What one forward pass has to do.
        setup: How the run is set up.
        zero: 0, 2 or 3.

    Raises:
        ValueError: An unknown ZeRO stage, nothing trained, or an attention that cannot run.
    """
    if zero not in ZERO_STAGES:
        raise ValueError(f'ZeRO-{zero} is not known here. Use one of: {", ".join(map(str, ZERO_STAGES))}.')
    # DeepSpeed casts all parameters; without it SAM2 and the projector stay in float32, and autocast is on.
    mixed = zero == 0 and setup.dtype != torch.float32
    model = _model(config, setup, mixed)
    freeze(model)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError('Nothing is trained, so no step can be estimated.')
    num_parameters, num_trained = (sum(p.numel() for p in group) for group in (parameters, trained))
    bytes_all, bytes_trained = (sum(p.nbytes for p in group) for group in (parameters, trained))
    share, width = setup.world_size, setup.dtype.itemsize
    if not load.masks and _draws_black(model, zero, share):
        load = replace(load, images=1, masks=1)
    choice = choose_attention(
        setup.attn_impl,
        feature='packing',
        capability=(8, 0),
        dtype=setup.dtype,
        heads=head_sizes(config),
        flash_attn=setup.attn_impl is not None and setup.attn_impl.startswith('flash'))
    run = DryRun(
        model,
        load,
        block_mask=choice.attn_impl in ('sdpa', 'eager'),
        autocast=setup.dtype if mixed else None,
        keep_gradients=zero == 0,
        accumulate=setup.grad_accum > 1)
    phases = tuple(run.run())
    batches = setup.grad_accum * run.batch_bytes()
    standing = (bytes_all // share if zero == 3 else bytes_all) + batches
    # ZeRO has a place for its share of the gradients, and accumulation those of the forward passes before. Without,
    # they are counted in `phases` as they come.
    gradients = bytes_trained // share if zero else bytes_trained
    accumulates = setup.grad_accum > 1
    in_step = gradients * ((2 if accumulates else 1) if zero == 2 else int(zero == 3 or accumulates))
    if zero:
        optimizer, step = 12 * num_trained // share, _zero_step(trained, share, width, zero)
    else:
        optimizer, step = 2 * bytes_trained, 0
    communication = _communication(zero, share, width, bytes_trained, phases)
    moments = {
        name: standing + optimizer + in_step + communication.get(name, 0) + taken
        for name, taken in _activations(phases).items()
    }
    moments[_STEP] = standing + optimizer + gradients + communication.get(_STEP, 0) + step
    return Estimate(
        zero=zero,
        parameters=standing - batches,
        gradients=gradients,
        optimizer=optimizer,
        communication=max(communication.values(), default=0),
        batches=batches,
        optimizer_step=step,
        phases=phases,
        moments=moments,
        num_parameters=num_parameters,
        num_trained=num_trained)


def _activations(phases: tuple[Phase, ...]) -> dict[str, int]:
    """What all parts of the step take together, by moment."""
    forward = {f'{phase.name}, forward': phase.forward for phase in phases}
    return {**forward, **{f'{phase.name}, backward': phase.backward for phase in phases if phase.backward}}


def _communication(zero: int, world_size: int, width: int, bytes_trained: int, phases: tuple[Phase,
                                                                                             ...]) -> dict[str, int]:
    """C in bytes, by moment; none where a moment is missing."""
    moments = [*_activations(phases), _STEP]
    if zero == 2:
        return {moment: _BUCKET * width for moment in moments if moment.endswith('backward')}
    if world_size == 1:
        # One rank has all of its parameters at hand, and no one to send gradients to.
        return {}
    if zero == 0:
        return dict.fromkeys(moments, bytes_trained)
    gathered = {phase.name: width * min(phase.gathered, _MAX_LIVE) for phase in phases}
    return {moment: gathered[moment.partition(',')[0]] for moment in moments if moment != _STEP}


def _draws_black(model: CitrusVForConditionalGeneration, zero: int, world_size: int) -> bool:
    """Whether a rank without masks draws one: see `CitrusVForConditionalGeneration._all_ranks_draw`."""
    modules = [getattr(model, name) for name in SEGMENTATION_MODULES]
    trained = any(p.requires_grad for module in modules for p in module.parameters())
    return zero == 3 or zero == 2 and trained and world_size > 1


def _zero_step(trained: Sequence[nn.Parameter], world_size: int, width: int, zero: int) -> int:
    """What ZeRO's optimizer step takes beside gradients, copies and moments, in bytes."""
    share = sum(parameter.numel() for parameter in trained) / world_size
    largest = max(parameter.numel() for parameter in trained)
    # ZeRO-3 has a share of each parameter on each rank; ZeRO-2 may have all of one on one rank.
    norm = 8 * (largest / world_size if zero == 3 else min(largest, share))
    copies = (width + (0 if width == 4 else 4)) * (min(share, _SUB_GROUP) if zero == 3 else share)
    return int(max(norm, copies))


def _model(config: PretrainedConfig, setup: Setup, mixed: bool) -> CitrusVForConditionalGeneration:
    """The model of the run on the meta device, in the types of the run."""
    with torch.device('meta'):
        model = CitrusVForConditionalGeneration(config)
    for name, module in model.named_children():
        if not (mixed and name in SEGMENTATION_MODULES):
            module.to(setup.dtype)
    model.segmenter.chunk = setup.seg_chunk
    model.train()
    if setup.checkpointing:
        model.gradient_checkpointing_enable()
    return model
