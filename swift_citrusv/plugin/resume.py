"""The patches for `--resume_from_checkpoint` and for saving checkpoints.

Replaces `SftArguments.__post_init__` and `SftArguments._check_padding_free` in `swift.arguments`, and
`SwiftMixin._save_checkpoint` and `SwiftMixin.train` in `swift.trainers.mixin`.
"""
import os
from typing import Any

from ..constants import MODEL_TYPE
from ..training.checkpoint_integrity import arguments_of
from .wrapping import check, is_citrusv, wrap


def patch_resume_arguments() -> None:
    """Refuses to resume from an incomplete checkpoint, and resolves a run's folder to its last complete one."""
    from swift.arguments import SftArguments

    # Why: its first lines check that the path exists, and with --resume_only_model use it as the model.
    def resume_post_init(original):

        def patched(self):
            if self.resume_from_checkpoint and _is_citrusv_run(self):
                from ..training.resume import resolve_checkpoint
                resolve_checkpoint(self)
            original(self)

        return patched

    # Why: it runs after the model type is known, from whatever source, and before the trainer's arguments are made.
    def resume_check(original):

        def patched(self):
            if self.resume_from_checkpoint and self.model_type == MODEL_TYPE and not hasattr(self, 'rlhf_type'):
                from ..training.resume import CheckpointError, resolve_checkpoint
                named = self.resume_from_checkpoint
                resolve_checkpoint(self)
                if self.resume_only_model and self.resume_from_checkpoint != named:
                    # An external plugin without the hook is imported after the model was chosen.
                    raise CheckpointError(f'{named} is not a complete checkpoint. Give '
                                          f'--resume_from_checkpoint {self.resume_from_checkpoint}.')
            original(self)

        return patched

    wrap(SftArguments, '__post_init__', ('self', ), resume_post_init)
    wrap(SftArguments, '_check_padding_free', ('self', ), resume_check)


def _is_citrusv_run(args: Any) -> bool:
    """Whether this is a Citrus-V run, from the flags and the checkpoint's args.json, before the model is read."""
    if hasattr(args, 'rlhf_type'):
        return False
    path = os.path.abspath(os.path.expanduser(args.resume_from_checkpoint))
    return (args.model_type or arguments_of(path).get('model_type')) == MODEL_TYPE


def patch_resume_trainer() -> None:
    """Seals checkpoints, deletes old ones only after that, and makes all ranks resume from the same one."""
    from swift.trainers.mixin import SwiftMixin
    from transformers import trainer as trainer_module

    # Why: Transformers deletes old checkpoints while other ranks still write the new one, does not tell an incomplete
    # checkpoint from a complete one, and writes over files of an earlier run in the folder. (DLRover's flash
    # checkpoints are written later, by another process with its own bookkeeping.)
    def save_checkpoint(original):

        def patched(self, *args, **kwargs):
            if not is_citrusv(self.template) or self.args.use_flash_ckpt:
                return original(self, *args, **kwargs)
            from ..training.resume import saving
            with saving(self):
                return original(self, *args, **kwargs)

        return patched

    # Why: it is the first step where the process group exists, and no checkpoint has been loaded yet.
    def resume_train(original):

        def patched(self, *args, **kwargs):
            if is_citrusv(self.template):
                from ..training.resume import check_resume
                check_resume(self)
            return original(self, *args, **kwargs)

        return patched

    check('transformers.trainer.rotate_checkpoints', trainer_module.rotate_checkpoints,
          ('output_dir', 'save_total_limit', 'best_model_checkpoint'))
    wrap(SwiftMixin, '_save_checkpoint', ('self', ), save_checkpoint)
    wrap(SwiftMixin, 'train', ('self', ), resume_train)
