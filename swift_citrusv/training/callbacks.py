"""`--callbacks citrusv`: the report at the start, pictures of masks at each evaluation, and logs that are restored."""
import os
import torch
from swift.callbacks.base import TrainerCallback
from swift.utils import get_logger
from torch import Tensor

from ..rows.drawing import mask_grid
from .nonfinite import StepGuard
from .resume import restore_logs
from .skipping import SkippedRows
from .start_report import report_start

logger = get_logger()


class CitrusVCallback(TrainerCallback):
    """Reports what a run trains, restores the logs of a resumed run, draws masks, and reports skipped rows and steps.

    The first masks of each evaluation (setting `eval_pictures`) are drawn as a PNG and in TensorBoard.
    """

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        report_start(self.trainer, getattr(self.trainer, 'citrusv_arguments', None))
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
        SkippedRows.of(self.trainer).report(self.trainer)

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
