"""Runs stock `swift sft` in this process, and hands out what a test wants to see of it."""
import gc
import torch
from transformers import TrainerCallback
from typing import Any

COMMON = ('--torch_dtype float32 --fp16 false --bf16 false --use_cpu true --check_model false --add_version false '
          '--report_to none --dataloader_num_workers 0 --dataset_shuffle false --train_dataloader_shuffle false '
          '--max_length 1024 --max_grad_norm 0 --logging_steps 1 --save_strategy no --eval_strategy no '
          '--gradient_checkpointing false --lr_scheduler_type constant --warmup_ratio 0 --load_from_cache_file false'
          ).split()


class Watch(TrainerCallback):
    """Keeps the gradients of the first optimizer step, the logs and the parameters before and after."""

    def __init__(self, args: Any = None, trainer: Any = None) -> None:
        self.trainer = trainer
        self.gradients: dict[str, torch.Tensor] = {}
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}
        self.logs: list[dict[str, float]] = []
        self.num_steps = 0
        Watch.last = self

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def on_step_end(self, args, state, control, **kwargs):
        self.num_steps = state.global_step
        if Watch.stop_after is not None and state.global_step >= Watch.stop_after:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs or {}))

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.after = {name: p.detach().clone() for name, p in model.named_parameters()}


Watch.stop_after = None


def run_sft(*arguments: str, stop_after: int | None = None) -> Watch:
    """Runs `swift sft` with `COMMON` and `arguments`; returns what `Watch` saw."""
    from swift.callbacks import callbacks_map
    from swift.pipelines import sft_main

    from swift_citrusv.register import register
    register()
    callbacks_map['watch'] = Watch
    Watch.stop_after = stop_after
    try:
        sft_main([*COMMON, '--callbacks', 'watch', *arguments])
    finally:
        Watch.stop_after = None
        gc.collect()
    watch = Watch.last
    watch.trainer = None
    return watch
