"""Estimates of memory against measured steps, the terms of ZeRO, and real models."""
import pytest
import torch
from functools import partial
from support.training_step import Measured, measure, scaled_config
from torch import nn

from swift_citrusv.estimate.dry_run import Load
from swift_citrusv.estimate.memory import Estimate, Setup, _zero_step, estimate
from swift_citrusv.estimate.stage import freeze_as_stage
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration

MIB = 2**20
SMALL = Load(tokens=256, vision_tokens=64, supervised_tokens=64, images=0, masks=0)


def estimated(load: Load,
              stage: int,
              *,
              zero: int = 0,
              dtype: torch.dtype = torch.float32,
              checkpointing: bool = True,
              attn_impl: str = 'sdpa',
              **setup: int) -> Estimate:
    how = Setup(dtype=dtype, checkpointing=checkpointing, attn_impl=attn_impl, **setup)
    return estimate(scaled_config(), partial(freeze_as_stage, stage=stage), load, how, zero)


def check(measured: Measured, one: Estimate, tolerance: float = 0.15) -> None:
    real = measured.standing + measured.peak
    print(f'estimated {one.peak / MIB:.0f} MiB, measured {real / MIB:.0f} MiB ({one.peak / real - 1:+.1%})')
    assert one.peak == pytest.approx(real, rel=tolerance)
    # The static terms are (nearly) exact; they must not hide errors in the activations.
    activations = one.peak - one.parameters - one.optimizer - one.batches
    assert activations == pytest.approx(measured.peak, rel=2 * tolerance)


@pytest.mark.parametrize('stage, checkpointing, dtype, load, setup', [
    (1, True, torch.float32, Load(512, 200, 300, 0, 0), {}),
    (2, False, torch.bfloat16, Load(512, 100, 100, 0, 0), {}),
    (3, True, torch.float32, Load(512, 100, 300, 6, 9), {}),
    (3, False, torch.float32, Load(512, 100, 100, 2, 2), {}),
    (4, True, torch.bfloat16, Load(512, 100, 100, 4, 4), {}),
    (4, True, torch.float32, Load(512, 100, 100, 4, 4), {'seg_chunk': 1}),
])  # yapf: disable
def test_within_15_percent_of_a_measured_step(stage, checkpointing, dtype, load, setup):
    """On the CPU, through the real model, loss, backward pass and AdamW; every allocation is counted."""
    freeze = partial(freeze_as_stage, stage=stage)
    real = measure(scaled_config(), freeze, load, dtype=dtype, checkpointing=checkpointing, **setup)
    check(real, estimated(load, stage, dtype=dtype, checkpointing=checkpointing, **setup))


@pytest.mark.gpu
@pytest.mark.parametrize('attn_impl', ['sdpa', 'torch_varlen'])
@pytest.mark.parametrize('checkpointing', [True, False])
@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_within_15_percent_on_cuda(stage, checkpointing, attn_impl):
    load = Load(4096, 2048, 1024, *((8, 8) if stage >= 3 else (0, 0)))
    how = {'dtype': torch.bfloat16, 'checkpointing': checkpointing, 'attn_impl': attn_impl}
    real = measure(scaled_config(), partial(freeze_as_stage, stage=stage), load, device='cuda', **how)
    check(real, estimated(load, stage, **how))


def test_terms_of_zero():
    """ZeRO's paper, section 3: 16 bytes a parameter in mixed precision, of which a stage spreads 14 or all 16."""
    ranks = 4
    two, three = (estimated(SMALL, 2, zero=zero, dtype=torch.bfloat16, world_size=ranks) for zero in (2, 3))
    n = two.num_trained
    assert two.parameters == 2 * two.num_parameters
    assert two.gradients + two.optimizer == pytest.approx(14 * n / ranks, abs=2)
    assert three.parameters == pytest.approx(2 * three.num_parameters / ranks, abs=1)
    assert three.gradients + three.optimizer == pytest.approx(14 * n / ranks, abs=2)
    # A flat copy of the gradient in bfloat16, and one in float32.
    assert two.optimizer_step == three.optimizer_step == pytest.approx(6 * n / ranks, abs=2)
    # ZeRO-2's bucket, and ZeRO-3 gathers all of a small model; a single rank gathers nothing.
    assert two.communication == 2 * 200_000_000 and three.communication == 2 * three.num_parameters
    assert estimated(SMALL, 2, zero=3, dtype=torch.bfloat16).communication == 0
    # During the optimizer step, the bucket is freed and nothing is gathered.
    for one in (two, three):
        static = one.parameters + one.optimizer + one.gradients + one.batches
        assert one.moments['optimizer step'] == static + one.optimizer_step
    assert two.moments['head and losses, backward'] - two.moments['head and losses, forward'] > two.communication
    # DDP's buckets take as many bytes as the gradients; a single rank has none.
    ddp, single = (estimated(SMALL, 2, dtype=torch.bfloat16, world_size=world) for world in (ranks, 1))
    assert ddp.communication == ddp.gradients == single.gradients and single.communication == 0
    assert ddp.peak - single.peak == ddp.communication


