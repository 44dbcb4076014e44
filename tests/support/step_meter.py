"""Time, memory and load of the optimizer steps of `swift sft`."""
import dataclasses
import gc
import json
import time
import torch
from dataclasses import dataclass
from pathlib import Path
from support.training_step import allocated, load_of, position_bytes
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback
from typing import Any

from swift_citrusv.estimate.dry_run import Load


@dataclass(frozen=True)
class Step:
    """One optimizer step of one forward pass.

    seconds: From its first forward pass to its end, without the wait for data.
    load: What the forward pass had to do.
    peak: The most bytes that tensors took. On a CPU it is known of one step only, and 0 for the others.
    """
    seconds: float
    load: Load
    peak: int


class StepMeter(TrainerCallback):
    """Measures each step; on CUDA by the allocator's own count, on a CPU by PyTorch's profiler.

    Attributes:
        file: Where the figures are written after the last step: {"attention": ..., "steps": [...]}; set it before.
        profiled: The step, from 0, that the profiler sees: by then AdamW has its moments, and DeepSpeed its buffers.
    """
    file = ''
    profiled = 2

    def __init__(self, args: Any, trainer: Any) -> None:
        if args.gradient_accumulation_steps != 1:
            raise ValueError('StepMeter measures steps of one forward pass: --gradient_accumulation_steps 1.')
        self.trainer = trainer
        self.cuda = args.device.type == 'cuda'
        self.steps: list[Step] = []
        self._profiler: profile | None = None
        self._standing = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.config = model.config
        original = self.trainer.training_step

        def training_step(model, inputs, *others):
            self._load = load_of(inputs, self.config)
            self._inputs = sum(value.nbytes for value in inputs.values() if isinstance(value, torch.Tensor))
            self._begun = self._now()
            return original(model, inputs, *others)

        self.trainer.training_step = training_step

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        elif state.global_step == self.profiled:
            self._standing = _standing(model, optimizer, self.trainer.is_deepspeed_enabled)
            self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        seconds, peak = self._now() - self._begun, 0
        if self.cuda:
            peak = torch.cuda.max_memory_allocated()
        elif self._profiler is not None:
            self._profiler.stop()
            peak = self._standing + self._inputs + allocated(self._profiler)[0]
            self._profiler = None
        self.steps.append(Step(seconds, self._load, peak))

    def on_train_end(self, args, state, control, **kwargs):
        steps = [dataclasses.asdict(step) for step in self.steps]
        figures = {'attention': self.config._attn_implementation, 'steps': steps}
        Path(self.file).write_text(json.dumps(figures), encoding='utf-8')

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def _standing(model: nn.Module, optimizer: Any, zero: bool) -> int:
    """Bytes that are there between two steps on a CPU, but for the batch."""
    # accelerate wraps each optimizer, and DeepSpeed another one below.
    while hasattr(optimizer, 'optimizer'):
        optimizer = optimizer.optimizer
    tensors = [*model.parameters(), *(value for entry in optimizer.state.values() for value in entry.values())]
    if zero:
        # Its flat copies and partitions have many names.
        gc.collect()
        tensors += gc.get_objects()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors if isinstance(tensor, torch.Tensor)
    }
    return sum(storages.values()) + (0 if zero else position_bytes(model))


def read_steps(file: Path) -> tuple[str, list[Step]]:
    """The attention and the steps that a `StepMeter` wrote."""
    figures = json.loads(file.read_text(encoding='utf-8'))
    return figures['attention'], [Step(**{**step, 'load': Load(**step['load'])}) for step in figures['steps']]
