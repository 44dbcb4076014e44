"""Estimates the memory of a training step on each GPU, without weights, data or a GPU.

    peak = P + O + A X + max(most of the forward and backward pass with G and C, G + optimizer step)

in bytes, for N parameters of b bytes each, n of them trained, on W ranks. The static terms:

| term | no ZeRO | ZeRO-2 | ZeRO-3 |
| --- | --- | --- | --- |
| P, parameters | b N (SAM2, projector: 4 bytes) | b N | b N / W |
| G, gradients | b n | b n / W; A > 1: twice in the step | b n / W |
| O, AdamW | two moments: 2 b n | float32 copy, moments: 12 n / W | 12 n / W |
| C, communication | DDP's buckets: G (W > 1) | backward, a bucket: 2e8 b | gathered (W > 1): see below |
| optimizer step | C (fused AdamW) | (b + 4) n / W | (b + 4) min(n / W, 1e9) |

The optimizer step of ZeRO makes a flat copy of the gradients, and another one in float32 if b is not 4. Before that, it
computes the norm of each gradient in float64: 8 bytes for each element of the largest, if that is more.

ZeRO-3 gathers the parameters of each part of the step while it runs, and keeps up to 1e9 of them for the backward pass;
in a part that is frozen as a whole, it gathers one module at a time. A rank without masks predicts one on a black
image, where the other ranks would wait for it (under ZeRO-3, and under ZeRO-2 if SAM2 is trained).

X is one batch of the data loader: pixels for the MLLM in float32, for SAM2 in uint8, ids and masks. All batches of an
optimizer step are on the device at once; A is --gradient_accumulation_steps.

`dry_run` counts the activations of each part of the step, forward and backward: vision tower, language model, SAM2,
head and losses. With T tokens of width D, V vision tokens (4 V patches of width E) and s supervised tokens over a
vocabulary of Z, the largest terms are

- with gradient checkpointing, the input of each layer, b T D a layer and 4 b V E a block of the vision tower, and the
  working set of the largest layer, mainly its MLP; without, the working sets of all layers;
- with `--attn_impl sdpa`, the mask of a pack: T^2 bytes, and b T^2 more in each active layer. The varlen kernels
  (torch_varlen, flash_attention_2) take the borders of the chunks instead;
- the logits, at supervised positions only, in float32, three times at the peak of the backward pass: 12 s Z;
- SAM2: with gradient checkpointing, the image features at strides 4, 8 and 16 for each mask, and the working set of
  the encoder on `seg_chunk` images, or of the decoder on four times as many masks; without, all activations;
- the gradients: without ZeRO they grow to G during the backward pass; with A > 1 they exist from the start.

Not counted: fragmentation of the allocator and the CUDA context (together often 1 to 2 GiB on a GPU), the workspaces of
kernels, offloading, the buffers of NCCL, and evaluation and checkpoints.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 3) for the terms of P, G and O; DeepSpeed 0.19
(`runtime/zero`) and the configurations that ship with ms-swift 4.6 (`zero2`, `zero3`) for C; Chen et al. 2016 (arXiv
1604.06174) for checkpointing. `tests/bench/bench_estimate.py` compares the estimates with measured peaks.
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
# Elements in ZeRO-2's gradient bucket, and the maximum that ZeRO-3 keeps gathered: ms-swift's zero2.json, zero3.json.
_BUCKET = 200_000_000
_MAX_LIVE = 1_000_000_000
# ZeRO-3 runs the optimizer step in groups of this size.
_SUB_GROUP = 1_000_000_000
_STEP = 'optimizer step'


@dataclass(frozen=True)
class Setup:
    """The options of a run.

    Attributes:
        world_size: Number of ranks.
        dtype: `--torch_dtype`.
        checkpointing: `--gradient_checkpointing`.
        attn_impl: `--attn_impl`; None for the choice on a GPU of compute capability 8.0 or more without flash-attn.
        grad_accum: `--gradient_accumulation_steps`.
        seg_chunk: The setting `seg_chunk`.

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
    """The memory of each rank, in bytes; the module docstring defines the terms.

    Attributes:
        zero: 0 (one GPU, or DDP), 2 or 3.
        parameters, gradients, optimizer, communication: P, G, O, and the maximum of C.
        batches: A X.
        optimizer_step: The temporary memory of the optimizer step.
        phases: The memory of the parts of the step.
        moments: The total memory at each moment of the step, e.g. 'language model, backward'.
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
        """The maximum of `moments`."""
        return max(self.moments.values())

    @property
    def peak_at(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=self.moments.__getitem__)

    def activations(self, *names: str) -> int:
        """The peak of the activations of all parts while one of the named parts runs."""
        return max(max(phase.forward, phase.backward - phase.gradients) for phase in self.phases if phase.name in names)

    @property
    def mllm(self) -> int:
        """The peak of the activations while the MLLM runs, including its head and the losses."""
        return self.activations('vision tower', 'language model', 'head and losses')

    @property
    def sam2(self) -> int:
        """The peak of the activations of SAM2 alone."""
        before = sum(phase.kept for phase in self.phases[:2])
        return self.activations('SAM2') - before


def estimate(config: PretrainedConfig, freeze: Callable[[nn.Module], None], load: Load, setup: Setup,
             zero: int) -> Estimate:
    """Estimates the memory of a run.

    Args:
        config: A `CitrusVConfig`.
        freeze: Freezes the parameters that the run does not train.
        load: The sizes of one forward pass.
        setup: The options of the run.
        zero: 0, 2 or 3.

    Raises:
        ValueError: The ZeRO stage is unknown, all parameters are frozen, or the attention cannot run.
    """
    if zero not in ZERO_STAGES:
        raise ValueError(f'ZeRO-{zero} is not supported. Use one of: {", ".join(map(str, ZERO_STAGES))}.')
    # DeepSpeed casts all parameters. Without it, SAM2 and the projector stay in float32 under autocast.
    mixed = zero == 0 and setup.dtype != torch.float32
    model = _model(config, setup, mixed)
    freeze(model)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError('All parameters are frozen, so there is no step to estimate. Train at least one part.')
    num_parameters, num_trained = (sum(p.numel() for p in group) for group in (parameters, trained))
    bytes_all, bytes_trained = (sum(p.nbytes for p in group) for group in (parameters, trained))
    share, width = setup.world_size, setup.dtype.itemsize
    if not load.masks and _predicts_dummy_mask(model, zero, share):
        load = replace(load, images=1, masks=1)
    attention = choose_attention(
        setup.attn_impl,
        feature='packing',
        capability=(8, 0),
        dtype=setup.dtype,
        heads=head_sizes(config),
        flash_attn=setup.attn_impl is not None and setup.attn_impl.startswith('flash'))
    run = DryRun(
        model,
        load,
        block_mask=attention.attn_impl in ('sdpa', 'eager'),
        autocast=setup.dtype if mixed else None,
        keep_gradients=zero == 0,
        accumulate=setup.grad_accum > 1)
    phases = tuple(run.run())
    batches = setup.grad_accum * run.batch_bytes()
    static = (bytes_all // share if zero == 3 else bytes_all) + batches
    # ZeRO allocates its share of the gradients, and accumulation keeps those of earlier forward passes. Without either,
    # `phases` counts them.
    gradients = bytes_trained // share if zero else bytes_trained
    accumulates = setup.grad_accum > 1
    in_step = gradients * ((2 if accumulates else 1) if zero == 2 else int(zero == 3 or accumulates))
    if zero:
        optimizer, step = 12 * num_trained // share, _zero_step(trained, share, width, zero)
    else:
        optimizer, step = 2 * bytes_trained, 0
    communication = _communication(zero, share, width, bytes_trained, phases)
    moments = {
        name: static + optimizer + in_step + communication.get(name, 0) + taken
        for name, taken in _activations(phases).items()
    }
    moments[_STEP] = static + optimizer + gradients + communication.get(_STEP, 0) + step
    return Estimate(
        zero=zero,
        parameters=static - batches,
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
    """The peak of all parts of the step together, by moment."""
    forward = {f'{phase.name}, forward': phase.forward for phase in phases}
    return {**forward, **{f'{phase.name}, backward': phase.backward for phase in phases if phase.backward}}


def _communication(zero: int, world_size: int, width: int, bytes_trained: int, phases: tuple[Phase,
                                                                                             ...]) -> dict[str, int]:
    """C in bytes, by moment; 0 for a moment that is missing."""
    moments = [*_activations(phases), _STEP]
    if zero == 2:
        return {moment: _BUCKET * width for moment in moments if moment.endswith('backward')}
    if world_size == 1:
        # A single rank gathers and sends nothing.
        return {}
    if zero == 0:
        return dict.fromkeys(moments, bytes_trained)
    gathered = {phase.name: width * min(phase.gathered, _MAX_LIVE) for phase in phases}
    return {moment: gathered[moment.partition(',')[0]] for moment in moments if moment != _STEP}


def _predicts_dummy_mask(model: CitrusVForConditionalGeneration, zero: int, world_size: int) -> bool:
    """Whether a rank without masks predicts one, because other ranks wait for it (`model.modeling`)."""
    modules = [getattr(model, name) for name in SEGMENTATION_MODULES]
    trained = any(p.requires_grad for module in modules for p in module.parameters())
    return zero == 3 or zero == 2 and trained and world_size > 1


def _zero_step(trained: Sequence[nn.Parameter], world_size: int, width: int, zero: int) -> int:
    """The temporary memory of ZeRO's optimizer step, in bytes, besides gradients, float32 copy and moments."""
    share = sum(parameter.numel() for parameter in trained) / world_size
    largest = max(parameter.numel() for parameter in trained)
    # ZeRO-3 divides each parameter among the ranks; ZeRO-2 may keep a whole parameter on one rank.
    norm = 8 * (largest / world_size if zero == 3 else min(largest, share))
    copies = (width + (0 if width == 4 else 4)) * (min(share, _SUB_GROUP) if zero == 3 else share)
    return int(max(norm, copies))


def _model(config: PretrainedConfig, setup: Setup, mixed: bool) -> CitrusVForConditionalGeneration:
    """The model of the run on the meta device, in the dtypes of the run."""
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
