"""NaN and Inf in loss or gradient: the optimizer step is skipped or the run stopped, on all ranks, with the rows named.

Stock ms-swift drops a step whose gradient norm is NaN and says nothing, takes a step whose norm is Inf (which makes
the weights NaN), and Transformers leaves the loss out of its log.

A loss that is not finite is multiplied by NaN before its backward pass, so that the gradient of the whole step is NaN
on every rank: the reduction of the gradients, which happens anyway, carries the news, and no rank takes the step while
another does not. Whoever takes the step then sees it:

- Without DeepSpeed (one rank, DDP, FSDP): `StepGuard.end_step` runs between the gradient norm and the optimizer. It
  takes all gradients away, and an optimizer passes over parameters without one: neither the weights nor the moments,
  the weight decay or the step count of AdamW change.
- DeepSpeed takes the step inside the last backward pass. It looks at the gradients itself and drops the step where they
  are not finite: ZeRO-1 and 2 (with `bf16.check_grad_overflow`, on by default) and ZeRO-3 in every type, ZeRO-0 in
  bfloat16. It says nothing about it; `end_step` sees it afterwards. ZeRO-0 in float32 does not look: the weights are
  spoilt, and the run stops whatever the setting says.

In either case the learning rate schedule stands still, as it does after an overflow in float16, and the step counts as
one of `--max_steps`. With a gradient scaler (float16) an Inf in the gradient alone is the scaler's daily business: it
drops the step and lowers its scale, and is left to it.
"""
import json
import math
import os
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from dataclasses import dataclass
from swift.utils import get_logger
from torch import Tensor
from typing import Any

from ..settings import Settings
from .loss_plugin import SumMetric

logger = get_logger()
FILE = 'nonfinite_steps.jsonl'
MAX_IN_A_ROW = 10
_SHOWN_ROWS = 20
_ADVICE = (
    "Look at the rows with `citrusv check-data`; where they are good, lower the learning rate or --max_grad_norm, "
    "or start from an earlier checkpoint.")


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or Inf, and the setting `nonfinite` says stop, or the step cannot be skipped."""


@dataclass(frozen=True)
class Batch:
    """One forward pass: its rank, its share of the step's loss, and its rows ("file.jsonl:line")."""
    rank: int
    loss: float
    rows: list[str]


