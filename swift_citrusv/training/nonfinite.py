"""NaN and Inf in the loss or the gradient: all ranks skip the optimizer step, or the run stops and names the rows.

Stock ms-swift silently drops a step whose gradient norm is NaN, takes a step whose norm is Inf (which makes the weights
NaN), and Transformers leaves the loss out of its log.

A non-finite loss is multiplied by NaN before its backward pass, so the gradient of the whole step is NaN on every rank:
the gradient reduction, which happens anyway, informs all ranks, and either all take the step or none does. Then:

- Without DeepSpeed (one rank, DDP, FSDP), `StepGuard.end_step` runs between the gradient norm and the optimizer. It
  removes all gradients, and an optimizer ignores parameters without one: the weights, moments, weight decay and step
  count of AdamW do not change.
- DeepSpeed takes the step inside the last backward pass. It checks the gradients itself, and silently drops the step
  where they are not finite: ZeRO-1 and 2 (with `bf16.check_grad_overflow`, on by default) and ZeRO-3 in every dtype,
  ZeRO-0 in bfloat16. `end_step` runs afterwards. ZeRO-0 in float32 has no check: the weights are NaN, and the run stops
  whatever the setting says.

In either case the learning rate schedule does not advance, as after an overflow in float16, and the step counts as one
of `--max_steps`. With a gradient scaler (float16), an Inf in the gradient alone is normal: the scaler drops the step
and lowers its scale.
"""
import json
import math
import os
from accelerate.utils import DistributedType
from dataclasses import dataclass
from swift.utils import get_logger
from torch import Tensor
from typing import Any

from ..settings import Settings
from .loss_plugin import SumMetric
from .rank_sync import any_rank, gather

logger = get_logger()
STEPS_FILE = 'nonfinite_steps.jsonl'
# Skipped steps in a row after which the run stops.
MAX_CONSECUTIVE = 10
_SHOWN_ROWS = 20
_ADVICE = (
    'Check the rows with `citrusv check-data`; if they are good, lower the learning rate or --max_grad_norm, or start '
    'from an earlier checkpoint.')


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or Inf, and the setting `nonfinite` is 'stop', or the step cannot be skipped."""


@dataclass(frozen=True)
class BatchLoss:
    """One forward pass: its rank, its contribution to the step's loss, and its rows ("file.jsonl:line")."""
    rank: int
    loss: float
    rows: list[str]


