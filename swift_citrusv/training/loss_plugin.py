"""`--loss_type citrusv`: token, Dice and BCE loss, normalised over the whole optimizer step, and their logs."""
import torch
from dataclasses import fields
from swift.loss import BaseLoss
from swift.metrics.utils import Metric
from torch import Tensor
from typing import Any

from ..constants import IGNORE_INDEX, SEG_METRIC
from ..model.losses import LossWeights, combine, mask_losses, token_loss
from ..model.overlap_metrics import dice_from_statistics, iou_from_statistics, mask_statistics
from ..settings import Settings

# The scores of `--eval_metric citrusv_seg` besides dice, iou and ciou; hd95 in pixels of the targets.
_MASK_SCORES = ('precision', 'recall', 'nsd', 'hd95')


class SumMetric(Metric):
    """A count, summed over the batches since the last log and over the ranks."""
    total: int
    updated: bool

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.add_state('total', default=0)
        self.add_state('updated', default=False)

    def update(self, count: int) -> None:
        self.total += count
        self.updated = True

    def compute(self) -> dict[str, int | None]:
        if torch.distributed.is_initialized():
            total = torch.tensor(self.total, dtype=torch.int64, device=self.device)
            torch.distributed.all_reduce(total)
            self.total = int(total)
        # ms-swift does not log None.
        return {'value': self.total if self.updated else None}


class RatioMetric(Metric):
    """The ratio of two sums over the batches since the last log and over the ranks."""
    sums: list[float]

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.add_state('sums', default_factory=lambda: [0., 0.])

    def update(self, numerator: float, denominator: float) -> None:
        self.sums = [self.sums[0] + numerator, self.sums[1] + denominator]

    def compute(self) -> dict[str, float | None]:
        sums = self.sums
        if torch.distributed.is_initialized():
            total = torch.tensor(sums, dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(total)
            sums = total.tolist()
        return {'value': sums[0] / sums[1] if sums[1] else None}


class CitrusVLoss(BaseLoss):
    """Equation 4 of Citrus-V over one optimizer step.

    The token loss is the mean over the supervised tokens of the step, the mask loss the mean over its masks, over all
    ranks and accumulation steps. `plugin.trainer` counts both, because a batch does not contain the step's counts.
    """

    def __init__(self, args, trainer) -> None:
        super().__init__(args, trainer)
        settings = Settings.from_env()
        given = {f.name: getattr(settings, f'{f.name}_weight') for f in fields(LossWeights)}
        self.weights = LossWeights(**{name: value for name, value in given.items() if value is not None})
        self.num_pictures = settings.eval_pictures
        # (image uint8 [3, S, S], target uint8 [m, m], logits [m, m]) of the first masks of an evaluation.
        self.pictures: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_masks: Any = None
        self._inputs: dict[str, Any] | None = None
        if args.world_size > 1 and not args.average_tokens_across_devices:
            raise ValueError('--average_tokens_across_devices false would normalise the loss on each rank by its own '
                             'tokens and masks; --loss_type citrusv normalises over all ranks. Leave it at true.')
        # Every rank needs every name before the first log, or their reductions do not match.
        for mode in ('train', 'eval'):
            metrics = trainer.custom_metrics[mode]
            metrics['num_masks'] = SumMetric(args.device)
            for name in ('loss_token', 'loss_dice', 'loss_bce', *(('dice', 'iou') if mode == 'eval' else ())):
                metrics[name]  # a defaultdict: this creates it
        self._scores_masks = args.eval_metric == SEG_METRIC
        if self._scores_masks:
            metrics = trainer.custom_metrics['eval']
            metrics['ciou'] = RatioMetric(args.device)
            for name in _MASK_SCORES:
                metrics[name]

    def observe(self, inputs: dict[str, Any], num_masks: Tensor | None) -> None:
        """Sets the batch of the next call; the template calls it."""
        self._num_masks = num_masks
        self._inputs = inputs

    def __call__(self,
                 outputs,
                 labels: Tensor,
                 *,
                 num_items_in_batch: Tensor | int | None = None,
                 loss_scale: Tensor | None = None,
                 **kwargs: Any) -> Tensor:
        """The contribution of this batch to the loss of the step.

        Args:
            outputs: A `CitrusVOutput`; its logits [B, K, V] predict the label of the next position, and the last ones
                the first label: see `chunks.carry_labels`.
            labels: [B, K].
            num_items_in_batch: Supervised tokens of the step; counted in this batch where None.
            loss_scale: ms-swift's weights of the tokens, aligned with the logits, flat [B * K].
        """
        logits = outputs.logits
        targets = labels.roll(-1, -1).flatten().to(logits.device)
        tokens = token_loss(logits.flatten(0, 1), targets)
        supervised = targets != IGNORE_INDEX
        if loss_scale is not None:
            tokens = tokens * loss_scale.flatten().to(tokens)
        dice, bce = mask_losses(outputs.mask_logits, outputs.mask_targets)
        num_tokens = supervised.sum() if num_items_in_batch is None else num_items_in_batch
        num_masks = len(dice) if self._num_masks is None else self._num_masks
        loss = combine(tokens.sum(), dice.sum(), bce.sum(), num_tokens, num_masks, self.weights)
        # A non-finite loss would make the means NaN; `nonfinite` names its rows.
        if bool(loss.isfinite()) or not self.trainer.model.training:
            self._log(outputs, tokens[supervised].detach(), dice.detach(), bce.detach())
        self._num_masks = self._inputs = None
        return loss

    def _log(self, outputs, tokens: Tensor, dice: Tensor, bce: Tensor) -> None:
        training = self.trainer.model.training
        metrics = self.trainer.custom_metrics['train' if training else 'eval']
        metrics['num_masks'].update(len(dice))
        metrics['loss_token'].update(tokens)
        metrics['loss_dice'].update(dice)
        metrics['loss_bce'].update(bce)
        if not training:
            statistics = mask_statistics(outputs.mask_logits.detach(), outputs.mask_targets)
            metrics['dice'].update(dice_from_statistics(statistics))
            metrics['iou'].update(iou_from_statistics(statistics))
            if self._scores_masks:
                self._score_masks(outputs.mask_logits, outputs.mask_targets)
            self._keep_pictures(outputs)

    def _score_masks(self, logits: Tensor, targets: Tensor) -> None:
        from ..scoring.masks.segmentation import SegmentationTask, mask_values
        metrics = self.trainer.custom_metrics['eval']
        for predicted, target in zip((logits > 0).cpu().numpy(), (targets != 0).cpu().numpy()):
            values = mask_values(predicted, target, (1., 1.), SegmentationTask.tolerance)
            metrics['ciou'].update(values['intersection'], values['union'])
            for name in _MASK_SCORES:
                metrics[name].update([values[name]])

    def _keep_pictures(self, outputs) -> None:
        num_left = self.num_pictures - len(self.pictures)
        if num_left <= 0 or len(outputs.mask_rows) == 0 or self._inputs is None:
            return
        is_mask = self._inputs['mask_token_index'] >= 0
        images = self._inputs['g_pixel_values'][outputs.mask_rows, self._inputs['mask_image_index'][is_mask]]
        for image, target, logits in list(zip(images, outputs.mask_targets, outputs.mask_logits))[:num_left]:
            self.pictures.append((image.cpu(), target.cpu(), logits.detach().float().cpu()))
