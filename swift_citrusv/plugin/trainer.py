"""The patches for the trainer: masks counted over the whole step, and steps with NaN or Inf.

Replaces `_get_num_items_in_batch`, `prepare_logits_to_keep`, `get_train_dataloader`, `compute_loss` and
`_get_grad_norm` of `swift.trainers.Seq2SeqTrainer`.
"""
from typing import Any

from ..constants import IGNORE_INDEX, NO_MASK, ROWS_KEY, SKIPPED_KEY
from .wrapping import is_citrusv, wrap


def patch_seq2seq_trainer() -> None:
    """Counts masks over the whole optimizer step, and runs the language head at supervised positions only."""
    from swift.trainers import Seq2SeqTrainer

    # Why: it gets all batches of an optimizer step, and sums their tokens over the ranks.
    def num_items(original):

        def patched(self, batch_samples, device):
            # At the end of a stream's pass, this is called without a batch on all ranks, once per remaining step.
            if is_citrusv(self.template) and batch_samples:
                _count_masks(self, batch_samples, device)
                # Transformers does not count the first label, which may be the target of a pack's last token.
                batch_samples = [{**batch, 'shift_labels': batch['labels'].roll(-1, -1)} for batch in batch_samples]
            return original(self, batch_samples, device)

        return patched

    wrap(Seq2SeqTrainer, '_get_num_items_in_batch', ('self', 'batch_samples', 'device'), num_items)

    # Why: for a batch of several rows ms-swift keeps all positions from the first supervised one on; for a single row
    # it ignores the first label.
    def logits_to_keep(original):

        def patched(self, inputs):
            if not is_citrusv(self.template):
                return original(self, inputs)
            _keep_supervised(inputs)

        return patched

    wrap(Seq2SeqTrainer, 'prepare_logits_to_keep', ('self', 'inputs'), logits_to_keep)

    # Why: ms-swift's sampler ignores the cost of packs, so the ranks of a step wait for the slowest.
    def train_dataloader(original):

        def patched(self, *args, **kwargs):
            if not is_citrusv(self.template) or not hasattr(self.train_dataset, 'workload'):
                return original(self, *args, **kwargs)
            from swift.trainers import mixin

            from ..estimate.flops import CostModel
            from ..training.packed_dataset import balanced_sampler
            costs = CostModel.from_model(self.model).cost(self.train_dataset.workload)
            sampler = mixin.BatchSamplerShard
            mixin.BatchSamplerShard = balanced_sampler(costs)
            try:
                return original(self, *args, **kwargs)
            finally:
                mixin.BatchSamplerShard = sampler

        return patched

    wrap(Seq2SeqTrainer, 'get_train_dataloader', ('self', ), train_dataloader)


def patch_nonfinite() -> None:
    """Handles NaN and Inf in the loss or the gradient: see `training.nonfinite`."""
    from swift.trainers import Seq2SeqTrainer

    # Why: it returns the loss of a batch, whatever the --loss_type, before the backward pass. The names of the rows
    # must leave the batch before the forward pass.
    def compute_loss(original):

        def patched(self, model, inputs, *args, **kwargs):
            rows, errors = inputs.pop(ROWS_KEY, []), inputs.pop(SKIPPED_KEY, [])
            if errors:
                from ..training.skipping import SkippedRows
                SkippedRows.of(self).add(errors)
            loss = original(self, model, inputs, *args, **kwargs)
            if not is_citrusv(self.template) or not self.model.training:
                return loss
            from ..training.nonfinite import StepGuard
            return StepGuard.of(self).watch(loss, rows)

        return patched

    # Why: it is the last call before the optimizer step, on all ranks, with --max_grad_norm 0 too.
    def grad_norm(original):

        def patched(self, model, grad_norm=None):
            norm = original(self, model, grad_norm)
            if is_citrusv(self.template):
                from ..training.nonfinite import StepGuard
                StepGuard.of(self).end_step(self, norm)
            return norm

        return patched

    wrap(Seq2SeqTrainer, 'compute_loss', ('self', 'model', 'inputs'), compute_loss)
    wrap(Seq2SeqTrainer, '_get_grad_norm', ('self', 'model', 'grad_norm'), grad_norm)


def _count_masks(trainer, batch_samples: list[dict[str, Any]], device) -> None:
    import torch
    counts = [(batch['mask_token_index'] != NO_MASK).sum() for batch in batch_samples if 'mask_token_index' in batch]
    total = torch.stack([count.to(device) for count in counts]).sum() if counts else torch.tensor(0, device=device)
    if trainer.args.world_size > 1:
        torch.distributed.all_reduce(total)
    for batch in batch_samples:
        batch['num_masks_in_step'] = total


def _keep_supervised(inputs: dict[str, Any]) -> None:
    """Flattens labels [B, T] to [1, 1 + K] and marks the K positions that predict them.

    The first label of a pack may be the target of its last token (`chunks.carry_labels`), and stays so.
    """
    import torch
    labels = inputs['labels']
    supervised = labels != IGNORE_INDEX
    supervised[:, 0] = False
    keep = torch.zeros_like(supervised)
    keep[:, :-1] = supervised[:, 1:]
    first = labels[:, 0] if len(labels) == 1 else labels.new_full((1, ), IGNORE_INDEX)
    inputs['labels'] = torch.cat([first, labels[supervised]])[None]
    loss_scale = inputs.get('loss_scale')
    if loss_scale is not None:
        first = loss_scale[:, 0] if len(labels) == 1 else loss_scale.new_zeros(1)
        inputs['loss_scale'] = torch.cat([first, loss_scale[supervised]])[None]
    # There is one more label than predictions, so one more position is kept: the last token's, for the first label.
    keep[-1, -1] = True
    # For a pack, ms-swift's accuracy by sample expects one axis.
    inputs['logits_to_keep'] = keep[0] if len(keep) == 1 else keep