def test_norm_of_a_large_gradient():
    """DeepSpeed converts each gradient to float64; under ZeRO-3 a rank converts its share."""
    large, small = (nn.Parameter(torch.empty(size, device='meta')) for size in (1000, 24))
    # On one rank the copies in bfloat16 and float32 take less than the norm of a large gradient, else more.
    assert _zero_step([large, small], 1, 2, 2) == _zero_step([large, small], 1, 2, 3) == 8 * 1000
    assert _zero_step([small] * 10, 1, 2, 2) == (2 + 4) * 240
    # One of 16 ranks has 64 elements, possibly all of the large gradient; under ZeRO-3 a sixteenth of it.
    assert _zero_step([large, small], 16, 2, 2) == 8 * 64
    assert _zero_step([large, small], 16, 2, 3) == 8 * 1000 / 16
    assert _zero_step([large, small], 16, 4, 3) == 8 * 1000 / 16


@pytest.mark.parametrize('stage, zero, world_size, predicts', [
    (2, 3, 2, True),
    (2, 2, 2, False),
    (3, 2, 2, True),
    (3, 2, 1, False),
])
def test_a_rank_without_masks_predicts_one_where_others_wait(stage, zero, world_size, predicts):
    one = estimated(Load(256, 64, 64, 0, 0), stage, zero=zero, world_size=world_size)
    sam2 = next(phase for phase in one.phases if phase.name == 'SAM2')
    # The pixels of 64 vision tokens take 1.2 MiB, and the image for SAM2 0.2 MiB.
    assert (sam2.kept > 0) == (one.batches > 1.3 * MIB) == predicts


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_parameters_and_moments_are_those_of_a_real_model(stage, tiny_checkpoint):
    """Tied embeddings are counted once; the dtypes are those of `from_pretrained`."""
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16)
    freeze_as_stage(model, stage)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = sum(state[key].nbytes for state in optimizer.state.values() for key in ('exp_avg', 'exp_avg_sq'))
    one = estimate(model.config, partial(freeze_as_stage, stage=stage), SMALL, Setup(), 0)
    assert one.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert one.num_trained == sum(parameter.numel() for parameter in trained)
    assert one.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert one.gradients == sum(parameter.grad.nbytes for parameter in trained)
    assert one.optimizer == moments


def test_accumulation_keeps_gradients_and_batches():
    once, twice = (estimated(SMALL, 2, grad_accum=steps) for steps in (1, 2))
    assert twice.batches == 2 * once.batches
    assert once.peak < twice.peak <= once.peak + once.gradients + once.batches
    assert all(phase.gradients == 0 for phase in twice.phases)
    # ZeRO-2 keeps the gradients of the current pass beside the sum of the earlier ones.
    once_2, twice_2 = (estimated(SMALL, 2, zero=2, grad_accum=steps) for steps in (1, 2))
    assert twice_2.peak - once_2.peak == once_2.gradients + once_2.batches
    assert twice_2.moments['optimizer step'] - once_2.moments['optimizer step'] == once_2.batches
    # All gradients exist at the end of the backward pass.
    assert once.phases[0].gradients == pytest.approx(once.gradients, rel=0.1)


def test_sam2s_working_set_follows_seg_chunk():
    one, four = (estimated(Load(256, 0, 16, 4, 4), 4, seg_chunk=chunk).sam2 for chunk in (1, 4))
    assert four / one == pytest.approx(4, rel=0.5)