class StepGuard:
    """Watches the losses of one optimizer step after another.

    Args:
        skip: Whether a step that is not finite is skipped; else it ends the run.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.num_skipped = 0
        self._in_a_row = 0
        self._batches: list[tuple[Tensor, list[str]]] = []

    @classmethod
    def of(cls, trainer: Any) -> 'StepGuard':
        """The guard of a trainer, made from the settings when it is first asked for."""
        guard = getattr(trainer, '_citrusv_step_guard', None)
        if guard is None:
            guard = trainer._citrusv_step_guard = cls(Settings.from_env().nonfinite == 'skip')
        return guard

    def watch(self, loss: Tensor, rows: list[str]) -> Tensor:
        """Takes note of a loss before its backward pass.

        Args:
            loss: A scalar.
            rows: The names of the batch's rows.

        Returns:
            The loss, or NaN with a gradient of NaN where it is not finite.
        """
        self._batches.append((loss.detach(), rows))
        # An infinite loss may well have a finite gradient.
        return loss if bool(loss.isfinite()) else loss * math.nan

    def end_step(self, trainer: Any, grad_norm: Any) -> None:
        """Called by all ranks once the gradient norm of a step is known, before the optimizer's turn.

        Args:
            trainer: ms-swift's trainer.
            grad_norm: The norm over all ranks, a number or a scalar tensor; None where DeepSpeed computes none.

        Raises:
            NonFiniteError: On every rank alike.
        """
        accelerator = trainer.accelerator
        deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        batches = [Batch(trainer.args.process_index, loss.item(), rows) for loss, rows in self._batches]
        self._batches = []
        if not deepspeed:
            _hold_schedule(trainer, False)
        norm = 0. if grad_norm is None else float(grad_norm)
        # DeepSpeed scales the loss itself.
        scaled = accelerator.scaler is not None or deepspeed and trainer.args.fp16
        bad = not all(math.isfinite(batch.loss) for batch in batches)
        if not scaled:
            bad = bad or not math.isfinite(norm) or deepspeed and accelerator.optimizer_step_was_skipped
        if not _any_rank(bad, trainer):
            self._in_a_row = 0
            return
        batches = _of_all_ranks(batches, trainer)
        step = trainer.state.global_step + 1
        problem = f'step {step}: {_describe(batches, norm)}'
        if trainer.is_world_process_zero():
            _write(os.path.join(trainer.args.output_dir, FILE), step, norm, self.skip, batches)
        if not self.skip:
            raise NonFiniteError(f'{problem} {_ADVICE} To leave such steps out: --model_kwargs '
                                 '\'{"nonfinite": "skip"}\'.')
        if deepspeed and not accelerator.optimizer_step_was_skipped:
            raise NonFiniteError(f'{problem} This DeepSpeed optimizer has taken the step already, so it cannot be '
                                 'skipped: use ZeRO-1, 2 or 3.')
        if not deepspeed and accelerator.scaler is None:
            _drop_gradients(trainer)
            _hold_schedule(trainer, True)
        self._count(trainer, problem)

    def _count(self, trainer: Any, problem: str) -> None:
        self.num_skipped += 1
        self._in_a_row += 1
        metrics = trainer.custom_metrics['train']
        if 'skipped_steps' not in metrics:
            metrics['skipped_steps'] = SumMetric(trainer.args.device)
        # It is summed over the ranks.
        metrics['skipped_steps'].update(int(trainer.is_world_process_zero()))
        if self._in_a_row >= MAX_IN_A_ROW:
            raise NonFiniteError(f'{problem} It is the {self._in_a_row}th step in a row that had to be skipped: the '
                                 f'model itself is broken. {_ADVICE}')
        logger.warning(f'skipped {problem} ({self.num_skipped} so far)')

    def report(self, trainer: Any) -> None:
        """Says at the end of a run how many steps were skipped."""
        if self.num_skipped:
            path = os.path.join(trainer.args.output_dir, FILE)
            logger.warning(f'{self.num_skipped} of {trainer.state.global_step} optimizer steps were skipped, because '
                           f'loss or gradient was not finite: {path}')


def _describe(batches: list[Batch], norm: float) -> str:
    bad = [batch for batch in batches if not math.isfinite(batch.loss)]
    if bad:
        rows = [row for batch in bad for row in batch.rows]
        values = ', '.join(sorted({str(batch.loss) for batch in bad}))
        return f'the loss is {values} in the batch of {_names(rows)}.'
    rows = [row for batch in batches for row in batch.rows]
    return f'every loss is finite, but the norm of the gradient is {norm}; the step is made of {_names(rows)}.'


def _names(rows: list[str]) -> str:
    rows = list(dict.fromkeys(rows))
    shown = ', '.join(rows[:_SHOWN_ROWS])
    return shown if len(rows) <= _SHOWN_ROWS else f'{shown} and {len(rows) - _SHOWN_ROWS} more rows (see {FILE})'


def _write(path: str, step: int, norm: float, skipped: bool, batches: list[Batch]) -> None:
    """Adds the step to the file. NaN and Inf are no JSON numbers, so losses and the norm are written as text."""
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


def _any_rank(flag: bool, trainer: Any) -> bool:
    if trainer.args.world_size == 1:
        return flag
    flags = torch.tensor(int(flag), device=trainer.args.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def _of_all_ranks(batches: list[Batch], trainer: Any) -> list[Batch]:
    if trainer.args.world_size == 1:
        return batches
    gathered: list[Any] = [None] * trainer.args.world_size
    dist.all_gather_object(gathered, batches)
    return [batch for part in gathered for batch in part]


def _drop_gradients(trainer: Any) -> None:
    for group in trainer.optimizer.param_groups:
        for parameter in group['params']:
            parameter.grad = None


def _hold_schedule(trainer: Any, hold: bool) -> None:
    # Transformers asks accelerate whether the last step was skipped before it moves the learning rate on; without a
    # gradient scaler accelerate itself never touches the answer.
    if trainer.accelerator.scaler is None:
        trainer.optimizer._is_overflow = hold
