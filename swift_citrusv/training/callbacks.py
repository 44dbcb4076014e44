"""`--callbacks citrusv`: pictures at each evaluation, in TensorBoard and as PNG; at the end, the skipped steps."""
import os
import torch
from swift.callbacks.base import TrainerCallback
from swift.utils import get_logger
from torch import Tensor

from ..rows.drawing import mask_grid
from .nonfinite import StepGuard
from .resume import restore_logs
from .skipping import LeftOut

logger = get_logger()


class CitrusVCallback(TrainerCallback):
    """Draws the first masks of each evaluation (`eval_pictures` of the settings says how many)."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        restore_logs(self.trainer)

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        loss = getattr(self.trainer, 'compute_loss_func', None)
        pictures: list[tuple[Tensor, Tensor, Tensor]] = getattr(loss, 'pictures', [])
        if not pictures:
            return
        if self.trainer.is_world_process_zero():
            self._draw(args, state.global_step, pictures)
        pictures.clear()

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        LeftOut.of(self.trainer).report(self.trainer)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.trainer.is_world_process_zero():
            StepGuard.of(self.trainer).report(self.trainer)

    def _draw(self, args, step: int, pictures: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        grid = mask_grid(pictures)
        folder = os.path.join(args.output_dir, 'images')
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f'eval_step_{step}.png')
        grid.save(path)
        logger.info(f'image, target and prediction of {len(pictures)} masks: {path}')
        if 'tensorboard' in args.report_to:
            from torch.utils.tensorboard import SummaryWriter
            pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8).view(grid.height, grid.width, 3)
            with SummaryWriter(args.logging_dir) as writer:
                writer.add_image('eval/masks', pixels, global_step=step, dataformats='HWC')
