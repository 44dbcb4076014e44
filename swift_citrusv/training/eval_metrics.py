"""The metrics of `--eval_metric`: token accuracy beside the mask scores, and the scores of generated answers.

- `citrusv`, `citrusv_seg`: token accuracy (`CitrusVMetrics`). `CitrusVLoss` computes the mask scores.
- `citrusv_qa`, `citrusv_reports`, `citrusv_grounding`, `citrusv_documents`: the scores of `citrusv eval` for generated
  answers (`GeneratedMetrics`).
"""
import numpy as np
import torch
from collections.abc import Sequence
from swift.metrics.base import EvalMetrics
from swift.utils import Serializer, get_logger
from torch import Tensor
from transformers.trainer_utils import EvalPrediction
from typing import Any

from ..errors import RowError
from ..scoring.bootstrap import bootstrap_scores
from ..scoring.cases import Pair, PredictionError
from ..scoring.compare import task_class
from ..scoring.table import CaseTable
from ..scoring.task import Task
from ..settings import SettingError

logger = get_logger()

# ---- token accuracy


class CitrusVMetrics(EvalMetrics):
    """`eval_token_acc`, the fraction of supervised tokens that are predicted right.

    With or without this metric, `CitrusVLoss` logs `eval_dice`, `eval_iou` (with the empty-mask rule of
    `model.overlap_metrics`), `eval_loss_token`, `eval_loss_dice`, `eval_loss_bce` and `eval_num_masks`. With
    `citrusv_seg` it adds `eval_ciou`, `eval_precision`, `eval_recall`, and `eval_nsd`, `eval_hd95` in pixels of the
    targets, as in `citrusv eval segmentation`.
    """

    def compute_metrics(self, eval_prediction: EvalPrediction) -> dict[str, float]:
        correct = np.asarray(eval_prediction.predictions)
        known = correct >= 0
        return {'token_acc': float(correct[known].mean())} if known.any() else {}

    def preprocess_logits_for_metrics(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """[B, K, V] -> [B, K - 1]: 1 right, 0 wrong, -100 not supervised. So the ranks do not gather logits."""
        first = logits[0] if isinstance(logits, (list, tuple)) else logits
        predicted = first[:, :-1].argmax(dim=-1)
        targets = labels[:, 1:]
        return torch.where(targets < 0, targets, (predicted == targets).long())


# ---- generated answers


class GeneratedMetrics(EvalMetrics):
    """Scores the answers of `--predict_with_generate true` as texts against the answers of the rows.

    Args:
        args, trainer: ms-swift's.
        task: How to score. Rows whose reference answer it cannot score (no table, no cited box) are skipped and
            counted.

    Raises:
        SettingError: `--predict_with_generate` is false.
    """

    def __init__(self, args: Any, trainer: Any, task: Task) -> None:
        super().__init__(args, trainer)
        self.task = task
        if not args.predict_with_generate:
            raise SettingError(f'--eval_metric {args.eval_metric} scores generated answers: add '
                               '--predict_with_generate true.')

    def compute_metrics(self, eval_prediction: EvalPrediction) -> dict[str, float]:
        responses, answers = ([Serializer.from_tensor(row) for row in rows]
                              for rows in (eval_prediction.predictions, eval_prediction.label_ids))  # yapf: disable
        scores, skipped = text_scores(self.task, responses, answers)
        if skipped:
            logger.warning(f'--eval_metric {self.args.eval_metric}: {len(skipped)} of {len(answers)} rows have an '
                           f'answer that cannot be scored, and are skipped, e.g. {skipped[0]}')  # yapf: disable
        return scores


def text_scores(task: Task, responses: Sequence[str],
                answers: Sequence[str | None]) -> tuple[dict[str, float], list[str]]:
    """Scores texts as `citrusv eval` does, without intervals.

    Args:
        task: How to score.
        responses: The generated answers.
        answers: The reference answers, as many.

    Returns:
        The scores by name (fractions, not percentages) with `num_cases`, and an error message per skipped row.
    """
    table, skipped = CaseTable(), []
    for number, (response, answer) in enumerate(zip(responses, answers, strict=True), 1):
        pair = Pair(f'row {number}', {'answer': answer}, {'response': response})
        try:
            try:
                cases = task.score(pair)
            except PredictionError:
                # An answer of the wrong form counts as none.
                cases = task.score(Pair(pair.name, pair.reference, None))
        except RowError as e:
            skipped.append(str(e))
            continue
        table.add_row(pair.name, pair.name, {}, cases)
    table.close()
    task.complete(table)
    scores = bootstrap_scores(task.measures, table.columns, table.data, np.arange(len(table)), repeats=0)
    defined = {name: score.value for name, score in scores.items() if not np.isnan(score.value)}
    return {**defined, 'num_cases': float(len(table))}, skipped


def qa_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_qa`."""
    return GeneratedMetrics(args, trainer, task_class('qa')())


def report_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_reports`."""
    return GeneratedMetrics(args, trainer, task_class('reports')())


def grounding_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_grounding`."""
    return GeneratedMetrics(args, trainer, task_class('grounding')())


def document_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_documents`: full parsing, by rules without a judge."""
    return GeneratedMetrics(args, trainer, task_class('documents')(subtask='parsing'))  # type: ignore[call-arg]
