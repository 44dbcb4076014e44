"""What each rank of a distributed test runs: stock `swift sft`, in a process of its own, under a watchdog."""
import faulthandler
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import torch
from collections.abc import Callable
from pathlib import Path
from torch import Tensor, nn
from transformers import TrainerCallback
from typing import Any

# A rank that runs longer than this has lost its launcher, and exits.
MAX_SECONDS = 280.
COMMON = (
    '--model_type citrusv --torch_dtype float32 --fp16 false --bf16 false --use_cpu true --check_model false '
    '--add_version false --report_to none --dataloader_num_workers 0 --dataset_num_proc 1 --dataset_shuffle false '
    '--train_dataloader_shuffle false --max_length 1024 --logging_steps 1 --save_strategy no --eval_strategy no '
    '--lr_scheduler_type constant --warmup_ratio 0 --load_from_cache_file false '
    '--ddp_find_unused_parameters false --per_device_train_batch_size 1 --num_train_epochs 1').split()


class Report(TrainerCallback):
    """Keeps the logs, and the trained parameters before the first step and after the last."""
    last: 'Report'

    def __init__(self, args: Any, trainer: Any) -> None:
        self.logs: list[dict[str, float]] = []
        self.rows: list[list[str]] = []
        self.step = 0
        self.start: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        Report.last = self

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        # A run of several ranks is compared with one of a single rank, whose start is enough.
        if args.world_size == 1:
            self.start = _trained(model)

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step + 1

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({**(logs or {}), 'step': state.global_step})

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.weights = _trained(model)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    # The wrapper is FSDP2's, for activation checkpointing.
    return {
        name.replace('_checkpoint_wrapped_module.', ''): _whole(p)
        for name, p in model.named_parameters() if p.requires_grad
    }


def _whole(parameter: nn.Parameter) -> Tensor:
    """The parameter, gathered where ZeRO-3 or FSDP2 keeps a share of it on each rank."""
    if hasattr(parameter, 'full_tensor'):
        return parameter.full_tensor().detach().clone()
    if hasattr(parameter, 'ds_id'):
        import deepspeed
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach().clone()


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        # numpy has no bfloat16; float32 holds its values exactly.
        digest.update(value.cpu().to(torch.promote_types(value.dtype, torch.float32)).numpy().tobytes())
    return digest.hexdigest()


def _note_rows(watch: Callable) -> Callable:
    """Wraps `StepGuard.watch`, which sees each batch between its forward and its backward pass."""

    def noting(self: Any, loss: Tensor, rows: list[str]) -> Tensor:
        Report.last.rows.append(rows)
        return watch(self, loss, rows)

    return noting


def run_rank(rank: int, world_size: int, port: int, folder: str, arguments: list[str], sabotage: str | None) -> None:
    """Runs one rank; writes `rank_N.log` and `rank_N.json`, and rank 0 `weights.pt`.

    Args:
        rank: 0 to `world_size` - 1.
        world_size: 1 is a run that is not distributed.
        port: Where the launcher's store listens.
        folder: Where the files go.
        arguments: Of `swift sft`; they win over `COMMON`.
        sabotage: The name of a function of `sabotages`, or `module.function` of this package; its arguments behind it.
    """
    log = os.open(os.path.join(folder, f'rank_{rank}.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    # gloo aborts the process where the ranks' calls do not match; NCCL would wait.
    faulthandler.enable(file=log, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
    faulthandler.dump_traceback_later(MAX_SECONDS, exit=True, file=log)
    backend = []
    if world_size > 1:
        backend = ['--ddp_backend', 'gloo']
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
            # The launcher holds the store, as torchrun does, instead of rank 0.
            TORCHELASTIC_USE_AGENT_STORE='True')
    torch.set_num_threads(1)
    # DataLoader workers are forked, as they are under torchrun, rather than started by another fork server.
    multiprocessing.set_start_method('fork', force=True)
    # ms-swift collects garbage often, which takes half a second with all modules imported before the fork.
    gc.freeze()
    # DeepSpeed would compile an operator for inference on CPUs, which takes a minute if it is not cached.
    setattr(importlib.import_module('deepspeed.comm.torch'), 'build_shm_op', lambda: None)
    from swift.callbacks import callbacks_map
    from swift.pipelines import sft_main

    from swift_citrusv.plugin.register import register
    from swift_citrusv.training.nonfinite import StepGuard
    register()
    setattr(StepGuard, 'watch', _note_rows(StepGuard.watch))
    callbacks_map['report'] = Report
    if sabotage is not None:
        name, *parameters = sabotage.split()
        module, _, function = name.rpartition('.')
        getattr(importlib.import_module(f'support.distributed.{module or "sabotages"}'), function)(*parameters)
    sft_main([*COMMON, *backend, '--callbacks', 'report', *arguments])
    report = Report.last
    if rank == 0:
        torch.save({'start': report.start, 'end': report.weights}, os.path.join(folder, 'weights.pt'))
    result = {'digest': _digest(report.weights), 'logs': report.logs, 'rows': report.rows}
    Path(folder, f'rank_{rank}.json').write_text(json.dumps(result), encoding='utf-8')
