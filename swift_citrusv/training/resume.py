"""An exact resume: a whole checkpoint to go on from, the same one on every rank, and logs that go on where they ended.

Transformers keeps weights, optimizer, schedule, random numbers and the place in the data. What it does not keep is
what was added up since the last line of the log: with `--logging_steps 10`, a run that goes on from step 5 would log
the mean of steps 6 to 10 for that of steps 1 to 10. It stands in `log_progress.json` of each checkpoint.
"""
import json
import os
import torch.distributed as dist
from collections.abc import Iterator
from contextlib import contextmanager
from swift.utils import get_logger
from transformers import trainer as trainer_module
from typing import Any

from .checkpoint_integrity import REPLACED, arguments_of, fault, remove, seal
from .checkpoint_selection import CheckpointError, choose, to_delete
from .loss_plugin import SumMetric
from .nonfinite import StepGuard
from .skipping import LeftOut

logger = get_logger()
PROGRESS = 'log_progress.json'
# What the batches and their order depend on, by the names of ms-swift's `args.json`. (`stream_loader` has a list of its
# own for streams of packs.)
_ORDER_ARGUMENTS = ('dataset', 'split_dataset_ratio', 'global_world_size', 'per_device_train_batch_size',
                    'gradient_accumulation_steps', 'packing', 'packing_length', 'max_length', 'truncation_strategy',
                    'max_pixels', 'system', 'template', 'data_seed', 'dataset_shuffle', 'train_dataloader_shuffle',
                    'group_by_length', 'dataloader_drop_last', 'streaming', 'strict', 'model_kwargs')

# ---- the start


def decide(args: Any) -> None:
    """Puts the last whole checkpoint into `--resume_from_checkpoint`, and says so where it is not the one named.

    Args:
        args: `SftArguments`.

    Raises:
        CheckpointError: There is none.
    """
    named = os.path.abspath(os.path.expanduser(args.resume_from_checkpoint))
    choice = choose(named, needs_optimizer=not args.resume_only_model)
    if choice.passed_over:
        logger.warning(choice.line())
    elif choice.path != named:
        logger.info(f'{named}: the run goes on from its last whole checkpoint, {choice.path}.')
    args.resume_from_checkpoint = choice.path


def agree(trainer: Any) -> None:
    """Holds that all ranks go on from the same checkpoint, and warns where the data come in another order.

    Raises:
        CheckpointError: They do not; on every rank.
    """
    path = trainer.args.resume_from_checkpoint
    if trainer.args.world_size > 1:
        paths: list[Any] = [None] * trainer.args.world_size
        dist.all_gather_object(paths, path)
        if len(set(paths)) > 1:
            chosen = ', '.join(f'rank {rank}: {path}' for rank, path in enumerate(paths))
            raise CheckpointError('The ranks find different checkpoints to be the last whole one, so they do not see '
                                  f'the same files ({chosen}). Start again, and name one that is whole on every node.')
    if path and trainer.is_world_process_zero():
        before, now = arguments_of(path), arguments_of(trainer.args.output_dir)
        changed = [
            f'{name} was {before.get(name)!r} and is {now.get(name)!r}' for name in _ORDER_ARGUMENTS
            if before.get(name) != now.get(name)
        ]
        if before and changed:
            logger.warning(f'This run does not go on exactly where {path} ended, because its rows come in other '
                           f'batches or in another order ({"; ".join(changed)}).')


# ---- saving


@contextmanager
def saving(trainer: Any) -> Iterator[None]:
    """Around the saving of a checkpoint by all ranks: nothing of an older folder stays in it, and it is sealed.

    Checkpoints are deleted only once the new one is whole on every rank. (Transformers deletes while other ranks still
    write.)
    """
    args = trainer.args
    folder = os.path.join(args.output_dir, f'checkpoint-{trainer.state.global_step}')
    if args.should_save:
        _make_way(folder)
    # Every rank waits here until the folder is out of the way.
    progress = _of_all_ranks(_log_progress(trainer), args.world_size)
    if args.should_save:
        # First of all files, so that it is whole where Transformers' last one is.
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, PROGRESS), 'w', encoding='utf-8') as file:
            json.dump(progress, file)
    rotate = trainer_module.rotate_checkpoints
    trainer_module.rotate_checkpoints = lambda *args, **kwargs: None
    try:
        yield
    finally:
        trainer_module.rotate_checkpoints = rotate
    trainer.accelerator.wait_for_everyone()
    if not args.should_save:
        return
    seal(folder, model_only=args.save_only_model)
    old = [_replaced(folder)] if os.path.isdir(_replaced(folder)) else []
    if args.save_total_limit is not None and args.save_total_limit > 0:
        best = trainer.state.best_model_checkpoint
        old += to_delete(args.output_dir, args.save_total_limit, [folder, best] if best else [folder], old)
    for path in old:
        try:
            remove(path)
        except OSError as e:
            logger.warning(f'{path}, which is not needed any more, cannot be deleted: {e}')


def _replaced(folder: str) -> str:
    return os.path.join(os.path.dirname(folder), f'{REPLACED}{os.path.basename(folder)}')


def _make_way(folder: str) -> None:
    """A whole checkpoint of the same name waits under another one until the new one is sealed."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or os.path.islink(folder):
        os.unlink(folder)
    elif fault(folder) is None:
        replaced = _replaced(folder)
        if os.path.isdir(replaced):
            remove(replaced)
        os.rename(folder, replaced)
    else:
        logger.info(f'{folder} is half-written ({fault(folder)}), and is written anew.')
        remove(folder)


# ---- logs


def _log_progress(trainer: Any) -> dict[str, Any]:
    """What this rank has added up since the last line of the log, as JSON."""
    guard = StepGuard.of(trainer)
    return {
        'loss': float(trainer._tr_loss),
        'last_logged': trainer._globalstep_last_logged,
        'metrics': {
            name: {
                'is_sum': isinstance(metric, SumMetric),
                'state': {
                    key: getattr(metric, key)
                    for key in metric._default
                },
            }
            for name, metric in trainer.custom_metrics['train'].items()
        },
        'skipped_steps': guard.num_skipped,
        'left_out': dict(LeftOut.of(trainer).skips.counts),
    }


def restore_logs(trainer: Any) -> None:
    """Puts back what the checkpoint's run had added up; to be called once the training has set its counters to zero."""
    path = trainer.args.resume_from_checkpoint
    if not path or trainer.args.resume_only_model or not os.path.isfile(os.path.join(path, PROGRESS)):
        return
    with open(os.path.join(path, PROGRESS), encoding='utf-8') as file:
        progress = json.load(file)
    if len(progress) != trainer.args.world_size:
        return
    mine = progress[trainer.args.process_index]
    trainer._tr_loss += mine['loss']
    trainer._globalstep_last_logged = mine['last_logged']
    # `train_loss` at the end of the run is the mean over the steps that this process takes.
    trainer._total_loss_scalar -= sum(rank['loss'] for rank in progress) / len(progress)
    metrics = trainer.custom_metrics['train']
    for name, metric in mine['metrics'].items():
        if name not in metrics and metric['is_sum']:
            metrics[name] = SumMetric(trainer.args.device)
        for key, value in metric['state'].items():
            setattr(metrics[name], key, value)
    StepGuard.of(trainer).num_skipped = mine['skipped_steps']
    LeftOut.of(trainer).skips.counts.update(mine['left_out'])


def _of_all_ranks(value: Any, world_size: int) -> list[Any]:
    values = [value]
    if world_size > 1:
        values = [None] * world_size
        dist.all_gather_object(values, value)
    return values