class StepGuard:
    """Checks the loss and the gradient of every optimizer step.

    Args:
        skip: Whether a non-finite step is skipped; otherwise it ends the run.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.num_skipped = 0
        self._num_consecutive = 0
        self._batches: list[tuple[Tensor, list[str]]] = []

    @classmethod
    def of(cls, trainer: Any) -> 'StepGuard':
        """The guard of a trainer, made from the settings at the first call."""
        guard = getattr(trainer, '_citrusv_step_guard', None)
        if guard is None:
            guard = trainer._citrusv_step_guard = cls(Settings.from_env().nonfinite == 'skip')
        return guard

    def watch(self, loss: Tensor, rows: list[str]) -> Tensor:
        """Records a loss before its backward pass.

        Args:
            loss: A scalar.
            rows: The names of the batch's rows.

        Returns:
            The loss; where it is not finite, NaN with a NaN gradient.
        """
        self._batches.append((loss.detach(), rows))
        # An infinite loss may have a finite gradient.
        return loss if bool(loss.isfinite()) else loss * math.nan

    def end_step(self, trainer: Any, grad_norm: Any) -> None:
        """Skips or accepts a step. All ranks call it once the gradient norm is known, before the optimizer.

        Args:
            trainer: ms-swift's trainer.
            grad_norm: The norm over all ranks, a number or a scalar tensor; None where DeepSpeed computes none.

        Raises:
            NonFiniteError: On every rank.
        """
        accelerator = trainer.accelerator
        deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        batches = [BatchLoss(trainer.args.process_index, loss.item(), rows) for loss, rows in self._batches]
        self._batches = []
        if not deepspeed:
            _hold_schedule(trainer, False)
        norm = 0. if grad_norm is None else float(grad_norm)
        # DeepSpeed scales the loss itself.
        scaled = accelerator.scaler is not None or deepspeed and trainer.args.fp16
        bad = not all(math.isfinite(batch.loss) for batch in batches)
        if not scaled:
            bad = bad or not math.isfinite(norm) or deepspeed and accelerator.optimizer_step_was_skipped
        if not any_rank(bad, trainer.args.world_size, trainer.args.device):
            self._num_consecutive = 0
            return
        batches = [batch for of_rank in gather(batches, trainer.args.world_size) for batch in of_rank]
        step = trainer.state.global_step + 1
        problem = f'step {step}: {_describe(batches, norm)}'
        if trainer.is_world_process_zero():
            _write(os.path.join(trainer.args.output_dir, STEPS_FILE), step, norm, self.skip, batches)
        if not self.skip:
            raise NonFiniteError(f'{problem} {_ADVICE} To skip such steps: --model_kwargs '
                                 '\'{"nonfinite": "skip"}\'.')
        if deepspeed and not accelerator.optimizer_step_was_skipped:
            raise NonFiniteError(f'{problem} This DeepSpeed optimizer has already taken the step, so it cannot be '
                                 'skipped: use ZeRO-1, 2 or 3.')
        if not deepspeed and accelerator.scaler is None:
            _drop_gradients(trainer)
            _hold_schedule(trainer, True)
        self._count(trainer, problem)

    def _count(self, trainer: Any, problem: str) -> None:
        self.num_skipped += 1
        self._num_consecutive += 1
        metrics = trainer.custom_metrics['train']
        if 'skipped_steps' not in metrics:
            metrics['skipped_steps'] = SumMetric(trainer.args.device)
        # The metric is summed over the ranks.
        metrics['skipped_steps'].update(int(trainer.is_world_process_zero()))
        if self._num_consecutive >= MAX_CONSECUTIVE:
            raise NonFiniteError(f'{problem} It is the {self._num_consecutive}th skipped step in a row, so the model '
                                 f'itself is probably broken. {_ADVICE}')
        logger.warning(f'skipped {problem} ({self.num_skipped} so far)')

    def report(self, trainer: Any) -> None:
        """Logs how many steps the run has skipped."""
        if self.num_skipped:
            path = os.path.join(trainer.args.output_dir, STEPS_FILE)
            logger.warning(f'{self.num_skipped} of {trainer.state.global_step} optimizer steps were skipped, because '
                           f'the loss or the gradient was not finite: {path}')


def _describe(batches: list[BatchLoss], norm: float) -> str:
    bad = [batch for batch in batches if not math.isfinite(batch.loss)]
    if bad:
        rows = [row for batch in bad for row in batch.rows]
        values = ', '.join(sorted({str(batch.loss) for batch in bad}))
        return f'the loss is {values} in the batch of {_names(rows)}.'
    rows = [row for batch in batches for row in batch.rows]
    return f'every loss is finite, but the gradient norm is {norm}; the rows of the step are {_names(rows)}.'


def _names(rows: list[str]) -> str:
    rows = list(dict.fromkeys(rows))
    shown = ', '.join(rows[:_SHOWN_ROWS])
    return shown if len(rows) <= _SHOWN_ROWS else f'{shown} and {len(rows) - _SHOWN_ROWS} more rows (see {STEPS_FILE})'


def _write(path: str, step: int, norm: float, skipped: bool, batches: list[BatchLoss]) -> None:
    """Appends the step to the file. JSON has no NaN and no Inf, so losses and the norm are written as text."""
    entry = {
        'step': step,
        'skipped': skipped,
        'grad_norm': str(norm),
        'batches': [{
            'rank': batch.rank,
            'loss': str(batch.loss),
            'rows': batch.rows
        } for batch in batches]
    }
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(entry, ensure_ascii=False) + '\n')


def _drop_gradients(trainer: Any) -> None:
    for group in trainer.optimizer.param_groups:
        for parameter in group['params']:
            parameter.grad = None


def _hold_schedule(trainer: Any, hold: bool) -> None:
    # Transformers advances the learning rate unless accelerate reports that the last step was skipped. Without a
    # gradient scaler, accelerate never sets this flag itself.
    if trainer.accelerator.scaler is None:
        trainer.optimizer._is_overflow = hold
