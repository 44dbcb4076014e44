"""The patches of ms-swift for `--resume_from_checkpoint`, as in `patches`: each with its reason, symbol and check."""
import os
from typing import Any

from ..constants import MODEL_TYPE
from ..training.checkpoint_integrity import arguments_of
from .wrapping import is_citrusv, wrap


def patch_arguments() -> None:
    """A half-written checkpoint is not gone on from, and the folder of a run stands for its last whole one."""
    from swift.arguments import SftArguments

    # Why: its first lines look whether the path exists, and with --resume_only_model take it for the model.
    def resume_post_init(original):

        def patched(self):
            if self.resume_from_checkpoint and _is_known(self):
                from ..training.resume import decide
                decide(self)
            original(self)

        return patched

    # Why: it runs once the model's type is known, however it was found, and before the trainer's arguments are made.
    def resume_check(original):

        def patched(self):
            if self.resume_from_checkpoint and self.model_type == MODEL_TYPE and not hasattr(self, 'rlhf_type'):
                from ..training.resume import CheckpointError, decide
                named = self.resume_from_checkpoint
                decide(self)
                if self.resume_only_model and self.resume_from_checkpoint != named:
                    # As an external plugin alone we come too late to put another model in its place.
                    raise CheckpointError(f'{named} is no whole checkpoint. Name {self.resume_from_checkpoint}.')
            original(self)

        return patched

    wrap(SftArguments, '__post_init__', ('self', ), resume_post_init)
    wrap(SftArguments, '_check_padding_free', ('self', ), resume_check)


def _is_known(args: Any) -> bool:
    """Whether this is a Citrus-V run, by what is known before the model is looked at."""
    if hasattr(args, 'rlhf_type'):
        return False
    path = os.path.abspath(os.path.expanduser(args.resume_from_checkpoint))
    return (args.model_type or arguments_of(path).get('model_type')) == MODEL_TYPE


def patch_trainer() -> None:
    """Seals checkpoints, deletes old ones only then, and holds that all ranks go on from the same one."""
    from swift.trainers.mixin import SwiftMixin
    from transformers import trainer as trainer_module

    from .wrapping import check

    # Why: Transformers deletes old checkpoints while other ranks still write the new one, counts a half-written one as
    # good as any, and writes into what an earlier run left in the folder. (DLRover's flash checkpoints are written
    # later, by a process that keeps its own account of them.)
    def save_checkpoint(original):

        def patched(self, *args, **kwargs):
            if not is_citrusv(self.template) or self.args.use_flash_ckpt:
                return original(self, *args, **kwargs)
            from ..training.resume import saving
            with saving(self):
                return original(self, *args, **kwargs)

        return patched

    # Why: it is the first step that knows the other ranks, and nothing has been loaded yet.
    def resume_train(original):

        def patched(self, *args, **kwargs):
            if is_citrusv(self.template):
                from ..training.resume import agree
                agree(self)
            return original(self, *args, **kwargs)

        return patched

    check('transformers.trainer.rotate_checkpoints', trainer_module.rotate_checkpoints,
          ('output_dir', 'save_total_limit', 'best_model_checkpoint'))
    wrap(SwiftMixin, '_save_checkpoint', ('self', ), save_checkpoint)
    wrap(SwiftMixin, 'train', ('self', ), resume_train)
