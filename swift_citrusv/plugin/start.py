"""The patches for the start of a run: the trainer knows the flags of the run.

Replaces `SwiftSft.train` in `swift.pipelines.train.sft`.
"""
from ..constants import MODEL_TYPE
from .wrapping import wrap


def patch_start() -> None:
    """Hands the arguments of `swift sft` to the trainer, for `training.start_report`."""
    from swift.pipelines.train import sft

    # Why: the trainer gets its own arguments only, and those lack the flags of the tuner (--freeze_parameters).
    def train(original):

        def patched(self, trainer):
            if self.args.model_type == MODEL_TYPE:
                trainer.citrusv_arguments = self.args
            return original(self, trainer)

        return patched

    wrap(sft.SwiftSft, 'train', ('self', 'trainer'), train)
