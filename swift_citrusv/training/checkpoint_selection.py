"""From which checkpoint a run resumes (`--resume_from_checkpoint`), and which ones `--save_total_limit` deletes."""
import os
from collections.abc import Sequence
from dataclasses import dataclass

from .checkpoint_integrity import STATE, arguments_of, checkpoints_of, find_defect, is_model_only, step_of


class CheckpointError(ValueError):
    """There is no checkpoint from which the run can resume."""


@dataclass(frozen=True)
class SelectedCheckpoint:
    """The checkpoint to resume from.

    path: Its folder.
    incomplete: Later checkpoints that were rejected: folder, and what is wrong with it.
    """
    path: str
    incomplete: tuple[tuple[str, str], ...] = ()

    def message(self) -> str:
        """What to tell the user; empty where no checkpoint was rejected."""
        if not self.incomplete:
            return ''
        rejected = ', '.join(f'{folder} ({reason})' for folder, reason in self.incomplete)
        verb = 'is' if len(self.incomplete) == 1 else 'are'
        return f'{rejected} {verb} incomplete. The run resumes from the last complete checkpoint before: {self.path}.'


def select_checkpoint(path: str, *, needs_optimizer: bool = True) -> SelectedCheckpoint:
    """The last complete checkpoint up to the named one, or of the named run.

    It depends on the files only, so that all ranks select the same.

    Args:
        path: A checkpoint (or a link to one, such as ms-swift's `last-checkpoint`), or the folder of a run.
        needs_optimizer: Whether a checkpoint without optimizer state is refused.

    Raises:
        CheckpointError: There is none.
    """
    incomplete: list[tuple[str, str]] = []
    named = os.path.realpath(path) if os.path.islink(path) else os.path.abspath(path)
    for folder in _candidates(named):
        reason = find_defect(folder)
        if reason is not None:
            incomplete.append((folder, reason))
            continue
        if needs_optimizer and is_model_only(folder):
            raise CheckpointError(
                f'{folder} was saved with --save_only_model true, so it has no optimizer state to resume '
                'from. Add --resume_only_model true to start from its weights.')
        return SelectedCheckpoint(folder, tuple(incomplete))
    rejected = ', '.join(f'{folder} ({reason})' for folder, reason in incomplete)
    raise CheckpointError(f'There is no complete checkpoint to resume from: {rejected}. {_remedy(named)}')


def _candidates(named: str) -> list[str]:
    """The checkpoints to consider, the last step first."""
    step, run = step_of(named), os.path.dirname(named)
    if step is not None and os.path.isdir(run):
        folders = [folder for folder in checkpoints_of(run) if (step_of(folder) or 0) <= step]
        if not any(step_of(folder) == step for folder in folders):
            raise CheckpointError(f'{named} does not exist. {_remedy(named)}')
        return folders[::-1]
    if not os.path.isdir(named):
        raise CheckpointError(f'{named} is not a folder. Name a checkpoint, or the folder of a run.')
    if os.path.isfile(os.path.join(named, STATE)):
        # A checkpoint that the user has renamed.
        return [named]
    folders = checkpoints_of(named)
    if not folders:
        runs = sorted(entry.path for entry in os.scandir(named) if entry.is_dir() and checkpoints_of(entry.path))
        remedy = f'Name one of the runs in it: {", ".join(runs)}.' if runs else (
            'Name a folder checkpoint-N, or the folder above it.')
        raise CheckpointError(f'{named} is neither a checkpoint nor the folder of a run with checkpoints. {remedy}')
    return folders[::-1]


def _remedy(named: str) -> str:
    """What to do where neither `named` nor an earlier checkpoint can be used."""
    run = named if step_of(named) is None and checkpoints_of(named) else os.path.dirname(named)
    complete = [os.path.basename(folder) for folder in checkpoints_of(run) if find_defect(folder) is None]
    if complete:
        return f'Name one of the complete checkpoints in {run}: {", ".join(complete)}.'
    before = arguments_of(run).get('resume_from_checkpoint')
    if before:
        return f'That run itself resumed from {before}, so name that one again.'
    return 'Start again without --resume_from_checkpoint.'


def checkpoints_to_delete(run: str, limit: int, keep: Sequence[str], gone: Sequence[str] = ()) -> list[str]:
    """The checkpoints that `--save_total_limit` deletes: incomplete ones first, then the oldest.

    (Transformers sorts by date or step only, and counts incomplete ones too.)

    Args:
        run: The folder of the run.
        limit: Checkpoints that may stay.
        keep: Those that always stay: the newest, and the best.
        gone: Those that do not count, because they are deleted anyway.
    """
    kept = {os.path.abspath(folder) for folder in keep}
    deleted = {os.path.abspath(folder) for folder in gone}
    folders = [os.path.abspath(folder) for folder in checkpoints_of(run) if os.path.abspath(folder) not in deleted]
    others = [folder for folder in folders if folder not in kept]
    others.sort(key=lambda folder: (find_defect(folder) is None, os.path.getmtime(folder), step_of(folder)))
    return others[:max(len(folders) - max(limit, 1), 0)]
