"""Runs stock `swift sft` in this process, and returns its gradients, parameters and logs."""
import gc
import os
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
        self.learning_rates: dict[str, float] = {}
        self.num_steps = 0
        Watch.last = self

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.trainer is not None and not self.learning_rates:
            # Which part each group belongs to, by the first parameter of it that is found.
            parts = self.trainer.optimizer_callback.parts(self.trainer.model) if hasattr(
                self.trainer.optimizer_callback, 'parts') else []
            names = {id(p): name for name, p in model.named_parameters()}
            for group in self.trainer.optimizer.param_groups if parts else ():
                name = names[id(group['params'][0])].removeprefix('base_model.model.')
                part = next(part.name for part in parts if name.startswith(part.prefixes))
                self.learning_rates[part] = group['initial_lr']
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


def run_sft(*arguments: str, stop_after: int | None = None, rlhf: bool = False) -> Watch:
    """Runs `swift sft`, or `swift rlhf`, with `COMMON` and `arguments`; returns what `Watch` saw.

    Args:
        arguments: As on the command line; the first may be a YAML file. They win over `COMMON`, and `COMMON` over the
            file. What ms-swift writes into the environment is removed.
        stop_after: Ends the run after so many optimizer steps.
        rlhf: Whether to run `swift rlhf`.
    """
    from swift.callbacks import callbacks_map
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import rlhf_main, sft_main

    from swift_citrusv.plugin.register import register
    register()
    callbacks_map['watch'] = Watch
    Watch.stop_after = stop_after
    environment = dict(os.environ)
    file = list(arguments[:1]) if arguments[0].endswith('.yaml') else []
    rest = arguments[len(file):]
    try:
        # What `swift` itself does before it starts the training process.
        parse_yaml_args(file)
        (rlhf_main if rlhf else sft_main)([*file, *COMMON, '--callbacks', 'watch', *rest])
    finally:
        Watch.stop_after = None
        os.environ.clear()
        os.environ.update(environment)
        gc.collect()
    watch = Watch.last
    watch.trainer = None
    return watch
