"""From which checkpoint a run goes on (`--resume_from_checkpoint`), and which ones `--save_total_limit` deletes."""
import os
from collections.abc import Sequence
from dataclasses import dataclass

from .checkpoint_integrity import STATE, arguments_of, checkpoints_of, fault, is_model_only, step_of


class CheckpointError(ValueError):
    """There is no checkpoint from which the run can go on."""


@dataclass(frozen=True)
class Choice:
    """The checkpoint to go on from.

    path: Its folder.
    passed_over: The half-written ones that would have come first: folder, and what is missing of it.
    """
    path: str
    passed_over: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """What to tell the user; empty where nothing was passed over."""
        if not self.passed_over:
            return ''
        half = ', '.join(f'{folder} ({reason})' for folder, reason in self.passed_over)
        verb = 'is' if len(self.passed_over) == 1 else 'are'
        return f'{half} {verb} half-written. The run goes on from the last whole checkpoint before: {self.path}.'


def choose(path: str, *, needs_optimizer: bool = True) -> Choice:
    """The last whole checkpoint up to the one that is named, or of a run.

    It depends on the files only, so that all ranks choose the same.

    Args:
        path: A checkpoint (or a link to one, such as ms-swift's `last-checkpoint`), or the folder of a run.
        needs_optimizer: Whether the weights alone are not enough.

    Raises:
        CheckpointError: There is none.
    """
    passed_over: list[tuple[str, str]] = []
    named = os.path.realpath(path) if os.path.islink(path) else os.path.abspath(path)
    for folder in _candidates(named):
        reason = fault(folder)
        if reason is not None:
            passed_over.append((folder, reason))
            continue
        if needs_optimizer and is_model_only(folder):
            raise CheckpointError(
                f'{folder} was saved with --save_only_model true: without the state of the optimizer a run cannot go '
                'on where it ended. Add --resume_only_model true to start from its weights.')
        return Choice(folder, tuple(passed_over))
    half = ', '.join(f'{folder} ({reason})' for folder, reason in passed_over)
    raise CheckpointError(f'No whole checkpoint to go on from: {half}. {_others(named)}')


def _candidates(named: str) -> list[str]:
    """The folders that come into question, the last step first."""
    step, run = step_of(named), os.path.dirname(named)
    if step is not None and os.path.isdir(run):
        folders = [folder for folder in checkpoints_of(run) if (step_of(folder) or 0) <= step]
        if not any(step_of(folder) == step for folder in folders):
            raise CheckpointError(f'{named} does not exist. {_others(named)}')
        return folders[::-1]
    if not os.path.isdir(named):
        raise CheckpointError(f'{named} is no folder. Name a checkpoint, or the folder of a run.')
    if os.path.isfile(os.path.join(named, STATE)):
        # A checkpoint under a name of the user's.
        return [named]
    folders = checkpoints_of(named)
    if not folders:
        runs = sorted(entry.path for entry in os.scandir(named) if entry.is_dir() and checkpoints_of(entry.path))
        remedy = f'Name one of the runs in it: {", ".join(runs)}.' if runs else (
            'Name a folder checkpoint-N, or the one that holds it.')
        raise CheckpointError(f'{named} is neither a checkpoint nor the folder of a run with checkpoints. {remedy}')
    return folders[::-1]


def _others(named: str) -> str:
    """What to do where neither `named` nor anything before it can be used."""
    run = named if step_of(named) is None and checkpoints_of(named) else os.path.dirname(named)
    whole = [os.path.basename(folder) for folder in checkpoints_of(run) if fault(folder) is None]
    if whole:
        return f'Whole ones in {run}: {", ".join(whole)}. Name one of them.'
    before = arguments_of(run).get('resume_from_checkpoint')
    if before:
        return f'That run went on from {before}, so name that one again.'
    return 'Start again without --resume_from_checkpoint.'


def to_delete(run: str, limit: int, keep: Sequence[str], gone: Sequence[str] = ()) -> list[str]:
    """The checkpoints that `--save_total_limit` asks to delete: half-written ones first, then those saved first.

    (Transformers goes by the date or the number alone, and counts a half-written one as good as any.)

    Args:
        run: The folder of the run.
        limit: Checkpoints that may stay.
        keep: Those that stay whatever happens: the newest, and the best.
        gone: Those that do not count, because they are deleted anyway.
    """
    kept = {os.path.abspath(folder) for folder in keep}
    deleted = {os.path.abspath(folder) for folder in gone}
    folders = [os.path.abspath(folder) for folder in checkpoints_of(run) if os.path.abspath(folder) not in deleted]
    others = [folder for folder in folders if folder not in kept]
    others.sort(key=lambda folder: (fault(folder) is None, os.path.getmtime(folder), step_of(folder)))
    return others[:max(len(folders) - max(limit, 1), 0)]
