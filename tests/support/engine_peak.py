"""The peak of an optimizer step through DDP, ZeRO-2 or ZeRO-3 on CPUs, below the trainer."""
import gc
import json
import os
import torch
from contextlib import nullcontext
from pathlib import Path
from support.training_step import Measured, allocated, batch_of, loss_of
from torch.profiler import ProfilerActivity, profile
from typing import Any

from swift_citrusv.estimate.dry_run import Load
from swift_citrusv.estimate.stage import freeze_as_stage
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def rank_peak(config: Any, stage: int, load: Load, dtype: torch.dtype, zero: int, grad_accum: int, rank: int,
              ranks: int, port: int, queue: Any) -> None:
    """A rank of its own process: puts what its third step takes into `queue`, as `Measured`.

    Args:
        config: A `CitrusVConfig`.
        stage: What is trained.
        load: What each forward pass has to do.
        dtype: Of the MLLM, and under DeepSpeed of all.
        zero: 2 or 3, with the configuration that ships with ms-swift; 0 for DDP.
        grad_accum: Forward passes of a step.
        rank: 0 to `ranks` - 1.
        ranks: How many there are.
        port: Where rank 0 listens.
        queue: A queue of `multiprocessing`.
    """
    import deepspeed.comm.torch

    # It would compile an operator for inference on CPUs.
    setattr(deepspeed.comm.torch, 'build_shm_op', lambda: None)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    deepspeed.init_distributed('gloo')
    # As ms-swift loads it: DeepSpeed casts all parameters, and without it SAM2 stays in float32.
    model = CitrusVForConditionalGeneration._from_config(config, attn_implementation='sdpa')
    for part in (model, ) if zero else (model.model, model.lm_head):
        part.to(dtype)
    freeze_as_stage(model, stage)
    model.train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    # All batches of a step exist at once, as in Transformers' trainer.
    batches = [batch_of(model, load) for _ in range(grad_accum)]
    buckets = 0
    if zero:
        settings = _deepspeed_settings(zero, ranks, dtype, config.text_config.hidden_size, grad_accum)
        engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    else:
        # Its buckets are not Python tensors.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            parallel = torch.nn.parallel.DistributedDataParallel(model)
        buckets = allocated(profiler)[1]
    autocast = dtype if dtype != torch.float32 else None

    def one_step() -> None:
        for i, (batch, targets) in enumerate(batches):
            if zero:
                engine.backward(loss_of(engine, batch, targets, None))
                engine.step()
                continue
            with nullcontext() if i == grad_accum - 1 else parallel.no_sync():
                loss_of(parallel, batch, targets, autocast).backward()
        if not zero:
            optimizer.step()
            optimizer.zero_grad()

    one_step()
    one_step()
    del trained
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [*_moments(engine.optimizer.optimizer if zero else optimizer), *gc.get_objects()]
        if isinstance(tensor, torch.Tensor)
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_step()
    queue.put(Measured(sum(storages.values()) + buckets, allocated(profiler)[0]))


def _moments(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [value for entry in optimizer.state.values() for value in entry.values()]


def _deepspeed_settings(zero: int, ranks: int, dtype: torch.dtype, width: int, grad_accum: int) -> dict[str, Any]:
    """`width`: Of the language model, by which Transformers fills in "auto"."""
    import swift
    settings = json.loads(Path(swift.__file__).with_name('config').joinpath(f'zero{zero}.json').read_text())
    settings['fp16']['enabled'], settings['bf16']['enabled'] = False, dtype == torch.bfloat16
    settings.update(
        gradient_accumulation_steps=grad_accum,
        gradient_clipping=1.,
        train_batch_size=grad_accum * ranks,
        train_micro_batch_size_per_gpu=1)
    if zero == 3:
        settings['zero_optimization'].update(
            reduce_bucket_size=width**2,
            stage3_prefetch_bucket_size=int(0.9 * width**2),
            stage3_param_persistence_threshold=10 * width)
    return settings
