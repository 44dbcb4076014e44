"""An exact resume: from a complete checkpoint, the same one on every rank, with logs that continue.

Transformers saves weights, optimizer, schedule, random states and the position in the data, but not what was summed up
since the last log: with `--logging_steps 10`, a run that resumes after step 5 would log the mean of steps 6 to 10 as
that of steps 1 to 10. So each checkpoint has these sums in `log_progress.json`.
"""
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from swift.utils import get_logger
from transformers import trainer as trainer_module
from typing import Any

from .checkpoint_integrity import REPLACED, arguments_of, delete_checkpoint, find_defect, seal
from .checkpoint_selection import CheckpointError, checkpoints_to_delete, select_checkpoint
from .loss_plugin import SumMetric
from .nonfinite import StepGuard
from .rank_sync import gather
from .skipping import SkippedRows

logger = get_logger()
PROGRESS = 'log_progress.json'
# The arguments that determine the batches and their order, as ms-swift's `args.json` names them.
_ORDER_ARGUMENTS = ('dataset', 'split_dataset_ratio', 'global_world_size', 'per_device_train_batch_size',
                    'gradient_accumulation_steps', 'packing', 'packing_length', 'max_length', 'truncation_strategy',
                    'max_pixels', 'system', 'template', 'data_seed', 'dataset_shuffle', 'train_dataloader_shuffle',
                    'group_by_length', 'dataloader_drop_last', 'streaming', 'strict', 'model_kwargs')
# Those that determine the packs of a stream as well.
_STREAM_PACK_ARGUMENTS = ('dataloader_num_workers', 'shuffle_buffer_size', 'interleave_prob', 'stopping_strategy',
                          'columns')

# ---- the start


def resolve_checkpoint(args: Any) -> None:
    """Sets `--resume_from_checkpoint` to the last complete checkpoint, with a line in the log where it changes.

    Args:
        args: `SftArguments`.

    Raises:
        CheckpointError: There is none.
    """
    named = os.path.abspath(os.path.expanduser(args.resume_from_checkpoint))
    selected = select_checkpoint(named, needs_optimizer=not args.resume_only_model)
    if selected.incomplete:
        logger.warning(selected.message())
    elif selected.path != named:
        logger.info(f'{named}: the run resumes from its last complete checkpoint, {selected.path}.')
    args.resume_from_checkpoint = selected.path


def check_resume(trainer: Any) -> None:
    """Checks that all ranks resume from the same checkpoint, and warns where the order of the data has changed.

    Raises:
        CheckpointError: The checkpoints differ; on every rank.
    """
    path = trainer.args.resume_from_checkpoint
    paths = gather(path, trainer.args.world_size)
    if len(set(paths)) > 1:
        selected = ', '.join(f'rank {rank}: {path}' for rank, path in enumerate(paths))
        raise CheckpointError('The ranks find different last complete checkpoints, so they do not see the same files '
                              f'({selected}). Start again, and name a checkpoint that is complete on every node.')
    if path and trainer.is_world_process_zero():
        _warn_if_order_changes(path, trainer.args.output_dir)


def _warn_if_order_changes(checkpoint: str, output_dir: str) -> None:
    before, now = arguments_of(checkpoint), arguments_of(output_dir)
    streams_packs = now.get('streaming') and now.get('packing')
    if streams_packs and not before:
        logger.warning(f'{checkpoint} has no args.json, so it is unknown whether the stream is packed as before.')
    names = _ORDER_ARGUMENTS + (_STREAM_PACK_ARGUMENTS if streams_packs else ())
    changed = [
        f'{name} was {before.get(name)!r} and is {now.get(name)!r}' for name in names
        if before.get(name) != now.get(name)
    ]
    if before and changed:
        logger.warning(
            f'This run does not continue exactly where {checkpoint} ended: its rows come in other batches or '
            f'in another order, so some may be seen again and others not ({"; ".join(changed)}).')


# ---- saving


@contextmanager
def saving(trainer: Any) -> Iterator[None]:
    """A context in which all ranks save a checkpoint; it seals the checkpoint, and keeps old files out of its folder.

    Old checkpoints are deleted once the new one is complete on every rank. (Transformers deletes them while other ranks
    still write.)
    """
    args = trainer.args
    folder = os.path.join(args.output_dir, f'checkpoint-{trainer.state.global_step}')
    if args.should_save:
        _move_away(folder)
    # The exchange also makes every rank wait until the folder is out of the way.
    progress = gather(_log_progress(trainer), args.world_size)
    if args.should_save:
        # Before all other files, so that it is complete where Transformers' last file is.
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
        old += checkpoints_to_delete(args.output_dir, args.save_total_limit, [folder, best] if best else [folder], old)
    for path in old:
        try:
            delete_checkpoint(path)
        except OSError as e:
            logger.warning(f'The old checkpoint {path} cannot be deleted: {e}')


def _replaced(folder: str) -> str:
    return os.path.join(os.path.dirname(folder), f'{REPLACED}{os.path.basename(folder)}')


def _move_away(folder: str) -> None:
    """Renames a complete checkpoint in `folder`, which is kept until the new one is sealed; deletes anything else."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or os.path.islink(folder):
        os.unlink(folder)
        return
    defect = find_defect(folder)
    if defect is None:
        replaced = _replaced(folder)
        if os.path.isdir(replaced):
            delete_checkpoint(replaced)
        os.rename(folder, replaced)
    else:
        logger.info(f'{folder} is incomplete ({defect}), and is saved again.')
        delete_checkpoint(folder)


# ---- logs


def _log_progress(trainer: Any) -> dict[str, Any]:
    """The sums of this rank since the last log, as JSON."""
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
        'left_out': dict(SkippedRows.of(trainer).skips.counts),
    }


def restore_logs(trainer: Any) -> None:
    """Restores the sums of the checkpoint. Call it after the trainer has reset its own."""
    path = trainer.args.resume_from_checkpoint
    if not path or trainer.args.resume_only_model or not os.path.isfile(os.path.join(path, PROGRESS)):
        return
    with open(os.path.join(path, PROGRESS), encoding='utf-8') as file:
        progress = json.load(file)
    if len(progress) != trainer.args.world_size:
        return
    of_rank = progress[trainer.args.process_index]
    trainer._tr_loss += of_rank['loss']
    trainer._globalstep_last_logged = of_rank['last_logged']
    # `train_loss` at the end of the run is the mean over the steps of this process.
    trainer._total_loss_scalar -= sum(rank['loss'] for rank in progress) / len(progress)
    metrics = trainer.custom_metrics['train']
    for name, metric in of_rank['metrics'].items():
        if name not in metrics and metric['is_sum']:
            metrics[name] = SumMetric(trainer.args.device)
        for key, value in metric['state'].items():
            setattr(metrics[name], key, value)
    StepGuard.of(trainer).num_skipped = of_rank['skipped_steps']
    SkippedRows.of(trainer).skips.counts.update(of_rank['left_out'])
